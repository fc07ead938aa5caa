//! Turns the loader's rows into host arrays ahead of the trainer, on a thread of its own. Only what
//! depends on the training so far waits for the step: drawing objectives and composing their texts.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ringmaster_dataset::{Corpus, Form, Images, LaneBatch, Loader, LoaderOptions, Tokenizer};
use ringmaster_proto::spec::TaskSpec;
use ringmaster_proto::{RunSpec, Step};
use ringmaster_ring::Abort;

use crate::WorkerError;
use crate::draw::Key;
use crate::objective::{self, Composer, Fields, Lens, Objective, Tokens};
use crate::quarantine::{self, Refused};
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
    /// Its pictures, in the form that the device takes.
    pub(crate) images: Images,
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
    /// One per owned lane, ascending, with what it trains.
    pub(crate) lanes: Vec<(Objective, MicroBatch)>,
    /// Everything that is counted; losses are still zero.
    pub(crate) statistics: Statistics,
    /// This rank's rows whose content was refused.
    pub(crate) refused: Vec<Refused>,
}

/// Threads that decode: as many as this worker may compute with, which `train` sets to its share of the
/// machine. Their number changes no bit.
fn decoder_threads() -> usize {
    let set = std::env::var("RAYON_NUM_THREADS").ok();
    let set = set.and_then(|threads| threads.parse().ok());
    // What is set to 0 or to nonsense is as if it were not set, as it is for rayon.
    let set = set.filter(|threads| *threads > 0);
    set.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// A step read and decoded, before its objectives are drawn: those depend on the losses of every
/// earlier step.
struct ReadStep {
    step: Step,
    lanes: Vec<ReadLane>,
    statistics: Statistics,
    refused: Vec<Refused>,
}

struct ReadLane {
    lane: u32,
    images: Images,
    rows: Vec<Fields>,
}

/// The running thread; dropping it ends the thread.
pub(crate) struct Feeder {
    steps: Option<Receiver<Result<ReadStep, WorkerError>>>,
    thread: Option<JoinHandle<()>>,
    composer: Composer,
    seed: u64,
}

impl Feeder {
    /// Starts reading the batches of `lanes`, and ahead for those that may be taken over, from step `from`
    /// to `to`, the end of the run.
    pub(crate) fn start(
        corpus: &Arc<Corpus>,
        spec: &Arc<RunSpec>,
        lanes: Range<u32>,
        standby: Vec<u32>,
        (from, to): (Step, Step),
        form: Form,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Self, WorkerError> {
        let options = LoaderOptions {
            lanes,
            standby,
            from,
            to,
            image_size: spec.model.image_size,
            dct_scaling: spec.data.dct_scaling,
            augment: spec.data.augment.clone(),
            form,
            prefetch_steps: AHEAD,
            threads: decoder_threads(),
        };
        let mut loader = Loader::start(corpus, options, runtime);
        let (sender, steps) = sync_channel(AHEAD);
        let composer = Composer::new(&corpus.tokenizer, Lens::of(&spec.model));
        let seed = spec.run.seed;
        let (corpus, spec) = (Arc::clone(corpus), Arc::clone(spec));
        let feed = move || {
            while let Some(next) = loader.next_blocking() {
                let step = next
                    .map(|batch| read(batch.step, batch.lanes, &corpus.tokenizer, &spec.tasks))
                    .map_err(WorkerError::from);
                let failed = step.is_err();
                // A closed channel means that the trainer has gone on to another generation.
                if sender.send(step).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("feeder".into())
            .spawn(feed)
            .map_err(|error| WorkerError::Internal(format!("cannot start the feeder: {error}")))?;
        Ok(Self {
            steps: Some(steps),
            thread: Some(thread),
            composer,
            seed,
        })
    }

    /// The next step's input, its objectives drawn with these probabilities; waits as long as the
    /// data takes, unless the generation is aborted.
    pub(crate) fn next(
        &mut self,
        probabilities: &[f64; Objective::COUNT],
        abort: &Abort,
    ) -> Result<StepInput, WorkerError> {
        let ReadStep {
            step,
            lanes,
            mut statistics,
            refused,
        } = self.wait(abort)?;
        let compose = |lane: ReadLane| {
            let key = Key {
                seed: self.seed,
                step: step.0,
                lane: lane.lane,
            };
            let objective = objective::draw(probabilities, key, &lane.rows);
            let micro = MicroBatch {
                lane: lane.lane,
                images: lane.images,
                tokens: self.composer.compose(objective, key, &lane.rows),
                rows: lane.rows.len(),
            };
            (objective, micro)
        };
        let lanes: Vec<(Objective, MicroBatch)> = lanes.into_iter().map(compose).collect();
        for (objective, micro) in &lanes {
            statistics.count_tokens(*objective, micro.tokens.counted());
        }
        Ok(StepInput {
            step,
            lanes,
            statistics,
            refused,
        })
    }

    fn wait(&mut self, abort: &Abort) -> Result<ReadStep, WorkerError> {
        let ended = || WorkerError::Internal("the feeder ended before the run".into());
        let steps = self.steps.as_ref().ok_or_else(ended)?;
        loop {
            abort.check()?;
            match steps.recv_timeout(POLL) {
                Ok(step) => return step,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ended()),
            }
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        // Closing the channel first unblocks a feeder that waits for room.
        drop(self.steps.take());
        if let Some(thread) = self.thread.take() {
            // The feeder has no panic to pass on that its channel has not already told.
            let _ = thread.join();
        }
    }
}

fn read(step: Step, lanes: Vec<LaneBatch>, tokenizer: &Tokenizer, tasks: &TaskSpec) -> ReadStep {
    let (mut statistics, mut refused) = (Statistics::default(), Vec::new());
    let wanted = |objective: Objective| objective.weight(tasks) > 0.0;
    let lane = |batch: LaneBatch| {
        statistics.count_rows(&batch);
        refused.extend(quarantine::refused(&batch));
        let rows = batch.examples.iter();
        ReadLane {
            lane: batch.lane.0,
            rows: rows
                .map(|example| Fields::read(example, tokenizer, wanted))
                .collect(),
            images: batch.images,
        }
    };
    let lanes = lanes.into_iter().map(lane).collect();
    ReadStep {
        step,
        lanes,
        statistics,
        refused,
    }
}

/// Pictures of equal size, one after another.
pub(crate) fn images<'a>(pictures: impl Iterator<Item = &'a [u8]>) -> Images {
    pictures.collect::<Vec<_>>().concat().into()
}
