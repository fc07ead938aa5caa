//! `ringmaster ledger`: which rows a run has fed forward, held against its plan and its journal. Needs
//! no live run.

mod record;
mod show;
mod verify;

use clap::{Args, Subcommand};

use crate::error::{CliError, Exit};
use crate::output::Output;

/// What to do with the ledger.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Compute the rows of every step again and hold the record against them
    Verify(LedgerArgs),
    /// Show what each generation fed forward, or the rows that no step is fed
    Show(ShowArgs),
}

/// Which run.
#[derive(Args, Debug)]
pub(crate) struct LedgerArgs {
    /// Name of a run below ./ringmaster-runs, its folder, or the URL of its root in a store; without
    /// it, the newest run
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// The same as --output json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

/// What to show.
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    of: LedgerArgs,
    /// Rows whose content was refused: where they are, and why
    #[arg(long)]
    quarantined: bool,
}

impl LedgerArgs {
    fn output(&self) -> Output {
        if self.json { Output::Json } else { self.output }
    }
}

/// Runs one of the verbs.
pub(crate) async fn run(command: LedgerCommand) -> Result<Exit, CliError> {
    match command {
        LedgerCommand::Verify(args) => verify::run(args).await,
        LedgerCommand::Show(args) => show::run(args).await,
    }
}
