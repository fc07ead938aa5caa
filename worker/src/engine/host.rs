//! Everything in host memory: the state's own vectors, and gradients beside them.

use ringmaster_model::flat::{self, Layout};
use ringmaster_model::{Batch, Model, Ops};
use ringmaster_proto::spec::{Reduction, TrainSpec};
use ringmaster_ring::nccl::bootstrap::decline;
use ringmaster_ring::{Ring, Tag, fixed};

use super::{Collective, Sums};
use crate::optimizer::{self, State};
use crate::{WorkerError, batch};

/// Gradients, reused from step to step; parameters and moments stay in the [`State`].
pub(crate) struct Host {
    reduction: Reduction,
    /// Elements of a bucket.
    bucket: usize,
    lanes: u32,
    /// One microbatch's, as the backward pass gives it.
    lane: Vec<f32>,
    /// Fixed-point sum over the owned lanes; empty unless the reduction is `exact`.
    exact: Vec<i64>,
    /// The reduced average; during an f32 or bf16 step, first the sum over the owned lanes.
    reduced: Vec<f32>,
    sums: Sums,
}

impl Host {
    pub(super) fn new(layout: &Layout, train: &TrainSpec, lanes: u32) -> Self {
        let exact = match train.reduction {
            Reduction::Exact => layout.total,
            Reduction::F32 | Reduction::Bf16 => 0,
        };
        Self {
            reduction: train.reduction,
            bucket: (train.bucket_mib as usize) << 18,
            lanes,
            lane: vec![0.0; layout.total],
            exact: vec![0; exact],
            reduced: vec![0.0; layout.total],
            sums: Sums {
                losses: Vec::new(),
                bad: 0,
            },
        }
    }

    pub(super) fn adopt(&mut self, model: Model, layout: &Layout, state: &State) -> Model {
        flat::with_parameters(model, layout, &state.parameters)
    }

    /// They are never elsewhere.
    #[allow(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "the other engine's shape"
    )]
    pub(super) fn pull(&self, _: &Layout, _: &mut State) -> Result<(), WorkerError> {
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.exact.fill(0);
        self.reduced.fill(0.0);
        self.sums.losses.clear();
        self.sums.bad = 0;
    }

    pub(super) fn accumulate(
        &mut self,
        model: &Model,
        layout: &Layout,
        batch: Batch,
        smoothing: f64,
        ops: Ops,
    ) -> Result<(), WorkerError> {
        self.lane.fill(0.0);
        let lane = &mut self.lane;
        let loss = model.forward_backward(batch, smoothing, ops, |gradients| {
            flat::add_gradients(model, gradients, layout, lane);
        });
        self.sums.losses.push(batch::scalar(loss)?);
        self.sums.bad += self.add_lane();
        Ok(())
    }

    /// Adds the lane's gradient to the rank's sum; returns how many values were bad.
    fn add_lane(&mut self) -> u64 {
        if self.reduction == Reduction::Exact {
            return fixed::accumulate(&self.lane, &mut self.exact, self.lanes);
        }
        let mut bad = 0;
        for (sum, g) in self.reduced.iter_mut().zip(&self.lane) {
            bad += u64::from(!g.is_finite());
            *sum += g;
        }
        bad
    }

    #[allow(clippy::unnecessary_wraps, reason = "the other engine's shape")]
    pub(super) fn sums(&mut self) -> Result<Sums, WorkerError> {
        Ok(Sums {
            losses: std::mem::take(&mut self.sums.losses),
            bad: self.sums.bad,
        })
    }

    /// In host memory there is nothing but the ring; the others must hear so.
    #[allow(clippy::unused_self, reason = "the other engine's shape")]
    pub(super) fn join(&self, ring: &mut Ring) -> Result<Collective, WorkerError> {
        decline(ring, Tag::new(0, super::VOTES))?;
        Ok(Collective::default())
    }

    pub(super) fn all_reduce(
        &mut self,
        _: &mut Collective,
        ring: &mut Ring,
        step: u64,
        tokens: f64,
    ) -> Result<(), WorkerError> {
        let Self { exact, reduced, .. } = self;
        all_reduce(
            ring,
            step,
            tokens,
            (self.reduction, self.bucket),
            exact,
            reduced,
        )
    }

    #[allow(clippy::unnecessary_wraps, reason = "the other engine's shape")]
    pub(super) fn norm(&mut self) -> Result<f64, WorkerError> {
        Ok(optimizer::norm(&self.reduced))
    }

    pub(super) fn update(
        &mut self,
        model: Model,
        layout: &Layout,
        state: &mut State,
        (scale, lr): (f32, f64),
        train: &TrainSpec,
    ) -> Model {
        state.update(layout, &self.reduced, scale, lr, train);
        flat::with_parameters(model, layout, &state.parameters)
    }
}

/// Every bucket in turn around the ring: `exact`, or in the other reductions `reduced`, is summed over
/// the ranks, and `reduced` becomes the sum over `tokens`.
pub(super) fn all_reduce(
    ring: &mut Ring,
    step: u64,
    tokens: f64,
    (reduction, bucket): (Reduction, usize),
    exact: &mut [i64],
    reduced: &mut [f32],
) -> Result<(), WorkerError> {
    let total = reduced.len();
    for (number, start) in (0..total).step_by(bucket).enumerate() {
        let range = start..(start + bucket).min(total);
        let tag = Tag::new(step, number as u32);
        let out = &mut reduced[range.clone()];
        match reduction {
            Reduction::Exact => ring.all_reduce_exact(tag, &mut exact[range], out, tokens)?,
            Reduction::F32 => ring.all_reduce_f32(tag, out)?,
            Reduction::Bf16 => ring.all_reduce_bf16(tag, out)?,
        }
    }
    if reduction != Reduction::Exact {
        for g in reduced {
            *g = (f64::from(*g) / tokens) as f32;
        }
    }
    Ok(())
}
