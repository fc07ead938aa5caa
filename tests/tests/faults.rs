//! A worker that dies costs nothing but time: the oracle is the same run on one worker.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use ringmaster_proto::v1::watch_run_response::Event;
use ringmaster_tests::s3::S3Server;
use ringmaster_tests::sandbox::{self, EVERYTHING, End, SMALL, Sandbox};
use ringmaster_tests::watch::Watch;

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

/// Enough for a death in the middle to be in the middle.
const STEPS: &str = "run.steps=300";

/// With everything in the state that a run can carry, so that whoever copies it copies all of it.
fn train(workers: &str) -> Vec<&str> {
    let mut args = vec!["train", "run.toml", "--workers", workers, "--set", STEPS];
    args.extend(EVERYTHING.iter().flat_map(|set| ["--set", set]));
    args.extend(["--output", "json"]);
    args
}

/// The run on one worker that nobody disturbs. Ask for it before making a sandbox.
fn undisturbed() -> &'static End {
    static RUN: OnceLock<End> = OnceLock::new();
    RUN.get_or_init(|| sandbox::undisturbed(RINGMASTER, train("1")))
}

/// Runs three workers, kills those of `ranks` when an event of the run is the one meant, and expects
/// the end of the undisturbed run.
fn assert_unharmed_by(ranks: &[i32], what: &str, when: impl Fn(&Event) -> bool) {
    let expected = undisturbed();
    let mut sandbox = Sandbox::new(RINGMASTER);
    let mut process = sandbox.start(train("3"));
    let watch = Watch::open(&mut process, &sandbox.run_folder(SMALL));
    watch.wait_for(what, when);
    sandbox.note_sockets();
    let status = watch.status();
    for worker in status
        .workers
        .iter()
        .filter(|worker| ranks.contains(&worker.rank))
    {
        sandbox.kill(worker.pid);
    }
    let finished = process.finish().succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
}

fn at_step(step: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Step(done) if done.step.as_ref().is_some_and(|done| done.step >= step))
}

fn in_phase(phase: &'static str) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Status(status) if status.phase == phase)
}

#[test]
fn killing_the_last_rank_in_mid_run_changes_no_bit() {
    assert_unharmed_by(&[2], "step 60", at_step(60));
}

#[test]
fn killing_rank_zero_in_mid_run_changes_no_bit() {
    assert_unharmed_by(&[0], "step 60", at_step(60));
}

#[test]
fn killing_two_of_three_at_once_changes_no_bit() {
    assert_unharmed_by(&[0, 2], "step 60", at_step(60));
}

#[test]
fn killing_all_workers_goes_back_to_a_checkpoint_and_changes_no_bit() {
    assert_unharmed_by(&[0, 1, 2], "step 60", at_step(60));
}

#[test]
fn killing_a_worker_while_the_ring_forms_changes_no_bit() {
    assert_unharmed_by(&[1], "the first ring", in_phase("forming"));
}

/// Kills the coordinator of a run at a step, and expects the end of the undisturbed run. Returns the
/// generations that completed steps.
fn assert_unharmed_by_the_loss_of_the_coordinator(workers: &str, step: u64) -> BTreeSet<u64> {
    let expected = undisturbed();
    let mut sandbox = Sandbox::new(RINGMASTER);
    let mut process = sandbox.start(train(workers));
    let watch = Watch::open(&mut process, &sandbox.run_folder(SMALL));
    watch.wait_for(&format!("step {step}"), at_step(step));
    sandbox.note_sockets();
    sandbox.kill(sandbox.coordinator(SMALL));
    let finished = process.finish().succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
    sandbox.generations(SMALL)
}

#[test]
fn killing_the_coordinator_interrupts_no_worker_and_changes_no_bit() {
    let generations = assert_unharmed_by_the_loss_of_the_coordinator("2", 60);
    assert_eq!(generations, BTreeSet::from([1]), "nobody left the ring");
}

