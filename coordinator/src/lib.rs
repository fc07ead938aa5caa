//! The control plane of a run: who is in it, where it continues, when it is over.
//!
//! [`run`] decides and is pure; `actor.rs` owns the one machine and carries out its effects;
//! `journal` keeps what was decided, written at the `desk.rs` by `writer.rs` alone; `takeover.rs` is how a
//! coordinator comes into office; `service.rs` speaks gRPC and `admin.rs` HTTP. The coordinator
//! never touches a tensor and is on the path of no step.

mod actor;
mod admin;
mod desk;
mod error;
mod handle;
mod journal;
mod json_lines;
mod ledger;
pub mod metrics;
mod metrics_log;
mod quarantine_log;
pub mod record;
mod records;
mod resume_from;
pub mod run;
mod scrub;
mod server;
#[cfg(test)]
mod server_tests;
mod service;
mod takeover;
mod validate;
mod writer;

pub use admin::StatusView;
pub use desk::{Desk, Write, Written};
pub use error::CoordinatorError;
pub use journal::{
    JournalError, RunHistory, StoredCheckpoints, checkpoints, history, replay, stored_checkpoints,
};
pub use ledger::{LedgerLine, Owners};
pub use metrics_log::{ObjectiveLine, StepLine};
pub use quarantine_log::QuarantineLine;
pub use record::CorpusFacts;
pub use records::{LEDGER, QUARANTINE};
pub use run::Timing;
pub use server::{Options, Outcome, Port, serve};
pub use takeover::take_over;
