//! `ringmaster eval`: asks a checkpoint and scores what it answers.

mod page;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use ringmaster_coordinator::RunHistory;
use ringmaster_dataset::import::{Format, Source};
use ringmaster_dataset::{Corpus, CorpusManifest, QuestionOptions, Questions, Store};
use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::{ErrorKind, RunSpec};
use ringmaster_worker::{Bench, DeviceChoice, Metric, Scores};
use serde::Serialize;
use tokio::runtime::Handle;

use self::page::Page;
use crate::commands::checkpoint::ShowArgs;
use crate::devices::Devices;
use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::progress::Stages;
use crate::run_file;

/// Arguments of `eval`.
#[derive(Args, Debug)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    which: ShowArgs,
    /// What to ask: Parquet (a path or a URL), or a data set's own file of questions; without it,
    /// the run's held-out rows
    #[arg(long, value_name = "URL|FILE")]
    data: Option<String>,
    /// Form of the data: parquet, jsonl, csv, vqa2, gqa or snli-ve
    #[arg(long, requires = "data", default_value_t = Format::Parquet)]
    format: Format,
    /// VQA2's file of annotations
    #[arg(long, value_name = "FILE", requires = "data")]
    annotations: Option<PathBuf>,
    /// Folder of the pictures [default: the folder of the data]
    #[arg(long, value_name = "FOLDER", requires = "data")]
    images: Option<PathBuf>,
    /// How answers are scored: exact, vqa2, gqa or snli-ve [default: what belongs to the format]
    #[arg(long)]
    metric: Option<Metric>,
    /// Rows that are read at most [default: all of the data, eval.rows of the held-out rows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    /// Write a page to look at: pictures, questions, answers
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Fraction of the rows that may be unusable [default: the run's data.max_bad_fraction]
    #[arg(long, value_name = "FRACTION")]
    max_bad_fraction: Option<f64>,
    /// Name a column of Parquet data that has another name than the run's
    #[arg(
        long = "set",
        value_name = "data.columns.KEY=COLUMN",
        requires = "data"
    )]
    overrides: Vec<String>,
    /// What to compute on: auto, cpu or cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
}

/// The result; its field names, and those of [`Scores`], are a contract.
#[derive(Debug, Serialize)]
struct Report {
    run: String,
    step: u64,
    digest: String,
    data: String,
    #[serde(flatten)]
    scores: Scores,
}

/// A run as its store has it.
struct Stored {
    spec: RunSpec,
    history: RunHistory,
    root: Store,
    checkpoint: CheckpointManifest,
}

