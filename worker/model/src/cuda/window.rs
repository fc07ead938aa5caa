//! Convolutions as products: the windows of images as rows. Channels come last, so that what a row
//! takes from a pixel lies together, in the image and in the row.

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

const TEXT: &str = text!("common.cu", "window.cu");
const THREADS: usize = 256;

/// Vectors of a row that a thread writes; as in the text.
const EACH: usize = 4;

/// Windows that can be differentiated.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait Window: Backend {
    /// The windows of `side` squared pixels of bf16 images, every `stride` pixels.
    fn windows(x: FloatTensor<Self>, side: usize, stride: usize) -> FloatTensor<Self>;
}

/// Their backward pass.
#[backend_extension(Cube)]
pub(crate) trait WindowBackward: Backend {
    /// The gradient of images of `shape`.
    fn windows_backward(
        grad: FloatTensor<Self>,
        shape: Shape,
        side: usize,
        stride: usize,
    ) -> FloatTensor<Self>;
}

/// The windows of `side` by `side` pixels, `side` odd, around every `stride`-th pixel of bf16 images
/// `[B, H, W, C]`, zeros where a window sticks out: `-> [B H' W', P]` with `H' = ceil(H / stride)` and
/// `W'` alike. Columns are (row of the window, column of the window, channel), followed by zeros up to
/// a multiple of 8, P.
pub(crate) fn window(x: Tensor<4>, side: usize, stride: usize) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Window>::windows(
        x.into_dispatch(),
        side,
        stride,
    ))
}

/// Shape of the rows.
fn rows(image: &Shape, side: usize, stride: usize) -> Shape {
    let places = image[0] * image[1].div_ceil(stride) * image[2].div_ceil(stride);
    Shape::from([places, (side * side * image[3]).next_multiple_of(8)])
}

impl Window for CubeBackend {
    fn windows(x: CubeTensor, side: usize, stride: usize) -> CubeTensor {
        let x = into_contiguous(x);
        let image = x.shape();
        let columns = empty(&x, rows(&image, side, stride), DType::BF16);
        let row = columns.shape();
        let vector = pixel_vector(image[3], &[&x, &columns], &[]);
        let works = (row[0] / image[0] * row[1] / 8).div_ceil(EACH);
        let sizes = [side, stride, vector, works];
        launch("window_forward", [&x, &columns], &image, sizes);
        columns
    }
}

impl WindowBackward for CubeBackend {
    fn windows_backward(grad: CubeTensor, shape: Shape, side: usize, stride: usize) -> CubeTensor {
        let grad = into_contiguous(grad);
        let dx = empty(&grad, shape.clone(), DType::BF16);
        let vector = pixel_vector(shape[3], &[&grad, &dx], &[]);
        let works = shape[1] * shape[2] * shape[3] / vector;
        let sizes = [side, stride, vector, works];
        launch("window_backward", [&grad, &dx], &shape, sizes);
        dx
    }
}

/// The kernel from the first to the second of `buffers`, with `works` threads for each image.
fn launch(
    entry: &'static str,
    buffers: [&CubeTensor; 2],
    image: &Shape,
    [side, stride, vector, works]: [usize; 4],
) {
    assert!(side % 2 == 1, "a window has a middle");
    let kernel = Defines::of(entry)
        .with("HEIGHT", image[1])
        .with("WIDTH", image[2])
        .with("CHANNELS", image[3])
        .with("KERNEL", side)
        .with("STRIDE", stride)
        .with("COLUMNS", rows(image, side, stride)[1])
        .with("VECTOR", vector)
        .kernel(entry, TEXT, THREADS);
    let grid = [blocks(works.div_ceil(THREADS)), blocks(image[0]), 1];
    kernel.launch(buffers[1], grid, buffers.map(buffer).to_vec(), Vec::new());
}

#[derive(Debug)]
struct Step;

impl<B: Backend + WindowBackward> Backward<B, 1> for Step {
    /// Shape of the images, side and stride of the windows.
    type State = (Shape, usize, usize);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [node] = ops.parents;
        let (shape, side, stride) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let Some(node) = node {
            let gradient = B::windows_backward(grad, shape, side, stride);
            grads.register::<B>(node.id, gradient);
        }
    }
}

impl<B: Backend + Window + WindowBackward, C: CheckpointStrategy> Window for Autodiff<B, C> {
    fn windows(x: FloatTensor<Self>, side: usize, stride: usize) -> FloatTensor<Self> {
        let columns = B::windows(x.primitive().clone(), side, stride);
        match Step.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x.shape(), side, stride), columns),
            OpsKind::UnTracked(prep) => prep.finish(columns),
        }
    }
}
