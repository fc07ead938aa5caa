//! One point of one run's curve: a row of `sampling.csv`.

use std::collections::BTreeMap;

use ringmaster_proto::ErrorKind;

use super::Trial;
use crate::commands::bench::losses::Line;
use crate::error::CliError;

/// The columns of `sampling.csv`; a contract.
pub(super) const HEADER: &str = "rule,seed,steps,step,easy_loss,hard_loss,spec_hash";

/// Held-out losses, nats per target token, after `step` of the run's `steps`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) rule: String,
    pub(super) seed: u64,
    steps: u64,
    pub(super) step: u64,
    pub(super) easy_loss: f64,
    pub(super) hard_loss: f64,
    spec_hash: String,
}

impl Row {
    /// The curve of `trial` from what `bench losses` printed.
    pub(super) fn curve(trial: &Trial, said: &[String]) -> Result<Vec<Self>, CliError> {
        let wrong = |reason: String| {
            let thing = format!("losses of {}", trial.run.name());
            CliError::refused(ErrorKind::Internal, thing, reason, "please report it")
        };
        let mut losses = BTreeMap::<u64, BTreeMap<String, f64>>::new();
        for line in said {
            let line: Line = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
            let at = losses.entry(line.step).or_default();
            at.insert(line.objective, line.loss);
        }
        let rows = losses.into_iter().map(|(step, losses)| {
            let of = |name: &str| {
                let loss = losses.get(name).copied();
                loss.ok_or_else(|| wrong(format!("step {step} has none for {name}")))
            };
            Ok(Self {
                rule: trial.rule.name.to_owned(),
                seed: trial.run.seed,
                steps: trial.run.steps,
                step,
                easy_loss: of(&trial.easy)?,
                hard_loss: of(&trial.hard)?,
                spec_hash: trial.run.spec_hash(),
            })
        });
        rows.collect()
    }

    /// Whether it is a point of what `trial` would come to.
    pub(super) fn is_of(&self, trial: &Trial) -> bool {
        let run = &trial.run;
        (self.rule.as_str(), self.seed, self.steps) == (trial.rule.name, run.seed, run.steps)
            && self.spec_hash == run.spec_hash()
    }

    /// Whether it is the last point of it.
    pub(super) fn ends(&self, trial: &Trial) -> bool {
        self.step == self.steps && self.is_of(trial)
    }

    /// The cells, in the order of [`HEADER`].
    pub(super) fn cells(&self) -> Vec<String> {
        let numbers = [self.seed, self.steps, self.step].map(|n| n.to_string());
        let losses = [self.easy_loss, self.hard_loss].map(|loss| loss.to_string());
        let names = [self.rule.clone()].into_iter();
        let cells = names.chain(numbers).chain(losses);
        cells.chain([self.spec_hash.clone()]).collect()
    }

    /// Reads the rows of an earlier call.
    pub(super) fn parse_all(rows: &[Vec<String>]) -> Result<Vec<Self>, CliError> {
        let numbered = rows.iter().enumerate();
        let parsed = numbered.map(|(index, cells)| {
            Self::parse(cells).ok_or_else(|| {
                // Below the header, and people count from 1.
                let thing = format!("sampling.csv line {}", index + 2);
                let next = "mend or remove the line";
                CliError::refused(ErrorKind::Data, thing, "is no row of this table", next)
            })
        });
        parsed.collect()
    }

    fn parse(cells: &[String]) -> Option<Self> {
        let [rule, seed, steps, step, easy, hard, hash] = cells else {
            return None;
        };
        Some(Self {
            rule: rule.clone(),
            seed: seed.parse().ok()?,
            steps: steps.parse().ok()?,
            step: step.parse().ok()?,
            easy_loss: easy.parse().ok()?,
            hard_loss: hard.parse().ok()?,
            spec_hash: hash.clone(),
        })
    }

    /// What came of a run whose last point this is, for people.
    pub(super) fn line(&self) -> String {
        let Self {
            rule,
            seed,
            easy_loss,
            hard_loss,
            ..
        } = self;
        format!("{rule} with seed {seed} ends at {hard_loss:.4} hard, {easy_loss:.4} easy")
    }
}
