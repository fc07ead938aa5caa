//! What rings leave behind: alone in its process, because it counts what the process holds.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Barrier;

use common::{listen, on_listeners};
use ringmaster_ring::{Options, Tag};

#[test]
fn a_listener_serves_generation_after_generation_and_leaks_nothing() {
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/self/{what}"))
            .unwrap()
            .count()
    };
    let counts = || (count("task"), count("fd"));
    let listeners = [listen(), listen(), listen()];
    let done = Barrier::new(listeners.len());
    let form_and_drop = |generation: u64| {
        on_listeners(
            &listeners,
            generation,
            &Options::default(),
            |formed, abort| {
                let mut ring = formed.unwrap();
                ring.barrier(Tag::new(generation, 0)).unwrap();
                // An abort delivers nothing more, so it waits until the others passed the barrier.
                if done.wait().is_leader() {
                    abort.abort("fenced");
                }
            },
        );
    };
    form_and_drop(1);
    let before = counts();
    (2..=201).for_each(form_and_drop);
    let after = counts();
    assert_eq!(after, before, "(threads, descriptors)");
}
