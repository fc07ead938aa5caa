//! Writes that wait: a test can do something while a store has a request and has not answered it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Only a hang meets this.
const DEADLINE: Duration = Duration::from_secs(120);

/// When a write waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The store has the request, and has done nothing.
    Before,
    /// It is done, and nobody was told.
    After,
}

/// A write that waits, or will.
pub struct Held {
    stands: Receiver<()>,
    done: Receiver<()>,
    closed: watch::Sender<()>,
}

impl Held {
    /// Blocks until a write waits here.
    pub fn wait(&self) {
        let stands = self.stands.recv_timeout(DEADLINE);
        stands.expect("the write that is meant");
    }

    /// Lets the write go on, and blocks until it is done.
    pub fn let_go(self) {
        drop(self.closed);
        self.done.recv_timeout(DEADLINE).expect("the write is done");
    }
}

type Meant = Box<dyn Fn(&str, &[u8]) -> bool + Send>;

/// Those that no write has met yet.
#[derive(Default)]
pub(crate) struct Gates(Mutex<Vec<(Meant, Passage)>>);

impl Gates {
    pub(crate) fn hold(
        &self,
        moment: Moment,
        meant: impl Fn(&str, &[u8]) -> bool + Send + 'static,
    ) -> Held {
        let (stands, arrival) = channel();
        let (finished, done) = channel();
        let (closed, open) = watch::channel(());
        let passage = Passage {
            moment,
            stands,
            finished,
            open,
        };
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.push((Box::new(meant), passage));
        Held {
            stands: arrival,
            done,
            closed,
        }
    }

    /// The gate that is for this write; it is for no other then.
    pub(crate) fn meet(&self, key: &str, content: &[u8]) -> Option<Passage> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = gates.iter().position(|(meant, _)| meant(key, content))?;
        Some(gates.swap_remove(at).1)
    }
}

/// A write on its way through a gate. Whoever holds it may have stopped looking.
pub(crate) struct Passage {
    moment: Moment,
    stands: Sender<()>,
    finished: Sender<()>,
    open: watch::Receiver<()>,
}

impl Passage {
    /// The store is about to do it, or has done it. Waits if this is the moment.
    pub(crate) async fn pass(&self, moment: Moment) {
        if moment == Moment::After {
            let _ = self.finished.send(());
        }
        if moment == self.moment {
            let _ = self.stands.send(());
            while self.open.clone().changed().await.is_ok() {}
        }
    }
}
