//! What the ranks of a generation would say to each other: they share it, since the network that is
//! under test is that between workers and coordinators.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use ringmaster_agent::Form;
use tokio::sync::Notify;

use crate::oracle::State;
use crate::ring::{Reduced, Ring, Share};
use crate::world::ProcessId;

/// All rings of a run.
#[derive(Default)]
pub(crate) struct Rings(Vec<Rc<Shared>>);

struct Shared {
    ring: RefCell<Ring>,
    /// What each step came to, from the first of the generation.
    sums: RefCell<Vec<Reduced>>,
    /// What each rank held when it came.
    states: RefCell<BTreeMap<u32, Option<State>>>,
    changed: Notify,
}

/// One rank's place. Whoever leaves it before a boundary breaks the ring.
pub(crate) struct Seat {
    shared: Rc<Shared>,
    rank: u32,
    taken: usize,
    over: Cell<bool>,
}

/// The ring is broken at this rank.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken(pub(crate) u32);

impl Rings {
    /// Takes the place that `form` names, if it is this process's.
    pub(crate) fn join(&mut self, form: &Form, process: ProcessId, state: Option<State>) -> Seat {
        let same = |shared: &&Rc<Shared>| {
            let ring = shared.ring.borrow();
            ring.form.generation == form.generation && ring.form.addresses == form.addresses
        };
        let shared = self.0.iter().find(same).cloned().unwrap_or_else(|| {
            let shared = Rc::new(Shared {
                ring: RefCell::new(Ring::new(form.clone())),
                sums: RefCell::default(),
                states: RefCell::default(),
                changed: Notify::new(),
            });
            self.0.push(shared.clone());
            shared
        });
        let rank = form.rank.0;
        shared.ring.borrow_mut().members.insert(rank, process);
        shared.states.borrow_mut().insert(rank, state);
        shared.changed.notify_waiters();
        Seat {
            shared,
            rank,
            taken: 0,
            over: Cell::new(false),
        }
    }
}

impl Seat {
    /// Waits until all ranks have come.
    pub(crate) async fn complete(&self) -> Result<(), Broken> {
        self.wait(|ring| ring.complete().then_some(())).await
    }

    /// The first rank that has not come.
    pub(crate) fn missing(&self) -> u32 {
        let ring = self.shared.ring.borrow();
        let mut ranks = 0..ring.world();
        ranks
            .find(|rank| !ring.members.contains_key(rank))
            .unwrap_or(self.rank)
    }

    /// What `rank` held when it came.
    pub(crate) fn state_of(&self, rank: u32) -> Option<State> {
        self.shared.states.borrow().get(&rank).copied().flatten()
    }

    /// Number of ranks.
    pub(crate) fn world(&self) -> u32 {
        self.shared.ring.borrow().world()
    }

    /// Contributes to the step under way, and waits for what it came to.
    pub(crate) async fn reduce(&mut self, share: Share) -> Result<Reduced, Broken> {
        if let Some(rank) = self.broken() {
            return Err(Broken(rank));
        }
        let sum = self.shared.ring.borrow_mut().contribute(self.rank, share);
        if let Some(sum) = sum {
            self.shared.sums.borrow_mut().push(sum);
            self.shared.changed.notify_waiters();
        }
        let (shared, next) = (self.shared.clone(), self.taken);
        let reduced = self
            .wait(move |_| shared.sums.borrow().get(next).copied())
            .await?;
        self.taken += 1;
        Ok(reduced)
    }

    /// Where it is broken, if it is.
    pub(crate) fn broken(&self) -> Option<u32> {
        self.shared.ring.borrow().broken
    }

    /// Waits until it breaks.
    pub(crate) async fn breaks(&self) -> Broken {
        match self.wait(|_| None::<()>).await {
            Err(broken) => broken,
            Ok(()) => Broken(self.rank),
        }
    }

    /// All ranks have agreed to end here.
    pub(crate) fn farewell(&self) {
        self.over.set(true);
    }

    async fn wait<T>(&self, mut look: impl FnMut(&Ring) -> Option<T>) -> Result<T, Broken> {
        loop {
            let changed = self.shared.changed.notified();
            {
                let ring = self.shared.ring.borrow();
                if let Some(found) = look(&ring) {
                    return Ok(found);
                }
                if let Some(rank) = ring.broken {
                    return Err(Broken(rank));
                }
            }
            changed.await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.over.get() {
            self.shared
                .ring
                .borrow_mut()
                .broken
                .get_or_insert(self.rank);
            self.shared.changed.notify_waiters();
        }
    }
}
