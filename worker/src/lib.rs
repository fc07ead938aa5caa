//! One rank of a run.
//!
//! The [agent](agent) owns the control stream and obeys the coordinator; the [session](session) is
//! the trainer thread that owns model, state and ring; the [step](trainer) itself is one function in
//! `trainer.rs`. [`optimizer::State`] is all a run carries from step to step.

mod agent;
mod batch;
mod cadence;
pub mod checkpoint;
mod device;
mod doing;
mod draw;
mod engine;
mod error;
mod evaluate;
pub mod export;
mod feeder;
mod fingerprint;
pub mod init;
mod objective;
pub mod optimizer;
mod outbox;
mod parameters;
mod preparation;
mod prepare;
mod quarantine;
mod recovery;
mod sample;
pub mod sampling;
mod saver;
mod session;
mod statistics;
pub mod step_bench;
mod tax;
mod trainer;

use std::net::IpAddr;
use std::sync::Arc;

use ringmaster_proto::WorkerId;
use ringmaster_proto::auth::RunToken;
use tokio_util::sync::CancellationToken;

pub use device::DeviceChoice;
pub use error::WorkerError;
pub use evaluate::{
    Bench, Evaluation, Metric, ObjectiveLoss, Reference, Scores, TemplateScore, Verdict, evaluate,
    score,
};
pub use tax::{Tax, TaxSeconds};

/// What a worker is started with; everything else comes from the coordinator.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// `host:port` of the coordinator; resolved anew at every attempt.
    pub coordinator: String,
    /// The run's token.
    pub token: RunToken,
    /// This worker's name.
    pub worker_id: WorkerId,
    /// Address the ring port is bound to and announced with; never a wildcard.
    pub ring_bind: IpAddr,
    /// What to compute on.
    pub device: DeviceChoice,
    /// Where it is counted what it does besides training.
    pub tax: Arc<Tax>,
}

/// How a worker's part in a run ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerOutcome {
    /// The run took its last step.
    Finished,
    /// The run was stopped and can be resumed.
    Stopped,
    /// This worker left a run that goes on.
    Removed,
}

/// Serves one run as a worker until it ends or lets this worker go. Cancelling `shutdown` drains:
/// the step in progress is finished, and a checkpoint is written if nobody is left.
pub async fn run(
    options: WorkerOptions,
    shutdown: CancellationToken,
) -> Result<WorkerOutcome, WorkerError> {
    let tax = Arc::clone(&options.tax);
    tax.agent(agent::Agent::new(options, shutdown).run()).await
}
