//! `ringmaster worker`: one rank of a run.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use ringmaster_proto::WorkerId;
use ringmaster_proto::auth::RunToken;
use ringmaster_worker::{DeviceChoice, Tax, WorkerOptions, WorkerOutcome};
use ulid::Ulid;

use crate::devices::Devices;
use crate::error::{CliError, Exit};
use crate::signals::{self, Signals};
use crate::supervisor::WorkerEnd;
use crate::{output, usage};

/// Arguments of `worker`; everything else comes from the coordinator.
#[derive(Args, Debug)]
pub(crate) struct WorkerArgs {
    /// Address of the coordinator
    #[arg(long, value_name = "HOST:PORT")]
    coordinator: String,
    /// File with the run's token: 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Address the ring is bound to, as other workers reach it
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    ring_bind: IpAddr,
    /// What to compute on: auto, cpu or cuda:N
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Name of this worker, unique in the run; without one, the host's name and a random part
    #[arg(long, value_parser = worker_name)]
    name: Option<WorkerId>,
    /// End at once when standard input closes
    #[arg(long)]
    exit_with_parent: bool,
}

/// Serves one run until it ends; SIGTERM leaves at a step boundary. Prints one line of JSON: what it
/// cost.
pub(crate) async fn run(args: WorkerArgs) -> Result<Exit, CliError> {
    if args.exit_with_parent {
        signals::exit_with_parent();
    }
    let shutdown = Signals::listen()?.into_token();
    let tax = Arc::new(Tax::default());
    let options = WorkerOptions {
        coordinator: args.coordinator,
        token: RunToken::read(&args.token_file)?,
        worker_id: args.name.map_or_else(unique_name, Ok)?,
        ring_bind: args.ring_bind,
        device: Devices::to_compute_on(args.device).first(),
        tax: Arc::clone(&tax),
    };
    let left_early = shutdown.clone();
    let outcome = ringmaster_worker::run(options, shutdown).await?;
    let peak_memory_bytes = usage::peak_memory_bytes();
    let tax = tax.seconds();
    output::json(&WorkerEnd {
        peak_memory_bytes,
        tax,
    });
    match outcome {
        WorkerOutcome::Finished => Ok(Exit::Done),
        WorkerOutcome::Stopped => Ok(Exit::Stopped),
        // Asked to go by its host, the worker may be started again elsewhere; asked to go by the
        // coordinator, it is not needed.
        WorkerOutcome::Removed if left_early.is_cancelled() => Ok(Exit::Stopped),
        WorkerOutcome::Removed => Ok(Exit::Done),
    }
}

fn worker_name(name: &str) -> Result<WorkerId, String> {
    WorkerId::new(name).ok_or_else(|| "use 1 to 63 of a-z, 0-9 and -".to_owned())
}

/// The host's name, so that people recognise it, and 80 random bits, so that it is unique.
fn unique_name() -> Result<WorkerId, CliError> {
    // Only a help for the eye: without it the random part is name enough.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name_of(host.trim(), Ulid::generate())
}

fn name_of(host: &str, id: Ulid) -> Result<WorkerId, CliError> {
    let random = id.to_string().split_off(10).to_lowercase();
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let host: String = host.chars().map(plain).take(40).collect();
    let name = format!("{}-{random}", host.trim_matches('-'));
    WorkerId::new(name.trim_start_matches('-')).ok_or_else(|| {
        CliError::invalid(
            format!("worker name {name}"),
            "not a name",
            "give one with --name",
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_host_name_makes_a_valid_worker_name() {
        let unique = |host: &str| name_of(host, Ulid::generate()).unwrap();
        let long = "x".repeat(300);
        for host in ["gpu-7.example.com", "", "-", "Ünïcode", &long] {
            let (one, two) = (unique(host), unique(host));
            assert!(one != two, "{one}");
        }
    }
}
