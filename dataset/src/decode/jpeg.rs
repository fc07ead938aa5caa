//! JPEG: baseline and progressive, of one, three and four components.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::picture::{Picture, orientation};
use super::{BadImage, check_size, refused};

/// Longest side, pixels: what the format can say at most.
const SIDE_MAX: usize = 65_535;

/// The pixels, upright.
pub(super) fn decode(encoded: &[u8]) -> Result<Picture, BadImage> {
    let mut decoder = open(encoded)?;
    let (width, height) = decoder.dimensions().unwrap_or((0, 0));
    let rgb = decoder.decode().map_err(refused)?;
    if rgb.len() != width * height * 3 {
        return Err(BadImage::Codec("its colours do not convert to RGB".into()));
    }
    let exif = decoder.exif().map(Vec::as_slice);
    let turn = orientation(exif, decoder.xmp().map(Vec::as_slice));
    Ok(Picture { width, height, rgb }.turned(turn))
}

/// A decoder that has read the head, and a picture of a size that is decoded.
pub(super) fn open(encoded: &[u8]) -> Result<JpegDecoder<ZCursor<&[u8]>>, BadImage> {
    // The decoder paints what is missing grey; a picture without its end is no picture.
    if !is_complete(encoded) {
        return Err(BadImage::Truncated);
    }
    let options = DecoderOptions::default()
        .set_max_width(SIDE_MAX)
        .set_max_height(SIDE_MAX)
        .set_strict_mode(false)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(encoded), options);
    decoder.decode_headers().map_err(refused)?;
    let (width, height) = decoder.dimensions().unwrap_or((0, 0));
    check_size(width, height)?;
    Ok(decoder)
}

/// Whether an end marker follows the last start of a scan. In between, 0xff is always stuffed, so
/// neither can be mistaken; an embedded preview ends before the scans of the picture start.
fn is_complete(encoded: &[u8]) -> bool {
    let last = |marker: u8| encoded.windows(2).rposition(|pair| pair == [0xff, marker]);
    match (last(0xd9), last(0xda)) {
        (Some(end), Some(scan)) => end > scan,
        _ => false,
    }
}
