//! [`Nccl`]: one rank's end of one generation's collectives on devices.
#![allow(unsafe_code)]

use std::ffi::{c_uint, c_void};
use std::fmt;
use std::time::Duration;

use cudarc::nccl::sys::{self, ncclDataType_t, ncclRedOp_t};
use half::bf16;

use super::bootstrap::{bootstrap, decline};
use super::communicator::{Candidate, Communicator};
use super::library::Library;
use super::slice::{DeviceSlice, check_parts};
use super::supervise::Supervised;
use crate::error::RingError;
use crate::ring::{Ring, Tag};

/// One rank's end of a communicator of all ranks of one [`Ring`].
///
/// All ranks call the same operations with the same lengths in the same order. An operation returns
/// when it is enqueued on a stream of the communicator's own, where operations run one after the
/// other; [`Nccl::wait`] returns when the device has done them all. Both end early when the ring
/// breaks or its [`Abort`](crate::Abort) is used. **After an error the memory that was given is
/// unspecified and communicator and ring are over**: the other ranks are told, every later call
/// fails, and the step is computed again in the next generation.
///
/// The memory is described by [`DeviceSlice`], and whoever makes one promises what that takes:
/// synchronise the device that computed the elements, enqueue, wait, and only then go on.
///
/// Drop it before its ring and when nothing is pending, and it ends as quickly as the slowest rank
/// on the host; otherwise it is aborted, which is waited for at most 10 s.
pub struct Nccl {
    rank: usize,
    world: usize,
    version: String,
    session: Supervised<Communicator>,
}

impl Nccl {
    /// Forms a communicator of all ranks of `ring`, this one computing on CUDA device `device`. It
    /// is `None` on every rank, and the TCP ring carries everything, in a world of one and if one
    /// rank has no device, driver or library, shares its device with another rank, or has not
    /// joined within `patience` (NCCL needs seconds, the first time most). That rank logs why.
    ///
    /// A collective of the ring; a build without this feature takes part with
    /// [`decline`].
    ///
    /// # Errors
    /// That of the ring, when it breaks or is aborted meanwhile.
    pub fn form(
        ring: &mut Ring,
        tag: Tag,
        device: Option<usize>,
        patience: Duration,
    ) -> Result<Option<Self>, RingError> {
        let Some(device) = device else {
            decline(ring, tag)?;
            return Ok(None);
        };
        let formed = bootstrap(ring, tag, &mut Candidate::new(device), patience)?;
        Ok(formed.map(|communicator| {
            let version = communicator.library().map(|library| library.version());
            let version = version.unwrap_or_default();
            tracing::info!(device, version, "gradients go through NCCL");
            Self {
                rank: ring.rank(),
                world: ring.world(),
                version,
                session: Supervised::new(ring, communicator),
            }
        }))
    }

    /// The version of the library, as in `2.18.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Sums `values` over all ranks, in place. All ranks end with the same values, but neither
    /// which order of additions made them nor that it stays the same is promised.
    pub fn all_reduce_f32(&mut self, values: DeviceSlice<f32>) -> Result<(), RingError> {
        self.all_reduce(values, ncclDataType_t::ncclFloat32)
    }

    /// Sums `values` over all ranks, in place, as [`Nccl::all_reduce_f32`] does. Partial sums are
    /// rounded to bfloat16 too, unlike those of the TCP ring.
    pub fn all_reduce_bf16(&mut self, values: DeviceSlice<bf16>) -> Result<(), RingError> {
        self.all_reduce(values, ncclDataType_t::ncclBfloat16)
    }

    /// Sums `values` over all ranks, in place, wrapping around.
    pub fn all_reduce_i64(&mut self, values: DeviceSlice<i64>) -> Result<(), RingError> {
        self.all_reduce(values, ncclDataType_t::ncclInt64)
    }

    /// Sums `send` over all ranks, wrapping around, and keeps this rank's chunk in `receive`:
    /// elements `rank * receive.len()` and up. `send` has W times as many elements as `receive`,
    /// see [`Layout`](super::layout::Layout), and is unspecified afterwards only where `receive` is
    /// a part of it, which must be this rank's own chunk.
    pub fn reduce_scatter_i64(
        &mut self,
        send: DeviceSlice<i64>,
        receive: DeviceSlice<i64>,
    ) -> Result<(), RingError> {
        let parts = check_parts(&send, &receive, (self.rank, self.world));
        let (kind, sum) = (ncclDataType_t::ncclInt64, ncclRedOp_t::ncclSum);
        self.call("ncclReduceScatter", parts, |library, handle, stream| {
            let (from, to) = (pointer(&send), pointer(&receive));
            // SAFETY: `check_parts`, the promise of `DeviceSlice::new`, and a live communicator.
            unsafe { (library.reduce_scatter)(from, to, receive.len(), kind, sum, handle, stream) }
        })
    }

    /// Collects every rank's `send` in `receive`, in rank order. `receive` has W times as many
    /// elements as `send`, which may be this rank's own chunk of it.
    pub fn all_gather_f32(
        &mut self,
        send: DeviceSlice<f32>,
        receive: DeviceSlice<f32>,
    ) -> Result<(), RingError> {
        let parts = check_parts(&receive, &send, (self.rank, self.world));
        let kind = ncclDataType_t::ncclFloat32;
        self.call("ncclAllGather", parts, |library, handle, stream| {
            let (from, to) = (pointer(&send), pointer(&receive));
            // SAFETY: `check_parts`, the promise of `DeviceSlice::new`, and a live communicator.
            unsafe { (library.all_gather)(from, to, send.len(), kind, handle, stream) }
        })
    }

    /// Returns once the device has done everything that was enqueued.
    ///
    /// # Errors
    /// What the ring says about a peer or an abort; [`RingError::Nccl`] if it says nothing; and
    /// [`RingError::Wedged`] if the device does not stop, after which the process must end.
    pub fn wait(&mut self) -> Result<(), RingError> {
        self.session.wait()
    }

    fn all_reduce<T>(
        &mut self,
        values: DeviceSlice<T>,
        kind: ncclDataType_t,
    ) -> Result<(), RingError> {
        let sum = ncclRedOp_t::ncclSum;
        self.call(
            "ncclAllReduce",
            values.check(),
            |library, handle, stream| {
                let place = pointer(&values);
                // SAFETY: the promise of `DeviceSlice::new`, and a live communicator.
                unsafe {
                    (library.all_reduce)(place, place, values.len(), kind, sum, handle, stream)
                }
            },
        )
    }

    fn call(
        &mut self,
        name: &str,
        checked: Result<(), String>,
        collective: impl FnOnce(&Library, sys::ncclComm_t, sys::cudaStream_t) -> c_uint,
    ) -> Result<(), RingError> {
        match checked {
            Ok(()) => self
                .session
                .enqueue(|communicator| communicator.call(name, collective)),
            Err(reason) => Err(self.session.refuse(RingError::invalid(reason))),
        }
    }
}

fn pointer<T>(slice: &DeviceSlice<T>) -> *mut c_void {
    slice.address() as *mut c_void
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nccl")
            .field("rank", &self.rank)
            .field("world", &self.world)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
