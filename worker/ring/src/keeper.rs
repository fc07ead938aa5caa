//! The one thread of a ring: keeps its links alive and notices when they are not.
//!
//! ```text
//!                 forward: frames of collectives, heartbeats
//! predecessor ==================> this rank ==================> successor
//!             <------------------           <------------------
//!                 back: heartbeats                              farewells go both ways
//! ```
//!
//! The back direction is always the keeper's. The forward direction is the trainer's for as long as
//! it is in a collective, which then also listens and beats; between collectives it is the
//! keeper's, who takes heartbeats and leaves data where it is: in the socket, until the trainer
//! comes for it.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::RingError;
use crate::link::{HEARTBEAT, Links};
use crate::tcp::Inlet;

/// Runs until the ring is broken, or is left and the successor has read everything.
pub(crate) fn keep(links: &Links) {
    let mut keeper = Keeper {
        links,
        back: Inlet::new(links.patience),
        due: Instant::now(),
        hung_up: false,
    };
    loop {
        let closing = links.is_over();
        let began = Instant::now();
        let turned = keeper.turn();
        let took = began.elapsed().as_nanos() as u64;
        links.keeping.fetch_add(took, Ordering::Relaxed);
        match turned {
            Ok(()) => {}
            // A successor that closes is all that a rank which leaves waits for.
            Err(_) if closing => return,
            Err(error) => return links.fail(error),
        }
        if links.is_over() && keeper.back.has_departed() {
            return;
        }
        if let Err(error) = keeper.wait() {
            return links.fail(error);
        }
    }
}

struct Keeper<'a> {
    links: &'a Links,
    back: Inlet,
    /// When the next heartbeats are.
    due: Instant,
    /// The predecessor's end is known to be closed; what it sent before may still be unread.
    hung_up: bool,
}

impl Keeper<'_> {
    fn turn(&mut self) -> Result<(), RingError> {
        let links = self.links;
        self.back.listen(links, &links.outgoing)?;
        if self.back.holds_data() {
            return Err(RingError::Protocol {
                rank: links.outgoing.peer,
                reason: "data came back from a successor".to_owned(),
            });
        }
        self.back.judge(&links.outgoing)?;
        if links.is_over() {
            return Ok(());
        }
        if let Some(mut plane) = links.idle_plane() {
            // Data stays where it is, and what came after it waits with it.
            let held = plane.receiver.holds_data();
            let control = plane.receiver.control();
            if !held {
                control.listen(links, &links.incoming)?;
            }
            match held || control.holds_data() {
                true => control.listen_again(),
                false => control.judge(&links.incoming)?,
            }
            plane.beat(links);
        }
        if Instant::now() >= self.due {
            self.due = Instant::now() + HEARTBEAT;
            links.tell_predecessor(&links.heartbeat);
        }
        Ok(())
    }

    /// Sleeps until a heartbeat is due or something changes. Frames from the predecessor do not
    /// wake it: they are the trainer's, or heartbeats that can wait. Its hanging up does.
    fn wait(&mut self) -> Result<(), RingError> {
        let (links, over) = (self.links, self.links.is_over());
        let hang_up = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
        let mut watched = Vec::with_capacity(3);
        if !self.back.has_departed() {
            watched.push(PollFd::new(
                links.outgoing.stream.as_fd(),
                PollFlags::POLLIN,
            ));
        }
        if !over {
            watched.push(PollFd::new(links.wake.as_fd(), PollFlags::POLLIN));
        }
        let incoming = watched.len();
        if !over && !self.hung_up {
            watched.push(PollFd::new(links.incoming.stream.as_fd(), hang_up));
        }
        let left = self.due.saturating_duration_since(Instant::now());
        let pause = if over { HEARTBEAT } else { left };
        // Rounded up: a poll of 0 ms until the moment comes would spin.
        let pause = u16::try_from(pause.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut watched, PollTimeout::from(pause)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(RingError::io("wait for ring frames", error)),
        }
        // Nothing else is asked of that socket. `revents` would be `None` for a hang-up: nix has no
        // name for its flag.
        self.hung_up |= watched
            .get(incoming)
            .is_some_and(|socket| socket.revents() != Some(PollFlags::empty()));
        Ok(())
    }
}
