//! Ten thousand runs, and what happens to them when a promise is broken.
#![allow(clippy::expect_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Options, Sabotage, Summary, Violation, services, simulate};

/// Runs of an ordinary test run; `ringmaster-simulation --runs N` does more.
const RUNS: u64 = 10_000;

/// Likewise of those over the real services, each of which takes a fraction of a second.
const SERVED: u64 = 300;

/// Simulates every seed on all cores; the violations, by seed.
fn violations(
    sabotage: Option<Sabotage>,
    until: impl Fn(usize) -> bool + Sync,
) -> Vec<(u64, Violation)> {
    violations_of(RUNS, until, |seed| {
        let trace = false;
        simulate(Options {
            seed,
            sabotage,
            trace,
        })
        .map(|_| ())
    })
}

fn violations_of(
    runs: u64,
    until: impl Fn(usize) -> bool + Sync,
    run: impl Fn(u64) -> Result<(), Violation> + Sync,
) -> Vec<(u64, Violation)> {
    let next = AtomicU64::new(0);
    let found = std::sync::Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = until(found.lock().expect("no thread panics").len());
                    if seed >= runs || enough {
                        return;
                    }
                    if let Err(violation) = run(seed) {
                        found
                            .lock()
                            .expect("no thread panics")
                            .push((seed, violation));
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().expect("no thread panics");
    found.sort_by_key(|(seed, _)| *seed);
    found
}

#[test]
fn whatever_fails_every_run_ends_as_the_undisturbed_one() {
    let found = violations(None, |_| false);
    assert!(
        found.is_empty(),
        "{} runs; the first: ringmaster-simulation --seed {} --trace: {}",
        found.len(),
        found[0].0,
        found[0].1
    );
}

fn assert_noticed(sabotage: Sabotage) {
    let found = violations(Some(sabotage), |found| found > 0);
    assert!(!found.is_empty(), "nobody notices {sabotage:?}");
}

#[test]
fn a_worker_that_applies_a_step_after_its_fence_is_noticed() {
    assert_noticed(Sabotage::AppliesAfterFence);
}

#[test]
fn a_worker_that_obeys_a_replaced_coordinator_is_noticed() {
    assert_noticed(Sabotage::ObeysAnyTerm);
}

#[test]
fn ranks_whose_states_nobody_compares_are_noticed() {
    assert_noticed(Sabotage::HidesDigests);
}

#[test]
fn a_store_that_lets_a_second_create_through_is_noticed() {
    assert_noticed(Sabotage::CreateOverwrites);
}

#[test]
fn a_seed_is_a_run() {
    let run = |seed| -> Result<Summary, Violation> {
        simulate(Options {
            seed,
            sabotage: None,
            trace: false,
        })
    };
    assert_eq!(run(7), run(7));
}

fn served(seed: u64) -> Result<services::Served, Violation> {
    services::simulate(Options {
        seed,
        sabotage: None,
        trace: false,
    })
}

/// But for who hears first that a coordinator has ended: see [`services::Served`].
#[test]
fn a_seed_is_a_run_over_real_services_too() {
    let run = |seed| served(seed).map(|served| (served.coordinators, served.trace));
    let first = (0..60).map(|seed| (seed, run(seed)));
    let alone = first.filter(|(_, run)| run.as_ref().is_ok_and(|(offices, _)| *offices == 1));
    let again: Vec<u64> = alone
        .map(|(seed, first)| {
            assert_eq!(first, run(seed), "seed {seed}");
            seed
        })
        .collect();
    assert!(again.len() > 10, "only {again:?}");
}

#[test]
fn over_real_services_too_every_run_ends_as_the_undisturbed_one() {
    let found = violations_of(SERVED, |_| false, |seed| served(seed).map(|_| ()));
    assert!(
        found.is_empty(),
        "{} runs; the first: ringmaster-simulation --services --seed {} --trace: {}",
        found.len(),
        found[0].0,
        found[0].1
    );
}
