//! What is known of a run from its events: pure.

use std::collections::BTreeMap;

use ringmaster_proto::v1::{StepDone, WorkerStep};

use crate::output::duration;

/// Weight of the newest step in the running averages: about the last ten steps count.
const NEWEST: f64 = 0.1;

/// Latest news and running averages of one worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerTally {
    /// Rank in the newest generation it was seen in.
    pub(crate) rank: u32,
    /// Steps applied.
    pub(crate) step: u64,
    /// Mean token loss over the global batch, nats.
    pub(crate) loss: f64,
    rows: f64,
    step_seconds: f64,
    data_seconds: f64,
    exposed_seconds: f64,
}

impl WorkerTally {
    fn record(&mut self, rank: u32, done: &StepDone) {
        let weight = if self.step_seconds == 0.0 {
            1.0
        } else {
            NEWEST
        };
        let blend = |old: &mut f64, new: f64| *old += weight * (new - *old);
        blend(&mut self.rows, done.own_rows as f64);
        blend(&mut self.step_seconds, done.step_seconds);
        blend(&mut self.data_seconds, done.data_seconds);
        blend(&mut self.exposed_seconds, done.exposed_seconds);
        (self.rank, self.step, self.loss) = (rank, done.step, done.loss);
    }

    /// Examples this worker feeds forward per second.
    pub(crate) fn examples_per_second(&self) -> f64 {
        ratio(self.rows, self.step_seconds)
    }

    /// Share of its time spent waiting for data, 0 to 1.
    pub(crate) fn data_share(&self) -> f64 {
        ratio(self.data_seconds, self.step_seconds)
    }

    /// Share of its time spent waiting for the all-reduce, 0 to 1.
    pub(crate) fn exposed_share(&self) -> f64 {
        ratio(self.exposed_seconds, self.step_seconds)
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "step {}  loss {:.4}  {:.0} examples/s  data wait {:.0}%  all-reduce wait {:.0}%",
            self.step,
            self.loss,
            self.examples_per_second(),
            100.0 * self.data_share(),
            100.0 * self.exposed_share(),
        )
    }
}

/// The whole run.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunTally {
    /// Steps the run has in all.
    pub(crate) total_steps: u64,
    /// Steps applied.
    pub(crate) step: u64,
    /// Loss at the newest step.
    pub(crate) loss: f64,
    generation: u64,
    workers: BTreeMap<String, WorkerTally>,
}

impl RunTally {
    /// Nothing known yet.
    pub(crate) fn new(total_steps: u64) -> Self {
        Self {
            total_steps,
            ..Self::default()
        }
    }

    /// Takes in one worker's step; true if it is the first of the run seen here.
    pub(crate) fn record(&mut self, event: &WorkerStep) -> bool {
        let Some(done) = &event.step else {
            return false;
        };
        if event.generation > self.generation {
            // Who was in the old generation may not be in this one.
            self.generation = event.generation;
            self.workers.clear();
        }
        let first = self.step == 0;
        let worker = self.workers.entry(event.worker_id.clone()).or_default();
        worker.record(event.rank, done);
        if done.step >= self.step {
            (self.step, self.loss) = (done.step, done.loss);
        }
        first
    }

    /// Workers of the newest generation, by name.
    pub(crate) fn workers(&self) -> impl Iterator<Item = (&str, &WorkerTally)> {
        self.workers
            .iter()
            .map(|(name, tally)| (name.as_str(), tally))
    }

    /// One worker of the newest generation.
    pub(crate) fn worker(&self, name: &str) -> Option<&WorkerTally> {
        self.workers.get(name)
    }

    /// Seconds until the last step at the present pace, if it is known.
    pub(crate) fn eta_seconds(&self) -> Option<f64> {
        let slowest = self
            .workers
            .values()
            .map(|worker| worker.step_seconds)
            .fold(0.0, f64::max);
        (slowest > 0.0).then(|| self.total_steps.saturating_sub(self.step) as f64 * slowest)
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let rate: f64 = self
            .workers
            .values()
            .map(WorkerTally::examples_per_second)
            .sum();
        let most = |share: fn(&WorkerTally) -> f64| {
            100.0 * self.workers.values().map(share).fold(0.0, f64::max)
        };
        let eta = self.eta_seconds().map_or_else(|| "?".to_owned(), duration);
        format!(
            "step {}/{}  loss {:.4}  {rate:.0} examples/s  {} workers  data wait {:.0}%  \
             all-reduce wait {:.0}%  eta {eta}",
            self.step,
            self.total_steps,
            self.loss,
            self.workers.len(),
            most(WorkerTally::data_share),
            most(WorkerTally::exposed_share),
        )
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(worker: &str, generation: u64, step: u64, seconds: f64) -> WorkerStep {
        let done = StepDone {
            step,
            loss: 2.0,
            own_rows: 32,
            step_seconds: seconds,
            data_seconds: seconds / 32.0,
            exposed_seconds: seconds / 4.0,
            ..StepDone::default()
        };
        WorkerStep {
            worker_id: worker.into(),
            rank: 0,
            generation,
            step: Some(done),
        }
    }

    #[test]
    fn rates_are_those_of_a_steady_worker() {
        let mut tally = RunTally::new(110);
        for step in 1..=10 {
            tally.record(&event("a", 1, step, 0.5));
        }
        let line = tally.line();
        assert!(
            line.contains("64 examples/s") && line.contains("all-reduce wait 25%"),
            "{line}"
        );
        assert_eq!(tally.eta_seconds(), Some(50.0));
    }

    #[test]
    fn the_wait_for_data_is_shown_as_a_share_of_the_step() {
        let mut tally = RunTally::new(110);
        tally.record(&event("a", 1, 1, 0.5));
        let of_worker = tally.worker("a").map(WorkerTally::line).unwrap_or_default();
        for line in [of_worker, tally.line()] {
            assert!(line.contains("data wait 3%"), "{line}");
        }
        let waiting = StepDone {
            step: 1,
            step_seconds: 2.0,
            data_seconds: 1.0,
            ..StepDone::default()
        };
        tally.record(&WorkerStep {
            step: Some(waiting),
            ..event("b", 1, 1, 2.0)
        });
        let line = tally.line();
        assert!(
            line.contains("data wait 50%"),
            "everybody waits for the one that waits most: {line}"
        );
        assert_eq!(WorkerTally::default().data_share(), 0.0, "before any step");
    }

    #[test]
    fn the_slowest_worker_sets_the_pace() {
        let mut tally = RunTally::new(11);
        tally.record(&event("a", 1, 1, 0.5));
        tally.record(&event("b", 1, 1, 2.0));
        assert_eq!(tally.eta_seconds(), Some(20.0));
    }

    #[test]
    fn a_new_generation_forgets_who_left() {
        let mut tally = RunTally::default();
        tally.record(&event("a", 1, 5, 0.5));
        tally.record(&event("b", 2, 5, 0.5));
        assert_eq!(
            tally.workers().map(|(name, _)| name).collect::<Vec<_>>(),
            ["b"]
        );
        assert_eq!(tally.step, 5, "the run keeps its place");
    }
}
