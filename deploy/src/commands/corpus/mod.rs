//! `ringmaster corpus`: make the built-in corpus, import one, look at any.

mod import;
mod inspect;
mod sheet;
mod verify;

use clap::{Args, Subcommand};
use ringmaster_dataset::{Store, scenes_corpus};

use crate::error::{CliError, Exit};
use crate::output;
use crate::progress::Stages;

/// What to do with a corpus.
#[derive(Debug, Subcommand)]
pub(crate) enum CorpusCommand {
    /// Write the built-in scenes corpus: rendered shapes with captions, questions and answers
    Make(MakeArgs),
    /// Write another data set as Parquet shards, but for pictures that must stay out
    Import(import::ImportArgs),
    /// Show rows, shards, row groups, sizes, texts and pictures of a Parquet corpus, and how well it mixes
    Inspect(inspect::InspectArgs),
    /// Read and decode every row, and name those that cannot be used
    Verify(verify::VerifyArgs),
}

/// Arguments of `corpus make`.
#[derive(Args, Debug)]
pub(crate) struct MakeArgs {
    /// Folder or URL below which train/ and validation/ are written
    #[arg(long, value_name = "URL")]
    out: String,
    /// Rows to train on
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Rows to hold out
    #[arg(long, default_value_t = 1024)]
    held_out: u64,
    /// Equal seeds write equal bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs one of the verbs.
pub(crate) async fn run(command: CorpusCommand) -> Result<Exit, CliError> {
    match command {
        CorpusCommand::Make(args) => make(args).await,
        CorpusCommand::Import(args) => import::run(args).await,
        CorpusCommand::Inspect(args) => inspect::run(args).await,
        CorpusCommand::Verify(args) => verify::run(args).await,
    }
}

async fn make(args: MakeArgs) -> Result<Exit, CliError> {
    let out = Store::open(&args.out)?;
    let stages = Stages::new();
    scenes_corpus::make(&out, args.rows, args.held_out, args.seed, &stages).await?;
    drop(stages);
    let url = out.url();
    eprintln!("train on it with:");
    output::line(&format!("data.sources = [{{ url = \"{url}/train\" }}]"));
    if args.held_out > 0 {
        output::line(&format!("data.validation = \"{url}/validation\""));
    }
    Ok(Exit::Done)
}
