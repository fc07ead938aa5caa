//! Why a ring could not be formed or a collective did not finish.

use std::time::Duration;

/// What went wrong on this rank, and, where one is to blame, which peer.
///
/// Every error is final for its ring: the caller drops the ring and asks for a new generation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The connection to a peer ended without a farewell, or a neighbour reports that of one.
    #[error("rank {rank} is lost: {reason}; form the next generation without it")]
    PeerLost {
        /// The rank that is gone.
        rank: usize,
        /// What the connection, or the reporting neighbour, said.
        reason: String,
    },
    /// A peer's connection is open but not one byte, heartbeats included, came in time.
    #[error("rank {rank} was silent for {seconds:.1} s; form the next generation without it")]
    Silent {
        /// The rank that is stopped or unreachable.
        rank: usize,
        /// How long this rank listened, in seconds.
        seconds: f64,
    },
    /// A peer closed its ring on purpose: it drained, was fenced, or passes on such an end.
    #[error("rank {rank} left the ring; wait for the coordinator's next generation")]
    Left {
        /// The neighbour that said goodbye.
        rank: usize,
    },
    /// This rank's own [`Abort`](crate::Abort) was called, or its ring was dropped.
    #[error("the ring was aborted: {reason}")]
    Aborted {
        /// The words of the caller that aborted.
        reason: String,
    },
    /// A peer sent bytes that the plan or the frame layer does not allow.
    #[error("rank {rank} broke the protocol: {reason}; compare the peers' versions and steps")]
    Protocol {
        /// The neighbour the bytes came from.
        rank: usize,
        /// Which rule was broken, with the value expected and the one received.
        reason: String,
    },
    /// A peer kept refusing this rank's handshake until the deadline.
    #[error("rank {rank} refused the handshake: {reason}; check its generation and secret")]
    Refused {
        /// The successor that was dialled.
        rank: usize,
        /// The last refusal.
        reason: String,
    },
    /// The ring was not complete in time.
    #[error("no ring after {:.1} s: {waiting}; check that the peers are up", .after.as_secs_f64())]
    Timeout {
        /// How long forming was tried.
        after: Duration,
        /// Whom this rank was still waiting for, and what it last saw.
        waiting: String,
        /// The only neighbour missing, if it is one.
        rank: Option<usize>,
    },
    /// The caller's arguments contradict each other or the ring.
    #[error("invalid use of the ring: {reason}")]
    Invalid {
        /// The contradiction.
        reason: String,
    },
    /// A local operation of the system failed: no peer is to blame.
    #[error("cannot {action}: {reason}; check this host's limits and addresses")]
    Io {
        /// What was tried.
        action: String,
        /// What the system answered.
        reason: String,
    },
    /// The devices' collective failed on this rank, and the ring knows of no peer that died.
    #[error("NCCL failed: {reason}; form the next generation, and set NCCL_DEBUG=INFO to see more")]
    Nccl {
        /// What was called, and what the library or the device answered.
        reason: String,
    },
    /// A communicator was given up and the device did not stop: it may still write to the memory it
    /// was given, so no later computation of this process can be trusted.
    #[error("a device does not stop: {reason}; end this process")]
    Wedged {
        /// What was waited for, and the error it came after.
        reason: String,
    },
}

impl RingError {
    /// The rank to report to the coordinator, if this error is evidence against one.
    ///
    /// A peer that left on purpose is not accused, and neither is one that refuses: it may rightly
    /// be in another generation.
    pub fn accused(&self) -> Option<usize> {
        match self {
            Self::PeerLost { rank, .. }
            | Self::Silent { rank, .. }
            | Self::Protocol { rank, .. } => Some(*rank),
            Self::Timeout { rank, .. } => *rank,
            Self::Left { .. }
            | Self::Aborted { .. }
            | Self::Refused { .. }
            | Self::Invalid { .. }
            | Self::Io { .. }
            | Self::Nccl { .. }
            | Self::Wedged { .. } => None,
        }
    }

    pub(crate) fn io(action: impl Into<String>, error: impl ToString) -> Self {
        Self::Io {
            action: action.into(),
            reason: error.to_string(),
        }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid {
            reason: reason.into(),
        }
    }
}
