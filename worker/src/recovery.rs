//! Obtaining the state at a generation's resume point: drawn from the seed, kept, copied from a peer
//! over the new ring, or loaded from a checkpoint.

use std::ops::Range;

use ringmaster_dataset::Store;
use ringmaster_model::flat::Layout;
use ringmaster_proto::ErrorKind;
use ringmaster_proto::v1::Resume;
use ringmaster_ring::{Ring, Tag};

use crate::WorkerError;
use crate::checkpoint;
use crate::optimizer::State;

/// Values of a slice, f32: what is in memory twice while a state is copied.
const SLICE_VALUES: usize = 4 << 20;

/// Where a slice of the state is stamped in the ring's frames, counted down from here.
const COPY: u32 = u32::MAX;

/// Copies the state of the ranks at the resume point to all others, slice by slice, from whoever of
/// them comes before each in the ring. All ranks take part. Returns the state that arrived; none on a
/// rank that holds it. What a rank holds stays as it is.
///
/// # Errors
/// The ring; [`WorkerError::Copy`] for a slice that is not what was sent; [`WorkerError::Diverged`] if
/// what is here in the end is not what was announced.
pub(crate) fn copy_between_peers(
    ring: &mut Ring,
    state: &State,
    layout: &Layout,
    resume: &Resume,
) -> Result<Option<State>, WorkerError> {
    let holders: Vec<usize> = resume.holders.iter().map(|rank| *rank as usize).collect();
    if holders.len() == ring.world() {
        return verify(state, layout, resume).map(|()| None);
    }
    let mut arriving = (!holders.contains(&ring.rank())).then(|| state.blank_alike());
    let slices = slices(state);
    let mut bytes = Vec::new();
    for (slice, number) in slices.iter().zip(0..) {
        let length = slice.bytes(state);
        if arriving.is_none() {
            slice.write(state, &mut bytes);
            bytes.extend(blake3::hash(&bytes).as_bytes());
        } else {
            bytes.resize(length + blake3::OUT_LEN, 0);
        }
        let tag = Tag::new(resume.step, COPY - number);
        ring.spread(tag, &holders, &mut bytes)?;
        if let Some(arriving) = &mut arriving {
            let (content, hash) = bytes.split_at(length);
            if blake3::hash(content).as_bytes() != hash {
                let (step, of) = (resume.step, slices.len());
                let slice = number as usize;
                return Err(WorkerError::Copy { step, slice, of });
            }
            slice.read(content, arriving);
        }
    }
    verify(arriving.as_ref().unwrap_or(state), layout, resume)?;
    Ok(arriving)
}

/// A piece of a state.
enum Slice {
    /// All its scalars.
    Scalars,
    /// Values of one of its vectors.
    Values(usize, Range<usize>),
}

/// The pieces of a state like `state`.
fn slices(state: &State) -> Vec<Slice> {
    let mut slices = vec![Slice::Scalars];
    for (index, (_, vector)) in state.vectors().into_iter().enumerate() {
        let starts = (0..vector.len()).step_by(SLICE_VALUES);
        let range = |start: usize| start..(start + SLICE_VALUES).min(vector.len());
        slices.extend(starts.map(|start| Slice::Values(index, range(start))));
    }
    slices
}

impl Slice {
    /// How many bytes it has in a state like `state`.
    fn bytes(&self, state: &State) -> usize {
        match self {
            Self::Scalars => size_of::<u64>() * state.scalars().len(),
            Self::Values(_, range) => size_of::<f32>() * range.len(),
        }
    }

    /// Puts its bytes, little-endian, in place of what is in `bytes`.
    fn write(&self, state: &State, bytes: &mut Vec<u8>) {
        bytes.clear();
        match self {
            Self::Scalars => {
                let scalars = state.scalars();
                bytes.extend(scalars.iter().flat_map(|(_, value)| value.to_le_bytes()));
            }
            Self::Values(vector, range) => {
                let values = &state.vectors()[*vector].1[range.clone()];
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
    }

    /// Inverse of [`Self::write`]; `bytes` has the length that it wrote.
    fn read(&self, bytes: &[u8], state: &mut State) {
        match self {
            Self::Scalars => {
                let words = bytes.as_chunks::<8>().0.iter();
                let words: Vec<u64> = words.map(|word| u64::from_le_bytes(*word)).collect();
                state.set_scalars(&words);
            }
            Self::Values(vector, range) => {
                let values = &mut state.vectors_mut().swap_remove(*vector)[range.clone()];
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
        }
    }
}

/// Loads the state from the checkpoint of the resume point, and verifies it. One that does not verify
/// is read again: what was spoiled on its way here is whole where it is stored.
///
/// # Errors
/// [`WorkerError::Unresumable`] if that is not what is stored; anything else may pass.
pub(crate) async fn load(
    root: &Store,
    layout: &Layout,
    resume: &Resume,
) -> Result<State, WorkerError> {
    let spoiled = |error: &WorkerError| matches!(error.kind(), ErrorKind::Data | ErrorKind::Rejoin);
    let mut loaded = load_once(root, layout, resume).await;
    if let Err(error) = &loaded
        && spoiled(error)
    {
        tracing::warn!("reading the checkpoint again: {error}");
        loaded = load_once(root, layout, resume).await;
    }
    loaded.map_err(|error| match spoiled(&error) {
        true => WorkerError::Unresumable {
            key: resume.checkpoint_key.clone(),
            source: Box::new(error),
        },
        false => error,
    })
}

async fn load_once(root: &Store, layout: &Layout, resume: &Resume) -> Result<State, WorkerError> {
    let manifest = checkpoint::read_manifest(root, &resume.checkpoint_key).await?;
    let state = checkpoint::load(root, &manifest, layout).await?;
    verify(&state, layout, resume)?;
    Ok(state)
}

/// Refuses a state that is not the one announced.
pub(crate) fn verify(state: &State, layout: &Layout, resume: &Resume) -> Result<(), WorkerError> {
    let found = state.digest(layout);
    if found == resume.digest && state.step == resume.step {
        return Ok(());
    }
    Err(WorkerError::Diverged {
        step: state.step,
        expected: resume.digest.clone(),
        found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_the_wire() {
        let len = SLICE_VALUES + 3;
        for averaged in [false, true] {
            let mut state = State::blank(len);
            let scalars: Vec<u64> = (1..=state.scalars().len() as u64).collect();
            state.set_scalars(&scalars);
            state.ema = averaged.then(|| vec![0.0; len]);
            for (vector, scale) in state.vectors_mut().into_iter().zip([1.0, -1e-9, 1e9, 0.5]) {
                for (value, index) in vector.iter_mut().zip(0..) {
                    *value = scale * (1 + index % 1001) as f32;
                }
            }
            let mut copy = state.blank_alike();
            let mut bytes = Vec::new();
            for slice in slices(&state) {
                slice.write(&state, &mut bytes);
                assert_eq!(bytes.len(), slice.bytes(&copy));
                slice.read(&bytes, &mut copy);
            }
            assert!(copy == state, "averaged: {averaged}");
        }
    }
}
