//! What makes batches: the rows of one step after the other, as the plan names them, in the queue of the
//! decoders. What a decoder makes of a row it puts into the batch's memory itself, and nobody waits for
//! the last picture of a step to begin with the next.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};

use bytes::BytesMut;
use ringmaster_proto::{Lane, Step};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::augment::View;
use crate::corpus::Corpus;
use crate::decode::{Decoder, DecoderPool};
use crate::error::DatasetError;
use crate::example::{Example, FILL};
use crate::held::Held;
use crate::images::{Form, Images, Shelf};
use crate::loader::{LaneBatch, LoaderOptions, StepBatch};
use crate::plan::{Plan, RowRef};
use crate::reader::Reader;
use crate::refusal::Refusal;
use crate::rows::EncodedRow;
use crate::window::LaneWindows;

/// How often a refused row is fetched again when its bytes keep changing.
const SECOND_LOOKS_MAX: u32 = 4;

/// A step whose rows are in the queue, or done.
pub(crate) struct Pending {
    step: Step,
    lanes: Range<u32>,
    /// Rows of a lane.
    lane_batch: usize,
    form: Form,
    shelf: Arc<Shelf>,
    done: Receiver<Done>,
}

/// A row in the queue. Whoever drops it undone ends its step with an error.
struct Job {
    /// Its place in the step, lane by lane.
    at: usize,
    /// `None`: padding.
    row: Option<(RowRef, EncodedRow, View)>,
    /// Its place in the batch's memory.
    pixels: BytesMut,
    done: Sender<Done>,
}

/// A row that has gone through the queue.
struct Done {
    at: usize,
    pixels: BytesMut,
    example: Result<Example, DatasetError>,
}

/// The one thread that plans and waits for rows.
pub(crate) struct Producer {
    plan: Arc<Plan>,
    held: Arc<Held>,
    runtime: Handle,
    cancel: CancellationToken,
    options: LoaderOptions,
    shelf: Arc<Shelf>,
    decoders: DecoderPool<Job>,
}

impl Producer {
    pub(crate) fn new(
        corpus: &Corpus,
        options: LoaderOptions,
        runtime: &Handle,
        cancel: &CancellationToken,
    ) -> Self {
        let decoder = || Decoder::new(options.image_size).with_dct_scaling(options.dct_scaling);
        let desk = Desk {
            reader: Arc::clone(&corpus.reader),
            runtime: runtime.clone(),
            cancel: cancel.clone(),
            form: options.form,
        };
        let desk = Arc::new(desk);
        let work = move |job: Job, decoder: &mut Decoder| desk.work(job, decoder);
        Self {
            plan: Arc::clone(&corpus.plan),
            held: Arc::clone(&corpus.held),
            runtime: runtime.clone(),
            cancel: cancel.clone(),
            shelf: Arc::default(),
            decoders: DecoderPool::start(options.threads, decoder, work),
            options,
        }
    }

    /// Begins one step after the other, as long as `steps` takes them.
    pub(crate) fn run(self, steps: &SyncSender<Result<Pending, DatasetError>>) {
        let LoaderOptions { from, to, .. } = self.options;
        let standby = &self.options.standby;
        self.held.serve(&self.options.lanes, standby);
        let start = |lane| {
            let ends = (self.cancel.clone(), self.runtime.clone());
            LaneWindows::start(&self.held, Lane(lane), (from, to), ends)
        };
        let mut lanes: Vec<LaneWindows> = self.options.lanes.clone().map(start).collect();
        for step in (from.0..to.0).map(Step) {
            let pending = self.begin(step, &mut lanes);
            let failed = pending.is_err();
            // After the first rows of its own lanes, which somebody waits for.
            let last = Step(to.0.saturating_sub(1));
            self.held.stand_by(standby, (step, last), &self.runtime);
            if steps.send(pending).is_err() || failed {
                return;
            }
        }
    }

