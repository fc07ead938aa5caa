//! One CUDA device as a communicator needs it: its primary context, a stream and an event.
//!
//! The primary context is the one that the CUDA runtime, and so NCCL and cubecl, use: an address of
//! theirs is an address here. Holding it keeps it from being destroyed, and makes it current on the
//! threads that [`Device::enter`] it, which is what the CUDA runtime would do as well.
#![allow(unsafe_code)]

use std::ffi::c_int;

use cudarc::driver::{result, sys};

/// A device whose context this holds, a stream of its own on it, and an event on that stream.
pub(super) struct Device {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    event: sys::CUevent,
}

// SAFETY: the driver takes its handles from any thread whose current context is theirs, and every
// use here enters the context first.
unsafe impl Send for Device {}

impl Device {
    /// The device of this number, as the driver counts those that are visible to the process.
    pub(super) fn open(ordinal: usize) -> Result<Self, String> {
        // SAFETY: libcuda's initialisers have no conditions.
        if !unsafe { sys::is_culib_present() } {
            return Err("no libcuda.so.1 is installed, which comes with NVIDIA's driver".into());
        }
        explain("cuInit", result::init())?;
        let count = explain("cuDeviceGetCount", result::device::get_count())?;
        let number = c_int::try_from(ordinal)
            .ok()
            .filter(|number| *number < count);
        let number = number.ok_or_else(|| {
            format!("there is no CUDA device {ordinal}, only {count}; look at CUDA_VISIBLE_DEVICES")
        })?;
        let device = explain("cuDeviceGet", result::device::get(number))?;
        // SAFETY: `device` is a device.
        let context = unsafe { result::primary_ctx::retain(device) };
        let mut opened = Self {
            device,
            context: explain("cuDevicePrimaryCtxRetain", context)?,
            stream: std::ptr::null_mut(),
            event: std::ptr::null_mut(),
        };
        opened.enter()?;
        let kind = result::stream::StreamKind::NonBlocking;
        opened.stream = explain("cuStreamCreate", result::stream::create(kind))?;
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        opened.event = explain("cuEventCreate", result::event::create(flags))?;
        Ok(opened)
    }

    /// Makes the context current on this thread, which every call below needs, and NCCL too.
    pub(super) fn enter(&self) -> Result<(), String> {
        // SAFETY: the context is held.
        let entered = unsafe { result::ctx::set_current(self.context) };
        explain("cuCtxSetCurrent", entered)
    }

    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Marks the end of what the stream was given so far.
    pub(super) fn mark(&self) -> Result<(), String> {
        self.enter()?;
        // SAFETY: both exist and belong to the current context.
        let recorded = unsafe { result::event::record(self.event, self.stream) };
        explain("cuEventRecord", recorded)
    }

    /// Whether the device has come to the mark.
    pub(super) fn passed(&self) -> Result<bool, String> {
        self.enter()?;
        // SAFETY: the event exists.
        match unsafe { result::event::query(self.event) } {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            answer => explain("cuEventQuery", answer).map(|()| true),
        }
    }

    /// Waits, perhaps for ever, until the stream is empty.
    pub(super) fn drain(&self) -> Result<(), String> {
        self.enter()?;
        // SAFETY: the stream exists.
        let drained = unsafe { result::stream::synchronize(self.stream) };
        explain("cuStreamSynchronize", drained)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.enter().is_ok() {
            // SAFETY: what is not null exists, belongs to the current context, and is used no more.
            // A call that fails finds the context broken, and then nothing is left to give back.
            unsafe {
                if !self.event.is_null() {
                    result::event::destroy(self.event).ok();
                }
                if !self.stream.is_null() {
                    result::stream::destroy(self.stream).ok();
                }
            }
        }
        // SAFETY: `open` retained it once.
        unsafe { result::primary_ctx::release(self.device) }.ok();
    }
}

/// A sentence about what the driver answered.
pub(super) fn explain<T>(call: &str, answer: Result<T, result::DriverError>) -> Result<T, String> {
    answer.map_err(|error| {
        let text = error.error_string().ok().map(|text| text.to_string_lossy());
        format!(
            "{call} says {}",
            text.unwrap_or_else(|| format!("{:?}", error.0).into())
        )
    })
}
