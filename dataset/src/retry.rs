//! How long a read is repeated, and when it is not.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use ringmaster_proto::ErrorKind;
use tokio::time::Instant;

use crate::error::DatasetError;

/// First and longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How often a shard that cannot be read as Parquet is read: a body may arrive damaged.
const CORRUPT_READS: u32 = 4;

/// The attempts of one read.
#[derive(Debug)]
pub(crate) struct Retry {
    until: Instant,
    pause: Duration,
    corrupt: u32,
}

impl Retry {
    /// Attempts for at most `patience`.
    pub(crate) fn for_at_most(patience: Duration) -> Self {
        Self::from(Instant::now(), patience)
    }

    fn from(now: Instant, patience: Duration) -> Self {
        Self {
            until: now + patience,
            pause: BACKOFF.0,
            corrupt: 0,
        }
    }

    /// Waits before the next attempt, or returns `error` if there is none.
    pub(crate) async fn after(&mut self, error: DatasetError) -> Result<(), DatasetError> {
        let Some(pause) = self.pause(Instant::now(), &error) else {
            return Err(error);
        };
        tracing::warn!(%error, ?pause, "cannot read; trying again");
        tokio::time::sleep(jittered(pause)).await;
        Ok(())
    }

    /// How long to wait at most before the next attempt; none if there is to be none. What the store
    /// or the network may have done is tried again, what somebody must mend is not.
    fn pause(&mut self, now: Instant, error: &DatasetError) -> Option<Duration> {
        let again = match error {
            DatasetError::Corrupt { .. } => {
                self.corrupt += 1;
                self.corrupt < CORRUPT_READS
            }
            error => error.kind() == ErrorKind::Retry,
        };
        let pause = self.pause;
        self.pause = (pause * 2).min(BACKOFF.1);
        (again && now + pause <= self.until).then_some(pause)
    }
}

/// Between half of `pause` and all of it, so that many readers do not knock at once.
fn jittered(pause: Duration) -> Duration {
    let draw = RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64;
    pause.mul_f64(0.5 + draw / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    fn away() -> DatasetError {
        DatasetError::Store(StoreError::Failed {
            url: "s3://a/b".to_owned(),
            reason: "500".to_owned(),
        })
    }

    fn damaged() -> DatasetError {
        DatasetError::Corrupt {
            shard: "s3://a/b".to_owned(),
            reason: "other bytes".to_owned(),
        }
    }

    /// Attempts until `error` is final, and how long the pauses between them are together.
    fn attempts(patience: Duration, error: &DatasetError) -> (u32, Duration) {
        let since = Instant::now();
        let mut retry = Retry::from(since, patience);
        let (mut now, mut made) = (since, 1);
        while let Some(pause) = retry.pause(now, error) {
            now += pause;
            made += 1;
        }
        (made, now - since)
    }

    #[test]
    fn a_store_that_is_away_is_waited_for_and_no_longer() {
        for seconds in [1, 60, 600] {
            let patience = Duration::from_secs(seconds);
            let (made, took) = attempts(patience, &away());
            assert!(took <= patience && took + BACKOFF.1 >= patience, "{took:?}");
            assert!(
                u64::from(made) <= 10 + seconds / 10,
                "{made} attempts in {took:?}"
            );
        }
    }

    #[test]
    fn damage_is_looked_at_again_a_few_times_and_a_refusal_never() {
        let patience = Duration::from_secs(600);
        assert_eq!(attempts(patience, &damaged()).0, CORRUPT_READS);
        let refused = DatasetError::Changed {
            shard: "s3://a/b".to_owned(),
        };
        assert_eq!(attempts(patience, &refused), (1, Duration::ZERO));
    }

    #[test]
    fn many_readers_do_not_knock_at_once() {
        let pause = Duration::from_secs(10);
        let mut pauses: Vec<Duration> = (0..20).map(|_| jittered(pause)).collect();
        assert!(
            pauses.iter().all(|p| (pause / 2..=pause).contains(p)),
            "{pauses:?}"
        );
        pauses.dedup();
        assert!(pauses.len() > 1, "{pauses:?}");
    }
}
