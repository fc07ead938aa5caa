//! How well a plan mixes the rows, next to a full shuffle: pure.
//!
//! Row groups are permuted whole and rows only within windows, so that shards are read in long pieces.
//! What that costs is told in figures a full shuffle has too: how far a row travels from where it is
//! stored, how often rows that are stored side by side are trained side by side, and from how many
//! row groups a step draws.

use std::collections::BTreeSet;

use ringmaster_proto::{Lane, Step};
use serde::Serialize;

use crate::plan::{Plan, RowRef, WindowId};

/// Steps that are looked at, spread over the epoch; one of fewer steps is looked at whole.
const STEPS_MAX: u64 = 256;

/// Windows that are looked at whole, spread over lanes and epoch.
const WINDOWS_MAX: u64 = 32;

/// A window that lasts for more steps than this is looked at in part.
const WINDOW_STEPS_MAX: u64 = 4096;

/// The figures of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mixing {
    /// How far a row is trained from where it is stored, mean, as a fraction of the epoch.
    pub travel: Compared,
    /// Fraction of the rows of a step whose stored successor is in the same step.
    pub neighbours_in_step: Compared,
    /// Steps between two rows of one window that are stored side by side, median; `None` where no
    /// window has two such rows.
    pub neighbour_steps: Option<Compared>,
    /// Different row groups that a step draws from, mean.
    pub row_groups_per_step: Compared,
}

/// A figure of the plan, and what a full shuffle has in the mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Of the plan.
    pub plan: f64,
    /// Of a uniform shuffle of all rows.
    pub full_shuffle: f64,
}

impl Mixing {
    /// Looks at epoch `epoch` of a plan whose row groups have `rows` rows, in manifest order.
    pub fn of(plan: &Plan, rows: impl IntoIterator<Item = u32>, epoch: u64) -> Self {
        let steps = Steps::look(plan, epoch);
        let all = plan.rows_per_epoch() as f64;
        let batch = (f64::from(plan.spec().lanes) * f64::from(plan.spec().lane_batch)).min(all);
        // A row group of n rows is missed by a batch with about this probability.
        let missed = |n: u32| (1.0 - f64::from(n) / all).max(0.0).powf(batch);
        let drawn = rows.into_iter().map(|n| 1.0 - missed(n)).sum();
        let pair = |plan, full_shuffle| Compared { plan, full_shuffle };
        Self {
            travel: pair(steps.travel, 1.0 / 3.0),
            neighbours_in_step: pair(steps.neighbours, (batch - 1.0) / all),
            neighbour_steps: neighbour_steps(plan, epoch).map(|of_plan| {
                // The median distance of two points of a unit interval.
                let unit = 1.0 - 0.5_f64.sqrt();
                pair(of_plan, unit * plan.steps_per_epoch() as f64)
            }),
            row_groups_per_step: pair(steps.row_groups, drawn),
        }
    }
}

/// Means over the steps that were looked at.
struct Steps {
    travel: f64,
    neighbours: f64,
    row_groups: f64,
}

impl Steps {
    fn look(plan: &Plan, epoch: u64) -> Self {
        let (of, all) = (plan.steps_per_epoch(), plan.rows_per_epoch() as f64);
        let count = of.min(STEPS_MAX);
        let (mut seen, mut travel, mut neighbours, mut row_groups) = (0, 0.0, 0, 0);
        for step in (0..count).map(|n| n * of / count) {
            let lanes = (0..plan.spec().lanes).map(Lane);
            let rows = lanes.flat_map(|lane| plan.rows(Step(epoch * of + step), lane));
            let mut rows: Vec<RowRef> = rows.flatten().collect();
            // Which sorts them by row group too.
            rows.sort_unstable_by_key(|row| row.row_id);
            let at = (step as f64 + 0.5) / of as f64;
            let distance = |row: &RowRef| ((row.row_id as f64 + 0.5) / all - at).abs();
            travel += rows.iter().map(distance).sum::<f64>();
            let pairs = rows.windows(2);
            neighbours += pairs.filter(|p| p[0].row_id + 1 == p[1].row_id).count();
            seen += rows.len();
            rows.dedup_by_key(|row| row.row_group);
            row_groups += rows.len();
        }
        Self {
            travel: travel / seen as f64,
            neighbours: neighbours as f64 / seen as f64,
            row_groups: row_groups as f64 / count as f64,
        }
    }
}

/// Steps between rows of one window that are stored side by side, median.
fn neighbour_steps(plan: &Plan, epoch: u64) -> Option<f64> {
    let of = plan.steps_per_epoch();
    let count = of.min(WINDOWS_MAX);
    let mut windows = BTreeSet::new();
    let mut apart = Vec::new();
    for n in 0..count {
        let lane = Lane((n % u64::from(plan.spec().lanes)) as u32);
        let slots = plan.slots(Step(epoch * of + n * of / count), lane);
        let window = slots.into_iter().flatten().next().map(|slot| slot.window);
        if let Some(window) = window.filter(|window| windows.insert((lane, *window))) {
            let rows = window_rows(plan, lane, window);
            let pairs = rows.windows(2).filter(|p| p[0].0 + 1 == p[1].0);
            apart.extend(pairs.map(|p| p[0].1.abs_diff(p[1].1)));
        }
    }
    apart.sort_unstable();
    apart.get(apart.len() / 2).map(|steps| *steps as f64)
}

