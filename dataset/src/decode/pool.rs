//! Decoders that take from one queue, each on a thread of its own: none waits for a picture that
//! another is busy with.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::Decoder;

/// As many decoders as threads. Dropping it waits until the queue is worked off.
pub(crate) struct DecoderPool<J> {
    queue: Option<Sender<J>>,
    threads: Vec<JoinHandle<()>>,
}

impl<J: Send + 'static> DecoderPool<J> {
    /// `threads` decoders, at least 1, as `decoder` makes them; each does `work` on one job after the
    /// other.
    pub(crate) fn start(
        threads: usize,
        decoder: impl Fn() -> Decoder,
        work: impl Fn(J, &mut Decoder) + Clone + Send + 'static,
    ) -> Self {
        let (queue, jobs) = channel();
        let jobs = Arc::new(Mutex::new(jobs));
        let start = |number: usize| {
            let (jobs, work, mut decoder) = (Arc::clone(&jobs), work.clone(), decoder());
            let work = move || {
                while let Some(job) = next(&jobs) {
                    work(job, &mut decoder);
                }
            };
            let thread = std::thread::Builder::new().name(format!("decoder-{number}"));
            // Without any thread nobody has the other end of the queue, and every job is dropped.
            thread.spawn(work).ok()
        };
        Self {
            threads: (0..threads.max(1)).filter_map(start).collect(),
            queue: Some(queue),
        }
    }

    /// Puts a job at the end of the queue. It is dropped where no thread is left.
    pub(crate) fn push(&self, job: J) {
        if let Some(queue) = &self.queue {
            let _ = queue.send(job);
        }
    }
}

impl<J> Drop for DecoderPool<J> {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            // Whoever waits for the job of a thread that panicked has been told by its drop.
            let _ = thread.join();
        }
    }
}

/// Who holds the lock waits for the next job, the others for the lock.
fn next<J>(jobs: &Mutex<Receiver<J>>) -> Option<J> {
    let jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
    jobs.recv().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Barrier;

    use super::*;

    #[test]
    fn every_job_is_done_once_whatever_the_number_of_threads() {
        for threads in [0, 1, 2, 5] {
            let (sender, done) = channel();
            let work = move |job: usize, _: &mut Decoder| sender.send(job * job).unwrap();
            let pool = DecoderPool::start(threads, || Decoder::new(1), work);
            (0..100).for_each(|job| pool.push(job));
            drop(pool);
            let mut done: Vec<usize> = done.into_iter().collect();
            done.sort_unstable();
            assert_eq!(done, (0..100).map(|job| job * job).collect::<Vec<_>>());
        }
    }

    /// The first two jobs wait for each other, so neither thread may wait for the other's.
    #[test]
    fn jobs_are_done_side_by_side() {
        let both = Arc::new(Barrier::new(2));
        let work = move |_: usize, _: &mut Decoder| {
            both.wait();
        };
        let pool = DecoderPool::start(2, || Decoder::new(1), work);
        (0..2).for_each(|job| pool.push(job));
    }

    #[test]
    fn a_job_that_panics_is_dropped_and_so_are_those_behind_it_with_no_thread_left() {
        let pool = DecoderPool::start(
            1,
            || Decoder::new(1),
            |job: Option<Sender<()>>, _: &mut Decoder| assert!(job.is_none(), "on purpose"),
        );
        let (sender, told) = channel();
        pool.push(Some(sender.clone()));
        pool.push(Some(sender));
        assert!(told.recv().is_err(), "nobody is left who could answer");
    }
}
