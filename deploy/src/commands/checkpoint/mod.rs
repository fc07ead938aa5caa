//! `ringmaster checkpoint`: what a run has saved; needs no live run.

mod export;
mod verify;

use clap::{Args, Subcommand};
use ringmaster_dataset::Store;
use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::{ErrorKind, RunSpec};
use serde::Serialize;

use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::run_folder::RunFolder;

/// What to do with checkpoints.
#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// List the checkpoints of a run, oldest first
    List(ListArgs),
    /// Show one checkpoint and its parts
    Show(ShowArgs),
    /// Read every part and hold it against its manifest, and each whole against its digest
    Verify(verify::VerifyArgs),
    /// Write one checkpoint for other programs: safetensors, config.json, tokenizer.json
    Export(export::ExportArgs),
}

/// Which run.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Name of a run below ./ringmaster-runs, its folder, or the URL of its root in a store; without
    /// it, the newest run
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Which checkpoint.
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    of: ListArgs,
    /// Its step; without it, the newest
    #[arg(long)]
    step: Option<u64>,
}

/// One line of `checkpoint list`; its field names are a contract.
#[derive(Debug, Serialize)]
struct Line<'a> {
    step: u64,
    generation: u64,
    digest: &'a str,
    parts: usize,
    size_bytes: u64,
    identity: &'a str,
}

/// Runs one of the verbs.
pub(crate) async fn run(command: CheckpointCommand) -> Result<Exit, CliError> {
    match command {
        CheckpointCommand::List(args) => list(args).await,
        CheckpointCommand::Show(args) => show(args).await,
        CheckpointCommand::Verify(args) => verify::run(args).await,
        CheckpointCommand::Export(args) => export::run(args).await,
    }
}

async fn list(args: ListArgs) -> Result<Exit, CliError> {
    let manifests = args.all().await?.1;
    let lines = manifests.iter().map(Line::of);
    match args.output {
        Output::Json => lines.for_each(|line| output::json(&line)),
        Output::Table => {
            let header = ["step", "generation", "parts", "size", "digest"];
            output::table(&header, &lines.map(|line| line.row()).collect::<Vec<_>>());
        }
    }
    Ok(Exit::Done)
}

async fn show(args: ShowArgs) -> Result<Exit, CliError> {
    let (_, manifest) = args.chosen().await?;
    if args.of.output == Output::Json {
        output::json(&manifest);
        return Ok(Exit::Done);
    }
    let line = Line::of(&manifest);
    output::line(&format!("run         {}", manifest.run));
    output::line(&format!("step        {}", line.step));
    output::line(&format!("generation  {}", line.generation));
    output::line(&format!("digest      {}", line.digest));
    output::line(&format!("identity    {}", line.identity));
    output::line(&format!("size        {}", output::bytes(line.size_bytes)));
    output::line("");
    let row = |part: &ringmaster_proto::checkpoint::Part| {
        vec![
            part.key.clone(),
            output::bytes(part.bytes),
            part.blake3.clone(),
        ]
    };
    output::table(
        &["part", "size", "blake3"],
        &manifest.parts.iter().map(row).collect::<Vec<_>>(),
    );
    Ok(Exit::Done)
}

impl ListArgs {
    /// The run's root, and all its checkpoints, oldest first.
    pub(crate) async fn all(&self) -> Result<(Store, Vec<CheckpointManifest>), CliError> {
        let root = RunFolder::root(self.run.as_deref())?;
        let manifests = ringmaster_coordinator::checkpoints(&root).await?;
        Ok((root, manifests))
    }

    /// Form of the output.
    pub(crate) fn output(&self) -> Output {
        self.output
    }
}

impl ShowArgs {
    /// The run's root, and the checkpoint asked for.
    pub(crate) async fn chosen(&self) -> Result<(Store, CheckpointManifest), CliError> {
        let (root, manifests) = self.of.all().await?;
        let chosen = |one: &CheckpointManifest| self.step.is_none_or(|at| at == one.step.0);
        let manifest = manifests.into_iter().rev().find(chosen);
        Ok((
            root.clone(),
            manifest.ok_or_else(|| missing(&root, self.step))?,
        ))
    }

    /// Form of the output.
    pub(crate) fn output(&self) -> Output {
        self.of.output
    }
}

/// There is no checkpoint of that step, or none at all.
fn missing(root: &Store, step: Option<u64>) -> CliError {
    let which = step.map_or_else(|| "any".to_owned(), |step| format!("step {step}"));
    let thing = format!("checkpoint ({which}) of {}", root.url());
    let next = "see `ringmaster checkpoint list`";
    CliError::refused(ErrorKind::Data, thing, "does not exist", next)
}

/// What the run below `root` trains.
async fn spec(root: &Store) -> Result<RunSpec, CliError> {
    let history = ringmaster_coordinator::history(root).await?;
    let history = history.ok_or_else(|| {
        let reason = "has checkpoints and no journal";
        CliError::refused(ErrorKind::Data, root.url(), reason, "restore the journal")
    })?;
    Ok(RunSpec::from_canonical(&history.spec_json)?)
}

impl<'a> Line<'a> {
    fn of(manifest: &'a CheckpointManifest) -> Self {
        Self {
            step: manifest.step.0,
            generation: manifest.generation.0,
            digest: &manifest.digest,
            parts: manifest.parts.len(),
            size_bytes: manifest.bytes(),
            identity: &manifest.identity,
        }
    }

    fn row(&self) -> Vec<String> {
        let numbers = [self.step, self.generation, self.parts as u64].map(|n| n.to_string());
        let mut row = numbers.to_vec();
        row.extend([output::bytes(self.size_bytes), self.digest.to_owned()]);
        row
    }
}
