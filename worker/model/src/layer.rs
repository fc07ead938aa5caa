//! Pre-norm transformer layers.

use burn::module::Module;
use burn::tensor::Tensor;
use ringmaster_proto::spec::{Activation, ModelSpec, TextStack};

use crate::attention::{Attention, AttentionSpec, KeysValues, Mask};
use crate::init::Init;
use crate::linear::Linear;
use crate::norm::{Norm, NormKind};
use crate::ops::Ops;

/// Initial scale of a branch's last map, so that a stack of `branches` residual branches starts with
/// about the variance of its input (GPT-2).
pub(crate) fn residual_gain(branches: usize) -> f64 {
    (branches.max(1) as f64).sqrt().recip()
}

/// Sizes and choices that every layer of a stack shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerSpec {
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) hidden: usize,
    pub(crate) activation: Activation,
    pub(crate) norm: NormKind,
    pub(crate) bias: bool,
    /// Whether attention scores are divided by the root of a head's width.
    pub(crate) scaled: bool,
}

impl LayerSpec {
    /// Of the fusion transformer.
    pub(crate) fn fusion(spec: &ModelSpec) -> Self {
        Self {
            width: spec.width,
            heads: spec.heads,
            hidden: spec.mlp_width,
            activation: spec.activation,
            norm: NormKind::Layer,
            bias: false,
            scaled: true,
        }
    }

    /// Of text encoder and decoder.
    pub(crate) fn text(spec: &ModelSpec) -> Self {
        let plain = spec.text_stack == TextStack::Plain;
        Self {
            width: spec.text_width,
            heads: spec.text_heads,
            hidden: spec.text_mlp_width,
            activation: Activation::Relu,
            norm: if plain {
                NormKind::Layer
            } else {
                NormKind::Rms
            },
            bias: false,
            scaled: plain,
        }
    }

    /// Attention within the stack.
    pub(crate) fn attention(self) -> AttentionSpec {
        self.attention_to(self.width)
    }

    /// Attention to tokens of another width.
    pub(crate) fn attention_to(self, memory_width: usize) -> AttentionSpec {
        AttentionSpec {
            width: self.width,
            memory_width,
            heads: self.heads,
            bias: self.bias,
            scaled: self.scaled,
        }
    }
}

/// `act(x W_in) W_out`.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    input: Linear,
    output: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    pub(crate) fn new(init: &Init, spec: LayerSpec, output_gain: f64) -> Self {
        let linear = |name, inputs, outputs, gain| {
            let init = init.at(name);
            let linear = Linear::new(&init, inputs, outputs, gain);
            if spec.bias {
                linear.biased(&init)
            } else {
                linear
            }
        };
        Self {
            input: linear("input", spec.width, spec.hidden, 1.0),
            output: linear("output", spec.hidden, spec.width, output_gain),
            activation: spec.activation,
        }
    }

    /// `[B, T, D] -> [B, T, D]`.
    pub(crate) fn forward(&self, x: Tensor<3>, ops: &Ops) -> Tensor<3> {
        let hidden = ops.activate(self.input.forward_half(x, ops), self.activation);
        self.output.forward(hidden, ops)
    }
}

/// `x <- x + Phi(Ln x, Ln x); x <- x + MLP(Ln x)`.
#[derive(Module, Debug)]
pub(crate) struct Layer {
    norm_attention: Norm,
    attention: Attention,
    norm_mlp: Norm,
    mlp: Mlp,
}

impl Layer {
    /// `gain` scales the initial output maps of both branches.
    pub(crate) fn new(init: &Init, spec: LayerSpec, gain: f64) -> Self {
        Self {
            norm_attention: Norm::new(&init.at("norm_attention"), spec.norm, spec.width),
            attention: Attention::new(&init.at("attention"), spec.attention(), gain),
            norm_mlp: Norm::new(&init.at("norm_mlp"), spec.norm, spec.width),
            mlp: Mlp::new(&init.at("mlp"), spec, gain),
        }
    }

