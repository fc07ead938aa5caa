//! What an example shows of its picture, a random box and a mirror image: a pure function of (seed,
//! step, lane, position), so that a redo, a resume and any world size show the same.
//!
//! The box is that of torchvision's `RandomResizedCrop.get_params` (after Szegedy et al., "Going deeper
//! with convolutions", 2015, section 6), drawn with random numbers of ours: a share of the area and an
//! aspect ratio, uniform in its logarithm, ten times until such a box fits into the picture, and in the
//! middle of it, as much as the ratios allow, if none does.

use ringmaster_proto::spec::Augment;
use ringmaster_proto::{Lane, Step};

/// Boxes that are tried.
const TRIES: u64 = 10;

/// Which draw is for what; those of a box follow one another.
const FLIP: u64 = 0;
const LEFT: u64 = 1;
const TOP: u64 = 2;
const BOXES: u64 = 3;

/// A part of a picture, in whole pixels of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Pixels left of it.
    pub left: usize,
    /// Pixels above it.
    pub top: usize,
    /// Pixels across, at least 1.
    pub width: usize,
    /// Pixels down, at least 1.
    pub height: usize,
}

impl Frame {
    /// All of a picture.
    pub fn whole(width: usize, height: usize) -> Self {
        Self {
            left: 0,
            top: 0,
            width,
            height,
        }
    }
}

/// What one example shows of its picture, whatever the picture's size.
#[derive(Clone, Debug)]
pub struct View(Option<Drawn>);

#[derive(Clone, Debug)]
struct Drawn {
    augment: Augment,
    draws: blake3::OutputReader,
}

impl View {
    /// All of it, as it is.
    pub const WHOLE: Self = Self(None);

    /// What `augment` makes of the example at `position` of the microbatch of `lane` in the step after
    /// `step` updates.
    pub fn draw(
        augment: Option<&Augment>,
        seed: u64,
        (step, lane, position): (Step, Lane, u32),
    ) -> Self {
        Self(augment.map(|augment| {
            let mut hasher = blake3::Hasher::new_derive_key("ringmaster 2026 augmentation v1");
            hasher
                .update(&seed.to_le_bytes())
                .update(&step.0.to_le_bytes())
                .update(&lane.0.to_le_bytes())
                .update(&position.to_le_bytes());
            Drawn {
                augment: augment.clone(),
                draws: hasher.finalize_xof(),
            }
        }))
    }

    /// Whether left and right change places.
    pub fn is_mirrored(&self) -> bool {
        let drawn = self.0.as_ref();
        drawn.is_some_and(|drawn| drawn.uniform(FLIP) < drawn.augment.flip)
    }

    /// The part that is shown of a picture of `width` x `height` pixels, which is upright and not mirrored
    /// yet.
    pub fn frame(&self, width: usize, height: usize) -> Frame {
        let boxed = self.0.as_ref().and_then(|drawn| {
            let scale = drawn.augment.scale?;
            Some(drawn.frame(scale, width, height))
        });
        boxed.unwrap_or(Frame::whole(width, height))
    }
}

impl Drawn {
    fn frame(&self, [least, most]: [f64; 2], width: usize, height: usize) -> Frame {
        let [narrow, wide] = self.augment.ratio;
        let area = width as f64 * height as f64;
        let fitting = (0..TRIES).find_map(|attempt| {
            let at = BOXES + 2 * attempt;
            let area = area * (least + self.uniform(at) * (most - least));
            // Software's power: that of a mathematics library may differ from machine to machine.
            let ratio = narrow * libm::pow(wide / narrow, self.uniform(at + 1));
            let side = |square: f64| square.sqrt().round_ties_even() as usize;
            let (across, down) = (side(area * ratio), side(area / ratio));
            let fits = (1..=width).contains(&across) && (1..=height).contains(&down);
            fits.then_some((across, down))
        });
        if let Some((across, down)) = fitting {
            return Frame {
                left: self.below(LEFT, width - across + 1),
                top: self.below(TOP, height - down + 1),
                width: across,
                height: down,
            };
        }
        middle((narrow, wide), width, height)
    }

