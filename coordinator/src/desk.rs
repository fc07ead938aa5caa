//! What a coordinator writes with: records, manifests and deletions, one attempt at a time.
//!
//! Every attempt may be repeated after an error that may pass: what got through the first time is
//! recognised. Public because the simulation writes with it too, over a store that fails at will.

use bytes::Bytes;
use ringmaster_dataset::{Store, StoreError};
use ringmaster_proto::checkpoint::CheckpointManifest;

use crate::journal::{Journal, JournalError, stored_checkpoints};
use crate::record::{Committed, Record};
use crate::run::Damaged;
use crate::takeover::delete_folder;

/// Something to write.
#[derive(Clone, Debug)]
pub enum Write {
    /// The next record of the journal.
    Record(Record),
    /// The manifest that makes parts a checkpoint, then its record.
    Checkpoint(CheckpointManifest, Committed),
    /// An end to everything below this folder.
    Delete(String),
    /// Nothing: which checkpoints of this run identity are complete is to be found out.
    Look(String),
    /// Nothing: whether this coordinator could still write is to be found out.
    Confirm,
}

/// Something was written, or never will be.
#[derive(Debug)]
pub enum Written {
    /// A record is durable.
    Record,
    /// A checkpoint exists.
    Checkpoint(Committed),
    /// A folder is gone, or will be removed by somebody else.
    Deleted,
    /// Nobody else has written to the journal.
    Confirmed,
    /// Checkpoints that are complete, oldest first, and those that are not what they should be.
    Found(Vec<Committed>, Vec<Damaged>),
    /// Nothing more can be written.
    Failed(JournalError),
}

/// The one writer of a coordinator in office; see [`crate::take_over`].
pub struct Desk {
    journal: Journal,
    root: Store,
}

impl Desk {
    pub(crate) fn new(journal: Journal, root: Store) -> Self {
        Self { journal, root }
    }

    /// Tries once.
    ///
    /// # Errors
    /// [`JournalError`]; of kind `Retry`, the same write may be tried again.
    pub async fn attempt(&mut self, write: &Write) -> Result<Written, JournalError> {
        match write {
            Write::Record(record) => {
                self.journal.append(record).await?;
                Ok(Written::Record)
            }
            Write::Checkpoint(manifest, committed) => {
                create_manifest(&self.root, &committed.manifest_key(), manifest).await?;
                let record = Record::CheckpointCommitted(committed.clone());
                self.journal.append(&record).await?;
                Ok(Written::Checkpoint(committed.clone()))
            }
            Write::Delete(folder) => {
                if let Err(error) = delete_folder(&self.root, folder).await {
                    tracing::warn!(%folder, %error, "an old checkpoint was not deleted");
                }
                Ok(Written::Deleted)
            }
            Write::Look(identity) => {
                let stored = stored_checkpoints(&self.root).await?;
                let ours = stored.complete.into_iter();
                let ours = ours.filter(|manifest| manifest.identity == *identity);
                Ok(Written::Found(
                    ours.map(Committed::from).collect(),
                    stored.broken,
                ))
            }
            Write::Confirm => {
                self.journal.confirm().await?;
                Ok(Written::Confirmed)
            }
        }
    }
}

/// Creates the manifest; one that is there already and is the same is ours, from an attempt
/// whose answer was lost.
pub(crate) async fn create_manifest(
    root: &Store,
    key: &str,
    manifest: &CheckpointManifest,
) -> Result<(), StoreError> {
    // Serialising plain structs of numbers and strings into memory cannot fail.
    let bytes = Bytes::from(serde_json::to_vec_pretty(manifest).unwrap_or_default());
    match root.create(key, bytes.clone()).await {
        Err(error) if error.is_already_exists() => match root.get(key).await? {
            there if there == bytes => Ok(()),
            _ => Err(error),
        },
        other => other,
    }
}
