//! The one way to dial a coordinator: token shown, sizes limited, silence noticed.

use std::time::Duration;

use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::ErrorKind;
use crate::auth::{RunToken, ShowToken};
use crate::v1::coordinator_service_client::CoordinatorServiceClient;
use crate::v1::run_service_client::RunServiceClient;

/// Largest message either side sends or accepts, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// How long a connection attempt may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often an idle connection is probed (HTTP/2 PING), and how long the answer may take.
pub const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// A channel that shows the run's token.
pub type TokenChannel = InterceptedService<Channel, ShowToken>;

/// Why a coordinator cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address is not `host:port`.
    #[error("coordinator address {address:?} is not host:port: {reason}")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers.
    #[error("no coordinator answers at {address}: {reason}; check that the run is up")]
    Unreachable {
        /// As given.
        address: String,
        /// What the transport said.
        reason: String,
    },
}

impl DialError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Address { .. } => ErrorKind::Invalid,
            Self::Unreachable { .. } => ErrorKind::Retry,
        }
    }
}

/// Connects to `address` (`host:port`).
pub async fn dial(address: &str, token: &RunToken) -> Result<TokenChannel, DialError> {
    let endpoint = endpoint(address)?;
    show(address, token, endpoint.connect().await)
}

/// How `address` (`host:port`) is connected to, over whatever carries bytes there.
pub fn endpoint(address: &str) -> Result<Endpoint, DialError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| wrong(address, error.to_string()))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true))
}

/// What came of connecting to `address`, as a channel that shows the run's token.
pub fn show(
    address: &str,
    token: &RunToken,
    connected: Result<Channel, tonic::transport::Error>,
) -> Result<TokenChannel, DialError> {
    let show =
        ShowToken::new(token).map_err(|status| wrong(address, status.message().to_owned()))?;
    let channel = connected.map_err(|error| DialError::Unreachable {
        address: address.to_owned(),
        reason: root_cause(&error),
    })?;
    Ok(InterceptedService::new(channel, show))
}

fn wrong(address: &str, reason: String) -> DialError {
    DialError::Address {
        address: address.to_owned(),
        reason,
    }
}

/// Client of the worker stream.
pub fn coordinator(channel: TokenChannel) -> CoordinatorServiceClient<TokenChannel> {
    CoordinatorServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Client of status, watch and stop.
pub fn run(channel: TokenChannel) -> RunServiceClient<TokenChannel> {
    RunServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
