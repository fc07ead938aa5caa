//! Patches through transformer layers: the encoders `patch` and `vit`.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use ringmaster_proto::spec::{Activation, ImageEncoder, ModelSpec};

use crate::init::Init;
use crate::layer::{Layer, LayerSpec};
use crate::linear::Linear;
use crate::norm::{Norm, NormKind};
use crate::ops::Ops;

/// Linear patch embedding, learned positions, pre-norm layers. `vit` (Dosovitskiy et al. 2021) has
/// biases, GELU and a last norm as published, so that published weights fit; `patch` is cheaper.
/// Neither has a class token.
#[derive(Module, Debug)]
pub(crate) struct Vit {
    embedding: Linear,
    positions: Param<Tensor<2>>,
    layers: Vec<Layer>,
    norm: Option<Norm>,
    patch: usize,
}

impl Vit {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let published = spec.image_encoder == ImageEncoder::Vit;
        let width = spec.image_width;
        let layer = LayerSpec {
            width,
            heads: spec.image_heads,
            hidden: spec.image_mlp_width,
            activation: if published {
                Activation::Gelu
            } else {
                Activation::Relu
            },
            norm: NormKind::Layer,
            bias: published,
            scaled: true,
        };
        let tokens = spec.visual_side() * spec.visual_side();
        let embedding = init.at("embedding");
        let inputs = 3 * spec.patch * spec.patch;
        Self {
            embedding: Linear::new(&embedding, inputs, width, 1.0).biased(&embedding),
            positions: init.normal("positions", [tokens, width], crate::POSITION_DEVIATION),
            layers: Layer::stack(init, "layers", spec.image_layers, layer),
            norm: published.then(|| Norm::layer(&init.at("norm"), width)),
            patch: spec.patch,
        }
    }

    /// `[B, 3, S, S] -> [B, M, C]` with `M = (S / patch)^2`, rows first.
    pub(crate) fn forward(&self, images: Tensor<4>, ops: &Ops) -> Tensor<3> {
        let (this, patches) = (self.clone(), self.patches(images));
        let x = ops.segment(Vec::new(), move |ops, _| {
            let embedded = this.embedding.forward(patches.clone(), ops);
            ops.dropout(ops.add_table(embedded, this.positions.val()))
        });
        let x = Layer::run(&self.layers, x, None, ops);
        match self.norm.clone() {
            Some(norm) => ops.segment(vec![x], move |_, x| norm.forward(x[0].clone())),
            None => x,
        }
    }

    /// `[B, 3, S, S] -> [B, M, 3 patch^2]`: channel, row, column within a patch.
    fn patches(&self, images: Tensor<4>) -> Tensor<3> {
        let [batch, channels, height, width] = images.dims();
        let p = self.patch;
        let (rows, columns) = (height / p, width / p);
        images
            .reshape([batch, channels, rows, p, columns, p])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, rows * columns, channels * p * p])
    }
}
