//! What the run machine is told, and what it asks for.

use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::{Generation, Step, Term, WorkerId, v1};

use super::{Damaged, End};
use crate::metrics_log::StepLine;
use crate::record::{Committed, Record};

/// One stream of one worker; a worker that attends again gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(pub u64);

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A worker opened a stream and said hello in our protocol.
    Attended {
        /// Who.
        worker: WorkerId,
        /// Its new stream.
        session: Session,
        /// The newest term it has heard of; 0: none.
        term: Term,
        /// Where it runs, and where it stands if it attended before.
        hello: v1::Hello,
    },
    /// A stream ended or could not keep up.
    Detached {
        /// Whose.
        worker: WorkerId,
        /// Which; an older one than the worker's present one changes nothing.
        session: Session,
    },
    /// A worker said something.
    Report {
        /// Who.
        worker: WorkerId,
        /// On which stream.
        session: Session,
        /// What, with the term and generation it said it in.
        report: Box<v1::WorkerReport>,
    },
    /// Time passed.
    Tick,
    /// Somebody asked for the run to stop.
    StopRequested {
        /// Why, for people.
        reason: String,
    },
    /// Somebody asked for this many workers at the most.
    ScaleRequested {
        /// At least `min_workers`, at most `lanes`.
        workers: u32,
    },
    /// A record is durable; they become so in the order they were asked for.
    Journaled,
    /// The checkpoint's manifest and its record are durable.
    CheckpointCommitted(Committed),
    /// A checkpoint is not what its manifest says.
    CheckpointDamaged(Damaged),
    /// No other coordinator has written to the journal.
    StillInOffice,
    /// These checkpoints are complete in the store, oldest first, and these are not what they should be.
    CheckpointsFound(Vec<Committed>, Vec<Damaged>),
}

/// How loudly something is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A decision.
    Info,
    /// Something a person may want to look into.
    Warn,
    /// A broken promise.
    Error,
}

/// Something to count.
#[derive(Clone, Debug, PartialEq)]
pub enum Measure {
    /// A worker was unheard for too long.
    LeaseExpired,
    /// A step was completed for the first time in this generation.
    StepCommitted,
    /// A generation ended in mid-step.
    StepAborted(&'static str),
    /// From the decision to re-form to training again, in milliseconds.
    Rendezvous(u64),
}

/// Something the actor must do, in order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Say this to a worker.
    Send {
        /// On this stream.
        session: Session,
        /// What.
        directive: v1::Directive,
    },
    /// End a stream once what was sent has left.
    Close(Session),
    /// Make this record durable, then say [`Event::Journaled`].
    Journal(Record),
    /// Create the manifest and its record, then say [`Event::CheckpointCommitted`].
    CommitCheckpoint(CheckpointManifest, Committed),
    /// Delete everything below this folder, its manifest first.
    DeleteCheckpoint(String),
    /// Look whether another coordinator has written to the journal; if none has, say
    /// [`Event::StillInOffice`]. One at a time.
    ConfirmOffice,
    /// Look which checkpoints of this identity ([`ringmaster_proto::RunSpec::identity_hash`]) are in the store, then say
    /// [`Event::CheckpointsFound`].
    LookForCheckpoints(String),
    /// A step was completed for the first time; with the rows of it that were refused.
    StepCompleted(StepLine, Vec<v1::QuarantinedRow>),
    /// A step was completed again by a later generation, which owns it from now on.
    StepRedone(StepLine),
    /// This generation is recorded and owns every step after the one it resumes at.
    GenerationBegan(Generation, Step),
    /// Steps after this one never happened: the redo may come to something else.
    ForgetSteps(Step),
    /// Tell whoever watches.
    Publish(v1::watch_run_response::Event),
    /// Log a decision.
    Log(Level, String),
    /// Count something.
    Measure(Measure),
    /// The run is over; nothing follows.
    End(End),
}
