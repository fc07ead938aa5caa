//! From an encoded picture to pixels of one size. Deterministic, single-threaded, and safe against
//! what anybody may have stored: sizes are refused from the header, before anything is allocated.
//!
//! JPEG, PNG, WebP, GIF (the first frame) and BMP become what Pillow makes of them with
//! `exif_transpose(open(file)).convert("RGB").resize((size, size), BILINEAR)`: turned upright, grey
//! spread over the channels, alpha dropped, palettes looked up, 16 bits cut to the high byte, CMYK
//! taken as Adobe writes it. All arithmetic on pixels is of integers, so the processor and its vector
//! extensions change no bit (`tests/read/pixels.rs` checks it, and the distances to Pillow below).
//!
//! | encoding | from Pillow 13, levels of 255, decoded: mean, most | and resized: mean, most |
//! |---|---|---|
//! | PNG, WebP, GIF, BMP | 0, 0 | 0.3, 1 |
//! | JPEG | 0.5, 5 | 0.5, 5 |
//!
//! With [`Decoder::with_dct_scaling`] a JPEG that shrinks by two or more is decoded at a half, a quarter
//! or an eighth of its size and resized from there: what Pillow makes of it after
//! `draft("RGB", (size, size))` and resizing the box that it returns, but for resizing's rounding (0.3
//! levels on average, 1 at most). That is 0.5 levels on average from the whole picture resized, for
//! pictures like photographs, and over the fixtures 0.7 on average and 5 at most; `draft` itself is as far.
//!
//! With a [`View`] of a part of a picture the part is what is resized, as Pillow's `crop` and then `resize`,
//! and how much smaller a JPEG may be decoded follows from the part.
//!
//! Two things differ on purpose: 16-bit grey, which Pillow clips to white, and files without an end,
//! which are refused.

mod area;
mod gif;
mod jpeg;
mod normalise;
mod other;
mod picture;
mod pool;
mod scaled;

use std::panic::{AssertUnwindSafe, catch_unwind};

