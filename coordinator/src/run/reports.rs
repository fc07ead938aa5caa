//! What workers say. A report of another term, generation or stream changes nothing.

use ringmaster_proto::v1::watch_run_response::Event as Watched;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, Boundary};
use ringmaster_proto::{ErrorKind, Generation, Rank, Step, WorkerId};

use super::checkpoint::manifest;
use super::machine::RunMachine;
use super::phase::Phase;
use super::steps::{Observation, Verdict};
use super::{Effect, Level, Measure, Millis, Session};
use crate::metrics_log::StepLine;
use crate::record::Held;

impl RunMachine {
    pub(super) fn on_report(
        &mut self,
        now: Millis,
        id: &WorkerId,
        session: Session,
        report: v1::WorkerReport,
    ) {
        let Some(worker) = self.workers.get_mut(id) else {
            return;
        };
        if worker.session != Some(session) {
            return;
        }
        worker.lease.renew(now);
        let bound = worker.bound.map(|generation| generation.0);
        if report.term != self.term.0 || self.phase.over() {
            return;
        }
        let answers = bound == Some(report.generation);
        let member = answers && report.generation == self.generation.0;
        match report.body {
            // Said before the worker heard of the generation it is bound to, and told again since its
            // stream broke: it is going to hear of it.
            Some(Body::Prepared(_)) if bound.is_some_and(|bound| report.generation < bound) => {}
            Some(Body::Prepared(prepared)) => self.on_prepared(now, id, &prepared),
            Some(Body::Alive(alive)) => self.on_alive(now, id, &alive),
            Some(Body::Draining(draining)) => self.on_draining(now, id, draining.reason),
            Some(Body::Failed(failed)) => self.on_failed(now, id, &failed),
            Some(Body::Sample(sample)) => {
                self.effects.push(Effect::Publish(Watched::Sample(sample)));
            }
            Some(Body::Fenced(fenced)) if answers => {
                let held = fenced.held.as_ref().map(Held::from);
                let boundary = Boundary::try_from(fenced.boundary).unwrap_or_default();
                self.on_fenced(now, id, held, boundary);
            }
            Some(Body::Formed(formed)) if member => {
                let (connect, copy) = self.formed_in;
                self.formed_in = (
                    connect.max(formed.connect_seconds),
                    copy.max(formed.copy_seconds),
                );
                if let Some(held) = &formed.held {
                    self.on_formed(now, id, Held::from(held));
                }
            }
            Some(Body::LinkLost(lost)) if member => self.on_link_lost(now, id, &lost),
            Some(Body::CheckpointDamaged(damaged)) if member => {
                self.on_damaged(now, id, &damaged);
            }
            Some(Body::StepDone(done)) if member => self.on_step_done(now, id, done),
            Some(Body::StepDone(done)) => self.on_past_step(Generation(report.generation), &done),
            Some(Body::PartWritten(written)) if member => self.on_part_written(id, &written),
            _ => {}
        }
    }

    /// The worker is in no ring and can be ranked.
    fn on_prepared(&mut self, now: Millis, id: &WorkerId, prepared: &v1::Prepared) {
        if self.config.exact() && !self.computes_alike(id, &prepared.fingerprint) {
            return self.refuse(now, id, &prepared.fingerprint);
        }
        let current = Some(self.generation);
        let Some(worker) = self.workers.get_mut(id) else {
            return;
        };
        let left = worker.bound == current;
        worker.bound = None;
        worker.last = None;
        worker.ring_address = Some(prepared.ring_address.clone());
        worker.fingerprint.clone_from(&prepared.fingerprint);
        worker.state_bytes = prepared.state_bytes;
        worker.says_it_holds(prepared.held.as_ref().map(Held::from));
        worker.step = worker.held.as_ref().map_or(0, |held| held.step.0);
        self.log(Level::Info, format!("{id} is prepared"));
        if left && self.phase.running() {
            let reason = format!("{} is no longer in its ring", self.named(id));
            return self.fence(now, reason, "link");
        }
        self.settle(now);
    }

    /// Whether `id` computes like the run: like its recorded generations, or, before there are any,
    /// like the first that prepared.
    fn computes_alike(&self, id: &WorkerId, fingerprint: &str) -> bool {
        let first = || {
            let prepared = self
                .workers
                .iter()
                .filter(|(other, w)| *other != id && w.ring_address.is_some());
            prepared
                .min_by_key(|(_, w)| w.joined)
                .map(|(_, w)| w.fingerprint.as_str())
        };
        self.fingerprint
            .as_deref()
            .or_else(first)
            .is_none_or(|run| run == fingerprint)
    }

    fn refuse(&mut self, now: Millis, id: &WorkerId, fingerprint: &str) {
        let message = format!(
            "{id} computes differently (fingerprint {fingerprint}) from the run's workers, and \
             train.reduction = \"exact\" needs equal bits; use the same build and kind of machine"
        );
        self.refused.insert(id.clone());
        self.remove(id, message.clone());
        let min = self.config.spec.membership.min_workers as usize;
        let accepted = self
            .workers
            .values()
            .any(|worker| worker.ring_address.is_some());
        if !accepted && self.fingerprint.is_some() && self.refused.len() >= min {
            let hint = "no worker that attended computes as the run began";
            return self.fail(ErrorKind::Invalid, format!("{hint}: {message}"));
        }
        self.settle(now);
    }

