//! From enough workers to training: gather, record, form, start.

use std::collections::BTreeMap;

use prost::Message;
use ringmaster_proto::v1;
use ringmaster_proto::v1::directive::Body;
use ringmaster_proto::{ErrorKind, WorkerId};

use super::adopting::Pace;
use super::checkpoint::Looking;
use super::divergence::Digests;
use super::machine::RunMachine;
use super::membership::{Candidate, Quorum, Worker, assign, quorum};
use super::phase::{Forming, Phase};
use super::resume::{Holder, ResumePoint, decide, from_checkpoint};
use super::{Damaged, Effect, End, Level, Measure, Millis};
use crate::record::{Committed, GenerationRecord, Held, Origin, Record};

const DAY_SECONDS: f64 = 86_400.0;

impl RunMachine {
    /// Goes back to waiting for workers, and on at once if there are enough.
    pub(super) fn gather(&mut self, now: Millis, reason: String) {
        self.idle_since.get_or_insert(now);
        self.enter(Phase::Gathering { window_ends: None }, reason);
        self.try_form(now);
    }

    /// Gathering: proposes the next generation if there are enough workers.
    pub(super) fn try_form(&mut self, now: Millis) {
        let newest = self
            .lineage
            .newest(self.checkpoints.committed())
            .map(|c| c.state.clone());
        let last = |state: &Held| state.step >= self.config.total_steps();
        if let Some(state) = newest.filter(|state| last(state) && self.resume_from.is_none()) {
            let reason = format!(
                "the checkpoint of step {} is the last of the run",
                state.step
            );
            return self.close(End::Finished(state.clone()), state, reason);
        }
        let point = self.resume_point();
        let stays = |w: &Worker| w.draining.is_none();
        let anyone_stays = self
            .workers
            .values()
            .any(|w| w.session.is_some() && stays(w));
        if self.stop.is_none() && !anyone_stays && self.workers.values().any(Worker::rankable) {
            self.stop = Some("every worker was asked to leave".to_owned());
        }
        if let Some(reason) = self.stop.clone() {
            return self.gather_to_stop(now, point, reason);
        }
        // Who leaves is taken along once more if nobody else holds the state.
        let source_stays = point.origin != Origin::Memory
            || self
                .ready()
                .any(|(_, w)| stays(w) && w.held.as_ref() == Some(&point.state));
        let chosen: Vec<WorkerId> = self
            .ready()
            .filter(|(_, w)| stays(w) || !source_stays)
            .map(|(id, _)| id.clone())
            .collect();
        let membership = &self.config.spec.membership;
        let limits = (membership.min_workers as usize, self.largest as usize);
        let window_ms = u64::try_from(membership.join_window.as_millis()).unwrap_or(u64::MAX);
        let Phase::Gathering { window_ends } = &mut self.phase else {
            return;
        };
        if chosen.len() < limits.0 {
            *window_ends = None;
        } else if !self.began {
            window_ends.get_or_insert(now.after(window_ms));
        }
        match quorum(chosen.len(), limits, *window_ends, now) {
            Quorum::Wait(reason) => self.explain(reason, false),
            Quorum::Go(reason) => self.propose(now, &chosen, point, &reason),
        }
    }

    /// Gathering while the run is to stop: a state that is only in memory is saved first, by
    /// whoever is left.
    fn gather_to_stop(&mut self, now: Millis, point: ResumePoint, reason: String) {
        let newest = self
            .lineage
            .newest(self.checkpoints.committed())
            .map(|c| c.state.clone());
        let saved = newest.unwrap_or(Held {
            step: Default::default(),
            digest: String::new(),
        });
        if point.origin == Origin::Memory && point.state.step > saved.step {
            let all: Vec<WorkerId> = self.ready().map(|(id, _)| id.clone()).collect();
            return self.propose(now, &all, point, "the state is saved before the run stops");
        }
        self.close(End::Stopped(saved.clone()), saved, reason);
    }

