//! A checkpoint as the simulated workers write and read it.

use bytes::Bytes;
use ringmaster_dataset::{Store, StoreError};
use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::{ErrorKind, Generation, Step, keys, v1};

use crate::oracle::State;

/// Why nothing can be resumed from a checkpoint.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// The store is away.
    Yet,
    /// It is not what its manifest says.
    Damaged(String),
}

/// What rank `part` of `parts` writes, and what it reports once it has.
pub(crate) fn part(
    generation: Generation,
    state: State,
    (part, parts): (u32, u32),
) -> (Bytes, v1::PartWritten) {
    let folder = keys::checkpoint(generation, Step(state.step), &state.hex());
    let mut bytes = [state.step, state.digest].map(u64::to_le_bytes).concat();
    bytes.extend(part.to_le_bytes());
    let written = v1::PartWritten {
        step: state.step,
        digest: state.hex(),
        part,
        parts,
        key: keys::checkpoint_part(&folder, part, parts),
        bytes: bytes.len() as u64,
        blake3: blake3::hash(&bytes).to_hex().to_string(),
    };
    (bytes.into(), written)
}

/// The state in the checkpoint with this manifest key, if every part is what was written.
pub(crate) async fn load(root: &Store, key: &str) -> Result<State, Unusable> {
    let manifest = root.get(key).await.map_err(unusable)?;
    let manifest: CheckpointManifest =
        serde_json::from_slice(&manifest).map_err(|error| Unusable::Damaged(error.to_string()))?;
    let mut state = None;
    for part in &manifest.parts {
        let bytes = root.get(&part.key).await.map_err(unusable)?;
        if blake3::hash(&bytes).to_hex().to_string() != part.blake3 {
            let reason = format!("part {} has another hash than its manifest says", part.key);
            return Err(Unusable::Damaged(reason));
        }
        let number = |at: usize| {
            let word = bytes.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_le_bytes(word))
        };
        state = number(0).zip(number(8));
    }
    let state = state.map(|(step, digest)| State { step, digest });
    state.ok_or_else(|| Unusable::Damaged("it has no parts".to_owned()))
}

fn unusable(error: StoreError) -> Unusable {
    match error.kind() {
        ErrorKind::Retry => Unusable::Yet,
        _ => Unusable::Damaged(error.to_string()),
    }
}
