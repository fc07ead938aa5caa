//! The adaptive fusion model of "Joint Adaptive Representations for Image-Language Learning"
//! (arXiv 2305.19924) in burn: modules that read like the paper's equations.
//!
//! Nothing here draws from burn's random numbers, and nothing depends on the number of threads: a
//! forward-backward is a function of parameters and batch, bit for bit, on one kind of machine.

mod attention;
mod decoder;
pub mod flat;
mod flops;
mod fusion;
mod generate;
mod image;
mod init;
mod layer;
mod linear;
mod loss;
mod model;
mod norm;
mod ops;
mod resample;
#[cfg(test)]
mod tests;
mod text;

pub use flops::{Macs, forward_macs};
pub use model::{Batch, Model};

/// Standard deviation of the initial positions.
const POSITION_DEVIATION: f64 = 0.3;
