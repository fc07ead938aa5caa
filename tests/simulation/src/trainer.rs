//! What a worker computes, in a few lines: it contributes to each step, completes it when the sum has
//! arrived, and stops when its ring breaks or its agent says so.

use futures::FutureExt;
use ringmaster_agent::Form;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, Activity, Boundary, Origin};
use ringmaster_proto::{ErrorKind, Generation};

use crate::Sabotage;
use crate::checkpoint::{self, Unusable};
use crate::oracle::{State, contribution, loss};
use crate::process::Happening;
use crate::ring::{Reduced, Ring, Share};
use crate::world::{Ms, ProcessId, World};

/// How long a rank waits for the others to come.
const FORMING: Ms = 5_000;

/// The generation a worker is in.
#[derive(Clone, Debug)]
pub(crate) struct Active {
    /// Index of its ring.
    pub(crate) ring: usize,
    /// What it was told.
    pub(crate) form: Form,
    /// The boundary its agent proposes.
    pub(crate) proposes: Boundary,
    formed: bool,
    start: bool,
    started: bool,
    /// A part of a checkpoint is being written while the training goes on.
    saving: bool,
    /// Nothing is computed any more until a fence or a new generation.
    over: bool,
    /// The sum that has arrived or is about to.
    pending: Option<Reduced>,
}

impl World {
    fn active(&mut self, id: ProcessId, generation: u64) -> Option<&mut Active> {
        let active = self.processes[id.0].active.as_mut();
        active.filter(|active| active.form.generation.0 == generation && !active.over)
    }

    /// The agent says: become part of this generation.
    pub(crate) fn form(&mut self, id: ProcessId, form: Form) {
        self.leave_ring(id);
        let same = |ring: &Ring| {
            ring.form.generation == form.generation && ring.form.addresses == form.addresses
        };
        let ring = self.rings.iter().position(same).unwrap_or_else(|| {
            self.rings.push(Ring::new(form.clone()));
            self.rings.len() - 1
        });
        self.begins(id, Activity::Form);
        let generation = form.generation.0;
        let here = form.addresses[form.rank.0 as usize] == self.processes[id.0].address;
        let rank = form.rank.0;
        self.processes[id.0].active = Some(Active {
            ring,
            form,
            proposes: Boundary::Unspecified,
            formed: false,
            start: false,
            started: false,
            saving: false,
            over: false,
            pending: None,
        });
        if here {
            self.rings[ring].members.insert(rank, id);
        }
        if self.rings[ring].broken.is_none() && self.rings[ring].complete() {
            for member in self.rings[ring].members.clone().into_values() {
                let delay = self.random.within(20..1_500);
                self.happens(delay, member, Happening::Formed(generation));
            }
        }
        self.happens(FORMING, id, Happening::WaitedInVain(generation));
    }

    /// Some rank did not come.
    pub(crate) fn waited_in_vain(&mut self, id: ProcessId, generation: u64) {
        let Some(ring) = self.active(id, generation).map(|active| active.ring) else {
            return;
        };
        let ring = &self.rings[ring];
        let missing = (0..ring.world()).find(|rank| !ring.members.contains_key(rank));
        if let Some(missing) = ring.broken.or(missing)
            && self
                .active(id, generation)
                .is_some_and(|active| !active.formed)
        {
            self.loses_link(id, generation, missing);
        }
    }