    /// Puts the rows of a step into the queue, each lane's as soon as they are there.
    fn begin(&self, step: Step, lanes: &mut [LaneWindows]) -> Result<Pending, DatasetError> {
        let LoaderOptions {
            image_size,
            form,
            ref augment,
            ..
        } = self.options;
        let seed = self.plan.spec().seed;
        let (sender, done) = channel();
        let lane_batch = self.plan.spec().lane_batch as usize;
        let mut at = 0;
        for lane in lanes {
            let rows = lane.step(step)?;
            let mut memory = self.shelf.take(lane_batch * form.bytes(image_size));
            for (position, row) in (0..).zip(rows) {
                let view = View::draw(augment.as_ref(), seed, (step, lane.lane(), position));
                self.decoders.push(Job {
                    at,
                    row: row.map(|(row, stored)| (row, stored, view)),
                    pixels: memory.split_to(form.bytes(image_size)),
                    done: sender.clone(),
                });
                at += 1;
            }
        }
        Ok(Pending {
            step,
            lanes: self.options.lanes.clone(),
            lane_batch,
            form,
            shelf: Arc::clone(&self.shelf),
            done,
        })
    }
}

impl Pending {
    /// The whole step; waits for its last row.
    pub(crate) fn finish(self) -> Result<StepBatch, DatasetError> {
        let mut rows: Vec<Option<(BytesMut, Example)>> = Vec::new();
        rows.resize_with(self.lanes.len() * self.lane_batch, || None);
        for _ in 0..rows.len() {
            let done = self.done.recv().map_err(|_| DatasetError::LoaderDied)?;
            rows[done.at] = Some((done.pixels, done.example?));
        }
        let mut rows = rows.into_iter().flatten();
        let lanes = self.lanes.clone().map(|lane| {
            let (mut pixels, mut examples) = (BytesMut::new(), Vec::new());
            for (part, example) in rows.by_ref().take(self.lane_batch) {
                // The parts lie beside each other, so that nothing moves.
                pixels.unsplit(part);
                examples.push(example);
            }
            LaneBatch {
                lane: Lane(lane),
                images: Images::new(self.form, pixels, &self.shelf),
                examples,
            }
        });
        Ok(StepBatch {
            step: self.step,
            lanes: lanes.collect(),
        })
    }
}

/// Where jobs are done, by all decoders.
struct Desk {
    reader: Arc<Reader>,
    runtime: Handle,
    cancel: CancellationToken,
    form: Form,
}

impl Desk {
    fn work(&self, job: Job, decoder: &mut Decoder) {
        let Job {
            at,
            row,
            mut pixels,
            done,
        } = job;
        if self.cancel.is_cancelled() {
            return;
        }
        let example = match row {
            Some(wanted) => self.example(wanted, decoder, &mut pixels),
            None => Ok(Example::padding(0)),
        };
        if example.as_ref().is_ok_and(|example| example.weight == 0.0) {
            self.form.fill(FILL, &mut pixels);
        }
        // Nobody waits for it any more once the loader is dropped or the step has failed.
        let _ = done.send(Done {
            at,
            pixels,
            example,
        });
    }

    /// Only content may decide that a row is bad: it is fetched again, and refused when the same
    /// bytes come back.
    fn example(
        &self,
        (row, mut stored, view): (RowRef, EncodedRow, View),
        decoder: &mut Decoder,
        pixels: &mut [u8],
    ) -> Result<Example, DatasetError> {
        let mut decode = |stored: &EncodedRow| -> Result<Example, Refusal> {
            Example::decode_with(row, stored, |encoded| {
                let decoded = self.form.decode(encoded, &view, decoder, pixels);
                decoded.map(|()| Vec::new())
            })
        };
        let mut reason = match decode(&stored) {
            Ok(example) => return Ok(example),
            Err(reason) => reason,
        };
        let (shard, row_group) = self.reader.place(row.row_group);
        for _ in 0..SECOND_LOOKS_MAX {
            let only = row.row..row.row + 1;
            let read = self.reader.read_past_caches(row.row_group, only);
            let read = self.runtime.block_on(self.cancel.run_until_cancelled(read));
            let again = read.ok_or(DatasetError::LoaderDied)??.pop();
            let again = again.ok_or(DatasetError::LoaderDied)?;
            if again == stored {
                tracing::warn!(shard, row_group, row = row.row, %reason, "row refused");
                return Ok(Example::refused(row, reason, 0));
            }
            stored = again;
            match decode(&stored) {
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
