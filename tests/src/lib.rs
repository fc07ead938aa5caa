//! What the whole-system tests share: an S3 server, a run of real processes, and what a run leaves.
//!
//! The oracle of most tests is the same run, undisturbed, on one worker: bits are compared, never
//! tolerances. Nothing here sleeps; waiting is for an event, with a deadline that only a hang meets.
// Every line of this crate runs in a test: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod gate;
pub mod hosts;
mod leftovers;
pub mod namespace;
pub mod photographs;
pub mod process;
pub mod s3;
pub mod sandbox;
pub mod watch;
