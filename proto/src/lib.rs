//! The contract every part of Ringmaster shares: the run spec, the wire messages, identifiers,
//! error kinds, the keys of the store, and the one way to dial.
//!
//! This crate decides nothing about a run; it only says what may be said.

pub mod auth;
pub mod checkpoint;
pub mod dial;
pub mod error;
pub mod ids;
pub mod keys;
pub mod spec;
pub mod vocab;

pub use error::ErrorKind;
pub use ids::{Generation, Lane, Rank, Step, Term, WorkerId, WorldSize};
pub use spec::RunSpec;

/// Generated messages and services of `ringmaster.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("ringmaster.v1");
}

/// Version of the worker-coordinator protocol; a coordinator refuses any other.
pub const PROTOCOL_VERSION: u32 = 2;
