//! The samples of one component, and its blocks on their way there.

use super::head::{Component, Frame};
use super::inverse;

/// One component of a picture that is decoded smaller.
pub(super) struct Plane {
    /// Pixels of a block, each way: 8, 4, 2 or 1.
    pub(super) side: usize,
    /// How often each sample counts in the picture, across and down.
    pub(super) spread: (usize, usize),
    /// Blocks across and down that the component itself has.
    pub(super) blocks: (usize, usize),
    /// Samples across that belong to the picture.
    pub(super) width: usize,
    /// Samples of a row, with those beyond the edge.
    pub(super) stride: usize,
    pub(super) samples: Vec<u8>,
    /// Coefficients of every block, where they come in several scans.
    pub(super) coefficients: Vec<[i16; 64]>,
    blocks_across: usize,
}

impl Plane {
    /// For a picture whose blocks become `side` pixels. As in libjpeg a component of fewer samples is
    /// decoded larger instead of being spread afterwards, as far as its blocks have the detail.
    pub(super) fn new(
        frame: &Frame,
        component: &Component,
        most: (usize, usize),
        side: usize,
    ) -> Self {
        let (across, down) = (component.across, component.down);
        let mut own = side;
        let fits = |of: usize, part: usize, twice: usize| (of * side).is_multiple_of(part * twice);
        while own < 8 && fits(most.0, across, 2 * own) && fits(most.1, down, 2 * own) {
            own *= 2;
        }
        let units = |pixels: usize, most: usize| pixels.div_ceil(8 * most);
        let (mcus_across, mcus_down) = (units(frame.width, most.0), units(frame.height, most.1));
        let (blocks_across, blocks_down) = (mcus_across * across, mcus_down * down);
        let samples = blocks_across * blocks_down * own * own;
        let coefficients = if frame.progressive {
            vec![[0; 64]; blocks_across * blocks_down]
        } else {
            Vec::new()
        };
        Self {
            side: own,
            spread: (most.0 * side / (across * own), most.1 * side / (down * own)),
            blocks: (
                (frame.width * across).div_ceil(8 * most.0),
                (frame.height * down).div_ceil(8 * most.1),
            ),
            width: (frame.width * across * own).div_ceil(8 * most.0),
            stride: blocks_across * own,
            samples: vec![0; samples],
            coefficients,
            blocks_across,
        }
    }

    /// Puts a dequantised block in its place.
    #[inline(always)]
    pub(super) fn put(&mut self, (x, y): (usize, usize), block: &[i32; 64]) {
        let at = y * self.side * self.stride + x * self.side;
        inverse::transform(block, self.side, &mut self.samples[at..], self.stride);
    }

    /// The coefficients of a block.
    pub(super) fn block(&mut self, (x, y): (usize, usize)) -> &mut [i16; 64] {
        &mut self.coefficients[y * self.blocks_across + x]
    }

    /// Samples of all coefficients, once the last scan is read.
    #[inline(always)]
    pub(super) fn finish(&mut self, table: &[i32; 64]) {
        let blocks = std::mem::take(&mut self.coefficients);
        for (at, block) in blocks.iter().enumerate() {
            let block = std::array::from_fn(|k| i32::from(block[k]).wrapping_mul(table[k]));
            self.put((at % self.blocks_across, at / self.blocks_across), &block);
        }
    }

    /// Row `y` of a picture `out.len()` pixels wide.
    #[inline(always)]
    pub(super) fn row(&self, y: usize, out: &mut [u8]) {
        let (across, down) = self.spread;
        let row = &self.samples[y / down * self.stride..][..self.stride];
        match across {
            1 => out.copy_from_slice(&row[..out.len()]),
            2 if self.side > 1 && self.width > 2 => between(&row[..self.width], out),
            _ => {
                for (out, sample) in out.chunks_mut(across).zip(row) {
                    out.fill(*sample);
                }
            }
        }
    }
}

/// Two pixels a sample, each a quarter of the way to its neighbour, as libjpeg's `h2v1_fancy_upsample`.
#[inline(always)]
fn between(row: &[u8], out: &mut [u8]) {
    let at = |x: usize| u32::from(row[x.min(row.len() - 1)]);
    for (x, pixels) in out.chunks_mut(2).enumerate() {
        let here = 3 * at(x);
        pixels[0] = ((here + at(x.saturating_sub(1)) + 1) >> 2) as u8;
        if let Some(right) = pixels.get_mut(1) {
            *right = ((here + at(x + 1) + 2) >> 2) as u8;
        }
    }
}
