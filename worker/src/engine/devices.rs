//! The gradients of all ranks summed where they lie, by NCCL.
#![allow(unsafe_code, reason = "device memory by address, see `slice`")]

use std::time::Duration;

use burn::tensor::Device;
use burn_cubecl::tensor::CubeTensor;
use ringmaster_model::cuda::view::address;
use ringmaster_ring::nccl::layout::Layout;
use ringmaster_ring::nccl::{DeviceSlice, Nccl};
use ringmaster_ring::{Ring, Tag};

use super::VOTES;
use crate::WorkerError;

/// How long the ranks of a generation may take to join: NCCL looks at every network first.
const PATIENCE: Duration = Duration::from_secs(60);

/// A communicator of all ranks of a ring, each on device `ordinal`, where all have one and want it.
pub(super) fn join(ring: &mut Ring, ordinal: Option<usize>) -> Result<Option<Nccl>, WorkerError> {
    Ok(Nccl::form(ring, Tag::new(0, VOTES), ordinal, PATIENCE)?)
}

/// Sums fixed point `sums` over the ranks, has every rank turn its chunk of them into the same chunk
/// of `reduced` with `average`, given its start and length, and collects the chunks. Both buffers have
/// room for the chunks of all ranks, `total` elements and padding.
pub(super) fn all_reduce_exact(
    nccl: &mut Nccl,
    (rank, world): (usize, usize),
    total: usize,
    [sums, reduced]: [&CubeTensor; 2],
    device: &Device,
    average: impl FnOnce(usize, usize),
) -> Result<(), WorkerError> {
    let layout = Layout::new(total, world);
    let (all, own) = (layout.padded_len(), layout.chunk(rank));
    finish(device)?;
    nccl.reduce_scatter_i64(slice(sums, 0, all), slice(sums, own.start, own.len()))?;
    nccl.wait()?;
    average(own.start, own.len());
    finish(device)?;
    nccl.all_gather_f32(slice(reduced, own.start, own.len()), slice(reduced, 0, all))?;
    nccl.wait()?;
    Ok(())
}

/// Sums `values` over the ranks.
pub(super) fn all_reduce_f32(
    nccl: &mut Nccl,
    total: usize,
    values: &CubeTensor,
    device: &Device,
) -> Result<(), WorkerError> {
    finish(device)?;
    nccl.all_reduce_f32(slice(values, 0, total))?;
    nccl.wait()?;
    Ok(())
}

/// Waits for everything that was queued on the device: its stream and NCCL's know nothing of each other.
fn finish(device: &Device) -> Result<(), WorkerError> {
    let failed = |error| WorkerError::Internal(format!("device: {error:?}"));
    device.sync().map_err(failed)
}

/// Elements `start..start + len` of a buffer of elements of type T.
fn slice<T>(tensor: &CubeTensor, start: usize, len: usize) -> DeviceSlice<T> {
    let start = (start * size_of::<T>()) as u64;
    // SAFETY: the engine owns the buffer and keeps it at least as long as the communicator is used,
    // made it long enough for the padded layout, and waits before it touches it again.
    unsafe { DeviceSlice::new(address(tensor) + start, len) }
}
