//! `ringmaster bench loader`: how many examples a second this machine can make ready, part by part and as
//! training does it, beside what decoding alone reaches and what a step takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ringmaster_dataset::loader_bench::{LoaderBench, LoaderRates};
use ringmaster_dataset::{Store, photos};
use ringmaster_proto::RunSpec;
use serde::Serialize;

use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::usage;

/// Names the corpus that is made up; any other would do.
const SEED: u64 = 1;

/// Arguments of `bench loader`.
#[derive(Args, Debug)]
pub(crate) struct LoaderArgs {
    /// Rows of the corpus that is made up: JPEGs like photographs, 256 to 512 pixels a side
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(512..=1 << 20))]
    rows: u64,
    /// Make the corpus in this folder, and leave it there
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Somebody's corpus instead: a file or folder of Parquet
    #[arg(long, value_name = "URL", conflicts_with_all = ["rows", "keep"])]
    source: Option<String>,
    /// The same corpus elsewhere, loaded in turns with it
    #[arg(long, value_name = "URL")]
    against: Option<String>,
    /// For how long is measured
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Threads that decode [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// Decode JPEGs that shrink by two or more at once smaller, as with data.dct_scaling
    #[arg(long)]
    dct_scaling: bool,
    /// Examples per second that a step takes, to compare with: `base` on one H200
    #[arg(long, default_value_t = 1060.0)]
    needs: f64,
    /// Form of the result on stdout
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// The result; its field names are a contract.
#[derive(Debug, Serialize)]
struct Report {
    threads: usize,
    dct_scaling: bool,
    picture_bytes: f64,
    picture_pixels: f64,
    /// Reading and shuffling alone, examples per second as all of the following.
    read_per_second: f64,
    /// One thread, as the next two.
    decode_per_second: f64,
    resize_per_second: f64,
    normalise_per_second: f64,
    /// Decoding and resizing from memory, all threads.
    ceiling_per_second: f64,
    /// Reading, shuffling, decoding, resizing and normalising.
    whole_per_second: f64,
    /// The whole's share of the ceiling, measured in turns: median.
    of_ceiling: f64,
    /// Processor time of an example, seconds; what else runs on the machine makes little difference to it.
    ceiling_core_seconds: f64,
    whole_core_seconds: f64,
    /// The whole way of the same corpus from elsewhere, and the median of its share, turn by turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    against_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against_core_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against_of_whole: Option<f64>,
    step_needs_per_second: f64,
    /// Threads like these that keep up with such a step.
    threads_for_step: f64,
}

impl Report {
    fn new(threads: usize, args: &LoaderArgs, rates: LoaderRates) -> Self {
        let needs = args.needs;
        Self {
            threads,
            dct_scaling: args.dct_scaling,
            picture_bytes: rates.picture_bytes,
            picture_pixels: rates.picture_pixels,
            read_per_second: rates.read,
            decode_per_second: rates.decode,
            resize_per_second: rates.resize,
            normalise_per_second: rates.normalise,
            ceiling_per_second: rates.ceiling.rate,
            whole_per_second: rates.whole.rate,
            of_ceiling: rates.of_ceiling,
            ceiling_core_seconds: rates.ceiling.core_seconds,
            whole_core_seconds: rates.whole.core_seconds,
            against_per_second: rates.elsewhere.map(|of| of.whole.rate),
            against_core_seconds: rates.elsewhere.map(|of| of.whole.core_seconds),
            against_of_whole: rates.elsewhere.map(|of| of.share),
            step_needs_per_second: needs,
            threads_for_step: needs * threads as f64 / rates.whole.rate,
        }
    }
}

/// Makes the corpus, measures, prints, and removes what it made.
pub(crate) async fn run(args: LoaderArgs) -> Result<Exit, CliError> {
    let out = std::env::temp_dir().join(format!("ringmaster-loader-{}", std::process::id()));
    let measured = measure(&out, &args).await;
    fs::remove_dir_all(&out).map_err(|error| CliError::file(&out, &error))?;
    let report = measured?;
    match args.output {
        Output::Json => output::json(&report),
        Output::Table => print(&report),
    }
    Ok(Exit::Done)
}

async fn measure(out: &Path, args: &LoaderArgs) -> Result<Report, CliError> {
    let source = match &args.source {
        Some(source) => source.clone(),
        None => {
            let folder = args.keep.clone().unwrap_or_else(|| out.join("photos"));
            let folder = folder.display().to_string();
            eprintln!("making {} photographs up", args.rows);
            photos::make(&Store::open(&folder)?, args.rows, SEED).await?;
            folder
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores).max(1);
    let bench = open(&source, &out.join("run"), args, threads).await?;
    let elsewhere = match &args.against {
        Some(source) => Some(open(source, &out.join("against"), args, threads).await?),
        None => None,
    };
    eprintln!("measuring for about {} s", args.seconds);
    let time = Duration::from_secs(args.seconds);
    let core_seconds = || usage::core_seconds().unwrap_or(f64::NAN);
    let measure = move || bench.measure(elsewhere.as_ref(), time, core_seconds);
    let rates = tokio::task::spawn_blocking(measure).await;
    let lost = |error| {
        let internal = ringmaster_proto::ErrorKind::Internal;
        CliError::refused(internal, "bench loader", error, "please report it")
    };
    Ok(Report::new(threads, args, rates.map_err(lost)??))
}

/// The corpus at `source`, prepared in the folder `run`.
async fn open(
    source: &str,
    run: &Path,
    args: &LoaderArgs,
    threads: usize,
) -> Result<LoaderBench, CliError> {
    let spec = format!(
        "[run]\nname = \"loader\"\nsteps = 1\n\
         [data]\nsources = [{{ url = {source:?} }}]\nlanes = 8\nlane_batch = 32\n\
         shuffle_rows = 2048\nvalidation = 0.0\ndct_scaling = {scaling}\n\
         [model]\npreset = \"base\"\n",
        scaling = args.dct_scaling
    );
    let spec = RunSpec::parse(&spec, &[])?;
    let root = Store::open(&run.display().to_string())?;
    Ok(LoaderBench::open(&spec, &root, threads).await?)
}

fn print(report: &Report) {
    let rate = |rate: f64| format!("{rate:.0}");
    let picture = format!(
        "{:.1} kB, {:.0} kilopixels",
        report.picture_bytes / 1e3,
        report.picture_pixels / 1e3
    );
    let share = |share: f64| format!("{:.1} %", 100.0 * share);
    let (ceiling, whole) = (report.ceiling_core_seconds, report.whole_core_seconds);
    let cores = format!(
        "{:.0} us; {:.0} us, {:.1} %",
        1e6 * ceiling,
        1e6 * whole,
        100.0 * ceiling / whole
    );
    let needs = format!(
        "{:.0}; {:.1} such threads",
        report.step_needs_per_second, report.threads_for_step
    );
    let mut rows = vec![
        ("a picture", picture),
        ("read and shuffled", rate(report.read_per_second)),
        ("decoded, one thread", rate(report.decode_per_second)),
        ("resized, one thread", rate(report.resize_per_second)),
        ("normalised, one thread", rate(report.normalise_per_second)),
        ("decoded and resized", rate(report.ceiling_per_second)),
        ("the whole way", rate(report.whole_per_second)),
        ("  of decoding and resizing", share(report.of_ceiling)),
        ("  processor time of both", cores),
        ("a step takes", needs),
    ];
    if let Some((per_second, of_whole)) = report.against_per_second.zip(report.against_of_whole) {
        rows.push(("the whole way from elsewhere", rate(per_second)));
        rows.push(("  of the whole way", share(of_whole)));
    }
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    let header = format!("examples/s, {} threads", report.threads);
    output::table(&[&header, ""], &rows);
}
