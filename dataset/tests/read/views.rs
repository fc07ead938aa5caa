//! A part of a picture becomes what the picture cut to it becomes, which is cut here by another program's
//! code, and a mirrored one its mirror image.

use image::RgbImage;
use image::imageops::{crop_imm, flip_horizontal};
use ringmaster_dataset::decode::{Decoder, Picture, picture};
use ringmaster_dataset::{Frame, View};
use ringmaster_proto::spec::Augment;
use ringmaster_proto::{Lane, Step};

use crate::corpora::png;
use crate::pixels::{SIDE, distance, pictures};

/// Views that show a part, and whether mirrored.
fn views(scale: [f64; 2], flip: f64) -> impl Iterator<Item = View> {
    let augment = Augment {
        scale: Some(scale),
        ratio: [0.5, 2.0],
        flip,
    };
    (0..12).map(move |position| View::draw(Some(&augment), 3, (Step(1), Lane(2), position)))
}

fn library(picture: &Picture) -> RgbImage {
    let (width, height) = (picture.width as u32, picture.height as u32);
    RgbImage::from_raw(width, height, picture.rgb.clone()).unwrap()
}

fn cut(picture: &Picture, frame: Frame) -> Vec<u8> {
    let Frame {
        left,
        top,
        width,
        height,
    } = frame;
    let [x, y, across, down] = [left, top, width, height].map(|pixels| pixels as u32);
    let part = crop_imm(&library(picture), x, y, across, down).to_image();
    png(&part, width, height)
}

#[test]
fn a_part_becomes_what_a_picture_cut_to_it_becomes() {
    let mut decoder = Decoder::new(SIDE);
    for (stem, _, encoded) in pictures() {
        let whole = picture(&encoded).unwrap();
        for view in views([0.05, 1.0], 0.0) {
            let frame = view.frame(whole.width, whole.height);
            let found = decoder.decode_view(&encoded, &view).unwrap();
            let oracle = decoder.decode(&cut(&whole, frame)).unwrap();
            // A picture that lies on its side is resized in the other direction first, which rounds
            // otherwise.
            let most = u8::from(stem.contains("turned") || stem.contains("xmp"));
            let distance = distance(&found, &oracle);
            assert!(distance.most <= most, "{stem} {frame:?}: {distance:?}");
        }
    }
}

#[test]
fn a_mirrored_picture_is_the_mirror_image() {
    let mut decoder = Decoder::new(SIDE);
    for (stem, _, encoded) in pictures() {
        for (plain, mirrored) in views([0.2, 1.0], 0.0).zip(views([0.2, 1.0], 1.0)) {
            let rgb = decoder.decode_view(&encoded, &plain).unwrap();
            let size = (SIDE, SIDE);
            let (width, height) = size;
            let oracle = flip_horizontal(&library(&Picture { width, height, rgb }));
            let found = decoder.decode_view(&encoded, &mirrored).unwrap();
            assert_eq!(found, oracle.into_raw(), "{stem}");
        }
    }
}

/// How much smaller a picture may be decoded follows from the part that is shown: one that would not be
/// large enough is decoded whole.
#[test]
fn a_part_of_a_jpeg_decoded_smaller_is_near_the_part_of_the_whole() {
    let mut small = Decoder::new(SIDE).with_dct_scaling(true);
    let mut whole = Decoder::new(SIDE);
    let (mut smaller, mut same) = (0, 0);
    for (stem, _, encoded) in pictures() {
        if !stem.starts_with("jpeg-large") {
            continue;
        }
        let size = picture(&encoded).unwrap();
        for view in views([0.02, 0.9], 0.5) {
            let frame = view.frame(size.width, size.height);
            let found = small.decode_view(&encoded, &view).unwrap();
            let oracle = whole.decode_view(&encoded, &view).unwrap();
            if frame.width.min(frame.height) < 2 * SIDE {
                assert_eq!(found, oracle, "{stem} {frame:?}");
                same += 1;
            } else {
                let far = distance(&found, &oracle);
                println!("{stem} {frame:?}: {far:?}");
                assert!(
                    far.mean <= 1.0 && far.most <= 12,
                    "{stem} {frame:?}: {far:?}"
                );
                smaller += u32::from(found != oracle);
            }
        }
    }
    assert!(smaller > 20 && same > 5, "{smaller} {same}");
}
