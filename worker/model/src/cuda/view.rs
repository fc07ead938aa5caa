//! Between burn's tensors and the memory they lie in.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Cube, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::cuda::CudaRuntime;
use cubecl_runtime::runtime::Runtime;

/// A part of a flat tensor as a tensor of its own.
#[backend_extension(Cube)]
trait View: Backend {
    /// Elements `offset..` of `flat`, `[n]`, as a tensor of `shape`, in the same memory.
    fn view(flat: FloatTensor<Self>, offset: u64, shape: Shape) -> FloatTensor<Self>;
}

impl View for CubeBackend {
    fn view(flat: CubeTensor, offset: u64, shape: Shape) -> CubeTensor {
        let size = flat.dtype.size() as u64;
        let len = flat.meta.shape().num_elements() as u64;
        let rest = len - offset - shape.num_elements() as u64;
        let handle = flat
            .handle
            .offset_start(offset * size)
            .offset_end(rest * size);
        CubeTensor::new_contiguous(flat.client, flat.device, shape, handle, flat.dtype)
    }
}

/// Elements `offset..` of `flat`, `[n]`, as a tensor of `shape`. Both share their memory: what a
/// kernel writes into one is in the other.
pub fn view<const D: usize>(flat: &Tensor<1>, offset: usize, shape: [usize; D]) -> Tensor<D> {
    let flat = flat.clone().into_dispatch();
    let view = <burn::backend::Dispatch as View>::view(flat, offset as u64, Shape::from(shape));
    Tensor::from_dispatch(view)
}

/// The memory of a tensor without gradient, once everything that computes it has been queued.
///
/// # Panics
/// If the tensor is on no CUDA device: the caller has looked.
pub fn resolve<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    let primitive = match tensor.try_into_primitive::<Cube>() {
        Ok(primitive) => primitive,
        Err(error) => panic!("not a tensor of a CUDA device: {error:?}"),
    };
    into_contiguous(primitive)
}

/// Where a tensor's memory begins on its device. It stays there as long as the tensor is kept.
///
/// # Panics
/// If the device has lost it.
pub fn address(tensor: &CubeTensor) -> u64 {
    type Server = <CudaRuntime as Runtime>::Server;
    match tensor.client.get_resource::<Server>(tensor.handle.clone()) {
        Ok(resource) => resource.resource().ptr,
        Err(error) => panic!("memory without an address: {error:?}"),
    }
}
