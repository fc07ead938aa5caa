//! Works off a list of runs, a few at a time, and says how far it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ringmaster_proto::ErrorKind;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::{CliError, Exit};
use crate::output;
use crate::signals::Signals;

/// Runs `work` for every item, `jobs` at a time and in order, and hands each result to `finished`,
/// which says in a line what came of it. The first signal lets what runs end at a step boundary; the
/// second ends it at once. After an error nothing new is begun.
pub(super) async fn work_off<T, R, F>(
    items: Vec<T>,
    jobs: usize,
    work: impl Fn(T, CancellationToken) -> F,
    mut finished: impl FnMut(R) -> Result<String, CliError>,
) -> Result<Exit, CliError>
where
    R: Send + 'static,
    F: Future<Output = Result<Option<R>, CliError>> + Send + 'static,
{
    let mut signals = Signals::listen()?;
    let mut progress = Progress::new(items.len(), jobs);
    let mut waiting = VecDeque::from(items);
    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    let mut failed = None;
    loop {
        while !stop.is_cancelled() && running.len() < jobs {
            let Some(item) = waiting.pop_front() else {
                break;
            };
            running.spawn(work(item, stop.clone()));
        }
        tokio::select! {
            ended = running.join_next() => match ended.map(flat) {
                None => break,
                Some(Ok(Some(result))) => progress.finished(&finished(result)?),
                Some(Ok(None)) => stop.cancel(),
                Some(Err(error)) => {
                    stop.cancel();
                    failed.get_or_insert(error);
                }
            },
            () = signals.next() => {
                if stop.is_cancelled() {
                    running.shutdown().await;
                    break;
                }
                eprintln!("stopping; again to end at once. The same command goes on from here");
                stop.cancel();
            }
        }
    }
    match failed {
        Some(error) => Err(error),
        None if stop.is_cancelled() => Ok(Exit::Stopped),
        None => Ok(Exit::Done),
    }
}

fn flat<R>(
    ended: Result<Result<Option<R>, CliError>, tokio::task::JoinError>,
) -> Result<Option<R>, CliError> {
    let lost = |error| CliError::refused(ErrorKind::Internal, "bench", error, "please report it");
    ended.map_err(lost)?
}

/// Runs done, of how many, and how long the rest will take at this pace.
struct Progress {
    done: usize,
    total: usize,
    jobs: usize,
    started: Instant,
}

impl Progress {
    fn new(total: usize, jobs: usize) -> Self {
        Self {
            done: 0,
            total,
            jobs,
            started: Instant::now(),
        }
    }

    fn finished(&mut self, line: &str) {
        self.done += 1;
        let eta = output::duration(self.eta(self.started.elapsed()).as_secs_f64());
        eprintln!("{} of {}: {line}; eta {eta}", self.done, self.total);
    }

    /// The rest, if `done` runs took `elapsed`. Of what runs beside them half is done on average.
    fn eta(&self, elapsed: Duration) -> Duration {
        let left = self.total - self.done;
        let begun = left.min(self.jobs.saturating_sub(1)) as f64 / 2.0;
        elapsed.mul_f64((left as f64 - begun) / (self.done as f64 + begun))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn no_more_than_asked_for_runs_at_a_time_and_everything_runs() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = |item: usize, _| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(Some(item))
            }
        };
        let mut seen = Vec::new();
        let exit = work_off((0..7).collect(), 2, work, |item| {
            seen.push(item);
            Ok(String::new())
        });
        assert_eq!(exit.await.unwrap(), Exit::Done);
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
        assert!(most.load(Ordering::SeqCst) <= 2);
    }

    #[tokio::test]
    async fn nothing_begins_after_an_error() {
        let begun = std::cell::Cell::new(0);
        let work = |item: u32, _| {
            begun.set(begun.get() + 1);
            async move {
                match item {
                    1 => Err(CliError::invalid("1", "wrong", "none")),
                    item => Ok(Some(item)),
                }
            }
        };
        let result = work_off(vec![0, 1, 2, 3], 1, work, |_| Ok(String::new()));
        assert!(result.await.is_err());
        assert_eq!(begun.get(), 2);
    }

    #[test]
    fn the_rest_takes_as_long_as_what_was_done() {
        let progress = |done, jobs| Progress {
            done,
            total: 10,
            jobs,
            started: Instant::now(),
        };
        let minute = Duration::from_secs(60);
        assert_eq!(progress(5, 1).eta(minute), minute);
        assert_eq!(progress(10, 2).eta(minute), Duration::ZERO);
    }
}
