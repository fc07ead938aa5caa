//! Between the trainer thread and the agent: what the one wants told and the other tells. Saying
//! something never waits: a coordinator that is away slows no step.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringmaster_agent::Reports;
use ringmaster_proto::Generation;
use ringmaster_proto::v1::worker_report::Body;
use tokio::sync::Notify;

/// The trainer thread's end, shared with what writes its checkpoints; dropping the last closes the box.
pub(crate) struct Mailbox(Arc<Shared>);

/// The agent's end.
pub(crate) struct Outbox(Arc<Shared>);

#[derive(Default)]
struct Shared {
    contents: Mutex<Contents>,
    changed: Notify,
}

#[derive(Default)]
struct Contents {
    reports: Reports,
    closed: bool,
}

/// A new box.
pub(crate) fn outbox() -> (Mailbox, Outbox) {
    let shared = Arc::<Shared>::default();
    (Mailbox(Arc::clone(&shared)), Outbox(shared))
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Contents)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }

    /// Whole reports are moved under this lock, so what a panic leaves behind is usable.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailbox {
    /// Adds a report; never waits.
    pub(crate) fn put(&self, generation: Generation, body: Body) {
        self.0
            .change(|contents| contents.reports.put(generation, body));
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.0.change(|contents| contents.closed = true);
    }
}

impl Outbox {
    /// The next report in order; `None` once the trainer thread is gone and everything is told.
    /// Cancel safe: a report leaves the box in the moment it is returned. One task may wait.
    pub(crate) async fn next(&self) -> Option<(Generation, Body)> {
        loop {
            {
                let mut contents = self.0.lock();
                let next = contents.reports.take();
                if next.is_some() || contents.closed {
                    return next;
                }
            }
            self.0.changed.notified().await;
        }
    }

    /// See [`Reports::told`].
    pub(crate) fn told(&self, generation: Generation, body: Body) {
        self.0.lock().reports.told(generation, body);
    }

    /// See [`Reports::rewind`].
    pub(crate) fn tell_again(&self, completed: u64, in_force: Option<Generation>) {
        self.0
            .change(|contents| contents.reports.rewind(completed, in_force));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ringmaster_proto::v1::Alive;

    use super::*;

    #[tokio::test]
    async fn the_end_of_the_thread_is_told_last() {
        let (mailbox, outbox) = outbox();
        let report = (Generation(1), Body::Alive(Alive::default()));
        let (generation, body) = report.clone();
        let thread = std::thread::spawn(move || mailbox.put(generation, body));
        assert_eq!(outbox.next().await, Some(report));
        assert_eq!(outbox.next().await, None);
        thread.join().unwrap();
    }
}
