//! The inverse cosine transform of a block to 8, 4, 2 or 1 pixels a side: the arithmetic of libjpeg's
//! `jidctint.c` and `jidctred.c`. Eight lines are transformed side by side, in integers, so that the
//! compiler finds the widest vectors of the processor and none changes a bit.

#![allow(
    clippy::needless_range_loop,
    reason = "plain indices are what is found to be vectors"
)]

/// Bits after the point of a constant.
const POINT: u32 = 13;

/// Bits that the first pass keeps beyond its result.
const KEPT: u32 = 2;

/// One value of each of eight lines.
type Lines = [i32; 8];

#[inline(always)]
fn each(mut a: Lines, b: Lines, of: impl Fn(i32, i32) -> i32) -> Lines {
    for at in 0..8 {
        a[at] = of(a[at], b[at]);
    }
    a
}

// Wrapping: damaged blocks hold anything.
#[inline(always)]
fn add(a: Lines, b: Lines) -> Lines {
    each(a, b, |a, b| a.wrapping_add(b))
}

#[inline(always)]
fn sub(a: Lines, b: Lines) -> Lines {
    each(a, b, |a, b| a.wrapping_sub(b))
}

#[inline(always)]
fn times(a: Lines, constant: i32) -> Lines {
    each(a, [constant; 8], |a, b| a.wrapping_mul(b))
}

#[inline(always)]
fn dot<const N: usize>(values: [Lines; N], constants: [i32; N]) -> Lines {
    let mut sum = times(values[0], constants[0]);
    for at in 1..N {
        sum = add(sum, times(values[at], constants[at]));
    }
    sum
}

#[inline(always)]
fn descaled(a: Lines, shift: u32) -> Lines {
    each(a, [1 << (shift - 1); 8], |value, half| {
        value.wrapping_add(half) >> shift
    })
}

/// Around the middle of the range, and inside it.
#[inline(always)]
fn pixel(value: i32) -> u8 {
    (value + 128).clamp(0, 255) as u8
}

/// Writes `side` x `side` pixels of a dequantised block to the start of `out`, rows `stride` apart.
#[inline(always)]
pub(super) fn transform(block: &[i32; 64], side: usize, out: &mut [u8], stride: usize) {
    let flat = block[1..].iter().fold(0, |any, value| any | value) == 0;
    match side {
        _ if flat => fill(block, side, out, stride),
        8 => passes::<8, Eight>(block, out, stride),
        4 => passes::<4, Four>(block, out, stride),
        2 => passes::<2, Two>(block, out, stride),
        _ => fill(block, 1, out, stride),
    }
}

#[inline(always)]
fn fill(block: &[i32; 64], side: usize, out: &mut [u8], stride: usize) {
    let pixel = pixel(block[0].wrapping_add(4) >> 3);
    for row in out.chunks_mut(stride).take(side) {
        row[..side].fill(pixel);
    }
}

/// Eight values of each line to `N`. A trait, since a function that is passed on would be compiled
/// without the vectors of whom it is passed to.
trait Line<const N: usize> {
    /// Bits that the result has beyond those of the constants.
    const EXTRA: u32;

    fn line(v: [Lines; 8]) -> [Lines; N];
}

/// Down all columns, then across all rows that came of it.
#[inline(always)]
fn passes<const N: usize, L: Line<N>>(block: &[i32; 64], out: &mut [u8], stride: usize) {
    let mut rows = [[0; 8]; 8];
    for (row, values) in rows.iter_mut().zip(block.chunks_exact(8)) {
        row.copy_from_slice(values);
    }
    let half = L::line(rows);
    let mut columns = [[0; 8]; 8];
    for row in 0..N {
        let values = descaled(half[row], POINT - KEPT + L::EXTRA);
        for column in 0..8 {
            columns[column][row] = values[column];
        }
    }
    let whole = L::line(columns);
    let mut pixels = [[0; N]; 8];
    for column in 0..N {
        let values = descaled(whole[column], POINT + KEPT + 3 + L::EXTRA);
        for row in 0..8 {
            pixels[row][column] = pixel(values[row]);
        }
    }
    for (row, out) in pixels.iter().take(N).zip(out.chunks_mut(stride)) {
        out[..N].copy_from_slice(row);
    }
}

struct Eight;

impl Line<8> for Eight {
    const EXTRA: u32 = 0;

    #[inline(always)]
    fn line(v: [Lines; 8]) -> [Lines; 8] {
        let high = dot([v[2], v[6]], [4433 + 6270, 4433]);
        let low = dot([v[2], v[6]], [4433, 4433 - 15137]);
        let sum = times(add(v[0], v[4]), 1 << POINT);
        let difference = times(sub(v[0], v[4]), 1 << POINT);
        let even = [
            add(sum, high),
            add(difference, low),
            sub(difference, low),
            sub(sum, high),
        ];
        let [a, b, c, d] = [v[7], v[5], v[3], v[1]];
        let (ad, bc) = (times(add(a, d), -7373), times(add(b, c), -20995));
        let (ac, bd) = (add(a, c), add(b, d));
        let common = times(add(ac, bd), 9633);
        let (ac, bd) = (
            add(times(ac, -16069), common),
            add(times(bd, -3196), common),
        );
        let odd = [
            add(times(d, 12299), add(ad, bd)),
            add(times(c, 25172), add(bc, ac)),
            add(times(b, 16819), add(bc, bd)),
            add(times(a, 2446), add(ad, ac)),
        ];
        [
            add(even[0], odd[0]),
            add(even[1], odd[1]),
            add(even[2], odd[2]),
            add(even[3], odd[3]),
            sub(even[3], odd[3]),
            sub(even[2], odd[2]),
            sub(even[1], odd[1]),
            sub(even[0], odd[0]),
        ]
    }
}

struct Four;

impl Line<4> for Four {
    const EXTRA: u32 = 1;

    #[inline(always)]
    fn line(v: [Lines; 8]) -> [Lines; 4] {
        let even = times(v[0], 1 << (POINT + 1));
        let turn = dot([v[2], v[6]], [15137, -6270]);
        let odd = [v[1], v[3], v[5], v[7]];
        let inner = dot(odd, [8697, -17799, 11893, -1730]);
        let outer = dot(odd, [20995, 7373, -4926, -4176]);
        let (a, b) = (add(even, turn), sub(even, turn));
        [add(a, outer), add(b, inner), sub(b, inner), sub(a, outer)]
    }
}

struct Two;

impl Line<2> for Two {
    const EXTRA: u32 = 2;

    #[inline(always)]
    fn line(v: [Lines; 8]) -> [Lines; 2] {
        let even = times(v[0], 1 << (POINT + 2));
        let odd = dot([v[1], v[3], v[5], v[7]], [29692, -10426, 6967, -5906]);
        [add(even, odd), sub(even, odd)]
    }
}
