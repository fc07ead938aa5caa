//! After a failure: who goes on, from which state.

use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, Boundary, Origin};
use ringmaster_proto::{ErrorKind, Generation, Step, Term};

use super::harness::{Net, TERM, held, id, state};
use crate::record::{Origin as RecordedOrigin, Record};
use crate::run::{End, Recovered};

#[test]
fn survivors_continue_from_the_state_most_members_hold() {
    let mut net = Net::training(&["a", "b", "c"], &["membership.min_workers=2"]);
    net.steps(5);
    net.step("b");
    net.step("c");
    net.kill("b");
    net.link_lost("a", 1);
    // a holds step 5, c holds step 6: a tie goes to the higher.
    assert_eq!(net.phase(), "training");
    assert_eq!(net.members(), ["a", "c"]);
    assert_eq!(net.last_generation().resume, held(6));
    let resume = net.form_ring("a").resume.unwrap();
    assert_eq!(resume.origin(), Origin::Memory);
    assert_eq!(resume.holders, [1]);
}

#[test]
fn a_lone_rank_ahead_copies_back() {
    let mut net = Net::training(&["a", "b", "c"], &["membership.min_workers=2"]);
    net.steps(5);
    net.step("b");
    net.link_lost("a", 1);
    assert_eq!(net.last_generation().resume, held(5));
    let resume = net.form_ring("b").resume.unwrap();
    assert_eq!(resume.holders, [0, 2]);
    net.steps(1);
    assert!(!net.logs.iter().any(|text| text.contains("redo differs")));
    let steps: Vec<u64> = net.lines.iter().map(|line| line.step).collect();
    assert_eq!(
        steps,
        [1, 2, 3, 4, 5, 6],
        "the redo of step 6 writes no line"
    );
}

#[test]
fn a_redo_that_differs_is_called_out() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.step("a");
    net.link_lost("b", 0);
    let generation = net.workers[&id("b")].generation;
    let done = v1::StepDone {
        step: 1,
        loss: 0.25,
        ..Default::default()
    };
    net.report_in("b", TERM, generation, Body::StepDone(done));
    assert!(
        net.logs
            .iter()
            .any(|text| text.contains("the redo differs at step 1"))
    );
}

#[test]
fn a_generation_is_durable_before_anyone_hears_of_it() {
    let mut net = Net::new(&["membership.min_workers=2"]);
    net.slow_store = true;
    net.attend("a");
    net.attend("b");
    net.pass(60_000);
    let heard = |net: &Net, name| net.workers[&id(name)].heard.len();
    assert_eq!((heard(&net, "a"), heard(&net, "b")), (1, 1), "only Welcome");
    assert!(net.machine.status().reason.contains("is being recorded"));
    net.write_journal();
    assert_eq!(net.phase(), "training");
}

#[test]
fn a_worker_that_left_while_its_generation_was_recorded_is_not_waited_for() {
    let mut net = Net::new(&["membership.min_workers=1", "membership.max_workers=2"]);
    net.slow_store = true;
    net.attend("a");
    net.attend("b");
    net.kill("a");
    net.write_journal();
    assert_eq!(net.phase(), "training");
    assert_eq!(net.members(), ["b"]);
    assert_eq!(net.last_generation().generation, Generation(2));
}

#[test]
fn nobody_who_did_not_answer_the_fence_is_a_member() {
    let mut net = Net::training(&["a", "b", "c"], &["membership.min_workers=2"]);
    net.steps(3);
    net.workers.get_mut(&id("b")).unwrap().mute = true;
    net.link_lost("a", 1);
    assert_eq!(net.phase(), "fencing");
    net.pass(2_000);
    assert_eq!(net.members(), ["a", "c"]);
    assert_eq!(net.phase(), "training");
    // It answers after all: now it is a spare, and enters at a boundary like any other.
    net.workers.get_mut(&id("b")).unwrap().mute = false;
    net.steps(1);
    let fenced = v1::Fenced {
        held: Some(state(3)),
        boundary: 0,
    };
    net.report("b", Body::Fenced(fenced));
    assert_eq!(net.members(), ["a", "c", "b"]);
    assert_eq!(net.last_generation().resume, held(4));
}

#[test]
fn a_silent_worker_is_gone_when_its_lease_ends() {
    let mut net = Net::training(&["a", "b"], &["membership.min_workers=1"]);
    net.steps(2);
    net.workers.get_mut(&id("b")).unwrap().mute = true;
    net.pass(9_500);
    assert_eq!(net.members(), ["a", "b"]);
    net.pass(1_000);
    assert_eq!(net.members(), ["a"]);
    assert_eq!(net.last_generation().resume, held(2));
}

