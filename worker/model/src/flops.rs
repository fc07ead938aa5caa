//! What a forward pass costs, computed from sizes alone.

use ringmaster_proto::spec::ModelSpec;

/// Multiply-accumulate operations of one example's forward pass, by part; matrix products only, texts
/// at full length. A training step costs about `3 * 2 * total` floating-point operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Macs {
    /// Patch embedding and layers over visual tokens.
    pub image_encoder: u64,
    /// Layers over text tokens.
    pub text_encoder: u64,
    /// Eq. 1 and 2.
    pub resampling: u64,
    /// Eq. 3 over all iterations.
    pub fusion: u64,
    /// The transformer layers within the iterations.
    pub transformer: u64,
    /// Decoder layers and output scores.
    pub decoder: u64,
}

impl Macs {
    /// All parts together.
    pub fn total(&self) -> u64 {
        self.image_encoder
            + self.text_encoder
            + self.resampling
            + self.fusion
            + self.transformer
            + self.decoder
    }
}

/// The cost of a model of these sizes.
pub fn forward_macs(spec: &ModelSpec) -> Macs {
    let size = |n: usize| n as u64;
    let (d, n) = (size(spec.width), size(spec.tokens));
    let hidden = size(spec.mlp_width);
    let visual = size(spec.image_size / spec.patch).pow(2);
    let (text, target) = (size(spec.text_len), size(spec.target_len));
    let patch_inputs = 3 * size(spec.patch).pow(2);
    let attention = |q: u64, kv: u64| 2 * q * d * d + 2 * kv * d * d + 2 * q * kv * d;
    let mlp = |t: u64, hidden: u64| 2 * t * d * hidden;
    let layer = |t: u64| attention(t, t) + mlp(t, hidden);
    // The latents' queries are the same for every example and computed once; counted as if not.
    let resample = |kv: u64| attention(n, kv) + n * d * d;
    let decoder_layer = layer(target) + attention(target, n);
    Macs {
        image_encoder: visual * patch_inputs * d + size(spec.image_layers) * layer(visual),
        text_encoder: size(spec.text_layers) * layer(text),
        resampling: visual * d * d + resample(visual) + resample(text),
        fusion: size(spec.iterations) * (attention(n, n) + mlp(n, size(spec.fusion_mlp_width))),
        transformer: size(spec.fusion_layers) * layer(n),
        decoder: size(spec.decoder_layers) * decoder_layer + target * d * size(spec.vocab),
    }
}
