//! What each completed step came to, so that a redo can be held against it.

use std::collections::BTreeMap;

use ringmaster_proto::{Generation, Rank, Step};

/// How many steps are remembered; a redo further back is not compared.
const REMEMBERED_MAX: usize = 65_536;

/// One rank's word on one step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation<'a> {
    pub(super) generation: Generation,
    pub(super) rank: Rank,
    pub(super) step: Step,
    pub(super) loss: f64,
    /// Empty except at digest boundaries.
    pub(super) digest: &'a str,
}

/// What an observation tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody reported this step before.
    First,
    /// As reported before.
    Same,
    /// An earlier generation completed it too, and came to this instead, if to something else.
    Redone(Option<String>),
    /// Two ranks of one generation hold different states or losses.
    RanksDiffer(String, Rank),
}

struct Seen {
    generation: Generation,
    rank: Rank,
    loss: u64,
    digest: Option<(Generation, Rank, String)>,
}

/// The completed steps, newest kept.
#[derive(Default)]
pub(super) struct StepLog {
    seen: BTreeMap<Step, Seen>,
    highest: Step,
}

impl StepLog {
    /// A log that begins after `resumed`.
    pub(super) fn new(resumed: Step) -> Self {
        Self {
            seen: BTreeMap::new(),
            highest: resumed,
        }
    }

    /// The highest step ever completed.
    pub(super) fn highest(&self) -> Step {
        self.highest
    }

    /// Steps after `step` never happened.
    pub(super) fn forget_after(&mut self, step: Step) {
        self.seen.retain(|seen, _| *seen <= step);
        self.highest = self.highest.min(step);
    }

    /// Whether `step` was reported to this coordinator.
    pub(super) fn knows(&self, step: Step) -> bool {
        self.seen.contains_key(&step)
    }

    /// Takes one rank's word.
    pub(super) fn observe(&mut self, o: Observation<'_>) -> Verdict {
        let loss = o.loss.to_bits();
        let digest = || (!o.digest.is_empty()).then(|| (o.generation, o.rank, o.digest.to_owned()));
        let Some(seen) = self.seen.get_mut(&o.step) else {
            let first = Seen {
                generation: o.generation,
                rank: o.rank,
                loss,
                digest: digest(),
            };
            self.seen.insert(o.step, first);
            while self.seen.len() > REMEMBERED_MAX {
                self.seen.pop_first();
            }
            self.highest = self.highest.max(o.step);
            return Verdict::First;
        };
        let mut verdict = Verdict::Same;
        if seen.loss != loss {
            let was = f64::from_bits(seen.loss);
            let text = format!("loss {was} against {}", o.loss);
            verdict = differs(seen.generation, seen.rank, o.generation, text);
        }
        match &seen.digest {
            Some((generation, rank, was)) if !o.digest.is_empty() && was != o.digest => {
                let text = format!("digest {was} against {}", o.digest);
                verdict = differs(*generation, *rank, o.generation, text);
            }
            Some(_) => {}
            None => seen.digest = digest(),
        }
        if seen.generation != o.generation {
            // Later ranks are held against the redo, which is what counts from now on.
            (seen.generation, seen.rank, seen.loss) = (o.generation, o.rank, loss);
            seen.digest = digest();
            if verdict == Verdict::Same {
                verdict = Verdict::Redone(None);
            }
        }
        verdict
    }
}

fn differs(was_in: Generation, rank: Rank, now_in: Generation, text: String) -> Verdict {
    if was_in == now_in {
        Verdict::RanksDiffer(text, rank)
    } else {
        Verdict::Redone(Some(text))
    }
}
