//! `ringmaster scale`: another number of workers for a live run.

use clap::Args;
use ringmaster_proto::auth::RunToken;
use ringmaster_proto::dial;
use ringmaster_proto::v1::ScaleRunRequest;
use tokio::time::timeout;

use super::status::{StatusReport, TIMEOUT};
use crate::error::{CliError, Exit};
use crate::output::Output;
use crate::run_folder::RunFolder;

/// Arguments of `scale`.
#[derive(Args, Debug)]
pub(crate) struct ScaleArgs {
    /// How many workers may have a rank: from membership.min_workers to data.lanes
    #[arg(value_name = "N")]
    workers: u32,
    /// Name of a run below ./ringmaster-runs, or its folder; without it, the newest
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Asks the coordinator, and prints where the run stands as it is asked. The change takes effect at a
/// step boundary; no step is lost, and no bit of the result changes.
pub(crate) async fn run(args: ScaleArgs) -> Result<Exit, CliError> {
    let folder = RunFolder::find(args.run.as_deref())?;
    let endpoint = folder.live_endpoint()?;
    let token = RunToken::read(&folder.token())?;
    let mut client = dial::run(dial::dial(&endpoint.address, &token).await?);
    let request = ScaleRunRequest {
        run_id: String::new(),
        workers: args.workers,
    };
    let answer = timeout(TIMEOUT, client.scale_run(request)).await;
    let late = |_| {
        Err(tonic::Status::deadline_exceeded(format!(
            "no answer within {TIMEOUT:?}"
        )))
    };
    let answer = answer
        .unwrap_or_else(late)
        .map_err(|status| CliError::rpc("ScaleRun", &status))?;
    StatusReport::of(answer.into_inner().status.unwrap_or_default()).show(args.output);
    Ok(Exit::Done)
}
