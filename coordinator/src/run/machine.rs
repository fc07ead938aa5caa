//! The machine itself: its state, and which event goes to which handler.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_proto::v1::{Hello, Standing};
use ringmaster_proto::{Generation, Step, Term, WorkerId};

use super::adopting::Pace;
use super::checkpoint::{Checkpoints, Lineage};
use super::divergence::Digests;
use super::membership::Worker;
use super::patience::Patience;
use super::phase::Phase;
use super::steps::StepLog;
use super::{Config, Effect, Event, Level, Measure, Millis, Recovered, Session};
use crate::record::{Committed, Held, Record};

/// One run, as its one owner sees it.
pub struct RunMachine {
    pub(super) config: Config,
    pub(super) term: Term,
    /// The last recorded generation.
    pub(super) generation: Generation,
    /// Its workers in rank order; who of them still acts in it is `Worker::bound`.
    pub(super) members: Vec<WorkerId>,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) phase: Phase,
    /// Why it is in this phase.
    pub(super) reason: String,
    pub(super) lineage: Lineage,
    pub(super) checkpoints: Checkpoints,
    pub(super) steps: StepLog,
    /// What members of this generation hold.
    pub(super) digests: Digests,
    /// Generations whose memory does not count.
    pub(super) distrusted: BTreeSet<Generation>,
    /// Records on their way to the store that nothing is waiting for by itself.
    pub(super) notes: usize,
    /// What the slowest ranks took to connect, and to get the state, seconds.
    pub(super) formed_in: (f64, f64),
    /// Generations that ended in a fence, under this coordinator.
    pub(super) failures: u32,
    /// How many workers may have a rank.
    pub(super) largest: u32,
    /// The checkpoint that the next generation starts from, whatever else there is.
    pub(super) resume_from: Option<Committed>,
    /// The next generation redoes steps that may come to something else.
    pub(super) forget: bool,
    /// Where the run went back to after the last divergence.
    pub(super) kept: Step,
    pub(super) patience: Patience,
    /// What workers of an exact run must share, once a generation is recorded.
    pub(super) fingerprint: Option<String>,
    /// Workers turned away because they compute differently.
    pub(super) refused: BTreeSet<WorkerId>,
    /// Why the run is to stop, once it is.
    pub(super) stop: Option<String>,
    /// The join window applies only before this coordinator's first generation.
    pub(super) began: bool,
    /// Since when nobody trains, while a generation is on its way.
    pub(super) idle_since: Option<Millis>,
    pub(super) attended: u64,
    pub(super) pace: Pace,
    /// Whether the journal is being asked if there is a newer coordinator.
    pub(super) confirming: bool,
    confirm_at: Millis,
    /// Newest state and loss heard of, for `status`.
    pub(super) newest: Held,
    pub(super) loss: f64,
    pub(super) effects: Vec<Effect>,
}

impl RunMachine {
    /// Starts where the journal ends.
    pub fn new(config: Config, recovered: Recovered) -> Self {
        let lineage = Lineage::new(recovered.lineage);
        let newest = lineage.newest(&recovered.checkpoints);
        let newest = recovered.resume_from.as_ref().or(newest);
        let newest = newest.map(|c| c.state.clone());
        let newest = newest.unwrap_or(Held {
            step: Step(0),
            digest: String::new(),
        });
        let logged = newest.step.max(recovered.logged);
        let largest = recovered
            .scaled
            .unwrap_or(config.spec.membership.max_workers);
        let mut machine = Self {
            config,
            term: recovered.term,
            generation: recovered.generation,
            members: Vec::new(),
            workers: BTreeMap::new(),
            phase: Phase::Gathering { window_ends: None },
            reason: "no worker has attended yet".to_owned(),
            lineage,
            checkpoints: Checkpoints::new(recovered.checkpoints, recovered.damaged),
            steps: StepLog::new(logged),
            digests: Digests::default(),
            forget: recovered.distrusted.contains(&recovered.generation),
            resume_from: recovered.resume_from,
            distrusted: recovered.distrusted,
            notes: 0,
            formed_in: (0.0, 0.0),
            failures: 0,
            largest,
            kept: Step(0),
            patience: Patience::default(),
            fingerprint: recovered
                .fingerprint
                .filter(|fingerprint| !fingerprint.is_empty()),
            refused: BTreeSet::new(),
            stop: None,
            began: false,
            idle_since: None,
            attended: 0,
            pace: Pace::default(),
            confirming: false,
            confirm_at: Millis(0),
            newest,
            loss: 0.0,
            effects: Vec::new(),
        };
        if let Some(record) = recovered.adopt {
            machine.adopt(record);
        }
        machine
    }

