//! What the model has learned, measured on held-out rows: answers written token by token, and how
//! much of that needs the right image.

mod bench;
mod losses;
mod metrics;
mod normalise;
mod scores;

use std::collections::{BTreeMap, HashMap};

use ringmaster_dataset::{Corpus, Example, Store, Texts};
use ringmaster_proto::RunSpec;
use ringmaster_proto::checkpoint::CheckpointManifest;
use serde::Serialize;

use self::bench::Inquiry;
use self::losses::LossSum;
use self::normalise::plain;
use crate::objective::Objective;
use crate::{DeviceChoice, WorkerError};

pub use self::bench::{Bench, Verdict};
pub use self::losses::ObjectiveLoss;
pub use self::metrics::{Metric, Reference};
pub use self::scores::{Scores, TemplateScore, score};

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
    let bench = Bench::open(spec, &corpus.tokenizer, root, manifest, device).await?;
    let rows = 0..spec.eval.rows.min(held_out.rows());
    let rows =
        ringmaster_dataset::read_rows(held_out, &spec.data.columns, rows, spec.model.image_size)
            .await?;
    let rows: Vec<Example> = rows.into_iter().filter(|row| row.weight > 0.0).collect();
    let pictures = exchanged(&rows);
    let held_out = HeldOut {
        bench: &bench,
        rows: &rows,
        pictures,
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
        evaluation.exact_match = Some(held_out.exact_match(&asked, false, &mut tick));
        evaluation.shuffled_exact_match = Some(held_out.exact_match(&asked, true, &mut tick));
        evaluation.baseline_exact_match = Some(baseline(spec, corpus, &rows, &asked).await?);
    }
    if !captioned.is_empty() {
        evaluation.caption_loss = Some(held_out.caption_loss(&captioned, false, &mut tick)?);
        evaluation.shuffled_caption_loss =
            Some(held_out.caption_loss(&captioned, true, &mut tick)?);
    }
    Ok(evaluation)
}

/// The rows a model is measured on.
struct HeldOut<'a> {
    bench: &'a Bench,
    rows: &'a [Example],
    /// For each row, the row whose image it gets when images are exchanged.
    pictures: Vec<usize>,
}

impl HeldOut<'_> {
    fn picture(&self, row: usize, exchange: bool) -> &[u8] {
        &self.rows[if exchange { self.pictures[row] } else { row }].image
    }

    fn exact_match(&self, asked: &[usize], exchange: bool, tick: &mut impl FnMut(usize)) -> f64 {
        let inquiry = |row: &usize| Inquiry {
            image: self.picture(*row, exchange),
            text: self.rows[*row].question.as_deref().unwrap_or_default(),
            reference: reference(&self.rows[*row]),
        };
        let mut right = 0.0;
        for chunk in asked.chunks(BATCH) {
            let inquiries: Vec<Inquiry> = chunk.iter().map(inquiry).collect();
            let verdicts = self.bench.verdicts(Metric::Exact, &inquiries);
            right += verdicts.iter().map(|verdict| verdict.score).sum::<f64>();
            tick(chunk.len());
        }
        right / asked.len() as f64
    }

    fn caption_loss(
        &self,
        captioned: &[usize],
        exchange: bool,
        tick: &mut impl FnMut(usize),
    ) -> Result<f64, WorkerError> {
        let mut sum = LossSum::default();
        for chunk in captioned.chunks(BATCH) {
            let rows: Vec<Example> = chunk.iter().map(|row| self.rows[*row].clone()).collect();
            let pictures = chunk.iter().map(|row| self.picture(*row, exchange));
            sum.add(self.bench.loss(Objective::Captioning, &rows, pictures)?);
            tick(chunk.len());
        }
        Ok(sum.mean())
    }
}

fn reference(row: &Example) -> Reference<'_> {
    Reference {
        answer: row.answer.as_deref().unwrap_or_default(),
        annotators: &[],
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
            *template.entry(plain(&answer)).or_default() += 1;
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
        let answer = plain(row.answer.as_deref().unwrap_or_default());
        favourite(row.template.as_deref().unwrap_or_default()) == Some(&answer)
    });
    Ok(right.count() as f64 / asked.len() as f64)
}
