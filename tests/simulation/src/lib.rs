//! Whole runs in virtual time. The decisions are the real ones: the coordinator's machine, journal and
//! taking of office ([`ringmaster_coordinator`]), and the worker's agent ([`ringmaster_agent`]).
//! Network, store, clock, training and everything that goes wrong are made up from one seed, so a run
//! that fails fails again with its number.
//!
//! - [`world`] is the loop: one event after the other, in the order of their times.
//! - [`office`] is a coordinator's process, [`process`] a worker's, [`trainer`] what it computes.
//! - [`ring`] models one generation's all-reduce: every rank contributes, and each completes a step
//!   for itself, or not.
//! - [`network`] carries reports and directives, in order per stream, late, or not at all.
//! - [`checkpoint`] is what workers save, in a few bytes.
//! - [`faults`] draws what goes wrong.
//! - [`services`] does without some of this: the coordinator's real server, over a simulated network.
//! - [`oracle`] knows what an undisturbed run comes to, and objects.
//!
//! A [`Sabotage`] takes one of the promises away that all of this rests on; the oracle must notice.

mod checkpoint;
mod faults;
mod network;
mod office;
mod oracle;
mod process;
mod random;
mod ring;
pub mod services;
mod store;
mod trainer;
mod world;

#[cfg(test)]
mod tests;

pub use oracle::Violation;
pub use world::{Summary, simulate};

/// A promise that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A worker that answered a fence completes the step it was in.
    AppliesAfterFence,
    /// A worker neither shows nor compares terms: it obeys coordinators that were replaced.
    ObeysAnyTerm,
    /// Nobody compares what the ranks hold.
    HidesDigests,
    /// The store lets a second create through.
    CreateOverwrites,
}

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything that is drawn.
    pub seed: u64,
    /// What is broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// Print every event.
    pub trace: bool,
}
