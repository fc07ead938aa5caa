//! The pictures of a lane in one piece of memory, which threads fill picture by picture and which is
//! used again when it has been fed: to ask the system for so much anew costs a tenth of decoding.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::BytesMut;

use crate::augment::View;
use crate::decode::{BadImage, Decoder, normalise_to_bytes};

/// What is kept of pictures of `size` pixels a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `[rows, size, size, 3]`, RGB u8: a quarter of the memory, for devices that normalise.
    Bytes,
    /// `[rows, 3, size, size]`, f32 in the machine's byte order, as [`crate::normalise`] makes them.
    Values,
}

impl Form {
    /// Bytes of a picture.
    pub(crate) fn bytes(self, size: usize) -> usize {
        let values = 3 * size * size;
        match self {
            Self::Bytes => values,
            Self::Values => values * size_of::<f32>(),
        }
    }

    /// Decodes what `view` shows of a picture to `out`, which is left as it was or in part overwritten if it is refused.
    pub(crate) fn decode(
        self,
        encoded: &[u8],
        view: &View,
        decoder: &mut Decoder,
        out: &mut [u8],
    ) -> Result<(), BadImage> {
        match self {
            Self::Bytes => decoder.decode_into(encoded, view, out),
            Self::Values => {
                decoder.decode_with(encoded, view, |pixels| normalise_to_bytes(pixels, out))
            }
        }
    }

    /// A picture that is `value` everywhere.
    pub(crate) fn fill(self, value: u8, out: &mut [u8]) {
        match self {
            Self::Bytes => out.fill(value),
            Self::Values => {
                let grey = vec![value; out.len() / size_of::<f32>()];
                normalise_to_bytes(&grey, out);
            }
        }
    }
}

/// Pictures of one size, one after another.
pub struct Images {
    form: Form,
    pixels: BytesMut,
    /// Where the memory goes back to.
    shelf: Weak<Shelf>,
}

impl Images {
    pub(crate) fn new(form: Form, pixels: BytesMut, shelf: &Arc<Shelf>) -> Self {
        Self {
            form,
            pixels,
            shelf: Arc::downgrade(shelf),
        }
    }

    /// What the pixels are.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The memory of all pictures.
    pub fn as_bytes(&self) -> &[u8] {
        &self.pixels
    }
}

/// Of [`Form::Bytes`].
impl From<Vec<u8>> for Images {
    fn from(pixels: Vec<u8>) -> Self {
        Self {
            form: Form::Bytes,
            pixels: BytesMut::from(bytes::Bytes::from(pixels)),
            shelf: Weak::new(),
        }
    }
}

impl Clone for Images {
    fn clone(&self) -> Self {
        Self {
            form: self.form,
            pixels: self.pixels.clone(),
            shelf: Weak::clone(&self.shelf),
        }
    }
}

impl PartialEq for Images {
    fn eq(&self, other: &Self) -> bool {
        self.form == other.form && self.pixels == other.pixels
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.pixels.len();
        write!(f, "Images({:?}, {bytes} bytes)", self.form)
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        if let Some(shelf) = self.shelf.upgrade() {
            shelf.lay(std::mem::take(&mut self.pixels));
        }
    }
}

/// Memory that waits to be used again. There is never more of it than was in use at once.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<Vec<BytesMut>>);

impl Shelf {
    /// `bytes` bytes with anything in them.
    pub(crate) fn take(&self, bytes: usize) -> BytesMut {
        let laid = self.lock().pop();
        let fits = laid.filter(|laid| laid.len() == bytes);
        fits.unwrap_or_else(|| BytesMut::zeroed(bytes))
    }

    fn lay(&self, pixels: BytesMut) {
        self.lock().push(pixels);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<BytesMut>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_in_one_piece_and_is_handed_out_again() {
        let shelf = Arc::new(Shelf::default());
        let mut rest = shelf.take(12);
        let place = rest.as_ptr();
        let mut pieces: Vec<BytesMut> = (0..3).map(|_| rest.split_to(4)).collect();
        for (value, piece) in (1..).zip(&mut pieces) {
            piece.fill(value);
        }
        let mut whole = BytesMut::new();
        pieces.into_iter().for_each(|piece| whole.unsplit(piece));
        let images = Images::new(Form::Bytes, whole, &shelf);
        assert_eq!(images.as_bytes(), [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
        let copy = images.clone();
        drop(images);
        assert_eq!(shelf.take(12).as_ptr(), place, "the same memory");
        assert_ne!(copy.as_bytes().as_ptr(), place, "a copy is its own");
        drop(copy);
        assert_eq!(
            shelf.take(7).len(),
            7,
            "what does not fit is not handed out"
        );
        let images = Images::new(Form::Bytes, shelf.take(12), &shelf);
        drop(shelf);
        drop(images);
    }

    #[test]
    fn a_filled_picture_is_the_normalised_one() {
        let mut bytes = [0; 12];
        Form::Bytes.fill(128, &mut bytes);
        let mut values = [0; 48];
        Form::Values.fill(128, &mut values);
        let mut expected = [0; 48];
        normalise_to_bytes(&bytes, &mut expected);
        assert_eq!((bytes, values), ([128; 12], expected));
    }
}
