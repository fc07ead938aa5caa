//! Forward passes.

use burn::tensor::{Tensor, TensorData};

use super::*;
use crate::attention::{Attention, Mask};
use crate::fusion::GatedFusion;
use crate::layer::{Layer, LayerSpec};
use crate::loss::cross_entropy;
use crate::ops::Ops;
use crate::resample::Resampler;

/// How many tokens of each example are real.
const REAL: [usize; BATCH] = [TOKENS, 4];

fn key_mask() -> Mask {
    let real: Vec<bool> = REAL
        .iter()
        .flat_map(|n| (0..TOKENS).map(move |j| j < *n))
        .collect();
    Mask::of_keys(Tensor::from_data(
        TensorData::new(real, [BATCH, TOKENS]),
        &device(),
    ))
}

#[test]
fn attention_is_softmax_of_scaled_products_of_real_keys() {
    let module =
        random(|init| Attention::new(init, LayerSpec::fusion(&spec(&[])).attention(), 1.0));
    // The reference names modules by path; a lone module has the empty one.
    let values = values(&module)
        .into_iter()
        .map(|(path, v)| (format!("a.{path}"), v))
        .collect();
    let (q, q_rows) = input("q", LATENTS, WIDTH);
    let (kv, kv_rows) = input("kv", TOKENS, WIDTH);
    let expected = (0..BATCH)
        .map(|b| {
            let inputs = (&q_rows[b], &kv_rows[b]);
            reference::attention(&values, "a", inputs, HEADS, |_, j| j < REAL[b])
        })
        .collect();
    assert_close(
        module.forward(q, kv, Some(&key_mask()), &Ops::inference()),
        elements(expected),
    );
}

#[test]
fn causal_attention_never_sees_later_positions() {
    let module =
        random(|init| Attention::new(init, LayerSpec::fusion(&spec(&[])).attention(), 1.0));
    let values = values(&module)
        .into_iter()
        .map(|(path, v)| (format!("a.{path}"), v))
        .collect();
    let (x, rows) = input("x", TOKENS, WIDTH);
    let expected = rows
        .iter()
        .map(|x| reference::attention(&values, "a", (x, x), HEADS, |i, j| j <= i))
        .collect();
    let mask = Mask::causal(TOKENS, &device());
    assert_close(
        module.forward(x.clone(), x, Some(&mask), &Ops::inference()),
        elements(expected),
    );
}

#[test]
fn layer_is_two_pre_norm_residual_branches() {
    let spec = LayerSpec::fusion(&spec(&[]));
    let module = random(|init| Layer::new(init, spec, 1.0));
    let values = values(&module);
    let (x, rows) = input("x", TOKENS, WIDTH);
    let expected = (0..BATCH)
        .map(|b| reference::layer(&values, "", &rows[b], HEADS, |_, j| j < REAL[b]))
        .collect();
    assert_close(
        module.forward(x, Some(&key_mask()), &Ops::inference()),
        elements(expected),
    );
}

#[test]
fn resampling_is_equation_2() {
    let module = random(|init| Resampler::new(init, &spec(&[])));
    let values = values(&module);
    let (x, rows) = input("x", TOKENS, WIDTH);
    let expected = (0..BATCH)
        .map(|b| reference::resample(&values, &rows[b], HEADS, |_, j| j < REAL[b]))
        .collect();
    assert_close(
        module.forward(x, Some(&key_mask()), &Ops::inference()),
        elements(expected),
    );
}

#[test]
fn gated_fusion_is_equation_3_as_printed() {
    let module = random(|init| GatedFusion::new(init, &spec(&[])));
    let values = values(&module);
    let (t, t_rows) = input("t", LATENTS, WIDTH);
    let (f, f_rows) = input("f", LATENTS, WIDTH);
    let expected = (0..BATCH)
        .map(|b| reference::gated_fusion(&values, "", (&t_rows[b], &f_rows[b]), HEADS))
        .collect();
    assert_close(module.forward(t, f, &Ops::inference()), elements(expected));
}

#[test]
fn loss_is_the_weighted_sum_of_negative_log_probabilities() {
    let vocab = 11;
    let (logits, rows) = input("logits", TOKENS, vocab);
    let target: Vec<usize> = (0..BATCH * TOKENS).map(|i| i * 5 % vocab).collect();
    let weight: Vec<f64> = (0..BATCH * TOKENS)
        .map(|i| [1.0, 0.0, 0.5][i % 3])
        .collect();
    let expected = (0..BATCH).map(|b| {
        let range = b * TOKENS..(b + 1) * TOKENS;
        reference::cross_entropy(&rows[b], &target[range.clone()], &weight[range])
    });
    let ids: Vec<i64> = target.iter().map(|&id| id as i64).collect();
    let weights: Vec<f32> = weight.iter().map(|&w| w as f32).collect();
    let shape = [BATCH, TOKENS];
    let ids = Tensor::from_data(TensorData::new(ids, shape), &device());
    let weights = Tensor::from_data(TensorData::new(weights, shape), &device());
    assert_close(cross_entropy(logits, ids, weights, 0.0), expected);
}

#[test]
fn loss_stays_finite_where_a_plain_exponential_overflows() {
    let data = TensorData::new(vec![1000.0f32, 0.0, -1000.0], [1, 1, 3]);
    let id = |id: i64| Tensor::from_data(TensorData::new(vec![id], [1, 1]), &device());
    let loss = |target| {
        let logits = Tensor::from_data(data.clone(), &device());
        cross_entropy(logits, id(target), Tensor::ones([1, 1], &device()), 0.0)
    };
    assert_close(loss(0).add_scalar(1.0), [1.0]);
    assert_close(loss(2), [2000.0]);
}
