//! GIF: the first frame.

use std::io::Cursor;
use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, Decoder, MemoryLimit};

use super::{BadImage, DECODER_BYTES_MAX, Picture, check_size, refused};

/// The first frame on its screen, which grows where the frame is larger. Around the frame is what
/// Pillow puts there: the transparent colour, or the first. Transparent pixels have the colour of
/// their index.
pub(super) fn decode(encoded: &[u8]) -> Result<Picture, BadImage> {
    let mut decoder = open(encoded)?;
    let screen = (usize::from(decoder.width()), usize::from(decoder.height()));
    let frame = decoder.next_frame_info().map_err(refused)?;
    let frame = frame.ok_or_else(|| BadImage::Codec("it has no frame".into()))?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (across, down) = (usize::from(frame.width), usize::from(frame.height));
    let outside = frame.transparent.unwrap_or(0);
    check_size(across, down)?;
    let (width, height) = (screen.0.max(left + across), screen.1.max(top + down));
    check_size(width, height)?;
    let mut indices = vec![0; across * down];
    decoder.read_into_buffer(&mut indices).map_err(refused)?;
    let palette = decoder.palette().map_err(refused)?;
    let colour = |index: u8| -> [u8; 3] {
        let at = 3 * usize::from(index);
        let found = palette.get(at..at + 3).and_then(|rgb| rgb.try_into().ok());
        found.unwrap_or_default()
    };
    let mut rgb = colour(outside).repeat(width * height);
    let rows = rgb.chunks_exact_mut(3 * width).skip(top);
    for (row, indices) in rows.zip(indices.chunks_exact(across)) {
        let pixels = row.chunks_exact_mut(3).skip(left);
        for (pixel, index) in pixels.zip(indices) {
            pixel.copy_from_slice(&colour(*index));
        }
    }
    Ok(Picture { width, height, rgb })
}

/// A decoder that has read the head, and a screen of a size that is decoded.
pub(super) fn open(encoded: &[u8]) -> Result<Decoder<Cursor<&[u8]>>, BadImage> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    if let Some(most) = NonZeroU64::new(DECODER_BYTES_MAX) {
        options.set_memory_limit(MemoryLimit::Bytes(most));
    }
    let decoder = options.read_info(Cursor::new(encoded)).map_err(refused)?;
    check_size(decoder.width().into(), decoder.height().into())?;
    Ok(decoder)
}
