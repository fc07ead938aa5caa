//! What an undisturbed run comes to, and what no run may do.

use std::collections::BTreeMap;
use std::fmt;

use ringmaster_coordinator::record::GenerationRecord;
use ringmaster_coordinator::{StepLine, StoredCheckpoints};
use ringmaster_dataset::lanes_of_rank;
use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::{Generation, Rank, Step, WorldSize, keys};

use crate::random::mix;

/// A training state: how many steps it has seen, and everything that ever went into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Steps applied.
    pub(crate) step: u64,
    /// Of the whole past.
    pub(crate) digest: u64,
}

impl State {
    /// Before the first step.
    pub(crate) const INITIAL: Self = Self { step: 0, digest: 1 };

    /// One step further, by the sum of what the ranks contributed.
    pub(crate) fn after(self, sum: u64) -> Self {
        Self {
            step: self.step + 1,
            digest: mix(self.digest ^ mix(self.step) ^ sum),
        }
    }

    /// The digest as workers report it.
    pub(crate) fn hex(self) -> String {
        format!("{:064x}", self.digest)
    }
}

/// What one rank adds to the sum of a step: its lanes, each of which adds its own number.
pub(crate) fn contribution(step: u64, lanes: u32, rank: u32, world: u32) -> u64 {
    let lane = |lane: u32| mix(mix(step) ^ u64::from(lane));
    lanes_of_rank(lanes, Rank(rank), WorldSize(world))
        .map(lane)
        .fold(0, u64::wrapping_add)
}

/// The loss of a step, which is reduced like the gradients: equal on all ranks.
pub(crate) fn loss(sum: u64) -> f64 {
    (mix(sum) >> 12) as f64
}

/// Something that no run may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Sees everything that happens, and says when something must not.
#[derive(Debug)]
pub(crate) struct Oracle {
    /// The state after each step, by one rank that nobody disturbs.
    states: Vec<State>,
    /// The loss of each of its steps.
    losses: Vec<f64>,
    /// Every generation in the journal.
    durable: BTreeMap<u64, GenerationRecord>,
    /// `metrics.jsonl`: the loss of each step from the first on.
    lines: Vec<Option<f64>>,
    /// A state was spoiled, so that wrong ones are to be expected, for a while.
    corrupted: bool,
    /// Checkpoints that are not what was written: folder, generation, step.
    damaged: Vec<(String, Generation, Step)>,
    /// The run failed, and had to.
    failed: bool,
    violation: Option<Violation>,
}

impl Oracle {
    /// For a run of `steps` steps on `lanes` lanes.
    pub(crate) fn new(steps: u64, lanes: u32) -> Self {
        let (mut states, mut losses) = (vec![State::INITIAL], Vec::new());
        for step in 0..steps {
            let sum = contribution(step, lanes, 0, 1);
            states.push(states[step as usize].after(sum));
            losses.push(loss(sum));
        }
        Self {
            states,
            losses,
            durable: BTreeMap::new(),
            lines: Vec::new(),
            corrupted: false,
            damaged: Vec::new(),
            failed: false,
            violation: None,
        }
    }

    /// The first thing that must not have happened.
    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Something happened that must not.
    pub(crate) fn object(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert(Violation(what.into()));
    }

    /// Steps on record so far.
    pub(crate) fn recorded(&self) -> u64 {
        self.lines.len() as u64
    }

    /// The newest step in `metrics.jsonl`.
    pub(crate) fn last_line(&self) -> u64 {
        self.recorded()
    }

    /// Whether `state` is one of the undisturbed run's.
    pub(crate) fn knows(&self, state: State) -> bool {
        self.states.get(state.step as usize) == Some(&state)
    }

    /// The digest of the undisturbed run after `step`.
    pub(crate) fn digest(&self, step: u64) -> String {
        let state = self.states.get(step as usize);
        state.map_or_else(String::new, |state| state.hex())
    }

    /// Whether `digest` is that of the undisturbed run after `step`.
    pub(crate) fn is_digest(&self, step: u64, digest: &str) -> bool {
        let state = self.states.get(step as usize);
        state.is_some_and(|state| state.hex() == digest)
    }

    /// The loss of the undisturbed run's step.
    pub(crate) fn loss(&self, step: u64) -> Option<f64> {
        let before = usize::try_from(step).ok()?.checked_sub(1)?;
        self.losses.get(before).copied()
    }

