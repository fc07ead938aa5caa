//! Checkpoints behind the training's back: a copy is taken at a step boundary, and serialised and stored
//! while the trainer steps on.
//!
//! One write at a time. Ranks vote on whether one is under way, so that all of them skip the same
//! checkpoints: parts of which others are missing would be written in vain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringmaster_dataset::Store;
use ringmaster_model::flat::Layout;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::{ErrorKind, Step};
use ringmaster_ring::Abort;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tracing::Instrument;

use crate::WorkerError;
use crate::checkpoint::{Cut, Place};
use crate::optimizer::State;
use crate::outbox::Mailbox;

/// How often whoever waits for a write looks whether the wait is to end.
const LOOK: Duration = Duration::from_millis(50);

/// What is copied at the step boundary.
pub(crate) struct Snapshot {
    place: Place,
    step: Step,
    copied: Copied,
}

enum Copied {
    /// This rank's part alone: the digest of the whole was known.
    Part(Cut),
    /// Everything, since the digest is over everything.
    Whole(Box<State>, Layout),
}

impl Snapshot {
    /// Copies what the part at `place` needs of `state`; `digest` is that of the state, or empty if
    /// nobody has taken it.
    pub(crate) fn of(place: Place, state: &State, digest: String, layout: &Layout) -> Self {
        let copied = if digest.is_empty() {
            Copied::Whole(Box::new(state.clone()), layout.clone())
        } else {
            Copied::Part(Cut::of(place, state, digest, layout))
        };
        let step = Step(state.step);
        Self {
            place,
            step,
            copied,
        }
    }

    fn cut(self) -> Cut {
        match self.copied {
            Copied::Part(cut) => cut,
            Copied::Whole(state, layout) => {
                let digest = state.digest(&layout);
                Cut::of(self.place, &state, digest, &layout)
            }
        }
    }
}

/// Set while a part is copied, serialised or on its way, whoever has lost interest in it meanwhile.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

struct UnderWay {
    step: Step,
    began: Instant,
    /// Comes to what it took, seconds.
    task: JoinHandle<Result<f64, WorkerError>>,
}

/// The one who writes parts; dropping it gives up what is under way.
pub(crate) struct Saver {
    root: Store,
    runtime: Handle,
    mailbox: Arc<Mailbox>,
    busy: Arc<AtomicBool>,
    under_way: Option<UnderWay>,
}

impl Saver {
    /// Parts are stored below `root` and told through `mailbox`.
    pub(crate) fn new(root: Store, runtime: Handle, mailbox: Arc<Mailbox>) -> Self {
        Self {
            root,
            runtime,
            mailbox,
            busy: Arc::default(),
            under_way: None,
        }
    }

