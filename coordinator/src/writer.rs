//! The one task that writes to the store, in order.
//!
//! A store that is away is waited for, visibly, for as long as the coordinator lives: a fixed
//! membership trains on meanwhile, and nothing is decided that is not durable.

use std::time::Duration;

use ringmaster_proto::ErrorKind;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::actor::Command;
use crate::desk::{Desk, Write, Written};
use crate::metrics::Metrics;

/// First and longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

pub(crate) struct Writer {
    pub(crate) desk: Desk,
    pub(crate) metrics: Metrics,
    pub(crate) owner: mpsc::Sender<Command>,
}

impl Writer {
    /// Writes what it is asked until nobody can ask any more, or until a write can never succeed.
    pub(crate) async fn run(mut self, mut asked: mpsc::Receiver<Write>) {
        while let Some(write) = asked.recv().await {
            let written = self.write(&write).await;
            let last = matches!(written, Written::Failed(_));
            if self.owner.send(Command::Written(written)).await.is_err() || last {
                return;
            }
        }
    }

    async fn write(&mut self, write: &Write) -> Written {
        let began = Instant::now();
        let mut pause = BACKOFF.0;
        loop {
            match self.desk.attempt(write).await {
                Err(error) if error.kind() == ErrorKind::Retry => {
                    tracing::warn!(%error, "waiting for the store");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
                Err(error) => return Written::Failed(error),
                Ok(written) => {
                    if matches!(write, Write::Record(_)) {
                        self.metrics.journal_write(began.elapsed());
                    }
                    return written;
                }
            }
        }
    }
}
