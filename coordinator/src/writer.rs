//! The one task that writes to the store: records, manifests and deletions, in order.
//!
//! A store that is away is waited for, visibly, for as long as the coordinator lives: a fixed
//! membership trains on meanwhile, and nothing is decided that is not durable.

use std::time::Duration;

use bytes::Bytes;
use ringmaster_dataset::{Store, StoreError};
use ringmaster_proto::ErrorKind;
use ringmaster_proto::checkpoint::CheckpointManifest;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::actor::Command;
use crate::journal::{Journal, JournalError};
use crate::metrics::Metrics;
use crate::record::{Committed, Record};
use crate::takeover::delete_folder;

/// First and longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Something to write.
#[derive(Debug)]
pub(crate) enum Write {
    Record(Record),
    Checkpoint(CheckpointManifest, Committed),
    Delete(String),
}

/// Something was written, or never will be.
#[derive(Debug)]
pub(crate) enum Written {
    Record,
    Checkpoint(Committed),
    Failed(JournalError),
}

pub(crate) struct Writer {
    pub(crate) journal: Journal,
    pub(crate) root: Store,
    pub(crate) metrics: Metrics,
    pub(crate) owner: mpsc::Sender<Command>,
}

impl Writer {
    /// Writes what it is asked until nobody can ask any more, or until a write can never succeed.
    pub(crate) async fn run(mut self, mut asked: mpsc::Receiver<Write>) {
        while let Some(write) = asked.recv().await {
            let written = match write {
                Write::Record(record) => self.record(&record).await.map(|()| Written::Record),
                Write::Checkpoint(manifest, committed) => self
                    .checkpoint(&manifest, committed)
                    .await
                    .map(Written::Checkpoint),
                Write::Delete(folder) => {
                    if let Err(error) = delete_folder(&self.root, &folder).await {
                        tracing::warn!(%folder, %error, "an old checkpoint was not deleted");
                    }
                    continue;
                }
            };
            let written = written.unwrap_or_else(Written::Failed);
            let last = matches!(written, Written::Failed(_));
            if self.owner.send(Command::Written(written)).await.is_err() || last {
                return;
            }
        }
    }

    async fn record(&mut self, record: &Record) -> Result<(), JournalError> {
        let began = Instant::now();
        let mut pause = BACKOFF.0;
        loop {
            match self.journal.append(record).await {
                Err(error) if error.kind() == ErrorKind::Retry => {
                    tracing::warn!(%error, "waiting for the journal");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
                done => {
                    self.metrics.journal_write(began.elapsed());
                    return done;
                }
            }
        }
    }

    async fn checkpoint(
        &mut self,
        manifest: &CheckpointManifest,
        committed: Committed,
    ) -> Result<Committed, JournalError> {
        // Serialising plain structs of numbers and strings into memory cannot fail.
        let bytes = Bytes::from(serde_json::to_vec_pretty(manifest).unwrap_or_default());
        let mut pause = BACKOFF.0;
        loop {
            match self
                .create_manifest(&committed.manifest_key(), &bytes)
                .await
            {
                Err(error) if error.kind() == ErrorKind::Retry => {
                    tracing::warn!(%error, "waiting to commit a checkpoint");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
                Err(error) => return Err(error.into()),
                Ok(()) => break,
            }
        }
        self.record(&Record::CheckpointCommitted(committed.clone()))
            .await?;
        Ok(committed)
    }

    /// Creates the manifest; one that is there already and is the same is ours, from an attempt
    /// whose answer was lost.
    async fn create_manifest(&self, key: &str, bytes: &Bytes) -> Result<(), StoreError> {
        match self.root.create(key, bytes.clone()).await {
            Err(error) if error.is_already_exists() => match self.root.get(key).await? {
                there if there == *bytes => Ok(()),
                _ => Err(error),
            },
            other => other,
        }
    }
}
