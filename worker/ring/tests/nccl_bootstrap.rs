//! How ranks agree on one communicator or on none: real rings, pretended devices.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use common::{RawPeer, listen, membership, on_ring, seal};
use ringmaster_ring::frame::{HEADER_BYTES, Header, Stamp};
use ringmaster_ring::nccl::bootstrap::{ID_BYTES, Id, Joiner, bootstrap, decline};
use ringmaster_ring::nccl::supervise::Communicator;
use ringmaster_ring::{Abort, Options, Ring, RingError, Tag};

/// No test waits this long unless it fails.
const LATE: Duration = Duration::from_secs(60);

/// The patience of a rank that never joins.
const IMPATIENT: Duration = Duration::from_millis(120);

const TAG: Tag = Tag { step: 7, bucket: 3 };

/// What happened to all ranks' joins.
#[derive(Default)]
struct Record {
    made: Vec<usize>,
    joins: Vec<(usize, Id)>,
    /// How long after it began each join was aborted.
    aborted: BTreeMap<usize, Duration>,
}

impl Record {
    fn aborted(&self) -> BTreeSet<usize> {
        self.aborted.keys().copied().collect()
    }
}

/// A library in which a join is over when all `world` ranks are there.
struct Pretended {
    world: usize,
    record: Mutex<Record>,
}

impl Pretended {
    fn new(world: usize) -> Self {
        Self {
            world,
            record: Mutex::default(),
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    /// Runs the bootstrap on a ring whose ranks do what `plan` says; then the ring must still sum.
    fn run(&self, plan: impl Fn(usize) -> Plan + Sync) -> Vec<Option<Pretender<'_>>> {
        on_ring(self.world, &Options::default(), |formed, _| {
            let mut ring = formed.unwrap();
            let plan = plan(ring.rank());
            let patience = match plan {
                Plan::NeverJoins => IMPATIENT,
                _ => LATE,
            };
            let mut joiner = Pretender::new(self, plan);
            let formed = bootstrap(&mut ring, TAG, &mut joiner, patience).unwrap();
            let mut values = [1, 10];
            ring.all_reduce_i64(TAG, &mut values).unwrap();
            assert_eq!(values, [self.world as i64, 10 * self.world as i64]);
            formed
        })
    }
}

/// What a rank's device and library do.
#[derive(Clone)]
enum Plan {
    Works,
    IsNotReady,
    MakesNoId,
    RefusesToJoin,
    FailsWhileJoining,
    NeverJoins,
    IsAbortedWhileJoining(Abort),
}

/// A rank's way to a communicator, and the communicator.
struct Pretender<'a> {
    library: &'a Pretended,
    plan: Plan,
    rank: usize,
    began: Instant,
}

impl<'a> Pretender<'a> {
    fn new(library: &'a Pretended, plan: Plan) -> Self {
        Self {
            library,
            plan,
            rank: usize::MAX,
            began: Instant::now(),
        }
    }
}

impl<'a> Joiner for Pretender<'a> {
    type Communicator = Pretender<'a>;

    fn ready(&mut self) -> Result<(), String> {
        match self.plan {
            Plan::IsNotReady => Err("there is no device".to_owned()),
            _ => Ok(()),
        }
    }

    fn id(&mut self) -> Result<Id, String> {
        let mut record = self.library.record();
        record.made.push(self.library.world);
        match self.plan {
            Plan::MakesNoId => Err("no interface is up".to_owned()),
            _ => Ok(std::array::from_fn(|i| (i * 29 + 5) as u8)),
        }
    }

    fn join(&mut self, id: &Id, rank: usize, world: usize) -> Result<Self, String> {
        assert_eq!(world, self.library.world);
        if matches!(self.plan, Plan::RefusesToJoin) {
            return Err("two ranks are on one device".to_owned());
        }
        self.library.record().joins.push((rank, *id));
        Ok(Pretender {
            library: self.library,
            plan: self.plan.clone(),
            rank,
            began: Instant::now(),
        })
    }
}

