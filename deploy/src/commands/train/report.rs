//! What `train` says at the end.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use ringmaster_coordinator::StepLine;
use ringmaster_coordinator::record::Held;
use ringmaster_dataset::Store;
use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::{ErrorKind, RunSpec};
use ringmaster_worker::{Evaluation, TaxSeconds};
use serde::Serialize;

use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::run_folder::RunFolder;
use crate::supervisor::RunEnd;
use crate::usage;

/// The checkpoint that holds the state a run ended with.
pub(super) async fn checkpoint_of(
    root: &Store,
    end: &RunEnd,
) -> Result<CheckpointManifest, CliError> {
    let all = ringmaster_coordinator::checkpoints(root).await?;
    let is = |manifest: &CheckpointManifest| manifest.digest == end.digest;
    all.into_iter().rev().find(is).ok_or_else(|| {
        let thing = format!("checkpoint of step {}", end.step);
        let next = "see `ringmaster checkpoint list` and the coordinator's log";
        CliError::refused(ErrorKind::Data, thing, "is not in the store", next)
    })
}

/// A finished run with its numbers: where everything is, and how to remove it.
pub(super) fn finished(
    folder: &RunFolder,
    root: &Store,
    evaluation: &Evaluation,
    end: &RunEnd,
    output: Output,
) -> Result<Exit, CliError> {
    let path = folder.path().display();
    let size = output::bytes(folder.size_bytes());
    eprintln!(
        "finished at step {}, digest {}",
        evaluation.steps, evaluation.digest
    );
    eprintln!(
        "checkpoints  {}/{}",
        root.url(),
        ringmaster_proto::keys::CHECKPOINTS
    );
    eprintln!("metrics      {}", folder.metrics().display());
    eprintln!("logs         {path}/logs");
    eprintln!("the folder holds {size}; remove it with: rm -r {path}");
    let cost = Cost::of(folder, end);
    print_cost(&cost);
    match output {
        Output::Json => output::json(&Finished { evaluation, cost }),
        Output::Table => print_numbers(evaluation),
    }
    Ok(Exit::Done)
}

/// The result of a finished run; its field names are a contract.
#[derive(Debug, Serialize)]
struct Finished<'a> {
    #[serde(flatten)]
    evaluation: &'a Evaluation,
    #[serde(flatten)]
    cost: Cost,
}

/// What a run cost; absent where it is not known.
#[derive(Debug, Default, Serialize)]
struct Cost {
    /// Most resident memory of any worker.
    peak_memory_bytes: Option<u64>,
    /// Rows fed forward per second in the median step of the run.
    examples_per_second: Option<f64>,
    /// Seconds of the median step in which gradients went around the ring.
    reduce_seconds: Option<f64>,
    /// Of the median step, those in which a worker waited for that with nothing else to do.
    exposed_seconds: Option<f64>,
    /// What the worker that spent most on other things than training spent on them.
    tax: Option<TaxSeconds>,
    /// Processor time of this command and all its processes, evaluation included.
    core_seconds: Option<f64>,
}

impl Cost {
    fn of(folder: &RunFolder, end: &RunEnd) -> Self {
        let steps = steps(&folder.metrics());
        Self {
            peak_memory_bytes: end.peak_memory_bytes,
            examples_per_second: median(&steps, |step| step.rows as f64 / step.seconds),
            reduce_seconds: median(&steps, |step| step.reduce_seconds),
            exposed_seconds: median(&steps, |step| step.exposed_seconds),
            tax: end.tax,
            core_seconds: usage::core_seconds(),
        }
    }
}

/// From `metrics.jsonl`, which has one line per step of the whole run; none where it cannot be read.
fn steps(metrics: &Path) -> Vec<StepLine> {
    let Ok(file) = File::open(metrics) else {
        return Vec::new();
    };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    lines
        .filter_map(|line| serde_json::from_str(&line).ok())
        .collect()
}

fn median(steps: &[StepLine], of: impl Fn(&StepLine) -> f64) -> Option<f64> {
    let mut values: Vec<f64> = steps.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn print_cost(cost: &Cost) {
    let milliseconds = |seconds: Option<f64>| 1e3 * seconds.unwrap_or_default();
    eprintln!(
        "all-reduce   {:.1} ms of the median step, {:.1} ms of them waited for",
        milliseconds(cost.reduce_seconds),
        milliseconds(cost.exposed_seconds),
    );
    if let Some(tax) = &cost.tax {
        print_tax(tax);
    }
}

/// How much of the time went into something else than training.
fn print_tax(tax: &TaxSeconds) {
    let Some(share) = tax.share() else { return };
    let percent = |seconds: f64| 100.0 * seconds / tax.training_seconds;
    eprintln!(
        "besides      {:.2}% of a worker's time: reports {:.2}%, link heartbeats {:.2}%, digests {:.2}%, \
         checkpoints {:.2}%",
        100.0 * share,
        percent(tax.agent_seconds),
        percent(tax.keeper_seconds),
        percent(tax.digest_seconds),
        percent(tax.saving_seconds),
    );
}

fn print_numbers(evaluation: &Evaluation) {
    let percent = |x: f64| format!("{:.1}%", 100.0 * x);
    let nats = |x: f64| format!("{x:.4}");
    let none = || "-".to_owned();
    let rows = [
        (
            "answers right",
            evaluation.exact_match.map_or_else(none, percent),
        ),
        (
            "  by the commonest answer",
            evaluation.baseline_exact_match.map_or_else(none, percent),
        ),
        (
            "  with another's image",
            evaluation.shuffled_exact_match.map_or_else(none, percent),
        ),
        (
            "caption loss, nats/token",
            evaluation.caption_loss.map_or_else(none, nats),
        ),
        (
            "  with another's image",
            evaluation.shuffled_caption_loss.map_or_else(none, nats),
        ),
    ];
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, x)| vec![name.to_owned(), x])
        .collect();
    output::table(&["on held-out rows", ""], &rows);
}

