//! A new coordinator and a ring that trains alone: the members of the last recorded generation are
//! left in it, as long as every one of them turns out to stand there.
//!
//! Until it attends, a member is one without a stream whose lease is fresh. It stands where it says
//! it stands; one that says otherwise, or says nothing until its lease ends, ends the generation
//! with a fence like any other loss.

use std::collections::BTreeSet;

use ringmaster_proto::v1::{Hello, Standing};
use ringmaster_proto::{Generation, Step, Term, WorkerId};

use super::machine::RunMachine;
use super::membership::Worker;
use super::phase::{Adopting, Phase};
use super::{Effect, Level, Millis, Session};
use crate::record::GenerationRecord;

/// The newest step of the generation in force, and when the ring was last seen to move: every rank
/// takes part in every step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    highest: u64,
    moved: Option<Millis>,
}

impl Pace {
    /// A ring that starts at `step`.
    pub(super) fn from(step: Step) -> Self {
        Self {
            highest: step.0,
            moved: None,
        }
    }

    /// A member holds `step`; when it got there is not known.
    fn stands_at(&mut self, step: u64) {
        self.highest = self.highest.max(step);
    }

    /// A member completed `step`. Whether that is news of the whole ring.
    pub(super) fn completed(&mut self, now: Millis, step: u64) -> bool {
        let moved = step > self.highest;
        if moved {
            *self = Self {
                highest: step,
                moved: Some(now),
            };
        }
        moved
    }

    /// Whether the ring moved within the last `milliseconds`.
    pub(super) fn moves(&self, now: Millis, milliseconds: u64) -> bool {
        self.moved
            .is_some_and(|moved| now < moved.after(milliseconds))
    }
}

impl RunMachine {
    /// Takes the generation of an earlier coordinator as it is.
    pub(super) fn adopt(&mut self, record: GenerationRecord) {
        let now = Millis(0);
        for id in &record.members {
            self.attended += 1;
            let mut worker = Worker::new(self.attended, now);
            worker.bound = Some(record.generation);
            worker.awaited = true;
            self.workers.insert(id.clone(), worker);
        }
        self.began = true;
        self.generation = record.generation;
        self.members = record.members;
        self.pace = Pace::from(record.resume.step);
        self.reason = format!(
            "the {} workers of generation {} may still train; waiting for them",
            self.members.len(),
            self.generation
        );
        self.phase = Phase::Adopting(Adopting {
            deadline: now.after(self.config.timing.forming_ms),
            formed: BTreeSet::new(),
        });
    }

    /// A worker has heard of a newer coordinator, so it would refuse whatever this one says. Whether
    /// there is one is for the journal to say: the worker may be left over from a run that was
    /// started afresh.
    pub(super) fn doubt(&mut self, id: &WorkerId, session: Session, term: Term) {
        let text = format!("{id} has heard of a coordinator with term {term}; it is sent away");
        self.log(Level::Warn, text);
        self.effects.push(Effect::Close(session));
        self.confirm_office();
    }

    /// Asks the journal whether there is a newer coordinator.
    pub(super) fn confirm_office(&mut self) {
        if !std::mem::replace(&mut self.confirming, true) {
            self.effects.push(Effect::ConfirmOffice);
        }
    }

    /// Whether whoever attends as a member of the present generation is that member, and not a later
    /// process of its name. One that this coordinator has never seen must say that it stands in the
    /// generation, and while it is adopted, that its part of the ring is whole.
    pub(super) fn is_that_member(&self, id: &WorkerId, hello: &Hello) -> bool {
        let Some(worker) = self.workers.get(id) else {
            return false;
        };
        let adopting = matches!(self.phase, Phase::Adopting(_));
        let stands = |standing: &Standing| {
            Generation(standing.generation) == self.generation && (standing.in_ring || !adopting)
        };
        match worker.awaited {
            true => hello.standing.as_ref().is_some_and(stands),
            false => worker.incarnation == hello.incarnation,
        }
    }

    /// A member of the adopted generation stands in its ring.
    pub(super) fn on_standing(&mut self, now: Millis, id: &WorkerId, standing: &Standing) {
        self.pace.stands_at(standing.step);
        if standing.formed {
            return self.adopt_formed(now, id);
        }
        // It may still be getting its state.
        let by = now.after(self.forming_with(standing.state_bytes));
        if let Phase::Adopting(adopting) = &mut self.phase {
            adopting.deadline = adopting.deadline.max(by);
        }
    }

    /// A member of the adopted generation has formed. When all have, they train, or may start.
    pub(super) fn adopt_formed(&mut self, now: Millis, id: &WorkerId) {
        let Phase::Adopting(adopting) = &mut self.phase else {
            return;
        };
        adopting.formed.insert(id.clone());
        if adopting.formed.len() == self.members.len() {
            self.adopted(now);
        }
    }

    /// The generation trains.
    pub(super) fn adopted(&mut self, now: Millis) {
        let (generation, members) = (self.generation, self.members.len());
        self.start(
            now,
            format!("the {members} workers of generation {generation} train on"),
        );
    }

    /// Some member attended and never formed.
    pub(super) fn adoption_is_late(&mut self, now: Millis) {
        let generation = self.generation;
        let reason =
            format!("not every member of generation {generation} was seen in its ring in time");
        self.fence(now, reason, "adoption");
    }
}
