//! When a loss comes down to another: pure.

/// The step at which a curve of (step, loss) first comes down to `target`, on straight lines between
/// its points; none if it never does.
pub(super) fn steps_to(curve: &[(u64, f64)], target: f64) -> Option<f64> {
    let reached = curve.iter().position(|(_, loss)| *loss <= target)?;
    let (step, loss) = curve[reached];
    let Some((before, above)) = reached.checked_sub(1).map(|at| curve[at]) else {
        return Some(step as f64);
    };
    let share = (above - target) / (above - loss);
    Some(before as f64 + share * (step - before) as f64)
}

/// The loss of the curve at the last point that is not behind `share` of its length.
pub(super) fn loss_at(curve: &[(u64, f64)], share: f64) -> Option<f64> {
    let end = curve.last()?.0 as f64 * share;
    let before = curve.iter().take_while(|(step, _)| *step as f64 <= end);
    before.last().map(|(_, loss)| *loss)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURVE: [(u64, f64); 4] = [(10, 4.0), (20, 2.0), (30, 3.0), (40, 1.0)];

    #[test]
    fn a_target_is_met_between_points_the_first_time() {
        assert_eq!(steps_to(&CURVE, 5.0), Some(10.0));
        assert_eq!(steps_to(&CURVE, 3.0), Some(15.0));
        assert_eq!(steps_to(&CURVE, 2.0), Some(20.0));
        // Down from 3 at 30 to 1 at 40.
        assert_eq!(steps_to(&CURVE, 1.5), Some(37.5));
        assert_eq!(steps_to(&CURVE, 0.5), None);
        assert_eq!(steps_to(&[], 0.5), None);
    }

    #[test]
    fn a_share_of_the_length_is_the_point_before() {
        assert_eq!(loss_at(&CURVE, 1.0), Some(1.0));
        assert_eq!(loss_at(&CURVE, 0.6), Some(2.0));
        assert_eq!(loss_at(&CURVE, 0.2), None);
    }
}
