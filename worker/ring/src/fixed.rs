//! Exact sums: gradients as 64-bit fixed point numbers.
//!
//! Floating point addition is not associative, so a sum of gradients depends on who adds in which
//! order. Integers do not have that problem. A gradient `g` becomes
//! `q = round_ties_even(g * 2^40)`, `q` is added as an `i64`, and one division at the end brings
//! the total back. No world size, grouping or order of the additions changes a bit.
//!
//! With `L` lanes a value beyond `(2^63 - 1) / L` could overflow the total; like NaN and infinity
//! it counts as bad and contributes nothing, and the caller skips the step on every rank.

use crate::vector::vectorised;

/// Fraction bits: a unit of `q` is 2^-40, about 9.1e-13.
pub const FRACTION_BITS: u32 = 40;

const SCALE: f64 = (1_u64 << FRACTION_BITS) as f64;
const TWO_POW_32: f64 = 4_294_967_296.0;
const TWO_POW_52: f64 = 4_503_599_627_370_496.0;

/// 1.5 * 2^52. Adding it to an `f64` of magnitude below 2^51 rounds that to an integer, ties to
/// even, and leaves the integer in the low bits of the sum: the one conversion to `i64` that
/// vectorises on every x86-64.
const ROUNDER: f64 = 6_755_399_441_055_744.0;

/// Adds one lane's gradients to the accumulators and returns how many values were bad.
///
/// `acc[i] += round_ties_even(grads[i] * 2^40)`, wrapping; a value that is not finite or whose
/// fixed point exceeds `(2^63 - 1) / lanes` in magnitude is bad and adds 0. The slices have equal
/// lengths; what one has beyond the other is left alone.
pub fn accumulate(grads: &[f32], acc: &mut [i64], lanes: u32) -> u64 {
    let limit = limit(lanes);
    vectorised(|| {
        let mut bad = 0;
        for (acc, grad) in acc.iter_mut().zip(grads) {
            // Exact: a scaling by a power of two, far from either end of f64's range.
            let scaled = f64::from(*grad) * SCALE;
            let good = scaled.abs() <= limit;
            bad += u64::from(!good);
            *acc = acc.wrapping_add(to_integer(if good { scaled } else { 0.0 }));
        }
        bad
    })
}

/// Brings a total back: `q * 2^-40 / divisor`, computed in `f64` and rounded to `f32` once.
#[inline(always)]
pub fn to_f32(q: i64, divisor: f64) -> f32 {
    // Two exact halves and one rounding, as the conversion of a whole i64 does it: that one has no
    // vector form on most machines. So is 2^-40 exact, and saves a division.
    let high = f64::from((q >> 32) as i32) * TWO_POW_32;
    let low = f64::from_bits(TWO_POW_52.to_bits() | (q & 0xffff_ffff) as u64) - TWO_POW_52;
    ((high + low) * (1.0 / SCALE) / divisor) as f32
}

/// The largest `f64` that is not above `(2^63 - 1) / lanes`: what a gradient times 2^40 may be.
///
/// Comparing with it is exact although it is taken before rounding: a gradient has 24 significant
/// bits, so near a limit that is at least 2^31 its fixed point is a whole number already.
pub fn limit(lanes: u32) -> f64 {
    let limit = i64::MAX / i64::from(lanes.max(1));
    let rounded = limit as f64;
    // 2^63 itself is not an i64, so compare in i128.
    if rounded as i128 > i128::from(limit) {
        rounded.next_down()
    } else {
        rounded
    }
}

