//! GELU and the rectifier in one pass each way. burn composes them of several operations, which each
//! round to bf16.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::source::{Source, buffer};

const TEXT: &str = include_str!("activation.cu");
const THREADS: u32 = 256;

/// Values a thread works on.
const WIDTH: usize = 8;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gelu,
    Relu,
}

/// A nonlinearity that can be differentiated.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait Activate: Backend {
    /// Of bf16 values, as many as a multiple of 8.
    fn activate(x: FloatTensor<Self>, kind: Kind) -> FloatTensor<Self>;
}

/// Its backward pass.
#[backend_extension(Cube)]
pub(crate) trait ActivateBackward: Backend {
    /// The gradient at `x`, given that of the result.
    fn activate_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kind: Kind,
    ) -> FloatTensor<Self>;
}

/// `x Phi(x)` of bf16 values, as many as a multiple of 8.
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Activate>::activate(
        x.into_dispatch(),
        Kind::Gelu,
    ))
}

/// `max(x, 0)` of bf16 values, as many as a multiple of 8.
pub(crate) fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Activate>::activate(
        x.into_dispatch(),
        Kind::Relu,
    ))
}

impl Activate for CubeBackend {
    fn activate(x: CubeTensor, kind: Kind) -> CubeTensor {
        let entry = match kind {
            Kind::Gelu => "gelu_forward",
            Kind::Relu => "relu_forward",
        };
        launch(entry, vec![x])
    }
}

impl ActivateBackward for CubeBackend {
    fn activate_backward(x: CubeTensor, grad: CubeTensor, kind: Kind) -> CubeTensor {
        let entry = match kind {
            Kind::Gelu => "gelu_backward",
            Kind::Relu => "relu_backward",
        };
        launch(entry, vec![x, grad])
    }
}

fn launch(entry: &'static str, inputs: Vec<CubeTensor>) -> CubeTensor {
    let inputs: Vec<CubeTensor> = inputs.into_iter().map(into_contiguous).collect();
    let x = &inputs[0];
    let (client, device) = (x.client.clone(), x.device.clone());
    let out = empty_device_contiguous_dtype(client, device, x.shape(), x.dtype);
    let n = x.meta.shape().num_elements();
    debug_assert_eq!(n % WIDTH, 0);
    let blocks = (n / WIDTH).div_ceil(THREADS as usize) as u32;
    let resources = inputs.iter().chain([&out]).map(buffer).collect();
    let kernel = Source::plain(entry, TEXT, THREADS);
    kernel.launch(&out, [blocks, 1, 1], resources, vec![n as u64]);
    out
}

#[derive(Debug)]
struct Step;

impl<B: Backend + ActivateBackward> Backward<B, 1> for Step {
    type State = (NodeId, Kind);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let ([node], (x, kind)) = (ops.parents, ops.state);
        let grad = grads.consume::<B>(&ops.node);
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::activate_backward(x, grad, kind));
        }
    }
}

impl<B: Backend + Activate + ActivateBackward, C: CheckpointStrategy> Activate for Autodiff<B, C> {
    fn activate(x: FloatTensor<Self>, kind: Kind) -> FloatTensor<Self> {
        match Step.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = prep.checkpoint(&x);
                prep.finish((saved, kind), B::activate(x.primitive().clone(), kind))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::activate(x.primitive().clone(), kind)),
        }
    }
}
