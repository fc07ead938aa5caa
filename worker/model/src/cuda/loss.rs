//! Cross-entropy over a vocabulary. burn writes log-probabilities for every score and reads them
//! back; here a row is read once, and the backward pass writes the gradient of the scores from the
//! scores and one number per row.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, DType, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Int, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::common::{Defines, bits, blocks, empty, name, rows, text, vector};
use super::source::{Source, buffer};

const TEXT: &str = text!("common.cu", "loss.cu");
const THREADS: usize = 256;

/// A loss that can be differentiated.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait Loss: Backend {
    /// The loss of every row of scores, of the shape of `weights`.
    fn cross_entropy_rows(
        scores: FloatTensor<Self>,
        targets: IntTensor<Self>,
        weights: FloatTensor<Self>,
        smoothing: f64,
    ) -> FloatTensor<Self>;
}

/// What its passes are made of.
#[backend_extension(Cube)]
pub(crate) trait LossParts: Backend {
    /// The loss of every row, and the logarithm of the sum of the exponentials of its scores.
    fn cross_entropy_rows_forward(
        scores: FloatTensor<Self>,
        targets: IntTensor<Self>,
        weights: FloatTensor<Self>,
        smoothing: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of the scores, given those logarithms and the gradient of the loss.
    fn cross_entropy_rows_backward(
        scores: FloatTensor<Self>,
        targets: IntTensor<Self>,
        weights: FloatTensor<Self>,
        total: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        smoothing: f64,
    ) -> FloatTensor<Self>;
}

/// The loss of every target, with `p = log softmax(scores)`:
/// ```text
/// -weight[b, t] ((1 - smoothing) p[b, t, target] + smoothing mean_v p[b, t, v])
/// ```
/// Scores are `[B, T, V]`, bf16 or f32, targets and weights `[B, T]`, weights without gradient and f32
/// as the result; `-> [B, T]`. Where a weight is 0, scores are not looked at.
pub(crate) fn cross_entropy(
    scores: Tensor<3>,
    targets: Tensor<2, Int>,
    weights: Tensor<2>,
    smoothing: f64,
) -> Tensor<2> {
    let scores = scores.into_dispatch();
    let (targets, weights) = (targets.into_dispatch(), weights.into_dispatch());
    let loss = <Dispatch as Loss>::cross_entropy_rows(scores, targets, weights, smoothing);
    Tensor::from_dispatch(loss)
}

impl Loss for CubeBackend {
    fn cross_entropy_rows(
        scores: CubeTensor,
        targets: CubeTensor,
        weights: CubeTensor,
        smoothing: f64,
    ) -> CubeTensor {
        Self::cross_entropy_rows_forward(scores, targets, weights, smoothing).0
    }
}

impl LossParts for CubeBackend {
    fn cross_entropy_rows_forward(
        scores: CubeTensor,
        targets: CubeTensor,
        weights: CubeTensor,
        smoothing: f64,
    ) -> (CubeTensor, CubeTensor) {
        let [scores, targets, weights] = [scores, targets, weights].map(into_contiguous);
        let loss = empty(&weights, weights.shape(), DType::F32);
        let total = empty(&weights, weights.shape(), DType::F32);
        let (kernel, grid) = kernel("loss_forward", &[&scores], &targets, &[&weights]);
        let resources = [&scores, &targets, &weights, &loss, &total].map(buffer);
        kernel.launch(&loss, grid, resources.to_vec(), vec![bits(smoothing)]);
        (loss, total)
    }

    fn cross_entropy_rows_backward(
        scores: CubeTensor,
        targets: CubeTensor,
        weights: CubeTensor,
        total: CubeTensor,
        grad: CubeTensor,
        smoothing: f64,
    ) -> CubeTensor {
        let [scores, targets, weights] = [scores, targets, weights].map(into_contiguous);
        let [total, grad] = [total, grad].map(into_contiguous);
        let dscores = empty(&scores, scores.shape(), scores.dtype);
        let beside = [&weights, &total, &grad];
        let (kernel, grid) = kernel("loss_backward", &[&scores, &dscores], &targets, &beside);
        let resources = [&scores, &targets, &weights, &total, &grad, &dscores].map(buffer);
        kernel.launch(&dscores, grid, resources.to_vec(), vec![bits(smoothing)]);
        dscores
    }
}

/// The kernel and its blocks; `wide` are the scores and what has their shape, `beside` are f32.
fn kernel(
    entry: &'static str,
    wide: &[&CubeTensor],
    targets: &CubeTensor,
    beside: &[&CubeTensor],
) -> (Source, [u32; 3]) {
    let (columns, count) = rows(wide[0]);
    let kernel = Defines::of(entry)
        .with("INPUT", name(wide[0].dtype))
        .with("ID", name(targets.dtype))
        .with("COLUMNS", columns)
        .with("VECTOR", vector(columns, wide, beside))
        .kernel(entry, TEXT, THREADS);
    (kernel, [blocks(count), 1, 1])
}

#[derive(Debug)]
struct Step;

impl<B: Backend + LossParts> Backward<B, 1> for Step {
    /// Scores as saved; targets, weights and logarithms; the smoothing.
    type State = (NodeId, IntTensor<B>, [FloatTensor<B>; 2], f64);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [node] = ops.parents;
        let (scores, targets, [weights, total], smoothing) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let scores = checkpointer.retrieve_node_output::<FloatTensor<B>>(scores);
        if let Some(node) = node {
            let gradient =
                B::cross_entropy_rows_backward(scores, targets, weights, total, grad, smoothing);
            grads.register::<B>(node.id, gradient);
        }
    }
}

impl<B: Backend + Loss + LossParts, C: CheckpointStrategy> Loss for Autodiff<B, C> {
    fn cross_entropy_rows(
        scores: FloatTensor<Self>,
        targets: IntTensor<Self>,
        weights: FloatTensor<Self>,
        smoothing: f64,
    ) -> FloatTensor<Self> {
        let (read, weights) = (scores.primitive().clone(), weights.primitive().clone());
        let (loss, total) =
            B::cross_entropy_rows_forward(read, targets.clone(), weights.clone(), smoothing);
        match Step
            .prepare::<C>([scores.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let saved = prep.checkpoint(&scores);
                prep.finish((saved, targets, [weights, total], smoothing), loss)
            }
            OpsKind::UnTracked(prep) => prep.finish(loss),
        }
    }
}
