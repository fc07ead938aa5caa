//! The worker's side of the control stream: attends, re-attends, tells what the trainer thread has to
//! tell, and does what [`ringmaster_agent`] decides.
//!
//! One task owns everything here. Losing the stream does not stop training: the trainer thread goes
//! on, its reports wait, and the agent attends again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use ringmaster_agent::{Agent as Decider, Ending, Task};
use ringmaster_proto::v1::directive::Body as DirectiveBody;
use ringmaster_proto::v1::worker_report::Body as ReportBody;
use ringmaster_proto::v1::{self, Directive, WorkerReport};
use ringmaster_proto::{ErrorKind, PROTOCOL_VERSION, Term, dial};
use ringmaster_ring::Abort;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use ulid::Ulid;

use crate::preparation::{Preparation, Progress};
use crate::prepare;
use crate::session::{Command, Reins};
use crate::{WorkerError, WorkerOptions, WorkerOutcome};

/// Reports that may wait for the wire.
const OUTBOUND: usize = 64;

/// How long the wire may refuse a report before the stream counts as lost.
const SEND_DEADLINE: Duration = Duration::from_secs(10);

/// Waits between attempts to attend, doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long a worker that is in no ring looks for a coordinator before it gives up.
const GIVE_UP: Duration = Duration::from_secs(600);

/// How long a draining worker waits to be let go.
const DRAIN_DEADLINE: Duration = Duration::from_secs(60);

/// Why a stream ended.
enum Ended {
    /// The coordinator let this worker go.
    Stopped(Result<WorkerOutcome, WorkerError>),
    /// The stream broke or nobody answered.
    Lost(String),
}

/// See the module's text.
pub(crate) struct Agent {
    options: WorkerOptions,
    shutdown: CancellationToken,
    began: Instant,
    decider: Decider,
    preparation: Preparation,
    /// Of the generation in force.
    reins: Option<Reins>,
    drain_by: Option<Instant>,
}

impl Agent {
    pub(crate) fn new(options: WorkerOptions, shutdown: CancellationToken) -> Self {
        // The lower half of a ULID is random.
        let incarnation = Ulid::generate().random() as u64;
        Self {
            decider: Decider::new(options.worker_id.clone(), incarnation),
            options,
            shutdown,
            began: Instant::now(),
            preparation: Preparation::Waiting,
            reins: None,
            drain_by: None,
        }
    }

