//! Eq. 1 and 2: any number of tokens becomes N.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::attention::{Attention, Mask};
use crate::init::Init;
use crate::linear::Linear;
use crate::norm::LayerNorm;

/// Eq. 1: `P(X_im) = W1 X_im`, then positions, for the keys of eq. 2 have no order of their own.
#[derive(Module, Debug)]
pub(crate) struct Projection {
    weight: Linear,
    positions: Param<Tensor<2>>,
}

impl Projection {
    /// From `channels` to `width` for `tokens` visual tokens.
    pub(crate) fn new(init: &Init, channels: usize, tokens: usize, width: usize) -> Self {
        Self {
            weight: Linear::with_bias(&init.at("weight"), channels, width),
            positions: init.normal("positions", [tokens, width], crate::POSITION_DEVIATION),
        }
    }

    /// `[B, M, C] -> [B, M, D]`.
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.weight.forward(x) + self.positions.val().unsqueeze()
    }
}

/// Standard deviation of the initial latents. Large enough that each attends to tokens of its own from
/// the first step: with small ones all scores are about 0, every latent is the mean of all tokens,
/// and training has to break that symmetry before it can learn anything else.
const LATENT_DEVIATION: f64 = 3.0;

/// Eq. 2: `W2 Phi(X_N, Ln(x))` with learned latents `X_N`.
#[derive(Module, Debug)]
pub(crate) struct Resampler {
    latents: Param<Tensor<2>>,
    norm: LayerNorm,
    attention: Attention,
    output: Linear,
}

impl Resampler {
    pub(crate) fn new(init: &Init, tokens: usize, width: usize, heads: usize) -> Self {
        Self {
            latents: init.normal("latents", [tokens, width], LATENT_DEVIATION),
            norm: LayerNorm::new(&init.at("norm"), width),
            attention: Attention::new(&init.at("attention"), width, heads, 1.0),
            output: Linear::new(&init.at("output"), width, width, 1.0),
        }
    }

    /// `[B, T, D] -> [B, N, D]`.
    pub(crate) fn forward(&self, x: Tensor<3>, mask: Option<&Mask>) -> Tensor<3> {
        let latents = self.latents.val().unsqueeze();
        self.output
            .forward(self.attention.forward(latents, self.norm.forward(x), mask))
    }
}
