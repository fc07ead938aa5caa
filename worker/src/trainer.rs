//! The training step: one function you can read aloud, and what it stands on.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32};
use std::time::Instant;

use burn::tensor::Device;
use ringmaster_dataset::{Form, Plan};
use ringmaster_model::Model;
use ringmaster_model::flat::{self, Layout};
use ringmaster_proto::RunSpec;
use ringmaster_proto::v1::{Activity, Boundary, StepDone};
use ringmaster_ring::{Abort, Ring};

use crate::WorkerError;
use crate::batch;
use crate::doing::Doing;
use crate::engine::{Collective, Engine, Work};
use crate::feeder::{Feeder, StepInput};
use crate::objective::Objective;
use crate::optimizer::{self, State};
use crate::quarantine;
use crate::sampling::Rule;
use crate::statistics::Statistics;
use crate::tax::Tax;

/// A model, its state and the buffers of its gradients: all a rank needs besides a ring and data.
pub(crate) struct Trainer {
    spec: Arc<RunSpec>,
    total_steps: u64,
    rule: Rule,
    device: Device,
    pub(crate) layout: Layout,
    pub(crate) model: Model,
    /// Its vectors are those of the engine only after [`Trainer::state`].
    state: State,
    engine: Engine,
}

/// What a rank is part of for one generation.
pub(crate) struct Membership {
    /// Ends before the ring does.
    pub(crate) collective: Collective,
    pub(crate) ring: Ring,
    pub(crate) abort: Abort,
    /// The [`Boundary`] the coordinator asked for, 0 for none.
    pub(crate) drain: Arc<AtomicI32>,
    /// Whether this rank still writes its part of an earlier checkpoint.
    pub(crate) saving: Arc<AtomicBool>,
    /// Whether this rank wants a checkpoint after the next step.
    pub(crate) save: bool,
    /// Where the coordinator reads what this rank is at.
    pub(crate) doing: Doing,
    pub(crate) tax: Arc<Tax>,
}

/// What the ranks agree on after a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreed {
    /// Where they end, if they do.
    pub(crate) boundary: Boundary,
    /// Somebody still writes a part of an earlier checkpoint, so none begins here.
    pub(crate) saving: bool,
    /// Somebody wants a checkpoint here.
    pub(crate) save: bool,
}

impl Trainer {
    /// A trainer at the state before the first step.
    pub(crate) fn new(spec: Arc<RunSpec>, total_steps: u64, device: &Device) -> Self {
        let device = device.clone().autodiff();
        let model = Model::new(&spec.model, spec.run.seed, &device);
        let layout = flat::layout(&model);
        let rule = Rule::new(&spec.tasks, total_steps);
        let engine = Engine::new(&layout, &spec.train, spec.data.lanes, &device);
        let parameters = flat::parameters(&model, &layout);
        let mut trainer = Self {
            spec,
            total_steps,
            rule,
            device,
            layout,
            model,
            state: State::blank(0),
            engine,
        };
        trainer.start_from(parameters);
        trainer
    }

    /// The form in which it takes pictures.
    pub(crate) fn form(&self) -> Form {
        batch::form(&self.device)
    }

    /// Goes back to the state before the first step.
    pub(crate) fn restart(&mut self) {
        let model = Model::new(&self.spec.model, self.spec.run.seed, &self.device);
        self.start_from(flat::parameters(&model, &self.layout));
    }

    /// Goes to the state before the first step of a run that starts from `parameters`.
    pub(crate) fn start_from(&mut self, parameters: Vec<f32>) {
        let state = State::initial(parameters, &self.rule, &self.spec.train);
        self.adopt(state);
    }

    /// Puts `state` in place of the current one.
    pub(crate) fn adopt(&mut self, state: State) {
        let model = self.model.clone();
        self.model = self.engine.adopt(model, &self.layout, &state);
        self.state = state;
    }

    /// What the ranks of a ring sum their gradients with; all of them call it once.
    pub(crate) fn join(&self, ring: &mut Ring) -> Result<Collective, WorkerError> {
        self.engine.join(ring)
    }

    /// Size of a whole state.
    pub(crate) fn state_bytes(&self) -> u64 {
        let vectors = self.state.vectors();
        vectors
            .iter()
            .map(|(_, values)| size_of_val(*values) as u64)
            .sum()
    }

    /// Steps consumed.
    pub(crate) fn step_count(&self) -> u64 {
        self.state.step
    }

    /// The whole state, in host memory, and its layout.
    pub(crate) fn state(&mut self) -> Result<(&State, &Layout), WorkerError> {
        self.engine.pull(&self.layout, &mut self.state)?;
        Ok((&self.state, &self.layout))
    }

    /// The model that evaluation sees.
    pub(crate) fn evaluated_model(&mut self) -> Result<Model, WorkerError> {
        let model = self.model.clone();
        if self.state.ema.is_none() {
            return Ok(model);
        }
        let ema = self.state()?.0.evaluated().to_vec();
        Ok(flat::with_parameters(model, &self.layout, &ema))
    }

