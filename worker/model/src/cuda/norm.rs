//! Layer norm and RMS norm, one pass over memory each way. burn composes them of reductions and
//! elementwise kernels, each of which reads the rows again.
//!
//! A row lies in registers, so its mean and then the squares of its distances from the mean are summed
//! without reading it twice; the backward pass finds both anew rather than keep them. Gradients of the
//! parameters are sums over rows: each block sums a fixed share of them, and a second kernel sums
//! what blocks found.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, DType, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::common::{
    Defines, TEAM_THREADS, bits, blocks, empty, fold, name, rows, team, text, vector,
};
use super::source::{Source, buffer};

const TEXT: &str = text!("common.cu", "team.cu", "norm.cu");

/// Most blocks that share the rows of a backward pass: four for each multiprocessor of an H100. Fixed,
/// because sums depend on it.
const SHARES: usize = 528;

/// Fewest rows of such a share: what a block finds costs as much to write as a few rows to read.
const SHARE_ROWS: usize = 16;

/// Norms that can be differentiated.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait Norm: Backend {
    /// `(x - mean) / sqrt(variance + epsilon) * gamma + beta` of rows of bf16 or f32, in `out`.
    fn layer_norm_rows(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        out: DType,
    ) -> FloatTensor<Self>;

    /// `x / sqrt(mean(x^2) + epsilon) * gamma` of rows of bf16 or f32, in `out`.
    fn rms_norm_rows(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        out: DType,
    ) -> FloatTensor<Self>;
}

/// Their backward passes.
#[backend_extension(Cube)]
pub(crate) trait NormBackward: Backend {
    /// Gradients of x, gamma and beta.
    fn layer_norm_rows_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of x and gamma.
    fn rms_norm_rows_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// Layer norm over the last dimension, at most 4096, of bf16 or f32; parameters are f32, `[D]`.
/// `[B, T, D] -> [B, T, D]` in `out`: bf16 or f32.
pub(crate) fn layer(
    x: Tensor<3>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
    out: DType,
) -> Tensor<3> {
    let (x, gamma, beta) = (
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
    );
    Tensor::from_dispatch(<Dispatch as Norm>::layer_norm_rows(
        x, gamma, beta, epsilon, out,
    ))
}

/// RMS norm, likewise.
pub(crate) fn rms(x: Tensor<3>, gamma: Tensor<1>, epsilon: f64, out: DType) -> Tensor<3> {
    let (x, gamma) = (x.into_dispatch(), gamma.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Norm>::rms_norm_rows(x, gamma, epsilon, out))
}

impl Norm for CubeBackend {
    fn layer_norm_rows(
        x: CubeTensor,
        gamma: CubeTensor,
        beta: CubeTensor,
        epsilon: f64,
        out: DType,
    ) -> CubeTensor {
        forward(x, gamma, Some(beta), epsilon, out)
    }

    fn rms_norm_rows(x: CubeTensor, gamma: CubeTensor, epsilon: f64, out: DType) -> CubeTensor {
        forward(x, gamma, None, epsilon, out)
    }
}

impl NormBackward for CubeBackend {
    fn layer_norm_rows_backward(
        x: CubeTensor,
        gamma: CubeTensor,
        grad: CubeTensor,
        epsilon: f64,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let (dx, partial) = backward(x, gamma, grad, epsilon, true);
        let [dgamma, dbeta] = fold(&partial);
        (dx, dgamma, dbeta)
    }

