//! What `train` says at the end.

use ringmaster_coordinator::record::Held;
use ringmaster_dataset::Store;
use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::{ErrorKind, RunSpec};
use ringmaster_worker::Evaluation;
use serde::Serialize;

use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::run_folder::RunFolder;
use crate::supervisor::RunEnd;

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
pub(super) async fn finished(
    folder: &RunFolder,
    root: &Store,
    evaluation: &Evaluation,
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
    match output {
        Output::Json => output::json(evaluation),
        Output::Table => print_numbers(evaluation),
    }
    Ok(Exit::Done)
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
            r#""shuffled_exact_match":null,"caption_loss":null,"shuffled_caption_loss":null}"#,
        );
        assert_eq!(
            serde_json::to_string(&Evaluation::default()).unwrap(),
            golden
        );
    }

    #[test]
    fn different_digests_are_a_failure() {
        let end = |digest: &str| RunEnd {
            finished: true,
            step: 9,
            digest: digest.into(),
        };
        assert_eq!(comparison(&end("a"), &end("a"), Output::Json), Exit::Done);
        assert_eq!(
            comparison(&end("a"), &end("b"), Output::Json),
            Exit::Differs
        );
    }
}
