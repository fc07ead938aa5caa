//! `train --dry-run`: checks what a run needs and prints what it would be.
//!
//! What needs no corpus is printed even where store or sources cannot be reached; the command then
//! ends with that error.

use ringmaster_dataset::{CorpusManifest, DatasetError, Plan, PlanSpec, Store, scenes_corpus};
use ringmaster_model::cost;
use ringmaster_proto::spec::Validation;
use ringmaster_proto::{RunSpec, WorldSize, keys};
use serde::Serialize;

use super::memory::WorkerMemory;
use super::workers::lanes_line;
use crate::error::{CliError, Exit};
use crate::output::{self, Output};

/// What would run; its field names are a contract. Null is what only the corpus can tell.
#[derive(Debug, Serialize)]
struct Facts {
    run: String,
    store: String,
    parameters: u64,
    /// A multiply-accumulate being two operations.
    forward_gflop_per_example: f64,
    training_gflop_per_example: f64,
    /// Of the worker with the most lanes.
    worker_memory: WorkerMemory,
    rows: Option<u64>,
    held_out_rows: Option<u64>,
    global_batch: u64,
    steps_per_epoch: Option<u64>,
    total_steps: Option<u64>,
    epochs: Option<f64>,
    read_bytes_per_epoch: Option<u64>,
    read_bytes_in_all: Option<u64>,
    workers: u32,
    lanes: u32,
    efficiency: f64,
    identity: String,
}

/// What the sources hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rows {
    train: u64,
    held_out: u64,
    /// Of the rows to train on, as they are stored.
    train_bytes: u64,
}

/// Reads specs, footers and the store; writes nothing.
pub(super) async fn run(spec: &RunSpec, workers: u32, output: Output) -> Result<Exit, CliError> {
    let looked = look(spec).await;
    let facts = Facts::of(spec, workers, looked.as_ref().ok());
    match output {
        Output::Json => output::json(&facts),
        Output::Table => facts.print(),
    }
    looked.map(|_| Exit::Done)
}

/// Asks the store whether it answers and lets us read, then the sources what they hold.
async fn look(spec: &RunSpec) -> Result<(Rows, Plan), CliError> {
    let root = Store::open(&spec.run.store)?.child(&spec.run.name);
    root.list(keys::JOURNAL).await?;
    let rows = count_rows(spec).await?;
    // One row group stands for all: how long an epoch is depends on their sum alone.
    let plan = Plan::new(row_groups(rows.train), PlanSpec::from(spec));
    Ok((rows, plan.map_err(DatasetError::from)?))
}

impl Facts {
    fn of(spec: &RunSpec, workers: u32, known: Option<&(Rows, Plan)>) -> Self {
        let model = &spec.model;
        let counted = cost(model, model.text_len, model.target_len);
        let forward = 2.0 * counted.macs() as f64 / 1e9;
        let parameters = counted.parameters();
        let row_bytes = known.map(|(rows, _)| rows.train_bytes.div_ceil(rows.train.max(1)));
        let total_steps = known.map(|(_, plan)| plan.total_steps(spec));
        let total_steps = total_steps.or(spec.run.steps);
        let steps_per_epoch = known.map(|(_, plan)| plan.steps_per_epoch());
        let epochs = total_steps.zip(steps_per_epoch);
        let epochs = epochs.map(|(all, each)| all as f64 / each as f64);
        let read_bytes_per_epoch = known.map(|(rows, _)| rows.train_bytes);
        let in_all = |(bytes, epochs)| (bytes as f64 * epochs) as u64;
        Self {
            run: spec.run.name.clone(),
            store: spec.run.store.clone(),
            parameters,
            forward_gflop_per_example: forward,
            training_gflop_per_example: 3.0 * forward,
            worker_memory: WorkerMemory::of(spec, workers, parameters, row_bytes),
            rows: known.map(|(rows, _)| rows.train),
            held_out_rows: known.map(|(rows, _)| rows.held_out),
            global_batch: spec.global_batch(),
            steps_per_epoch,
            total_steps,
            epochs,
            read_bytes_per_epoch,
            read_bytes_in_all: read_bytes_per_epoch.zip(epochs).map(in_all),
            workers,
            lanes: spec.data.lanes,
            efficiency: ringmaster_dataset::efficiency(spec.data.lanes, WorldSize(workers)),
            identity: spec.identity_hash(),
        }
    }

    fn print(&self) {
        use output::{bytes, count};
        // What is not known is left out, and a line without anything says so.
        let told = |parts: [Option<String>; 3]| {
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            match parts.as_slice() {
                [] => "unknown without the corpus".to_owned(),
                parts => parts.join(", "),
            }
        };
        let held_out = self.held_out_rows.map(|n| format!("{} held out", count(n)));
        let per_epoch = self
            .steps_per_epoch
            .map(|n| format!("{} per epoch", count(n)));
        let epochs = self.epochs.map(|n| format!("{n:.2} epochs"));
        let read = self
            .read_bytes_per_epoch
            .map(|n| format!("{} per epoch", bytes(n)));
        let in_all = self
            .read_bytes_in_all
            .map(|n| format!("{} in all", bytes(n)));
        let gflop = |n: f64| format!("{n:.3} GFLOP per example");
        let mut rows = vec![
            ("run", format!("{} in {}", self.run, self.store)),
            ("parameters", count(self.parameters)),
            ("forward", gflop(self.forward_gflop_per_example)),
            ("training", gflop(self.training_gflop_per_example)),
        ];
        rows.extend(self.worker_memory.lines());
        rows.extend([
            ("rows", told([self.rows.map(count), held_out, None])),
            (
                "global batch",
                format!("{} examples", count(self.global_batch)),
            ),
            (
                "steps",
                told([self.total_steps.map(count), per_epoch, epochs]),
            ),
            ("read", told([read, in_all, None])),
            ("lanes", lanes_line(self.lanes, self.workers)),
            ("identity", self.identity.clone()),
        ]);
        for (name, value) in rows {
            output::line(&format!("{name:<17} {value}"));
        }
    }
}

/// Rows and their size, from the footers, or as the built-in corpus would have them.
async fn count_rows(spec: &RunSpec) -> Result<Rows, CliError> {
    let fraction = match spec.data.validation {
        Validation::Fraction(fraction) => fraction,
        Validation::Url(_) => 0.0,
    };
    let open = async |url: &str, key| {
        CorpusManifest::open(&[url.to_owned()], &spec.data.columns, key, |_, _| {}).await
    };
    let mut all = Rows::default();
    for source in &spec.data.sources {
        if let Some(scenes) = source.url.strip_prefix("scenes:") {
            let wrong = "write scenes: and a number of rows, as in scenes:24000";
            let scenes: u64 = scenes.replace('_', "").parse().map_err(|error| {
                CliError::invalid(format!("source {}", source.url), error, wrong)
            })?;
            all.train += scenes;
            all.held_out += scenes_corpus::held_out_rows(scenes, fraction);
            all.train_bytes += scenes * scenes_corpus::row_bytes(spec.run.seed)?;
        } else {
            let whole = open(&source.url, "data.sources").await?;
            let row_bytes = whole.bytes() as f64 / whole.rows().max(1) as f64;
            let (train, part) = whole.split(spec.run.seed, fraction);
            all.train += train.rows();
            all.train_bytes += (train.rows() as f64 * row_bytes) as u64;
            all.held_out += part.map_or(0, |part| part.rows());
        }
    }
    if let Validation::Url(url) = &spec.data.validation {
        all.held_out += open(url, "data.validation").await?.rows();
    }
    Ok(all)
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
