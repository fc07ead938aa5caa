//! The training step: one function you can read aloud, and what it stands on.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use ringmaster_model::flat::{self, Layout};
use ringmaster_model::{Model, NoiseKey, Ops};
use ringmaster_proto::spec::Reduction;
use ringmaster_proto::v1::{Boundary, StepDone};
use ringmaster_proto::{RunSpec, Step};
use ringmaster_ring::{Abort, Ring, Tag, fixed};

use crate::WorkerError;
use crate::batch;
use crate::feeder::{Feeder, MicroBatch, StepInput};
use crate::objective::Objective;
use crate::optimizer::{self, State};
use crate::sampling::Rule;
use crate::statistics::Statistics;

/// Bucket number of the statistics in the ring's frames.
const STATISTICS: u32 = u32::MAX - 1;

/// A model, its state and the buffers of its gradients: all a rank needs besides a ring and data.
pub(crate) struct Trainer {
    spec: Arc<RunSpec>,
    total_steps: u64,
    rule: Rule,
    device: Device,
    pub(crate) layout: Layout,
    pub(crate) model: Model,
    pub(crate) state: State,
    gradients: Gradients,
}

/// Reused from step to step.
struct Gradients {
    /// One microbatch's, as the backward pass gives it.
    lane: Vec<f32>,
    /// Fixed-point sum over the owned lanes; empty unless the reduction is `exact`.
    exact: Vec<i64>,
    /// The reduced average; during an f32 or bf16 step, first the sum over the owned lanes.
    reduced: Vec<f32>,
}

/// What a rank is part of for one generation.
pub(crate) struct Membership {
    pub(crate) ring: Ring,
    pub(crate) abort: Abort,
    /// The [`Boundary`] the coordinator asked for, 0 for none.
    pub(crate) drain: Arc<AtomicI32>,
}

/// Seconds of one step by phase.
#[derive(Default)]
struct Clock {
    data: f64,
    compute: f64,
    reduce: f64,
    optimizer: f64,
}

impl Trainer {
    /// A trainer at the state before the first step.
    pub(crate) fn new(spec: Arc<RunSpec>, total_steps: u64, device: &Device) -> Self {
        let device = device.clone().autodiff();
        let model = Model::new(&spec.model, spec.run.seed, &device);
        let layout = flat::layout(&model);
        let rule = Rule::new(&spec.tasks, total_steps);
        let state = State::initial(flat::parameters(&model, &layout), &rule, &spec.train);
        let exact = if spec.train.reduction == Reduction::Exact {
            layout.total
        } else {
            0
        };
        let gradients = Gradients {
            lane: vec![0.0; layout.total],
            exact: vec![0; exact],
            reduced: vec![0.0; layout.total],
        };
        Self {
            spec,
            total_steps,
            rule,
            device,
            layout,
            model,
            state,
            gradients,
        }
    }

    /// Goes back to the state before the first step.
    pub(crate) fn restart(&mut self) {
        self.model = Model::new(&self.spec.model, self.spec.run.seed, &self.device);
        let parameters = flat::parameters(&self.model, &self.layout);
        self.state = State::initial(parameters, &self.rule, &self.spec.train);
    }

    /// Goes to the state before the first step of a run that starts from `parameters`.
    pub(crate) fn start_from(&mut self, parameters: Vec<f32>) {
        let state = State::initial(parameters, &self.rule, &self.spec.train);
        self.adopt(state);
    }

    /// Puts `state` in place of the current one.
    pub(crate) fn adopt(&mut self, state: State) {
        self.state = state;
        self.load_parameters();
    }

    /// The model that evaluation sees.
    pub(crate) fn evaluated_model(&self) -> Model {
        let model = self.model.clone();
        match &self.state.ema {
            Some(ema) => flat::with_parameters(model, &self.layout, ema),
            None => model,
        }
    }

