//! Eq. 1 and 2: any number of tokens becomes N.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use ringmaster_proto::spec::ModelSpec;

use crate::attention::{Attention, Mask};
use crate::init::Init;
use crate::layer::LayerSpec;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::ops::Ops;

/// Eq. 1: `P(X_im) = W1 X_im`, then positions, for the keys of eq. 2 have no order of their own; and
/// the same for a text encoder of another width than fusion.
#[derive(Module, Debug)]
pub(crate) struct Projection {
    image: Linear,
    positions: Param<Tensor<2>>,
    text: Option<Linear>,
}

impl Projection {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let width = spec.width;
        let tokens = spec.visual_side() * spec.visual_side();
        let linear = |name, inputs| {
            let init = init.at(name);
            Linear::new(&init, inputs, width, 1.0).biased(&init)
        };
        Self {
            image: linear("image", spec.visual_width()),
            positions: init.normal("positions", [tokens, width], crate::POSITION_DEVIATION),
            text: (spec.text_width != width).then(|| linear("text", spec.text_width)),
        }
    }

    /// `[B, M, C] -> [B, M, D]`.
    pub(crate) fn image(&self, x: Tensor<3>, ops: &Ops) -> Tensor<3> {
        ops.add_table(self.image.forward(x, ops), self.positions.val())
    }

    /// `[B, L, text width] -> [B, L, D]`.
    pub(crate) fn text(&self, x: Tensor<3>, ops: &Ops) -> Tensor<3> {
        match &self.text {
            Some(linear) => linear.forward(x, ops),
            None => x,
        }
    }
}

/// Standard deviation of the initial latents. Large enough that each attends to tokens of its own from
/// the first step: with small ones all scores are about 0, every latent is the mean of all tokens,
/// and training has to break that symmetry before it can learn anything else.
const LATENT_DEVIATION: f64 = 3.0;

/// `tokens` learned latents.
pub(crate) fn latents(init: &Init, tokens: usize, width: usize) -> Param<Tensor<2>> {
    init.normal("latents", [tokens, width], LATENT_DEVIATION)
}

/// Eq. 2: `W2 Phi(X_N, Ln(x))` with learned latents `X_N`; the norm can be left out.
#[derive(Module, Debug)]
pub(crate) struct Resampler {
    latents: Param<Tensor<2>>,
    norm: Option<Norm>,
    attention: Attention,
    output: Linear,
}

impl Resampler {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let width = spec.width;
        let attention = LayerSpec::fusion(spec).attention();
        Self {
            latents: latents(init, spec.tokens, width),
            norm: spec.kv_norm.then(|| Norm::layer(&init.at("norm"), width)),
            attention: Attention::new(&init.at("attention"), attention, 1.0),
            output: Linear::new(&init.at("output"), width, width, 1.0),
        }
    }

    /// `[B, T, D] -> [B, N, D]`.
    pub(crate) fn forward(&self, x: Tensor<3>, mask: Option<&Mask>, ops: &Ops) -> Tensor<3> {
        let latents = self.latents.val().unsqueeze();
        let seen = match &self.norm {
            Some(norm) => norm.forward_half(x, ops),
            None => x,
        };
        self.output
            .forward(self.attention.forward(latents, seen, mask, ops), ops)
    }
}