    /// A worker applied a step.
    pub(crate) fn applied(&mut self, who: &str, state: State) {
        if !self.corrupted && !self.knows(state) {
            self.object(format!(
                "{who} holds step {} with a state that no undisturbed run has",
                state.step
            ));
        }
    }

    /// A generation is in the journal.
    pub(crate) fn recorded_generation(&mut self, record: GenerationRecord) {
        let number = record.generation.0;
        if let Some(other) = self.durable.insert(number, record.clone())
            && other != record
        {
            self.object(format!("generation {number} was recorded twice"));
        }
    }

    /// A worker heard of a generation.
    pub(crate) fn heard_generation(&mut self, number: u64, members: &[String]) {
        let recorded = self.durable.get(&number).map(|record| {
            let members = record.members.iter();
            members.map(ToString::to_string).collect::<Vec<_>>()
        });
        match recorded {
            None => self.object(format!(
                "generation {number} was heard of before its record"
            )),
            Some(recorded) if recorded != members => {
                self.object(format!("generation {number} has two memberships"));
            }
            Some(_) => {}
        }
    }

    /// A step was put on record, as `metrics.jsonl` takes it: later ones only.
    pub(crate) fn line(&mut self, line: &StepLine) {
        if line.step <= self.last_line() {
            return;
        }
        if line.step != self.last_line() + 1 {
            let last = self.last_line();
            self.object(format!("step {} is on record after step {last}", line.step));
        }
        self.lines.push(line.loss);
    }

    /// Steps after this one are no longer on record.
    pub(crate) fn forget(&mut self, after: u64) {
        self.lines
            .truncate(usize::try_from(after).unwrap_or(usize::MAX));
    }

    /// A state was spoiled.
    pub(crate) fn corrupted(&mut self) {
        self.corrupted = true;
    }

    /// A checkpoint was damaged.
    pub(crate) fn damaged(&mut self, folder: String, generation: Generation, step: Step) {
        self.damaged.push((folder, generation, step));
    }

    /// The run failed. It may only if `stored` has no checkpoint of the surviving past that is whole, and
    /// has to say which are not.
    pub(crate) fn fails(&mut self, message: &str, stored: &StoredCheckpoints) {
        let past = self.durable.values();
        let survived = |generation: Generation, step: Step| {
            let mut later = past.clone().filter(|record| record.generation > generation);
            later.all(|record| record.resume.step >= step)
        };
        let folder = |m: &CheckpointManifest| keys::checkpoint(m.generation, m.step, &m.digest);
        let is_whole = |m: &&CheckpointManifest| {
            let folder = folder(m);
            !self.damaged.iter().any(|(damaged, ..)| *damaged == folder)
        };
        let complete = stored.complete.iter();
        let mut usable = complete.clone().filter(|m| survived(m.generation, m.step));
        let whole = usable.find(is_whole).map(folder);
        // Retention may have deleted it.
        let broken = stored.broken.iter().map(|broken| broken.folder.clone());
        let there: Vec<String> = complete.map(folder).chain(broken).collect();
        let unnamed = self.damaged.iter().find(|(folder, generation, step)| {
            let counts = there.contains(folder) && survived(*generation, *step);
            counts && !message.contains(folder.as_str())
        });
        if self.damaged.is_empty() {
            self.object(format!("the run failed: {message}"));
        } else if let Some(whole) = whole {
            self.object(format!("the run failed, and {whole} is whole: {message}"));
        } else if let Some((folder, ..)) = unnamed.cloned() {
            self.object(format!(
                "the run failed and names {folder} nowhere: {message}"
            ));
        }
        self.failed = true;
    }

    /// The run is over: what is on record is what the undisturbed run has.
    pub(crate) fn close(&mut self) {
        let steps = self.losses.len() as u64;
        if self.recorded() != steps && !self.failed {
            let recorded = self.recorded();
            self.object(format!(
                "{recorded} of {steps} steps are on record at the end"
            ));
        }
        let mut pairs = self.lines.iter().zip(&self.losses);
        if let Some(step) = pairs.position(|(line, loss)| *line != Some(*loss)) {
            let step = step + 1;
            let text = format!("the loss of step {step} on record is not the undisturbed run's");
            self.object(text);
        }
    }
}
