//! The run machine: who is in the run, what state they continue from, when it is over.
//!
//! Words. A **spec** is what somebody asked for; a **run** is what the journal says was decided; a
//! **generation** is one agreed membership; a **session** is one stream of one worker. A worker is
//! **bound** to a generation from FormRing until it has answered a fence of it: until then nobody
//! knows what it may still apply, so it can be a member of nothing else.
//!
//! Everything here is pure: no task, no socket, no clock, no random number. [`RunMachine::apply`]
//! takes the time and one event and returns effects; `actor.rs` carries them out.
//!
//! | from       | when                                               | to         |
//! |------------|----------------------------------------------------|------------|
//! | Adopting   | every member stands in its ring, or it moves       | Training   |
//! | Adopting   | a member does not, or its lease ends; the deadline | Fencing    |
//! | Gathering  | enough workers are ready                           | Journaling |
//! | Gathering  | a stop is asked for and nothing is unsaved         | Closing    |
//! | Journaling | the generation's record is durable                 | Forming    |
//! | Journaling | likewise, but a member has left meanwhile          | Gathering  |
//! | Forming    | every member has formed                            | Training   |
//! | Forming    | a link or a member is lost; the deadline           | Fencing    |
//! | Training   | a link or a member is lost, or a rank is stuck     | Fencing    |
//! | Training   | somebody joins, leaves, scales, or asks for a stop | Draining   |
//! | Training   | a member reports the last step                     | Draining   |
//! | Draining   | a link or a member is lost; the deadline           | Fencing    |
//! | Draining   | all members ended at a boundary RECONFIGURE        | Gathering  |
//! | Draining   | all members ended at a boundary STOP or FINISHED   | Closing    |
//! | Fencing    | every reachable member has answered; the deadline  | Gathering  |
//! | Closing    | the checkpoint and the last record are durable     | Ended      |
//!
//! A run that cannot go on is Ended (failed) from any phase.

mod adopting;
mod checkpoint;
mod directives;
mod divergence;
mod ending;
mod event;
mod fencing;
mod forming;
mod lease;
mod machine;
mod membership;
mod patience;
mod phase;
mod reports;
mod resume;
mod status;
mod steps;
mod stuck;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use ringmaster_proto::spec::Reduction;
use ringmaster_proto::{ErrorKind, Generation, RunSpec, Step, Term};

use crate::record::{Committed, CorpusFacts, GenerationRecord, Held};

pub use checkpoint::Damaged;
pub(crate) use checkpoint::newest_surviving;
pub use event::{Effect, Event, Level, Measure, Session};
pub use machine::RunMachine;

/// Milliseconds since the coordinator started, from a clock that never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    /// This moment plus `milliseconds`.
    pub fn after(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }
}

/// Deadlines of the control plane, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often a worker says it is alive.
    pub heartbeat_ms: u64,
    /// A worker unheard for this long is lost.
    pub lease_ms: u64,
    /// Who has not answered a fence by then is not a member of the next generation.
    pub fence_ms: u64,
    /// A generation that has not formed by then is tried again without those that did not form.
    pub forming_ms: u64,
    /// A drain that has not reached its boundary by then ends in a fence. Long: with a slow store
    /// it includes writing a checkpoint.
    pub draining_ms: u64,
    /// A rank whose own part of a step takes this long, and far longer than ever, is stuck.
    pub stuck_ms: u64,
    /// Likewise where nothing is known of how long it takes.
    pub unknown_ms: u64,
    /// Bytes per second at which a state arrives at the least: forming may take that much longer.
    pub slowest_copy: u64,
    /// How often every checkpoint is read again.
    pub scrub_ms: u64,
    /// How often a coordinator that waits for workers looks whether it was replaced: the workers it
    /// waits for may be with the other.
    pub confirm_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_ms: 1_000,
            lease_ms: 10_000,
            fence_ms: 2_000,
            forming_ms: 30_000,
            draining_ms: 300_000,
            stuck_ms: 30_000,
            unknown_ms: 600_000,
            slowest_copy: 10_000_000,
            scrub_ms: 3_600_000,
            confirm_ms: 5_000,
        }
    }
}

/// What the machine needs to know about the run; fixed for its life.
#[derive(Clone, Debug)]
pub struct Config {
    /// What was asked for.
    pub spec: RunSpec,
    /// The corpus, by hash, and the length.
    pub corpus: CorpusFacts,
    /// URL of the run's root in the store.
    pub root_url: String,
    /// Where the admin HTTP listens, for `status`.
    pub admin_address: String,
    /// Deadlines.
    pub timing: Timing,
}

impl Config {
    /// Whether a redo is bit-identical, so that workers must compute alike.
    pub(crate) fn exact(&self) -> bool {
        self.spec.train.reduction == Reduction::Exact
    }

    /// Length of the run.
    pub(crate) fn total_steps(&self) -> Step {
        Step(self.corpus.total_steps)
    }
}

/// What replaying the journal told this coordinator.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The term this coordinator has taken.
    pub term: Term,
    /// The last recorded generation; 0 if there was none.
    pub generation: Generation,
    /// Where each recorded generation resumed, ascending: what of the past survived.
    pub lineage: Vec<(Generation, Step)>,
    /// Checkpoints that are complete in the store, ascending.
    pub checkpoints: Vec<Committed>,
    /// Those that have a manifest and cannot be resumed.
    pub damaged: Vec<Damaged>,
    /// Fingerprint of the run's workers, if a generation was recorded.
    pub fingerprint: Option<String>,
    /// The last recorded generation, if its workers may still train.
    pub adopt: Option<GenerationRecord>,
    /// Generations whose memory does not count.
    pub distrusted: BTreeSet<Generation>,
    /// The checkpoint that the next generation starts from, if somebody asked for it.
    pub resume_from: Option<Committed>,
    /// How many workers may have a rank, if somebody changed it.
    pub scaled: Option<u32>,
    /// The newest step in `metrics.jsonl`.
    pub logged: Step,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The last step is done and its state is saved.
    Finished(Held),
    /// Stopped on request, resumable.
    Stopped(Held),
    /// It cannot go on.
    Failed {
        /// What to do about it.
        kind: ErrorKind,
        /// One sentence.
        message: String,
    },
}
