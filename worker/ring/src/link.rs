//! The two connections of a rank, and the one judgement about them.
//!
//! An outgoing link leads to the successor, an incoming one comes from the predecessor. Frames of
//! collectives go forward only; heartbeats and farewells go both ways, so each end of each link
//! hears from the other. **Readers judge, writers only stop**: what became of a peer is in the
//! bytes it sent last, and a failed write would hide them.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::RingError;
use crate::frame::{self, HEADER_BYTES};
use crate::plane::Plane;

/// How often each end of a link says that it lives.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(250);

/// How long a control frame may wait for room in a socket's buffer, and a farewell for the trainer
/// to let go of the links.
const FAREWELL: Duration = Duration::from_millis(50);

/// How often a lock that another thread is about to release is tried.
const RETRY: Duration = Duration::from_micros(200);

/// How long a writer that cannot go on waits for a reader's judgement.
const JUDGEMENT: Duration = Duration::from_secs(1);

/// How long a lost predecessor may yet be explained: the news of another rank's death comes the
/// other way around the ring, within milliseconds.
const NEWS: Duration = Duration::from_millis(200);

/// Called once, from a thread of the ring, when the ring breaks.
pub type OnBroken = Arc<dyn Fn(RingError) + Send + Sync>;

/// Locks; a panic of another thread while it held the lock does not make its data wrong here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection to a neighbour; its socket never blocks.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: usize,
    pub(crate) stream: TcpStream,
}

impl Link {
    pub(crate) fn new(peer: usize, stream: TcpStream) -> Result<Self, RingError> {
        let configure = || {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)
        };
        configure().map_err(|error| RingError::io("configure a ring socket", error))?;
        Ok(Self { peer, stream })
    }

    /// Writes a control frame whole, or nothing of it where the peer takes no more; the caller
    /// alone writes to this direction. A frame that stays half written ends the direction. Returns
    /// how many bytes were written.
    pub(crate) fn control(&self, frame: &[u8]) -> usize {
        let (mut written, started) = (0, Instant::now());
        while written < frame.len() {
            match (&self.stream).write(&frame[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && written > 0 => {
                    if started.elapsed() >= FAREWELL {
                        self.shutdown(Shutdown::Write);
                        break;
                    }
                    let mut room = [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)];
                    // Fails only as the write would; it is asked again either way.
                    poll(&mut room, PollTimeout::from(10_u8)).ok();
                }
                // The peer's end of the connection says what became of it, not this one.
                Err(_) => break,
            }
        }
        written
    }

    /// Ends one or both directions, waking whoever is blocked in them.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        // Fails only if the connection has ended already.
        self.stream.shutdown(how).ok();
    }
}

#[derive(Debug, Default)]
struct State {
    fault: Option<RingError>,
    left: Option<usize>,
}

impl State {
    fn error(&self) -> Option<RingError> {
        let left = self.left.map(|rank| RingError::Left { rank });
        self.fault.clone().or(left)
    }
}

