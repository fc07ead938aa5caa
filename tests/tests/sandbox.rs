//! The sandbox sees what a command leaves behind, or the tests that use it could not fail.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::Signal;
use ringmaster_tests::sandbox::Sandbox;

/// What `assert_nothing_left` says after the shell has run `script`.
fn left_by(script: &str) -> Result<(), String> {
    let sandbox = Sandbox::new("/bin/sh");
    sandbox.run(["-c", script]).succeeded();
    let checked = catch_unwind(AssertUnwindSafe(|| sandbox.assert_nothing_left()));
    checked.map_err(|panic| panic.downcast_ref::<String>().unwrap().clone())
}

#[test]
fn a_command_that_leaves_nothing_passes() {
    assert_eq!(left_by("echo hello; touch in-its-own-folder"), Ok(()));
}

#[test]
fn a_process_left_behind_is_seen_and_ended() {
    let left = left_by("sleep 1000 > /dev/null 2>&1 &").unwrap_err();
    assert!(
        left.contains("processes left") && left.contains("sleep 1000"),
        "{left}"
    );
}

#[test]
fn a_temporary_file_left_behind_is_seen() {
    let left = left_by("touch $TMPDIR/forgotten").unwrap_err();
    assert!(left.contains("forgotten"), "{left}");
}

#[test]
fn shared_memory_left_behind_is_seen() {
    let name = format!("/dev/shm/sandbox-test-{}", std::process::id());
    let left = left_by(&format!("touch {name}"));
    std::fs::remove_file(&name).unwrap();
    assert!(left.unwrap_err().contains(&name));
}

#[test]
fn signals_and_output_arrive() {
    let sandbox = Sandbox::new("/bin/sh");
    let script =
        "trap 'echo caught; exit 3' INT; touch .draft; mv .draft ready; while :; do sleep 1; done";
    let mut process = sandbox.start(["-c", script]);
    process.wait_for_file(&sandbox.folder().join("ready"));
    process.signal(Signal::SIGINT);
    let finished = process.finish();
    assert_eq!(
        (finished.status.code(), finished.stdout),
        (Some(3), vec!["caught".to_owned()])
    );
    sandbox.assert_nothing_left();
}

#[test]
fn orphans_that_end_are_waited_for() {
    let sandbox = Sandbox::new("/bin/sh");
    sandbox
        .run(["-c", "sleep 0.3 > /dev/null 2>&1 &"])
        .succeeded();
    sandbox.wait_for_orphans();
    sandbox.assert_nothing_left();
}
