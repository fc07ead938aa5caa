//! Greedy answers to held-out questions: the sample shown while training, and generation in batches.

use std::time::{Duration, Instant};

use burn::tensor::Device;
use ringmaster_dataset::{Corpus, Example, Tokenizer};
use ringmaster_model::Model;
use ringmaster_proto::spec::ModelSpec;
use ringmaster_proto::v1::Sample;

use crate::WorkerError;
use crate::batch;
use crate::feeder::images;
use crate::objective::{Lens, Tokens};
use crate::trainer::Trainer;

/// Asks a few held-out questions in turn, now and then. Changes no state, so timing is harmless.
pub(crate) struct Sampler {
    rows: Vec<Example>,
    next: usize,
    every: Duration,
    last: Instant,
    spec: ModelSpec,
    device: Device,
}

impl Sampler {
    /// Samples among `rows`; those without a question are passed over.
    pub(crate) fn new(
        rows: Vec<Example>,
        every: Duration,
        spec: &ModelSpec,
        device: &Device,
    ) -> Self {
        let asks = |row: &Example| row.question.is_some() && row.answer.is_some();
        let rows = rows.into_iter().filter(asks).collect();
        let (spec, device) = (spec.clone(), device.clone());
        Self {
            rows,
            next: 0,
            every,
            last: Instant::now(),
            spec,
            device,
        }
    }

    /// A question, its reference answer and the model's, if it is time for one.
    pub(crate) fn next_if_due(
        &mut self,
        trainer: &mut Trainer,
        corpus: &Corpus,
    ) -> Result<Option<Sample>, WorkerError> {
        if self.rows.is_empty() || self.last.elapsed() < self.every {
            return Ok(None);
        }
        let row = &self.rows[self.next % self.rows.len()];
        let question = row.question.clone().unwrap_or_default();
        let picture = [row.image.as_slice()];
        let model = trainer.evaluated_model()?;
        let context = Answering {
            spec: &self.spec,
            device: &self.device,
            tokenizer: &corpus.tokenizer,
        };
        let answer = context
            .answers(&model, &picture, &[question.as_str()])
            .pop();
        let reference = row.answer.clone().unwrap_or_default();
        self.next += 1;
        self.last = Instant::now();
        Ok(Some(Sample {
            step: trainer.step_count(),
            question,
            reference,
            answer: answer.unwrap_or_default(),
        }))
    }
}

/// What turning pictures and questions into answers needs besides a model.
pub(crate) struct Answering<'a> {
    pub(crate) spec: &'a ModelSpec,
    pub(crate) device: &'a Device,
    pub(crate) tokenizer: &'a Tokenizer,
}

impl Answering<'_> {
    /// Sequence lengths of the model.
    pub(crate) fn lens(&self) -> Lens {
        Lens {
            text: self.spec.text_len,
            target: self.spec.target_len,
        }
    }

    /// One greedy answer per (picture, question).
    pub(crate) fn answers(
        &self,
        model: &Model,
        pictures: &[&[u8]],
        questions: &[&str],
    ) -> Vec<String> {
        let mut tokens = Tokens::default();
        for question in questions {
            tokens.push(&self.tokenizer.encode(question), &[], false, self.lens());
        }
        let rows = questions.len();
        let pixels = images(pictures.iter().copied());
        let pictures = batch::images(&pixels, rows, self.spec, self.device);
        let shape = [rows, self.spec.text_len];
        let (text, mask) = batch::encoder_text(&tokens.text, shape, self.device);
        let ids = model.generate(pictures, text, mask, self.spec.target_len);
        ids.iter().map(|ids| self.tokenizer.decode(ids)).collect()
    }
}
