//! Why a row's content is refused, as a number that ranks can add and as a sentence.
//!
//! Depends on the content alone, never on time or place, so every rank and every replay names the
//! same reason. What a codec says in its own words is not part of it: a newer one says it otherwise.

use crate::decode::BadImage;

/// Longest text of a row, bytes.
pub(crate) const TEXT_BYTES_MAX: u64 = 64 << 10;

/// Most objects of a row.
pub(crate) const OBJECTS_MAX: u64 = 1024;

/// The longest side that a word holds; a longer one is told as this.
const SIDE_MAX: u64 = (1 << 28) - 1;

/// Bits of a word that say which reason it is; the others are its numbers.
const CODE_BITS: u32 = 8;

/// One reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// There is no picture.
    #[error("the image is null")]
    NoImage,
    /// The encoded picture is too long.
    #[error("the image has {0} bytes, more than any that is decoded")]
    ImageBytes(u64),
    /// Not a picture, or of another kind.
    #[error("the image is not JPEG, PNG or WebP")]
    ImageFormat,
    /// Too many pixels, or none.
    #[error("the image is {0} x {1} pixels, none or more than are decoded")]
    ImageSize(u64, u64),
    /// The picture ends early.
    #[error("the image is cut short")]
    ImageTruncated,
    /// The codec refuses it.
    #[error("the image does not decode")]
    ImageCodec,
    /// The codec breaks on it.
    #[error("the image breaks its decoder")]
    ImagePanic,
    /// Nothing to train on.
    #[error(
        "it has neither a caption, nor a question with an answer, nor objects, nor a hypothesis \
         with a label"
    )]
    NoText,
    /// A text is too long.
    #[error("a text has {0} bytes, more than {TEXT_BYTES_MAX}")]
    LongText(u64),
    /// Its list is too long.
    #[error("it has {0} objects, more than {OBJECTS_MAX}")]
    ManyObjects(u64),
    /// Bytes that are no text.
    #[error("a text is not UTF-8")]
    NotUtf8,
}

impl Refusal {
    /// The reason as one word, never 0.
    pub fn word(self) -> u64 {
        let side = |pixels: u64| pixels.min(SIDE_MAX);
        let (code, numbers) = match self {
            Self::NoImage => (1, 0),
            Self::ImageBytes(bytes) => (2, bytes),
            Self::ImageFormat => (3, 0),
            Self::ImageSize(width, height) => (4, side(width) << 28 | side(height)),
            Self::ImageTruncated => (5, 0),
            Self::ImageCodec => (6, 0),
            Self::ImagePanic => (7, 0),
            Self::NoText => (8, 0),
            Self::LongText(bytes) => (9, bytes),
            Self::ManyObjects(count) => (10, count),
            Self::NotUtf8 => (11, 0),
        };
        numbers << CODE_BITS | code
    }

    /// The reason that `word` is.
    pub fn from_word(word: u64) -> Option<Self> {
        let (code, numbers) = (word & ((1 << CODE_BITS) - 1), word >> CODE_BITS);
        let found = match code {
            1 => Self::NoImage,
            2 => Self::ImageBytes(numbers),
            3 => Self::ImageFormat,
            4 => Self::ImageSize(numbers >> 28, numbers & SIDE_MAX),
            5 => Self::ImageTruncated,
            6 => Self::ImageCodec,
            7 => Self::ImagePanic,
            8 => Self::NoText,
            9 => Self::LongText(numbers),
            10 => Self::ManyObjects(numbers),
            11 => Self::NotUtf8,
            _ => return None,
        };
        (found.word() == word).then_some(found)
    }
}

impl From<BadImage> for Refusal {
    fn from(bad: BadImage) -> Self {
        match bad {
            BadImage::Bytes(bytes) => Self::ImageBytes(bytes as u64),
            BadImage::Format => Self::ImageFormat,
            BadImage::Size { width, height } => Self::ImageSize(width as u64, height as u64),
            BadImage::Truncated => Self::ImageTruncated,
            BadImage::Codec(_) => Self::ImageCodec,
            BadImage::Panic => Self::ImagePanic,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_word_is_one_reason_and_a_reason_one_word() {
        let sides = Refusal::ImageSize(30_000, 65_535);
        let with_numbers = [
            Refusal::LongText(1 << 40),
            Refusal::ImageBytes(1 << 30),
            sides,
        ];
        let words = (0..=255).filter_map(Refusal::from_word);
        let all: Vec<Refusal> = words.chain(with_numbers).collect();
        assert_eq!(all.len(), 11 + 3);
        for refusal in all {
            assert_eq!(Refusal::from_word(refusal.word()).unwrap(), refusal);
        }
        for word in [0, 12, 1 | 1 << CODE_BITS, u64::MAX] {
            assert_eq!(Refusal::from_word(word), None, "{word}");
        }
    }
}
