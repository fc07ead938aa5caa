//! `ringmaster bench losses`: held-out loss of each objective at every checkpoint of a run.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;
use ringmaster_dataset::Corpus;
use ringmaster_proto::{ErrorKind, RunSpec};
use ringmaster_worker::{Bench, DeviceChoice};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::commands::checkpoint::ListArgs;
use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::progress::Stages;

/// Arguments of `bench losses`.
#[derive(Args, Debug)]
pub(crate) struct LossesArgs {
    #[command(flatten)]
    of: ListArgs,
    /// Held-out rows that are read at most
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// What to compute on: auto, cpu or cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
}

/// One objective at one checkpoint; its field names are a contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) step: u64,
    pub(super) objective: String,
    /// Nats per target token.
    pub(super) loss: f64,
    pub(super) tokens: u64,
}

/// The arguments that print the losses of the run in `folder` as lines of JSON.
pub(super) fn command_line(folder: &Path, rows: u64, device: DeviceChoice) -> Vec<OsString> {
    let (rows, device) = (rows.to_string(), device.to_string());
    let mut args: Vec<OsString> = vec!["bench".into(), "losses".into(), folder.into()];
    let options = ["--rows", &rows, "--device", &device, "--output", "json"];
    args.extend(options.map(OsString::from));
    args
}

/// Measures, oldest checkpoint first.
pub(crate) async fn run(args: LossesArgs) -> Result<Exit, CliError> {
    let runtime = Handle::current();
    let output = args.of.output();
    // A thread of its own: the forward passes are long and never yield.
    let measuring = tokio::task::spawn_blocking(move || runtime.block_on(measure(&args)));
    let lines = match measuring.await {
        Ok(lines) => lines?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    if output == Output::Table {
        let row = |line: &Line| {
            let (step, tokens) = (line.step.to_string(), line.tokens.to_string());
            vec![
                step,
                line.objective.clone(),
                format!("{:.4}", line.loss),
                tokens,
            ]
        };
        let header = ["step", "objective", "loss, nats/token", "tokens"];
        output::table(&header, &lines.iter().map(row).collect::<Vec<_>>());
    }
    Ok(Exit::Done)
}

async fn measure(args: &LossesArgs) -> Result<Vec<Line>, CliError> {
    let (root, manifests) = args.of.all().await?;
    let missing = |what: &str| {
        let next = "train a run first; see `ringmaster checkpoint list`";
        CliError::refused(ErrorKind::Data, root.url(), what, next)
    };
    let history = ringmaster_coordinator::history(&root).await?;
    let history = history.ok_or_else(|| missing("has no journal"))?;
    let spec = RunSpec::from_canonical(&history.spec_json)?;
    let facts = &history.corpus;
    let hashes = (&facts.corpus_hash, &facts.validation_hash);
    let corpus = Corpus::open(&spec, &root, hashes.0, hashes.1, &facts.tokenizer_hash).await?;
    let held_out = corpus.validation.as_ref();
    let held_out = held_out.ok_or_else(|| missing("is a run that holds no rows out"))?;
    let (columns, size) = (&spec.data.columns, spec.model.image_size);
    let rows = 0..args.rows.min(held_out.rows());
    let rows = ringmaster_dataset::read_rows(held_out, columns, rows, size).await?;
    let stages = Stages::new();
    let mut lines = Vec::new();
    for (done, manifest) in manifests.iter().enumerate() {
        stages.show("checkpoints", done as u64, manifests.len() as u64);
        let bench = Bench::open(&spec, &corpus.tokenizer, &root, manifest, args.device).await?;
        for loss in bench.losses(&spec.tasks, &rows)? {
            let line = Line {
                step: manifest.step.0,
                objective: loss.objective.to_owned(),
                loss: loss.loss,
                tokens: loss.tokens,
            };
            if args.of.output() == Output::Json {
                output::json(&line);
            }
            lines.push(line);
        }
    }
    Ok(lines)
}
