//! Why a worker cannot go on.

use ringmaster_dataset::{DatasetError, StoreError};
use ringmaster_proto::ErrorKind;
use ringmaster_ring::RingError;

/// What ended a worker's part in a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The coordinator cannot be reached or refuses this worker.
    #[error("coordinator {address}: {reason}")]
    Coordinator {
        /// As given on the command line.
        address: String,
        /// What happened, and what to do.
        reason: String,
        /// What to do about it.
        kind: ErrorKind,
    },
    /// The coordinator ended the run with an error.
    #[error("{0}")]
    RunFailed(String),
    /// The device asked for is not there.
    #[error("device {asked}: {reason}")]
    Device {
        /// As given on the command line.
        asked: String,
        /// What is missing and what would work.
        reason: String,
    },
    /// The corpus cannot be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ring is broken; the coordinator decides what comes next.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A checkpoint is not what its manifest says.
    #[error(
        "checkpoint {key}: {reason}; an older one may verify: see `ringmaster checkpoint verify`"
    )]
    Checkpoint {
        /// Object that was read.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The checkpoint of a resume point is not one; the coordinator knows of others.
    #[error("checkpoint {key} cannot be resumed: {source}")]
    Unresumable {
        /// Key of its manifest.
        key: String,
        /// What is wrong with it.
        source: Box<WorkerError>,
    },
    /// A checkpoint cannot be exported there.
    #[error("export to {out}: {reason}")]
    Export {
        /// URL of the folder.
        out: String,
        /// What is in the way, and what to do.
        reason: String,
    },
    /// `[init]` names something a run cannot start from.
    #[error("{key} = {value:?}: {reason}")]
    Init {
        /// The key of the run file.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong, and what would work.
        reason: String,
    },
    /// What was made of `[init]` is no longer as it was made.
    #[error("initial parameters {key}: {reason}; restore the store, or start over with --fresh")]
    Initial {
        /// Object that was read.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The corpus is worse than the run file tolerates.
    #[error(
        "{bad} of {rows} rows were refused by their content, more than data.max_bad_fraction = {limit} \
         allows; quarantine.jsonl in the run's folder names each and why: mend the corpus, or raise the \
         limit and resume"
    )]
    BadRows {
        /// Rows refused so far, once per epoch.
        bad: u64,
        /// Rows of all epochs that have begun.
        rows: u64,
        /// The fraction tolerated.
        limit: f64,
    },
    /// The state that arrived is not the one that was announced.
    #[error("the state at step {step} has digest {found}, expected {expected}; rejoin as new")]
    Diverged {
        /// Step of the state.
        step: u64,
        /// Digest announced.
        expected: String,
        /// Digest computed here.
        found: String,
    },
    /// Part of a state is not what the rank that holds it sent.
    #[error(
        "slice {slice} of {of} of the state at step {step} arrived damaged; it is copied again"
    )]
    Copy {
        /// Step of the state.
        step: u64,
        /// Counted from 0.
        slice: usize,
        /// How many there are.
        of: usize,
    },
    /// There is nothing to evaluate on, or not what is needed.
    #[error("evaluation: {0}")]
    Evaluation(String),
    /// A message that the contract does not allow, or a thread that ended too early.
    #[error("internal: {0}; please report it")]
    Internal(String),
}

impl WorkerError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Coordinator { kind, .. } => *kind,
            Self::RunFailed(_)
            | Self::Checkpoint { .. }
            | Self::Unresumable { .. }
            | Self::Initial { .. }
            | Self::Evaluation(_)
            | Self::BadRows { .. } => ErrorKind::Data,
            Self::Device { .. } | Self::Export { .. } | Self::Init { .. } => ErrorKind::Invalid,
            Self::Dataset(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Diverged { .. } | Self::Ring(RingError::Wedged { .. }) => ErrorKind::Rejoin,
            Self::Copy { .. } | Self::Ring(_) => ErrorKind::Retry,
            Self::Internal(_) => ErrorKind::Internal,
        }
    }
}
