//! The journal: numbered records, created if absent, never changed. Whoever creates the next number
//! decides; whoever fails to has been replaced and must stop.
//!
//! A writer lists only when it opens the journal. From then on it creates exactly its last number
//! plus one. An ambiguous create (a request that timed out or was retried inside the client) may
//! meet its own record: a record carries its writer's ULID, so it is read back and recognised.

mod envelope;
mod history;

#[cfg(test)]
mod tests;

use futures::stream::{StreamExt, TryStreamExt};
use ringmaster_dataset::{Store, StoreError};
use ringmaster_proto::{ErrorKind, keys};
use ulid::Ulid;

use crate::record::Record;
use envelope::Envelope;

pub use history::{
    RunHistory, StoredCheckpoints, checkpoints, history, replay, stored_checkpoints,
};

/// How many records are read at once.
const READS_IN_FLIGHT: usize = 16;

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another coordinator has written in our place.
    #[error(
        "another coordinator (writer {writer}) has taken over the run: it wrote {url}; this one \
         stops, use the other"
    )]
    Fenced {
        /// The record we wanted to write.
        url: String,
        /// ULID of who wrote it.
        writer: String,
    },
    /// A record is not what a coordinator wrote.
    #[error(
        "journal record {url} cannot be used: {reason}; restore it from a copy of the store, or \
         start over with --fresh"
    )]
    Corrupt {
        /// The record.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl JournalError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Fenced { .. } => ErrorKind::Fenced,
            Self::Corrupt { .. } => ErrorKind::Data,
            Self::Store(error) => error.kind(),
        }
    }
}

/// The one writer of this coordinator.
pub(crate) struct Journal {
    root: Store,
    writer: Ulid,
    next: u64,
}

impl Journal {
    /// Reads every record and stands ready to write the next.
    pub(crate) async fn open(root: &Store) -> Result<(Vec<Record>, Self), JournalError> {
        let records = read(root).await?;
        let next = records.len() as u64 + 1;
        let journal = Self {
            root: root.clone(),
            writer: Ulid::generate(),
            next,
        };
        Ok((records, journal))
    }

    /// Makes `record` durable as the next one. May be called again with the same record after an
    /// error of the store: whether the first call got through is found out.
    pub(crate) async fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let key = keys::journal_record(self.next);
        let ours = Envelope::seal(self.next, self.writer, record);
        match self.root.create(&key, ours.clone().into()).await {
            Ok(()) => {}
            Err(error) if error.is_already_exists() => {
                let theirs = self.root.get(&key).await?;
                if theirs != ours {
                    return Err(self.fenced(&key, &theirs));
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.next += 1;
        Ok(())
    }

    /// Whether nobody else has written in our place.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] if somebody has.
    pub(crate) async fn confirm(&self) -> Result<(), JournalError> {
        let key = keys::journal_record(self.next);
        match self.root.get(&key).await {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
            Ok(theirs) => Err(self.fenced(&key, &theirs)),
        }
    }

    fn fenced(&self, key: &str, theirs: &[u8]) -> JournalError {
        let url = self.root.child(key).url();
        let writer = Envelope::open(self.next, theirs)
            .map_or_else(|reason| reason, |envelope| envelope.writer);
        JournalError::Fenced { url, writer }
    }
}

/// Every record, in order; an error if one is missing or not as written.
async fn read(root: &Store) -> Result<Vec<Record>, JournalError> {
    let count = root
        .list(keys::JOURNAL)
        .await?
        .iter()
        .filter_map(|entry| number(&entry.key))
        .max()
        .unwrap_or(0);
    let records = (1..=count).map(|number| read_one(root, number));
    futures::stream::iter(records)
        .buffered(READS_IN_FLIGHT)
        .try_collect()
        .await
}

fn number(key: &str) -> Option<u64> {
    key.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()
}

async fn read_one(root: &Store, number: u64) -> Result<Record, JournalError> {
    let key = keys::journal_record(number);
    let corrupt = |reason: String| JournalError::Corrupt {
        url: root.child(&key).url(),
        reason,
    };
    let bytes = match root.get(&key).await {
        Err(error) if error.is_not_found() => {
            return Err(corrupt(
                "it is missing, and later ones are there".to_owned(),
            ));
        }
        other => other?,
    };
    Ok(Envelope::open(number, &bytes).map_err(corrupt)?.record)
}
