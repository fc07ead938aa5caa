//! The text decoder: causal, with cross-attention to the memory.

use burn::module::Module;
use burn::tensor::Tensor;
use ringmaster_proto::spec::ModelSpec;

use crate::attention::{KeysValues, Mask};
use crate::fusion::Memory;
use crate::init::Init;
use crate::layer::{CrossLayer, LayerSpec};
use crate::norm::Norm;
use crate::ops::Ops;
use crate::text::Positions;

/// Positions, layers, a last norm. Embedding and output are the model's token table.
#[derive(Module, Debug)]
pub(crate) struct Decoder {
    positions: Positions,
    layers: Vec<CrossLayer>,
    norm: Norm,
}

/// Keys and values of the tokens decoded so far and of the memory, for every layer.
pub(crate) struct Cache {
    len: usize,
    own: Vec<Option<KeysValues>>,
    memory: Vec<KeysValues>,
    memory_mask: Option<Mask>,
}

impl Decoder {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let layer = LayerSpec::text(spec);
        Self {
            positions: Positions::new(&init.at("positions"), spec, spec.target_len, false),
            layers: CrossLayer::stack(init, spec.decoder_layers, layer, spec.width),
            norm: Norm::new(&init.at("norm"), layer.norm, layer.width),
        }
    }

    /// Embedded tokens `[B, T, D]`, `-> [B, T, D]`; `T <= target_len`.
    pub(crate) fn forward(&self, tokens: Tensor<3>, memory: &Memory, ops: &Ops) -> Tensor<3> {
        let len = tokens.dims()[1];
        let causal = Mask::causal(len, &tokens.device());
        let mask = self.positions.mask([0, len, len], Some(&causal));
        let mut x = ops.dropout(self.positions.add_to(tokens, 0));
        for layer in &self.layers {
            let own = layer.own(x.clone(), ops);
            let seen = layer.memory(memory.tokens.clone(), ops);
            x = layer.forward(x, (own, mask.as_ref()), (seen, memory.mask.as_ref()), ops);
        }
        self.norm.forward_half(x, ops)
    }

    /// What decoding token by token begins with.
    pub(crate) fn start(&self, memory: Memory, ops: &Ops) -> Cache {
        let seen = |layer: &CrossLayer| layer.memory(memory.tokens.clone(), ops);
        Cache {
            len: 0,
            own: vec![None; self.layers.len()],
            memory: self.layers.iter().map(seen).collect(),
            memory_mask: memory.mask,
        }
    }

    /// One more embedded token per example, `[B, 1, D] -> [B, 1, D]`: the last row of what
    /// [`Self::forward`] makes of all tokens so far.
    pub(crate) fn next(&self, token: Tensor<3>, cache: &mut Cache, ops: &Ops) -> Tensor<3> {
        let len = cache.len + 1;
        let mask = self.positions.mask([cache.len, 1, len], None);
        let mut x = self.positions.add_to(token, cache.len);
        for (i, layer) in self.layers.iter().enumerate() {
            let new = layer.own(x.clone(), ops);
            let own = match cache.own[i].take() {
                Some(earlier) => earlier.followed_by(new),
                None => new,
            };
            cache.own[i] = Some(own.clone());
            let memory = (cache.memory[i].clone(), cache.memory_mask.as_ref());
            x = layer.forward(x, (own, mask.as_ref()), memory, ops);
        }
        cache.len = len;
        self.norm.forward_half(x, ops)
    }
}
