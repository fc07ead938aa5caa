//! Where the part of a picture that is shown lies in the pixels that were decoded, and mirror images.

use image::metadata::Orientation;

use super::picture::Decoded;
use crate::augment::{Frame, View};

/// A part of decoded pixels, from their left and their top. Where a picture was decoded smaller, the
/// outermost of them may belong to it in part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Area {
    /// Of `decoded`, what `view` shows.
    pub(super) fn of(decoded: &Decoded, view: &View) -> Self {
        let by = decoded.by as f64;
        let Frame {
            left,
            top,
            width,
            height,
        } = shown(view, decoded.stored, decoded.turn);
        Self {
            left: left as f64 / by,
            top: top as f64 / by,
            width: width as f64 / by,
            height: height as f64 / by,
        }
    }

    /// The whole pixels that it touches.
    pub(super) fn around(&self) -> Frame {
        let (left, top) = (self.left.floor(), self.top.floor());
        Frame {
            left: left as usize,
            top: top as usize,
            width: ((self.left + self.width).ceil() - left) as usize,
            height: ((self.top + self.height).ceil() - top) as usize,
        }
    }
}

/// What `view` shows of a picture of `stored` pixels across and down which is still to be turned.
pub(super) fn shown(view: &View, stored: (usize, usize), turn: Orientation) -> Frame {
    use Orientation::{
        FlipHorizontal, FlipVertical, NoTransforms, Rotate90, Rotate90FlipH, Rotate180, Rotate270,
        Rotate270FlipH,
    };
    let (width, height) = stored;
    let lies = matches!(turn, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
    let upright = if lies {
        view.frame(height, width)
    } else {
        view.frame(width, height)
    };
    // Back through the turn: where a column or a row of the upright picture came from.
    let (across, down) = ((upright.left, upright.width), (upright.top, upright.height));
    let from_end = |(start, count): (usize, usize), side: usize| (side - start - count, count);
    let (across, down) = match turn {
        NoTransforms => (across, down),
        FlipHorizontal => (from_end(across, width), down),
        FlipVertical => (across, from_end(down, height)),
        Rotate180 => (from_end(across, width), from_end(down, height)),
        Rotate90 => (down, from_end(across, height)),
        Rotate90FlipH => (down, across),
        Rotate270 => (from_end(down, width), across),
        Rotate270FlipH => (from_end(down, width), from_end(across, height)),
    };
    Frame {
        left: across.0,
        width: across.1,
        top: down.0,
        height: down.1,
    }
}

/// Changes left and right of a picture of RGB u8 and `width` pixels across, row by row.
pub(super) fn mirror(rgb: &mut [u8], width: usize) {
    let (pixels, _) = rgb.as_chunks_mut::<3>();
    pixels.chunks_exact_mut(width).for_each(<[_]>::reverse);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use ringmaster_proto::spec::Augment;
    use ringmaster_proto::{Lane, Step};

    use super::*;
    use crate::decode::Picture;

    /// The pixels of `frame` alone.
    fn cropped(picture: &Picture, frame: Frame) -> Picture {
        let row = |row: usize| {
            let start = 3 * (row * picture.width + frame.left);
            &picture.rgb[start..start + 3 * frame.width]
        };
        Picture {
            width: frame.width,
            height: frame.height,
            rgb: (frame.top..frame.top + frame.height)
                .flat_map(row)
                .copied()
                .collect(),
        }
    }

    proptest! {
        /// The oracle turns first.
        #[test]
        fn a_part_that_is_turned_is_the_part_of_the_turned_picture(
            (width, height) in (1_usize..20, 1_usize..20),
            exif in 1_u8..9,
            seed: u64,
        ) {
            let turn = Orientation::from_exif(exif).unwrap();
            let rgb = (0..3 * width * height).map(|at| at as u8).collect();
            let picture = Picture { width, height, rgb };
            let augment = Augment { scale: Some([0.05, 0.9]), ratio: [0.3, 2.0], flip: 0.0 };
            let view = View::draw(Some(&augment), seed, (Step(0), Lane(0), 0));
            let ours = cropped(&picture, shown(&view, (width, height), turn)).turned(turn);
            let upright = picture.turned(turn);
            let oracle = cropped(&upright, view.frame(upright.width, upright.height));
            prop_assert_eq!(ours, oracle);
        }

        #[test]
        fn a_mirror_image_of_a_mirror_image_is_the_picture(
            (width, height) in (1_usize..9, 1_usize..9),
        ) {
            let rgb: Vec<u8> = (0..3 * width * height).map(|at| at as u8).collect();
            let mut mirrored = rgb.clone();
            mirror(&mut mirrored, width);
            for (row, other) in rgb.chunks(3 * width).zip(mirrored.chunks(3 * width)) {
                for at in 0..width {
                    let opposite = width - 1 - at;
                    prop_assert_eq!(&row[3 * at..][..3], &other[3 * opposite..][..3]);
                }
            }
            mirror(&mut mirrored, width);
            prop_assert_eq!(mirrored, rgb);
        }
    }
}
