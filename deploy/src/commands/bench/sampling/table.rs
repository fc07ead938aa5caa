//! The table over all seeds, in Markdown, as JSON and on a terminal.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::curve::{loss_at, steps_to};
use super::row::Row;
use super::{RULES, UNIFORM};
use crate::commands::bench::figures::{deviation, markdown, mean, spread};
use crate::error::CliError;
use crate::output;

/// After which shares of its steps the losses of `uniform` are targets.
const TARGETS: [f64; 3] = [0.5, 0.75, 1.0];

const COLUMNS: [&str; 7] = [
    "rule",
    "runs",
    "hard loss, nats/token",
    "easy loss, nats/token",
    "steps to uniform's at 50%, %",
    "at 75%, %",
    "at its end, %",
];

/// Every rule that has runs.
pub(super) struct Table {
    rules: Vec<Outcome>,
}

/// What came of one rule.
struct Outcome {
    name: &'static str,
    hard_losses: Vec<f64>,
    easy_losses: Vec<f64>,
    /// For each target, the steps that each run needed, as a share of what `uniform` with the same
    /// seed needed; runs that never got there are missing.
    shares: [Vec<f64>; TARGETS.len()],
}

/// One rule over its seeds; its field names are a contract. Shares are of the steps of `uniform` to
/// its own loss after half, three quarters and all of its steps.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    rule: &'static str,
    runs: usize,
    hard_loss_mean: f64,
    easy_loss_mean: f64,
    reached: [usize; TARGETS.len()],
    steps_share_mean: [f64; TARGETS.len()],
    steps_share_deviation: [f64; TARGETS.len()],
}

impl Table {
    /// Of these rows.
    pub(super) fn of(rows: &[Row]) -> Self {
        let rules = RULES.iter().map(|rule| Outcome::of(rule.name, rows));
        Self {
            rules: rules.filter(|rule| !rule.hard_losses.is_empty()).collect(),
        }
    }

    /// Writes `sampling.md` into `folder`.
    pub(super) fn write(&self, folder: &Path, heading: &str) -> Result<(), CliError> {
        let path = folder.join("sampling.md");
        let table = markdown(&COLUMNS, &self.rows());
        let notes = "Losses are of held-out rows at the end. Steps are those until the held-out loss \
                     of the hard objective first comes down to what `uniform` with the same seed had \
                     after half, three quarters and all of its steps, in percent of what `uniform` \
                     needs for the same. Mean ± sample standard deviation over the seeds; in \
                     parentheses how many runs got there, if not all.";
        let text = format!("# Sampling of objectives\n\n{heading}\n\n{table}\n{notes}\n");
        fs::write(&path, text).map_err(|error| CliError::file(&path, &error))
    }

    /// Prints it for people.
    pub(super) fn print(&self) {
        output::table(&COLUMNS, &self.rows());
    }

    /// One object per rule.
    pub(super) fn summaries(&self) -> Vec<Summary> {
        self.rules.iter().map(Outcome::summary).collect()
    }

    fn rows(&self) -> Vec<Vec<String>> {
        self.rules.iter().map(Outcome::cells).collect()
    }
}

impl Outcome {
    fn of(name: &'static str, rows: &[Row]) -> Self {
        let mut outcome = Self {
            name,
            hard_losses: Vec::new(),
            easy_losses: Vec::new(),
            shares: Default::default(),
        };
        let mut seeds: Vec<u64> = rows.iter().map(|row| row.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        for seed in seeds {
            let points = |rule: &str| -> Vec<&Row> {
                let of = |row: &&Row| row.rule == rule && row.seed == seed;
                let mut points: Vec<&Row> = rows.iter().filter(of).collect();
                points.sort_by_key(|row| row.step);
                points
            };
            let own = points(name);
            let Some(last) = own.last() else { continue };
            outcome.hard_losses.push(last.hard_loss);
            outcome.easy_losses.push(last.easy_loss);
            let (own, uniform) = (hard(&own), hard(&points(UNIFORM)));
            for (shares, target) in outcome.shares.iter_mut().zip(TARGETS) {
                shares.extend(share(&own, &uniform, target));
            }
        }
        outcome
    }

    fn cells(&self) -> Vec<String> {
        let runs = self.hard_losses.len();
        let losses = [&self.hard_losses, &self.easy_losses];
        let mut cells = vec![self.name.to_owned(), runs.to_string()];
        cells.extend(losses.map(|losses| spread(losses, 1.0, 4)));
        cells.extend(self.shares.iter().map(|shares| {
            let text = spread(shares, 100.0, 0);
            match shares.len() {
                all if all == runs => text,
                some => format!("{text} ({some} of {runs})"),
            }
        }));
        cells
    }

    fn summary(&self) -> Summary {
        let of = |figure: fn(&[f64]) -> f64| std::array::from_fn(|i| figure(&self.shares[i]));
        Summary {
            rule: self.name,
            runs: self.hard_losses.len(),
            hard_loss_mean: mean(&self.hard_losses),
            easy_loss_mean: mean(&self.easy_losses),
            reached: std::array::from_fn(|i| self.shares[i].len()),
            steps_share_mean: of(mean),
            steps_share_deviation: of(deviation),
        }
    }
}

/// The hard objective's curve.
fn hard(points: &[&Row]) -> Vec<(u64, f64)> {
    points.iter().map(|row| (row.step, row.hard_loss)).collect()
}

/// Steps of `own` to the loss that `uniform` has after the share `target` of its steps, in those of
/// `uniform`.
fn share(own: &[(u64, f64)], uniform: &[(u64, f64)], target: f64) -> Option<f64> {
    let loss = loss_at(uniform, target)?;
    Some(steps_to(own, loss)? / steps_to(uniform, loss)?)
}