use ::image::ImageFormat;
use fast_image_resize::images::{CroppedImage, Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use self::area::Area;
pub use self::normalise::normalise;
pub(crate) use self::normalise::normalise_to_bytes;
pub(crate) use self::picture::Decoded;
pub use self::picture::Picture;
pub(crate) use self::pool::DecoderPool;
use crate::augment::View;

/// Longest encoded picture, bytes.
pub const ENCODED_BYTES_MAX: usize = 32 << 20;

/// Largest picture, pixels.
pub const PIXELS_MAX: usize = 16 << 20;

/// Working memory of a decoder, bytes: 16-bit RGBA and as much again.
const DECODER_BYTES_MAX: u64 = 16 * PIXELS_MAX as u64;

/// Why a picture is refused. Depends on its bytes alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadImage {
    /// Too long.
    #[error("it has {0} bytes, more than {ENCODED_BYTES_MAX}")]
    Bytes(usize),
    /// None of the formats.
    #[error("it is not JPEG, PNG, WebP, GIF or BMP")]
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

/// Decodes pictures to `size` x `size` pixels; reuses its buffers, which never shows in the pixels.
pub struct Decoder {
    size: usize,
    dct_scaling: bool,
    /// Pixels of the last picture: large memory is dear to ask for anew.
    spare: Vec<u8>,
    /// The same for its pixels in the decoder's size.
    small: Vec<u8>,
    resizer: Resizer,
    options: ResizeOptions,
}

impl Decoder {
    /// A decoder to squares of `size` pixels; the aspect ratio is not kept.
    pub fn new(size: usize) -> Self {
        // A triangle as wide as the reduction, as Pillow's BILINEAR: no aliasing when shrinking.
        let bilinear = ResizeAlg::Convolution(FilterType::Bilinear);
        let options = ResizeOptions::new().resize_alg(bilinear).use_alpha(false);
        Self {
            size,
            dct_scaling: false,
            spare: Vec::new(),
            small: Vec::new(),
            resizer: Resizer::new(),
            options,
        }
    }

    /// Whether JPEGs that shrink by two or more are decoded smaller: faster, and other pixels.
    pub fn with_dct_scaling(mut self, on: bool) -> Self {
        self.dct_scaling = on;
        self
    }

    /// Pixels of an encoded picture: RGB u8, `size` rows of `size` pixels.
    pub fn decode(&mut self, encoded: &[u8]) -> Result<Vec<u8>, BadImage> {
        self.decode_view(encoded, &View::WHOLE)
    }

    /// [`Decoder::decode`] of what `view` shows: as if that part of the upright picture were all of it,
    /// which is mirrored once it has its size.
    pub fn decode_view(&mut self, encoded: &[u8], view: &View) -> Result<Vec<u8>, BadImage> {
        let mut pixels = vec![0; self.values()];
        self.decode_into(encoded, view, &mut pixels)?;
        Ok(pixels)
    }

    /// The same into `out`, which takes as many bytes.
    pub(crate) fn decode_into(
        &mut self,
        encoded: &[u8],
        view: &View,
        out: &mut [u8],
    ) -> Result<(), BadImage> {
        let decoded = self.decode_only(encoded, view)?;
        let resized = self.resize(&decoded, view, out);
        self.reuse(decoded);
        resized
    }

    /// The same to memory of the decoder, shown to `see`.
    pub(crate) fn decode_with<R>(
        &mut self,
        encoded: &[u8],
        view: &View,
        see: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, BadImage> {
        let mut small = std::mem::take(&mut self.small);
        small.resize(self.values(), 0);
        let decoded = self.decode_into(encoded, view, &mut small);
        let seen = decoded.map(|()| see(&small));
        self.small = small;
        seen
    }

    /// Bytes of a decoded picture.
    pub(crate) fn values(&self) -> usize {
        3 * self.size * self.size
    }

    /// Takes back the memory of a picture that is no longer needed.
    pub(crate) fn reuse(&mut self, decoded: Decoded) {
        self.spare = decoded.picture.rgb;
    }

    /// All of the picture before it is resized; for what `view` shows of it.
    pub(crate) fn decode_only(&mut self, encoded: &[u8], view: &View) -> Result<Decoded, BadImage> {
        let spare = std::mem::take(&mut self.spare);
        let at_least_side = self.dct_scaling.then_some((self.size, view));
        at_least(encoded, at_least_side, spare)
    }

    /// What `view` shows of the picture, in the decoder's size, upright, into `out`.
    pub(crate) fn resize(
        &mut self,
        from: &Decoded,
        view: &View,
        out: &mut [u8],
    ) -> Result<(), BadImage> {
        let Picture { width, height, rgb } = &from.picture;
        let side = self.size as f64;
        let size = (self.size, self.size);
        let area = Area::of(from, view);
        let fits = (*width, *height) == size && (area.width, area.height) == (side, side);
        if fits {
            out.copy_from_slice(rgb);
        } else {
            let source = ImageRef::new(*width as u32, *height as u32, rgb, PixelType::U8x3);
            let source = source.map_err(refused)?;
            // The filter must not reach beyond the part: what lies there is not shown.
            let part = area.around();
            let [left, top, across, down] =
                [part.left, part.top, part.width, part.height].map(|pixels| pixels as u32);
            let source = CroppedImage::new(&source, left, top, across, down).map_err(refused)?;
            let (x, y) = (area.left - f64::from(left), area.top - f64::from(top));
            let options = self.options.crop(x, y, area.width, area.height);
            let (width, height) = (self.size as u32, self.size as u32);
            let target = Image::from_slice_u8(width, height, out, PixelType::U8x3);
            self.resizer
                .resize(&source, &mut target.map_err(refused)?, &options)
                .map_err(refused)?;
        }
        if from.is_turned() {
            let (width, height) = size;
            let rgb = out.to_vec();
            let turned = Picture { width, height, rgb }.turned(from.turn);
            out.copy_from_slice(&turned.rgb);
        }
        if view.is_mirrored() {
            area::mirror(out, self.size);
        }
        Ok(())
    }
}

/// The pixels of an encoded picture, upright and in the size it has.
pub fn picture(encoded: &[u8]) -> Result<Picture, BadImage> {
    let Decoded { picture, turn, .. } = at_least(encoded, None, Vec::new())?;
    Ok(picture.turned(turn))
}

/// The pixels of an encoded picture, which may be decoded smaller, though what is shown of it not below
/// `side` pixels, and into `spare`.
fn at_least(
    encoded: &[u8],
    side: Option<(usize, &View)>,
    spare: Vec<u8>,
) -> Result<Decoded, BadImage> {
    guarded(encoded, |codec| match codec {
        Codec::Jpeg => jpeg::decode(encoded, side, spare),
        Codec::Gif => gif::decode(encoded).map(Decoded::from),
        Codec::Other(format) => other::decode(encoded, format),
    })
}

/// Refuses what [`picture`] would refuse, as far as a look at the head and the end shows it.
pub fn check(encoded: &[u8]) -> Result<(), BadImage> {
    guarded(encoded, |codec| match codec {
        Codec::Jpeg => jpeg::open(encoded).map(drop),
        Codec::Gif => gif::open(encoded).map(drop),
        Codec::Other(format) => other::open(encoded, format).map(drop),
    })
}

enum Codec {
    Jpeg,
    Gif,
    Other(ImageFormat),
}

fn guarded<T>(
    encoded: &[u8],
    work: impl FnOnce(Codec) -> Result<T, BadImage>,
) -> Result<T, BadImage> {
    if encoded.len() > ENCODED_BYTES_MAX {
        return Err(BadImage::Bytes(encoded.len()));
    }
    let codec = codec(encoded).ok_or(BadImage::Format)?;
    catch_unwind(AssertUnwindSafe(|| work(codec))).map_err(|_| BadImage::Panic)?
}

fn codec(encoded: &[u8]) -> Option<Codec> {
    match encoded {
        [0xff, 0xd8, 0xff, ..] => Some(Codec::Jpeg),
        [0x89, b'P', b'N', b'G', ..] => Some(Codec::Other(ImageFormat::Png)),
        [b'G', b'I', b'F', b'8', ..] => Some(Codec::Gif),
        [b'B', b'M', ..] => Some(Codec::Other(ImageFormat::Bmp)),
        _ if encoded.starts_with(b"RIFF") && encoded.get(8..12) == Some(b"WEBP") => {
            Some(Codec::Other(ImageFormat::WebP))
        }
        _ => None,
    }
}

fn check_size(width: usize, height: usize) -> Result<(), BadImage> {
    match width.checked_mul(height) {
        Some(1..=PIXELS_MAX) => Ok(()),
        _ => Err(BadImage::Size { width, height }),
    }
}

fn refused(error: impl std::fmt::Display) -> BadImage {
    let text = error.to_string();
    BadImage::Codec(text.split_whitespace().collect::<Vec<_>>().join(" "))
}
