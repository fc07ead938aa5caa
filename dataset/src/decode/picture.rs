//! Decoded pixels, and turning them the way up that their metadata asks for.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

/// Decoded pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// RGB u8, row by row.
    pub rgb: Vec<u8>,
}

/// What a codec makes of a file.
pub(crate) struct Decoded {
    pub(crate) picture: Picture,
    /// How it is to be turned.
    pub(super) turn: Orientation,
    /// Pixels across and down that are stored.
    pub(super) stored: (usize, usize),
    /// How many of them a side became one here.
    pub(super) by: usize,
}

impl From<Picture> for Decoded {
    fn from(picture: Picture) -> Self {
        Self {
            stored: (picture.width, picture.height),
            by: 1,
            turn: Orientation::NoTransforms,
            picture,
        }
    }
}

impl Decoded {
    /// Whether it is to be turned at all.
    pub(super) fn is_turned(&self) -> bool {
        self.turn != Orientation::NoTransforms
    }
}

impl Picture {
    /// Turned and mirrored; unchanged where the buffer does not have the size it says.
    pub(super) fn turned(self, orientation: Orientation) -> Self {
        if orientation == Orientation::NoTransforms {
            return self;
        }
        let Self { width, height, rgb } = self;
        let Some(pixels) = RgbImage::from_raw(width as u32, height as u32, rgb) else {
            return Self {
                width,
                height,
                rgb: Vec::new(),
            };
        };
        let mut picture = DynamicImage::from(pixels);
        picture.apply_orientation(orientation);
        Self {
            width: picture.width() as usize,
            height: picture.height() as usize,
            rgb: picture.into_bytes(),
        }
    }
}

/// How a picture is to be turned: what its EXIF says or, where that says nothing, its XMP. What
/// makes no sense turns nothing.
pub(super) fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    let exif = exif.and_then(Orientation::from_exif_chunk);
    let found = exif.or_else(|| xmp.and_then(orientation_of_xmp));
    found.unwrap_or(Orientation::NoTransforms)
}

/// `tiff:Orientation="6"` or `<tiff:Orientation>6<`.
fn orientation_of_xmp(xmp: &[u8]) -> Option<Orientation> {
    const NAME: &[u8] = b"tiff:Orientation";
    let at = xmp.windows(NAME.len()).position(|part| part == NAME)?;
    let value = match xmp.get(at + NAME.len()..)? {
        [b'=', b'"', digit, ..] | [b'>', digit, ..] => digit.checked_sub(b'0')?,
        _ => return None,
    };
    Orientation::from_exif(value)
}
