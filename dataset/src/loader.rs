//! The batches of a rank's lanes, made ahead of the training thread.
//!
//! One thread and its helpers decode; the runtime fetches. Position is the step alone: a loader started at any
//! step yields what one started at 0 yields from there on.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use ringmaster_proto::spec::Augment;
use ringmaster_proto::{Lane, Step};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::augment::View;
use crate::corpus::Corpus;
use crate::decode::{Decoder, DecoderPool};
use crate::error::DatasetError;
use crate::example::Example;
use crate::held::Held;
use crate::plan::{Plan, RowRef};
use crate::reader::Reader;
use crate::refusal::Refusal;
use crate::rows::EncodedRow;
use crate::window::LaneWindows;

/// How often a refused row is fetched again when its bytes keep changing.
const SECOND_LOOKS_MAX: u32 = 4;

/// What a rank wants.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// The rank's lanes.
    pub lanes: Range<u32>,
    /// Lanes that it may have to take over, whose next rows are kept too; see
    /// [`crate::assign::standby_lanes`].
    pub standby: Vec<u32>,
    /// The first step.
    pub from: Step,
    /// The step after the last.
    pub to: Step,
    /// Side of the decoded pictures, pixels.
    pub image_size: usize,
    /// Whether JPEGs that shrink by two or more are decoded smaller.
    pub dct_scaling: bool,
    /// How pictures are changed, if they are.
    pub augment: Option<Augment>,
    /// Finished steps that may wait; at least 1.
    pub prefetch_steps: usize,
    /// Threads that decode; at least 1.
    pub threads: usize,
}

/// The rows of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepBatch {
    /// Updates applied before it.
    pub step: Step,
    /// One entry per owned lane, ascending.
    pub lanes: Vec<LaneBatch>,
}

/// The rows of one lane in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneBatch {
    /// The lane.
    pub lane: Lane,
    /// Exactly `lane_batch` examples.
    pub examples: Vec<Example>,
}

/// Handle of a running loader. Dropping it stops the thread and every fetch.
#[derive(Debug)]
pub struct Loader {
    batches: Option<Receiver<Result<StepBatch, DatasetError>>>,
    thread: Option<JoinHandle<()>>,
    cancel: CancellationToken,
    remaining: u64,
}

impl Loader {
    /// Starts fetching and decoding. `runtime` does the fetching and must outlive the loader.
    pub fn start(corpus: &Corpus, options: LoaderOptions, runtime: &Handle) -> Self {
        let (sender, batches) = sync_channel(options.prefetch_steps.max(1));
        let cancel = CancellationToken::new();
        let remaining = options.to.0.saturating_sub(options.from.0);
        let producer = Producer {
            plan: Arc::clone(&corpus.plan),
            reader: Arc::clone(&corpus.reader),
            held: Arc::clone(&corpus.held),
            runtime: runtime.clone(),
            cancel: cancel.clone(),
            decoders: DecoderPool::new(options.threads, || {
                Decoder::new(options.image_size).with_dct_scaling(options.dct_scaling)
            }),
            options,
        };
        let thread = std::thread::Builder::new().name("loader".into());
        // Without a thread the channel is closed, and the first batch is an error.
        let thread = thread.spawn(move || producer.run(&sender)).ok();
        Self {
            batches: Some(batches),
            thread,
            cancel,
            remaining,
        }
    }

    /// The next step's batch; waits for it. `None` after the last step. After an error there is
    /// nothing more.
    pub fn next_blocking(&mut self) -> Option<Result<StepBatch, DatasetError>> {
        if self.remaining == 0 {
            return None;
        }
        let next = self
            .batches
            .as_ref()
            .and_then(|batches| batches.recv().ok());
        let next = next.unwrap_or(Err(DatasetError::LoaderDied));
        self.remaining = if next.is_ok() { self.remaining - 1 } else { 0 };
        Some(next)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already been reported as an error.
            let _ = thread.join();
        }
    }
}

