//! Softmax in one pass over memory each way, computed in f32 whatever the scores are. burn finds
//! maxima, exponentials and sums in passes of their own, each rounded to the type of the scores.

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

use super::common::{Defines, TEAM_THREADS, blocks, empty, name, rows, team, text, vector};
use super::source::buffer;

const TEXT: &str = text!("common.cu", "team.cu", "softmax.cu");

/// Softmax that can be differentiated.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait Softmax: Backend {
    /// `exp(x) / sum(exp(x))` of rows of bf16 or f32, in `out`.
    fn softmax_rows(x: FloatTensor<Self>, out: DType) -> FloatTensor<Self>;
}

/// Its backward pass.
#[backend_extension(Cube)]
pub(crate) trait SoftmaxBackward: Backend {
    /// The gradient of the scores, of type `of`, given the result and its gradient.
    fn softmax_rows_backward(
        p: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        of: DType,
    ) -> FloatTensor<Self>;
}

/// Softmax over the last dimension, at most 4096, of bf16 or f32, in the same type.
pub(crate) fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let out = x.dtype();
    softmax_in(x, out)
}

/// The same in `out`: bf16 or f32.
pub(crate) fn softmax_in<const D: usize>(x: Tensor<D>, out: DType) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Softmax>::softmax_rows(x.into_dispatch(), out))
}

impl Softmax for CubeBackend {
    fn softmax_rows(x: CubeTensor, out: DType) -> CubeTensor {
        let x = into_contiguous(x);
        let p = empty(&x, x.shape(), out);
        let defines = Defines::of("softmax_forward").with("OUTPUT", name(out));
        launch("softmax_forward", defines, &x, &[&x, &p]);
        p
    }
}

impl SoftmaxBackward for CubeBackend {
    fn softmax_rows_backward(p: CubeTensor, grad: CubeTensor, of: DType) -> CubeTensor {
        let [p, grad] = [p, grad].map(into_contiguous);
        let dx = empty(&p, p.shape(), of);
        let defines = Defines::of("softmax_backward")
            .with("OUTPUT", name(p.dtype))
            .with("GRAD", name(grad.dtype));
        launch("softmax_backward", defines, &dx, &[&p, &grad, &dx]);
        dx
    }
}

/// `scores`: the scores or their gradient.
fn launch(entry: &'static str, defines: Defines, scores: &CubeTensor, buffers: &[&CubeTensor]) {
    let (columns, count) = rows(scores);
    let vector = vector(columns, buffers, &[]);
    let team = team(columns, vector);
    let kernel = defines
        .with("INPUT", name(scores.dtype))
        .with("COLUMNS", columns)
        .with("VECTOR", vector)
        .with("TEAM", team)
        .kernel(entry, TEXT, TEAM_THREADS);
    let grid = [blocks(count.div_ceil(TEAM_THREADS / team)), 1, 1];
    let resources = buffers.iter().map(|tensor| buffer(tensor)).collect();
    kernel.launch(scores, grid, resources, vec![count as u64]);
}

#[derive(Debug)]
struct Step;

impl<B: Backend + SoftmaxBackward> Backward<B, 1> for Step {
    /// The result, and the type of the scores.
    type State = (FloatTensor<B>, DType);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [node] = ops.parents;
        let (p, of) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::softmax_rows_backward(p, grad, of));
        }
    }
}

impl<B: Backend + Softmax + SoftmaxBackward, C: CheckpointStrategy> Softmax for Autodiff<B, C> {
    fn softmax_rows(x: FloatTensor<Self>, out: DType) -> FloatTensor<Self> {
        let of = x.dtype();
        let p = B::softmax_rows(x.primitive().clone(), out);
        match Step.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((p.clone(), of), p),
            OpsKind::UnTracked(prep) => prep.finish(p),
        }
    }
}
