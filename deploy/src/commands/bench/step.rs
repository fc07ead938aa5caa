//! `ringmaster bench step`: the training step of one worker that owns all lanes, on made-up input, and
//! how much of the device's own rate of products it reaches.

use clap::Args;
use ringmaster_model::cost;
use ringmaster_worker::DeviceChoice;
use ringmaster_worker::step_bench::{StepBench, StepSeconds, Stepped};
use serde::Serialize;

use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::run_file::RunFile;
use crate::usage;

/// Arguments of `bench step`.
#[derive(Args, Debug)]
pub(crate) struct StepArgs {
    #[command(flatten)]
    run: RunFile,
    /// Model preset: tiny, small, base or large
    #[arg(long, default_value = "base")]
    preset: String,
    /// Examples of a microbatch
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// Microbatches of a step
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    lanes: u64,
    /// Steps that are timed
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Steps before them, in which kernels are compiled and memory is found
    #[arg(long, default_value_t = 3)]
    warmup: u64,
    /// Side of the matrices whose product is the device's rate; 0 leaves it out
    #[arg(long, default_value_t = 4096)]
    matrix: usize,
    /// What to compute on: auto, cpu or cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Form of the result on stdout
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// The result; its field names are a contract.
#[derive(Debug, Serialize)]
struct Report {
    device: String,
    precision: String,
    params: u64,
    batch: u64,
    microbatches: u64,
    /// Median over the timed steps, as all of the following.
    step_seconds: f64,
    compute_seconds: f64,
    reduce_seconds: f64,
    /// Part of it that nothing was computed in.
    exposed_seconds: f64,
    optimizer_seconds: f64,
    step_seconds_min: f64,
    examples_per_second: f64,
    /// Of forward and backward pass, a multiply-accumulate being two; the backward pass costs two
    /// forward passes.
    tflop_per_second: f64,
    /// Rate of a plain product in the same number format.
    product_tflop_per_second: Option<f64>,
    /// Share of that rate.
    mfu: Option<f64>,
    warmup_seconds: f64,
    loss: f64,
    host_memory_bytes: Option<u64>,
    digest: String,
}

/// Measures and prints.
pub(crate) fn run(args: &StepArgs) -> Result<Exit, CliError> {
    let run = args.run.clone();
    let run = run.with("model.preset", &args.preset);
    let run = run.with("data.lanes", args.lanes);
    let spec = run.with("data.lane_batch", args.batch).load()?;
    let (model, precision) = (spec.model.clone(), spec.train.precision);
    let examples = args.batch * args.lanes;
    let macs = cost(&model, model.text_len, model.target_len).macs();
    let flops = 2.0 * 3.0 * macs as f64 * examples as f64;

    eprintln!("building the model");
    let started = std::time::Instant::now();
    let mut bench = StepBench::new(spec, args.device)?;
    eprintln!("built in {:.1} s", started.elapsed().as_secs_f64());
    for step in 0..args.warmup {
        let Stepped {
            loss,
            grad_norm,
            seconds,
        } = bench.step()?;
        let seconds = seconds.total();
        eprintln!("warm-up step {step}: {seconds:.3} s, loss {loss:.5}, gradient {grad_norm:.5}");
    }
    let warmup_seconds = started.elapsed().as_secs_f64();
    let mut times = Vec::new();
    let mut last = f64::NAN;
    for _ in 0..args.steps {
        let stepped = bench.step()?;
        last = stepped.loss;
        times.push(stepped.seconds);
    }
    let product = match args.matrix {
        0 => None,
        side => Some(2.0 * (side as f64).powi(3) / bench.product_seconds(side, 3)?),
    };
    let median = |of: fn(&StepSeconds) -> f64| {
        let mut values: Vec<f64> = times.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let step_seconds = median(StepSeconds::total);
    let totals = times.iter().map(StepSeconds::total);
    let report = Report {
        device: args.device.to_string(),
        precision: format!("{precision:?}").to_lowercase(),
        params: bench.parameters() as u64,
        batch: args.batch,
        microbatches: args.lanes,
        step_seconds,
        compute_seconds: median(|s| s.compute),
        reduce_seconds: median(|s| s.reduce),
        exposed_seconds: median(|s| s.exposed),
        optimizer_seconds: median(|s| s.optimizer),
        step_seconds_min: totals.fold(f64::INFINITY, f64::min),
        examples_per_second: examples as f64 / step_seconds,
        tflop_per_second: flops / step_seconds / 1e12,
        product_tflop_per_second: product.map(|rate| rate / 1e12),
        mfu: product.map(|rate| flops / step_seconds / rate),
        warmup_seconds,
        loss: last,
        host_memory_bytes: usage::peak_memory_bytes(),
        digest: bench.digest()?,
    };
    match args.output {
        Output::Json => output::json(&report),
        Output::Table => print(&report),
    }
    Ok(Exit::Done)
}

fn print(report: &Report) {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let rate = |rate: f64| format!("{rate:.1} TFLOP/s");
    let none = || "not measured".to_owned();
    let milliseconds = |seconds: f64| format!("{:.1} ms", 1e3 * seconds);
    let rows = [
        ("parameters", format!("{:.1} M", report.params as f64 / 1e6)),
        ("examples/s", format!("{:.1}", report.examples_per_second)),
        ("step", milliseconds(report.step_seconds)),
        ("  compute", milliseconds(report.compute_seconds)),
        ("  reduce", milliseconds(report.reduce_seconds)),
        ("  reduce, exposed", milliseconds(report.exposed_seconds)),
        ("  optimizer", milliseconds(report.optimizer_seconds)),
        ("model", rate(report.tflop_per_second)),
        (
            "plain product",
            report.product_tflop_per_second.map_or_else(none, rate),
        ),
        ("share of it (MFU)", report.mfu.map_or_else(none, percent)),
        ("loss, nats/token", format!("{:.4}", report.loss)),
        ("digest", report.digest.clone()),
    ];
    let rows: Vec<Vec<String>> = rows
        .map(|(name, value)| vec![name.to_owned(), value])
        .to_vec();
    output::table(&["what", "figure"], &rows);
}
