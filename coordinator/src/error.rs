//! Why a coordinator could not do its work.

use std::path::PathBuf;

use ringmaster_dataset::StoreError;
use ringmaster_proto::spec::{Change, SpecError};
use ringmaster_proto::{ErrorKind, Step};

use crate::journal::JournalError;

/// What `serve` ends with when it does not end with an outcome.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The store cannot hold a run.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal cannot be read or written, or another coordinator has taken over.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal's spec cannot be read by this build.
    #[error("run {run} was started by another build, whose spec this one cannot read: {source}")]
    Spec {
        /// Name of the run.
        run: String,
        /// What is wrong with it.
        source: SpecError,
    },
    /// A run of this name exists and is another run.
    #[error(
        "run {run} exists and differs in what a resume may not change: {}; start over with \
         --fresh, or choose another run.name",
        listed(changes)
    )]
    SpecDiffers {
        /// Name of the run.
        run: String,
        /// Every such key, before and after.
        changes: Vec<Change>,
    },
    /// There is nothing left to do.
    #[error(
        "run {run} finished at step {step} (digest {digest}); raise run.steps to train on, or \
         start over with --fresh"
    )]
    AlreadyFinished {
        /// Name of the run.
        run: String,
        /// Its last step.
        step: Step,
        /// Digest of the final state.
        digest: String,
    },
    /// The state that the run was to go on from is not there, or not of this run.
    #[error("checkpoint.resume = {asked:?}: {reason}")]
    Resume {
        /// What was asked for.
        asked: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// The run cannot go on.
    #[error("{message}")]
    Failed {
        /// What to do about it.
        kind: ErrorKind,
        /// One sentence.
        message: String,
    },
    /// The step log cannot be opened or written.
    #[error("metrics file {path}: {source}; free the disk or check the permissions")]
    MetricsFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A listener failed.
    #[error("the {what} server failed: {reason}")]
    Server {
        /// gRPC or admin.
        what: &'static str,
        /// What it said.
        reason: String,
    },
}

impl CoordinatorError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Journal(error) => error.kind(),
            Self::Spec { .. }
            | Self::SpecDiffers { .. }
            | Self::Resume { .. }
            | Self::AlreadyFinished { .. } => ErrorKind::Invalid,
            Self::Failed { kind, .. } => *kind,
            Self::MetricsFile { .. } => ErrorKind::Invalid,
            Self::Server { .. } => ErrorKind::Internal,
        }
    }
}

fn listed(changes: &[Change]) -> String {
    let line = |c: &Change| format!("{}: {} -> {}", c.key, c.before, c.after);
    changes.iter().map(line).collect::<Vec<_>>().join(", ")
}
