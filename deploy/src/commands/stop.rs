//! `ringmaster stop`: asks a live run to end at its next step boundary.

use clap::Args;
use ringmaster_proto::v1::StopRunRequest;

use super::live::{RunClient, ask};
use super::status::StatusReport;
use crate::error::{CliError, Exit};
use crate::output::Output;

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
    let request = StopRunRequest {
        run_id: String::new(),
        reason: args.reason,
    };
    let call = async |mut client: RunClient| client.stop_run(request).await;
    let answer = ask(args.run.as_deref(), "StopRun", call).await?;
    StatusReport::of(answer.status.unwrap_or_default()).show(args.output);
    Ok(Exit::Done)
}
