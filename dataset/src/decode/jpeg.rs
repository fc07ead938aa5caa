//! JPEG: baseline and progressive, of one, three and four components.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::area::shown;
use super::picture::{Decoded, Picture, orientation};
use super::{BadImage, check_size, refused, scaled};
use crate::augment::View;

/// Longest side, pixels: what the format can say at most.
const SIDE_MAX: usize = 65_535;

/// The pixels. With `at_least` a picture of which the part that is shown would still be that many pixels a
/// side at a half, a quarter or an eighth of its size is decoded to that. `spare` is memory to decode into.
pub(super) fn decode(
    encoded: &[u8],
    at_least: Option<(usize, &View)>,
    mut spare: Vec<u8>,
) -> Result<Decoded, BadImage> {
    let mut decoder = open(encoded)?;
    let (width, height) = decoder.dimensions().unwrap_or((0, 0));
    let exif = decoder.exif().map(Vec::as_slice);
    let turn = orientation(exif, decoder.xmp().map(Vec::as_slice));
    let by = at_least.map_or(1, |(side, view)| {
        let shown = shown(view, (width, height), turn);
        reduction(shown.width.min(shown.height), side)
    });
    if by > 1
        && let Some(picture) = scaled::decode(encoded, (width, height), by)
    {
        let stored = (width, height);
        return Ok(Decoded {
            picture,
            turn,
            stored,
            by,
        });
    }
    let values = width * height * 3;
    if decoder.output_buffer_size() != Some(values) {
        return Err(BadImage::Codec("its colours do not convert to RGB".into()));
    }
    // What a damaged picture leaves out is black, not what was there before.
    spare.clear();
    spare.resize(values, 0);
    decoder.decode_into(&mut spare).map_err(refused)?;
    let rgb = spare;
    let decoded = Decoded::from(Picture { width, height, rgb });
    Ok(Decoded { turn, ..decoded })
}

/// The largest of 8, 4, 2 and 1 that leaves `at_least` pixels of `side`.
fn reduction(side: usize, at_least: usize) -> usize {
    let leaves = |by: &usize| side / by >= at_least;
    [8, 4, 2].into_iter().find(leaves).unwrap_or(1)
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
