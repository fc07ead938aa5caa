//! `ringmaster resume`: a run as its journal has it, without its run file.

use std::path::Path;

use clap::Args;
use ringmaster_proto::spec::Resume;
use ringmaster_proto::{ErrorKind, RunSpec};
use ringmaster_worker::DeviceChoice;

use super::train::{self, TrainArgs, Workers};
use crate::error::{CliError, Exit};
use crate::logging::LogFormat;
use crate::output::Output;
use crate::run_file::RunFile;
use crate::run_folder::RunFolder;

/// Arguments of `resume`.
#[derive(Args, Debug)]
pub(crate) struct ResumeArgs {
    /// Name of a run below ./ringmaster-runs, its folder, or the URL of its root in a store; without
    /// it, the newest
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Go on from there: "latest", "step 400" (what came after it never happened), or the URL of
    /// another run or of one of its checkpoints
    #[arg(long, value_name = "STATE")]
    from: Option<Resume>,
    /// Change one key that a resume may change, such as run.steps
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Worker processes, as for `train` [default: as many as before]
    #[arg(long, value_name = "N|auto")]
    workers: Option<Workers>,
    /// Check everything, print what would run, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// What to compute on: auto, cpu or cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Form of the result on stdout
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Trains on from where the run stands.
pub(crate) async fn run(args: ResumeArgs, log_format: LogFormat) -> Result<Exit, CliError> {
    let root = RunFolder::root(args.run.as_deref())?;
    let history = ringmaster_coordinator::history(&root).await?;
    let history = history.ok_or_else(|| {
        let next = "name another, or start it with `ringmaster train`";
        CliError::refused(ErrorKind::Invalid, root.url(), "has no journal", next)
    })?;
    let mut spec = RunSpec::from_canonical(&history.spec_json)?;
    spec.checkpoint.resume = from(spec.checkpoint.resume, args.from)?;
    if let Some(moved) = moved(&spec, args.run.as_deref())? {
        spec.run.store = moved;
    }
    let folder = RunFolder::of(&spec);
    folder.create()?;
    let path = folder.run_file();
    std::fs::write(&path, spec.to_toml()?).map_err(|error| CliError::file(&path, &error))?;
    let workers = args
        .workers
        .unwrap_or(Workers::Number(spec.membership.max_workers));
    let file = RunFile {
        path: Some(path),
        overrides: args.overrides,
    };
    let train = TrainArgs {
        run: file,
        workers: Some(workers),
        dry_run: args.dry_run,
        device: args.device,
        output: args.output,
        fresh: false,
        kill_one_at: None,
        exit_with_parent: false,
    };
    train::run(train, log_format).await
}

/// What the run file says of where to go on from. What it said before has been done.
fn from(before: Resume, asked: Option<Resume>) -> Result<Resume, CliError> {
    match asked {
        Some(asked) if asked == before && asked != Resume::Latest => {
            let reason =
                "is where the run was taken to last, and it is not taken there twice in a row";
            let next = "run `ringmaster resume` without --from once, or name another state";
            Err(CliError::refused(ErrorKind::Invalid, asked, reason, next))
        }
        asked => Ok(asked.unwrap_or_default()),
    }
}

/// The store that a local run lies in by now, if not where its journal says: relative to another
/// folder than then, or moved.
fn moved(spec: &RunSpec, run: Option<&str>) -> Result<Option<String>, CliError> {
    if run.is_some_and(|run| run.contains("://")) {
        return Ok(None);
    }
    let found = RunFolder::find(run)?;
    let place = |path: &Path| path.canonicalize().ok();
    if place(found.path()) == place(RunFolder::of(spec).path()) {
        return Ok(None);
    }
    let parent = found.path().parent().unwrap_or(Path::new("."));
    Ok(Some(parent.to_string_lossy().into_owned()))
}
