//! What a CUDA device computes with kernels of our choice instead of burn's defaults.
//!
//! Every file is one operation: a trait that burn dispatches, its kernels (`.cu`, CUDA C++ compiled at
//! run time, see [`source`]), and its backward pass. They exist where burn's own way takes many passes
//! over memory, adds floats in an order that changes, or picks a kernel by timing. On other devices
//! the model never calls them.

pub mod source;
pub mod view;

pub(crate) mod activation;
mod common;
pub(crate) mod embedding;
mod gemm;
pub(crate) mod group_norm;
pub(crate) mod loss;
pub(crate) mod norm;
pub(crate) mod pool;
mod product;
pub(crate) mod scale;
pub(crate) mod softmax;
pub(crate) mod table;
pub(crate) mod window;

use burn::backend::{DType, Dispatch, DispatchDevice};
use burn::tensor::{Device, FloatDType, Tensor};

use crate::ops::{Form, Heads};

/// Whether tensors of this device can be given to the operations of this module.
pub fn is_cuda(device: &Device) -> bool {
    let plain = device.clone().without_autodiff();
    matches!(plain.as_dispatch(), DispatchDevice::Cube(_))
}

/// `alpha` times the product of a bf16 and a bf16 or f32 factor of equal batches, in `out`: bf16 or f32.
pub(crate) fn product<const D: usize>(
    left: Tensor<D>,
    right: Tensor<D>,
    form: Form,
    heads: Heads,
    alpha: f64,
    out: FloatDType,
) -> Tensor<D> {
    let (left, right) = (left.into_dispatch(), right.into_dispatch());
    let (alpha, out) = (alpha as f32, DType::from(out));
    let product = <Dispatch as product::Product>::product(left, right, form, heads, alpha, out);
    Tensor::from_dispatch(product)
}

/// Square convolution of pictures `[B, H, W, C]` of bf16 with a kernel `[O, C, k, k]`, padded by
/// `k / 2`: `-> [B H' W', O]`, bf16. A window of k by k pixels becomes a row, and the rest is a product.
pub(crate) fn convolution(x: Tensor<4>, kernel: Tensor<4>, stride: usize) -> Tensor<2> {
    let ([batch, height, width, inputs], [outputs, _, k, _]) = (x.dims(), kernel.dims());
    let (rows, kernel) = if k == 1 && stride == 1 {
        let kernel = kernel.reshape([outputs, inputs]);
        (x.reshape([batch * height * width, inputs]), kernel)
    } else {
        let rows = window::window(x, k, stride);
        let (columns, padded) = (k * k * inputs, rows.dims()[1]);
        let kernel = kernel.permute([0, 2, 3, 1]).reshape([outputs, columns]);
        let kernel = if padded > columns {
            let rest = Tensor::zeros([outputs, padded - columns], &kernel.device());
            Tensor::cat(vec![kernel, rest], 1)
        } else {
            kernel
        };
        (rows, kernel)
    };
    let form = Form::RightTransposed;
    product(rows, kernel, form, Heads::APART, 1.0, FloatDType::BF16)
}
