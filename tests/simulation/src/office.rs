//! A coordinator's process: the real machine at the real desk, over the simulated store.

use std::collections::{BTreeMap, VecDeque};

use futures::FutureExt;
use ringmaster_coordinator::record::Record;
use ringmaster_coordinator::run::{self, Config, Effect, End, Millis, RunMachine, Session};
use ringmaster_coordinator::{
    CorpusFacts, Desk, Timing, Write, Written, stored_checkpoints, take_over,
};
use ringmaster_proto::v1::WorkerReport;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::{ErrorKind, Step, Term, WorkerId};

use crate::world::{Event, Ms, OfficeId, RUN, StreamId, World};

/// Resolution of a coordinator's deadlines.
const TICK: Ms = 500;

/// One coordinator process.
pub(crate) struct Office {
    /// Whether the process lives.
    pub(crate) alive: bool,
    began: Ms,
    serving: Option<Serving>,
}

struct Serving {
    machine: RunMachine,
    desk: Desk,
    writes: VecDeque<Write>,
    pause: Ms,
    streams: BTreeMap<u64, StreamId>,
    sessions: u64,
}

impl Office {
    /// A process that has just started.
    pub(crate) fn new(now: Ms) -> Self {
        Self {
            alive: true,
            began: now,
            serving: None,
        }
    }

    /// Whether workers can attend it.
    pub(crate) fn serves(&self) -> bool {
        self.alive && self.serving.is_some()
    }
}

impl World {
    /// A coordinator's process starts.
    pub(crate) fn start_office(&mut self) {
        let id = OfficeId(self.offices.len());
        self.offices.push(Office::new(self.now));
        let delay = self.random.within(10..400);
        self.after(delay, Event::OfficeOpens(id));
    }

    /// It takes office, or tries again.
    pub(crate) fn open_office(&mut self, id: OfficeId) {
        if !self.offices[id.0].alive {
            return;
        }
        let corpus = CorpusFacts {
            corpus_hash: "c".into(),
            validation_hash: String::new(),
            tokenizer_hash: "t".into(),
            init_hash: String::new(),
            total_steps: self.plan.steps,
        };
        let root = self.root.clone();
        let taken = take_over(&self.plan.spec, &corpus, &root, true).now_or_never();
        let (desk, mut recovered) = match taken {
            Some(Ok(taken)) => taken,
            Some(Err(error)) if error.kind() == ErrorKind::Retry => {
                return self.after(700, Event::OfficeOpens(id));
            }
            Some(Err(error)) => {
                self.trace(|| format!("{id:?} cannot take office: {error}"));
                return self.kill_office(id);
            }
            None => return self.oracle.object("taking office waited for something"),
        };
        recovered.logged = Step(self.oracle.last_line());
        let (term, adopts) = (recovered.term, recovered.adopt.is_some());
        self.trace(|| format!("{id:?} takes office with term {term}; adopts: {adopts}"));
        let config = Config {
            spec: self.plan.spec.clone(),
            corpus,
            root_url: root.url(),
            admin_address: String::new(),
            timing: Timing::default(),
        };
        let office = &mut self.offices[id.0];
        office.began = self.now;
        office.serving = Some(Serving {
            machine: RunMachine::new(config, recovered),
            desk,
            writes: VecDeque::new(),
            pause: 0,
            streams: BTreeMap::new(),
            sessions: 0,
        });
        self.after(TICK, Event::OfficeTicks(id));
    }

    /// Time passes in office.
    pub(crate) fn tick_office(&mut self, id: OfficeId) {
        if self.offices[id.0].serves() {
            self.office_hears(id, run::Event::Tick);
            self.after(TICK, Event::OfficeTicks(id));
        }
    }

    /// A report arrives.
    pub(crate) fn office_receives(&mut self, stream: StreamId, report: WorkerReport) {
        let (id, session) = (
            self.streams[stream.0].office,
            self.streams[stream.0].session,
        );
        if !self.streams[stream.0].up {
            return;
        }
        let Some(serving) = self.offices[id.0].serving.as_mut() else {
            return;
        };
        let Some(worker) = WorkerId::new(&report.worker_id) else {
            return;
        };
        let event = match (report.body, session) {
            (Some(Body::Hello(hello)), None) => {
                serving.sessions += 1;
                let session = serving.sessions;
                serving.streams.insert(session, stream);
                self.streams[stream.0].session = Some(session);
                run::Event::Attended {
                    worker,
                    session: Session(session),
                    term: Term(report.term),
                    hello,
                }
            }
            (body, Some(session)) => run::Event::Report {
                worker,
                session: Session(session),
                report: Box::new(WorkerReport { body, ..report }),
            },
            _ => return,
        };
        self.office_hears(id, event);
    }

    /// The coordinator's end of a stream is noticed to be gone.
    pub(crate) fn office_misses(&mut self, stream: StreamId) {
        let Some(session) = self.streams[stream.0].session else {
            return;
        };
        let (id, process) = (
            self.streams[stream.0].office,
            self.streams[stream.0].process,
        );
        let known = self.offices[id.0]
            .serving
            .as_mut()
            .is_some_and(|serving| serving.streams.remove(&session).is_some());
        if known {
            let worker = self.processes[process.0].name.clone();
            let session = Session(session);
            self.office_hears(id, run::Event::Detached { worker, session });
        }
    }

