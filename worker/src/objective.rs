//! Which objective a microbatch trains, and the text it makes of a row: everything is text to text.
//!
//! Row order never depends on training; only the objective does, drawn from (seed, step, lane) among
//! those every row of the microbatch supports.

use ringmaster_dataset::{Example, Tokenizer};
use ringmaster_proto::spec::TaskSpec;
use ringmaster_proto::vocab::{BEGIN, CAPTION_PROMPT, END, PAD};

use crate::draw::uniform;

/// What the decoder learns to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Objective {
    /// Caption the image; the encoder text is a fixed prompt.
    Captioning,
    /// Answer the question about the image.
    QuestionAnswering,
}

impl Objective {
    /// Whether a row has what this objective needs.
    pub(crate) fn supports(self, example: &Example) -> bool {
        match self {
            Self::Captioning => example.caption.is_some(),
            Self::QuestionAnswering => example.question.is_some() && example.answer.is_some(),
        }
    }

    /// Encoder text and decoder target of a row that supports this objective.
    fn texts(self, example: &Example) -> (&str, &str) {
        match self {
            Self::Captioning => (
                CAPTION_PROMPT,
                example.caption.as_deref().unwrap_or_default(),
            ),
            Self::QuestionAnswering => (
                example.question.as_deref().unwrap_or_default(),
                example.answer.as_deref().unwrap_or_default(),
            ),
        }
    }
}

/// Draws the objective of one microbatch among those all its rows of weight 1 support; where no
/// objective of the mix fits them all, the one that fits most. Objectives of weight 0 are never drawn.
pub(crate) fn draw(
    mix: &TaskSpec,
    seed: u64,
    step: u64,
    lane: u32,
    examples: &[Example],
) -> Objective {
    let rows = || examples.iter().filter(|example| example.weight > 0.0);
    let support = |objective: Objective| rows().filter(|e| objective.supports(e)).count();
    let mix: Vec<(Objective, f64)> = [
        (Objective::Captioning, mix.captioning),
        (Objective::QuestionAnswering, mix.question_answering),
    ]
    .into_iter()
    .filter(|(_, weight)| *weight > 0.0)
    .collect();
    let most = mix
        .iter()
        .map(|(objective, _)| support(*objective))
        .max()
        .unwrap_or(0);
    let fitting: Vec<_> = mix
        .into_iter()
        .filter(|(o, _)| support(*o) == most)
        .collect();
    let total: f64 = fitting.iter().map(|(_, weight)| weight).sum();
    let mut left = uniform(seed, "objective", step, lane, 0) * total;
    for (objective, weight) in &fitting {
        if left < *weight {
            return *objective;
        }
        left -= weight;
    }
    fitting
        .last()
        .map_or(Objective::Captioning, |(objective, _)| *objective)
}

/// Token ids of a microbatch, row-major on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tokens {
    /// Encoder ids, `[rows, text_len]`, padded.
    pub(crate) text: Vec<u32>,
    /// Decoder inputs, `[rows, target_len]`: BEGIN, then the target shifted right.
    pub(crate) input: Vec<u32>,
    /// Decoder targets, `[rows, target_len]`: the target, END, padding.
    pub(crate) target: Vec<u32>,
    /// 1 where a target counts, `[rows, target_len]`.
    pub(crate) weight: Vec<f32>,
}

impl Tokens {
    /// Targets that count.
    pub(crate) fn counted(&self) -> u64 {
        self.weight.iter().filter(|weight| **weight > 0.0).count() as u64
    }

    /// Appends one row. Longer texts are cut; a cut target has no END. An encoder text always
    /// begins with BEGIN, so that attention has at least one key.
    pub(crate) fn push(&mut self, text: &[u32], target: &[u32], counts: bool, lens: Lens) {
        let text_ids = std::iter::once(BEGIN).chain(text.iter().copied());
        self.text
            .extend(text_ids.chain(std::iter::repeat(PAD)).take(lens.text));
        let with_end: Vec<u32> = target
            .iter()
            .copied()
            .chain([END])
            .take(lens.target)
            .collect();
        let pads = lens.target - with_end.len();
        self.input.push(BEGIN);
        self.input
            .extend(with_end.iter().take(with_end.len().min(lens.target - 1)));
        self.input.extend(std::iter::repeat_n(
            PAD,
            (lens.target - 1).saturating_sub(with_end.len()),
        ));
        self.weight.extend(std::iter::repeat_n(
            if counts { 1.0 } else { 0.0 },
            with_end.len(),
        ));
        self.weight.extend(std::iter::repeat_n(0.0, pads));
        self.target.extend(with_end);
        self.target.extend(std::iter::repeat_n(PAD, pads));
    }
}

/// Sequence lengths of the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lens {
    /// Encoder positions.
    pub(crate) text: usize,
    /// Decoder positions.
    pub(crate) target: usize,
}

/// Tokens of a whole microbatch under one objective; rows of weight 0, and rows without the texts
/// the objective needs, become fixed content that counts nothing.
pub(crate) fn tokens(
    objective: Objective,
    examples: &[Example],
    tokenizer: &Tokenizer,
    lens: Lens,
) -> Tokens {
    let mut tokens = Tokens::default();
    for example in examples {
        if example.weight > 0.0 && objective.supports(example) {
            let (text, target) = objective.texts(example);
            tokens.push(
                &tokenizer.encode(text),
                &tokenizer.encode(target),
                true,
                lens,
            );
        } else {
            tokens.push(&[], &[], false, lens);
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shifted_ended_padded_and_cut() {
        let lens = Lens { text: 4, target: 4 };
        let mut tokens = Tokens::default();
        tokens.push(&[7, 8], &[5, 6], true, lens);
        tokens.push(&[7, 8, 9, 10], &[3, 4, 5, 6, 7], true, lens);
        tokens.push(&[], &[], false, lens);
        assert_eq!(tokens.text, [1, 7, 8, 0, 1, 7, 8, 9, 1, 0, 0, 0]);
        assert_eq!(tokens.input, [1, 5, 6, 2, 1, 3, 4, 5, 1, 2, 0, 0]);
        assert_eq!(tokens.target, [5, 6, 2, 0, 3, 4, 5, 6, 2, 0, 0, 0]);
        assert_eq!(
            tokens.weight,
            [1., 1., 1., 0., 1., 1., 1., 1., 0., 0., 0., 0.]
        );
        assert_eq!(tokens.counted(), 7);
    }

    fn example(caption: bool, question: bool) -> Example {
        let text = |there: bool| there.then(|| "x".to_owned());
        Example {
            row: None,
            weight: 1.0,
            bad: false,
            image: Vec::new(),
            caption: text(caption),
            question: text(question),
            answer: text(question),
            template: None,
        }
    }

    #[test]
    fn only_objectives_the_rows_support_are_drawn_in_proportion() {
        let sets = ["tasks.captioning=1", "tasks.question_answering=3"];
        let mix = ringmaster_proto::RunSpec::parse("", &sets.map(String::from))
            .expect("a valid mix")
            .tasks;
        let both = [example(true, true), example(true, true)];
        let asked =
            (0..2000).filter(|s| draw(&mix, 1, *s, 0, &both) == Objective::QuestionAnswering);
        let share = asked.count() as f64 / 2000.0;
        assert!((share - 0.75).abs() < 0.05, "{share}");
        let captions_only = [example(true, true), example(true, false)];
        for step in 0..100 {
            assert_eq!(
                draw(&mix, 1, step, 0, &captions_only),
                Objective::Captioning
            );
        }
    }
}
