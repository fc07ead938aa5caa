//! The table over all seeds, in Markdown, as JSON and on a terminal.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::family::VARIANTS;
use super::row::{Measured, Row};
use crate::commands::bench::figures::{deviation, markdown, mean, spread};
use crate::error::CliError;
use crate::output;

/// The runs of every variant that has any, in the order of the family.
pub(super) struct Table<'a> {
    variants: Vec<Vec<&'a Row>>,
}

/// One variant over its seeds: means, and the accuracy's sample deviation; its field names are a
/// contract.
#[derive(Debug, Serialize)]
pub(super) struct Summary<'a> {
    variant: &'a str,
    runs: usize,
    params: u64,
    gflops_mac2: f64,
    peak_memory_bytes: f64,
    examples_per_second: f64,
    exact_match_mean: f64,
    exact_match_deviation: f64,
    shuffled_exact_match_mean: f64,
    caption_loss_mean: f64,
    core_seconds_mean: f64,
}

const COLUMNS: [&str; 10] = [
    "variant",
    "runs",
    "parameters, M",
    "GFLOPs (MAC = 2)",
    "peak memory, MB",
    "examples/s",
    "answers right, %",
    "with another's image, %",
    "caption loss, nats/token",
    "core seconds",
];

impl<'a> Table<'a> {
    /// Of these rows.
    pub(super) fn of(rows: &'a [Row]) -> Self {
        let of = |name| rows.iter().filter(move |row| row.variant == name);
        let variants = VARIANTS.iter().map(|variant| of(variant.name).collect());
        Self {
            variants: variants.filter(|rows: &Vec<_>| !rows.is_empty()).collect(),
        }
    }

    /// Writes `variants.md` into `folder`.
    pub(super) fn write(&self, folder: &Path, heading: &str) -> Result<(), CliError> {
        let path = folder.join("variants.md");
        let table = markdown(&COLUMNS, &self.rows());
        let notes = "Mean ± sample standard deviation over the seeds. GFLOPs are those of one \
                     example's forward pass at full text lengths.";
        let text = format!("# Fusion variants\n\n{heading}\n\n{table}\n{notes}\n");
        fs::write(&path, text).map_err(|error| CliError::file(&path, &error))
    }

    /// Prints it for people.
    pub(super) fn print(&self) {
        output::table(&COLUMNS, &self.rows());
    }

    /// One object per variant.
    pub(super) fn summaries(&self) -> Vec<Summary<'a>> {
        let all = self.variants.iter();
        all.filter_map(|rows| Summary::of(rows)).collect()
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let all = self.variants.iter();
        all.filter_map(|rows| cells(rows)).collect()
    }
}

fn cells(rows: &[&Row]) -> Option<Vec<String>> {
    let first = rows.first()?;
    Some(vec![
        first.variant.clone(),
        rows.len().to_string(),
        format!("{:.2}", first.params as f64 / 1e6),
        format!("{:.3}", first.gflops_mac2),
        spread(&bytes(rows), 1e-6, 0),
        spread(&of(rows, |m| m.examples_per_second), 1.0, 0),
        spread(&of(rows, |m| m.exact_match), 100.0, 1),
        spread(&of(rows, |m| m.shuffled_exact_match), 100.0, 1),
        spread(&of(rows, |m| m.caption_loss), 1.0, 3),
        spread(&of(rows, |m| m.core_seconds), 1.0, 0),
    ])
}

impl<'a> Summary<'a> {
    fn of(rows: &[&'a Row]) -> Option<Self> {
        let first = rows.first()?;
        let right = of(rows, |m| m.exact_match);
        Some(Self {
            variant: &first.variant,
            runs: rows.len(),
            params: first.params,
            gflops_mac2: first.gflops_mac2,
            peak_memory_bytes: mean(&bytes(rows)),
            examples_per_second: mean(&of(rows, |m| m.examples_per_second)),
            exact_match_mean: mean(&right),
            exact_match_deviation: deviation(&right),
            shuffled_exact_match_mean: mean(&of(rows, |m| m.shuffled_exact_match)),
            caption_loss_mean: mean(&of(rows, |m| m.caption_loss)),
            core_seconds_mean: mean(&of(rows, |m| m.core_seconds)),
        })
    }
}

/// One figure of every run that has it.
fn of(rows: &[&Row], figure: fn(&Measured) -> Option<f64>) -> Vec<f64> {
    let figures = rows.iter().filter_map(|row| figure(&row.measured));
    figures.collect()
}

fn bytes(rows: &[&Row]) -> Vec<f64> {
    of(rows, |m| m.peak_memory_bytes.map(|bytes| bytes as f64))
}
