//! One rank's communicator: joining, polling and ending it without ever blocking for long.
//!
//! It is configured as non-blocking, so NCCL works on threads of its own and is asked how far it
//! is. Ending one does block, though, and has been seen to block for ever when a peer is gone, so
//! that happens on a thread which is waited for only so long. If it takes longer, that thread keeps
//! everything it needs.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::mem::offset_of;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use cudarc::nccl::sys;

use super::bootstrap::{Id, Joiner};
use super::device::Device;
use super::library::Library;
use super::supervise;

/// How long peers get to take what was sent before an idle communicator is aborted after all.
const FLUSH: Duration = Duration::from_secs(2);

/// How long an abort may take. Kernels notice it at once; NCCL's threads and connections need more.
const ABORT: Duration = Duration::from_secs(10);

const NAP: Duration = Duration::from_millis(1);

/// What a rank needs to join: its device and the library, once it has found out that it has both.
pub(super) struct Candidate {
    ordinal: usize,
    ready: Option<(Library, Device)>,
}

impl Candidate {
    pub(super) fn new(ordinal: usize) -> Self {
        Self {
            ordinal,
            ready: None,
        }
    }
}

impl Joiner for Candidate {
    type Communicator = Communicator;

    fn ready(&mut self) -> Result<(), String> {
        if std::env::var_os("NCCL_COMM_BLOCKING").is_some_and(|value| value != "0") {
            return Err("NCCL_COMM_BLOCKING is set, and then a join cannot be given up".into());
        }
        let library = Library::load().map_err(|error| error.to_string())?;
        self.ready = Some((library, Device::open(self.ordinal)?));
        Ok(())
    }

    fn id(&mut self) -> Result<Id, String> {
        let (library, device) = self.ready.as_ref().ok_or("this rank is not ready")?;
        device.enter()?;
        library.unique_id()
    }

    fn join(&mut self, id: &Id, rank: usize, world: usize) -> Result<Communicator, String> {
        let (library, device) = self.ready.take().ok_or("this rank is not ready")?;
        Communicator::join(library, device, id, (rank, world))
    }
}

/// Everything that ending a communicator takes.
struct Parts {
    library: Library,
    device: Device,
    /// NCCL writes the handle here when the call returns and, in some versions, again when the join
    /// has ended: so it lies where it can stay for that long.
    handle: Arc<AtomicPtr<sys::ncclComm>>,
}

/// A communicator that is joining or has joined. Dropping it aborts it unless it has ended.
pub(super) struct Communicator {
    /// `None` once it has ended.
    parts: Option<Parts>,
    marked: bool,
}

impl Communicator {
    pub(super) fn join(
        library: Library,
        device: Device,
        id: &Id,
        (rank, world): (usize, usize),
    ) -> Result<Self, String> {
        device.enter()?;
        let handle = Arc::new(AtomicPtr::new(ptr::null_mut()));
        let place = handle.as_ptr();
        let id = sys::ncclUniqueId {
            internal: id.map(|byte| byte as c_char),
        };
        let mut config = config();
        let communicator = Self {
            parts: Some(Parts {
                library,
                device,
                handle,
            }),
            marked: false,
        };
        // SAFETY: `place` lives until the communicator has ended, the configuration is complete up
        // to the size it names and read before the call returns, and the device is current.
        let code = unsafe {
            (library.init_rank)(place, world as c_int, id, rank as c_int, &raw mut config)
        };
        library.verdict("ncclCommInitRankConfig", code)?;
        Ok(communicator)
    }

    pub(super) fn library(&self) -> Option<Library> {
        self.parts.as_ref().map(|parts| parts.library)
    }

    /// Calls a collective with this communicator's handle and stream, its device being current.
    pub(super) fn call(
        &mut self,
        name: &str,
        collective: impl FnOnce(&Library, sys::ncclComm_t, sys::cudaStream_t) -> c_uint,
    ) -> Result<(), String> {
        let parts = self.parts.as_ref().ok_or("the communicator has ended")?;
        parts.device.enter()?;
        self.marked = false;
        let stream = parts.device.stream().cast::<c_void>().cast();
        let code = collective(&parts.library, parts.handle(), stream);
        parts.library.verdict(name, code).map(drop)
    }

    /// Runs `end` with the parts on a thread of its own.
    fn end(
        &mut self,
        limit: Duration,
        end: impl FnOnce(&Parts) -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        let Some(parts) = self.parts.take() else {
            return Ok(());
        };
        let ended = within(limit, "nccl-end", move || end(&parts));
        ended.unwrap_or_else(|| Err(format!("ncclCommAbort takes longer than {limit:?}")))
    }
}

