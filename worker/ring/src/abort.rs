//! Cancellation: one token that unwinds whatever its rank is waiting for.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use crate::error::RingError;
use crate::link::{Links, lock};

/// A cheap-clone cancellation token of one rank in one generation.
///
/// [`Abort::abort`] may be called from any thread, also while another one is inside
/// [`Ring::form`](crate::Ring::form) or a collective: that call returns
/// [`RingError::Aborted`] promptly, and so does every later one.
#[derive(Clone, Debug, Default)]
pub struct Abort {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    reason: OnceLock<String>,
    watched: Mutex<Vec<Weak<Links>>>,
}

impl Abort {
    /// A token nobody has used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every pending and future call under this token. The first reason is the one reported.
    pub fn abort(&self, reason: impl Into<String>) {
        if self.state.reason.set(reason.into()).is_err() {
            return;
        }
        let watched = std::mem::take(&mut *lock(&self.state.watched));
        for links in watched.iter().filter_map(Weak::upgrade) {
            self.enforce(&links);
        }
    }

    /// Whether [`Abort::abort`] was called.
    pub fn is_aborted(&self) -> bool {
        self.state.reason.get().is_some()
    }

    /// `Ok` until [`Abort::abort`] was called, [`RingError::Aborted`] from then on.
    pub fn check(&self) -> Result<(), RingError> {
        match self.state.reason.get() {
            None => Ok(()),
            Some(reason) => Err(RingError::Aborted {
                reason: reason.clone(),
            }),
        }
    }

    /// Registers links to be broken by an abort, also by one that came before.
    pub(crate) fn watch(&self, links: &Arc<Links>) {
        let mut watched = lock(&self.state.watched);
        watched.retain(|links| links.strong_count() > 0);
        watched.push(Arc::downgrade(links));
        drop(watched);
        self.enforce(links);
    }

    fn enforce(&self, links: &Links) {
        if let Err(aborted) = self.check() {
            links.fail(aborted);
        }
    }
}
