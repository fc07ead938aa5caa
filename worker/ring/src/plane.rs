//! Frames in and out of sockets that never block: the two ends of a rank's forward direction.
//!
//! Payloads are written from the memory that holds them and read into the memory that wants them.
//! Nothing here waits; a call goes as far as the sockets allow and says whether that was enough.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::error::RingError;
use crate::frame::{FrameError, HEADER_BYTES, Header, Kind, PAYLOAD_MAX, Stamp};
use crate::link::{HEARTBEAT, Link, Links};

/// What one thread at a time needs to move frames forward.
pub(crate) struct Plane {
    pub(crate) inlet: Inlet,
    pub(crate) outlet: Outlet,
    /// For payloads that are added to something, or converted.
    pub(crate) arrived: Box<[u8]>,
    /// For payloads that memory does not hold as they travel.
    pub(crate) encoded: Box<[u8]>,
    beat: Instant,
}

impl Plane {
    pub(crate) fn new(patience: (Duration, Duration)) -> Self {
        let buffer = || vec![0; PAYLOAD_MAX].into_boxed_slice();
        Self {
            inlet: Inlet::new(patience),
            outlet: Outlet::default(),
            arrived: buffer(),
            encoded: buffer(),
            beat: Instant::now(),
        }
    }

    /// Tells the successor that this rank lives, if that is due and no frame is under way.
    pub(crate) fn beat(&mut self, links: &Links) {
        if self.outlet.is_idle() && self.beat.elapsed() >= HEARTBEAT {
            self.beat = Instant::now();
            let written = links.outgoing.control(&links.heartbeat);
            links.sent.fetch_add(written as u64, Ordering::Relaxed);
        }
    }
}

/// The frame that is on its way out.
#[derive(Default)]
pub(crate) struct Outlet {
    head: Option<[u8; HEADER_BYTES]>,
    written: usize,
}

impl Outlet {
    pub(crate) fn is_idle(&self) -> bool {
        self.head.is_none()
    }

    /// Begins a frame; nothing is written yet.
    pub(crate) fn begin(&mut self, generation: u64, stamp: Stamp, payload: &[u8]) {
        debug_assert!(self.is_idle());
        self.head = Some(Header::encode(generation, stamp, payload));
        self.written = 0;
    }

    /// Writes what the socket takes of the frame that was begun with this `payload`; `true` once
    /// all of it is written.
    pub(crate) fn push(&mut self, links: &Links, payload: &[u8]) -> Result<bool, RingError> {
        let Some(head) = &self.head else {
            return Ok(true);
        };
        while self.written < HEADER_BYTES + payload.len() {
            let body = self.written.saturating_sub(HEADER_BYTES);
            let head = &head[self.written.min(HEADER_BYTES)..];
            let rest = [IoSlice::new(head), IoSlice::new(&payload[body..])];
            match (&links.outgoing.stream).write_vectored(&rest) {
                Ok(count) => {
                    self.written += count;
                    links.sent.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(false),
                    ErrorKind::Interrupted => {}
                    _ => return Err(links.verdict(links.outgoing.peer)),
                },
            }
        }
        self.head = None;
        Ok(true)
    }
}

/// Takes frames from one neighbour and keeps the time since its last byte.
pub(crate) struct Inlet {
    head: [u8; HEADER_BYTES],
    filled: usize,
    /// The frame whose payload comes next, and how much of that was taken.
    frame: Option<Header>,
    taken: usize,
    heard: Instant,
    patience: Duration,
    silence: Duration,
    /// The neighbour said goodbye.
    departed: bool,
}

impl Inlet {
    /// `grace` is added to `silence` until the peer's first byte: it may still be forming its ring.
    pub(crate) fn new((silence, grace): (Duration, Duration)) -> Self {
        Self {
            head: [0; HEADER_BYTES],
            filled: 0,
            frame: None,
            taken: 0,
            heard: Instant::now(),
            patience: silence + grace,
            silence,
            departed: false,
        }
    }

    /// Whether the neighbour said goodbye: it sends nothing more.
    pub(crate) fn has_departed(&self) -> bool {
        self.departed
    }

    /// Whether a payload waits for whoever wants it.
    pub(crate) fn holds_data(&self) -> bool {
        self.frame.is_some()
    }

