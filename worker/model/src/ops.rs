//! Every matrix product of the model goes through here, so that one place can count them.

use burn::tensor::{Tensor, module};

/// `x W (+ b)`: `[B, T, K] x [K, N] (+ [N]) -> [B, T, N]`.
pub(crate) fn linear(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    module::linear(x, weight, bias)
}

/// Product of the last two dimensions; the others are broadcast.
pub(crate) fn matmul(left: Tensor<4>, right: Tensor<4>) -> Tensor<4> {
    left.matmul(right)
}
