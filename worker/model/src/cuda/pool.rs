//! The maxima of windows of images whose channels come last. The backward pass finds the maxima again:
//! each pixel asks the windows that it is in, so no two threads add to one place, and nothing is kept.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, DType, Dispatch, Shape, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::common::{Defines, blocks, empty, pixel_vector, text};
use super::source::buffer;

const TEXT: &str = text!("common.cu", "pool.cu");
const THREADS: usize = 256;

/// A pool that can be differentiated.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait Pool: Backend {
    /// Maxima of 3 by 3 pixels around every second pixel of bf16 images.
    fn max_pool(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Its backward pass.
#[backend_extension(Cube)]
pub(crate) trait PoolBackward: Backend {
    /// The gradient of the images `x`.
    fn max_pool_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The maxima of 3 by 3 pixels around every second pixel of bf16 images `[B, H, W, C]`:
/// `-> [B, ceil(H / 2), ceil(W / 2), C]`. The gradient goes to the first of equal maxima, rows first.
pub(crate) fn max_pool(x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Pool>::max_pool(x.into_dispatch()))
}

/// Shape of the result.
fn pooled(image: &Shape) -> Shape {
    let half = |size: usize| size.div_ceil(2);
    Shape::from([image[0], half(image[1]), half(image[2]), image[3]])
}

impl Pool for CubeBackend {
    fn max_pool(x: CubeTensor) -> CubeTensor {
        let x = into_contiguous(x);
        let y = empty(&x, pooled(&x.shape()), DType::BF16);
        launch("pool_forward", &[&x, &y]);
        y
    }
}

impl PoolBackward for CubeBackend {
    fn max_pool_backward(x: CubeTensor, grad: CubeTensor) -> CubeTensor {
        let [x, grad] = [x, grad].map(into_contiguous);
        let dx = empty(&x, x.shape(), DType::BF16);
        launch("pool_backward", &[&x, &grad, &dx]);
        dx
    }
}

/// The first of `buffers` are the images.
fn launch(entry: &'static str, buffers: &[&CubeTensor]) {
    let image = buffers[0].shape();
    let result = pooled(&image);
    let vector = pixel_vector(image[3], buffers, &[]);
    let kernel = Defines::of(entry)
        .with("HEIGHT", image[1])
        .with("WIDTH", image[2])
        .with("CHANNELS", image[3])
        .with("VECTOR", vector)
        .kernel(entry, TEXT, THREADS);
    let works = result[1] * result[2] * result[3] / vector;
    let grid = [blocks(works.div_ceil(THREADS)), blocks(image[0]), 1];
    let resources = buffers.iter().map(|tensor| buffer(tensor)).collect();
    kernel.launch(buffers[0], grid, resources, Vec::new());
}

#[derive(Debug)]
struct Step;

impl<B: Backend + PoolBackward> Backward<B, 1> for Step {
    type State = NodeId;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [node] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(ops.state);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::max_pool_backward(x, grad));
        }
    }
}

impl<B: Backend + Pool + PoolBackward, C: CheckpointStrategy> Pool for Autodiff<B, C> {
    fn max_pool(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let y = B::max_pool(x.primitive().clone());
        match Step.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = prep.checkpoint(&x);
                prep.finish(saved, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
