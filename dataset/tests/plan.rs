//! Properties of the order of rows, against a plan written out in full.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use ringmaster_dataset::plan::{Plan, PlanError, PlanSpec, RowRef};
use ringmaster_dataset::{efficiency, lanes_of_rank, standby_lanes};
use ringmaster_proto::{Lane, Rank, Step, WorldSize};

#[derive(Clone, Debug)]
struct Case {
    groups: Vec<u32>,
    spec: PlanSpec,
}

impl Case {
    fn plan(&self) -> Plan {
        Plan::new(self.groups.iter().copied(), self.spec).unwrap()
    }

    fn rows(&self) -> u64 {
        self.groups.iter().copied().map(u64::from).sum()
    }
}

fn case() -> impl Strategy<Value = Case> {
    let groups = prop::collection::vec(0_u32..40, 1..12)
        .prop_filter("some rows", |groups| groups.iter().sum::<u32>() > 0);
    (groups, any::<u64>(), 1_u32..9, 1_u32..9, 1_u64..200).prop_map(
        |(groups, seed, lanes, lane_batch, shuffle_rows)| Case {
            groups,
            spec: PlanSpec {
                seed,
                lanes,
                lane_batch,
                shuffle_rows,
            },
        },
    )
}

fn lane_of_epoch(plan: &Plan, epoch: u64, lane: u32) -> Vec<Option<RowRef>> {
    let steps = plan.steps_per_epoch();
    (epoch * steps..(epoch + 1) * steps)
        .flat_map(|step| plan.rows(Step(step), Lane(lane)))
        .collect()
}

fn epoch(plan: &Plan, epoch: u64) -> Vec<RowRef> {
    (0..plan.spec().lanes)
        .flat_map(|lane| lane_of_epoch(plan, epoch, lane))
        .flatten()
        .collect()
}

