//! `ringmaster bench corpus`: what it takes to open a corpus of very many shards and to plan any step
//! of it.

use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{fs, io};

use clap::Args;
use ringmaster_dataset::{CorpusManifest, Plan, PlanSpec, Store, hollow_shard};
use ringmaster_proto::spec::Columns;
use ringmaster_proto::{ErrorKind, Lane, Step};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::child;
use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::usage;

/// Steps that are planned, anywhere in an epoch.
const STEPS: u64 = 10_000;

/// Epochs whose order is made.
const EPOCHS: u64 = 16;

/// What is planned for: many lanes with a window each, as a run on many GPUs has.
const PLAN: PlanSpec = PlanSpec {
    seed: 1,
    lanes: 256,
    lane_batch: 16,
    shuffle_rows: 1 << 19,
};

/// Arguments of `bench corpus`.
#[derive(Args, Debug)]
pub(crate) struct CorpusArgs {
    /// Shards of the corpus
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    shards: u32,
    /// Row groups of a shard
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    row_groups: u32,
    /// Rows of a row group
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rows: u32,
    /// Measure in this process, on the corpus of this folder
    #[arg(long, hide = true)]
    at: Option<PathBuf>,
    /// Form of the result on stdout
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What one process measured.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    rows: u64,
    row_groups: usize,
    open_seconds: f64,
    /// From the stored manifest, as a worker opens it.
    worker_open_seconds: f64,
    /// All rows of one lane in one step: median, and what 99 in 100 take at most, over steps anywhere
    /// in an epoch. Their longest is the machine's scheduler.
    plan_seconds: f64,
    plan_seconds_p99: f64,
    /// The first step of an epoch, which also puts its row groups in order; median.
    first_plan_seconds: f64,
    peak_memory_bytes: u64,
}

/// The result; its field names are a contract.
#[derive(Debug, Serialize)]
struct Report {
    shards: u32,
    /// With every footer read.
    cold: Measured,
    /// With the footers known.
    cached: Measured,
}

/// Makes a corpus, measures twice in processes of their own, removes it.
pub(crate) async fn run(args: CorpusArgs) -> Result<Exit, CliError> {
    if let Some(folder) = &args.at {
        output::json(&measure(folder).await?);
        return Ok(Exit::Done);
    }
    let out = std::env::temp_dir().join(format!("ringmaster-corpus-{}", std::process::id()));
    let measured = compare(&out, &args).await;
    fs::remove_dir_all(&out).map_err(|error| CliError::file(&out, &error))?;
    let report = measured?;
    match args.output {
        Output::Json => output::json(&report),
        Output::Table => report.print(),
    }
    Ok(Exit::Done)
}

async fn compare(out: &Path, args: &CorpusArgs) -> Result<Report, CliError> {
    eprintln!("writing {} shards", args.shards);
    make(&out.join("corpus"), args).map_err(|error| CliError::file(out, &error))?;
    Ok(Report {
        shards: args.shards,
        cold: in_a_process(out, "cold").await?,
        cached: in_a_process(out, "cached").await?,
    })
}

fn make(folder: &Path, args: &CorpusArgs) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for number in 0..args.shards {
        let caption = format!("shard {number}");
        let shard = hollow_shard(args.row_groups, args.rows, &caption).map_err(io::Error::other)?;
        fs::write(folder.join(format!("part-{number:06}.parquet")), shard)?;
    }
    Ok(())
}

async fn in_a_process(out: &Path, name: &str) -> Result<Measured, CliError> {
    eprintln!("measuring: {name}");
    let args = ["bench", "corpus", "--at"].map(Into::into).into_iter();
    let args = args.chain([out.as_os_str().to_owned()]).collect();
    let said = child::run(out, name, args, CancellationToken::new()).await?;
    let line = said.as_ref().and_then(|lines| lines.last());
    let measured = line.and_then(|line| serde_json::from_str(line).ok());
    measured.ok_or_else(|| {
        let log = out.join("logs").display().to_string();
        CliError::refused(
            ErrorKind::Internal,
            "the measurement",
            "it said nothing",
            log,
        )
    })
}

async fn measure(out: &Path) -> Result<Measured, CliError> {
    let source = out.join("corpus").display().to_string();
    let root = Store::open(&out.join("run").display().to_string())?;
    let columns = Columns::default();
    let since = Instant::now();
    let manifest =
        CorpusManifest::open_and_keep(&source, &columns, "--at", &root, |_, _| {}).await?;
    let open_seconds = since.elapsed().as_secs_f64();
    let (stored, hash) = (manifest.to_json(), manifest.hash());
    drop(manifest);
    let since = Instant::now();
    let manifest = CorpusManifest::from_json(&source, &stored, &hash)?;
    let plan =
        Plan::new(manifest.row_groups(), PLAN).map_err(ringmaster_dataset::DatasetError::from)?;
    let worker_open_seconds = since.elapsed().as_secs_f64();
    let time = |step: u64| {
        let since = Instant::now();
        let lane = Lane((step % u64::from(PLAN.lanes)) as u32);
        let rows = plan.rows(Step(step), lane);
        (since.elapsed().as_secs_f64(), rows.len())
    };
    let epoch = plan.steps_per_epoch();
    let mut first: Vec<f64> = (0..EPOCHS).map(|n| time(n * epoch).0).collect();
    first.sort_by(f64::total_cmp);
    time(0);
    // A stride that is prime to nearly every epoch: steps from everywhere in it.
    let mut times: Vec<f64> = (0..STEPS).map(|n| time(n * 7919 % epoch).0).collect();
    times.sort_by(f64::total_cmp);
    Ok(Measured {
        rows: manifest.rows(),
        row_groups: manifest.row_groups().count(),
        open_seconds,
        worker_open_seconds,
        plan_seconds: times[times.len() / 2],
        plan_seconds_p99: times[times.len() * 99 / 100],
        first_plan_seconds: first[first.len() / 2],
        peak_memory_bytes: usage::peak_memory_bytes().unwrap_or_default(),
    })
}

impl Report {
    fn print(&self) {
        let ms = |seconds: f64| format!("{:.3} ms", 1e3 * seconds);
        let (cold, cached) = (&self.cold, &self.cached);
        eprintln!(
            "{} rows in {} row groups of {} shards",
            output::count(cold.rows),
            output::count(cold.row_groups as u64),
            output::count(self.shards.into())
        );
        let row = |name: &str, of: &dyn Fn(&Measured) -> String| {
            vec![name.to_owned(), of(cold), of(cached)]
        };
        let rows = [
            row("open", &|m| ms(m.open_seconds)),
            row("open as a worker", &|m| ms(m.worker_open_seconds)),
            row("plan a step, median", &|m| ms(m.plan_seconds)),
            row("plan a step, 99 of 100", &|m| ms(m.plan_seconds_p99)),
            row("first step of an epoch", &|m| ms(m.first_plan_seconds)),
            row("peak memory", &|m| output::bytes(m.peak_memory_bytes)),
        ];
        output::table(&["corpus", "footers read", "footers known"], &rows);
    }
}
