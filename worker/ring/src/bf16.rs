//! bfloat16 on the wire: the upper half of an `f32`, little endian.

use crate::vector::vectorised;

/// Bytes of one element.
pub const BYTES: usize = 2;

/// Rounds to the nearest bfloat16, ties to even. `wire` holds two bytes per value.
pub fn encode(values: &[f32], wire: &mut [u8]) {
    let (words, _) = wire.as_chunks_mut::<BYTES>();
    vectorised(|| {
        for (word, value) in words.iter_mut().zip(values) {
            *word = upper(*value).to_le_bytes();
        }
    });
}

/// Calls `apply` with each value and the place it belongs to. `wire` holds two bytes per value.
#[inline]
pub fn decode(wire: &[u8], values: &mut [f32], apply: impl Fn(&mut f32, f32)) {
    let (words, _) = wire.as_chunks::<BYTES>();
    vectorised(|| {
        for (value, word) in values.iter_mut().zip(words) {
            apply(value, widen(u16::from_le_bytes(*word)));
        }
    });
}

/// Rounds in place to what the wire can carry.
pub fn round(values: &mut [f32]) {
    vectorised(|| {
        for value in values {
            *value = rounded(*value);
        }
    });
}

/// What the wire can carry of a value.
#[inline(always)]
pub fn rounded(value: f32) -> f32 {
    widen(upper(value))
}

/// The upper half, rounded. Without a branch, so that loops over it become vector code; a NaN stays
/// one, made quiet, since rounding could carry it into infinity.
#[inline(always)]
fn upper(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    (if is_nan { quiet } else { rounded }) as u16
}

#[inline(always)]
fn widen(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rounding_is_that_of_an_independent_implementation(bits: u32) {
            let value = f32::from_bits(bits);
            prop_assert_eq!(upper(value), half::bf16::from_f32(value).to_bits());
        }

        #[test]
        fn the_wire_carries_exactly_what_rounding_leaves(values: Vec<f32>) {
            let mut wire = vec![0; values.len() * BYTES];
            encode(&values, &mut wire);
            let mut carried = vec![0.0; values.len()];
            decode(&wire, &mut carried, |place, value| *place = value);
            let mut rounded = values.clone();
            round(&mut rounded);
            for ((carried, rounded), value) in carried.iter().zip(&rounded).zip(&values) {
                prop_assert_eq!(carried.to_bits(), rounded.to_bits());
                prop_assert_eq!(carried.is_nan(), value.is_nan());
                if value.is_finite() && carried.is_finite() {
                    let ulp = (f64::from(*value).abs() * 2_f64.powi(-8)).max(2_f64.powi(-134));
                    prop_assert!((f64::from(*carried) - f64::from(*value)).abs() <= ulp);
                }
            }
        }
    }
}
