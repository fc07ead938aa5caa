//! `ringmaster bench`: the product's own benchmarks and experiments.

mod allreduce;
mod child;
mod figures;
mod ledger;
mod pool;
mod rank;
mod variants;

use clap::Subcommand;

use crate::error::{CliError, Exit};

pub(crate) use self::rank::run as run_rank;

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Sum a buffer over the ranks of a ring of processes on this machine
    Allreduce(allreduce::AllreduceArgs),
    /// Train every fusion variant alike, over several seeds, and compare cost and accuracy
    Variants(variants::VariantsArgs),
}

/// Runs one of the benchmarks.
pub(crate) async fn run(command: BenchCommand) -> Result<Exit, CliError> {
    match command {
        BenchCommand::Allreduce(args) => allreduce::run(&args),
        BenchCommand::Variants(args) => variants::run(args).await,
    }
}
