//! What the trainer thread is at, and since when: told with every sign of life, so that the coordinator
//! can tell a rank that is stuck from those that wait for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ringmaster_proto::v1::{Activity, Alive};

/// Shared by the trainer thread, which sets it, and the agent, which tells it.
#[derive(Clone)]
pub(crate) struct Doing(Arc<Mutex<At>>);

struct At {
    activity: Activity,
    step: u64,
    since: Instant,
}

impl Doing {
    /// Nothing, from now on.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(At {
            activity: Activity::Unspecified,
            step: 0,
            since: Instant::now(),
        })))
    }

    /// From now on it is at `activity`, having applied `step` steps.
    pub(crate) fn begin(&self, activity: Activity, step: u64) {
        *self.lock() = At {
            activity,
            step,
            since: Instant::now(),
        };
    }

    /// As it is told.
    pub(crate) fn alive(&self) -> Alive {
        let at = self.lock();
        Alive {
            activity: at.activity.into(),
            step: at.step,
            seconds: at.since.elapsed().as_secs_f64(),
        }
    }

    /// It is replaced whole under this lock, so what a panic leaves behind is usable.
    fn lock(&self) -> MutexGuard<'_, At> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
