//! The model: two encoders, fusion, a decoder.

use burn::module::Module;
use burn::tensor::{Bool, Device, Gradients, Int, Tensor};
use ringmaster_proto::spec::ModelSpec;

use crate::attention::Mask;
use crate::decoder::{Cache, Decoder};
use crate::fusion::{Fusion, Inputs, Memory};
use crate::image::ImageEncoder;
use crate::init::Init;
use crate::loss::cross_entropy;
use crate::meter::PartName;
use crate::norm::Norm;
use crate::ops::Ops;
use crate::resample::Projection;
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

/// An image-language model of the family of arXiv 2305.19924:
/// ```text
/// X_im = image encoder(image)          X_text = text encoder(embedding(text))
/// memory = Ln(fusion(P(X_im), X_text))                          eq. 1; see fusion/
/// logits = decoder(embedding(input), memory) embedding^T
/// ```
#[derive(Module, Debug)]
pub struct Model {
    embedding: Embedding,
    image_encoder: ImageEncoder,
    text_encoder: TextEncoder,
    projection: Projection,
    fusion: Fusion,
    norm_memory: Norm,
    pub(crate) decoder: Decoder,
}

impl Model {
    /// A model with the initial values of `seed`, which are the same on every machine.
    pub fn new(spec: &ModelSpec, seed: u64, device: &Device) -> Self {
        Self::with_init(spec, &Init::new(seed, device))
    }

    /// A model whose values are all 0: for its shapes, or to be given other values. Draws nothing.
    pub fn blank(spec: &ModelSpec, device: &Device) -> Self {
        Self::with_init(spec, &Init::blank(device))
    }

    fn with_init(spec: &ModelSpec, init: &Init) -> Self {
        Self {
            embedding: Embedding::new(&init.at("embedding"), spec.vocab, spec.text_width),
            image_encoder: ImageEncoder::new(&init.at("image_encoder"), spec),
            text_encoder: TextEncoder::new(&init.at("text_encoder"), spec),
            projection: Projection::new(&init.at("projection"), spec),
            fusion: Fusion::new(&init.at("fusion"), spec),
            norm_memory: Norm::layer(&init.at("norm_memory"), spec.width),
            decoder: Decoder::new(&init.at("decoder"), spec),
        }
    }

    /// What the decoder sees of image and text. Images are `[B, 3, S, S]`, text and its mask
    /// `[B, L]`.
    pub(crate) fn memory(
        &self,
        images: Tensor<4>,
        text: Tensor<2, Int>,
        text_mask: Tensor<2, Bool>,
        ops: &Ops,
    ) -> Memory {
        let mask = Mask::of_keys(text_mask);
        let image = ops.part(PartName::Image, || self.image_encoder.forward(images, ops));
        let projection = self.projection.clone();
        let image = ops.part(PartName::Projection, || {
            ops.segment(vec![image], move |ops, x| {
                projection.image(x[0].clone(), ops)
            })
        });
        let text = self.text(text, &mask, ops);
        let inputs = Inputs { image, text, mask };
        let Memory { tokens, mask } =
            ops.part(PartName::Fusion, || self.fusion.forward(inputs, ops));
        let norm = self.norm_memory.clone();
        let tokens = ops.segment(vec![tokens], move |ops, x| {
            norm.forward_half(x[0].clone(), ops)
        });
        Memory { tokens, mask }
    }

    /// `X_text`, as wide as fusion.
    fn text(&self, text: Tensor<2, Int>, mask: &Mask, ops: &Ops) -> Tensor<3> {
        let (embedding, encoder) = (self.embedding.clone(), self.text_encoder.clone());
        let (projection, mask) = (self.projection.clone(), mask.clone());
        ops.segment(Vec::new(), move |ops, _| {
            let x = ops.part(PartName::Text, || {
                encoder.forward(embedding.forward(text.clone()), &mask, ops)
            });
            ops.part(PartName::Projection, || projection.text(x, ops))
        })
    }

    /// Scores of every next token: input `[B, T]`, `-> [B, T, V]`.
    pub(crate) fn decode(&self, input: Tensor<2, Int>, memory: &Memory, ops: &Ops) -> Tensor<3> {
        ops.part(PartName::Decoder, || {
            let x = self.embedding.forward(input);
            self.embedding
                .logits(self.decoder.forward(x, memory, ops), ops)
        })
    }

    /// Scores of the token after one more, `[B, 1]`: `-> [B, 1, V]`.
    pub(crate) fn decode_next(
        &self,
        token: Tensor<2, Int>,
        cache: &mut Cache,
        ops: &Ops,
    ) -> Tensor<3> {
        let x = self.embedding.forward(token);
        self.embedding.logits(self.decoder.next(x, cache, ops), ops)
    }

    /// Scores of the target tokens of a batch, `[B, T, V]`.
    pub fn logits(&self, batch: Batch, ops: &Ops) -> Tensor<3> {
        let memory = self.memory(batch.images, batch.text, batch.text_mask, ops);
        self.decode(batch.input, &memory, ops)
    }

    /// Cross-entropy summed over the weighted target tokens of each example, nats, `[B]`.
    pub fn losses(&self, batch: Batch, smoothing: f64, ops: &Ops) -> Tensor<1> {
        let (target, weight) = (batch.target.clone(), batch.weight.clone());
        cross_entropy(self.logits(batch, ops), target, weight, smoothing)
    }

    /// Cross-entropy summed over all weighted target tokens as in inference, nats, `[1]`.
    pub fn loss_sum(&self, batch: Batch) -> Tensor<1> {
        let ops = Ops::inference_on(&batch.images.device());
        self.losses(batch, 0.0, &ops).sum()
    }

    /// Forward and backward pass of one microbatch. `collect` gets the gradients of the *sum* of its
    /// token losses (never normalised), in one piece or in several, whose sum counts where a parameter
    /// is in more than one. Returns that sum, nats, `[1]`.
    pub fn forward_backward(
        &self,
        batch: Batch,
        smoothing: f64,
        mut ops: Ops,
        mut collect: impl FnMut(&mut Gradients),
    ) -> Tensor<1> {
        let loss = self.losses(batch, smoothing, &ops).sum();
        match ops.take_tape() {
            None => collect(&mut loss.backward()),
            Some(tape) => tape.backward(&loss, collect),
        }
        loss.detach()
    }
}