/// Evaluates, and says what came out.
pub(crate) async fn run(args: EvalArgs) -> Result<Exit, CliError> {
    let metric = args.metric.unwrap_or(match args.format {
        Format::Parquet | Format::Jsonl | Format::Csv | Format::Coco | Format::WebDataset => {
            Metric::Exact
        }
        Format::Vqa2 => Metric::Vqa2,
        Format::Gqa => Metric::Gqa,
        Format::SnliVe => Metric::SnliVe,
    });
    if metric == Metric::Vqa2 && args.format == Format::Parquet {
        let reason = "needs the answers of ten people, and Parquet rows have one";
        let next = "name the data set's own files with --data and --format vqa2";
        return Err(CliError::invalid("--metric vqa2", reason, next));
    }
    let (root, checkpoint) = args.which.chosen().await?;
    let history = ringmaster_coordinator::history(&root).await?;
    let history = history.ok_or_else(|| {
        let next = "restore the journal beside the checkpoints";
        CliError::refused(ErrorKind::Data, root.url(), "has no journal", next)
    })?;
    let stored = Stored {
        spec: RunSpec::from_canonical(&history.spec_json)?,
        history,
        root,
        checkpoint,
    };
    let output = args.which.output();
    let runtime = Handle::current();
    // A thread of its own: the forward passes are long and never yield.
    let evaluating =
        tokio::task::spawn_blocking(move || runtime.block_on(evaluate(&args, &stored, metric)));
    let report = match evaluating.await {
        Ok(report) => report?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    match output {
        Output::Json => output::json(&report),
        Output::Table => report.print(),
    }
    Ok(Exit::Done)
}

async fn evaluate(args: &EvalArgs, stored: &Stored, metric: Metric) -> Result<Report, CliError> {
    let Stored {
        spec,
        history,
        root,
        checkpoint,
    } = stored;
    let facts = &history.corpus;
    let hashes = (&facts.corpus_hash, &facts.validation_hash);
    let corpus = Corpus::open(spec, root, hashes.0, hashes.1, &facts.tokenizer_hash).await?;
    let stages = Stages::new();
    let asked = ask(args, spec, &corpus, metric, &stages).await?;
    let device = Devices::to_compute_on(args.device).first();
    let bench = Bench::open(spec, &corpus.tokenizer, root, checkpoint, device).await?;
    let mut page = args.html.as_ref().map(|_| Page::default());
    let mut done = 0;
    let mut questions = asked.questions;
    let scores = ringmaster_worker::score(&bench, &mut questions, metric, |question, verdict| {
        done += 1;
        stages.show("evaluating", done, asked.rows);
        if let Some(page) = &mut page {
            page.add(&question, &verdict);
        }
    });
    let report = Report {
        run: checkpoint.run.clone(),
        step: checkpoint.step.0,
        digest: checkpoint.digest.clone(),
        data: asked.name,
        scores: scores.await?,
    };
    if let (Some(path), Some(page)) = (&args.html, page) {
        let text = page.render(&report);
        std::fs::write(path, text).map_err(|error| CliError::file(path, &error))?;
    }
    Ok(report)
}

/// What is asked.
struct Asking {
    questions: Questions,
    /// Where it is from, for the report.
    name: String,
    /// Rows at most; 0: unknown.
    rows: u64,
}

async fn ask(
    args: &EvalArgs,
    spec: &RunSpec,
    corpus: &Corpus,
    metric: Metric,
    stages: &Stages,
) -> Result<Asking, CliError> {
    let limit = spec.data.max_bad_fraction;
    let options = |rows_max| QuestionOptions {
        asked: metric.asks(),
        rows_max,
        image_size: spec.model.image_size,
        max_bad_fraction: args.max_bad_fraction.unwrap_or(limit),
    };
    let Some(data) = &args.data else {
        let held_out = corpus.validation.as_ref().ok_or_else(|| {
            let (thing, reason) = ("data.validation", "the run holds no rows out");
            CliError::invalid(thing, reason, "name rows to ask with --data")
        })?;
        let of_run = Some(spec.eval.rows).filter(|rows| *rows > 0);
        let rows_max = args.rows.or(of_run).unwrap_or(u64::MAX);
        return Ok(Asking {
            questions: Questions::of_rows(held_out, &spec.data.columns, options(rows_max))?,
            name: "held-out rows".into(),
            rows: rows_max.min(held_out.rows()),
        });
    };
    let columns = match args.overrides.as_slice() {
        [] => spec.data.columns.clone(),
        overrides => run_file::columns(overrides)?,
    };
    let rows_max = args.rows.unwrap_or(u64::MAX);
    let name = data.clone();
    if args.format != Format::Parquet {
        let source = Source {
            format: args.format,
            from: PathBuf::from(data),
            annotations: args.annotations.clone(),
            images: args.images.clone(),
            columns,
        };
        return Ok(Asking {
            questions: Questions::of_files(source, options(rows_max)),
            name,
            rows: args.rows.unwrap_or(0),
        });
    }
    let show = |done, total| stages.show("footers", done, total);
    let urls = std::slice::from_ref(data);
    let manifest = CorpusManifest::open(urls, &columns, "--data", show).await?;
    let rows = rows_max.min(manifest.rows());
    Ok(Asking {
        questions: Questions::of_rows(&Arc::new(manifest), &columns, options(rows_max))?,
        name,
        rows,
    })
}

impl Report {
    fn print(&self) {
        let scores = &self.scores;
        let mut lines = vec![
            ("run", format!("{}, step {}", self.run, self.step)),
            ("digest", self.digest.clone()),
            ("data", self.data.clone()),
            (
                "score",
                format!("{}, {}", percent(scores.score), scores.metric),
            ),
            ("questions", output::count(scores.rows)),
            ("speed", format!("{:.1}/s", scores.examples_per_second)),
        ];
        if scores.bad_rows > 0 {
            lines.push(("bad rows", output::count(scores.bad_rows)));
        }
        if scores.unknown_answers > 0 {
            let unknown = output::count(scores.unknown_answers);
            lines.push(("no such label", format!("{unknown} answers")));
        }
        for (name, value) in lines {
            output::line(&format!("{name:<14} {value}"));
        }
        if !scores.templates.is_empty() {
            output::line("");
            let row = |of: &ringmaster_worker::TemplateScore| {
                vec![
                    of.template.clone(),
                    output::count(of.rows),
                    percent(of.score),
                ]
            };
            let rows: Vec<Vec<String>> = scores.templates.iter().map(row).collect();
            output::table(&["kind", "questions", "score"], &rows);
        }
    }
}

fn percent(score: f64) -> String {
    format!("{:.1}%", 100.0 * score)
}