    /// One optimizer step: fetch; the gradient (per owned lane forward, backward, convert,
    /// accumulate; the average over all ranks, in part while the last lane still computes); norm,
    /// clip, update; advance the cursor; report.
    ///
    /// No parameter changes before the last bucket and the statistics have arrived, and no error can
    /// come after the first one has changed.
    pub(crate) fn step(
        &mut self,
        feeder: &mut Feeder,
        member: &mut Membership,
    ) -> Result<(StepDone, Agreed), WorkerError> {
        let started = Instant::now();
        member.doing.begin(Activity::Data, self.state.step);
        let probabilities = self.state.sampling.probabilities();
        let input = feeder.next(&probabilities, &member.abort)?;
        let data_seconds = started.elapsed().as_secs_f64();
        let (done, agreed) = self.learn(&input, member)?;
        let done = StepDone {
            data_seconds,
            step_seconds: started.elapsed().as_secs_f64(),
            ..done
        };
        Ok((done, agreed))
    }

    /// The step from its input on.
    fn learn(
        &mut self,
        input: &StepInput,
        member: &mut Membership,
    ) -> Result<(StepDone, Agreed), WorkerError> {
        let step = self.state.step;
        debug_assert_eq!(input.step.0, step);
        let probabilities = self.state.sampling.probabilities();
        let work = Work {
            spec: &self.spec,
            device: &self.device,
            model: &self.model,
            layout: &self.layout,
            step,
            lanes: &input.lanes,
            asked: &member.drain,
            saving: &member.saving,
            save: member.save,
            doing: &member.doing,
        };
        member.doing.begin(Activity::Compute, step);
        let (collective, ring) = (&mut member.collective, &mut member.ring);
        let arriving = ring.arriving();
        let gradient = (self.engine).gradient(&work, input.statistics, collective, ring);
        let (all, seconds) = gradient?;
        let slots = (step, self.spec.global_batch());
        let quarantined = quarantine::of_all_ranks(&input.refused, all.bad_rows, slots, ring)?;

        let started = Instant::now();
        member.doing.begin(Activity::Update, step);
        let lr = optimizer::learning_rate(step, self.total_steps, &self.spec.train);
        let skipped = all.bad_values > 0 || all.all_tokens() == 0;
        let norm = self.update(skipped, lr)?;
        let optimizer_seconds = started.elapsed().as_secs_f64();
        self.advance(&all, skipped);
        let agreed = Agreed {
            boundary: self.boundary(all),
            saving: all.saving > 0,
            save: all.save > 0,
        };

        let done = StepDone {
            step: self.state.step,
            loss: all.mean_loss(),
            tokens: all.all_tokens().cast_unsigned(),
            rows: all.rows.cast_unsigned(),
            row_hash: all.row_hash.cast_unsigned(),
            grad_norm: norm,
            lr,
            skipped,
            bad_rows: all.bad_rows.cast_unsigned(),
            digest: self.digest_if_due(&member.tax)?,
            own_rows: input.statistics.rows.cast_unsigned(),
            compute_seconds: seconds.compute,
            reduce_seconds: seconds.reduce,
            exposed_seconds: seconds.exposed,
            link_seconds: (member.ring.arriving() - arriving).as_secs_f64(),
            optimizer_seconds,
            objectives: all.by_objective(&probabilities),
            quarantined,
            ..StepDone::default()
        };
        Ok((done, agreed))
    }

    /// Whether more rows were refused than the run tolerates. Refused rows are counted by all ranks
    /// together and once per epoch, so every world comes to the same answer at the same step.
    pub(crate) fn check_bad_rows(&self, plan: &Plan) -> Result<(), WorkerError> {
        let (bad, limit) = (self.state.bad_rows, self.spec.data.max_bad_fraction);
        // An epoch that has begun counts whole: early rows would otherwise decide alone.
        let epochs = self.state.step.div_ceil(plan.steps_per_epoch()).max(1);
        let rows = plan.rows_per_epoch() * epochs;
        if bad as f64 > limit * rows as f64 {
            return Err(WorkerError::BadRows { bad, rows, limit });
        }
        Ok(())
    }

    /// Clips and applies the reduced gradient; returns its norm before clipping.
    fn update(&mut self, skipped: bool, lr: f64) -> Result<f64, WorkerError> {
        if skipped {
            return Ok(0.0);
        }
        let norm = self.engine.norm()?;
        let scale = optimizer::clip_scale(norm, self.spec.train.clip);
        let (model, train) = (self.model.clone(), &self.spec.train);
        let (layout, state) = (&self.layout, &mut self.state);
        self.model = self.engine.update(model, layout, state, (scale, lr), train);
        Ok(norm)
    }

    /// Moves the state past the step's rows; what a skipped step came to teaches nothing.
    fn advance(&mut self, all: &Statistics, skipped: bool) {
        let state = &mut self.state;
        state.step += 1;
        state.bad_rows += all.bad_rows.cast_unsigned();
        let losses = if skipped {
            [None; Objective::COUNT]
        } else {
            all.losses()
        };
        state.sampling.after_step(state.step, losses, &self.rule);
    }

    /// Where the ranks agree to end, decided by reduced values only.
    fn boundary(&self, all: Statistics) -> Boundary {
        if self.state.step >= self.total_steps {
            Boundary::Finished
        } else if all.stop > 0 {
            Boundary::Stop
        } else if all.reconfigure > 0 {
            Boundary::Reconfigure
        } else {
            Boundary::Unspecified
        }
    }

    fn digest_if_due(&mut self, tax: &Tax) -> Result<String, WorkerError> {
        let every = self.spec.train.digest_every;
        if every == 0 || !self.state.step.is_multiple_of(every) {
            return Ok(String::new());
        }
        let began = Instant::now();
        let (state, layout) = self.state()?;
        let digest = state.digest(layout);
        tax.digest(began.elapsed());
        Ok(digest)
    }
}
