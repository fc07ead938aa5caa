//! `ringmaster bench`: the product's own benchmarks and experiments.

mod allreduce;
mod child;
mod control;
mod corpus;
mod experiment;
mod figures;
mod ledger;
mod loader;
mod losses;
mod pool;
mod rank;
mod recovery;
mod sampling;
mod step;
mod variants;

use clap::Subcommand;

use crate::error::{CliError, Exit};

pub(crate) use self::rank::run as run_rank;

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Sum a buffer over the ranks of a ring of processes on this machine
    Allreduce(allreduce::AllreduceArgs),
    /// Time the training step of one worker, and set it beside what the device can do
    Step(step::StepArgs),
    /// Train every fusion variant alike, over several seeds, and compare cost and accuracy
    Variants(variants::VariantsArgs),
    /// Train an easy and a hard objective under every rule of sampling, and compare steps to the same
    /// loss
    Sampling(sampling::SamplingArgs),
    /// Let very many workers attend one coordinator, and measure what that costs it
    Control(control::ControlArgs),
    /// Open a corpus of very many shards, and plan steps anywhere in it
    Corpus(corpus::CorpusArgs),
    /// Kill, stop and ask to leave the processes of a run, and time how soon it trains again
    Recovery(recovery::RecoveryArgs),
    /// Measure how many examples a second are read, decoded and made ready for a step
    Loader(loader::LoaderArgs),
    /// Measure the held-out loss of each objective at every checkpoint of a run
    Losses(losses::LossesArgs),
}

/// Runs one of the benchmarks.
pub(crate) async fn run(command: BenchCommand) -> Result<Exit, CliError> {
    match command {
        BenchCommand::Allreduce(args) => allreduce::run(&args),
        BenchCommand::Step(args) => step::run(&args),
        BenchCommand::Variants(args) => variants::run(args).await,
        BenchCommand::Sampling(args) => sampling::run(args).await,
        BenchCommand::Control(args) => control::run(args).await,
        BenchCommand::Corpus(args) => corpus::run(args).await,
        BenchCommand::Recovery(args) => recovery::run(args).await,
        BenchCommand::Loader(args) => loader::run(args).await,
        BenchCommand::Losses(args) => losses::run(args).await,
    }
}
