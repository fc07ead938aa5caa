//! A run that starts from another: from its root, from its export, with pictures of another size.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ringmaster_proto::ErrorKind;
use ringmaster_tests::sandbox::{SMALL, Sandbox};

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

/// Trains `run`, which starts from `from`, for three steps; returns its digest.
fn tuned(sandbox: &Sandbox, run: &str, from: &str, workers: &str, sets: &[&str]) -> String {
    let (run, from) = (format!("run.name={run}"), format!("init.from={from}"));
    let mut args = vec![
        "train",
        "run.toml",
        "--workers",
        workers,
        "--output",
        "json",
    ];
    for set in [&run, &from, "run.steps=3"]
        .into_iter()
        .chain(sets.iter().copied())
    {
        args.extend(["--set", set]);
    }
    sandbox.run(args).succeeded().digest()
}

#[test]
fn a_run_starts_from_another_and_needs_it_no_longer() {
    let sandbox = Sandbox::new(RINGMASTER);
    let first = [
        "train",
        "run.toml",
        "--set",
        "run.steps=3",
        "--output",
        "json",
    ];
    let seeded = sandbox.run(first).succeeded().digest();
    let root = format!("ringmaster-runs/{SMALL}");
    let export = [
        "checkpoint",
        "export",
        SMALL,
        "--out",
        "exported",
        "--output",
        "json",
    ];
    let exported = sandbox.run(export).succeeded();
    assert_eq!(exported.last_object()["step"], 3);

    // The same start wherever it comes from, and however many workers there are.
    let digest = tuned(&sandbox, "a", &root, "1", &[]);
    assert_ne!(digest, seeded, "the same three steps from elsewhere");
    assert_eq!(tuned(&sandbox, "b", &root, "2", &[]), digest);
    assert_eq!(tuned(&sandbox, "c", "exported", "2", &[]), digest);
    assert_eq!(
        tuned(&sandbox, "d", "exported/model.safetensors", "1", &[]),
        digest
    );
    let larger = tuned(&sandbox, "e", &root, "2", &["model.image_size=48"]);
    assert_ne!(larger, digest);
    let log = sandbox.run_folder("e").join("logs/coordinator.log");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("projection.positions: 4x4 to 6x6"), "{log}");

    // It goes on from where it is when what it started from is gone.
    std::fs::remove_dir_all(sandbox.run_folder(SMALL)).unwrap();
    std::fs::remove_dir_all(sandbox.folder().join("exported")).unwrap();
    let longer = tuned(&sandbox, "a", &root, "2", &["run.steps=5"]);
    assert_ne!(longer, digest);
    sandbox.assert_nothing_left();
}

#[test]
fn a_start_that_is_not_there_is_refused_before_anything_runs() {
    let sandbox = Sandbox::new(RINGMASTER);
    let args = ["train", "run.toml", "--set", "init.from=nowhere"];
    let refusal = sandbox
        .run(args)
        .refused(ErrorKind::Invalid.exit_code().into());
    assert!(refusal.contains("init.from = \"nowhere\""), "{refusal}");
    sandbox.assert_nothing_left();
}