/// A run that ended before its end.
pub(super) fn stopped(folder: &RunFolder, end: Option<&RunEnd>) {
    match end {
        Some(end) => eprintln!("stopped at step {}, digest {}", end.step, end.digest),
        None => eprintln!("ended at once"),
    }
    eprintln!(
        "the same command resumes it; it is in {}",
        folder.path().display()
    );
}

/// A run that was finished before this command came.
pub(super) fn already_finished(spec: &RunSpec, end: Held, output: Output) {
    let (run, step) = (&spec.run.name, end.step.0);
    eprintln!(
        "run {run} is already finished at step {step}; raise run.steps to go on, or start over with --fresh"
    );
    if output == Output::Json {
        let (steps, digest) = (step, end.digest);
        output::json(&Evaluation {
            steps,
            digest,
            ..Evaluation::default()
        });
    }
}

/// The result of `--kill-one-at`; its field names are a contract.
#[derive(Debug, Serialize)]
struct Comparison<'a> {
    steps: u64,
    digest: &'a str,
    undisturbed_digest: &'a str,
    equal: bool,
}

/// Whether a run that lost a worker ended like the one that did not.
pub(super) fn comparison(disturbed: &RunEnd, undisturbed: &RunEnd, output: Output) -> Exit {
    let equal = disturbed.digest == undisturbed.digest && disturbed.step == undisturbed.step;
    match output {
        Output::Json => output::json(&Comparison {
            steps: disturbed.step,
            digest: &disturbed.digest,
            undisturbed_digest: &undisturbed.digest,
            equal,
        }),
        Output::Table => {
            output::line(&format!("with a worker killed  {}", disturbed.digest));
            output::line(&format!("undisturbed           {}", undisturbed.digest));
            output::line(if equal {
                "equal, bit for bit"
            } else {
                "NOT equal"
            });
        }
    }
    if equal { Exit::Done } else { Exit::Differs }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_names_of_the_json_are_a_contract() {
        let golden = concat!(
            r#"{"steps":0,"digest":"","exact_match":null,"baseline_exact_match":null,"#,
            r#""shuffled_exact_match":null,"caption_loss":null,"shuffled_caption_loss":null,"#,
            r#""peak_memory_bytes":null,"examples_per_second":null,"reduce_seconds":null,"#,
            r#""exposed_seconds":null,"tax":null,"core_seconds":null}"#,
        );
        let finished = Finished {
            evaluation: &Evaluation::default(),
            cost: Cost::default(),
        };
        assert_eq!(serde_json::to_string(&finished).unwrap(), golden);
    }

    #[test]
    fn what_a_step_cost_is_that_of_the_median_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let line = |rows: u64, seconds: f64| {
            let done = ringmaster_proto::v1::StepDone {
                rows,
                step_seconds: seconds,
                exposed_seconds: seconds / 2.0,
                ..Default::default()
            };
            let line = StepLine::new(ringmaster_proto::Generation(1), &done);
            serde_json::to_string(&line).unwrap()
        };
        std::fs::write(
            &path,
            [line(64, 0.5), line(64, 100.0), line(32, 2.0)].join("\n"),
        )
        .unwrap();
        let steps = steps(&path);
        let rate = |step: &StepLine| step.rows as f64 / step.seconds;
        assert_eq!(median(&steps, rate), Some(16.0));
        assert_eq!(median(&steps, |step| step.exposed_seconds), Some(1.0));
        let none = super::steps(&folder.path().join("none"));
        assert_eq!(median(&none, rate), None);
    }

    #[test]
    fn different_digests_are_a_failure() {
        let end = |digest: &str| RunEnd {
            finished: true,
            step: 9,
            digest: digest.into(),
            peak_memory_bytes: None,
            tax: None,
        };
        assert_eq!(comparison(&end("a"), &end("a"), Output::Json), Exit::Done);
        assert_eq!(
            comparison(&end("a"), &end("b"), Output::Json),
            Exit::Differs
        );
    }
}