proptest! {
    #[test]
    fn every_row_is_used_exactly_once_per_epoch(case in case(), number in 0_u64..3) {
        let plan = case.plan();
        let used: Vec<RowRef> = epoch(&plan, number);
        let places: BTreeSet<(u32, u32)> = used.iter().map(|r| (r.row_group, r.row)).collect();
        let expected: BTreeSet<(u32, u32)> = (0_u32..)
            .zip(&case.groups)
            .flat_map(|(group, rows)| (0..*rows).map(move |row| (group, row)))
            .collect();
        prop_assert_eq!(places, expected);
        prop_assert_eq!(used.len() as u64, case.rows());
        let ids: BTreeSet<u64> = used.iter().map(|r| r.row_id).collect();
        prop_assert_eq!(ids, (0..case.rows()).collect());
        prop_assert!(used.iter().all(|r| r.epoch == number && r.pass == 0));
    }

    #[test]
    fn row_ids_number_the_corpus_in_manifest_order(case in case()) {
        for row in epoch(&case.plan(), 0) {
            let before: u32 = case.groups[..row.row_group as usize].iter().sum();
            prop_assert_eq!(row.row_id, u64::from(before + row.row));
        }
    }

    #[test]
    fn lanes_are_even_and_padding_comes_last_in_the_last_step_only(case in case()) {
        let plan = case.plan();
        let batch = case.spec.lane_batch as usize;
        let mut lengths = Vec::new();
        for lane in 0..case.spec.lanes {
            let rows = lane_of_epoch(&plan, 0, lane);
            prop_assert_eq!(rows.len() as u64, plan.steps_per_epoch() * batch as u64);
            let real = rows.iter().flatten().count();
            prop_assert!(rows[..real].iter().all(Option::is_some));
            lengths.push(real);
        }
        let (least, most) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
        prop_assert!(most - least <= 1);
        prop_assert_eq!(plan.steps_per_epoch(), most.div_ceil(batch) as u64);
    }

    /// The oracle lays the epoch out in full from the lanes' windows: what a window fetches, in
    /// stored order, is exactly the set of rows its part of the lane uses, and `index` finds each.
    #[test]
    fn lookup_equals_a_plan_written_out_in_full(case in case(), number in 0_u64..2) {
        let plan = case.plan();
        let window_rows = (case.spec.shuffle_rows / u64::from(case.spec.lanes)).max(1) as usize;
        let mut laid = Vec::new();
        for lane in (0..case.spec.lanes).map(Lane) {
            let rows: Vec<RowRef> =
                lane_of_epoch(&plan, number, lane.0).into_iter().flatten().collect();
            let steps = plan.steps_per_epoch();
            let slots: Vec<_> = (number * steps..(number + 1) * steps)
                .flat_map(|step| plan.slots(Step(step), lane))
                .flatten()
                .collect();
            for (chunk, slots) in rows.chunks(window_rows).zip(slots.chunks(window_rows)) {
                let window = slots[0].window;
                let stored: Vec<(u32, u32)> = plan
                    .segments(lane, window)
                    .into_iter()
                    .flat_map(|s| s.rows.map(move |row| (s.row_group, row)))
                    .collect();
                prop_assert_eq!(stored.len(), chunk.len());
                for (row, slot) in chunk.iter().zip(slots) {
                    prop_assert_eq!(slot.window, window);
                    prop_assert_eq!(stored[slot.index], (row.row_group, row.row));
                }
                laid.extend(stored);
            }
        }
        // Laid end to end, each row group appears once, whole and in its own order: lanes cut it,
        // nothing else does.
        let mut groups: Vec<u32> = laid.iter().map(|(group, _)| *group).collect();
        groups.dedup();
        let distinct: BTreeSet<u32> = groups.iter().copied().collect();
        prop_assert_eq!(groups.len(), distinct.len());
        let naive: Vec<(u32, u32)> = groups
            .iter()
            .flat_map(|g| (0..case.groups[*g as usize]).map(move |row| (*g, row)))
            .collect();
        prop_assert_eq!(laid, naive);
    }

    #[test]
    fn windows_follow_each_other_as_the_lane_meets_them(case in case()) {
        let plan = case.plan();
        let steps = plan.steps_per_epoch();
        for lane in (0..case.spec.lanes).map(Lane) {
            let mut met: Vec<_> = (0..2 * steps)
                .flat_map(|step| plan.slots(Step(step), lane))
                .flatten()
                .map(|slot| slot.window)
                .collect();
            met.dedup();
            for pair in met.windows(2) {
                prop_assert_eq!(plan.next_window(lane, pair[0]), pair[1]);
            }
            for step in (0..2 * steps).map(Step) {
                if let Some(Some(first)) = plan.slots(step, lane).first() {
                    prop_assert_eq!(plan.window_of(step, lane), first.window);
                }
            }
        }
    }

    #[test]
    fn lanes_of_all_ranks_partition_the_lanes_at_every_world_size(
        lanes in 1_u32..100,
        world in 1_u32..20,
    ) {
        let ranges: Vec<_> =
            (0..world).map(|r| lanes_of_rank(lanes, Rank(r), WorldSize(world))).collect();
        let all: Vec<u32> = ranges.iter().cloned().flatten().collect();
        prop_assert_eq!(all, (0..lanes).collect::<Vec<_>>());
        let sizes: Vec<usize> = ranges.iter().map(ExactSizeIterator::len).collect();
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        prop_assert!(most - least <= 1);
        let busy = f64::from(lanes) / (f64::from(world) * *most as f64);
        prop_assert!((efficiency(lanes, WorldSize(world)) - busy).abs() < 1e-12);
    }

    /// The oracle lets every other rank die.
    #[test]
    fn a_rank_stands_by_for_what_it_would_own_if_any_one_other_were_gone(
        lanes in 1_u32..60,
        world in 1_u32..20,
    ) {
        for rank in 0..world {
            let own = lanes_of_rank(lanes, Rank(rank), WorldSize(world));
            let mut others = BTreeSet::new();
            for dead in (0..world).filter(|dead| *dead != rank) {
                let survivors: Vec<u32> = (0..world).filter(|r| *r != dead).collect();
                let place = survivors.iter().position(|r| *r == rank).unwrap() as u32;
                let after = lanes_of_rank(lanes, Rank(place), WorldSize(world - 1));
                others.extend(after.filter(|lane| !own.contains(lane)));
            }
            let expected: Vec<u32> = others.into_iter().collect();
            prop_assert_eq!(standby_lanes(lanes, Rank(rank), WorldSize(world)), expected);
        }
    }
}

