//! Pre-norm transformer layers.

use burn::module::Module;
use burn::tensor::{Tensor, activation::relu};

use crate::attention::{Attention, Mask};
use crate::init::Init;
use crate::linear::Linear;
use crate::norm::LayerNorm;

/// Initial scale of a branch's last map, so that a stack of `branches` residual branches starts with
/// about the variance of its input (GPT-2).
pub(crate) fn residual_gain(branches: usize) -> f64 {
    (branches.max(1) as f64).sqrt().recip()
}

/// `relu(x W_in) W_out`.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    input: Linear,
    output: Linear,
}

impl Mlp {
    pub(crate) fn new(init: &Init, width: usize, hidden: usize, output_gain: f64) -> Self {
        Self {
            input: Linear::new(&init.at("input"), width, hidden, 1.0),
            output: Linear::new(&init.at("output"), hidden, width, output_gain),
        }
    }

    /// `[B, T, D] -> [B, T, D]`.
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.output.forward(relu(self.input.forward(x)))
    }
}

/// Sizes that every layer of a stack shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerSize {
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) hidden: usize,
}

/// `x <- x + Phi(Ln x, Ln x); x <- x + MLP(Ln x)`.
#[derive(Module, Debug)]
pub(crate) struct Layer {
    norm_attention: LayerNorm,
    attention: Attention,
    norm_mlp: LayerNorm,
    mlp: Mlp,
}

impl Layer {
    pub(crate) fn new(init: &Init, size: LayerSize, gain: f64) -> Self {
        let LayerSize {
            width,
            heads,
            hidden,
        } = size;
        Self {
            norm_attention: LayerNorm::new(&init.at("norm_attention"), width),
            attention: Attention::new(&init.at("attention"), width, heads, gain),
            norm_mlp: LayerNorm::new(&init.at("norm_mlp"), width),
            mlp: Mlp::new(&init.at("mlp"), width, hidden, gain),
        }
    }

    /// `count` layers held by the field `name`.
    pub(crate) fn stack(init: &Init, name: &str, count: usize, size: LayerSize) -> Vec<Self> {
        let gain = residual_gain(2 * count);
        (0..count)
            .map(|i| Self::new(&init.item(name, i), size, gain))
            .collect()
    }

    /// `[B, T, D] -> [B, T, D]`.
    pub(crate) fn forward(&self, x: Tensor<3>, mask: Option<&Mask>) -> Tensor<3> {
        let a = self.norm_attention.forward(x.clone());
        let x = x + self.attention.forward(a.clone(), a, mask);
        x.clone() + self.mlp.forward(self.norm_mlp.forward(x))
    }
}
