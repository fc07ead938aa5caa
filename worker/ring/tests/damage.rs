//! Bits that flip between two ranks: none of them ever enters a sum.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/proxy.rs"]
mod proxy;

use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{LATE, MARGIN, OPEN, addresses, listen, on_addresses, on_broken, options};
use proptest::prelude::*;
use proxy::{Flip, Proxy, Way};
use ringmaster_ring::frame::HEADER_BYTES;
use ringmaster_ring::handshake::{HELLO_BYTES, PROOF_BYTES, REPLY_BYTES};
use ringmaster_ring::{Abort, Options, Ring, RingError, Tag};

/// Bytes of a handshake before the frames of the same direction.
fn handshake(way: Way) -> usize {
    match way {
        Way::Forward => HELLO_BYTES + PROOF_BYTES,
        Way::Back => REPLY_BYTES + 1,
    }
}

/// A bit so many bits after the handshake.
fn in_frames(way: Way, bit: usize) -> Flip {
    Flip {
        way,
        byte: handshake(way) + bit / 8,
        bit: bit % 8,
    }
}

/// Two ranks with this damage on the link from rank 0 to rank 1, and what becomes of each.
fn on_damaged<T: Send>(
    options: &Options,
    flip: Flip,
    body: impl Fn(Result<Ring, RingError>, Abort) -> T + Sync,
) -> Vec<T> {
    let listeners = [listen(), listen()];
    let mut addrs = addresses(&listeners);
    let proxy = Proxy::new(addrs[1], Some(flip));
    addrs[1] = proxy.address();
    let options = vec![options.clone(); 2];
    let ends = on_addresses(&listeners, &addrs, 1, options, body);
    assert!(proxy.has_flipped(), "{flip:?} hit nothing");
    ends
}

/// Sums so many elements until that fails: how many sums were wrong before, and the error.
fn until_broken((ring, abort): (&mut Ring, &Abort), elements: usize) -> (usize, RingError) {
    let value = |rank: usize, index: usize| ((rank + 1) * (index % 97 + 1)) as f32;
    let mut wrong = 0;
    for step in 0.. {
        let rank = ring.rank();
        let mut values: Vec<_> = (0..elements).map(|index| value(rank, index)).collect();
        if let Err(error) = ring.all_reduce_f32(Tag::new(step, 0), &mut values) {
            return (wrong, error);
        }
        let right = |(index, found): (usize, &f32)| *found == value(0, index) + value(1, index);
        if !values.iter().enumerate().all(right) {
            wrong += 1;
            abort.abort("a sum is wrong");
        }
    }
    unreachable!()
}

/// Flips one bit of the frames while both ranks sum, and checks who finds it.
fn flip_while_summing(flip: Flip, elements: usize) {
    for transport in OPEN {
        let ended = Barrier::new(2);
        // A silence that plays no part: the bytes themselves show the damage.
        let ends = on_damaged(&options(transport, 2 * LATE), flip, |formed, abort| {
            let (mut ring, started) = (formed.unwrap(), Instant::now());
            let (wrong, error) = until_broken((&mut ring, &abort), elements);
            let waited = started.elapsed();
            // No rank's goodbye comes before the other's judgement.
            ended.wait();
            assert!(waited < MARGIN, "{flip:?}: {error}");
            assert_eq!(wrong, 0, "{flip:?}: sums that took damage");
            error
        });
        let (finder, sender) = match flip.way {
            Way::Forward => (1, 0),
            Way::Back => (0, 1),
        };
        let found = &ends[finder];
        assert!(
            matches!(found, RingError::Protocol { rank, .. } if *rank == sender),
            "{flip:?}, {elements} elements: {found}"
        );
        // The sender hears what is said about it.
        assert_eq!(
            ends[sender].accused(),
            Some(sender),
            "{flip:?}: {}",
            ends[sender]
        );
    }
}

#[test]
fn every_bit_of_a_header_and_of_a_control_frame_is_guarded() {
    for way in [Way::Forward, Way::Back] {
        // The first frame forward is of a sum, the first one back a heartbeat.
        (0..HEADER_BYTES * 8).for_each(|bit| flip_while_summing(in_frames(way, bit), 100));
    }
}

proptest! {
    // A position is as plain as any other: a failure is not made smaller.
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 0,
        ..ProptestConfig::with_cases(100)
    })]

    #[test]
    fn a_flipped_bit_never_enters_a_sum(
        (elements, bytes) in prop_oneof![
            // A few frames that are exchanged whole, and a few segments of a larger sum.
            (1_usize..200).prop_map(|elements| (elements, 3 * (HEADER_BYTES + 4 * elements))),
            (5_000_usize..300_000).prop_map(|elements| (elements, 3 * 4 * elements)),
        ],
        bit in 0_usize..1 << 40,
    ) {
        flip_while_summing(in_frames(Way::Forward, bit % (8 * bytes)), elements);
    }
}

