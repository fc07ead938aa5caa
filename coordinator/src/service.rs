//! The gRPC services: workers attend, people ask. Nothing is decided here; what comes from outside
//! is checked and handed to the actor.

use std::ops::RangeInclusive;
use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use futures::stream::{self, StreamExt};
use ringmaster_proto::v1::coordinator_service_server::CoordinatorService;
use ringmaster_proto::v1::run_service_server::RunService;
use ringmaster_proto::v1::watch_run_response::Event as Watched;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{
    Directive, GetRunRequest, GetRunResponse, Hello, RunStatus, ScaleRunRequest, ScaleRunResponse,
    StopRunRequest, StopRunResponse, WatchRunRequest, WatchRunResponse, WorkerReport,
};
use ringmaster_proto::{ErrorKind, PROTOCOL_VERSION, Term, WorkerId};
use tokio::sync::broadcast;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use crate::handle::{Attendance, CoordinatorHandle};
use crate::validate;

/// How long a new stream may stay silent.
const HELLO_MAX: Duration = Duration::from_secs(10);

/// Longest reason a person may give for a stop, in bytes.
const REASON_MAX: usize = 1024;

/// Both services of one run.
#[derive(Clone)]
pub(crate) struct Service {
    run: String,
    /// How many workers there may be.
    workers: RangeInclusive<u32>,
    handle: CoordinatorHandle,
    tasks: TaskTracker,
    ended: CancellationToken,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    /// `tasks` tracks the task behind each stream; `ended` makes them leave.
    pub(crate) fn new(
        (run, workers): (String, RangeInclusive<u32>),
        handle: CoordinatorHandle,
        tasks: TaskTracker,
        ended: CancellationToken,
    ) -> Self {
        Self {
            run,
            workers,
            handle,
            tasks,
            ended,
        }
    }

    fn meant_for_us(&self, run_id: &str) -> Result<(), Status> {
        if run_id.is_empty() || run_id == self.run {
            return Ok(());
        }
        let message = format!("this coordinator serves run {}, not {run_id:?}", self.run);
        Err(ErrorKind::Invalid.to_status(message))
    }

    /// Reads the first message; it must be a Hello in our protocol.
    async fn hello(
        &self,
        inbound: &mut Streaming<WorkerReport>,
    ) -> Result<(WorkerId, Term, Hello), Status> {
        let silent = |_| ErrorKind::Retry.to_status("the worker opened a stream and said nothing");
        let invalid = |message: String| ErrorKind::Invalid.to_status(message);
        let first = tokio::time::timeout(HELLO_MAX, inbound.message())
            .await
            .map_err(silent)??;
        let first = first.ok_or_else(|| invalid("the worker left before its hello".to_owned()))?;
        let Some(Body::Hello(hello)) = first.body else {
            return Err(invalid("the first message of a stream is hello".to_owned()));
        };
        if hello.protocol != PROTOCOL_VERSION {
            return Err(invalid(format!(
                "the worker speaks protocol {} and this coordinator {PROTOCOL_VERSION}; run the \
                 same build on both sides",
                hello.protocol
            )));
        }
        self.meant_for_us(&first.run_id)?;
        let worker = WorkerId::new(&first.worker_id).ok_or_else(|| {
            invalid(format!(
                "worker id {:?} is not 1 to 63 of a-z, 0-9 and -",
                first.worker_id
            ))
        })?;
        validate::hello(&hello).map_err(invalid)?;
        Ok((worker, Term(first.term), hello))
    }

    /// Hands a worker's reports to the actor until either side ends the stream.
    async fn forward(
        self,
        mut inbound: Streaming<WorkerReport>,
        worker: WorkerId,
        session: crate::run::Session,
        closed: CancellationToken,
    ) {
        loop {
            let message = tokio::select! {
                biased;
                () = closed.cancelled() => break,
                () = self.ended.cancelled() => break,
                message = inbound.message() => message,
            };
            let report = match message {
                Ok(Some(report)) => report,
                Ok(None) => break,
                Err(status) => {
                    tracing::debug!(reason = status.message(), "a worker's stream broke");
                    break;
                }
            };
            if let Err(reason) = self.check(&worker, &report) {
                tracing::warn!(%reason, "a worker's report is refused, and its stream ended");
                break;
            }
            if self
                .handle
                .report(worker.clone(), session, report)
                .await
                .is_err()
            {
                break;
            }
        }
        self.handle.detach(session).await;
    }

