//! `ringmaster bench sampling`: whether training more of what is still hard saves steps.
//!
//! Runs that differ in the rule by which objectives are drawn alone, over an easy and a hard one.
//! The held-out loss of both is measured at every checkpoint; what counts is when the hard one comes
//! down to what `uniform` reached.

mod curve;
mod row;
mod table;

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;
use ringmaster_proto::RunSpec;
use ringmaster_worker::DeviceChoice;
use tokio_util::sync::CancellationToken;

use self::row::Row;
use super::experiment::{ExperimentArgs, Run};
use super::ledger::Ledger;
use super::{child, losses, pool};
use crate::error::{CliError, Exit};
use crate::output::{self, Output};

/// Arguments of `bench sampling`.
#[derive(Args, Debug)]
pub(crate) struct SamplingArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    /// Optimizer updates of every run
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Checkpoints of every run, at which losses are measured
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=1000))]
    points: u64,
    /// The objective that is learned soon
    #[arg(long, default_value = "object_presence", value_parser = objectives())]
    easy: String,
    /// The objective that takes long, whose loss is watched
    #[arg(long, default_value = "question_answering", value_parser = objectives())]
    hard: String,
    /// Only these rules; uniform is what they are compared with
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = rules())]
    only: Vec<String>,
}

/// One rule.
#[derive(Debug)]
struct Rule {
    name: &'static str,
    sets: &'static [&'static str],
}

/// What the others are compared with, first.
const UNIFORM: &str = "uniform";

const RULES: [Rule; 4] = [
    Rule {
        name: UNIFORM,
        sets: &["tasks.sampling=uniform"],
    },
    Rule {
        name: "difficulty",
        sets: &["tasks.sampling=difficulty"],
    },
    Rule {
        name: "difficulty-squared",
        sets: &["tasks.sampling=difficulty", "tasks.gamma=2"],
    },
    Rule {
        name: "progress",
        sets: &["tasks.sampling=progress"],
    },
];

/// One run to be made.
#[derive(Clone, Debug)]
struct Trial {
    rule: &'static Rule,
    easy: String,
    hard: String,
    run: Run,
}

/// Trains and measures what has no rows yet, then writes and prints the table.
pub(crate) async fn run(args: SamplingArgs) -> Result<Exit, CliError> {
    let experiment = &args.experiment;
    let trials = trials(&args)?;
    let folder = experiment.folder()?;
    let (mut ledger, rows) = Ledger::open(&folder.join("sampling.csv"), row::HEADER)?;
    let mut rows = Row::parse_all(&rows)?;
    let mut missing = trials.clone();
    missing.retain(|trial| !rows.iter().any(|row| row.ends(trial)));
    eprintln!("{} runs, {} to be made", trials.len(), missing.len());
    if !missing.is_empty() {
        experiment.make_corpus().await?;
    }
    let work = |trial, stop| measure(folder.clone(), experiment.device, trial, stop);
    let finished = |curve: Vec<Row>| {
        let cells: Vec<Vec<String>> = curve.iter().map(Row::cells).collect();
        ledger.append(&cells)?;
        let line = curve.last().map(Row::line).unwrap_or_default();
        rows.extend(curve);
        Ok(line)
    };
    let exit = pool::work_off(missing, experiment.jobs.into(), work, finished).await?;
    rows.retain(|row| trials.iter().any(|trial| row.is_of(trial)));
    let table = table::Table::of(&rows);
    table.write(&folder, &heading(&args))?;
    match experiment.output {
        Output::Json => table.summaries().iter().for_each(output::json),
        Output::Table => table.print(),
    }
    Ok(exit)
}

fn trials(args: &SamplingArgs) -> Result<Vec<Trial>, CliError> {
    if args.easy == args.hard {
        let next = "name two objectives";
        return Err(CliError::invalid("--easy and --hard", "are the same", next));
    }
    let wanted = |rule: &&Rule| {
        let named = args.only.iter().any(|name| name == rule.name);
        args.only.is_empty() || named || rule.name == UNIFORM
    };
    let mut trials = Vec::new();
    for seed in 1..=args.experiment.seeds {
        for rule in RULES.iter().filter(wanted) {
            let sets = sets(args, rule)?;
            let run = Run::new(&args.experiment, rule.name, (seed, args.steps), sets)?;
            let (easy, hard) = (args.easy.clone(), args.hard.clone());
            trials.push(Trial {
                rule,
                easy,
                hard,
                run,
            });
        }
    }
    Ok(trials)
}

/// Both objectives with weight 1 and no other, the rule, and checkpoints as points of a curve.
fn sets(args: &SamplingArgs, rule: &Rule) -> Result<Vec<String>, CliError> {
    let mixed = [&args.easy, &args.hard].map(|name| format!("tasks.{name}"));
    let weights = RunSpec::parse("", &[])?.tasks.weights();
    let weights = weights.map(|(key, _)| {
        let weight = u8::from(mixed.iter().any(|name| name == key));
        format!("{key}={weight}")
    });
    let every = args.steps.div_ceil(args.points);
    let curve = [
        format!("checkpoint.every={every}"),
        format!("checkpoint.keep={}", args.points + 1),
    ];
    let rule = rule.sets.iter().map(ToString::to_string);
    Ok(weights.into_iter().chain(rule).chain(curve).collect())
}

/// Trains one run and measures each of its checkpoints; none if `stop` came first.
async fn measure(
    folder: PathBuf,
    device: DeviceChoice,
    trial: Trial,
    stop: CancellationToken,
) -> Result<Option<Vec<Row>>, CliError> {
    let run = &trial.run;
    if run.train(&folder, device, stop.clone()).await?.is_none() {
        return Ok(None);
    }
    let path = Path::new("runs").join(run.name());
    let args = losses::command_line(&path, run.spec.eval.rows, device);
    let name = format!("{}-losses", run.name());
    let Some(said) = child::run(&folder, &name, args, stop).await? else {
        return Ok(None);
    };
    let rows = Row::curve(&trial, &said)?;
    run.remove(&folder)?;
    Ok(Some(rows))
}

fn heading(args: &SamplingArgs) -> String {
    let of_all = args.experiment.heading(args.steps);
    let (easy, hard) = (&args.easy, &args.hard);
    format!("Easy: `{easy}`. Hard: `{hard}`. {of_all}")
}

/// The objectives that a command line may name.
fn objectives() -> PossibleValuesParser {
    let tasks = RunSpec::parse("", &[]).map(|spec| spec.tasks.weights());
    let keys = tasks.into_iter().flatten().map(|(key, _)| key);
    PossibleValuesParser::new(keys.filter_map(|key| key.strip_prefix("tasks.")))
}

fn rules() -> PossibleValuesParser {
    PossibleValuesParser::new(RULES.iter().map(|rule| rule.name))
}

#[cfg(test)]
mod tests;
