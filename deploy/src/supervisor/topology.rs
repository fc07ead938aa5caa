//! What runs where, as command lines of this program.

use std::ffi::OsString;

use ringmaster_proto::Step;

use super::child::Launch;
use crate::devices::Devices;
use crate::logging::LogFormat;
use crate::run_file::RunFile;
use crate::run_folder::RunFolder;

/// Variable that sets how many threads a process computes with.
pub(crate) const THREADS: &str = "RAYON_NUM_THREADS";

/// What runs where.
pub(crate) struct Topology {
    /// The run, as every child loads it.
    pub(crate) run: RunFile,
    /// Its local folder.
    pub(crate) folder: RunFolder,
    /// Worker processes.
    pub(crate) workers: u32,
    /// What they compute on.
    pub(crate) devices: Devices,
    /// Form of the children's logs.
    pub(crate) log_format: LogFormat,
    /// Kill one worker when the run has applied this many updates.
    pub(crate) kill_one_at: Option<Step>,
}

impl Topology {
    /// The control plane: the first, for whom no worker is left from before, or one in the place of
    /// another that served at `ports` and has died.
    pub(super) fn coordinator(&self, ports: Option<(u16, u16)>) -> Launch {
        let folder = &self.folder;
        let mut args: Vec<OsString> = vec!["coordinator".into()];
        args.extend(self.run.to_args());
        args.extend([
            "--exit-with-parent".into(),
            "--token-file".into(),
            folder.token().into(),
        ]);
        args.extend(["--endpoint-file".into(), folder.endpoint_file().into()]);
        args.extend(["--metrics-file".into(), folder.metrics().into()]);
        args.extend(["--log-format".into(), self.log_format.as_str().into()]);
        match ports {
            None => args.push("--alone".into()),
            Some((grpc, admin)) => {
                args.extend(["--port".into(), grpc.to_string().into()]);
                args.extend(["--admin-port".into(), admin.to_string().into()]);
            }
        }
        let role = "coordinator".to_owned();
        Launch {
            log: folder.log(&role),
            role,
            args,
            env: Vec::new(),
            folder: None,
            read_stdout: true,
        }
    }

    /// Worker `slot`, which was started `starts` times before, for the coordinator at
    /// `address`.
    pub(super) fn worker(&self, address: &str, slot: usize, starts: u32) -> Launch {
        let folder = &self.folder;
        // A worker's name is unique for its life, its log is one per slot.
        let role = if starts == 0 {
            format!("worker-{slot}")
        } else {
            format!("worker-{slot}-{starts}")
        };
        let mut args: Vec<OsString> = vec!["worker".into(), "--exit-with-parent".into()];
        args.extend(["--coordinator".into(), address.into()]);
        args.extend(["--token-file".into(), folder.token().into()]);
        args.extend(["--name".into(), role.as_str().into()]);
        let device = self.devices.of_worker(slot).to_string();
        args.extend(["--device".into(), device.into()]);
        args.extend(["--log-format".into(), self.log_format.as_str().into()]);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / self.workers.max(1) as usize).max(1);
        // Who set a number meant it for the workers, who inherit it.
        let env = match std::env::var_os(THREADS) {
            Some(_) => Vec::new(),
            None => vec![(THREADS, threads.to_string())],
        };
        let log = folder.log(&format!("worker-{slot}"));
        Launch {
            log,
            role,
            args,
            env,
            folder: None,
            read_stdout: true,
        }
    }
}
