//! Which generation fed which rows: a function of the journal.
//!
//! Generation g owns the steps from the one after its resume point to the resume point of the next;
//! where several cover a step, the last of them does. A step's line comes from its owner. A generation
//! that was recorded and never trained may own steps that an earlier one had done and somebody still
//! remembered: once a later generation resumes behind them, the earlier one's word stands.

use std::collections::BTreeMap;

use ringmaster_proto::{Generation, Step};
use serde::{Deserialize, Serialize};

use crate::metrics_log::StepLine;

/// Lines that may wait for those before them, or for their owner's.
const WAITING_MAX: usize = 65_536;

/// One step of `ledger.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerLine {
    /// Steps applied after this one.
    pub step: u64,
    /// Generation that owns it.
    pub generation: u64,
    /// Rows fed forward, all ranks.
    pub rows: u64,
    /// Wrapping sum of hash(epoch, pass, row) over those rows, 16 hexadecimal digits.
    pub row_hash: String,
    /// Rows that were not, since their content was refused.
    pub quarantined: u64,
}

impl From<&StepLine> for LedgerLine {
    fn from(line: &StepLine) -> Self {
        Self {
            step: line.step,
            generation: line.generation,
            rows: line.rows,
            row_hash: line.row_hash.clone(),
            quarantined: line.bad_rows,
        }
    }
}

/// Who owns which steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners(Vec<(Generation, Step)>);

impl Owners {
    /// From the resume points in the journal, in order.
    pub fn new(lineage: &[(Generation, Step)]) -> Self {
        let mut owners = Self::default();
        for (generation, resume) in lineage {
            owners.push(*generation, *resume);
        }
        owners
    }

    fn push(&mut self, generation: Generation, resume: Step) {
        // Those that own nothing any more are forgotten, so that a long life stays small.
        self.0.retain(|(_, earlier)| *earlier < resume);
        self.0.push((generation, resume));
    }

    /// The owner of the step that makes `step` steps; none if the run began later.
    pub fn of(&self, step: Step) -> Option<Generation> {
        let before = self.0.partition_point(|(_, resume)| *resume < step);
        self.0[..before].last().map(|(generation, _)| *generation)
    }

    /// Where the newest generation resumed.
    fn resumed(&self) -> Step {
        self.0.last().map_or(Step(0), |(_, resume)| *resume)
    }
}

/// Decides which lines are on record. It tells what to write; whoever keeps the file writes it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    owners: Owners,
    last: u64,
    /// Lines by step, of the newest generation that told of it.
    waiting: BTreeMap<u64, LedgerLine>,
}

impl Ledger {
    /// An empty one for a run with this past.
    pub(crate) fn new(lineage: &[(Generation, Step)]) -> Self {
        Self {
            owners: Owners::new(lineage),
            last: lineage.first().map_or(0, |(_, began)| began.0),
            ..Self::default()
        }
    }

    /// The newest step on record.
    pub(crate) fn last(&self) -> Step {
        Step(self.last)
    }

    /// Whether `line`, the next one in the file, is on record.
    pub(crate) fn stands(&mut self, line: &LedgerLine) -> bool {
        let owner = self.owners.of(Step(line.step));
        let stands = line.step == self.last + 1 && owner == Some(Generation(line.generation));
        self.last += u64::from(stands);
        stands
    }

    /// A generation is recorded; steps after `resume` are no longer on record.
    pub(crate) fn began(&mut self, generation: Generation, resume: Step) {
        // A run begins where its first generation does, which may be where another run was.
        if self.owners.0.is_empty() {
            self.last = resume.0;
        }
        self.owners.push(generation, resume);
        self.last = self.last.min(resume.0);
    }

    /// A step was told of, or taken off the record. Returns the lines to write.
    pub(crate) fn take(&mut self, line: LedgerLine) -> Vec<LedgerLine> {
        let newer = |known: &LedgerLine| known.generation > line.generation;
        if line.step > self.last && !self.waiting.get(&line.step).is_some_and(newer) {
            self.waiting.insert(line.step, line);
        }
        let ready = self.ready();
        while self.waiting.len() > WAITING_MAX {
            self.waiting.pop_last();
        }
        ready
    }