fn corpus(seed: u64) -> Plan {
    let spec = PlanSpec {
        seed,
        lanes: 4,
        lane_batch: 16,
        shuffle_rows: 8192,
    };
    Plan::new([512; 47], spec).unwrap()
}

/// Spearman's rank correlation of two orders of the same rows.
fn correlation(a: &[RowRef], b: &[RowRef]) -> f64 {
    let mut place = vec![0; b.len()];
    for (at, row) in b.iter().enumerate() {
        place[row.row_id as usize] = at;
    }
    let n = a.len() as f64;
    let mean = (n - 1.0) / 2.0;
    let sum: f64 = (0_u32..)
        .zip(a)
        .map(|(at, row)| (f64::from(at) - mean) * (place[row.row_id as usize] as f64 - mean))
        .sum();
    sum / (n * (n * n - 1.0) / 12.0)
}

/// 24,064 rows move as 47 groups, so the correlation of two unrelated orders has a standard
/// deviation near 1/sqrt(46) = 0.15. The seeds are fixed: this cannot flake.
#[test]
fn other_seeds_and_epochs_give_unrelated_orders() {
    let base = epoch(&corpus(1), 0);
    let others = [
        epoch(&corpus(2), 0),
        epoch(&corpus(1), 1),
        epoch(&corpus(1), 2),
    ];
    for other in others {
        assert!(correlation(&base, &other).abs() < 0.45);
    }
}

#[test]
fn a_window_leaves_hardly_any_neighbours_together() {
    let order = epoch(&corpus(7), 0);
    let together = order
        .windows(2)
        .filter(|pair| pair[1].row_id == pair[0].row_id + 1)
        .count();
    // A uniform shuffle of n rows keeps one pair on average; windows of 2,048 keep about 12 in all.
    assert!(
        together < 60,
        "{together} of {} neighbours stay together",
        order.len()
    );
}

#[test]
fn a_lane_may_start_inside_a_row_group() {
    let spec = PlanSpec {
        seed: 3,
        lanes: 3,
        lane_batch: 2,
        shuffle_rows: 3,
    };
    let plan = Plan::new([10], spec).unwrap();
    let starts: Vec<u32> = (0..3)
        .map(|lane| {
            plan.segments(
                Lane(lane),
                plan.slots(Step(0), Lane(lane))[0].unwrap().window,
            )
        })
        .map(|segments| segments[0].rows.start)
        .collect();
    assert_eq!(starts, [0, 3, 6]);
}

#[test]
fn the_ledger_hash_tells_epoch_pass_and_row_apart() {
    let row = RowRef {
        epoch: 1,
        pass: 0,
        row_group: 0,
        row: 0,
        row_id: 2,
    };
    let variants = [
        row,
        RowRef { epoch: 2, ..row },
        RowRef { pass: 1, ..row },
        RowRef { row_id: 1, ..row },
    ];
    let hashes: BTreeSet<u64> = variants.iter().map(RowRef::hash).collect();
    assert_eq!(hashes.len(), variants.len());
    // Where the row lies is no part of it.
    assert_eq!(
        RowRef {
            row_group: 9,
            row: 9,
            ..row
        }
        .hash(),
        row.hash()
    );
}

#[test]
fn an_empty_corpus_has_no_plan() {
    let spec = PlanSpec {
        seed: 0,
        lanes: 1,
        lane_batch: 1,
        shuffle_rows: 1,
    };
    assert_eq!(Plan::new([0, 0], spec).unwrap_err(), PlanError::Empty);
    assert_eq!(
        Plan::new([1], PlanSpec { lanes: 0, ..spec }).unwrap_err(),
        PlanError::NoBatch
    );
}
