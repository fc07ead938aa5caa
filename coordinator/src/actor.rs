//! The one task that owns the run machine. Events come in through one bounded queue, effects are
//! carried out in order, and nothing here waits: a worker that cannot keep up with its directives
//! loses its stream, and the store is written by a task of its own.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ringmaster_proto::v1::watch_run_response::Event as Watched;
use ringmaster_proto::v1::{Directive, Hello, RunStatus, WatchRunResponse, WorkerReport};
use ringmaster_proto::{ErrorKind, Term, WorkerId};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::desk::{Write, Written};
use crate::error::CoordinatorError;
use crate::handle::Attendance;
use crate::metrics::Metrics;
use crate::records::Records;
use crate::run::{Damaged, Effect, End, Event, Level, Millis, RunMachine, Session};

/// Events waiting for the machine.
pub(crate) const QUEUE_MAX: usize = 1024;

/// Writes waiting for the store. The machine has few records and checkpoints on the way at once.
pub(crate) const WRITES_MAX: usize = 64;

/// Directives waiting for one worker; a generation takes four.
const DIRECTIVES_MAX: usize = 32;

/// Events a watcher may be behind.
const WATCHED_MAX: usize = 1024;

/// Resolution of every deadline.
const TICK: Duration = Duration::from_millis(100);

/// Ticks between two status events of an uneventful run.
const STATUS_TICKS: u64 = 10;

/// What the servers and the writer tell the actor.
pub(crate) enum Command {
    Attend {
        worker: WorkerId,
        term: Term,
        hello: Hello,
        reply: oneshot::Sender<Attendance>,
    },
    Report {
        worker: WorkerId,
        session: Session,
        report: Box<WorkerReport>,
    },
    Detach {
        session: Session,
    },
    Status(oneshot::Sender<RunStatus>),
    Watch(oneshot::Sender<(RunStatus, broadcast::Receiver<WatchRunResponse>)>),
    Stop {
        reason: String,
        reply: oneshot::Sender<RunStatus>,
    },
    Scale {
        workers: u32,
        reply: oneshot::Sender<RunStatus>,
    },
    /// A checkpoint was found to be damaged.
    Damaged(Damaged),
    Written(Written),
}

struct Stream {
    worker: WorkerId,
    directives: mpsc::Sender<Directive>,
    closed: CancellationToken,
}

/// See the module doc.
pub(crate) struct Actor {
    machine: RunMachine,
    began: Instant,
    streams: BTreeMap<Session, Stream>,
    sessions: u64,
    writes: mpsc::Sender<Write>,
    watchers: broadcast::Sender<WatchRunResponse>,
    metrics: Metrics,
    records: Option<Records>,
    shown: Option<RunStatus>,
    end: Option<Result<End, CoordinatorError>>,
}

impl Actor {
    pub(crate) fn new(
        machine: RunMachine,
        writes: mpsc::Sender<Write>,
        metrics: Metrics,
        records: Option<Records>,
    ) -> Self {
        Self {
            machine,
            began: Instant::now(),
            streams: BTreeMap::new(),
            sessions: 0,
            writes,
            watchers: broadcast::Sender::new(WATCHED_MAX),
            metrics,
            records,
            shown: None,
            end: None,
        }
    }