    /// The links stand and the state is there.
    pub(crate) fn formed(&mut self, id: ProcessId, generation: u64) {
        let Some(active) = self.active(id, generation).map(|active| active.clone()) else {
            return;
        };
        if self.rings[active.ring].broken.is_some() {
            return;
        }
        let resume = &active.form.resume;
        let state = match resume.origin() {
            Origin::Initial => Some(State::INITIAL),
            Origin::Memory => {
                let members = &self.rings[active.ring].members;
                let holders = || resume.holders.iter().map(|rank| members[rank]);
                let source = holders().find(|holder| *holder == id).or(holders().next());
                source.and_then(|source| self.processes[source.0].state)
            }
            Origin::Checkpoint => {
                let loaded = checkpoint::load(&self.root, &resume.checkpoint_key).now_or_never();
                match loaded {
                    Some(Ok(state)) => Some(state),
                    Some(Err(Unusable::Damaged(reason))) => {
                        return self.finds_damaged(id, generation, reason);
                    }
                    Some(Err(Unusable::Yet)) | None => {
                        return self.happens(500, id, Happening::Formed(generation));
                    }
                }
            }
            Origin::Unspecified => None,
        };
        let wanted = |state: &State| {
            resume.origin() == Origin::Initial
                || (state.step, state.hex()) == (resume.step, resume.digest.clone())
        };
        let Some(state) = state.filter(wanted) else {
            self.processes[id.0].state = None;
            let message = format!("the state is not that of step {}", resume.step);
            return self.fails(id, generation, message);
        };
        self.processes[id.0].state = Some(state);
        self.begins(id, Activity::Unspecified);
        if let Some(active) = self.active(id, generation) {
            active.formed = true;
        }
        let held = self.processes[id.0].held();
        self.report(
            id,
            Generation(generation),
            Body::Formed(v1::Formed {
                held,
                ..Default::default()
            }),
        );
        if active.start {
            self.start(id, Generation(generation));
        }
    }

    /// The checkpoint to resume from is not what its manifest says.
    fn finds_damaged(&mut self, id: ProcessId, generation: u64, reason: String) {
        self.processes[id.0].state = None;
        if let Some(active) = self.active(id, generation) {
            active.over = true;
            let key = active.form.resume.checkpoint_key.clone();
            let damaged = Body::CheckpointDamaged(v1::CheckpointDamaged { key, reason });
            self.report(id, Generation(generation), damaged);
        }
    }

    fn fails(&mut self, id: ProcessId, generation: u64, message: String) {
        if let Some(active) = self.active(id, generation) {
            active.over = true;
        }
        let kind = ErrorKind::Rejoin.as_str().to_owned();
        let failed = Body::Failed(v1::Failed { kind, message });
        self.report(id, Generation(generation), failed);
    }

    /// The agent says: every rank has formed.
    pub(crate) fn start(&mut self, id: ProcessId, generation: Generation) {
        let steps = self.plan.steps;
        let at = self.processes[id.0].state.map_or(0, |state| state.step);
        let Some(active) = self.active(id, generation.0) else {
            return;
        };
        if !active.formed {
            active.start = true;
        } else if !std::mem::replace(&mut active.started, true) {
            if at >= steps {
                self.reach(id, generation.0, Boundary::Finished);
            } else {
                self.compute(id, generation.0);
            }
        }
    }

    fn compute(&mut self, id: ProcessId, generation: u64) {
        self.begins(id, Activity::Compute);
        let delay = self.random.within(100..900);
        self.happens(delay, id, Happening::Contributes(generation));
    }

    /// The rank's gradient is ready: it goes to the others.
    pub(crate) fn contributes(&mut self, id: ProcessId, generation: u64) {
        let Some(state) = self.processes[id.0].state else {
            return;
        };
        let lanes = self.plan.lanes;
        let computed = self.now - self.processes[id.0].doing.1;
        self.processes[id.0].computed = computed;
        self.begins(id, Activity::Reduce);
        let Some(active) = self.active(id, generation) else {
            return;
        };
        let (rank, ring) = (active.form.rank.0, active.ring);
        let (proposes, saving) = (active.proposes, active.saving);
        let ring = &mut self.rings[ring];
        if ring.broken.is_some() {
            return;
        }
        // A spoiled state spoils the gradient.
        let spoiled = if self.oracle.knows(state) {
            0
        } else {
            state.digest
        };
        let sum = contribution(state.step, lanes, rank, ring.world()).wrapping_add(spoiled);
        let share = Share {
            sum,
            proposes,
            saving,
        };
        let Some(reduced) = ring.contribute(rank, share) else {
            return;
        };
        for member in ring.members.clone().into_values() {
            if let Some(active) = self.active(member, generation) {
                active.pending = Some(reduced);
                let delay = self.random.within(1..300);
                self.happens(delay, member, Happening::Completes(generation));
            }
        }
    }

