//! Joining, leaving, and being turned away.

use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, Outcome};

use super::harness::{Net, held, id};
use crate::run::End;

#[test]
fn too_few_workers_wait_visibly() {
    let mut net = Net::new(&["membership.min_workers=2"]);
    net.attend("a");
    net.pass(120_000);
    let status = net.machine.status();
    assert_eq!(status.phase, "gathering");
    assert_eq!(status.reason, "1 of at least 2 workers are ready");
    net.attend("b");
    assert_eq!(net.phase(), "training");
}

#[test]
fn the_first_generation_waits_for_the_join_window() {
    let mut net = Net::new(&["membership.min_workers=1", "membership.join_window=\"5s\""]);
    net.attend("a");
    net.pass(4_000);
    assert_eq!(net.phase(), "gathering");
    net.attend("b");
    net.pass(1_000);
    assert_eq!(net.members(), ["a", "b"]);
}

#[test]
fn joiner_enters_at_a_boundary() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(3);
    net.attend("c");
    assert_eq!(net.phase(), "training");
    assert_eq!(net.members(), ["a", "b", "c"]);
    assert_eq!(net.last_generation().resume, held(3), "no step is lost");
    let resume = net.form_ring("c").resume.unwrap();
    assert_eq!(resume.holders, [0, 1]);
    let fenced = |said: &v1::directive::Body| matches!(said, v1::directive::Body::Fence(_));
    assert!(
        !net.workers[&id("a")].heard.iter().any(fenced),
        "a join fences nobody"
    );
}

#[test]
fn a_worker_beyond_the_largest_world_is_a_spare_until_there_is_room() {
    let mut net = Net::training(&["a", "b"], &["membership.max_workers=2"]);
    net.steps(1);
    net.attend("c");
    assert_eq!(net.generations().len(), 1);
    net.kill("a");
    net.link_lost("b", 0);
    assert_eq!(net.members(), ["b", "c"]);
    assert_eq!(net.last_generation().resume, held(1));
}

#[test]
fn a_draining_worker_leaves_without_a_failed_step() {
    let mut net = Net::training(&["a", "b"], &["membership.min_workers=1"]);
    net.steps(3);
    net.report(
        "a",
        Body::Draining(v1::Draining {
            reason: "SIGTERM".into(),
        }),
    );
    assert_eq!(net.members(), ["b"]);
    assert_eq!(net.last_generation().resume, held(3));
    assert_eq!(net.stopped_with("a"), Some(Outcome::Removed));
    assert_eq!(net.phase(), "training");
}

#[test]
fn the_only_holder_of_the_state_leaves_after_it_was_copied() {
    let mut net = Net::training(&["a"], &["membership.max_workers=2"]);
    net.steps(3);
    // The replacement is still preparing when the notice comes.
    net.workers.entry(id("b")).or_default().mute = true;
    net.attend("b");
    net.report(
        "a",
        Body::Draining(v1::Draining {
            reason: "spot notice".into(),
        }),
    );
    assert_eq!(
        (net.phase().as_str(), net.generations().len()),
        ("training", 1)
    );
    net.workers.get_mut(&id("b")).unwrap().mute = false;
    let prepared = v1::Prepared {
        ring_address: "127.0.0.1:9".into(),
        fingerprint: "f".into(),
        ..Default::default()
    };
    net.report("b", Body::Prepared(prepared));
    assert_eq!(net.stopped_with("a"), Some(Outcome::Removed));
    assert_eq!(net.members(), ["b"]);
    assert_eq!(net.last_generation().resume, held(3), "nothing is lost");
}

#[test]
fn the_last_worker_to_leave_stops_the_run_with_a_checkpoint() {
    let mut net = Net::training(&["a"], &[]);
    net.steps(3);
    net.report(
        "a",
        Body::Draining(v1::Draining {
            reason: "SIGTERM".into(),
        }),
    );
    assert_eq!(net.end, Some(End::Stopped(held(3))));
    assert_eq!(net.committed()[0].state, held(3));
}

#[test]
fn every_worker_leaving_at_once_stops_the_run_with_a_checkpoint() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(3);
    net.slow_store = true;
    net.report(
        "a",
        Body::Draining(v1::Draining {
            reason: "SIGTERM".into(),
        }),
    );
    net.report(
        "b",
        Body::Draining(v1::Draining {
            reason: "SIGTERM".into(),
        }),
    );
    net.write_journal();
    assert_eq!(net.end, Some(End::Stopped(held(3))));
    assert_eq!(net.committed()[0].state, held(3));
}

#[test]
fn a_worker_that_computes_differently_is_turned_away() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.fingerprint = "other";
    net.attend("c");
    assert_eq!(net.stopped_with("c"), Some(Outcome::Removed));
    assert_eq!(
        (net.generations().len(), net.phase().as_str()),
        (1, "training")
    );
}

#[test]
fn a_run_of_another_reduction_takes_any_worker() {
    let mut net = Net::training(&["a", "b"], &["train.reduction=f32"]);
    net.fingerprint = "other";
    net.attend("c");
    assert_eq!(net.members(), ["a", "b", "c"]);
}

#[test]
fn those_that_do_not_form_are_dropped() {
    let mut net = Net::new(&["membership.min_workers=2"]);
    net.workers.entry(id("c")).or_default().never_forms = true;
    net.slow_store = true;
    for name in ["a", "b", "c"] {
        net.attend(name);
    }
    // The first record names a and b; with c there too, the next names all three.
    net.write_journal();
    assert_eq!(net.members(), ["a", "b", "c"]);
    assert_eq!(net.phase(), "forming");
    net.pass(30_000);
    assert_eq!(net.members(), ["a", "b"]);
    assert_eq!(net.stopped_with("c"), Some(Outcome::Removed));
    assert_eq!(net.phase(), "training");
}
