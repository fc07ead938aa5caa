//! `ringmaster corpus inspect`: what a corpus holds, from its footers and a sample of its rows.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use ringmaster_dataset::{
    Compared, CorpusManifest, DatasetError, Mixing, Plan, PlanSpec, SeenRow, Which, read_texts,
    survey,
};
use ringmaster_proto::RunSpec;
use serde::Serialize;

use super::sheet::{self, PICTURE_SIDE};
use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::progress::Stages;

/// Rows whose texts are read to describe them.
const TEXT_ROWS: u64 = 10_000;

/// Rows whose pictures are looked at, spread over the corpus.
const PICTURE_ROWS: u64 = 96;

/// Arguments of `corpus inspect`.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A Parquet file, or a folder of them: a path, file://, s3://, gs:// or az://
    url: String,
    /// Also how well the plan of a run mixes the rows, next to a full shuffle
    #[arg(long)]
    shuffle: bool,
    /// A key of the run file that names columns or shapes the plan, as in data.shuffle_rows=65536
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Also write a page with pictures and captions from all over the corpus
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What is shown; its field names are a contract.
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
    pictures: Pictures,
    #[serde(skip_serializing_if = "Option::is_none")]
    shuffle: Option<Mixing>,
}

/// Of the rows whose pictures were looked at.
#[derive(Debug, Default, Serialize)]
struct Pictures {
    sampled_rows: u64,
    refused_rows: u64,
    bytes_mean: f64,
    /// Widths and heights: the smallest, the one in the middle, the largest.
    widths: [usize; 3],
    heights: [usize; 3],
}

/// Shows it.
pub(super) async fn run(args: InspectArgs) -> Result<Exit, CliError> {
    let spec = RunSpec::parse("", &args.set)?;
    let stages = Stages::new();
    let columns = &spec.data.columns;
    let show = |done, total| stages.show("footers", done, total);
    let sources = std::slice::from_ref(&args.url);
    let manifest = Arc::new(CorpusManifest::open(sources, columns, "the URL", show).await?);
    let mut inspection = Inspection {
        url: args.url,
        rows: manifest.rows(),
        shards: manifest.shards.len(),
        row_groups: manifest.row_groups().count(),
        size_bytes: manifest.bytes(),
        corpus_hash: manifest.hash(),
        ..Inspection::default()
    };
    if args.shuffle {
        let plan = Plan::new(manifest.row_groups(), PlanSpec::from(&spec));
        let plan = plan.map_err(DatasetError::from)?;
        inspection.shuffle = Some(Mixing::of(&plan, manifest.row_groups(), 0));
    }
    inspection.read_texts(&manifest, &spec).await?;
    let mut seen = Vec::new();
    let which = Which::Spread(PICTURE_ROWS);
    let side = PICTURE_SIDE as usize;
    survey(&manifest, columns, which, side, |row| seen.push(row)).await?;
    drop(stages);
    inspection.pictures = Pictures::of(&seen);
    if let Some(path) = &args.html {
        let page = sheet::render(&inspection.url, &seen);
        fs::write(path, page).map_err(|error| CliError::file(path, &error))?;
    }
    match args.output {
        Output::Json => output::json(&inspection),
        Output::Table => inspection.print(),
    }
    Ok(Exit::Done)
}

impl Inspection {
    async fn read_texts(
        &mut self,
        manifest: &Arc<CorpusManifest>,
        spec: &RunSpec,
    ) -> Result<(), DatasetError> {
        let (mut chars, mut least) = (0, usize::MAX);
        read_texts(manifest, &spec.data.columns, TEXT_ROWS, |row| {
            self.sampled_rows += 1;
            self.question_rows += u64::from(row.question.is_some());
            self.template_rows += u64::from(row.template.is_some());
            if let Some(caption) = row.caption {
                let length = caption.chars().count();
                chars += length;
                least = least.min(length);
                self.captioned_rows += 1;
                self.caption_chars_max = self.caption_chars_max.max(length);
            }
        })
        .await?;
        self.caption_chars_min = least.min(self.caption_chars_max);
        self.caption_chars_mean = chars as f64 / self.captioned_rows.max(1) as f64;
        Ok(())
    }

    fn print(&self) {
        use output::{bytes, count};
        let (min, max) = (self.caption_chars_min, self.caption_chars_max);
        let of = |n: u64| format!("{} of {} sampled rows", count(n), count(self.sampled_rows));
        let pictures = &self.pictures;
        let sizes =
            |[least, middle, most]: [usize; 3]| format!("{least} to {most}, median {middle}");
        let shards = format!("{}, {}", self.shards, bytes(self.size_bytes));
        let usable = pictures.sampled_rows - pictures.refused_rows;
        let mut lines = vec![
            ("corpus", self.url.clone()),
            ("identity", self.corpus_hash.clone()),
            ("rows", count(self.rows)),
            ("shards", shards),
            ("row groups", self.row_groups.to_string()),
            ("captions", of(self.captioned_rows)),
            ("questions", of(self.question_rows)),
            ("templates", of(self.template_rows)),
            (
                "caption length",
                format!("{min} to {max}, mean {:.1} chars", self.caption_chars_mean),
            ),
            (
                "pictures",
                format!("{usable} of {} sampled rows usable", pictures.sampled_rows),
            ),
            (
                "picture size",
                bytes(pictures.bytes_mean as u64) + " in the mean",
            ),
            ("picture width", sizes(pictures.widths) + " pixels"),
            ("picture height", sizes(pictures.heights) + " pixels"),
        ];
        lines.extend(self.shuffle.iter().flat_map(shuffle_lines));
        for (name, value) in lines {
            output::line(&format!("{name:<18} {value}"));
        }
    }
}

impl Pictures {
    fn of(seen: &[SeenRow]) -> Self {
        let count = seen.len() as u64;
        let bytes: usize = seen.iter().map(|row| row.picture_bytes).sum();
        let spread = |of: fn((usize, usize)) -> usize| {
            let mut sides: Vec<usize> = seen
                .iter()
                .filter_map(|row| row.picture_size)
                .map(of)
                .collect();
            sides.sort_unstable();
            let at = |index: usize| sides.get(index).copied().unwrap_or_default();
            [
                at(0),
                at(sides.len() / 2),
                at(sides.len().saturating_sub(1)),
            ]
        };
        Self {
            sampled_rows: count,
            refused_rows: seen.iter().filter(|row| row.decoded.is_err()).count() as u64,
            bytes_mean: bytes as f64 / count.max(1) as f64,
            widths: spread(|(width, _)| width),
            heights: spread(|(_, height)| height),
        }
    }
}

fn shuffle_lines(mixing: &Mixing) -> Vec<(&'static str, String)> {
    let percent = |of: Compared| {
        let (plan, full) = (100.0 * of.plan, 100.0 * of.full_shuffle);
        format!("{plan:.3} %; {full:.3} % in a full shuffle")
    };
    let number = |of: Compared| format!("{:.1}; {:.1} in a full shuffle", of.plan, of.full_shuffle);
    let apart = mixing
        .neighbour_steps
        .map_or_else(|| "no two in a window".to_owned(), number);
    vec![
        ("rows travel", percent(mixing.travel) + ", of the epoch"),
        ("neighbours in step", percent(mixing.neighbours_in_step)),
        ("neighbours apart", apart + ", steps"),
        ("row groups a step", number(mixing.row_groups_per_step)),
    ]
}
