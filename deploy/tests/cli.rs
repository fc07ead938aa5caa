//! What a person sees when something is wrong: one sentence, an exit code by kind, no panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

const INVALID: i32 = 2;
const RETRY: i32 = 4;

fn ringmaster(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmaster"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command
        .env_remove("RUST_BACKTRACE")
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

/// Runs a command that must fail: exactly one line on stderr, nothing on stdout.
fn refusal(folder: &Path, args: &[&str], code: i32) -> String {
    let output = ringmaster(folder, args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert_eq!(
        stderr.lines().count(),
        1,
        "{args:?}: one sentence, not\n{stderr}"
    );
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(
        !stderr.contains("panicked") && !stderr.contains(".rs:"),
        "{stderr}"
    );
    assert!(output.stdout.is_empty());
    stderr
}

#[test]
fn an_unknown_run_is_named_with_those_that_exist() {
    let folder = tempfile::tempdir().unwrap();
    let error = refusal(folder.path(), &["status", "nope"], INVALID);
    assert!(
        error.contains("run nope") && error.contains("ringmaster train"),
        "{error}"
    );
    std::fs::create_dir_all(folder.path().join("ringmaster-runs/scenes")).unwrap();
    let error = refusal(folder.path(), &["watch", "nope"], INVALID);
    assert!(error.contains("scenes"), "{error}");
}

#[test]
fn a_run_that_is_not_running_says_how_to_start_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("ringmaster-runs/scenes")).unwrap();
    for args in [&["status", "scenes"][..], &["watch", "scenes"], &["status"]] {
        let error = refusal(folder.path(), args, RETRY);
        assert!(error.contains("ringmaster train"), "{error}");
    }
}

#[test]
fn a_run_file_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = refusal(folder.path(), &["render", "missing.toml"], INVALID);
    assert!(error.contains("missing.toml"), "{error}");
}

#[test]
fn an_unknown_key_is_named_with_its_section() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("r.toml"), "[train]\nlearning_rate = 1\n").unwrap();
    let error = refusal(folder.path(), &["render", "r.toml"], INVALID);
    assert!(
        error.contains("[train]") && error.contains("learning_rate"),
        "{error}"
    );
}
