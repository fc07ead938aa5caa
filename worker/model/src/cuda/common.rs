//! What the operations share: how a kernel is specialised to its shapes, and sums over rows.
//!
//! Shapes and types are macros of the texts rather than arguments of the kernels: a model has few of
//! them, and loops of known length over registers are what makes these kernels as fast as the memory.

use std::fmt::{Display, Write};

use burn::backend::{DType, Shape};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::source::{Source, buffer};

/// A text behind those that it needs.
macro_rules! text {
    ($($file:literal),+) => {
        concat!($(include_str!($file), "\n"),+)
    };
}
pub(super) use text;

/// Threads of a block whose teams share rows, see `team.cu`.
pub(super) const TEAM_THREADS: usize = 128;

/// Rows of up to this many elements are a warp's, longer ones a block's.
const WARP_COLUMNS: usize = 1024;

/// Longest row of a team: 32 elements a thread.
const TEAM_COLUMNS: usize = 4096;

/// Lines put before a text.
#[derive(Debug)]
pub(super) struct Defines(String);

impl Defines {
    /// For the kernel `entry`, whose name in capitals is defined: texts hold several.
    pub(super) fn of(entry: &str) -> Self {
        Self(format!("#define {}\n", entry.to_uppercase()))
    }

    /// With one more macro.
    pub(super) fn with(mut self, name: &str, value: impl Display) -> Self {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "#define {name} {value}");
        self
    }

    /// The kernel.
    pub(super) fn kernel(self, entry: &'static str, text: &'static str, threads: usize) -> Source {
        Source {
            entry,
            text,
            defines: self.0,
            threads: threads as u32,
        }
    }
}

/// What the texts call a type.
///
/// # Panics
/// If no kernel is written for it.
pub(super) fn name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::BF16 => "bf16",
        DType::I32 => "int",
        DType::I64 => "long long",
        other => panic!("no kernel reads {other:?}"),
    }
}

/// A float as the word of a kernel.
pub(super) fn bits(x: f64) -> u64 {
    u64::from((x as f32).to_bits())
}

/// A count of blocks.
pub(super) fn blocks(count: usize) -> u32 {
    match u32::try_from(count) {
        Ok(count) => count,
        Err(_) => panic!("{count} blocks are more than a grid has"),
    }
}

/// Memory for a result; the kernel writes all of it.
pub(super) fn empty(on: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let (client, device) = (on.client.clone(), on.device.clone());
    empty_device_contiguous_dtype(client, device, shape.into(), dtype)
}

/// Length of the last dimension, and the product of the others.
pub(super) fn rows(tensor: &CubeTensor) -> (usize, usize) {
    let shape = tensor.meta.shape();
    let columns = shape[shape.num_dims() - 1];
    (columns, shape.num_elements() / columns)
}

/// Elements that a thread reads at once from rows of `columns`: 16 bytes of the wider of the types in
/// `rows`, half of that, or one where rows, or the parameters `beside` them, begin at other addresses.
///
/// # Panics
/// If parameters are not f32.
pub(super) fn vector(columns: usize, rows: &[&CubeTensor], beside: &[&CubeTensor]) -> usize {
    for parameter in beside {
        assert_eq!(parameter.dtype, DType::F32, "parameters are f32");
    }
    let aligned = |tensor: &&CubeTensor| tensor.handle.offset_start.unwrap_or(0).is_multiple_of(16);
    if !rows.iter().chain(beside).all(aligned) {
        return 1;
    }
    let size = rows.iter().map(|tensor| tensor.dtype.size()).max();
    let most = 16 / size.unwrap_or(4);
    [most, 4]
        .into_iter()
        .find(|n| columns.is_multiple_of(*n))
        .unwrap_or(1)
}

/// The same for pixels of `channels` of bf16: 8 or 1.
///
/// # Panics
/// If they are not bf16.
pub(super) fn pixel_vector(
    channels: usize,
    images: &[&CubeTensor],
    beside: &[&CubeTensor],
) -> usize {
    for image in images {
        assert_eq!(image.dtype, DType::BF16, "images are bf16");
    }
    match vector(channels, images, beside) {
        8 => 8,
        _ => 1,
    }
}

/// Threads that share a row, see `team.cu`.
///
/// # Panics
/// If the row is longer than a team can hold.
pub(super) fn team(columns: usize, vector: usize) -> usize {
    assert!(columns <= TEAM_COLUMNS, "rows of {columns} are too long");
    if columns <= WARP_COLUMNS {
        columns.div_ceil(vector).next_power_of_two().min(32)
    } else {
        TEAM_THREADS
    }
}

/// Sums `[n, 1 or 2, columns]` of f32 over its first dimension, in an order that depends on n alone:
/// one result for each of the second.
pub(super) fn fold<const SETS: usize>(partial: &CubeTensor) -> [CubeTensor; SETS] {
    const { assert!(SETS == 1 || SETS == 2) };
    let (columns, rest) = rows(partial);
    let sums: [CubeTensor; SETS] = std::array::from_fn(|_| empty(partial, [columns], DType::F32));
    let kernel = Defines::of("fold").kernel("fold", text!("common.cu", "fold.cu"), 512);
    let grid = [blocks(columns.div_ceil(32)), SETS as u32, 1];
    let resources = vec![buffer(partial), buffer(&sums[0]), buffer(&sums[SETS - 1])];
    let words = vec![(rest / SETS) as u64, SETS as u64, columns as u64];
    kernel.launch(partial, grid, resources, words);
    sums
}
