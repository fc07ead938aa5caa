//! What rings leave behind: alone in its process, because it counts what the process holds.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use common::{LATE, RawPeer, TRANSPORTS, listen, membership, on_listeners, options};
use ringmaster_ring::{Abort, Ring, RingError, RingListener, Tag, Transport};

/// Generations that are counted.
const GENERATIONS: u64 = 2400;

/// Generations before the count: what the process takes once, it has taken then.
const WARM_UP: u64 = 240;

/// How much resident memory may grow. One page for each generation would be over 9 MiB, and one
/// forgotten ring holds 512 KiB of buffers; what the allocator moves about stays below this.
const GROWTH_MAX_KIB: u64 = 4096;

/// Threads, descriptors and resident KiB of this process.
fn held() -> (usize, usize, u64) {
    let count = |what: &str| {
        let entries = std::fs::read_dir(format!("/proc/self/{what}")).unwrap();
        entries.count()
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.unwrap().trim().strip_suffix(" kB").unwrap();
    (count("task"), count("fd"), words.parse().unwrap())
}

/// A ring that ends in order: the first rank to be done leaves.
fn ends_in_order(listeners: &[RingListener], generation: u64, transport: Transport) {
    on_listeners(
        listeners,
        generation,
        &options(transport, LATE),
        |formed, _| {
            let mut ring = formed.unwrap();
            ring.all_reduce_f32(Tag::new(generation, 0), &mut [1.0; 3000])
                .unwrap();
        },
    );
}

/// A ring that one rank aborts.
fn is_aborted(listeners: &[RingListener], generation: u64, transport: Transport) {
    let done = Barrier::new(listeners.len());
    on_listeners(
        listeners,
        generation,
        &options(transport, LATE),
        |formed, abort| {
            let mut ring = formed.unwrap();
            ring.barrier(Tag::new(generation, 0)).unwrap();
            // An abort delivers nothing more, so it waits until the others passed the barrier.
            if done.wait().is_leader() {
                abort.abort("fenced");
            }
            ring.barrier(Tag::new(generation, 1)).unwrap_err();
        },
    );
}

/// A ring whose peer's connections close in the middle of a sum.
fn loses_a_peer(listeners: &[RingListener], generation: u64, transport: Transport) {
    let (listener, peer) = (&listeners[0], RawPeer::new(1));
    let addrs = [listener.local_addr(), peer.address()];
    thread::scope(|scope| {
        let links = scope.spawn(|| peer.join(&addrs, generation));
        let member = membership(&addrs, generation, 0);
        let ring = Ring::form(listener, member, options(transport, LATE), &Abort::new());
        drop(links.join().unwrap());
        let error = ring.unwrap().barrier(Tag::default()).unwrap_err();
        assert!(
            matches!(error, RingError::PeerLost { rank: 1, .. }),
            "{error}"
        );
    });
}

/// Two ranks that do not know the same secret, until they give up.
fn forms_nothing(listeners: &[RingListener], generation: u64, transport: Transport) {
    let listeners = &listeners[..2];
    let addrs: Vec<SocketAddr> = listeners.iter().map(RingListener::local_addr).collect();
    thread::scope(|scope| {
        for (rank, listener) in listeners.iter().enumerate() {
            let mut member = membership(&addrs, generation, rank);
            member.secret[0] = rank as u8;
            let mut options = options(transport, LATE);
            options.connect = Duration::from_millis(10);
            scope.spawn(move || {
                let error = Ring::form(listener, member, options, &Abort::new()).unwrap_err();
                let refused = matches!(error, RingError::Refused { .. });
                assert!(
                    refused || matches!(error, RingError::Timeout { .. }),
                    "{error}"
                );
            });
        }
    });
}

#[test]
fn a_listener_serves_generation_after_generation_and_leaks_nothing() {
    // The last one takes its time, so it comes less often.
    let quick = [ends_in_order, is_aborted, loses_a_peer];
    let listeners = [listen(), listen(), listen()];
    let run = |generations: std::ops::Range<u64>| {
        for generation in generations {
            let number = generation as usize;
            let transport = TRANSPORTS[number / quick.len() % TRANSPORTS.len()];
            match number % 24 {
                0 => forms_nothing(&listeners, generation, transport),
                _ => quick[number % quick.len()](&listeners, generation, transport),
            }
        }
    };
    run(1..WARM_UP);
    let before = held();
    run(WARM_UP..WARM_UP + GENERATIONS);
    let after = held();
    assert_eq!(
        (after.0, after.1),
        (before.0, before.1),
        "(threads, descriptors)"
    );
    assert!(
        after.2 <= before.2 + GROWTH_MAX_KIB,
        "{} KiB, then {} KiB",
        before.2,
        after.2
    );
}
