//! From pixels to visual tokens.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use ringmaster_proto::spec::ModelSpec;

use crate::init::Init;
use crate::layer::{Layer, LayerSize};
use crate::linear::Linear;

/// The encoder `patch`: linear patch embedding, learned positions, pre-norm transformer layers.
#[derive(Module, Debug)]
pub(crate) struct PatchEncoder {
    embedding: Linear,
    positions: Param<Tensor<2>>,
    layers: Vec<Layer>,
    patch: usize,
}

impl PatchEncoder {
    pub(crate) fn new(init: &Init, spec: &ModelSpec, size: LayerSize) -> Self {
        let inputs = 3 * spec.patch * spec.patch;
        let side = spec.image_size / spec.patch;
        Self {
            embedding: Linear::with_bias(&init.at("embedding"), inputs, size.width),
            positions: init.normal(
                "positions",
                [side * side, size.width],
                crate::POSITION_DEVIATION,
            ),
            layers: Layer::stack(init, "layers", spec.image_layers, size),
            patch: spec.patch,
        }
    }

    /// `X_im`: `[B, 3, S, S] -> [B, M, D]` with `M = (S / patch)^2`, rows first.
    pub(crate) fn forward(&self, images: Tensor<4>) -> Tensor<3> {
        let patches = self.patches(images);
        let mut x = self.embedding.forward(patches) + self.positions.val().unsqueeze();
        for layer in &self.layers {
            x = layer.forward(x, None);
        }
        x
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
