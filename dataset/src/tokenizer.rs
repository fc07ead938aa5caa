//! Text to token ids and back. The ids of a tokenizer follow the reserved ones of
//! `ringmaster_proto::vocab`, shifted by their number.

use std::collections::HashMap;

use ringmaster_proto::vocab::RESERVED;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::tokenizer::Tokenizer as Inner;

use crate::error::DatasetError;

/// A byte-level BPE, or whatever a given `tokenizer.json` is. Cheap to encode with; no state.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Inner,
    size: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Its own padding and truncation are switched off: lengths are the
    /// model's business.
    pub fn from_json(bytes: &[u8]) -> Result<Self, DatasetError> {
        let inner = Inner::from_bytes(bytes).map_err(|error| wrong("tokenizer.json", error))?;
        Self::new(inner)
    }

    /// Trains a byte-level BPE of at most `vocab` ids, reserved ones included. The same texts in
    /// any order give the same tokenizer, and every text can be encoded.
    pub fn train(
        texts: impl Iterator<Item = String> + Send,
        vocab: usize,
    ) -> Result<Self, DatasetError> {
        let bytes = || ByteLevel::new(false, true, true);
        let mut inner = Inner::new(BPE::default());
        inner
            .with_pre_tokenizer(Some(bytes()))
            .with_decoder(Some(bytes()));
        let trainer = BpeTrainer::builder()
            .vocab_size(vocab.saturating_sub(RESERVED as usize))
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        inner
            .train(&mut TrainerWrapper::from(trainer), texts)
            .map_err(|error| wrong("trained on the corpus", error))?;
        Self::new(inner)
    }

    fn new(mut inner: Inner) -> Result<Self, DatasetError> {
        inner
            .with_truncation(None)
            .map_err(|error| wrong("tokenizer.json", error))?;
        inner.with_padding(None);
        let vocab: HashMap<String, u32> = inner.get_vocab(true);
        let ids = vocab.into_values().max().map_or(0, |id| id as usize + 1);
        Ok(Self {
            inner,
            size: ids + RESERVED as usize,
        })
    }

    /// The stored form.
    pub fn to_json(&self) -> Result<Vec<u8>, DatasetError> {
        let json = self
            .inner
            .to_string(false)
            .map_err(|error| wrong("tokenizer.json", error))?;
        Ok(json.into_bytes())
    }

    /// Ids of `text`, without markers. Empty for a text the tokenizer cannot encode.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let encoding = self.inner.encode_fast(text, false);
        encoding.map_or_else(
            |_| Vec::new(),
            |encoding| encoding.get_ids().iter().map(|id| id + RESERVED).collect(),
        )
    }

    /// Ids of `text`, and where among them each of its words (what is between spaces) begins.
    pub fn encode_words(&self, text: &str) -> (Vec<u32>, Vec<usize>) {
        let Ok(encoding) = self.inner.encode(text, false) else {
            return (Vec::new(), Vec::new());
        };
        let bytes = text.as_bytes();
        let space = |at: usize| bytes.get(at).is_none_or(u8::is_ascii_whitespace);
        let mut starts = Vec::new();
        let (mut before, mut blank) = (None, false);
        for (token, &(first, end)) in encoding.get_offsets().iter().enumerate() {
            // A character of several tokens is at one place.
            if before == Some(first) {
                continue;
            }
            // The spaces before a word are its own, in one token with it or not.
            let begins = first == 0 || space(first) || space(first - 1);
            if begins && !blank {
                starts.push(token);
            }
            (before, blank) = (Some(first), (first..end).all(space));
        }
        if blank {
            starts.pop();
        }
        let ids = encoding.get_ids().iter().map(|id| id + RESERVED).collect();
        (ids, starts)
    }

    /// The text of `ids`; reserved ids are left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        let own: Vec<u32> = ids
            .iter()
            .filter_map(|id| id.checked_sub(RESERVED))
            .collect();
        self.inner.decode(&own, true).unwrap_or_default()
    }

    /// Number of ids, reserved ones included: all ids are below it.
    pub fn size(&self) -> usize {
        self.size
    }
}

fn wrong(name: &str, error: impl std::fmt::Display) -> DatasetError {
    DatasetError::Tokenizer {
        name: name.to_owned(),
        reason: error.to_string(),
    }
}
