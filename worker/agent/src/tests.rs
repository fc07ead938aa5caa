//! What a worker never does, whatever it hears in whatever order.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use proptest::prelude::*;
use prost::Message;
use prost::bytes::Bytes;
use ringmaster_proto::v1::directive::Body as Said;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, Directive};
use ringmaster_proto::{Generation, Term, WorkerId};

use crate::{Agent, Ending, Task};

const NOW: Duration = Duration::from_secs(1);

fn directive(term: u64, generation: u64, body: Said) -> Directive {
    Directive {
        term,
        generation,
        body: Some(body),
    }
}

fn welcome(keep: bool) -> Said {
    Said::Welcome(v1::Welcome {
        run_id: "t".into(),
        heartbeat_ms: 1_000,
        keep,
        completed_step: 5,
        ..Default::default()
    })
}

fn roster(members: Vec<v1::Member>) -> Bytes {
    v1::Roster { members }.encode_to_vec().into()
}

fn form(rank: u32) -> Said {
    let member = |port: u16| v1::Member {
        worker_id: format!("w{port}"),
        ring_address: format!("127.0.0.1:{port}"),
    };
    Said::FormRing(v1::FormRing {
        rank,
        roster: roster(vec![member(1), member(2)]),
        resume: Some(v1::Resume::default()),
    })
}

fn fence() -> Said {
    Said::Fence(v1::Fence { reason: "r".into() })
}

/// A worker that trains in `generation` under `term`.
fn training(term: u64, generation: u64) -> Agent {
    let mut agent = Agent::new(WorkerId::new("w1").unwrap(), 1);
    agent.direct(directive(term, 0, welcome(false)));
    agent.prepared(v1::Prepared {
        ring_address: "127.0.0.1:1".into(),
        fingerprint: "f".into(),
        ..Default::default()
    });
    agent.direct(directive(term, generation, form(0)));
    let formed = Body::Formed(v1::Formed::default());
    agent.note(NOW, Generation(generation), formed);
    agent.direct(directive(
        term,
        generation,
        Said::Start(v1::Start::default()),
    ));
    agent
}

fn standing(agent: &Agent) -> Option<v1::Standing> {
    match agent.hello(v1::Hello::default()).body {
        Some(Body::Hello(hello)) => hello.standing,
        other => panic!("{other:?} is no hello"),
    }
}

#[test]
fn a_new_coordinator_that_keeps_a_worker_interrupts_nothing() {
    let mut agent = training(3, 7);
    let before = standing(&agent).unwrap();
    assert_eq!(
        (before.generation, before.in_ring, before.formed),
        (7, true, true)
    );
    let tasks = agent.direct(directive(4, 7, welcome(true)));
    let again = Task::TellAgain {
        completed: 5,
        in_force: Some(Generation(7)),
    };
    assert_eq!(tasks, [Task::Heartbeat(Duration::from_secs(1)), again]);
    assert_eq!(standing(&agent), Some(before));
    assert_eq!(agent.term(), Term(4));
}

#[test]
fn a_new_coordinator_that_does_not_keep_a_worker_gets_it_unbound() {
    let mut agent = training(3, 7);
    let tasks = agent.direct(directive(4, 8, welcome(false)));
    assert!(
        matches!(tasks[2..], [Task::Abort(_), Task::Fence(Generation(7))]),
        "{tasks:?}"
    );
    let held = Some(v1::Held::default());
    let fenced = Body::Fenced(v1::Fenced { held, boundary: 0 });
    let told = agent.note(NOW, Generation(7), fenced);
    assert!(
        matches!(told, Body::Prepared(v1::Prepared { held: Some(_), .. })),
        "{told:?}"
    );
    assert!(!agent.is_running());
}

#[test]
fn a_process_that_never_prepared_stands_nowhere() {
    let mut agent = Agent::new(WorkerId::new("w1").unwrap(), 1);
    assert_eq!(standing(&agent), None);
    agent.direct(directive(1, 0, welcome(false)));
    assert_eq!(agent.direct(directive(1, 1, form(0))), []);
    assert_eq!(standing(&agent), None);
}

#[test]
fn a_worker_whose_ring_broke_says_so_and_asks_to_be_ranked_when_nobody_fences() {
    let mut agent = training(1, 1);
    agent.note(NOW, Generation(1), Body::LinkLost(v1::LinkLost::default()));
    assert!(!standing(&agent).unwrap().in_ring);
    assert_eq!(agent.tick(NOW + Duration::from_secs(5)), []);
    let tasks = agent.tick(NOW + Duration::from_secs(6));
    assert!(
        matches!(tasks[..], [Task::Abort(_), Task::Fence(Generation(1))]),
        "{tasks:?}"
    );
    assert_eq!(agent.tick(NOW + Duration::from_secs(60)), [], "once");
}

#[test]
fn what_cannot_be_is_an_end_and_never_a_panic() {
    for (rank, address) in [(2, "127.0.0.1:1"), (0, "nowhere")] {
        let mut agent = training(1, 1);
        let Said::FormRing(mut bad) = form(rank) else {
            unreachable!()
        };
        let member = v1::Member {
            worker_id: "w1".into(),
            ring_address: address.into(),
        };
        bad.roster = roster(vec![member; 2]);
        let tasks = agent.direct(directive(1, 2, Said::FormRing(bad)));
        assert!(
            matches!(tasks[..], [Task::End(Ending::Nonsense(_))]),
            "{tasks:?}"
        );
    }
}

fn anything() -> impl Strategy<Value = Said> {
    prop_oneof![
        any::<bool>().prop_map(welcome),
        (0..3u32).prop_map(form),
        Just(Said::Start(v1::Start::default())),
        Just(fence()),
        (0..4i32).prop_map(|intent| Said::Drain(v1::Drain {
            intent,
            reason: String::new(),
        })),
    ]
}

proptest! {
    #[test]
    fn terms_and_generations_never_go_back(
        heard in proptest::collection::vec((0..5u64, 0..5u64, anything()), 1..40),
    ) {
        let mut agent = training(1, 1);
        for (term, generation, body) in heard {
            let (before, formed) = (agent.term(), agent.generation());
            let tasks = agent.direct(directive(term, generation, body));
            prop_assert!(Term(term) >= before || tasks.is_empty(), "an old term was obeyed");
            prop_assert!(agent.term() >= before && agent.generation() >= formed);
            for task in tasks {
                if let Task::Form(form) = task {
                    prop_assert!(form.generation > formed, "{:?} after {:?}", form.generation, formed);
                }
            }
        }
    }
}
