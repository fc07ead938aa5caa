//! The ledger finds every change of a record. The oracle is a record made of the plan row by row.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use ringmaster_dataset::ledger::{End, Entry, Extent, Fault, verify};
use ringmaster_dataset::{CorpusManifest, Plan, PlanSpec, RowNames, Shard};
use ringmaster_proto::{Lane, Step};

const GROUPS: [u32; 5] = [7, 0, 30, 11, 2];
const ROWS: u64 = 50;

fn plan(seed: u64, lanes: u32) -> Plan {
    let spec = PlanSpec {
        seed,
        lanes,
        lane_batch: 2,
        shuffle_rows: 16,
    };
    Plan::new(GROUPS, spec).unwrap()
}

/// The rows of a step, as (number, hash).
fn planned(plan: &Plan, step: u64) -> Vec<(u64, u64)> {
    let lanes = (0..plan.spec().lanes).map(Lane);
    let rows = lanes
        .flat_map(|lane| plan.rows(Step(step - 1), lane))
        .flatten();
    rows.map(|row| (row.row_id, row.hash())).collect()
}

/// What a run records that refuses `bad`; a generation an epoch.
fn record(plan: &Plan, steps: u64, bad: &BTreeSet<u64>) -> Vec<Entry> {
    let entry = |step| {
        let generation = (step - 1) / plan.steps_per_epoch() + 1;
        let mut entry = Entry {
            step,
            generation,
            owner: Some(generation),
            ..Entry::default()
        };
        for (row, hash) in planned(plan, step) {
            if bad.contains(&row) {
                entry.quarantined += 1;
            } else {
                entry.rows += 1;
                entry.row_hash = entry.row_hash.wrapping_add(hash);
            }
        }
        entry
    };
    (1..=steps).map(entry).collect()
}

/// All steps up to this end.
fn whole_run(end: End) -> Extent {
    Extent { began: 0, end }
}

fn refusal(plan: &Plan, record: &[Entry], bad: &BTreeSet<u64>, end: End) -> (u64, Fault) {
    let mismatch = verify(plan, record, bad, whole_run(end), 2).unwrap_err();
    (mismatch.step, mismatch.fault)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_record_of_the_plan_passes_and_any_change_of_a_row_is_named(
        seed: u64, lanes in 1u32..5, threads in 1usize..4, at in 0usize..10_000, pick in 0usize..10_000,
        change in 0u8..5, noise in 1u64..,
    ) {
        let plan = plan(seed, lanes);
        let steps = 3 * plan.steps_per_epoch();
        let bad = BTreeSet::from([3, 44]);
        let mut record = record(&plan, steps, &bad);
        let verified = verify(&plan, &record, &bad, whole_run(End::At(steps)), threads).unwrap();
        prop_assert_eq!((verified.steps, verified.epochs), (steps, 3));
        prop_assert_eq!((verified.rows, verified.quarantined), (3 * (ROWS - 2), 6));
        prop_assert_eq!(verified.generations, 3);

        let at = at % record.len();
        let rows = planned(&plan, at as u64 + 1);
        let (row, hash) = rows[pick % rows.len()];
        let was_bad = bad.contains(&row);
        let entry = &mut record[at];
        let (named, fault) = match change {
            0 if !was_bad => {
                entry.rows -= 1;
                entry.row_hash = entry.row_hash.wrapping_sub(hash);
                (Some(row), Fault::Left(row))
            }
            1 => {
                entry.rows += 1;
                entry.row_hash = entry.row_hash.wrapping_add(hash);
                (Some(row), if was_bad { Fault::Used(row) } else { Fault::Doubled(row) })
            }
            2 => {
                entry.quarantined += 1;
                let refused = entry.quarantined;
                (None, Fault::Unnamed { refused, named: refused - 1 })
            }
            3 => {
                let owner = entry.generation;
                entry.generation = owner % 3 + 1;
                let recorded = entry.generation;
                (None, Fault::Foreign { recorded, owner })
            }
            _ => {
                let (of, expected) = (entry.rows, entry.row_hash);
                entry.row_hash = entry.row_hash.wrapping_add(noise);
                let hash = entry.row_hash;
                (None, Fault::Differs { rows: of, hash, of, expected })
            }
        };
        let mismatch = verify(&plan, &record, &bad, whole_run(End::At(steps)), threads).unwrap_err();
        prop_assert_eq!(mismatch.step, at as u64 + 1);
        prop_assert_eq!((mismatch.row, mismatch.fault), (named, fault));
    }

    /// The row that came in another's place may be from anywhere in the corpus.
    #[test]
    fn a_row_in_the_place_of_another_is_named(seed: u64, fed in 0..ROWS, pick in 0usize..100) {
        let plan = plan(seed, 2);
        let none = BTreeSet::new();
        let mut record = record(&plan, 5, &none);
        let rows = planned(&plan, 4);
        let (left, out) = rows[pick % rows.len()];
        let row = plan.all_rows(0).find(|row| row.row_id == fed).unwrap();
        prop_assume!(left != fed);
        let hash = &mut record[3].row_hash;
        *hash = hash.wrapping_sub(out).wrapping_add(row.hash());
        let found = refusal(&plan, &record, &none, End::At(5));
        prop_assert_eq!(found, (4, Fault::Exchanged { fed, left }));
    }
}