    fn ready(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers.iter().filter(|(_, worker)| worker.rankable())
    }

    fn resume_point(&self) -> ResumePoint {
        if let Some(asked) = &self.resume_from {
            return from_checkpoint(asked, "it was asked for");
        }
        let holders: Vec<Holder> = self
            .ready()
            .map(|(id, worker)| Holder {
                held: worker.held.clone(),
                survivor: self.members.contains(id),
            })
            .collect();
        decide(
            &holders,
            self.config.exact(),
            self.checkpoints.committed(),
            &self.lineage,
        )
    }

    /// Asks for the record of the next generation. Nobody hears of it before it is durable.
    fn propose(&mut self, now: Millis, chosen: &[WorkerId], point: ResumePoint, why: &str) {
        if point.origin == Origin::Initial && !self.checkpoints.damaged().is_empty() {
            match self.checkpoints.look() {
                Looking::InVain => {}
                Looking::NotYet => {
                    let identity = self.config.spec.identity_hash();
                    self.effects.push(Effect::LookForCheckpoints(identity));
                    let why = "no checkpoint that is known can be resumed; looking for others";
                    return self.explain(why.to_owned(), false);
                }
                Looking::Asked => return,
            }
            let damaged = self.checkpoints.damaged();
            // To start over is not this program's to decide: somebody may have a copy.
            let all = damaged
                .iter()
                .map(|damaged| format!("{} ({})", damaged.folder, damaged.reason));
            let message = format!(
                "no checkpoint of this run can be resumed, and no worker holds a state: {}; restore \
                 one of them, or start over with --fresh",
                all.collect::<Vec<_>>().join("; ")
            );
            return self.fail(ErrorKind::Data, message);
        }
        let candidates = self
            .ready()
            .filter(|(id, _)| chosen.contains(id))
            .map(|(id, w)| Candidate {
                worker: id.clone(),
                host: w.host.clone(),
                was: self.members.iter().position(|member| member == id),
                holds: w.held.as_ref() == Some(&point.state),
                joined: w.joined,
            });
        let members = assign(candidates.collect(), self.largest as usize);
        let fingerprint = members
            .first()
            .and_then(|first| self.workers.get(first))
            .map(|worker| worker.fingerprint.clone())
            .filter(|_| self.config.exact())
            .unwrap_or_default();
        let record = GenerationRecord {
            generation: self.generation.next(),
            members,
            resume: point.state,
            origin: point.origin,
            fingerprint,
        };
        self.idle_since.get_or_insert(now);
        self.began = true;
        self.effects
            .push(Effect::Journal(Record::Generation(record.clone())));
        let reason = format!(
            "{why}; {}; generation {} is being recorded",
            point.reason, record.generation
        );
        self.enter(Phase::Journaling(record), reason);
    }

    /// The store was asked which checkpoints are there.
    pub(super) fn on_checkpoints_found(
        &mut self,
        now: Millis,
        found: Vec<Committed>,
        damaged: Vec<Damaged>,
    ) {
        let new = self.checkpoints.found(found, damaged);
        if new > 0 {
            let text = format!("{new} checkpoints more are in the store than were known");
            self.log(Level::Warn, text);
        }
        self.settle(now);
    }

    /// The record asked for is durable.
    pub(super) fn on_journaled(&mut self, now: Millis) {
        if self.notes > 0 {
            // What is waited for is at hand when as many records are durable as were asked for.
            self.notes -= 1;
            return;
        }
        match &self.phase {
            Phase::Journaling(record) => {
                let record = record.clone();
                self.begin(now, record);
            }
            Phase::Closing(_) => self.closed(),
            _ => self.log(
                Level::Error,
                "a record became durable that nobody asked for".into(),
            ),
        }
    }

