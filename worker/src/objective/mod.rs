//! Which objective a microbatch trains: everything is text to text over one decoder.
//!
//! Row order never depends on training; only the objective does, drawn from (seed, step, lane) among
//! those every row of the microbatch supports. The rows are read ahead of the step ([`Fields`]), and
//! composed once the objective is known ([`Composer`]): plain work on integers.

mod compose;
mod fields;
mod spans;
#[cfg(test)]
mod tests;
mod tokens;

use ringmaster_dataset::{Example, Tokenizer};
use ringmaster_proto::spec::TaskSpec;

pub(crate) use compose::Composer;
pub(crate) use fields::Fields;
pub(crate) use tokens::{Lens, Tokens};

use crate::draw::Key;

/// What the decoder learns to write, in the order of [`TaskSpec::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Objective {
    /// Caption the image; the encoder text is a fixed prompt.
    Captioning,
    /// Write the rest of a caption of which the encoder sees the first words.
    Completion,
    /// Write the spans that were taken out of a caption.
    MaskedSpans,
    /// Say whether a caption is the image's own.
    Matching,
    /// Answer the question about the image.
    QuestionAnswering,
    /// List the objects in the image; the encoder text is a fixed prompt.
    ObjectListing,
    /// Say whether an object is in the image.
    ObjectPresence,
    /// Say whether the image entails a statement.
    Entailment,
}

impl Objective {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// All of them, in order.
    pub(crate) const ALL: [Self; 8] = [
        Self::Captioning,
        Self::Completion,
        Self::MaskedSpans,
        Self::Matching,
        Self::QuestionAnswering,
        Self::ObjectListing,
        Self::ObjectPresence,
        Self::Entailment,
    ];

    /// As in a run file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Captioning => "captioning",
            Self::Completion => "completion",
            Self::MaskedSpans => "masked_spans",
            Self::Matching => "matching",
            Self::QuestionAnswering => "question_answering",
            Self::ObjectListing => "object_listing",
            Self::ObjectPresence => "object_presence",
            Self::Entailment => "entailment",
        }
    }

    /// Its relative weight in the mix.
    pub(crate) fn weight(self, tasks: &TaskSpec) -> f64 {
        tasks.weights()[self as usize].1
    }

    /// Whether a row has what this objective needs.
    pub(crate) fn supports(self, example: &Example) -> bool {
        let words = || {
            let caption = example.caption.as_deref().unwrap_or_default();
            caption.split_ascii_whitespace().count()
        };
        match self {
            Self::Captioning | Self::Matching => example.caption.is_some(),
            Self::Completion | Self::MaskedSpans => words() > 1,
            Self::QuestionAnswering => example.question.is_some() && example.answer.is_some(),
            Self::ObjectListing | Self::ObjectPresence => !example.objects.is_empty(),
            Self::Entailment => example.hypothesis.is_some() && example.label.is_some(),
        }
    }
}

/// Draws the objective of one microbatch among those all its rows of weight 1 support; where no
/// objective of the mix fits them all, the one that fits most. Objectives of probability 0 are never
/// drawn; the others keep their proportions.
pub(crate) fn draw(
    probabilities: &[f64; Objective::COUNT],
    key: Key,
    rows: &[Fields],
) -> Objective {
    let support = |objective| rows.iter().filter(|row| row.supports(objective)).count();
    let mix: Vec<(Objective, f64, usize)> = Objective::ALL
        .into_iter()
        .zip(probabilities)
        .filter(|(_, probability)| **probability > 0.0)
        .map(|(objective, probability)| (objective, *probability, support(objective)))
        .collect();
    let most = mix.iter().map(|(.., rows)| *rows).max().unwrap_or(0);
    let fitting = || mix.iter().filter(|(.., rows)| *rows == most);
    let total: f64 = fitting().map(|(_, probability, _)| probability).sum();
    let mut left = key.uniform("objective", 0) * total;
    let mut drawn = Objective::Captioning;
    for (objective, probability, _) in fitting() {
        drawn = *objective;
        if left < *probability {
            break;
        }
        left -= probability;
    }
    drawn
}

/// Tokens of examples outside of training; where an objective draws, as for the first microbatch of
/// seed 0. Rows without what the objective needs count nothing.
pub(crate) fn tokens(
    objective: Objective,
    examples: &[Example],
    tokenizer: &Tokenizer,
    lens: Lens,
) -> Tokens {
    let read = |example| Fields::read(example, tokenizer, |wanted| wanted == objective);
    let rows: Vec<Fields> = examples.iter().map(read).collect();
    Composer::new(tokenizer, lens).compose(objective, Key::default(), &rows)
}
