//! The forward direction of a rank's links: frames of data out to the successor and in from the
//! predecessor, each by its own transport.
//!
//! Nothing here waits; a call goes as far as the transport allows and says whether that was enough.
//! Control frames always travel over TCP, so a death is noticed alike whatever carries the data.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nix::poll::PollFlags;

use crate::all_reduce::SMALL;
use crate::error::RingError;
use crate::frame::Stamp;
use crate::link::{HEARTBEAT, Links};
use crate::tcp::Inlet;

/// The payload of a frame to be sent.
pub(crate) enum Content<'a> {
    /// Memory that looks like the wire.
    Memory(&'a [u8]),
    /// So many bytes, to be written by this function wherever the transport wants them.
    Encode(usize, &'a dyn Fn(&mut [u8])),
}

impl Content<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Memory(memory) => memory.len(),
            Self::Encode(length, _) => *length,
        }
    }
}

/// What becomes of the payload of a frame.
pub(crate) enum Target<'a> {
    /// It replaces what is here.
    Memory(&'a mut [u8]),
    /// It has so many bytes and is read by this function wherever the transport has them.
    Read(usize, &'a mut dyn FnMut(&[u8])),
}

impl Target<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Memory(memory) => memory.len(),
            Self::Read(length, _) => *length,
        }
    }
}

/// What a waiting rank polls.
pub(crate) type Watched<'a> = (BorrowedFd<'a>, PollFlags);

/// Carries frames of data to the successor.
pub(crate) trait Sending: Send {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// Goes on sending one frame; `true` once the transport has all of it. Until then the caller
    /// comes back with the same frame.
    fn send(
        &mut self,
        links: &Links,
        stamp: Stamp,
        content: Content<'_>,
    ) -> Result<bool, RingError>;

    /// Whether a control frame may be written to the link's socket: no frame is half written there.
    fn is_between_frames(&self) -> bool;

    /// What to poll before sending again; `None` if that is possible already.
    fn watch<'a>(&'a self, links: &'a Links) -> Option<Watched<'a>>;
}

/// Takes frames of data from the predecessor.
pub(crate) trait Receiving: Send {
    /// The link's socket: control frames, and the time since the predecessor was last heard.
    fn control(&mut self) -> &mut Inlet;

    /// Whether a frame waits for whoever wants it.
    fn holds_data(&self) -> bool;

    /// Goes on receiving the next frame of data, which must be the one with this stamp and as long
    /// as the target; `true` once the target has had all of it, undamaged.
    fn receive(
        &mut self,
        links: &Links,
        stamp: Stamp,
        target: Target<'_>,
    ) -> Result<bool, RingError>;

    /// What to poll besides the link's socket; `None` if a frame is there already.
    fn watch<'a>(&'a self, links: &'a Links) -> Option<Watched<'a>>;
}

/// What one thread at a time needs to move frames forward.
pub(crate) struct Plane {
    pub(crate) sender: Box<dyn Sending>,
    pub(crate) receiver: Box<dyn Receiving>,
    /// For the blocks of a small sum.
    pub(crate) blocks: Box<[u8]>,
    beat: Instant,
}

impl Plane {
    pub(crate) fn new(sender: Box<dyn Sending>, receiver: Box<dyn Receiving>) -> Self {
        Self {
            sender,
            receiver,
            blocks: vec![0; 2 * SMALL].into_boxed_slice(),
            beat: Instant::now(),
        }
    }

    /// Tells the successor that this rank lives, if that is due and no frame is under way.
    pub(crate) fn beat(&mut self, links: &Links) {
        if self.sender.is_between_frames() && self.beat.elapsed() >= HEARTBEAT {
            self.beat = Instant::now();
            let written = links.outgoing.control(&links.heartbeat);
            links.sent.fetch_add(written as u64, Ordering::Relaxed);
        }
    }
}