    /// This rank's vote: whether a write is under way.
    pub(crate) fn vote(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.busy)
    }

    /// Why no other write may begin, for people.
    pub(crate) fn hindrance(&self) -> String {
        match &self.under_way {
            Some(old) => {
                let seconds = old.began.elapsed().as_secs_f64();
                let step = old.step;
                format!("the part of step {step} is still being written, for {seconds:.1} s now")
            }
            None => "a rank was still writing its part of an earlier one".to_owned(),
        }
    }

    /// Writes `snapshot` from now on; nothing is under way.
    pub(crate) fn start(&mut self, snapshot: Snapshot) {
        debug_assert!(self.under_way.is_none(), "one write at a time");
        self.busy.store(true, Ordering::Release);
        let busy = Busy(Arc::clone(&self.busy));
        let (step, generation, began) = (snapshot.step, snapshot.place.generation, Instant::now());
        let (root, mailbox) = (self.root.clone(), Arc::clone(&self.mailbox));
        let write = async move {
            // The thread keeps its promise to be the only one even if nobody waits for it any more.
            let encode = move || snapshot.cut().encode().map(|part| (part, busy));
            let encoded = spawn_blocking(encode).await;
            let ((written, bytes), _busy) = encoded.map_err(|error| ended_early(&error))??;
            root.put(&written.key, bytes).await?;
            let seconds = began.elapsed().as_secs_f64();
            tracing::info!(%step, bytes = written.bytes, seconds, "part written");
            mailbox.put(generation, Body::PartWritten(written));
            Ok(seconds)
        };
        let write = write.instrument(tracing::Span::current());
        self.under_way = Some(UnderWay {
            step,
            began,
            task: self.runtime.spawn(write),
        });
    }

    /// Takes note of a write that has ended, and returns what it took, seconds; never waits for one that
    /// has not.
    ///
    /// # Errors
    /// What no later attempt mends. A store that is away only costs this checkpoint.
    pub(crate) fn check(&mut self) -> Result<Option<f64>, WorkerError> {
        if self.busy.load(Ordering::Acquire) {
            return Ok(None);
        }
        // Nothing is left of it but its outcome.
        self.settle(&Abort::new())
    }

    /// Takes note of a write once it has ended; gives way to `abort`.
    pub(crate) fn settle(&mut self, abort: &Abort) -> Result<Option<f64>, WorkerError> {
        let step = self.under_way.as_ref().map_or(Step(0), |old| old.step);
        match self.wait(abort) {
            Err(error) if error.kind() == ErrorKind::Retry => {
                abort.check()?;
                tracing::warn!("no checkpoint of step {step}: {error}");
                Ok(None)
            }
            ended => ended,
        }
    }

    /// Waits for the end of the write that is under way, and says what became of it. Gives way to
    /// `abort`.
    pub(crate) fn wait(&mut self, abort: &Abort) -> Result<Option<f64>, WorkerError> {
        while let Some(old) = &mut self.under_way {
            let ended = async { timeout(LOOK, &mut old.task).await };
            if let Ok(ended) = self.runtime.block_on(ended) {
                self.under_way = None;
                return ended.map_err(|error| ended_early(&error))?.map(Some);
            }
            abort.check()?;
        }
        Ok(None)
    }

    /// Loses interest in what is under way: its generation is over.
    pub(crate) fn give_up(&mut self) {
        if let Some(old) = self.under_way.take() {
            old.task.abort();
        }
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.give_up();
    }
}

