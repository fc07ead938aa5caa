//! The worker's side of the control stream: attends, re-attends, and turns directives into commands
//! for the trainer thread.
//!
//! One task owns everything here. Losing the stream does not stop training: the trainer thread goes
//! on, its reports queue, and the agent attends again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use ringmaster_proto::v1::directive::Body as DirectiveBody;
use ringmaster_proto::v1::worker_report::Body as ReportBody;
use ringmaster_proto::v1::{self, Directive, Outcome, WorkerReport};
use ringmaster_proto::{ErrorKind, Generation, PROTOCOL_VERSION, Rank, Term, dial};
use ringmaster_ring::Abort;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::preparation::{Preparation, Progress};
use crate::prepare;
use crate::session::{Command, Form};
use crate::{WorkerError, WorkerOptions, WorkerOutcome};

/// Reports that may wait for the wire.
const OUTBOUND: usize = 64;

/// How long the wire may refuse a report before the stream counts as lost.
const SEND_DEADLINE: Duration = Duration::from_secs(10);

/// Waits between attempts to attend, doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long a worker looks for a coordinator before it gives up.
const GIVE_UP: Duration = Duration::from_secs(600);

/// How long a worker with a broken ring waits to be fenced before it asks to be ranked anew: the
/// coordinator may have dropped it.
const FENCE_WAIT: Duration = Duration::from_secs(5);

/// How long a draining worker waits to be let go.
const DRAIN_DEADLINE: Duration = Duration::from_secs(60);

/// Why a stream ended.
enum Ended {
    /// The coordinator let this worker go.
    Stopped(Result<WorkerOutcome, WorkerError>),
    /// The stream broke or nobody answered.
    Lost(String),
}

/// The generation in force, as far as the agent can reach into it.
struct Running {
    generation: Generation,
    abort: Abort,
    drain: Arc<AtomicI32>,
}

/// See the module's text.
pub(crate) struct Agent {
    options: WorkerOptions,
    shutdown: CancellationToken,
    run_id: String,
    spec_hash: String,
    term: Term,
    generation: Generation,
    preparation: Preparation,
    running: Option<Running>,
    drain_by: Option<Instant>,
    /// When the ring broke, until a fence or a new generation.
    broken_at: Option<Instant>,
    /// The trainer thread's next answer to a fence is told as Prepared.
    rejoining: bool,
}