    /// Runs until the run is over. `shutdown` asks for a stop at the next step boundary.
    pub(crate) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Command>,
        shutdown: CancellationToken,
    ) -> Result<End, CoordinatorError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut asked, mut ticks) = (false, 0u64);
        loop {
            if let Some(end) = self.end.take() {
                self.record(Records::flush);
                return end;
            }
            // In this order, so that equal arrivals come to the same; ticks are too rare to starve the queue.
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if !asked => {
                    asked = true;
                    let reason = "the coordinator was asked to stop".to_owned();
                    self.apply(Event::StopRequested { reason });
                }
                _ = tick.tick() => {
                    self.apply(Event::Tick);
                    ticks += 1;
                    let second = ticks.is_multiple_of(STATUS_TICKS);
                    self.show(second);
                    if second {
                        self.record(Records::flush);
                    }
                }
                command = queue.recv() => match command {
                    Some(command) => self.take(command),
                    None => return Err(internal("every server of the run has ended")),
                },
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Attend {
                worker,
                term,
                hello,
                reply,
            } => self.attend(worker, (term, hello), reply),
            Command::Report {
                worker,
                session,
                report,
            } => {
                self.apply(Event::Report {
                    worker,
                    session,
                    report,
                });
            }
            Command::Detach { session } => {
                if let Some(stream) = self.streams.remove(&session) {
                    self.apply(Event::Detached {
                        worker: stream.worker,
                        session,
                    });
                }
            }
            // Whoever asked may have stopped waiting; that is their business.
            Command::Status(reply) => drop(reply.send(self.machine.status())),
            Command::Watch(reply) => {
                drop(reply.send((self.machine.status(), self.watchers.subscribe())));
            }
            Command::Stop { reason, reply } => {
                self.apply(Event::StopRequested { reason });
                drop(reply.send(self.machine.status()));
            }
            Command::Scale { workers, reply } => {
                self.apply(Event::ScaleRequested { workers });
                drop(reply.send(self.machine.status()));
            }
            Command::Damaged(damaged) => self.apply(Event::CheckpointDamaged(damaged)),
            Command::Written(Written::Record) => self.apply(Event::Journaled),
            Command::Written(Written::Checkpoint(committed)) => {
                self.apply(Event::CheckpointCommitted(committed));
            }
            Command::Written(Written::Deleted) => {}
            Command::Written(Written::Confirmed) => self.apply(Event::StillInOffice),
            Command::Written(Written::Found(found, damaged)) => {
                self.apply(Event::CheckpointsFound(found, damaged));
            }
            Command::Written(Written::Failed(error)) => {
                // Fenced or unable to record anything: say nothing more, to nobody.
                self.close_all();
                self.end = Some(Err(error.into()));
            }
        }
    }

    fn attend(
        &mut self,
        worker: WorkerId,
        (term, hello): (Term, Hello),
        reply: oneshot::Sender<Attendance>,
    ) {
        self.sessions += 1;
        let session = Session(self.sessions);
        let (sender, directives) = mpsc::channel(DIRECTIVES_MAX);
        let closed = CancellationToken::new();
        let attendance = Attendance {
            session,
            directives,
            closed: closed.clone(),
        };
        if reply.send(attendance).is_ok() {
            let stream = Stream {
                worker: worker.clone(),
                directives: sender,
                closed,
            };
            self.streams.insert(session, stream);
            self.apply(Event::Attended {
                worker,
                session,
                term,
                hello,
            });
        }
    }

    /// Gives the machine an event, and what follows from carrying out its effects.
    fn apply(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let elapsed = self.began.elapsed().as_millis();
            let now = Millis(u64::try_from(elapsed).unwrap_or(u64::MAX));
            for effect in self.machine.apply(now, event) {
                if let Some(next) = self.carry_out(effect) {
                    events.push_back(next);
                }
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Send { session, directive } => return self.send(session, directive),
            Effect::Close(session) => {
                if let Some(stream) = self.streams.remove(&session) {
                    stream.closed.cancel();
                }
            }
            Effect::Journal(record) => self.write(Write::Record(record)),
            Effect::CommitCheckpoint(manifest, committed) => {
                self.write(Write::Checkpoint(manifest, committed));
            }
            Effect::DeleteCheckpoint(folder) => self.write(Write::Delete(folder)),
            Effect::ConfirmOffice => self.write(Write::Confirm),
            Effect::LookForCheckpoints(identity) => self.write(Write::Look(identity)),
            Effect::StepCompleted(line, refused) => {
                self.record(|records| records.completed(&line, &refused));
            }
            Effect::StepRedone(line) => self.record(|records| records.redone(&line)),
            Effect::GenerationBegan(generation, resume) => {
                self.record(|records| records.began(generation, resume));
            }
            Effect::ForgetSteps(after) => self.record(|records| records.forget_after(after)),
            Effect::Publish(event) => self.publish(event),
            Effect::Log(level, text) => self.log(level, &text),
            Effect::Measure(measure) => self.metrics.measure(&measure),
            Effect::End(end) => {
                self.show(true);
                self.end.get_or_insert(Ok(end));
            }
        }
        None
    }

    fn send(&mut self, session: Session, directive: Directive) -> Option<Event> {
        let stream = self.streams.get(&session)?;
        if stream.directives.try_send(directive).is_ok() {
            return None;
        }
        let stream = self.streams.remove(&session)?;
        stream.closed.cancel();
        tracing::warn!(worker = %stream.worker, "a worker does not read its directives");
        Some(Event::Detached {
            worker: stream.worker,
            session,
        })
    }

    fn write(&mut self, write: Write) {
        if let Err(error) = self.writes.try_send(write) {
            let reason = format!("the store is too far behind: {error}");
            self.close_all();
            self.end.get_or_insert(Err(CoordinatorError::Failed {
                kind: ErrorKind::Retry,
                message: reason,
            }));
        }
    }

    fn record(&mut self, put: impl FnOnce(&mut Records)) {
        if let Some(records) = &mut self.records {
            put(records);
        }
    }

    fn log(&self, level: Level, text: &str) {
        let (term, generation) = self.machine.position();
        match level {
            Level::Info => tracing::info!(term, generation, "{text}"),
            Level::Warn => tracing::warn!(term, generation, "{text}"),
            Level::Error => tracing::error!(term, generation, "{text}"),
        }
    }

    /// Shows the present status where it is shown, if it changed.
    fn show(&mut self, publish: bool) {
        let status = self.machine.status();
        self.metrics.follow(&status);
        if publish && self.shown.as_ref() != Some(&status) {
            self.shown = Some(status.clone());
            self.publish(Watched::Status(status));
        }
    }

    fn publish(&self, event: Watched) {
        // Nobody watching is the usual case.
        let _ = self.watchers.send(WatchRunResponse { event: Some(event) });
    }

    fn close_all(&mut self) {
        for stream in std::mem::take(&mut self.streams).into_values() {
            stream.closed.cancel();
        }
    }
}

fn internal(message: &str) -> CoordinatorError {
    CoordinatorError::Failed {
        kind: ErrorKind::Internal,
        message: message.to_owned(),
    }
}