fn ended_early(error: &JoinError) -> WorkerError {
    WorkerError::Internal(format!("writing a part ended early: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc;

    use object_store::memory::InMemory;
    use object_store::throttle::{ThrottleConfig, ThrottledStore};
    use ringmaster_model::flat::Slot;
    use ringmaster_proto::Generation;
    use ringmaster_proto::checkpoint::{CheckpointManifest, FORMAT_VERSION, Part};
    use tokio::runtime::Runtime;

    use super::*;
    use crate::checkpoint::load;
    use crate::outbox::{Outbox, outbox};

    const GENERATION: Generation = Generation(4);

    struct Bench {
        runtime: Runtime,
        root: Store,
        saver: Saver,
        outbox: Outbox,
    }

    impl Bench {
        /// Every write to its store takes `put`.
        fn new(put: Duration) -> Self {
            let runtime = Runtime::new().unwrap();
            let config = ThrottleConfig {
                wait_put_per_call: put,
                ..ThrottleConfig::default()
            };
            let root = Store::over(Arc::new(ThrottledStore::new(InMemory::new(), config)));
            let (mailbox, outbox) = outbox();
            let handle = runtime.handle().clone();
            Self {
                saver: Saver::new(root.clone(), handle, Arc::new(mailbox)),
                runtime,
                root,
                outbox,
            }
        }

        fn told(&self) -> Option<(Generation, Body)> {
            self.runtime.block_on(self.outbox.next())
        }

        fn busy(&self) -> bool {
            self.saver.vote().load(Ordering::Acquire)
        }
    }

    fn example() -> (State, Layout) {
        let slot = Slot {
            path: "a".into(),
            shape: vec![5],
            offset: 0,
            len: 5,
            decay: true,
        };
        let layout = Layout {
            slots: vec![slot],
            total: 5,
        };
        let mut state = State::blank(5);
        state.parameters = vec![1.0, -2.0, 3.5, 0.0, 1e-9];
        state.step = 40;
        (state, layout)
    }

    fn snapshot(state: &State, layout: &Layout, digest: String, part: u32) -> Snapshot {
        let place = Place {
            generation: GENERATION,
            part,
            parts: 2,
        };
        Snapshot::of(place, state, digest, layout)
    }

    #[test]
    fn parts_are_told_once_durable_and_hold_the_state_of_the_boundary() {
        let mut bench = Bench::new(Duration::ZERO);
        let (mut state, layout) = example();
        let before = state.clone();
        let digest = before.digest(&layout);
        let mut parts = Vec::new();
        // With a digest that was taken, only the part is copied; without one everything is.
        for (part, known) in [(0, digest.clone()), (1, String::new())] {
            bench.saver.start(snapshot(&state, &layout, known, part));
            // The training goes on in the same memory.
            state.parameters[0] += 1.0;
            let Some((GENERATION, Body::PartWritten(written))) = bench.told() else {
                panic!("a part is told, of the generation it was taken in");
            };
            let stored = bench
                .runtime
                .block_on(bench.root.get(&written.key))
                .unwrap();
            assert_eq!(blake3::hash(&stored).to_hex().as_str(), written.blake3);
            parts.push(Part {
                key: written.key,
                bytes: written.bytes,
                blake3: written.blake3,
            });
            bench.saver.settle(&Abort::new()).unwrap();
            state = before.clone();
        }
        let manifest = CheckpointManifest {
            format_version: FORMAT_VERSION,
            run: "r".into(),
            identity: String::new(),
            generation: GENERATION,
            step: Step(40),
            digest,
            parts,
        };
        let loaded = bench
            .runtime
            .block_on(load(&bench.root, &manifest, &layout));
        assert_eq!(loaded.unwrap(), before);
    }

    #[test]
    fn a_store_that_never_answers_stops_nothing_and_what_is_given_up_is_never_told() {
        let mut bench = Bench::new(Duration::from_secs(86_400));
        let (state, layout) = example();
        bench
            .saver
            .start(snapshot(&state, &layout, String::new(), 0));
        bench.saver.check().unwrap();
        assert!(bench.busy(), "the rank votes against another write");
        assert!(bench.saver.hindrance().contains("step 40"));
        // The last checkpoint of a run waits, and gives way to an abort.
        let abort = Abort::new();
        let (tell, told) = mpsc::sync_channel(1);
        let aborter = abort.clone();
        let thread = std::thread::spawn(move || {
            told.recv().unwrap();
            aborter.abort("a test");
        });
        tell.send(()).unwrap();
        let error = bench.saver.settle(&abort).unwrap_err();
        assert!(error.to_string().contains("a test"), "{error}");
        thread.join().unwrap();
        // A generation that is over gives it up; the box closes with nothing in it.
        bench.saver.give_up();
        let vote = bench.saver.vote();
        drop(bench.saver);
        assert_eq!(bench.runtime.block_on(bench.outbox.next()), None);
        assert!(!vote.load(Ordering::Acquire), "another write may begin");
    }

    #[test]
    fn a_store_that_refuses_costs_one_checkpoint_if_it_may_be_mended_and_the_run_if_not() {
        let error = |kind: ErrorKind| WorkerError::Coordinator {
            address: "a".into(),
            reason: "b".into(),
            kind,
        };
        for (kind, goes_on) in [(ErrorKind::Retry, true), (ErrorKind::Invalid, false)] {
            let mut bench = Bench::new(Duration::ZERO);
            bench.saver.under_way = Some(UnderWay {
                step: Step(1),
                began: Instant::now(),
                task: bench.runtime.spawn(std::future::ready(Err(error(kind)))),
            });
            assert_eq!(bench.saver.check().is_ok(), goes_on, "{kind}");
            assert!(bench.saver.under_way.is_none());
        }
    }
}
