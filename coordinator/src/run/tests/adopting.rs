//! A coordinator that comes back: the ring that trains alone trains on.

use std::collections::BTreeSet;

use ringmaster_proto::v1::directive::Body as Said;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, Boundary, Outcome};
use ringmaster_proto::{Generation, Step, Term};

use super::harness::{Net, config, held, id, state};
use crate::record::{Committed, Record};
use crate::run::{Effect, End, Event, Millis, Recovered, RunMachine, Session};

impl Net {
    /// The coordinator is killed, and another reads the journal. Every stream is gone; the workers
    /// train on, since nobody is asked for a step.
    pub(super) fn restart_coordinator(&mut self, overrides: &[&str]) {
        self.restart_coordinator_adopting(overrides, true);
    }

    /// As above; without `adopt` nobody is believed to train.
    pub(super) fn restart_coordinator_adopting(&mut self, overrides: &[&str], adopt: bool) {
        self.term += 1;
        let generations = self.generations();
        let lineage = generations
            .iter()
            .map(|record| (record.generation, record.resume.step));
        let recovered = Recovered {
            term: Term(self.term),
            generation: self.last_generation().generation,
            lineage: lineage.collect(),
            checkpoints: self.committed(),
            fingerprint: Some(self.fingerprint.to_owned()),
            adopt: adopt.then(|| self.last_generation().clone()),
            distrusted: self.distrusted(),
            resume_from: self.resume_from(),
            scaled: self.scaled(),
            logged: Step(self.lines.last().map_or(0, |line| line.step)),
            ..Default::default()
        };
        self.machine = RunMachine::new(config(overrides), recovered);
        self.now = Millis(0);
        for fake in self.workers.values_mut() {
            fake.session = None;
        }
    }

    fn scaled(&self) -> Option<u32> {
        let scaled = |record: &Record| match record {
            Record::Scaled { workers } => Some(*workers),
            _ => None,
        };
        self.journal.iter().rev().find_map(scaled)
    }

    fn distrusted(&self) -> BTreeSet<Generation> {
        let (mut generations, mut distrusted) = (BTreeSet::new(), BTreeSet::new());
        for record in &self.journal {
            match record {
                Record::Generation(record) => drop(generations.insert(record.generation)),
                Record::Diverged { generation } => drop(distrusted.insert(*generation)),
                Record::ResumeFrom(_) => distrusted.extend(&generations),
                _ => {}
            }
        }
        distrusted
    }

    fn resume_from(&self) -> Option<Committed> {
        let deciding =
            |record: &&Record| matches!(record, Record::ResumeFrom(_) | Record::Generation(_));
        match self.journal.iter().rev().find(deciding) {
            Some(Record::ResumeFrom(checkpoint)) => Some(checkpoint.clone()),
            _ => None,
        }
    }
}

const TWO: &[&str] = &["membership.min_workers=2"];

/// Two workers at step 5, and a new coordinator that neither has attended yet.
fn taken_over() -> Net {
    let mut net = Net::training(&["a", "b"], TWO);
    net.steps(5);
    net.restart_coordinator(TWO);
    assert_eq!(net.phase(), "adopting");
    net
}

#[test]
fn a_ring_that_is_whole_is_left_alone() {
    let mut net = taken_over();
    net.attend("b");
    assert_eq!(net.phase(), "adopting", "a may be gone");
    net.attend("a");
    assert_eq!(net.phase(), "training", "{}", net.machine.status().reason);
    assert_eq!(net.generations().len(), 1, "no generation was formed");
    net.steps(2);
    let steps: Vec<u64> = net.lines.iter().map(|line| line.step).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7]);
    assert!(net.logs.iter().all(|text| !text.contains("fence")));
}

