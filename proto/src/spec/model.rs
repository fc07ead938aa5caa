//! `[model]`: a preset with overrides. Sizes only; the model itself is in worker/model.

use serde::{Deserialize, Serialize};

/// A named set of model sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The CPU demonstration: 2-3 M parameters, 64 px.
    Tiny,
}

impl Preset {
    /// The `[model]` table of this preset, TOML.
    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Tiny => include_str!("presets/tiny.toml"),
        }
    }
}

/// How pixels become visual tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageEncoder {
    /// Linear patch embedding, learned positions, pre-norm transformer layers.
    Patch,
}

/// How an iteration's output meets the running text latents (eq. 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Combine {
    /// `t <- a_i * F_i + b_i * t` with learned scalars, both starting at 1.
    Weighted,
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
    /// Side of a patch, pixels; divides `image_size`.
    pub patch: usize,
    /// D: width of every stream.
    pub width: usize,
    /// Attention heads; divides `width`.
    pub heads: usize,
    /// Transformer layers over visual tokens.
    pub image_layers: usize,
    /// Transformer layers over text tokens.
    pub text_layers: usize,
    /// N: learned latents per modality (eq. 2).
    pub tokens: usize,
    /// I: fusion iterations (eq. 4).
    pub iterations: usize,
    /// Fusion transformer layers in all, split evenly over the iterations.
    pub fusion_layers: usize,
    /// Decoder layers.
    pub decoder_layers: usize,
    /// Hidden width of every transformer layer's MLP.
    pub mlp_width: usize,
    /// Hidden width of the gated MLP of eq. 3.
    pub fusion_mlp_width: usize,
    /// Initial alpha and beta of eq. 3; at 0 the image is invisible until they move.
    pub gate_init: f64,
    /// How iterations combine.
    pub combine: Combine,
    /// Encoder text length, tokens.
    pub text_len: usize,
    /// Decoder length, tokens, end marker included.
    pub target_len: usize,
    /// Vocabulary size; a trained tokenizer has at most this many entries.
    pub vocab: usize,
}
