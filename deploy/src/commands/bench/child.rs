//! One run of this program as a child, in the folder of an experiment.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_util::sync::CancellationToken;

use crate::error::{CliError, Exit};
use crate::supervisor::THREADS;
use crate::supervisor::child::Launch;

/// Runs this program with `args` in `folder`, computing with one thread, and returns what it wrote
/// to stdout. `stop` ends it at its next step boundary; none if that was before its end.
pub(super) async fn run(
    folder: &Path,
    name: &str,
    args: Vec<OsString>,
    stop: CancellationToken,
) -> Result<Option<Vec<String>>, CliError> {
    let logs = folder.join("logs");
    fs::create_dir_all(&logs).map_err(|error| CliError::file(&logs, &error))?;
    let launch = Launch {
        role: name.to_owned(),
        args,
        env: vec![(THREADS, "1".to_owned())],
        log: logs.join(format!("{name}.log")),
        folder: Some(folder.to_owned()),
        read_stdout: true,
    };
    let mut started = launch.start()?;
    let mut said = Vec::new();
    let mut output = started.stdout.map(|stdout| BufReader::new(stdout).lines());
    let mut stopping = false;
    while let Some(lines) = &mut output {
        tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(line)) => said.push(line),
                Ok(None) | Err(_) => output = None,
            },
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                started.leash.signal(Signal::SIGTERM);
            }
        }
    }
    let status = started.process.wait().await;
    let status = status.map_err(|error| CliError::file(folder, &error))?;
    if status.success() {
        return Ok(Some(said));
    }
    if stopping || status.code() == Some(Exit::Stopped.code().into()) {
        return Ok(None);
    }
    Err(started.leash.error(status))
}
