//! From an encoded picture to pixels of one size. Deterministic, single-threaded, and safe against
//! what anybody may have stored: sizes are refused from the header, before anything is allocated.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{ImageDecoder, ImageFormat, ImageReader, Limits};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Longest encoded picture, bytes.
pub const ENCODED_BYTES_MAX: usize = 32 << 20;

/// Largest picture, pixels.
pub const PIXELS_MAX: usize = 16 << 20;

/// Longest side, pixels: what JPEG can say at most.
const SIDE_MAX: usize = 65_535;

/// Working memory of a PNG or WebP decoder, bytes: 16-bit RGBA and as much again.
const DECODER_BYTES_MAX: u64 = 16 * PIXELS_MAX as u64;

/// Why a picture is refused. Depends on its bytes alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadImage {
    /// Too long.
    #[error("it has {0} bytes, more than {ENCODED_BYTES_MAX}")]
    Bytes(usize),
    /// Neither JPEG nor PNG nor WebP.
    #[error("it is not JPEG, PNG or WebP")]
    Format,
    /// Too many pixels, or none.
    #[error("it is {width} x {height} pixels; 1 to {PIXELS_MAX} in all are decoded")]
    Size {
        /// Pixels across.
        width: usize,
        /// Pixels down.
        height: usize,
    },
    /// Cut short.
    #[error("it is cut short")]
    Truncated,
    /// The codec refuses it.
    #[error("it does not decode: {0}")]
    Codec(String),
    /// The codec breaks on it.
    #[error("it breaks the decoder")]
    Panic,
}

/// Decodes pictures to `size` x `size` pixels; reuses its buffers.
pub struct Decoder {
    size: usize,
    resizer: Resizer,
    options: ResizeOptions,
}

/// Decoded pixels, RGB.
struct Pixels {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Decoder {
    /// A decoder to squares of `size` pixels; the aspect ratio is not kept.
    pub fn new(size: usize) -> Self {
        // A triangle as wide as the reduction, as Pillow's BILINEAR: no aliasing when shrinking.
        let bilinear = ResizeAlg::Convolution(FilterType::Bilinear);
        let options = ResizeOptions::new().resize_alg(bilinear).use_alpha(false);
        Self {
            size,
            resizer: Resizer::new(),
            options,
        }
    }

    /// Pixels of an encoded picture: RGB u8, rows of `size` pixels. Grey is spread over the
    /// channels, alpha is dropped, 16 bits are rounded to 8.
    pub fn decode(&mut self, encoded: &[u8]) -> Result<Vec<u8>, BadImage> {
        if encoded.len() > ENCODED_BYTES_MAX {
            return Err(BadImage::Bytes(encoded.len()));
        }
        let pixels = catch_unwind(AssertUnwindSafe(|| decode(encoded)));
        let pixels = pixels.map_err(|_| BadImage::Panic)??;
        if (pixels.width, pixels.height) == (self.size, self.size) {
            return Ok(pixels.rgb);
        }
        self.resize(&pixels).map_err(BadImage::Codec)
    }