    /// Lines whose turn it is.
    fn ready(&mut self) -> Vec<LedgerLine> {
        let mut ready = Vec::new();
        self.waiting = self.waiting.split_off(&(self.last + 1));
        while let Some(mut line) = self.waiting.remove(&(self.last + 1)) {
            let step = Step(line.step);
            let owner = self
                .owners
                .of(step)
                .map_or(line.generation, |owner| owner.0);
            // What no generation can do any more is settled by whoever did it last.
            if line.generation != owner && step > self.owners.resumed() {
                self.waiting.insert(line.step, line);
                break;
            }
            line.generation = owner;
            self.last = line.step;
            ready.push(line);
        }
        ready
    }
}

/// What stands in for the file in tests of whoever tells the ledger.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct OnRecord {
    ledger: Ledger,
    pub(crate) lines: Vec<LedgerLine>,
}

#[cfg(test)]
impl OnRecord {
    /// See [`Ledger::take`].
    pub(crate) fn take(&mut self, line: LedgerLine) {
        self.lines.extend(self.ledger.take(line));
    }

    /// See [`Ledger::began`].
    pub(crate) fn began(&mut self, generation: Generation, resume: Step) {
        self.ledger.began(generation, resume);
        let kept = self.lines.len().min(resume.0 as usize);
        let cut = self.lines.split_off(kept);
        cut.into_iter().for_each(|line| self.take(line));
    }

    /// As a coordinator finds it that comes into office.
    fn reopen(&mut self, lineage: &[(Generation, Step)]) {
        self.ledger = Ledger::new(lineage);
        let stands = |line: &&LedgerLine| self.ledger.stands(line);
        let kept = self.lines.iter().take_while(stands).count();
        let cut = self.lines.split_off(kept);
        cut.into_iter().for_each(|line| self.take(line));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(step: u64, generation: u64) -> LedgerLine {
        LedgerLine {
            step,
            generation,
            rows: step * 1000 + generation,
            row_hash: String::new(),
            quarantined: 0,
        }
    }

    proptest! {
        /// Any past of generations that resume where an earlier one was, told by several ranks, in part
        /// twice or late, to coordinators that die at any time. The oracle is the rule: the last
        /// generation that covers a step owns it, and told of it.
        #[test]
        fn each_step_is_on_record_once_and_of_its_owner(
            lives in prop::collection::vec((0u64..9, 0u64..5, any::<bool>(), any::<bool>()), 1..12),
        ) {
            let (mut record, mut lineage) = (OnRecord::default(), Vec::new());
            let (mut reached, mut told): (u64, Vec<LedgerLine>) = (0, Vec::new());
            for (generation, (steps, back, dies_before, dies_after)) in (1..).zip(lives) {
                let resume = reached.saturating_sub(back);
                lineage.push((Generation(generation), Step(resume)));
                if dies_before {
                    record.reopen(&lineage);
                } else {
                    record.began(Generation(generation), Step(resume));
                }
                for step in resume + 1..=resume + steps {
                    told.push(line(step, generation));
                    // A rank that is a step behind says what was heard already.
                    let late = step.saturating_sub(1).max(resume + 1);
                    record.take(line(step, generation));
                    record.take(line(late, generation));
                }
                reached = resume + steps;
                if dies_after {
                    record.reopen(&lineage);
                    told.iter().for_each(|line| record.take(line.clone()));
                }
            }
            let owner = |step: u64| {
                let covers = |(_, resume): &&(Generation, Step)| resume.0 < step;
                lineage.iter().rfind(covers).map_or(0, |(generation, _)| generation.0)
            };
            // What only an earlier generation reached is off the record.
            let expected: Vec<LedgerLine> = (1..=reached).map(|step| line(step, owner(step))).collect();
            prop_assert_eq!(&record.lines, &expected);
            prop_assert_eq!(record.ledger.last(), Step(reached));
        }
    }

    #[test]
    fn a_step_that_its_owner_found_done_is_told_by_who_did_it() {
        let mut record = OnRecord::default();
        record.began(Generation(1), Step(0));
        (1..=8).for_each(|step| record.take(line(step, 1)));
        // Nobody remembers more than a checkpoint; then somebody who does comes back.
        record.began(Generation(2), Step(5));
        assert_eq!(record.lines.len(), 5);
        record.began(Generation(3), Step(8));
        record.take(line(9, 3));
        let told: Vec<(u64, u64)> = record
            .lines
            .iter()
            .map(|l| (l.generation, l.rows))
            .collect();
        let by = |step: u64, generation: u64| step * 1000 + generation;
        assert_eq!(told[4..6], [(1, by(5, 1)), (2, by(6, 1))]);
        assert_eq!(told[7..], [(2, by(8, 1)), (3, by(9, 3))]);
    }
}
