//! Whether a process that died is started again: pure.

use ringmaster_proto::Step;

/// Starts without a step in between after which a process is given up.
pub(crate) const RESTARTS_MAX: u32 = 3;

/// The deaths of the coordinator, or of one worker slot.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    since_progress: u32,
    seen: Step,
}

/// What to do about a death, with the reason.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Start it again.
    Restart(String),
    /// Leave it dead.
    GiveUp(String),
}

impl Restarts {
    /// The process died when the run had applied `step` updates.
    pub(crate) fn died(&mut self, step: Step) -> Decision {
        if step > self.seen {
            self.seen = step;
            self.since_progress = 0;
        }
        self.since_progress += 1;
        let n = self.since_progress;
        if n <= RESTARTS_MAX {
            Decision::Restart(format!(
                "restart {n} of {RESTARTS_MAX} since the run last advanced"
            ))
        } else {
            Decision::GiveUp(format!("died {n} times while the run stood at step {step}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restarts(restarts: &mut Restarts, step: u64) -> bool {
        matches!(restarts.died(Step(step)), Decision::Restart(_))
    }

    #[test]
    fn a_worker_that_never_advances_the_run_is_given_up() {
        let mut worker = Restarts::default();
        let starts = (0..10).filter(|_| restarts(&mut worker, 5)).count();
        assert_eq!(starts, RESTARTS_MAX as usize);
    }

    #[test]
    fn progress_forgives() {
        let mut worker = Restarts::default();
        assert!((1..100).all(|step| restarts(&mut worker, step)));
    }
}
