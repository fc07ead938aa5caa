//! `cargo run --release -p ringmaster-simulation -- --runs 1000000`: simulated runs until one does what
//! no run may do; with `--services`, over the coordinator's real server.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use ringmaster_simulation::{Options, Violation, services, simulate};

/// Simulates runs of coordinator and workers in virtual time.
#[derive(Debug, Parser)]
struct Args {
    /// First seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many, one seed after the other
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Over the coordinator's real server and a simulated network
    #[arg(long)]
    services: bool,
    /// Print every event
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (next, failed) = (AtomicU64::new(args.seed), AtomicU64::new(u64::MAX));
    let end = args.seed.saturating_add(args.runs);
    let began = Instant::now();
    let threads = match args.trace {
        true => 1,
        false => std::thread::available_parallelism().map_or(1, usize::from),
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run(&args, &next, end, &failed));
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    match failed.into_inner() {
        u64::MAX => {
            println!(
                "{} runs in {seconds:.1} s, none did what no run may do",
                args.runs
            );
            ExitCode::SUCCESS
        }
        seed => {
            let services = if args.services { " --services" } else { "" };
            println!("again: ringmaster-simulation{services} --seed {seed} --trace");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, next: &AtomicU64, end: u64, failed: &AtomicU64) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end || failed.load(Ordering::Relaxed) < seed {
            return;
        }
        let options = Options {
            seed,
            sabotage: None,
            trace: args.trace,
        };
        let summary: Result<String, Violation> = match args.services {
            true => services::simulate(options).map(|summary| format!("{summary:?}")),
            false => simulate(options).map(|summary| format!("{summary:?}")),
        };
        match summary {
            Ok(summary) if args.trace => println!("{summary}"),
            Ok(_) => {}
            Err(violation) => {
                println!("seed {seed}: {violation}");
                failed.fetch_min(seed, Ordering::Relaxed);
            }
        }
    }
}
