//! `xattn`: text attends to the image in every layer, as in ALBEF and BLIP. Ungated.

use burn::module::Module;
use ringmaster_proto::spec::ModelSpec;

use super::{Inputs, Memory};
use crate::init::Init;
use crate::layer::{CrossLayer, LayerSpec};
use crate::meter::PartName;
use crate::norm::Norm;
use crate::ops::Ops;

/// Per layer: self-attention over text, cross-attention to `Ln(P(X_im))`, MLP. The memory is the L
/// text tokens.
#[derive(Module, Debug)]
pub(crate) struct Xattn {
    norm_image: Norm,
    layers: Vec<CrossLayer>,
}

impl Xattn {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let layer = LayerSpec::fusion(spec);
        Self {
            norm_image: Norm::layer(&init.at("norm_image"), spec.width),
            layers: CrossLayer::stack(init, spec.fusion_layers, layer, spec.width),
        }
    }

    /// `[B, L, D]`.
    pub(crate) fn forward(&self, inputs: Inputs, ops: &Ops) -> Memory {
        let Inputs { image, text, mask } = inputs;
        let norm = self.norm_image.clone();
        let image = ops.segment(vec![image], move |_, x| norm.forward(x[0].clone()));
        let tokens = ops.part(PartName::Transformer, || {
            self.layers.iter().fold(text, |x, layer| {
                let (layer, mask) = (layer.clone(), mask.clone());
                ops.segment(vec![x, image.clone()], move |ops, x| {
                    let own = (layer.own(x[0].clone(), ops), Some(&mask));
                    let seen = (layer.memory(x[1].clone(), ops), None);
                    layer.forward(x[0].clone(), own, seen, ops)
                })
            })
        });
        let mask = Some(mask);
        Memory { tokens, mask }
    }
}
