//! What the way from Parquet to normalised pixels costs: each part alone, and all of it as training
//! does it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ringmaster_proto::{Lane, RunSpec, Step};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::augment::View;
use crate::corpus::Corpus;
use crate::decode::{self, Decoded, Decoder};
use crate::error::DatasetError;
use crate::images::Form;
use crate::loader::{Loader, LoaderOptions};
use crate::prepare::prepare;
use crate::store::Store;
use crate::window::LaneWindows;

/// Pictures that the decoder is measured on.
const SAMPLE: usize = 512;

/// Of them, those held decoded to measure what comes after.
const DECODED: usize = 32;

/// The whole way and its ceiling are measured in turns, so that both see the same machine; odd, for
/// there to be one in the middle.
const TURNS: u32 = 5;

/// Of the time, what each part alone is measured for.
const ALONE: u32 = 20;

/// Finished steps that may wait, as in training.
const AHEAD: usize = 2;

/// Steps before it is measured: until each place for a step has had memory, which is used again.
const WARM_UP: usize = AHEAD + 3;

/// Longer than anybody measures.
const STEPS: u64 = 1 << 32;

/// What was measured, examples per second.
#[derive(Clone, Copy, Debug)]
pub struct LoaderRates {
    /// Reading and shuffling alone.
    pub read: f64,
    /// Decoding alone, one thread.
    pub decode: f64,
    /// Resizing alone, one thread.
    pub resize: f64,
    /// Normalising alone, one thread.
    pub normalise: f64,
    /// Decoding and resizing from memory on all threads: what the whole cannot exceed.
    pub ceiling: Turn,
    /// Reading, shuffling, decoding, resizing and normalising.
    pub whole: Turn,
    /// The whole's share of its ceiling, turn by turn, median.
    pub of_ceiling: f64,
    /// The whole way of the same rows from elsewhere.
    pub elsewhere: Option<Elsewhere>,
    /// Mean size of a picture, bytes.
    pub picture_bytes: f64,
    /// Mean size of a picture, pixels.
    pub picture_pixels: f64,
}

/// What was reached in a turn; of several, the medians.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Examples per second.
    pub rate: f64,
    /// Processor time of an example, seconds.
    pub core_seconds: f64,
}

/// The same rows from elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Elsewhere {
    /// The whole way.
    pub whole: Turn,
    /// Its rate as a share of the rate it is compared with, turn by turn, median.
    pub share: f64,
}

/// A corpus, and how it is loaded.
pub struct LoaderBench {
    corpus: Corpus,
    lanes: u32,
    image_size: usize,
    dct_scaling: bool,
    threads: usize,
    runtime: Handle,
}

impl LoaderBench {
    /// Prepares the corpus that `spec` names below `root`, to be loaded with `threads` threads. Call
    /// from a runtime, which does the reading.
    pub async fn open(spec: &RunSpec, root: &Store, threads: usize) -> Result<Self, DatasetError> {
        let prepared = prepare(spec, root, &()).await?;
        let corpus = Corpus::open(
            spec,
            root,
            &prepared.corpus_hash,
            &prepared.validation_hash,
            &prepared.tokenizer_hash,
        );
        Ok(Self {
            corpus: corpus.await?,
            lanes: spec.data.lanes,
            image_size: spec.model.image_size,
            dct_scaling: spec.data.dct_scaling,
            threads,
            runtime: Handle::current(),
        })
    }

    /// Measures for about `time` in all, and in turns with it the whole way of `elsewhere`. `core_seconds`
    /// tells what processor time the process has had so far. Call from a thread outside the runtime.
    pub fn measure(
        &self,
        elsewhere: Option<&Self>,
        time: Duration,
        core_seconds: impl Fn() -> f64,
    ) -> Result<LoaderRates, DatasetError> {
        let part = time / ALONE;
        let sample = self.sample()?;
        let pictures: Vec<&[u8]> = sample.iter().map(Vec::as_slice).collect();
        let mut decoder = self.decoder();
        let decoded: Vec<Decoded> = pictures
            .iter()
            .filter_map(|picture| decoder.decode_only(picture, &View::WHOLE).ok())
            .take(DECODED)
            .collect();
        let first = decoded.first().ok_or(DatasetError::LoaderDied)?;
        let mut small = vec![0; decoder.values()];
        // What has been decoded can be resized.
        let _ = decoder.resize(first, &View::WHOLE, &mut small);
        let mut values = vec![0.0; small.len()];
        let read = self.read(part)?;
        let decode = rate(part, &pictures, |picture| {
            if let Ok(decoded) = decoder.decode_only(picture, &View::WHOLE) {
                decoder.reuse(decoded);
            }
        });
        let resize = rate(part, &decoded, |picture| {
            drop(decoder.resize(picture, &View::WHOLE, &mut small));
        });
        let normalise = rate(part, &[small], |pixels| {
            decode::normalise(pixels, &mut values);
        });
        let measured = if elsewhere.is_some() { 3 } else { 2 };
        let turn = (time - 4 * part) / (measured * TURNS);
        let (mut ceilings, mut wholes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let clock = Clock::start(&core_seconds);
            ceilings.push(clock.stop(self.ceiling(turn, &pictures)));
            wholes.push(self.whole(turn, &core_seconds)?);
            if let Some(elsewhere) = elsewhere {
                others.push(elsewhere.whole(turn, &core_seconds)?);
            }
        }
        let bytes: usize = pictures.iter().map(|picture| picture.len()).sum();
        let pixels: usize = decoded
            .iter()
            .map(|decoded| decoded.picture.rgb.len() / 3)
            .sum();
        Ok(LoaderRates {
            read,
            decode,
            resize,
            normalise,
            ceiling: Turn::median(&ceilings),
            whole: Turn::median(&wholes),
            of_ceiling: Turn::share(&wholes, &ceilings),
            elsewhere: elsewhere.map(|_| Elsewhere {
                whole: Turn::median(&others),
                share: Turn::share(&others, &wholes),
            }),
            picture_bytes: bytes as f64 / pictures.len() as f64,
            picture_pixels: pixels as f64 / decoded.len() as f64,
        })
    }

