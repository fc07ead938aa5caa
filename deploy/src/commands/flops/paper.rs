//! `flops --paper`: every model of the paper's tables, beside the published numbers.

use std::path::Path;

use ringmaster_model::{Cost, cost};
use ringmaster_proto::RunSpec;
use ringmaster_proto::spec::ModelSpec;
use serde::Serialize;

use super::{Component, TARGET_TOKENS, components, figure, gflops};
use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::progress::Stages;

/// What the paper calls the model's size, millions of parameters (section 4).
const PUBLISHED_PARAMS_MILLIONS: f64 = 350.0;

/// A published model: preset `base` with overrides. The paper states neither backbone nor depths;
/// `base` is the one set of sizes that fits its numbers best, and the depth of concat is part of it.
struct Published {
    table: &'static str,
    row: &'static str,
    sets: &'static [&'static str],
    /// GFLOPs as printed; none where the paper only discusses the variant.
    gflops: Option<f64>,
}

const fn published(
    table: &'static str,
    row: &'static str,
    sets: &'static [&'static str],
    gflops: f64,
) -> Published {
    Published {
        table,
        row,
        sets,
        gflops: Some(gflops),
    }
}

/// Tables 1 to 4 of arXiv 2305.19924 as far as they are our own models.
const ROWS: [Published; 25] = [
    published("1", "Ours-Base", &[], 38.9),
    published("1", "Ours: Base at 384 px", &["image_size=384"], 54.5),
    published("2", "Perceiver", &["fusion=perceiver"], 40.3),
    published("2", "Iterative Co-Tokenization", &["fusion=cotok"], 43.8),
    published("2", "Ours", &[], 38.9),
    published("3", "Concat", &["fusion=concat", "fusion_layers=16"], 58.4),
    published("3", "Ours, no gating", &["gating=false"], 38.9),
    published("3", "Ours", &[], 38.9),
    published("4a", "1 iteration", &["iterations=1"], 34.2),
    published("4a", "2 iterations", &["iterations=2"], 35.5),
    published("4a", "4 iterations", &[], 38.9),
    published("4a", "8 iterations", &["iterations=8"], 42.5),
    published("4b", "16 tokens", &["tokens=16"], 18.5),
    published("4b", "32 tokens", &["tokens=32"], 28.4),
    published("4b", "64 tokens", &[], 38.9),
    published("4b", "128 tokens", &["tokens=128"], 72.9),
    published("4c", "Spatial", &["resample=spatial"], 42.5),
    published("4c", "Latent", &[], 38.9),
    published("4d", "None", &["combine=none"], 38.9),
    published("4d", "Residual", &["combine=residual"], 38.9),
    published("4d", "Weighted", &[], 38.9),
    published("4e", "8 layers", &["fusion_layers=8"], 22.4),
    published("4e", "16 layers", &["fusion_layers=16"], 30.5),
    published("4e", "32 layers", &[], 38.9),
    Published {
        table: "-",
        row: "Cross-attention",
        sets: &["fusion=xattn"],
        gflops: None,
    },
];

/// A row of a table; the field names are a contract.
#[derive(Debug, Serialize)]
struct Row {
    table: &'static str,
    row: &'static str,
    /// What differs from the preset `base`.
    model: &'static [&'static str],
    published_gflops: Option<f64>,
    /// `gflops_mac2` minus the published number, percent of it.
    residual_percent: Option<f64>,
    params: u64,
    macs: u64,
    gflops_mac1: f64,
    gflops_mac2: f64,
    components: Vec<Component>,
}

/// Counts everything, one model at a time: the largest have a billion parameters.
pub(super) fn run(svg: Option<&Path>, output: Output) -> Result<Exit, CliError> {
    let stages = Stages::new();
    let mut counter = Counter::default();
    let total = (ROWS.len() + figure::points()) as u64;
    let mut done = 0;
    let mut step = || {
        done += 1;
        stages.show("models counted", done, total);
    };
    let mut rows = Vec::new();
    for published in &ROWS {
        rows.push(Row::of(published, &mut counter)?);
        step();
    }
    let curves = figure::count(&mut counter, step)?;
    drop(stages);
    if let Some(path) = svg {
        let drawn = figure::chart(&curves).to_svg();
        std::fs::write(path, drawn).map_err(|error| CliError::file(path, &error))?;
    }
    match output {
        Output::Json => {
            rows.iter().for_each(output::json);
            curves.iter().for_each(output::json);
        }
        Output::Table => {
            print(&rows);
            output::line("");
            figure::print(&curves);
        }
    }
    Ok(Exit::Done)
}

/// Counts models, each but once.
#[derive(Default)]
pub(super) struct Counter {
    known: Vec<(ModelSpec, Cost)>,
}

impl Counter {
    /// The cost of preset `base` with `sets`, each `key=value` of `[model]`.
    pub(super) fn count(&mut self, sets: &[impl AsRef<str>]) -> Result<Cost, CliError> {
        let sets = sets.iter().map(|set| format!("model.{}", set.as_ref()));
        let sets: Vec<String> = std::iter::once("model.preset=base".to_owned())
            .chain(sets)
            .collect();
        let model = RunSpec::parse("", &sets)?.model;
        if let Some((_, cost)) = self.known.iter().find(|(known, _)| *known == model) {
            return Ok(cost.clone());
        }
        let cost = cost(&model, model.text_len, TARGET_TOKENS);
        self.known.push((model, cost.clone()));
        Ok(cost)
    }
}

impl Row {
    fn of(published: &Published, counter: &mut Counter) -> Result<Self, CliError> {
        let cost = counter.count(published.sets)?;
        let ours = gflops(cost.macs(), 2);
        Ok(Self {
            table: published.table,
            row: published.row,
            model: published.sets,
            published_gflops: published.gflops,
            residual_percent: published.gflops.map(|theirs| 100.0 * (ours / theirs - 1.0)),
            params: cost.parameters(),
            macs: cost.macs(),
            gflops_mac1: gflops(cost.macs(), 1),
            gflops_mac2: ours,
            components: components(&cost),
        })
    }
}

fn print(rows: &[Row]) {
    let millions = |params: u64| params as f64 / 1e6;
    let line = |row: &Row| {
        let residual = |percent: f64| format!("{percent:+.1} %");
        vec![
            row.table.to_owned(),
            row.row.to_owned(),
            row.published_gflops
                .map_or_else(|| "-".into(), |theirs| format!("{theirs:.1}")),
            format!("{:.2}", row.gflops_mac2),
            row.residual_percent.map_or_else(|| "-".into(), residual),
            format!("{:.2}", row.gflops_mac1),
            format!("{:.1} M", millions(row.params)),
        ]
    };
    let header = [
        "table",
        "model",
        "paper GFLOP",
        "ours (MAC = 2)",
        "residual",
        "ours (MAC = 1)",
        "parameters",
    ];
    output::table(&header, &rows.iter().map(line).collect::<Vec<_>>());
    if let Some(base) = rows.first() {
        let (ours, theirs) = (millions(base.params), PUBLISHED_PARAMS_MILLIONS);
        let residual = 100.0 * (ours / theirs - 1.0);
        output::line("");
        output::line(&format!(
            "parameters of Ours-Base: paper {theirs:.0} M, ours {ours:.1} M, {residual:+.1} %"
        ));
    }
}
