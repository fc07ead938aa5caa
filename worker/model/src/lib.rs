//! The adaptive fusion model of "Joint Adaptive Representations for Image-Language Learning"
//! (arXiv 2305.19924) in burn: modules that read like the paper's equations.
//!
//! Nothing here draws from burn's random numbers, and nothing depends on the number of threads: a
//! forward-backward is a function of parameters and batch, bit for bit, on one kind of machine.

mod attention;
mod cost;
#[cfg(feature = "cuda")]
pub mod cuda;
mod decoder;
mod dropout;
pub mod flat;
mod fusion;
mod generate;
mod image;
mod init;
mod layer;
mod linear;
mod loss;
mod meter;
mod model;
mod norm;
mod ops;
mod resample;
mod segment;
#[cfg(test)]
mod tests;
mod text;
mod token_learner;

pub use cost::{Cost, Part, cost};
pub use model::{Batch, Model};
pub use ops::{NoiseKey, Ops};

/// Standard deviation of the initial positions.
const POSITION_DEVIATION: f64 = 0.3;
