//! Everything in host memory: the state's own vectors, and gradients beside them.

use std::ops::Range;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use ringmaster_model::Model;
use ringmaster_model::flat::{self, Layout};
use ringmaster_proto::spec::{Reduction, TrainSpec};
use ringmaster_proto::v1::Activity;
use ringmaster_ring::nccl::bootstrap::decline;
use ringmaster_ring::{Ring, Tag, fixed};

use super::Collective;
use super::buckets::{Finality, buckets};
use super::exchange::{Exchange, Leaving};
use super::work::{Seconds, Work};
use crate::optimizer::{self, State};
use crate::statistics::Statistics;
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
    finality: Finality,
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
            finality: Finality::new(layout),
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

    /// Computes on this thread while another one talks to the other ranks.
    pub(super) fn gradient(
        &mut self,
        work: &Work<'_>,
        own: Statistics,
        _: &mut Collective,
        ring: &mut Ring,
    ) -> Result<(Statistics, Seconds), WorkerError> {
        let exchange = Exchange {
            ring,
            step: work.step,
            reduction: self.reduction,
            busy: 0.0,
        };
        // Room for all that can leave: computing never waits for the ring.
        let (leave, leaving) = sync_channel(self.lane.len().div_ceil(self.bucket) + 1);
        let span = tracing::Span::current();
        thread::scope(|scope| {
            let talk = move || span.in_scope(|| exchange.run(&own, &leaving));
            let talking = thread::Builder::new()
                .name("exchange".into())
                .spawn_scoped(scope, talk)
                .map_err(|error| {
                    WorkerError::Internal(format!("cannot start a thread: {error}"))
                })?;
            let started = Instant::now();
            self.compute(work, own, leave)?;
            let computed = Instant::now();
            work.doing.begin(Activity::Reduce, work.step);
            let talked = talking.join();
            let (all, reduce) = talked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let seconds = Seconds {
                compute: (computed - started).as_secs_f64(),
                reduce,
                exposed: computed.elapsed().as_secs_f64(),
            };
            Ok((all, seconds))
        })
    }

    /// Forward and backward of every owned lane; buckets leave during the last one's backward pass.
    /// Goes on where nobody listens any more: whoever listened knows why.
    fn compute<'a>(
        &'a mut self,
        work: &Work<'_>,
        mut own: Statistics,
        leave: SyncSender<Leaving<'a>>,
    ) -> Result<(), WorkerError> {
        let overlap = work.spec.train.overlap;
        let (lane, finality) = (&mut self.lane, &mut self.finality);
        let mut sums = Sums::new(&mut self.exact, &mut self.reduced, self.lanes);
        let mut waiting = buckets(lane.len(), self.bucket).peekable();
        let mut losses = Vec::with_capacity(work.lanes.len());
        for (number, (_, micro)) in work.lanes.iter().enumerate() {
            let leaves = overlap && number + 1 == work.lanes.len();
            lane.fill(0.0);
            finality.begin();
            let mut late = false;
            let (batch, ops) = work.pass(micro);
            let smoothing = work.spec.train.label_smoothing;
            let collect = |gradients: &mut _| {
                let touched = flat::add_gradients(work.model, gradients, work.layout, lane);
                let from = finality.piece(&touched);
                late |= from.is_err();
                let Ok(from) = from else { return };
                while let Some(bucket) = waiting.next_if(|b| leaves && b.start >= from) {
                    sums.add(lane, bucket.clone());
                    leave.send(sums.split_off(bucket.start)).ok();
                }
            };
            let loss = (work.model).forward_backward(batch, smoothing, ops, collect);
            finality.end();
            if leaves && late {
                let what = "a gradient came after its bucket had left";
                return Err(WorkerError::Internal(what.into()));
            }
            sums.add(lane, 0..sums.len());
            losses.push(batch::scalar(loss)?);
        }
        work.outcome(&mut own, &losses, sums.bad);
        // Without overlap the outcome goes first: a step with bad values is skipped before its buckets
        // cost anything.
        if !overlap {
            leave.send(Leaving::Outcome(own)).ok();
        }
        for bucket in waiting {
            leave.send(sums.split_off(bucket.start)).ok();
        }
        if overlap {
            leave.send(Leaving::Outcome(own)).ok();
        }
        Ok(())
    }

    /// In host memory there is nothing but the ring; the others must hear so.
    #[allow(clippy::unused_self, reason = "the other engine's shape")]
    pub(super) fn join(&self, ring: &mut Ring) -> Result<Collective, WorkerError> {
        decline(ring, Tag::new(0, super::VOTES))?;
        Ok(Collective::default())
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

/// The sums over the owned lanes, as far as they have not left.
struct Sums<'a> {
    exact: &'a mut [i64],
    reduced: &'a mut [f32],
    lanes: u32,
    /// Values that were bad.
    bad: u64,
}

