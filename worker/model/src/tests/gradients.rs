//! Gradients against central finite differences of the reference, in f64.

use burn::module::Module;
use burn::tensor::Tensor;

use super::fusions::TOKEN_LEARNERS;
use super::loss::Targets;
use super::reference::{self, Parameters, fusion};
use super::*;
use crate::fusion::GatedFusion;
use crate::loss::cross_entropy;
use crate::ops::Ops;
use crate::resample::Resampler;
use crate::token_learner::{SpatialLearner, TextLearner};

const STEP: f64 = 1e-5;

/// The slope of `f` at 0.
fn slope(f: impl Fn(f64) -> f64) -> f64 {
    (f(STEP) - f(-STEP)) / (2.0 * STEP)
}

/// Compares gradients with slopes, within 1e-4 of the largest slope.
#[track_caller]
fn assert_slopes(name: &str, gradient: &[f32], slope: impl Fn(usize) -> f64) {
    let slopes: Vec<f64> = (0..gradient.len()).map(slope).collect();
    let largest = slopes.iter().fold(1e-3, |max: f64, x| max.max(x.abs()));
    for (i, (a, e)) in gradient.iter().zip(slopes).enumerate() {
        let error = (f64::from(*a) - e).abs() / largest;
        assert!(error <= 1e-4, "{name} {i}: {a} instead of {e}");
    }
}

/// Compares the gradients of every parameter and every input of `module`, whose inputs have `rows`
/// tokens, with the slopes of `reference`, which is given parameters, inputs and the number of an
/// example. Fixed weights make one number of the output.
#[track_caller]
fn assert_gradients<M: Module, const N: usize>(
    module: M,
    rows: [usize; N],
    forward: impl Fn(&M, [Tensor<3>; N]) -> Tensor<3>,
    reference: impl Fn(&Parameters, [&Matrix; N], usize) -> Matrix,
) {
    let given = |n: usize| input(&format!("input {n}"), rows[n], WIDTH);
    let tensors: [Tensor<3>; N] = std::array::from_fn(|n| given(n).0.require_grad());
    let inputs: [Vec<Matrix>; N] = std::array::from_fn(|n| given(n).1);
    let (weights, weight_rows) = input("readout", LATENTS, WIDTH);

    let output = forward(&module, tensors.clone());
    let mut gradients = (output * weights).sum().backward();
    let of_inputs = tensors.map(|x| floats(x.grad_remove(&mut gradients).unwrap()));
    let layout = flat::layout(&module);
    let mut of_parameters = vec![0.0; layout.total];
    flat::gradients_into(&module, gradients, &layout, &mut of_parameters);

    let number = |values: &Values, inputs: &[Vec<Matrix>; N]| -> f64 {
        let of_example = |b: usize| {
            let of_example = std::array::from_fn(|n| &inputs[n][b]);
            let output = reference(&Parameters::of(values), of_example, b);
            let products = output.iter().flatten().zip(weight_rows[b].iter().flatten());
            products.map(|(y, w)| y * w).sum::<f64>()
        };
        (0..BATCH).map(of_example).sum()
    };
    let values = values(&module);
    for slot in &layout.slots {
        let gradient = &of_parameters[slot.offset..slot.offset + slot.len];
        assert_slopes(&slot.path, gradient, |i| {
            slope(|offset| {
                let mut values = values.clone();
                values.get_mut(&slot.path).unwrap()[i] += offset;
                number(&values, &inputs)
            })
        });
    }
    for (n, gradient) in of_inputs.iter().enumerate() {
        assert_slopes(&format!("input {n}"), gradient, |i| {
            let (b, row) = (i / WIDTH / rows[n], i / WIDTH % rows[n]);
            slope(|offset| {
                let mut inputs = inputs.clone();
                inputs[n][b][row][i % WIDTH] += offset;
                number(&values, &inputs)
            })
        });
    }
}

#[test]
fn gradients_of_the_fused_block_and_its_variants_are_its_slopes() {
    let variants: [&[&str]; 6] = [
        &[],
        &["model.skip=T"],
        &["model.gating=false"],
        &["model.fuse_self_attn=true"],
        &["model.activation=gelu"],
        &[
            "model.skip=T",
            "model.fuse_self_attn=true",
            "model.activation=gelu",
        ],
    ];
    for sets in variants {
        let spec = spec(sets);
        assert_gradients(
            random(|init| GatedFusion::new(init, &spec)),
            [LATENTS, LATENTS],
            |module, [t, f]| module.forward(t, f, &Ops::inference()),
            |p, [t, f], _| fusion::gated(p, &spec, t, f),
        );
    }
}

#[test]
fn gradients_of_the_resampler_are_its_slopes() {
    for kv_norm in ["model.kv_norm=true", "model.kv_norm=false"] {
        let spec = spec(&[kv_norm]);
        assert_gradients(
            random(|init| Resampler::new(init, &spec)),
            [TOKENS],
            |module, [x]| module.forward(x, Some(&key_mask()), &Ops::inference()),
            |p, [x], b| fusion::resample(p, &spec, x, REAL[b]),
        );
    }
}

#[test]
fn gradients_of_the_spatial_learner_are_its_slopes() {
    for token_learner in TOKEN_LEARNERS {
        let spec = spec(&[token_learner]);
        assert_gradients(
            random(|init| SpatialLearner::new(init, &spec)),
            [VISUAL, VISUAL],
            |module, [guides, x]| module.forward(guides, x, &Ops::inference()),
            |p, [guides, x], _| fusion::spatial_learner(p, spec.token_learner, guides, x),
        );
    }
}

#[test]
fn gradients_of_the_text_learner_are_its_slopes() {
    assert_gradients(
        random(|init| TextLearner::new(init, &spec(&[]))),
        [TOKENS, TOKENS],
        |module, [guides, x]| module.forward(guides, x, &key_mask(), &Ops::inference()),
        |p, [guides, x], b| fusion::text_learner(p, guides, x, REAL[b]),
    );
}

#[test]
fn gradient_of_the_loss_is_its_slope() {
    for smoothing in [0.0, 0.1] {
        let (logits, rows) = input("logits", TOKENS, WIDTH);
        let logits = logits.require_grad();
        let targets = Targets::new(TOKENS, WIDTH);
        let loss = cross_entropy(logits.clone(), targets.ids, targets.weights, smoothing).sum();
        let gradient = logits.grad(&loss.backward()).unwrap();
        assert_slopes("logits", &floats(gradient), |i| {
            let (b, row) = (i / WIDTH / TOKENS, i / WIDTH % TOKENS);
            let (ids, weights) = &targets.of_example[b];
            slope(|offset| {
                let mut rows = rows[b].clone();
                rows[row][i % WIDTH] += offset;
                reference::cross_entropy(&rows, ids, weights, smoothing)
            })
        });
    }
}
