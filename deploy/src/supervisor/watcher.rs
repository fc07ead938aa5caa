//! The stream of a run's events, renewed when it breaks.

use std::time::Duration;

use ringmaster_proto::auth::RunToken;
use ringmaster_proto::dial;
use ringmaster_proto::v1::watch_run_response::Event;
use ringmaster_proto::v1::{WatchRunRequest, WatchRunResponse};
use tonic::Streaming;

use crate::error::CliError;
use crate::run_folder::RunFolder;

/// Pause between attempts to watch.
const RETRY: Duration = Duration::from_secs(1);

/// How long opening the stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the stream of events of the run at `address`.
pub(crate) async fn watch(
    address: &str,
    token: &RunToken,
) -> Result<Streaming<WatchRunResponse>, CliError> {
    let mut client = dial::run(dial::dial(address, token).await?);
    let request = client.watch_run(WatchRunRequest::default());
    let opened = tokio::time::timeout(OPEN_TIMEOUT, request).await;
    let late = |_| tonic::Status::deadline_exceeded("the coordinator did not answer within 5 s");
    let response = opened.unwrap_or_else(|elapsed| Err(late(elapsed)));
    response
        .map(tonic::Response::into_inner)
        .map_err(|status| CliError::rpc("WatchRun", &status))
}

/// Endless events of one coordinator; silent while it cannot be reached.
pub(crate) struct Watcher {
    address: String,
    token: RunToken,
    stream: Option<Streaming<WatchRunResponse>>,
}

impl Watcher {
    /// Watches the run of `folder` at `address`.
    pub(crate) fn new(address: &str, folder: &RunFolder) -> Result<Self, CliError> {
        let token = RunToken::read(&folder.token())?;
        Ok(Self {
            address: address.to_owned(),
            token,
            stream: None,
        })
    }

    /// The next event. Safe to cancel. Never ends: whether the run goes on is the children's say.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            let Some(stream) = &mut self.stream else {
                match watch(&self.address, &self.token).await {
                    Ok(stream) => self.stream = Some(stream),
                    Err(error) => {
                        tracing::debug!(%error, "cannot watch the run yet");
                        tokio::time::sleep(RETRY).await;
                    }
                }
                continue;
            };
            match stream.message().await {
                Ok(Some(WatchRunResponse { event: Some(event) })) => return event,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    self.stream = None;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}
