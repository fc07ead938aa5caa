//! `ringmaster corpus import`: somebody's data set as a corpus.

use std::path::PathBuf;

use clap::Args;
use ringmaster_dataset::Store;
use ringmaster_dataset::import::{Exclusion, Format, ImportOptions, Imported, Source, import};
use serde::Serialize;

use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::progress::Stages;
use crate::run_file;

/// Lines that matched nothing, named on stderr; `--output json` has them all.
const UNMATCHED_MAX: usize = 20;

/// Arguments of `corpus import`.
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// A data set's file of rows, or a folder of such files
    #[arg(long, value_name = "FILE|FOLDER")]
    from: PathBuf,
    /// Folder or URL below which shards are written; no Parquet may be there
    #[arg(long, value_name = "URL")]
    out: String,
    /// Form of the data: jsonl, csv, parquet, webdataset, coco, snli-ve, vqa2 or gqa
    #[arg(long, default_value_t = Format::Jsonl)]
    format: Format,
    /// Folder of the pictures [default: the folder of the rows]
    #[arg(long, value_name = "FOLDER")]
    images: Option<PathBuf>,
    /// VQA2's file of annotations
    #[arg(long, value_name = "FILE")]
    annotations: Option<PathBuf>,
    /// List of pictures to leave out, one per line: a name, sha256:HEX, or a blake3 in hex
    #[arg(long, value_name = "FILE")]
    exclude: Vec<PathBuf>,
    /// Rows of a shard [default: as many as make 256 MiB]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows_per_shard: Option<u64>,
    /// Fraction of the rows that may be unusable; they are left out
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0)]
    max_bad_fraction: f64,
    /// Name a column of Parquet data that has an unconventional name
    #[arg(long = "set", value_name = "data.columns.KEY=COLUMN")]
    overrides: Vec<String>,
    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// The result; its field names are a contract.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    url: String,
    rows: u64,
    shards: u64,
    size_bytes: u64,
    excluded_rows: u64,
    bad_rows: u64,
    unmatched_excludes: &'a [String],
}

/// Imports, and says what came of it.
pub(super) async fn run(args: ImportArgs) -> Result<Exit, CliError> {
    let exclusion = Exclusion::read(&args.exclude)?;
    let source = Source {
        format: args.format,
        from: args.from,
        annotations: args.annotations,
        images: args.images,
        columns: run_file::columns(&args.overrides)?,
    };
    let options = ImportOptions {
        rows_per_shard: args.rows_per_shard,
        max_bad_fraction: args.max_bad_fraction,
    };
    let out = Store::open(&args.out)?;
    let imported = import(source, exclusion, &out, options, Stages::new()).await?;
    let summary = Summary::of(&imported, out.url());
    match args.output {
        Output::Json => output::json(&summary),
        Output::Table => summary.print(),
    }
    Ok(Exit::Done)
}

impl<'a> Summary<'a> {
    fn of(imported: &'a Imported, url: String) -> Self {
        Self {
            url,
            rows: imported.rows,
            shards: imported.shards,
            size_bytes: imported.bytes,
            excluded_rows: imported.excluded,
            bad_rows: imported.bad,
            unmatched_excludes: &imported.unmatched,
        }
    }

    fn print(&self) {
        use output::{bytes, count};
        let lines = [
            ("corpus", self.url.clone()),
            ("rows", count(self.rows)),
            (
                "shards",
                format!("{}, {}", self.shards, bytes(self.size_bytes)),
            ),
            ("excluded", count(self.excluded_rows)),
            ("bad", count(self.bad_rows)),
        ];
        for (name, value) in lines {
            output::line(&format!("{name:<9} {value}"));
        }
        let unmatched = self.unmatched_excludes;
        for line in unmatched.iter().take(UNMATCHED_MAX) {
            eprintln!("excluded, but in no row: {line}");
        }
        if unmatched.len() > UNMATCHED_MAX {
            let rest = count((unmatched.len() - UNMATCHED_MAX) as u64);
            eprintln!("and {rest} more; --output json names them all");
        }
        eprintln!(
            "train on it with: data.sources = [{{ url = {:?} }}]",
            self.url
        );
    }
}