impl Communicator for Pretender<'_> {
    fn settled(&mut self) -> Result<bool, String> {
        match &self.plan {
            Plan::FailsWhileJoining => return Err("a system call failed".to_owned()),
            Plan::NeverJoins => return Ok(false),
            _ => {}
        }
        let complete = self.library.record().joins.len() == self.library.world;
        if let Plan::IsAbortedWhileJoining(abort) = &self.plan {
            if complete {
                abort.abort("fenced");
            }
            return Ok(false);
        }
        Ok(complete)
    }

    fn finished(&mut self) -> Result<bool, String> {
        unreachable!("bootstrap enqueues nothing");
    }

    fn abort(&mut self) -> Result<(), String> {
        let mut record = self.library.record();
        let before = record.aborted.insert(self.rank, self.began.elapsed());
        assert_eq!(before, None, "rank {} is aborted twice", self.rank);
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        unreachable!("bootstrap never ends what is in use");
    }
}

#[test]
fn ranks_that_all_can_get_a_communicator_under_one_id() {
    for world in 2..=5 {
        let library = Pretended::new(world);
        let formed = library.run(|_| Plan::Works);
        assert!(formed.iter().all(Option::is_some), "world {world}");
        let record = library.record();
        let ranks: BTreeSet<_> = record.joins.iter().map(|(rank, _)| *rank).collect();
        assert_eq!(ranks, (0..world).collect());
        let id: Id = std::array::from_fn(|i| (i * 29 + 5) as u8);
        assert!(record.joins.iter().all(|(_, joined)| *joined == id));
        assert_eq!(record.made.len(), 1, "one id is made");
        assert!(record.aborted.is_empty());
    }
}

#[test]
fn one_rank_that_cannot_leaves_all_without_and_starts_nothing() {
    for unable in 0..3 {
        let library = Pretended::new(3);
        let formed = library.run(|rank| match rank == unable {
            true => Plan::IsNotReady,
            false => Plan::Works,
        });
        assert!(formed.iter().all(Option::is_none), "rank {unable}");
        let record = library.record();
        assert!(record.made.is_empty() && record.joins.is_empty());
    }
}

#[test]
fn an_id_that_cannot_be_made_leaves_all_without() {
    let library = Pretended::new(3);
    let formed = library.run(|rank| match rank {
        0 => Plan::MakesNoId,
        _ => Plan::Works,
    });
    assert!(formed.iter().all(Option::is_none));
    assert!(library.record().joins.is_empty());
}

#[test]
fn one_rank_that_fails_to_join_has_all_others_joins_aborted_at_once() {
    for (failing, plan) in [(0, Plan::RefusesToJoin), (2, Plan::FailsWhileJoining)] {
        let (library, started) = (Pretended::new(4), Instant::now());
        let formed = library.run(|rank| match rank == failing {
            true => plan.clone(),
            false => Plan::Works,
        });
        assert!(formed.iter().all(Option::is_none));
        let record = library.record();
        let joined: BTreeSet<_> = record.joins.iter().map(|(rank, _)| *rank).collect();
        assert_eq!(record.aborted(), joined, "every join that began is aborted");
        assert!(started.elapsed() < LATE, "nobody outwaits its patience");
    }
}

#[test]
fn a_join_without_end_is_given_up_when_one_ranks_patience_is() {
    let library = Pretended::new(3);
    let formed = library.run(|rank| match rank {
        1 => Plan::NeverJoins,
        _ => Plan::Works,
    });
    assert!(formed.iter().all(Option::is_none));
    let record = library.record();
    assert_eq!(record.aborted(), BTreeSet::from([0, 1, 2]));
    assert!(record.aborted[&1] >= IMPATIENT, "{:?}", record.aborted);
    assert!(record.aborted.values().all(|after| *after < LATE));
}

