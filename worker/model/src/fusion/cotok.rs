//! `cotok`: iterative co-tokenization (Piergiovanni et al., arXiv 2208.00934). Every iteration
//! reduces the full inputs anew, guided by what was fused so far.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use ringmaster_proto::spec::ModelSpec;

use super::{Inputs, Stack, count, of_iteration};
use crate::init::Init;
use crate::linear::Linear;
use crate::ops::Ops;
use crate::token_learner::{SpatialLearner, TextLearner};

/// The reductions of one iteration.
#[derive(Module, Debug)]
struct Reduction {
    image: SpatialLearner,
    text: TextLearner,
}

/// With `s_0` the mean of the real text tokens and `Z_-1 = 0`:
/// ```text
/// V = image maps of (P(X_im) + s_i W), weighting P(X_im)
/// U = text maps of (X_text + s_i W), weighting X_text
/// Z_i = T_i(V + U + Z_i-1);  s_i+1 = mean(Z_i)
/// ```
/// All iterations share W. The memory is the last Z.
#[derive(Module, Debug)]
pub(crate) struct Cotok {
    condition: Linear,
    reductions: Vec<Reduction>,
    stacks: Vec<Stack>,
    iterations: usize,
}

impl Cotok {
    pub(crate) fn new(init: &Init, spec: &ModelSpec) -> Self {
        let reduction = |i| {
            let init = init.item("reductions", i);
            Reduction {
                image: SpatialLearner::new(&init.at("image"), spec),
                text: TextLearner::new(&init.at("text"), spec),
            }
        };
        Self {
            condition: Linear::new(&init.at("condition"), spec.width, spec.width, 1.0),
            reductions: (0..count(spec.share_fusion, spec)).map(reduction).collect(),
            stacks: Stack::of_iterations(init, spec),
            iterations: spec.iterations,
        }
    }

    /// `[B, N, D]`.
    pub(crate) fn forward(&self, inputs: Inputs, ops: &Ops) -> Tensor<3> {
        let Inputs { image, text, mask } = inputs;
        let mut z: Option<Tensor<3>> = None;
        for i in 0..self.iterations {
            let condition = self.condition.clone();
            let (reduction, mask) = (of_iteration(&self.reductions, i).clone(), mask.clone());
            let first = z.is_none();
            let seen = [image.clone(), text.clone()].into_iter().chain(z).collect();
            let joined = ops.segment(seen, move |ops, x| {
                let (image, text) = (x[0].clone(), x[1].clone());
                let state = if first {
                    // The mean of the real tokens: the mask makes equal scores a mean.
                    let weights = softmax(mask.of_tokens(), 1);
                    (text.clone() * weights).sum_dim(1)
                } else {
                    x[2].clone().mean_dim(1)
                };
                let guide = condition.forward(state, ops);
                let v = reduction
                    .image
                    .forward(image.clone() + guide.clone(), image, ops);
                let u = reduction
                    .text
                    .forward(text.clone() + guide, text, &mask, ops);
                match x.get(2) {
                    Some(earlier) => v + u + earlier.clone(),
                    None => v + u,
                }
            });
            z = Some(of_iteration(&self.stacks, i).forward(joined, ops));
        }
        // At least one iteration: the spec says so.
        z.unwrap_or(image)
    }
}
