//! Admin HTTP: health, metrics and status for machines and people. Read only, no token: it tells
//! nothing that changes a run.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use ringmaster_proto::v1::{RunStatus, WorkerStatus};
use serde::Serialize;

use crate::handle::CoordinatorHandle;
use crate::metrics::Metrics;

#[derive(Clone)]
struct Admin {
    handle: CoordinatorHandle,
    metrics: Metrics,
}

/// `/healthz` (the process lives), `/readyz` (the run's owner answers), `/metrics`, `/status`.
pub(crate) fn router(handle: CoordinatorHandle, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .route("/status", get(status))
        .with_state(Admin { handle, metrics })
}

async fn ready(State(admin): State<Admin>) -> Response {
    match admin.handle.status().await {
        Ok(_) => "ready\n".into_response(),
        Err(gone) => (StatusCode::SERVICE_UNAVAILABLE, format!("{gone}\n")).into_response(),
    }
}

async fn metrics_text(State(admin): State<Admin>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], admin.metrics.text()).into_response()
}

async fn status(State(admin): State<Admin>) -> Response {
    match admin.handle.status().await {
        Ok(status) => Json(StatusView::from(&status)).into_response(),
        Err(gone) => (StatusCode::SERVICE_UNAVAILABLE, format!("{gone}\n")).into_response(),
    }
}

/// A run's status as JSON: what `/status` and `ringmaster status --output json` print.
#[derive(Debug, Serialize)]
pub struct StatusView<'a> {
    run: &'a str,
    phase: &'a str,
    reason: &'a str,
    term: u64,
    generation: u64,
    step: u64,
    total_steps: u64,
    loss: Option<f64>,
    digest: &'a str,
    checkpoint_step: u64,
    reduction: &'a str,
    redo_is_exact: bool,
    admin_address: &'a str,
    error_kind: &'a str,
    workers: Vec<WorkerView<'a>>,
}

#[derive(Debug, Serialize)]
struct WorkerView<'a> {
    worker: &'a str,
    state: &'a str,
    rank: Option<u32>,
    host: &'a str,
    pid: u32,
    step: u64,
    /// First and one past the last.
    lanes: Option<[u32; 2]>,
}

impl<'a> From<&'a RunStatus> for StatusView<'a> {
    fn from(status: &'a RunStatus) -> Self {
        Self {
            run: &status.run_id,
            phase: &status.phase,
            reason: &status.reason,
            term: status.term,
            generation: status.generation,
            step: status.step,
            total_steps: status.total_steps,
            loss: (status.step > 0 && status.loss.is_finite()).then_some(status.loss),
            digest: &status.digest,
            checkpoint_step: status.checkpoint_step,
            reduction: &status.reduction,
            redo_is_exact: status.redo_is_exact,
            admin_address: &status.admin_address,
            error_kind: &status.error_kind,
            workers: status.workers.iter().map(WorkerView::from).collect(),
        }
    }
}

impl<'a> From<&'a WorkerStatus> for WorkerView<'a> {
    fn from(worker: &'a WorkerStatus) -> Self {
        Self {
            worker: &worker.worker_id,
            state: &worker.state,
            rank: u32::try_from(worker.rank).ok(),
            host: &worker.host,
            pid: worker.pid,
            step: worker.step,
            lanes: worker.lanes.as_slice().try_into().ok(),
        }
    }
}
