//! Parts of a checkpoint: the flat state cut by length into W safetensors files, and back.
//!
//! The vectors are laid end to end and cut into W runs of elements. A part holds, for every tensor
//! its run touches, the touched piece as a one-dimensional f32 tensor named `parameters/<path>`,
//! `exp_avg/<path>`, `exp_avg_sq/<path>` or `ema/<path>`; where each piece begins is in the metadata,
//! with the scalars. Any world size writes and reads any cut. What makes parts a checkpoint is the manifest,
//! which only the coordinator writes.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use bytes::Bytes;
use ringmaster_dataset::Store;
use ringmaster_model::flat::Layout;
use ringmaster_proto::checkpoint::{CheckpointManifest, FORMAT_VERSION};
use ringmaster_proto::{Generation, Step, keys, v1};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::WorkerError;
use crate::optimizer::{EMA, State};

const METADATA: &str = "ringmaster";

/// What a part says about itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartHeader {
    format_version: u32,
    /// Every scalar of the state by its name; an f64 by its bits.
    scalars: BTreeMap<String, u64>,
    /// The vectors of the state, in this part or another.
    vectors: Vec<String>,
    /// First element of each piece within its tensor.
    offsets: BTreeMap<String, usize>,
}

/// Where a piece of a part lies in the state.
struct Piece {
    vector: usize,
    name: String,
    /// Within the flat vector.
    range: Range<usize>,
    /// Of the piece within its tensor.
    offset: usize,
}

/// The pieces of part `part` of `parts` of a state with these vectors.
fn pieces(vectors: &[&str], layout: &Layout, part: usize, parts: usize) -> Vec<Piece> {
    let elements = layout.total * vectors.len();
    let run = part * elements / parts..(part + 1) * elements / parts;
    let mut pieces = Vec::new();
    for (vector, kind) in vectors.iter().enumerate() {
        for slot in &layout.slots {
            let first = vector * layout.total + slot.offset;
            let start = run.start.max(first);
            let end = run.end.min(first + slot.len);
            if start < end {
                let base = vector * layout.total;
                pieces.push(Piece {
                    vector,
                    name: format!("{kind}/{}", slot.path),
                    range: start - base..end - base,
                    offset: start - first,
                });
            }
        }
    }
    pieces
}

/// Which part of a checkpoint, and of which generation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) generation: Generation,
    pub(crate) part: u32,
    pub(crate) parts: u32,
}

/// One part, copied out of the state: training may go on while it is serialised and stored.
pub(crate) struct Cut {
    place: Place,
    step: u64,
    digest: String,
    header: PartHeader,
    /// Little-endian values of each piece, by its name.
    tensors: Vec<(String, Vec<u8>)>,
}

impl Cut {
    /// Copies the part at `place` of `state`, which has this digest.
    pub(crate) fn of(place: Place, state: &State, digest: String, layout: &Layout) -> Self {
        let (names, vectors): (Vec<&str>, Vec<&[f32]>) = state.vectors().into_iter().unzip();
        let pieces = pieces(&names, layout, place.part as usize, place.parts as usize);
        let header = PartHeader {
            format_version: FORMAT_VERSION,
            scalars: state.scalars().into_iter().collect(),
            vectors: names.into_iter().map(str::to_owned).collect(),
            offsets: pieces
                .iter()
                .map(|piece| (piece.name.clone(), piece.offset))
                .collect(),
        };
        let copy = |piece: Piece| {
            let values = &vectors[piece.vector][piece.range];
            let bytes = values.iter().flat_map(|value| value.to_le_bytes());
            (piece.name, bytes.collect())
        };
        Self {
            place,
            step: state.step,
            digest,
            header,
            tensors: pieces.into_iter().map(copy).collect(),
        }
    }

    /// The part as it is stored, and its description for the coordinator.
    pub(crate) fn encode(self) -> Result<(v1::PartWritten, Bytes), WorkerError> {
        let bytes = self.serialise()?;
        let Place {
            generation,
            part,
            parts,
        } = self.place;
        let folder = keys::checkpoint(generation, Step(self.step), &self.digest);
        let written = v1::PartWritten {
            step: self.step,
            digest: self.digest,
            part,
            parts,
            key: keys::checkpoint_part(&folder, part, parts),
            bytes: bytes.len() as u64,
            blake3: blake3::hash(&bytes).to_hex().to_string(),
        };
        Ok((written, Bytes::from(bytes)))
    }

    fn serialise(&self) -> Result<Vec<u8>, WorkerError> {
        let broken =
            |reason: String| WorkerError::Internal(format!("cannot write a part: {reason}"));
        let header =
            serde_json::to_string(&self.header).map_err(|error| broken(error.to_string()))?;
        let mut views = Vec::with_capacity(self.tensors.len());
        for (name, bytes) in &self.tensors {
            let view = TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)
                .map_err(|error| broken(error.to_string()))?;
            views.push((name.as_str(), view));
        }
        let metadata = HashMap::from([(METADATA.to_owned(), header)]);
        safetensors::serialize(views, Some(metadata)).map_err(|error| broken(error.to_string()))
    }
}

