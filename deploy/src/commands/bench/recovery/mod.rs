//! `ringmaster bench recovery`: a run of real processes to which things happen, and how long it takes
//! until it trains again, phase by phase.

mod live;
mod timeline;

use clap::Args;
use nix::sys::signal::Signal;
use serde::Serialize;

use self::live::{Live, send};
use self::timeline::{Phases, median};
use crate::error::{CliError, Exit};
use crate::output::{self, Output};

/// Steps in one membership before the next thing happens.
const SETTLED: u64 = 6;

/// Arguments of `bench recovery`.
#[derive(Args, Debug)]
pub(crate) struct RecoveryArgs {
    /// Workers of the run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=64))]
    workers: u32,
    /// How often each thing happens
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Override one key of the run
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Form of the result on stdout
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What one kind of thing cost; its field names are a contract. Medians over the rounds, in seconds.
#[derive(Clone, Debug, Serialize)]
struct Line {
    /// What happened.
    what: &'static str,
    rounds: usize,
    #[serde(flatten)]
    median: Phases,
    /// Longest of the totals.
    worst: f64,
    /// A step of the run that goes on.
    one_step: f64,
}

/// Every round's phases of one kind, and a step's seconds afterwards.
struct Kind {
    what: &'static str,
    phases: Vec<Phases>,
    steps: Vec<f64>,
}

/// Runs it, prints it, removes it.
pub(crate) async fn run(args: RecoveryArgs) -> Result<Exit, CliError> {
    let out = std::env::temp_dir().join(format!("ringmaster-recovery-{}", std::process::id()));
    let mut live = Live::start(&out, args.workers, &args.overrides).await?;
    let measured = measure(&mut live, &args).await;
    live.end().await?;
    let (kinds, stood_still) = measured?;
    Live::remove(&out)?;
    print(&kinds, &stood_still, args.output);
    Ok(Exit::Done)
}

/// Worker killed, a worker in its place, worker stopped, worker back, coordinator killed; at the end
/// one worker is asked to leave. Returns, per killed coordinator, for how long the ring stood still.
async fn measure(live: &mut Live, args: &RecoveryArgs) -> Result<(Vec<Kind>, Vec<f64>), CliError> {
    let workers = args.workers as usize;
    let kind = |what| Kind {
        what,
        phases: Vec::new(),
        steps: Vec::new(),
    };
    let [mut killed, mut joined] = ["worker killed", "worker joins"].map(kind);
    let [mut stopped, mut asked] = ["worker stopped", "worker asked to leave"].map(kind);
    let mut stood_still = Vec::new();
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        let usual = live.settle(workers, SETTLED).await?;
        if let Some(pid) = live.last_rank() {
            killed.take(live.strike(pid, Signal::SIGKILL).await?, usual);
            // The supervisor starts another.
            joined.take(live.joiner().await?, usual);
        }
        let usual = live.settle(workers, SETTLED).await?;
        if let Some(pid) = live.last_rank() {
            stopped.take(live.strike(pid, Signal::SIGSTOP).await?, usual);
            send(pid, Signal::SIGCONT)?;
        }
        let usual = live.settle(workers, SETTLED).await?;
        let (longer, same) = live.replace_coordinator(usual, SETTLED).await?;
        stood_still.push(if same { longer } else { f64::NAN });
    }
    let usual = live.settle(workers, SETTLED).await?;
    if let Some(pid) = live.last_rank() {
        asked.take(live.strike(pid, Signal::SIGTERM).await?, usual);
    }
    Ok((vec![killed, joined, stopped, asked], stood_still))
}

fn print(kinds: &[Kind], stood_still: &[f64], output: Output) {
    let lines: Vec<Line> = kinds.iter().map(Kind::line).collect();
    let coordinator = Line {
        what: "coordinator killed",
        rounds: stood_still.len(),
        median: Phases {
            total: median(stood_still.iter().copied()),
            ..Default::default()
        },
        worst: stood_still.iter().copied().fold(0.0, f64::max),
        one_step: 0.0,
    };
    let lines: Vec<Line> = lines.into_iter().chain([coordinator]).collect();
    if output == Output::Json {
        for line in &lines {
            output::json(line);
        }
        return;
    }
    let header = [
        "seconds", "rounds", "detect", "fence", "journal", "connect", "copy", "start", "data",
        "step", "total", "worst", "one step",
    ];
    let rows: Vec<Vec<String>> = lines.iter().map(Line::row).collect();
    output::table(&header, &rows);
    output::line(
        "total: from the event to the first step of those that go on, for one who joins from when it",
    );
    output::line("attends, its preparation included;");
    output::line("for a killed coordinator, how much longer the longest step meanwhile took.");
}

impl Kind {
    fn take(&mut self, phases: Phases, step: f64) {
        self.phases.push(phases);
        self.steps.push(step);
    }

    fn line(&self) -> Line {
        let of = |phase: fn(&Phases) -> f64| median(self.phases.iter().map(phase));
        Line {
            what: self.what,
            rounds: self.phases.len(),
            median: Phases {
                detect: of(|p| p.detect),
                fence: of(|p| p.fence),
                journal: of(|p| p.journal),
                connect: of(|p| p.connect),
                copy: of(|p| p.copy),
                start: of(|p| p.start),
                data: of(|p| p.data),
                step: of(|p| p.step),
                total: of(|p| p.total),
            },
            worst: self.phases.iter().map(|p| p.total).fold(0.0, f64::max),
            one_step: median(self.steps.iter().copied()),
        }
    }
}

impl Line {
    fn row(&self) -> Vec<String> {
        let phases = self.median.in_order().into_iter();
        let seconds = phases.chain([self.median.total, self.worst, self.one_step]);
        let seconds = seconds.map(|seconds| format!("{seconds:.3}"));
        let mut row = vec![self.what.to_owned(), self.rounds.to_string()];
        row.extend(seconds);
        row
    }
}
