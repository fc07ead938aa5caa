//! Ten thousand runs, and what happens to them when a promise is broken.
#![allow(clippy::expect_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Options, Sabotage, Summary, Violation, simulate};

/// Runs of an ordinary test run; `ringmaster-simulation --runs N` does more.
const RUNS: u64 = 10_000;

/// Simulates every seed on all cores; the violations, by seed.
fn violations(
    sabotage: Option<Sabotage>,
    until: impl Fn(usize) -> bool + Sync,
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
                    if seed >= RUNS || enough {
                        return;
                    }
                    let run = simulate(Options {
                        seed,
                        sabotage,
                        trace: false,
                    });
                    if let Err(violation) = run {
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
