//! What a run was before this command, and whether it may go on as asked.

use ringmaster_coordinator::{CoordinatorError, RunHistory};
use ringmaster_dataset::Store;
use ringmaster_proto::RunSpec;
use ringmaster_proto::spec::Change;

use crate::error::CliError;

/// The run of this name as the journal knows it; none if it never began. Refuses one that differs
/// in what a resume may not change: preparing anew would replace what the old run still needs.
pub(crate) async fn history(spec: &RunSpec, root: &Store) -> Result<Option<RunHistory>, CliError> {
    let Some(history) = ringmaster_coordinator::history(root).await? else {
        return Ok(None);
    };
    let run = spec.run.name.clone();
    let before = RunSpec::from_canonical(&history.spec_json);
    let before = before.map_err(|source| CoordinatorError::Spec {
        run: run.clone(),
        source,
    })?;
    let refused = |change: &Change| !change.allowed;
    let changes: Vec<Change> = before.changes(spec).into_iter().filter(refused).collect();
    if changes.is_empty() {
        return Ok(Some(history));
    }
    Err(CoordinatorError::SpecDiffers { run, changes }.into())
}
