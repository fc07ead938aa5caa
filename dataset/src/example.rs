//! One decoded example, and what happens to a row whose content is refused.

use crate::decode::{BadImage, Decoder};
use crate::plan::RowRef;
use crate::rows::{EncodedRow, Texts};

/// Longest text of a row, bytes.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// Most objects of a row.
const OBJECTS_MAX: usize = 1024;

/// Fills pictures that are not there: the middle of the range, so near 0 once normalised.
const FILL: u8 = 128;

/// One example of a microbatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The row; `None`: padding at the end of an epoch.
    pub row: Option<RowRef>,
    /// 1, or 0 for padding and refused rows, which must not contribute to the loss.
    pub weight: f32,
    /// Whether the row's content was refused.
    pub bad: bool,
    /// RGB u8, `size * size * 3` values, row by row.
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

/// Why a row's content is refused. Depends on the content alone, never on time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRow {
    #[error("the image is null")]
    NoImage,
    #[error("image: {0}")]
    Image(#[from] BadImage),
    #[error(
        "it has neither a caption, nor a question with an answer, nor objects, nor a hypothesis \
         with a label"
    )]
    NoText,
    #[error("a text has {0} bytes, more than {TEXT_BYTES_MAX}")]
    LongText(usize),
    #[error("it has {0} objects, more than {OBJECTS_MAX}")]
    ManyObjects(usize),
}

impl Example {
    /// A zero-weight example in place of a row that does not exist.
    pub(crate) fn padding(size: usize) -> Self {
        Self {
            row: None,
            weight: 0.0,
            bad: false,
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
    pub(crate) fn refused(row: RowRef, size: usize) -> Self {
        Self {
            row: Some(row),
            bad: true,
            ..Self::padding(size)
        }
    }

    /// Decodes a row.
    pub(crate) fn decode(
        row: RowRef,
        stored: &EncodedRow,
        decoder: &mut Decoder,
    ) -> Result<Self, BadRow> {
        check(&stored.texts)?;
        let image = decoder.decode(stored.image.as_deref().ok_or(BadRow::NoImage)?)?;
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
            bad: false,
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

/// Refuses a row without texts, or with longer or more ones than anybody means.
pub(crate) fn check(texts: &Texts) -> Result<(), BadRow> {
    let some = [&texts.caption, &texts.question, &texts.hypothesis];
    if some.iter().all(|text| text.is_none()) && texts.objects.is_empty() {
        return Err(BadRow::NoText);
    }
    let others = [&texts.answer, &texts.template, &texts.label];
    let lengths = some.into_iter().chain(others).flatten().map(String::len);
    // The objects are one text too: their list.
    let objects = texts.objects.iter().map(String::len).sum();
    match lengths.chain([objects]).max() {
        Some(longest) if longest > TEXT_BYTES_MAX => Err(BadRow::LongText(longest)),
        _ if texts.objects.len() > OBJECTS_MAX => Err(BadRow::ManyObjects(texts.objects.len())),
        _ => Ok(()),
    }
}
