//! Position tables of another image size, on a finer or coarser grid over the same picture.

/// Resamples a table of `from * from` positions, rows first, `width` values each, to `to * to`
/// positions: bilinear, between the centres of the old tokens. Beyond the outermost centres the line
/// through the two last ones continues, so whatever is linear over the picture stays exactly so.
/// Each sum is taken in f64, in one order: the same bits everywhere.
pub(super) fn resize(table: &[f32], width: usize, from: usize, to: usize) -> Vec<f32> {
    if from == to {
        return table.to_vec();
    }
    let stops: Vec<Stop> = (0..to).map(|at| Stop::of(at, from, to)).collect();
    let value = |row: usize, column: usize, channel: usize| {
        f64::from(table[(row * from + column) * width + channel])
    };
    let mut resized = Vec::with_capacity(to * to * width);
    for row in &stops {
        for column in &stops {
            for channel in 0..width {
                let first = column.between(|at| value(row.lower, at, channel));
                let second = column.between(|at| value(row.upper, at, channel));
                resized.push((first + row.share * (second - first)) as f32);
            }
        }
    }
    resized
}

/// Where a new centre lies between two old ones, along one side.
struct Stop {
    lower: usize,
    upper: usize,
    /// 0 at `lower`, 1 at `upper`; outside of that beyond the outermost centres.
    share: f64,
}

impl Stop {
    fn of(at: usize, from: usize, to: usize) -> Self {
        let centre = (at as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        let lower = (centre.max(0.0) as usize).min(from.saturating_sub(2));
        Self {
            lower,
            upper: (lower + 1).min(from - 1),
            share: centre - lower as f64,
        }
    }

    fn between(&self, value: impl Fn(usize) -> f64) -> f64 {
        let (lower, upper) = (value(self.lower), value(self.upper));
        lower + self.share * (upper - lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `a + b x + c y` at the centres of a grid over the unit square.
    fn ramp(side: usize, [a, b, c]: [f64; 3]) -> Vec<f32> {
        let centre = |at: usize| (at as f64 + 0.5) / side as f64;
        let at = |i: usize| a + b * centre(i % side) + c * centre(i / side);
        (0..side * side).map(|i| at(i) as f32).collect()
    }

    proptest! {
        #[test]
        fn a_linear_ramp_stays_the_linear_ramp(
            from in 2_usize..17, to in 1_usize..33, plane in prop::array::uniform3(-2.0..2.0_f64),
        ) {
            let resized = resize(&ramp(from, plane), 1, from, to);
            for (ours, exact) in resized.iter().zip(ramp(to, plane)) {
                prop_assert!((ours - exact).abs() < 1e-5, "{ours} {exact}");
            }
        }

        #[test]
        fn the_same_size_keeps_every_bit(bits in prop::collection::vec(any::<u32>(), 2 * 9)) {
            let table: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
            let resized = resize(&table, 2, 3, 3);
            prop_assert!(resized.iter().zip(bits).all(|(value, bits)| value.to_bits() == bits));
        }
    }

    #[test]
    fn channels_do_not_mix_and_one_position_is_constant() {
        let table: Vec<f32> = ramp(4, [0.0, 1.0, 0.0])
            .into_iter()
            .flat_map(|value| [value, 7.0])
            .collect();
        let resized = resize(&table, 2, 4, 6);
        assert_eq!(resized.len(), 72);
        assert!(resized.chunks(2).all(|pair| pair[1] == 7.0));
        assert_eq!(resize(&[1.5, 2.5], 2, 1, 2), [1.5, 2.5].repeat(4));
    }

    /// By hand: 2 to 4 along one side. Centres 0.25 and 0.75; new ones 0.125, 0.375, 0.625, 0.875.
    #[test]
    fn shares_are_distances_between_centres() {
        let columns = [0.0_f32, 8.0, 0.0, 8.0];
        let resized = resize(&columns, 1, 2, 4);
        assert_eq!(resized[..4], [-2.0, 2.0, 6.0, 10.0]);
    }
}
