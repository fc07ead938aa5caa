//! Whether NCCL works on one device: a communicator of one rank, every operation, both ways to end.
//!
//! With one rank every operation is a copy, so this says nothing about sums or networks. It does
//! say that library, driver and device fit together and that the calls are those they understand.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::thread;
use std::time::{Duration, Instant};

use cudarc::driver::result;
use cudarc::nccl::sys::{ncclDataType_t, ncclRedOp_t};

use super::bootstrap::Joiner;
use super::communicator::{Candidate, Communicator};
use super::device::explain;
use super::supervise::Communicator as _;

const PATIENCE: Duration = Duration::from_secs(60);

/// Tries every function of the library that training uses on CUDA device `device`, and says in a
/// sentence what was tried; the error is a sentence about what this host lacks or got wrong.
pub fn self_check(device: usize) -> Result<String, String> {
    let started = Instant::now();
    let mut communicator = join(device)?;
    let joined = started.elapsed();
    let version = communicator.library().map(|library| library.version());
    let integers: Vec<i64> = (0..100_003).map(|i| i64::MAX / 3 * i).collect();
    let floats: Vec<f32> = (0..100_003).map(|i| i as f32 * 0.37 - 11_000.0).collect();
    copies(&mut communicator, "ncclReduceScatter", &integers)?;
    copies(&mut communicator, "ncclAllGather", &floats)?;
    copies(&mut communicator, "ncclAllReduce", &floats)?;
    communicator.close()?;
    let closed = started.elapsed();
    let mut aborted = join(device)?;
    aborted.abort()?;
    Ok(format!(
        "NCCL {} on CUDA device {device}: joined alone in {joined:.2?}, moved 3 buffers unchanged \
         and closed after {closed:.2?}, joined again and aborted after {:.2?}",
        version.unwrap_or_default(),
        started.elapsed()
    ))
}

fn join(device: usize) -> Result<Communicator, String> {
    let mut candidate = Candidate::new(device);
    candidate.ready()?;
    let id = candidate.id()?;
    let mut communicator = candidate.join(&id, 0, 1)?;
    until("joining", || communicator.settled())?;
    Ok(communicator)
}

/// Gives `values` to an operation and expects the same bytes back.
fn copies<T: Copy + PartialEq + Default>(
    communicator: &mut Communicator,
    name: &str,
    values: &[T],
) -> Result<(), String> {
    let (bytes, count) = (size_of_val(values), values.len());
    let kind = match size_of::<T>() {
        8 => ncclDataType_t::ncclInt64,
        _ => ncclDataType_t::ncclFloat32,
    };
    let sum = ncclRedOp_t::ncclSum;
    let mut back = vec![T::default(); count];
    // SAFETY: the device is current on this thread since it joined, the buffers are as long as what
    // is copied, and they are freed when the device has done the operation. If it has not, they are
    // leaked.
    unsafe {
        let from = explain("cuMemAlloc", result::malloc_sync(bytes))?;
        let to = explain("cuMemAlloc", result::malloc_sync(bytes))?;
        explain("cuMemcpyHtoD", result::memcpy_htod_sync(from, values))?;
        communicator.call(name, |library, handle, stream| {
            let (from, to) = (from as *mut c_void, to as *mut c_void);
            match name {
                "ncclReduceScatter" => {
                    (library.reduce_scatter)(from, to, count, kind, sum, handle, stream)
                }
                "ncclAllGather" => (library.all_gather)(from, to, count, kind, handle, stream),
                _ => (library.all_reduce)(from, to, count, kind, sum, handle, stream),
            }
        })?;
        until(name, || communicator.finished())?;
        explain("cuMemcpyDtoH", result::memcpy_dtoh_sync(&mut back, to))?;
        explain("cuMemFree", result::free_sync(from))?;
        explain("cuMemFree", result::free_sync(to))?;
    }
    match back == values {
        true => Ok(()),
        false => Err(format!(
            "{name} of one rank did not return what it was given"
        )),
    }
}

fn until(what: &str, mut poll: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let started = Instant::now();
    while !poll()? {
        if started.elapsed() >= PATIENCE {
            return Err(format!("{what} takes longer than {PATIENCE:?}"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
