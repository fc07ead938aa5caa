//! `ringmaster bench allreduce`: sums a buffer over one process per rank on loopback.
//!
//! Processes, as a run has, so that what is measured is what a run gets: sockets, scheduling and
//! memory traffic of separate processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use clap::{Args, ValueEnum};
use ringmaster_proto::auth::RunToken;
use ringmaster_proto::{ErrorKind, Generation};
use ringmaster_ring::bench::bus_bandwidth;
use serde::Serialize;

use super::rank::{Assignment, CaseSpec, Measured};
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
    /// Measured calls per case, after one that is not
    #[arg(long, default_value_t = 10)]
    repeats: usize,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Dtype {
    #[default]
    F32,
}

/// One element of four bytes, rounded up.
const MIB_MIN: f64 = 4e-6;

/// One line of the result; its field names are a contract.
#[derive(Debug, Serialize)]
struct Line {
    world: u32,
    mib: f64,
    dtype: &'static str,
    reduction: &'static str,
    transport: &'static str,
    repeats: usize,
    best_s: f64,
    median_s: f64,
    /// nccl-tests' "busbw" of the median, in units of 10^9 bytes.
    bus_gb_per_s: f64,
}

/// Runs every case and prints a line for each.
pub(super) fn run(args: &AllreduceArgs) -> Result<Exit, CliError> {
    let Dtype::F32 = args.dtype;
    refuse_what_cannot_be_measured(args)?;
    let mut lines = Vec::new();
    for &world in &args.world {
        let cases = args.mib.iter().flat_map(|&mib| {
            let case = move |&reduction| CaseSpec {
                mib,
                reduction,
                repeats: args.repeats,
            };
            args.reduction.iter().map(case)
        });
        let cases: Vec<CaseSpec> = cases.collect();
        let mut ring = Processes::start(world)?;
        ring.assign(&cases)?;
        for case in cases {
            let line = Line::of(world, case, ring.seconds()?);
            if args.output == Output::Json {
                output::json(&line);
            }
            lines.push(line.row());
        }
        ring.end()?;
    }
    if args.output == Output::Table {
        let header = ["world", "mib", "dtype", "reduction", "transport", "repeats"];
        let figures = ["best_s", "median_s", "bus_gb_per_s"];
        output::table(&[&header[..], &figures[..]].concat(), &lines);
    }
    Ok(Exit::Done)
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

impl Line {
    fn of(world: u32, case: CaseSpec, mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let at = |index: usize| seconds.get(index).copied().unwrap_or(f64::NAN);
        let (best_s, median_s) = (
            at(0),
            (at((seconds.len() - 1) / 2) + at(seconds.len() / 2)) / 2.0,
        );
        let bytes = case.to_ring().bytes();
        let bus = if world > 1 {
            bus_bandwidth(bytes, world as usize, median_s)
        } else {
            0.0
        };
        Self {
            world,
            mib: case.mib,
            dtype: "f32",
            reduction: case.reduction.as_str(),
            transport: "tcp",
            repeats: case.repeats,
            best_s,
            median_s,
            bus_gb_per_s: bus / 1e9,
        }
    }

    fn row(&self) -> Vec<String> {
        let names = [self.dtype, self.reduction, self.transport].map(str::to_owned);
        let mut row = vec![self.world.to_string(), self.mib.to_string()];
        row.extend(names);
        row.push(self.repeats.to_string());
        row.extend([self.best_s, self.median_s].map(|seconds| format!("{seconds:.6}")));
        row.push(format!("{:.3}", self.bus_gb_per_s));
        row
    }
}

/// One process per rank; dropping it ends them, because their standard input closes.
struct Processes {
    ranks: Vec<Rank>,
}

struct Rank {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Processes {
    fn start(world: u32) -> Result<Self, CliError> {
        let ranks: Result<Vec<Rank>, CliError> = (0..world).map(|_| Rank::start()).collect();
        Ok(Self { ranks: ranks? })
    }

    /// Tells every rank where all ranks listen and what to measure.
    fn assign(&mut self, cases: &[CaseSpec]) -> Result<(), CliError> {
        let addresses: Result<Vec<String>, CliError> =
            self.ranks.iter_mut().map(Rank::line).collect();
        let addresses = addresses?;
        let token = RunToken::generate().map_err(broken)?;
        let secret = token.ring_secret("bench", Generation(1));
        for (rank, process) in self.ranks.iter_mut().enumerate() {
            let (addresses, cases) = (addresses.clone(), cases.to_vec());
            let assignment = Assignment {
                rank,
                addresses,
                secret,
                cases,
            };
            process.tell(&assignment)?;
        }
        Ok(())
    }

    /// The seconds of each repeat of the next case, of the slowest rank.
    fn seconds(&mut self) -> Result<Vec<f64>, CliError> {
        let line = match self.ranks.first_mut() {
            Some(first) => first.line()?,
            None => String::new(),
        };
        serde_json::from_str(&line).map_err(broken)
    }

    fn end(self) -> Result<(), CliError> {
        self.ranks.into_iter().try_for_each(|mut rank| {
            drop(rank.stdin);
            rank.process.wait().map(drop).map_err(broken)
        })
    }
}

impl Rank {
    fn start() -> Result<Self, CliError> {
        let program = std::env::current_exe().map_err(broken)?;
        let mut process = Command::new(program)
            .arg("bench-rank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(broken)?;
        let (Some(stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(broken("a rank has no pipes"));
        };
        Ok(Self {
            process,
            stdin,
            stdout: BufReader::new(stdout),
        })
    }

    /// The next line the rank prints; without one, why it ended.
    fn line(&mut self) -> Result<String, CliError> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(n) if n > 0 => Ok(line.trim_end().to_owned()),
            _ => Err(self.error()),
        }
    }

    fn tell(&mut self, assignment: &Assignment) -> Result<(), CliError> {
        let text = serde_json::to_string(assignment).map_err(broken)?;
        let told = writeln!(self.stdin, "{text}").and_then(|()| self.stdin.flush());
        told.map_err(|_| self.error())
    }

    fn error(&mut self) -> CliError {
        let mut said = String::new();
        let stderr = self
            .process
            .stderr
            .take()
            .map(|mut stderr| stderr.read_to_string(&mut said));
        let error = said
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("error: "));
        match (stderr, error) {
            (Some(Ok(_)), Some(message)) => {
                let code = ErrorKind::Internal.exit_code();
                CliError::Child {
                    message: message.to_owned(),
                    code,
                }
            }
            _ => broken("a rank ended without saying why"),
        }
    }
}

fn broken(reason: impl ToString) -> CliError {
    CliError::refused(ErrorKind::Internal, "bench", reason, "please report it")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_names_of_the_json_are_a_contract() {
        let case = CaseSpec {
            mib: 1.0,
            reduction: Measured::F32,
            repeats: 3,
        };
        let line = Line::of(2, case, vec![0.3, 0.1, 0.2]);
        let golden = concat!(
            r#"{"world":2,"mib":1.0,"dtype":"f32","reduction":"f32","transport":"tcp","#,
            r#""repeats":3,"best_s":0.1,"median_s":0.2,"bus_gb_per_s":0.00524288}"#,
        );
        assert_eq!(serde_json::to_string(&line).unwrap(), golden);
    }
}