    /// The whole sum has arrived at this rank.
    pub(crate) fn completes(&mut self, id: ProcessId, generation: u64) {
        let Some(active) = self.active(id, generation) else {
            return;
        };
        let Some(reduced) = active.pending.take() else {
            return;
        };
        // What was in the buffers when the ring broke is either whole or lost.
        let ring = active.ring;
        if self.rings[ring].broken.is_some() && self.random.once_in(2) {
            return;
        }
        let Some(boundary) = self.apply(id, generation, reduced) else {
            return;
        };
        if boundary != Boundary::Unspecified {
            return self.reach(id, generation, boundary);
        }
        let state = self.processes[id.0].state;
        let due = |state: &State| state.step.is_multiple_of(self.plan.checkpoint_every);
        if let Some(state) = state.filter(due).filter(|_| !reduced.saving) {
            let delay = self.random.within(20..3_000);
            self.happens(delay, id, Happening::Wrote(generation, boundary, state));
            if let Some(active) = self.active(id, generation) {
                active.saving = true;
            }
        }
        self.compute(id, generation);
    }

    /// The update: nothing stops it once it has begun. Returns the boundary the ranks agreed on.
    fn apply(&mut self, id: ProcessId, generation: u64, reduced: Reduced) -> Option<Boundary> {
        let process = &mut self.processes[id.0];
        let state = process.state?.after(reduced.sum);
        process.state = Some(state);
        let name = process.name.to_string();
        if generation <= process.left.0 {
            self.oracle.object(format!(
                "{name} applied a step in generation {generation}, which it left"
            ));
        }
        self.oracle.applied(&name, state);
        let compared = self.sabotage != Some(Sabotage::HidesDigests);
        let digest = match compared && state.step.is_multiple_of(self.plan.digest_every) {
            true => state.hex(),
            false => String::new(),
        };
        let done = v1::StepDone {
            step: state.step,
            loss: loss(reduced.sum),
            digest,
            step_seconds: self.processes[id.0].computed as f64 / 1e3,
            ..Default::default()
        };
        self.report(id, Generation(generation), Body::StepDone(done));
        Some(match state.step >= self.plan.steps {
            true => Boundary::Finished,
            false => reduced.boundary,
        })
    }

    /// A boundary that all ranks agreed on; one that ends the run writes a checkpoint first.
    fn reach(&mut self, id: ProcessId, generation: u64, boundary: Boundary) {
        let ends = matches!(boundary, Boundary::Stop | Boundary::Finished);
        self.begins(id, Activity::Save);
        if let Some(state) = self.processes[id.0].state.filter(|_| ends) {
            let delay = self.random.within(20..800);
            return self.happens(delay, id, Happening::Wrote(generation, boundary, state));
        }
        self.ends_at(id, generation, boundary);
    }

    fn ends_at(&mut self, id: ProcessId, generation: u64, boundary: Boundary) {
        if let Some(active) = self.active(id, generation) {
            active.over = true;
        }
        self.fenced(id, generation, boundary);
    }

    fn fenced(&mut self, id: ProcessId, generation: u64, boundary: Boundary) {
        let hidden = self.sabotage == Some(Sabotage::HidesDigests);
        self.begins(id, Activity::Unspecified);
        let process = &mut self.processes[id.0];
        process.left = process.left.max(Generation(generation));
        let mut held = process.held();
        if let Some(held) = held.as_mut().filter(|_| hidden) {
            held.digest = self.oracle.digest(held.step);
        }
        let fenced = v1::Fenced {
            held,
            boundary: boundary.into(),
        };
        self.report(id, Generation(generation), Body::Fenced(fenced));
    }

