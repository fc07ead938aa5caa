//! From pixels to visual tokens: `X_im`, `[B, M, C]`.

mod resnet;
mod vit;

use burn::module::Module;
use burn::tensor::Tensor;
use ringmaster_proto::spec::{self, ModelSpec};

use crate::init::Init;
use crate::ops::Ops;
use resnet::Resnet;
use vit::Vit;

/// One of the image encoders.
#[derive(Module, Debug)]
pub(crate) enum ImageEncoder {
    /// `patch` and `vit`.
    Vit(Vit),
    /// `resnet50-c4`.
    Resnet(Resnet),
}

impl ImageEncoder {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        match spec.image_encoder {
            spec::ImageEncoder::Patch | spec::ImageEncoder::Vit => Self::Vit(Vit::new(init, spec)),
            spec::ImageEncoder::Resnet50C4 => Self::Resnet(Resnet::new(init)),
        }
    }

    /// `[B, 3, S, S] -> [B, M, C]`, rows first.
    pub(crate) fn forward(&self, images: Tensor<4>, ops: &Ops) -> Tensor<3> {
        match self {
            Self::Vit(vit) => vit.forward(images, ops),
            Self::Resnet(resnet) => resnet.forward(images, ops),
        }
    }
}
