//! Rows of a table by their ids. Its gradient adds the rows of equal ids, which burn does with atomics,
//! in an order that changes from run to run. Here places are sorted by id, and those of one id keep
//! their order.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, DType, Dispatch, Shape, TensorMetadata, backend_extension};
use burn::tensor::{Int, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::common::{Defines, blocks, empty, name, text, vector};
use super::source::buffer;

const TEXT: &str = text!("common.cu", "embedding.cu");

/// Threads of the three kernels, as in the text.
const FORWARD_THREADS: usize = 256;
const SORT_THREADS: usize = 1024;
const SUM_THREADS: usize = 256;

/// Rows of the table whose places a block sorts, as in the text.
const SORT_ROWS: usize = 128;

/// Most rows of the table that a block sums, and how many blocks are enough to sum fewer.
const SUM_ROWS: usize = 32;
const SUM_BLOCKS: usize = 1024;

/// A lookup that can be differentiated.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait Lookup: Backend {
    /// The rows of an f32 table.
    fn lookup(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self>;
}

/// Its backward pass.
#[backend_extension(Cube)]
pub(crate) trait LookupBackward: Backend {
    /// The gradient of a table of `shape`.
    fn lookup_backward(
        grad: FloatTensor<Self>,
        ids: IntTensor<Self>,
        shape: Shape,
    ) -> FloatTensor<Self>;
}

/// Rows `ids`, `[B, T]`, of an f32 table `[V, D]`: `-> [B, T, D]`, f32. What an id past the table gives
/// is not a number.
pub(crate) fn lookup(table: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    let (table, ids) = (table.into_dispatch(), ids.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Lookup>::lookup(table, ids))
}

/// Shape of the rows.
fn looked_up(table: &Shape, ids: &Shape) -> Shape {
    let mut shape: Vec<usize> = ids.to_vec();
    shape.push(table[1]);
    Shape::from(shape)
}

impl Lookup for CubeBackend {
    fn lookup(table: CubeTensor, ids: CubeTensor) -> CubeTensor {
        let [table, ids] = [table, ids].map(into_contiguous);
        let (shape, count) = (table.shape(), ids.shape().num_elements());
        let out = empty(&table, looked_up(&shape, &ids.shape()), DType::F32);
        let vector = vector(shape[1], &[&table, &out], &[&table]);
        let kernel = Defines::of("embedding_forward")
            .with("ID", name(ids.dtype))
            .with("COLUMNS", shape[1])
            .with("VECTOR", vector)
            .kernel("embedding_forward", TEXT, FORWARD_THREADS);
        let works = count * (shape[1] / vector);
        let grid = [blocks(works.div_ceil(FORWARD_THREADS)), 1, 1];
        let resources = [&table, &ids, &out].map(buffer).to_vec();
        kernel.launch(&out, grid, resources, vec![count as u64, shape[0] as u64]);
        out
    }
}

impl LookupBackward for CubeBackend {
    fn lookup_backward(grad: CubeTensor, ids: CubeTensor, shape: Shape) -> CubeTensor {
        let [grad, ids] = [grad, ids].map(into_contiguous);
        let (table_rows, columns) = (shape[0], shape[1]);
        let count = ids.shape().num_elements();
        let words = vec![count as u64, table_rows as u64];

        let order = empty(&ids, [count], DType::I32);
        let starts = empty(&ids, [table_rows + 1], DType::I32);
        let kernel = Defines::of("embedding_sort")
            .with("ID", name(ids.dtype))
            .kernel("embedding_sort", TEXT, SORT_THREADS);
        let grid = [blocks(table_rows.div_ceil(SORT_ROWS)), 1, 1];
        let resources = [&ids, &order, &starts].map(buffer).to_vec();
        kernel.launch(&order, grid, resources, words.clone());

        let dtable = empty(&grad, shape, DType::F32);
        let vector = vector(columns, &[&grad], &[&dtable]);
        let of_block = (table_rows / SUM_BLOCKS).clamp(1, SUM_ROWS);
        let kernel = Defines::of("embedding_sum")
            .with("GRAD", name(grad.dtype))
            .with("COLUMNS", columns)
            .with("VECTOR", vector)
            .with("ROWS", of_block)
            .kernel("embedding_sum", TEXT, SUM_THREADS);
        let across = blocks(columns.div_ceil(32 * vector));
        let grid = [blocks(table_rows.div_ceil(of_block)), across, 1];
        let resources = [&grad, &order, &starts, &dtable].map(buffer).to_vec();
        kernel.launch(&dtable, grid, resources, words);
        dtable
    }
}

#[derive(Debug)]
struct Step;

impl<B: Backend + LookupBackward> Backward<B, 1> for Step {
    /// The ids, and the shape of the table.
    type State = (IntTensor<B>, Shape);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [node] = ops.parents;
        let (ids, shape) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::lookup_backward(grad, ids, shape));
        }
    }
}

impl<B: Backend + Lookup + LookupBackward, C: CheckpointStrategy> Lookup for Autodiff<B, C> {
    fn lookup(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        let rows = B::lookup(table.primitive().clone(), ids.clone());
        match Step.prepare::<C>([table.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((ids, table.shape()), rows),
            OpsKind::UnTracked(prep) => prep.finish(rows),
        }
    }
}
