//! How long a link may carry not one byte before its peer counts as lost: a few times the longest pause
//! that it had of late, so that a quiet network accuses soon and a busy host is not accused at all.

use std::time::Duration;

/// How much longer than the longest pause of late is too long.
const FACTOR: u32 = 4;

/// Never less than this: whole hosts stand still for a moment.
const LEAST: Duration = Duration::from_secs(2);

/// Pauses heard before they count; some seconds of heartbeats.
const ENOUGH: u32 = 16;

/// For how long a pause counts, at least; twice that at most.
const OF_LATE: Duration = Duration::from_secs(30);

/// Shorter pauses are those between pieces of one frame, and tell nothing.
const PAUSE: Duration = Duration::from_millis(20);

/// The pauses of one link.
#[derive(Debug)]
pub(crate) struct Silence {
    most: Duration,
    heard: u32,
    /// Time since the longest pauses were last put aside, and what they are.
    since: Duration,
    now: Duration,
    before: Duration,
}

impl Silence {
    /// A link of which nothing is known: `most` is waited.
    pub(crate) fn new(most: Duration) -> Self {
        Self {
            most,
            heard: 0,
            since: Duration::ZERO,
            now: Duration::ZERO,
            before: Duration::ZERO,
        }
    }

    /// A byte came after this pause.
    pub(crate) fn ended(&mut self, pause: Duration) {
        self.since += pause;
        if pause < PAUSE {
            return;
        }
        self.heard = self.heard.saturating_add(1);
        if self.since >= OF_LATE {
            (self.since, self.before, self.now) = (Duration::ZERO, self.now, Duration::ZERO);
        }
        self.now = self.now.max(pause);
    }

    /// How long a pause may be.
    pub(crate) fn limit(&self) -> Duration {
        if self.heard < ENOUGH {
            return self.most;
        }
        let longest = self.now.max(self.before);
        (longest * FACTOR).clamp(LEAST.min(self.most), self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(10);
    const BEAT: Duration = Duration::from_millis(250);

    fn after(pauses: &[(Duration, u32)]) -> Duration {
        let mut silence = Silence::new(MOST);
        for (pause, times) in pauses {
            (0..*times).for_each(|_| silence.ended(*pause));
        }
        silence.limit()
    }

    #[test]
    fn a_link_of_which_little_is_known_has_the_most() {
        assert_eq!(after(&[]), MOST);
        assert_eq!(after(&[(BEAT, ENOUGH - 1)]), MOST);
        assert_eq!(
            after(&[(Duration::ZERO, 100_000)]),
            MOST,
            "pieces of frames"
        );
    }

    #[test]
    fn a_quiet_link_has_the_least_and_a_busy_one_four_pauses() {
        assert_eq!(after(&[(BEAT, ENOUGH)]), LEAST);
        let second = Duration::from_secs(1);
        assert_eq!(after(&[(BEAT, ENOUGH), (second, 1)]), 4 * second);
        assert_eq!(after(&[(BEAT, ENOUGH), (3 * second, 1)]), MOST);
    }

    #[test]
    fn a_long_pause_counts_for_a_while_and_not_for_ever() {
        let second = Duration::from_secs(1);
        let beats = |seconds: u32| (BEAT, 4 * seconds);
        assert_eq!(after(&[beats(10), (second, 1), beats(25)]), 4 * second);
        assert_eq!(after(&[beats(10), (second, 1), beats(70)]), LEAST);
    }

    #[test]
    fn nobody_waits_longer_than_was_asked() {
        let mut silence = Silence::new(BEAT * 2);
        (0..100).for_each(|_| silence.ended(BEAT));
        assert_eq!(silence.limit(), BEAT * 2);
    }
}
