//! Every equation against an independent implementation: nested loops over f64.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod dropout;
mod fusions;
mod gradients;
mod images;
mod layers;
mod loss;
mod parameters;
mod reference;
mod texts;
mod whole;

use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use ringmaster_proto::spec::{ModelSpec, RunSpec, TrainSpec};

use crate::attention::Mask;
use crate::flat;
use crate::init::{Init, normal};
use crate::ops::NoiseKey;
use reference::image::Picture;
use reference::{Matrix, Values};

/// Of fusion.
const WIDTH: usize = 12;
/// Of text encoder and decoder.
const TEXT_WIDTH: usize = 15;
/// Visual tokens.
const VISUAL: usize = 9;
/// Text tokens.
const TOKENS: usize = 7;
/// What tokens are reduced to.
const LATENTS: usize = 5;
const BATCH: usize = 2;

/// Of random numbers.
const KEY: NoiseKey = NoiseKey {
    seed: 1,
    step: 2,
    lane: 3,
};

/// How many of the [`TOKENS`] of each example are real.
const REAL: [usize; BATCH] = [TOKENS, 4];

fn device() -> Device {
    Device::flex().autodiff()
}

/// A small spec whose sizes all differ, so that a wrong dimension shows, with what `sets` say on
/// top.
fn spec(sets: &[&str]) -> ModelSpec {
    let small = [
        "model.image_size=12",
        "model.patch=4",
        "model.image_width=16",
        "model.image_heads=2",
        "model.image_layers=2",
        "model.image_mlp_width=22",
        "model.text_width=15",
        "model.text_heads=5",
        "model.text_layers=2",
        "model.text_mlp_width=18",
        "model.decoder_layers=2",
        "model.width=12",
        "model.heads=3",
        "model.mlp_width=20",
        "model.fusion_mlp_width=24",
        "model.tokens=5",
        "model.iterations=3",
        "model.fusion_layers=6",
        "model.text_len=11",
        "model.target_len=8",
        "model.vocab=300",
    ];
    run(&[&small, sets].concat()).model
}

/// The default training, with what `sets` say on top.
fn train(sets: &[&str]) -> TrainSpec {
    run(sets).train
}

fn run(sets: &[&str]) -> RunSpec {
    let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    RunSpec::parse("", &sets).unwrap()
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
        let values = &all[slot.offset..slot.offset + slot.len];
        values.iter().map(|&x| f64::from(x)).collect()
    };
    let slots = layout.slots.iter();
    slots.map(|slot| (slot.path.clone(), of(slot))).collect()
}

/// A batch of random `rows` x `columns` matrices, for the model and for the reference.
fn input(name: &str, rows: usize, columns: usize) -> (Tensor<3>, Vec<Matrix>) {
    let (tensor, mut pictures) = pictures(name, [1, rows, columns]);
    let matrices = pictures.iter_mut().map(|channels| channels.remove(0));
    (tensor.squeeze_dim(1), matrices.collect())
}

/// A batch of random pictures: channels, height, width.
fn pictures(name: &str, shape: [usize; 3]) -> (Tensor<4>, Vec<Picture>) {
    let [channels, height, width] = shape;
    let numbers = normal(5, name, BATCH * channels * height * width, 1.0);
    let row = |row: &[f32]| row.iter().map(|&x| f64::from(x)).collect();
    let channel = |channel: &[f32]| channel.chunks_exact(width).map(row).collect();
    let picture = |picture: &[f32]| picture.chunks_exact(height * width).map(channel).collect();
    let pictures = numbers.chunks_exact(channels * height * width);
    let pictures = pictures.map(picture).collect();
    let data = TensorData::new(numbers, [BATCH, channels, height, width]);
    (Tensor::from_data(data, &device()), pictures)
}

/// Which text tokens are real; see [`REAL`].
fn real_tokens() -> Tensor<2, Bool> {
    let real = (0..BATCH * TOKENS).map(|i| i % TOKENS < REAL[i / TOKENS]);
    let data = TensorData::new(real.collect::<Vec<_>>(), [BATCH, TOKENS]);
    Tensor::from_data(data, &device())
}

/// Hides the others.
fn key_mask() -> Mask {
    Mask::of_keys(real_tokens())
}

/// The values of a tensor.
fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// Asserts that `tensor` holds `expected`, within 1e-5 of the largest expected magnitude.
#[track_caller]
fn assert_close<const D: usize>(tensor: Tensor<D>, expected: impl IntoIterator<Item = f64>) {
    assert_within(1e-5, tensor, expected);
}

/// Asserts that `tensor` holds `expected`, within a share of the largest expected magnitude.
#[track_caller]
fn assert_within<const D: usize>(
    share: f64,
    tensor: Tensor<D>,
    expected: impl IntoIterator<Item = f64>,
) {
    let actual = floats(tensor);
    let expected: Vec<f64> = expected.into_iter().collect();
    assert_eq!(actual.len(), expected.len());
    let largest = expected.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
        let error = (f64::from(*a) - e).abs() / largest;
        assert!(
            error <= share,
            "element {i}: {a} instead of {e}, {error:.1e} of the largest"
        );
    }
}

/// What `of` says of every example, in the order of a tensor's elements.
fn each(of: impl Fn(usize) -> Matrix) -> impl Iterator<Item = f64> {
    (0..BATCH).flat_map(of).flatten()
}
