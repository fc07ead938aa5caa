//! Pictures decode to their pixels, and nothing anybody stores can do harm.

use image::codecs::webp::WebPEncoder;
use image::{DynamicImage, ExtendedColorType, ImageFormat};
use proptest::prelude::*;
use ringmaster_dataset::decode::{BadImage, Decoder, PIXELS_MAX, check};
use ringmaster_dataset::normalise;

use crate::corpora::png;

const WIDTH: usize = 24;
const HEIGHT: usize = 24;

fn gradient() -> Vec<u8> {
    let pixel = |at: usize| {
        let (x, y) = (at % WIDTH, at / WIDTH);
        [(x * 10) as u8, (y * 10) as u8, (x * 5 + y * 5) as u8]
    };
    (0..WIDTH * HEIGHT).flat_map(pixel).collect()
}

fn encoded(picture: &DynamicImage) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut out, ImageFormat::Png).unwrap();
    out.into_inner()
}

fn decode(bytes: &[u8]) -> Result<Vec<u8>, BadImage> {
    Decoder::new(WIDTH).decode(bytes)
}

#[test]
fn lossless_pictures_decode_to_their_pixels() {
    let rgb = gradient();
    assert_eq!(decode(&png(&rgb, WIDTH, HEIGHT)).unwrap(), rgb);
    let mut webp = Vec::new();
    let encoder = WebPEncoder::new_lossless(&mut webp);
    let (width, height) = (WIDTH as u32, HEIGHT as u32);
    encoder
        .encode(&rgb, width, height, ExtendedColorType::Rgb8)
        .unwrap();
    assert_eq!(decode(&webp).unwrap(), rgb);
}

#[test]
fn grey_alpha_and_sixteen_bits_become_rgb() {
    let buffer = image::RgbImage::from_raw(WIDTH as u32, HEIGHT as u32, gradient()).unwrap();
    let picture = DynamicImage::from(buffer);
    let with_alpha = DynamicImage::from(picture.to_rgba8());
    assert_eq!(decode(&encoded(&with_alpha)).unwrap(), gradient());
    let deep = DynamicImage::from(picture.to_rgb16());
    assert_eq!(decode(&encoded(&deep)).unwrap(), gradient());
    let grey = picture.to_luma8();
    let spread: Vec<u8> = grey.as_raw().iter().flat_map(|value| [*value; 3]).collect();
    assert_eq!(decode(&encoded(&DynamicImage::from(grey))).unwrap(), spread);
}

/// Encoded and decoded by Pillow (tests/fixtures/make.py), so the oracle is another decoder.
#[test]
fn jpegs_decode_as_another_decoder_decodes_them() {
    let cases: [(&str, &[u8], &[u8]); 4] = [
        (
            "baseline",
            include_bytes!("../fixtures/baseline.jpg"),
            include_bytes!("../fixtures/baseline.rgb"),
        ),
        (
            "progressive",
            include_bytes!("../fixtures/progressive.jpg"),
            include_bytes!("../fixtures/progressive.rgb"),
        ),
        (
            "grey",
            include_bytes!("../fixtures/grey.jpg"),
            include_bytes!("../fixtures/grey.rgb"),
        ),
        (
            "restart",
            include_bytes!("../fixtures/restart.jpg"),
            include_bytes!("../fixtures/restart.rgb"),
        ),
    ];
    for (name, jpeg, expected) in cases {
        let found = decode(jpeg).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        let apart: Vec<u8> = found
            .iter()
            .zip(expected)
            .map(|(a, b)| a.abs_diff(*b))
            .collect();
        let mean = apart.iter().map(|d| f64::from(*d)).sum::<f64>() / apart.len() as f64;
        let most = apart.iter().max().unwrap();
        assert!(
            mean <= 1.0 && *most <= 8,
            "{name}: {mean} on average, {most} at most"
        );
    }
}

#[test]
fn resizing_does_not_alias_and_keeps_a_plain_colour() {
    let plain = [200, 30, 90].repeat(40 * 30);
    let mut decoder = Decoder::new(16);
    assert_eq!(
        decoder.decode(&png(&plain, 40, 30)).unwrap(),
        [200, 30, 90].repeat(16 * 16)
    );
    // Stripes of one pixel, shrunk by four, average out; picking pixels would keep them.
    let stripes: Vec<u8> = (0..64 * 64)
        .flat_map(|at| [(at % 2 * 255) as u8; 3])
        .collect();
    let shrunk = decoder.decode(&png(&stripes, 64, 64)).unwrap();
    assert!(
        shrunk.iter().all(|value| (118..=138).contains(value)),
        "{shrunk:?}"
    );
    let grown = Decoder::new(50).decode(&png(&plain, 40, 30)).unwrap();
    assert_eq!(grown, [200, 30, 90].repeat(50 * 50));
}

/// A PNG whose header claims `width` x `height` pixels.
pub(crate) fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png(&[0; 3], 1, 1);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            (c >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(c & 1))
        })
    })
}

