//! How a bucket lies in memory when every rank owns a part of it. Pure: numbers in, numbers out.
//!
//! NCCL's reduce-scatter and all-gather give every rank the same number of elements, unlike the TCP
//! ring's chunks, which may differ by one. So a bucket is cut into W chunks of `ceil(len / W)`
//! elements, chunk `r` belongs to rank `r`, and what the last chunks have beyond the bucket's end
//! is padding, fewer than W elements.
//!
//! ```text
//! len = 7, W = 3:   [0 1 2] [3 4 5] [6 . .]      chunk_len 3, padded_len 9, padding 7..9
//!                    rank 0  rank 1  rank 2
//! ```
//!
//! **Padding holds zeros** before the reduce-scatter, on every rank. Nobody reads what becomes of
//! it, so this is not for the sums: it keeps every byte that moves a function of the gradients, so
//! that a run can be compared with another, and no NaN that lay there before looks like an
//! accident. Zeros sum to zeros, an owner converts zeros to zeros, and zeros come back.
//!
//! The layout of the buckets themselves depends on the model and never on W; only the padding does,
//! and it is neither stored nor part of a digest.

use std::ops::Range;

/// The chunks of one bucket in one world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    len: usize,
    world: usize,
}

impl Layout {
    /// A bucket of `len` elements among `world` ranks, at least one.
    pub fn new(len: usize, world: usize) -> Self {
        debug_assert!(world > 0);
        Self { len, world }
    }

    /// The elements of the bucket.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether the bucket has no elements.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The elements of each chunk, padding included.
    pub fn chunk_len(self) -> usize {
        self.len.div_ceil(self.world)
    }

    /// The elements of all chunks: what the buffer has room for.
    pub fn padded_len(self) -> usize {
        self.chunk_len() * self.world
    }

    /// The elements that are not part of the bucket.
    pub fn padding(self) -> Range<usize> {
        self.len..self.padded_len()
    }

    /// The chunk of `rank`, padding included: what it receives from a reduce-scatter and gives to
    /// an all-gather.
    pub fn chunk(self, rank: usize) -> Range<usize> {
        debug_assert!(rank < self.world);
        let start = rank * self.chunk_len();
        start..start + self.chunk_len()
    }

    /// The elements of the bucket that `rank` owns, the start of its chunk; may be empty.
    pub fn owned(self, rank: usize) -> Range<usize> {
        let chunk = self.chunk(rank);
        chunk.start.min(self.len)..chunk.end.min(self.len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_element_has_exactly_one_owner(len in 0_usize..500, world in 1_usize..20) {
            let layout = Layout::new(len, world);
            for element in 0..len {
                let owners = (0..world).filter(|rank| layout.owned(*rank).contains(&element));
                prop_assert_eq!(owners.count(), 1);
            }
            let owned: usize = (0..world).map(|rank| layout.owned(rank).len()).sum();
            prop_assert_eq!(owned, len);
        }

        #[test]
        fn equal_chunks_tile_the_buffer_in_rank_order(len in 0_usize..500, world in 1_usize..20) {
            let layout = Layout::new(len, world);
            let mut next = 0;
            for rank in 0..world {
                let chunk = layout.chunk(rank);
                prop_assert_eq!((chunk.start, chunk.len()), (next, layout.chunk_len()));
                prop_assert!(layout.owned(rank).all(|element| chunk.contains(&element)));
                next = chunk.end;
            }
            prop_assert_eq!(next, layout.padded_len());
        }

        #[test]
        fn padding_is_the_tail_and_shorter_than_the_world(
            len in 0_usize..500, world in 1_usize..20,
        ) {
            let layout = Layout::new(len, world);
            prop_assert!(layout.padding().len() < world);
            prop_assert_eq!(layout.padding().start, len);
            prop_assert_eq!(layout.padding().end, layout.padded_len());
            for padding in layout.padding() {
                prop_assert!((0..world).all(|rank| !layout.owned(rank).contains(&padding)));
            }
        }

        /// Reduce-scatter in any order of the ranks, one conversion by each owner, all-gather: what
        /// one thread gets that adds everything itself, and padding that is zero again.
        #[test]
        fn neither_the_order_nor_the_number_of_ranks_changes_a_bit(
            (values, order) in (1_usize..9).prop_flat_map(|world| {
                let bucket = |len| prop::collection::vec(any::<i64>(), len);
                let values = (0_usize..60)
                    .prop_flat_map(move |len| prop::collection::vec(bucket(len), world));
                (values, Just((0..world).collect::<Vec<_>>()).prop_shuffle())
            }),
        ) {
            let (world, len) = (values.len(), values[0].len());
            let layout = Layout::new(len, world);
            let sent: Vec<Vec<i64>> = values
                .iter()
                .map(|values| [values.as_slice(), &vec![0; layout.padding().len()]].concat())
                .collect();
            let mut gathered = vec![f32::NAN; layout.padded_len()];
            for rank in 0..world {
                for element in layout.chunk(rank) {
                    let add = |sum: i64, from: &usize| sum.wrapping_add(sent[*from][element]);
                    gathered[element] = crate::fixed::to_f32(order.iter().fold(0, add), 3.0);
                }
            }
            let total = |element: usize| {
                values.iter().fold(0_i64, |sum, values| sum.wrapping_add(values[element]))
            };
            for (element, found) in gathered.iter().enumerate() {
                let total = if element < len { total(element) } else { 0 };
                prop_assert_eq!(found.to_bits(), crate::fixed::to_f32(total, 3.0).to_bits());
            }
        }
    }
}
