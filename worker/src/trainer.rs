//! The training step: one function you can read aloud, and what it stands on.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use ringmaster_model::flat::{self, Layout};
use ringmaster_model::{Model, NoiseKey, Ops};
use ringmaster_proto::v1::{Boundary, StepDone};
use ringmaster_proto::{RunSpec, Step};
use ringmaster_ring::{Abort, Ring, Tag};

use crate::WorkerError;
use crate::batch;
use crate::engine::{Collective, Engine, Sums};
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
            self.accumulate(&lanes, &mut statistics)
        })?;

        vote(&mut statistics, member.drain.load(Ordering::Acquire));
        let all = timed(&mut clock.reduce, || {
            self.all_reduce(step, statistics, member)
        })?;

        let lr = optimizer::learning_rate(step.0, self.total_steps, &self.spec.train);
        let skipped = all.bad_values > 0 || all.all_tokens() == 0;
        let norm = timed(&mut clock.optimizer, || self.update(skipped, lr))?;
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
            digest: self.digest_if_due()?,
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

    /// Forward and backward of every owned lane.
    fn accumulate(
        &mut self,
        lanes: &[(Objective, MicroBatch)],
        statistics: &mut Statistics,
    ) -> Result<(), WorkerError> {
        self.engine.clear();
        let train = &self.spec.train;
        for (_, lane) in lanes {
            let batch = batch::on_device(lane, &self.spec.model, &self.device);
            let noise = NoiseKey {
                seed: self.spec.run.seed,
                step: self.state.step,
                lane: lane.lane,
            };
            let (ops, smoothing) = (Ops::training(train, noise), train.label_smoothing);
            let (model, layout) = (&self.model, &self.layout);
            self.engine
                .accumulate(model, layout, batch, smoothing, ops)?;
        }
        let Sums { losses, bad } = self.engine.sums()?;
        for ((objective, lane), loss) in lanes.iter().zip(losses) {
            statistics.add_loss(*objective, loss, lane.tokens.counted());
        }
        statistics.bad_values = statistics.bad_values.saturating_add_unsigned(bad);
        Ok(())
    }

    /// Statistics first, since the average needs the token count; then every bucket.
    fn all_reduce(
        &mut self,
        step: Step,
        own: Statistics,
        member: &mut Membership,
    ) -> Result<Statistics, WorkerError> {
        let Membership {
            collective, ring, ..
        } = member;
        let mut vector = own.to_vector();
        ring.all_reduce_i64(Tag::new(step.0, STATISTICS), &mut vector)?;
        let all = Statistics::from_vector(&vector);
        let tokens = all.all_tokens() as f64;
        if all.bad_values == 0 && tokens > 0.0 {
            self.engine.all_reduce(collective, ring, step.0, tokens)?;
        }
        Ok(all)
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

    fn digest_if_due(&mut self) -> Result<String, WorkerError> {
        let every = self.spec.train.digest_every;
        if every == 0 || !self.state.step.is_multiple_of(every) {
            return Ok(String::new());
        }
        let (state, layout) = self.state()?;
        Ok(state.digest(layout))
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
