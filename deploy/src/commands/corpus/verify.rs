//! `ringmaster corpus verify`: every row read and decoded as training would.

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use ringmaster_dataset::{CorpusManifest, SeenRow, Which, survey};
use ringmaster_proto::{ErrorKind, RunSpec};
use serde::Serialize;

use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::progress::Stages;

/// Rows that are named; the others are counted.
const NAMED_MAX: usize = 100;

/// Arguments of `corpus verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// A Parquet file, or a folder of them: a path, file://, s3://, gs:// or az://
    url: String,
    /// A key of the run file that names columns, as in data.columns.image=jpg
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What was found; its field names are a contract.
#[derive(Debug, Default, Serialize)]
struct Report {
    url: String,
    rows: u64,
    refused_rows: u64,
    picture_bytes: u64,
    seconds: f64,
    /// The first of those refused.
    refused: Vec<Refused>,
}

#[derive(Debug, Serialize)]
struct Refused {
    shard: String,
    row_group: u32,
    row: u32,
    reason: String,
}

/// Reads all of it. Rows that cannot be used are an error at the end.
pub(super) async fn run(args: VerifyArgs) -> Result<Exit, CliError> {
    let spec = RunSpec::parse("", &args.set)?;
    let columns = &spec.data.columns;
    let stages = Stages::new();
    let show = |done, total| stages.show("footers", done, total);
    let sources = std::slice::from_ref(&args.url);
    let manifest = Arc::new(CorpusManifest::open(sources, columns, "the URL", show).await?);
    let total = manifest.rows();
    let mut report = Report {
        url: args.url,
        ..Report::default()
    };
    let since = Instant::now();
    let visit = |row| {
        report.add(row);
        stages.show("rows", report.rows, total);
    };
    survey(&manifest, columns, Which::All, spec.model.image_size, visit).await?;
    report.seconds = since.elapsed().as_secs_f64();
    drop(stages);
    match args.output {
        Output::Json => output::json(&report),
        Output::Table => report.print(),
    }
    if report.refused_rows == 0 {
        return Ok(Exit::Done);
    }
    let (refused, rows) = (
        output::count(report.refused_rows),
        output::count(report.rows),
    );
    Err(CliError::refused(
        ErrorKind::Data,
        report.url,
        format!("{refused} of {rows} rows cannot be used"),
        "mend them, or let a run pass over them with data.max_bad_fraction",
    ))
}

impl Report {
    fn add(&mut self, seen: SeenRow) {
        self.rows += 1;
        self.picture_bytes += seen.picture_bytes as u64;
        let Err(reason) = seen.decoded else { return };
        self.refused_rows += 1;
        if self.refused.len() < NAMED_MAX {
            self.refused.push(Refused {
                shard: seen.shard,
                row_group: seen.row_group,
                row: seen.row,
                reason,
            });
        }
    }

    fn print(&self) {
        for Refused {
            shard,
            row_group,
            row,
            reason,
        } in &self.refused
        {
            output::line(&format!(
                "{shard}: row {row} of row group {row_group}: {reason}"
            ));
        }
        let rate = self.rows as f64 / self.seconds.max(1e-9);
        output::line(&format!(
            "{} rows, {} refused, {} of pictures, {rate:.0} rows/s",
            output::count(self.rows),
            output::count(self.refused_rows),
            output::bytes(self.picture_bytes),
        ));
    }
}
