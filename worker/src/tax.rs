//! What a worker does besides training: counted, so that anybody can see how little it is.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The counters of one worker, in nanoseconds. Shared by whoever adds to one of them.
#[derive(Debug, Default)]
pub struct Tax {
    agent: AtomicU64,
    keeper: AtomicU64,
    digests: AtomicU64,
    saving: AtomicU64,
    training: AtomicU64,
}

/// What a worker spent on it, seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaxSeconds {
    /// Talking to the coordinator: heartbeats, reports, directives.
    pub agent_seconds: f64,
    /// Heartbeats and deadlines of the ring's links, between collectives.
    pub keeper_seconds: f64,
    /// Digests of the state that ranks compare.
    pub digest_seconds: f64,
    /// Copying the state for checkpoints; not the last one, which the run ends with.
    pub saving_seconds: f64,
    /// In which it trained, these included where they made it wait.
    pub training_seconds: f64,
}

impl Tax {
    /// As it stands.
    pub fn seconds(&self) -> TaxSeconds {
        let seconds = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64 / 1e9;
        TaxSeconds {
            agent_seconds: seconds(&self.agent),
            keeper_seconds: seconds(&self.keeper),
            digest_seconds: seconds(&self.digests),
            saving_seconds: seconds(&self.saving),
            training_seconds: seconds(&self.training),
        }
    }

    pub(crate) fn keeper(&self, took: Duration) {
        add(&self.keeper, took);
    }

    pub(crate) fn digest(&self, took: Duration) {
        add(&self.digests, took);
    }

    pub(crate) fn saving(&self, took: Duration) {
        add(&self.saving, took);
    }

    pub(crate) fn training(&self, took: Duration) {
        add(&self.training, took);
    }

    /// Awaits `future` and counts for how long it was not waiting.
    pub(crate) async fn agent<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            let began = Instant::now();
            let polled = future.as_mut().poll(context);
            add(&self.agent, began.elapsed());
            polled
        })
        .await
    }
}

impl TaxSeconds {
    /// Of the training, 0 to 1; nothing of a worker that never trained.
    pub fn share(&self) -> Option<f64> {
        let spent = self.agent_seconds + self.keeper_seconds + self.digest_seconds;
        (self.training_seconds > 0.0).then(|| (spent + self.saving_seconds) / self.training_seconds)
    }
}

fn add(counter: &AtomicU64, took: Duration) {
    let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    counter.fetch_add(nanoseconds, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_is_not_counted_and_working_is() {
        let tax = Tax::default();
        let work = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let until = Instant::now() + Duration::from_millis(20);
            while Instant::now() < until {}
        };
        tax.agent(work).await;
        let spent = tax.seconds().agent_seconds;
        assert!(spent >= 0.02, "{spent}");
        assert!(spent < 0.2, "the wait is not in it: {spent}");
        assert_eq!(tax.seconds().share(), None, "it has not trained");
    }
}
