//! The local folder of a run: where it can be reached, its token, its logs.
//!
//! With a store on this machine the folder is the run's root itself; with a remote store it lies
//! below `./ringmaster-runs` and holds only what is local: `endpoint.json`, `token`,
//! `metrics.jsonl`, `ledger.jsonl`, `quarantine.jsonl` and `logs/`.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use ringmaster_coordinator::{LEDGER, QUARANTINE};
use ringmaster_dataset::Store;
use ringmaster_proto::auth::RunToken;
use ringmaster_proto::{ErrorKind, RunSpec, keys};

use crate::endpoint::{self, Endpoint};
use crate::error::CliError;

/// Where runs live unless the store says otherwise.
pub(crate) const RUNS: &str = "ringmaster-runs";

const ENDPOINT: &str = "endpoint.json";

const RUN_FILE: &str = "run.toml";

/// Everything a run may have in its folder; `clear` refuses to touch a folder with anything else.
pub(crate) const KNOWN: [&str; 14] = [
    ENDPOINT,
    RUN_FILE,
    "token",
    "metrics.jsonl",
    LEDGER,
    QUARANTINE,
    "logs",
    "corpus",
    // Where the store's conditional writes are tried out.
    "probe",
    keys::SCENES,
    keys::INIT,
    keys::TOKENIZER,
    keys::JOURNAL,
    keys::CHECKPOINTS,
];

/// The local folder of one run.
#[derive(Clone, Debug)]
pub(crate) struct RunFolder(PathBuf);

/// Held by the one process that runs the topology; released by the system however it ends.
#[derive(Debug)]
pub(crate) struct FolderLock(#[allow(dead_code, reason = "held for its lock")] File);

impl RunFolder {
    /// The folder of `spec`'s run.
    pub(crate) fn of(spec: &RunSpec) -> Self {
        let store = &spec.run.store;
        let local = store.strip_prefix("file://").unwrap_or(store);
        let base = if local.contains("://") { RUNS } else { local };
        Self(Path::new(base).join(&spec.run.name))
    }

    /// The folder that `run` names: a path to one, or a run below `./ringmaster-runs`; without a
    /// name the one whose `endpoint.json` is newest, or if none is live, the one changed last.
    pub(crate) fn find(run: Option<&str>) -> Result<Self, CliError> {
        let Some(run) = run else {
            return newest(Path::new(RUNS));
        };
        let candidates = [Path::new(RUNS).join(run), PathBuf::from(run)];
        if let Some(path) = candidates.into_iter().find(|path| path.is_dir()) {
            return Ok(Self(path));
        }
        let known = names(Path::new(RUNS));
        let next = match known.as_slice() {
            [] => format!("no run is below ./{RUNS}; start one with `ringmaster train`"),
            known => format!("runs below ./{RUNS}: {}", known.join(", ")),
        };
        Err(CliError::invalid(
            format!("run {run}"),
            "no such folder",
            next,
        ))
    }

    /// The root of a run, which is named like its folder, or by its URL where the store is remote.
    pub(crate) fn root(run: Option<&str>) -> Result<Store, CliError> {
        Ok(match run {
            Some(url) if url.contains("://") => Store::open(url)?,
            run => Store::open(&Self::find(run)?.path().to_string_lossy())?,
        })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The run's token file.
    pub(crate) fn token(&self) -> PathBuf {
        self.0.join("token")
    }

    /// One line of metrics per step.
    pub(crate) fn metrics(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }

    /// What the run is, as it was resumed last.
    pub(crate) fn run_file(&self) -> PathBuf {
        self.0.join(RUN_FILE)
    }

    /// Where the run can be reached.
    pub(crate) fn endpoint_file(&self) -> PathBuf {
        self.0.join(ENDPOINT)
    }

    /// The log of one process of the run.
    pub(crate) fn log(&self, role: &str) -> PathBuf {
        self.0.join("logs").join(format!("{role}.log"))
    }

    /// Creates the folder and its logs, if need be.
    pub(crate) fn create(&self) -> Result<(), CliError> {
        let logs = self.0.join("logs");
        fs::create_dir_all(&logs).map_err(|error| CliError::file(&logs, &error))
    }

    /// The run's token, made on first use.
    pub(crate) fn ensure_token(&self) -> Result<RunToken, CliError> {
        let path = self.token();
        if path.exists() {
            return Ok(RunToken::read(&path)?);
        }
        let token = RunToken::generate().map_err(|error| CliError::file(&path, &error))?;
        token.write(&path)?;
        Ok(token)
    }

    /// Claims the folder for this process; refuses when another one runs the run.
    pub(crate) fn lock(&self) -> Result<FolderLock, CliError> {
        let io = |error: &io::Error| CliError::file(&self.0, error);
        let folder = File::open(&self.0).map_err(|error| io(&error))?;
        match folder.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(self.is_live()),
            Err(TryLockError::Error(error)) => return Err(io(&error)),
        }
        // A coordinator started by hand holds no lock, but says where it is.
        match self.endpoint()? {
            Some(_) => Err(self.is_live()),
            None => Ok(FolderLock(folder)),
        }
    }

    fn is_live(&self) -> CliError {
        let place = match self.endpoint() {
            Ok(Some(Endpoint { address, pid, .. })) => {
                format!("already running at {address}, process {pid}")
            }
            _ => "already starting or ending in another process".to_owned(),
        };
        let thing = format!("run {}", self.name());
        let next = "watch it with `ringmaster watch`, or end it with Ctrl-C where it runs";
        CliError::refused(ErrorKind::Fenced, thing, place, next)
    }

    /// Where the live run is; a file left by a process that is gone is removed.
    pub(crate) fn endpoint(&self) -> Result<Option<Endpoint>, CliError> {
        endpoint::read(&self.endpoint_file())
    }

    /// Where the live run is, or an error that says how to start it.
    pub(crate) fn live_endpoint(&self) -> Result<Endpoint, CliError> {
        self.endpoint()?.ok_or_else(|| {
            let next = "start or resume it with `ringmaster train`";
            CliError::refused(
                ErrorKind::Retry,
                format!("run {}", self.name()),
                "not running",
                next,
            )
        })
    }

    /// Removes everything a run wrote. Refuses, before removing anything, a folder that holds
    /// something no run writes.
    pub(crate) fn clear(&self) -> Result<(), CliError> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(CliError::file(&self.0, &error)),
        };
        let entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        let known = |path: &&PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // A process killed while it wrote leaves a draft of endpoint.json.
            KNOWN.contains(&&*name) || name.starts_with(ENDPOINT)
        };
        if let Some(stranger) = entries.iter().find(|path| !known(path)) {
            let reason = format!("holds {}, which no run writes", stranger.display());
            let next = "remove the folder by hand, or choose another run.name";
            return Err(CliError::invalid(self.0.display(), reason, next));
        }
        for path in entries {
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|error| CliError::file(&path, &error))?;
        }
        Ok(())
    }

    /// Size of everything in the folder, bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        fn size(path: &Path) -> u64 {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let sizes = entries.map(|entry| match entry.metadata() {
                Ok(data) if data.is_dir() => size(&entry.path()),
                Ok(data) => data.len(),
                Err(_) => 0,
            });
            sizes.sum()
        }
        size(&self.0)
    }

    fn name(&self) -> String {
        self.0
            .file_name()
            .unwrap_or(self.0.as_os_str())
            .to_string_lossy()
            .into_owned()
    }
}

