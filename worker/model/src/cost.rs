//! What a forward pass costs: counted, by running the model's own code on shapes alone.

use burn::tensor::{Bool, Device, Int, Tensor};
use ringmaster_proto::spec::ModelSpec;

use crate::Model;
use crate::flat;
use crate::meter::PartName;
use crate::ops::Ops;

/// One part of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// image, text, embedding, projection, resampling, fusion, transformer or decoder.
    pub name: &'static str,
    /// Parameters in all.
    pub parameters: u64,
    /// Of them norms, biases, positions, gates and combination weights.
    pub small_parameters: u64,
    /// Multiply-accumulate operations of one example's forward pass: matrix products and
    /// convolutions only.
    pub macs: u64,
}

/// The cost of a model, part by part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Every part, also those of no cost.
    pub parts: Vec<Part>,
}

impl Cost {
    /// Multiply-accumulate operations of one example's forward pass. A training step costs about
    /// three times as many.
    pub fn macs(&self) -> u64 {
        self.parts.iter().map(|part| part.macs).sum()
    }

    /// Parameters in all.
    pub fn parameters(&self) -> u64 {
        self.parts.iter().map(|part| part.parameters).sum()
    }
}

/// Counts a model of these sizes for texts of `text` encoder and `target` decoder tokens, which are
/// at most the spec's. Computes nothing, but reserves the memory of the parameters.
pub fn cost(spec: &ModelSpec, text: usize, target: usize) -> Cost {
    let device = Device::flex();
    let model = Model::blank(spec, &device);
    let ops = Ops::counting();
    let ids = |len| Tensor::<2, Int>::zeros([1, len], &device);
    let images = Tensor::zeros([1, 3, spec.image_size, spec.image_size], &device);
    let real = Tensor::<2, Bool>::full([1, text], true, &device);
    let memory = model.memory(images, ids(text), real, &ops);
    model.decode(ids(target), &memory, &ops);

    let mut parts = PartName::ALL.map(|name| Part {
        name: name.as_str(),
        parameters: 0,
        small_parameters: 0,
        macs: ops.meter().map_or(0, |meter| meter.macs(name)),
    });
    for slot in flat::layout(&model).slots {
        let part = &mut parts[PartName::of_parameter(&slot.path) as usize];
        part.parameters += slot.len as u64;
        if !slot.decay && !slot.path.ends_with("latents") {
            part.small_parameters += slot.len as u64;
        }
    }
    Cost {
        parts: parts.to_vec(),
    }
}
