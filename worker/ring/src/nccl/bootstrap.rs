//! How the ranks of a ring agree on one communicator, or on none.
//!
//! Three questions, each answered by a sum over the TCP ring, so that every rank decides the same
//! from the same numbers: can everybody? was an id made? has everybody joined?
//!
//! The last one is asked again and again while the ranks join, since joining is a collective of its
//! own: where one rank fails, the others would wait for it until their patience ends. This way they
//! know within 50 ms, and a rank that dies is noticed by the sums themselves.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use super::supervise::Communicator;
use crate::error::RingError;
use crate::ring::{Ring, Tag};

/// Bytes of an [`Id`].
pub const ID_BYTES: usize = 128;

/// What a rank has to name to join a communicator.
pub type Id = [u8; ID_BYTES];

/// How long a rank watches its own join before it asks for the others'.
const ROUND: Duration = Duration::from_millis(50);

/// How long it sleeps between two looks at its join.
const NAP: Duration = Duration::from_millis(1);

/// What one rank can do towards a communicator. An error is a sentence without an end that says why
/// not; it is logged once, on the rank it is about.
pub trait Joiner {
    /// What it joins.
    type Communicator: Communicator;

    /// Whether this rank has all that it needs: device, driver, library.
    fn ready(&mut self) -> Result<(), String>;

    /// Makes an id. Only rank 0 does, and only when every rank is ready.
    fn id(&mut self) -> Result<Id, String>;

    /// Starts joining and does not wait for the others; [`Communicator::settled`] says when it has.
    fn join(&mut self, id: &Id, rank: usize, world: usize) -> Result<Self::Communicator, String>;
}

/// Forms a communicator of all ranks, or returns `None` on all of them: then the TCP ring carries
/// everything. A world of one needs none and does not ask.
///
/// All ranks call this or [`decline`] as one collective of the ring. It lasts for `patience` longer
/// than the slowest rank takes to be ready, at most.
///
/// # Errors
/// That of the ring, when it breaks or is aborted meanwhile; the join is aborted first.
pub fn bootstrap<J: Joiner>(
    ring: &mut Ring,
    tag: Tag,
    joiner: &mut J,
    patience: Duration,
) -> Result<Option<J::Communicator>, RingError> {
    let (rank, world) = (ring.rank(), ring.world());
    if world == 1 {
        return Ok(None);
    }
    let ready = joiner.ready();
    if let Err(reason) = &ready {
        without(rank, reason);
    }
    if !all_ready(ring, tag, ready.is_ok())? {
        return Ok(None);
    }
    let Some(id) = share_id(ring, tag, joiner)? else {
        return Ok(None);
    };
    let mut attempt = Attempt::start(joiner, &id, (rank, world));
    match (join(ring, tag, &mut attempt, patience), attempt) {
        (Ok(true), Attempt::Joined(communicator)) => Ok(Some(communicator)),
        (joined, attempt) => {
            attempt.abort(rank);
            joined.map(|_| None)
        }
    }
}

/// This rank's part in [`bootstrap`] when it has no use for a communicator: all ranks get none.
pub fn decline(ring: &mut Ring, tag: Tag) -> Result<(), RingError> {
    match ring.world() {
        1 => Ok(()),
        _ => all_ready(ring, tag, false).map(drop),
    }
}

fn all_ready(ring: &mut Ring, tag: Tag, ready: bool) -> Result<bool, RingError> {
    let mut count = [i64::from(ready)];
    ring.all_reduce_i64(tag, &mut count)?;
    tracing::debug!(
        ready = count[0],
        world = ring.world(),
        "ranks ready for NCCL"
    );
    Ok(count[0] == ring.world() as i64)
}

/// The id that rank 0 made, on every rank. The first byte on the wire says whether it could.
fn share_id<J: Joiner>(ring: &mut Ring, tag: Tag, joiner: &mut J) -> Result<Option<Id>, RingError> {
    let mut bytes = [0; 1 + ID_BYTES];
    if ring.rank() == 0 {
        match joiner.id() {
            Ok(id) => {
                bytes[0] = 1;
                bytes[1..].copy_from_slice(&id);
            }
            Err(reason) => without(0, reason),
        }
    }
    ring.broadcast(tag, 0, &mut bytes)?;
    let [made, id @ ..] = bytes;
    Ok((made == 1).then_some(id))
}

/// Whether every rank has joined; `false` as soon as one cannot.
fn join<C: Communicator>(
    ring: &mut Ring,
    tag: Tag,
    attempt: &mut Attempt<C>,
    patience: Duration,
) -> Result<bool, RingError> {
    let started = Instant::now();
    loop {
        attempt.advance(ring.rank(), started, patience);
        let failed = matches!(attempt, Attempt::Failed);
        let joined = matches!(attempt, Attempt::Joined(_));
        let mut votes = [i64::from(failed), i64::from(joined)];
        ring.all_reduce_i64(tag, &mut votes)?;
        match votes {
            [0, joined] if joined == ring.world() as i64 => return Ok(true),
            [0, _] => {}
            [failed, _] => {
                tracing::debug!(failed, "ranks could not join NCCL");
                return Ok(false);
            }
        }
    }
}

/// One rank's join.
enum Attempt<C> {
    Joining(C),
    Joined(C),
    Failed,
}

impl<C: Communicator> Attempt<C> {
    fn start<J: Joiner<Communicator = C>>(
        joiner: &mut J,
        id: &Id,
        (rank, world): (usize, usize),
    ) -> Self {
        match joiner.join(id, rank, world) {
            Ok(communicator) => Self::Joining(communicator),
            Err(reason) => {
                without(rank, reason);
                Self::Failed
            }
        }
    }

    /// Watches a join for a [`ROUND`], or until it has an end.
    fn advance(&mut self, rank: usize, started: Instant, patience: Duration) {
        let round = Instant::now();
        while let Self::Joining(communicator) = self {
            let reason = match communicator.settled() {
                Ok(false) if started.elapsed() >= patience => {
                    format!("not all ranks joined within {patience:?}")
                }
                Ok(false) if round.elapsed() >= ROUND => return,
                Ok(false) => {
                    thread::sleep(NAP);
                    continue;
                }
                Ok(true) => {
                    let joining = std::mem::replace(self, Self::Failed);
                    if let Self::Joining(communicator) = joining {
                        *self = Self::Joined(communicator);
                    }
                    return;
                }
                Err(reason) => reason,
            };
            without(rank, reason);
            std::mem::replace(self, Self::Failed).abort(rank);
        }
    }

    fn abort(self, rank: usize) {
        if let Self::Joining(mut communicator) | Self::Joined(mut communicator) = self
            && let Err(reason) = communicator.abort()
        {
            // It holds none of our memory yet, so going on without it is safe.
            tracing::warn!(rank, "a join does not end: {reason}");
        }
    }
}

fn without(rank: usize, reason: impl fmt::Display) {
    tracing::warn!(rank, "no NCCL, gradients go over TCP: {reason}");
}
