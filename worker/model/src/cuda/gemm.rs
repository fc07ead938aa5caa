//! Which kernel computes a product, and its launch: `gemm.cu`.
//!
//! The choice follows from the shape alone. burn chooses by timing, or without timing takes a kernel
//! that is far from the fastest; here equal devices compute equal bits and nothing is measured at start.

use burn::backend::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::server::{KernelResource, TensorMapBinding, TensorMapMeta};
use cubecl::zspace::{metadata::Metadata, shape, strides};

use super::common::{Defines, bits, blocks, empty, rows};
use super::source::{Source, binding, buffer};
use crate::ops::{Form, Heads};

const TEXT: &str = include_str!("gemm.cu");
const SUM: &str = include_str!("sum.cu");
const PITCH: &str = include_str!("pitch.cu");

/// Rows of a tile, and its depth.
const ROWS: usize = 128;
const DEPTH: usize = 64;

/// Blocks that run at once: the multiprocessors of an H100 or H200. Sums depend on it through the cuts
/// of [`splits`], so it is the same on every device.
const BLOCKS: usize = 132;

/// One product, for every batch and head: rows, depth and columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batches: usize,
    pub(super) heads: usize,
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) n: usize,
}

/// What else is asked of a product.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) form: Form,
    pub(super) heads: Heads,
    /// Factor of the result.
    pub(super) alpha: f32,
    pub(super) shape: Shape,
    pub(super) out: DType,
}

/// What its instructions are compiled for: they came with compute capability 9.0 and left with it.
const PROCESSOR: &str = "ptx_sm90";

/// Whether the kernel can compute such a product where `factor` lies: it writes two columns at a time.
pub(super) fn fits(factor: &CubeTensor, sizes: Sizes) -> bool {
    let processor = &factor.client.properties().identity.fingerprint;
    processor == PROCESSOR && sizes.n.is_multiple_of(2)
}

/// The product of packed bf16 operands.
pub(super) fn launch(
    left: &CubeTensor,
    right: &CubeTensor,
    sizes: Sizes,
    wanted: Wanted,
) -> CubeTensor {
    let Sizes {
        batches,
        heads,
        m,
        k,
        n,
    } = sizes;
    let columns = if n <= 64 { 64 } else { 128 };
    let tiles = batches * heads * m.div_ceil(ROWS) * n.div_ceil(columns);
    // The pieces of a sum are added where heads lie apart.
    let splits = if wanted.heads.between(2) {
        1
    } else {
        splits(tiles, k.div_ceil(DEPTH))
    };
    let result = empty(left, wanted.shape, wanted.out);
    // Pieces are added in f32, whatever the result is.
    let pieces = if splits == 1 {
        result.clone()
    } else {
        empty(left, [splits * batches * heads, m, n], DType::F32)
    };
    let kernel = kernel(wanted.form, columns, pieces.dtype, n);
    let strides = if wanted.heads.between(2) {
        [heads * n, n, m * heads * n, 0]
    } else {
        [n, splits * m * n, heads * splits * m * n, m * n]
    };
    let (left, right) = (pitched(left), pitched(right));
    let maps = maps(&left, &right, sizes, wanted.form, wanted.heads, columns);
    let resources = maps.into_iter().chain([buffer(&pieces)]).collect();
    let numbers = [m, n, k, heads, batches, splits].into_iter().chain(strides);
    let mut words: Vec<u64> = numbers.map(|x| x as u64).collect();
    words.push(bits(f64::from(wanted.alpha)));
    let grid = (tiles * splits).min(BLOCKS);
    kernel.launch(&pieces, [blocks(grid), 1, 1], resources, words);
    if splits > 1 {
        sum(&pieces, &result, [batches * heads, splits, m * n]);
    }
    result
}

fn kernel(form: Form, columns: usize, out: DType, n: usize) -> Source {
    let layout = match form {
        Form::Plain => 0,
        Form::RightTransposed => 1,
        Form::LeftTransposed => 2,
    };
    Defines::of("gemm")
        .with("LAYOUT", layout)
        .with("BN", columns)
        .with("STAGES", if columns == 64 { 8 } else { 6 })
        .with("OUT_F32", u8::from(out == DType::F32))
        .with("EPI_PAIRS", u8::from(!n.is_multiple_of(8)))
        .kernel("gemm", TEXT, 384)
}

