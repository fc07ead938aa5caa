//! From the fields of a microbatch's rows to encoder texts and decoder targets.
//!
//! Composing is a function of (seed, step, lane) and the rows: whatever is drawn here is the same on
//! every rank, at every redo.

use ringmaster_dataset::Tokenizer;
use ringmaster_proto::vocab;

use super::{Fields, Lens, Objective, Tokens, spans};
use crate::draw::Key;

/// Encoder text and decoder target of one row.
type Texts = (Vec<u32>, Vec<u32>);

/// Composes microbatches of one run.
#[derive(Clone, Debug)]
pub(crate) struct Composer {
    lens: Lens,
    wording: Wording,
}

/// The texts that are not a row's, as token ids.
#[derive(Clone, Debug)]
struct Wording {
    caption: Vec<u32>,
    completion: Vec<u32>,
    spans: Vec<u32>,
    matching: Vec<u32>,
    listing: Vec<u32>,
    /// What is written where something is not so, and where it is.
    truth: [Vec<u32>; 2],
    presence: [Vec<u32>; 2],
}

impl Composer {
    /// A composer of texts of these lengths.
    pub(crate) fn new(tokenizer: &Tokenizer, lens: Lens) -> Self {
        let ids = |text: &str| tokenizer.encode(text);
        let wording = Wording {
            caption: ids(vocab::CAPTION_PROMPT),
            completion: ids(vocab::COMPLETION_PROMPT),
            spans: ids(vocab::SPANS_PROMPT),
            matching: ids(vocab::MATCHING_PROMPT),
            listing: ids(vocab::LISTING_PROMPT),
            truth: ["false", "true"].map(ids),
            presence: ["no", "yes"].map(ids),
        };
        Self { lens, wording }
    }

    /// Tokens of a whole microbatch under one objective; rows of weight 0, and rows without what the
    /// objective needs, become fixed content that counts nothing.
    pub(crate) fn compose(&self, objective: Objective, key: Key, rows: &[Fields]) -> Tokens {
        let mut tokens = Tokens::default();
        for (at, row) in rows.iter().enumerate() {
            let texts = if row.supports(objective) {
                self.texts(objective, key, rows, at)
            } else {
                None
            };
            let counts = texts.is_some();
            let (text, target) = texts.unwrap_or_default();
            tokens.push(&text, &target, counts, self.lens);
        }
        tokens
    }

    /// Texts of row `at`; `None` if its own are too short.
    fn texts(&self, objective: Objective, key: Key, rows: &[Fields], at: usize) -> Option<Texts> {
        let (row, wording) = (&rows[at], &self.wording);
        match objective {
            Objective::Captioning => Some((wording.caption.clone(), row.caption.clone())),
            Objective::Completion => self.completion(key, row, at),
            Objective::MaskedSpans => {
                let room = self.room(&wording.spans).min(row.caption.len());
                let mut draws = key.of_row("spans", at);
                let (text, target) = spans::corrupt(&row.caption[..room], &mut draws)?;
                Some((join(&wording.spans, &text), target))
            }
            Objective::Matching => {
                let (caption, truth) = matching(key, rows, at);
                let target = wording.truth[usize::from(truth)].clone();
                Some((join(&wording.matching, caption), target))
            }
            Objective::QuestionAnswering => Some((row.question.clone(), row.answer.clone())),
            Objective::ObjectListing => Some((wording.listing.clone(), row.listing.clone())),
            Objective::ObjectPresence => {
                let (question, there) = presence(key, rows, at)?;
                let target = wording.presence[usize::from(there)].clone();
                Some((question.to_vec(), target))
            }
            Objective::Entailment => Some((row.hypothesis.clone(), row.label.clone())),
        }
    }

    /// The first words of the caption, at least one and as many as fit, and the rest, at least one.
    fn completion(&self, key: Key, row: &Fields, at: usize) -> Option<Texts> {
        let prompt = &self.wording.completion;
        let room = self.room(prompt);
        let cuts = row.words.get(1..).unwrap_or_default();
        let fitting = cuts.iter().take_while(|cut| **cut <= room).count();
        let cut = *key.of_row("completion", at).choose(&cuts[..fitting])?;
        let (first, rest) = row.caption.split_at_checked(cut)?;
        Some((join(prompt, first), rest.to_vec()))
    }

    /// Encoder positions left behind BEGIN and a prompt.
    fn room(&self, prompt: &[u32]) -> usize {
        self.lens.text.saturating_sub(1 + prompt.len())
    }
}

/// A caption for row `at`, and whether it is its own: half the time it is that of another row of the
/// microbatch that counts, unless the two read the same.
fn matching(key: Key, rows: &[Fields], at: usize) -> (&[u32], bool) {
    let own = &rows[at].caption;
    let mut draws = key.of_row("matching", at);
    if draws.coin() {
        let others: Vec<&Vec<u32>> = others(rows, at, Objective::Matching)
            .map(|row| &row.caption)
            .collect();
        if let Some(other) = draws.choose(&others)
            && *other != own
        {
            return (other, false);
        }
    }
    (own, true)
}

/// A question for row `at`, and whether its answer is yes: half the time it is about an object of
/// another row of the microbatch that counts which this row does not have, if there is one.
fn presence(key: Key, rows: &[Fields], at: usize) -> Option<(&[u32], bool)> {
    let own = &rows[at].presence;
    let mut draws = key.of_row("presence", at);
    if draws.coin() {
        let absent: Vec<&Vec<u32>> = others(rows, at, Objective::ObjectPresence)
            .flat_map(|row| &row.presence)
            .filter(|question| !own.contains(question))
            .collect();
        if let Some(question) = draws.choose(&absent) {
            return Some((question, false));
        }
    }
    Some((draws.choose(own)?, true))
}

/// The rows other than `at` that count under an objective: never one of weight 0.
fn others(rows: &[Fields], at: usize, objective: Objective) -> impl Iterator<Item = &Fields> {
    let rows = rows.iter().enumerate();
    rows.filter(move |(other, row)| *other != at && row.supports(objective))
        .map(|(_, row)| row)
}

fn join(prompt: &[u32], text: &[u32]) -> Vec<u32> {
    [prompt, text].concat()
}
