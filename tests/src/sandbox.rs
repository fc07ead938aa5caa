//! A folder to run the command in as a user would, and proof that a run leaves nothing outside it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::leftovers::{self, Marker};
use crate::namespace::Namespace;
use crate::process::{Finished, Process};
use crate::s3::S3Server;

/// The run file most tests lay their overrides over.
pub const SMALL_RUN: &str = include_str!("../fixtures/small.toml");

/// Overrides of [`SMALL_RUN`] under which everything that is carried from step to step, or drawn, has
/// a part: every objective, adaptive sampling with updates in between, dropout, label smoothing and
/// a moving average of the weights.
pub const EVERYTHING: [&str; 13] = [
    "tasks.completion=1",
    "tasks.masked_spans=1",
    "tasks.matching=1",
    "tasks.object_listing=1",
    "tasks.object_presence=1",
    "tasks.entailment=1",
    "tasks.sampling=difficulty",
    "tasks.gamma=1.5",
    "tasks.reference_batches=2",
    "tasks.update_every=3",
    "train.ema=0.9",
    "train.dropout=0.1",
    "train.label_smoothing=0.1",
];

/// Where runs are, in the folder of a sandbox.
pub const RUNS: &str = "ringmaster-runs";

/// Name of the run in [`SMALL_RUN`].
pub const SMALL: &str = "small";

/// How a run ended: its digest and the loss of every step.
pub type End = (String, BTreeMap<u64, String>);

/// How the run of [`SMALL_RUN`] ends that `command ARGS` trains and nobody disturbs. It has a sandbox of
/// its own, so it is asked for before another is made.
pub fn undisturbed<S: AsRef<OsStr>>(command: &str, args: impl IntoIterator<Item = S>) -> End {
    let sandbox = Sandbox::new(command);
    let finished = sandbox.run(args).succeeded();
    sandbox.assert_nothing_left();
    (finished.digest(), sandbox.losses(SMALL))
}

/// Where runs of real processes happen, one at a time: a second run would only slow both down.
pub struct Sandbox {
    command: PathBuf,
    folder: tempfile::TempDir,
    /// The same folder, as whoever mounted something in it sees it.
    seen: PathBuf,
    environment: BTreeMap<String, String>,
    marker: Marker,
    outside_before: BTreeSet<PathBuf>,
    sockets: BTreeSet<u64>,
    /// Processes of live runs: an ending one loses its marker before it closes its sockets.
    noted: BTreeSet<Pid>,
    _alone: MutexGuard<'static, ()>,
}