impl Agent {
    pub(crate) fn new(options: WorkerOptions, shutdown: CancellationToken) -> Self {
        Self {
            options,
            shutdown,
            run_id: String::new(),
            spec_hash: String::new(),
            term: Term::default(),
            generation: Generation::default(),
            preparation: Preparation::Waiting,
            running: None,
            drain_by: None,
            broken_at: None,
            rejoining: false,
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
            let alone = self.shutdown.is_cancelled() && self.running.is_none();
            if alone || self.drain_by.is_some_and(|by| by < Instant::now()) {
                self.finish().await;
                return Ok(WorkerOutcome::Removed);
            }
            if Instant::now() > give_up {
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
        };
        // The channel is empty: this cannot wait.
        let _ = outbound
            .send(self.envelope(self.generation, ReportBody::Hello(hello)))
            .await;
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
        let mut told_draining = false;
        let shutdown = self.shutdown.clone();
        loop {
            let report = tokio::select! {
                directive = directives.message() => match directive {
                    Ok(Some(directive)) => match self.direct(directive)? {
                        Next::Heartbeat(every) => {
                            heartbeat = tokio::time::interval(every);
                            None
                        }
                        Next::Nothing => None,
                        Next::End(outcome) => return Ok(Ended::Stopped(outcome)),
                    },
                    Ok(None) => return Ok(Ended::Lost("the coordinator closed it".into())),
                    Err(status) => return self.refusal(&status),
                },
                progress = self.preparation.progress() => match progress {
                    Progress::Ready(body) => Some((self.generation, body)),
                    Progress::Report(generation, body) => Some((generation, self.note(body))),
                    Progress::Failed(error) => {
                        return self.give_in(directives, outbound, error).await;
                    }
                },
                _ = heartbeat.tick() => Some((self.generation, ReportBody::Alive(v1::Alive {}))),
                () = shutdown.cancelled(), if !told_draining && self.term > Term(0) => {
                    told_draining = true;
                    self.drain_by.get_or_insert(Instant::now() + DRAIN_DEADLINE);
                    let reason = "the worker was asked to end (SIGTERM)".into();
                    Some((self.generation, ReportBody::Draining(v1::Draining { reason })))
                }
            };
            if let Some((generation, body)) = report {
                let report = self.envelope(generation, body);
                if !matches!(
                    timeout(SEND_DEADLINE, outbound.send(report)).await,
                    Ok(Ok(()))
                ) {
                    return Ok(Ended::Lost("it takes no reports".into()));
                }
            }
            if self.drain_by.is_some_and(|by| by < Instant::now()) {
                return Ok(Ended::Stopped(Ok(WorkerOutcome::Removed)));
            }
            if self.broken_at.is_some_and(|at| at.elapsed() > FENCE_WAIT) {
                tracing::warn!("the ring broke and nobody fenced it: asking to be ranked anew");
                self.rejoin();
            }
        }
    }

    /// What a report means for this worker before it is sent.
    fn note(&mut self, body: ReportBody) -> ReportBody {
        match (body, &self.preparation) {
            (ReportBody::Fenced(fenced), Preparation::Done(prepared)) if self.rejoining => {
                self.rejoining = false;
                ReportBody::Prepared(v1::Prepared {
                    held: fenced.held,
                    ..prepared.report()
                })
            }
            (ReportBody::LinkLost(lost), _) => {
                self.broken_at.get_or_insert(Instant::now());
                ReportBody::LinkLost(lost)
            }
            (body, _) => body,
        }
    }

    /// Leaves the ring, if any, and reports what is held as a worker that can be ranked.
    fn rejoin(&mut self) {
        self.broken_at = None;
        self.rejoining = true;
        if let Some(running) = self.running.take() {
            running.abort.abort("the worker rejoins");
        }
        self.command(Command::Fence(self.generation));
    }

    /// Carries out one directive.
    fn direct(&mut self, directive: Directive) -> Result<Next, WorkerError> {
        let (term, generation) = (Term(directive.term), Generation(directive.generation));
        if term < self.term {
            tracing::warn!(%term, newest = %self.term, "a directive of an older term is refused");
            return Ok(Next::Nothing);
        }
        let newer = term > self.term;
        self.term = term;
        let Some(body) = directive.body else {
            return Ok(Next::Nothing);
        };
        match body {
            DirectiveBody::Welcome(welcome) => return self.welcome(welcome, newer),
            DirectiveBody::FormRing(form) => self.form(generation, form)?,
            DirectiveBody::Start(_) => self.command(Command::Start(generation)),
            DirectiveBody::Fence(fence) => {
                tracing::info!(%generation, "fenced: {}", fence.reason);
                self.broken_at = None;
                if let Some(running) = self.running.take_if(|r| r.generation <= generation) {
                    running.abort.abort(fence.reason);
                }
                self.command(Command::Fence(generation));
            }
            DirectiveBody::Drain(drain) => {
                tracing::info!(%generation, "drain: {}", drain.reason);
                if let Some(running) = self.running.as_ref().filter(|r| r.generation == generation)
                {
                    running.drain.store(drain.intent, Ordering::Release);
                }
            }
            DirectiveBody::Stop(stop) => return Ok(Next::End(self.stopped(&stop))),
        }
        Ok(Next::Nothing)
    }

    /// Starts preparing at the first welcome. A later one finds the worker prepared: in its ring, if
    /// the coordinator is the one that formed it, and then nothing needs saying; else ready to be
    /// ranked anew.
    fn welcome(&mut self, welcome: v1::Welcome, newer: bool) -> Result<Next, WorkerError> {
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms.clamp(50, 5_000));
        match &self.preparation {
            Preparation::Waiting => {
                self.run_id.clone_from(&welcome.run_id);
                self.spec_hash.clone_from(&welcome.spec_hash);
                let prepare = prepare::prepare(welcome, self.options.clone());
                self.preparation = Preparation::Busy(tokio::spawn(prepare));
                Ok(Next::Heartbeat(heartbeat))
            }
            Preparation::Busy(_) => Ok(Next::Heartbeat(heartbeat)),
            Preparation::Done(_) if welcome.spec_hash != self.spec_hash => {
                let reason = "the run's spec has changed; start this worker again".into();
                Err(self.refused(reason, ErrorKind::Rejoin))
            }
            Preparation::Done(_) => {
                if newer || self.running.is_none() {
                    self.rejoin();
                }
                Ok(Next::Heartbeat(heartbeat))
            }
        }
    }

