//! Pictures of every encoding become what Pillow makes of them (tests/fixtures/pixels/make.py), so the
//! oracle is another program.

use std::path::{Path, PathBuf};

use fast_image_resize::images::{CroppedImage, Image, ImageRef};
use fast_image_resize::{CpuExtensions, FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use ringmaster_dataset::decode::{Decoder, Picture, picture};

/// Side that the expected pictures are resized to.
pub(crate) const SIDE: usize = 24;

/// How far from Pillow pixels may be: on average and at most, of 255.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distance {
    pub(crate) mean: f64,
    pub(crate) most: u8,
}

fn folder(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.join("tests/fixtures/pixels").join(name)
}

/// Every picture: its name without ending, and its bytes.
pub(crate) fn pictures() -> Vec<(String, String, Vec<u8>)> {
    let paths = std::fs::read_dir(folder("pictures")).unwrap();
    let mut paths: Vec<PathBuf> = paths.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap().to_str().unwrap().to_owned();
        let (stem, ending) = (part(path.file_stem()), part(path.extension()));
        (stem, ending, std::fs::read(path).unwrap())
    };
    paths.into_iter().map(read).collect()
}

/// Pixels that Pillow stored losslessly, read without the code under test.
fn expected(kind: &str, stem: &str) -> Picture {
    let path = folder(kind).join(format!("{stem}.png"));
    let pixels = image::load_from_memory(&std::fs::read(path).unwrap()).unwrap();
    Picture {
        width: pixels.width() as usize,
        height: pixels.height() as usize,
        rgb: pixels.into_rgb8().into_raw(),
    }
}

pub(crate) fn distance(found: &[u8], expected: &[u8]) -> Distance {
    assert_eq!(found.len(), expected.len());
    let apart = found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = apart.clone().map(u64::from).sum();
    Distance {
        mean: sum as f64 / found.len() as f64,
        most: apart.max().unwrap_or(0),
    }
}

/// What the documentation of `decode` promises: decoded, and then resized.
fn promised(ending: &str) -> [Distance; 2] {
    let distances = |mean, most, mean_resized, most_resized| {
        [(mean, most), (mean_resized, most_resized)].map(|(mean, most)| Distance { mean, most })
    };
    match ending {
        "jpg" => distances(0.5, 5, 0.5, 5),
        _ => distances(0.0, 0, 0.3, 1),
    }
}

#[test]
fn every_encoding_decodes_to_the_pixels_of_pillow() {
    for (stem, ending, encoded) in pictures() {
        let found = picture(&encoded).unwrap_or_else(|error| panic!("{stem}: {error}"));
        let expected = expected("decoded", &stem);
        let size = |picture: &Picture| (picture.width, picture.height);
        assert_eq!(size(&found), size(&expected), "{stem}");
        let [promised, _] = promised(&ending);
        let distance = distance(&found.rgb, &expected.rgb);
        assert!(
            distance.mean <= promised.mean && distance.most <= promised.most,
            "{stem}: {distance:?}, promised {promised:?}"
        );
    }
}

#[test]
fn every_encoding_is_resized_to_the_pixels_of_pillow() {
    let mut decoder = Decoder::new(SIDE);
    for (stem, ending, encoded) in pictures() {
        let found = decoder.decode(&encoded).unwrap();
        let [_, promised] = promised(&ending);
        let distance = distance(&found, &expected("resized", &stem).rgb);
        assert!(
            distance.mean <= promised.mean && distance.most <= promised.most,
            "{stem}: {distance:?}, promised {promised:?}"
        );
    }
}

/// The oracle is Pillow's `draft`, which decodes smaller too; what that changes is bounded beside it.
#[test]
fn a_jpeg_decoded_smaller_is_what_pillow_drafts() {
    let mut decoder = Decoder::new(SIDE).with_dct_scaling(true);
    let mut seen = 0;
    for (stem, _, encoded) in pictures() {
        let found = decoder.decode(&encoded).unwrap();
        if !stem.starts_with("jpeg-large") {
            let whole = Decoder::new(SIDE).decode(&encoded).unwrap();
            let shrinks = picture(&encoded).is_ok_and(|p| p.width.min(p.height) >= 2 * SIDE);
            assert!(shrinks || found == whole, "{stem} shrinks by less than two");
            continue;
        }
        seen += 1;
        let draft = expected("draft", &stem).rgb;
        let whole = expected("resized", &stem).rgb;
        let near = distance(&found, &draft);
        assert!(near.mean <= 0.3 && near.most <= 1, "{stem}: {near:?}");
        for (who, pixels) in [("draft", draft), ("ours", found)] {
            let far = distance(&pixels, &whole);
            println!("{stem} {who}: {far:?}");
            assert!(far.mean <= 0.7 && far.most <= 5, "{stem}, {who}: {far:?}");
        }
    }
    assert_eq!(seen, 5);
}

/// A machine without AVX2 must make the pixels of one with it. Of the library that decodes JPEG no public
/// switch turns extensions off: a build of it without them agreed on 280,000 damaged pictures.
#[test]
fn resizing_gives_the_same_pixels_with_every_vector_extension() {
    let bilinear = ResizeAlg::Convolution(FilterType::Bilinear);
    let options = ResizeOptions::new().resize_alg(bilinear).use_alpha(false);
    for (width, height) in [
        (384, 300),
        (97, 513),
        (31, 7),
        (1, 1),
        (512, 512),
        (1021, 64),
    ] {
        let mut bytes = vec![0; 3 * width * height];
        let name = [width.to_le_bytes(), height.to_le_bytes()].concat();
        blake3::Hasher::new()
            .update(&name)
            .finalize_xof()
            .fill(&mut bytes);
        let resize = |extensions: CpuExtensions| {
            let mut resizer = Resizer::new();
            #[allow(unsafe_code)]
            // SAFETY: the caller has asked whether the processor has them.
            unsafe {
                resizer.set_cpu_extensions(extensions);
            }
            let (width, height) = (width as u32, height as u32);
            let source = ImageRef::new(width, height, &bytes, PixelType::U8x3).unwrap();
            let mut target = Image::new(224, 224, PixelType::U8x3);
            resizer.resize(&source, &mut target, &options).unwrap();
            // A part of it, which ends within pixels.
            let (left, top) = (width / 5, height / 3);
            let part = CroppedImage::new(&source, left, top, width - left, height - top).unwrap();
            let (across, down) = (
                f64::from(width - left) - 0.5,
                f64::from(height - top) - 0.25,
            );
            let options = options.crop(0.25, 0.125, across, down);
            let mut of_part = Image::new(224, 224, PixelType::U8x3);
            resizer.resize(&part, &mut of_part, &options).unwrap();
            (target.into_vec(), of_part.into_vec())
        };
        let plain = resize(CpuExtensions::None);
        for extensions in extensions().into_iter().filter(CpuExtensions::is_supported) {
            assert_eq!(
                resize(extensions),
                plain,
                "{extensions:?} {width} x {height}"
            );
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn extensions() -> [CpuExtensions; 2] {
    [CpuExtensions::Sse4_1, CpuExtensions::Avx2]
}

#[cfg(target_arch = "aarch64")]
fn extensions() -> [CpuExtensions; 1] {
    [CpuExtensions::Neon]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn extensions() -> [CpuExtensions; 0] {
    []
}
