//! Token embeddings and the text encoder.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, module};
use ringmaster_proto::spec::ModelSpec;

use crate::attention::Mask;
use crate::init::Init;
use crate::layer::{Layer, LayerSize};
use crate::ops;

/// The token table that encoder, decoder and output share (Vaswani et al. 2017, section 3.4): rows
/// of about unit length as outputs, times `sqrt(D)` as inputs.
#[derive(Module, Debug)]
pub(crate) struct Embedding {
    table: Param<Tensor<2>>,
}

impl Embedding {
    pub(crate) fn new(init: &Init, vocab: usize, width: usize) -> Self {
        let deviation = (width as f64).sqrt().recip();
        Self {
            table: init.normal("table", [vocab, width], deviation),
        }
    }

    /// Ids `[B, T] -> [B, T, D]`.
    pub(crate) fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let table = self.table.val();
        let scale = (table.dims()[1] as f64).sqrt();
        module::embedding(table, ids).mul_scalar(scale)
    }

    /// Scores of every token: `[B, T, D] -> [B, T, V]`.
    pub(crate) fn logits(&self, x: Tensor<3>) -> Tensor<3> {
        ops::linear(x, self.table.val().transpose(), None)
    }
}

/// Learned positions, pre-norm transformer layers; padding is never seen.
#[derive(Module, Debug)]
pub(crate) struct TextEncoder {
    positions: Param<Tensor<2>>,
    layers: Vec<Layer>,
}

impl TextEncoder {
    pub(crate) fn new(init: &Init, spec: &ModelSpec, size: LayerSize) -> Self {
        let positions = [spec.text_len, size.width];
        Self {
            positions: init.normal("positions", positions, crate::POSITION_DEVIATION),
            layers: Layer::stack(init, "layers", spec.text_layers, size),
        }
    }

    /// `X_text`: embedded tokens `[B, L, D] -> [B, L, D]`, `L <= text_len`.
    pub(crate) fn forward(&self, tokens: Tensor<3>, mask: &Mask) -> Tensor<3> {
        let mut x = tokens.clone() + first(self.positions.val(), tokens.dims()[1]);
        for layer in &self.layers {
            x = layer.forward(x, Some(mask));
        }
        x
    }
}

/// The first `len` positions, `[1, len, D]`.
pub(crate) fn first(positions: Tensor<2>, len: usize) -> Tensor<3> {
    positions.narrow(0, 0, len).unsqueeze()
}
