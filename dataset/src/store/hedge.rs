//! A request that takes much longer than its like is made a second time, and the first answer
//! counts (Dean and Barroso, "The tail at scale", 2013).

use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::{Either, select};
use tokio::time::Instant;

/// Durations that are remembered.
const REMEMBERED: usize = 128;

/// Before that many are known, nothing is said of what is usual.
const KNOWN_MIN: usize = 16;

/// How long a request may take, as a multiple of what 95 in 100 take.
const LATE: f64 = 2.0;

/// Shortest and longest time after which a request is made again; the longest also while nothing is
/// known.
const AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Requests of which one may be made twice: a store that is slow for everybody is spared.
const PER_HEDGE: f64 = 10.0;

/// Second requests that may be saved up.
const SAVED_MAX: f64 = 8.0;

/// How long requests take, and how many second ones are allowed.
#[derive(Debug)]
pub(super) struct Hedge {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The newest durations, a ring.
    durations: Vec<Duration>,
    next: usize,
    /// Second requests that are allowed now.
    saved: f64,
}

impl Default for Hedge {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                durations: Vec::new(),
                next: 0,
                saved: SAVED_MAX,
            }),
        }
    }
}

impl Hedge {
    /// The answer to `request`, which is made twice if the first is late and second ones are
    /// allowed. An error of one leaves the other its chance.
    pub(super) async fn first<T, E, F>(&self, request: impl Fn() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let since = Instant::now();
        let mut first = pin!(request());
        let answer = match tokio::time::timeout(self.after(), &mut first).await {
            Ok(answer) => answer,
            Err(_) if !self.state().take() => first.await,
            Err(_) => match select(first, pin!(request())).await {
                Either::Left((Ok(answer), _)) | Either::Right((Ok(answer), _)) => Ok(answer),
                Either::Left((Err(_), second)) => second.await,
                Either::Right((Err(_), first)) => first.await,
            },
        };
        if answer.is_ok() {
            self.state().note(since.elapsed());
        }
        answer
    }

    fn after(&self) -> Duration {
        self.state().after()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn after(&self) -> Duration {
        if self.durations.len() < KNOWN_MIN {
            return AFTER.1;
        }
        let mut sorted = self.durations.clone();
        sorted.sort_unstable();
        let usual = sorted[sorted.len() * 95 / 100];
        usual.mul_f64(LATE).clamp(AFTER.0, AFTER.1)
    }

    fn note(&mut self, duration: Duration) {
        if self.durations.len() < REMEMBERED {
            self.durations.push(duration);
        } else {
            self.durations[self.next] = duration;
        }
        self.next = (self.next + 1) % REMEMBERED;
        self.saved = (self.saved + 1.0 / PER_HEDGE).min(SAVED_MAX);
    }

    fn take(&mut self) -> bool {
        let allowed = self.saved >= 1.0;
        if allowed {
            self.saved -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use futures::future::BoxFuture;
    use tokio::sync::Notify;

    use super::*;

    type Answer = BoxFuture<'static, Result<usize, ()>>;

    /// A hedge that has seen many requests of `usual`.
    fn used_to(usual: Duration) -> Hedge {
        let hedge = Hedge::default();
        for _ in 0..REMEMBERED {
            hedge.state().note(usual);
        }
        hedge
    }

    /// Request `n` is answered by `answers[n]`. Returns the answer and how many were made.
    async fn ask(hedge: &Hedge, answers: Vec<Answer>) -> (Result<usize, ()>, usize) {
        let made = AtomicUsize::new(0);
        let answers = Mutex::new(answers.into_iter());
        let request = || {
            made.fetch_add(1, Ordering::Relaxed);
            let next = answers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next();
            next.unwrap_or_else(|| pending().boxed())
        };
        let answer = hedge.first(request).await;
        (answer, made.into_inner())
    }

    fn at_once(answer: Result<usize, ()>) -> Answer {
        ready(answer).boxed()
    }

    #[tokio::test]
    async fn a_request_that_never_ends_is_made_again() {
        let hedge = used_to(Duration::ZERO);
        let answers = vec![pending().boxed(), at_once(Ok(1))];
        assert_eq!(ask(&hedge, answers).await, (Ok(1), 2));
        assert_eq!(
            ask(&hedge, vec![at_once(Ok(0))]).await,
            (Ok(0), 1),
            "others once"
        );
        assert_eq!(ask(&hedge, vec![at_once(Err(()))]).await, (Err(()), 1));
    }

    #[tokio::test]
    async fn an_error_of_one_leaves_the_other_its_chance() {
        let hedge = used_to(Duration::ZERO);
        // The first ends only after the second has failed.
        let failed = std::sync::Arc::new(Notify::new());
        let told = failed.clone();
        let first = async move {
            failed.notified().await;
            Ok(0)
        };
        let second = async move {
            told.notify_one();
            Err(())
        };
        assert_eq!(
            ask(&hedge, vec![first.boxed(), second.boxed()]).await,
            (Ok(0), 2)
        );
    }

    #[test]
    fn late_is_a_multiple_of_what_nearly_all_take_within_bounds() {
        let ms = Duration::from_millis;
        assert_eq!(Hedge::default().after(), AFTER.1, "nothing is known yet");
        assert_eq!(used_to(ms(300)).after(), ms(600));
        assert_eq!(used_to(ms(1)).after(), AFTER.0);
        assert_eq!(used_to(ms(9000)).after(), AFTER.1);
        let hedge = used_to(ms(300));
        for _ in 0..REMEMBERED / 100 {
            hedge.state().note(ms(60_000));
        }
        assert_eq!(hedge.after(), ms(600), "a straggler is not what is usual");
    }

    #[test]
    fn a_store_that_is_slow_for_everybody_is_asked_little_more_often() {
        let hedge = used_to(Duration::ZERO);
        let rounds = 400;
        let mut extra = 0;
        for _ in 0..rounds {
            extra += u32::from(hedge.state().take());
            hedge.state().note(Duration::ZERO);
        }
        let allowed = SAVED_MAX + f64::from(rounds) / PER_HEDGE;
        assert!(extra > 10 && f64::from(extra) <= allowed, "{extra} more");
    }
}
