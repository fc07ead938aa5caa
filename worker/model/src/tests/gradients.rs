//! Gradients against central finite differences of the reference, in f64.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};

use super::*;
use crate::fusion::GatedFusion;
use crate::loss::cross_entropy;
use crate::ops::Ops;
use crate::resample::Resampler;

const STEP: f64 = 1e-5;

/// Fixed weights that make one number of a module's output.
fn readout(rows: usize) -> (Tensor<3>, Vec<Matrix>) {
    input("readout", rows, WIDTH)
}

fn dot(a: &Matrix, b: &Matrix) -> f64 {
    a.iter()
        .flatten()
        .zip(b.iter().flatten())
        .map(|(a, b)| a * b)
        .sum()
}

/// Compares the gradient of every parameter of `module` with the slope of `reference`.
fn assert_gradients(module: &impl Module, loss: Tensor<1>, reference: impl Fn(&Values) -> f64) {
    let layout = flat::layout(module);
    let mut actual = vec![0.0; layout.total];
    flat::gradients_into(module, loss.backward(), &layout, &mut actual);
    let mut values = values(module);
    for slot in &layout.slots {
        let mut expected = Vec::with_capacity(slot.len);
        for i in 0..slot.len {
            let at = values[&slot.path][i];
            let mut side = |offset: f64| {
                values.get_mut(&slot.path).unwrap()[i] = at + offset;
                reference(&values)
            };
            expected.push((side(STEP) - side(-STEP)) / (2.0 * STEP));
            values.get_mut(&slot.path).unwrap()[i] = at;
        }
        let largest = expected.iter().fold(1e-3, |max: f64, x| max.max(x.abs()));
        for (i, e) in expected.iter().enumerate() {
            let a = f64::from(actual[slot.offset + i]);
            let error = (a - e).abs() / largest;
            assert!(error <= 1e-4, "{} {i}: {a} instead of {e}", slot.path);
        }
    }
}

#[test]
fn gradients_of_the_fused_block_are_its_slopes() {
    let module = random(|init| GatedFusion::new(init, &spec(&[])));
    let (t, t_rows) = input("t", LATENTS, WIDTH);
    let (f, f_rows) = input("f", LATENTS, WIDTH);
    let (weights, rows) = readout(LATENTS);
    let loss = (module.forward(t, f, &Ops::inference()) * weights).sum();
    assert_gradients(&module, loss, |values| {
        let output =
            |b: usize| reference::gated_fusion(values, "", (&t_rows[b], &f_rows[b]), HEADS);
        (0..BATCH).map(|b| dot(&output(b), &rows[b])).sum()
    });
}

#[test]
fn gradients_of_the_resampler_are_its_slopes() {
    let module = random(|init| Resampler::new(init, &spec(&[])));
    let (x, x_rows) = input("x", TOKENS, WIDTH);
    let (weights, rows) = readout(LATENTS);
    let loss = (module.forward(x, None, &Ops::inference()) * weights).sum();
    assert_gradients(&module, loss, |values| {
        let output = |b: usize| reference::resample(values, &x_rows[b], HEADS, |_, _| true);
        (0..BATCH).map(|b| dot(&output(b), &rows[b])).sum()
    });
}

#[test]
fn gradient_of_the_loss_is_its_slope() {
    let (logits, mut rows) = input("logits", TOKENS, WIDTH);
    let logits = logits.require_grad();
    let target: Vec<usize> = (0..BATCH * TOKENS).map(|i| i * 5 % WIDTH).collect();
    let weight: Vec<f64> = (0..BATCH * TOKENS)
        .map(|i| [1.0, 0.0, 0.5][i % 3])
        .collect();
    let shape = [BATCH, TOKENS];
    let ids: Vec<i64> = target.iter().map(|&id| id as i64).collect();
    let weights: Vec<f32> = weight.iter().map(|&w| w as f32).collect();
    let ids = Tensor::from_data(TensorData::new(ids, shape), &device());
    let weights = Tensor::from_data(TensorData::new(weights, shape), &device());
    let loss = cross_entropy(logits.clone(), ids, weights, 0.0).sum();
    let mut slopes = Vec::new();
    for (b, example) in rows.iter_mut().enumerate() {
        let range = b * TOKENS..(b + 1) * TOKENS;
        for i in 0..TOKENS * WIDTH {
            let at = example[i / WIDTH][i % WIDTH];
            let mut side = |offset: f64| {
                example[i / WIDTH][i % WIDTH] = at + offset;
                reference::cross_entropy(example, &target[range.clone()], &weight[range.clone()])
            };
            slopes.push((side(STEP) - side(-STEP)) / (2.0 * STEP));
            example[i / WIDTH][i % WIDTH] = at;
        }
    }
    assert_close(logits.grad(&loss.backward()).unwrap(), slopes);
}
