//! Who gets into a ring, who does not, and what forming leaves behind.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use common::{addresses, credentials, dial, drain, intrude, listen, membership};
use ringmaster_ring::handshake::{Credentials, PROOF_BYTES, REPLY_BYTES};
use ringmaster_ring::{Abort, Options, Ring, RingError, Tag};

/// Forms the rest of a ring whose rank 0 is being disturbed, and uses it.
fn forms_and_works(disturb: impl Fn(SocketAddr)) {
    let listeners = [listen(), listen(), listen()];
    let addrs = addresses(&listeners);
    thread::scope(|scope| {
        let rank = |rank: usize| {
            let (listener, member) = (&listeners[rank], membership(&addrs, 4, rank));
            scope.spawn(move || {
                let mut ring =
                    Ring::form(listener, member, Options::default(), &Abort::new()).unwrap();
                let mut values = [1, 2, 3];
                ring.all_reduce_i64(Tag::default(), &mut values).unwrap();
                assert_eq!(values, [3, 6, 9]);
            })
        };
        let disturbed = rank(0);
        disturb(addrs[0]);
        let others = [rank(1), rank(2)];
        disturbed.join().unwrap();
        others.into_iter().for_each(|rank| rank.join().unwrap());
    });
}

#[test]
fn garbage_does_not_disturb_forming() {
    forms_and_works(|address| {
        let refused = drain(intrude(address, &[b'x'; 100]));
        assert_eq!(refused, [5], "refused, and told only that");
    });
}

#[test]
fn strangers_that_say_nothing_do_not_keep_the_predecessor_out() {
    let held = Mutex::new(Vec::new());
    forms_and_works(|address| {
        // More than may be in their handshake at a time.
        held.lock()
            .unwrap()
            .extend((0..12).map(|_| intrude(address, b"RM")));
    });
}

#[test]
fn a_wrong_secret_run_generation_or_rank_is_refused() {
    let right = || credentials(4, 2, 0);
    let secret = Credentials {
        secret: [8; 32],
        ..right()
    };
    let run = Credentials {
        run: "other".to_owned(),
        ..right()
    };
    for (stranger, reason) in [
        (secret, "secret"),
        (run, "secret"),
        (
            Credentials {
                generation: 3,
                ..right()
            },
            "another generation",
        ),
        (
            Credentials {
                generation: 5,
                ..right()
            },
            "another generation",
        ),
        (Credentials { from: 1, ..right() }, "predecessor"),
        (Credentials { to: 1, ..right() }, "predecessor"),
    ] {
        forms_and_works(|address| {
            let refusal = dial(address, &stranger).unwrap_err();
            assert!(refusal.contains(reason), "{refusal}");
        });
    }
}

#[test]
fn a_hello_without_the_secret_proves_nothing() {
    forms_and_works(|address| {
        // A correct Hello is no secret; what must be right is the answer to the challenge.
        let mut hello = [b"RMRH".as_slice(), &[2, 0, 0, 0], &4_u64.to_le_bytes()].concat();
        hello.extend([2_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat());
        hello.extend([9; 16 + 32]);
        hello.extend([0; PROOF_BYTES]);
        let reply = drain(intrude(address, &hello));
        assert_eq!(reply.len(), REPLY_BYTES + 1);
        assert_eq!((reply[0], reply[REPLY_BYTES]), (1, 4));
    });
}

#[test]
fn a_rank_that_misses_a_neighbour_says_which() {
    let listeners = [listen(), listen(), listen()];
    let addrs = addresses(&listeners);
    let options = Options {
        connect: Duration::from_millis(300),
        ..Options::default()
    };
    // Rank 2 never forms: rank 1 waits for it as successor, rank 0 as predecessor.
    thread::scope(|scope| {
        let form = |rank: usize| {
            let (listener, member) = (&listeners[rank], membership(&addrs, 1, rank));
            let options = options.clone();
            scope.spawn(move || Ring::form(listener, member, options, &Abort::new()).unwrap_err())
        };
        for error in [form(0), form(1)].map(|rank| rank.join().unwrap()) {
            assert!(matches!(error, RingError::Timeout { .. }), "{error}");
            assert_eq!(error.accused(), Some(2), "{error}");
        }
    });
}
