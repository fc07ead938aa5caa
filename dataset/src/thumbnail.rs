//! Decoded pictures as small PNGs, for people to look at.

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::imageops::{self, FilterType as Resize};
use image::{ExtendedColorType, ImageEncoder, RgbImage};

/// A PNG of at most `most` x `most` pixels of the square picture `rgb` (u8, row by row). `None` where
/// `rgb` is no square.
pub fn thumbnail(rgb: &[u8], most: u32) -> Option<Vec<u8>> {
    let side = (rgb.len() / 3).isqrt() as u32;
    let picture = RgbImage::from_raw(side, side, rgb.to_vec())?;
    // A longer buffer would be taken too.
    if picture.as_raw().len() != (side * side * 3) as usize {
        return None;
    }
    let picture = if side > most {
        imageops::resize(&picture, most, most, Resize::Triangle)
    } else {
        picture
    };
    let mut png = Vec::new();
    let encoder =
        PngEncoder::new_with_quality(&mut png, CompressionType::Default, FilterType::Adaptive);
    let (width, height) = picture.dimensions();
    encoder
        .write_image(&picture, width, height, ExtendedColorType::Rgb8)
        .ok()?;
    Some(png)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::decode::Decoder;

    #[test]
    fn a_small_picture_comes_back_exactly_and_a_large_one_shrinks() {
        let rgb: Vec<u8> = (0..6 * 6 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let png = thumbnail(&rgb, 6).unwrap();
        assert_eq!(Decoder::new(6).decode(&png).unwrap(), rgb);
        let grey = vec![90; 8 * 8 * 3];
        let png = thumbnail(&grey, 4).unwrap();
        let (width, height) = image::load_from_memory(&png)
            .unwrap()
            .to_rgb8()
            .dimensions();
        assert_eq!((width, height), (4, 4));
        assert_eq!(Decoder::new(4).decode(&png).unwrap(), vec![90; 4 * 4 * 3]);
        assert_eq!(thumbnail(&rgb[1..], 6), None);
    }
}
