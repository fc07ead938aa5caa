//! What a run starts from: its `[init]`, resolved and stored before anything is started.

use ringmaster_dataset::Store;
use ringmaster_proto::RunSpec;
use ringmaster_worker::init::{self, Initial, TrainedRun};

use crate::error::CliError;

/// What the run below `root` starts from, made if it is not there yet; none if that is the seed.
pub(crate) async fn prepare(spec: &RunSpec, root: &Store) -> Result<Option<Initial>, CliError> {
    if spec.init.is_empty() {
        return Ok(None);
    }
    if let Some(known) = init::stored(spec, root).await? {
        return Ok(Some(known));
    }
    let trained = match spec.init.from.as_deref() {
        Some(url) if !init::is_file(url) => trained_run(url).await?,
        _ => None,
    };
    Ok(Some(init::make(spec, root, trained).await?))
}

/// The newest checkpoint of the run whose root is `url`; none if no run with a checkpoint is there.
async fn trained_run(url: &str) -> Result<Option<TrainedRun>, CliError> {
    let root = Store::open(url)?;
    let Some(history) = ringmaster_coordinator::history(&root).await? else {
        return Ok(None);
    };
    let checkpoints = ringmaster_coordinator::checkpoints(&root).await?;
    let model = RunSpec::from_canonical(&history.spec_json)?.model;
    let run = |manifest| TrainedRun {
        root,
        model,
        manifest,
    };
    Ok(checkpoints.into_iter().next_back().map(run))
}
