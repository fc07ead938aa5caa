//! Checkpoints that are not what their manifests say, and parts that come late.

use ringmaster_proto::v1;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::{ErrorKind, Generation, Step, keys};

use super::harness::{Net, TERM, held, id, state};
use crate::record::{Committed, Origin as RecordedOrigin};
use crate::run::{Damaged, End, Event};

/// A run with checkpoints of steps 10 and 20 that nobody survived, and two new workers that load.
fn loading_from_20() -> Net {
    let mut net = Net::training(&["a", "b"], &[]);
    for _ in 0..2 {
        net.steps(10);
        net.write_part("a");
        net.write_part("b");
    }
    net.kill("a");
    net.kill("b");
    net.pass(11_000);
    for name in ["c", "d"] {
        net.workers.entry(id(name)).or_default().never_forms = true;
        net.attend(name);
    }
    assert_eq!(net.last_generation().resume, held(20));
    net
}

fn damaged(net: &Net, checkpoint: usize) -> Body {
    Body::CheckpointDamaged(v1::CheckpointDamaged {
        key: net.committed()[checkpoint].manifest_key(),
        reason: "a flipped bit".into(),
    })
}

#[test]
fn a_damaged_checkpoint_is_given_up_for_the_next_older_one() {
    let mut net = loading_from_20();
    let newest = damaged(&net, 1);
    for fake in net.workers.values_mut() {
        fake.never_forms = false;
    }
    net.report("c", newest.clone());
    assert_eq!(net.phase(), "training");
    assert_eq!(net.last_generation().resume, held(10));
    let older = net.committed()[0].manifest_key();
    let origin = &net.last_generation().origin;
    assert_eq!(*origin, RecordedOrigin::Checkpoint(older));
    let said = |text: &String| {
        text.contains("step 20 is damaged") && text.contains("step 10") && text.contains("flipped")
    };
    assert!(net.logs.iter().any(said), "{:?}", net.logs);
    // The other member found the same, and says so late.
    let generations = net.generations().len();
    net.report_in("d", TERM, 2, newest);
    assert_eq!(
        (net.generations().len(), net.phase().as_str()),
        (generations, "training")
    );
    // The way back to step 20 is saved again, in a folder of its own.
    net.steps(10);
    net.write_part("c");
    net.write_part("d");
    let last = net.committed().pop().unwrap();
    assert_eq!((last.state, last.generation), (held(20), Generation(3)));
}

/// Whoever trains does not need it; whoever resumes later does not get it.
#[test]
fn a_checkpoint_found_damaged_while_training_disturbs_nobody_and_is_given_up() {
    let mut net = Net::training(&["a", "b"], &[]);
    for _ in 0..2 {
        net.steps(10);
        net.write_part("a");
        net.write_part("b");
    }
    assert_eq!(net.machine.status().checkpoint_step, 20);
    let folder = net.committed()[1].folder.clone();
    let reason = "a flipped bit".to_owned();
    net.deliver(Event::CheckpointDamaged(Damaged { folder, reason }));
    assert_eq!(
        (net.phase().as_str(), net.generations().len()),
        ("training", 1)
    );
    assert_eq!(net.machine.status().checkpoint_step, 10);
}

#[test]
fn a_run_of_damaged_checkpoints_fails_and_names_them_instead_of_starting_over() {
    let mut net = loading_from_20();
    let all = [damaged(&net, 1), damaged(&net, 0)];
    for body in all {
        net.report("c", body);
    }
    let Some(End::Failed { kind, message }) = &net.end else {
        panic!("{:?}", net.end)
    };
    assert_eq!(*kind, ErrorKind::Data);
    for checkpoint in net.committed() {
        assert!(message.contains(&checkpoint.folder), "{message}");
    }
    assert!(message.contains("--fresh"), "{message}");
}

/// Completed by a coordinator that had been replaced and did not know it.
#[test]
fn a_checkpoint_that_nobody_told_of_is_found_before_a_run_fails() {
    let mut net = loading_from_20();
    let all = [damaged(&net, 1), damaged(&net, 0)];
    let older = Committed {
        state: held(5),
        folder: "checkpoints/unheard-of".to_owned(),
        ..net.committed()[0].clone()
    };
    net.unknown.push(older.clone());
    for body in all {
        net.report("c", body);
    }
    assert_eq!(net.end, None);
    let origin = &net.last_generation().origin;
    assert_eq!(*origin, RecordedOrigin::Checkpoint(older.manifest_key()));
}

#[test]
fn a_part_of_an_older_generation_does_no_harm() {
    let mut net = Net::training(&["a", "b"], &[]);
    net.steps(10);
    let part = |generation, part| {
        let held = state(10);
        let folder = keys::checkpoint(Generation(generation), Step(10), &held.digest);
        Body::PartWritten(v1::PartWritten {
            step: 10,
            digest: held.digest,
            part,
            parts: 2,
            key: keys::checkpoint_part(&folder, part, 2),
            bytes: 10,
            blake3: "b".into(),
        })
    };
    net.report_in("a", TERM, 1, part(1, 0));
    net.link_lost("a", 1);
    assert_eq!(net.last_generation().resume, held(10));
    // Written behind the fence's back, and told then.
    net.report_in("b", TERM, 1, part(1, 1));
    net.report_in("b", TERM, 2, part(2, 1));
    assert_eq!(
        net.committed(),
        [],
        "parts of two generations make no checkpoint"
    );
    net.report_in("b", TERM, 2, part(1, 1));
    net.report_in("a", TERM, 2, part(2, 0));
    let generations: Vec<_> = net.committed().iter().map(|c| c.generation).collect();
    assert_eq!(generations, [Generation(2)]);
    let folder = keys::checkpoint(Generation(2), Step(10), &state(10).digest);
    let parts = &net.manifests[0].parts;
    assert!(
        parts.iter().all(|part| part.key.starts_with(&folder)),
        "{parts:?}"
    );
}
