//! What happens when a rank dies, stalls, lies, leaves or is aborted.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use common::{RawPeer, SECRET, addresses, listen, membership, on_ring, seal};
use ringmaster_ring::frame::{HEADER_BYTES, Kind, PAYLOAD_MAX, Stamp, heartbeat, leave};
use ringmaster_ring::{Abort, Membership, Options, Ring, RingError, Tag};

/// No test waits this long unless it fails.
const LATE: Duration = Duration::from_secs(60);

/// Options whose `on_broken` ends up in the channel.
fn watched(silence: Duration) -> (Options, Receiver<RingError>) {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    let on_broken = move |error| sender.lock().unwrap().send(error).unwrap();
    let options = Options {
        silence,
        on_broken: Some(Arc::new(on_broken)),
        ..Options::default()
    };
    (options, receiver)
}

/// A real rank 0 of a world of two, whose only peer is a [`RawPeer`]; `body` gets that peer's links.
fn against_raw_peer<T>(options: Options, body: impl FnOnce(Ring, TcpStream, TcpStream) -> T) -> T {
    against_raw_peer_with(&Abort::new(), options, body)
}

fn against_raw_peer_with<T>(
    abort: &Abort,
    options: Options,
    body: impl FnOnce(Ring, TcpStream, TcpStream) -> T,
) -> T {
    let (listener, peer) = (listen(), RawPeer::new(1));
    let addrs = [listener.local_addr(), peer.address()];
    thread::scope(|scope| {
        let links = scope.spawn(|| peer.join(&addrs, 1));
        let member = membership(&addrs, 1, 0);
        let ring = Ring::form(&listener, member, options, abort).unwrap();
        let (to_us, from_us) = links.join().unwrap();
        body(ring, to_us, from_us)
    })
}

fn stamp() -> Stamp {
    Stamp {
        kind: Kind::F32,
        step: 0,
        bucket: 0,
        hop: 0,
        segment: 0,
    }
}

fn sum(ring: &mut Ring, elements: usize) -> Result<(), RingError> {
    ring.all_reduce_f32(Tag::default(), &mut vec![1.0; elements])
}

#[test]
fn an_abort_unwinds_a_pending_all_reduce_on_every_rank() {
    let world = 4;
    let (sender, tokens) = mpsc::channel();
    let (sender, returned) = (Mutex::new(sender), Barrier::new(world));
    let ends = thread::scope(|scope| {
        // Only the ranks inside the collective are aborted, rank 1 as the first.
        scope.spawn(move || {
            let mut tokens: Vec<(usize, Abort)> = tokens.iter().take(world - 1).collect();
            tokens.sort_by_key(|(rank, _)| *rank);
            for (_, token) in tokens {
                token.abort("fenced");
            }
        });
        on_ring(world, &Options::default(), |formed, abort| {
            let mut ring = formed.unwrap();
            // Rank 0 never joins in and keeps its ring, so nothing else ends the others' wait.
            let end = (ring.rank() != 0).then(|| {
                sender.lock().unwrap().send((ring.rank(), abort)).unwrap();
                (
                    sum(&mut ring, 3_000_000).unwrap_err(),
                    sum(&mut ring, 1).unwrap_err(),
                )
            });
            returned.wait();
            (ring.rank(), end)
        })
    });
    for (rank, (first, later)) in ends
        .into_iter()
        .filter_map(|(rank, end)| Some((rank, end?)))
    {
        let aborted = RingError::Aborted {
            reason: "fenced".to_owned(),
        };
        // A neighbour's abort may arrive before a rank's own, except at the first.
        let known =
            |e: &RingError| *e == aborted || (rank != 1 && matches!(e, RingError::Left { .. }));
        assert!(
            known(&first) && known(&later),
            "rank {rank}: {first:?}, {later:?}"
        );
    }
}

#[test]
fn an_abort_alone_ends_a_wait_for_a_live_peer() {
    let abort = Abort::new();
    let (inside, entered) = mpsc::channel();
    against_raw_peer_with(
        &abort,
        Options::default(),
        |mut ring, _to_us, mut from_us| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    // The first frame of the collective shows that the rank is inside.
                    from_us.read_exact(&mut [0; HEADER_BYTES + 200]).unwrap();
                    inside.send(()).unwrap();
                    abort.abort("fenced");
                });
                let error = sum(&mut ring, 100).unwrap_err();
                entered.recv().unwrap();
                let aborted = RingError::Aborted {
                    reason: "fenced".to_owned(),
                };
                assert_eq!(error, aborted);
            });
        },
    );
}

#[test]
fn dropping_a_ring_says_goodbye_and_does_not_wait_for_the_predecessor() {
    let options = Options {
        silence: LATE,
        ..Options::default()
    };
    against_raw_peer(options, |ring, to_us, from_us| {
        thread::scope(|scope| {
            let last = scope.spawn(|| common::drain(from_us));
            drop(ring);
            let bytes = last.join().unwrap();
            assert!(bytes.ends_with(&leave(1, None)));
        });
        // Only now would the keeper hear that its predecessor is gone.
        drop(to_us);
    });
}

