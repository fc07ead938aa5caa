//! Killed at every write: whatever the store has been asked for and not answered when a process dies,
//! the run comes to the end of the undisturbed one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::OnceLock;

use ringmaster_tests::gate::Moment::{self, After, Before};
use ringmaster_tests::s3::S3Server;
use ringmaster_tests::sandbox::{self, EVERYTHING, End, SMALL, Sandbox};
use ringmaster_tests::watch::Watch;
use serde_json::Value;

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

fn train<'a>(workers: &'a str, store: &'a [&'a str]) -> Vec<&'a str> {
    let mut args = vec!["train", "run.toml", "--workers", workers];
    let run = ["run.steps=120", "checkpoint.every=40"];
    args.extend(run.iter().chain(&EVERYTHING).flat_map(|set| ["--set", set]));
    args.extend(store);
    args.extend(["--output", "json"]);
    args
}

/// The run on one worker that nobody disturbs. Ask for it before making a sandbox.
fn undisturbed() -> &'static End {
    static RUN: OnceLock<End> = OnceLock::new();
    RUN.get_or_init(|| sandbox::undisturbed(RINGMASTER, train("1", &[])))
}

/// The write of a journal record of this kind.
fn record(kind: &'static str) -> impl Fn(&str, &[u8]) -> bool + Send + 'static {
    move |key, content| {
        let envelope = || serde_json::from_slice::<Value>(content).unwrap_or_default();
        key.contains("/journal/") && !envelope()["record"][kind].is_null()
    }
}

/// The write of an object with this in its key.
fn object(part: &'static str) -> impl Fn(&str, &[u8]) -> bool + Send + 'static {
    move |key, _| key.contains(part)
}

#[derive(Clone, Copy)]
enum Victim {
    Coordinator,
    Worker,
}
use Victim::{Coordinator, Worker};

/// Kills `victim` while the write that is `meant` waits at `moment`.
fn assert_unharmed_at(
    moment: Moment,
    meant: impl Fn(&str, &[u8]) -> bool + Send + 'static,
    victim: Victim,
) {
    let expected = undisturbed();
    let server = S3Server::start();
    let mut sandbox = Sandbox::new(RINGMASTER);
    sandbox.use_store(&server);
    let store = format!("run.store={}", server.url("store"));
    let held = server.hold(moment, meant);
    let mut process = sandbox.start(train("2", &["--set", &store]));
    held.wait();
    sandbox.note_sockets();
    let victim = match victim {
        Coordinator => sandbox.coordinator(SMALL),
        Worker => {
            let watch = Watch::open(&mut process, &sandbox.run_folder(SMALL));
            watch.status().workers[0].pid
        }
    };
    sandbox.kill(victim);
    held.let_go();
    let finished = process.finish().succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
}

#[test]
fn a_coordinator_killed_as_it_records_a_generation_changes_no_bit() {
    for moment in [Before, After] {
        assert_unharmed_at(moment, record("generation"), Coordinator);
    }
}

#[test]
fn a_worker_killed_while_its_generation_is_recorded_changes_no_bit() {
    assert_unharmed_at(Before, record("generation"), Worker);
}

#[test]
fn a_worker_killed_as_it_writes_its_part_of_a_checkpoint_changes_no_bit() {
    for moment in [Before, After] {
        assert_unharmed_at(moment, object(".safetensors"), Worker);
    }
}

#[test]
fn a_coordinator_killed_as_it_makes_parts_a_checkpoint_changes_no_bit() {
    for moment in [Before, After] {
        assert_unharmed_at(moment, object("/manifest.json"), Coordinator);
    }
}

#[test]
fn a_coordinator_killed_as_it_records_a_checkpoint_changes_no_bit() {
    for moment in [Before, After] {
        assert_unharmed_at(moment, record("checkpoint_committed"), Coordinator);
    }
}

#[test]
fn a_coordinator_killed_as_it_records_the_end_changes_no_bit_and_lets_its_workers_go() {
    for moment in [Before, After] {
        assert_unharmed_at(moment, record("finished"), Coordinator);
    }
}

/// The record of a dead coordinator lands after the next one has looked and before it has written.
#[test]
fn a_record_that_lands_late_changes_no_bit() {
    let expected = undisturbed();
    let server = S3Server::start();
    let mut sandbox = Sandbox::new(RINGMASTER);
    sandbox.use_store(&server);
    let store = format!("run.store={}", server.url("store"));
    let late = server.hold(Before, record("checkpoint_committed"));
    let process = sandbox.start(train("2", &["--set", &store]));
    late.wait();
    sandbox.note_sockets();
    let next = server.hold(Before, record("term_started"));
    sandbox.kill(sandbox.coordinator(SMALL));
    next.wait();
    late.let_go();
    next.let_go();
    let finished = process.finish().succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
}
