//! `ringmaster bench allreduce`: sums a buffer over one process per rank on loopback.
//!
//! Processes, as a run has, so that what is measured is what a run gets: links, scheduling and
//! memory traffic of separate processes.

mod line;
mod processes;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use self::line::{Line, chart};
use self::processes::Processes;
use super::rank::{Carrier, CaseSpec, Measured};
use crate::error::{CliError, Exit};
use crate::output::{self, Output};

/// Arguments of `bench allreduce`; lists make one case of each combination.
#[derive(Args, Debug)]
pub(crate) struct AllreduceArgs {
    /// Ranks, one process each
    #[arg(long, value_delimiter = ',', default_value = "2")]
    world: Vec<u32>,
    /// Size of the buffer, MiB of f32; 0.00390625 is 4 KiB
    #[arg(long, value_delimiter = ',', default_value = "64")]
    mib: Vec<f64>,
    /// Type of the buffer's elements
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// How it is summed
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32")]
    reduction: Vec<Measured>,
    /// What may carry the data
    #[arg(long, value_enum, value_delimiter = ',', default_value = "best")]
    transport: Vec<Carrier>,
    /// Measured calls per case, after one that is not
    #[arg(long, default_value_t = 10)]
    repeats: usize,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Also draw bus bandwidth against size into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Dtype {
    #[default]
    F32,
}

/// One element of four bytes, rounded up.
const MIB_MIN: f64 = 4e-6;

/// Runs every case and prints a line for each.
pub(super) fn run(args: &AllreduceArgs) -> Result<Exit, CliError> {
    let Dtype::F32 = args.dtype;
    refuse_what_cannot_be_measured(args)?;
    let cases: Vec<CaseSpec> = args
        .mib
        .iter()
        .flat_map(|&mib| {
            let case = move |&reduction| CaseSpec {
                mib,
                reduction,
                repeats: args.repeats,
            };
            args.reduction.iter().map(case)
        })
        .collect();
    let mut lines = Vec::new();
    for &world in &args.world {
        for &carrier in &args.transport {
            measure(world, carrier, &cases, |line| {
                if args.output == Output::Json {
                    output::json(&line);
                }
                lines.push(line);
            })?;
        }
    }
    if args.output == Output::Table {
        let header = ["world", "mib", "dtype", "reduction", "transport", "repeats"];
        let figures = ["best_s", "median_s", "bus_gb_per_s"];
        let rows: Vec<Vec<String>> = lines.iter().map(Line::row).collect();
        output::table(&[&header[..], &figures[..]].concat(), &rows);
    }
    if let Some(path) = &args.svg {
        let drawn = chart(&lines).to_svg();
        std::fs::write(path, drawn).map_err(|error| CliError::file(path, &error))?;
    }
    Ok(Exit::Done)
}

/// Measures every case with one ring of processes.
fn measure(
    world: u32,
    carrier: Carrier,
    cases: &[CaseSpec],
    mut report: impl FnMut(Line),
) -> Result<(), CliError> {
    let mut ring = Processes::start(world)?;
    let transport = ring.assign(carrier, cases)?;
    for case in cases {
        report(Line::of((world, &transport), *case, ring.seconds()?));
    }
    ring.end()
}

fn refuse_what_cannot_be_measured(args: &AllreduceArgs) -> Result<(), CliError> {
    let refuse = |flag: &str, next: &str| Err(CliError::invalid(flag, "out of range", next));
    if args.world.iter().any(|world| !(1..=64).contains(world)) {
        return refuse("--world", "use 1 to 64 processes");
    }
    if args
        .mib
        .iter()
        .any(|mib| !(MIB_MIN..=16_384.0).contains(mib))
    {
        return refuse("--mib", "use 0.000004 (one element) to 16384 MiB");
    }
    if !(1..=100_000).contains(&args.repeats) {
        return refuse("--repeats", "use 1 to 100000");
    }
    Ok(())
}
