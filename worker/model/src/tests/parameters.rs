//! Initial values, names and weight decay of parameters.

use std::collections::BTreeSet;

use super::whole::{VARIANTS, WITH_RESNET};
use super::*;
use crate::Model;

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

#[test]
fn parameters_have_names_and_initial_values_of_their_own() {
    for sets in VARIANTS.iter().chain([&WITH_RESNET]) {
        let model = Model::new(&spec(sets), 1, &device());
        let layout = flat::layout(&model);
        let paths: BTreeSet<&str> = layout.slots.iter().map(|s| s.path.as_str()).collect();
        assert_eq!(paths.len(), layout.slots.len(), "{sets:?}");

        let all = flat::parameters(&model, &layout);
        let values = |slot: &flat::Slot| &all[slot.offset..slot.offset + slot.len];
        let drawn = |slot: &&flat::Slot| values(slot).iter().any(|x| *x != values(slot)[0]);
        let drawn: Vec<&flat::Slot> = layout.slots.iter().filter(drawn).collect();
        for (i, slot) in drawn.iter().enumerate() {
            let (found, unit) = (values(slot), normal(1, &slot.path, slot.len, 1.0));
            let scale = f64::from(found[0]) / f64::from(unit[0]);
            let own = found
                .iter()
                .zip(&unit)
                .all(|(f, u)| (f64::from(*f) - scale * f64::from(*u)).abs() <= 1e-5 * scale.abs());
            assert!(own, "{sets:?}: {} is drawn under another name", slot.path);
            for other in &drawn[..i] {
                // The same draws would differ by a factor alone.
                let (a, b) = (values(slot), values(other));
                let alike =
                    |i: usize| (a[i] * b[0] - a[0] * b[i]).abs() <= 1e-5 * (a[i] * b[0]).abs();
                let names = [&slot.path, &other.path];
                assert!(!(1..4).all(alike), "{sets:?} {names:?}");
            }
        }
    }
}

/// Norms, gates, latents, positions, modalities, combination weights and biases keep their size.
#[test]
fn matrices_and_kernels_alone_decay() {
    for sets in VARIANTS.iter().chain([&WITH_RESNET]) {
        for slot in flat::layout(&Model::new(&spec(sets), 1, &device())).slots {
            let no_map = ["latents", "positions", "bias"];
            let map = !no_map.iter().any(|name| slot.path.ends_with(name));
            let expected = map && slot.shape.len() >= 2;
            assert_eq!(slot.decay, expected, "{sets:?} {}", slot.path);
        }
    }
}

#[test]
fn parameters_survive_the_flat_buffer() {
    let model = random(|_| Model::new(&spec(&[]), 1, &device()));
    let layout = flat::layout(&model);
    let numbers: Vec<f32> = (0..layout.total).map(|i| i as f32).collect();
    let model = flat::with_parameters(model, &layout, &numbers);
    assert_eq!(flat::layout(&model), layout);
    assert_eq!(flat::parameters(&model, &layout), numbers);
}
