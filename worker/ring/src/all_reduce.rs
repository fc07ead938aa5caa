//! The collectives' schedules over a [`Port`]: the plan decides, this file obeys it.

use crate::error::RingError;
use crate::frame::{Kind, PAYLOAD_MAX, Stamp};
use crate::plane::{Content, Target};
use crate::ring::Tag;
use crate::sum::Sum;
use crate::topology::{Phase, Plan, Segment, ready, successor};
use crate::wire::{Port, Wants};

/// How many segments a rank sends ahead of what it has received: what may lie in buffers of the
/// system. Over all ranks as much is received as is sent, so some rank can always go on.
const WINDOW: usize = 4;

/// Partial sums of at most this many bytes from all other ranks together are exchanged whole and
/// added by everybody: half the hops of a ring, where bytes cost nothing and hops do.
pub(crate) const SMALL: usize = 16 * 1024;

/// Sums `values` over all ranks; on return every rank holds the same bits.
pub(crate) fn all_reduce<S: Sum>(
    port: &mut Port<'_>,
    (rank, world): (usize, usize),
    tag: Tag,
    values: &mut S,
) -> Result<(), RingError> {
    if values.len() * S::REDUCE_BYTES * (world - 1) <= SMALL {
        return exchange_and_add(port, (rank, world), tag, values);
    }
    let plan = Plan::new(values.len(), world, rank, S::SEGMENT);
    let (mut sends, mut receives) = (plan.sends().peekable(), plan.receives().peekable());
    let stamp = |segment: &Segment| tag.stamp(S::KIND, segment.hop, segment.block);
    let (mut sent, mut received) = (0_usize, 0);
    loop {
        let (mut moved, mut write) = (false, false);
        let next = receives.peek();
        let room = next.is_none() || sent.saturating_sub(received) < WINDOW;
        if let Some(send) = sends.peek().filter(|send| room && ready(send, next)) {
            if give(port, stamp(send), send, values)? {
                (sent, moved) = (sent + 1, true);
                sends.next();
            } else {
                write = true;
            }
        }
        if let Some(next) = receives.peek() {
            if take(port, stamp(next), next, values)? {
                (received, moved) = (received + 1, true);
                receives.next();
            }
        } else if sends.peek().is_none() {
            return Ok(());
        }
        let read = receives.peek().is_some();
        port.pause(moved, Wants { read, write })?;
    }
}

/// Goes on sending a segment; `true` once it is out.
fn give<S: Sum>(
    port: &mut Port<'_>,
    stamp: Stamp,
    segment: &Segment,
    values: &S,
) -> Result<bool, RingError> {
    let (phase, range) = (segment.phase, &segment.range);
    let encode = |wire: &mut [u8]| values.encode(phase, range.clone(), wire);
    let content = match values.memory(phase, range.clone()) {
        Some(memory) => Content::Memory(memory),
        None => Content::Encode(range.len() * S::bytes(phase), &encode),
    };
    port.send(stamp, content)
}

/// Goes on receiving the segment that comes next; `true` once it is part of `values`.
fn take<S: Sum>(
    port: &mut Port<'_>,
    stamp: Stamp,
    next: &Segment,
    values: &mut S,
) -> Result<bool, RingError> {
    let (phase, range) = (next.phase, &next.range);
    if phase == Phase::AllGather
        && let Some(memory) = values.totals(range.clone())
    {
        return port.receive(stamp, Target::Memory(memory));
    }
    let mut read = |arrived: &[u8]| match phase {
        Phase::ReduceScatter if next.completes => values.add_last(range.clone(), arrived),
        Phase::ReduceScatter => values.add(range.clone(), arrived),
        Phase::AllGather => values.store(range.clone(), arrived),
    };
    port.receive(
        stamp,
        Target::Read(range.len() * S::bytes(phase), &mut read),
    )
}

/// The all-reduce of a few bytes: every rank gets everybody's and adds them in rank order.
fn exchange_and_add<S: Sum>(
    port: &mut Port<'_>,
    place: (usize, usize),
    tag: Tag,
    values: &mut S,
) -> Result<(), RingError> {
    let (rank, world) = place;
    let length = values.len() * S::REDUCE_BYTES;
    let mut blocks = std::mem::take(&mut port.plane.blocks);
    let mine = rank * length..(rank + 1) * length;
    match values.memory(Phase::ReduceScatter, 0..values.len()) {
        Some(memory) => blocks[mine].copy_from_slice(memory),
        None => values.encode(Phase::ReduceScatter, 0..values.len(), &mut blocks[mine]),
    }
    let gathered = all_gather(port, place, (S::KIND, tag), &mut blocks[..world * length]);
    if gathered.is_ok() {
        values.clear();
        for block in 0..world {
            values.add(
                0..values.len(),
                &blocks[block * length..(block + 1) * length],
            );
        }
        values.complete(0..values.len());
    }
    port.plane.blocks = blocks;
    gathered
}

/// Fills in the blocks of all other ranks; `blocks` has one of each rank, all of one length.
pub(crate) fn all_gather(
    port: &mut Port<'_>,
    (rank, world): (usize, usize),
    (kind, tag): (Kind, Tag),
    blocks: &mut [u8],
) -> Result<(), RingError> {
    let length = blocks.len() / world;
    // A block of nothing still takes its frame: the collective also is a barrier.
    let segments = length.div_ceil(PAYLOAD_MAX).max(1);
    for hop in 0..world - 1 {
        let (ours, theirs) = (
            (rank + world - hop) % world,
            (rank + world - hop - 1) % world,
        );
        for segment in 0..segments {
            let stamp = tag.stamp(kind, hop, segment);
            let (from, to) = (
                segment * PAYLOAD_MAX,
                ((segment + 1) * PAYLOAD_MAX).min(length),
            );
            let [send, receive] = blocks
                .get_disjoint_mut([
                    ours * length + from..ours * length + to,
                    theirs * length + from..theirs * length + to,
                ])
                .map_err(|error| RingError::invalid(error.to_string()))?;
            port.exchange(Some((stamp, send)), Some((stamp, receive)))?;
        }
    }
    Ok(())
}

/// Passes `bytes` of every rank in `sources` along the ring, as far as the next of them. What has
/// arrived is passed on while more arrives.
pub(crate) fn spread(
    port: &mut Port<'_>,
    (rank, world): (usize, usize),
    tag: Tag,
    sources: &[bool],
    bytes: &mut [u8],
) -> Result<(), RingError> {
    let mut behind = (0..world).map(|back| (rank + world - back) % world);
    let Some(source) = behind.find(|rank| sources[*rank]) else {
        return Ok(());
    };
    let stamp = |index: usize| tag.stamp(Kind::Broadcast, source, index);
    let (receives, sends) = (source != rank, !sources[successor(rank, world)]);
    let count = bytes.len().div_ceil(PAYLOAD_MAX);
    let lag = usize::from(receives);
    for turn in 0..count + usize::from(receives && sends) {
        let (past, rest) = bytes.split_at_mut((turn * PAYLOAD_MAX).min(bytes.len()));
        let (segment, _) = rest.split_at_mut(PAYLOAD_MAX.min(rest.len()));
        let (outbound, inbound) = match receives {
            true => (past.chunks(PAYLOAD_MAX).next_back(), Some(segment)),
            false => (Some(&*segment), None),
        };
        let outbound = outbound
            .filter(|_| sends)
            .map(|bytes| (stamp(turn - lag), bytes));
        let inbound = inbound
            .filter(|_| turn < count)
            .map(|bytes| (stamp(turn), bytes));
        port.exchange(outbound, inbound)?;
    }
    Ok(())
}
