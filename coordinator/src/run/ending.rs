//! Planned changes, and the three ways a run ends.

use std::collections::BTreeMap;

use ringmaster_proto::v1::directive::Body;
use ringmaster_proto::v1::{self, Boundary, Outcome};
use ringmaster_proto::{ErrorKind, WorkerId};

use super::checkpoint::Saved;
use super::machine::RunMachine;
use super::membership::Worker;
use super::phase::{Closing, Draining, Phase};
use super::{Effect, End, Level, Millis};
use crate::record::{Committed, Held, Record};

impl RunMachine {
    /// Training: is there a reason to end the generation at the next step boundary?
    pub(super) fn consider_change(&mut self, now: Millis) {
        if let Some(reason) = self.stop.clone() {
            return self.drain(now, Boundary::Stop, reason);
        }
        let current = Some(self.generation);
        let stays = |w: &Worker| w.draining.is_none() && w.session.is_some();
        let bound = |w: &Worker| w.bound == current;
        let (members, largest) = (self.members.len(), self.largest as usize);
        if members > largest {
            let reason = format!("the run is scaled from {members} to {largest} workers");
            return self.drain(now, Boundary::Reconfigure, reason);
        }
        let room = members < largest;
        let spare = self
            .workers
            .iter()
            .find(|(_, w)| w.rankable() && stays(w))
            .filter(|_| room);
        let leaver = self
            .workers
            .iter()
            .find(|(_, w)| bound(w) && w.draining.is_some());
        let Some((leaver, worker)) = leaver else {
            if let Some((joiner, _)) = spare {
                let reason = format!("{joiner} joins");
                self.drain(now, Boundary::Reconfigure, reason);
            }
            return;
        };
        let why = worker.draining.clone().unwrap_or_default();
        let others_train = self
            .workers
            .values()
            .any(|w| bound(w) && w.draining.is_none());
        if others_train || spare.is_some() {
            let reason = format!("{} leaves: {why}", self.named(leaver));
            return self.drain(now, Boundary::Reconfigure, reason);
        }
        // A replacement that still prepares is worth training on for; otherwise save and stop.
        let prepares = |w: &Worker| stays(w) && w.ring_address.is_none();
        if !(room && self.workers.values().any(prepares)) {
            let reason = format!("the last worker, {leaver}, was asked to leave: {why}");
            self.stop = Some(reason.clone());
            self.drain(now, Boundary::Stop, reason);
        }
    }

    fn drain(&mut self, now: Millis, intent: Boundary, reason: String) {
        for id in self.bound_to(self.generation) {
            let drain = v1::Drain {
                intent: intent.into(),
                reason: reason.clone(),
            };
            self.send(&id, Body::Drain(drain));
        }
        self.enter_draining(now, intent, reason, BTreeMap::new());
    }

    pub(super) fn enter_draining(
        &mut self,
        now: Millis,
        intent: Boundary,
        reason: String,
        answers: BTreeMap<WorkerId, (Boundary, Option<Held>)>,
    ) {
        let deadline = now.after(self.config.timing.draining_ms);
        self.enter(
            Phase::Draining(Draining {
                intent,
                deadline,
                answers,
            }),
            reason,
        );
    }

    /// Every member has reported its boundary.
    pub(super) fn drained(&mut self, now: Millis) {
        let Phase::Draining(draining) = &mut self.phase else {
            return;
        };
        let (intent, answers) = (draining.intent, std::mem::take(&mut draining.answers));
        let agreed = |boundary| answers.values().all(|(b, _)| *b == boundary);
        let end: fn(Held) -> End = if agreed(Boundary::Finished) {
            End::Finished
        } else if agreed(Boundary::Stop) {
            End::Stopped
        } else if agreed(intent) {
            let generation = self.generation;
            return self.gather(
                now,
                format!("generation {generation} ended at a step boundary"),
            );
        } else {
            return self.gather(now, "the ranks ended at different boundaries".to_owned());
        };
        let mut states = answers.iter().map(|(id, (_, held))| (id, held.clone()));
        let Some((first, Some(state))) = states.next() else {
            return self.gather(now, "a rank ended without a state".to_owned());
        };
        if let Some((other, held)) = states.find(|(_, held)| held.as_ref() != Some(&state)) {
            let message = format!(
                "{} and {} ended generation {} with different states: {state:?} and {held:?}",
                self.named(first),
                self.named(other),
                self.generation
            );
            return self.fail(ErrorKind::Internal, message);
        }
        if self.checkpoints.saved(&state) == Saved::No {
            let reason = format!("parts of the state at step {} were not written", state.step);
            if let Some(why) = self.patience.lost(self.steps.highest(), &reason) {
                return self.fail(ErrorKind::Internal, why);
            }
            return self.gather(now, reason);
        }
        let reason = format!(
            "all ranks ended at step {}; the checkpoint is committed",
            state.step
        );
        self.close(end(state.clone()), state, reason);
    }

    /// Records the end once the state is saved.
    pub(super) fn close(&mut self, end: End, state: Held, reason: String) {
        self.newest = state.clone();
        self.enter(
            Phase::Closing(Closing {
                end,
                state,
                recording: false,
            }),
            reason,
        );
        self.record_end();
    }

    fn record_end(&mut self) {
        let Phase::Closing(closing) = &mut self.phase else {
            return;
        };
        if closing.recording || self.checkpoints.saved(&closing.state) == Saved::Committing {
            return;
        }
        closing.recording = true;
        let record = match &closing.end {
            End::Finished(state) => Record::Finished(state.clone()),
            End::Stopped(state) => Record::Stopped(state.clone()),
            // A failure closes nothing: see `fail`.
            End::Failed { .. } => return,
        };
        self.effects.push(Effect::Journal(record));
    }

    /// The last record is durable.
    pub(super) fn closed(&mut self) {
        let Phase::Closing(closing) = &self.phase else {
            return;
        };
        let (end, step) = (closing.end.clone(), closing.state.step);
        let (outcome, message) = match &end {
            End::Finished(_) => (
                Outcome::Finished,
                format!("the run is complete at step {step}"),
            ),
            _ => (
                Outcome::Stopped,
                format!("the run is stopped at step {step}; it can be resumed"),
            ),
        };
        self.end(end, outcome, message);
    }

    /// The run cannot go on.
    pub(super) fn fail(&mut self, kind: ErrorKind, message: String) {
        self.log(Level::Error, message.clone());
        let end = End::Failed {
            kind,
            message: message.clone(),
        };
        self.end(end, Outcome::Failed, message);
    }

    fn end(&mut self, end: End, outcome: Outcome, message: String) {
        self.dismiss(outcome, &message);
        self.enter(Phase::Ended(end.clone()), message);
        self.effects.push(Effect::End(end));
    }

    /// A checkpoint exists.
    pub(super) fn on_committed(&mut self, committed: Committed) {
        let event = v1::CheckpointCommitted {
            step: committed.state.step.0,
            digest: committed.state.digest.clone(),
            key: committed.manifest_key(),
            bytes: committed.bytes,
        };
        self.log(
            Level::Info,
            format!("the checkpoint of step {} is committed", event.step),
        );
        self.checkpoints.commit(committed);
        self.effects
            .push(Effect::Publish(v1::watch_run_response::Event::Checkpoint(
                event,
            )));
        let spec = &self.config.spec.checkpoint;
        for expired in self.checkpoints.expire(&self.lineage, spec) {
            self.effects.push(Effect::DeleteCheckpoint(expired.folder));
        }
        self.record_end();
    }
}
