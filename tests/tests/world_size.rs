//! World size does not matter: the oracle of every larger run is the same run on one worker.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use ringmaster_tests::sandbox::{EVERYTHING, SMALL, Sandbox};
use serde_json::Value;

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

/// What a run came to: its digest and each step's loss and objectives, exactly as printed.
fn run(workers: u32, sets: &[&str]) -> (String, Vec<String>, Vec<Value>) {
    let sandbox = Sandbox::new(RINGMASTER);
    let workers = workers.to_string();
    let mut args = vec![
        "train",
        "run.toml",
        "--workers",
        &workers,
        "--output",
        "json",
    ];
    args.extend(sets.iter().flat_map(|set| ["--set", set]));
    let finished = sandbox.run(args).succeeded();
    assert_eq!(finished.last_object()["steps"], 30);
    let losses = sandbox.losses(SMALL);
    assert_eq!(
        losses.keys().copied().collect::<Vec<_>>(),
        (1..=30).collect::<Vec<_>>()
    );
    let objectives = sandbox.metrics(SMALL).into_iter();
    let objectives = objectives.map(|line| line["objectives"].clone()).collect();
    (
        finished.digest(),
        losses.into_values().collect(),
        objectives,
    )
}

/// Four lanes, so four workers at most: 4, 2 + 2, 2 + 1 + 1 and 1 each.
#[test]
fn thirty_steps_give_the_same_bits_at_every_world_size() {
    let alone = run(1, &[]);
    for world in 2..=4 {
        assert_eq!(run(world, &[]), alone, "{world} workers differ from one");
    }
    for set in ["train.overlap=false", "train.transport=tcp"] {
        assert_eq!(run(2, &[set]), alone, "{set} has changed the run");
    }
    assert_ne!(alone.1[0], alone.1[29], "30 steps have changed the model");
}

#[test]
fn everything_drawn_and_carried_is_the_same_at_every_world_size() {
    let alone = run(1, &EVERYTHING);
    for world in 2..=3 {
        assert_eq!(
            run(world, &EVERYTHING),
            alone,
            "{world} workers differ from one"
        );
    }
    let drawn: BTreeSet<&String> = alone
        .2
        .iter()
        .flat_map(|step| {
            let objectives = step.as_object().unwrap();
            let drawn = objectives.iter().filter(|(_, step)| step["tokens"] != 0);
            drawn.map(|(name, _)| name)
        })
        .collect();
    assert_eq!(drawn.len(), 8, "every objective had a part: {drawn:?}");
    let first_and_last = [0, 29].map(|step| alone.2[step]["captioning"]["probability"].clone());
    assert_ne!(first_and_last[0], first_and_last[1], "sampling has adapted");
}
