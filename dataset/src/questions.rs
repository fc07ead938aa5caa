//! Questions about pictures, decoded and in batches: what an evaluation asks.
//!
//! They are made on a thread of their own, a few batches ahead of whoever answers them, so that a
//! data set of any length is asked in little memory.

use std::ops::ControlFlow;
use std::sync::Arc;

use futures::StreamExt;
use ringmaster_proto::spec::Columns;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::corpus::row_chunks;
use crate::decode::Decoder;
use crate::error::DatasetError;
use crate::example::Example;
use crate::import::{self, BadRow, Row, Source, Tolerance};
use crate::manifest::CorpusManifest;

/// Questions of a batch.
const BATCH: usize = 64;

/// Batches made ahead.
const AHEAD: usize = 2;

/// What is asked about a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Its question; the answer is expected.
    Question,
    /// Whether it entails its hypothesis; the label is expected.
    Entailment,
}

/// A question with its picture and what people answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    /// What the source calls it; else the number of its row.
    pub id: String,
    /// RGB u8, `size * size * 3` values, row by row.
    pub image: Vec<u8>,
    /// The question, or the hypothesis.
    pub text: String,
    /// The answer, or the label.
    pub answer: String,
    /// Every answer that people gave, where the source has them.
    pub annotators: Vec<String>,
    /// Kind of the question.
    pub template: Option<String>,
}

/// Which questions are asked, and how.
#[derive(Clone, Copy, Debug)]
pub struct QuestionOptions {
    /// What is asked.
    pub asked: Asked,
    /// Rows that are read at most.
    pub rows_max: u64,
    /// Side of the pictures, pixels.
    pub image_size: usize,
    /// Fraction of the rows that may be unusable.
    pub max_bad_fraction: f64,
}

/// A few questions, and how many rows before them were unusable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuestionBatch {
    /// In the order of the source; rows without what is asked are passed over.
    pub questions: Vec<Question>,
    /// Rows refused since the last batch.
    pub bad: u64,
}

/// A stream of questions. Dropping it ends the thread that makes them.
pub struct Questions {
    batches: Receiver<Result<QuestionBatch, DatasetError>>,
}

impl Questions {
    /// Questions of the first rows of a corpus. Needs a tokio runtime.
    pub fn of_rows(
        manifest: &Arc<CorpusManifest>,
        columns: &Columns,
        options: QuestionOptions,
    ) -> Result<Self, DatasetError> {
        let rows = 0..options.rows_max.min(manifest.rows());
        let chunks = row_chunks(manifest, columns, rows, options.image_size)?;
        let runtime = Handle::current();
        Ok(Self::start(options, move |maker| {
            let mut chunks = std::pin::pin!(chunks);
            while let Some(chunk) = runtime.block_on(chunks.next()) {
                for example in chunk? {
                    if maker.take_example(example).is_break() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        }))
    }

    /// Questions of the first rows of somebody's files. Needs a tokio runtime.
    pub fn of_files(source: Source, options: QuestionOptions) -> Self {
        let mut decoder = Decoder::new(options.image_size);
        Self::start(options, move |maker| {
            import::read(&source, &mut |row| maker.take_row(row, &mut decoder))
        })
    }

    /// The next batch; `None` at the end. An error is the last thing that is said.
    pub async fn next(&mut self) -> Option<Result<QuestionBatch, DatasetError>> {
        self.batches.recv().await
    }

    fn start(
        options: QuestionOptions,
        read: impl FnOnce(&mut Maker) -> Result<(), DatasetError> + Send + 'static,
    ) -> Self {
        let (sender, batches) = channel(AHEAD);
        let mut maker = Maker {
            options,
            tolerance: Tolerance::new(options.max_bad_fraction),
            rows: 0,
            batch: QuestionBatch::default(),
            failed: None,
            sender,
        };
        tokio::task::spawn_blocking(move || {
            let read = read(&mut maker);
            maker.end(read);
        });
        Self { batches }
    }
}

/// Makes batches of rows.
struct Maker {
    options: QuestionOptions,
    tolerance: Tolerance,
    /// Rows seen.
    rows: u64,
    batch: QuestionBatch,
    failed: Option<DatasetError>,
    sender: Sender<Result<QuestionBatch, DatasetError>>,
}

impl Maker {
    fn take_example(&mut self, example: Example) -> ControlFlow<()> {
        let id = example.row.map_or(self.rows, |row| row.row_id).to_string();
        if let Some(refusal) = example.refused {
            let place = format!("row {id} of the corpus");
            let reason = refusal.to_string();
            return self.take(Err(BadRow { place, reason }));
        }
        let (text, answer) = match self.options.asked {
            Asked::Question => (example.question, example.answer),
            Asked::Entailment => (example.hypothesis, example.label),
        };
        let question = text.zip(answer).map(|(text, answer)| Question {
            id,
            image: example.image,
            text,
            answer,
            annotators: Vec::new(),
            template: example.template,
        });
        self.take(Ok(question))
    }

    fn take_row(&mut self, row: Result<Row, BadRow>, decoder: &mut Decoder) -> ControlFlow<()> {
        let asked = self.options.asked;
        self.take(row.and_then(|row| decode(row, asked, decoder)))
    }

    /// `None`: a row that does not ask.
    fn take(&mut self, question: Result<Option<Question>, BadRow>) -> ControlFlow<()> {
        self.rows += 1;
        match question {
            Ok(question) => {
                self.tolerance.accept();
                self.batch.questions.extend(question);
            }
            Err(bad) => {
                self.batch.bad += 1;
                if let Err(error) = self.tolerance.refuse(&bad) {
                    self.failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
        }
        if self.batch.questions.len() == BATCH && !self.send() {
            return ControlFlow::Break(());
        }
        match self.rows >= self.options.rows_max {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Whether somebody takes the batch.
    fn send(&mut self) -> bool {
        let batch = std::mem::take(&mut self.batch);
        self.sender.blocking_send(Ok(batch)).is_ok()
    }

    fn end(mut self, read: Result<(), DatasetError>) {
        let failed = self.failed.take().map_or(Ok(()), Err);
        let ended = failed.and(read).and_then(|()| self.tolerance.end());
        // Nobody listens where the questions were dropped.
        let _heard = match ended {
            Ok(()) => self.send(),
            Err(error) => self.sender.blocking_send(Err(error)).is_ok(),
        };
    }
}

/// The question of a row; `None` where it asks none.
fn decode(row: Row, asked: Asked, decoder: &mut Decoder) -> Result<Option<Question>, BadRow> {
    let (text, answer) = match asked {
        Asked::Question => (row.texts.question, row.texts.answer),
        Asked::Entailment => (row.texts.hypothesis, row.texts.label),
    };
    let Some((text, answer)) = text.zip(answer) else {
        return Ok(None);
    };
    let image = decoder.decode(&row.image).map_err(|error| BadRow {
        place: row.place.clone(),
        reason: format!("picture {}: {error}", row.path),
    })?;
    Ok(Some(Question {
        id: if row.id.is_empty() { row.place } else { row.id },
        image,
        text,
        answer,
        annotators: row.annotators,
        template: row.texts.template,
    }))
}
