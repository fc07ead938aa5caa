//! What the model has learned, measured on held-out rows: answers written token by token, and how
//! much of that needs the right image.

use std::collections::{BTreeMap, HashMap};

use burn::tensor::Device;
use ringmaster_dataset::{Corpus, Example, Store, Texts};
use ringmaster_model::Model;
use ringmaster_model::flat;
use ringmaster_proto::RunSpec;
use ringmaster_proto::checkpoint::CheckpointManifest;
use serde::Serialize;

use crate::feeder::{MicroBatch, images};
use crate::objective::{self, Objective};
use crate::sample::Answering;
use crate::{DeviceChoice, WorkerError, batch, checkpoint};

/// Rows per forward pass.
const BATCH: usize = 64;

/// Training rows whose answers the baseline counts, at most.
const BASELINE_ROWS: u64 = 1_000_000;

/// The numbers a run ends with; fractions in [0, 1], losses in nats per token. Absent where the
/// held-out rows have no questions or no captions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// Steps of the checkpoint.
    pub steps: u64,
    /// Digest of its state.
    pub digest: String,
    /// Share of held-out questions answered exactly (after normalisation).
    pub exact_match: Option<f64>,
    /// The same for the most frequent training answer of each question template.
    pub baseline_exact_match: Option<f64>,
    /// The same as `exact_match` with the images exchanged among the rows.
    pub shuffled_exact_match: Option<f64>,
    /// Mean token loss of held-out captions.
    pub caption_loss: Option<f64>,
    /// The same with the images exchanged among the rows.
    pub shuffled_caption_loss: Option<f64>,
}

/// Evaluates a checkpoint on the first `spec.eval.rows` held-out rows. `progress` is told rows done
/// and rows in all.
pub async fn evaluate(
    spec: &RunSpec,
    corpus: &Corpus,
    root: &Store,
    manifest: &CheckpointManifest,
    device: DeviceChoice,
    progress: impl Fn(u64, u64),
) -> Result<Evaluation, WorkerError> {
    let mut evaluation = Evaluation {
        steps: manifest.step.0,
        digest: manifest.digest.clone(),
        ..Evaluation::default()
    };
    let Some(held_out) = corpus.validation.as_ref().filter(|_| spec.eval.rows > 0) else {
        return Ok(evaluation);
    };
    let device = device.resolve()?;
    let model = Model::new(&spec.model, spec.run.seed, &device);
    let layout = flat::layout(&model);
    let state = checkpoint::load(root, manifest, &layout).await?;
    let model = flat::with_parameters(model, &layout, state.evaluated());
    let rows = 0..spec.eval.rows.min(held_out.rows());
    let rows =
        ringmaster_dataset::read_rows(held_out, &spec.data.columns, rows, spec.model.image_size)
            .await?;
    let rows: Vec<Example> = rows.into_iter().filter(|row| row.weight > 0.0).collect();
    let bench = Bench {
        spec,
        corpus,
        device,
        model,
        pictures: exchanged(&rows),
        rows: &rows,
    };
    let asked: Vec<usize> = supported(&rows, Objective::QuestionAnswering);
    let captioned = supported(&rows, Objective::Captioning);
    let total = 2 * (asked.len() + captioned.len()) as u64;
    let mut done = 0;
    let mut tick = |n: usize| {
        done += n as u64;
        progress(done, total);
    };
    if !asked.is_empty() {
        evaluation.exact_match = Some(bench.exact_match(&asked, false, &mut tick));
        evaluation.shuffled_exact_match = Some(bench.exact_match(&asked, true, &mut tick));
        evaluation.baseline_exact_match = Some(baseline(spec, corpus, &rows, &asked).await?);
    }
    if !captioned.is_empty() {
        evaluation.caption_loss = Some(bench.caption_loss(&captioned, false, &mut tick)?);
        evaluation.shuffled_caption_loss = Some(bench.caption_loss(&captioned, true, &mut tick)?);
    }
    Ok(evaluation)
}

/// A loaded model and the rows it is measured on.
struct Bench<'a> {
    spec: &'a RunSpec,
    corpus: &'a Corpus,
    device: Device,
    model: Model,
    rows: &'a [Example],
    /// For each row, the row whose image it gets when images are exchanged.
    pictures: Vec<usize>,
}