    /// Term and generation, for logs.
    pub fn position(&self) -> (u64, u64) {
        (self.term.0, self.generation.0)
    }

    /// Takes one event and returns what to do, in order.
    pub fn apply(&mut self, now: Millis, event: Event) -> Vec<Effect> {
        if matches!(self.phase, Phase::Ended(_)) {
            return Vec::new();
        }
        match event {
            Event::Attended {
                worker,
                session,
                term,
                hello,
            } => {
                if term > self.term {
                    self.doubt(&worker, session, term);
                } else {
                    self.on_attended(now, &worker, session, hello);
                }
            }
            Event::Detached { worker, session } => self.on_detached(now, &worker, session),
            Event::Report {
                worker,
                session,
                report,
            } => {
                self.on_report(now, &worker, session, *report);
            }
            Event::Tick => self.on_tick(now),
            Event::StopRequested { reason } => self.on_stop_requested(now, reason),
            Event::ScaleRequested { workers } => self.on_scale_requested(now, workers),
            Event::Journaled => self.on_journaled(now),
            Event::CheckpointCommitted(committed) => self.on_committed(committed),
            Event::CheckpointDamaged(damaged) => self.on_scrubbed(&damaged),
            Event::CheckpointsFound(found, damaged) => {
                self.on_checkpoints_found(now, found, damaged);
            }
            Event::StillInOffice => {
                self.confirming = false;
                self.confirm_at = now.after(self.config.timing.confirm_ms);
            }
        }
        std::mem::take(&mut self.effects)
    }

    fn on_attended(&mut self, now: Millis, id: &WorkerId, session: Session, hello: Hello) {
        let known = self.workers.get(id);
        if let Some(old) = known.and_then(|worker| worker.session) {
            self.effects.push(Effect::Close(old));
        }
        let member = known.is_some_and(|worker| worker.bound == Some(self.generation));
        let returns = member && self.is_that_member(id, &hello);
        let (name, distrusted) = (self.named(id), &self.distrusted);
        if !returns {
            self.attended += 1;
            self.workers
                .insert(id.clone(), Worker::new(self.attended, now));
        }
        if let Some(worker) = self.workers.get_mut(id) {
            (worker.host, worker.pid) = (hello.host, hello.pid);
            worker.incarnation = hello.incarnation;
            worker.session = Some(session);
            worker.lease.renew(now);
            worker.asked = now;
            worker.awaited = false;
            // After a divergence only a state that was formed since counts.
            let formed = |s: &Standing| s.formed && !distrusted.contains(&Generation(s.generation));
            if !returns {
                worker.trusted =
                    distrusted.is_empty() || hello.standing.as_ref().is_some_and(formed);
            }
            if let Some(standing) = hello.standing.as_ref().filter(|_| returns) {
                worker.ring_address = Some(standing.ring_address.clone());
                worker.fingerprint.clone_from(&standing.fingerprint);
                worker.state_bytes = standing.state_bytes;
                worker.step = worker.step.max(standing.step);
                worker.formed |= standing.formed;
            }
        }
        self.log(
            Level::Info,
            format!("{name} {}", if returns { "is back" } else { "attends" }),
        );
        self.welcome(id, returns);
        if returns {
            self.repeat(id);
            if let (Phase::Adopting(_), Some(standing)) = (&self.phase, hello.standing) {
                self.on_standing(now, id, &standing);
            }
        } else if member && self.phase.running() {
            let reason = format!("{name} is no longer in its ring");
            self.fence(now, reason, "worker");
        } else {
            self.settle(now);
        }
    }