/// (row, step) of the rows of one window, by row.
fn window_rows(plan: &Plan, lane: Lane, window: WindowId) -> Vec<(u64, u64)> {
    let first = plan.first_step(window).0;
    let mut rows = Vec::new();
    for step in first..first + WINDOW_STEPS_MAX {
        let slots = plan.slots(Step(step), lane);
        let mine = slots.iter().flatten().filter(|slot| slot.window == window);
        rows.extend(mine.map(|slot| (slot.row.row_id, step)));
        if slots
            .last()
            .is_none_or(|slot| slot.is_none_or(|slot| slot.window > window))
        {
            break;
        }
    }
    rows.sort_unstable();
    rows
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::plan::PlanSpec;

    fn mixing(groups: &[u32], lanes: u32, lane_batch: u32, shuffle_rows: u64) -> (Mixing, Plan) {
        let spec = PlanSpec {
            seed: 3,
            lanes,
            lane_batch,
            shuffle_rows,
        };
        let plan = Plan::new(groups.iter().copied(), spec).unwrap();
        (Mixing::of(&plan, groups.iter().copied(), 1), plan)
    }

    fn near(of: Compared, part: f64) -> bool {
        (of.plan - of.full_shuffle).abs() <= part * of.full_shuffle
    }

    /// One window over everything is a full shuffle; so are row groups of one row.
    #[test]
    fn a_full_shuffle_has_the_figures_of_one() {
        let one_window = mixing(&[100; 40], 1, 20, 1 << 20).0;
        let single_rows = mixing(&[1; 4000], 1, 20, 1).0;
        for of in [one_window, single_rows] {
            assert!(near(of.travel, 0.05), "{of:?}");
            assert!(near(of.row_groups_per_step, 0.05), "{of:?}");
            assert!(of.neighbours_in_step.plan < 0.01, "{of:?}");
        }
        let steps = one_window.neighbour_steps.unwrap();
        assert!(near(steps, 0.1), "{one_window:?}");
        assert_eq!(single_rows.neighbour_steps, None);
    }

    /// Without shuffling, in closed form: one row group in one lane is read as it is stored.
    #[test]
    fn no_shuffle_at_all_has_the_figures_of_that() {
        let of = mixing(&[4000], 1, 20, 1).0;
        assert!(of.travel.plan < 0.005, "{of:?}");
        assert_eq!(of.neighbours_in_step.plan, 19.0 / 20.0);
        assert_eq!(of.row_groups_per_step.plan, 1.0);
        assert!(of.neighbours_in_step.full_shuffle < 0.005);
    }

    /// The oracle counts over every row of the epoch, of which the figures look at all.
    #[test]
    fn a_small_epoch_is_counted_exactly() {
        let (of, plan) = mixing(&[10, 3, 25, 8, 14, 40], 3, 4, 30);
        let steps = plan.steps_per_epoch();
        let mut step_of = std::collections::BTreeMap::new();
        let mut groups = 0;
        for step in 0..steps {
            let rows = (0..3).flat_map(|lane| plan.rows(Step(steps + step), Lane(lane)));
            let rows: Vec<RowRef> = rows.flatten().collect();
            groups += rows
                .iter()
                .map(|row| row.row_group)
                .collect::<BTreeSet<_>>()
                .len();
            step_of.extend(rows.iter().map(|row| (row.row_id, step)));
        }
        assert_eq!(step_of.len(), 100);
        let together = (0..99)
            .filter(|row| step_of[row] == step_of[&(row + 1)])
            .count();
        assert_eq!(of.neighbours_in_step.plan, together as f64 / 100.0);
        assert_eq!(of.row_groups_per_step.plan, groups as f64 / steps as f64);
        let travel = |(row, step): (&u64, &u64)| {
            ((*row as f64 + 0.5) / 100.0 - (*step as f64 + 0.5) / steps as f64).abs()
        };
        let travel = step_of.iter().map(travel).sum::<f64>() / 100.0;
        assert!((of.travel.plan - travel).abs() < 1e-12, "{of:?} {travel}");
    }

    #[test]
    fn a_wider_window_mixes_better() {
        let narrow = mixing(&[500; 20], 4, 8, 40).0;
        let wide = mixing(&[500; 20], 4, 8, 4000).0;
        assert!(narrow.neighbours_in_step.plan > 2.0 * wide.neighbours_in_step.plan);
        let steps = |of: Mixing| of.neighbour_steps.unwrap().plan;
        assert!(steps(narrow) < steps(wide));
    }
}
