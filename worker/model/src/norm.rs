//! Normalisation over channels.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, module};

use crate::init::Init;

const EPSILON: f64 = 1e-5;

/// Of T5's norms.
const RMS_EPSILON: f64 = 1e-6;

/// Layer norm (Ba et al. 2016), `Ln(x) = (x - mean) / sqrt(var + 1e-5) * gamma + beta` over the last
/// dimension; without `beta`, RMS norm (Zhang & Sennrich 2019), `x / sqrt(mean(x^2) + 1e-6) * gamma`.
#[derive(Module, Debug)]
pub(crate) struct Norm {
    gamma: Param<Tensor<1>>,
    beta: Option<Param<Tensor<1>>>,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    Layer,
    Rms,
}

impl Norm {
    /// Starts as the plain normalisation.
    pub(crate) fn new(init: &Init, kind: NormKind, width: usize) -> Self {
        let shifted = kind == NormKind::Layer;
        Self {
            gamma: init.constant([width], 1.0),
            beta: shifted.then(|| init.constant([width], 0.0)),
        }
    }

    /// Layer norm.
    pub(crate) fn layer(init: &Init, width: usize) -> Self {
        Self::new(init, NormKind::Layer, width)
    }

    /// `[B, T, D] -> [B, T, D]`.
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.beta {
            Some(beta) => module::layer_norm(x, self.gamma.val(), Some(beta.val()), EPSILON),
            None => {
                let square = x.clone() * x.clone();
                let root = square.mean_dim(2).add_scalar(RMS_EPSILON).sqrt();
                x / root * self.gamma.val().unsqueeze()
            }
        }
    }
}

/// Group norm (Wu & He 2018): each example's channels are normalised in groups. In place of batch
/// norm, whose statistics would tie an example's result to the others of its microbatch, so to the
/// lanes, and would be a state that no gradient carries.
#[derive(Module, Debug)]
pub(crate) struct GroupNorm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
    groups: usize,
}

impl GroupNorm {
    /// 32 groups, as in the paper.
    pub(crate) fn new(init: &Init, channels: usize) -> Self {
        Self {
            gamma: init.constant([channels], 1.0),
            beta: init.constant([channels], 0.0),
            groups: 32,
        }
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shape @ [batch, channels, height, width] = x.dims();
        let members = channels / self.groups * height * width;
        let x = x.reshape([batch, self.groups, members]);
        let centered = x.clone() - x.mean_dim(2);
        let variance = (centered.clone() * centered.clone()).mean_dim(2);
        let x = (centered / variance.add_scalar(EPSILON).sqrt()).reshape(shape);
        let per_channel = |p: &Param<Tensor<1>>| p.val().reshape([1, channels, 1, 1]);
        x * per_channel(&self.gamma) + per_channel(&self.beta)
    }
}