    fn resize(&mut self, from: &Pixels) -> Result<Vec<u8>, String> {
        let (width, height) = (from.width as u32, from.height as u32);
        let source = ImageRef::new(width, height, &from.rgb, PixelType::U8x3)
            .map_err(|error| error.to_string())?;
        let mut target = Image::new(self.size as u32, self.size as u32, PixelType::U8x3);
        self.resizer
            .resize(&source, &mut target, &self.options)
            .map_err(|error| error.to_string())?;
        Ok(target.into_vec())
    }
}

/// Refuses what [`Decoder::decode`] would refuse, as far as a look at the head and the end shows it.
pub fn check(encoded: &[u8]) -> Result<(), BadImage> {
    if encoded.len() > ENCODED_BYTES_MAX {
        return Err(BadImage::Bytes(encoded.len()));
    }
    let open = || match codec(encoded)? {
        Codec::Jpeg => open_jpeg(encoded).map(drop),
        Codec::Other(format) => open_other(encoded, format).map(drop),
    };
    catch_unwind(AssertUnwindSafe(open)).map_err(|_| BadImage::Panic)?
}

enum Codec {
    Jpeg,
    Other(ImageFormat),
}

fn codec(encoded: &[u8]) -> Result<Codec, BadImage> {
    match encoded {
        [0xff, 0xd8, 0xff, ..] => Ok(Codec::Jpeg),
        [0x89, b'P', b'N', b'G', ..] => Ok(Codec::Other(ImageFormat::Png)),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Ok(Codec::Other(ImageFormat::WebP)),
        _ => Err(BadImage::Format),
    }
}

fn decode(encoded: &[u8]) -> Result<Pixels, BadImage> {
    match codec(encoded)? {
        Codec::Jpeg => decode_jpeg(encoded),
        Codec::Other(format) => decode_other(encoded, format),
    }
}

fn check_size(width: usize, height: usize) -> Result<(), BadImage> {
    match width.checked_mul(height) {
        Some(1..=PIXELS_MAX) => Ok(()),
        _ => Err(BadImage::Size { width, height }),
    }
}

fn decode_jpeg(encoded: &[u8]) -> Result<Pixels, BadImage> {
    let mut decoder = open_jpeg(encoded)?;
    let (width, height) = decoder.dimensions().unwrap_or((0, 0));
    let rgb = decoder
        .decode()
        .map_err(|error| BadImage::Codec(one_line(error)))?;
    if rgb.len() != width * height * 3 {
        return Err(BadImage::Codec("its colours do not convert to RGB".into()));
    }
    Ok(Pixels { width, height, rgb })
}

/// A decoder that has read the head, and a picture of a size that is decoded.
fn open_jpeg(encoded: &[u8]) -> Result<JpegDecoder<ZCursor<&[u8]>>, BadImage> {
    // The decoder paints what is missing grey; a picture without its end is no picture.
    if !is_complete_jpeg(encoded) {
        return Err(BadImage::Truncated);
    }
    let options = DecoderOptions::default()
        .set_max_width(SIDE_MAX)
        .set_max_height(SIDE_MAX)
        .set_strict_mode(false)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(encoded), options);
    decoder
        .decode_headers()
        .map_err(|error| BadImage::Codec(one_line(error)))?;
    let (width, height) = decoder.dimensions().unwrap_or((0, 0));
    check_size(width, height)?;
    Ok(decoder)
}

/// Whether an end marker follows the last start of a scan. In between, 0xff is always stuffed, so
/// neither can be mistaken; an embedded preview ends before the scans of the picture start.
fn is_complete_jpeg(encoded: &[u8]) -> bool {
    let last = |marker: u8| encoded.windows(2).rposition(|pair| pair == [0xff, marker]);
    match (last(0xd9), last(0xda)) {
        (Some(end), Some(scan)) => end > scan,
        _ => false,
    }
}

fn decode_other(encoded: &[u8], format: ImageFormat) -> Result<Pixels, BadImage> {
    let decoder = open_other(encoded, format)?;
    let (width, height) = decoder.dimensions();
    let picture = image::DynamicImage::from_decoder(decoder)
        .map_err(|error| BadImage::Codec(one_line(error)))?;
    Ok(Pixels {
        width: width as usize,
        height: height as usize,
        rgb: picture.into_rgb8().into_raw(),
    })
}

/// The same for the other formats.
fn open_other(encoded: &[u8], format: ImageFormat) -> Result<impl ImageDecoder, BadImage> {
    let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    reader.limits(limits);
    let decoder = reader
        .into_decoder()
        .map_err(|error| BadImage::Codec(one_line(error)))?;
    let (width, height) = decoder.dimensions();
    check_size(width as usize, height as usize)?;
    Ok(decoder)
}

fn one_line(error: impl std::fmt::Display) -> String {
    error
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// `x -> (x / 255 - 0.5) / 0.5`, and from HWC to CHW: what the model sees. `image` is RGB u8, row
/// by row; `out` takes as many values.
pub fn normalise(image: &[u8], out: &mut [f32]) {
    let pixels = image.len() / 3;
    for (at, pixel) in image.chunks_exact(3).enumerate() {
        for (channel, value) in pixel.iter().enumerate() {
            if let Some(slot) = out.get_mut(channel * pixels + at) {
                *slot = (f32::from(*value) / 255.0 - 0.5) / 0.5;
            }
        }
    }
}