#[test]
fn the_coordinator_of_an_adopted_ring_can_end_it() {
    let mut net = taken_over();
    net.attend("a");
    net.attend("b");
    net.steps(1);
    net.kill("a");
    net.link_lost("b", 0);
    net.attend("c");
    assert_eq!(
        (net.phase().as_str(), net.members()),
        ("training", vec!["b", "c"])
    );
    assert_eq!(net.last_generation().resume, held(6));
}

#[test]
fn a_member_that_died_meanwhile_ends_the_generation_when_its_lease_ends() {
    let mut net = taken_over();
    net.attend("a");
    net.attend("c");
    net.pass(9_500);
    assert_eq!(net.phase(), "adopting");
    net.pass(1_000);
    assert_eq!(
        (net.phase().as_str(), net.members()),
        ("training", vec!["a", "c"])
    );
    assert_eq!(net.last_generation().resume, held(5));
}

#[test]
fn a_member_whose_ring_broke_meanwhile_ends_the_generation_at_once() {
    let mut net = taken_over();
    net.workers.get_mut(&id("a")).unwrap().in_ring = false;
    net.attend("a");
    assert_eq!(net.phase(), "fencing", "b may hold more");
    net.attend("b");
    assert_eq!(net.members(), ["a", "b"]);
    assert_eq!(net.last_generation().generation, Generation(2));
    assert_eq!(net.phase(), "training");
}

#[test]
fn a_member_started_anew_is_not_the_one_in_the_ring() {
    let mut net = taken_over();
    net.attend("a");
    net.workers.insert(id("b"), Default::default());
    net.attend("b");
    assert_eq!(net.phase(), "training");
    assert_eq!(net.last_generation().generation, Generation(2));
    assert_eq!(net.last_generation().resume, held(5), "b holds nothing");
}

/// The record was durable, and the coordinator died before it could say so.
#[test]
fn a_generation_nobody_heard_of_is_formed_anew() {
    let mut net = Net::training(&["a", "b"], TWO);
    net.steps(5);
    let mut unheard = net.last_generation().clone();
    unheard.generation = Generation(2);
    net.journal.push(crate::record::Record::Generation(unheard));
    net.restart_coordinator(TWO);
    net.attend("a");
    net.attend("b");
    assert_eq!(net.phase(), "training");
    assert_eq!(net.last_generation().generation, Generation(3));
    assert_eq!(net.last_generation().resume, held(5));
}

/// Its control stream is lost, the ring is not.
#[test]
fn a_member_whose_neighbours_progress_is_not_evicted_for_its_silence() {
    let mut net = taken_over();
    net.attend("a");
    for _ in 0..4 {
        net.pass(5_000);
        net.workers.get_mut(&id("b")).unwrap().held = Some(state(0));
        net.step("a");
    }
    assert_eq!(net.phase(), "training");
    assert_eq!(net.generations().len(), 1);
    net.pass(10_500);
    assert_eq!(net.phase(), "gathering", "the ring stands still: b is lost");
}

/// What a ring did while nobody listened is on record once it says so again.
#[test]
fn steps_nobody_was_told_of_are_not_missing_from_the_record() {
    let mut net = taken_over();
    net.workers.get_mut(&id("b")).unwrap().in_ring = false;
    net.workers.get_mut(&id("b")).unwrap().held = Some(state(7));
    net.attend("b");
    for step in 6..=7 {
        let done = v1::StepDone {
            step,
            loss: 1.0 / step as f64,
            ..Default::default()
        };
        net.report("b", Body::StepDone(done));
    }
    net.workers.get_mut(&id("a")).unwrap().held = Some(state(7));
    net.attend("a");
    assert_eq!(net.last_generation().resume, held(7));
    net.steps(1);
    let steps: Vec<u64> = net.lines.iter().map(|line| line.step).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7, 8]);
}

