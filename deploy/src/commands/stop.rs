//! `ringmaster stop`: asks a live run to end at its next step boundary.

use clap::Args;
use ringmaster_proto::auth::RunToken;
use ringmaster_proto::dial;
use ringmaster_proto::v1::StopRunRequest;
use tokio::time::timeout;

use super::status::{StatusReport, TIMEOUT};
use crate::error::{CliError, Exit};
use crate::output::Output;
use crate::run_folder::RunFolder;

/// Arguments of `stop`.
#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// Name of a run below ./ringmaster-runs, or its folder; without it, the newest
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Why, for whoever reads the run's log
    #[arg(long, default_value = "")]
    reason: String,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Asks the coordinator, and prints where the run stands as it is asked. The run saves its state
/// before it ends; the command that started it continues it.
pub(crate) async fn run(args: StopArgs) -> Result<Exit, CliError> {
    let folder = RunFolder::find(args.run.as_deref())?;
    let endpoint = folder.live_endpoint()?;
    let token = RunToken::read(&folder.token())?;
    let mut client = dial::run(dial::dial(&endpoint.address, &token).await?);
    let request = StopRunRequest {
        run_id: String::new(),
        reason: args.reason,
    };
    let answer = timeout(TIMEOUT, client.stop_run(request)).await;
    let late = |_| {
        Err(tonic::Status::deadline_exceeded(format!(
            "no answer within {TIMEOUT:?}"
        )))
    };
    let answer = answer
        .unwrap_or_else(late)
        .map_err(|status| CliError::rpc("StopRun", &status))?;
    StatusReport::of(answer.into_inner().status.unwrap_or_default()).show(args.output);
    Ok(Exit::Done)
}
