//! A learned table added to every example. Its gradient is a sum over the batch, for which burn's
//! reduction without tuning uses too few threads.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Shape, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::common::fold;

/// The sum, which can be differentiated.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait Table: Backend {
    /// `x`, `[B, T, D]`, plus `table`, `[T, D]`, both f32.
    fn table_added(x: FloatTensor<Self>, table: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// For its backward pass.
#[backend_extension(Cube)]
pub(crate) trait OverBatch: Backend {
    /// The sum over the first dimension of f32: `[B, T, D] -> [T, D]`.
    fn sum_over_batch(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// `x + table` for every example: f32, `[B, T, D]` and `[T, D]`.
pub(crate) fn add(x: Tensor<3>, table: Tensor<2>) -> Tensor<3> {
    let (x, table) = (x.into_dispatch(), table.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Table>::table_added(x, table))
}

impl Table for CubeBackend {
    fn table_added(x: CubeTensor, table: CubeTensor) -> CubeTensor {
        sum::<Self>(x, table)
    }
}

impl OverBatch for CubeBackend {
    fn sum_over_batch(x: CubeTensor) -> CubeTensor {
        let [batch, rows, columns] = x.shape().dims();
        let flat = into_contiguous(x);
        let flat = reshaped(flat, Shape::from([batch, 1, rows * columns]));
        let [total] = fold(&flat);
        reshaped(total, Shape::from([rows, columns]))
    }
}

/// A contiguous tensor as one of another shape.
fn reshaped(x: CubeTensor, shape: Shape) -> CubeTensor {
    CubeTensor::new_contiguous(x.client, x.device, shape, x.handle, x.dtype)
}

/// By broadcasting.
fn sum<B: Backend>(x: FloatTensor<B>, table: FloatTensor<B>) -> FloatTensor<B> {
    let [rows, columns] = table.shape().dims();
    B::float_add(x, B::float_reshape(table, Shape::from([1, rows, columns])))
}

#[derive(Debug)]
struct Step;

impl<B: Backend + OverBatch> Backward<B, 2> for Step {
    type State = ();

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [of_x, of_table] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        if let Some(node) = of_table {
            grads.register::<B>(node.id, B::sum_over_batch(grad.clone()));
        }
        if let Some(node) = of_x {
            grads.register::<B>(node.id, grad);
        }
    }
}

impl<B: Backend + OverBatch + Table, C: CheckpointStrategy> Table for Autodiff<B, C> {
    fn table_added(x: FloatTensor<Self>, table: FloatTensor<Self>) -> FloatTensor<Self> {
        let node = Step.prepare::<C>([x.node(), table.node()]);
        let y = sum::<B>(x.primitive().clone(), table.primitive().clone());
        match node.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