    fn check(&self, worker: &WorkerId, report: &WorkerReport) -> Result<(), String> {
        if report.worker_id != worker.as_str() {
            return Err(format!("it names worker {:?}", report.worker_id));
        }
        if !report.run_id.is_empty() && report.run_id != self.run {
            return Err(format!("it names run {:?}", report.run_id));
        }
        validate::report(report)
    }
}

#[tonic::async_trait]
impl CoordinatorService for Service {
    type AttendStream = Answers<Directive>;

    async fn attend(
        &self,
        request: Request<Streaming<WorkerReport>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let mut inbound = request.into_inner();
        let (worker, term, hello) = self.hello(&mut inbound).await?;
        let attendance = self.handle.attend(worker.clone(), term, hello).await?;
        let Attendance {
            session,
            directives,
            closed,
        } = attendance;
        let span = tracing::info_span!("attend", %worker);
        let forward = self.clone().forward(inbound, worker, session, closed);
        self.tasks.spawn(forward.instrument(span));
        Ok(Response::new(Box::pin(
            ReceiverStream::new(directives).map(Ok),
        )))
    }
}

#[tonic::async_trait]
impl RunService for Service {
    type WatchRunStream = Answers<WatchRunResponse>;

    async fn get_run(
        &self,
        request: Request<GetRunRequest>,
    ) -> Result<Response<GetRunResponse>, Status> {
        self.meant_for_us(&request.get_ref().run_id)?;
        let status = Some(self.handle.status().await?);
        Ok(Response::new(GetRunResponse { status }))
    }

    async fn watch_run(
        &self,
        request: Request<WatchRunRequest>,
    ) -> Result<Response<Self::WatchRunStream>, Status> {
        self.meant_for_us(&request.get_ref().run_id)?;
        let (status, events) = self.handle.watch().await?;
        Ok(Response::new(Box::pin(watched(
            status,
            events,
            self.handle.clone(),
        ))))
    }

    async fn stop_run(
        &self,
        request: Request<StopRunRequest>,
    ) -> Result<Response<StopRunResponse>, Status> {
        let request = request.into_inner();
        self.meant_for_us(&request.run_id)?;
        if request.reason.len() > REASON_MAX {
            let message = format!("a reason has at most {REASON_MAX} bytes");
            return Err(ErrorKind::Invalid.to_status(message));
        }
        let reason = match request.reason.is_empty() {
            true => "somebody asked for a stop".to_owned(),
            false => request.reason,
        };
        let status = Some(self.handle.stop(reason).await?);
        Ok(Response::new(StopRunResponse { status }))
    }

    async fn scale_run(
        &self,
        request: Request<ScaleRunRequest>,
    ) -> Result<Response<ScaleRunResponse>, Status> {
        let request = request.into_inner();
        self.meant_for_us(&request.run_id)?;
        let workers = request.workers;
        if !self.workers.contains(&workers) {
            let (least, most) = (self.workers.start(), self.workers.end());
            let message = format!(
                "{workers} workers cannot be: membership.min_workers is {least} and data.lanes {most}"
            );
            return Err(ErrorKind::Invalid.to_status(message));
        }
        let status = Some(self.handle.scale(workers).await?);
        Ok(Response::new(ScaleRunResponse { status }))
    }
}

/// The status, then every event. A watcher that falls behind misses events and is told the status
/// as it is by then, so that it is never wrong for long.
fn watched(
    status: RunStatus,
    events: broadcast::Receiver<WatchRunResponse>,
    handle: CoordinatorHandle,
) -> impl Stream<Item = Result<WatchRunResponse, Status>> + Send {
    let now = |status| WatchRunResponse {
        event: Some(Watched::Status(status)),
    };
    let later = stream::unfold((events, handle), move |(mut events, handle)| async move {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(broadcast::error::RecvError::Lagged(_)) => now(handle.status().await.ok()?),
            Err(broadcast::error::RecvError::Closed) => return None,
        };
        Some((event, (events, handle)))
    });
    stream::once(async move { now(status) })
        .chain(later)
        .map(Ok)
}