    /// One optimizer step: fetch; per owned lane forward, backward, convert, accumulate;
    /// all-reduce; norm, clip, update; advance the cursor; report.
    ///
    /// No parameter changes before the last bucket has arrived, and no error can come after the
    /// first one has changed.
    pub(crate) fn step(
        &mut self,
        feeder: &mut Feeder,
        member: &mut Membership,
    ) -> Result<(StepDone, Boundary), WorkerError> {
        let started = Instant::now();
        let mut clock = Clock::default();

        let probabilities = self.state.sampling.probabilities();
        let StepInput {
            step,
            lanes,
            mut statistics,
        } = timed(&mut clock.data, || {
            feeder.next(&probabilities, &member.abort)
        })?;
        debug_assert_eq!(step.0, self.state.step);
        let own_rows = statistics.rows;
        timed(&mut clock.compute, || {
            self.gradients.clear();
            lanes.iter().try_for_each(|(objective, lane)| {
                self.accumulate(*objective, lane, &mut statistics)
            })
        })?;

        vote(&mut statistics, member.drain.load(Ordering::Acquire));
        let all = timed(&mut clock.reduce, || {
            self.all_reduce(step, statistics, &mut member.ring)
        })?;

        let lr = optimizer::learning_rate(step.0, self.total_steps, &self.spec.train);
        let skipped = all.bad_values > 0 || all.all_tokens() == 0;
        let norm = timed(&mut clock.optimizer, || self.update(skipped, lr));
        self.advance(&all, skipped);
        let boundary = self.boundary(all);

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
            digest: self.digest_if_due(),
            own_rows: own_rows.cast_unsigned(),
            data_seconds: clock.data,
            compute_seconds: clock.compute,
            reduce_seconds: clock.reduce,
            optimizer_seconds: clock.optimizer,
            step_seconds: started.elapsed().as_secs_f64(),
            objectives: all.by_objective(&probabilities),
        };
        Ok((done, boundary))
    }

    /// Whether more rows were refused than the run tolerates of a corpus of `rows` rows.
    pub(crate) fn check_bad_rows(&self, rows: u64) -> Result<(), WorkerError> {
        let (bad, limit) = (self.state.bad_rows, self.spec.data.max_bad_fraction);
        let seen = self.state.step * self.spec.global_batch();
        // A pass that has begun counts whole: early rows would otherwise decide alone.
        let passes = seen.div_ceil(rows.max(1)).max(1);
        if bad as f64 > limit * (rows * passes) as f64 {
            return Err(WorkerError::BadRows { bad, limit });
        }
        Ok(())
    }

    /// Forward and backward of one microbatch on the *sum* of its token losses; converts the
    /// gradient and adds it to the owned lanes' sum.
    fn accumulate(
        &mut self,
        objective: Objective,
        lane: &MicroBatch,
        statistics: &mut Statistics,
    ) -> Result<(), WorkerError> {
        let batch = batch::on_device(lane, &self.spec.model, &self.device);
        let noise = NoiseKey {
            seed: self.spec.run.seed,
            step: self.state.step,
            lane: lane.lane,
        };
        let train = &self.spec.train;
        let loss = self.model.forward_backward(
            batch,
            train.label_smoothing,
            Ops::training(train, noise),
            &self.layout,
            &mut self.gradients.lane,
        );
        statistics.add_loss(objective, batch::scalar(loss)?, lane.tokens.counted());
        let bad = self.gradients.add_lane(self.spec.data.lanes);
        statistics.bad_values = statistics.bad_values.saturating_add_unsigned(bad);
        Ok(())
    }

    /// Statistics first, since the average needs the token count; then every bucket.
    fn all_reduce(
        &mut self,
        step: Step,
        own: Statistics,
        ring: &mut Ring,
    ) -> Result<Statistics, WorkerError> {
        let mut vector = own.to_vector();
        ring.all_reduce_i64(Tag::new(step.0, STATISTICS), &mut vector)?;
        let all = Statistics::from_vector(&vector);
        let tokens = all.all_tokens() as f64;
        if all.bad_values > 0 || tokens == 0.0 {
            return Ok(all);
        }
        let bucket_len = (self.spec.train.bucket_mib as usize) << 18;
        let Gradients { exact, reduced, .. } = &mut self.gradients;
        let reduction = self.spec.train.reduction;
        for (number, start) in (0..self.layout.total).step_by(bucket_len).enumerate() {
            let range = start..(start + bucket_len).min(self.layout.total);
            let tag = Tag::new(step.0, number as u32);
            let out = &mut reduced[range.clone()];
            match reduction {
                Reduction::Exact => ring.all_reduce_exact(tag, &mut exact[range], out, tokens)?,
                Reduction::F32 => ring.all_reduce_f32(tag, out)?,
                Reduction::Bf16 => ring.all_reduce_bf16(tag, out)?,
            }
        }
        if reduction != Reduction::Exact {
            reduced
                .iter_mut()
                .for_each(|g| *g = (f64::from(*g) / tokens) as f32);
        }
        Ok(all)
    }

    /// Clips and applies the reduced gradient; returns its norm before clipping.
    fn update(&mut self, skipped: bool, lr: f64) -> f64 {
        if skipped {
            return 0.0;
        }
        let norm = optimizer::norm(&self.gradients.reduced);
        let scale = optimizer::clip_scale(norm, self.spec.train.clip);
        self.state.update(
            &self.layout,
            &self.gradients.reduced,
            scale,
            lr,
            &self.spec.train,
        );
        self.load_parameters();
        norm
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

    fn load_parameters(&mut self) {
        let model = self.model.clone();
        self.model = flat::with_parameters(model, &self.layout, &self.state.parameters);
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

    fn digest_if_due(&self) -> String {
        let every = self.spec.train.digest_every;
        if every > 0 && self.state.step.is_multiple_of(every) {
            self.state.digest(&self.layout)
        } else {
            String::new()
        }
    }
}

impl Gradients {
    fn clear(&mut self) {
        self.exact.fill(0);
        self.reduced.fill(0.0);
    }

    /// Adds the lane's gradient to the rank's sum; returns how many values were bad.
    fn add_lane(&mut self, lanes: u32) -> u64 {
        if !self.exact.is_empty() {
            return fixed::accumulate(&self.lane, &mut self.exact, lanes);
        }
        let mut bad = 0;
        for (sum, g) in self.reduced.iter_mut().zip(&self.lane) {
            bad += u64::from(!g.is_finite());
            *sum += g;
        }
        bad
    }
}

fn vote(statistics: &mut Statistics, asked: i32) {
    statistics.stop = i64::from(asked == Boundary::Stop as i32);
    statistics.reconfigure = i64::from(asked == Boundary::Reconfigure as i32);
}

fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    *seconds += started.elapsed().as_secs_f64();
    result
}
