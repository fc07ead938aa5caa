//! One rank's part of the all-reduce benchmark; whoever starts the ranks compares the results.

use std::time::Instant;

use crate::error::RingError;
use crate::frame::{Kind, PAYLOAD_MAX};
use crate::ring::{Ring, Tag};
use crate::sum::{F32, Sum};

/// Which all-reduce is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// [`Ring::all_reduce_exact`]
    Exact,
    /// [`Ring::all_reduce_f32`]
    F32,
    /// [`Ring::all_reduce_bf16`]
    Bf16,
    /// No sum at all, but a ceiling for `F32`: its bytes over the same links, with its additions
    /// and checksums, in frames that wait for no other rank's sums.
    Pump,
    /// No communication at all: every rank copies as many bytes as its link would carry.
    Memcpy,
}

/// One line of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// The size of the buffer as `f32` elements, in MiB.
    pub mib: f64,
    /// Which all-reduce is measured.
    pub reduction: Reduction,
    /// How many calls are measured, after one that is not.
    pub repeats: usize,
}

impl Case {
    /// How many elements are summed.
    pub fn elements(&self) -> usize {
        (self.mib * 1024.0 * 1024.0 / size_of::<f32>() as f64).round() as usize
    }

    /// The bytes that nccl-tests would count: those of the buffer as `f32`.
    pub fn bytes(&self) -> usize {
        self.elements() * size_of::<f32>()
    }
}

/// Measures one case on this rank: the seconds of each repeat, from a barrier to the result.
///
/// The time of the collective is that of its slowest rank: pass each repeat to [`slowest`].
pub fn run_case(ring: &mut Ring, case: Case) -> Result<Vec<f64>, RingError> {
    let mut values: Vec<f32> = (0..case.elements()).map(|i| (i % 1024) as f32).collect();
    let mut sums = match case.reduction {
        Reduction::Exact => vec![1_i64; case.elements()],
        _ => Vec::new(),
    };
    let source = match case.reduction {
        Reduction::Pump | Reduction::Memcpy => values.clone(),
        _ => Vec::new(),
    };
    let mut seconds = Vec::with_capacity(case.repeats);
    for repeat in 0..=case.repeats {
        let step = repeat as u64;
        ring.barrier(Tag::new(step, 0))?;
        let start = Instant::now();
        let tag = Tag::new(step, 1);
        match case.reduction {
            Reduction::Exact => ring.all_reduce_exact(tag, &mut sums, &mut values, 1.0)?,
            Reduction::F32 => ring.all_reduce_f32(tag, &mut values)?,
            Reduction::Bf16 => ring.all_reduce_bf16(tag, &mut values)?,
            Reduction::Pump => pump(ring, tag, &source, &mut values)?,
            Reduction::Memcpy => copy(ring.world(), &source, &mut values),
        }
        if repeat > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(seconds)
}

/// Moves as many bytes in both directions as an all-reduce of `values` does, in frames that wait
/// for nothing; checksums them on both ends, adds the first half of what arrives, stores the rest.
fn pump(ring: &mut Ring, tag: Tag, source: &[f32], values: &mut [f32]) -> Result<(), RingError> {
    let world = ring.world();
    let block = (PAYLOAD_MAX / size_of::<f32>()).min(values.len());
    let rounds = 2 * (world - 1) * values.len() / world / block.max(1);
    let blocks = values.len() / block.max(1);
    ring.guarded(|port| {
        let mut arrived = vec![0; block * size_of::<f32>()];
        for round in 0..rounds {
            let stamp = tag.stamp(Kind::F32, 0, round);
            let at = round % blocks * block;
            let payload = bytemuck::cast_slice(&source[at..at + block]);
            port.exchange(Some((stamp, payload)), Some((stamp, &mut arrived)))?;
            match round < rounds / 2 {
                true => F32(values).add(at..at + block, &arrived),
                false => F32(values).store(at..at + block, &arrived),
            }
        }
        Ok(())
    })
}

/// Copies as many bytes as a link carries for an all-reduce of `values`.
fn copy(world: usize, source: &[f32], values: &mut [f32]) {
    let elements = 2 * (world - 1) * values.len() / world;
    for start in (0..elements).step_by(values.len().max(1)) {
        let length = (elements - start).min(values.len());
        // The optimizer does not see that nobody reads this.
        std::hint::black_box(&mut *values)[..length].copy_from_slice(&source[..length]);
    }
}

/// The longest time any rank measured for each repeat; all ranks call it and get the same.
pub fn slowest(ring: &mut Ring, seconds: &[f64]) -> Result<Vec<f64>, RingError> {
    let mut slowest = Vec::with_capacity(seconds.len());
    for (repeat, seconds) in seconds.iter().enumerate() {
        let all = ring.all_gather_f64(Tag::new(repeat as u64, 2), *seconds)?;
        slowest.push(all.into_iter().fold(0.0, f64::max));
    }
    Ok(slowest)
}

/// Bytes per second that each link must have carried, as nccl-tests defines "busbw": comparable
/// across world sizes. 0 in a world of one.
pub fn bus_bandwidth(bytes: usize, world: usize, seconds: f64) -> f64 {
    let hops = 2 * (world - 1);
    bytes as f64 * hops as f64 / world as f64 / seconds
}
