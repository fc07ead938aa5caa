//! Connections whose other end has vanished without a word: no byte, no FIN, no RST.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/proxy.rs"]
mod proxy;

use std::sync::mpsc::Receiver;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{LATE, MARGIN, OPEN, addresses, listen, on_addresses, on_broken, options};
use proxy::Proxy;
use ringmaster_ring::frame::HEADER_BYTES;
use ringmaster_ring::{Options, RingError, Tag, Transport};

const SILENCE: Duration = Duration::from_secs(1);

/// What the ranks do when the network goes away.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// More than the buffers between two ranks hold, from all of them.
    Sum,
    /// As much, from rank 0, which has nothing to read meanwhile.
    Copy,
    /// Nothing: each waits for its ring to break.
    Idle,
}

/// Forms a ring whose links to the ranks in `cut` freeze once all have summed, and returns what
/// each rank finds.
fn freeze(world: usize, cut: &[usize], work: Work, transport: Transport) -> Vec<RingError> {
    let listeners: Vec<_> = (0..world).map(|_| listen()).collect();
    let behind = addresses(&listeners);
    let proxies: Vec<_> = behind.iter().map(|to| Proxy::new(*to, None)).collect();
    let addrs: Vec<_> = proxies.iter().map(Proxy::address).collect();
    let (formed, frozen, ended) = (
        Barrier::new(world),
        Barrier::new(world),
        Barrier::new(world),
    );
    let (options, broken): (Vec<_>, Vec<_>) = (0..world).map(|_| watched(transport)).unzip();
    let broken: Vec<_> = broken.into_iter().map(Mutex::new).collect();
    on_addresses(&listeners, &addrs, 1, options, |ring, _| {
        let mut ring = ring.unwrap();
        ring.all_reduce_f32(Tag::new(0, 0), &mut [1.0; 100])
            .unwrap();
        // The sum's frames forward and the first heartbeat back: both links have carried a byte,
        // which ends the grace for peers that may still be forming.
        let greeted = (world - 1) * (HEADER_BYTES + 400) + HEADER_BYTES;
        while ring.bytes_received() < greeted as u64 {
            thread::yield_now();
        }
        if formed.wait().is_leader() {
            cut.iter().for_each(|rank| proxies[*rank].freeze());
        }
        frozen.wait();
        let started = Instant::now();
        let error = match work {
            Work::Sum => until_broken(|tag| ring.all_reduce_f32(tag, &mut vec![1.0; 4_000_000])),
            Work::Copy => until_broken(|tag| ring.broadcast(tag, 0, &mut vec![1; 16_000_000])),
            Work::Idle => broken[ring.rank()]
                .lock()
                .unwrap()
                .recv_timeout(LATE)
                .unwrap(),
        };
        let waited = started.elapsed();
        let health = ring.health();
        // No rank's goodbye comes before the last one's judgement.
        ended.wait();
        assert!(waited < SILENCE + MARGIN, "{waited:?}: {error}");
        assert_eq!(health, Some(error.clone()));
        error
    })
}

fn watched(transport: Transport) -> (Options, Receiver<RingError>) {
    let mut options = options(transport, SILENCE);
    let broken = on_broken(&mut options);
    (options, broken)
}

fn until_broken(mut collective: impl FnMut(Tag) -> Result<(), RingError>) -> RingError {
    let broken = (1..).find_map(|step| collective(Tag::new(step, 0)).err());
    broken.unwrap()
}

fn is_silent(error: &RingError) -> bool {
    matches!(error, RingError::Silent { seconds, .. } if *seconds >= SILENCE.as_secs_f64())
}

fn every_case(check: impl Fn(Work, Transport)) {
    for work in [Work::Sum, Work::Copy, Work::Idle] {
        OPEN.into_iter()
            .for_each(|transport| check(work, transport));
    }
}

#[test]
fn two_ranks_with_a_dead_network_between_them_name_each_other() {
    every_case(|work, transport| {
        let errors = freeze(2, &[0, 1], work, transport);
        for (rank, error) in errors.iter().enumerate() {
            assert_eq!(
                error.accused(),
                Some(1 - rank),
                "{work:?}, rank {rank}: {error}"
            );
            assert!(is_silent(error), "{work:?}, rank {rank}: {error}");
        }
    });
}

#[test]
fn a_host_that_vanishes_is_silent_to_its_neighbours_and_they_to_it() {
    every_case(|work, transport| {
        // Rank 3 of 5: the links to it and to its successor.
        let errors = freeze(5, &[3, 4], work, transport);
        for (rank, error) in errors.iter().enumerate() {
            let what = format!("{work:?}, rank {rank}: {error}");
            let accused = error.accused();
            match rank {
                // It cannot know that it is the one, and hears from nobody else.
                3 => assert!(matches!(accused, Some(2 | 4)) && is_silent(error), "{what}"),
                _ => assert_eq!(accused, Some(3), "{what}"),
            }
        }
        assert!(
            is_silent(&errors[2]) || is_silent(&errors[4]),
            "{work:?}: {errors:?}"
        );
    });
}

#[test]
fn one_dead_link_is_blamed_on_one_of_its_two_ends() {
    every_case(|work, transport| {
        let errors = freeze(3, &[1], work, transport);
        for (rank, error) in errors.iter().enumerate() {
            // Whoever judges first is believed, also by the rank that it accuses.
            assert!(
                matches!(error.accused(), Some(0 | 1)),
                "{work:?}, rank {rank}: {error}"
            );
        }
        assert!(
            is_silent(&errors[0]) || is_silent(&errors[1]),
            "{work:?}: {errors:?}"
        );
    });
}
