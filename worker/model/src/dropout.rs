//! Dropout (Srivastava et al. 2014) without a generator's state: every mask is a function of (seed,
//! step, lane, place in the forward pass), so a redo, a resume and any world size draw the same.

use std::cell::Cell;

use burn::tensor::{Tensor, TensorData};

use crate::ops::NoiseKey;

/// The dropout of one forward pass.
#[derive(Clone, Debug)]
pub(crate) struct Dropout {
    /// A value is dropped where its 32 random bits are below this.
    threshold: u32,
    /// Of the values that stay: 1 / (1 - rate).
    scale: f32,
    key: u64,
    /// Places passed so far.
    place: Cell<u64>,
}

impl Dropout {
    /// `None` at rate 0.
    pub(crate) fn new(rate: f64, key: NoiseKey) -> Option<Self> {
        (rate > 0.0).then(|| Self {
            threshold: (rate * 4_294_967_296.0) as u32,
            scale: (1.0 / (1.0 - rate)) as f32,
            key: stream(key),
            place: Cell::new(0),
        })
    }

    /// Goes on where `other` has come to.
    pub(crate) fn continue_from(&self, other: &Self) {
        self.place.set(other.place.get());
    }

    /// `x` times the next mask.
    pub(crate) fn apply<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let place = self.place.get();
        self.place.set(place + 1);
        let shape = x.dims();
        let mask = self.mask(place, shape.iter().product());
        // A constant: without a gradient of its own even on a device that tracks them.
        let mask = Tensor::from_data(TensorData::new(mask, shape), &x.device());
        x * mask
    }

    fn mask(&self, place: u64, len: usize) -> Vec<f32> {
        let base = mix(self.key ^ mix(place));
        let keep = |bits: u32| {
            if bits < self.threshold {
                0.0
            } else {
                self.scale
            }
        };
        let word = |i: u64| mix(base.wrapping_add(i));
        let pairs = (0..(len as u64).div_ceil(2)).flat_map(|i| {
            let word = word(i);
            [keep(word as u32), keep((word >> 32) as u32)]
        });
        pairs.take(len).collect()
    }
}

/// 64 bits for all of a microbatch's masks.
fn stream(NoiseKey { seed, step, lane }: NoiseKey) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("ringmaster 2026 dropout v1");
    hasher
        .update(&seed.to_le_bytes())
        .update(&step.to_le_bytes())
        .update(&lane.to_le_bytes());
    let mut word = [0; 8];
    hasher.finalize_xof().fill(&mut word);
    u64::from_le_bytes(word)
}

/// The output function of SplitMix64 (Steele, Lea & Flood 2014) at counter `n`.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
