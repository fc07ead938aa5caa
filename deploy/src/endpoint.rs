//! `endpoint.json`: where a live run can be reached.
//!
//! The process that serves holds a lock on the file for its life, so whether the run is alive is the
//! system's word: a process id can be used again, and a process can be dead and not yet reaped.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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

/// The file of the process that serves; dropping it takes the file away.
#[derive(Debug)]
pub(crate) struct EndpointFile {
    path: PathBuf,
    _lock: File,
}

impl EndpointFile {
    /// Writes `path` in one motion: a reader sees all of it, locked, or nothing.
    pub(crate) fn write(path: &Path, endpoint: &Endpoint) -> Result<Self, CliError> {
        let draft = path.with_extension(format!("json.{}", endpoint.pid));
        let written = || {
            let mut file = File::create(&draft)?;
            file.lock()?;
            let text = serde_json::to_string(endpoint).map_err(io::Error::other)?;
            file.write_all((text + "\n").as_bytes())?;
            fs::rename(&draft, path)?;
            Ok(file)
        };
        let lock = written().map_err(|error| CliError::file(path, &error))?;
        let path = path.to_owned();
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for EndpointFile {
    fn drop(&mut self) {
        // Without it, the next reader finds the lock gone and removes the file.
        let _left_for_the_next = fs::remove_file(&self.path);
    }
}

/// Who serves according to `path`; nobody if there is no file, and one that nobody holds is removed.
pub(crate) fn read(path: &Path) -> Result<Option<Endpoint>, CliError> {
    let failed = |error: &io::Error| CliError::file(path, error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            let text = io::read_to_string(file).map_err(|error| failed(&error))?;
            Ok(serde_json::from_str(&text).ok())
        }
        Err(TryLockError::Error(error)) => Err(failed(&error)),
        Ok(()) => {
            remove(path)?;
            Ok(None)
        }
    }
}

/// Removes `path`; its absence is no error.
pub(crate) fn remove(path: &Path) -> Result<(), CliError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CliError::file(path, &error)),
        _ => Ok(()),
    }
}
