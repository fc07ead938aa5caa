//! Fake workers, a store that is always up, and a clock that moves when told.

use std::collections::{BTreeMap, VecDeque};

use prost::Message;
use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::v1::directive::Body as Said;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, Activity, Boundary};
use ringmaster_proto::{Generation, RunSpec, Step, Term, WorkerId, keys};

use crate::ledger::OnRecord;
use crate::metrics_log::StepLine;
use crate::record::{Committed, CorpusFacts, Held, Record};
use crate::run::{Config, Effect, End, Event, Millis, Recovered, RunMachine, Session, Timing};

pub(super) const TERM: u64 = 3;

pub(super) fn id(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

/// The one state there is at a step: every redo of these fakes is exact.
pub(super) fn state(step: u64) -> v1::Held {
    v1::Held {
        step,
        digest: format!("{step:064x}"),
    }
}

pub(super) fn held(step: u64) -> Held {
    Held::from(&state(step))
}

pub(super) fn config(overrides: &[&str]) -> Config {
    let mut all = vec![
        "run.name=t",
        "data.lanes=4",
        "membership.join_window=\"0s\"",
    ];
    all.extend(overrides);
    let all: Vec<String> = all.into_iter().map(str::to_owned).collect();
    Config {
        spec: RunSpec::parse("", &all).unwrap(),
        corpus: CorpusFacts {
            corpus_hash: "c".into(),
            validation_hash: String::new(),
            tokenizer_hash: "t".into(),
            init_hash: String::new(),
            total_steps: 100,
        },
        root_url: "memory:///".into(),
        admin_address: "127.0.0.1:0".into(),
        timing: Timing::default(),
    }
}

#[derive(Default)]
pub(super) struct Fake {
    pub(super) session: Option<Session>,
    pub(super) incarnation: u64,
    pub(super) held: Option<v1::Held>,
    pub(super) generation: u64,
    pub(super) rank: u32,
    pub(super) world: u32,
    /// Its part of the generation's ring is whole.
    pub(super) in_ring: bool,
    pub(super) training: bool,
    /// Hears, and says nothing: a stopped process.
    pub(super) mute: bool,
    /// Answers nothing, and says what it is at: its trainer thread hangs.
    pub(super) hung: bool,
    /// What it says it is at, and since when.
    pub(super) doing: Option<(Activity, Millis)>,
    /// Answers everything but FormRing.
    pub(super) never_forms: bool,
    pub(super) heard: Vec<Said>,
}

impl Fake {
    fn alive(&self, now: Millis) -> v1::Alive {
        let (activity, since) = self.doing.unwrap_or((Activity::Unspecified, now));
        v1::Alive {
            activity: activity.into(),
            step: self.held.as_ref().map_or(0, |held| held.step),
            seconds: (now.0 - since.0) as f64 / 1e3,
        }
    }
}

pub(super) struct Net {
    pub(super) machine: RunMachine,
    pub(super) term: u64,
    pub(super) now: Millis,
    pub(super) workers: BTreeMap<WorkerId, Fake>,
    pub(super) journal: Vec<Record>,
    /// Records wait here while `slow_store` is set.
    pub(super) unwritten: Vec<Record>,
    /// Checkpoints in the store that no coordinator in office has heard of.
    pub(super) unknown: Vec<Committed>,
    /// And manifests.
    pub(super) uncommitted: Vec<(CheckpointManifest, Committed)>,
    pub(super) slow_store: bool,
    pub(super) manifests: Vec<CheckpointManifest>,
    pub(super) deleted: Vec<String>,
    pub(super) lines: Vec<StepLine>,
    pub(super) record: OnRecord,
    pub(super) logs: Vec<String>,
    pub(super) end: Option<End>,
    pub(super) fingerprint: &'static str,
    /// What workers say a state takes.
    pub(super) state_bytes: u64,
    /// What a step takes each of them.
    pub(super) step_seconds: f64,
    sessions: u64,
    queue: VecDeque<Event>,
}

impl Net {
    pub(super) fn new(overrides: &[&str]) -> Self {
        let recovered = Recovered {
            term: Term(TERM),
            ..Default::default()
        };
        Self::recovered(overrides, recovered)
    }

    pub(super) fn recovered(overrides: &[&str], recovered: Recovered) -> Self {
        Self {
            term: recovered.term.0,
            machine: RunMachine::new(config(overrides), recovered),
            now: Millis(0),
            workers: BTreeMap::new(),
            journal: Vec::new(),
            unwritten: Vec::new(),
            unknown: Vec::new(),
            uncommitted: Vec::new(),
            slow_store: false,
            manifests: Vec::new(),
            deleted: Vec::new(),
            lines: Vec::new(),
            record: OnRecord::default(),
            logs: Vec::new(),
            end: None,
            fingerprint: "f",
            state_bytes: 0,
            step_seconds: 0.0,
            sessions: 0,
            queue: VecDeque::new(),
        }
    }

    /// A run that trains with these workers.
    pub(super) fn training(names: &[&str], overrides: &[&str]) -> Self {
        let min = format!("membership.min_workers={}", names.len());
        let mut all = vec![min.as_str()];
        all.extend(overrides);
        let mut net = Self::new(&all);
        for name in names {
            net.attend(name);
        }
        assert_eq!(net.phase(), "training", "{}", net.machine.status().reason);
        net
    }

    pub(super) fn attend(&mut self, name: &str) {
        self.sessions += 1;
        let session = Session(self.sessions);
        let born = || Fake {
            incarnation: session.0,
            ..Default::default()
        };
        let fake = self.workers.entry(id(name)).or_insert_with(born);
        fake.session = Some(session);
        let standing = (fake.generation > 0).then(|| v1::Standing {
            ring_address: format!("127.0.0.1:{}", 1000 + session.0),
            fingerprint: self.fingerprint.into(),
            generation: fake.generation,
            in_ring: fake.in_ring,
            formed: fake.in_ring && !fake.never_forms,
            step: fake.held.as_ref().map_or(0, |held| held.step),
            state_bytes: self.state_bytes,
        });
        let hello = v1::Hello {
            host: "h".into(),
            pid: 1,
            incarnation: fake.incarnation,
            standing,
            ..Default::default()
        };
        self.deliver(Event::Attended {
            worker: id(name),
            session,
            term: Term(self.term),
            hello,
        });
    }

    /// The process is gone; its stream breaks.
    pub(super) fn kill(&mut self, name: &str) {
        let session = self
            .workers
            .remove(&id(name))
            .and_then(|fake| fake.session)
            .unwrap();
        self.deliver(Event::Detached {
            worker: id(name),
            session,
        });
    }

    pub(super) fn report(&mut self, name: &str, body: Body) {
        let generation = self.workers[&id(name)].generation;
        self.report_in(name, self.term, generation, body);
    }

    pub(super) fn report_in(&mut self, name: &str, term: u64, generation: u64, body: Body) {
        let event = self.event(&id(name), term, generation, body);
        self.deliver(event);
    }

    fn event(&self, worker: &WorkerId, term: u64, generation: u64, body: Body) -> Event {
        let session = self.workers[worker].session.unwrap();
        let report = v1::WorkerReport {
            run_id: "t".into(),
            worker_id: worker.to_string(),
            term,
            generation,
            body: Some(body),
        };
        Event::Report {
            worker: worker.clone(),
            session,
            report: Box::new(report),
        }
    }

    pub(super) fn link_lost(&mut self, name: &str, accused_rank: u32) {
        self.report(
            name,
            Body::LinkLost(v1::LinkLost {
                accused_rank,
                reason: "reset".into(),
            }),
        );
    }

    /// One worker completes one step.
    pub(super) fn step(&mut self, name: &str) {
        let fake = self.workers.get_mut(&id(name)).unwrap();
        assert!(fake.training, "{name} does not train");
        let step = fake.held.as_ref().unwrap().step + 1;
        fake.held = Some(state(step));
        let done = v1::StepDone {
            step,
            loss: 1.0 / step as f64,
            step_seconds: self.step_seconds,
            ..Default::default()
        };
        self.report(name, Body::StepDone(done));
    }

    /// Every training worker completes `steps` steps.
    pub(super) fn steps(&mut self, steps: usize) {
        for _ in 0..steps {
            for name in self.training_names() {
                self.step(&name);
            }
        }
    }

    pub(super) fn training_names(&self) -> Vec<String> {
        let training = self
            .workers
            .iter()
            .filter(|(_, fake)| fake.training && !fake.mute && !fake.hung);
        training.map(|(id, _)| id.to_string()).collect()
    }

    /// One worker writes its part of the state it holds.
    pub(super) fn write_part(&mut self, name: &str) {
        let written = self.part(&id(name));
        self.report(name, Body::PartWritten(written));
    }

    fn part(&self, worker: &WorkerId) -> v1::PartWritten {
        let fake = &self.workers[worker];
        let held = fake.held.clone().unwrap();
        let folder = keys::checkpoint(Generation(fake.generation), Step(held.step), &held.digest);
        v1::PartWritten {
            step: held.step,
            digest: held.digest,
            part: fake.rank,
            parts: fake.world,
            key: keys::checkpoint_part(&folder, fake.rank, fake.world),
            bytes: 10,
            blake3: "b".into(),
        }
    }

    /// Time passes; whoever can says it is alive.
    pub(super) fn pass(&mut self, milliseconds: u64) {
        let until = self.now.after(milliseconds);
        while self.now < until {
            self.now = self.now.after(500).min(until);
            let speaks = |fake: &Fake| !fake.mute && fake.session.is_some();
            let alive: Vec<WorkerId> = self
                .workers
                .iter()
                .filter(|(_, f)| speaks(f))
                .map(|(w, _)| w.clone())
                .collect();
            for worker in alive {
                let alive = self.workers[&worker].alive(self.now);
                let event = self.event(&worker, self.term, 0, Body::Alive(alive));
                self.deliver(event);
            }
            self.deliver(Event::Tick);
        }
    }

    /// From now on they are at this, and say so.
    pub(super) fn begin(&mut self, names: &[&str], activity: Activity) {
        for name in names {
            self.workers.get_mut(&id(name)).unwrap().doing = Some((activity, self.now));
        }
    }

    pub(super) fn stop(&mut self) {
        self.deliver(Event::StopRequested {
            reason: "ctrl-c".into(),
        });
    }

    pub(super) fn scale(&mut self, workers: u32) {
        self.deliver(Event::ScaleRequested { workers });
    }

    /// The store answers again.
    pub(super) fn write_journal(&mut self) {
        self.slow_store = false;
        for (manifest, committed) in std::mem::take(&mut self.uncommitted) {
            self.journal
                .push(Record::CheckpointCommitted(committed.clone()));
            self.manifests.push(manifest);
            self.deliver(Event::CheckpointCommitted(committed));
        }
        for record in std::mem::take(&mut self.unwritten) {
            self.journal.push(record);
            self.deliver(Event::Journaled);
        }
    }

    pub(super) fn deliver(&mut self, event: Event) {
        self.queue.push_back(event);
        while let Some(event) = self.queue.pop_front() {
            for effect in self.machine.apply(self.now, event) {
                assert!(self.end.is_none(), "{effect:?} after the end");
                self.carry_out(effect);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send { session, directive } => self.hear(session, directive),
            Effect::Close(session) => {
                for fake in self
                    .workers
                    .values_mut()
                    .filter(|f| f.session == Some(session))
                {
                    fake.session = None;
                    fake.training = false;
                }
            }
            Effect::Journal(record) if self.slow_store => self.unwritten.push(record),
            Effect::Journal(record) => {
                self.journal.push(record);
                self.queue.push_back(Event::Journaled);
            }
            Effect::CommitCheckpoint(manifest, committed) if self.slow_store => {
                self.uncommitted.push((manifest, committed));
            }
            Effect::CommitCheckpoint(manifest, committed) => {
                self.journal
                    .push(Record::CheckpointCommitted(committed.clone()));
                self.manifests.push(manifest);
                self.queue.push_back(Event::CheckpointCommitted(committed));
            }
            Effect::DeleteCheckpoint(folder) => self.deleted.push(folder),
            Effect::ConfirmOffice => self.queue.push_back(Event::StillInOffice),
            Effect::LookForCheckpoints(_) => {
                let found = std::mem::take(&mut self.unknown);
                self.queue
                    .push_back(Event::CheckpointsFound(found, Vec::new()));
            }
            Effect::StepCompleted(line, _) => {
                self.record.take((&line).into());
                self.lines.push(line);
            }
            Effect::StepRedone(line) => self.record.take((&line).into()),
            Effect::GenerationBegan(generation, resume) => self.record.began(generation, resume),
            Effect::ForgetSteps(after) => self.lines.retain(|line| line.step <= after.0),
            Effect::Log(_, text) => self.logs.push(text),
            Effect::End(end) => self.end = Some(end),
            Effect::Publish(_) | Effect::Measure(_) => {}
        }
    }

    fn hear(&mut self, session: Session, directive: v1::Directive) {
        assert_eq!(directive.term, self.term);
        let found = self
            .workers
            .iter_mut()
            .find(|(_, fake)| fake.session == Some(session));
        let Some((worker, fake)) = found else { return };
        let worker = worker.clone();
        let body = directive.body.unwrap();
        fake.heard.push(body.clone());
        if fake.mute || fake.hung {
            return;
        }
        match body {
            Said::Welcome(welcome) if !welcome.keep => {
                (fake.in_ring, fake.training) = (false, false);
                let prepared = v1::Prepared {
                    ring_address: format!("127.0.0.1:{}", 1000 + session.0),
                    fingerprint: self.fingerprint.into(),
                    held: fake.held.clone(),
                    state_bytes: self.state_bytes,
                };
                self.answer(&worker, directive.generation, Body::Prepared(prepared));
            }
            Said::Fence(_) => {
                (fake.in_ring, fake.training) = (false, false);
                self.end_generation(&worker, directive.generation, Boundary::Unspecified);
            }
            Said::FormRing(form) => {
                let resume = form.resume.unwrap();
                fake.generation = directive.generation;
                fake.rank = form.rank;
                let roster = v1::Roster::decode(form.roster.clone()).unwrap();
                fake.world = roster.members.len() as u32;
                fake.in_ring = true;
                if !fake.never_forms {
                    fake.held = Some(state(resume.step));
                    let formed = v1::Formed {
                        held: fake.held.clone(),
                        ..Default::default()
                    };
                    self.answer(&worker, directive.generation, Body::Formed(formed));
                }
            }
            Said::Start(_) => fake.training = true,
            Said::Drain(drain) => {
                (fake.in_ring, fake.training) = (false, false);
                let boundary = Boundary::try_from(drain.intent).unwrap();
                if boundary == Boundary::Stop {
                    let part = self.part(&worker);
                    self.answer(&worker, directive.generation, Body::PartWritten(part));
                }
                self.end_generation(&worker, directive.generation, boundary);
            }
            Said::Welcome(_) | Said::Stop(_) => {}
        }
    }

    fn end_generation(&mut self, worker: &WorkerId, generation: u64, boundary: Boundary) {
        let held = self.workers[worker].held.clone();
        let fenced = v1::Fenced {
            held,
            boundary: boundary.into(),
        };
        self.answer(worker, generation, Body::Fenced(fenced));
    }

    fn answer(&mut self, worker: &WorkerId, generation: u64, body: Body) {
        let event = self.event(worker, self.term, generation, body);
        self.queue.push_back(event);
    }
}
