//! From Parquet in object storage to batches of decoded examples.
//!
//! What rows come in which order is a pure function ([`plan`], [`assign`]); the rest fetches and
//! decodes what the plan names. This crate never knows about ranks' addresses, and never moves data
//! that it has read once: Parquet stays where it is.
//!
//! Codecs and tokenizers are behind the feature `read`; without it the crate is what a process
//! needs that decides but does not read rows.

pub mod assign;
mod permutation;
pub mod plan;
pub mod store;

pub use assign::{efficiency, lanes_of_rank};
pub use plan::{Plan, PlanError, PlanSpec, RowRef};
pub use store::{Entry, Store, StoreError};
