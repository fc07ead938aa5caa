//! A tensor times a learned number. The number's gradient is a sum over all elements, for which burn's
//! reduction without tuning uses a handful of threads.

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

use super::common::{Defines, blocks, empty, fold, text};
use super::source::buffer;

const TEXT: &str = text!("common.cu", "scale.cu");
const THREADS: usize = 256;

/// Most blocks that share a sum; fixed, because the sum depends on it.
const SHARES: usize = 528;

/// The product, which can be differentiated.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait Scale: Backend {
    /// `x`, f32, times the one element of `factor`.
    fn scaled(x: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// For its backward pass.
#[backend_extension(Cube)]
pub(crate) trait Dot: Backend {
    /// `[1]`: the sum of the products of all elements, f32.
    fn dot(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// `x`, f32, times `factor`, `[1]`.
pub(crate) fn scaled<const D: usize>(x: Tensor<D>, factor: Tensor<1>) -> Tensor<D> {
    let (x, factor) = (x.into_dispatch(), factor.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Scale>::scaled(x, factor))
}

impl Scale for CubeBackend {
    fn scaled(x: CubeTensor, factor: CubeTensor) -> CubeTensor {
        product::<Self>(x, factor)
    }
}

impl Dot for CubeBackend {
    fn dot(a: CubeTensor, b: CubeTensor) -> CubeTensor {
        let (a, b) = (into_contiguous(a), into_contiguous(b));
        let n = a.meta.shape().num_elements();
        let share = n.div_ceil(SHARES).next_multiple_of(THREADS);
        let grid = n.div_ceil(share);
        let partial = empty(&a, [grid, 1, 1], DType::F32);
        let kernel = Defines::of("shares").kernel("shares", TEXT, THREADS);
        let resources = vec![buffer(&a), buffer(&b), buffer(&partial)];
        kernel.launch(
            &a,
            [blocks(grid), 1, 1],
            resources,
            vec![n as u64, share as u64],
        );
        let [sum] = fold(&partial);
        sum
    }
}

/// By broadcasting.
fn product<B: Backend>(x: FloatTensor<B>, factor: FloatTensor<B>) -> FloatTensor<B> {
    let ones = vec![1; x.shape().num_dims()];
    B::float_mul(x, B::float_reshape(factor, Shape::from(ones)))
}

#[derive(Debug)]
struct Step;

impl<B: Backend + Dot> Backward<B, 2> for Step {
    type State = (NodeId, NodeId);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [of_x, of_factor] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(ops.state.0);
        let factor = checkpointer.retrieve_node_output::<FloatTensor<B>>(ops.state.1);
        if let Some(node) = of_factor {
            grads.register::<B>(node.id, B::dot(grad.clone(), x));
        }
        if let Some(node) = of_x {
            grads.register::<B>(node.id, product::<B>(grad, factor));
        }
    }
}

impl<B: Backend + Dot + Scale, C: CheckpointStrategy> Scale for Autodiff<B, C> {
    fn scaled(x: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
        let node = Step.prepare::<C>([x.node(), factor.node()]);
        match node.compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = (prep.checkpoint(&x), prep.checkpoint(&factor));
                let y = product::<B>(x.primitive().clone(), factor.primitive().clone());
                prep.finish(saved, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(product::<B>(
                x.primitive().clone(),
                factor.primitive().clone(),
            )),
        }
    }
}
