//! The text decoder: causal, with cross-attention to the N memory tokens.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use ringmaster_proto::spec::ModelSpec;

use crate::attention::{Attention, Mask};
use crate::init::Init;
use crate::layer::{LayerSize, Mlp, residual_gain};
use crate::norm::LayerNorm;
use crate::text::first;

/// `x <- x + Phi(Ln x, Ln x); x <- x + Phi(Ln x, memory); x <- x + MLP(Ln x)`.
#[derive(Module, Debug)]
struct DecoderLayer {
    norm_self: LayerNorm,
    attention_self: Attention,
    norm_cross: LayerNorm,
    attention_cross: Attention,
    norm_mlp: LayerNorm,
    mlp: Mlp,
}

impl DecoderLayer {
    fn new(init: &Init, size: LayerSize, gain: f64) -> Self {
        let LayerSize {
            width,
            heads,
            hidden,
        } = size;
        Self {
            norm_self: LayerNorm::new(&init.at("norm_self"), width),
            attention_self: Attention::new(&init.at("attention_self"), width, heads, gain),
            norm_cross: LayerNorm::new(&init.at("norm_cross"), width),
            attention_cross: Attention::new(&init.at("attention_cross"), width, heads, gain),
            norm_mlp: LayerNorm::new(&init.at("norm_mlp"), width),
            mlp: Mlp::new(&init.at("mlp"), width, hidden, gain),
        }
    }

    fn forward(&self, x: Tensor<3>, memory: Tensor<3>, causal: &Mask) -> Tensor<3> {
        let a = self.norm_self.forward(x.clone());
        let x = x + self.attention_self.forward(a.clone(), a, Some(causal));
        let a = self.norm_cross.forward(x.clone());
        let x = x + self.attention_cross.forward(a, memory, None);
        x.clone() + self.mlp.forward(self.norm_mlp.forward(x))
    }
}

/// Learned positions, layers, a last norm. Embedding and output are the model's token table.
#[derive(Module, Debug)]
pub(crate) struct Decoder {
    positions: Param<Tensor<2>>,
    layers: Vec<DecoderLayer>,
    norm: LayerNorm,
}

impl Decoder {
    pub(crate) fn new(init: &Init, spec: &ModelSpec, size: LayerSize) -> Self {
        let gain = residual_gain(3 * spec.decoder_layers);
        let layer = |i| DecoderLayer::new(&init.item("layers", i), size, gain);
        let positions = [spec.target_len, size.width];
        Self {
            positions: init.normal("positions", positions, crate::POSITION_DEVIATION),
            layers: (0..spec.decoder_layers).map(layer).collect(),
            norm: LayerNorm::new(&init.at("norm"), size.width),
        }
    }

    /// Embedded tokens `[B, T, D]`, memory `[B, N, D]`, `-> [B, T, D]`; `T <= target_len`.
    pub(crate) fn forward(&self, tokens: Tensor<3>, memory: &Tensor<3>) -> Tensor<3> {
        let len = tokens.dims()[1];
        let causal = Mask::causal(len, &tokens.device());
        let mut x = tokens + first(self.positions.val(), len);
        for layer in &self.layers {
            x = layer.forward(x, memory.clone(), &causal);
        }
        self.norm.forward(x)
    }
}