fn newest(runs: &Path) -> Result<RunFolder, CliError> {
    let changed = |path: &Path| fs::metadata(path).ok()?.modified().ok();
    let folders = names(runs).into_iter().map(|name| runs.join(name));
    let newest = folders.max_by_key(|path| (changed(&path.join(ENDPOINT)), changed(path)));
    newest.map(RunFolder).ok_or_else(|| {
        let next = "start one with `ringmaster train`, or name the run's folder";
        CliError::refused(
            ErrorKind::Retry,
            format!("./{RUNS}"),
            "there is no run",
            next,
        )
    })
}

/// Names of the runs below `runs`, sorted.
fn names(runs: &Path) -> Vec<String> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::endpoint::EndpointFile;

    fn folder() -> (tempfile::TempDir, RunFolder) {
        let parent = tempfile::tempdir().unwrap();
        let folder = RunFolder(parent.path().join("r"));
        folder.create().unwrap();
        (parent, folder)
    }

    fn serve(folder: &RunFolder) -> EndpointFile {
        let endpoint = Endpoint {
            run: "r".into(),
            address: "127.0.0.1:1".into(),
            admin: "127.0.0.1:2".into(),
            pid: std::process::id(),
        };
        EndpointFile::write(&folder.endpoint_file(), &endpoint).unwrap()
    }

    #[test]
    fn two_processes_cannot_claim_one_folder() {
        let (_parent, folder) = folder();
        let claim = folder.lock().unwrap();
        let served = serve(&folder);
        let refusal = folder.lock().unwrap_err().to_string();
        assert!(
            refusal.contains("already running at 127.0.0.1:1"),
            "{refusal}"
        );
        drop(claim);
        folder.lock().unwrap_err();
        drop(served);
        folder.lock().unwrap();
    }

    #[test]
    fn an_endpoint_whose_process_is_gone_is_removed() {
        let (_parent, folder) = folder();
        drop(serve(&folder));
        assert!(!folder.endpoint_file().exists());
        // What a killed process leaves: the file, and no lock.
        let text = r#"{"run":"r","address":"a:1","admin":"a:2","pid":1}"#;
        fs::write(folder.endpoint_file(), text).unwrap();
        assert_eq!(folder.endpoint().unwrap(), None);
        assert!(!folder.endpoint_file().exists());
    }

    #[test]
    fn clear_removes_a_run_and_nothing_else() {
        let (_parent, folder) = folder();
        folder.ensure_token().unwrap();
        let stranger = folder.path().join("thesis.tex");
        fs::write(&stranger, "mine").unwrap();
        let refusal = folder.clear().unwrap_err().to_string();
        assert!(refusal.contains("thesis.tex"), "{refusal}");
        assert!(
            folder.token().exists(),
            "nothing is removed before the refusal"
        );
        fs::remove_file(stranger).unwrap();
        folder.clear().unwrap();
        assert_eq!(folder.size_bytes(), 0);
    }

    #[test]
    fn the_token_is_private_and_stays() {
        use std::os::unix::fs::PermissionsExt;
        let (_parent, folder) = folder();
        let token = folder.ensure_token().unwrap();
        assert!(token == folder.ensure_token().unwrap());
        let mode = fs::metadata(folder.token()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_folder_follows_a_local_store_and_not_a_remote_one() {
        let at = |store: &str| {
            let set = format!("run.store={store}");
            RunFolder::of(&RunSpec::parse("", &[set]).unwrap())
                .path()
                .to_owned()
        };
        assert_eq!(at("/data/runs"), Path::new("/data/runs/scenes"));
        assert_eq!(at("file:///data/runs"), Path::new("/data/runs/scenes"));
        assert_eq!(at("s3://bucket/runs"), Path::new("ringmaster-runs/scenes"));
    }
}
