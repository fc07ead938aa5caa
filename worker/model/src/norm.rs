//! Normalisation over channels.

use burn::module::{Module, Param};
#[cfg(feature = "cuda")]
use burn::tensor::DType;
use burn::tensor::activation::relu;
use burn::tensor::{FloatDType, Tensor, module};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::init::Init;
use crate::ops::Ops;

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

    /// `[B, T, D] -> [B, T, D]`, f32.
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        #[cfg(feature = "cuda")]
        if cuda::is_cuda(&x.device()) {
            return self.on_cuda(x, DType::F32);
        }
        match &self.beta {
            Some(beta) => module::layer_norm(x, self.gamma.val(), Some(beta.val()), EPSILON),
            None => {
                let square = x.clone() * x.clone();
                let root = square.mean_dim(2).add_scalar(RMS_EPSILON).sqrt();
                x / root * self.gamma.val().unsqueeze()
            }
        }
    }

    /// The same in the format of products, for what goes on into one.
    pub(crate) fn forward_half(&self, x: Tensor<3>, ops: &Ops) -> Tensor<3> {
        #[cfg(feature = "cuda")]
        if ops.is_half() && cuda::is_cuda(&x.device()) {
            return self.on_cuda(x, DType::BF16);
        }
        ops.half(self.forward(x.cast(FloatDType::F32)))
    }

    #[cfg(feature = "cuda")]
    fn on_cuda(&self, x: Tensor<3>, out: DType) -> Tensor<3> {
        let gamma = self.gamma.val();
        match &self.beta {
            Some(beta) => cuda::norm::layer(x, gamma, beta.val(), EPSILON, out),
            None => cuda::norm::rms(x, gamma, RMS_EPSILON, out),
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

    /// `[B, T, C] -> [B, T, C]` in the format of products: T pixels, each of which has a part of
    /// every group; where asked for, through a rectifier.
    pub(crate) fn forward(&self, x: Tensor<3>, rectify: bool, ops: &Ops) -> Tensor<3> {
        if ops.is_counting() {
            return x;
        }
        #[cfg(feature = "cuda")]
        if ops.is_half() && cuda::is_cuda(&x.device()) {
            let (gamma, beta) = (self.gamma.val(), self.beta.val());
            return cuda::group_norm::group_norm(x, gamma, beta, self.groups, EPSILON, rectify);
        }
        let [batch, pixels, channels] = x.dims();
        let of_group = channels / self.groups;
        let x = x.cast(FloatDType::F32);
        let x = x.reshape([batch, pixels, self.groups, of_group]);
        let mean = |x: Tensor<4>| x.mean_dim(1).mean_dim(3);
        let centered = x.clone() - mean(x);
        let variance = mean(centered.clone() * centered.clone());
        let x = (centered / variance.add_scalar(EPSILON).sqrt()).reshape([batch, pixels, channels]);
        let x = x * self.gamma.val().unsqueeze() + self.beta.val().unsqueeze();
        ops.half(if rectify { relu(x) } else { x })
    }
}