/// Both links of a rank in one generation: shared by its trainer, its keeper and its abort.
pub(crate) struct Links {
    pub(crate) generation: u64,
    /// (How long a peer may be silent, how much longer until its first byte.)
    pub(crate) patience: (Duration, Duration),
    /// A whole frame, made once.
    pub(crate) heartbeat: [u8; HEADER_BYTES],
    pub(crate) outgoing: Link,
    pub(crate) incoming: Link,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    /// Nanoseconds in which a frame from the predecessor was under way.
    pub(crate) arriving: AtomicU64,
    /// Nanoseconds that the keeper worked.
    pub(crate) keeping: AtomicU64,
    /// Readable once the ring is broken or closing: wakes whoever polls a socket.
    pub(crate) wake: EventFd,
    on_broken: Option<OnBroken>,
    plane: Mutex<Plane>,
    /// Held while something is written to the predecessor.
    back: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Links {
    pub(crate) fn new(
        generation: u64,
        (outgoing, incoming): (Link, Link),
        plane: Plane,
        patience: (Duration, Duration),
        on_broken: Option<OnBroken>,
    ) -> Result<Self, RingError> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|error| RingError::io("make an event descriptor", error))?;
        Ok(Self {
            generation,
            patience,
            heartbeat: frame::heartbeat(generation),
            outgoing,
            incoming,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            arriving: AtomicU64::new(0),
            keeping: AtomicU64::new(0),
            wake,
            on_broken,
            plane: Mutex::new(plane),
            back: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// The forward direction of both links, for the length of one collective.
    pub(crate) fn plane(&self) -> MutexGuard<'_, Plane> {
        lock(&self.plane)
    }

    /// The same, unless somebody has it.
    pub(crate) fn idle_plane(&self) -> Option<MutexGuard<'_, Plane>> {
        match self.plane.try_lock() {
            Ok(plane) => Some(plane),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Breaks the ring: the first reason counts, is passed on to both neighbours, and everybody
    /// blocked on a socket of this ring wakes up. The caller does not hold the plane.
    pub(crate) fn fail(&self, error: RingError) {
        {
            let mut state = lock(&self.state);
            if state.fault.is_some() {
                return;
            }
            state.fault = Some(error.clone());
            self.end_waits();
        }
        let farewell = frame::leave(self.generation, error.accused());
        self.tell_predecessor(&farewell);
        self.tell_successor(&farewell);
        self.close();
        let expected = matches!(error, RingError::Aborted { .. } | RingError::Left { .. });
        if let Some(on_broken) = self.on_broken.as_ref().filter(|_| !expected) {
            on_broken(error);
        }
    }

    /// Begins a departure on purpose: nothing that happens from here on is a fault. Returns
    /// whether the links were whole; then both neighbours are told, and the successor finds
    /// everything that was sent to it before.
    pub(crate) fn leave(&self) -> bool {
        let mut state = lock(&self.state);
        let whole = state.fault.is_none();
        let left = || RingError::Aborted {
            reason: "this rank closed its ring".to_owned(),
        };
        state.fault.get_or_insert_with(left);
        self.end_waits();
        drop(state);
        if whole {
            let farewell = frame::leave(self.generation, None);
            self.tell_predecessor(&farewell);
            self.tell_successor(&farewell);
            self.outgoing.shutdown(Shutdown::Write);
        }
        whole
    }

    fn end_waits(&self) {
        self.changed.notify_all();
        // Fails only if the counter is full, and then it is readable.
        self.wake.write(1).ok();
    }

    /// Writes a control frame in the back direction.
    pub(crate) fn tell_predecessor(&self, frame: &[u8]) {
        let _turn = lock(&self.back);
        self.incoming.control(frame);
    }

    /// Says goodbye in the forward direction, unless a frame is half written there: then the
    /// successor sees the connection end.
    fn tell_successor(&self, farewell: &[u8]) {
        let started = Instant::now();
        let plane = loop {
            match self.idle_plane() {
                None if started.elapsed() < FAREWELL => thread::sleep(RETRY),
                plane => break plane,
            }
        };
        if plane.is_some_and(|plane| plane.sender.is_between_frames()) {
            self.outgoing.control(farewell);
        }
    }

    pub(crate) fn close(&self) {
        self.outgoing.shutdown(Shutdown::Both);
        self.incoming.shutdown(Shutdown::Both);
    }

    /// A peer said goodbye without accusing anybody. What it sent before remains valid, so the
    /// ring works on until it needs that peer.
    pub(crate) fn departed(&self, rank: usize) {
        lock(&self.state).left.get_or_insert(rank);
        self.changed.notify_all();
    }

    /// What is known to be wrong.
    pub(crate) fn health(&self) -> Option<RingError> {
        lock(&self.state).error()
    }

    /// `Err` once the ring is broken; a peer that merely left does not break it.
    pub(crate) fn check(&self) -> Result<(), RingError> {
        lock(&self.state).fault.clone().map_or(Ok(()), Err)
    }

    /// Whether the ring is broken or this rank is leaving it.
    pub(crate) fn is_over(&self) -> bool {
        lock(&self.state).fault.is_some()
    }

    /// Waits a little where `error` is that the predecessor is lost. It may have hung up because of
    /// another rank, without a farewell, in the middle of a frame or before a full buffer; the way
    /// back is never full, and what comes from there breaks the ring first.
    pub(crate) fn await_news(&self, error: &RingError) {
        let predecessor = self.incoming.peer;
        if matches!(error, RingError::PeerLost { rank, .. } if *rank == predecessor) {
            let unknown = |state: &mut State| state.fault.is_none();
            // A time without news is an answer too.
            self.changed
                .wait_timeout_while(lock(&self.state), NEWS, unknown)
                .ok();
        }
    }

    /// Why a connection takes no more.
    pub(crate) fn verdict(&self, peer: usize) -> RingError {
        let unknown = |state: &mut State| state.error().is_none();
        let (state, _) = self
            .changed
            .wait_timeout_while(lock(&self.state), JUDGEMENT, unknown)
            .unwrap_or_else(PoisonError::into_inner);
        let reason = || "its connection takes no more data".to_owned();
        state.error().unwrap_or_else(|| RingError::PeerLost {
            rank: peer,
            reason: reason(),
        })
    }
}
