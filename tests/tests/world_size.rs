//! World size does not matter: the oracle of every larger run is the same run on one worker.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ringmaster_tests::sandbox::{SMALL, Sandbox};

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

/// Four lanes, so four workers at most: 4, 2 + 2, 2 + 1 + 1 and 1 each.
const WORLDS: [u32; 4] = [1, 2, 3, 4];

#[test]
fn thirty_steps_give_the_same_bits_at_every_world_size() {
    let runs = WORLDS.map(|world| {
        let sandbox = Sandbox::new(RINGMASTER);
        let workers = world.to_string();
        let args = [
            "train",
            "run.toml",
            "--workers",
            &workers,
            "--output",
            "json",
        ];
        let finished = sandbox.run(args).succeeded();
        assert_eq!(finished.last_object()["steps"], 30);
        let losses = sandbox.losses(SMALL);
        assert_eq!(
            losses.keys().copied().collect::<Vec<_>>(),
            (1..=30).collect::<Vec<_>>()
        );
        (finished.digest(), losses)
    });
    for (world, run) in WORLDS.iter().zip(&runs) {
        assert_eq!(*run, runs[0], "{world} workers differ from one");
    }
    let first_and_last = (&runs[0].1[&1], &runs[0].1[&30]);
    assert_ne!(
        first_and_last.0, first_and_last.1,
        "30 steps have changed the model"
    );
}