    /// A member without a stream stays one until its lease ends or a neighbour misses it: losing
    /// the control stream does not stop training. Anybody else is simply gone.
    fn on_detached(&mut self, now: Millis, id: &WorkerId, session: Session) {
        let Some(worker) = self.workers.get_mut(id) else {
            return;
        };
        if worker.session != Some(session) {
            return;
        }
        worker.session = None;
        if worker.bound == Some(self.generation) {
            self.log(Level::Warn, format!("{} lost its stream", self.named(id)));
        } else {
            self.log(Level::Info, format!("{id} is gone: its stream ended"));
            self.workers.remove(id);
        }
        self.settle(now);
    }

    /// A worker is lost for good.
    pub(super) fn lost(&mut self, now: Millis, id: &WorkerId, why: &str, label: &'static str) {
        let name = self.named(id);
        let bound = self
            .workers
            .get(id)
            .is_some_and(|w| w.bound == Some(self.generation));
        self.log(Level::Warn, format!("{name} is lost: {why}"));
        self.forget(id);
        if bound && self.phase.running() {
            self.fence(now, format!("{name} is lost: {why}"), label);
        } else {
            self.settle(now);
        }
    }

    fn on_tick(&mut self, now: Millis) {
        let lease = self.config.timing.lease_ms;
        // Every rank takes part in every step: while steps are reported, nobody in the ring is lost,
        // though its control stream may be.
        let moves = matches!(self.phase, Phase::Training) && self.pace.moves(now, lease);
        let in_ring = |w: &Worker| w.bound == Some(self.generation);
        let silent: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, w)| w.lease.expired(now, lease) && !(moves && in_ring(w)))
            .map(|(id, _)| id.clone())
            .collect();
        for id in silent {
            self.measure(Measure::LeaseExpired);
            self.lost(
                now,
                &id,
                &format!("it was not heard for {lease} ms"),
                "lease",
            );
        }
        if matches!(self.phase, Phase::Gathering { .. }) && now >= self.confirm_at {
            self.confirm_office();
        }
        self.look_for_the_stuck(now);
        self.look_for_those_that_do_not_answer(now);
        match &self.phase {
            Phase::Adopting(adopting) if now >= adopting.deadline => self.adoption_is_late(now),
            Phase::Forming(forming) if now >= forming.deadline => self.forming_is_late(now),
            Phase::Fencing { deadline } if now >= *deadline => self.fence_is_late(now),
            Phase::Draining(draining) if now >= draining.deadline => {
                let limit = self.config.timing.draining_ms;
                self.fence(
                    now,
                    format!("no boundary was reached within {limit} ms"),
                    "drain",
                );
            }
            _ => self.settle(now),
        }
    }

    fn on_stop_requested(&mut self, now: Millis, reason: String) {
        if self.stop.is_none() {
            self.log(Level::Info, format!("the run is to stop: {reason}"));
            self.stop = Some(reason);
        }
        self.settle(now);
    }

    fn on_scale_requested(&mut self, now: Millis, workers: u32) {
        if self.largest != workers {
            let was = std::mem::replace(&mut self.largest, workers);
            self.log(
                Level::Info,
                format!("the run is scaled from {was} to {workers} workers"),
            );
            self.note(Record::Scaled { workers });
        }
        self.settle(now);
    }

    /// Asks for a record that nothing waits for by itself. What comes after it in the journal does.
    pub(super) fn note(&mut self, record: Record) {
        self.notes += 1;
        self.effects.push(Effect::Journal(record));
    }

    /// Looks whether something the present phase waits for has come about.
    pub(super) fn settle(&mut self, now: Millis) {
        match &self.phase {
            Phase::Gathering { .. } => self.try_form(now),
            Phase::Training => self.consider_change(now),
            Phase::Fencing { .. } if !self.awaits_a_fenced_member() => self.fenced(now),
            Phase::Draining(_) if self.bound_to(self.generation).is_empty() => self.drained(now),
            _ => {}
        }
    }
}
