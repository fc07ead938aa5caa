//! What a run told after a fault, and when: from that, how long each phase of its recovery took. Pure.

use ringmaster_proto::v1::watch_run_response::Event;
use serde::Serialize;

/// Seconds of each phase, in order; their sum is `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Phases {
    /// Until the coordinator knew.
    pub(super) detect: f64,
    /// Until every member had answered, and enough workers were there.
    pub(super) fence: f64,
    /// Until the next generation was durable.
    pub(super) journal: f64,
    /// Until the slowest rank's links stood.
    pub(super) connect: f64,
    /// Until the slowest rank had the state.
    pub(super) copy: f64,
    /// Until all had said so, and were told to train.
    pub(super) start: f64,
    /// Until the first step had its rows.
    pub(super) data: f64,
    /// Until that step was reported.
    pub(super) step: f64,
    /// All of them.
    pub(super) total: f64,
}

impl Phases {
    /// One after the other; their sum is the total.
    pub(super) fn in_order(&self) -> [f64; 8] {
        [
            self.detect,
            self.fence,
            self.journal,
            self.connect,
            self.copy,
            self.start,
            self.data,
            self.step,
        ]
    }
}

/// Events of one run, with the seconds since a fault.
#[derive(Debug)]
pub(super) struct Timeline {
    /// The generation in force when the fault happened.
    before: u64,
    detected: Option<f64>,
    fenced: Option<f64>,
    durable: Option<f64>,
    formed: Option<f64>,
    connect: f64,
    copy: f64,
}

impl Timeline {
    /// Begins with a fault in generation `before`.
    pub(super) fn new(before: u64) -> Self {
        Self {
            before,
            detected: None,
            fenced: None,
            durable: None,
            formed: None,
            connect: 0.0,
            copy: 0.0,
        }
    }

    /// Takes one event, `at` seconds after the fault. Returns the phases once the next generation has
    /// completed a step; a phase nobody was told of took no time.
    pub(super) fn take(&mut self, at: f64, event: &Event) -> Option<Phases> {
        match event {
            Event::Status(status) => {
                let newer = status.generation > self.before;
                match status.phase.as_str() {
                    "fencing" | "draining" if !newer => {
                        self.detected.get_or_insert(at);
                    }
                    "forming" if !newer => {
                        self.fenced.get_or_insert(at);
                    }
                    "forming" => {
                        self.durable.get_or_insert(at);
                    }
                    "training" if newer => {
                        self.formed.get_or_insert(at);
                        (self.connect, self.copy) = (status.connect_seconds, status.copy_seconds);
                    }
                    _ => {}
                }
                None
            }
            Event::Step(step) if step.generation > self.before => {
                let data = step.step.as_ref().map_or(0.0, |step| step.data_seconds);
                Some(self.phases(at, data))
            }
            _ => None,
        }
    }

    fn phases(&self, total: f64, data: f64) -> Phases {
        let formed = self.formed.unwrap_or(total);
        let durable = self.durable.unwrap_or(formed);
        let fenced = self.fenced.unwrap_or(durable);
        let detected = self.detected.unwrap_or(fenced);
        // What ranks say of themselves cannot be more than what was seen from here.
        let connect = self.connect.min(formed - durable);
        let copy = self.copy.min(formed - durable - connect);
        let data = data.min(total - formed);
        Phases {
            detect: detected,
            fence: fenced - detected,
            journal: durable - fenced,
            connect,
            copy,
            start: formed - durable - connect - copy,
            data,
            step: total - formed - data,
            total,
        }
    }
}

/// The middle of `values`; the lower one of two. 0 if there are none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len().saturating_sub(1) / 2;
    values.get(middle).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use ringmaster_proto::v1::{RunStatus, WorkerStep};

    use super::*;

    fn status(phase: &str, generation: u64) -> Event {
        Event::Status(RunStatus {
            phase: phase.to_owned(),
            generation,
            ..Default::default()
        })
    }

    fn step(generation: u64) -> Event {
        Event::Step(WorkerStep {
            generation,
            ..Default::default()
        })
    }

    #[test]
    fn phases_follow_each_other_and_add_up() {
        let mut timeline = Timeline::new(3);
        let trains = Event::Status(RunStatus {
            phase: "training".to_owned(),
            generation: 4,
            connect_seconds: 0.25,
            copy_seconds: 0.5,
            ..Default::default()
        });
        let told = [
            (0.1, step(3)),
            (0.2, status("fencing", 3)),
            (0.3, status("fencing", 3)),
            (0.5, status("gathering", 3)),
            (0.6, status("forming", 3)),
            (1.0, status("forming", 4)),
            (2.0, trains),
        ];
        for (at, event) in told {
            assert_eq!(timeline.take(at, &event), None);
        }
        let phases = timeline.take(2.5, &step(4)).unwrap_or_default();
        let sum: f64 = phases.in_order().iter().sum();
        assert!((sum - phases.total).abs() < 1e-9, "{phases:?}");
        let [_, fence, _, connect, copy, start, ..] = phases.in_order();
        let expected = [(fence, 0.4), (connect, 0.25), (copy, 0.5), (start, 0.25)];
        for (is, expected) in expected {
            assert!((is - expected).abs() < 1e-9, "{phases:?}");
        }
    }

    #[test]
    fn what_nobody_told_of_took_no_time() {
        let mut timeline = Timeline::new(1);
        assert_eq!(timeline.take(0.4, &status("draining", 1)), None);
        let phases = timeline.take(1.0, &step(2));
        let expected = Phases {
            detect: 0.4,
            total: 1.0,
            fence: 0.6,
            ..Default::default()
        };
        assert_eq!(phases, Some(expected));
    }

    #[test]
    fn a_median_is_one_of_the_values() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median([2.0, 1.0]) - 1.0).abs() < 1e-9);
        assert!(median([]) < 1e-9);
    }
}
