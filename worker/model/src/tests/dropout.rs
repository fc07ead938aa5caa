//! Dropout: what its masks are made of, and that they are a function of the key and the place.

use burn::tensor::Tensor;

use super::{KEY, device, floats, train};
use crate::dropout::Dropout;
use crate::ops::{NoiseKey, Ops};

const VALUES: usize = 100_000;

/// The next mask: what dropout makes of ones.
fn mask(dropout: &Dropout) -> Vec<f32> {
    let ones = Tensor::<1>::ones([VALUES], &device());
    floats(dropout.apply(ones))
}

fn first_mask(rate: f64, key: NoiseKey) -> Vec<f32> {
    mask(&Dropout::new(rate, key).unwrap())
}

/// Asserts that `count` of `n` is within five deviations of a binomial of this probability.
#[track_caller]
fn assert_binomial(count: usize, n: usize, probability: f64) {
    let n = n as f64;
    let deviations =
        (count as f64 - n * probability) / (n * probability * (1.0 - probability)).sqrt();
    assert!(
        deviations.abs() < 5.0,
        "{count} of {n}: {deviations:.1} deviations"
    );
}

/// Asserts that masks are as alike as independent ones.
#[track_caller]
fn assert_independent(a: &[f32], b: &[f32], rate: f64) {
    let pairs = || a.iter().zip(b);
    let n = pairs().count();
    let both = pairs().filter(|(a, b)| **a == 0.0 && **b == 0.0).count();
    let neither = pairs().filter(|(a, b)| **a != 0.0 && **b != 0.0).count();
    assert_binomial(both, n, rate * rate);
    assert_binomial(neither, n, (1.0 - rate) * (1.0 - rate));
}

#[test]
fn dropout_drops_its_share_and_scales_the_rest() {
    for rate in [0.1, 0.5, 0.9] {
        let mask = first_mask(rate, KEY);
        let dropped = mask.iter().filter(|x| **x == 0.0).count();
        assert_binomial(dropped, VALUES, rate);
        let kept = mask.iter().filter(|x| **x != 0.0);
        for x in kept {
            assert_eq!(*x, (1.0 / (1.0 - rate)) as f32);
        }
    }
}

#[test]
fn neighbours_are_dropped_independently() {
    for rate in [0.1, 0.5] {
        let mask = first_mask(rate, KEY);
        for distance in 1..=16 {
            assert_independent(&mask[distance..], &mask, rate);
        }
        // The two halves of one random word: even places and the odd ones behind them.
        let [even, odd] = [0, 1].map(|half| {
            let every_second = mask.iter().skip(half).step_by(2);
            every_second.copied().collect::<Vec<_>>()
        });
        assert_independent(&even, &odd, rate);
    }
}

#[test]
fn every_place_step_lane_and_seed_has_its_own_mask() {
    let rate = 0.1;
    let dropout = Dropout::new(rate, KEY).unwrap();
    let mut masks = vec![mask(&dropout), mask(&dropout), mask(&dropout)];
    let keys = [
        NoiseKey { seed: 2, ..KEY },
        NoiseKey { step: 3, ..KEY },
        NoiseKey { lane: 4, ..KEY },
        // The numbers of KEY, exchanged.
        NoiseKey {
            seed: 2,
            step: 1,
            ..KEY
        },
    ];
    masks.extend(keys.map(|key| first_mask(rate, key)));
    for (i, a) in masks.iter().enumerate() {
        for b in &masks[..i] {
            assert_independent(a, b, rate);
        }
    }
}

#[test]
fn masks_are_a_function_of_the_key_and_the_place() {
    let [one, other] = [0.1, 0.1].map(|rate| Dropout::new(rate, KEY).unwrap());
    assert_eq!(mask(&one), mask(&other));
    assert_eq!(mask(&one), mask(&other));
    let behind = Dropout::new(0.1, KEY).unwrap();
    behind.continue_from(&one);
    assert_eq!(mask(&behind), mask(&one));
}

/// A mask does not depend on sizes: a shorter microbatch changes nothing else.
#[test]
fn a_longer_mask_begins_as_a_shorter_one() {
    let of_length = |len: usize| {
        let ones = Tensor::<1>::ones([len], &device());
        floats(Dropout::new(0.5, KEY).unwrap().apply(ones))
    };
    assert_eq!(of_length(101), of_length(1000)[..101]);
}

#[test]
fn without_a_rate_nothing_is_dropped() {
    assert!(Dropout::new(0.0, KEY).is_none());
    let train = train(&["train.dropout=0"]);
    let x = Tensor::<2>::ones([3, 4], &device());
    for ops in [Ops::inference(), Ops::training(&train, KEY)] {
        assert_eq!(floats(ops.dropout(x.clone())), [1.0; 12]);
    }
}

#[test]
fn gradients_pass_where_values_stay() {
    let train = train(&["train.dropout=0.5"]);
    let x = Tensor::<1>::ones([100], &device()).require_grad();
    let kept = Ops::training(&train, KEY).dropout(x.clone());
    let gradient = x.grad(&kept.clone().sum().backward()).unwrap();
    assert_eq!(floats(gradient), floats(kept));
}