#[test]
fn a_picture_that_claims_too_many_pixels_is_refused_from_its_header() {
    let side = (PIXELS_MAX as f64).sqrt() as u32;
    for (width, height) in [
        (side, side + 1),
        (30_000, 30_000),
        (u32::MAX >> 1, u32::MAX >> 1),
    ] {
        let error = decode(&bomb(width, height)).unwrap_err();
        assert!(
            matches!(error, BadImage::Size { .. } | BadImage::Codec(_)),
            "{error}"
        );
    }
    assert!(matches!(
        decode(&bomb(30_000, 30_000)).unwrap_err(),
        BadImage::Size { .. }
    ));
    let mut jpeg = include_bytes!("../fixtures/baseline.jpg").to_vec();
    let frame = jpeg
        .windows(2)
        .position(|pair| pair == [0xff, 0xc0])
        .unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    assert!(matches!(decode(&jpeg).unwrap_err(), BadImage::Size { .. }));
}

/// A GIF and a BMP say their size in the head too.
#[test]
fn other_formats_that_claim_too_many_pixels_are_refused_from_their_headers() {
    let mut gif = include_bytes!("../fixtures/pixels/pictures/gif.gif").to_vec();
    gif[6..10].fill(0xff);
    let mut bmp = include_bytes!("../fixtures/pixels/pictures/bmp-rgb.bmp").to_vec();
    bmp[18..22].copy_from_slice(&60_000_u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&60_000_u32.to_le_bytes());
    for bytes in [gif, bmp] {
        let size = |error| matches!(error, BadImage::Size { .. });
        assert!(size(check(&bytes).unwrap_err()));
        assert!(size(decode(&bytes).unwrap_err()));
    }
}

#[test]
fn too_many_bytes_and_no_picture_are_refused() {
    assert!(matches!(
        decode(&vec![0xff; 33 << 20]).unwrap_err(),
        BadImage::Bytes(_)
    ));
    for bytes in [&b""[..], b"II*\0", b"%PDF-1.7", &[0; 64]] {
        assert_eq!(decode(bytes).unwrap_err(), BadImage::Format);
    }
}

/// The same, of a JPEG that shrinks.
fn decode_smaller(bytes: &[u8]) -> Result<Vec<u8>, BadImage> {
    Decoder::new(WIDTH).with_dct_scaling(true).decode(bytes)
}

fn samples() -> Vec<Vec<u8>> {
    let mut webp = Vec::new();
    let encoder = WebPEncoder::new_lossless(&mut webp);
    encoder
        .encode(
            &gradient(),
            WIDTH as u32,
            HEIGHT as u32,
            ExtendedColorType::Rgb8,
        )
        .unwrap();
    vec![
        include_bytes!("../fixtures/baseline.jpg").to_vec(),
        include_bytes!("../fixtures/progressive.jpg").to_vec(),
        png(&gradient(), WIDTH, HEIGHT),
        webp,
        include_bytes!("../fixtures/pixels/pictures/gif.gif").to_vec(),
        include_bytes!("../fixtures/pixels/pictures/bmp-rgb.bmp").to_vec(),
        include_bytes!("../fixtures/pixels/pictures/jpeg-large-444.jpg").to_vec(),
        include_bytes!("../fixtures/pixels/pictures/jpeg-large-progressive.jpg").to_vec(),
    ]
}

#[test]
fn a_picture_cut_anywhere_is_an_error() {
    for sample in samples() {
        // The last bytes of a PNG and the padding of a WebP carry no pixels.
        for length in 0..sample.len() - 16 {
            assert!(
                decode(&sample[..length]).is_err(),
                "{length} of {}",
                sample.len()
            );
        }
    }
}

proptest! {
    #[test]
    fn damage_is_an_error_or_a_picture_and_never_a_panic(
        which in 0_usize..8,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = samples().swap_remove(which);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        for decoded in [decode(&bytes), decode_smaller(&bytes)] {
            match decoded {
                Ok(pixels) => prop_assert_eq!(pixels.len(), WIDTH * WIDTH * 3),
                Err(error) => prop_assert_ne!(error, BadImage::Panic),
            }
        }
    }
}

#[test]
fn normalising_centres_and_separates_the_channels() {
    let mut out = [9.0; 6];
    normalise(&[0, 255, 51, 255, 0, 204], &mut out);
    let expected = [-1.0, 1.0, 1.0, -1.0, -0.6, 0.6];
    for (found, expected) in out.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{out:?}");
    }
}

/// A look is enough for what import must not let through, and lets through what decodes.
#[test]
fn a_look_at_a_picture_agrees_with_decoding_it() {
    let whole = png(&gradient(), WIDTH, HEIGHT);
    let jpeg = include_bytes!("../fixtures/progressive.jpg");
    for good in [whole.as_slice(), jpeg] {
        assert_eq!(check(good), Ok(()));
        assert!(decode(good).is_ok());
    }
    for bad in [
        &b""[..],
        b"GIF89a",
        b"BM",
        &whole[..20],
        &jpeg[..jpeg.len() / 2],
    ] {
        assert!(check(bad).is_err() && decode(bad).is_err());
    }
    let side = u32::try_from(PIXELS_MAX).unwrap();
    let mut huge = whole.clone();
    // The width stands first in the header; its checksum is not looked at before the size.
    huge[16..20].copy_from_slice(&side.to_be_bytes());
    assert!(check(&huge).is_err());
}