    fn decoder(&self) -> Decoder {
        Decoder::new(self.image_size).with_dct_scaling(self.dct_scaling)
    }

    fn windows(&self) -> Vec<LaneWindows> {
        // What an earlier measurement read is not to be found.
        let held = &self.corpus.held;
        held.clear();
        held.serve(&(0..self.lanes), &[]);
        let start = |lane| {
            let ends = (CancellationToken::new(), self.runtime.clone());
            LaneWindows::start(held, Lane(lane), (Step(0), Step(STEPS)), ends)
        };
        (0..self.lanes).map(start).collect()
    }

    /// Shows `visit` the encoded pictures in the order of training, until it has seen enough.
    fn encoded(&self, mut visit: impl FnMut(&[u8]) -> bool) -> Result<(), DatasetError> {
        let mut lanes = self.windows();
        for step in 0..STEPS {
            for lane in &mut lanes {
                for (_, row) in lane.step(Step(step))?.into_iter().flatten() {
                    if !visit(row.image.as_deref().unwrap_or_default()) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn sample(&self) -> Result<Vec<Vec<u8>>, DatasetError> {
        let mut sample = Vec::new();
        self.encoded(|picture| {
            sample.push(picture.to_vec());
            sample.len() < SAMPLE
        })?;
        Ok(sample)
    }

    fn read(&self, time: Duration) -> Result<f64, DatasetError> {
        let started = Instant::now();
        let mut rows = 0_u64;
        self.encoded(|_| {
            rows += 1;
            started.elapsed() < time
        })?;
        Ok(rows as f64 / started.elapsed().as_secs_f64())
    }

    /// How many pictures all threads decode and resize.
    fn ceiling(&self, time: Duration, pictures: &[&[u8]]) -> usize {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let started = Instant::now();
        let decode = || {
            let mut decoder = self.decoder();
            let mut small = vec![0; decoder.values()];
            while started.elapsed() < time {
                let at = next.fetch_add(1, Ordering::Relaxed) % pictures.len();
                let decoded = decoder.decode_into(pictures[at], &View::WHOLE, &mut small);
                done.fetch_add(usize::from(decoded.is_ok()), Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            (0..self.threads).for_each(|_| drop(scope.spawn(decode)));
        });
        done.into_inner()
    }

    /// From the end of a step to that of another: what has begun does not count, at either end.
    fn whole(&self, time: Duration, core_seconds: impl Fn() -> f64) -> Result<Turn, DatasetError> {
        let options = LoaderOptions {
            lanes: 0..self.lanes,
            standby: Vec::new(),
            from: Step(0),
            to: Step(STEPS),
            image_size: self.image_size,
            dct_scaling: self.dct_scaling,
            augment: None,
            form: Form::Values,
            prefetch_steps: AHEAD,
            threads: self.threads,
        };
        self.corpus.held.clear();
        let mut loader = Loader::start(&self.corpus, options, &self.runtime);
        for _ in 0..WARM_UP {
            loader.next_blocking().transpose()?;
        }
        let clock = Clock::start(core_seconds);
        let mut rows = 0;
        while clock.since.elapsed() < time {
            let Some(batch) = loader.next_blocking().transpose()? else {
                break;
            };
            rows += batch
                .lanes
                .iter()
                .map(|lane| lane.examples.len())
                .sum::<usize>();
        }
        Ok(clock.stop(rows))
    }
}

impl Turn {
    fn median(turns: &[Self]) -> Self {
        Self {
            rate: median(turns.iter().map(|turn| turn.rate).collect()),
            core_seconds: median(turns.iter().map(|turn| turn.core_seconds).collect()),
        }
    }

    /// What the rates of `turns` are of those of `others`, turn by turn: median.
    fn share(turns: &[Self], others: &[Self]) -> f64 {
        let both = turns.iter().zip(others);
        median(both.map(|(turn, other)| turn.rate / other.rate).collect())
    }
}

/// The one in the middle; 0 of none.
fn median(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(0.0)
}

/// Time of the day and of the processors.
struct Clock<F> {
    since: Instant,
    cores_since: f64,
    core_seconds: F,
}

impl<F: Fn() -> f64> Clock<F> {
    fn start(core_seconds: F) -> Self {
        Self {
            since: Instant::now(),
            cores_since: core_seconds(),
            core_seconds,
        }
    }

    fn stop(self, rows: usize) -> Turn {
        let (seconds, rows) = (self.since.elapsed().as_secs_f64(), rows as f64);
        Turn {
            rate: rows / seconds,
            core_seconds: ((self.core_seconds)() - self.cores_since) / rows,
        }
    }
}

/// How often a second `work` is done on an item, one after the other and around again.
fn rate<T>(time: Duration, items: &[T], mut work: impl FnMut(&T)) -> f64 {
    let started = Instant::now();
    let mut done = 0_u64;
    for item in items.iter().cycle() {
        work(item);
        done += 1;
        if started.elapsed() >= time {
            break;
        }
    }
    done as f64 / started.elapsed().as_secs_f64()
}