/// Into how many pieces a sum over `depth` tiles is cut, so that `tiles` of the result keep the whole
/// device busy: the cut that leaves the fewest blocks idle in the last round, a piece costing 3 % more.
fn splits(tiles: usize, depth: usize) -> usize {
    let most = (depth / 4).clamp(1, 32);
    let cost = |pieces: &usize| {
        let rounds = (tiles * pieces).div_ceil(BLOCKS);
        let work = (rounds * depth.div_ceil(*pieces)) as f64;
        (work * (1.0 + 0.03 * (*pieces - 1) as f64) * 1e6) as u64
    };
    (1..=most).min_by_key(cost).unwrap_or(1)
}

/// How both operands are read, tile by tile.
fn maps(
    left: &CubeTensor,
    right: &CubeTensor,
    sizes: Sizes,
    form: Form,
    heads: Heads,
    columns: usize,
) -> [KernelResource; 2] {
    let Sizes { m, k, n, .. } = sizes;
    // Where K is contiguous a tile is one box; else it is blocks of 64 columns.
    let deep = |rows: usize| [rows, DEPTH];
    let wide = [DEPTH, 64];
    let [left_side, right_side] = match form {
        Form::Plain => [([m, k], deep(ROWS)), ([k, n], wide)],
        Form::RightTransposed => [([m, k], deep(ROWS)), ([n, k], deep(columns))],
        Form::LeftTransposed => [([k, m], wide), ([k, n], wide)],
    };
    [
        map(left, sizes, left_side, heads.between(0)),
        map(right, sizes, right_side, heads.between(1)),
    ]
}

/// An operand of `[rows, columns]` for every head, read in boxes of `[high, wide]`.
fn map(
    tensor: &CubeTensor,
    sizes: Sizes,
    ([rows, columns], [high, wide]): ([usize; 2], [usize; 2]),
    between: bool,
) -> KernelResource {
    let Sizes { batches, heads, .. } = sizes;
    let pitch = pitch(columns);
    let (row, head) = if between {
        (heads * pitch, pitch)
    } else {
        (pitch, rows * pitch)
    };
    let map = TensorMapMeta {
        format: TensorMapFormat::Tiled(TiledArgs {
            tile_size: shape![1, 1, high, wide],
        }),
        metadata: Metadata::new(
            shape![batches, heads, rows, columns],
            strides![heads * rows * pitch, head, row, 1],
        ),
        elem_stride: strides![1, 1, 1, 1],
        interleave: TensorMapInterleave::None,
        swizzle: TensorMapSwizzle::B128,
        prefetch: TensorMapPrefetch::B256,
        oob_fill: OobFill::Zero,
        elem_ty: ElemType::Float(FloatKind::BF16),
    };
    KernelResource::TensorMap(TensorMapBinding::new(binding(tensor), map))
}

/// Elements from one row of an operand to the next: a multiple of 16 bytes.
fn pitch(columns: usize) -> usize {
    columns.next_multiple_of(8)
}

/// The operand with its rows that far apart.
fn pitched(tensor: &CubeTensor) -> CubeTensor {
    const THREADS: usize = 256;
    let (columns, rows) = rows(tensor);
    let pitch = pitch(columns);
    if pitch == columns {
        return tensor.clone();
    }
    let copy = empty(tensor, [rows, pitch], DType::BF16);
    let grid = (rows * columns).div_ceil(THREADS);
    Defines::of("pitch").kernel("pitch", PITCH, THREADS).launch(
        tensor,
        [blocks(grid), 1, 1],
        vec![buffer(tensor), buffer(&copy)],
        [rows, columns, pitch].map(|x| x as u64).to_vec(),
    );
    copy
}

/// `to[b] = sum over s of from[b, s]`, in order of s.
fn sum(from: &CubeTensor, to: &CubeTensor, [batches, splits, len]: [usize; 3]) {
    const THREADS: usize = 256;
    let kernel = Defines::of("sum").with("OUT_F32", u8::from(to.dtype == DType::F32));
    let grid = (batches * len).div_ceil(2 * THREADS);
    kernel.kernel("sum", SUM, THREADS).launch(
        to,
        [blocks(grid), 1, 1],
        vec![buffer(from), buffer(to)],
        [batches, splits, len].map(|x| x as u64).to_vec(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_cut_only_where_that_fills_the_device() {
        // Many tiles: nothing is gained. One tile and a deep sum: all of the device is.
        assert_eq!(splits(132 * 40, 12), 1);
        assert_eq!(splits(1, 4), 1);
        assert!(splits(36, 256) > 2);
        for tiles in 1..300 {
            for depth in [1, 3, 12, 100, 3000] {
                let pieces = splits(tiles, depth);
                assert!((1..=depth).contains(&pieces), "{tiles} {depth}");
            }
        }
    }
}
