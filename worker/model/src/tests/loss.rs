//! The loss.

use burn::tensor::{Int, Tensor, TensorData};

use super::*;
use crate::loss::cross_entropy;

/// Targets and weights of a vocabulary, for the model and for the reference.
pub(super) struct Targets {
    pub(super) ids: Tensor<2, Int>,
    pub(super) weights: Tensor<2>,
    pub(super) of_example: Vec<(Vec<usize>, Vec<f64>)>,
}

impl Targets {
    pub(super) fn new(tokens: usize, vocab: usize) -> Self {
        let of_example = |b: usize| {
            let places = b * tokens..(b + 1) * tokens;
            let ids = places.clone().map(|i| (i * 5 + 3) % vocab).collect();
            (ids, places.map(|i| [1.0, 0.0, 0.5][i % 3]).collect())
        };
        let of_example: Vec<(Vec<usize>, Vec<f64>)> = (0..BATCH).map(of_example).collect();
        let (ids, weights): (Vec<_>, Vec<_>) = of_example.iter().cloned().unzip();
        let ids: Vec<i64> = ids.concat().iter().map(|id| *id as i64).collect();
        let weights: Vec<f32> = weights.concat().iter().map(|w| *w as f32).collect();
        let shape = [BATCH, tokens];
        Self {
            ids: Tensor::from_data(TensorData::new(ids, shape), &device()),
            weights: Tensor::from_data(TensorData::new(weights, shape), &device()),
            of_example,
        }
    }
}

#[test]
fn loss_is_the_weighted_sum_of_negative_log_probabilities() {
    let vocab = 11;
    let (logits, rows) = input("logits", TOKENS, vocab);
    let targets = Targets::new(TOKENS, vocab);
    for smoothing in [0.0, 0.1, 0.9] {
        let expected = (0..BATCH).map(|b| {
            let (ids, weights) = &targets.of_example[b];
            reference::cross_entropy(&rows[b], ids, weights, smoothing)
        });
        let (ids, weights) = (targets.ids.clone(), targets.weights.clone());
        let loss = cross_entropy(logits.clone(), ids, weights, smoothing);
        assert_close(loss, expected);
    }
}

#[test]
fn smoothed_loss_is_least_at_the_smoothed_target() {
    // Cross-entropy is least where the probabilities are the target's own, and is then its entropy.
    let (vocab, smoothing) = (4, 0.2f64);
    let wanted = |v: usize| smoothing / vocab as f64 + if v == 1 { 1.0 - smoothing } else { 0.0 };
    let logits: Vec<f32> = (0..vocab).map(|v| wanted(v).ln() as f32).collect();
    let entropy: f64 = (0..vocab).map(|v| -wanted(v) * wanted(v).ln()).sum();
    let loss = cross_entropy(
        Tensor::from_data(TensorData::new(logits, [1, 1, vocab]), &device()),
        Tensor::from_data(TensorData::new(vec![1i64], [1, 1]), &device()),
        Tensor::ones([1, 1], &device()),
        smoothing,
    );
    assert_close(loss, [entropy]);
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
