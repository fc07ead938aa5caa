//! One child process: in a process group of its own, tied to us by a pipe, logging to a file.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::error::CliError;

/// What to start.
pub(crate) struct Launch {
    /// Name in messages and of the log file.
    pub(crate) role: String,
    /// Arguments of this same program.
    pub(crate) args: Vec<OsString>,
    /// Extra environment.
    pub(crate) env: Vec<(&'static str, String)>,
    /// Its log; appended to.
    pub(crate) log: PathBuf,
    /// Its working directory, if not ours.
    pub(crate) folder: Option<PathBuf>,
    /// Whether its standard output is ours to read; otherwise it goes to the log.
    pub(crate) read_stdout: bool,
}

/// The supervisor's end of a running child. Dropping it closes the child's standard input, upon
/// which the child ends at once.
#[derive(Debug)]
pub(crate) struct Leash {
    role: String,
    group: Pid,
    log: PathBuf,
    log_start: u64,
    _stdin: Option<ChildStdin>,
}

/// A started child: what to hold, what to wait for, what to read.
pub(crate) struct Started {
    /// For signals.
    pub(crate) leash: Leash,
    /// Yields the exit status.
    pub(crate) process: Child,
    /// Present if asked for.
    pub(crate) stdout: Option<ChildStdout>,
}

impl Launch {
    /// Starts the child.
    pub(crate) fn start(self) -> Result<Started, CliError> {
        let program = std::env::current_exe()
            .map_err(|e| CliError::invalid("this program", e, "start it by its full path"))?;
        let log = open_log(&self.log)?;
        let log_start = log.metadata().map_or(0, |data| data.len());
        let copy = || {
            log.try_clone()
                .map_err(|error| CliError::file(&self.log, &error))
        };
        let stdout = if self.read_stdout {
            Stdio::piped()
        } else {
            copy()?.into()
        };
        let mut command = Command::new(&program);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let mut process = command
            .args(&self.args)
            .envs(self.env)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(copy()?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| CliError::invalid(program.display(), e, "check that it can be started"))?;
        let group = process
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .unwrap_or_default();
        let leash = Leash {
            role: self.role,
            group: Pid::from_raw(group),
            log: self.log,
            log_start,
            _stdin: process.stdin.take(),
        };
        let stdout = process.stdout.take();
        Ok(Started {
            leash,
            process,
            stdout,
        })
    }
}

impl Leash {
    /// Name in messages.
    pub(crate) fn role(&self) -> &str {
        &self.role
    }

    /// Sends `signal` to the child and everything it started. Only for a child not yet waited for.
    pub(crate) fn signal(&self, signal: Signal) {
        // The group id of a child that never got a process id is 0: our own group.
        if self.group.as_raw() > 0 && killpg(self.group, signal).is_err() {
            tracing::debug!(role = self.role, %signal, "the process group is already gone");
        }
    }

    /// Why the child ended with `status`: its own last error, or how it died, as an error of ours.
    pub(crate) fn error(&self, status: ExitStatus) -> CliError {
        let said = last_error(&self.log, self.log_start);
        let message = said.unwrap_or_else(|| {
            let (role, log) = (&self.role, self.log.display());
            format!("{role}: ended without saying why ({status}); see {log}")
        });
        // A child ended by a signal has no code; what it was doing can be done again.
        let retry = i32::from(ringmaster_proto::ErrorKind::Retry.exit_code());
        let code = u8::try_from(status.code().unwrap_or(retry))
            .unwrap_or(1)
            .max(1);
        CliError::Child { message, code }
    }
}

fn open_log(path: &Path) -> Result<File, CliError> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| CliError::file(path, &error))
}

/// The last `error: ` line that was written after byte `start` of the log.
fn last_error(log: &Path, start: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines()
        .rev()
        .find_map(|line| line.strip_prefix("error: ").map(str::to_owned))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    #[test]
    fn the_error_shown_is_of_this_process_and_not_of_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("x.log");
        let earlier = "error: old\n";
        fs::write(
            &log,
            format!("{earlier}line\nerror: first\nerror: last\nmore\n"),
        )
        .unwrap();
        assert_eq!(
            last_error(&log, earlier.len() as u64).as_deref(),
            Some("last")
        );
        fs::write(&log, earlier).unwrap();
        assert_eq!(last_error(&log, earlier.len() as u64), None);
    }
}
