//! Another number of workers for a live run.

use super::harness::{Net, held};
use crate::record::Record;

#[test]
fn who_is_too_many_becomes_spare_at_a_boundary_and_ranks_again_when_there_is_room() {
    let mut net = Net::training(&["a", "b", "c"], &[]);
    net.steps(3);
    net.scale(2);
    assert_eq!(net.members(), ["a", "b"]);
    assert_eq!(net.last_generation().resume, held(3), "no step is lost");
    assert_eq!(net.phase(), "training");
    net.steps(2);
    net.scale(3);
    assert_eq!(net.members(), ["a", "b", "c"]);
    assert_eq!(net.last_generation().resume, held(5));
}

#[test]
fn a_larger_run_takes_what_attends_later() {
    let mut net = Net::training(&["a"], &["membership.max_workers=1"]);
    net.scale(2);
    assert_eq!(net.members(), ["a"], "nobody else is there");
    net.attend("b");
    assert_eq!(net.members(), ["a", "b"]);
}

#[test]
fn the_next_coordinator_has_as_many_workers_as_somebody_asked_for() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(1);
    net.scale(1);
    net.restart_coordinator(&["membership.min_workers=1"]);
    net.attend("a");
    net.attend("b");
    net.steps(2);
    assert_eq!(net.machine.status().max_workers, 1);
    assert_eq!(net.members(), ["a"]);
}

#[test]
fn a_generation_under_way_is_recorded_before_the_number_changes() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(1);
    net.slow_store = true;
    net.attend("c");
    assert_eq!(net.phase(), "forming");
    net.scale(2);
    net.write_journal();
    assert_eq!(net.phase(), "training");
    assert_eq!(net.members(), ["a", "b"]);
    let scaled = |record: &&Record| matches!(record, Record::Scaled { .. });
    assert_eq!(net.journal.iter().filter(scaled).count(), 1);
}