    fn form(&mut self, generation: Generation, form: v1::FormRing) -> Result<(), WorkerError> {
        if generation <= self.generation {
            tracing::warn!(%generation, newest = %self.generation, "an older generation is refused");
            return Ok(());
        }
        let bad = |what: &str| WorkerError::Internal(format!("FormRing {what}"));
        let parse = |member: &v1::Member| member.ring_address.parse::<SocketAddr>();
        let addresses: Vec<SocketAddr> =
            form.members
                .iter()
                .map(parse)
                .collect::<Result<_, _>>()
                .map_err(|_| bad("names an address that is not ip:port"))?;
        let resume = form.resume.ok_or_else(|| bad("has no resume point"))?;
        if form.rank as usize >= addresses.len() || resume.root_rank as usize >= addresses.len() {
            return Err(bad("names a rank beyond its members"));
        }
        if let Some(running) = self.running.take() {
            running.abort.abort("a newer generation forms");
        }
        let abort = Abort::new();
        let drain = Arc::new(AtomicI32::new(0));
        (self.generation, self.broken_at, self.rejoining) = (generation, None, false);
        self.running = Some(Running {
            generation,
            abort: abort.clone(),
            drain: Arc::clone(&drain),
        });
        let rank = Rank(form.rank);
        self.command(Command::Form(Form {
            generation,
            rank,
            addresses,
            resume,
            abort,
            drain,
        }));
        Ok(())
    }

    fn command(&self, command: Command) {
        if let Preparation::Done(prepared) = &self.preparation {
            prepared.command(command);
        }
    }

    fn stopped(&self, stop: &v1::Stop) -> Result<WorkerOutcome, WorkerError> {
        tracing::info!(
            outcome = stop.outcome().as_str_name(),
            "stop: {}",
            stop.message
        );
        match stop.outcome() {
            Outcome::Finished => Ok(WorkerOutcome::Finished),
            Outcome::Stopped => Ok(WorkerOutcome::Stopped),
            Outcome::Removed if self.shutdown.is_cancelled() => Ok(WorkerOutcome::Removed),
            Outcome::Removed => Err(self.refused(stop.message.clone(), ErrorKind::Rejoin)),
            Outcome::Failed | Outcome::Unspecified => {
                Err(WorkerError::RunFailed(stop.message.clone()))
            }
        }
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
        let report = self.envelope(self.generation, failed);
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
        if let Some(running) = self.running.take() {
            running.abort.abort("the worker ends");
        }
        match std::mem::replace(&mut self.preparation, Preparation::Waiting) {
            Preparation::Done(prepared) => prepared.end().await,
            Preparation::Busy(task) => task.abort(),
            Preparation::Waiting => {}
        }
    }

    fn envelope(&self, generation: Generation, body: ReportBody) -> WorkerReport {
        WorkerReport {
            run_id: self.run_id.clone(),
            worker_id: self.options.worker_id.to_string(),
            term: self.term.0,
            generation: generation.0,
            body: Some(body),
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

/// What follows from a directive.
enum Next {
    Nothing,
    Heartbeat(Duration),
    End(Result<WorkerOutcome, WorkerError>),
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
