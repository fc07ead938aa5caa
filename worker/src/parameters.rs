//! Parameters as one safetensors file: a tensor per parameter, named by its path, f32.
//!
//! What `checkpoint export` writes and what a run with `[init]` starts from; worker/model/MODEL.md
//! says what each tensor is.

use std::borrow::Cow;
use std::collections::HashMap;

use ringmaster_model::flat::Layout;
use safetensors::tensor::{Dtype, SafeTensors, View};

use crate::WorkerError;

/// Version of the file, and of the model's equations it belongs to.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// The key of the file's metadata that holds [`FORMAT_VERSION`].
const METADATA: &str = "ringmaster_parameters";

/// One parameter; its bytes are made when they are written.
struct Values<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = self.values.iter().flat_map(|value| value.to_le_bytes());
        Cow::Owned(bytes.collect())
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

/// The file of the parameters `flat`, which has `layout.total` elements.
pub(crate) fn encode(layout: &Layout, flat: &[f32]) -> Result<Vec<u8>, WorkerError> {
    let tensors = layout.slots.iter().map(|slot| {
        let values = &flat[slot.offset..slot.offset + slot.len];
        let shape = &slot.shape;
        (slot.path.as_str(), Values { shape, values })
    });
    let metadata = HashMap::from([(METADATA.to_owned(), FORMAT_VERSION.to_string())]);
    safetensors::serialize(tensors, Some(metadata))
        .map_err(|error| WorkerError::Internal(format!("cannot write parameters: {error}")))
}

/// Reads a file of [`encode`]; an error is what is wrong with it.
pub(crate) fn open(bytes: &[u8]) -> Result<SafeTensors<'_>, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let version = header.metadata().as_ref().and_then(|map| map.get(METADATA));
    match version {
        None => Err("it is not a file of `ringmaster checkpoint export`".to_owned()),
        Some(version) if *version != FORMAT_VERSION.to_string() => Err(format!(
            "it has format {version}, this build reads {FORMAT_VERSION}"
        )),
        Some(_) => SafeTensors::deserialize(bytes).map_err(|error| error.to_string()),
    }
}

/// The parameters of a file that holds exactly those of `layout`; an error is what is wrong with it.
pub(crate) fn decode(bytes: &[u8], layout: &Layout) -> Result<Vec<f32>, String> {
    let file = open(bytes)?;
    if file.len() != layout.slots.len() {
        let (found, expected) = (file.len(), layout.slots.len());
        return Err(format!("it has {found} tensors, the model {expected}"));
    }
    let mut flat = Vec::with_capacity(layout.total);
    for slot in &layout.slots {
        let tensor = file.tensor(&slot.path).map_err(|error| error.to_string())?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != slot.shape {
            let (dtype, shape) = (tensor.dtype(), tensor.shape());
            return Err(format!(
                "its {} is {dtype:?} {shape:?}, the model's F32 {:?}",
                slot.path, slot.shape
            ));
        }
        let values = tensor.data().as_chunks::<4>().0;
        flat.extend(values.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use ringmaster_model::flat::Slot;

    /// One parameter per shape, end to end.
    fn layout(shapes: &[Vec<usize>]) -> Layout {
        let mut layout = Layout {
            slots: Vec::new(),
            total: 0,
        };
        for (i, shape) in shapes.iter().enumerate() {
            let (offset, len) = (layout.total, shape.iter().product());
            layout.slots.push(Slot {
                path: format!("layers.{i}.weight"),
                shape: shape.clone(),
                offset,
                len,
                decay: true,
            });
            layout.total += len;
        }
        layout
    }

    proptest! {
        /// The independent reader is the safetensors crate itself, tensor by tensor.
        #[test]
        fn every_bit_of_every_parameter_comes_back(
            shapes in prop::collection::vec(prop::collection::vec(1_usize..5, 1..4), 1..6),
            seed: u32,
        ) {
            let layout = layout(&shapes);
            let bits = |i: usize| (i as u32).wrapping_mul(0x9E37_79B9).wrapping_add(seed);
            let flat: Vec<f32> = (0..layout.total).map(|i| f32::from_bits(bits(i))).collect();
            let bytes = encode(&layout, &flat).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            prop_assert_eq!(file.len(), layout.slots.len());
            for slot in &layout.slots {
                let tensor = file.tensor(&slot.path).unwrap();
                prop_assert_eq!(tensor.shape(), slot.shape.as_slice());
                for (i, value) in tensor.data().chunks(4).enumerate() {
                    prop_assert_eq!(value, bits(slot.offset + i).to_le_bytes());
                }
            }
            let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
            prop_assert!(decode(&bytes, &layout).unwrap().iter().zip(&flat).all(same));
        }
    }

    #[test]
    fn a_file_of_another_model_is_refused_with_both_shapes() {
        let bytes = encode(&layout(&[vec![2, 3]]), &[0.0; 6]).unwrap();
        let error = decode(&bytes, &layout(&[vec![3, 2]])).unwrap_err();
        assert!(error.contains("layers.0.weight"), "{error}");
        assert!(
            error.contains("[2, 3]") && error.contains("[3, 2]"),
            "{error}"
        );
        let error = decode(&bytes, &layout(&[vec![2, 3], vec![1]])).unwrap_err();
        assert!(error.contains("1 tensors, the model 2"), "{error}");
        let foreign = safetensors::serialize::<&str, Values, _>([], None).unwrap();
        let error = decode(&foreign, &layout(&[vec![1]])).unwrap_err();
        assert!(error.contains("checkpoint export"), "{error}");
    }
}
