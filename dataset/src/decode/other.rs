//! PNG, WebP and BMP.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::picture::{Decoded, Picture, orientation};
use super::{BadImage, DECODER_BYTES_MAX, check_size, refused};

/// The pixels.
pub(super) fn decode(encoded: &[u8], format: ImageFormat) -> Result<Decoded, BadImage> {
    let mut decoder = open(encoded, format)?;
    let (width, height) = decoder.dimensions();
    // What cannot be read of the metadata turns nothing.
    let exif = decoder.exif_metadata().ok().flatten();
    let xmp = decoder.xmp_metadata().ok().flatten();
    let picture = DynamicImage::from_decoder(decoder).map_err(refused)?;
    let picture = Picture {
        width: width as usize,
        height: height as usize,
        rgb: rgb(picture),
    };
    let turn = orientation(exif.as_deref(), xmp.as_deref());
    let decoded = Decoded::from(picture);
    Ok(Decoded { turn, ..decoded })
}

/// A decoder that has read the head, and a picture of a size that is decoded.
pub(super) fn open(encoded: &[u8], format: ImageFormat) -> Result<impl ImageDecoder, BadImage> {
    let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(refused)?;
    let (width, height) = decoder.dimensions();
    check_size(width as usize, height as usize)?;
    Ok(decoder)
}

/// Of 16 bits the high byte, as Pillow takes it; the library would round.
fn rgb(picture: DynamicImage) -> Vec<u8> {
    let high = |value: u16| (value >> 8) as u8;
    match picture {
        DynamicImage::ImageLuma16(grey) => grey.iter().flat_map(|v| [high(*v); 3]).collect(),
        DynamicImage::ImageLumaA16(grey) => grey
            .pixels()
            .flat_map(|pixel| [high(pixel.0[0]); 3])
            .collect(),
        DynamicImage::ImageRgb16(colours) => colours.iter().map(|v| high(*v)).collect(),
        DynamicImage::ImageRgba16(colours) => {
            let three = |pixel: &image::Rgba<u16>| [0, 1, 2].map(|channel| high(pixel.0[channel]));
            colours.pixels().flat_map(three).collect()
        }
        eight => eight.into_rgb8().into_raw(),
    }
}
