//! Whom a rank accuses when its neighbours say different things.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::sync::Mutex;
use std::thread;

use common::{LATE, OPEN, RawPeer, credentials, dial, listen, membership, on_broken, options};
use ringmaster_ring::frame::{HEADER_BYTES, Kind, Stamp, leave};
use ringmaster_ring::{Abort, Ring, RingError, Tag};

/// Half of the first frame that the ring's sum asks for.
fn half_a_frame() -> Vec<u8> {
    let stamp = Stamp {
        kind: Kind::F32,
        step: 0,
        bucket: 0,
        hop: 0,
        segment: 0,
    };
    let mut frame = vec![0; HEADER_BYTES + 400];
    common::seal(&mut frame, stamp);
    frame.truncate(HEADER_BYTES + 200);
    frame
}

/// Rank 3 of 5 has died. Rank 4 was in the middle of a frame to rank 0 when it heard of that, so it
/// could only hang up; the news comes the other way around.
#[test]
fn a_predecessor_that_hangs_up_in_a_frame_is_not_accused_of_what_another_did() {
    let [options] = OPEN.map(|transport| options(transport, 2 * LATE));
    for _ in 0..50 {
        let (listener, successor) = (listen(), RawPeer::new(1));
        let mut addrs = vec![listener.local_addr(); 5];
        addrs[1] = successor.address();
        thread::scope(|scope| {
            let before = scope.spawn(|| dial(addrs[0], &credentials(1, 4, 0)).unwrap());
            let after = scope.spawn(|| successor.accept(0, 1));
            let (member, abort) = (membership(&addrs, 1, 0), Abort::new());
            let mut ring = Ring::form(&listener, member, options.clone(), &abort).unwrap();
            let (mut before, mut after) = (before.join().unwrap(), after.join().unwrap());
            let sum = scope.spawn(|| {
                let error = ring
                    .all_reduce_f32(Tag::default(), &mut [1.0; 100])
                    .unwrap_err();
                (error, ring)
            });
            before.write_all(&half_a_frame()).unwrap();
            drop(before);
            after.write_all(&leave(1, Some(3))).unwrap();
            let (error, _ring) = sum.join().unwrap();
            assert!(
                matches!(error, RingError::PeerLost { rank: 3, .. }),
                "{error}"
            );
        });
    }
}

/// Without such news the accusation stands, and it is not long in coming.
#[test]
fn a_predecessor_that_hangs_up_and_nobody_explains_is_accused() {
    let [mut options] = OPEN.map(|transport| options(transport, 2 * LATE));
    let broken = Mutex::new(on_broken(&mut options));
    let (listener, successor) = (listen(), RawPeer::new(1));
    let mut addrs = vec![listener.local_addr(); 5];
    addrs[1] = successor.address();
    thread::scope(|scope| {
        let before = scope.spawn(|| dial(addrs[0], &credentials(1, 4, 0)).unwrap());
        let after = scope.spawn(|| successor.accept(0, 1));
        let (member, abort) = (membership(&addrs, 1, 0), Abort::new());
        let mut ring = Ring::form(&listener, member, options, &abort).unwrap();
        let (mut before, _after) = (before.join().unwrap(), after.join().unwrap());
        before.write_all(&half_a_frame()).unwrap();
        drop(before);
        let error = ring
            .all_reduce_f32(Tag::default(), &mut [1.0; 100])
            .unwrap_err();
        assert!(
            matches!(error, RingError::PeerLost { rank: 4, .. }),
            "{error}"
        );
        assert_eq!(broken.lock().unwrap().recv_timeout(LATE), Ok(error));
    });
}
