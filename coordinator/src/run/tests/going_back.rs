//! A run that somebody takes back to one of its checkpoints.

use super::harness::{Net, held};
use crate::record::{Origin, Record};

const TWO: &[&str] = &["membership.min_workers=2"];

/// Two workers at step 25, checkpoints of steps 10 and 20, and a new coordinator that was asked to go
/// on from step 10.
fn taken_back() -> Net {
    let mut net = Net::training(&["a", "b"], TWO);
    for _ in 0..2 {
        net.steps(10);
        net.write_part("a");
        net.write_part("b");
    }
    net.steps(5);
    let asked = net.committed()[0].clone();
    net.journal.push(Record::ResumeFrom(asked));
    net.restart_coordinator_adopting(TWO, false);
    net
}

#[test]
fn a_run_taken_back_goes_on_from_that_checkpoint_whatever_workers_hold() {
    let mut net = taken_back();
    let key = net.committed()[0].manifest_key();
    net.attend("a");
    net.attend("b");
    assert_eq!(net.phase(), "training", "{}", net.machine.status().reason);
    assert_eq!(net.last_generation().resume, held(10));
    assert_eq!(net.last_generation().origin, Origin::Checkpoint(key));
    let last = net.lines.last().map(|line| line.step);
    assert_eq!(last, Some(10), "what came after never happened");
    net.steps(1);
    assert_eq!(net.lines.last().map(|line| line.step), Some(11));
}

/// The memory of what never happened counts no more in the generation after.
#[test]
fn nobody_who_was_ahead_brings_a_run_forward_that_was_taken_back() {
    let mut net = taken_back();
    net.attend("a");
    for name in ["c", "b"] {
        net.workers
            .entry(super::harness::id(name))
            .or_default()
            .never_forms = true;
        net.attend(name);
    }
    assert_eq!(net.last_generation().resume, held(10));
    assert_eq!(net.phase(), "forming");
    net.link_lost("a", 1);
    net.pass(15_000);
    assert!(net.generations().len() > 2, "{:?}", net.logs);
    for record in &net.generations()[1..] {
        assert_eq!(record.resume, held(10), "{record:?}");
    }
}

#[test]
fn the_last_checkpoint_of_a_run_does_not_end_it_once_it_is_taken_back() {
    let mut net = Net::training(&["a"], &[]);
    for _ in 0..10 {
        net.steps(10);
        net.write_part("a");
    }
    let asked = net.committed().into_iter().find(|c| c.state.step.0 == 80);
    net.journal.push(Record::ResumeFrom(asked.unwrap()));
    net.restart_coordinator_adopting(&[], false);
    net.attend("a");
    assert_eq!((net.end.as_ref(), net.phase().as_str()), (None, "training"));
    assert_eq!(net.last_generation().resume, held(80));
}
