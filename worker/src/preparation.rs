//! Where a worker's preparation stands, and what comes of it: one source of things to report.

use ringmaster_proto::Generation;
use ringmaster_proto::v1::worker_report::Body;
use tokio::task::JoinHandle;

use crate::WorkerError;
use crate::prepare::Prepared;

/// Where the preparation stands.
pub(crate) enum Preparation {
    /// No welcome yet.
    Waiting,
    /// Opening the corpus and building the model.
    Busy(JoinHandle<Result<Prepared, WorkerError>>),
    /// The trainer thread is up.
    Done(Prepared),
}

/// What the preparation or the trainer thread has to say.
pub(crate) enum Progress {
    /// Where the ring listens, and the fingerprint.
    Ready(String, String),
    Report(Generation, Body),
    Failed(WorkerError),
}

impl Preparation {
    /// The next thing to report; pending for ever while there is nothing to wait for. Cancel safe.
    pub(crate) async fn progress(&mut self) -> Progress {
        match self {
            Self::Waiting => std::future::pending().await,
            Self::Busy(task) => {
                let result = task.await.unwrap_or_else(|error| {
                    Err(WorkerError::Internal(format!(
                        "preparing ended early: {error}"
                    )))
                });
                match result {
                    Ok(prepared) => {
                        let (address, fingerprint) =
                            (prepared.ring_address(), prepared.fingerprint());
                        *self = Self::Done(prepared);
                        Progress::Ready(address, fingerprint)
                    }
                    Err(error) => {
                        *self = Self::Waiting;
                        Progress::Failed(error)
                    }
                }
            }
            Self::Done(prepared) => match prepared.outbox().next().await {
                Some((generation, body)) => Progress::Report(generation, body),
                None => Progress::Failed(prepared.why_ended()),
            },
        }
    }
}
