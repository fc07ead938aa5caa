//! `Phi(q, kv)`: multi-head attention, and what it must not see.

use burn::module::{Module, Param};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData, module};

use crate::init::Init;
use crate::linear::Linear;
use crate::ops::Ops;

/// Added to the score of what must not be seen: far below any score, and finite, so that a row in
/// which nothing may be seen is uniform rather than not a number.
const HIDDEN: f32 = -1e9;

/// `Phi(q, kv) = softmax(s Q K^T + mask) V W_o` per head, with `Q = q W_q`, `K = kv W_k`,
/// `V = kv W_v` and `s = 1 / sqrt(d)`, or 1 in a T5 stack.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
    scale: f64,
}

/// Sizes and choices of an attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionSpec {
    /// Of queries and output.
    pub(crate) width: usize,
    /// Of keys and values.
    pub(crate) memory_width: usize,
    pub(crate) heads: usize,
    pub(crate) bias: bool,
    /// Whether scores are divided by the root of a head's width.
    pub(crate) scaled: bool,
}

/// Keys and values, `[B, K, heads, d]` each.
#[derive(Clone, Debug)]
pub(crate) struct KeysValues {
    pub(crate) keys: Tensor<4>,
    pub(crate) values: Tensor<4>,
}

impl KeysValues {
    /// `self` and then `more`.
    pub(crate) fn followed_by(self, more: Self) -> Self {
        Self {
            keys: Tensor::cat(vec![self.keys, more.keys], 1),
            values: Tensor::cat(vec![self.values, more.values], 1),
        }
    }
}

impl Attention {
    /// `output_gain` scales the initial output map (see [`crate::layer::residual_gain`]).
    pub(crate) fn new(init: &Init, spec: AttentionSpec, output_gain: f64) -> Self {
        let AttentionSpec {
            width,
            memory_width,
            heads,
            ..
        } = spec;
        let root = ((width / heads) as f64).sqrt().recip();
        // An unscaled attention starts with the scores of a scaled one.
        let (scale, query_gain) = if spec.scaled {
            (root, 1.0)
        } else {
            (1.0, root)
        };
        let linear = |name, inputs, gain| {
            let init = init.at(name);
            let linear = Linear::new(&init, inputs, width, gain);
            if spec.bias {
                linear.biased(&init)
            } else {
                linear
            }
        };
        Self {
            query: linear("query", width, query_gain),
            key: linear("key", memory_width, 1.0),
            value: linear("value", memory_width, 1.0),
            output: linear("output", width, output_gain),
            heads,
            scale,
        }
    }

    /// `q` is `[B or 1, Q, D]`, `kv` is `[B, K, D']`; `-> [B, Q, D]`.
    pub(crate) fn forward(
        &self,
        q: Tensor<3>,
        kv: Tensor<3>,
        mask: Option<&Mask>,
        ops: &Ops,
    ) -> Tensor<3> {
        self.attend(q, self.keys_values(kv, ops), mask, ops)
    }

    /// What is attended to: `[B, K, D'] -> [B, K, heads, d]` twice.
    pub(crate) fn keys_values(&self, kv: Tensor<3>, ops: &Ops) -> KeysValues {
        KeysValues {
            keys: self.split(self.key.forward_half(kv.clone(), ops)),
            values: self.split(self.value.forward_half(kv, ops)),
        }
    }

    /// Attends from `q`, `[B or 1, Q, D]`, `-> [B, Q, D]`.
    pub(crate) fn attend(
        &self,
        q: Tensor<3>,
        KeysValues { keys, values }: KeysValues,
        mask: Option<&Mask>,
        ops: &Ops,
    ) -> Tensor<3> {
        let query = self.split(self.query.forward_half(q, ops));
        let seen = ops.attention([query, keys, values], self.scale, mask);
        let [batch, queries, heads, of_head] = seen.dims();
        let joined = seen.reshape([batch, queries, heads * of_head]);
        self.output.forward(joined, ops)
    }

    /// `[B, T, D] -> [B, T, heads, D / heads]`.
    fn split(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch, tokens, width] = x.dims();
        x.reshape([batch, tokens, self.heads, width / self.heads])
    }
}

/// What is added to attention scores, `[B or 1, H or 1, Q or 1, K]`: very little where a key may
/// not be seen, a learned bias where there is one, else 0.
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

    /// Both.
    pub(crate) fn and(self, other: &Self) -> Self {
        Self(self.0 + other.0.clone())
    }

    /// For scores of tokens instead of keys: `[B, K, 1]`. Of a mask of keys alone.
    pub(crate) fn of_tokens(&self) -> Tensor<3> {
        let [batch, _, _, keys] = self.0.dims();
        self.0.clone().reshape([batch, keys, 1])
    }

    /// With `keys` more keys before the others, all of which may be seen: `[B, 1, 1, K]` masks only.
    pub(crate) fn behind_visible(&self, keys: usize) -> Self {
        let [batch, ..] = self.0.dims();
        let visible = Tensor::zeros([batch, 1, 1, keys], &self.0.device());
        Self(Tensor::cat(vec![visible, self.0.clone()], 3))
    }

    /// The tensor to add.
    pub(crate) fn added(&self) -> Tensor<4> {
        self.0.clone()
    }
}

/// T5's position information: a learned bias per head and bucket of the distance from query to key,
/// shared by all layers of a stack (Raffel et al. 2020, section 2.1).
#[derive(Module, Debug)]
pub(crate) struct RelativeBias {
    bias: Param<Tensor<2>>,
    /// Whether keys may lie behind the query.
    two_sided: bool,
}

/// Buckets of distances.
const BUCKETS: usize = 32;

/// All distances from here on share the last bucket.
const FAR: f64 = 128.0;

impl RelativeBias {
    pub(crate) fn new(init: &Init, heads: usize, two_sided: bool) -> Self {
        Self {
            bias: init.normal("bias", [BUCKETS, heads], crate::POSITION_DEVIATION),
            two_sided,
        }
    }

    /// The biases of queries `first..first + queries` on keys `0..keys`: `[1, H, Q, K]`.
    pub(crate) fn mask(&self, first: usize, queries: usize, keys: usize) -> Mask {
        let buckets: Vec<i64> = (0..queries * keys)
            .map(|i| {
                let distance = (i % keys) as i64 - (first + i / keys) as i64;
                bucket(distance, self.two_sided) as i64
            })
            .collect();
        let table = self.bias.val();
        let heads = table.dims()[1];
        let ids: Tensor<2, Int> = Tensor::from_data(
            TensorData::new(buckets, [1, queries * keys]),
            &table.device(),
        );
        let biases = module::embedding(table, ids);
        Mask(biases.swap_dims(1, 2).reshape([1, heads, queries, keys]))
    }
}

/// The bucket of a key `distance` positions after its query: one for each small distance, then
/// logarithmically wider ones.
pub(crate) fn bucket(distance: i64, two_sided: bool) -> usize {
    let (mut first, mut buckets) = (0, BUCKETS);
    let distance = if two_sided {
        buckets /= 2;
        if distance > 0 {
            first = buckets;
        }
        distance.unsigned_abs() as usize
    } else {
        (-distance).max(0) as usize
    };
    let exact = buckets / 2;
    if distance < exact {
        return first + distance;
    }
    let share = (distance as f64 / exact as f64).ln() / (FAR / exact as f64).ln();
    first + (exact + (share * (buckets - exact) as f64) as usize).min(buckets - 1)
}
