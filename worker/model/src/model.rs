//! The model: two encoders, resampling, iterated fusion, a decoder.

use burn::module::Module;
use burn::tensor::{Bool, Device, Int, Tensor};
use ringmaster_proto::spec::ModelSpec;

use crate::attention::Mask;
use crate::decoder::Decoder;
use crate::fusion::Iteration;
use crate::image::PatchEncoder;
use crate::init::Init;
use crate::layer::LayerSize;
use crate::loss::cross_entropy;
use crate::norm::LayerNorm;
use crate::resample::{Projection, Resampler};
use crate::text::{Embedding, TextEncoder};

/// One microbatch as tensors: B examples, encoder text of L tokens, decoder text of T tokens.
///
/// L and T may be anything up to the model's `text_len` and `target_len`: the longest text of the
/// microbatch is enough, and shorter is faster.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[B, 3, S, S]`, normalised.
    pub images: Tensor<4>,
    /// `[B, L]` token ids.
    pub text: Tensor<2, Int>,
    /// `[B, L]`, true where `text` holds a real token.
    pub text_mask: Tensor<2, Bool>,
    /// `[B, T]` decoder input: the target shifted right behind the begin marker.
    pub input: Tensor<2, Int>,
    /// `[B, T]` what the decoder is to say.
    pub target: Tensor<2, Int>,
    /// `[B, T]` weight of each target token; 0 on padding.
    pub weight: Tensor<2>,
}

/// The adaptive fusion model (arXiv 2305.19924). See [`Model::memory`] for its equations.
#[derive(Module, Debug)]
pub struct Model {
    embedding: Embedding,
    image_encoder: PatchEncoder,
    text_encoder: TextEncoder,
    projection: Projection,
    image_resampler: Resampler,
    text_resampler: Resampler,
    iterations: Vec<Iteration>,
    norm_memory: LayerNorm,
    decoder: Decoder,
}

impl Model {
    /// A model with the initial values of `seed`, which are the same on every machine.
    pub fn new(spec: &ModelSpec, seed: u64, device: &Device) -> Self {
        let init = Init::new(seed, device);
        let (width, heads) = (spec.width, spec.heads);
        let size = LayerSize {
            width,
            heads,
            hidden: spec.mlp_width,
        };
        let visual_tokens = (spec.image_size / spec.patch).pow(2);
        let resampler = |name| Resampler::new(&init.at(name), spec.tokens, width, heads);
        let iteration = |i| Iteration::new(&init.item("iterations", i), spec, size);
        Self {
            embedding: Embedding::new(&init.at("embedding"), spec.vocab, width),
            image_encoder: PatchEncoder::new(&init.at("image_encoder"), spec, size),
            text_encoder: TextEncoder::new(&init.at("text_encoder"), spec, size),
            projection: Projection::new(&init.at("projection"), width, visual_tokens, width),
            image_resampler: resampler("image_resampler"),
            text_resampler: resampler("text_resampler"),
            iterations: (0..spec.iterations).map(iteration).collect(),
            norm_memory: LayerNorm::new(&init.at("norm_memory"), width),
            decoder: Decoder::new(&init.at("decoder"), spec, size),
        }
    }

    /// What the decoder sees of image and text, `[B, N, D]`:
    /// ```text
    /// f = W2 Phi(X_N, Ln(P(X_im)))         eq. 1, 2
    /// t = W2 Phi(X_N, Ln(X_text))          eq. 2
    /// repeat: t <- a T(fuse(t, f)) + b t   eq. 3, 4
    /// memory = Ln(t)
    /// ```
    /// Images are `[B, 3, S, S]`, text and its mask `[B, L]`.
    pub fn memory(
        &self,
        images: Tensor<4>,
        text: Tensor<2, Int>,
        text_mask: Tensor<2, Bool>,
    ) -> Tensor<3> {
        let mask = Mask::of_keys(text_mask);
        let x_image = self.image_encoder.forward(images);
        let x_text = self
            .text_encoder
            .forward(self.embedding.forward(text), &mask);
        let f = self
            .image_resampler
            .forward(self.projection.forward(x_image), None);
        let mut t = self.text_resampler.forward(x_text, Some(&mask));
        for iteration in &self.iterations {
            t = iteration.forward(t, f.clone());
        }
        self.norm_memory.forward(t)
    }

    /// Scores of every next token: input `[B, T]`, memory `[B, N, D]`, `-> [B, T, V]`.
    pub fn decode(&self, input: Tensor<2, Int>, memory: &Tensor<3>) -> Tensor<3> {
        self.embedding
            .logits(self.decoder.forward(self.embedding.forward(input), memory))
    }

    /// Cross-entropy summed over the weighted target tokens of each example, nats, `[B]`.
    pub fn losses(&self, batch: Batch) -> Tensor<1> {
        let memory = self.memory(batch.images, batch.text, batch.text_mask);
        cross_entropy(
            self.decode(batch.input, &memory),
            batch.target,
            batch.weight,
        )
    }

    /// Cross-entropy summed over all weighted target tokens, nats, never normalised, `[1]`.
    pub fn loss_sum(&self, batch: Batch) -> Tensor<1> {
        self.losses(batch).sum()
    }
}
