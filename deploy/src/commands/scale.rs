//! `ringmaster scale`: another number of workers for a live run.

use clap::Args;
use ringmaster_proto::v1::ScaleRunRequest;

use super::live::{RunClient, ask};
use super::status::StatusReport;
use crate::error::{CliError, Exit};
use crate::output::Output;

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
    let request = ScaleRunRequest {
        run_id: String::new(),
        workers: args.workers,
    };
    let call = async |mut client: RunClient| client.scale_run(request).await;
    let answer = ask(args.run.as_deref(), "ScaleRun", call).await?;
    StatusReport::of(answer.status.unwrap_or_default()).show(args.output);
    Ok(Exit::Done)
}
