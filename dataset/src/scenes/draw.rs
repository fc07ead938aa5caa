//! Random choices of one row, named by (seed, index).

use blake3::{Hasher, OutputReader};

/// The row's own stream of random numbers.
pub(super) struct Draw(OutputReader);

impl Draw {
    pub(super) fn new(seed: u64, index: u64) -> Self {
        let mut hasher = Hasher::new();
        hasher
            .update(b"scenes")
            .update(&seed.to_le_bytes())
            .update(&index.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    /// A number below `bound`, which is not 0. The bias is below `bound / 2^64`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        ((u128::from(u64::from_le_bytes(bytes)) * bound as u128) >> 64) as usize
    }

    /// `count` of the items, each at most once, in random order.
    pub(super) fn distinct<T: Copy, const N: usize>(
        &mut self,
        mut items: [T; N],
        count: usize,
    ) -> Vec<T> {
        for i in 0..count {
            let chosen = i + self.below(N - i);
            items.swap(i, chosen);
        }
        items[..count].to_vec()
    }
}
