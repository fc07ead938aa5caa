//! Affine maps.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::init::Init;
use crate::ops;

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
    pub(crate) fn with_bias(init: &Init, inputs: usize, outputs: usize) -> Self {
        let bias = Some(init.constant([outputs], 0.0));
        Self {
            bias,
            ..Self::new(init, inputs, outputs, 1.0)
        }
    }

    /// `[B, T, inputs] -> [B, T, outputs]`.
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ops::linear(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }
}
