//! The trainer's end of the links: it moves the frames of a collective itself.
//!
//! No thread stands between a collective and its links, so a frame costs no hand-over and no copy
//! of its own: what arrives is added as soon as it is there, and what was added is sent on.

use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::RingError;
use crate::frame::Stamp;
use crate::keeper::keep;
use crate::link::{HEARTBEAT, Links};
use crate::plane::{Content, Plane, Target};

/// How long a collective stays awake without progress: a small one is over within this. Its core
/// is offered to others all the while.
const AWAKE: Duration = Duration::from_micros(60);

/// How long a closing ring waits for its successor to take what was sent.
const LINGER: Duration = Duration::from_secs(2);

/// The links of a ring and the thread that keeps them.
pub(crate) struct Wire {
    pub(crate) links: Arc<Links>,
    /// Ends when the keeper has.
    delivered: Receiver<()>,
    keeper: Option<JoinHandle<()>>,
}

impl Wire {
    pub(crate) fn start(links: Arc<Links>) -> Result<Self, RingError> {
        let (deliver, delivered) = sync_channel::<()>(0);
        let kept = links.clone();
        let keeper = thread::Builder::new()
            .name("ring-keeper".to_owned())
            .spawn(move || {
                keep(&kept);
                drop(deliver);
            })
            .map_err(|error| RingError::io("start a ring thread", error))?;
        Ok(Self {
            links,
            delivered,
            keeper: Some(keeper),
        })
    }

    /// The forward direction, for one collective.
    pub(crate) fn port(&self) -> Port<'_> {
        Port {
            links: &self.links,
            plane: self.links.plane(),
            stuck: None,
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.links.leave() {
            // Times out only if the successor is alive but takes nothing.
            self.delivered.recv_timeout(LINGER).ok();
        }
        self.links.close();
        if self
            .keeper
            .take()
            .is_some_and(|keeper| keeper.join().is_err())
        {
            tracing::error!(generation = self.links.generation, "a ring thread panicked");
        }
    }
}

/// What a collective waits for.
#[derive(Clone, Copy)]
pub(crate) struct Wants {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// The forward direction of both links while a collective has it.
pub(crate) struct Port<'a> {
    pub(crate) links: &'a Links,
    pub(crate) plane: MutexGuard<'a, Plane>,
    /// Since when nothing moved.
    stuck: Option<Instant>,
}

impl Port<'_> {
    /// Goes on sending one frame; `true` once it is out of this rank's hands.
    pub(crate) fn send(&mut self, stamp: Stamp, content: Content<'_>) -> Result<bool, RingError> {
        self.plane.sender.send(self.links, stamp, content)
    }

    /// Goes on receiving one frame; `true` once the target has had it.
    pub(crate) fn receive(&mut self, stamp: Stamp, target: Target<'_>) -> Result<bool, RingError> {
        self.plane.receiver.receive(self.links, stamp, target)
    }

    /// Sends one frame and receives another, as both links allow; either may be missing.
    pub(crate) fn exchange(
        &mut self,
        mut send: Option<(Stamp, &[u8])>,
        mut receive: Option<(Stamp, &mut [u8])>,
    ) -> Result<(), RingError> {
        loop {
            let mut moved = false;
            if let Some((stamp, payload)) = send
                && self.send(stamp, Content::Memory(payload))?
            {
                (send, moved) = (None, true);
            }
            if let Some((stamp, into)) = &mut receive
                && self.receive(*stamp, Target::Memory(into))?
            {
                (receive, moved) = (None, true);
            }
            let (read, write) = (receive.is_some(), send.is_some());
            if !read && !write {
                return Ok(());
            }
            self.pause(moved, Wants { read, write })?;
        }
    }

    /// Between two attempts: at once after progress, else when a link may allow more.
    pub(crate) fn pause(&mut self, moved: bool, wants: Wants) -> Result<(), RingError> {
        self.links.check()?;
        self.plane.beat(self.links);
        if moved {
            self.stuck = None;
            return Ok(());
        }
        let stuck = *self.stuck.get_or_insert_with(Instant::now);
        if stuck.elapsed() < AWAKE {
            thread::yield_now();
            return Ok(());
        }
        if wants.read {
            // Read first: a rank that was itself stopped must not blame a peer that spoke.
            let (links, control) = (self.links, self.plane.receiver.control());
            control.listen(links, &links.incoming)?;
            if control.has_departed() {
                return Ok(());
            }
            control.judge(&links.incoming)?;
        }
        self.wait(wants)
    }

    fn wait(&self, wants: Wants) -> Result<(), RingError> {
        let links = self.links;
        let mut watched = Vec::with_capacity(4);
        watched.push((links.wake.as_fd(), PollFlags::POLLIN));
        if wants.read {
            watched.push((links.incoming.stream.as_fd(), PollFlags::POLLIN));
            match self.plane.receiver.watch(links) {
                Some(data) => watched.push(data),
                None => return Ok(()),
            }
        }
        if wants.write {
            match self.plane.sender.watch(links) {
                Some(room) => watched.push(room),
                None => return Ok(()),
            }
        }
        let mut watched: Vec<PollFd<'_>> = watched
            .into_iter()
            .map(|(fd, events)| PollFd::new(fd, events))
            .collect();
        let timeout = PollTimeout::try_from(HEARTBEAT).unwrap_or(PollTimeout::ZERO);
        match poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(RingError::io("wait for ring frames", error)),
        }
    }
}
