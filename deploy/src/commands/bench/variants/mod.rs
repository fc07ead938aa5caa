//! `ringmaster bench variants`: every way to fuse image and text, trained alike, over several seeds.
//!
//! Each run is an ordinary `ringmaster train` with one worker of one thread on the scenes corpus,
//! which all runs share. Each result is a row of `variants.csv` as soon as it is there; what has a
//! row is not trained again.

mod family;
mod row;
mod table;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use ringmaster_dataset::{Store, scenes_corpus};
use ringmaster_model::cost;
use ringmaster_proto::RunSpec;
use ringmaster_worker::DeviceChoice;
use tokio_util::sync::CancellationToken;

use self::family::Variant;
use self::row::Row;
use super::ledger::Ledger;
use super::{child, pool};
use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::progress::Stages;

/// Seed of the corpus; that of a run decides initial values, order and draws.
const CORPUS_SEED: u64 = 1;

/// Arguments of `bench variants`.
#[derive(Args, Debug)]
pub(crate) struct VariantsArgs {
    /// Folder for the corpus, the runs, variants.csv and variants.md; what it holds of an earlier
    /// call is not done again
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Optimizer updates of every run
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Runs of every variant, with seeds 1, 2, ...
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Rows of the corpus to train on
    #[arg(long, default_value_t = 32_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Rows to hold out and measure by
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..))]
    held_out: u64,
    /// Only these variants
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = family::names())]
    only: Vec<String>,
    /// Override one key of every run
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Runs at a time, each on one core
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// What to compute on: auto, cpu or cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Form of the table on stdout
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// One run to be made.
#[derive(Clone, Debug)]
struct Trial {
    variant: &'static Variant,
    seed: u64,
    sets: Vec<String>,
    spec: RunSpec,
}

/// Trains what has no row yet, then writes and prints the table.
pub(crate) async fn run(args: VariantsArgs) -> Result<Exit, CliError> {
    let trials = trials(&args)?;
    fs::create_dir_all(&args.out).map_err(|error| CliError::file(&args.out, &error))?;
    let (mut ledger, rows) = Ledger::open(&args.out.join("variants.csv"), row::HEADER)?;
    let mut rows = Row::parse_all(&rows)?;
    let mut missing = trials.clone();
    missing.retain(|trial| !rows.iter().any(|row| row.is_of(trial)));
    let (all, left) = (trials.len(), missing.len());
    eprintln!("{all} runs, {left} to be made");
    if left > 0 {
        make_corpus(&args).await?;
    }
    let folder = std::path::absolute(&args.out).map_err(|e| CliError::file(&args.out, &e))?;
    let device = args.device.to_string();
    let work = |trial: Trial, stop| train(folder.clone(), device.clone(), trial, stop);
    let exit = pool::work_off(missing, args.jobs.into(), work, |row: Row| {
        ledger.append(&row.cells())?;
        let line = row.line();
        rows.push(row);
        Ok(line)
    });
    let exit = exit.await?;
    rows.retain(|row| trials.iter().any(|trial| row.is_of(trial)));
    let table = table::Table::of(&rows);
    table.write(&args.out, &heading(&args))?;
    match args.output {
        Output::Json => table.summaries().iter().for_each(output::json),
        Output::Table => table.print(),
    }
    Ok(exit)
}

/// Every variant with the first seed, then every variant with the second: what is there early can be
/// compared.
fn trials(args: &VariantsArgs) -> Result<Vec<Trial>, CliError> {
    let wanted = |variant: &&Variant| {
        args.only.is_empty() || args.only.iter().any(|name| name == variant.name)
    };
    let mut trials = Vec::new();
    for seed in 1..=args.seeds {
        for variant in family::VARIANTS.iter().filter(wanted) {
            trials.push(Trial::new(args, variant, seed)?);
        }
    }
    Ok(trials)
}

impl Trial {
    fn new(args: &VariantsArgs, variant: &'static Variant, seed: u64) -> Result<Self, CliError> {
        let corpus = corpus_name(args);
        let mut sets = vec![
            format!("run.name={}-seed-{seed}", variant.name),
            "run.store=runs".to_owned(),
            format!("run.seed={seed}"),
            format!("run.steps={}", args.steps),
            format!("data.sources=[{{ url = \"{corpus}/train\" }}]"),
            format!("data.validation=\"{corpus}/validation\""),
            format!("eval.rows={}", args.held_out),
            // Nothing but training while training is measured.
            "eval.sample_every=1day".to_owned(),
            format!("checkpoint.every={}", args.steps),
        ];
        sets.extend(args.overrides.iter().cloned());
        sets.extend(variant.sets.iter().map(ToString::to_string));
        let spec = RunSpec::parse("", &sets)?;
        Ok(Self {
            variant,
            seed,
            sets,
            spec,
        })
    }

    /// The first half of the hash of everything that decides the run's bits.
    fn spec_hash(&self) -> String {
        self.spec.identity_hash().split_at(32).0.to_owned()
    }
}

/// Relative to the folder of the experiment, so that its place is no part of a run's identity.
fn corpus_name(args: &VariantsArgs) -> String {
    format!("scenes-{}-{}", args.rows, args.held_out)
}

async fn make_corpus(args: &VariantsArgs) -> Result<(), CliError> {
    let folder = Store::open(&args.out.join(corpus_name(args)).to_string_lossy())?;
    let stages = Stages::new();
    scenes_corpus::make(&folder, args.rows, args.held_out, CORPUS_SEED, &stages).await?;
    Ok(())
}

/// Trains and evaluates one run; none if `stop` came first.
async fn train(
    folder: PathBuf,
    device: String,
    trial: Trial,
    stop: CancellationToken,
) -> Result<Option<Row>, CliError> {
    let name = &trial.spec.run.name;
    // What was interrupted starts over: half a run's figures are not those of a run.
    let mut args: Vec<OsString> = ["train", "--fresh", "--exit-with-parent"]
        .map(OsString::from)
        .to_vec();
    args.extend(["--workers", "1", "--output", "json", "--device", &device].map(OsString::from));
    let sets = trial.sets.iter();
    args.extend(sets.flat_map(|set| ["--set".into(), OsString::from(set)]));
    let Some(said) = child::run(&folder, name, args, stop).await? else {
        return Ok(None);
    };
    let size = trial.spec.model.clone();
    let counted = tokio::task::spawn_blocking(move || cost(&size, size.text_len, size.target_len));
    let counted = counted
        .await
        .map_err(|error| CliError::invalid("model", error, "see the log"))?;
    let row = Row::of(&trial, &counted, said.last().map_or("", String::as_str))?;
    remove(&folder.join("runs").join(name))?;
    Ok(Some(row))
}

/// Its figures are all that is wanted of a finished run.
fn remove(run: &Path) -> Result<(), CliError> {
    fs::remove_dir_all(run).map_err(|error| CliError::file(run, &error))
}

/// What was done, for the head of the table.
fn heading(args: &VariantsArgs) -> String {
    let VariantsArgs {
        steps,
        seeds,
        rows,
        held_out,
        overrides,
        ..
    } = args;
    let sets = overrides.iter().map(|set| format!(", {set}"));
    let sets: String = sets.collect();
    format!(
        "Each variant trained for {steps} steps with seeds 1 to {seeds} on {rows} scenes, measured on \
         {held_out} others; one worker of one thread per run{sets}."
    )
}

#[cfg(test)]
mod tests;
