//! The control plane of a run: who is in it, where it continues, when it is over.
//!
//! [`run`] decides and is pure; `actor.rs` owns the one machine and carries out its effects;
//! `journal.rs` keeps what was decided; `service.rs` speaks gRPC and `admin.rs` HTTP. The coordinator
//! never touches a tensor and is on the path of no step.

mod metrics_log;
pub mod record;
pub mod run;

pub use metrics_log::StepLine;
