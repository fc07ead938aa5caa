//! One question to the coordinator of a live run.

use std::time::Duration;

use ringmaster_proto::auth::RunToken;
use ringmaster_proto::dial::{self, TokenChannel};
use ringmaster_proto::v1::run_service_client::RunServiceClient;
use tokio::time::timeout;
use tonic::{Response, Status};

use crate::error::CliError;
use crate::run_folder::RunFolder;

/// Whom to ask.
pub(super) type RunClient = RunServiceClient<TokenChannel>;

/// How long the coordinator may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the coordinator of `run`, see [`RunFolder::find`], by the method of that name.
pub(super) async fn ask<T>(
    run: Option<&str>,
    method: &'static str,
    call: impl AsyncFnOnce(RunClient) -> Result<Response<T>, Status>,
) -> Result<T, CliError> {
    let folder = RunFolder::find(run)?;
    let endpoint = folder.live_endpoint()?;
    let token = RunToken::read(&folder.token())?;
    let client = dial::run(dial::dial(&endpoint.address, &token).await?);
    let late = |_| {
        Err(Status::deadline_exceeded(format!(
            "no answer within {TIMEOUT:?}"
        )))
    };
    let answer = timeout(TIMEOUT, call(client)).await.unwrap_or_else(late);
    answer
        .map(Response::into_inner)
        .map_err(|status| CliError::rpc(method, &status))
}
