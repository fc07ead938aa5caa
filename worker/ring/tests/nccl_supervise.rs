//! What ends a wait for a device: real rings, a pretended communicator.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;

use common::{RawPeer, listen, membership, on_ring};
use ringmaster_ring::frame::leave;
use ringmaster_ring::nccl::supervise::{Communicator, Supervised};
use ringmaster_ring::{Abort, Options, Ring, RingError};

/// Polls that take a wait well beyond the time in which it does not sleep.
const MANY: usize = 40;

type Poll<'a> = Box<dyn FnMut() -> Result<bool, String> + 'a>;

/// What was asked of a communicator.
#[derive(Default)]
struct Calls {
    enqueued: AtomicUsize,
    aborted: AtomicUsize,
    closed: AtomicUsize,
}

impl Calls {
    /// `(aborts, closes)`
    fn ends(&self) -> (usize, usize) {
        let count = |calls: &AtomicUsize| calls.load(Ordering::SeqCst);
        (count(&self.aborted), count(&self.closed))
    }
}

/// A communicator whose library and device are closures.
struct Pretended<'a> {
    calls: &'a Calls,
    settled: Poll<'a>,
    finished: Poll<'a>,
    stops: bool,
}

impl<'a> Pretended<'a> {
    /// Whose library is always ready.
    fn new(calls: &'a Calls, finished: impl FnMut() -> Result<bool, String> + 'a) -> Self {
        Self {
            calls,
            settled: Box::new(|| Ok(true)),
            finished: Box::new(finished),
            stops: true,
        }
    }

