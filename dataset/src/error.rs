//! What can go wrong between a run file and a batch.

use ringmaster_proto::ErrorKind;

use crate::plan::PlanError;
use crate::store::StoreError;

/// Why there is no corpus, or no next batch.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The store did not do what it was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The corpus cannot be ordered.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A source without a file.
    #[error(
        "{url}: there is no Parquet file; check {key}, or write a corpus \
         with `ringmaster corpus make`"
    )]
    NoShards {
        /// The source.
        url: String,
        /// The key of the run file that names it.
        key: &'static str,
    },
    /// A source that says something impossible.
    #[error("{key} = {value:?}: {reason}")]
    Source {
        /// The key of the run file.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong, and what would work.
        reason: &'static str,
    },
    /// A shard lacks a column that training needs.
    #[error("{shard}: {what}; its columns are {found}; set {key} in the run file")]
    Columns {
        /// URL of the shard.
        shard: String,
        /// What is missing or of the wrong type.
        what: String,
        /// The columns it has, with types.
        found: String,
        /// The key of the run file that names the column.
        key: &'static str,
    },
    /// A shard that is no Parquet, or no longer whole.
    #[error(
        "{shard}: cannot be read as Parquet: {reason}; write it again, or take it out of the source"
    )]
    Corrupt {
        /// URL of the shard.
        shard: String,
        /// What the reader found.
        reason: String,
    },
    /// A shard that is not the one the manifest names.
    #[error("{shard}: changed since the run began; restore it, or start a run of another name")]
    Changed {
        /// URL of the shard.
        shard: String,
    },
    /// A shard that the manifest names and that is not there.
    #[error("{shard}: gone since the run began; restore it, or start a run of another name")]
    Vanished {
        /// URL of the shard.
        shard: String,
    },
    /// A manifest that is missing or not what its name says.
    #[error("{url}: {reason}; start the run again, which writes it anew")]
    Manifest {
        /// URL of the manifest.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tokenizer that cannot be used or made.
    #[error(
        "tokenizer {name}: {reason}; set data.tokenizer to a \
         tokenizer.json that fits model.vocab, or leave it out"
    )]
    Tokenizer {
        /// URL, or what it was to be trained on.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of another program, or a place for ours, that cannot be used.
    #[error("{place}: {reason}; {next}")]
    Foreign {
        /// The file, or the place.
        place: String,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        next: String,
    },
    /// Too much of somebody's files is unusable.
    #[error(
        "{bad} of {rows} rows cannot be used, more than the fraction {limit}; the first: {first}; \
         mend it, or raise --max-bad-fraction"
    )]
    BadRows {
        /// Rows refused.
        bad: u64,
        /// Rows seen.
        rows: u64,
        /// The fraction tolerated.
        limit: f64,
        /// Place and fault of the first.
        first: String,
    },
    /// A broken invariant of the loader.
    #[error("the loader ended without a reason; please report it with the worker's log")]
    LoaderDied,
}

impl DatasetError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Plan(error) => error.kind(),
            Self::Source { .. } | Self::Tokenizer { .. } => ErrorKind::Invalid,
            Self::NoShards { .. }
            | Self::Columns { .. }
            | Self::Corrupt { .. }
            | Self::Changed { .. }
            | Self::Vanished { .. }
            | Self::Foreign { .. }
            | Self::BadRows { .. }
            | Self::Manifest { .. } => ErrorKind::Data,
            Self::LoaderDied => ErrorKind::Internal,
        }
    }
}
