//! One coordinator, from bound ports to the end of its run.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use axum::serve::Listener;
use futures::{Stream, stream};
use ringmaster_dataset::Store;
use ringmaster_proto::auth::{RequireToken, RunToken};
use ringmaster_proto::dial::{KEEPALIVE, MESSAGE_BYTES_MAX};
use ringmaster_proto::v1::coordinator_service_server::CoordinatorServiceServer;
use ringmaster_proto::v1::run_service_server::RunServiceServer;
use ringmaster_proto::{RunSpec, Step};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tracing::Instrument;

use crate::actor::{Actor, QUEUE_MAX, WRITES_MAX};
use crate::admin::router;
use crate::error::CoordinatorError;
use crate::handle::CoordinatorHandle;
use crate::metrics::Metrics;
use crate::record::CorpusFacts;
use crate::records::Records;
use crate::run::{Config, End, RunMachine, Timing};
use crate::scrub;
use crate::service::Service;
use crate::takeover::take_over;
use crate::writer::Writer;

/// Calls at once on one connection: one worker attends with one, a person asks with few.
const CALLS_PER_CONNECTION_MAX: usize = 64;

/// How long open calls and pending writes may take once the run is over.
const FAREWELL_MAX: Duration = Duration::from_secs(10);

/// What a coordinator needs to serve one run.
#[derive(Clone, Debug)]
pub struct Options {
    /// What was asked for.
    pub spec: RunSpec,
    /// The run's root in the store.
    pub root: Store,
    /// What was prepared.
    pub corpus: CorpusFacts,
    /// What every caller must show.
    pub token: RunToken,
    /// `metrics.jsonl`, one line per step; the ledger and the list of refused rows lie beside it. None:
    /// nothing is written.
    pub metrics_file: Option<PathBuf>,
    /// Where the admin HTTP can be reached, for `status`.
    pub admin_address: String,
    /// Whether workers of an earlier coordinator may still train; if none can, none are waited for.
    pub adopt: bool,
    /// Deadlines; [`Timing::default`] outside tests.
    pub timing: Timing,
}

/// How a run ended that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its last step is done and saved.
    Finished {
        /// The last step.
        step: Step,
        /// Digest of the final state.
        digest: String,
    },
    /// It was stopped and can be resumed.
    Stopped {
        /// Where.
        step: Step,
        /// Digest of the saved state; empty if no step was done.
        digest: String,
    },
}

/// Where callers come in: a bound port, or one that a test makes up.
pub trait Port: Listener<Io: Connected, Addr: Debug> {}

impl<L: Listener<Io: Connected, Addr: Debug>> Port for L {}

/// Serves one run until it is over. `shutdown` stops it at a step boundary, with a checkpoint.
///
/// # Errors
/// [`CoordinatorError`]: the run cannot be taken over, was taken over by another coordinator, or
/// failed. Its journal and checkpoints stay as they are.
pub async fn serve(
    grpc: impl Port,
    admin: impl Port,
    options: Options,
    shutdown: CancellationToken,
) -> Result<Outcome, CoordinatorError> {
    let span = tracing::info_span!("coordinator", run = %options.spec.run.name);
    serve_run(grpc, admin, options, shutdown)
        .instrument(span)
        .await
}

