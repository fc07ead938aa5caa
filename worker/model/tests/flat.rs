//! Parameters and gradients as flat buffers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use burn::tensor::Device;
use ringmaster_model::{Model, flat};
use ringmaster_proto::spec::{ModelSpec, RunSpec};

fn spec() -> ModelSpec {
    let tiny = RunSpec::parse("", &[]).unwrap().model;
    ModelSpec {
        width: 24,
        heads: 3,
        mlp_width: 32,
        fusion_mlp_width: 40,
        ..tiny
    }
}

#[test]
fn layout_is_the_same_for_every_model_of_a_spec() {
    let plain = flat::layout(&Model::new(&spec(), 1, &Device::flex()));
    let training = flat::layout(&Model::new(&spec(), 2, &Device::flex().autodiff()));
    assert_eq!(plain, training);
    let paths: BTreeSet<&str> = plain.slots.iter().map(|slot| slot.path.as_str()).collect();
    assert_eq!(paths.len(), plain.slots.len(), "paths are unique");
    let mut offset = 0;
    for slot in &plain.slots {
        assert_eq!(
            (slot.offset, slot.len),
            (offset, slot.shape.iter().product()),
            "{}",
            slot.path
        );
        offset += slot.len;
    }
    assert_eq!(offset, plain.total);
}

#[test]
fn matrices_and_the_token_table_decay_and_nothing_else() {
    let layout = flat::layout(&Model::new(&spec(), 1, &Device::flex()));
    for slot in layout.slots {
        let leaf = slot.path.rsplit('.').next().unwrap();
        let exempt = [
            "image",
            "text",
            "mixture",
            "gamma",
            "beta",
            "alpha",
            "bias",
            "latents",
            "positions",
            "combine_fused",
            "combine_text",
        ];
        assert_ne!(slot.decay, exempt.contains(&leaf), "{}", slot.path);
        assert!(!slot.decay || slot.shape.len() == 2, "{}", slot.path);
    }
}

#[test]
fn parameters_survive_the_way_out_and_back() {
    let device = Device::flex().autodiff();
    let model = Model::new(&spec(), 1, &device);
    let layout = flat::layout(&model);
    let values: Vec<f32> = (0..layout.total)
        .map(|i| (i % 1000) as f32 * 1e-3)
        .collect();
    let model = flat::with_parameters(model, &layout, &values);
    assert_eq!(flat::parameters(&model, &layout), values);
    assert_eq!(flat::layout(&model), layout);
}

#[test]
fn initial_parameters_are_a_function_of_the_seed() {
    let device = Device::flex().autodiff();
    let values = |seed| {
        let model = Model::new(&spec(), seed, &device);
        flat::parameters(&model, &flat::layout(&model))
    };
    assert_eq!(values(1), values(1));
    assert_ne!(values(1), values(2));
}
