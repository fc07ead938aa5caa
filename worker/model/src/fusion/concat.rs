//! `concat`: all visual and text tokens through one transformer. No latents, no gates.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use ringmaster_proto::spec::ModelSpec;

use super::{Inputs, Memory};
use crate::init::Init;
use crate::layer::{Layer, LayerSpec};
use crate::meter::PartName;
use crate::ops::Ops;

/// `Z = [P(X_im) + e_image; X_text + e_text]`, then `T(Z)`, all of it the memory.
#[derive(Module, Debug)]
pub(crate) struct Concat {
    /// Tells the modalities apart, `[D]`.
    image: Param<Tensor<1>>,
    text: Param<Tensor<1>>,
    layers: Vec<Layer>,
}

impl Concat {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let modality = |name| init.normal(name, [spec.width], crate::POSITION_DEVIATION);
        let layer = LayerSpec::fusion(spec);
        Self {
            image: modality("image"),
            text: modality("text"),
            layers: Layer::stack(init, "layers", spec.fusion_layers, layer),
        }
    }

    /// `[B, M + L, D]`.
    pub(crate) fn forward(&self, inputs: Inputs, ops: &Ops) -> Memory {
        let Inputs { image, text, mask } = inputs;
        let mask = mask.behind_visible(image.dims()[1]);
        let this = self.clone();
        let joined = ops.segment(vec![image, text], move |_, x| {
            let image = x[0].clone() + this.image.val().unsqueeze();
            let text = x[1].clone() + this.text.val().unsqueeze();
            Tensor::cat(vec![image, text], 1)
        });
        let tokens = ops.part(PartName::Transformer, || {
            Layer::run(&self.layers, joined, Some(&mask), ops)
        });
        let mask = Some(mask);
        Memory { tokens, mask }
    }
}
