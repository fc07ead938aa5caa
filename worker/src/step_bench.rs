//! The training step alone, on inputs made up: what the device costs and what it could do.

use std::sync::atomic::{AtomicBool, AtomicI32};
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use ringmaster_model::flat::{self, Layout};
use ringmaster_model::{Model, Ops};
use ringmaster_proto::RunSpec;
use ringmaster_proto::vocab::RESERVED;
use ringmaster_ring::{Abort, Membership, Options, Ring, RingListener};

use crate::doing::Doing;
use crate::engine::{Collective, Engine, Seconds, Work};
use crate::feeder::MicroBatch;
use crate::objective::{Lens, Objective, Tokens};
use crate::optimizer::{self, State};
use crate::sampling::Rule;
use crate::statistics::Statistics;
use crate::{DeviceChoice, WorkerError};

/// Seconds of one step by phase.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepSeconds {
    /// Input to the device, forward and backward pass, conversion and sum of gradients.
    pub compute: f64,
    /// The average over the ranks, here one, in part while the device computes.
    pub reduce: f64,
    /// In which it was waited for with nothing else to do.
    pub exposed: f64,
    /// Norm, clip and update.
    pub optimizer: f64,
}

impl StepSeconds {
    /// The whole step.
    pub fn total(&self) -> f64 {
        self.compute + self.exposed + self.optimizer
    }
}

/// What a step came to.
#[derive(Clone, Copy, Debug)]
pub struct Stepped {
    /// Mean loss of a token before the update, nats.
    pub loss: f64,
    /// Norm of the gradient of that mean, before clipping.
    pub grad_norm: f64,
    /// What it took.
    pub seconds: StepSeconds,
}

/// One rank without a run: the model, its numbers and one global batch, which every step trains again.
pub struct StepBench {
    spec: RunSpec,
    device: Device,
    model: Model,
    layout: Layout,
    engine: Engine,
    state: State,
    ring: Ring,
    lanes: Vec<(Objective, MicroBatch)>,
}

impl StepBench {
    /// A rank that owns all lanes of `spec`, its parameters those of the seed.
    ///
    /// # Errors
    /// [`WorkerError::Device`] if there is no such device.
    pub fn new(spec: RunSpec, device: DeviceChoice) -> Result<Self, WorkerError> {
        let device = device.resolve()?.autodiff();
        let model = Model::new(&spec.model, spec.run.seed, &device);
        let layout = flat::layout(&model);
        let mut engine = Engine::new(&layout, &spec.train, spec.data.lanes, &device);
        let rule = Rule::new(&spec.tasks, 1);
        let state = State::initial(flat::parameters(&model, &layout), &rule, &spec.train);
        let model = engine.adopt(model, &layout, &state);
        Ok(Self {
            lanes: (0..spec.data.lanes)
                .map(|lane| (Objective::Captioning, made_up(&spec, lane)))
                .collect(),
            ring: alone()?,
            spec,
            device,
            model,
            layout,
            engine,
            state,
        })
    }

    /// Parameters of the model.
    pub fn parameters(&self) -> usize {
        self.layout.total
    }

    /// One step.
    ///
    /// # Errors
    /// [`WorkerError::Internal`] if the device fails.
    pub fn step(&mut self) -> Result<Stepped, WorkerError> {
        let mut own = Statistics::default();
        for (objective, lane) in &self.lanes {
            own.count_tokens(*objective, lane.tokens.counted());
        }
        let work = Work {
            spec: &self.spec,
            device: &self.device,
            model: &self.model,
            layout: &self.layout,
            step: self.state.step,
            lanes: &self.lanes,
            asked: &AtomicI32::new(0),
            saving: &AtomicBool::new(false),
            save: false,
            doing: &Doing::new(),
        };
        let none = &mut Collective::default();
        let (all, taken) = self.engine.gradient(&work, own, none, &mut self.ring)?;

        let started = Instant::now();
        let grad_norm = self.engine.norm()?;
        let scale = optimizer::clip_scale(grad_norm, self.spec.train.clip);
        let rate = (scale, self.spec.train.lr);
        let (model, train) = (self.model.clone(), &self.spec.train);
        self.model = self
            .engine
            .update(model, &self.layout, &mut self.state, rate, train);
        self.wait()?;
        self.state.step += 1;
        let Seconds {
            compute,
            reduce,
            exposed,
        } = taken;
        Ok(Stepped {
            loss: all.mean_loss(),
            grad_norm,
            seconds: StepSeconds {
                compute,
                reduce,
                exposed,
                optimizer: started.elapsed().as_secs_f64(),
            },
        })
    }

