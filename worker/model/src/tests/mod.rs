//! Every equation against an independent implementation: nested loops over f64.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod equations;
mod gradients;
mod initial;
mod reference;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use ringmaster_proto::spec::{ModelSpec, RunSpec};

use crate::flat;
use crate::init::{Init, normal};
use reference::{Matrix, Values};

/// Sizes that differ from each other, so that a wrong dimension shows.
const WIDTH: usize = 12;
const HEADS: usize = 3;
const LATENTS: usize = 5;
const TOKENS: usize = 7;
const BATCH: usize = 2;

fn device() -> Device {
    Device::flex().autodiff()
}

/// A small spec in which every size differs, with what `sets` say on top.
fn spec(sets: &[&str]) -> ModelSpec {
    let small = [
        "model.width=12",
        "model.heads=3",
        "model.mlp_width=20",
        "model.fusion_mlp_width=24",
        "model.tokens=5",
        "model.iterations=2",
        "model.fusion_layers=4",
    ];
    let sets: Vec<String> = small.iter().chain(sets).map(|s| s.to_string()).collect();
    RunSpec::parse("", &sets).unwrap().model
}

/// A module whose parameters are all drawn at random, those that start at constants too.
fn random<M: Module>(build: impl Fn(&Init) -> M) -> M {
    let device = device();
    let module = build(&Init::new(3, &device));
    let layout = flat::layout(&module);
    flat::with_parameters(module, &layout, &normal(4, "values", layout.total, 0.5))
}

/// The parameters of a module by path, for the reference.
fn values(module: &impl Module) -> Values {
    let layout = flat::layout(module);
    let all = flat::parameters(module, &layout);
    let of = |slot: &flat::Slot| {
        all[slot.offset..slot.offset + slot.len]
            .iter()
            .map(|&x| f64::from(x))
            .collect()
    };
    layout
        .slots
        .iter()
        .map(|slot| (slot.path.clone(), of(slot)))
        .collect()
}

/// A batch of random `rows` x `columns` matrices, for the model and for the reference.
fn input(name: &str, rows: usize, columns: usize) -> (Tensor<3>, Vec<Matrix>) {
    let numbers = normal(5, name, BATCH * rows * columns, 1.0);
    let row = |chunk: &[f32]| chunk.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let examples = numbers
        .chunks_exact(rows * columns)
        .map(|example| example.chunks_exact(columns).map(row).collect())
        .collect();
    let data = TensorData::new(numbers, [BATCH, rows, columns]);
    (Tensor::from_data(data, &device()), examples)
}

/// Asserts that `tensor` holds `expected`, within 1e-5 of the largest expected magnitude.
fn assert_close<const D: usize>(tensor: Tensor<D>, expected: impl IntoIterator<Item = f64>) {
    let actual: Vec<f32> = tensor.into_data().try_into_vec().unwrap();
    let expected: Vec<f64> = expected.into_iter().collect();
    assert_eq!(actual.len(), expected.len());
    let largest = expected.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
        let error = (f64::from(*a) - e).abs() / largest;
        assert!(
            error <= 1e-5,
            "element {i}: {a} instead of {e}, {error:.1e} of the largest"
        );
    }
}

/// All elements of a batch of matrices in the order of a tensor.
fn elements(examples: Vec<Matrix>) -> impl Iterator<Item = f64> {
    examples.into_iter().flatten().flatten()
}
