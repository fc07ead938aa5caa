//! What a report may hold before anybody looks at its meaning: bounded text, real addresses, hashes
//! that are hashes.

use std::net::SocketAddr;

use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{Held, Hello, StepDone, WorkerReport};

/// Longest text of a worker, in bytes.
const TEXT_MAX: usize = 4096;

/// Most objectives of a run.
const OBJECTIVES_MAX: usize = 64;

/// Refuses text that is too long to log or show.
fn text(what: &str, text: &str) -> Result<(), String> {
    match text.len() {
        0..=TEXT_MAX => Ok(()),
        bytes => Err(format!("{what} has {bytes} bytes, more than {TEXT_MAX}")),
    }
}

fn hash(what: &str, text: &str) -> Result<(), String> {
    let lower_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if text.len() == 64 && text.bytes().all(lower_hex) {
        return Ok(());
    }
    Err(format!("{what} is not a blake3 hash in lower-case hex"))
}

fn held(held: Option<&Held>) -> Result<(), String> {
    held.map_or(Ok(()), |held| hash("a state's digest", &held.digest))
}

fn step_done(done: &StepDone) -> Result<(), String> {
    if done.objectives.len() > OBJECTIVES_MAX {
        let count = done.objectives.len();
        return Err(format!(
            "a step has {count} objectives, more than {OBJECTIVES_MAX}"
        ));
    }
    for objective in &done.objectives {
        text("an objective's name", &objective.name)?;
        if !objective.probability.is_finite() {
            return Err("an objective's probability is not a number".to_owned());
        }
    }
    if done.digest.is_empty() {
        return Ok(());
    }
    hash("a step's digest", &done.digest)
}

fn ring_address(address: &str) -> Result<(), String> {
    match address.parse::<SocketAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("ring address {address:?} is not ip:port")),
    }
}

/// Refuses a hello whose fields cannot be what they are called.
pub(crate) fn hello(hello: &Hello) -> Result<(), String> {
    text("host", &hello.host)?;
    hello.standing.as_ref().map_or(Ok(()), |standing| {
        ring_address(&standing.ring_address)?;
        text("fingerprint", &standing.fingerprint)
    })
}

/// Refuses a report whose fields cannot be what they are called.
pub(crate) fn report(report: &WorkerReport) -> Result<(), String> {
    match &report.body {
        None => Err("it is empty".to_owned()),
        Some(Body::Hello(_)) => Err("hello is said once".to_owned()),
        Some(Body::Prepared(prepared)) => {
            ring_address(&prepared.ring_address)?;
            text("fingerprint", &prepared.fingerprint)?;
            held(prepared.held.as_ref())
        }
        Some(Body::Fenced(fenced)) => held(fenced.held.as_ref()),
        Some(Body::Formed(formed)) => match &formed.held {
            None => Err("formed without a state".to_owned()),
            some => held(some.as_ref()),
        },
        Some(Body::StepDone(done)) => step_done(done),
        Some(Body::LinkLost(lost)) => text("reason", &lost.reason),
        Some(Body::PartWritten(written)) => {
            hash("a part's state digest", &written.digest)?;
            hash("a part's blake3", &written.blake3)?;
            text("a part's key", &written.key)
        }
        Some(Body::CheckpointDamaged(damaged)) => {
            text("a checkpoint's key", &damaged.key)?;
            text("reason", &damaged.reason)
        }
        Some(Body::Draining(draining)) => text("reason", &draining.reason),
        Some(Body::Failed(failed)) => text("message", &failed.message),
        Some(Body::Sample(sample)) => {
            text("question", &sample.question)?;
            text("reference", &sample.reference)?;
            text("answer", &sample.answer)
        }
        Some(Body::Alive(_)) => Ok(()),
    }
}
