//! A worker is in the run for as long as it is heard.

use super::Millis;

/// When a worker was last heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    heard: Millis,
}

impl Lease {
    /// A fresh lease.
    pub(super) fn new(now: Millis) -> Self {
        Self { heard: now }
    }

    /// The worker was heard.
    pub(super) fn renew(&mut self, now: Millis) {
        self.heard = self.heard.max(now);
    }

    /// Whether `lease_ms` have passed in silence.
    pub(super) fn expired(&self, now: Millis, lease_ms: u64) -> bool {
        now >= self.heard.after(lease_ms)
    }
}