#[test]
fn a_lost_stream_does_not_stop_training() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(2);
    let session = net.workers[&id("b")].session.unwrap();
    net.deliver(crate::run::Event::Detached {
        worker: id("b"),
        session,
    });
    assert_eq!(net.phase(), "training");
    net.attend("b");
    net.steps(1);
    let status = net.machine.status();
    let back = &status.workers[1];
    assert_eq!(
        (back.state.as_str(), back.rank, back.step),
        ("ranked", 1, 3)
    );
    net.pass(20_000);
    assert_eq!(
        (net.generations().len(), net.phase().as_str()),
        (1, "training")
    );
}

#[test]
fn a_stale_report_changes_nothing() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(2);
    net.link_lost("a", 1);
    let before = (net.machine.status(), net.journal.len());
    let stale = [
        Body::LinkLost(v1::LinkLost {
            accused_rank: 0,
            reason: "old".into(),
        }),
        Body::StepDone(v1::StepDone {
            step: 9,
            loss: 3.0,
            ..Default::default()
        }),
        Body::Fenced(v1::Fenced {
            held: Some(state(9)),
            boundary: Boundary::Stop.into(),
        }),
        Body::Formed(v1::Formed {
            held: Some(state(9)),
            ..Default::default()
        }),
    ];
    for body in stale {
        net.report_in("a", TERM, 1, body.clone());
        net.report_in("a", TERM - 1, 2, body);
    }
    assert_eq!((net.machine.status(), net.journal.len()), before);
}

#[test]
fn with_no_survivor_the_newest_checkpoint_is_resumed() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(10);
    net.write_part("a");
    net.write_part("b");
    net.steps(2);
    net.kill("a");
    net.kill("b");
    net.pass(11_000);
    net.attend("c");
    net.attend("d");
    assert_eq!(net.last_generation().resume, held(10));
    let key = net.committed()[0].manifest_key();
    assert_eq!(
        net.last_generation().origin,
        RecordedOrigin::Checkpoint(key)
    );
}

#[test]
fn a_new_coordinator_continues_where_the_journal_ends() {
    let mut net = Net::training(&["a"], &[]);
    net.steps(10);
    net.write_part("a");
    let recovered = Recovered {
        term: Term(TERM),
        generation: Generation(7),
        lineage: vec![(Generation(1), Step(0))],
        checkpoints: net.committed(),
        fingerprint: Some("f".into()),
        ..Default::default()
    };
    let mut net = Net::recovered(&["membership.min_workers=1"], recovered);
    net.attend("z");
    assert_eq!(net.last_generation().generation, Generation(8));
    assert_eq!(net.last_generation().resume, held(10));
}

#[test]
fn the_same_step_failing_three_times_ends_the_run() {
    let mut net = Net::training(&["a", "b"], &["membership.min_workers=1"]);
    net.steps(4);
    for attempt in 0..3 {
        let name = net.training_names()[0].clone();
        let failed = v1::Failed {
            kind: "internal".into(),
            message: "out of memory".into(),
        };
        net.report(&name, Body::Failed(failed));
        if attempt < 2 {
            net.workers.remove(&id(&name));
            net.attend(&name);
            assert!(net.end.is_none());
        }
    }
    let Some(End::Failed { kind, message }) = &net.end else {
        panic!("{:?}", net.end)
    };
    assert_eq!(*kind, ErrorKind::Internal);
    assert!(
        message.contains("no step after 4") && message.contains("out of memory"),
        "{message}"
    );
}

#[test]
fn wrong_data_fails_the_run_with_the_workers_words() {
    let mut net = Net::training(&["a", "b"], &[]);
    let failed = v1::Failed {
        kind: "data".into(),
        message: "no column image".into(),
    };
    net.report("b", Body::Failed(failed));
    let Some(End::Failed { kind, message }) = &net.end else {
        panic!("{:?}", net.end)
    };
    assert_eq!(*kind, ErrorKind::Data);
    assert!(message.contains("no column image"));
    assert_eq!(net.stopped_with("a"), Some(v1::Outcome::Failed));
    assert!(
        !net.journal
            .iter()
            .any(|record| matches!(record, Record::Finished(_)))
    );
}