#[test]
fn killing_the_coordinator_of_one_worker_changes_no_bit() {
    let generations = assert_unharmed_by_the_loss_of_the_coordinator("1", 60);
    assert_eq!(generations, BTreeSet::from([1]));
}

#[test]
fn killing_the_coordinator_and_a_worker_at_once_changes_no_bit() {
    let expected = undisturbed();
    let mut sandbox = Sandbox::new(RINGMASTER);
    let mut process = sandbox.start(train("3"));
    let watch = Watch::open(&mut process, &sandbox.run_folder(SMALL));
    watch.wait_for("step 60", at_step(60));
    sandbox.note_sockets();
    let workers = watch.status().workers;
    sandbox.kill(sandbox.coordinator(SMALL));
    sandbox.kill(workers[1].pid);
    let finished = process.finish().succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
}

fn in_generation(generation: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Step(done) if done.generation >= generation)
}

/// Sends `signal` to the process that `whose` picks at step 60, lets `then` follow, and expects the
/// end of the undisturbed run.
fn assert_unharmed_by_signal(
    signal: Signal,
    whose: impl Fn(&Sandbox, &Watch) -> u32,
    then: impl Fn(&Sandbox, &Watch, u32),
) {
    let expected = undisturbed();
    let mut sandbox = Sandbox::new(RINGMASTER);
    let mut process = sandbox.start(train("3"));
    let watch = Watch::open(&mut process, &sandbox.run_folder(SMALL));
    watch.wait_for("step 60", at_step(60));
    sandbox.note_sockets();
    let pid = whose(&sandbox, &watch);
    sandbox.signal(pid, signal);
    then(&sandbox, &watch, pid);
    let finished = process.finish().succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
}

fn a_worker(_: &Sandbox, watch: &Watch) -> u32 {
    watch.status().workers[1].pid
}

/// TCP never reports a stopped peer; the others go on without it, and it comes back.
#[test]
fn stopping_a_worker_until_the_others_go_on_changes_no_bit() {
    assert_unharmed_by_signal(Signal::SIGSTOP, a_worker, |sandbox, watch, pid| {
        watch.wait_for("a generation without it", in_generation(2));
        sandbox.signal(pid, Signal::SIGCONT);
    });
}

#[test]
fn asking_a_worker_to_leave_fails_no_step_and_changes_no_bit() {
    assert_unharmed_by_signal(Signal::SIGTERM, a_worker, |_, watch, _| {
        watch.wait_for("a generation without it", in_generation(2));
    });
}

#[test]
fn stopping_the_coordinator_for_a_while_stops_nobody_and_changes_no_bit() {
    let coordinator = |sandbox: &Sandbox, _: &Watch| sandbox.coordinator(SMALL);
    assert_unharmed_by_signal(Signal::SIGSTOP, coordinator, |sandbox, _, pid| {
        // The ring goes on meanwhile: that is what the time is for.
        std::thread::sleep(Duration::from_secs(2));
        sandbox.signal(pid, Signal::SIGCONT);
    });
}

#[test]
fn the_demonstration_of_a_death_ends_like_any_run() {
    let expected = undisturbed();
    let sandbox = Sandbox::new(RINGMASTER);
    let finished = sandbox
        .run(train("2").iter().chain(&["--kill-one-at", "40"]))
        .succeeded();
    assert_eq!(finished.last_object()["equal"], true);
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
}

/// What many object stores do under load: the write is done, and the answer says that it failed.
#[test]
fn a_store_that_hides_every_third_success_changes_no_bit() {
    let expected = undisturbed();
    let server = S3Server::start();
    let mut sandbox = Sandbox::new(RINGMASTER);
    sandbox.use_store(&server);
    server.answer_ambiguously(3);
    let store = format!("run.store={}", server.url("store"));
    let overrides = ["--set", &store, "--set", "checkpoint.every=100"];
    let finished = sandbox.run(train("2").iter().chain(&overrides)).succeeded();
    assert_eq!(&(finished.digest(), sandbox.losses(SMALL)), expected);
    sandbox.assert_nothing_left();
}
