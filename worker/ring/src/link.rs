//! The two connections of a rank, and the one judgement about them.
//!
//! An outgoing link leads to the successor, an incoming one comes from the predecessor. Frames of
//! collectives go forward only; heartbeats and farewells go both ways, so each end of each link
//! hears from the other. **Readers judge, writers only stop**: what became of a peer is in the
//! bytes it sent last, and a failed write would hide them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::RingError;
use crate::frame::{self, HEADER_BYTES, Header, Kind};

/// How often each end of a link says that it lives.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(250);

/// How long a farewell may wait for room in a socket's buffer before it is dropped.
const FAREWELL: Duration = Duration::from_millis(50);

/// How long a stopped writer waits for the reader's judgement.
const JUDGEMENT: Duration = Duration::from_secs(1);

/// Called once, from a thread of the ring, when the ring breaks.
pub type OnBroken = Arc<dyn Fn(RingError) + Send + Sync>;

/// Locks; a panic of another thread while it held the lock does not make its data wrong here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection to a neighbour.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: usize,
    stream: TcpStream,
    turn: Mutex<()>,
}

impl Link {
    pub(crate) fn new(peer: usize, stream: TcpStream) -> Result<Self, RingError> {
        let configure = || {
            stream.set_nonblocking(false)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(HEARTBEAT))
        };
        configure().map_err(|error| RingError::io("configure a ring socket", error))?;
        Ok(Self {
            peer,
            stream,
            turn: Mutex::new(()),
        })
    }

    /// Writes whole frames; returns whether the connection took them.
    pub(crate) fn write(&self, frames: &[u8]) -> bool {
        let _turn = lock(&self.turn);
        (&self.stream).write_all(frames).is_ok()
    }

    /// Says goodbye unless another frame is half written or the peer takes no more.
    fn farewell(&self, frame: &[u8]) {
        let Ok(_turn) = self.turn.try_lock() else {
            return;
        };
        if self.stream.set_write_timeout(Some(FAREWELL)).is_ok() {
            // Best effort: a peer that misses it sees the connection end.
            (&self.stream).write_all(frame).ok();
        }
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

/// Both links of a rank in one generation: shared by its trainer, its I/O threads and its abort.
pub(crate) struct Links {
    pub(crate) generation: u64,
    pub(crate) outgoing: Link,
    pub(crate) incoming: Link,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    silence: Duration,
    grace: Duration,
    on_broken: Option<OnBroken>,
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
    /// `grace` is added to `silence` until a peer's first byte: it may still be forming its ring.
    pub(crate) fn new(
        generation: u64,
        (outgoing, incoming): (Link, Link),
        (silence, grace): (Duration, Duration),
        on_broken: Option<OnBroken>,
    ) -> Self {
        Self {
            generation,
            outgoing,
            incoming,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            silence,
            grace,
            on_broken,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Breaks the ring: the first reason counts, is passed on to both neighbours, and everybody
    /// blocked on a socket or a queue of this ring wakes up.
    pub(crate) fn fail(&self, error: RingError) {
        {
            let mut state = lock(&self.state);
            if state.fault.is_some() {
                return;
            }
            state.fault = Some(error.clone());
            self.changed.notify_all();
        }
        let farewell = frame::leave(self.generation, error.accused());
        self.incoming.farewell(&farewell);
        self.outgoing.farewell(&farewell);
        self.close();
        let expected = matches!(error, RingError::Aborted { .. } | RingError::Left { .. });
        if let Some(on_broken) = self.on_broken.as_ref().filter(|_| !expected) {
            on_broken(error);
        }
    }

    /// Begins a departure on purpose: nothing that happens from here on is a fault. The sender
    /// still delivers what is queued. Returns whether the links were whole.
    pub(crate) fn leave(&self) -> bool {
        let mut state = lock(&self.state);
        let whole = state.fault.is_none();
        let left = || RingError::Aborted {
            reason: "this rank closed its ring".to_owned(),
        };
        state.fault.get_or_insert_with(left);
        self.changed.notify_all();
        drop(state);
        if whole {
            self.incoming.farewell(&frame::leave(self.generation, None));
        }
        whole
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

    /// Why a queue to an I/O thread ended.
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

    /// Waits out a heartbeat's interval; `false` as soon as the ring is broken or closed.
    pub(crate) fn pause(&self) -> bool {
        let (state, _) = self
            .changed
            .wait_timeout_while(lock(&self.state), HEARTBEAT, |state| state.fault.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.fault.is_none()
    }
}

/// Takes frames from one link and keeps the time since its last byte.
pub(crate) struct Reader<'a> {
    links: &'a Links,
    link: &'a Link,
    head: [u8; HEADER_BYTES],
    filled: usize,
    heard: Instant,
    patience: Duration,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(links: &'a Links, link: &'a Link) -> Self {
        let patience = links.silence + links.grace;
        Self {
            links,
            link,
            head: [0; HEADER_BYTES],
            filled: 0,
            heard: Instant::now(),
            patience,
        }
    }

    /// Restarts the clock after a time in which this rank did not listen.
    pub(crate) fn listen_again(&mut self) {
        self.heard = Instant::now();
    }

    /// Waits up to a heartbeat's interval for the next header.
    pub(crate) fn header(&mut self) -> Result<Option<Header>, RingError> {
        let (mut head, filled) = (self.head, self.filled);
        self.filled += self.read(&mut head[filled..])?;
        self.head = head;
        if self.filled < HEADER_BYTES {
            return Ok(None);
        }
        self.filled = 0;
        let header = Header::decode(&self.head, self.links.generation);
        let header = header.map_err(|error| self.broken(error))?;
        if !header.stamp.kind.is_data() {
            self.verify(&header, &[])?;
        }
        if header.stamp.kind == Kind::Leave
            && let Some(rank) = header.accused()
        {
            let reason = format!("rank {} reports it", self.link.peer);
            return Err(RingError::PeerLost { rank, reason });
        }
        Ok(Some(header))
    }

    /// Reads the payload of `header` into `payload`, which is as long as the header says.
    pub(crate) fn payload(&mut self, header: &Header, payload: &mut [u8]) -> Result<(), RingError> {
        let mut filled = 0;
        while filled < payload.len() {
            filled += self.read(&mut payload[filled..])?;
        }
        self.verify(header, payload)
    }

    fn verify(&self, header: &Header, payload: &[u8]) -> Result<(), RingError> {
        header
            .verify(&self.head, payload)
            .map_err(|error| self.broken(error))
    }

    fn broken(&self, error: frame::FrameError) -> RingError {
        RingError::Protocol {
            rank: self.link.peer,
            reason: error.to_string(),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, RingError> {
        let rank = self.link.peer;
        match (&self.link.stream).read(into) {
            Ok(0) => {
                let reason = "it closed the connection without a farewell".to_owned();
                Err(RingError::PeerLost { rank, reason })
            }
            Ok(count) => {
                self.heard = Instant::now();
                self.patience = self.links.silence;
                self.links
                    .received
                    .fetch_add(count as u64, Ordering::Relaxed);
                Ok(count)
            }
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => Ok(0),
                ErrorKind::WouldBlock | ErrorKind::TimedOut
                    if self.heard.elapsed() < self.patience =>
                {
                    Ok(0)
                }
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(RingError::Silent {
                    rank,
                    seconds: self.heard.elapsed().as_secs_f64(),
                }),
                _ => Err(RingError::PeerLost {
                    rank,
                    reason: error.to_string(),
                }),
            },
        }
    }
}
