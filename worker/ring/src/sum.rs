//! What an all-reduce adds: how each kind of element looks on the wire and in memory.

use std::ops::Range;

use crate::bf16;
use crate::fixed;
use crate::frame::{Kind, PAYLOAD_MAX};
use crate::topology::Phase;
use crate::vector::vectorised;

/// Numbers are little endian on the wire, and in the memory of nearly every machine.
const ALIKE: bool = cfg!(target_endian = "little");

/// A buffer that is being summed over the ranks.
///
/// `wire` is always as long as its range needs. All numbers are little endian on the wire.
pub(crate) trait Sum {
    const KIND: Kind;
    /// Elements of one frame; the same in both phases, so a segment can be passed on.
    const SEGMENT: usize = PAYLOAD_MAX / Self::REDUCE_BYTES;
    /// Bytes of a partial sum.
    const REDUCE_BYTES: usize;
    /// Bytes of a total.
    const GATHER_BYTES: usize = Self::REDUCE_BYTES;

    fn len(&self) -> usize;

    /// Where memory looks like the wire: the partial sums or the totals of `range`.
    fn memory(&self, phase: Phase, range: Range<usize>) -> Option<&[u8]>;

    /// Where memory looks like the wire: the place of the totals of `range`.
    fn totals(&mut self, range: Range<usize>) -> Option<&mut [u8]>;

    /// Writes the partial sums or the totals of `range`.
    fn encode(&self, phase: Phase, range: Range<usize>, wire: &mut [u8]);

    /// Makes every partial sum that of nobody.
    fn clear(&mut self);

    /// Adds another rank's partial sums.
    fn add(&mut self, range: Range<usize>, wire: &[u8]);

    /// The partial sums of `range` now are totals, and this rank owns them.
    fn complete(&mut self, range: Range<usize>);

    /// Adds the last partial sums, which makes totals.
    fn add_last(&mut self, range: Range<usize>, wire: &[u8]) {
        self.add(range.clone(), wire);
        self.complete(range);
    }

    /// Stores totals that another rank owns.
    fn store(&mut self, range: Range<usize>, wire: &[u8]);

    fn bytes(phase: Phase) -> usize {
        match phase {
            Phase::ReduceScatter => Self::REDUCE_BYTES,
            Phase::AllGather => Self::GATHER_BYTES,
        }
    }
}

/// Fixed point sums that the owner of a chunk rounds to `f32` once.
pub(crate) struct Exact<'a> {
    pub(crate) q: &'a mut [i64],
    pub(crate) out: &'a mut [f32],
    pub(crate) divisor: f64,
}

impl Sum for Exact<'_> {
    const KIND: Kind = Kind::Exact;
    const REDUCE_BYTES: usize = 8;
    const GATHER_BYTES: usize = 4;

    fn len(&self) -> usize {
        self.q.len()
    }

    fn memory(&self, phase: Phase, range: Range<usize>) -> Option<&[u8]> {
        ALIKE.then(|| match phase {
            Phase::ReduceScatter => bytemuck::cast_slice(&self.q[range]),
            Phase::AllGather => bytemuck::cast_slice(&self.out[range]),
        })
    }

    fn totals(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        ALIKE.then(|| bytemuck::cast_slice_mut(&mut self.out[range]))
    }

    fn clear(&mut self) {
        self.q.fill(0);
    }

    fn encode(&self, phase: Phase, range: Range<usize>, wire: &mut [u8]) {
        match phase {
            Phase::ReduceScatter => encode_i64(&self.q[range], wire),
            Phase::AllGather => encode_f32(&self.out[range], wire),
        }
    }

    fn add(&mut self, range: Range<usize>, wire: &[u8]) {
        add_i64(&mut self.q[range], wire);
    }

    fn complete(&mut self, range: Range<usize>) {
        let (out, q, divisor) = (&mut self.out[range.clone()], &self.q[range], self.divisor);
        vectorised(|| {
            for (out, q) in out.iter_mut().zip(q) {
                *out = fixed::to_f32(*q, divisor);
            }
        });
    }

    /// In one pass: what is added is scratch space from here on and is not written back.
    fn add_last(&mut self, range: Range<usize>, wire: &[u8]) {
        let (out, q, divisor) = (&mut self.out[range.clone()], &self.q[range], self.divisor);
        let (words, _) = wire.as_chunks::<8>();
        vectorised(|| {
            for ((out, q), word) in out.iter_mut().zip(q).zip(words) {
                *out = fixed::to_f32(q.wrapping_add(i64::from_le_bytes(*word)), divisor);
            }
        });
    }

    fn store(&mut self, range: Range<usize>, wire: &[u8]) {
        decode_f32(wire, &mut self.out[range], |place, value| *place = value);
    }
}

/// `f32` sums, added in ring order from each chunk's first rank.
pub(crate) struct F32<'a>(pub(crate) &'a mut [f32]);

