//! A part of the system of a test's own: a network or a mount namespace. Nothing of it outlives the test:
//! it lives as long as a process in it, which ends when this one does.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What is not shared with everybody else.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Devices, addresses, ports.
    Network,
    /// What is mounted where.
    Mounts,
}

impl Kind {
    fn flag(self) -> &'static str {
        match self {
            Self::Network => "--net",
            Self::Mounts => "--mount",
        }
    }
}

/// See the module's text.
pub struct Namespace {
    kind: Kind,
    holder: Child,
}

impl Namespace {
    /// A new one, in which `setup` has been run by a shell. An error says why there is none.
    pub fn new(kind: Kind, setup: &str) -> Result<Self, String> {
        // The child ends when its standard input closes, however this process ends.
        let held = format!("{setup} && echo up && exec cat");
        let mut holder = Command::new("unshare");
        holder
            .args([kind.flag(), "sh", "-c", &held])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        let holder = holder
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut namespace = Self { kind, holder };
        let mut said = [0; 3];
        let stdout = namespace.holder.stdout.as_mut();
        match stdout.map(|out| out.read_exact(&mut said)) {
            Some(Ok(())) => Ok(namespace),
            _ => Err(format!(
                "no {kind:?} of our own: `{setup}` failed; it needs root"
            )),
        }
    }

    /// Process that holds it.
    pub fn process(&self) -> u32 {
        self.holder.id()
    }

    /// Where a path in it is seen from outside.
    pub fn seen(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.process()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// `program`, to be run in it.
    pub fn enter(&self, program: &Path) -> Command {
        self.enter_at(Path::new("/"), program)
    }

    /// `program`, to be run in a folder as it is seen in it.
    pub fn enter_at(&self, folder: &Path, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args([self.kind.flag(), "--target", &self.process().to_string()]);
        if let Kind::Mounts = self.kind {
            // A relative path begins in a folder of the mount that was entered.
            command.arg(format!("--wdns={}", folder.display()));
        }
        command.arg(program);
        command
    }

    /// Runs a command line in it.
    pub fn run(&self, line: &str) -> Result<(), String> {
        let done = self.enter(Path::new("sh")).args(["-c", line]).output();
        match done {
            Ok(done) if done.status.success() => Ok(()),
            Ok(done) => Err(format!("{line}: {}", String::from_utf8_lossy(&done.stderr))),
            Err(error) => Err(format!("{line}: {error}")),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _reaped = self.holder.wait();
    }
}
