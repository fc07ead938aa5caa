//! `ringmaster bench variants`: every way to fuse image and text, trained alike, over several seeds.
//!
//! Each run is an ordinary `ringmaster train` with one worker of one thread on the scenes corpus,
//! which all runs share. Each result is a row of `variants.csv` as soon as it is there; what has a
//! row is not trained again.

mod family;
mod row;
mod table;

use std::path::PathBuf;

use clap::Args;
use ringmaster_model::cost;
use ringmaster_worker::DeviceChoice;
use tokio_util::sync::CancellationToken;

use self::family::Variant;
use self::row::Row;
use super::experiment::{ExperimentArgs, Run};
use super::ledger::Ledger;
use super::pool;
use crate::error::{CliError, Exit};
use crate::output::{self, Output};

/// Arguments of `bench variants`.
#[derive(Args, Debug)]
pub(crate) struct VariantsArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    /// Optimizer updates of every run
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Only these variants
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = family::names())]
    only: Vec<String>,
}

/// One run to be made.
#[derive(Clone, Debug)]
struct Trial {
    variant: &'static Variant,
    run: Run,
}

/// Trains what has no row yet, then writes and prints the table.
pub(crate) async fn run(args: VariantsArgs) -> Result<Exit, CliError> {
    let VariantsArgs {
        experiment, steps, ..
    } = &args;
    let trials = trials(&args)?;
    let folder = experiment.folder()?;
    let (mut ledger, rows) = Ledger::open(&folder.join("variants.csv"), row::HEADER)?;
    let mut rows = Row::parse_all(&rows)?;
    let mut missing = trials.clone();
    missing.retain(|trial| !rows.iter().any(|row| row.is_of(trial)));
    eprintln!("{} runs, {} to be made", trials.len(), missing.len());
    if !missing.is_empty() {
        experiment.make_corpus().await?;
    }
    let work = |trial, stop| train(folder.clone(), experiment.device, trial, stop);
    let exit = pool::work_off(missing, experiment.jobs.into(), work, |row: Row| {
        ledger.append(&[row.cells()])?;
        let line = row.line();
        rows.push(row);
        Ok(line)
    });
    let exit = exit.await?;
    rows.retain(|row| trials.iter().any(|trial| row.is_of(trial)));
    let table = table::Table::of(&rows);
    table.write(&folder, &experiment.heading(*steps))?;
    match experiment.output {
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
    for seed in 1..=args.experiment.seeds {
        for variant in family::VARIANTS.iter().filter(wanted) {
            let own = variant.sets.iter().map(ToString::to_string);
            let run = Run::new(&args.experiment, variant.name, (seed, args.steps), own)?;
            trials.push(Trial { variant, run });
        }
    }
    Ok(trials)
}

/// Trains and evaluates one run; none if `stop` came first.
async fn train(
    folder: PathBuf,
    device: DeviceChoice,
    trial: Trial,
    stop: CancellationToken,
) -> Result<Option<Row>, CliError> {
    let Some(said) = trial.run.train(&folder, device, stop).await? else {
        return Ok(None);
    };
    let model = &trial.run.spec.model;
    let counted = cost(model, model.text_len, model.target_len);
    let row = Row::of(&trial, &counted, said.last().map_or("", String::as_str))?;
    trial.run.remove(&folder)?;
    Ok(Some(row))
}

#[cfg(test)]
mod tests;
