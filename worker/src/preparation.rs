//! Where a worker's preparation stands, and what comes of it: one source of things to report.

use ringmaster_proto::Generation;
use ringmaster_proto::v1;
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
    /// It can be ranked.
    Ready(v1::Prepared),
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
                        let ready = v1::Prepared {
                            ring_address: prepared.ring_address(),
                            fingerprint: prepared.fingerprint(),
                            state_bytes: prepared.state_bytes(),
                            held: None,
                        };
                        *self = Self::Done(prepared);
                        Progress::Ready(ready)
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