#[test]
fn heartbeats_of_an_idle_rank_are_guarded() {
    // Some of each field, and at once: the first heartbeat forward takes its time. Bits 40 to 47
    // can make it a frame of data, which waits until its receiver sums.
    let bits = [0, 35, 51, 70, 130, 200, 230, 260, 300, 330, 351];
    let [options] = OPEN.map(|transport| options(transport, 2 * LATE));
    thread::scope(|scope| {
        for bit in bits {
            let mut options = options.clone();
            scope.spawn(move || {
                let broken = Mutex::new(on_broken(&mut options));
                let ended = Barrier::new(2);
                let ends = on_damaged(&options, in_frames(Way::Forward, bit), |formed, _| {
                    let ring = formed.unwrap();
                    if ring.rank() == 1 {
                        // The first of the two to be told is the one that finds it.
                        broken.lock().unwrap().recv_timeout(MARGIN).ok();
                    }
                    let end = (ring.rank() == 1).then(|| ring.health());
                    ended.wait();
                    end
                });
                let found = &ends[1];
                let expected = matches!(found, Some(Some(RingError::Protocol { rank: 0, .. })));
                assert!(expected, "bit {bit}: {found:?}");
            });
        }
    });
}

#[test]
fn a_heartbeat_that_became_data_is_found_by_the_next_sum() {
    let flip = in_frames(Way::Forward, 42);
    for transport in OPEN {
        let (idle, ended) = (Barrier::new(2), Barrier::new(2));
        let ends = on_damaged(&options(transport, 2 * LATE), flip, |formed, abort| {
            let mut ring = formed.unwrap();
            // Two heartbeats back, so that one has gone forward as well.
            while ring.rank() == 0 && ring.bytes_received() < 3 * HEADER_BYTES as u64 {
                thread::yield_now();
            }
            idle.wait();
            let (_, error) = until_broken((&mut ring, &abort), 100);
            ended.wait();
            error
        });
        assert!(
            matches!(ends[1], RingError::Protocol { rank: 0, .. }),
            "{}",
            ends[1]
        );
    }
}

#[test]
fn a_bit_flipped_in_a_handshake_costs_an_attempt_and_no_ring() {
    let ways = [Way::Forward, Way::Back];
    let bytes = ways
        .iter()
        .flat_map(|way| (0..handshake(*way)).map(|byte| (*way, byte)));
    // The acceptor's last byte is another matter: its sender is done by then.
    let bytes = bytes.filter(|(way, byte)| (*way, byte + 1) != (Way::Back, handshake(Way::Back)));
    let flips: Vec<_> = bytes
        .enumerate()
        .map(|(at, (way, byte))| Flip {
            way,
            byte,
            bit: at % 8,
        })
        .collect();
    // Each attempt waits a little for the next one, so a few run at a time.
    thread::scope(|scope| {
        for flips in flips.chunks(flips.len().div_ceil(8)) {
            scope.spawn(|| flips.iter().for_each(|flip| forms_all_the_same(*flip)));
        }
    });
}

fn forms_all_the_same(flip: Flip) {
    for transport in OPEN {
        on_damaged(&options(transport, 2 * LATE), flip, |formed, _| {
            let (mut ring, mut values) = (formed.unwrap(), [1.0; 100]);
            ring.all_reduce_f32(Tag::default(), &mut values).unwrap();
            assert_eq!(values, [2.0; 100], "{flip:?}");
        });
    }
}

#[test]
fn a_damaged_last_byte_of_a_handshake_is_an_error_on_both_ends() {
    for bit in [0, 1, 4] {
        let byte = handshake(Way::Back) - 1;
        let flip = Flip {
            way: Way::Back,
            byte,
            bit,
        };
        for transport in OPEN {
            let mut options = options(transport, 2 * LATE);
            options.connect = Duration::from_secs(1);
            let ends = on_damaged(&options, flip, |formed, abort| match formed {
                Ok(mut ring) => (Some(ring.rank()), until_broken((&mut ring, &abort), 100).1),
                Err(error) => (None, error),
            });
            // The dialler does not believe in its link and says so, and the acceptor loses it.
            let refused = matches!(ends[0], (None, RingError::Refused { rank: 1, .. }));
            let missed = matches!(ends[0], (None, RingError::Timeout { rank: Some(1), .. }));
            assert!(refused || missed, "bit {bit}: {ends:?}");
            assert_eq!(ends[1].0, Some(1), "bit {bit}: {ends:?}");
            assert_eq!(ends[1].1.accused(), Some(0), "bit {bit}: {ends:?}");
        }
    }
}