    /// The digest of the state, as a run would report it.
    ///
    /// # Errors
    /// [`WorkerError::Internal`] if the device fails.
    pub fn digest(&mut self) -> Result<String, WorkerError> {
        self.engine.pull(&self.layout, &mut self.state)?;
        Ok(self.state.digest(&self.layout))
    }

    /// Seconds of one product of two `[side, side]` matrices in the run's number format, the best of
    /// `repeats` groups of ten.
    ///
    /// # Errors
    /// [`WorkerError::Internal`] if the device fails.
    pub fn product_seconds(&self, side: usize, repeats: usize) -> Result<f64, WorkerError> {
        const GROUP: usize = 10;
        let device = self.device.clone().without_autodiff();
        let ops = Ops::inference_in(self.spec.train.precision);
        let of = |phase: usize| {
            // Neither zeros nor a pattern that would be cheaper than real numbers.
            let value = |i: usize| ((i * 2_654_435_761 + phase) % 2003) as f32 / 1001.5 - 1.0;
            let values: Vec<f32> = (0..side * side).map(value).collect();
            let data = burn::tensor::TensorData::new(values, [1, 1, side, side]);
            ops.half(Tensor::from_data(data, &device))
        };
        let (left, right) = (of(1), of(2));
        let mut best = f64::INFINITY;
        for _ in 0..=repeats {
            self.wait()?;
            let started = Instant::now();
            for _ in 0..GROUP {
                let product = ops.product(left.clone(), right.clone());
                // Queued now, although nobody reads it.
                self.device.flush().map_err(|error| failed(&error))?;
                drop(product);
            }
            self.wait()?;
            best = best.min(started.elapsed().as_secs_f64() / GROUP as f64);
        }
        Ok(best)
    }

    fn wait(&self) -> Result<(), WorkerError> {
        let device = self.device.clone().without_autodiff();
        device.sync().map_err(|error| failed(&error))
    }
}

fn failed(error: &impl std::fmt::Debug) -> WorkerError {
    WorkerError::Internal(format!("device: {error:?}"))
}

/// A ring of one rank.
fn alone() -> Result<Ring, WorkerError> {
    let listener = RingListener::bind(([127, 0, 0, 1], 0).into())?;
    let membership = Membership {
        run: "bench".into(),
        generation: 1,
        rank: 0,
        addrs: vec![listener.local_addr()],
        secret: [0; 32],
    };
    let ring = Ring::form(&listener, membership, Options::default(), &Abort::new())?;
    Ok(ring)
}

/// A microbatch of noise, every token real.
pub(crate) fn made_up(spec: &RunSpec, lane: u32) -> MicroBatch {
    let lens = Lens::of(&spec.model);
    let rows = spec.data.lane_batch as usize;
    let mut tokens = Tokens::default();
    for row in 0..rows as u32 {
        let seed = row * 31 + lane * 1013;
        let vocab = spec.model.vocab as u32 - RESERVED;
        let ids = |n: usize| -> Vec<u32> {
            let id = |i: u32| RESERVED + (i * 7919 + seed) % vocab;
            (0..n as u32).map(id).collect()
        };
        tokens.push(&ids(lens.text), &ids(lens.target), true, lens);
    }
    let pixels = 3 * spec.model.image_size * spec.model.image_size;
    let pixel = |i: usize| ((i * 2_654_435_761) % 255) as u8;
    MicroBatch {
        lane,
        images: (0..rows * pixels).map(pixel).collect::<Vec<_>>().into(),
        tokens,
        rows,
    }
}