    fn begin(&mut self, now: Millis, record: GenerationRecord) {
        self.generation = record.generation;
        self.members = record.members.clone();
        self.pace = Pace::from(record.resume.step);
        let (generation, resume) = (record.generation, record.resume.step);
        self.lineage.push(generation, resume);
        self.effects
            .push(Effect::GenerationBegan(generation, resume));
        self.checkpoints.abandon();
        self.digests = Digests::default();
        self.resume_from = None;
        self.formed_in = (0.0, 0.0);
        if std::mem::take(&mut self.forget) {
            self.kept = record.resume.step;
            self.steps.forget_after(self.kept);
            self.effects.push(Effect::ForgetSteps(record.resume.step));
        }
        if self.config.exact() {
            self.fingerprint.get_or_insert(record.fingerprint.clone());
        }
        let rankable = |id: &WorkerId| self.workers.get(id).is_some_and(Worker::rankable);
        if let Some(gone) = record.members.iter().find(|id| !rankable(id)) {
            let reason = format!(
                "{gone} left while generation {} was recorded",
                record.generation
            );
            return self.gather(now, reason);
        }
        // A process that took the name of another does not have its memory.
        if record.origin == Origin::Memory
            && !record.members.iter().any(|id| self.holds(id, &record))
        {
            let reason = format!(
                "whoever held step {} left while generation {} was recorded",
                record.resume.step, record.generation
            );
            return self.gather(now, reason);
        }
        let form = self.form_ring(&record);
        for (rank, id) in record.members.iter().enumerate() {
            if let Some(worker) = self.workers.get_mut(id) {
                worker.bound = Some(record.generation);
                worker.formed = false;
            }
            let rank = u32::try_from(rank).unwrap_or(u32::MAX);
            self.send(
                id,
                Body::FormRing(v1::FormRing {
                    rank,
                    ..form.clone()
                }),
            );
        }
        let world = record.members.len();
        let reason = format!(
            "generation {} forms with {world} workers at step {}",
            record.generation, record.resume.step
        );
        let limit_ms = self.forming_limit(&record);
        let deadline = now.after(limit_ms);
        self.enter(
            Phase::Forming(Forming {
                record,
                deadline,
                limit_ms,
                formed: BTreeMap::new(),
            }),
            reason,
        );
    }

    /// Whether `id` has the state that the generation starts from in memory.
    fn holds(&self, id: &WorkerId, record: &GenerationRecord) -> bool {
        let worker = self.workers.get(id);
        worker.is_some_and(|worker| worker.held.as_ref() == Some(&record.resume))
    }

    /// How long a generation may take to form, milliseconds: longer where a state has to arrive.
    fn forming_limit(&self, record: &GenerationRecord) -> u64 {
        let arriving = record.members.iter().filter(|id| !self.holds(id, record));
        let bytes = arriving
            .filter_map(|id| self.workers.get(id))
            .map(|w| w.state_bytes);
        self.forming_with(bytes.max().unwrap_or(0))
    }

    /// How long a generation may take to form in which a state of so many bytes has to arrive,
    /// milliseconds.
    pub(super) fn forming_with(&self, bytes: u64) -> u64 {
        let timing = &self.config.timing;
        let copy_ms = u128::from(bytes) * 1_000 / u128::from(timing.slowest_copy.max(1));
        let copy_ms = u64::try_from(copy_ms).unwrap_or(u64::MAX);
        timing.forming_ms.saturating_add(copy_ms)
    }

    fn form_ring(&self, record: &GenerationRecord) -> v1::FormRing {
        let ranks = (0..).zip(&record.members);
        let holders = ranks.filter(|(_, id)| self.holds(id, record));
        let (origin, checkpoint_key) = match &record.origin {
            Origin::Initial => (v1::Origin::Initial, String::new()),
            Origin::Memory => (v1::Origin::Memory, String::new()),
            Origin::Checkpoint(key) => (v1::Origin::Checkpoint, key.clone()),
        };
        let member = |id: &WorkerId| v1::Member {
            worker_id: id.to_string(),
            ring_address: self
                .workers
                .get(id)
                .and_then(|w| w.ring_address.clone())
                .unwrap_or_default(),
        };
        let members = record.members.iter().map(member).collect();
        v1::FormRing {
            rank: 0,
            roster: v1::Roster { members }.encode_to_vec().into(),
            resume: Some(v1::Resume {
                step: record.resume.step.0,
                digest: record.resume.digest.clone(),
                origin: origin.into(),
                holders: match origin {
                    v1::Origin::Memory => holders.map(|(rank, _)| rank).collect(),
                    _ => Vec::new(),
                },
                checkpoint_key,
            }),
        }
    }

