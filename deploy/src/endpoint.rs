//! `endpoint.json`: where a live run can be reached.

use std::fs;
use std::io;
use std::path::Path;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// Where a live run is: the content of `endpoint.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Endpoint {
    /// Name of the run.
    pub(crate) run: String,
    /// `host:port` of the coordinator's gRPC service.
    pub(crate) address: String,
    /// `host:port` of its admin HTTP service.
    pub(crate) admin: String,
    /// Process id of the coordinator.
    pub(crate) pid: u32,
}

impl Endpoint {
    /// Whether its process still exists.
    pub(crate) fn is_alive(&self) -> bool {
        i32::try_from(self.pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None).is_ok())
    }
}

/// Writes `endpoint` to `path` in one motion: a reader sees all of it or nothing.
pub(crate) fn write_endpoint(path: &Path, endpoint: &Endpoint) -> Result<(), CliError> {
    let error = |error: &io::Error| CliError::file(path, error);
    let draft = path.with_extension(format!("json.{}", endpoint.pid));
    let text = serde_json::to_string(endpoint).unwrap_or_default();
    fs::write(&draft, text + "\n").map_err(|e| error(&e))?;
    fs::rename(&draft, path).map_err(|e| error(&e))
}

/// Removes `path`; its absence is no error.
pub(crate) fn remove_endpoint(path: &Path) -> Result<(), CliError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CliError::file(path, &error)),
        _ => Ok(()),
    }
}
