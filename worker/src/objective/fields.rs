//! The texts of a row as token ids: read ahead of the step that trains them.

use ringmaster_dataset::{Example, Tokenizer};
use ringmaster_proto::vocab::presence_question;

use super::Objective;

/// What the objectives of a run need of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fields {
    /// Which objectives have what they need.
    pub(super) supports: [bool; Objective::COUNT],
    pub(super) caption: Vec<u32>,
    /// Where in the caption its words begin.
    pub(super) words: Vec<usize>,
    pub(super) question: Vec<u32>,
    pub(super) answer: Vec<u32>,
    /// The names of all objects.
    pub(super) listing: Vec<u32>,
    /// The question for each object.
    pub(super) presence: Vec<Vec<u32>>,
    pub(super) hypothesis: Vec<u32>,
    pub(super) label: Vec<u32>,
}

impl Fields {
    /// Reads what the objectives that are `wanted` need of a row; a row of weight 0 supports none.
    pub(crate) fn read(
        example: &Example,
        tokenizer: &Tokenizer,
        wanted: impl Fn(Objective) -> bool,
    ) -> Self {
        let counts = example.weight > 0.0;
        let supports = Objective::ALL.map(|o| counts && wanted(o) && o.supports(example));
        let ids = |text: &Option<String>| tokenizer.encode(text.as_deref().unwrap_or_default());
        let mut fields = Self {
            supports,
            ..Self::default()
        };
        let any = |objectives: &[Objective]| objectives.iter().any(|o| supports[*o as usize]);
        if any(&[
            Objective::Captioning,
            Objective::Completion,
            Objective::MaskedSpans,
            Objective::Matching,
        ]) {
            let caption = example.caption.as_deref().unwrap_or_default();
            (fields.caption, fields.words) = tokenizer.encode_words(caption);
        }
        if any(&[Objective::QuestionAnswering]) {
            fields.question = ids(&example.question);
            fields.answer = ids(&example.answer);
        }
        if any(&[Objective::ObjectListing]) {
            fields.listing = tokenizer.encode(&example.objects.join(", "));
        }
        if any(&[Objective::ObjectPresence]) {
            let ask = |object: &String| tokenizer.encode(&presence_question(object));
            fields.presence = example.objects.iter().map(ask).collect();
        }
        if any(&[Objective::Entailment]) {
            fields.hypothesis = ids(&example.hypothesis);
            fields.label = ids(&example.label);
        }
        fields
    }

    /// Whether the row counts under this objective.
    pub(crate) fn supports(&self, objective: Objective) -> bool {
        self.supports[objective as usize]
    }

    /// A row that supports these objectives.
    #[cfg(test)]
    pub(super) fn supporting(objectives: &[Objective]) -> Self {
        Self {
            supports: Objective::ALL.map(|objective| objectives.contains(&objective)),
            ..Self::default()
        }
    }
}