    /// Takes control frames up to the next frame of data or the last byte that is here.
    pub(crate) fn listen(&mut self, links: &Links, link: &Link) -> Result<(), RingError> {
        while self.frame.is_none() && !self.departed {
            let Some(header) = self.header(links, link)? else {
                return Ok(());
            };
            match header.stamp.kind {
                Kind::Heartbeat => {}
                Kind::Leave => {
                    self.departed = true;
                    links.departed(link.peer);
                    // Tells the neighbour that everything was read.
                    link.shutdown(Shutdown::Both);
                }
                _ => self.frame = Some(header),
            }
        }
        Ok(())
    }

    /// Refuses a neighbour of which not one byte came in time. Who leaves data unread has not
    /// listened, and cannot judge.
    pub(crate) fn judge(&self, link: &Link) -> Result<(), RingError> {
        if self.departed || self.heard.elapsed() < self.patience {
            return Ok(());
        }
        Err(RingError::Silent {
            rank: link.peer,
            seconds: self.heard.elapsed().as_secs_f64(),
        })
    }

    /// Restarts the clock after a time in which this rank did not listen.
    pub(crate) fn listen_again(&mut self) {
        self.heard = Instant::now();
    }

    /// Reads what is here of the next frame of data, which must be the one with this stamp and as
    /// long as `into`; `true` once all of it is there and undamaged.
    pub(crate) fn pull(
        &mut self,
        links: &Links,
        link: &Link,
        stamp: Stamp,
        into: &mut [u8],
    ) -> Result<bool, RingError> {
        self.listen(links, link)?;
        let Some(header) = self.frame else {
            let left = RingError::Left { rank: link.peer };
            return if self.departed { Err(left) } else { Ok(false) };
        };
        if header.stamp != stamp || header.length as usize != into.len() {
            let reason = format!(
                "expected {} bytes of {stamp:?}, received {} of {:?}",
                into.len(),
                header.length,
                header.stamp
            );
            let rank = link.peer;
            return Err(RingError::Protocol { rank, reason });
        }
        while self.taken < into.len() {
            match self.read(links, link, &mut into[self.taken..])? {
                0 => return Ok(false),
                count => self.taken += count,
            }
        }
        (self.frame, self.taken) = (None, 0);
        header
            .verify(&self.head, into)
            .map_err(|error| broken(link, &error))?;
        Ok(true)
    }

    /// The next header, if all of it is here.
    fn header(&mut self, links: &Links, link: &Link) -> Result<Option<Header>, RingError> {
        while self.filled < HEADER_BYTES {
            let (mut head, filled) = (self.head, self.filled);
            let count = self.read(links, link, &mut head[filled..])?;
            if count == 0 {
                return Ok(None);
            }
            self.head = head;
            self.filled += count;
        }
        self.filled = 0;
        let header = Header::decode(&self.head, links.generation)
            .and_then(|header| match header.stamp.kind.is_data() {
                true => Ok(header),
                false => header.verify(&self.head, &[]).map(|()| header),
            })
            .map_err(|error| broken(link, &error))?;
        if header.stamp.kind == Kind::Leave
            && let Some(rank) = header.accused()
        {
            let reason = format!("rank {} reports it", link.peer);
            return Err(RingError::PeerLost { rank, reason });
        }
        Ok(Some(header))
    }

    /// Bytes read; 0 if none are here.
    fn read(&mut self, links: &Links, link: &Link, into: &mut [u8]) -> Result<usize, RingError> {
        let lost = |reason: String| RingError::PeerLost {
            rank: link.peer,
            reason,
        };
        loop {
            match (&link.stream).read(into) {
                Ok(0) => {
                    let reason = "it closed the connection without a farewell";
                    return Err(lost(reason.to_owned()));
                }
                Ok(count) => {
                    self.heard = Instant::now();
                    self.patience = self.silence;
                    links.received.fetch_add(count as u64, Ordering::Relaxed);
                    return Ok(count);
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => return Ok(0),
                    _ => return Err(lost(error.to_string())),
                },
            }
        }
    }
}

fn broken(link: &Link, error: &FrameError) -> RingError {
    RingError::Protocol {
        rank: link.peer,
        reason: error.to_string(),
    }
}
