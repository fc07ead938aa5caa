//! Frames over a link's socket, which never blocks.
//!
//! Payloads are written from the memory that holds them and read into the memory that wants them.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use crate::error::RingError;
use crate::frame::{FrameError, HEADER_BYTES, Header, Kind, PAYLOAD_MAX, Stamp};
use crate::link::{Link, Links};
use crate::plane::{Content, Receiving, Sending, Target, Watched};
use crate::silence::Silence;

fn buffer() -> Box<[u8]> {
    vec![0; PAYLOAD_MAX].into_boxed_slice()
}

/// Data to the successor over the link's socket.
pub(crate) struct TcpSender {
    /// The header of the frame that is on its way out.
    head: Option<[u8; HEADER_BYTES]>,
    written: usize,
    /// For payloads that memory does not hold as they travel.
    encoded: Box<[u8]>,
}

impl TcpSender {
    pub(crate) fn new() -> Self {
        Self {
            head: None,
            written: 0,
            encoded: buffer(),
        }
    }
}

impl Sending for TcpSender {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn send(
        &mut self,
        links: &Links,
        stamp: Stamp,
        content: Content<'_>,
    ) -> Result<bool, RingError> {
        let payload = match content {
            Content::Memory(memory) => memory,
            Content::Encode(length, write) => {
                let encoded = &mut self.encoded[..length];
                if self.head.is_none() {
                    write(encoded);
                }
                encoded
            }
        };
        let begin = || Header::encode(links.generation, stamp, payload);
        let head = self.head.get_or_insert_with(begin);
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
        (self.head, self.written) = (None, 0);
        Ok(true)
    }

    fn is_between_frames(&self) -> bool {
        self.head.is_none()
    }

    fn watch<'a>(&'a self, links: &'a Links) -> Option<Watched<'a>> {
        Some((links.outgoing.stream.as_fd(), PollFlags::POLLOUT))
    }
}

/// Data from the predecessor over the link's socket.
pub(crate) struct TcpReceiver {
    inlet: Inlet,
    /// For payloads that are added to something, or converted.
    arrived: Box<[u8]>,
}

impl TcpReceiver {
    pub(crate) fn new(inlet: Inlet) -> Self {
        Self {
            inlet,
            arrived: buffer(),
        }
    }
}

impl Receiving for TcpReceiver {
    fn control(&mut self) -> &mut Inlet {
        &mut self.inlet
    }

    fn holds_data(&self) -> bool {
        self.inlet.holds_data()
    }

    fn receive(
        &mut self,
        links: &Links,
        stamp: Stamp,
        target: Target<'_>,
    ) -> Result<bool, RingError> {
        match target {
            Target::Memory(memory) => self.inlet.pull(links, &links.incoming, stamp, memory),
            Target::Read(length, read) => {
                let arrived = &mut self.arrived[..length];
                let complete = self.inlet.pull(links, &links.incoming, stamp, arrived)?;
                if complete {
                    read(arrived);
                }
                Ok(complete)
            }
        }
    }

    fn watch<'a>(&'a self, links: &'a Links) -> Option<Watched<'a>> {
        Some((links.incoming.stream.as_fd(), PollFlags::POLLIN))
    }
}

/// Takes frames from one neighbour and keeps the time since its last byte.
pub(crate) struct Inlet {
    head: [u8; HEADER_BYTES],
    filled: usize,
    /// The frame whose payload comes next, and how much of that was taken.
    frame: Option<Header>,
    taken: usize,
    /// When that payload was first wanted.
    wanted: Option<Instant>,
    heard: Instant,
    /// How long the peer may take until its first byte; none once that came.
    first: Option<Duration>,
    silence: Silence,
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
            wanted: None,
            heard: Instant::now(),
            first: Some(silence + grace),
            silence: Silence::new(silence),
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
        let limit = self.first.unwrap_or_else(|| self.silence.limit());
        if self.departed || self.heard.elapsed() < limit {
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
            return self.nothing_yet(link);
        };
        header
            .expect(stamp, into.len())
            .map_err(|error| broken(link, &error))?;
        let wanted = *self.wanted.get_or_insert_with(Instant::now);
        while self.taken < into.len() {
            match self.read(links, link, &mut into[self.taken..])? {
                0 => return Ok(false),
                count => self.taken += count,
            }
        }
        let arriving = wanted.elapsed().as_nanos() as u64;
        links.arriving.fetch_add(arriving, Ordering::Relaxed);
        (self.frame, self.taken, self.wanted) = (None, 0, None);
        header
            .verify(&self.head, into)
            .map_err(|error| broken(link, &error))?;
        Ok(true)
    }

    /// What it means that nothing is here: not yet, or never again.
    pub(crate) fn nothing_yet(&self, link: &Link) -> Result<bool, RingError> {
        let left = RingError::Left { rank: link.peer };
        if self.departed { Err(left) } else { Ok(false) }
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
                    let now = Instant::now();
                    if self.first.take().is_none() {
                        self.silence.ended(now - self.heard);
                    }
                    self.heard = now;
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

/// The error of a peer whose bytes are not what they should be.
pub(crate) fn broken(link: &Link, error: &FrameError) -> RingError {
    RingError::Protocol {
        rank: link.peer,
        reason: error.to_string(),
    }
}
