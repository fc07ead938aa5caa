//! Who sends which part of a buffer to whom, and when. Pure: numbers in, numbers out.
//!
//! An all-reduce of a buffer cut into W chunks takes 2(W-1) hops. In hop `k` rank `r` sends chunk
//! `r - k` to its successor and receives chunk `r - k - 1` from its predecessor (all modulo W), so
//! what it sends in hop `k + 1` is what it received in hop `k`. Up to hop W-2 a received chunk is
//! added (reduce-scatter); after that hop rank `r` owns the total of chunk `r + 1`; from then on
//! received chunks are totals and replace what is there (all-gather).
//!
//! ```text
//! W = 3, rank 0:   hop          0   1 | 2   3
//!                  sends chunk  0   2 | 1   0
//!                  gets chunk   2   1 | 0   2        owns chunk 1
//! ```
//!
//! A long buffer is cut into blocks first, of one segment for each rank, and every block is reduced
//! like that. The blocks move in a wavefront: hop 0 of a block goes out beside hop 1 of the block
//! before it, and so on. So the hops overlap, and what is passed on is still in a core's cache:
//!
//! ```text
//! tick:          0      1           2           3
//! W = 2 sends    b0 h0  b1 h0 b0 h1 b2 h0 b1 h1 b2 h1
//! ```

use std::ops::Range;

/// The rank that `rank` sends to.
pub fn successor(rank: usize, world: usize) -> usize {
    (rank + 1) % world
}

/// The rank that `rank` receives from.
pub fn predecessor(rank: usize, world: usize) -> usize {
    (rank + world - 1) % world
}

/// The elements of one chunk of a buffer of `len` elements cut into `world` chunks.
///
/// The chunks are contiguous, in order, and differ by at most one element; they may be empty.
pub fn chunk(len: usize, world: usize, index: usize) -> Range<usize> {
    let (base, longer) = (len / world, len % world);
    let start = index * base + index.min(longer);
    start..start + base + usize::from(index < longer)
}

/// What happens to a segment when it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is a partial sum, to be added.
    ReduceScatter,
    /// It is a total, to be stored.
    AllGather,
}

/// One frame's worth of one hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The hop, from 0 to 2(W-1) - 1.
    pub hop: usize,
    /// The block it belongs to.
    pub block: usize,
    /// The elements it covers in the whole buffer, at least one.
    pub range: Range<usize>,
    /// What the receiver does with it.
    pub phase: Phase,
    /// Whether the receiver now owns the total of these elements.
    pub completes: bool,
}

impl Segment {
    /// Its place in the order of all segments of a rank.
    fn place(&self) -> (usize, usize) {
        (self.block + self.hop, self.hop)
    }
}

/// The all-reduce of one buffer as one rank sees it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    len: usize,
    world: usize,
    rank: usize,
    segment: usize,
}

impl Plan {
    /// A plan for `len` elements moving at most `segment` (> 0) elements per frame.
    pub fn new(len: usize, world: usize, rank: usize, segment: usize) -> Self {
        debug_assert!(rank < world && segment > 0);
        Self {
            len,
            world,
            rank,
            segment,
        }
    }

    /// What this rank sends, in order.
    pub fn sends(self) -> impl Iterator<Item = Segment> {
        self.walk(0)
    }

    /// What this rank receives, in order.
    pub fn receives(self) -> impl Iterator<Item = Segment> {
        self.walk(1)
    }

    /// The segments of chunk `rank - hop - behind` of each block, tick by tick.
    fn walk(self, behind: usize) -> impl Iterator<Item = Segment> {
        let hops = 2 * (self.world - 1);
        let blocks = self.len.div_ceil(self.world * self.segment);
        (0..(blocks + hops).saturating_sub(1)).flat_map(move |tick| {
            let first = (tick + 1).saturating_sub(blocks);
            let segments =
                (first..hops.min(tick + 1)).map(move |hop| self.segment(tick - hop, hop, behind));
            segments.filter(|segment| !segment.range.is_empty())
        })
    }