/// `round_ties_even(x)` for a finite `x` of magnitude below 2^63 that has 24 significant bits.
///
/// Two 32-bit halves keep each below 2^51, where [`ROUNDER`] works. The split is exact: if the
/// high half is not zero then `x` is a whole number of units far finer than 2^32.
#[inline(always)]
fn to_integer(x: f64) -> i64 {
    let high = x * (1.0 / TWO_POW_32) + ROUNDER;
    let low = x - (high - ROUNDER) * TWO_POW_32 + ROUNDER;
    let rounder = ROUNDER.to_bits() as i64;
    let high = (high.to_bits() as i64).wrapping_sub(rounder);
    let low = (low.to_bits() as i64).wrapping_sub(rounder);
    (high << 32).wrapping_add(low)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition in integers: the mantissa shifted by the exponent, ties to even.
    fn reference(grad: f32, lanes: u32) -> Option<i64> {
        if !grad.is_finite() {
            return None;
        }
        let bits = grad.to_bits();
        let exponent = (bits >> 23 & 0xff).max(1) as i32;
        let implicit = u32::from(bits >> 23 & 0xff != 0) << 23;
        let mantissa = i128::from(bits & 0x7f_ffff | implicit);
        // grad = mantissa * 2^(exponent - 150), and we want it times 2^40.
        let shift = exponent - 150 + FRACTION_BITS as i32;
        let magnitude = if shift >= 0 {
            mantissa
                .checked_shl(shift as u32)
                .filter(|m| m >> shift == mantissa)?
        } else {
            let drop = (-shift).min(100) as u32;
            let (floor, rest) = (mantissa >> drop, mantissa & ((1 << drop) - 1));
            let half = 1_i128 << (drop - 1);
            floor + i128::from(rest > half || (rest == half && floor & 1 == 1))
        };
        if magnitude > i128::from(i64::MAX) / i128::from(lanes) {
            return None;
        }
        let magnitude = magnitude as i64;
        Some(if grad.is_sign_negative() {
            -magnitude
        } else {
            magnitude
        })
    }

    fn check(grads: &[f32], lanes: u32) -> Result<(), TestCaseError> {
        let mut acc: Vec<i64> = (0..grads.len()).map(|i| i64::MAX - i as i64).collect();
        let mut expected = acc.clone();
        let mut bad = 0;
        for (expected, grad) in expected.iter_mut().zip(grads) {
            match reference(*grad, lanes) {
                Some(q) => *expected = expected.wrapping_add(q),
                None => bad += 1,
            }
        }
        prop_assert_eq!(accumulate(grads, &mut acc, lanes), bad);
        prop_assert_eq!(acc, expected);
        Ok(())
    }

    /// Values whose fixed point is close to a tie, to a limit or to the end of the range.
    fn delicate() -> impl Strategy<Value = f32> {
        let tie = (-3000_i32..3000).prop_map(|half| half as f32 * 2_f32.powi(-41));
        let beside = (-3000_i32..3000, -1_i32..=1).prop_map(|(half, nudge)| {
            let tie = half as f32 * 2_f32.powi(-41);
            f32::from_bits(tie.to_bits().wrapping_add_signed(nudge))
        });
        let power = (-149_i32..128, -2_i32..=2, any::<bool>()).prop_map(|(power, nudge, sign)| {
            let value = (f64::from(power).exp2() as f32)
                .to_bits()
                .saturating_add_signed(nudge);
            f32::from_bits(value | u32::from(sign) << 31)
        });
        let special = prop::sample::select(vec![
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN,
            f32::from_bits(1),
            -0.0,
            8_388_608.0,
            -8_388_608.0,
        ]);
        prop_oneof![
            tie,
            beside,
            power,
            special,
            any::<u32>().prop_map(f32::from_bits),
            -1_f32..1.0
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn accumulate_equals_the_definition(
            grads in prop::collection::vec(delicate(), 0..70),
            lanes in prop_oneof![1_u32..70, Just(1 << 20), Just(u32::MAX), any::<u32>()],
        ) {
            check(&grads, lanes.max(1))?;
        }

        #[test]
        fn a_total_comes_back_as_the_definition_says(
            q in prop_oneof![any::<i64>(), -100_000_i64..100_000, (0_u32..64).prop_map(|s| i64::MIN >> s)],
            divisor in 0.5_f64..1e9,
        ) {
            let expected = (q as f64 / 2_f64.powi(40) / divisor) as f32;
            prop_assert_eq!(to_f32(q, divisor).to_bits(), expected.to_bits());
        }

        #[test]
        fn lanes_within_the_limit_never_overflow(lanes in 1_u32..=u32::MAX) {
            let limit = limit(lanes);
            prop_assert!(limit as i128 * i128::from(lanes) <= i128::from(i64::MAX));
            prop_assert!(limit.next_up().ceil() as i128 > i128::from(i64::MAX / i64::from(lanes)));
        }
    }

    #[test]
    fn a_value_survives_the_way_there_and_back() {
        for value in [0.0_f32, 1.0, -1.5, 0.3, 1e-6, -123_456.79] {
            let mut acc = [0];
            assert_eq!(accumulate(&[value], &mut acc, 4), 0);
            let back = to_f32(acc[0], 1.0);
            assert!(
                (back - value).abs() <= 2_f32.powi(-40),
                "{value} came back as {back}"
            );
        }
    }
}
