//! Token embeddings and the text encoder.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, module};
use ringmaster_proto::spec::{ModelSpec, TextStack};

use crate::attention::{Mask, RelativeBias};
use crate::init::Init;
use crate::layer::{Layer, LayerSpec};
use crate::norm::{Norm, NormKind};
use crate::ops::Ops;

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
        lookup(table, ids).mul_scalar(scale)
    }

    /// Scores of every token: `[B, T, D] -> [B, T, V]`.
    pub(crate) fn logits(&self, x: Tensor<3>, ops: &Ops) -> Tensor<3> {
        ops.logits(x, self.table.val())
    }
}

/// Rows `ids`, `[B, T]`, of a table `[V, D]`: `-> [B, T, D]`.
fn lookup(table: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    #[cfg(feature = "cuda")]
    if crate::cuda::is_cuda(&ids.device()) {
        return crate::cuda::embedding::lookup(table, ids);
    }
    module::embedding(table, ids)
}

/// Where a token stands, for a stack of layers.
#[derive(Module, Debug)]
pub(crate) enum Positions {
    /// Added to the tokens.
    Learned(LearnedPositions),
    /// Added to the attention scores.
    Relative(RelativeBias),
}

/// One vector per position, `[length, D]`.
#[derive(Module, Debug)]
pub(crate) struct LearnedPositions {
    positions: Param<Tensor<2>>,
}

impl Positions {
    /// Of a stack that sees at most `len` tokens, from both sides or only those before.
    pub(crate) fn new(init: &Init, spec: &ModelSpec, len: usize, two_sided: bool) -> Self {
        match spec.text_stack {
            TextStack::Plain => Self::Learned(LearnedPositions {
                positions: init.normal(
                    "positions",
                    [len, spec.text_width],
                    crate::POSITION_DEVIATION,
                ),
            }),
            TextStack::T5 => Self::Relative(RelativeBias::new(init, spec.text_heads, two_sided)),
        }
    }

    /// Tokens `[B, T, D]` that begin at position `first`.
    pub(crate) fn add_to(&self, tokens: Tensor<3>, first: usize) -> Tensor<3> {
        let len = tokens.dims()[1];
        match self {
            Self::Learned(LearnedPositions { positions }) => {
                tokens + positions.val().narrow(0, first, len).unsqueeze()
            }
            Self::Relative(_) => tokens,
        }
    }

    /// The mask of queries `first..first + queries` on keys `0..keys`, with what `mask` hides.
    pub(crate) fn mask(
        &self,
        [first, queries, keys]: [usize; 3],
        mask: Option<&Mask>,
    ) -> Option<Mask> {
        match self {
            Self::Learned(_) => mask.cloned(),
            Self::Relative(bias) => {
                let bias = bias.mask(first, queries, keys);
                Some(match mask {
                    Some(mask) => bias.and(mask),
                    None => bias,
                })
            }
        }
    }
}

/// Positions, pre-norm layers, in a T5 stack a last norm; padding is never seen.
#[derive(Module, Debug)]
pub(crate) struct TextEncoder {
    positions: Positions,
    layers: Vec<Layer>,
    norm: Option<Norm>,
}

impl TextEncoder {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let layer = LayerSpec::text(spec);
        let last = layer.norm == NormKind::Rms;
        Self {
            positions: Positions::new(&init.at("positions"), spec, spec.text_len, true),
            layers: Layer::stack(init, "layers", spec.text_layers, layer),
            norm: last.then(|| Norm::new(&init.at("norm"), layer.norm, layer.width)),
        }
    }

    /// `X_text`: embedded tokens `[B, L, D] -> [B, L, D]`, `L <= text_len`.
    pub(crate) fn forward(&self, tokens: Tensor<3>, mask: &Mask, ops: &Ops) -> Tensor<3> {
        let len = tokens.dims()[1];
        let mask = self.positions.mask([0, len, len], Some(mask));
        let start = ops.dropout(self.positions.add_to(tokens, 0));
        let layers = self.layers.iter();
        let x = layers.fold(start, |x, layer| layer.forward(x, mask.as_ref(), ops));
        match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }
}
