//! Waiting for a device while the TCP ring watches the peers.
//!
//! A collective on devices that misses a peer does not fail, it runs for ever. So nothing here
//! blocks: a wait polls the device and the library, and every few polls asks the TCP ring whether
//! everybody lives. Like the ring, a wait has no deadline of its own, since a peer may rightly
//! compute for long; a peer that lives and never comes is the coordinator's to fence, and that is
//! an abort of the ring.

use std::fmt;
use std::hint;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::RingError;
use crate::link::Links;
use crate::ring::Ring;

/// How long a wait keeps its core: small buckets are done within this.
const SPIN: Duration = Duration::from_micros(100);

/// How long it sleeps between polls after that.
const NAP: Duration = Duration::from_micros(100);

/// How long work goes on after a peer left on purpose. What that peer sent before remains valid, as
/// on the TCP ring, so what needs nothing more from it gets the time to end.
const GRACE: Duration = Duration::from_secs(1);

/// How long the ring may take to say which peer's death a failure of the library came from.
const JUDGEMENT: Duration = Duration::from_secs(1);

/// A communicator, as far as waiting for it and ending it go.
///
/// An error is a sentence without an end, about this rank; after one only `abort` is called.
pub trait Communicator {
    /// Whether the library has done what was asked of it last: joined, or handed an operation to
    /// the device. It may not be asked for more before.
    fn settled(&mut self) -> Result<bool, String>;

    /// Whether the device has done everything that it was given.
    fn finished(&mut self) -> Result<bool, String>;

    /// Ends everything, pending work and joining included, within a bounded time. `Err` says that
    /// the device may still be at work. Nothing is called after it.
    fn abort(&mut self) -> Result<(), String>;

    /// Ends an idle communicator, after what peers still need was delivered, within a bounded time.
    /// Nothing is called after it.
    fn close(&mut self) -> Result<(), String>;
}

/// A communicator whose every failure is final, breaks the ring, and is a [`RingError`].
///
/// Dropping it closes an idle communicator of a whole ring and aborts any other.
pub struct Supervised<C: Communicator> {
    communicator: C,
    watch: Watch,
    pending: bool,
    error: Option<RingError>,
}

impl<C: Communicator> Supervised<C> {
    /// `communicator` has joined all ranks of `ring`, which may be dropped before this.
    pub fn new(ring: &Ring, communicator: C) -> Self {
        Self {
            communicator,
            watch: Watch::over(ring),
            pending: false,
            error: None,
        }
    }

    /// Starts `operation` once the library can take it, and does not wait for the device.
    pub fn enqueue(
        &mut self,
        operation: impl FnOnce(&mut C) -> Result<(), String>,
    ) -> Result<(), RingError> {
        self.check()?;
        self.pending = true;
        let communicator = &mut self.communicator;
        self.watch
            .until(|| communicator.settled())
            .and_then(|()| operation(communicator).map_err(Interrupted::Failed))
            .map_err(|interrupted| self.end(interrupted))
    }

    /// Returns once the device has done everything that was enqueued.
    pub fn wait(&mut self) -> Result<(), RingError> {
        self.check()?;
        let communicator = &mut self.communicator;
        self.watch
            .until(|| communicator.finished())
            .map_err(|interrupted| self.end(interrupted))?;
        self.pending = false;
        Ok(())
    }

    /// Ends it because the caller cannot go on: the other ranks would wait for ever.
    pub fn refuse(&mut self, error: RingError) -> RingError {
        match self.check() {
            Ok(()) => self.end(Interrupted::Ring(error)),
            Err(earlier) => earlier,
        }
    }

    fn check(&self) -> Result<(), RingError> {
        self.error.clone().map_or(Ok(()), Err)
    }

    /// Tells the ring first: its other ranks wait until they hear of it, and an abort may take long.
    fn end(&mut self, interrupted: Interrupted) -> RingError {
        let error = self.watch.verdict(interrupted);
        self.watch.fail(&error);
        let error = match self.communicator.abort() {
            Ok(()) => error,
            Err(reason) => RingError::Wedged {
                reason: format!("{reason}, after \"{error}\""),
            },
        };
        self.error = Some(error.clone());
        error
    }
}

impl<C: Communicator> Drop for Supervised<C> {
    fn drop(&mut self) {
        if self.error.is_some() {
            return;
        }
        // A peer that left has what it needs; others may still be taking theirs.
        let whole = matches!(self.watch.health(), None | Some(RingError::Left { .. }));
        let ended = match whole && !self.pending {
            true => self.communicator.close(),
            false => self.communicator.abort(),
        };
        if let Err(reason) = ended {
            tracing::error!("a communicator does not end: {reason}; end this process");
        }
    }
}

impl<C: Communicator> fmt::Debug for Supervised<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervised")
            .field("pending", &self.pending)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// Why a wait ended without its end.
enum Interrupted {
    Failed(String),
    Ring(RingError),
}

/// An eye on the ring's links that does not keep them open.
struct Watch {
    /// `None` in a world of one.
    links: Option<Weak<Links>>,
}

impl Watch {
    fn over(ring: &Ring) -> Self {
        Self {
            links: ring.links().map(Arc::downgrade),
        }
    }

    fn health(&self) -> Option<RingError> {
        let closed = || RingError::Aborted {
            reason: "this rank closed its ring".to_owned(),
        };
        let links = self.links.as_ref()?;
        links
            .upgrade()
            .map_or_else(|| Some(closed()), |links| links.health())
    }

    fn fail(&self, error: &RingError) {
        if let Some(links) = self.links.as_ref().and_then(Weak::upgrade) {
            links.fail(error.clone());
        }
    }

    fn until(&self, mut poll: impl FnMut() -> Result<bool, String>) -> Result<(), Interrupted> {
        let started = Instant::now();
        let mut departed = None;
        loop {
            if poll().map_err(Interrupted::Failed)? {
                return Ok(());
            }
            if started.elapsed() < SPIN {
                hint::spin_loop();
                continue;
            }
            let leaving = |departed: &mut Option<Instant>| {
                departed.get_or_insert_with(Instant::now).elapsed() < GRACE
            };
            match self.health() {
                None => {}
                Some(RingError::Left { .. }) if leaving(&mut departed) => {}
                Some(error) => return Err(Interrupted::Ring(error)),
            }
            thread::sleep(NAP);
        }
    }

    /// What the caller gets. NCCL often fails because a peer died, and never knows which.
    fn verdict(&self, interrupted: Interrupted) -> RingError {
        let reason = match interrupted {
            Interrupted::Ring(error) => return error,
            Interrupted::Failed(reason) => reason,
        };
        tracing::warn!("NCCL failed: {reason}");
        let started = Instant::now();
        while started.elapsed() < JUDGEMENT {
            if let Some(error) = self.health() {
                return error;
            }
            thread::sleep(NAP);
        }
        RingError::Nccl { reason }
    }
}