    /// A member stands in the ring with the state loaded.
    pub(super) fn on_formed(&mut self, now: Millis, id: &WorkerId, held: Held) {
        if let Some(worker) = self.workers.get_mut(id) {
            worker.step = held.step.0;
            (worker.formed, worker.trusted) = (true, true);
        }
        let Phase::Forming(forming) = &mut self.phase else {
            return self.adopt_formed(now, id);
        };
        let expected = match (&forming.record.origin, forming.formed.first_key_value()) {
            (Origin::Initial, None) => None,
            (Origin::Initial, Some((other, state))) => Some((Some(other.clone()), state.clone())),
            _ => Some((None, forming.record.resume.clone())),
        };
        if let Some((other, state)) = expected.filter(|(_, state)| *state != held) {
            let who = self.named(id);
            let against = match other {
                Some(other) => self.named(&other),
                None => "the resume point".to_owned(),
            };
            let message = format!(
                "{who} formed generation {} with step {} digest {}, but {against} has step {} \
                 digest {}",
                self.generation, held.step, held.digest, state.step, state.digest
            );
            return self.fail(ErrorKind::Internal, message);
        }
        forming.formed.insert(id.clone(), held.clone());
        self.digests.take(id, &held);
        if forming.formed.len() == self.members.len() {
            let reason = format!(
                "{} workers train from step {}",
                self.members.len(),
                held.step
            );
            self.newest = held;
            self.start(now, reason);
        }
    }

    /// Lets every member train.
    pub(super) fn start(&mut self, now: Millis, reason: String) {
        // As if a day had passed before with one failure, so that the first says little.
        let observed = DAY_SECONDS + now.0 as f64 / 1e3;
        let failure_seconds = observed / (1.0 + f64::from(self.failures));
        for id in self.members.clone() {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.asked = now;
            }
            self.send(&id, Body::Start(v1::Start { failure_seconds }));
        }
        if let Some(since) = self.idle_since.take() {
            self.measure(Measure::Rendezvous(now.0.saturating_sub(since.0)));
        }
        self.enter(Phase::Training, reason);
        self.release_leavers();
        self.consider_change(now);
    }

    /// Those who were asked to leave and are in no generation any more may go.
    fn release_leavers(&mut self) {
        let free = |w: &Worker| w.draining.is_some() && w.bound != Some(self.generation);
        let leavers: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, w)| free(w))
            .map(|(id, _)| id.clone())
            .collect();
        for id in leavers {
            self.remove(
                &id,
                "it was asked to leave, and the others train on".to_owned(),
            );
        }
    }

    /// Forming took too long: those that did not form are dropped if others did.
    pub(super) fn forming_is_late(&mut self, now: Millis) {
        let Phase::Forming(forming) = &self.phase else {
            return;
        };
        let (formed, limit) = (forming.formed.clone(), forming.limit_ms);
        let late: Vec<WorkerId> = self
            .members
            .iter()
            .filter(|id| !formed.contains_key(*id))
            .cloned()
            .collect();
        let names: Vec<String> = late.iter().map(|id| self.named(id)).collect();
        let reason = format!("{} did not form within {limit} ms", names.join(", "));
        if !formed.is_empty() {
            for id in &late {
                self.remove(id, format!("it did not form its ring within {limit} ms"));
            }
        }
        self.fence(now, reason, "forming");
    }
}