    fn on_draining(&mut self, now: Millis, id: &WorkerId, reason: String) {
        let current = Some(self.generation);
        let between = !matches!(self.phase, Phase::Training | Phase::Forming(_));
        let Some(worker) = self.workers.get_mut(id) else {
            return;
        };
        // Whoever holds a state may be needed until the next generation has it.
        if worker.bound == current || (between && worker.held.is_some()) {
            worker.draining = Some(reason);
            return self.settle(now);
        }
        self.remove(id, format!("it was asked to leave: {reason}"));
        self.settle(now);
    }

    /// A worker cannot go on. What is wrong with the data or the request is wrong for everybody.
    fn on_failed(&mut self, now: Millis, id: &WorkerId, failed: &v1::Failed) {
        let kind = failed.kind.parse().unwrap_or(ErrorKind::Internal);
        let message = format!("{}: {}", self.named(id), failed.message);
        if matches!(kind, ErrorKind::Data | ErrorKind::Invalid) {
            return self.fail(kind, message);
        }
        let bound = self
            .workers
            .get(id)
            .is_some_and(|w| w.bound == Some(self.generation));
        if bound || kind == ErrorKind::Internal {
            let at = self.steps.highest();
            if let Some(why) = self.patience.reported(self.generation, at, &message) {
                return self.fail(kind, why);
            }
        }
        self.lost(
            now,
            id,
            &format!("it failed ({kind}): {}", failed.message),
            "worker",
        );
    }

    /// A worker tells of a step of a generation that is over, since it may have been told to a
    /// coordinator that is gone. In an exact run a redo comes to the same, so it is on record once
    /// anybody remembers it.
    fn on_past_step(&mut self, generation: Generation, done: &v1::StepDone) {
        // After a divergence, what came before it counts only as far as the run went back.
        let spoiled = self
            .distrusted
            .last()
            .is_some_and(|last| generation <= *last);
        let counts = self.config.exact() && !(spoiled && done.step > self.kept.0);
        if counts && generation <= self.generation && !self.steps.knows(Step(done.step)) {
            self.step_completed(generation, done);
        }
    }

    fn on_step_done(&mut self, now: Millis, id: &WorkerId, done: v1::StepDone) {
        let Some(index) = self.members.iter().position(|member| member == id) else {
            return;
        };
        if let Some(worker) = self.workers.get_mut(id) {
            worker.step = done.step;
            worker.usual.learn(&done);
        }
        if self.pace.completed(now, done.step) && matches!(self.phase, Phase::Adopting(_)) {
            self.adopted(now);
        }
        let held = Held {
            step: Step(done.step),
            digest: done.digest.clone(),
        };
        if (!held.digest.is_empty() && self.on_digest(now, id, &held))
            || self.distrusted.contains(&self.generation)
        {
            return;
        }
        let rank = Rank(u32::try_from(index).unwrap_or(u32::MAX));
        let highest = self.steps.highest();
        let verdict = self.steps.observe(Observation {
            generation: self.generation,
            rank,
            step: Step(done.step),
            loss: done.loss,
            digest: &done.digest,
        });
        match verdict {
            Verdict::First => self.first_to_complete(&done, highest),
            Verdict::Same => {}
            Verdict::Redone(how) => {
                if let Some(how) = how.filter(|_| self.config.exact()) {
                    let text = format!("the redo differs at step {}: {how}", done.step);
                    self.log(Level::Error, text);
                }
                let line = StepLine::new(self.generation, &done);
                self.effects.push(Effect::StepRedone(line));
            }
            Verdict::RanksDiffer(how, other) => {
                let other = self.members.get(other.0 as usize).cloned();
                let other = other.map_or_else(String::new, |other| self.named(&other));
                let me = self.named(id);
                let step = done.step;
                return self.diverged(
                    now,
                    format!("{other} and {me} differ at step {step}: {how}"),
                );
            }
        }
        let (worker_id, generation) = (id.to_string(), self.generation.0);
        let step = v1::WorkerStep {
            worker_id,
            rank: rank.0,
            generation,
            step: Some(done),
        };
        self.effects.push(Effect::Publish(Watched::Step(step)));
    }

    fn first_to_complete(&mut self, done: &v1::StepDone, highest: Step) {
        if Step(done.step) > highest {
            self.patience.progress();
        }
        self.loss = done.loss;
        self.newest = Held {
            step: Step(done.step),
            digest: done.digest.clone(),
        };
        self.measure(Measure::StepCommitted);
        self.step_completed(self.generation, done);
    }

    fn step_completed(&mut self, generation: Generation, done: &v1::StepDone) {
        let line = StepLine::new(generation, done);
        self.effects
            .push(Effect::StepCompleted(line, done.quarantined.clone()));
    }

    fn on_part_written(&mut self, id: &WorkerId, written: &v1::PartWritten) {
        match self
            .checkpoints
            .collect(self.generation, self.members.len(), written)
        {
            Ok(None) => {}
            Ok(Some(parts)) => {
                let state = Held {
                    step: Step(written.step),
                    digest: written.digest.clone(),
                };
                let spec = &self.config.spec;
                let (name, identity) = (&spec.run.name, spec.identity_hash());
                let (manifest, committed) = manifest(name, identity, self.generation, state, parts);
                self.effects
                    .push(Effect::CommitCheckpoint(manifest, committed));
            }
            Err(why) => {
                let name = self.named(id);
                self.log(
                    Level::Error,
                    format!("a part written by {name} is refused: {why}"),
                );
            }
        }
    }
}
