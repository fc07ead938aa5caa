//! Whole runs over the real gRPC services, in virtual time (turmoil)
//!
//! What the rest of the simulation hands over as values goes through the coordinator's real server, tonic,
//! HTTP/2 and a network of hosts here.
//!
//! Real are [`ringmaster_coordinator::serve`] with everything behind it, the settings of
//! [`ringmaster_proto::dial`], and the worker's agent. Modelled are the worker's side of the stream
//! ([`worker`], as `worker/src/agent.rs` has it), what it computes ([`trainer`]), and the ring ([`ring`]).
//! Hosts share nothing else but the store and the folder of the run's records.
//!
//! Everything is drawn from one seed, and one thread runs every host, so a seed is a run. Only the order in
//! which a server that ends wakes its connections is not: tokio seeds its own choices with
//! `tokio_unstable` alone.

mod faults;
mod hosts;
mod net;
mod office;
mod ring;
mod trainer;
mod worker;

pub use hosts::{Served, simulate};
