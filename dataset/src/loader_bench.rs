//! What the way from Parquet to normalised pixels costs: each part alone, and all of it as training
//! does it.

use std::time::{Duration, Instant};

use ringmaster_proto::{Lane, RunSpec, Step};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::augment::View;
use crate::corpus::Corpus;
use crate::decode::{self, Decoded, Decoder, DecoderPool};
use crate::error::DatasetError;
use crate::loader::{Loader, LoaderOptions};
use crate::prepare::prepare;
use crate::store::Store;
use crate::window::LaneWindows;

/// Pictures that the decoder is measured on.
const SAMPLE: usize = 512;

/// Of them, those held decoded to measure what comes after.
const DECODED: usize = 32;

/// The whole way and its ceiling are measured in turns, so that both see the same machine.
const TURNS: u32 = 5;

/// Finished steps that may wait, as in training.
const AHEAD: usize = 2;

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
    pub ceiling: f64,
    /// Reading, shuffling, decoding, resizing and normalising.
    pub whole: f64,
    /// Mean size of a picture, bytes.
    pub picture_bytes: f64,
    /// Mean size of a picture, pixels.
    pub picture_pixels: f64,
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

    /// Measures for about `time` in all. Call from a thread outside the runtime.
    pub fn measure(&self, time: Duration) -> Result<LoaderRates, DatasetError> {
        let part = time / 10;
        let sample = self.sample()?;
        let pictures: Vec<&[u8]> = sample.iter().map(Vec::as_slice).collect();
        let mut decoder = self.decoder();
        let decoded: Vec<Decoded> = pictures
            .iter()
            .filter_map(|picture| decoder.decode_only(picture, &View::WHOLE).ok())
            .take(DECODED)
            .collect();
        let first = decoded.first().ok_or(DatasetError::LoaderDied)?;
        let small = decoder.resize(first, &View::WHOLE).unwrap_or_default();
        let mut values = vec![0.0; small.len()];
        let read = self.read(part)?;
        let decode = rate(part, &pictures, |picture| {
            if let Ok(decoded) = decoder.decode_only(picture, &View::WHOLE) {
                decoder.reuse(decoded);
            }
        });
        let resize = rate(part, &decoded, |picture| {
            drop(decoder.resize(picture, &View::WHOLE))
        });
        let normalise = rate(part, &[small], |pixels| {
            decode::normalise(pixels, &mut values);
        });
        let (mut ceiling, mut whole) = (0.0, 0.0);
        for _ in 0..TURNS {
            ceiling += self.ceiling(3 * part / TURNS, &pictures) / f64::from(TURNS);
            whole += self.whole(3 * part / TURNS)? / f64::from(TURNS);
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
            ceiling,
            whole,
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

    fn ceiling(&self, time: Duration, pictures: &[&[u8]]) -> f64 {
        let mut pool = DecoderPool::new(self.threads, || self.decoder());
        let started = Instant::now();
        let mut rows = 0;
        while started.elapsed() < time {
            let done = pool.map(pictures, |picture, decoder| decoder.decode(picture).is_ok());
            rows += done.len();
        }
        rows as f64 / started.elapsed().as_secs_f64()
    }

    /// From the first step on: what is ready ahead when the time is over does not count.
    fn whole(&self, time: Duration) -> Result<f64, DatasetError> {
        let options = LoaderOptions {
            lanes: 0..self.lanes,
            standby: Vec::new(),
            from: Step(0),
            to: Step(STEPS),
            image_size: self.image_size,
            dct_scaling: self.dct_scaling,
            augment: None,
            prefetch_steps: AHEAD,
            threads: self.threads,
        };
        self.corpus.held.clear();
        let mut loader = Loader::start(&self.corpus, options, &self.runtime);
        let mut values = vec![0.0; 3 * self.image_size * self.image_size];
        loader.next_blocking().transpose()?;
        let started = Instant::now();
        let mut rows = 0;
        while started.elapsed() < time {
            let Some(batch) = loader.next_blocking().transpose()? else {
                break;
            };
            for example in batch.lanes.iter().flat_map(|lane| &lane.examples) {
                decode::normalise(&example.image, &mut values);
                rows += 1;
            }
        }
        Ok(f64::from(rows) / started.elapsed().as_secs_f64())
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
