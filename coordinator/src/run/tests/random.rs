//! Whatever happens in whatever order, some things never do.

use std::collections::BTreeSet;

use proptest::prelude::*;
use prost::Message;
use ringmaster_proto::v1;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::{ErrorKind, Generation, Step, Term, WorkerId, keys};

use super::harness::{TERM, config, state};
use crate::record::{GenerationRecord, Record};
use crate::run::{Effect, End, Event, Millis, Recovered, RunMachine, Session};

const WORKERS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Happening {
    /// A process that never prepared, or one that was formed in the generation of this age.
    Attend(usize, Option<u64>),
    /// The stream of this age, counted back, ends.
    Detach(usize, u64),
    /// Anything a worker could say, of this or an older generation.
    Say(usize, u64, Body),
    Pass(u64),
    /// The oldest unacknowledged write of the store is acknowledged.
    StoreAnswers,
    Stop,
}

fn body() -> impl Strategy<Value = Body> {
    let held = || (0u64..4).prop_map(state);
    prop_oneof![
        4 => proptest::option::of(held()).prop_map(|held| Body::Prepared(v1::Prepared {
            ring_address: "127.0.0.1:1".into(),
            fingerprint: "f".into(),
            held,
            state_bytes: 1 << 30,
        })),
        4 => (proptest::option::of(held()), 0..4i32)
            .prop_map(|(held, boundary)| Body::Fenced(v1::Fenced { held, boundary })),
        6 => held().prop_map(|held| Body::Formed(v1::Formed { held: Some(held), ..Default::default() })),
        3 => (1u64..4).prop_map(|step| Body::StepDone(v1::StepDone {
            step,
            loss: step as f64,
            ..Default::default()
        })),
        2 => (0u32..4).prop_map(|accused_rank| Body::LinkLost(v1::LinkLost {
            accused_rank,
            reason: "r".into(),
        })),
        2 => (1u64..4, 0u32..3, 1u32..4, 1u64..6).prop_map(|(step, part, parts, generation)| {
            let digest = state(step).digest;
            let folder = keys::checkpoint(Generation(generation), Step(step), &digest);
            let key = keys::checkpoint_part(&folder, part, parts);
            let blake3 = "b".into();
            Body::PartWritten(v1::PartWritten { step, digest, part, parts, key, bytes: 1, blake3 })
        }),
        1 => Just(Body::Draining(v1::Draining { reason: "r".into() })),
        1 => Just(Body::Failed(v1::Failed {
            kind: ErrorKind::Retry.to_string(),
            message: "m".into(),
        })),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    let worker = || 0..WORKERS.len();
    prop_oneof![
        5 => (worker(), proptest::option::of(0u64..3)).prop_map(|(w, age)| Happening::Attend(w, age)),
        1 => (worker(), 0u64..3).prop_map(|(worker, age)| Happening::Detach(worker, age)),
        24 => (worker(), 0u64..2, body()).prop_map(|(w, age, body)| Happening::Say(w, age, body)),
        2 => (0u64..6_000).prop_map(Happening::Pass),
        8 => Just(Happening::StoreAnswers),
        1 => Just(Happening::Stop),
    ]
}

/// What the outside has seen, and the promises it is held against.
struct Watcher {
    machine: RunMachine,
    now: Millis,
    sessions: Vec<u64>,
    next_session: u64,
    durable: Vec<GenerationRecord>,
    unanswered: Vec<Event>,
    unwritten: Vec<Record>,
    ended: bool,
    generation: u64,
}

impl Watcher {
    fn new() -> Self {
        let recovered = Recovered {
            term: Term(TERM),
            ..Default::default()
        };
        Self {
            machine: RunMachine::new(config(&["membership.min_workers=1"]), recovered),
            now: Millis(0),
            sessions: vec![0; WORKERS.len()],
            next_session: 1,
            durable: Vec::new(),
            unanswered: Vec::new(),
            unwritten: Vec::new(),
            ended: false,
            generation: 0,
        }
    }

    fn happen(&mut self, happening: Happening) {
        let worker = |index: usize| WorkerId::new(WORKERS[index]).unwrap();
        match happening {
            Happening::Attend(index, formed_in) => {
                let session = Session(self.next_session);
                self.sessions[index] = self.next_session;
                self.next_session += 1;
                let hello = v1::Hello {
                    incarnation: formed_in.unwrap_or(9),
                    standing: formed_in.map(|age| v1::Standing {
                        ring_address: "127.0.0.1:1".into(),
                        fingerprint: "f".into(),
                        generation: self.generation.saturating_sub(age),
                        in_ring: age < 2,
                        formed: age < 1,
                        step: age,
                        state_bytes: 1 << (age % 64),
                    }),
                    ..Default::default()
                };
                self.apply(Event::Attended {
                    worker: worker(index),
                    session,
                    term: Term(TERM),
                    hello,
                });
            }
            Happening::Detach(index, age) => {
                let session = Session(self.sessions[index].saturating_sub(age));
                self.apply(Event::Detached {
                    worker: worker(index),
                    session,
                });
            }
            Happening::Say(index, age, body) => {
                let report = v1::WorkerReport {
                    term: TERM,
                    generation: self.generation.saturating_sub(age),
                    body: Some(body),
                    ..Default::default()
                };
                let session = Session(self.sessions[index]);
                self.apply(Event::Report {
                    worker: worker(index),
                    session,
                    report: Box::new(report),
                });
            }
            Happening::Pass(milliseconds) => {
                self.now = self.now.after(milliseconds);
                self.apply(Event::Tick);
            }
            Happening::StoreAnswers if !self.unanswered.is_empty() => {
                let answer = self.unanswered.remove(0);
                if matches!(answer, Event::Journaled) {
                    let Record::Generation(record) = self.unwritten.remove(0) else {
                        return self.apply(answer);
                    };
                    self.durable.push(record);
                }
                self.apply(answer);
            }
            Happening::StoreAnswers => {}
            Happening::Stop => self.apply(Event::StopRequested { reason: "r".into() }),
        }
    }

    fn apply(&mut self, event: Event) {
        for effect in self.machine.apply(self.now, event) {
            assert!(!self.ended, "{effect:?} after the end");
            self.check(effect);
        }
    }

    fn check(&mut self, effect: Effect) {
        match effect {
            Effect::Journal(record) => {
                assert!(self.unwritten.is_empty(), "two records on the way at once");
                if let Record::Generation(next) = &record {
                    let last = self.durable.last().map_or(0, |record| record.generation.0);
                    assert!(next.generation.0 > last, "generations grow");
                    let distinct: BTreeSet<_> = next.members.iter().collect();
                    assert_eq!(distinct.len(), next.members.len(), "one rank per worker");
                    assert!(!next.members.is_empty() && next.members.len() <= 4);
                }
                self.unwritten.push(record);
                self.unanswered.push(Event::Journaled);
            }
            Effect::Send { directive, .. } => {
                assert!(
                    directive.generation >= self.generation,
                    "a directive goes back"
                );
                self.generation = directive.generation;
                if let Some(v1::directive::Body::FormRing(form)) = directive.body {
                    let record = self.durable.last().expect("a generation before its record");
                    assert_eq!(record.generation.0, directive.generation);
                    let roster = v1::Roster::decode(form.roster).expect("a roster");
                    let members: Vec<&str> = roster
                        .members
                        .iter()
                        .map(|member| member.worker_id.as_str())
                        .collect();
                    let recorded: Vec<&str> = record.members.iter().map(WorkerId::as_str).collect();
                    assert_eq!(members, recorded, "one member set per generation");
                }
            }
            Effect::CommitCheckpoint(manifest, committed) => {
                let folder = &committed.folder;
                let parts = manifest.parts.len() as u32;
                for (part, written) in (0..).zip(&manifest.parts) {
                    assert_eq!(written.key, keys::checkpoint_part(folder, part, parts));
                }
                self.unanswered.push(Event::CheckpointCommitted(committed));
            }
            Effect::End(end) => {
                self.ended = true;
                let recorded = self.unwritten.is_empty() || matches!(end, End::Failed { .. });
                assert!(recorded, "the end comes before its record");
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..Default::default() })]

    #[test]
    fn whatever_happens_generations_grow_and_are_durable_and_have_one_member_set(
        happenings in proptest::collection::vec(happening(), 1..120),
    ) {
        let mut watcher = Watcher::new();
        for happening in happenings {
            watcher.happen(happening);
        }
    }
}