impl supervise::Communicator for Communicator {
    fn settled(&mut self) -> Result<bool, String> {
        self.parts
            .as_ref()
            .ok_or("the communicator has ended")?
            .settled()
    }

    fn finished(&mut self) -> Result<bool, String> {
        let parts = self.parts.as_ref().ok_or("the communicator has ended")?;
        // Only what the library has handed to the stream can be marked there.
        if !parts.settled()? {
            return Ok(false);
        }
        if !self.marked {
            parts.device.mark()?;
            self.marked = true;
        }
        parts.device.passed()
    }

    fn abort(&mut self) -> Result<(), String> {
        self.end(ABORT, Parts::abort)
    }

    fn close(&mut self) -> Result<(), String> {
        self.end(FLUSH + ABORT, Parts::close)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if let Err(reason) = self.end(ABORT, Parts::abort) {
            tracing::error!("a communicator does not end: {reason}");
        }
    }
}

impl Parts {
    fn handle(&self) -> sys::ncclComm_t {
        self.handle.load(Ordering::Acquire)
    }

    fn settled(&self) -> Result<bool, String> {
        let mut state = sys::ncclResult_t::ncclInProgress as c_uint;
        // SAFETY: the communicator has not ended, and `state` is a place for a result.
        let code = unsafe { (self.library.get_async_error)(self.handle(), &raw mut state) };
        self.library.verdict("ncclCommGetAsyncError", code)?;
        self.library.verdict("NCCL", state)
    }

    /// Blocks until the device has left the communicator's kernels.
    fn abort(&self) -> Result<(), String> {
        self.device.enter()?;
        if !self.handle().is_null() {
            // SAFETY: the communicator has not ended, and whoever had it gave it away to end it.
            let code = unsafe { (self.library.abort)(self.handle()) };
            if let Err(reason) = self.library.verdict("ncclCommAbort", code) {
                // Whether the stream empties is what counts.
                tracing::warn!("{reason}");
            }
        }
        self.device.drain()
    }

    /// Blocks until peers have taken what was sent, at most for [`FLUSH`].
    fn close(&self) -> Result<(), String> {
        self.device.enter()?;
        let started = Instant::now();
        // SAFETY: the communicator has not ended, and nothing more will be asked of it.
        let code = unsafe { (self.library.finalize)(self.handle()) };
        let mut flushed = self.library.verdict("ncclCommFinalize", code);
        while let Ok(false) = flushed {
            if started.elapsed() >= FLUSH {
                return self.abort();
            }
            thread::sleep(NAP);
            flushed = self.settled();
        }
        if let Err(reason) = flushed {
            tracing::debug!("a communicator is aborted instead of closed: {reason}");
            return self.abort();
        }
        // SAFETY: it is finalized, and this is the last call with it.
        let code = unsafe { (self.library.destroy)(self.handle()) };
        self.library.verdict("ncclCommDestroy", code).map(drop)
    }
}

/// Non-blocking, everything else as NCCL likes it: the part of the configuration that 2.18 knew, so
/// that older and newer libraries read the same.
fn config() -> sys::ncclConfig_t {
    const UNDEFINED: c_int = c_int::MIN;
    sys::ncclConfig_t {
        size: offset_of!(sys::ncclConfig_t, trafficClass),
        magic: 0xcafe_beef,
        version: 21_800,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
        graphUsageMode: UNDEFINED,
        numRmaCtx: UNDEFINED,
        maxP2pPeers: UNDEFINED,
    }
}

/// What `work` returns, or `None` if that takes longer than `limit`; its thread then goes on.
fn within<T: Send + 'static>(
    limit: Duration,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = sync_channel(1);
    let thread = thread::Builder::new().name(name.to_owned());
    let spawned = thread.spawn(move || done.send(work()).ok());
    spawned.ok()?;
    result.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_waited_for_only_so_long() {
        let (_held, never) = sync_channel::<()>(0);
        assert_eq!(
            within(Duration::from_millis(20), "never", move || never.recv()),
            None
        );
    }

    #[test]
    fn what_ends_is_returned() {
        assert_eq!(within(Duration::from_secs(60), "soon", || 7), Some(7));
    }

    #[test]
    fn the_configuration_ends_where_that_of_2_18_did() {
        let config = config();
        assert_eq!(config.size, 44);
        assert_eq!((config.magic, config.blocking), (0xcafe_beef, 0));
    }
}