/// Three workers with a checkpoint of step 2, at step 4, where `b` reports another digest.
fn diverged() -> Net {
    let mut net = Net::training(&["a", "b", "c"], &["membership.min_workers=2"]);
    net.steps(2);
    for name in ["a", "b", "c"] {
        net.write_part(name);
    }
    net.steps(1);
    let digests = [("a", "aa"), ("c", "aa"), ("b", "bb")];
    for (name, digest) in digests {
        net.workers.get_mut(&id(name)).unwrap().held = Some(v1::Held {
            step: 4,
            digest: digest.into(),
        });
    }
    for (name, digest) in digests {
        let done = v1::StepDone {
            step: 4,
            digest: digest.into(),
            ..Default::default()
        };
        net.report(name, Body::StepDone(done));
    }
    net
}

#[test]
fn ranks_that_disagree_go_back_to_a_checkpoint_and_the_outvoted_is_removed() {
    let mut net = diverged();
    assert_eq!(net.stopped_with("b"), Some(v1::Outcome::Removed));
    let text = "rank 1 (b) held another state at step 4 than most ranks";
    assert!(
        net.logs.iter().any(|log| log.contains(text)),
        "{:?}",
        net.logs
    );
    assert_eq!(net.members(), ["a", "c"]);
    let checkpoint = net.committed()[0].manifest_key();
    assert_eq!(
        net.last_generation().origin,
        RecordedOrigin::Checkpoint(checkpoint)
    );
    assert_eq!(net.last_generation().resume, held(2));
    assert_eq!(net.phase(), "training");
    net.steps(2);
    let steps: Vec<(u64, u64)> = net.lines.iter().map(|l| (l.step, l.generation)).collect();
    assert_eq!(
        steps,
        [(1, 2), (2, 2), (3, 3), (4, 3)],
        "what never happened is not on record"
    );
}

#[test]
fn of_two_ranks_that_disagree_neither_is_trusted_and_neither_removed() {
    let mut net = Net::training(&["a", "b"], &[]);
    for (name, digest) in [("a", "aa"), ("b", "bb")] {
        let done = v1::StepDone {
            step: 1,
            digest: digest.into(),
            ..Default::default()
        };
        net.report(name, Body::StepDone(done));
    }
    assert_eq!(net.members(), ["a", "b"]);
    assert_eq!(net.last_generation().origin, RecordedOrigin::Initial);
    assert_eq!(net.phase(), "training");
}

#[test]
fn the_next_coordinator_trusts_a_diverged_generation_no_more_than_this_one() {
    let mut net = diverged();
    net.journal.pop();
    let distrusts = |record: &Record| matches!(record, Record::Diverged { .. });
    assert!(net.journal.iter().any(distrusts), "{:?}", net.journal);
    let overrides = &["membership.min_workers=2"];
    net.restart_coordinator_adopting(overrides, false);
    for name in ["a", "c"] {
        let fake = net.workers.get_mut(&id(name)).unwrap();
        (fake.generation, fake.held) = (2, Some(state(9)));
        net.attend(name);
    }
    assert_eq!(net.last_generation().resume, held(2));
}

/// A pod that is started again keeps its name, not its memory. Found by the simulation.
#[test]
fn a_state_whose_last_holder_was_replaced_while_its_generation_was_recorded_is_not_resumed() {
    let mut net = Net::training(&["a", "b"], &["membership.min_workers=2"]);
    net.steps(5);
    net.kill("a");
    net.slow_store = true;
    net.link_lost("b", 0);
    net.attend("c");
    assert!(net.machine.status().reason.contains("is being recorded"));
    net.kill("b");
    net.attend("b");
    net.write_journal();
    assert_eq!(net.phase(), "training", "{}", net.machine.status().reason);
    assert_eq!(net.last_generation().generation, Generation(3));
    assert_eq!(net.last_generation().origin, RecordedOrigin::Initial);
}

#[test]
fn what_a_worker_said_before_it_was_ranked_takes_it_out_of_no_ring() {
    let mut net = Net::training(&["a", "b"], &["membership.min_workers=2"]);
    net.steps(3);
    net.link_lost("a", 1);
    assert_eq!(net.phase(), "training");
    let generation = net.last_generation().generation;
    let prepared = Body::Prepared(v1::Prepared {
        ring_address: "127.0.0.1:1".into(),
        fingerprint: net.fingerprint.into(),
        held: Some(state(3)),
        state_bytes: 1,
    });
    net.report_in("a", TERM, generation.0 - 1, prepared.clone());
    assert_eq!(net.last_generation().generation, generation, "an old word");
    assert_eq!(net.phase(), "training");
    net.report_in("a", TERM, generation.0, prepared);
    assert!(net.last_generation().generation > generation, "it has left");
}