/// Reads one part into `state`; returns how many elements it filled.
fn decode(bytes: &[u8], layout: &Layout, state: &mut State) -> Result<usize, String> {
    let text = |error: safetensors::SafeTensorError| error.to_string();
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(text)?;
    let header = metadata
        .metadata()
        .as_ref()
        .and_then(|map| map.get(METADATA))
        .ok_or("it was not written by ringmaster")?;
    let header: PartHeader = serde_json::from_str(header).map_err(|error| error.to_string())?;
    if header.format_version != FORMAT_VERSION {
        return Err(format!(
            "it has format {}, this build reads {FORMAT_VERSION}",
            header.format_version
        ));
    }
    read_header(&header, layout, state)?;
    let slots: HashMap<&str, _> = layout
        .slots
        .iter()
        .map(|slot| (slot.path.as_str(), slot))
        .collect();
    let mut filled = 0;
    for (name, view) in SafeTensors::deserialize(bytes).map_err(text)?.tensors() {
        let unknown = || format!("tensor {name} is not part of this model");
        let (kind, path) = name.split_once('/').ok_or_else(unknown)?;
        let vector = header
            .vectors
            .iter()
            .position(|known| known == kind)
            .ok_or_else(unknown)?;
        let slot = slots.get(path).ok_or_else(unknown)?;
        let offset = *header.offsets.get(&name).ok_or_else(unknown)?;
        let values = view.data().as_chunks::<4>().0;
        let fits = view.dtype() == Dtype::F32
            && offset
                .checked_add(values.len())
                .is_some_and(|end| end <= slot.len);
        if !fits {
            return Err(format!(
                "tensor {name} does not fit its place in this model"
            ));
        }
        let start = slot.offset + offset;
        let target = &mut state.vectors_mut()[vector][start..start + values.len()];
        for (target, value) in target.iter_mut().zip(values) {
            *target = f32::from_le_bytes(*value);
        }
        filled += values.len();
    }
    Ok(filled)
}

/// Takes over the scalars, and makes room for the vectors there are.
fn read_header(header: &PartHeader, layout: &Layout, state: &mut State) -> Result<(), String> {
    let averaged = header.vectors.iter().any(|name| name == EMA);
    if averaged && state.ema.is_none() {
        state.ema = Some(vec![0.0; layout.total]);
    }
    let ours: Vec<&str> = state.vectors().into_iter().map(|(name, _)| name).collect();
    if header.vectors != ours {
        let theirs = header.vectors.join(", ");
        return Err(format!(
            "it is of a state of {theirs}, not of {}",
            ours.join(", ")
        ));
    }
    let scalar = |(name, _): (String, u64)| {
        let value = header.scalars.get(&name).copied();
        value.ok_or_else(|| format!("it has no scalar {name}"))
    };
    let scalars: Result<Vec<u64>, String> = state.scalars().into_iter().map(scalar).collect();
    state.set_scalars(&scalars?);
    Ok(())
}

/// Loads and verifies a whole checkpoint: sizes, hashes, coverage and the digest of the state.
pub async fn load(
    root: &Store,
    manifest: &CheckpointManifest,
    layout: &Layout,
) -> Result<State, WorkerError> {
    let mut state = State::blank(layout.total);
    let mut filled = 0;
    for part in &manifest.parts {
        let wrong = |reason: String| WorkerError::Checkpoint {
            key: part.key.clone(),
            reason,
        };
        let bytes = root.get(&part.key).await?;
        if bytes.len() as u64 != part.bytes {
            return Err(wrong(format!(
                "{} bytes, its manifest says {}",
                bytes.len(),
                part.bytes
            )));
        }
        if blake3::hash(&bytes).to_hex().as_str() != part.blake3 {
            return Err(wrong("its hash is not the one in its manifest".into()));
        }
        filled += decode(&bytes, layout, &mut state).map_err(wrong)?;
    }
    let folder = keys::checkpoint(manifest.generation, manifest.step, &manifest.digest);
    let wrong = |reason| WorkerError::Checkpoint {
        key: folder.clone(),
        reason,
    };
    if filled != layout.total * state.vectors().len() || state.step != manifest.step.0 {
        return Err(wrong("its parts do not make up the whole state".into()));
    }
    let found = state.digest(layout);
    if found != manifest.digest {
        return Err(wrong(format!(
            "the state has digest {found}, its manifest says otherwise"
        )));
    }
    Ok(state)
}

