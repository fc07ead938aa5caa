//! What a rank says to the others during a step, on a thread of its own, so that sums go around the
//! ring while the rank still computes.

use std::sync::mpsc::Receiver;
use std::time::Instant;

use ringmaster_proto::spec::Reduction;
use ringmaster_ring::{Ring, RingError, Tag};

use crate::WorkerError;
use crate::statistics::Statistics;

/// Bucket number, in the ring's frames, of what is known before a step is computed.
pub(super) const COUNTS: u32 = u32::MAX - 3;

/// Of what it came to.
pub(super) const OUTCOME: u32 = u32::MAX - 1;

/// What leaves for the other ranks, in the same order on all of them.
pub(super) enum Leaving<'a> {
    /// A bucket of final gradients: in `exact` reduction the sums, else `exact` is empty. The average
    /// over all ranks ends up in `reduced`.
    Bucket {
        exact: &'a mut [i64],
        reduced: &'a mut [f32],
    },
    /// What this rank's part of the step came to.
    Outcome(Statistics),
}

/// The talk of one step.
pub(super) struct Exchange<'a> {
    pub(super) ring: &'a mut Ring,
    pub(super) step: u64,
    pub(super) reduction: Reduction,
    /// Seconds in the ring so far.
    pub(super) busy: f64,
}

impl Exchange<'_> {
    /// Sums the counts of `own`, then everything that leaves, until nothing more can come. Returns the
    /// statistics of all ranks and how long the ring was busy.
    ///
    /// Buckets do not go around if every rank knows already that the step will be skipped. A rank that
    /// finds a bad value later than that is heard with the outcome.
    pub(super) fn run(
        mut self,
        own: &Statistics,
        leaving: &Receiver<Leaving<'_>>,
    ) -> Result<(Statistics, f64), WorkerError> {
        let mut all = Statistics::default();
        all.set_counts(&self.sum(COUNTS, own.counts())?);
        let tokens = all.all_tokens() as f64;
        let (mut number, mut ended) = (0, false);
        for what in leaving {
            match what {
                Leaving::Outcome(own) => {
                    all.set_outcome(&self.sum(OUTCOME, own.outcome())?);
                    ended = true;
                }
                Leaving::Bucket { exact, reduced } => {
                    if all.bad_values == 0 && tokens > 0.0 {
                        self.average(number, exact, reduced, tokens)?;
                    }
                    number += 1;
                }
            }
        }
        let broken_off = || WorkerError::Internal("a step was broken off".into());
        ended.then_some((all, self.busy)).ok_or_else(broken_off)
    }

    fn sum(&mut self, bucket: u32, mut vector: Vec<i64>) -> Result<Vec<i64>, RingError> {
        let started = Instant::now();
        self.ring
            .all_reduce_i64(Tag::new(self.step, bucket), &mut vector)?;
        self.busy += started.elapsed().as_secs_f64();
        Ok(vector)
    }

    fn average(
        &mut self,
        number: u32,
        exact: &mut [i64],
        reduced: &mut [f32],
        tokens: f64,
    ) -> Result<(), RingError> {
        let started = Instant::now();
        let tag = Tag::new(self.step, number);
        average(self.ring, tag, self.reduction, (exact, reduced), tokens)?;
        self.busy += started.elapsed().as_secs_f64();
        Ok(())
    }
}

/// One bucket around the ring: `exact`, or in the other reductions `reduced`, is summed over the
/// ranks, and `reduced` becomes the sum over `tokens`.
pub(super) fn average(
    ring: &mut Ring,
    tag: Tag,
    reduction: Reduction,
    (exact, reduced): (&mut [i64], &mut [f32]),
    tokens: f64,
) -> Result<(), RingError> {
    match reduction {
        Reduction::Exact => return ring.all_reduce_exact(tag, exact, reduced, tokens),
        Reduction::F32 => ring.all_reduce_f32(tag, reduced)?,
        Reduction::Bf16 => ring.all_reduce_bf16(tag, reduced)?,
    }
    for g in reduced {
        *g = (f64::from(*g) / tokens) as f32;
    }
    Ok(())
}
