//! `jar`: each modality reduced once, fused by gated cross-attention, refined over iterations
//! (eq. 2 to 4 of arXiv 2305.19924).

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use ringmaster_proto::spec::{self, Combine, ModelSpec, Resample};

use super::gated::GatedFusion;
use super::{Inputs, Stack, count, of_iteration};
use crate::attention::Mask;
use crate::init::Init;
use crate::meter::PartName;
use crate::ops::Ops;
use crate::resample::Resampler;
use crate::token_learner::{SpatialLearner, TextLearner};

/// Eq. 2 for the image, or its spatial alternative.
#[allow(clippy::large_enum_variant, reason = "a model has one")]
#[derive(Module, Debug)]
enum ImageReduction {
    Latent(Resampler),
    Spatial(SpatialLearner),
}

/// Eq. 2 for text, or its alternative.
#[allow(clippy::large_enum_variant, reason = "a model has one")]
#[derive(Module, Debug)]
enum TextReduction {
    Latent(Resampler),
    Spatial(TextLearner),
}

/// ```text
/// f = reduce(P(X_im));  t = reduce(X_text)
/// for i in 0..I:
///     F_i = T_i(fuse_i(t, f))
///     t <- F_i                   combine = none
///     t <- F_i + t               residual
///     t <- a_i F_i + b_i t       weighted
/// ```
/// The memory is the last t, the last F, or `sum_i softmax(w)_i F_i`.
#[derive(Module, Debug)]
pub(crate) struct Jar {
    image_resampler: ImageReduction,
    text_resampler: TextReduction,
    fusions: Vec<GatedFusion>,
    stacks: Vec<Stack>,
    /// a and b of eq. 4, `[I]` each.
    combine_fused: Option<Param<Tensor<1>>>,
    combine_text: Option<Param<Tensor<1>>>,
    /// w, `[I]`.
    mixture: Option<Param<Tensor<1>>>,
    iterations: usize,
    #[module(skip)]
    combine: Combine,
    #[module(skip)]
    memory: spec::Memory,
}

impl Jar {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let (image, text) = (init.at("image_resampler"), init.at("text_resampler"));
        let (image_resampler, text_resampler) = match spec.resample {
            Resample::Latent => (
                ImageReduction::Latent(Resampler::new(&image, spec)),
                TextReduction::Latent(Resampler::new(&text, spec)),
            ),
            Resample::Spatial => (
                ImageReduction::Spatial(SpatialLearner::new(&image, spec)),
                TextReduction::Spatial(TextLearner::new(&text, spec)),
            ),
        };
        let fusion = |i| GatedFusion::new(&init.item("fusions", i), spec);
        let scalars = |there: bool, value| there.then(|| init.constant([spec.iterations], value));
        let weighted = spec.combine == Combine::Weighted;
        Self {
            image_resampler,
            text_resampler,
            fusions: (0..count(spec.share_fusion, spec)).map(fusion).collect(),
            stacks: Stack::of_iterations(init, spec),
            combine_fused: scalars(weighted, 1.0),
            combine_text: scalars(weighted, 1.0),
            mixture: scalars(spec.memory == spec::Memory::Mixture, 0.0),
            iterations: spec.iterations,
            combine: spec.combine,
            memory: spec.memory,
        }
    }

    /// `[B, N, D]`.
    pub(crate) fn forward(&self, inputs: Inputs, ops: &Ops) -> Tensor<3> {
        let Inputs { image, text, mask } = inputs;
        let f = self.reduce_image(image, ops);
        let mut t = self.reduce_text(text, mask, ops);
        let mut outputs = Vec::with_capacity(self.iterations);
        for i in 0..self.iterations {
            let fusion = of_iteration(&self.fusions, i).clone();
            let fused = ops.segment(vec![t.clone(), f.clone()], move |ops, x| {
                fusion.forward(x[0].clone(), x[1].clone(), ops)
            });
            let output = of_iteration(&self.stacks, i).forward(fused, ops);
            t = self.combine(i, output.clone(), t, ops);
            outputs.push(output);
        }
        match self.memory {
            spec::Memory::Combined => t,
            spec::Memory::Last => outputs.pop().unwrap_or(t),
            spec::Memory::Mixture => self.mix(outputs, ops),
        }
    }

    fn reduce_image(&self, x: Tensor<3>, ops: &Ops) -> Tensor<3> {
        let reduction = self.image_resampler.clone();
        ops.part(PartName::Resampling, || {
            ops.segment(vec![x], move |ops, x| {
                let x = x[0].clone();
                match &reduction {
                    ImageReduction::Latent(resampler) => resampler.forward(x, None, ops),
                    ImageReduction::Spatial(learner) => learner.forward(x.clone(), x, ops),
                }
            })
        })
    }

    fn reduce_text(&self, x: Tensor<3>, mask: Mask, ops: &Ops) -> Tensor<3> {
        let reduction = self.text_resampler.clone();
        ops.part(PartName::Resampling, || {
            ops.segment(vec![x], move |ops, x| {
                let x = x[0].clone();
                match &reduction {
                    TextReduction::Latent(resampler) => resampler.forward(x, Some(&mask), ops),
                    TextReduction::Spatial(learner) => learner.forward(x.clone(), x, &mask, ops),
                }
            })
        })
    }

    /// Eq. 4: the next t.
    fn combine(&self, i: usize, fused: Tensor<3>, t: Tensor<3>, ops: &Ops) -> Tensor<3> {
        let scalars = (self.combine_fused.clone(), self.combine_text.clone());
        match (self.combine, scalars) {
            (Combine::None, _) => fused,
            (Combine::Weighted, (Some(a), Some(b))) => {
                let at = move |p: &Param<Tensor<1>>| p.val().narrow(0, i, 1);
                ops.segment(vec![fused, t], move |ops, x| {
                    ops.scale(x[0].clone(), at(&a)) + ops.scale(x[1].clone(), at(&b))
                })
            }
            _ => ops.segment(vec![fused, t], |_, x| x[0].clone() + x[1].clone()),
        }
    }

    /// `sum_i softmax(w)_i F_i`.
    fn mix(&self, outputs: Vec<Tensor<3>>, ops: &Ops) -> Tensor<3> {
        let weights = self.mixture.clone();
        ops.segment(outputs, move |ops, outputs| {
            let shares = weights.as_ref().map(|w| softmax(w.val(), 0));
            let weighted = outputs.iter().enumerate().map(|(i, output)| match &shares {
                Some(shares) => ops.scale(output.clone(), shares.clone().narrow(0, i, 1)),
                None => output.clone(),
            });
            weighted
                .reduce(|sum, term| sum + term)
                .unwrap_or_else(|| outputs[0].clone())
        })
    }
}