struct Producer {
    plan: Arc<Plan>,
    reader: Arc<Reader>,
    held: Arc<Held>,
    runtime: Handle,
    cancel: CancellationToken,
    decoders: DecoderPool,
    options: LoaderOptions,
}

impl Producer {
    fn run(mut self, batches: &SyncSender<Result<StepBatch, DatasetError>>) {
        let LoaderOptions { from, to, .. } = self.options;
        self.held.serve(&self.options.lanes, &self.options.standby);
        let mut lanes: Vec<LaneWindows> = self
            .options
            .lanes
            .clone()
            .map(|lane| {
                let ends = (self.cancel.clone(), self.runtime.clone());
                LaneWindows::start(&self.held, Lane(lane), (from, to), ends)
            })
            .collect();
        for step in (from.0..to.0).map(Step) {
            let batch = self.batch(step, &mut lanes);
            let failed = batch.is_err();
            // After the first rows of its own lanes, which somebody waits for.
            let last = Step(to.0.saturating_sub(1));
            self.held
                .stand_by(&self.options.standby, (step, last), &self.runtime);
            if batches.send(batch).is_err() || failed {
                return;
            }
        }
    }

    /// The rows of a step, decoded all at once.
    fn batch(&mut self, step: Step, lanes: &mut [LaneWindows]) -> Result<StepBatch, DatasetError> {
        let (augment, seed) = (self.options.augment.as_ref(), self.plan.spec().seed);
        let mut wanted = Vec::new();
        for lane in lanes.iter_mut() {
            for (position, row) in (0..).zip(lane.step(step)?) {
                let view = View::draw(augment, seed, (step, lane.lane(), position));
                wanted.push(row.map(|(row, stored)| (row, stored, view)));
            }
        }
        let decode = |row: &Option<(RowRef, EncodedRow, View)>, decoder: &mut Decoder| {
            row.as_ref()
                .map(|(row, stored, view)| Example::decode(*row, stored, view, decoder))
        };
        let decoded = self.decoders.map(&wanted, decode);
        let lane_batch = wanted.len() / lanes.len().max(1);
        let mut examples = Vec::with_capacity(wanted.len());
        for (row, decoded) in wanted.into_iter().zip(decoded) {
            examples.push(match (row, decoded) {
                (Some((row, stored, view)), Some(Err(reason))) => {
                    self.second_look(row, stored, &view, reason)?
                }
                (_, Some(Ok(example))) => example,
                (_, None) | (None, _) => Example::padding(self.options.image_size),
            });
        }
        let mut examples = examples.into_iter();
        let lanes = lanes.iter().map(|lane| LaneBatch {
            lane: lane.lane(),
            examples: examples.by_ref().take(lane_batch).collect(),
        });
        Ok(StepBatch {
            step,
            lanes: lanes.collect(),
        })
    }

    /// Only content may decide that a row is bad: it is fetched again, and refused when the same
    /// bytes come back.
    fn second_look(
        &mut self,
        row: RowRef,
        mut stored: EncodedRow,
        view: &View,
        mut reason: Refusal,
    ) -> Result<Example, DatasetError> {
        let (shard, row_group) = self.reader.place(row.row_group);
        for _ in 0..SECOND_LOOKS_MAX {
            let only = row.row..row.row + 1;
            let read = self.reader.read_past_caches(row.row_group, only);
            let read = self.runtime.block_on(self.cancel.run_until_cancelled(read));
            let again = read.ok_or(DatasetError::LoaderDied)??.pop();
            let again = again.ok_or(DatasetError::LoaderDied)?;
            if again == stored {
                tracing::warn!(shard, row_group, row = row.row, %reason, "row refused");
                return Ok(Example::refused(row, reason, self.options.image_size));
            }
            stored = again;
            match Example::decode(row, &stored, view, self.decoders.own()) {
                Ok(example) => return Ok(example),
                Err(error) => reason = error,
            }
        }
        let reason = format!(
            "row {} of row group {row_group} has other bytes at each reading",
            row.row
        );
        Err(DatasetError::Corrupt { shard, reason })
    }
}