/// Whoever it is: it may be left over from a run of this name that was started afresh.
#[test]
fn a_worker_that_knows_a_newer_coordinator_is_sent_away_and_the_journal_asked() {
    let mut net = taken_over();
    let sessions = [7, 8].map(Session);
    let mut asked = Vec::new();
    for session in sessions {
        let attended = Event::Attended {
            worker: id("z"),
            session,
            term: Term(99),
            hello: v1::Hello::default(),
        };
        asked.extend(net.machine.apply(net.now, attended));
    }
    let closed = |session| {
        let close = |effect: &Effect| matches!(effect, Effect::Close(s) if *s == session);
        asked.iter().any(close)
    };
    assert!(sessions.into_iter().all(closed));
    let confirms = asked.iter().filter(|e| matches!(e, Effect::ConfirmOffice));
    assert_eq!(confirms.count(), 1, "one at a time");
    assert!(
        !asked
            .iter()
            .any(|effect| matches!(effect, Effect::Send { .. }))
    );
}

#[test]
fn a_worker_is_told_what_is_on_record() {
    let mut net = taken_over();
    net.attend("a");
    let welcome = net.workers[&id("a")]
        .heard
        .iter()
        .rev()
        .find_map(|said| match said {
            Said::Welcome(welcome) => Some(welcome.clone()),
            _ => None,
        });
    let welcome = welcome.unwrap();
    assert_eq!((welcome.keep, welcome.completed_step), (true, 5));
}

#[test]
fn a_member_that_ended_at_a_boundary_of_the_old_coordinator_ends_the_generation() {
    let mut net = taken_over();
    net.attend("a");
    let fenced = v1::Fenced {
        held: Some(state(5)),
        boundary: Boundary::Reconfigure.into(),
    };
    net.report("a", Body::Fenced(fenced));
    net.attend("b");
    assert_eq!(net.phase(), "training");
    assert_eq!(net.last_generation().generation, Generation(2));
}

/// What a member still gets takes as long under this coordinator as under the last.
#[test]
fn an_adopted_generation_has_the_time_that_its_state_needs_to_arrive() {
    let mut net = Net::new(TWO);
    net.state_bytes = 1_000_000_000;
    net.workers.entry(id("b")).or_default().never_forms = true;
    net.attend("a");
    net.attend("b");
    assert_eq!(net.phase(), "forming");
    net.restart_coordinator(TWO);
    net.attend("a");
    net.attend("b");
    net.pass(100_000);
    assert_eq!(net.phase(), "adopting");
    net.pass(40_000);
    assert_eq!(net.generations().len(), 2, "{:?}", net.logs);
}

/// The record of the end is durable, and whoever was to tell them is gone.
#[test]
fn workers_of_a_finished_run_are_told_by_the_next_coordinator() {
    let mut net = Net::training(&["a", "b"], TWO);
    net.steps(100);
    for name in ["a", "b"] {
        net.write_part(name);
    }
    for name in ["a", "b"] {
        let boundary = Boundary::Finished.into();
        let held = Some(state(100));
        net.report(name, Body::Fenced(v1::Fenced { held, boundary }));
    }
    assert_eq!(net.journal.last(), Some(&Record::Finished(held(100))));
    for fake in net.workers.values_mut() {
        fake.heard.clear();
        fake.in_ring = false;
    }
    net.end = None;
    net.restart_coordinator(TWO);
    net.attend("a");
    assert_eq!(net.end, None, "b may not have been told");
    net.attend("b");
    for name in ["a", "b"] {
        assert_eq!(net.stopped_with(name), Some(Outcome::Finished));
    }
    assert_eq!(net.end, Some(End::Finished(held(100))));
    let again = net
        .journal
        .iter()
        .filter(|record| matches!(record, Record::Generation(_)));
    assert_eq!(again.count(), 1, "nothing was trained again");
}

#[test]
fn a_finished_run_ends_again_though_nobody_is_left_to_tell() {
    let mut net = Net::training(&["a"], &[]);
    net.steps(100);
    net.write_part("a");
    net.kill("a");
    net.restart_coordinator(&[]);
    net.pass(15_000);
    assert_eq!(net.end, Some(End::Finished(held(100))));
}
