//! `Phi(q, kv)`: multi-head attention.

use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor, TensorData, activation::softmax};

use crate::init::Init;
use crate::linear::Linear;
use crate::ops;

/// Added to the score of what must not be seen: far below any score, and finite, so that a row in
/// which nothing may be seen is uniform rather than not a number.
const HIDDEN: f32 = -1e9;

/// `Phi(q, kv) = softmax(Q K^T / sqrt(d) + mask) V W_o` per head, with `Q = q W_q`, `K = kv W_k`,
/// `V = kv W_v`.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
}

impl Attention {
    /// `output_gain` scales the initial output map (see [`crate::layer::residual_gain`]).
    pub(crate) fn new(init: &Init, width: usize, heads: usize, output_gain: f64) -> Self {
        Self {
            query: Linear::new(&init.at("query"), width, width, 1.0),
            key: Linear::new(&init.at("key"), width, width, 1.0),
            value: Linear::new(&init.at("value"), width, width, 1.0),
            output: Linear::new(&init.at("output"), width, width, output_gain),
            heads,
        }
    }

    /// `q` is `[B or 1, Q, D]`, `kv` is `[B, K, D]`, the mask `[B or 1, 1, Q or 1, K]`;
    /// `-> [B, Q, D]`.
    pub(crate) fn forward(&self, q: Tensor<3>, kv: Tensor<3>, mask: Option<&Mask>) -> Tensor<3> {
        let width = q.dims()[2];
        let scale = ((width / self.heads) as f64).sqrt().recip();
        let query = self.split(self.query.forward(q).mul_scalar(scale));
        let key = self.split(self.key.forward(kv.clone()));
        let value = self.split(self.value.forward(kv));
        let mut scores = ops::matmul(query, key.swap_dims(2, 3));
        if let Some(Mask(hidden)) = mask {
            scores = scores + hidden.clone();
        }
        let seen = ops::matmul(softmax(scores, 3), value).swap_dims(1, 2);
        let [batch, queries, ..] = seen.dims();
        self.output.forward(seen.reshape([batch, queries, width]))
    }

    /// `[B, T, D] -> [B, heads, T, D / heads]`.
    fn split(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch, tokens, width] = x.dims();
        x.reshape([batch, tokens, self.heads, width / self.heads])
            .swap_dims(1, 2)
    }
}

/// What is added to attention scores: 0 where a key may be seen.
#[derive(Clone, Debug)]
pub(crate) struct Mask(Tensor<4>);

impl Mask {
    /// Keys that are real tokens may be seen; `real` is `[B, K]`.
    pub(crate) fn of_keys(real: Tensor<2, Bool>) -> Self {
        let [batch, keys] = real.dims();
        Self(
            real.bool_not()
                .float()
                .mul_scalar(HIDDEN)
                .reshape([batch, 1, 1, keys]),
        )
    }

    /// Position t sees positions 0 to t.
    pub(crate) fn causal(tokens: usize, device: &Device) -> Self {
        let hidden = |i: usize| if i % tokens > i / tokens { HIDDEN } else { 0.0 };
        let values: Vec<f32> = (0..tokens * tokens).map(hidden).collect();
        let data = TensorData::new(values, [1, 1, tokens, tokens]);
        Self(Tensor::from_data(data, device))
    }
}