async fn serve_run(
    grpc: impl Port,
    admin: impl Port,
    options: Options,
    shutdown: CancellationToken,
) -> Result<Outcome, CoordinatorError> {
    let Options {
        spec,
        root,
        corpus,
        token,
        metrics_file,
        admin_address,
        adopt,
        timing,
    } = options;
    root.probe().await?;
    let (desk, mut recovered) = take_over(&spec, &corpus, &root, adopt).await?;
    let open = |path: PathBuf| Records::open(&path, &recovered.lineage);
    let records = metrics_file.map(open).transpose()?;
    recovered.logged = records.as_ref().map_or(Step(0), Records::last);
    let run = spec.run.name.clone();
    let workers = spec.membership.min_workers..=spec.data.lanes;
    let metrics = Metrics::new(&run);
    let root_url = root.url();
    let config = Config {
        spec,
        corpus,
        root_url,
        admin_address,
        timing,
    };
    let machine = RunMachine::new(config, recovered);

    let (owner, queue) = mpsc::channel(QUEUE_MAX);
    let (writes, asked) = mpsc::channel(WRITES_MAX);
    let handle = CoordinatorHandle::new(owner.clone());
    let looking = Duration::from_millis(timing.scrub_ms);
    let scrub = tokio::spawn(scrub::run(root, owner.clone(), looking).in_current_span());
    let writer = Writer {
        desk,
        metrics: metrics.clone(),
        owner,
    };
    let writer = tokio::spawn(writer.run(asked).in_current_span());
    let actor = Actor::new(machine, writes, metrics.clone(), records);

    let ended = CancellationToken::new();
    let tasks = TaskTracker::new();
    let service = Service::new((run, workers), handle.clone(), tasks.clone(), ended.clone());
    let mut grpc = spawn("gRPC", serve_grpc(grpc, service, token, ended.clone()));
    let mut admin = spawn("admin", serve_admin(admin, handle, metrics, ended.clone()));

    let end = tokio::select! {
        biased;
        end = actor.run(queue, shutdown) => end,
        failed = &mut grpc => Err(server_ended("gRPC", failed)),
        failed = &mut admin => Err(server_ended("admin", failed)),
    };
    ended.cancel();
    scrub.abort();
    farewell([grpc, admin, writer], tasks).await;
    match end? {
        End::Finished(state) => Ok(Outcome::Finished {
            step: state.step,
            digest: state.digest,
        }),
        End::Stopped(state) => Ok(Outcome::Stopped {
            step: state.step,
            digest: state.digest,
        }),
        End::Failed { kind, message } => Err(CoordinatorError::Failed { kind, message }),
    }
}

/// Lets open calls and pending writes end, for a while.
async fn farewell(servers: [JoinHandle<()>; 3], tasks: TaskTracker) {
    tasks.close();
    for mut server in servers {
        let ended = server.is_finished()
            || tokio::time::timeout(FAREWELL_MAX, &mut server)
                .await
                .is_ok();
        if !ended {
            server.abort();
        }
    }
    if tokio::time::timeout(FAREWELL_MAX, tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!("some streams did not end in time");
    }
}

/// A server's errors are logged where they happen; that it ended at all is for `serve` to judge.
fn spawn<E: std::fmt::Display + Send>(
    what: &'static str,
    server: impl Future<Output = Result<(), E>> + Send + 'static,
) -> JoinHandle<()> {
    let logged = async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the {what} server failed");
        }
    };
    tokio::spawn(logged.in_current_span())
}

fn server_ended(what: &'static str, ended: Result<(), tokio::task::JoinError>) -> CoordinatorError {
    let reason = match ended {
        Ok(()) => "it ended before the run".to_owned(),
        Err(error) => error.to_string(),
    };
    CoordinatorError::Server { what, reason }
}

async fn serve_grpc(
    listener: impl Port,
    service: Service,
    token: RunToken,
    ended: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let require = RequireToken::new(token);
    let coordinator = CoordinatorServiceServer::new(service.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let run = RunServiceServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .max_concurrent_streams(u32::try_from(CALLS_PER_CONNECTION_MAX).ok())
        .add_service(InterceptedService::new(coordinator, require.clone()))
        .add_service(InterceptedService::new(run, require))
        .serve_with_incoming_shutdown(callers(listener), ended.cancelled_owned())
        .await
}

/// Every connection that comes in.
fn callers<L: Port>(listener: L) -> impl Stream<Item = Result<L::Io, Infallible>> {
    stream::unfold(listener, |mut listener| async {
        let (caller, _) = listener.accept().await;
        Some((Ok(caller), listener))
    })
}

async fn serve_admin(
    listener: impl Port,
    handle: CoordinatorHandle,
    metrics: Metrics,
    ended: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, router(handle, metrics))
        .with_graceful_shutdown(ended.cancelled_owned())
        .await
}
