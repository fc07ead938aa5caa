//! A seeded bijection of `0..n` that needs no table.
//!
//! A generalised Feistel network over the smallest grid `a * b >= n` with `a` close to `b`: each
//! round adds a keyed function of one coordinate to the other, modulo its side, which is invertible
//! whatever the function. Points that land outside `0..n` walk on until they land inside (Black and
//! Rogaway, "Ciphers with arbitrary finite domains", 2002); the grid exceeds `n` by less than one
//! row, so that is rare. It shuffles well; it is no cipher.

/// Rounds of the network; every coordinate depends on every key after a few.
const ROUNDS: usize = 8;

/// Points that go through the network side by side, for a processor that computes with vectors.
const TOGETHER: usize = 16;

/// A bijection of `0..n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permutation {
    n: u64,
    sides: (u64, u64),
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The bijection of `0..n` that `words` (seed, purpose, position...) select.
    pub(crate) fn new(words: &[u64], n: u64) -> Self {
        let a = (n.isqrt()).max(1);
        let a = if a * a < n { a + 1 } else { a };
        let b = n.div_ceil(a).max(1);
        Self {
            n,
            sides: (a, b),
            keys: keys(words),
        }
    }

    /// Where `index` goes. An index outside `0..n` stays where it is.
    pub(crate) fn apply(&self, index: u64) -> u64 {
        if index >= self.n {
            return index;
        }
        self.inside(self.rounds(index))
    }

    /// Where each of `0..n` goes, in order: several times as fast as one by one.
    pub(crate) fn all(&self) -> Vec<u64> {
        pulp::Arch::new().dispatch(All(self))
    }

    /// Walks on to the next point inside.
    fn inside(&self, mut at: u64) -> u64 {
        while at >= self.n {
            at = self.rounds(at);
        }
        at
    }

    fn rounds(&self, index: u64) -> u64 {
        let (mut x, mut y) = ([index % self.sides.0], [index / self.sides.0]);
        self.network(&mut x, &mut y);
        x[0]
    }

    /// Points (x, y) to where they go, which takes the place of x.
    #[inline(always)]
    fn network<const N: usize>(&self, x: &mut [u64; N], y: &mut [u64; N]) {
        let (a, b) = self.sides;
        for pair in self.keys.chunks_exact(2) {
            for (x, y) in x.iter_mut().zip(&*y) {
                *x = within(*x + below(mix(y ^ pair[0]), a), a);
            }
            for (x, y) in x.iter().zip(&mut *y) {
                *y = within(*y + below(mix(x ^ pair[1]), b), b);
            }
        }
        for (x, y) in x.iter_mut().zip(y) {
            *x += *y * a;
        }
    }
}

/// [`Permutation::all`], compiled once for each vector extension.
struct All<'a>(&'a Permutation);

impl pulp::NullaryFnOnce for All<'_> {
    type Output = Vec<u64>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        let Self(permutation) = self;
        let mut all = Vec::with_capacity(permutation.n as usize);
        let (mut column, mut row) = (0, 0);
        for first in (0..permutation.n).step_by(TOGETHER) {
            let (mut x, mut y) = ([0; TOGETHER], [0; TOGETHER]);
            for (x, y) in x.iter_mut().zip(&mut y) {
                (*x, *y) = (column, row);
                column += 1;
                if column == permutation.sides.0 {
                    (column, row) = (0, row + 1);
                }
            }
            permutation.network(&mut x, &mut y);
            let wanted = (permutation.n - first) as usize;
            all.extend(x.iter().take(wanted).map(|at| permutation.inside(*at)));
        }
        all
    }
}

/// Round keys: blake3 of the words, extended.
fn keys(words: &[u64]) -> [u64; ROUNDS] {
    let mut hasher = blake3::Hasher::new_derive_key("ringmaster permutation v1");
    for word in words {
        hasher.update(&word.to_le_bytes());
    }
    let mut bytes = [0; ROUNDS * 8];
    hasher.finalize_xof().fill(&mut bytes);
    let mut keys = [0; ROUNDS];
    for (key, chunk) in keys.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        *key = u64::from_le_bytes(word);
    }
    keys
}

/// The finaliser of SplitMix64: every input bit reaches every output bit.
#[inline(always)]
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Scales a 64-bit word to `0..side`: the upper half of their product. Both factors of the two products are
/// below 2^32 or, a side, at most that, so that neither overflows.
#[inline(always)]
fn below(word: u64, side: u64) -> u64 {
    let (upper, lower) = (word >> 32, word & 0xffff_ffff);
    (upper * side + ((lower * side) >> 32)) >> 32
}

/// The sum of two numbers below `side`, modulo it.
#[inline(always)]
fn within(sum: u64, side: u64) -> u64 {
    if sum >= side { sum - side } else { sum }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_at_once_is_one_by_one_and_a_bijection(seed in any::<u64>(), n in 0..3000_u64) {
            let permutation = Permutation::new(&[seed], n);
            let mut all = permutation.all();
            let one_by_one: Vec<u64> = (0..n).map(|index| permutation.apply(index)).collect();
            prop_assert_eq!(&all, &one_by_one);
            all.sort_unstable();
            prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn a_word_is_scaled_by_the_upper_half_of_the_product(word in any::<u64>(), side in 1..=1_u64 << 32) {
            let product = u128::from(word) * u128::from(side);
            prop_assert_eq!(below(word, side), (product >> 64) as u64);
        }
    }

    /// Runs that are under way have begun in this order.
    #[test]
    fn the_order_is_what_it_always_was() {
        let at = |n: u64, index: u64| Permutation::new(&[1, 2, 3], n).apply(index);
        let of_7 = [0, 1, 2, 3, 4, 5, 6].map(|index| at(7, index));
        assert_eq!(of_7, [5, 6, 4, 1, 2, 0, 3]);
        let of_40_000 = [0, 1, 39_999].map(|index| at(40_000, index));
        assert_eq!(of_40_000, [17_381, 2063, 36_607]);
        let of_most = [0, 1, u64::MAX - 1].map(|index| at(u64::MAX, index));
        let expected = [
            5_089_457_583_462_175_414,
            18_382_342_452_284_282_777,
            6_619_341_595_134_011_454,
        ];
        assert_eq!(of_most, expected);
    }
}
