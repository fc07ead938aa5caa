//! Matrix products on tensor cores: bf16 in, sums in f32, bf16 or f32 out.

use super::gemm::{self, Sizes, Wanted};
use crate::ops::{Form, Heads};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, DType, Shape, TensorMetadata, backend_extension};
use burn::tensor::FloatDType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::tensor::CubeTensor;

/// A product that can be differentiated.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait Product: Backend {
    /// `alpha` times the product of bf16 or f32 operands of equal batches, rounded to bf16, in `out`:
    /// bf16 or f32. A gradient has the type of its operand, so that of an f32 weight is summed in f32
    /// and never rounded to bf16.
    fn product(
        lhs: FloatTensor<Self>,
        rhs: FloatTensor<Self>,
        form: Form,
        heads: Heads,
        alpha: f32,
        out: DType,
    ) -> FloatTensor<Self>;
}

/// M, K and N of every head.
fn sizes(lhs: &Shape, rhs: &Shape, form: Form, heads: Heads) -> [usize; 3] {
    let sides = |shape: &Shape, between: bool| {
        let rank = shape.num_dims();
        let row = rank - if between { 3 } else { 2 };
        [shape[row], shape[rank - 1]]
    };
    form.sizes(&sides(lhs, heads.between(0)), &sides(rhs, heads.between(1)))
}

/// Shape of the product.
fn output(lhs: &Shape, rhs: &Shape, form: Form, heads: Heads) -> Shape {
    let [m, _, n] = sizes(lhs, rhs, form, heads);
    let rank = lhs.num_dims();
    let mut shape = lhs.clone();
    if rank == 4 {
        let of_left = if heads.between(0) { 2 } else { 1 };
        shape[1] = lhs[of_left];
    }
    (shape[rank - 2], shape[rank - 1]) = (m, n);
    if heads.between(2) {
        (shape[1], shape[2]) = (shape[2], shape[1]);
    }
    shape
}

impl Product for CubeBackend {
    fn product(
        lhs: CubeTensor,
        rhs: CubeTensor,
        form: Form,
        heads: Heads,
        alpha: f32,
        out: DType,
    ) -> CubeTensor {
        let shape = output(&lhs.shape(), &rhs.shape(), form, heads);
        let [m, k, n] = sizes(&lhs.shape(), &rhs.shape(), form, heads);
        let number = if shape.num_dims() == 4 {
            shape[if heads.between(2) { 2 } else { 1 }]
        } else {
            1
        };
        let sizes = Sizes {
            batches: shape.num_elements() / (m * n * number),
            heads: number,
            m,
            k,
            n,
        };
        let [lhs, rhs] = [lhs, rhs].map(|x| into_contiguous(cast(x, DType::BF16)));
        if gemm::fits(&lhs, sizes) {
            let wanted = Wanted {
                form,
                heads,
                alpha,
                shape,
                out,
            };
            return gemm::launch(&lhs, &rhs, sizes, wanted);
        }
        // Columns of odd number, which are rare and few, and other GPUs: burn's own kernel.
        let apart = |x: CubeTensor, between: bool| if between { swapped(x, 1, 2) } else { x };
        let rank = lhs.meta.num_dims();
        let transposed = |x: CubeTensor| swapped(x, rank - 2, rank - 1);
        let (lhs, rhs) = (apart(lhs, heads.between(0)), apart(rhs, heads.between(1)));
        let (lhs, rhs) = match form {
            Form::Plain => (lhs, rhs),
            Form::RightTransposed => (lhs, transposed(rhs)),
            Form::LeftTransposed => (transposed(lhs), rhs),
        };
        let product = Self::float_mul_scalar(Self::float_matmul(lhs, rhs), alpha.into());
        into_contiguous(cast(apart(product, heads.between(2)), out))
    }
}

fn swapped(tensor: CubeTensor, a: usize, b: usize) -> CubeTensor {
    CubeBackend::float_swap_dims(tensor, a, b)
}

#[derive(Debug)]
struct ProductBackward;

/// What its backward pass needs to know of a product.
#[derive(Clone, Copy, Debug)]
struct Made {
    types: [DType; 2],
    form: Form,
    heads: Heads,
    alpha: f32,
}

impl<B: Backend + Product> Backward<B, 2> for ProductBackward {
    type State = (Option<NodeId>, Option<NodeId>, Made);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [left, right] = ops.parents;
        let (lhs, rhs, made) = ops.state;
        let Made {
            types: [left_type, right_type],
            form,
            heads: Heads([a, b, c]),
            alpha,
        } = made;
        // Once for both.
        let grad = B::float_cast(grads.consume::<B>(&ops.node), FloatDType::BF16);
        let mut saved = |id: Option<NodeId>| {
            id.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id))
        };
        let (lhs, rhs) = (saved(lhs), saved(rhs));
        let (plain, right_t, left_t) = (Form::Plain, Form::RightTransposed, Form::LeftTransposed);
        if let (Some(node), Some(rhs)) = (left, rhs) {
            let g = grad.clone();
            let gradient = match form {
                Form::Plain => B::product(g, rhs, right_t, Heads([c, b, a]), alpha, left_type),
                Form::RightTransposed => {
                    B::product(g, rhs, plain, Heads([c, b, a]), alpha, left_type)
                }
                Form::LeftTransposed => {
                    B::product(rhs, g, right_t, Heads([b, c, a]), alpha, left_type)
                }
            };
            grads.register::<B>(node.id, gradient);
        }
        if let (Some(node), Some(lhs)) = (right, lhs) {
            let gradient = match form {
                Form::Plain => B::product(lhs, grad, left_t, Heads([a, c, b]), alpha, right_type),
                Form::RightTransposed => {
                    B::product(grad, lhs, left_t, Heads([c, a, b]), alpha, right_type)
                }
                Form::LeftTransposed => {
                    B::product(lhs, grad, plain, Heads([a, c, b]), alpha, right_type)
                }
            };
            grads.register::<B>(node.id, gradient);
        }
    }
}

impl<B: Backend + Product, C: CheckpointStrategy> Product for Autodiff<B, C> {
    fn product(
        lhs: FloatTensor<Self>,
        rhs: FloatTensor<Self>,
        form: Form,
        heads: Heads,
        alpha: f32,
        out: DType,
    ) -> FloatTensor<Self> {
        let made = Made {
            types: [lhs.dtype(), rhs.dtype()],
            form,
            heads,
            alpha,
        };
        let product = |l: &FloatTensor<Self>, r: &FloatTensor<Self>| {
            let (l, r) = (l.primitive().clone(), r.primitive().clone());
            B::product(l, r, form, heads, alpha, out)
        };
        let node = ProductBackward.prepare::<C>([lhs.node(), rhs.node()]);
        match node.compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved_left = rhs.is_tracked().then(|| prep.checkpoint(&lhs));
                let saved_right = lhs.is_tracked().then(|| prep.checkpoint(&rhs));
                prep.finish((saved_left, saved_right, made), product(&lhs, &rhs))
            }
            OpsKind::UnTracked(prep) => prep.finish(product(&lhs, &rhs)),
        }
    }
}
