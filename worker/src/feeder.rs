//! Turns the loader's rows into host arrays ahead of the trainer, on a thread of its own.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ringmaster_dataset::{Corpus, LaneBatch, Loader, LoaderOptions};
use ringmaster_proto::{RunSpec, Step};
use ringmaster_ring::Abort;

use crate::WorkerError;
use crate::objective::{self, Lens, Tokens};
use crate::statistics::Statistics;

/// Steps made ready ahead of the trainer.
const AHEAD: usize = 2;

/// How often a waiting trainer looks whether its generation was aborted.
const POLL: Duration = Duration::from_millis(50);

/// One lane's examples of one step, ready for the device.
#[derive(Debug)]
pub(crate) struct MicroBatch {
    /// Which lane's.
    pub(crate) lane: u32,
    /// Pixels, `[rows, 3, size, size]`, normalised to [-1, 1].
    pub(crate) images: Vec<f32>,
    /// Token ids.
    pub(crate) tokens: Tokens,
    /// Rows.
    pub(crate) rows: usize,
}

/// Everything this rank feeds forward in one step.
#[derive(Debug)]
pub(crate) struct StepInput {
    /// Steps consumed before this one.
    pub(crate) step: Step,
    /// One per owned lane, ascending.
    pub(crate) lanes: Vec<MicroBatch>,
    /// Row counts and hashes; loss and tokens are still zero.
    pub(crate) statistics: Statistics,
}

/// The running thread; dropping it ends the thread.
pub(crate) struct Feeder {
    inputs: Option<Receiver<Result<StepInput, WorkerError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    /// Starts reading the batches of `lanes` from step `from` to the end of the run.
    pub(crate) fn start(
        corpus: &Arc<Corpus>,
        spec: &Arc<RunSpec>,
        lanes: Range<u32>,
        from: Step,
        to: Step,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Self, WorkerError> {
        let options = LoaderOptions {
            lanes,
            from,
            to,
            image_size: spec.model.image_size,
            prefetch_steps: AHEAD,
        };
        let mut loader = Loader::start(corpus, options, runtime);
        let (sender, inputs) = sync_channel(AHEAD);
        let (corpus, spec) = (Arc::clone(corpus), Arc::clone(spec));
        let feed = move || {
            while let Some(next) = loader.next_blocking() {
                let input = next
                    .map(|batch| prepare(batch.step, &batch.lanes, &corpus, &spec))
                    .map_err(WorkerError::from);
                let failed = input.is_err();
                // A closed channel means that the trainer has gone on to another generation.
                if sender.send(input).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("feeder".into())
            .spawn(feed)
            .map_err(|error| WorkerError::Internal(format!("cannot start the feeder: {error}")))?;
        Ok(Self {
            inputs: Some(inputs),
            thread: Some(thread),
        })
    }

    /// The next step's input; waits as long as the data takes, unless the generation is aborted.
    pub(crate) fn next(&mut self, abort: &Abort) -> Result<StepInput, WorkerError> {
        let ended = || WorkerError::Internal("the feeder ended before the run".into());
        let inputs = self.inputs.as_ref().ok_or_else(ended)?;
        loop {
            abort.check()?;
            match inputs.recv_timeout(POLL) {
                Ok(input) => return input,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ended()),
            }
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        // Closing the channel first unblocks a feeder that waits for room.
        drop(self.inputs.take());
        if let Some(thread) = self.thread.take() {
            // The feeder has no panic to pass on that its channel has not already told.
            let _ = thread.join();
        }
    }
}

fn prepare(step: Step, lanes: &[LaneBatch], corpus: &Corpus, spec: &RunSpec) -> StepInput {
    let lens = Lens {
        text: spec.model.text_len,
        target: spec.model.target_len,
    };
    let mut statistics = Statistics::default();
    let micro = |batch: &LaneBatch| {
        statistics.count_rows(batch);
        let rows = &batch.examples;
        let chosen = objective::draw(&spec.tasks, spec.run.seed, step.0, batch.lane.0, rows);
        MicroBatch {
            lane: batch.lane.0,
            images: images(rows.iter().map(|example| example.image.as_slice())),
            tokens: objective::tokens(chosen, rows, &corpus.tokenizer, lens),
            rows: rows.len(),
        }
    };
    let lanes = lanes.iter().map(micro).collect();
    StepInput {
        step,
        lanes,
        statistics,
    }
}

/// Pictures of equal size, normalised, one after another.
pub(crate) fn images<'a>(pictures: impl Iterator<Item = &'a [u8]>) -> Vec<f32> {
    let mut out = Vec::new();
    for picture in pictures {
        let start = out.len();
        out.resize(start + picture.len(), 0.0);
        ringmaster_dataset::normalise(picture, &mut out[start..]);
    }
    out
}
