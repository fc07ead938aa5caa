//! Layer normalisation.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, module};

use crate::init::Init;

const EPSILON: f64 = 1e-5;

/// `Ln(x) = (x - mean) / sqrt(var + 1e-5) * gamma + beta` over the last dimension.
#[derive(Module, Debug)]
pub(crate) struct LayerNorm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
}

impl LayerNorm {
    /// Starts as the plain normalisation.
    pub(crate) fn new(init: &Init, width: usize) -> Self {
        Self {
            gamma: init.constant([width], 1.0),
            beta: init.constant([width], 0.0),
        }
    }

    /// `[B, T, D] -> [B, T, D]`.
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        module::layer_norm(x, self.gamma.val(), Some(self.beta.val()), EPSILON)
    }
}
