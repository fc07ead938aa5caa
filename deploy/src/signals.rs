//! What ends a process from outside: signals, and the end of the process that started it.

use std::io::Read;

use ringmaster_proto::ErrorKind;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::CliError;

/// SIGINT (Ctrl-C) and SIGTERM, as one stream.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on these signals no longer end the process by themselves. Needs a tokio runtime.
    pub(crate) fn listen() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                let next = "run it where signal handlers may be installed";
                CliError::refused(ErrorKind::Internal, "signals", error, next)
            })
        };
        let interrupt = listen(SignalKind::interrupt())?;
        Ok(Self {
            interrupt,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The next signal. Safe to cancel.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// A token that the first signal cancels. Later ones have no effect: who started this process
    /// kills it if the drain takes too long.
    pub(crate) fn into_token(mut self) -> CancellationToken {
        let token = CancellationToken::new();
        let cancel = token.clone();
        tokio::spawn(async move {
            self.next().await;
            tracing::info!("asked to end by a signal");
            cancel.cancel();
        });
        token
    }
}

/// Ends this process at once when its standard input closes: the supervisor holds the other end of
/// that pipe, and however it dies, the system closes it.
pub(crate) fn exit_with_parent() {
    std::thread::spawn(|| {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0; 64];
        while matches!(stdin.read(&mut ignored), Ok(n) if n > 0) {}
        eprintln!("error: supervisor: went away; this process ends with it");
        std::process::exit(ErrorKind::Retry.exit_code().into());
    });
}
