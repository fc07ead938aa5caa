//! `ringmaster checkpoint verify`: what is stored, held against what was written.

use clap::Args;
use ringmaster_proto::{ErrorKind, Step, keys};
use ringmaster_worker::{checkpoint, init};
use serde::Serialize;

use super::ListArgs;
use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::run_folder::RunFolder;

/// Which checkpoints.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    of: ListArgs,
    /// Only those of this step; without it, all
    #[arg(long)]
    step: Option<u64>,
}

/// What was found of one checkpoint; its field names are a contract.
#[derive(Debug, Serialize)]
struct Verdict {
    folder: String,
    verified: bool,
    size_bytes: Option<u64>,
    /// What is wrong with it.
    reason: Option<String>,
}

/// Reads every part. Says what it found of a checkpoint as soon as it has read it.
pub(super) async fn run(args: VerifyArgs) -> Result<Exit, CliError> {
    let root = RunFolder::root(args.of.run.as_deref())?;
    let stored = ringmaster_coordinator::stored_checkpoints(&root).await?;
    let asked = |folder: &str| {
        let at = |step| keys::is_checkpoint_at(folder, Step(step));
        args.step.is_none_or(at)
    };
    let (mut all, mut damaged) = (0, 0);
    let mut say = |verdict: Verdict| {
        all += 1;
        damaged += usize::from(!verdict.verified);
        verdict.print(args.of.output);
    };
    let incomplete = stored.broken.into_iter().filter(|one| asked(&one.folder));
    for one in incomplete {
        say(Verdict {
            folder: one.folder,
            verified: false,
            size_bytes: None,
            reason: Some(one.reason),
        });
    }
    let manifests = stored.complete.into_iter().map(|manifest| {
        let folder = keys::checkpoint(manifest.generation, manifest.step, &manifest.digest);
        (folder, manifest)
    });
    let manifests: Vec<_> = manifests.filter(|(folder, _)| asked(folder)).collect();
    if !manifests.is_empty() {
        let layout = init::layout(&super::spec(&root).await?.model)?;
        for (folder, manifest) in manifests {
            let reason = match checkpoint::load(&root, &manifest, &layout).await {
                Ok(_) => None,
                Err(error) if error.kind() == ErrorKind::Data => Some(error.to_string()),
                // A store that is away says nothing about a checkpoint.
                Err(error) => return Err(error.into()),
            };
            say(Verdict {
                folder,
                verified: reason.is_none(),
                size_bytes: Some(manifest.bytes()),
                reason,
            });
        }
    }
    match (all, damaged) {
        (0, _) => Err(super::missing(&root, args.step)),
        (_, 0) => Ok(Exit::Done),
        _ => {
            let thing = format!("{damaged} of {all} checkpoints of {}", root.url());
            let next =
                "restore the parts named above; a resume falls back to the newest that verifies";
            Err(CliError::refused(
                ErrorKind::Data,
                thing,
                "do not verify",
                next,
            ))
        }
    }
}

impl Verdict {
    fn print(&self, output: Output) {
        if output == Output::Json {
            return output::json(self);
        }
        let size = self.size_bytes.map_or_else(String::new, output::bytes);
        let found = self.reason.as_deref().unwrap_or("verified");
        output::line(&format!("{}  {size:>9}  {found}", self.folder));
    }
}
