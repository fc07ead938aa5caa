//! The phases of a run, with what each one has to remember.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_proto::WorkerId;
use ringmaster_proto::v1::Boundary;

use super::{End, Millis};
use crate::record::{GenerationRecord, Held};

/// Where the run stands; the transitions are drawn in the module doc of `run`.
#[derive(Debug)]
pub(super) enum Phase {
    /// A coordinator has taken over; who was in the last generation may still train.
    Adopting(Adopting),
    /// Waiting for enough workers.
    Gathering {
        /// End of the join window, once the least number of workers is there.
        window_ends: Option<Millis>,
    },
    /// The next generation's record is on its way to the store; nobody has heard of it.
    Journaling(GenerationRecord),
    /// Members connect and load the state to resume from.
    Forming(Forming),
    /// Members train; the coordinator is not on the path of a step.
    Training,
    /// Members end a generation that failed; who does not answer by the deadline is left out.
    Fencing {
        /// When waiting ends.
        deadline: Millis,
    },
    /// Members end a generation at a boundary they agree on.
    Draining(Draining),
    /// The last state and the last record are on their way to the store.
    Closing(Closing),
    /// Over.
    Ended(End),
}

/// See [`Phase::Adopting`].
#[derive(Debug)]
pub(super) struct Adopting {
    pub(super) deadline: Millis,
    /// Members that attended and have formed.
    pub(super) formed: BTreeSet<WorkerId>,
}

/// See [`Phase::Forming`].
#[derive(Debug)]
pub(super) struct Forming {
    pub(super) record: GenerationRecord,
    pub(super) deadline: Millis,
    pub(super) limit_ms: u64,
    pub(super) formed: BTreeMap<WorkerId, Held>,
}

/// See [`Phase::Draining`].
#[derive(Debug)]
pub(super) struct Draining {
    pub(super) intent: Boundary,
    pub(super) deadline: Millis,
    pub(super) answers: BTreeMap<WorkerId, (Boundary, Option<Held>)>,
}

/// See [`Phase::Closing`].
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) end: End,
    pub(super) state: Held,
    /// The final record has been asked for.
    pub(super) recording: bool,
}

impl Phase {
    /// Name for people, as in `RunStatus.phase`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Adopting(_) => "adopting",
            Self::Gathering { .. } => "gathering",
            Self::Journaling(_) | Self::Forming(_) => "forming",
            Self::Training => "training",
            Self::Fencing { .. } => "fencing",
            Self::Draining(_) | Self::Closing(_) => "draining",
            Self::Ended(End::Finished(_)) => "finished",
            Self::Ended(End::Stopped(_)) => "stopped",
            Self::Ended(End::Failed { .. }) => "failed",
        }
    }

    /// Whether members may be computing in the current generation.
    pub(super) fn running(&self) -> bool {
        matches!(
            self,
            Self::Adopting(_) | Self::Forming(_) | Self::Training | Self::Draining(_)
        )
    }

    /// Whether nothing workers do can change the outcome any more.
    pub(super) fn over(&self) -> bool {
        matches!(self, Self::Closing(_) | Self::Ended(_))
    }
}
