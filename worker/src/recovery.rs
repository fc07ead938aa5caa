//! Obtaining the state at a generation's resume point: drawn from the seed, kept, copied from a peer
//! over the new ring, or loaded from a checkpoint.

use ringmaster_dataset::Store;
use ringmaster_model::flat::Layout;
use ringmaster_proto::ErrorKind;
use ringmaster_proto::v1::{Origin, Resume};
use ringmaster_ring::{Ring, Tag};

use crate::WorkerError;
use crate::checkpoint;
use crate::optimizer::State;

/// Where a copy of the state is stamped in the ring's frames.
const COPY: u32 = u32::MAX;

/// Copies the state of `resume.root_rank` to every rank that is not at the resume point. All ranks
/// take part; `state` is overwritten where it differs, and verified.
pub(crate) fn copy_from_peer(
    ring: &mut Ring,
    state: &mut State,
    layout: &Layout,
    resume: &Resume,
) -> Result<(), WorkerError> {
    let mut bytes = to_bytes(state);
    let tag = Tag::new(resume.step, COPY);
    ring.broadcast(tag, resume.root_rank as usize, &mut bytes)?;
    from_bytes(&bytes, state);
    verify(state, layout, resume)
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

/// Whether the state is to be copied between peers for this resume point.
pub(crate) fn needs_copy(resume: &Resume) -> bool {
    resume.origin() == Origin::Memory && resume.copy
}

fn to_bytes(state: &State) -> Vec<u8> {
    let (scalars, vectors) = (state.scalars(), state.vectors());
    let mut bytes = Vec::with_capacity(8 * scalars.len() + 4 * vectors.len() * state.first.len());
    bytes.extend(scalars.iter().flat_map(|(_, value)| value.to_le_bytes()));
    for (_, vector) in vectors {
        bytes.extend(vector.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

/// Inverse of [`to_bytes`]; `bytes` has the length that this state has itself.
fn from_bytes(bytes: &[u8], state: &mut State) {
    let (scalars, values) = bytes.split_at(8 * state.scalars().len());
    let scalars = scalars.as_chunks::<8>().0.iter();
    state.set_scalars(
        &scalars
            .map(|word| u64::from_le_bytes(*word))
            .collect::<Vec<_>>(),
    );
    let mut values = values.as_chunks::<4>().0.iter();
    for vector in state.vectors_mut() {
        for (value, bytes) in vector.iter_mut().zip(&mut values) {
            *value = f32::from_le_bytes(*bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_the_wire() {
        for ema in [None, Some(vec![7.0, -0.5, 1e-9])] {
            let mut state = State::blank(3);
            let scalars: Vec<u64> = (1..=state.scalars().len() as u64).collect();
            state.set_scalars(&scalars);
            state.parameters = vec![1.5, -2.0, f32::MIN_POSITIVE];
            state.first = vec![0.1, 0.2, 0.3];
            state.second = vec![1e-9, 2.0, 3.0];
            state.ema = ema;
            let mut copy = State::blank(3);
            copy.ema = state.ema.as_ref().map(|_| vec![0.0; 3]);
            from_bytes(&to_bytes(&state), &mut copy);
            assert_eq!(copy, state);
        }
    }
}