    /// Uniform in [0, 1): draw number `at`, 53 random bits.
    fn uniform(&self, at: u64) -> f64 {
        let mut draws = self.draws.clone();
        let mut word = [0; 8];
        draws.set_position(8 * at);
        draws.fill(&mut word);
        (u64::from_le_bytes(word) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A whole number below `bound`, which is at least 1.
    fn below(&self, at: u64, bound: usize) -> usize {
        ((self.uniform(at) * bound as f64) as usize).min(bound - 1)
    }
}

/// The largest frame in the middle whose aspect ratio is allowed.
fn middle((narrow, wide): (f64, f64), width: usize, height: usize) -> Frame {
    let ratio = width as f64 / height as f64;
    let (mut across, mut down) = (width, height);
    if ratio < narrow {
        down = (width as f64 / narrow).round_ties_even() as usize;
    } else if ratio > wide {
        across = (height as f64 * wide).round_ties_even() as usize;
    }
    let (across, down) = (across.clamp(1, width), down.clamp(1, height));
    Frame {
        left: (width - across) / 2,
        top: (height - down) / 2,
        width: across,
        height: down,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn augment(scale: [f64; 2], ratio: [f64; 2]) -> Augment {
        Augment {
            scale: Some(scale),
            ratio,
            flip: 0.5,
        }
    }

    fn view(augment: &Augment, seed: u64, at: (u64, u32, u32)) -> View {
        View::draw(Some(augment), seed, (Step(at.0), Lane(at.1), at.2))
    }

    proptest! {
        /// Rounding sides to whole pixels moves an area and a ratio by half a pixel of each side.
        #[test]
        fn a_frame_lies_in_the_picture_and_its_area_and_ratio_in_their_ranges(
            (width, height) in (1_usize..3000, 1_usize..3000),
            seed: u64,
            at in (any::<u64>(), any::<u32>(), any::<u32>()),
            (least, more) in (0.01_f64..1.0, 0.0_f64..1.0),
            (narrow, wider) in (0.2_f64..2.0, 1.0_f64..4.0),
        ) {
            let most = least + more * (1.0 - least);
            let augment = augment([least, most], [narrow, narrow * wider]);
            let frame = view(&augment, seed, at).frame(width, height);
            prop_assert!(frame.width >= 1 && frame.left + frame.width <= width, "{frame:?}");
            prop_assert!(frame.height >= 1 && frame.top + frame.height <= height, "{frame:?}");
            let (across, down) = (frame.width as f64, frame.height as f64);
            let whole = (width * height) as f64;
            // Where no box fits, the middle has the share that it has.
            if frame != middle((narrow, narrow * wider), width, height) {
                prop_assert!((across - 0.5) * (down - 0.5) <= most * whole * 1.000_001, "{frame:?}");
                prop_assert!((across + 0.5) * (down + 0.5) >= least * whole * 0.999_999, "{frame:?}");
            }
            if across > 1.0 && down > 1.0 {
                prop_assert!((across + 0.5) / (down - 0.5) >= narrow * 0.999_999, "{frame:?}");
                prop_assert!((across - 0.5) / (down + 0.5) <= narrow * wider * 1.000_001, "{frame:?}");
            }
        }
    }

    /// Of a picture so large that nearly every first box fits: the share of the area is uniform, and so
    /// is the logarithm of the ratio; boxes are anywhere, and one in two pictures is mirrored.
    #[test]
    fn frames_are_drawn_evenly() {
        let augment = augment([0.1, 0.5], [0.5, 2.0]);
        let frames: Vec<(Frame, bool)> = (0..4000)
            .map(|at| view(&augment, 1, (7, 3, at)))
            .map(|view| (view.frame(4000, 4000), view.is_mirrored()))
            .collect();
        let mean = |of: &dyn Fn(&Frame) -> f64| {
            frames.iter().map(|(frame, _)| of(frame)).sum::<f64>() / frames.len() as f64
        };
        let share = |frame: &Frame| (frame.width * frame.height) as f64 / 16e6;
        let ratio = |frame: &Frame| (frame.width as f64 / frame.height as f64).log2();
        let variance = |of: &dyn Fn(&Frame) -> f64| {
            let middle = mean(of);
            mean(&|frame| (of(frame) - middle).powi(2))
        };
        assert!((mean(&share) - 0.3).abs() < 0.01, "{}", mean(&share));
        assert!(mean(&ratio).abs() < 0.05, "{}", mean(&ratio));
        // Of a uniform variable: the square of the range over 12.
        assert!((variance(&share) * 12.0 / 0.16 - 1.0).abs() < 0.05);
        assert!((variance(&ratio) * 12.0 / 4.0 - 1.0).abs() < 0.05);
        let place = |frame: &Frame| frame.left as f64 / (4000 - frame.width) as f64;
        assert!((mean(&place) - 0.5).abs() < 0.02);
        let place = |frame: &Frame| frame.top as f64 / (4000 - frame.height) as f64;
        assert!((mean(&place) - 0.5).abs() < 0.02);
        let mirrored = frames.iter().filter(|(_, mirrored)| *mirrored).count();
        assert!((1880..2120).contains(&mirrored), "{mirrored}");
    }

    #[test]
    fn every_part_of_the_key_and_nothing_else_changes_a_frame() {
        let augment = augment([0.1, 0.9], [0.5, 2.0]);
        let frame = |seed, at| view(&augment, seed, at).frame(1000, 800);
        let base = frame(1, (2, 3, 4));
        assert_eq!(base, frame(1, (2, 3, 4)));
        for other in [
            frame(2, (2, 3, 4)),
            frame(1, (3, 3, 4)),
            frame(1, (2, 4, 4)),
            frame(1, (2, 3, 5)),
        ] {
            assert_ne!(base, other);
        }
    }

    /// Torchvision's own answers for pictures that no box fits: `get_params` with scale (1, 1) and the
    /// ratios given.
    #[test]
    fn where_no_box_fits_the_middle_is_shown() {
        let three_quarters = [0.75, 4.0 / 3.0];
        for (ratio, (width, height), (left, top, across, down)) in [
            (three_quarters, (1000, 10), (493, 0, 13, 10)),
            (three_quarters, (10, 1000), (0, 493, 10, 13)),
            ([1.0, 1.0], (7, 4), (1, 0, 4, 4)),
            ([2.0, 3.0], (100, 100), (0, 25, 100, 50)),
        ] {
            let found = view(&augment([1.0, 1.0], ratio), 5, (0, 0, 0)).frame(width, height);
            let expected = Frame {
                left,
                top,
                width: across,
                height: down,
            };
            assert_eq!(found, expected, "{ratio:?} {width} x {height}");
        }
    }

    #[test]
    fn without_augmentation_all_is_shown_as_it_is() {
        let off = Augment::default();
        for view in [View::WHOLE, view(&off, 1, (2, 3, 4))] {
            assert_eq!(view.frame(30, 20), Frame::whole(30, 20));
            assert!(!view.is_mirrored());
        }
    }
}
