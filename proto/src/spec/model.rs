//! `[model]`: a preset with overrides. Sizes and choices only; the model itself is in worker/model.

use serde::{Deserialize, Serialize};

/// A named set of model sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The CPU demonstration: 2-3 M parameters, 64 px.
    Tiny,
    /// 30 M parameters, 128 px: a night on one small GPU.
    Small,
    /// The paper's Ours-Base: 351 M parameters, 224 px, 39.8 GFLOPs.
    Base,
    /// `base` at 384 px: the paper's larger model, 54 GFLOPs.
    Large,
}

impl Preset {
    /// The `[model]` table of this preset, TOML.
    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Tiny => include_str!("presets/tiny.toml"),
            Self::Small => include_str!("presets/small.toml"),
            Self::Base => include_str!("presets/base.toml"),
            Self::Large => include_str!("presets/large.toml"),
        }
    }
}

/// How pixels become visual tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageEncoder {
    /// Linear patch embedding, learned positions, pre-norm transformer layers without biases.
    Patch,
    /// ViT (Dosovitskiy et al. 2021): as `patch`, with biases, GELU and a last norm; no class token.
    Vit,
    /// ResNet-50 up to stage C4 (stride 16, 1024 channels), group norm.
    #[serde(rename = "resnet50-c4")]
    Resnet50C4,
}

/// The layers of text encoder and decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextStack {
    /// Learned positions, layer norm, scaled attention.
    Plain,
    /// T5 (Raffel et al. 2020): relative position biases, RMS norm, unscaled attention.
    T5,
}

/// How image and text meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fusion {
    /// All visual and text tokens through one transformer.
    Concat,
    /// Text attends to the image in every layer (ALBEF, BLIP).
    Xattn,
    /// Latents attend to all inputs in every iteration.
    Perceiver,
    /// Iterative co-tokenization (arXiv 2208.00934): inputs are reduced anew in every iteration.
    Cotok,
    /// The paper: each modality reduced once, fused by gated cross-attention, iterated.
    Jar,
}

/// How `jar` reduces tokens to N (eq. 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resample {
    /// Learned latents attend to the tokens.
    Latent,
    /// Learned attention maps (TokenLearner) over positions.
    Spatial,
}

/// The attention maps of `resample = "spatial"` and of `cotok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenLearner {
    /// Four 3x3 convolutions, sigmoid (TokenLearner 1.0).
    V1,
    /// An MLP of 64, softmax (TokenLearner 1.1).
    V11,
    /// One full-width 3x3 convolution and a 1x1, softmax.
    Conv,
}

/// How an iteration's output meets the running text latents (eq. 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Combine {
    /// `t <- F_i`.
    None,
    /// `t <- F_i + t`, as printed.
    Residual,
    /// `t <- a_i * F_i + b_i * t` with learned scalars, both starting at 1.
    Weighted,
}

/// What the skip path of eq. 3 carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Skip {
    /// `Ln(t)`, as printed.
    LnT,
    /// `t`.
    T,
}

/// What the decoder sees of the iterations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Memory {
    /// The running state after the last iteration.
    Combined,
    /// The last iteration's output alone.
    Last,
    /// `sum_i softmax(w)_i F_i` with learned w.
    Mixture,
}

/// The nonlinearity of the fusion layers and of eq. 3's MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x Phi(x).
    Gelu,
}

/// `[model]`, every value written out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Where the values below start from.
    pub preset: Preset,
    /// How pixels become visual tokens.
    pub image_encoder: ImageEncoder,
    /// Side of the square input picture, pixels.
    pub image_size: usize,
    /// Side of a patch, pixels; divides `image_size`. Not read by `resnet50-c4`.
    pub patch: usize,
    /// Width of `patch` and `vit`. Not read by `resnet50-c4`, as are the next three.
    pub image_width: usize,
    /// Attention heads of `patch` and `vit`; divides `image_width`.
    pub image_heads: usize,
    /// Transformer layers over visual tokens.
    pub image_layers: usize,
    /// Hidden width of those layers' MLPs.
    pub image_mlp_width: usize,
    /// The kind of text encoder and decoder layers.
    pub text_stack: TextStack,
    /// Width of text encoder, decoder and token table.
    pub text_width: usize,
    /// Attention heads of text encoder and decoder; divides `text_width`.
    pub text_heads: usize,
    /// Text encoder layers.
    pub text_layers: usize,
    /// Decoder layers.
    pub decoder_layers: usize,
    /// Hidden width of text encoder's and decoder's MLPs.
    pub text_mlp_width: usize,
    /// How image and text meet.
    pub fusion: Fusion,
    /// D: width of fusion.
    pub width: usize,
    /// Attention heads of fusion; divides `width`.
    pub heads: usize,
    /// Hidden width of the fusion transformer's MLPs.
    pub mlp_width: usize,
    /// N: tokens that each modality is reduced to. Not read by `concat` and `xattn`.
    pub tokens: usize,
    /// I: fusion iterations (eq. 4). Not read by `concat` and `xattn`.
    pub iterations: usize,
    /// Fusion transformer layers in all, split evenly over the iterations.
    pub fusion_layers: usize,
    /// Hidden width of the gated MLP of eq. 3.
    pub fusion_mlp_width: usize,
    /// The nonlinearity of the fusion layers and of eq. 3's MLP.
    pub activation: Activation,
    /// How `jar` reduces tokens to N.
    pub resample: Resample,
    /// The attention maps of `resample = "spatial"` and of `cotok`.
    pub token_learner: TokenLearner,
    /// Whether alpha and beta of eq. 3 gate; without, tanh(.) is 1.
    pub gating: bool,
    /// Initial alpha and beta of eq. 3; at 0 the image is invisible until they move.
    pub gate_init: f64,
    /// How iterations combine.
    pub combine: Combine,
    /// What the skip path of eq. 3 carries.
    pub skip: Skip,
    /// Whether eq. 2 normalises its keys and values.
    pub kv_norm: bool,
    /// Whether eq. 3 begins with self-attention over t.
    pub fuse_self_attn: bool,
    /// Whether all iterations share the weights of eq. 3.
    pub share_fusion: bool,
    /// Whether all iterations share their transformer layers.
    pub share_layers: bool,
    /// What the decoder sees.
    pub memory: Memory,
    /// Encoder text length, tokens.
    pub text_len: usize,
    /// Decoder length, tokens, end marker included.
    pub target_len: usize,
    /// Vocabulary size; a trained tokenizer has at most this many entries.
    pub vocab: usize,
}

impl ModelSpec {
    /// Whether fusion goes in iterations over N tokens.
    pub fn iterates(&self) -> bool {
        !matches!(self.fusion, Fusion::Concat | Fusion::Xattn)
    }

    /// Side of the square of visual tokens; M is its square.
    pub fn visual_side(&self) -> usize {
        match self.image_encoder {
            ImageEncoder::Patch | ImageEncoder::Vit => self.image_size / self.patch,
            ImageEncoder::Resnet50C4 => self.image_size.div_ceil(16),
        }
    }

    /// Width of the visual tokens: C of eq. 1.
    pub fn visual_width(&self) -> usize {
        match self.image_encoder {
            ImageEncoder::Patch | ImageEncoder::Vit => self.image_width,
            ImageEncoder::Resnet50C4 => 1024,
        }
    }
}
