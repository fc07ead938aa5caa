//! One rank's part of a step, as an engine is given it.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use burn::tensor::Device;
use ringmaster_model::flat::Layout;
use ringmaster_model::{Batch, Model, NoiseKey, Ops};
use ringmaster_proto::RunSpec;
use ringmaster_proto::v1::Boundary;

use crate::batch;
use crate::doing::Doing;
use crate::feeder::MicroBatch;
use crate::objective::Objective;
use crate::statistics::Statistics;

/// What is to be computed, and what with.
pub(crate) struct Work<'a> {
    pub(crate) spec: &'a RunSpec,
    pub(crate) device: &'a Device,
    pub(crate) model: &'a Model,
    pub(crate) layout: &'a Layout,
    /// Steps consumed before this one.
    pub(crate) step: u64,
    /// The microbatches of the owned lanes, each with what it trains.
    pub(crate) lanes: &'a [(Objective, MicroBatch)],
    /// The [`Boundary`] the coordinator asked for, 0 for none; read as late as it can be.
    pub(crate) asked: &'a AtomicI32,
    /// Whether this rank's part of an earlier checkpoint is still being written; read as late.
    pub(crate) saving: &'a AtomicBool,
    /// Whether this rank wants a checkpoint at this boundary.
    pub(crate) save: bool,
    /// Where it is said that nothing is left to compute.
    pub(crate) doing: &'a Doing,
}

/// What a step's gradient took, seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seconds {
    /// Input to the device, forward and backward pass, conversion and sum of gradients.
    pub(crate) compute: f64,
    /// In which sums over the ranks were under way.
    pub(crate) reduce: f64,
    /// In which this rank waited for them with nothing else to do.
    pub(crate) exposed: f64,
}

impl Work<'_> {
    /// A microbatch on the device, and how its forward pass is computed.
    pub(super) fn pass(&self, lane: &MicroBatch) -> (Batch, Ops) {
        let noise = NoiseKey {
            seed: self.spec.run.seed,
            step: self.step,
            lane: lane.lane,
        };
        let batch = batch::on_device(lane, &self.spec.model, self.device);
        let ops = Ops::training(&self.spec.train, noise);
        (batch, super::backward_pass(ops, self.device))
    }

    /// Adds what the lanes came to, their losses in order, and this rank's votes.
    pub(super) fn outcome(&self, own: &mut Statistics, losses: &[f32], bad: u64) {
        for ((objective, _), loss) in self.lanes.iter().zip(losses) {
            own.add_loss(*objective, *loss);
        }
        own.bad_values = own.bad_values.saturating_add_unsigned(bad);
        let asked = self.asked.load(Ordering::Acquire);
        own.stop = i64::from(asked == Boundary::Stop as i32);
        own.reconfigure = i64::from(asked == Boundary::Reconfigure as i32);
        own.saving = i64::from(self.saving.load(Ordering::Acquire));
        own.save = i64::from(self.save);
    }
}