/// Reads a checkpoint's manifest.
pub async fn read_manifest(root: &Store, key: &str) -> Result<CheckpointManifest, WorkerError> {
    let wrong = |reason: String| WorkerError::Checkpoint {
        key: key.to_owned(),
        reason,
    };
    let bytes = root.get(key).await?;
    let manifest: CheckpointManifest =
        serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    if manifest.format_version != FORMAT_VERSION {
        let version = manifest.format_version;
        return Err(wrong(format!(
            "it has format {version}, this build reads {FORMAT_VERSION}"
        )));
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use ringmaster_model::flat::Slot;

    fn layout(lens: &[usize]) -> Layout {
        let mut layout = Layout {
            slots: Vec::new(),
            total: 0,
        };
        for (i, len) in lens.iter().enumerate() {
            let (offset, len) = (layout.total, *len);
            let path = format!("layer.{i}.weight");
            layout.slots.push(Slot {
                path,
                shape: vec![len],
                offset,
                len,
                decay: true,
            });
            layout.total += len;
        }
        layout
    }

    fn state(layout: &Layout, averaged: bool) -> State {
        let values = |of: fn(f32) -> f32| (0..layout.total).map(|i| of(i as f32)).collect();
        let mut state = State::blank(layout.total);
        state.parameters = values(|i| i + 0.5);
        state.first = values(|i| -i);
        state.second = values(|i| 1.0 / (i + 1.0));
        state.ema = averaged.then(|| values(|i| 3.0 * i));
        let scalars: Vec<u64> = (9..9 + state.scalars().len() as u64).collect();
        state.set_scalars(&scalars);
        state
    }

    fn place(part: u32, parts: u32) -> Place {
        Place {
            generation: Generation(1),
            part,
            parts,
        }
    }

    fn encode(state: &State, layout: &Layout, part: u32, parts: u32) -> Bytes {
        let cut = Cut::of(place(part, parts), state, state.digest(layout), layout);
        cut.encode().unwrap().1
    }

    proptest! {
        #[test]
        fn any_cut_reads_back_as_the_whole_state(
            lens in prop::collection::vec(1_usize..40, 1..8),
            parts in 1_u32..9,
            averaged in any::<bool>(),
        ) {
            let layout = layout(&lens);
            let state = state(&layout, averaged);
            let mut back = State::blank(layout.total);
            let mut filled = 0;
            for part in 0..parts {
                let bytes = encode(&state, &layout, part, parts);
                filled += decode(&bytes, &layout, &mut back).unwrap();
            }
            prop_assert_eq!(filled, (3 + usize::from(averaged)) * layout.total);
            prop_assert_eq!(back, state);
        }
    }

    #[test]
    fn a_part_of_another_model_is_refused_by_name() {
        let own = layout(&[4, 5]);
        let bytes = encode(&state(&own, true), &own, 0, 1);
        let other = layout(&[4]);
        let error = decode(&bytes, &other, &mut State::blank(4)).unwrap_err();
        assert!(error.contains("layer.1.weight"), "{error}");
        let unaveraged = encode(&state(&own, false), &own, 0, 1);
        let error = decode(&unaveraged, &own, &mut state(&own, true)).unwrap_err();
        assert!(
            error.contains("parameters, exp_avg, exp_avg_sq, not"),
            "{error}"
        );
    }

    fn manifest_of(
        parts: Vec<ringmaster_proto::checkpoint::Part>,
        state: &State,
        digest: String,
    ) -> CheckpointManifest {
        CheckpointManifest {
            format_version: FORMAT_VERSION,
            run: "r".into(),
            identity: String::new(),
            generation: Generation(1),
            step: Step(state.step),
            digest,
            parts,
        }
    }

    #[tokio::test]
    async fn a_flipped_bit_a_missing_part_and_a_wrong_digest_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = Store::open(folder.path().to_str().unwrap()).unwrap();
        let layout = layout(&[30, 7]);
        let state = state(&layout, true);
        let digest = state.digest(&layout);
        let mut parts = Vec::new();
        for part in 0..2 {
            let cut = Cut::of(place(part, 2), &state, digest.clone(), &layout);
            let (written, stored) = cut.encode().unwrap();
            root.put(&written.key, stored).await.unwrap();
            let (key, bytes, blake3) = (written.key, written.bytes, written.blake3);
            parts.push(ringmaster_proto::checkpoint::Part { key, bytes, blake3 });
        }
        let whole = manifest_of(parts.clone(), &state, digest.clone());
        assert_eq!(load(&root, &whole, &layout).await.unwrap(), state);

        let missing = manifest_of(parts[..1].to_vec(), &state, digest.clone());
        assert!(load(&root, &missing, &layout).await.is_err());
        let renamed = manifest_of(parts.clone(), &state, "0".repeat(64));
        assert!(load(&root, &renamed, &layout).await.is_err());
        let mut bytes = root.get(&parts[1].key).await.unwrap().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        root.put(&parts[1].key, Bytes::from(bytes)).await.unwrap();
        let error = load(&root, &whole, &layout).await.unwrap_err().to_string();
        assert!(error.contains(&parts[1].key), "{error}");
    }
}
