//! Where a rank's numbers lie while it trains: parameters, moments and gradients in host memory, or on
//! the GPU that computes.
//!
//! Both do the same arithmetic on the same flat layout. Nothing outside this folder knows which of the
//! two it is.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod devices;
mod host;

use burn::tensor::Device;
use ringmaster_model::flat::Layout;
use ringmaster_model::{Batch, Model, Ops};
use ringmaster_proto::spec::TrainSpec;
use ringmaster_ring::Ring;

use crate::WorkerError;
use crate::optimizer::State;

/// Bucket number, in the ring's frames, of the votes on what to sum with.
const VOTES: u32 = u32::MAX - 2;

/// The numbers of one rank.
pub(crate) enum Engine {
    /// In host memory.
    Host(host::Host),
    /// In the memory of a CUDA device.
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::Cuda>),
}

/// How the ranks of a generation sum gradients besides the ring: NCCL, if all of them compute on GPUs
/// and have it. It ends before its ring does.
#[derive(Debug, Default)]
pub(crate) struct Collective {
    #[cfg(feature = "cuda")]
    nccl: Option<ringmaster_ring::nccl::Nccl>,
}

/// What the microbatches of a step came to.
pub(crate) struct Sums {
    /// Sum of token losses of each microbatch, in order, nats.
    pub(crate) losses: Vec<f32>,
    /// Gradients that were not finite or too large.
    pub(crate) bad: u64,
}

/// Calls the same method of either engine.
macro_rules! each {
    ($self:expr, $engine:ident => $call:expr) => {
        match $self {
            Engine::Host($engine) => $call,
            #[cfg(feature = "cuda")]
            Engine::Cuda($engine) => $call,
        }
    };
}

impl Engine {
    /// The engine for `device`, with every number still zero.
    pub(crate) fn new(layout: &Layout, train: &TrainSpec, lanes: u32, device: &Device) -> Self {
        #[cfg(feature = "cuda")]
        if ringmaster_model::cuda::is_cuda(device) {
            return Self::Cuda(Box::new(cuda::Cuda::new(layout, train, lanes, device)));
        }
        let _ = device;
        Self::Host(host::Host::new(layout, train, lanes))
    }

    /// Takes over the vectors of `state`; returns `model` with its parameters.
    pub(crate) fn adopt(&mut self, model: Model, layout: &Layout, state: &State) -> Model {
        each!(self, engine => engine.adopt(model, layout, state))
    }

    /// Brings the vectors of `state` up to date.
    pub(crate) fn pull(&self, layout: &Layout, state: &mut State) -> Result<(), WorkerError> {
        each!(self, engine => engine.pull(layout, state))
    }

    /// Forgets the gradients of the last step.
    pub(crate) fn clear(&mut self) {
        each!(self, engine => engine.clear());
    }

    /// Forward and backward pass of one microbatch on the *sum* of its token losses; converts the
    /// gradient and adds it to the owned lanes' sum.
    pub(crate) fn accumulate(
        &mut self,
        model: &Model,
        layout: &Layout,
        batch: Batch,
        smoothing: f64,
        ops: Ops,
    ) -> Result<(), WorkerError> {
        each!(self, engine => engine.accumulate(model, layout, batch, smoothing, ops))
    }

    /// What the microbatches since [`Self::clear`] came to, once they are computed.
    pub(crate) fn sums(&mut self) -> Result<Sums, WorkerError> {
        each!(self, engine => engine.sums())
    }

    /// What the ranks of a ring sum their gradients with; all of them call it once.
    pub(crate) fn join(&self, ring: &mut Ring) -> Result<Collective, WorkerError> {
        each!(self, engine => engine.join(ring))
    }

    /// Sums the gradients over all ranks and divides them by `tokens`.
    pub(crate) fn all_reduce(
        &mut self,
        collective: &mut Collective,
        ring: &mut Ring,
        step: u64,
        tokens: f64,
    ) -> Result<(), WorkerError> {
        each!(self, engine => engine.all_reduce(collective, ring, step, tokens))
    }

    /// Euclidean norm of the reduced gradient: f64 sums over fixed blocks, added in order.
    pub(crate) fn norm(&mut self) -> Result<f64, WorkerError> {
        each!(self, engine => engine.norm())
    }

    /// One AdamW update with the reduced gradient times `scale`; returns the model after it.
    pub(crate) fn update(
        &mut self,
        model: Model,
        layout: &Layout,
        state: &mut State,
        (scale, lr): (f32, f64),
        train: &TrainSpec,
    ) -> Model {
        each!(self, engine => engine.update(model, layout, state, (scale, lr), train))
    }
}
