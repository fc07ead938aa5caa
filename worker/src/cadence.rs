//! When the next checkpoint is worth what it costs: `checkpoint.every = "auto"`.

use std::time::{Duration, Instant};

use ringmaster_proto::spec::Every;

/// Least and most time between two checkpoints.
const LIMITS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// What a second of writing behind the training costs it, at a guess: it takes some memory bandwidth and
/// some of the network.
const WRITING_SHARE: f64 = 0.1;

/// At most this share of the time is a write under way.
const WRITING_MOST: f64 = 0.25;

/// Until it has been measured.
const COST: f64 = 1.0;

/// Until the coordinator has told: a day.
const FAILURES: f64 = 86_400.0;

/// What one rank knows of costs and failures.
pub(crate) struct Cadence {
    every: Every,
    last: Instant,
    /// Mean time between failures, seconds.
    failures: f64,
    stalled: f64,
    writing: f64,
    measured: bool,
}

impl Cadence {
    /// Nothing is measured yet.
    pub(crate) fn new(every: Every) -> Self {
        Self {
            every,
            last: Instant::now(),
            failures: FAILURES,
            stalled: 0.0,
            writing: 0.0,
            measured: false,
        }
    }

    /// How often the run fails, by the coordinator's estimate, seconds.
    pub(crate) fn expect_failures(&mut self, seconds: f64) {
        if seconds.is_finite() && seconds > 0.0 {
            self.failures = seconds;
        }
    }

    /// Whether this rank wants one at the next boundary, where the interval is not in steps. The ranks
    /// go by the word of rank 0.
    pub(crate) fn wants(&self, now: Instant) -> bool {
        matches!(self.every, Every::Auto(_)) && now >= self.last + self.interval()
    }

    /// Whether one is due after `step` steps; `wanted`: by any rank.
    pub(crate) fn due(&self, step: u64, wanted: bool) -> bool {
        match self.every {
            Every::Steps(steps) => step.is_multiple_of(steps),
            Every::Auto(_) => wanted,
        }
    }

    /// One begins, and has kept the training waiting for so long, seconds.
    pub(crate) fn began(&mut self, now: Instant, stalled: f64) {
        (self.last, self.stalled) = (now, stalled);
    }

    /// Writing it took so long, seconds.
    pub(crate) fn written(&mut self, seconds: f64) {
        (self.writing, self.measured) = (seconds, true);
    }

    /// Time from one to the next.
    fn interval(&self) -> Duration {
        let cost = match self.measured {
            true => self.stalled + WRITING_SHARE * self.writing,
            false => COST,
        };
        let best = youngs_interval(cost, self.failures);
        let bounded = best.max(self.writing / WRITING_MOST);
        let (least, most) = (LIMITS.0.as_secs_f64(), LIMITS.1.as_secs_f64());
        Duration::from_secs_f64(bounded.clamp(least, most))
    }
}

/// The interval that loses least to checkpoints and to what is computed again after a failure, seconds:
/// sqrt(2 C M) for a cost C and a mean time M between failures (J. W. Young, "A first order
/// approximation to the optimum checkpoint interval", CACM 17(9), 1974).
fn youngs_interval(cost: f64, failures: f64) -> f64 {
    (2.0 * cost * failures).sqrt()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ringmaster_proto::spec::Auto;

    use super::*;

    /// Share of the time that is lost when a checkpoint of that cost is taken every `interval` seconds.
    fn lost(interval: f64, cost: f64, failures: f64) -> f64 {
        cost / interval + interval / (2.0 * failures)
    }

    #[test]
    fn no_other_interval_loses_less() {
        for (cost, failures) in [(0.1, 600.0), (5.0, 3_600.0), (30.0, 86_400.0)] {
            let best = youngs_interval(cost, failures);
            let least = lost(best, cost, failures);
            for factor in [0.5, 0.9, 0.99, 1.01, 1.1, 2.0] {
                assert!(lost(factor * best, cost, failures) > least);
            }
        }
    }

    #[test]
    fn a_run_that_fails_more_often_saves_more_often_within_limits() {
        let interval = |failures| {
            let mut cadence = Cadence::new(Every::Auto(Auto::Auto));
            cadence.began(Instant::now(), 2.0);
            cadence.written(10.0);
            cadence.expect_failures(failures);
            cadence.interval()
        };
        assert!(interval(3_600.0) < interval(86_400.0));
        assert_eq!(interval(0.001), LIMITS.0);
        assert_eq!(interval(1e12), LIMITS.1);
        assert_eq!(
            interval(f64::NAN),
            interval(FAILURES),
            "nonsense changes nothing"
        );
    }

    #[test]
    fn a_slow_store_is_not_written_to_all_the_time() {
        let mut cadence = Cadence::new(Every::Auto(Auto::Auto));
        cadence.expect_failures(60.0);
        cadence.written(300.0);
        assert_eq!(cadence.interval(), Duration::from_secs(1_200));
    }

    #[test]
    fn a_number_of_steps_is_kept_to_whatever_anybody_wants() {
        let cadence = Cadence::new(Every::Steps(10));
        let later = Instant::now() + 2 * LIMITS.1;
        assert!(!cadence.wants(later));
        assert!(cadence.due(20, false) && !cadence.due(21, true));
    }
}