impl Sum for F32<'_> {
    const KIND: Kind = Kind::F32;
    const REDUCE_BYTES: usize = 4;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn memory(&self, _: Phase, range: Range<usize>) -> Option<&[u8]> {
        ALIKE.then(|| bytemuck::cast_slice(&self.0[range]))
    }

    fn totals(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        ALIKE.then(|| bytemuck::cast_slice_mut(&mut self.0[range]))
    }

    fn clear(&mut self) {
        // The neutral element: 0.0 would take the sign from -0.0.
        self.0.fill(-0.0);
    }

    fn encode(&self, _: Phase, range: Range<usize>, wire: &mut [u8]) {
        encode_f32(&self.0[range], wire);
    }

    fn add(&mut self, range: Range<usize>, wire: &[u8]) {
        decode_f32(wire, &mut self.0[range], |place, value| *place += value);
    }

    fn complete(&mut self, _: Range<usize>) {}

    fn store(&mut self, range: Range<usize>, wire: &[u8]) {
        decode_f32(wire, &mut self.0[range], |place, value| *place = value);
    }
}

/// `f32` sums whose partial sums and totals travel as bfloat16.
pub(crate) struct Bf16<'a>(pub(crate) &'a mut [f32]);

impl Sum for Bf16<'_> {
    const KIND: Kind = Kind::Bf16;
    const REDUCE_BYTES: usize = bf16::BYTES;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn memory(&self, _: Phase, _: Range<usize>) -> Option<&[u8]> {
        None
    }

    fn totals(&mut self, _: Range<usize>) -> Option<&mut [u8]> {
        None
    }

    fn clear(&mut self) {
        // The neutral element: 0.0 would take the sign from -0.0.
        self.0.fill(-0.0);
    }

    fn encode(&self, _: Phase, range: Range<usize>, wire: &mut [u8]) {
        bf16::encode(&self.0[range], wire);
    }

    fn add(&mut self, range: Range<usize>, wire: &[u8]) {
        bf16::decode(wire, &mut self.0[range], |place, value| *place += value);
    }

    /// In one pass, with the same roundings.
    fn add_last(&mut self, range: Range<usize>, wire: &[u8]) {
        bf16::decode(wire, &mut self.0[range], |place, value| {
            *place = bf16::rounded(*place + value);
        });
    }

    fn complete(&mut self, range: Range<usize>) {
        // The owner keeps what the others will hear, or the ranks would differ.
        bf16::round(&mut self.0[range]);
    }

    fn store(&mut self, range: Range<usize>, wire: &[u8]) {
        bf16::decode(wire, &mut self.0[range], |place, value| *place = value);
    }
}

/// Wrapping integer sums: counts, hashes, and bits of other ranks where this one adds 0.
pub(crate) struct I64<'a>(pub(crate) &'a mut [i64]);

impl Sum for I64<'_> {
    const KIND: Kind = Kind::I64;
    const REDUCE_BYTES: usize = 8;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn memory(&self, _: Phase, range: Range<usize>) -> Option<&[u8]> {
        ALIKE.then(|| bytemuck::cast_slice(&self.0[range]))
    }

    fn totals(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        ALIKE.then(|| bytemuck::cast_slice_mut(&mut self.0[range]))
    }

    fn clear(&mut self) {
        self.0.fill(0);
    }

    fn encode(&self, _: Phase, range: Range<usize>, wire: &mut [u8]) {
        encode_i64(&self.0[range], wire);
    }

    fn add(&mut self, range: Range<usize>, wire: &[u8]) {
        add_i64(&mut self.0[range], wire);
    }

    fn complete(&mut self, _: Range<usize>) {}

    fn store(&mut self, range: Range<usize>, wire: &[u8]) {
        let (words, _) = wire.as_chunks::<8>();
        for (place, word) in self.0[range].iter_mut().zip(words) {
            *place = i64::from_le_bytes(*word);
        }
    }
}

fn encode_i64(values: &[i64], wire: &mut [u8]) {
    let (words, _) = wire.as_chunks_mut::<8>();
    for (word, value) in words.iter_mut().zip(values) {
        *word = value.to_le_bytes();
    }
}

fn add_i64(values: &mut [i64], wire: &[u8]) {
    let (words, _) = wire.as_chunks::<8>();
    vectorised(|| {
        for (value, word) in values.iter_mut().zip(words) {
            *value = value.wrapping_add(i64::from_le_bytes(*word));
        }
    });
}

fn encode_f32(values: &[f32], wire: &mut [u8]) {
    let (words, _) = wire.as_chunks_mut::<4>();
    for (word, value) in words.iter_mut().zip(values) {
        *word = value.to_le_bytes();
    }
}

fn decode_f32(wire: &[u8], values: &mut [f32], apply: impl Fn(&mut f32, f32)) {
    let (words, _) = wire.as_chunks::<4>();
    vectorised(|| {
        for (value, word) in values.iter_mut().zip(words) {
            apply(value, f32::from_le_bytes(*word));
        }
    });
}
