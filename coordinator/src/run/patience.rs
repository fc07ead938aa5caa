//! When to stop trying: the same place failing again and again is not bad luck.

use ringmaster_proto::{Generation, Step};

/// Failures reported by workers at one step before the run gives up.
const REPORTED_MAX: u32 = 3;

/// Generations lost at one step before the run gives up. Higher: machines do die, and some of the
/// deaths have nothing to do with the step.
const LOST_MAX: u32 = 20;

/// Counts what went wrong since the last progress.
#[derive(Debug, Default)]
pub(super) struct Patience {
    reported: u32,
    reported_in: Option<Generation>,
    lost: u32,
}

impl Patience {
    /// A step was completed that never was before.
    pub(super) fn progress(&mut self) {
        *self = Self::default();
    }

    /// A worker of `generation` reported a failure. Several failures of one generation are one
    /// attempt. Returns why to give up, if it is time.
    pub(super) fn reported(
        &mut self,
        generation: Generation,
        at: Step,
        message: &str,
    ) -> Option<String> {
        if self.reported_in != Some(generation) {
            self.reported_in = Some(generation);
            self.reported += 1;
        }
        (self.reported >= REPORTED_MAX).then(|| {
            format!(
                "no step after {at} was completed in {REPORTED_MAX} attempts; the last failure: \
                 {message}"
            )
        })
    }

    /// A generation ended in a fence. Returns why to give up, if it is time.
    pub(super) fn lost(&mut self, at: Step, reason: &str) -> Option<String> {
        self.lost += 1;
        (self.lost >= LOST_MAX).then(|| {
            format!(
                "no step after {at} was completed in {LOST_MAX} generations; the last one ended \
                 because {reason}; see the workers' logs"
            )
        })
    }
}
