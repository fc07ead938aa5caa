//! What a ring costs while nothing happens: alone in its process, because it looks at its threads.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use common::{RawPeer, listen, membership};
use ringmaster_ring::frame::leave;
use ringmaster_ring::{Abort, Options, Ring, RingError};

/// Processor time of the thread that keeps the only ring, in ticks of 10 ms.
fn keeper_ticks() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let mut stats = tasks.map(|task| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        let (name, rest) = stat.rsplit_once(") ").unwrap();
        (name.ends_with("(ring-keeper"), rest.to_owned())
    });
    let (_, stat) = stats.find(|(keeps, _)| *keeps).unwrap();
    let fields: Vec<&str> = stat.split(' ').collect();
    // utime and stime; the first of these fields is the third of the file.
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_ring_whose_peer_has_left_does_not_keep_a_core_busy() {
    let (listener, peer) = (listen(), RawPeer::new(1));
    let addrs = [listener.local_addr(), peer.address()];
    let member = membership(&addrs, 1, 0);
    let (ring, (mut to_us, mut from_us)) = thread::scope(|scope| {
        let links = scope.spawn(|| peer.join(&addrs, 1));
        let ring = Ring::form(&listener, member, Options::default(), &Abort::new());
        (ring.unwrap(), links.join().unwrap())
    });
    to_us.write_all(&leave(1, None)).unwrap();
    from_us.write_all(&leave(1, None)).unwrap();
    drop((to_us, from_us));
    while ring.health().is_none() {
        thread::yield_now();
    }
    assert_eq!(ring.health(), Some(RingError::Left { rank: 1 }));
    // One that spins takes all of this time, or what a busy machine gives it; the other takes none.
    let (before, started) = (keeper_ticks(), Instant::now());
    thread::sleep(Duration::from_secs(1));
    let (spent, waited) = (keeper_ticks() - before, started.elapsed());
    assert!(
        spent * 10 < waited.as_millis() as u64 / 10,
        "{} ms of {waited:?}",
        spent * 10
    );
}
