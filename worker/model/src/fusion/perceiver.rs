//! `perceiver` (Jaegle et al. 2021): one set of latents that attends to all inputs in every
//! iteration.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use ringmaster_proto::spec::ModelSpec;

use super::{Inputs, Stack, count, of_iteration};
use crate::attention::{Attention, Mask};
use crate::init::Init;
use crate::layer::{LayerSpec, Mlp};
use crate::norm::Norm;
use crate::ops::Ops;
use crate::resample::latents;

/// `X <- X + Phi(Ln(X), Ln(Z)); X <- X + MLP(Ln(X))`.
#[derive(Module, Debug)]
pub(crate) struct PerceiverFusion {
    norm_latents: Norm,
    norm_inputs: Norm,
    attention: Attention,
    norm_mlp: Norm,
    mlp: Mlp,
}

impl PerceiverFusion {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let layer = LayerSpec::fusion(spec);
        let norm = |name| Norm::layer(&init.at(name), spec.width);
        let wide = LayerSpec {
            hidden: spec.fusion_mlp_width,
            ..layer
        };
        Self {
            norm_latents: norm("norm_latents"),
            norm_inputs: norm("norm_inputs"),
            attention: Attention::new(&init.at("attention"), layer.attention(), 1.0),
            norm_mlp: norm("norm_mlp"),
            mlp: Mlp::new(&init.at("mlp"), wide, 1.0),
        }
    }

    /// Latents `[B, N, D]`, inputs `[B, M + L, D]`, `-> [B, N, D]`.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        inputs: Tensor<3>,
        mask: &Mask,
        ops: &Ops,
    ) -> Tensor<3> {
        let a = self.norm_latents.forward_half(x.clone(), ops);
        let z = self.norm_inputs.forward_half(inputs, ops);
        let x = x + ops.dropout(self.attention.forward(a, z, Some(mask), ops));
        let b = self.norm_mlp.forward_half(x.clone(), ops);
        x + ops.dropout(self.mlp.forward(b, ops))
    }
}

/// `Z = [P(X_im); X_text]`; in every iteration the latents attend to Z, then to each other.
#[derive(Module, Debug)]
pub(crate) struct Perceiver {
    latents: Param<Tensor<2>>,
    fusions: Vec<PerceiverFusion>,
    stacks: Vec<Stack>,
    iterations: usize,
}

impl Perceiver {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let fusion = |i| PerceiverFusion::new(&init.item("fusions", i), spec);
        Self {
            latents: latents(init, spec.tokens, spec.width),
            fusions: (0..count(spec.share_fusion, spec)).map(fusion).collect(),
            stacks: Stack::of_iterations(init, spec),
            iterations: spec.iterations,
        }
    }

    /// `[B, N, D]`.
    pub(crate) fn forward(&self, inputs: Inputs, ops: &Ops) -> Tensor<3> {
        let Inputs { image, text, mask } = inputs;
        let [batch, visual, _] = image.dims();
        let mask = mask.behind_visible(visual);
        let z = ops.segment(vec![image, text], |_, x| Tensor::cat(x.to_vec(), 1));
        let latents = self.latents.clone();
        let mut x = ops.segment(Vec::new(), move |_, _| {
            let latents: Tensor<3> = latents.val().unsqueeze();
            latents.repeat_dim(0, batch)
        });
        for i in 0..self.iterations {
            let (fusion, mask) = (of_iteration(&self.fusions, i).clone(), mask.clone());
            let fused = ops.segment(vec![x, z.clone()], move |ops, x| {
                fusion.forward(x[0].clone(), x[1].clone(), &mask, ops)
            });
            x = of_iteration(&self.stacks, i).forward(fused, ops);
        }
        x
    }
}
