//! `train --dry-run`: checks what a run needs and prints what it would be.

use ringmaster_dataset::scenes_corpus::held_out_rows;
use ringmaster_dataset::{CorpusManifest, DatasetError, Plan, PlanSpec, Store};
use ringmaster_model::{Model, cost, flat};
use ringmaster_proto::spec::Validation;
use ringmaster_proto::{RunSpec, WorldSize, keys};
use ringmaster_worker::DeviceChoice;
use serde::Serialize;

use super::lanes_line;
use crate::error::{CliError, Exit};
use crate::output::{self, Output};

/// Bytes of training state per parameter: parameter, gradient, two moments (f32), and the
/// fixed-point sum (i64).
const STATE_BYTES: u64 = 4 + 4 + 8 + 8;

/// What would run; its field names are a contract.
#[derive(Debug, Serialize)]
struct Facts {
    run: String,
    store: String,
    parameters: u64,
    state_bytes_per_worker: u64,
    forward_gflop_per_example: f64,
    training_gflop_per_example: f64,
    rows: u64,
    held_out_rows: u64,
    global_batch: u64,
    steps_per_epoch: u64,
    total_steps: u64,
    workers: u32,
    lanes: u32,
    efficiency: f64,
    identity: String,
}

/// Reads specs, footers and the store; writes nothing.
pub(super) async fn run(
    spec: &RunSpec,
    root: &Store,
    workers: u32,
    output: Output,
) -> Result<Exit, CliError> {
    // The store answers, and lets us read.
    root.list(keys::JOURNAL).await?;
    let (rows, held_out) = count_rows(spec).await?;
    // One row group stands for all: how long an epoch is depends on their sum alone.
    let plan = Plan::new(row_groups(rows), PlanSpec::from(spec)).map_err(DatasetError::from)?;
    let parameters = parameters(spec)?;
    let forward =
        2.0 * cost(&spec.model, spec.model.text_len, spec.model.target_len).macs() as f64 / 1e9;
    let facts = Facts {
        run: spec.run.name.clone(),
        store: root.url(),
        parameters,
        state_bytes_per_worker: parameters * STATE_BYTES,
        forward_gflop_per_example: forward,
        training_gflop_per_example: 3.0 * forward,
        rows,
        held_out_rows: held_out,
        global_batch: spec.global_batch(),
        steps_per_epoch: plan.steps_per_epoch(),
        total_steps: plan.total_steps(spec),
        workers,
        lanes: spec.data.lanes,
        efficiency: ringmaster_dataset::efficiency(spec.data.lanes, WorldSize(workers)),
        identity: spec.identity_hash(),
    };
    match output {
        Output::Json => output::json(&facts),
        Output::Table => facts.print(),
    }
    Ok(Exit::Done)
}

impl Facts {
    fn print(&self) {
        use output::{bytes, count};
        let rows = [
            ("run", format!("{} in {}", self.run, self.store)),
            ("parameters", count(self.parameters)),
            ("state per worker", bytes(self.state_bytes_per_worker)),
            (
                "forward",
                format!("{:.3} GFLOP per example", self.forward_gflop_per_example),
            ),
            (
                "training",
                format!("{:.3} GFLOP per example", self.training_gflop_per_example),
            ),
            (
                "rows",
                format!(
                    "{}, {} held out",
                    count(self.rows),
                    count(self.held_out_rows)
                ),
            ),
            (
                "global batch",
                format!("{} examples", count(self.global_batch)),
            ),
            (
                "steps",
                format!("{}, {} per epoch", self.total_steps, self.steps_per_epoch),
            ),
            ("lanes", lanes_line(self.lanes, self.workers)),
            ("identity", self.identity.clone()),
        ];
        for (name, value) in rows {
            output::line(&format!("{name:<17} {value}"));
        }
    }
}

/// Rows to train on and rows held out, from the footers, or as the built-in corpus would have them.
async fn count_rows(spec: &RunSpec) -> Result<(u64, u64), CliError> {
    let fraction = match spec.data.validation {
        Validation::Fraction(fraction) => fraction,
        Validation::Url(_) => 0.0,
    };
    let open = async |url: &str, key| {
        CorpusManifest::open(&[url.to_owned()], &spec.data.columns, key, |_, _| {}).await
    };
    let (mut rows, mut held_out) = (0, 0);
    for source in &spec.data.sources {
        if let Some(scenes) = source.url.strip_prefix("scenes:") {
            let wrong = "write scenes: and a number of rows, as in scenes:24000";
            let scenes: u64 = scenes.replace('_', "").parse().map_err(|error| {
                CliError::invalid(format!("source {}", source.url), error, wrong)
            })?;
            rows += scenes;
            held_out += held_out_rows(scenes, fraction);
        } else {
            let (train, part) = open(&source.url, "data.sources")
                .await?
                .split(spec.run.seed, fraction);
            rows += train.rows();
            held_out += part.map_or(0, |part| part.rows());
        }
    }
    if let Validation::Url(url) = &spec.data.validation {
        held_out += open(url, "data.validation").await?.rows();
    }
    Ok((rows, held_out))
}

fn row_groups(mut rows: u64) -> Vec<u32> {
    let mut groups = Vec::new();
    while rows > 0 {
        let group = u32::try_from(rows).unwrap_or(u32::MAX);
        groups.push(group);
        rows -= u64::from(group);
    }
    groups
}

fn parameters(spec: &RunSpec) -> Result<u64, CliError> {
    let device = DeviceChoice::Cpu.resolve()?;
    let model = Model::new(&spec.model, spec.run.seed, &device);
    Ok(flat::layout(&model).total as u64)
}