    fn rms_norm_rows_backward(
        x: CubeTensor,
        gamma: CubeTensor,
        grad: CubeTensor,
        epsilon: f64,
    ) -> (CubeTensor, CubeTensor) {
        let (dx, partial) = backward(x, gamma, grad, epsilon, false);
        let [dgamma] = fold(&partial);
        (dx, dgamma)
    }
}

/// Without `beta`, RMS norm.
fn forward(
    x: CubeTensor,
    gamma: CubeTensor,
    beta: Option<CubeTensor>,
    epsilon: f64,
    out: DType,
) -> CubeTensor {
    let centered = beta.is_some();
    let (x, gamma) = (into_contiguous(x), into_contiguous(gamma));
    let beta = beta.map_or_else(|| gamma.clone(), into_contiguous);
    let y = empty(&x, x.shape(), out);
    let (kernel, slots) = kernel("norm_forward", [&x, &y], &[&gamma, &beta], centered);
    let (_, count) = rows(&x);
    let grid = [blocks(count.div_ceil(slots)), 1, 1];
    let resources = [&x, &gamma, &beta, &y].map(buffer).to_vec();
    kernel.launch(&y, grid, resources, vec![count as u64, bits(epsilon), 0]);
    y
}

/// The gradient of x, and what `fold` makes those of the parameters of.
fn backward(
    x: CubeTensor,
    gamma: CubeTensor,
    grad: CubeTensor,
    epsilon: f64,
    centered: bool,
) -> (CubeTensor, CubeTensor) {
    let [x, gamma, grad] = [x, gamma, grad].map(into_contiguous);
    let (columns, count) = rows(&x);
    let share = count.div_ceil(SHARES).max(SHARE_ROWS);
    let shares = count.div_ceil(share);
    let dx = empty(&x, x.shape(), x.dtype);
    let partial = empty(&x, [shares, 1 + usize::from(centered), columns], DType::F32);
    let (kernel, _) = kernel("norm_backward", [&x, &grad], &[&gamma], centered);
    let resources = [&x, &gamma, &grad, &dx, &partial].map(buffer).to_vec();
    let words = vec![count as u64, bits(epsilon), share as u64];
    kernel.launch(&dx, [blocks(shares), 1, 1], resources, words);
    (dx, partial)
}

/// The kernel for rows of x and of the result or its gradient, and how many rows a block has at once.
fn kernel(
    entry: &'static str,
    [x, y]: [&CubeTensor; 2],
    parameters: &[&CubeTensor],
    centered: bool,
) -> (Source, usize) {
    let (columns, _) = rows(x);
    let vector = vector(columns, &[x, y], parameters);
    let team = team(columns, vector);
    let kernel = Defines::of(entry)
        .with("INPUT", name(x.dtype))
        .with("OUTPUT", name(y.dtype))
        .with("COLUMNS", columns)
        .with("VECTOR", vector)
        .with("TEAM", team)
        .with("CENTERED", u8::from(centered))
        .kernel(entry, TEXT, TEAM_THREADS);
    (kernel, TEAM_THREADS / team)
}

/// x and gamma as saved, and epsilon.
type Saved = (NodeId, NodeId, f64);

#[derive(Debug)]
struct LayerStep;

impl<B: Backend + NormBackward> Backward<B, 3> for LayerStep {
    type State = Saved;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (x, gamma, epsilon) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        let gamma = checkpointer.retrieve_node_output::<FloatTensor<B>>(gamma);
        let (dx, dgamma, dbeta) = B::layer_norm_rows_backward(x, gamma, grad, epsilon);
        for (parent, gradient) in ops.parents.into_iter().zip([dx, dgamma, dbeta]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct RmsStep;

impl<B: Backend + NormBackward> Backward<B, 2> for RmsStep {
    type State = Saved;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (x, gamma, epsilon) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        let gamma = checkpointer.retrieve_node_output::<FloatTensor<B>>(gamma);
        let (dx, dgamma) = B::rms_norm_rows_backward(x, gamma, grad, epsilon);
        for (parent, gradient) in ops.parents.into_iter().zip([dx, dgamma]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: Backend + Norm + NormBackward, C: CheckpointStrategy> Norm for Autodiff<B, C> {
    fn layer_norm_rows(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        out: DType,
    ) -> FloatTensor<Self> {
        let [a, b, c] = [&x, &gamma, &beta].map(|t| t.primitive().clone());
        let y = B::layer_norm_rows(a, b, c, epsilon, out);
        let nodes = [x.node(), gamma.node(), beta.node()];
        match LayerStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = (prep.checkpoint(&x), prep.checkpoint(&gamma), epsilon);
                prep.finish(saved, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn rms_norm_rows(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        out: DType,
    ) -> FloatTensor<Self> {
        let [a, b] = [&x, &gamma].map(|t| t.primitive().clone());
        let y = B::rms_norm_rows(a, b, epsilon, out);
        let nodes = [x.node(), gamma.node()];
        match RmsStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = (prep.checkpoint(&x), prep.checkpoint(&gamma), epsilon);
                prep.finish(saved, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
