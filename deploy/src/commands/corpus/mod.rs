//! `ringmaster corpus`: make the built-in corpus, import one, look at any.

mod import;

use std::sync::Arc;

use clap::{Args, Subcommand};
use ringmaster_dataset::{CorpusManifest, Store, read_texts, scenes_corpus};
use ringmaster_proto::spec::Columns;
use serde::Serialize;

use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::progress::Stages;

/// Rows whose texts are read to describe them.
const SAMPLE_ROWS: u64 = 10_000;

/// What to do with a corpus.
#[derive(Debug, Subcommand)]
pub(crate) enum CorpusCommand {
    /// Write the built-in scenes corpus: rendered shapes with captions, questions and answers
    Make(MakeArgs),
    /// Write another data set as Parquet shards, but for pictures that must stay out
    Import(import::ImportArgs),
    /// Show rows, shards, row groups, sizes and texts of a Parquet corpus
    Inspect(InspectArgs),
}

/// Arguments of `corpus make`.
#[derive(Args, Debug)]
pub(crate) struct MakeArgs {
    /// Folder or URL below which train/ and validation/ are written
    #[arg(long, value_name = "URL")]
    out: String,
    /// Rows to train on
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Rows to hold out
    #[arg(long, default_value_t = 1024)]
    held_out: u64,
    /// Equal seeds write equal bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Arguments of `corpus inspect`.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A Parquet file, or a folder of them: a path, file://, s3://, gs:// or az://
    url: String,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Runs one of the verbs.
pub(crate) async fn run(command: CorpusCommand) -> Result<Exit, CliError> {
    match command {
        CorpusCommand::Make(args) => make(args).await,
        CorpusCommand::Import(args) => import::run(args).await,
        CorpusCommand::Inspect(args) => inspect(args).await,
    }
}

async fn make(args: MakeArgs) -> Result<Exit, CliError> {
    let out = Store::open(&args.out)?;
    let stages = Stages::new();
    scenes_corpus::make(&out, args.rows, args.held_out, args.seed, &stages).await?;
    drop(stages);
    let url = out.url();
    eprintln!("train on it with:");
    output::line(&format!("data.sources = [{{ url = \"{url}/train\" }}]"));
    if args.held_out > 0 {
        output::line(&format!("data.validation = \"{url}/validation\""));
    }
    Ok(Exit::Done)
}

/// What `corpus inspect` shows; its field names are a contract.
#[derive(Debug, Default, Serialize)]
struct Inspection {
    url: String,
    rows: u64,
    shards: usize,
    row_groups: usize,
    size_bytes: u64,
    corpus_hash: String,
    sampled_rows: u64,
    captioned_rows: u64,
    question_rows: u64,
    template_rows: u64,
    caption_chars_min: usize,
    caption_chars_mean: f64,
    caption_chars_max: usize,
}

async fn inspect(args: InspectArgs) -> Result<Exit, CliError> {
    let stages = Stages::new();
    let columns = Columns::default();
    let show = |done, total| stages.show("footers", done, total);
    let manifest =
        CorpusManifest::open(std::slice::from_ref(&args.url), &columns, "the URL", show).await?;
    let mut inspection = Inspection {
        url: args.url,
        rows: manifest.rows(),
        shards: manifest.shards.len(),
        row_groups: manifest.row_groups().count(),
        size_bytes: manifest.bytes(),
        corpus_hash: manifest.hash(),
        caption_chars_min: usize::MAX,
        ..Inspection::default()
    };
    let mut chars = 0;
    read_texts(&Arc::new(manifest), &columns, SAMPLE_ROWS, |row| {
        inspection.sampled_rows += 1;
        inspection.question_rows += u64::from(row.question.is_some());
        inspection.template_rows += u64::from(row.template.is_some());
        if let Some(caption) = row.caption {
            let length = caption.chars().count();
            chars += length;
            inspection.captioned_rows += 1;
            inspection.caption_chars_min = inspection.caption_chars_min.min(length);
            inspection.caption_chars_max = inspection.caption_chars_max.max(length);
        }
    })
    .await?;
    drop(stages);
    inspection.caption_chars_min = inspection
        .caption_chars_min
        .min(inspection.caption_chars_max);
    inspection.caption_chars_mean = chars as f64 / inspection.captioned_rows.max(1) as f64;
    match args.output {
        Output::Json => output::json(&inspection),
        Output::Table => inspection.print(),
    }
    Ok(Exit::Done)
}

impl Inspection {
    fn print(&self) {
        use output::{bytes, count};
        let (min, max) = (self.caption_chars_min, self.caption_chars_max);
        let of = |n: u64| format!("{} of {} sampled rows", count(n), count(self.sampled_rows));
        let lines = [
            ("corpus", self.url.clone()),
            ("identity", self.corpus_hash.clone()),
            ("rows", count(self.rows)),
            (
                "shards",
                format!("{}, {}", self.shards, bytes(self.size_bytes)),
            ),
            ("row groups", self.row_groups.to_string()),
            ("captions", of(self.captioned_rows)),
            ("questions", of(self.question_rows)),
            ("templates", of(self.template_rows)),
            (
                "caption length",
                format!("{min} to {max}, mean {:.1} chars", self.caption_chars_mean),
            ),
        ];
        for (name, value) in lines {
            output::line(&format!("{name:<15} {value}"));
        }
    }
}