impl<'a> Sums<'a> {
    fn new(exact: &'a mut [i64], reduced: &'a mut [f32], lanes: u32) -> Self {
        exact.fill(0);
        reduced.fill(0.0);
        Self {
            exact,
            reduced,
            lanes,
            bad: 0,
        }
    }

    fn len(&self) -> usize {
        self.reduced.len()
    }

    /// Adds part of a lane's gradient.
    fn add(&mut self, lane: &[f32], range: Range<usize>) {
        let lane = &lane[range.clone()];
        if !self.exact.is_empty() {
            self.bad += fixed::accumulate(lane, &mut self.exact[range], self.lanes);
            return;
        }
        for (sum, g) in self.reduced[range].iter_mut().zip(lane) {
            self.bad += u64::from(!g.is_finite());
            *sum += g;
        }
    }

    /// Lets go of the sums from `start` on.
    fn split_off(&mut self, start: usize) -> Leaving<'a> {
        let (exact, reduced) = (&mut self.exact, &mut self.reduced);
        let at = start.min(exact.len());
        let (rest, exact_bucket) = std::mem::take(exact).split_at_mut(at);
        *exact = rest;
        let (rest, reduced_bucket) = std::mem::take(reduced).split_at_mut(start);
        *reduced = rest;
        Leaving::Bucket {
            exact: exact_bucket,
            reduced: reduced_bucket,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicBool, AtomicI32};

    use burn::tensor::Device;
    use ringmaster_proto::RunSpec;

    use super::*;
    use crate::doing::Doing;
    use crate::objective::Objective;
    use crate::step_bench::made_up;

    /// Three passes of an engine whose second one is told that everything is final with its first
    /// piece: how each ended and how many messages had left by then.
    fn passes(overlap: &str) -> [(bool, usize); 3] {
        let sets = ["train.bucket_mib=1", "data.lane_batch=1", overlap].map(String::from);
        let spec = RunSpec::parse("", &sets).unwrap();
        let device = Device::flex().autodiff();
        let model = Model::new(&spec.model, 1, &device);
        let layout = flat::layout(&model);
        let mut host = Host::new(&layout, &spec.train, 1);
        let lanes = [(Objective::Captioning, made_up(&spec, 0))];
        let work = Work {
            spec: &spec,
            device: &device,
            model: &model,
            layout: &layout,
            step: 0,
            lanes: &lanes,
            asked: &AtomicI32::new(0),
            saving: &AtomicBool::new(false),
            save: false,
            doing: &Doing::new(),
        };
        [0, 1, 2].map(|pass| {
            if pass == 1 {
                host.finality.begin();
                host.finality.end();
            }
            let (leave, left) = sync_channel(100);
            let ended = host.compute(&work, Statistics::default(), leave);
            (ended.is_ok(), left.iter().count())
        })
    }

    #[test]
    fn buckets_leave_during_the_backward_pass_and_a_gradient_that_comes_later_is_an_error() {
        let [first, misled, after] = passes("train.overlap=true");
        assert!(first.0 && first.1 > 3, "{first:?}");
        // All buckets have left, and what the pass came to has not.
        assert_eq!(misled, (false, first.1 - 1));
        assert_eq!(after, first, "the misled pass has learned");
        assert_eq!(passes("train.overlap=false"), [first; 3]);
    }
}