    /// Attends until the coordinator lets this worker go.
    pub(crate) async fn run(mut self) -> Result<WorkerOutcome, WorkerError> {
        let mut wait = BACKOFF.0;
        let mut give_up = Instant::now() + GIVE_UP;
        loop {
            let attended = Instant::now();
            match self.attend().await {
                Ok(Ended::Stopped(outcome)) => {
                    self.finish().await;
                    return outcome;
                }
                Ok(Ended::Lost(reason)) => tracing::warn!("control stream lost: {reason}"),
                Err(error) if error.kind() == ErrorKind::Retry => tracing::warn!("{error}"),
                Err(error) => {
                    self.finish().await;
                    return Err(error);
                }
            }
            if attended.elapsed() > BACKOFF.1 {
                wait = BACKOFF.0;
                give_up = Instant::now() + GIVE_UP;
            }
            let alone = self.shutdown.is_cancelled() && !self.decider.is_running();
            if alone || self.drain_by.is_some_and(|by| by < Instant::now()) {
                self.finish().await;
                return Ok(WorkerOutcome::Removed);
            }
            if Instant::now() > give_up && !self.decider.in_ring() {
                let reason =
                    format!("not reachable for {GIVE_UP:?}; start the run again to resume");
                return Err(self.refused(reason, ErrorKind::Retry));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// One stream, from Hello to its end.
    async fn attend(&mut self) -> Result<Ended, WorkerError> {
        let (outbound, reports) = mpsc::channel(OUTBOUND);
        let hello = v1::Hello {
            protocol: PROTOCOL_VERSION,
            build: env!("CARGO_PKG_VERSION").into(),
            host: hostname(),
            pid: std::process::id(),
            ..Default::default()
        };
        // The channel is empty: this cannot wait.
        let _ = outbound.send(self.decider.hello(hello)).await;
        let channel = dial::dial(&self.options.coordinator, &self.options.token)
            .await
            .map_err(|error| self.refused(error.to_string(), error.kind()))?;
        let mut client = dial::coordinator(channel);
        let answer = timeout(
            dial::CONNECT_TIMEOUT,
            client.attend(ReceiverStream::new(reports)),
        );
        let directives = match answer.await {
            Err(_) => return Ok(Ended::Lost("no answer to Attend".into())),
            Ok(Err(status)) => return self.refusal(&status),
            Ok(Ok(response)) => response.into_inner(),
        };
        self.follow(directives, outbound).await
    }

    /// Serves one stream's directives and this worker's reports.
    async fn follow(
        &mut self,
        mut directives: Streaming<Directive>,
        outbound: mpsc::Sender<WorkerReport>,
    ) -> Result<Ended, WorkerError> {
        let mut heartbeat = tokio::time::interval(Duration::from_millis(500));
        let (mut welcomed, mut told_draining) = (false, false);
        let shutdown = self.shutdown.clone();
        loop {
            let generation = self.decider.generation();
            let report = tokio::select! {
                directive = directives.message() => match directive {
                    Ok(Some(directive)) => {
                        welcomed |= matches!(directive.body, Some(DirectiveBody::Welcome(_)));
                        self.log(&directive);
                        for task in self.decider.direct(directive) {
                            match task {
                                Task::Heartbeat(every) => heartbeat = tokio::time::interval(every),
                                Task::End(ending) => return self.ended(ending),
                                task => self.carry_out(task),
                            }
                        }
                        None
                    }
                    Ok(None) => return Ok(Ended::Lost("the coordinator closed it".into())),
                    Err(status) => return self.refusal(&status),
                },
                // Before the welcome nobody knows in which term to say it.
                progress = self.preparation.progress(), if welcomed => match progress {
                    Progress::Ready(prepared) => {
                        let body = self.decider.prepared(prepared);
                        Some(self.decider.envelope(generation, body))
                    }
                    Progress::Report(generation, body) => {
                        let body = self.decider.note(self.began.elapsed(), generation, body);
                        if let Preparation::Done(prepared) = &self.preparation {
                            prepared.outbox().told(generation, body.clone());
                        }
                        Some(self.decider.envelope(generation, body))
                    }
                    Progress::Failed(error) => {
                        return self.give_in(directives, outbound, error).await;
                    }
                },
                _ = heartbeat.tick() => {
                    let alive = match &self.preparation {
                        Preparation::Done(prepared) => prepared.alive(),
                        Preparation::Waiting | Preparation::Busy(_) => v1::Alive::default(),
                    };
                    Some(self.decider.envelope(generation, ReportBody::Alive(alive)))
                }
                () = shutdown.cancelled(), if !told_draining && welcomed => {
                    told_draining = true;
                    self.drain_by.get_or_insert(Instant::now() + DRAIN_DEADLINE);
                    let reason = "the worker was asked to end (SIGTERM)".into();
                    let draining = ReportBody::Draining(v1::Draining { reason });
                    Some(self.decider.envelope(generation, draining))
                }
            };
            if let Some(report) = report
                && !matches!(
                    timeout(SEND_DEADLINE, outbound.send(report)).await,
                    Ok(Ok(()))
                )
            {
                return Ok(Ended::Lost("it takes no reports".into()));
            }
            if self.drain_by.is_some_and(|by| by < Instant::now()) {
                return Ok(Ended::Stopped(Ok(WorkerOutcome::Removed)));
            }
            for task in self.decider.tick(self.began.elapsed()) {
                tracing::warn!("the ring broke and nobody fenced it: asking to be ranked anew");
                self.carry_out(task);
            }
        }
    }

    fn log(&self, directive: &Directive) {
        let (term, generation) = (directive.term, directive.generation);
        match &directive.body {
            _ if Term(term) < self.decider.term() => {
                let newest = self.decider.term();
                tracing::warn!(term, %newest, "a directive of an older term is refused");
            }
            Some(DirectiveBody::Welcome(welcome)) => {
                tracing::debug!(term, generation, keep = welcome.keep, "welcome");
            }
            Some(DirectiveBody::Fence(fence)) => {
                tracing::info!(term, generation, "fenced: {}", fence.reason);
            }
            Some(DirectiveBody::Drain(drain)) => {
                tracing::info!(term, generation, "drain: {}", drain.reason);
            }
            Some(DirectiveBody::Stop(stop)) => {
                let outcome = stop.outcome().as_str_name();
                tracing::info!(term, generation, outcome, "stop: {}", stop.message);
            }
            Some(DirectiveBody::FormRing(_) | DirectiveBody::Start(_)) | None => {}
        }
    }

    /// Does what was decided, except what concerns the stream itself.
    fn carry_out(&mut self, task: Task) {
        match task {
            Task::Prepare(welcome) => {
                let prepare = prepare::prepare(welcome, self.options.clone());
                self.preparation = Preparation::Busy(tokio::spawn(prepare));
            }
            Task::TellAgain {
                completed,
                in_force,
            } => {
                if let Preparation::Done(prepared) = &self.preparation {
                    prepared.outbox().tell_again(completed, in_force);
                }
            }
            Task::Abort(reason) => {
                if let Some(reins) = self.reins.take() {
                    reins.abort.abort(reason);
                }
            }
            Task::Form(form) => {
                let reins = Reins {
                    abort: Abort::new(),
                    drain: Arc::new(AtomicI32::new(0)),
                };
                self.reins = Some(reins.clone());
                self.command(Command::Form(form, reins));
            }
            Task::Start(generation, failures) => {
                self.command(Command::Start(generation, failures));
            }
            Task::Fence(generation) => self.command(Command::Fence(generation)),
            Task::Drain(boundary) => {
                if let Some(reins) = &self.reins {
                    reins.drain.store(boundary.into(), Ordering::Release);
                }
            }
            Task::Heartbeat(_) | Task::End(_) => {}
        }
    }

    fn command(&self, command: Command) {
        if let Preparation::Done(prepared) = &self.preparation {
            prepared.command(command);
        }
    }

    /// The coordinator lets this worker go.
    fn ended(&self, ending: Ending) -> Result<Ended, WorkerError> {
        let outcome = match ending {
            Ending::Finished => Ok(WorkerOutcome::Finished),
            Ending::Stopped => Ok(WorkerOutcome::Stopped),
            Ending::Removed(_) if self.shutdown.is_cancelled() => Ok(WorkerOutcome::Removed),
            Ending::Removed(message) => Err(self.refused(message, ErrorKind::Rejoin)),
            Ending::Failed(message) => Err(WorkerError::RunFailed(message)),
            Ending::SpecChanged => {
                let reason = "the run's spec has changed; start this worker again".into();
                return Err(self.refused(reason, ErrorKind::Rejoin));
            }
            Ending::Nonsense(what) => return Err(WorkerError::Internal(what)),
        };
        Ok(Ended::Stopped(outcome))
    }

    /// Tells the coordinator why this worker cannot go on, waits until the report has been read, and
    /// ends with that error.
    async fn give_in(
        &self,
        mut directives: Streaming<Directive>,
        outbound: mpsc::Sender<WorkerReport>,
        error: WorkerError,
    ) -> Result<Ended, WorkerError> {
        let kind = error.kind().as_str().to_owned();
        let failed = ReportBody::Failed(v1::Failed {
            kind,
            message: error.to_string(),
        });
        let report = self.decider.envelope(self.decider.generation(), failed);
        let answered = async {
            // Either side's end of the stream is an answer: the coordinator has seen the report.
            if outbound.send(report).await.is_ok() {
                drop(outbound);
                while let Ok(Some(directive)) = directives.message().await {
                    if matches!(directive.body, Some(DirectiveBody::Stop(_))) {
                        break;
                    }
                }
            }
        };
        if timeout(SEND_DEADLINE, answered).await.is_err() {
            tracing::warn!("the coordinator did not take the reason of the failure");
        }
        Err(error)
    }

    /// Ends the trainer thread.
    async fn finish(&mut self) {
        if let Some(reins) = self.reins.take() {
            reins.abort.abort("the worker ends");
        }
        match std::mem::replace(&mut self.preparation, Preparation::Waiting) {
            Preparation::Done(prepared) => prepared.end().await,
            Preparation::Busy(task) => task.abort(),
            Preparation::Waiting => {}
        }
    }

    fn refused(&self, reason: String, kind: ErrorKind) -> WorkerError {
        WorkerError::Coordinator {
            address: self.options.coordinator.clone(),
            reason,
            kind,
        }
    }

    /// A status from the coordinator: final unless a later attempt may succeed.
    fn refusal(&self, status: &tonic::Status) -> Result<Ended, WorkerError> {
        match ErrorKind::of_status(status) {
            ErrorKind::Retry | ErrorKind::Internal | ErrorKind::Fenced => {
                Ok(Ended::Lost(status.message().to_owned()))
            }
            kind => Err(self.refused(status.message().to_owned(), kind)),
        }
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        "unknown".to_owned()
    } else {
        name.to_owned()
    }
}
