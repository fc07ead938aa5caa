//! `--fresh`: removes what an earlier run of the same name left, and nothing else.

use ringmaster_dataset::Store;

use crate::error::CliError;
use crate::run_folder::{KNOWN, RunFolder};

/// Empties the run's root in the store and its local folder. Refuses, before removing anything,
/// when the root holds something no run writes.
pub(super) async fn clear(root: &Store, folder: &RunFolder) -> Result<(), CliError> {
    if !root.is_local() {
        let entries = root.list("").await?;
        let known = |key: &str| KNOWN.iter().any(|name| key.split('/').next() == Some(name));
        if let Some(stranger) = entries.iter().find(|entry| !known(&entry.key)) {
            let reason = format!("holds {}, which no run writes", stranger.key);
            let next = "remove it by hand, or choose another run.name";
            return Err(CliError::invalid(root.url(), reason, next));
        }
        for entry in entries {
            root.delete(&entry.key).await?;
        }
    }
    folder.clear()?;
    folder.create()
}
