//! How the servers talk to the actor: a cheap clone that hides the queue.

use std::time::Duration;

use ringmaster_proto::v1::{Directive, Hello, RunStatus, WatchRunResponse, WorkerReport};
use ringmaster_proto::{ErrorKind, Term, WorkerId};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::actor::Command;
use crate::run::Session;

/// How long the actor may take to answer; it never waits for anything itself.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The run is over, or its owner is overwhelmed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the coordinator is shutting down; ask again once it is back")]
pub struct Gone;

impl From<Gone> for tonic::Status {
    fn from(gone: Gone) -> Self {
        ErrorKind::Retry.to_status(gone.to_string())
    }
}

/// A worker's stream, as the actor sees it.
pub(crate) struct Attendance {
    pub(crate) session: Session,
    pub(crate) directives: mpsc::Receiver<Directive>,
    /// Cancelled when the actor has ended the stream.
    pub(crate) closed: CancellationToken,
}

/// Talks to the one owner of the run.
#[derive(Clone)]
pub(crate) struct CoordinatorHandle {
    queue: mpsc::Sender<Command>,
}

impl CoordinatorHandle {
    pub(crate) fn new(queue: mpsc::Sender<Command>) -> Self {
        Self { queue }
    }

    /// A worker said hello.
    pub(crate) async fn attend(
        &self,
        worker: WorkerId,
        term: Term,
        hello: Hello,
    ) -> Result<Attendance, Gone> {
        self.ask(|reply| Command::Attend {
            worker,
            term,
            hello,
            reply,
        })
        .await
    }

    /// A worker said something. Waits while the actor is busy, which slows only that worker's
    /// stream.
    pub(crate) async fn report(
        &self,
        worker: WorkerId,
        session: Session,
        report: WorkerReport,
    ) -> Result<(), Gone> {
        let command = Command::Report {
            worker,
            session,
            report: Box::new(report),
        };
        self.queue.send(command).await.map_err(|_| Gone)
    }

    /// A stream ended.
    pub(crate) async fn detach(&self, session: Session) {
        // If the actor is gone there is nobody left to tell.
        let _ = self.queue.send(Command::Detach { session }).await;
    }

    pub(crate) async fn status(&self) -> Result<RunStatus, Gone> {
        self.ask(Command::Status).await
    }

    /// The run as it stands, and everything that happens from here on.
    pub(crate) async fn watch(
        &self,
    ) -> Result<(RunStatus, broadcast::Receiver<WatchRunResponse>), Gone> {
        self.ask(Command::Watch).await
    }

    /// Asks for a stop at the next step boundary; returns before it is reached.
    pub(crate) async fn stop(&self, reason: String) -> Result<RunStatus, Gone> {
        self.ask(|reply| Command::Stop { reason, reply }).await
    }

    /// Asks for another number of workers; returns before they are it.
    pub(crate) async fn scale(&self, workers: u32) -> Result<RunStatus, Gone> {
        self.ask(|reply| Command::Scale { workers, reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        let asking = async {
            self.queue.send(command(reply)).await.map_err(|_| Gone)?;
            answer.await.map_err(|_| Gone)
        };
        tokio::time::timeout(ANSWER_MAX, asking)
            .await
            .map_err(|_| Gone)?
    }
}
