//! A seeded bijection of `0..n` that needs no table.
//!
//! A generalised Feistel network over the smallest grid `a * b >= n` with `a` close to `b`: each
//! round adds a keyed function of one coordinate to the other, modulo its side, which is invertible
//! whatever the function. Points that land outside `0..n` walk on until they land inside (Black and
//! Rogaway, "Ciphers with arbitrary finite domains", 2002); the grid exceeds `n` by less than one
//! row, so that is rare. It shuffles well; it is no cipher.

/// Rounds of the network; every coordinate depends on every key after a few.
const ROUNDS: usize = 8;

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
        let mut at = self.rounds(index);
        while at >= self.n {
            at = self.rounds(at);
        }
        at
    }

    fn rounds(&self, index: u64) -> u64 {
        let (a, b) = self.sides;
        let (mut x, mut y) = (index % a, index / a);
        for pair in self.keys.chunks_exact(2) {
            x = (x + below(mix(y ^ pair[0]), a)) % a;
            y = (y + below(mix(x ^ pair[1]), b)) % b;
        }
        y * a + x
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
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Scales a 64-bit word to `0..side`.
fn below(word: u64, side: u64) -> u64 {
    ((u128::from(word) * u128::from(side)) >> 64) as u64
}