#[test]
fn a_step_that_is_left_out_or_told_twice_is_named() {
    let (plan, none) = (plan(1, 2), BTreeSet::new());
    let whole = record(&plan, 12, &none);
    let mut holed = whole.clone();
    holed.remove(6);
    let found = refusal(&plan, &holed, &none, End::At(12));
    assert_eq!(found, (7, Fault::Missing(8)));
    let mut doubled = whole.clone();
    doubled.insert(6, whole[5].clone());
    let found = refusal(&plan, &doubled, &none, End::At(12));
    assert_eq!(found, (6, Fault::Again(6)));
    // What is wrong first is named first.
    doubled[2].rows += 1;
    assert_eq!(refusal(&plan, &doubled, &none, End::At(12)).0, 3);
}

#[test]
fn a_record_ends_where_the_run_did() {
    let (plan, none) = (plan(1, 2), BTreeSet::new());
    let whole = record(&plan, 12, &none);
    for end in [End::At(13), End::AtLeast(14)] {
        assert_eq!(refusal(&plan, &whole, &none, end), (13, Fault::Short(12)));
    }
    let found = refusal(&plan, &whole, &none, End::At(11));
    assert_eq!(found, (12, Fault::Beyond(11)));
    verify(&plan, &whole, &none, whole_run(End::AtLeast(11)), 1).unwrap();
}

/// A run that went on from where another was tells of its own steps alone.
#[test]
fn a_record_begins_where_the_run_did() {
    let (plan, none) = (plan(1, 2), BTreeSet::new());
    let per_epoch = plan.steps_per_epoch();
    let whole = record(&plan, 3 * per_epoch, &none);
    for began in 0..2 * per_epoch + 1 {
        let (end, own) = (End::At(3 * per_epoch), &whole[began as usize..]);
        let verified = verify(&plan, own, &none, Extent { began, end }, 2).unwrap();
        let epochs = 3 - began.div_ceil(per_epoch);
        assert_eq!(
            (verified.steps, verified.epochs),
            (own.len() as u64, epochs)
        );
        let later = Extent {
            began: began + 1,
            end,
        };
        let found = verify(&plan, own, &none, later, 2).unwrap_err();
        assert_eq!(found.fault, Fault::Again(began + 1));
    }
}

#[test]
fn a_name_that_is_missing_or_made_up_is_found_out() {
    let plan = plan(3, 4);
    let steps = 2 * plan.steps_per_epoch();
    let bad = BTreeSet::from([9, 20]);
    let record = record(&plan, steps, &bad);
    let found = refusal(&plan, &record, &BTreeSet::from([20]), End::At(steps));
    assert_eq!(found.1, Fault::Left(9));
    let found = refusal(&plan, &record, &BTreeSet::from([9, 20, 30]), End::At(steps));
    assert_eq!(found.1, Fault::Used(30));
}

#[test]
fn every_row_has_the_name_of_its_place() {
    let shard = |key: &str, row_groups: &[(u32, u32)]| Shard {
        source: 0,
        key: key.into(),
        bytes: 1,
        etag: None,
        footer: String::new(),
        row_groups: row_groups.to_vec(),
    };
    let manifest = CorpusManifest {
        format_version: 1,
        sources: vec!["file:///corpus".into()],
        shards: vec![shard("a", &[(0, 2), (1, 0), (3, 1)]), shard("b", &[(0, 2)])],
    };
    let names = RowNames::new(&manifest);
    let place = |row| {
        let name = names.get(row)?;
        Some((name.shard, name.row_group, name.row))
    };
    let expected = [
        ("corpus/a", 0, 0),
        ("corpus/a", 0, 1),
        ("corpus/a", 3, 0),
        ("corpus/b", 0, 0),
        ("corpus/b", 0, 1),
    ];
    for (row, (shard, group, within)) in (0..).zip(expected) {
        let shard = format!("file:///{shard}");
        assert_eq!(place(row), Some((shard, group, within)));
    }
    assert_eq!(place(5), None);
    let text = names.get(2).unwrap().to_string();
    assert_eq!(text, "row 0 of row group 3 of file:///corpus/a");
}