#[test]
fn an_abort_ends_forming() {
    let (listener, absent) = (listen(), RawPeer::new(1));
    let member = membership(&[listener.local_addr(), absent.address()], 1, 0);
    let abort = Abort::new();
    let options = Options {
        connect: LATE,
        ..Options::default()
    };
    thread::scope(|scope| {
        let forming = scope.spawn(|| Ring::form(&listener, member, options, &abort));
        // The dialled connection shows that forming is under way.
        let (_held, _) = absent.listener.accept().unwrap();
        abort.abort("stopped");
        let error = forming.join().unwrap().unwrap_err();
        assert_eq!(
            error,
            RingError::Aborted {
                reason: "stopped".to_owned()
            }
        );
    });
}

#[test]
fn an_aborted_world_of_one_computes_nothing_more() {
    on_ring(1, &Options::default(), |formed, abort| {
        let mut ring = formed.unwrap();
        abort.abort("stopped");
        assert!(matches!(sum(&mut ring, 1), Err(RingError::Aborted { .. })));
        assert!(matches!(ring.health(), Some(RingError::Aborted { .. })));
    });
}

#[test]
fn a_killed_rank_is_the_one_all_others_accuse() {
    let world = 5;
    let victim = RawPeer::new(2);
    let listeners: Vec<_> = (0..world - 1).map(|_| listen()).collect();
    let mut addrs = addresses(&listeners);
    addrs.insert(victim.rank, victim.address());
    let (options, broken) = watched(LATE);
    thread::scope(|scope| {
        let ranks: Vec<_> = [0, 1, 3, 4]
            .into_iter()
            .zip(&listeners)
            .map(|(rank, listener)| {
                let (member, options) = (membership(&addrs, 1, rank), options.clone());
                scope.spawn(move || {
                    let mut ring = Ring::form(listener, member, options, &Abort::new()).unwrap();
                    // The idle rank 4 learns of it without being in a collective.
                    let call = (rank != 4).then(|| sum(&mut ring, 1_000_000).unwrap_err());
                    while ring.health().is_none() {
                        thread::yield_now();
                    }
                    (call.or(ring.health()).unwrap(), ring)
                })
            })
            .collect();
        // Closing sockets is all that the system does for a killed process.
        drop(victim.join(&addrs, 1));
        // The rings stay until everybody has judged: no farewell of a drop hides a fault.
        let ends: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        for (error, ring) in &ends {
            assert_eq!(error.accused(), Some(2), "rank {}: {error}", ring.rank());
            assert!(matches!(error, RingError::PeerLost { .. }), "{error}");
        }
    });
    drop(options);
    let reports: Vec<_> = broken.iter().collect();
    assert_eq!(
        reports.len(),
        world - 1,
        "each rank reports once: {reports:?}"
    );
    assert!(
        reports.iter().all(|error| error.accused() == Some(2)),
        "{reports:?}"
    );
}

#[test]
fn a_rank_that_stops_after_the_handshake_is_silent() {
    let (options, broken) = watched(Duration::from_millis(700));
    against_raw_peer(options, |mut ring, mut to_us, mut from_us| {
        // Its first bytes end the grace that a forming peer has.
        to_us.write_all(&heartbeat(1)).unwrap();
        from_us.write_all(&heartbeat(1)).unwrap();
        let error = broken.recv_timeout(LATE).unwrap();
        assert!(matches!(error, RingError::Silent { rank: 1, seconds } if seconds >= 0.7));
        assert_eq!(ring.health(), Some(error.clone()));
        assert_eq!(sum(&mut ring, 1).unwrap_err(), error);
    });
}

#[test]
fn a_peer_that_computes_for_long_is_not_silent() {
    let options = Options {
        silence: Duration::from_millis(500),
        ..Options::default()
    };
    on_ring(2, &options, |formed, _| {
        let mut ring = formed.unwrap();
        if ring.rank() == 1 {
            // Three times the silence that would be fatal, spent away from the ring: by then six of
            // its peer's heartbeats have come back, and perhaps a header and a heartbeat forward.
            let beats = 3 * options.silence.as_millis() / 250 + 2;
            let away = ring.bytes_received() + (beats as usize * HEADER_BYTES) as u64;
            while ring.bytes_received() < away {
                assert_eq!(ring.health(), None);
                thread::yield_now();
            }
        }
        sum(&mut ring, 5_000_000).unwrap();
    });
}

#[test]
fn a_frame_with_an_impossible_length_is_refused() {
    let (options, broken) = watched(LATE);
    against_raw_peer(options, |mut ring, mut to_us, _from_us| {
        let mut frame = [0; HEADER_BYTES];
        seal(&mut frame, stamp());
        frame[36..40].copy_from_slice(&u32::MAX.to_le_bytes());
        to_us.write_all(&frame).unwrap();
        let error = broken.recv_timeout(LATE).unwrap();
        assert!(
            matches!(&error, RingError::Protocol { rank: 1, .. }),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains(&format!("at most {PAYLOAD_MAX}")),
            "{error}"
        );
        assert_eq!(sum(&mut ring, 1).unwrap_err(), error);
    });
}

