//! What the trainer thread has to tell, told or not.
//!
//! A report that went out may never have arrived: the stream may break, the coordinator may die with
//! it unread. So what was told is remembered for a while, and told again when the worker attends
//! anew; every report may be heard twice.

use std::collections::VecDeque;

use ringmaster_proto::Generation;
use ringmaster_proto::v1::worker_report::Body;

/// Reports kept, told or not. Beyond that the oldest of what is only of interest goes first.
const REPORTS_MAX: usize = 16_384;

/// A report and the generation it is about.
type Report = (Generation, Body);

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    waiting: VecDeque<Report>,
    told: VecDeque<Report>,
}

impl Reports {
    /// Adds a report.
    pub fn put(&mut self, generation: Generation, body: Body) {
        self.waiting.push_back((generation, body));
        self.trim();
    }

    /// The next report in order.
    pub fn take(&mut self) -> Option<(Generation, Body)> {
        self.waiting.pop_front()
    }

    /// Remembers what was told, as it was told.
    pub fn told(&mut self, generation: Generation, body: Body) {
        self.told.push_back((generation, body));
        self.trim();
    }

    /// Forgets the oldest reports until few enough are left: told ones first, then those that nothing
    /// depends on.
    fn trim(&mut self) {
        while self.waiting.len() + self.told.len() > REPORTS_MAX {
            if self.told.pop_front().is_some() {
                continue;
            }
            let spare = |(_, body): &Report| matches!(body, Body::StepDone(_) | Body::Sample(_));
            let oldest = self.waiting.iter().position(spare).unwrap_or(0);
            self.waiting.remove(oldest);
        }
    }

    /// Puts back what the coordinator may not have heard: steps after `completed`, and, of the
    /// generation in force, the last report of each kind. `None`: this worker leaves its ring, and
    /// only steps still matter.
    pub fn rewind(&mut self, completed: u64, in_force: Option<Generation>) {
        let told: Vec<Report> = self.told.drain(..).collect();
        let superseded = |at: usize| {
            let kind = std::mem::discriminant(&told[at].1);
            let same = |(_, later): &Report| std::mem::discriminant(later) == kind;
            told[at + 1..].iter().any(same)
        };
        for at in (0..told.len()).rev() {
            let (generation, body) = &told[at];
            let again = match body {
                Body::StepDone(done) => done.step > completed,
                Body::Sample(_) => false,
                _ => in_force == Some(*generation) && !superseded(at),
            };
            if again {
                self.waiting.push_front((*generation, body.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_proto::v1;

    use super::*;

    const GENERATION: Generation = Generation(3);

    fn step(step: u64) -> Body {
        Body::StepDone(v1::StepDone {
            step,
            ..Default::default()
        })
    }

    fn part(step: u64) -> Body {
        Body::PartWritten(v1::PartWritten {
            step,
            ..Default::default()
        })
    }

    /// Takes and tells everything that waits.
    fn tell_all(reports: &mut Reports) -> Vec<Body> {
        let mut told = Vec::new();
        while let Some((generation, body)) = reports.take() {
            reports.told(generation, body.clone());
            told.push(body);
        }
        told
    }

    #[test]
    fn what_a_lost_coordinator_heard_is_told_again_in_order() {
        let mut reports = Reports::default();
        let all = [step(1), part(1), step(2), step(3), part(3), step(4)];
        for body in &all {
            reports.put(GENERATION, body.clone());
        }
        assert_eq!(tell_all(&mut reports), all);
        reports.rewind(2, Some(GENERATION));
        reports.put(GENERATION, step(5));
        let again = [step(3), part(3), step(4), step(5)];
        assert_eq!(tell_all(&mut reports), again);
        reports.rewind(0, Some(GENERATION));
        assert_eq!(
            tell_all(&mut reports),
            again,
            "what is on record is forgotten"
        );
    }

    #[test]
    fn of_a_ring_that_is_left_only_steps_are_told_again() {
        let mut reports = Reports::default();
        reports.put(GENERATION, part(1));
        reports.put(GENERATION, step(2));
        tell_all(&mut reports);
        reports.rewind(0, None);
        assert_eq!(tell_all(&mut reports), [step(2)]);
    }

    #[test]
    fn reports_are_bounded_and_what_matters_least_goes_first() {
        let mut reports = Reports::default();
        reports.put(GENERATION, part(0));
        for number in 0..REPORTS_MAX as u64 + 10 {
            reports.put(GENERATION, step(number));
        }
        let kept = tell_all(&mut reports);
        assert_eq!(kept.len(), REPORTS_MAX);
        assert_eq!(kept[..2], [part(0), step(11)]);
    }
}
