//! The `ringmaster` command: every role of a run, and what people ask of one.
//!
//! [`main`] is the whole program, so that another package's thin binary can be it too.

mod cli;
mod commands;
mod devices;
mod endpoint;
mod error;
mod history;
mod init;
mod kubernetes;
mod logging;
mod output;
mod progress;
mod run_file;
mod run_folder;
mod signals;
mod supervisor;
mod svg;
mod usage;

use std::panic::PanicHookInfo;
use std::process::ExitCode;

use clap::Parser;
use ringmaster_proto::ErrorKind;

use crate::cli::Cli;
use crate::error::{CliError, Exit};

/// Parses the command line, runs the command, and reports an error as one sentence.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    let cli = Cli::parse();
    match std::panic::catch_unwind(|| run(cli)) {
        Ok(Ok(exit)) => ExitCode::from(exit.code()),
        Ok(Err(error)) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
        Err(_already_reported) => ExitCode::from(ErrorKind::Internal.exit_code()),
    }
}

fn run(cli: Cli) -> Result<Exit, CliError> {
    // object_store and kube each prefer another provider; the process has one. An error means that
    // one is installed already.
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    logging::start(cli.log_format, cli.command.log_filter());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| {
        CliError::refused(
            ErrorKind::Internal,
            "runtime",
            error,
            "check the limit on threads",
        )
    })?;
    let result = runtime.block_on(cli.command.run(cli.log_format));
    // A task that still blocks must not keep a finished command from ending.
    runtime.shutdown_background();
    result
}

/// One line instead of a backtrace; `RUST_BACKTRACE=1` adds it.
fn report_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let said = payload.downcast_ref::<&str>().copied();
    let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let said = said
        .unwrap_or("no message")
        .lines()
        .next()
        .unwrap_or_default();
    let place = info
        .location()
        .map(|at| format!(" at {at}"))
        .unwrap_or_default();
    eprintln!("error: broken invariant{place}: {said}; this is a bug, please report it");
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        eprintln!("{}", std::backtrace::Backtrace::force_capture());
    }
}