#[test]
fn a_frame_shorter_than_the_plan_says_is_refused() {
    against_raw_peer(Options::default(), |mut ring, mut to_us, _from_us| {
        let mut frame = [0; HEADER_BYTES + 8];
        seal(&mut frame, stamp());
        to_us.write_all(&frame).unwrap();
        let error = sum(&mut ring, 100).unwrap_err();
        assert_eq!(error.accused(), Some(1));
        assert!(error.to_string().contains("expected 400 bytes"), "{error}");
    });
}

#[test]
fn a_damaged_frame_never_enters_a_sum() {
    against_raw_peer(Options::default(), |mut ring, mut to_us, _from_us| {
        let mut frame = [0; HEADER_BYTES + 400];
        seal(&mut frame, stamp());
        frame[HEADER_BYTES + 17] ^= 4;
        to_us.write_all(&frame).unwrap();
        let error = sum(&mut ring, 100).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
    });
}

#[test]
fn a_slow_link_is_told_from_a_peer_that_comes_late() {
    const PAUSE: Duration = Duration::from_millis(200);
    const BYTES: usize = 1000;
    against_raw_peer(Options::default(), |mut ring, mut to_us, _from_us| {
        let mut receive = |step: u64, early: usize| {
            let kind = Kind::Broadcast;
            let mut frame = [7; HEADER_BYTES + BYTES];
            seal(
                &mut frame,
                Stamp {
                    kind,
                    step,
                    bucket: 0,
                    hop: 1,
                    segment: 0,
                },
            );
            let before = ring.arriving();
            thread::scope(|scope| {
                let to_us = &mut to_us;
                scope.spawn(move || {
                    to_us.write_all(&frame[..early]).unwrap();
                    // The time is what is measured.
                    thread::sleep(PAUSE);
                    to_us.write_all(&frame[early..]).unwrap();
                });
                let mut bytes = [0; BYTES];
                ring.broadcast(Tag::new(step, 0), 1, &mut bytes).unwrap();
                assert_eq!(bytes, [7; BYTES]);
            });
            ring.arriving() - before
        };
        let (late, slow) = (receive(1, 0), receive(2, HEADER_BYTES + BYTES / 2));
        assert!(slow >= PAUSE / 2 && late < slow, "{late:?} {slow:?}");
    });
}

#[test]
fn a_frame_of_another_generation_breaks_the_link() {
    let (options, broken) = watched(LATE);
    against_raw_peer(options, |_ring, mut to_us, _from_us| {
        to_us.write_all(&heartbeat(2)).unwrap();
        let error = broken.recv_timeout(LATE).unwrap();
        assert!(error.to_string().contains("generation 2"), "{error}");
    });
}

#[test]
fn a_peer_that_leaves_on_purpose_is_not_accused() {
    let (options, broken) = watched(LATE);
    against_raw_peer(options, |mut ring, mut to_us, mut from_us| {
        to_us.write_all(&leave(1, None)).unwrap();
        from_us.write_all(&leave(1, None)).unwrap();
        drop((to_us, from_us));
        assert_eq!(
            sum(&mut ring, 1_000_000).unwrap_err(),
            RingError::Left { rank: 1 }
        );
        drop(ring);
    });
    assert_eq!(broken.iter().count(), 0);
}

#[test]
fn a_rank_may_leave_as_soon_as_it_has_its_own_result() {
    let (options, broken) = watched(LATE);
    for _ in 0..20 {
        on_ring(3, &options, |formed, _| {
            let mut ring = formed.unwrap();
            let mut values = vec![1.0; 300_000];
            ring.all_reduce_f32(Tag::default(), &mut values).unwrap();
            assert!(values.iter().all(|value| *value == 3.0));
        });
    }
    drop(options);
    assert_eq!(broken.iter().count(), 0);
}

#[test]
fn a_membership_that_makes_no_sense_is_refused_at_once() {
    let listener = listen();
    let member = |rank, world: usize| Membership {
        run: String::new(),
        generation: 1,
        rank,
        addrs: vec![listener.local_addr(); world],
        secret: SECRET,
    };
    for (rank, world) in [(0, 0), (1, 1), (5, 2)] {
        let formed = Ring::form(
            &listener,
            member(rank, world),
            Options::default(),
            &Abort::new(),
        );
        assert!(
            matches!(formed, Err(RingError::Invalid { .. })),
            "rank {rank} of {world}"
        );
    }
    let mut alone = Ring::form(&listener, member(0, 1), Options::default(), &Abort::new()).unwrap();
    let unequal = alone.all_reduce_exact(Tag::default(), &mut [0; 2], &mut [0.0; 3], 1.0);
    assert!(matches!(unequal, Err(RingError::Invalid { .. })));
    assert!(matches!(
        alone.broadcast(Tag::default(), 1, &mut []),
        Err(RingError::Invalid { .. })
    ));
}
