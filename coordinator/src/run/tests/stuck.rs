//! Ranks that are stuck while everything that could tell of it lives.

use ringmaster_proto::v1::{Activity, Outcome};

use super::harness::{Net, held, id};

fn training(step_seconds: f64) -> Net {
    let mut net = Net::training(&["a", "b", "c"], &["membership.min_workers=2"]);
    net.step_seconds = step_seconds;
    net.steps(5);
    net
}

/// Whether it trains on as it did.
fn unmoved(net: &Net) -> bool {
    net.phase() == "training"
        && net.members().len() == net.training_names().len()
        && net.last_generation().resume == held(0)
}

#[test]
fn a_rank_that_computes_far_longer_than_ever_is_named_and_removed() {
    let mut net = training(1.0);
    net.begin(&["a", "c"], Activity::Reduce);
    net.begin(&["b"], Activity::Compute);
    net.pass(29_000);
    assert!(unmoved(&net), "not yet");
    net.pass(3_000);
    assert_eq!(net.members(), ["a", "c"]);
    assert_eq!(net.last_generation().resume, held(5), "no step is lost");
    assert_eq!(net.stopped_with("b"), Some(Outcome::Removed));
    let report = "rank 1 (b) has been computing at step 5 for";
    let told = net.logs.iter().find(|line| line.starts_with(report));
    let told = told.unwrap_or_else(|| panic!("{:?}", net.logs));
    let waiting = "rank 0 (a) has been waiting for other ranks at step 5 for";
    assert!(told.contains(waiting), "{told}");
}

#[test]
fn how_long_is_too_long_follows_from_how_long_it_takes() {
    let mut net = training(20.0);
    net.begin(&["a", "c"], Activity::Reduce);
    net.begin(&["b"], Activity::Compute);
    net.pass(79_000);
    assert!(unmoved(&net));
    net.pass(3_000);
    assert_eq!(net.members(), ["a", "c"]);
}

#[test]
fn the_first_steps_of_a_worker_may_take_minutes() {
    let mut net = Net::training(&["a", "b"], &["membership.min_workers=1"]);
    net.step_seconds = 1.0;
    net.begin(&["a"], Activity::Reduce);
    net.begin(&["b"], Activity::Compute);
    net.pass(599_000);
    assert!(unmoved(&net));
    net.pass(3_000);
    assert_eq!(net.members(), ["a"]);
}

#[test]
fn waiting_for_rows_is_no_accusation() {
    let mut net = training(1.0);
    net.begin(&["a", "c"], Activity::Reduce);
    net.begin(&["b"], Activity::Data);
    net.pass(3_600_000);
    assert!(unmoved(&net));
    let reason = net.machine.status().reason;
    assert!(reason.starts_with("rank 1 (b) waits for rows"), "{reason}");
}

#[test]
fn ranks_that_wait_for_each_other_begin_anew_and_nobody_is_blamed() {
    let mut net = training(1.0);
    net.begin(&["a", "b", "c"], Activity::Reduce);
    net.pass(29_000);
    assert!(unmoved(&net));
    net.pass(3_000);
    assert!(!unmoved(&net));
    assert_eq!(net.members(), ["a", "b", "c"]);
}

/// Stopped in the moment in which everything had arrived: it says that it waits, and so do the others.
#[test]
fn who_waits_for_a_step_that_others_have_behind_them_is_named_too() {
    let mut net = training(1.0);
    net.step("a");
    net.step("c");
    net.begin(&["a", "b", "c"], Activity::Reduce);
    net.pass(32_000);
    assert_eq!(net.members(), ["a", "c"]);
    assert_eq!(net.stopped_with("b"), Some(Outcome::Removed));
}

#[test]
fn a_worker_that_waited_long_for_others_is_not_blamed_when_they_come() {
    let mut net = Net::new(&["membership.min_workers=2"]);
    net.attend("a");
    net.begin(&["a"], Activity::Unspecified);
    net.pass(3_600_000);
    net.attend("b");
    net.pass(500);
    assert_eq!(net.stopped_with("a"), None, "{:?}", net.logs);
    assert_eq!(net.phase(), "training");
}

#[test]
fn a_rank_that_hangs_and_is_fenced_for_another_reason_is_named_and_removed() {
    let mut net = training(1.0);
    net.begin(&["b"], Activity::Compute);
    net.workers.get_mut(&id("b")).unwrap().hung = true;
    net.kill("a");
    net.link_lost("c", 0);
    net.pass(29_000);
    assert_eq!(net.phase(), "gathering");
    assert_eq!(net.stopped_with("b"), None, "not yet");
    net.pass(3_000);
    assert_eq!(net.stopped_with("b"), Some(Outcome::Removed));
    let told =
        |line: &String| line.contains("(b) is stuck") && line.contains("computing at step 5");
    assert!(net.logs.iter().any(told), "{:?}", net.logs);
    net.attend("d");
    assert_eq!(net.members(), ["c", "d"]);
}

#[test]
fn a_rank_that_hangs_while_the_coordinator_is_replaced_is_removed_by_the_next() {
    let mut net = training(1.0);
    net.begin(&["b"], Activity::Compute);
    let fake = net.workers.get_mut(&id("b")).unwrap();
    (fake.hung, fake.in_ring) = (true, false);
    net.restart_coordinator(&["membership.min_workers=2"]);
    net.attend("b");
    net.attend("c");
    net.pass(599_000);
    assert_eq!(
        net.stopped_with("b"),
        None,
        "nothing is known of how long it takes"
    );
    net.pass(3_000);
    assert_eq!(net.stopped_with("b"), Some(Outcome::Removed));
}

#[test]
fn a_worker_that_a_large_state_travels_to_has_the_time_it_takes() {
    let mut net = training(1.0);
    net.state_bytes = 1_000_000_000;
    let fake = net.workers.entry(id("d")).or_default();
    (fake.never_forms, fake.incarnation) = (true, 99);
    net.attend("d");
    assert_eq!(net.phase(), "forming");
    net.pass(129_000);
    assert_eq!(net.phase(), "forming", "30 s and 100 s for 1 GB");
    net.pass(3_000);
    assert_eq!(net.members(), ["a", "b", "c"]);
}