impl Sandbox {
    /// A folder that holds `run.toml` ([`SMALL_RUN`]); `command` is the binary under test.
    pub fn new(command: &str) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        // A test that failed before has cleaned up all the same.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        leftovers::adopt_orphans();
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("tmp")).expect("a folder for temporary files");
        let sandbox = Self {
            command: command.into(),
            seen: folder.path().to_owned(),
            environment: BTreeMap::new(),
            marker: Marker::new(folder.path()),
            outside_before: leftovers::files_outside(),
            sockets: BTreeSet::new(),
            noted: BTreeSet::new(),
            _alone: alone,
            folder,
        };
        sandbox.write("run.toml", SMALL_RUN);
        sandbox
    }

    /// The folder commands run in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file in the folder.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.folder().join(name), text).expect("a file in the sandbox");
    }

    /// Sets a variable for every command from now on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.environment.insert(key.into(), value.into());
    }

    /// Gives every command from now on the credentials of `server`.
    pub fn use_store(&mut self, server: &S3Server) {
        self.environment.extend(server.environment());
    }

    /// Starts `ringmaster ARGS` in a process group of its own, as a shell does.
    pub fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Process {
        self.start_as(Command::new(&self.command), args)
    }

    /// The command under test.
    pub fn command(&self) -> &Path {
        &self.command
    }

    /// Starts `command ARGS`, which is the command under test, in whatever way it is run.
    pub fn start_as<S: AsRef<OsStr>>(
        &self,
        mut command: Command,
        args: impl IntoIterator<Item = S>,
    ) -> Process {
        command
            .args(args)
            .current_dir(self.folder())
            .env("TMPDIR", self.folder().join("tmp"));
        for (key, _) in std::env::vars_os() {
            let key = key.to_string_lossy();
            if ["AWS_", "RUST_", "RINGMASTER_"]
                .iter()
                .any(|prefix| key.starts_with(prefix))
            {
                command.env_remove(key.as_ref());
            }
        }
        command
            .envs(&self.environment)
            .env(Marker::KEY, self.marker.value());
        Process::spawn(command)
    }

    /// Runs `ringmaster ARGS` to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        self.start(args).finish()
    }

    /// From now on what runs leave is looked for where `mounts` has it.
    pub fn look_in(&mut self, mounts: &Namespace) {
        self.seen = mounts.seen(self.folder());
    }

    /// The local folder of a run.
    pub fn run_folder(&self, run: &str) -> PathBuf {
        self.seen.join(RUNS).join(run)
    }

    /// Every line of the run's `metrics.jsonl`.
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let path = self.run_folder(run).join("metrics.jsonl");
        let text = std::fs::read_to_string(path).expect("metrics.jsonl of the run");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a JSON object"))
            .collect()
    }

    /// Loss of every step exactly as printed; a step that was done again must have met the same.
    pub fn losses(&self, run: &str) -> BTreeMap<u64, String> {
        let mut losses = BTreeMap::new();
        for line in self.metrics(run) {
            let step = line["step"].as_u64().expect("a step");
            let loss = line["loss"].as_f64().expect("a loss").to_string();
            let first = losses.entry(step).or_insert_with(|| loss.clone());
            assert_eq!(
                *first, loss,
                "step {step} was done twice and its loss differs"
            );
        }
        losses
    }

    /// The generations that completed steps of the run.
    pub fn generations(&self, run: &str) -> BTreeSet<u64> {
        let generation = |line: &Value| line["generation"].as_u64().expect("a generation");
        self.metrics(run).iter().map(generation).collect()
    }

    /// Process of the live run's coordinator.
    pub fn coordinator(&self, run: &str) -> u32 {
        let path = self.run_folder(run).join("endpoint.json");
        let text = std::fs::read_to_string(path).expect("endpoint.json of the run");
        let endpoint: Value = serde_json::from_str(&text).expect("a JSON object");
        let pid = endpoint["pid"].as_u64().expect("a process id");
        pid.try_into().expect("a process id")
    }

    /// Notes what the live run has open, for [`Self::assert_nothing_left`].
    pub fn note_sockets(&mut self) {
        let processes = self.marker.processes();
        let sockets = leftovers::listening_sockets(&processes);
        self.noted.extend(processes);
        assert!(!sockets.is_empty(), "a live run listens somewhere");
        self.sockets.extend(sockets);
    }

    /// Kills one process of a run (SIGKILL), as the system does when memory is short.
    pub fn kill(&self, process: u32) {
        let process = Pid::from_raw(process.try_into().expect("a process id"));
        assert!(
            self.marker.processes().contains(&process),
            "{process} belongs to this sandbox"
        );
        leftovers::kill(&[process]);
    }

    /// Sends a signal to one process of a run.
    pub fn signal(&self, process: u32, signal: Signal) {
        let process = Pid::from_raw(process.try_into().expect("a process id"));
        assert!(
            self.marker.processes().contains(&process),
            "{process} belongs to this sandbox"
        );
        nix::sys::signal::kill(process, signal).expect("a signal to a process of ours");
    }

    /// Waits until processes that lost their supervisor have ended too.
    pub fn wait_for_orphans(&self) {
        let mut processes = self.noted.clone();
        processes.extend(self.marker.processes());
        leftovers::wait_for_end(&processes.into_iter().collect::<Vec<_>>());
    }

    /// No process, listening port, temporary file or shared-memory object is left of any run here.
    pub fn assert_nothing_left(&self) {
        let alive = self.marker.processes();
        assert!(
            alive.is_empty(),
            "processes left: {:?}",
            leftovers::command_lines(&alive)
        );
        let open = leftovers::all_listening_sockets();
        let left: Vec<_> = self.sockets.intersection(&open).collect();
        assert!(
            left.is_empty(),
            "listening sockets left, by inode: {left:?}"
        );
        let temporary: Vec<_> = leftovers::entries(&self.folder().join("tmp")).collect();
        assert!(temporary.is_empty(), "temporary files left: {temporary:?}");
        let outside = leftovers::files_outside();
        let new: Vec<_> = outside.difference(&self.outside_before).collect();
        assert!(
            new.is_empty(),
            "files left outside the run's folder: {new:?}"
        );
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Nothing outlives a test, failed or not; only processes that carry this sandbox's marker.
        leftovers::kill(&self.marker.processes());
    }
}
