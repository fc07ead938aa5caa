//! One decoded example, and what happens to a row whose content is refused.

use crate::augment::View;
use crate::decode::{BadImage, Decoder};
use crate::plan::RowRef;
use crate::refusal::{OBJECTS_MAX, Refusal, TEXT_BYTES_MAX};
use crate::rows::{EncodedRow, Texts};

/// Fills pictures that are not there: the middle of the range, so near 0 once normalised.
pub(crate) const FILL: u8 = 128;

/// One example of a microbatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The row; `None`: padding at the end of an epoch.
    pub row: Option<RowRef>,
    /// 1, or 0 for padding and refused rows, which must not contribute to the loss.
    pub weight: f32,
    /// Why the row's content was refused, if it was.
    pub refused: Option<Refusal>,
    /// RGB u8, `size * size * 3` values, row by row. Empty in a [`crate::LaneBatch`], which has the
    /// pictures of its examples in one piece.
    pub image: Vec<u8>,
    /// What the picture shows. There are no texts where `weight` is 0.
    pub caption: Option<String>,
    /// A question about it; comes with `answer`.
    pub question: Option<String>,
    /// The answer.
    pub answer: Option<String>,
    /// Name of the question's template, for evaluation.
    pub template: Option<String>,
    /// Names of the things in the picture; empty where they are not known.
    pub objects: Vec<String>,
    /// A statement about the picture; comes with `label`.
    pub hypothesis: Option<String>,
    /// Whether the picture entails it: `entailment`, `neutral` or `contradiction`.
    pub label: Option<String>,
}

impl Example {
    /// A zero-weight example in place of a row that does not exist.
    pub(crate) fn padding(size: usize) -> Self {
        Self {
            row: None,
            weight: 0.0,
            refused: None,
            image: vec![FILL; size * size * 3],
            caption: None,
            question: None,
            answer: None,
            template: None,
            objects: Vec::new(),
            hypothesis: None,
            label: None,
        }
    }

    /// A zero-weight example in place of a row whose content is refused.
    pub(crate) fn refused(row: RowRef, why: Refusal, size: usize) -> Self {
        Self {
            row: Some(row),
            refused: Some(why),
            ..Self::padding(size)
        }
    }

    /// Decodes a row; of its picture that which is shown.
    pub(crate) fn decode(
        row: RowRef,
        stored: &EncodedRow,
        view: &View,
        decoder: &mut Decoder,
    ) -> Result<Self, Refusal> {
        Self::decode_with(row, stored, |encoded| decoder.decode_view(encoded, view))
    }

    /// The same with the pixels that `decode` makes of the encoded picture.
    pub(crate) fn decode_with(
        row: RowRef,
        stored: &EncodedRow,
        decode: impl FnOnce(&[u8]) -> Result<Vec<u8>, BadImage>,
    ) -> Result<Self, Refusal> {
        stored.check()?;
        let image = decode(stored.image.as_deref().ok_or(Refusal::NoImage)?)?;
        let Texts {
            caption,
            question,
            answer,
            template,
            objects,
            hypothesis,
            label,
        } = stored.texts.clone();
        Ok(Self {
            row: Some(row),
            weight: 1.0,
            refused: None,
            image,
            caption,
            question,
            answer,
            template,
            objects,
            hypothesis,
            label,
        })
    }
}

impl EncodedRow {
    /// Refuses what the texts alone show to be bad.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if !self.utf8 {
            return Err(Refusal::NotUtf8);
        }
        check(&self.texts)
    }
}

/// Refuses a row without texts, or with longer or more ones than anybody means.
pub(crate) fn check(texts: &Texts) -> Result<(), Refusal> {
    let some = [&texts.caption, &texts.question, &texts.hypothesis];
    if some.iter().all(|text| text.is_none()) && texts.objects.is_empty() {
        return Err(Refusal::NoText);
    }
    let others = [&texts.answer, &texts.template, &texts.label];
    let lengths = some.into_iter().chain(others).flatten().map(String::len);
    // The objects are one text too: their list.
    let objects = texts.objects.iter().map(String::len).sum();
    let longest = lengths.chain([objects]).max().unwrap_or(0) as u64;
    if longest > TEXT_BYTES_MAX {
        return Err(Refusal::LongText(longest));
    }
    match texts.objects.len() as u64 {
        0..=OBJECTS_MAX => Ok(()),
        count => Err(Refusal::ManyObjects(count)),
    }
}
