//! Affine maps and convolutions.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::init::Init;
use crate::ops::Ops;

/// `x W + b` over the last dimension; `W` is `[inputs, outputs]`.
#[derive(Module, Debug)]
pub(crate) struct Linear {
    weight: Param<Tensor<2>>,
    bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// Without bias. The outputs keep the variance of the inputs, times `gain` squared.
    pub(crate) fn new(init: &Init, inputs: usize, outputs: usize, gain: f64) -> Self {
        let deviation = gain / (inputs as f64).sqrt();
        Self {
            weight: init.normal("weight", [inputs, outputs], deviation),
            bias: None,
        }
    }

    /// With a bias that starts at zero.
    pub(crate) fn biased(self, init: &Init) -> Self {
        let [_, outputs] = self.weight.shape().dims();
        Self {
            bias: Some(init.constant([outputs], 0.0)),
            ..self
        }
    }

    /// `[B, T, inputs] -> [B, T, outputs]`.
    pub(crate) fn forward(&self, x: Tensor<3>, ops: &Ops) -> Tensor<3> {
        ops.linear(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }

    /// The same, for what goes on into another product.
    pub(crate) fn forward_half(&self, x: Tensor<3>, ops: &Ops) -> Tensor<3> {
        ops.linear_half(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }
}

/// A square convolution without bias; the weight is `[outputs, inputs, k, k]`.
#[derive(Module, Debug)]
pub(crate) struct Convolution {
    weight: Param<Tensor<4>>,
    stride: usize,
}

impl Convolution {
    /// He et al. 2015: the outputs of a rectifier keep the variance.
    pub(crate) fn new(
        init: &Init,
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        stride: usize,
    ) -> Self {
        let deviation = (2.0 / (inputs * kernel * kernel) as f64).sqrt();
        Self {
            weight: init.normal("weight", [outputs, inputs, kernel, kernel], deviation),
            stride,
        }
    }

    /// Pictures `[B, H H, inputs] -> [B, (H / stride)^2, outputs]`, sides rounded up.
    pub(crate) fn forward(&self, x: Tensor<3>, ops: &Ops) -> Tensor<3> {
        ops.convolution(x, self.weight.val(), self.stride)
    }
}