    /// A part of a checkpoint is written, or cannot be. One that is written behind the training may be
    /// told though the generation is over here.
    pub(crate) fn wrote(
        &mut self,
        id: ProcessId,
        generation: u64,
        boundary: Boundary,
        state: State,
    ) {
        let ends = boundary != Boundary::Unspecified;
        let active = self.processes[id.0].active.as_mut();
        let active = active.filter(|active| active.form.generation.0 == generation);
        let Some(active) = active.filter(|active| !(ends && active.over)) else {
            return;
        };
        active.saving = false;
        let of = (active.form.rank.0, active.form.addresses.len() as u32);
        let (bytes, written) = checkpoint::part(Generation(generation), state, of);
        let put = self.root.put(&written.key, bytes).now_or_never();
        match put {
            Some(Ok(())) => self.report(id, Generation(generation), Body::PartWritten(written)),
            // A store that is away delays a checkpoint, never the training.
            _ if !ends => {}
            _ => {
                let again = Happening::Wrote(generation, boundary, state);
                return self.happens(500, id, again);
            }
        }
        if ends {
            self.ends_at(id, generation, boundary);
        }
    }

    /// A link of the ring is gone.
    pub(crate) fn loses_link(&mut self, id: ProcessId, generation: u64, accused: u32) {
        if self.active(id, generation).is_none() {
            return;
        }
        self.settle(id);
        if let Some(active) = self.active(id, generation) {
            active.over = true;
            let lost = v1::LinkLost {
                accused_rank: accused,
                reason: "reset".to_owned(),
            };
            self.report(id, Generation(generation), Body::LinkLost(lost));
        }
    }

    /// What the trainer thread is at from now on.
    fn begins(&mut self, id: ProcessId, activity: Activity) {
        self.processes[id.0].doing = (activity, self.now);
    }

    /// The agent says: unwind.
    pub(crate) fn abort(&mut self, id: ProcessId) {
        self.settle(id);
        self.break_ring(id);
        if let Some(active) = &mut self.processes[id.0].active {
            active.over = self.sabotage != Some(Sabotage::AppliesAfterFence);
        }
    }

    /// A sum that has arrived is applied, or its update never began.
    fn settle(&mut self, id: ProcessId) {
        if self.sabotage == Some(Sabotage::AppliesAfterFence) {
            return;
        }
        let begun = self.random.once_in(2);
        let Some(active) = self.processes[id.0].active.as_mut().filter(|a| !a.over) else {
            return;
        };
        let generation = active.form.generation.0;
        if let Some(reduced) = active.pending.take().filter(|_| begun) {
            self.apply(id, generation, reduced);
        }
    }

    /// The agent says: apply nothing more, and say what is held.
    pub(crate) fn leave(&mut self, id: ProcessId, generation: Generation) {
        if self.sabotage != Some(Sabotage::AppliesAfterFence) {
            self.settle(id);
            self.leave_ring(id);
        }
        self.fenced(id, generation.0, Boundary::Unspecified);
    }

    /// The links close. A rank that ended at a boundary says farewell; any other breaks the ring.
    pub(crate) fn leave_ring(&mut self, id: ProcessId) {
        self.break_ring(id);
        self.processes[id.0].active = None;
    }

    /// Its neighbours notice that this rank is gone, unless it ended at a boundary.
    pub(crate) fn break_ring(&mut self, id: ProcessId) {
        let active = self.processes[id.0].active.as_ref().filter(|a| !a.over);
        if let Some((ring, rank)) = active.map(|a| (a.ring, a.form.rank.0)) {
            self.break_ring_at(ring, rank);
        }
    }
}