    fn office_hears(&mut self, id: OfficeId, event: run::Event) {
        let office = &mut self.offices[id.0];
        let now = Millis(self.now - office.began);
        let Some(serving) = office.serving.as_mut().filter(|_| office.alive) else {
            return;
        };
        for effect in serving.machine.apply(now, event) {
            self.carry_out(id, effect);
        }
    }

    fn carry_out(&mut self, id: OfficeId, effect: Effect) {
        let Some(serving) = self.offices[id.0].serving.as_mut() else {
            return;
        };
        match effect {
            Effect::Send { session, directive } => {
                if let Some(stream) = serving.streams.get(&session.0).copied() {
                    self.send_down(stream, directive);
                }
            }
            Effect::Close(session) => {
                if let Some(stream) = serving.streams.remove(&session.0) {
                    self.close_stream(stream);
                }
            }
            Effect::Journal(record) => self.write(id, Write::Record(record)),
            Effect::CommitCheckpoint(manifest, committed) => {
                let state = &committed.state;
                if !self.oracle.is_digest(state.step.0, &state.digest) {
                    self.oracle
                        .object(format!("a checkpoint of step {} is wrong", state.step));
                }
                self.write(id, Write::Checkpoint(manifest, committed));
            }
            Effect::DeleteCheckpoint(folder) => self.write(id, Write::Delete(folder)),
            Effect::ConfirmOffice => self.write(id, Write::Confirm),
            Effect::LookForCheckpoints(identity) => self.write(id, Write::Look(identity)),
            Effect::StepCompleted(line, _) => self.oracle.line(&line),
            Effect::ForgetSteps(after) => self.oracle.forget(after.0),
            Effect::StepRedone(_) | Effect::GenerationBegan(..) => {}
            Effect::Log(_, text) => self.trace(|| format!("{id:?}: {text}")),
            Effect::Publish(_) | Effect::Measure(_) => {}
            Effect::End(end) => self.office_ends(id, &end),
        }
    }

    fn write(&mut self, id: OfficeId, write: Write) {
        let delay = self.random.within(5..150);
        if let Some(serving) = self.offices[id.0].serving.as_mut() {
            serving.writes.push_back(write);
            if serving.writes.len() == 1 {
                serving.pause = 200;
                self.after(delay, Event::OfficeWrites(id));
            }
        }
    }

    /// One attempt at the oldest write.
    pub(crate) fn office_writes(&mut self, id: OfficeId) {
        let office = &mut self.offices[id.0];
        let Some(serving) = office.serving.as_mut().filter(|_| office.alive) else {
            return;
        };
        let Some(write) = serving.writes.front().cloned() else {
            return;
        };
        let event = match serving.desk.attempt(&write).now_or_never() {
            None => return self.oracle.object("a write waited for something"),
            Some(Err(error)) if error.kind() == ErrorKind::Retry => {
                serving.pause = (serving.pause * 2).min(5_000);
                let pause = serving.pause;
                return self.after(pause, Event::OfficeWrites(id));
            }
            Some(Err(error)) => {
                self.trace(|| format!("{id:?} is out of office: {error}"));
                return self.kill_office(id);
            }
            Some(Ok(Written::Record)) => Some(run::Event::Journaled),
            Some(Ok(Written::Checkpoint(committed))) => {
                Some(run::Event::CheckpointCommitted(committed))
            }
            Some(Ok(Written::Confirmed)) => Some(run::Event::StillInOffice),
            Some(Ok(Written::Found(found, damaged))) => {
                Some(run::Event::CheckpointsFound(found, damaged))
            }
            Some(Ok(Written::Deleted | Written::Failed(_))) => None,
        };
        serving.writes.pop_front();
        if !serving.writes.is_empty() {
            serving.pause = 200;
            let delay = self.random.within(5..150);
            self.after(delay, Event::OfficeWrites(id));
        }
        if let Write::Record(Record::Generation(record)) = write {
            self.oracle.recorded_generation(record);
        }
        if let Some(event) = event {
            self.office_hears(id, event);
        }
    }

    fn office_ends(&mut self, id: OfficeId, end: &End) {
        self.trace(|| format!("{id:?} ends: {end:?}"));
        match end {
            End::Finished(state) => {
                if state.step.0 != self.plan.steps
                    || !self.oracle.is_digest(state.step.0, &state.digest)
                {
                    self.oracle.object(format!("the run ended with {state:?}"));
                }
                self.finished = true;
            }
            End::Stopped(_) => {}
            End::Failed { message, .. } => {
                let root = self.store.steady().child(RUN);
                match stored_checkpoints(&root).now_or_never() {
                    Some(Ok(stored)) => self.oracle.fails(message, &stored),
                    _ => self.oracle.object("looking at checkpoints waited"),
                }
                self.finished = true;
            }
        }
        let office = &mut self.offices[id.0];
        office.alive = false;
        office.serving = None;
        // Whoever was let go has a closed stream; the others find theirs broken.
        for stream in (0..self.streams.len()).map(StreamId) {
            if self.streams[stream.0].office == id && self.streams[stream.0].up {
                self.break_stream(stream);
            }
        }
    }

    /// The process dies: every stream breaks.
    pub(crate) fn kill_office(&mut self, id: OfficeId) {
        let office = &mut self.offices[id.0];
        office.alive = false;
        office.serving = None;
        for stream in 0..self.streams.len() {
            if self.streams[stream].office == id {
                self.break_stream(StreamId(stream));
            }
        }
    }
}