#[test]
fn a_rank_that_declines_leaves_all_without() {
    let library = Pretended::new(3);
    let formed = on_ring(3, &Options::default(), |formed, _| {
        let mut ring = formed.unwrap();
        if ring.rank() == 1 {
            decline(&mut ring, TAG).unwrap();
            return true;
        }
        let mut joiner = Pretender::new(&library, Plan::Works);
        let formed = bootstrap(&mut ring, TAG, &mut joiner, LATE).unwrap();
        formed.is_none()
    });
    assert_eq!(formed, [true; 3]);
}

#[test]
fn a_world_of_one_asks_for_nothing() {
    let library = Pretended::new(1);
    let formed = library.run(|_| Plan::Works);
    assert!(formed[0].is_none());
    assert!(library.record().joins.is_empty());
    on_ring(1, &Options::default(), |formed, _| {
        decline(&mut formed.unwrap(), TAG).unwrap();
    });
}

#[test]
fn an_abort_while_joining_unwinds_every_rank_and_its_join() {
    let (library, started) = (Pretended::new(3), Instant::now());
    let errors = on_ring(3, &Options::default(), |formed, abort| {
        let mut ring = formed.unwrap();
        let plan = match ring.rank() {
            1 => Plan::IsAbortedWhileJoining(abort),
            // Without rank 1's abort these would join for as long as the test may take.
            _ => Plan::NeverJoins,
        };
        let mut joiner = Pretender::new(&library, plan);
        bootstrap(&mut ring, TAG, &mut joiner, LATE).err().unwrap()
    });
    let aborted = RingError::Aborted {
        reason: "fenced".to_owned(),
    };
    assert_eq!(errors[1], aborted);
    for other in [&errors[0], &errors[2]] {
        assert!(matches!(other, RingError::Left { .. }), "{other}");
    }
    assert_eq!(library.record().aborted(), BTreeSet::from([0, 1, 2]));
    assert!(started.elapsed() < LATE);
}

/// The next frame of a collective that a real rank sends.
fn next_frame(from_us: &mut TcpStream) -> (Stamp, Vec<u8>) {
    loop {
        let mut head = [0; HEADER_BYTES];
        from_us.read_exact(&mut head).unwrap();
        let header = Header::decode(&head, 1).unwrap();
        let mut payload = vec![0; header.length as usize];
        from_us.read_exact(&mut payload).unwrap();
        if header.stamp.kind.is_data() {
            return (header.stamp, payload);
        }
    }
}

#[test]
fn a_rank_that_dies_while_joining_is_the_one_that_is_accused() {
    let (listener, peer) = (listen(), RawPeer::new(1));
    let addrs = [listener.local_addr(), peer.address()];
    let library = Pretended::new(2);
    let error = thread::scope(|scope| {
        scope.spawn(|| {
            let (mut to_us, mut from_us) = peer.join(&addrs, 1);
            // Rank 0 is ready, and so is this one.
            let (stamp, vote) = next_frame(&mut from_us);
            assert_eq!(vote, 1_i64.to_le_bytes());
            let mut answer = [0; HEADER_BYTES + 8];
            answer[HEADER_BYTES..].copy_from_slice(&1_i64.to_le_bytes());
            seal(&mut answer, stamp);
            to_us.write_all(&answer).unwrap();
            // The id comes around, rank 0 begins to join, and this rank's process is killed.
            let (_, id) = next_frame(&mut from_us);
            assert_eq!(id.len(), 1 + ID_BYTES);
        });
        let member = membership(&addrs, 1, 0);
        let mut ring = Ring::form(&listener, member, Options::default(), &Abort::new()).unwrap();
        let mut joiner = Pretender::new(&library, Plan::Works);
        bootstrap(&mut ring, TAG, &mut joiner, LATE).err().unwrap()
    });
    assert!(
        matches!(error, RingError::PeerLost { rank: 1, .. }),
        "{error}"
    );
    assert_eq!(library.record().joins.len(), 1, "rank 0 was joining");
    assert_eq!(library.record().aborted(), BTreeSet::from([0]));
}
