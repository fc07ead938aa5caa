//! What a run may leave behind by mistake, read from /proc, the temporary folder and /dev/shm.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill as send};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// A variable in the environment of every process of a sandbox, inherited by all it starts.
pub(crate) struct Marker(String);

impl Marker {
    /// Name of the variable.
    pub(crate) const KEY: &str = "TEST_SANDBOX";

    /// A marker no other sandbox has: its folder.
    pub(crate) fn new(folder: &Path) -> Self {
        Self(folder.display().to_string())
    }

    /// Value of the variable.
    pub(crate) fn value(&self) -> &str {
        &self.0
    }

    /// Every live process that carries the marker. A process that has ended and waits to be reaped
    /// shows no environment, so it does not count.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let marked = format!("{}={}", Self::KEY, self.0);
        let carries = |process: &Path| {
            let environment = std::fs::read(process.join("environ")).unwrap_or_default();
            environment
                .split(|&byte| byte == 0)
                .any(|pair| pair == marked.as_bytes())
        };
        let processes = entries(Path::new("/proc")).filter(|path| carries(path));
        processes
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok().map(Pid::from_raw))
            .collect()
    }
}

/// Makes this process the parent of orphans, so that it can wait for them.
pub(crate) fn adopt_orphans() {
    set_child_subreaper(true).expect("a test process may adopt orphans");
}

/// Kills exactly these.
pub(crate) fn kill(processes: &[Pid]) {
    for &process in processes {
        // It may have ended meanwhile.
        let _gone = send(process, Signal::SIGKILL);
    }
}

/// Reaps adopted processes until none of these is left; fails after [`crate::process::DEADLINE`].
pub(crate) fn wait_for_end(processes: &[Pid]) {
    let (ended, all_ended) = std::sync::mpsc::sync_channel(1);
    let waited_for = processes.to_vec();
    std::thread::spawn(move || {
        for process in waited_for {
            // Not a child (any more): somebody else reaped it, so it has ended.
            let _status = waitpid(process, None);
        }
        let _nobody_waits = ended.send(());
    });
    let deadline = crate::process::DEADLINE;
    assert!(
        all_ended.recv_timeout(deadline).is_ok(),
        "still running after {deadline:?}: {:?}",
        command_lines(processes),
    );
}

/// Command lines, for messages.
pub(crate) fn command_lines(processes: &[Pid]) -> Vec<String> {
    let line = |pid: &Pid| {
        let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!(
            "{pid}: {}",
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        )
    };
    processes.iter().map(line).collect()
}

/// Inodes of the TCP sockets on which these processes listen.
pub(crate) fn listening_sockets(processes: &[Pid]) -> BTreeSet<u64> {
    let descriptors = processes
        .iter()
        .flat_map(|pid| entries(Path::new(&format!("/proc/{pid}/fd"))));
    let targets = descriptors.filter_map(|path| std::fs::read_link(path).ok());
    let inodes = targets.filter_map(|target| {
        target
            .to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')?
            .parse()
            .ok()
    });
    let own: BTreeSet<u64> = inodes.collect();
    own.intersection(&all_listening_sockets())
        .copied()
        .collect()
}

/// Inodes of all TCP sockets in state LISTEN on this machine.
pub(crate) fn all_listening_sockets() -> BTreeSet<u64> {
    const LISTEN: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    let fields = rows.map(|row| row.split_whitespace().collect::<Vec<_>>());
    fields
        .filter(|row| row.get(3) == Some(&LISTEN))
        .filter_map(|row| row.get(9)?.parse().ok())
        .collect()
}

/// Objects in shared memory, and files of ours in the machine's temporary folder. Commands are told
/// to use another temporary folder; this finds those that do not listen.
pub(crate) fn files_outside() -> BTreeSet<PathBuf> {
    let ours = |path: &PathBuf| path.to_string_lossy().contains("ringmaster");
    let temporary = entries(Path::new("/tmp")).filter(ours);
    entries(Path::new("/dev/shm")).chain(temporary).collect()
}

/// Paths in a folder; none if it cannot be read.
pub(crate) fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}
