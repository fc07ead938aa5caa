//! Few prescriptive error kinds: what the receiver should do, not what went wrong inside.
//!
//! Each crate has its own rich error enum with a `kind()`; only this file maps kinds to gRPC codes
//! and exit codes.

use std::fmt;
use std::str::FromStr;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The same call may succeed later: the network or the store was away.
    Retry,
    /// The membership moved on: attend again as a new worker.
    Rejoin,
    /// The request, run file or command line is wrong; it will fail again until changed.
    Invalid,
    /// A newer term or generation exists; this party must stop acting.
    Fenced,
    /// The corpus or a checkpoint is missing, unreadable or not what it should be.
    Data,
    /// A broken invariant of ours; please report it.
    Internal,
}

impl ErrorKind {
    const ALL: [(Self, &'static str, u8); 6] = [
        (Self::Internal, "internal", 1),
        (Self::Invalid, "invalid", 2),
        (Self::Data, "data", 3),
        (Self::Retry, "retry", 4),
        (Self::Rejoin, "rejoin", 5),
        (Self::Fenced, "fenced", 6),
    ];

    fn row(self) -> (&'static str, u8) {
        let row = Self::ALL.iter().find(|(kind, ..)| *kind == self);
        row.map_or(("internal", 1), |(_, name, code)| (*name, *code))
    }

    /// Lower-case name, as in `Failed.kind` and JSON output.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// Exit code of a command that ends with this kind (the table is in README.md).
    pub fn exit_code(self) -> u8 {
        self.row().1
    }

    /// The kind behind a gRPC status.
    pub fn of_status(status: &tonic::Status) -> Self {
        use tonic::Code;
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => Self::Retry,
            Code::Aborted => Self::Rejoin,
            Code::FailedPrecondition => Self::Fenced,
            Code::DataLoss | Code::NotFound => Self::Data,
            Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::OutOfRange
            | Code::AlreadyExists => Self::Invalid,
            _ => Self::Internal,
        }
    }

    /// The gRPC status that carries this kind to a peer.
    pub fn to_status(self, message: impl Into<String>) -> tonic::Status {
        use tonic::Code;
        let code = match self {
            Self::Retry => Code::Unavailable,
            Self::Rejoin => Code::Aborted,
            Self::Invalid => Code::InvalidArgument,
            Self::Fenced => Code::FailedPrecondition,
            Self::Data => Code::DataLoss,
            Self::Internal => Code::Internal,
        };
        tonic::Status::new(code, message)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ErrorKind {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let row = Self::ALL.iter().find(|(_, n, _)| *n == name);
        row.map(|(kind, ..)| *kind).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_survives_the_wire() {
        for (kind, name, _) in ErrorKind::ALL {
            assert_eq!(ErrorKind::of_status(&kind.to_status("x")), kind);
            assert_eq!(name.parse(), Ok(kind));
        }
    }

    #[test]
    fn exit_codes_are_distinct_and_not_zero() {
        let mut codes: Vec<u8> = ErrorKind::ALL.iter().map(|(_, _, code)| *code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        assert!(codes[0] > 0);
    }
}
