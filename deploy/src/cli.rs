//! The command line.

use clap::{Parser, Subcommand};

use crate::commands::{
    bench, checkpoint, coordinator, corpus, eval, flops, ledger, render, resume, scale, status,
    stop, submit, train, watch, worker,
};
use crate::error::{CliError, Exit};
use crate::logging::LogFormat;

/// Pre-trains image-language models on many machines: the same run, bit for bit, whatever happens.
#[derive(Debug, Parser)]
#[command(name = "ringmaster", version, about)]
pub(crate) struct Cli {
    /// Form of the log on stderr; RUST_LOG chooses what is logged
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,

    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a whole run on this machine: coordinator, workers, evaluation
    Train(train::TrainArgs),
    /// Train on a run on this machine that was stopped or killed, as its journal has it
    Resume(resume::ResumeArgs),
    /// Serve the control plane of one run
    Coordinator(coordinator::CoordinatorArgs),
    /// Serve one rank of a run
    Worker(worker::WorkerArgs),
    /// Show where a live run stands
    Status(status::StatusArgs),
    /// Change how many workers a live run has
    Scale(scale::ScaleArgs),
    /// Ask a live run to end at its next step boundary, saved
    Stop(stop::StopArgs),
    /// Follow a live run until it ends
    Watch(watch::WatchArgs),
    /// Ask a checkpoint questions and score its answers
    Eval(eval::EvalArgs),
    /// Make, import or look at a corpus
    #[command(subcommand)]
    Corpus(corpus::CorpusCommand),
    /// List or show what a run has saved
    #[command(subcommand)]
    Checkpoint(checkpoint::CheckpointCommand),
    /// Prove which rows a run has fed forward, or show which it could not
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Count what a model costs: parameters and operations, part by part
    Flops(flops::FlopsArgs),
    /// Print the Kubernetes manifests of a run and change nothing
    Render(render::KubernetesArgs),
    /// Start a run on Kubernetes
    Submit(render::KubernetesArgs),
    /// Measure the parts of this program on this machine
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// One process of `bench allreduce`
    #[command(hide = true)]
    BenchRank,
}

impl Command {
    /// What is logged unless `RUST_LOG` says otherwise: the roles of a run tell their story, the
    /// others speak up only when something is wrong.
    pub(crate) fn log_filter(&self) -> &'static str {
        match self {
            Self::Coordinator(_) | Self::Worker(_) => "info",
            _ => "warn",
        }
    }

    /// Runs the command.
    pub(crate) async fn run(self, log_format: LogFormat) -> Result<Exit, CliError> {
        match self {
            Self::Train(args) => train::run(args, log_format).await,
            Self::Resume(args) => resume::run(args, log_format).await,
            Self::Coordinator(args) => coordinator::run(args).await,
            Self::Worker(args) => worker::run(args).await,
            Self::Status(args) => status::run(args).await,
            Self::Scale(args) => scale::run(args).await,
            Self::Stop(args) => stop::run(args).await,
            Self::Watch(args) => watch::run(args).await,
            Self::Eval(args) => eval::run(args).await,
            Self::Corpus(command) => corpus::run(command).await,
            Self::Checkpoint(command) => checkpoint::run(command).await,
            Self::Ledger(command) => ledger::run(command).await,
            Self::Flops(args) => flops::run(args),
            Self::Render(args) => render::run(args),
            Self::Submit(args) => submit::run(args).await,
            Self::Bench(command) => bench::run(command).await,
            Self::BenchRank => bench::run_rank(),
        }
    }
}
