//! Errors of the command line: each one sentence naming the thing, the reason and the next move.

use std::path::{Path, PathBuf};

use ringmaster_coordinator::{CoordinatorError, JournalError};
use ringmaster_dataset::{DatasetError, StoreError};
use ringmaster_proto::ErrorKind;
use ringmaster_proto::auth::TokenError;
use ringmaster_proto::dial::DialError;
use ringmaster_proto::spec::SpecError;
use ringmaster_ring::RingError;
use ringmaster_worker::WorkerError;

/// Exit code of `ledger verify` where the record does not hold: unlike any [`ErrorKind`]'s, so that a
/// script can tell it from a record that cannot be read.
const UNTRUE: u8 = 7;

/// Why a command ended without doing what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The run file or an override is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The token file cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The coordinator cannot be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The store did not do what it was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The corpus cannot be read or made.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A ring of a benchmark broke.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The coordinator ended with an error.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// A worker, or the evaluation, ended with an error.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// Something the user can change stands in the way.
    #[error("{thing}: {reason}; {next}")]
    Refused {
        /// What to do about it, for scripts.
        kind: ErrorKind,
        /// What it is about.
        thing: String,
        /// What is wrong with it.
        reason: String,
        /// What to do next.
        next: String,
    },
    /// What a run wrote of its steps is not what its plan and its journal say.
    #[error(
        "{}: {reason}; the record is not what the run did: restore the file, or train anew with --fresh",
        path.display()
    )]
    Untrue {
        /// The file.
        path: PathBuf,
        /// The first step that is wrong, and what is wrong with it.
        reason: String,
    },
    /// A process of the run ended the run; the message is its own.
    #[error("{message}")]
    Child {
        /// Its last error, already a whole sentence.
        message: String,
        /// Its exit code.
        code: u8,
    },
}

impl CliError {
    /// What to do about it.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Spec(error) => error.kind(),
            Self::Token(error) => error.kind(),
            Self::Dial(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Dataset(error) => error.kind(),
            Self::Coordinator(error) => error.kind(),
            Self::Worker(error) => error.kind(),
            Self::Journal(error) => error.kind(),
            Self::Ring(_) => ErrorKind::Retry,
            Self::Refused { kind, .. } => *kind,
            Self::Untrue { .. } => ErrorKind::Data,
            Self::Child { .. } => ErrorKind::Internal,
        }
    }

    /// Exit code: by kind, or the one of the process that failed.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Untrue { .. } => UNTRUE,
            Self::Child { code, .. } => *code,
            other => other.kind().exit_code(),
        }
    }

    /// A record that does not hold.
    pub(crate) fn untrue(path: &Path, reason: impl ToString) -> Self {
        Self::Untrue {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// The command line or the run file asks for something that cannot be.
    pub(crate) fn invalid(
        thing: impl ToString,
        reason: impl ToString,
        next: impl ToString,
    ) -> Self {
        Self::refused(ErrorKind::Invalid, thing, reason, next)
    }

    /// Something that `kind` describes.
    pub(crate) fn refused(
        kind: ErrorKind,
        thing: impl ToString,
        reason: impl ToString,
        next: impl ToString,
    ) -> Self {
        let (thing, reason, next) = (thing.to_string(), reason.to_string(), next.to_string());
        Self::Refused {
            kind,
            thing,
            reason,
            next,
        }
    }

    /// A file of ours that cannot be read or written.
    pub(crate) fn file(path: &Path, source: &std::io::Error) -> Self {
        let next = "check the path, its permissions and the free space";
        Self::invalid(path.display(), source, next)
    }

    /// A call the coordinator answered with an error.
    pub(crate) fn rpc(call: &str, status: &tonic::Status) -> Self {
        let kind = ErrorKind::of_status(status);
        Self::refused(kind, call, status.message(), "see the coordinator's log")
    }
}

/// How a command ended when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// Two digests that should be equal are not.
    Differs,
    /// Ended before its end, at a step boundary; the same command again resumes.
    Stopped,
}

impl Exit {
    /// Exit code; the table is in README.md.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Differs => 1,
            // What a shell reports for a command that a Ctrl-C ended.
            Self::Stopped => 130,
        }
    }
}