impl Bench<'_> {
    fn answering(&self) -> Answering<'_> {
        Answering {
            spec: &self.spec.model,
            device: &self.device,
            tokenizer: &self.corpus.tokenizer,
        }
    }

    fn picture(&self, row: usize, exchange: bool) -> &[u8] {
        &self.rows[if exchange { self.pictures[row] } else { row }].image
    }

    fn exact_match(&self, asked: &[usize], exchange: bool, tick: &mut impl FnMut(usize)) -> f64 {
        let mut right = 0;
        for chunk in asked.chunks(BATCH) {
            let question = |row: &usize| self.rows[*row].question.as_deref().unwrap_or_default();
            let pictures: Vec<&[u8]> = chunk.iter().map(|r| self.picture(*r, exchange)).collect();
            let questions: Vec<&str> = chunk.iter().map(question).collect();
            let answers = self.answering().answers(&self.model, &pictures, &questions);
            for (row, answer) in chunk.iter().zip(&answers) {
                let reference = self.rows[*row].answer.as_deref().unwrap_or_default();
                right += usize::from(normalise(answer) == normalise(reference));
            }
            tick(chunk.len());
        }
        right as f64 / asked.len() as f64
    }

    fn caption_loss(
        &self,
        captioned: &[usize],
        exchange: bool,
        tick: &mut impl FnMut(usize),
    ) -> Result<f64, WorkerError> {
        let (mut sum, mut tokens) = (0.0, 0);
        for chunk in captioned.chunks(BATCH) {
            let rows: Vec<Example> = chunk.iter().map(|row| self.rows[*row].clone()).collect();
            let lens = self.answering().lens();
            let texts =
                objective::tokens(Objective::Captioning, &rows, &self.corpus.tokenizer, lens);
            tokens += texts.counted();
            let micro = MicroBatch {
                lane: 0,
                images: images(chunk.iter().map(|row| self.picture(*row, exchange))),
                tokens: texts,
                rows: chunk.len(),
            };
            let batch = batch::on_device(&micro, &self.spec.model, &self.device);
            sum += f64::from(batch::scalar(self.model.loss_sum(batch))?);
            tick(chunk.len());
        }
        Ok(sum / tokens.max(1) as f64)
    }
}

fn supported(rows: &[Example], objective: Objective) -> Vec<usize> {
    (0..rows.len())
        .filter(|row| objective.supports(&rows[*row]))
        .collect()
}

/// Every row gets the image half the rows away: nobody keeps its own, every image is used once.
fn exchanged(rows: &[Example]) -> Vec<usize> {
    (0..rows.len())
        .map(|row| (row + rows.len() / 2) % rows.len())
        .collect()
}

/// Answers each question with the most frequent training answer of its template.
async fn baseline(
    spec: &RunSpec,
    corpus: &Corpus,
    rows: &[Example],
    asked: &[usize],
) -> Result<f64, WorkerError> {
    let mut counts: HashMap<String, BTreeMap<String, u64>> = HashMap::new();
    let count = |text: Texts| {
        if let Some(answer) = text.answer {
            let template = counts.entry(text.template.unwrap_or_default()).or_default();
            *template.entry(normalise(&answer)).or_default() += 1;
        }
    };
    ringmaster_dataset::read_texts(&corpus.train, &spec.data.columns, BASELINE_ROWS, count).await?;
    let favourite = |template: &str| -> Option<&String> {
        // The first of equals in alphabetical order, so that the figure is reproducible.
        let answers = counts.get(template)?;
        let most = answers.values().max()?;
        answers
            .iter()
            .find(|(_, count)| *count == most)
            .map(|(answer, _)| answer)
    };
    let right = asked.iter().filter(|row| {
        let row = &rows[**row];
        let answer = normalise(row.answer.as_deref().unwrap_or_default());
        favourite(row.template.as_deref().unwrap_or_default()) == Some(&answer)
    });
    Ok(right.count() as f64 / asked.len() as f64)
}

/// Open-vocabulary comparison: lower case, no punctuation, no articles, single spaces.
fn normalise(text: &str) -> String {
    let plain: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { ' ' })
        .collect();
    let words = plain
        .split_whitespace()
        .filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_compared_without_case_articles_and_punctuation() {
        assert_eq!(normalise(" The Red,  circle."), "red circle");
        assert_ne!(normalise("red"), normalise("blue"));
    }
}