    fn take(&mut self) -> Result<(), String> {
        self.calls.enqueued.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl Communicator for Pretended<'_> {
    fn settled(&mut self) -> Result<bool, String> {
        (self.settled)()
    }

    fn finished(&mut self) -> Result<bool, String> {
        (self.finished)()
    }

    fn abort(&mut self) -> Result<(), String> {
        self.calls.aborted.fetch_add(1, Ordering::SeqCst);
        match self.stops {
            true => Ok(()),
            false => Err("ncclCommAbort takes longer than 10s".to_owned()),
        }
    }

    fn close(&mut self) -> Result<(), String> {
        self.calls.closed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// A real rank 0 of a world of two, whose peer is a [`RawPeer`] with these links.
fn against_raw_peer<T>(abort: &Abort, body: impl FnOnce(Ring, (TcpStream, TcpStream)) -> T) -> T {
    let (listener, peer) = (listen(), RawPeer::new(1));
    let addrs = [listener.local_addr(), peer.address()];
    thread::scope(|scope| {
        let links = scope.spawn(|| peer.join(&addrs, 1));
        let member = membership(&addrs, 1, 0);
        let ring = Ring::form(&listener, member, Options::default(), abort).unwrap();
        body(ring, links.join().unwrap())
    })
}

/// Says goodbye as a rank that leaves on purpose does.
fn depart((mut to_us, mut from_us): (TcpStream, TcpStream)) {
    to_us.write_all(&leave(1, None)).unwrap();
    from_us.write_all(&leave(1, None)).unwrap();
}

fn aborted() -> RingError {
    RingError::Aborted {
        reason: "fenced".to_owned(),
    }
}

#[test]
fn work_that_ends_is_waited_for_and_an_idle_communicator_is_closed() {
    for needed in [1, 2, MANY] {
        let (calls, polls) = (Calls::default(), AtomicUsize::new(0));
        on_ring(1, &Options::default(), |formed, _| {
            let finished = || Ok(polls.fetch_add(1, Ordering::SeqCst) + 1 == needed);
            let mut session = Supervised::new(&formed.unwrap(), Pretended::new(&calls, finished));
            session.enqueue(Pretended::take).unwrap();
            session.enqueue(Pretended::take).unwrap();
            session.wait().unwrap();
            assert_eq!(polls.load(Ordering::SeqCst), needed);
        });
        assert_eq!(calls.enqueued.load(Ordering::SeqCst), 2);
        assert_eq!(calls.ends(), (0, 1));
    }
}

#[test]
fn an_operation_is_given_to_a_library_that_has_taken_the_last_one() {
    let (calls, polls) = (Calls::default(), AtomicUsize::new(0));
    on_ring(1, &Options::default(), |formed, _| {
        let mut device = Pretended::new(&calls, || Ok(true));
        device.settled = Box::new(|| Ok(polls.fetch_add(1, Ordering::SeqCst) + 1 >= MANY));
        let mut session = Supervised::new(&formed.unwrap(), device);
        let take = |device: &mut Pretended<'_>| {
            assert_eq!(polls.load(Ordering::SeqCst), MANY);
            device.take()
        };
        session.enqueue(take).unwrap();
    });
    assert_eq!(calls.enqueued.load(Ordering::SeqCst), 1);
}

#[test]
fn pending_work_is_aborted_when_it_is_dropped() {
    let calls = Calls::default();
    on_ring(2, &Options::default(), |formed, _| {
        let ring = formed.unwrap();
        let mut session = Supervised::new(&ring, Pretended::new(&calls, || Ok(true)));
        session.enqueue(Pretended::take).unwrap();
    });
    assert_eq!(calls.ends(), (2, 0));
}

#[test]
fn an_idle_communicator_of_a_ring_that_is_gone_is_aborted() {
    let calls = Calls::default();
    on_ring(2, &Options::default(), |formed, _| {
        let ring = formed.unwrap();
        let mut session = Supervised::new(&ring, Pretended::new(&calls, || Ok(false)));
        drop(ring);
        let error = session.wait().unwrap_err();
        assert!(matches!(error, RingError::Aborted { .. }), "{error}");
    });
    assert_eq!(calls.ends(), (2, 0));
}

#[test]
fn an_abort_ends_a_wait_and_a_wait_for_the_library() {
    for library in [false, true] {
        let (calls, abort) = (Calls::default(), Abort::new());
        against_raw_peer(&abort, |ring, _links| {
            let fence = || {
                abort.abort("fenced");
                Ok(false)
            };
            let mut device = Pretended::new(&calls, fence);
            if library {
                device.settled = Box::new(fence);
            }
            let mut session = Supervised::new(&ring, device);
            let error = match library {
                true => session.enqueue(Pretended::take).unwrap_err(),
                false => session.wait().unwrap_err(),
            };
            assert_eq!(error, aborted());
        });
        assert_eq!(calls.ends(), (1, 0));
        assert_eq!(calls.enqueued.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn a_killed_peer_ends_a_wait_and_is_accused() {
    let calls = Calls::default();
    against_raw_peer(&Abort::new(), |ring, links| {
        // The sockets close when the device is at work.
        let mut links = Some(links);
        let finished = || {
            drop(links.take());
            Ok(false)
        };
        let mut session = Supervised::new(&ring, Pretended::new(&calls, finished));
        session.enqueue(Pretended::take).unwrap();
        let error = session.wait().unwrap_err();
        assert!(
            matches!(error, RingError::PeerLost { rank: 1, .. }),
            "{error}"
        );
        assert_eq!(calls.ends(), (1, 0));
    });
}

#[test]
fn a_failure_that_a_killed_peer_caused_accuses_that_peer() {
    let (calls, (noticed, dies)) = (Calls::default(), mpsc::channel());
    against_raw_peer(&Abort::new(), |ring, links| {
        // NCCL notices before the ring does.
        let death = thread::spawn(move || dies.recv().map(|()| drop(links)));
        let finished = || {
            noticed.send(()).unwrap();
            Err("NCCL says remote process exited".to_owned())
        };
        let mut session = Supervised::new(&ring, Pretended::new(&calls, finished));
        assert_eq!(session.wait().unwrap_err().accused(), Some(1));
        death.join().unwrap().unwrap();
    });
    assert_eq!(calls.ends(), (1, 0));
}

#[test]
fn one_ranks_failure_ends_every_ranks_wait() {
    let (calls, done) = (Calls::default(), Barrier::new(4));
    let errors = on_ring(4, &Options::default(), |formed, _| {
        let ring = formed.unwrap();
        let fails = ring.rank() == 2;
        let finished = move || match fails {
            true => Err("cuEventQuery says unspecified launch failure".to_owned()),
            false => Ok(false),
        };
        let mut session = Supervised::new(&ring, Pretended::new(&calls, finished));
        let error = session.wait().unwrap_err();
        // A ring that is dropped would end the others' wait too.
        done.wait();
        error
    });
    for (rank, error) in errors.iter().enumerate() {
        let known = match rank {
            2 => matches!(error, RingError::Nccl { .. }),
            _ => matches!(error, RingError::Left { .. }),
        };
        assert!(known && error.accused().is_none(), "rank {rank}: {error}");
    }
    assert_eq!(calls.ends(), (4, 0));
}

#[test]
fn what_a_departed_peer_has_sent_still_arrives() {
    let calls = Calls::default();
    against_raw_peer(&Abort::new(), |ring, links| {
        depart(links);
        let mut polls = 0;
        let finished = || {
            polls += usize::from(matches!(ring.health(), Some(RingError::Left { rank: 1 })));
            Ok(polls == MANY)
        };
        let mut session = Supervised::new(&ring, Pretended::new(&calls, finished));
        session.wait().unwrap();
    });
    assert_eq!(
        calls.ends(),
        (0, 1),
        "others may still be taking what they need"
    );
}

#[test]
fn a_wait_for_a_departed_peer_ends() {
    let calls = Calls::default();
    against_raw_peer(&Abort::new(), |ring, links| {
        depart(links);
        let mut session = Supervised::new(&ring, Pretended::new(&calls, || Ok(false)));
        assert_eq!(session.wait().unwrap_err(), RingError::Left { rank: 1 });
    });
    assert_eq!(calls.ends(), (1, 0));
}

#[test]
fn after_an_error_every_call_fails_and_nothing_is_asked_of_the_device() {
    let (calls, abort, polls) = (Calls::default(), Abort::new(), AtomicUsize::new(0));
    against_raw_peer(&abort, |ring, _links| {
        let finished = || {
            polls.fetch_add(1, Ordering::SeqCst);
            abort.abort("fenced");
            Ok(false)
        };
        let mut session = Supervised::new(&ring, Pretended::new(&calls, finished));
        assert_eq!(session.wait().unwrap_err(), aborted());
        let polled = polls.load(Ordering::SeqCst);
        assert_eq!(session.wait().unwrap_err(), aborted());
        assert_eq!(session.enqueue(Pretended::take).unwrap_err(), aborted());
        let reason = String::new();
        let invalid = RingError::Invalid { reason };
        assert_eq!(session.refuse(invalid), aborted());
        assert_eq!(polls.load(Ordering::SeqCst), polled);
    });
    assert_eq!(calls.enqueued.load(Ordering::SeqCst), 0);
    assert_eq!(calls.ends(), (1, 0));
}

#[test]
fn a_call_that_is_refused_ends_the_ring_for_everybody() {
    let (calls, done) = (Calls::default(), Barrier::new(2));
    let reason = || "3 parts of 2 elements are not 7".to_owned();
    let invalid = || RingError::Invalid { reason: reason() };
    let errors = on_ring(2, &Options::default(), |formed, _| {
        let ring = formed.unwrap();
        let mut session = Supervised::new(&ring, Pretended::new(&calls, || Ok(false)));
        let error = match ring.rank() {
            0 => session.refuse(invalid()),
            _ => session.wait().unwrap_err(),
        };
        done.wait();
        (error, session.wait().unwrap_err())
    });
    assert_eq!(errors[0], (invalid(), invalid()));
    assert_eq!(errors[1].0, RingError::Left { rank: 0 });
    assert_eq!(calls.ends(), (2, 0));
}

#[test]
fn a_device_that_does_not_stop_is_an_error_of_its_own() {
    let (calls, abort) = (Calls::default(), Abort::new());
    against_raw_peer(&abort, |ring, _links| {
        let mut device = Pretended::new(&calls, || Ok(false));
        device.stops = false;
        let mut session = Supervised::new(&ring, device);
        abort.abort("fenced");
        let error = session.wait().unwrap_err();
        assert!(matches!(error, RingError::Wedged { .. }), "{error}");
        assert_eq!(error.accused(), None);
        let text = error.to_string();
        assert!(
            text.contains("takes longer") && text.contains("fenced"),
            "{text}"
        );
        assert_eq!(session.wait().unwrap_err(), error);
    });
}
