//! The batches of a rank's lanes, made ahead of the training thread.
//!
//! One thread asks for rows, others decode them, the runtime fetches. Position is the step alone: a loader started at any
//! step yields what one started at 0 yields from there on.

use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use ringmaster_proto::spec::Augment;
use ringmaster_proto::{Lane, Step};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::corpus::Corpus;
use crate::error::DatasetError;
use crate::example::Example;
use crate::images::{Form, Images};
use crate::producer::{Pending, Producer};

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
    /// What is kept of the pictures.
    pub form: Form,
    /// Steps that may wait, decoded or not; at least 1. One more is on its way to them, and each has the
    /// memory of its pictures.
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
    /// The pictures of its examples, in their order.
    pub images: Images,
    /// Exactly `lane_batch` examples.
    pub examples: Vec<Example>,
}

/// Handle of a running loader. Dropping it stops the thread and every fetch.
#[derive(Debug)]
pub struct Loader {
    steps: Option<Receiver<Result<Pending, DatasetError>>>,
    thread: Option<JoinHandle<()>>,
    cancel: CancellationToken,
    remaining: u64,
}

impl Loader {
    /// Starts fetching and decoding. `runtime` does the fetching and must outlive the loader.
    pub fn start(corpus: &Corpus, options: LoaderOptions, runtime: &Handle) -> Self {
        let (sender, steps) = sync_channel(options.prefetch_steps.max(1));
        let cancel = CancellationToken::new();
        let remaining = options.to.0.saturating_sub(options.from.0);
        let producer = Producer::new(corpus, options, runtime, &cancel);
        let thread = std::thread::Builder::new().name("loader".into());
        // Without a thread the channel is closed, and the first batch is an error.
        let thread = thread.spawn(move || producer.run(&sender)).ok();
        Self {
            steps: Some(steps),
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
        let next = self.steps.as_ref().and_then(|steps| steps.recv().ok());
        let next = next.unwrap_or(Err(DatasetError::LoaderDied));
        let next = next.and_then(Pending::finish);
        self.remaining = if next.is_ok() { self.remaining - 1 } else { 0 };
        Some(next)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.steps = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already been reported as an error.
            let _ = thread.join();
        }
    }
}
