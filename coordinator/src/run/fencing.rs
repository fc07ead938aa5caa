//! The fence: how a generation ends in mid-step. Nobody who has not answered it is in the next.

use std::collections::BTreeMap;

use ringmaster_proto::v1::directive::Body;
use ringmaster_proto::v1::{self, Boundary};
use ringmaster_proto::{ErrorKind, Step, WorkerId, keys};

use super::machine::RunMachine;
use super::membership::Worker;
use super::phase::Phase;
use super::{Damaged, Level, Measure, Millis};
use crate::record::Held;

impl RunMachine {
    /// Ends the current generation in mid-step: no member applies anything more in it once it has
    /// answered.
    pub(super) fn fence(&mut self, now: Millis, reason: String, label: &'static str) {
        self.idle_since.get_or_insert(now);
        self.measure(Measure::StepAborted(label));
        self.failures += 1;
        if let Some(why) = self.patience.lost(self.steps.highest(), &reason) {
            return self.fail(ErrorKind::Internal, why);
        }
        for id in self.bound_to(self.generation) {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.asked = now;
            }
            self.send(
                &id,
                Body::Fence(v1::Fence {
                    reason: reason.clone(),
                }),
            );
        }
        // Who has not found this coordinator yet may hold the newest state.
        let awaited = |id: &WorkerId| self.workers.get(id).is_some_and(|w| w.awaited);
        let timing = &self.config.timing;
        let limit = match self.bound_to(self.generation).iter().any(awaited) {
            true => timing.lease_ms,
            false => timing.fence_ms,
        };
        let deadline = now.after(limit);
        self.enter(Phase::Fencing { deadline }, reason);
        self.settle(now);
    }

    /// Only members that can be reached are waited for, or that may soon be.
    pub(super) fn awaits_a_fenced_member(&self) -> bool {
        let reachable = |w: &Worker| w.session.is_some() || w.awaited;
        self.workers
            .values()
            .any(|w| w.bound == Some(self.generation) && reachable(w))
    }

    /// Everybody who can answer the fence has.
    pub(super) fn fenced(&mut self, now: Millis) {
        let generation = self.generation;
        self.judge();
        self.gather(now, format!("generation {generation} is fenced"));
    }

    /// The fence's deadline has passed: the silent stay bound to the old generation, so they cannot
    /// be ranked unless they answer after all.
    pub(super) fn fence_is_late(&mut self, now: Millis) {
        for id in self.bound_to(self.generation) {
            let name = self.named(&id);
            self.log(
                Level::Warn,
                format!("{name} did not answer the fence in time"),
            );
        }
        self.fenced(now);
    }

    /// A member reports its ring broken.
    pub(super) fn on_link_lost(&mut self, now: Millis, id: &WorkerId, lost: &v1::LinkLost) {
        if !self.phase.running() {
            return;
        }
        let accused = self.members.get(lost.accused_rank as usize).cloned();
        let accused = match accused {
            Some(accused) => self.named(&accused),
            None => format!("rank {}", lost.accused_rank),
        };
        let reason = format!(
            "{} lost its link to {accused}: {}",
            self.named(id),
            lost.reason
        );
        self.fence(now, reason, "link");
    }

    /// A member cannot resume from the generation's checkpoint. It is a matter of the store, not of the
    /// worker: nobody resumes from it any more, and the next generation starts from an older one.
    pub(super) fn on_damaged(
        &mut self,
        now: Millis,
        id: &WorkerId,
        damaged: &v1::CheckpointDamaged,
    ) {
        // Every member finds the same; the first has said it.
        if !self.phase.running() {
            return;
        }
        let (who, why) = (self.named(id), &damaged.reason);
        let reason = match self.distrust(&damaged.key, &format!("{who}: {why}")) {
            Some(step) => format!("the checkpoint of step {step} is damaged: {why}"),
            None => format!("{who} cannot resume from {}: {why}", damaged.key),
        };
        self.fence(now, reason, "checkpoint");
    }

    /// A checkpoint was looked at. Whoever trains does not need it.
    pub(super) fn on_scrubbed(&mut self, damaged: &Damaged) {
        self.distrust(&keys::checkpoint_manifest(&damaged.folder), &damaged.reason);
    }

    /// Nobody resumes from the checkpoint with this manifest key any more. Returns its step, unless that
    /// is so already.
    fn distrust(&mut self, key: &str, why: &str) -> Option<Step> {
        let step = self.checkpoints.distrust(key, why)?.state.step;
        let next = match self.lineage.newest(self.checkpoints.committed()) {
            Some(older) => format!("that of step {} is next", older.state.step),
            None => "there is no older one".to_owned(),
        };
        let found = format!("the checkpoint of step {step} is damaged; {next}; {why}");
        self.log(Level::Error, found);
        Some(step)
    }

    /// A worker applies nothing more in `generation`.
    pub(super) fn on_fenced(
        &mut self,
        now: Millis,
        id: &WorkerId,
        held: Option<Held>,
        boundary: Boundary,
    ) {
        let current = Some(self.generation);
        let Some(worker) = self.workers.get_mut(id) else {
            return;
        };
        let (member, formed) = (worker.bound == current, worker.formed);
        worker.bound = None;
        worker.last = None;
        worker.says_it_holds(held.clone());
        worker.step = held.as_ref().map_or(worker.step, |held| held.step.0);
        if let Some(held) = held.as_ref().filter(|_| member && formed)
            && self.on_digest(now, id, held)
        {
            return self.settle(now);
        }
        if !member {
            self.log(
                Level::Info,
                format!("{id} answered an old fence and is a spare"),
            );
            return self.settle(now);
        }
        match (&mut self.phase, boundary) {
            (Phase::Draining(draining), _) => {
                draining.answers.insert(id.clone(), (boundary, held));
            }
            (Phase::Adopting(_) | Phase::Forming(_), _)
            | (Phase::Training, Boundary::Unspecified) => {
                let reason = format!("{} left the generation in mid-step", self.named(id));
                return self.fence(now, reason, "link");
            }
            (Phase::Training, _) => {
                let reason = format!("{} reached a boundary", self.named(id));
                let answers = BTreeMap::from([(id.clone(), (boundary, held))]);
                self.enter_draining(now, boundary, reason, answers);
            }
            _ => {}
        }
        self.settle(now);
    }
}