    fn segment(&self, block: usize, hop: usize, behind: usize) -> Segment {
        let world = self.world;
        let start = block * world * self.segment;
        let len = (self.len - start).min(world * self.segment);
        // At most 2(W-1) is subtracted from a number that is 2W larger.
        let chunk = chunk(len, world, (self.rank + 2 * world - hop - behind) % world);
        Segment {
            hop,
            block,
            range: start + chunk.start..start + chunk.end,
            phase: if hop < world - 1 {
                Phase::ReduceScatter
            } else {
                Phase::AllGather
            },
            completes: hop + 2 == world,
        }
    }
}

/// Whether `send` may go out when `next` is the next segment to arrive, `None` if none is left.
///
/// A segment after hop 0 is one that this rank received a hop earlier.
pub fn ready(send: &Segment, next: Option<&Segment>) -> bool {
    match (send.hop.checked_sub(1), next) {
        (None, _) | (_, None) => true,
        (Some(needed), Some(next)) => (send.block + needed, needed) < next.place(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_cover_the_buffer_in_order_and_evenly(len in 0_usize..500, world in 1_usize..9) {
            let chunks: Vec<_> = (0..world).map(|index| chunk(len, world, index)).collect();
            prop_assert_eq!(chunks[0].start, 0);
            prop_assert_eq!(chunks[world - 1].end, len);
            prop_assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start));
            let lengths = chunks.iter().map(|chunk| chunk.len());
            prop_assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
        }

        #[test]
        fn what_a_rank_sends_its_successor_expects(
            len in 0_usize..300, world in 1_usize..8, segment in 1_usize..50,
        ) {
            for rank in 0..world {
                let next = Plan::new(len, world, successor(rank, world), segment);
                let sends: Vec<_> = Plan::new(len, world, rank, segment).sends().collect();
                prop_assert_eq!(sends, next.receives().collect::<Vec<_>>());
                prop_assert_eq!(predecessor(successor(rank, world), world), rank);
            }
        }

        /// Moves sets of contributors instead of numbers, one segment at a time and in any legal
        /// order: every rank ends with every element summed over everybody exactly once.
        #[test]
        fn every_element_meets_every_rank_once(
            len in 0_usize..60, world in 1_usize..7, segment in 1_usize..12,
        ) {
            let mut held: Vec<Vec<Vec<usize>>> =
                (0..world).map(|rank| vec![vec![rank]; len]).collect();
            let plans: Vec<_> = (0..world).map(|r| Plan::new(len, world, r, segment)).collect();
            let mut sends: Vec<_> = plans.iter().map(|p| p.sends().peekable()).collect();
            let mut receives: Vec<_> = plans.iter().map(|p| p.receives().peekable()).collect();
            let mut wires = vec![std::collections::VecDeque::new(); world];
            loop {
                let mut moved = false;
                for rank in 0..world {
                    let next = receives[rank].peek().cloned();
                    if let Some(send) = sends[rank].next_if(|send| ready(send, next.as_ref())) {
                        let values: Vec<_> = held[rank][send.range.clone()].to_vec();
                        wires[rank].push_back(values);
                        moved = true;
                    }
                    if let Some(values) = wires[predecessor(rank, world)].pop_front() {
                        let segment = receives[rank].next().unwrap();
                        for (place, value) in held[rank][segment.range].iter_mut().zip(values) {
                            match segment.phase {
                                Phase::ReduceScatter => place.extend(value),
                                Phase::AllGather => *place = value,
                            }
                            if segment.completes {
                                prop_assert_eq!(place.len(), world);
                            }
                        }
                        moved = true;
                    }
                }
                if !moved {
                    break;
                }
            }
            for element in held.iter().flatten() {
                let mut contributors = element.clone();
                contributors.sort_unstable();
                prop_assert_eq!(contributors, (0..world).collect::<Vec<_>>());
            }
        }
    }
}