    /// `count` layers held by the field `name`.
    pub(crate) fn stack(init: &Init, name: &str, count: usize, spec: LayerSpec) -> Vec<Self> {
        let gain = residual_gain(2 * count);
        (0..count)
            .map(|i| Self::new(&init.item(name, i), spec, gain))
            .collect()
    }

    /// `[B, T, D] -> [B, T, D]`.
    pub(crate) fn forward(&self, x: Tensor<3>, mask: Option<&Mask>, ops: &Ops) -> Tensor<3> {
        let a = self.norm_attention.forward_half(x.clone(), ops);
        let x = x + ops.dropout(self.attention.forward(a.clone(), a, mask, ops));
        let b = self.norm_mlp.forward_half(x.clone(), ops);
        x + ops.dropout(self.mlp.forward(b, ops))
    }

    /// `x` through `layers`, each a segment of its own; `[B, T, D] -> [B, T, D]`.
    pub(crate) fn run(layers: &[Self], x: Tensor<3>, mask: Option<&Mask>, ops: &Ops) -> Tensor<3> {
        layers.iter().fold(x, |x, layer| {
            let (layer, mask) = (layer.clone(), mask.cloned());
            ops.segment(vec![x], move |ops, x| {
                layer.forward(x[0].clone(), mask.as_ref(), ops)
            })
        })
    }
}

/// `x <- x + Phi(Ln x, Ln x); x <- x + Phi(Ln x, memory); x <- x + MLP(Ln x)`.
#[derive(Module, Debug)]
pub(crate) struct CrossLayer {
    norm_self: Norm,
    attention_self: Attention,
    norm_cross: Norm,
    attention_cross: Attention,
    norm_mlp: Norm,
    mlp: Mlp,
}

impl CrossLayer {
    fn new(init: &Init, spec: LayerSpec, memory_width: usize, gain: f64) -> Self {
        let norm = |name| Norm::new(&init.at(name), spec.norm, spec.width);
        let cross = spec.attention_to(memory_width);
        Self {
            norm_self: norm("norm_self"),
            attention_self: Attention::new(&init.at("attention_self"), spec.attention(), gain),
            norm_cross: norm("norm_cross"),
            attention_cross: Attention::new(&init.at("attention_cross"), cross, gain),
            norm_mlp: norm("norm_mlp"),
            mlp: Mlp::new(&init.at("mlp"), spec, gain),
        }
    }

    /// `count` layers held by the field `layers`.
    pub(crate) fn stack(
        init: &Init,
        count: usize,
        spec: LayerSpec,
        memory_width: usize,
    ) -> Vec<Self> {
        let gain = residual_gain(3 * count);
        let layer = |i| Self::new(&init.item("layers", i), spec, memory_width, gain);
        (0..count).map(layer).collect()
    }

    /// Keys and values of the memory, `[B, M, D']`.
    pub(crate) fn memory(&self, memory: Tensor<3>, ops: &Ops) -> KeysValues {
        self.attention_cross.keys_values(memory, ops)
    }

    /// Keys and values of the layer's own input, `[B, T, D]`.
    pub(crate) fn own(&self, x: Tensor<3>, ops: &Ops) -> KeysValues {
        self.attention_self
            .keys_values(self.norm_self.forward_half(x, ops), ops)
    }

    /// `x`, `[B, T, D]`, looks at `own` (its keys and values, perhaps with earlier ones) and at
    /// `memory`; `-> [B, T, D]`.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        own: (KeysValues, Option<&Mask>),
        memory: (KeysValues, Option<&Mask>),
        ops: &Ops,
    ) -> Tensor<3> {
        let a = self.norm_self.forward_half(x.clone(), ops);
        let x = x + ops.dropout(self.attention_self.attend(a, own.0, own.1, ops));
        let b = self.norm_cross.forward_half(x.clone(), ops);
        let x = x + ops.dropout(self.attention_cross.attend(b, memory.0, memory.1, ops));
        let c = self.norm_mlp.forward_half(x.clone(), ops);
        x + ops.dropout(self.mlp.forward(c, ops))
    }
}
