//! Initial values.

use crate::init::normal;

#[test]
fn initial_values_depend_on_seed_and_path_alone() {
    let values = normal(1, "a.weight", 1000, 1.0);
    assert_eq!(values, normal(1, "a.weight", 1000, 1.0));
    assert_eq!(values[..10], normal(1, "a.weight", 10, 1.0)[..]);
    assert_ne!(values, normal(2, "a.weight", 1000, 1.0));
    assert_ne!(values, normal(1, "b.weight", 1000, 1.0));
}

#[test]
fn initial_values_are_normal() {
    let values: Vec<f64> = normal(1, "w", 100_000, 2.0)
        .into_iter()
        .map(f64::from)
        .collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    let within_one = values.iter().filter(|x| x.abs() < 2.0).count() as f64 / n;
    assert!(mean.abs() < 0.03, "mean {mean}");
    assert!(
        (deviation / 2.0 - 1.0).abs() < 0.01,
        "deviation {deviation}"
    );
    assert!(
        (within_one - 0.6827).abs() < 0.01,
        "{within_one} within one deviation"
    );
}
