//! Stopping, finishing, and what is saved by then.

use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, Boundary, Outcome};

use super::harness::{Net, held as held_at, held, id, state};
use crate::record::Record;
use crate::run::End;

#[test]
fn stop_commits_a_checkpoint_first() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(3);
    net.stop();
    assert_eq!(net.end, Some(End::Stopped(held(3))));
    let last_two = &net.journal[net.journal.len() - 2..];
    assert!(matches!(&last_two[0], Record::CheckpointCommitted(c) if c.state == held(3)));
    assert_eq!(last_two[1], Record::Stopped(held(3)));
    for name in ["a", "b"] {
        assert_eq!(net.stopped_with(name), Some(Outcome::Stopped));
    }
}

#[test]
fn no_end_is_recorded_before_its_checkpoint_is_committed() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(3);
    net.slow_store = true;
    net.stop();
    assert_eq!((net.uncommitted.len(), net.unwritten.len()), (1, 0));
    assert_eq!(net.stopped_with("a"), None);
    net.write_journal();
    assert_eq!(net.end, Some(End::Stopped(held(3))));
}

#[test]
fn stop_while_gathering_is_immediate() {
    let mut net = Net::new(&["membership.min_workers=2"]);
    net.attend("a");
    net.stop();
    assert!(matches!(net.end, Some(End::Stopped(_))));
    assert_eq!(net.stopped_with("a"), Some(Outcome::Stopped));
}

#[test]
fn stop_while_too_few_are_left_saves_what_they_hold() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(3);
    net.kill("b");
    net.link_lost("a", 1);
    assert_eq!(net.phase(), "gathering");
    net.stop();
    assert_eq!(net.end, Some(End::Stopped(held(3))));
    assert_eq!(net.committed()[0].state, held(3));
}

#[test]
fn a_death_while_stopping_loses_nothing() {
    let mut net = Net::training(&["a", "b", "c"], &[]);
    net.steps(3);
    net.workers.get_mut(&id("c")).unwrap().mute = true;
    net.stop();
    assert_eq!(net.phase(), "draining");
    net.kill("c");
    net.pass(11_000);
    assert_eq!(net.end, Some(End::Stopped(held(3))));
    assert_eq!(net.committed()[0].state, held(3));
    assert_eq!(net.members(), ["a", "b"]);
}

#[test]
fn the_last_step_finishes_the_run() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(100);
    for name in ["a", "b"] {
        net.write_part(name);
        let boundary = Boundary::Finished.into();
        net.report(
            name,
            Body::Fenced(v1::Fenced {
                held: Some(state(100)),
                boundary,
            }),
        );
    }
    assert_eq!(net.end, Some(End::Finished(held(100))));
    assert_eq!(net.journal.last(), Some(&Record::Finished(held(100))));
    assert_eq!(net.stopped_with("a"), Some(Outcome::Finished));
}

#[test]
fn a_run_whose_last_checkpoint_is_complete_finishes_without_workers() {
    let mut net = Net::training(&["a"], &[]);
    net.steps(100);
    net.write_part("a");
    let recovered = crate::run::Recovered {
        term: ringmaster_proto::Term(super::harness::TERM),
        checkpoints: net.committed(),
        ..Default::default()
    };
    let mut net = Net::recovered(&[], recovered);
    net.pass(1);
    assert_eq!(net.end, Some(End::Finished(held(100))));
}

#[test]
fn a_checkpoint_of_a_fenced_generation_is_never_committed() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(10);
    net.write_part("a");
    net.link_lost("a", 1);
    net.write_part("b");
    assert!(net.manifests.is_empty());
    net.write_part("a");
    assert_eq!(net.manifests.len(), 1);
    let folder = &net.committed()[0].folder;
    assert!(
        net.manifests[0]
            .parts
            .iter()
            .all(|part| part.key.starts_with(folder.as_str()))
    );
    assert_eq!(net.manifests[0].generation.0, 2);
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let mut net = Net::training(&["a"], &["checkpoint.keep=2"]);
    for _ in 0..5 {
        net.steps(10);
        net.write_part("a");
    }
    let folders: Vec<String> = net.committed().into_iter().map(|c| c.folder).collect();
    assert_eq!(net.deleted, folders[..3]);
    assert_eq!(net.machine.status().checkpoint_step, 50);
}

#[test]
fn of_ranks_that_end_with_different_states_neither_is_saved() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(2);
    net.write_part("a");
    net.write_part("b");
    net.steps(1);
    let held = &mut net.workers.get_mut(&id("b")).unwrap().held;
    held.as_mut().unwrap().digest = "bad".into();
    net.stop();
    assert_eq!(net.end, Some(End::Stopped(held_at(2))));
    assert!(net.logs.iter().any(|text| text.contains("another state")));
}
