//! The collectives' schedules over a [`Wire`]: the plan decides, this file obeys it.

use crate::error::RingError;
use crate::frame::{Kind, PAYLOAD_MAX, Stamp};
use crate::ring::Tag;
use crate::sum::Sum;
use crate::topology::{Phase, Plan, Segment, ready, successor};
use crate::wire::{WINDOW, Wire};

/// Sums `values` over all ranks; on return every rank holds the same bits.
pub(crate) fn all_reduce<S: Sum>(
    wire: &Wire,
    (rank, world): (usize, usize),
    tag: Tag,
    values: &mut S,
) -> Result<(), RingError> {
    let plan = Plan::new(values.len(), world, rank, S::SEGMENT);
    let (mut sends, mut receives) = (plan.sends().peekable(), plan.receives().peekable());
    let stamp = |segment: &Segment| Stamp {
        kind: S::KIND,
        step: tag.step,
        bucket: tag.bucket,
        hop: segment.hop as u32,
        segment: segment.index as u32,
    };
    let (mut sent, mut received) = (0_usize, 0);
    loop {
        let next = receives.peek();
        let may_send = |send: &Segment| {
            ready(send, next) && (next.is_none() || sent.saturating_sub(received) < WINDOW)
        };
        if let Some(send) = sends.next_if(may_send) {
            let length = send.range.len() * S::bytes(send.phase);
            wire.send(stamp(&send), length, |bytes| {
                values.encode(send.phase, send.range.clone(), bytes);
            })?;
            sent += 1;
        } else if let Some(next) = receives.next() {
            let length = next.range.len() * S::bytes(next.phase);
            wire.receive(stamp(&next), length, |bytes| match next.phase {
                Phase::ReduceScatter => values.add(next.range.clone(), bytes),
                Phase::AllGather => values.store(next.range.clone(), bytes),
            })?;
            if next.completes {
                values.complete(next.range);
            }
            received += 1;
        } else {
            return Ok(());
        }
    }
}

/// Passes `bytes` from `root` along the ring; the rank before the root is the last.
pub(crate) fn broadcast(
    wire: &Wire,
    (rank, world): (usize, usize),
    tag: Tag,
    root: usize,
    bytes: &mut [u8],
) -> Result<(), RingError> {
    for (index, segment) in bytes.chunks_mut(PAYLOAD_MAX).enumerate() {
        let stamp = Stamp {
            kind: Kind::Broadcast,
            step: tag.step,
            bucket: tag.bucket,
            hop: root as u32,
            segment: index as u32,
        };
        if rank != root {
            wire.receive(stamp, segment.len(), |payload| {
                segment.copy_from_slice(payload)
            })?;
        }
        if successor(rank, world) != root {
            wire.send(stamp, segment.len(), |payload| {
                payload.copy_from_slice(segment)
            })?;
        }
    }
    Ok(())
}
