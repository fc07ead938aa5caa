//! Where a rank's numbers lie while it trains: parameters, moments and gradients in host memory, or on
//! the GPU that computes.
//!
//! Both do the same arithmetic on the same flat layout. Nothing outside this folder knows which of the
//! two it is.

mod buckets;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod devices;
mod exchange;
mod host;
mod work;

use burn::tensor::Device;
use ringmaster_model::flat::Layout;
use ringmaster_model::{Model, Ops};
use ringmaster_proto::spec::TrainSpec;
use ringmaster_ring::Ring;

use crate::WorkerError;
use crate::optimizer::State;
use crate::statistics::Statistics;
pub(crate) use work::{Seconds, Work};

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

    /// What the ranks of a ring sum their gradients with; all of them call it once.
    pub(crate) fn join(&self, ring: &mut Ring) -> Result<Collective, WorkerError> {
        each!(self, engine => engine.join(ring))
    }

    /// Forward and backward pass of every owned lane on the *sum* of its token losses, and the average
    /// of the gradients over the tokens of all ranks. `own` has the counts of this rank; returns the
    /// statistics of all. No parameter changes, and where they have bad values or no tokens there is
    /// no average.
    pub(crate) fn gradient(
        &mut self,
        work: &Work<'_>,
        own: Statistics,
        collective: &mut Collective,
        ring: &mut Ring,
    ) -> Result<(Statistics, Seconds), WorkerError> {
        each!(self, engine => engine.gradient(work, own, collective, ring))
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

/// `ops` with the backward pass of the engine for `device`. In host memory it always is in pieces:
/// where several segments use a value its gradients are added in another order than in one piece, and
/// no bit may depend on whether there are other ranks to send the pieces to.
pub(crate) fn backward_pass(ops: Ops, device: &Device) -> Ops {
    #[cfg(feature = "cuda")]
    if ringmaster_model::cuda::is_cuda(device) {
        return ops;
    }
    let _ = device;
    ops.in_pieces()
}
