//! Properties that every variant of the family has.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::tensor::{Device, Tensor, TensorData};
use ringmaster_model::{Batch, Model, NoiseKey, Ops, cost, flat};
use ringmaster_proto::RunSpec;
use ringmaster_proto::vocab::BEGIN;

const BATCH: usize = 3;
const TEXT: usize = 6;
const TARGET: usize = 5;

const KEY: NoiseKey = NoiseKey {
    seed: 1,
    step: 2,
    lane: 3,
};

/// Small sizes that differ from each other.
const SMALL: [&str; 20] = [
    "model.image_size=32",
    "model.patch=8",
    "model.image_width=20",
    "model.image_heads=2",
    "model.image_layers=1",
    "model.image_mlp_width=28",
    "model.text_width=28",
    "model.text_heads=4",
    "model.text_layers=2",
    "model.text_mlp_width=36",
    "model.decoder_layers=2",
    "model.width=24",
    "model.heads=3",
    "model.mlp_width=32",
    "model.fusion_mlp_width=40",
    "model.tokens=4",
    "model.fusion_layers=4",
    "model.vocab=300",
    "model.text_len=8",
    "model.target_len=7",
];

/// Every value of every choice occurs.
const VARIANTS: [&[&str]; 19] = [
    &[],
    &["fusion=concat"],
    &["fusion=xattn"],
    &["fusion=perceiver"],
    &["fusion=perceiver", "share_fusion=true", "share_layers=true"],
    &["fusion=cotok"],
    &["fusion=cotok", "token_learner=v1"],
    &["fusion=cotok", "token_learner=v11", "text_stack=t5"],
    &["resample=spatial"],
    &["resample=spatial", "token_learner=v1", "activation=gelu"],
    &["resample=spatial", "token_learner=v11"],
    &["gating=false"],
    &["combine=none"],
    &["combine=residual"],
    &["skip=T", "kv_norm=false", "fuse_self_attn=true"],
    &["memory=mixture", "share_fusion=true", "share_layers=true"],
    &["memory=last", "combine=residual"],
    &["image_encoder=vit", "text_stack=t5", "text_width=24"],
    &["image_encoder=resnet50-c4", "iterations=4"],
];

fn spec(variant: &[&str], train: &[&str]) -> RunSpec {
    let of_model = variant.iter().map(|set| format!("model.{set}"));
    let sets = SMALL.iter().chain(train).map(|set| set.to_string());
    let sets: Vec<String> = sets.chain(of_model).collect();
    RunSpec::parse("", &sets).unwrap()
}

fn device() -> Device {
    Device::flex().autodiff()
}

/// The second text is padded by two, the second target by one.
fn batch(spec: &RunSpec) -> Batch {
    let side = spec.model.image_size;
    let real = |i: usize, len: usize, pads: usize| !(2 * len - pads..2 * len).contains(&i);
    let target: Vec<i64> = (0..BATCH * TARGET)
        .map(|i| 10 + (i * 11 % 90) as i64)
        .collect();
    let input = std::iter::once(i64::from(BEGIN)).chain(target.clone());
    let numbers = |data: Vec<f32>, shape: Vec<usize>| TensorData::new(data, shape);
    let pixels = (0..BATCH * 3 * side * side).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0);
    let text = (0..BATCH * TEXT)
        .map(|i| 10 + (i * 7 % 90) as i64)
        .collect();
    let weight = (0..BATCH * TARGET).map(|i| f32::from(u8::from(real(i, TARGET, 1))));
    let mask: Vec<bool> = (0..BATCH * TEXT).map(|i| real(i, TEXT, 2)).collect();
    let ids = |ids: Vec<i64>, len| TensorData::new(ids, [BATCH, len]);
    let images = numbers(pixels.collect(), vec![BATCH, 3, side, side]);
    Batch {
        images: Tensor::from_data(images, &device()),
        text: Tensor::from_data(ids(text, TEXT), &device()),
        text_mask: Tensor::from_data(TensorData::new(mask, [BATCH, TEXT]), &device()),
        input: Tensor::from_data(ids(input.take(BATCH * TARGET).collect(), TARGET), &device()),
        target: Tensor::from_data(ids(target, TARGET), &device()),
        weight: Tensor::from_data(numbers(weight.collect(), vec![BATCH, TARGET]), &device()),
    }
}

fn model(spec: &RunSpec) -> Model {
    Model::new(&spec.model, 1, &device())
}

/// The loss, then the gradient.
fn gradient(spec: &RunSpec, model: &Model, ops: Ops) -> Vec<f32> {
    let layout = flat::layout(model);
    let mut flat = vec![0.0; layout.total];
    let smoothing = spec.train.label_smoothing;
    let loss = model.forward_backward(batch(spec), smoothing, ops, |gradients| {
        flat::add_gradients(model, gradients, &layout, &mut flat);
    });
    flat.insert(0, loss.into_scalar::<f32>());
    flat
}

fn training(spec: &RunSpec, key: NoiseKey) -> Ops {
    Ops::training(&spec.train, key)
}

fn assert_close(a: &[f32], b: &[f32], tolerance: f32, what: &str) {
    let largest = b.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let error = (a - b).abs() / largest;
        assert!(error <= tolerance, "{what}, element {i}: {a} and {b}");
    }
}

#[test]
fn every_parameter_of_every_variant_gets_a_gradient() {
    for variant in VARIANTS {
        let spec = spec(variant, &[]);
        let model = model(&spec);
        let gradient = gradient(&spec, &model, training(&spec, KEY));
        for slot in flat::layout(&model).slots {
            // The last iteration's combination is not part of `memory = last`, and all biases of
            // keys move the scores of a query alike.
            let idle = slot.path.ends_with("key.bias") || variant.contains(&"memory=last");
            let range = 1 + slot.offset..1 + slot.offset + slot.len;
            let moved = gradient[range].iter().any(|g| *g != 0.0);
            assert!(moved || idle, "{variant:?}: {} has no gradient", slot.path);
        }
    }
}

#[test]
fn checkpointed_activations_give_the_same_gradients() {
    for variant in VARIANTS {
        let plain = spec(variant, &["train.dropout=0.2", "train.label_smoothing=0.1"]);
        let model = model(&plain);
        let expected = gradient(&plain, &model, training(&plain, KEY));
        let sets = [
            "train.dropout=0.2",
            "train.label_smoothing=0.1",
            "train.activation_checkpointing=true",
        ];
        let segmented = spec(variant, &sets);
        let again = gradient(&segmented, &model, training(&segmented, KEY));
        assert_eq!(again[0], expected[0], "{variant:?}: the loss");
        // Only the order of sums over several uses of a value differs.
        assert_close(&again, &expected, 1e-5, &format!("{variant:?}"));
    }
}

#[test]
fn gradients_in_pieces_have_the_same_bits_whatever_the_tape_keeps() {
    for variant in VARIANTS {
        let sets = ["train.dropout=0.2", "train.label_smoothing=0.1"];
        let plain = spec(variant, &sets);
        let model = model(&plain);
        let mut bits = Vec::new();
        let again = spec(
            variant,
            &[&sets[..], &["train.activation_checkpointing=true"]].concat(),
        );
        for spec in [&plain, &again] {
            let gradient = gradient(spec, &model, training(spec, KEY).in_pieces());
            bits.push(gradient.into_iter().map(f32::to_bits).collect::<Vec<_>>());
        }
        assert!(bits[0] == bits[1], "{variant:?}");
        // In one piece only the order of sums over several uses of a value differs.
        let whole = gradient(&plain, &model, training(&plain, KEY));
        let pieces: Vec<f32> = bits[0].iter().map(|bits| f32::from_bits(*bits)).collect();
        assert_close(&pieces, &whole, 1e-5, &format!("{variant:?}"));
    }
}

#[test]
fn pieces_of_a_gradient_come_with_the_last_layers_first() {
    let spec = spec(&[], &[]);
    let model = model(&spec);
    let layout = flat::layout(&model);
    let mut flat = vec![0.0; layout.total];
    let mut last = vec![0; layout.slots.len()];
    let mut pieces = 0;
    let ops = training(&spec, KEY).in_pieces();
    model.forward_backward(batch(&spec), 0.0, ops, |gradients| {
        for slot in flat::add_gradients(&model, gradients, &layout, &mut flat) {
            last[slot] = pieces;
        }
        pieces += 1;
    });
    let of = |part: &str| {
        let slots = layout.slots.iter().zip(&last);
        let part = slots.filter(|(slot, _)| slot.path.starts_with(part));
        part.map(|(_, last)| *last).max().unwrap()
    };
    assert!(pieces > 5, "{pieces} pieces");
    let order = [
        "decoder",
        "norm_memory",
        "fusion",
        "text_encoder",
        "image_encoder",
    ]
    .map(of);
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(
        (order[0], of("embedding")),
        (0, order[3]),
        "the table is tied"
    );
}

#[test]
fn padding_and_neighbours_change_nothing() {
    for variant in VARIANTS {
        let spec = spec(variant, &[]);
        let model = model(&spec);
        let losses = |batch: Batch| -> Vec<f32> {
            let losses = model.losses(batch, 0.0, &Ops::inference());
            losses.into_data().try_into_vec().unwrap()
        };
        let all = losses(batch(&spec));
        let mut other = batch(&spec);
        let hidden = TensorData::new(vec![99_i64; 2], [1, 2]);
        other.text = other
            .text
            .slice_assign([1..2, 4..6], Tensor::from_data(hidden, &device()));
        assert_eq!(losses(other), all, "{variant:?}: padding");
        for i in 0..BATCH {
            let b = batch(&spec);
            let alone = Batch {
                images: b.images.narrow(0, i, 1),
                text: b.text.narrow(0, i, 1),
                text_mask: b.text_mask.narrow(0, i, 1),
                input: b.input.narrow(0, i, 1),
                target: b.target.narrow(0, i, 1),
                weight: b.weight.narrow(0, i, 1),
            };
            assert_close(&losses(alone), &all[i..=i], 1e-5, &format!("{variant:?}"));
        }
    }
}

#[test]
fn every_variant_generates_what_its_whole_decoder_finds_likeliest() {
    for variant in VARIANTS {
        let spec = spec(variant, &[]);
        let model = model(&spec);
        let b = batch(&spec);
        let answers = model.generate(
            b.images.clone(),
            b.text.clone(),
            b.text_mask.clone(),
            TARGET,
        );
        for (i, answer) in answers.iter().enumerate() {
            let mut ids = vec![i64::from(BEGIN)];
            ids.extend(answer.iter().map(|&id| i64::from(id)));
            let len = ids.len();
            let input: Tensor<2, burn::tensor::Int> =
                Tensor::from_data(TensorData::new(ids, [1, len]), &device());
            let alone = Batch {
                images: b.images.clone().narrow(0, i, 1),
                text: b.text.clone().narrow(0, i, 1),
                text_mask: b.text_mask.clone().narrow(0, i, 1),
                input: input.clone(),
                target: input,
                weight: Tensor::ones([1, len], &device()),
            };
            let logits = model.logits(alone, &Ops::inference());
            let best: Vec<u32> = logits.argmax(2).into_data().iter::<u32>().collect();
            assert_eq!(&best[..answer.len()], &answer[..], "{variant:?}");
        }
    }
}

#[test]
fn dropout_is_a_function_of_seed_step_and_lane() {
    let spec = spec(&[], &["train.dropout=0.3"]);
    let model = model(&spec);
    let of = |key| gradient(&spec, &model, training(&spec, key));
    let expected = of(KEY);
    assert_eq!(of(KEY), expected);
    for key in [
        NoiseKey { seed: 9, ..KEY },
        NoiseKey { step: 9, ..KEY },
        NoiseKey { lane: 9, ..KEY },
    ] {
        assert_ne!(of(key), expected, "{key:?}");
    }
    let without = gradient(&spec, &model, Ops::inference());
    assert_ne!(without, expected);
}

#[test]
fn half_precision_stays_near_single() {
    let single = spec(&[], &[]);
    let model = model(&single);
    let expected = gradient(&single, &model, training(&single, KEY));
    let half = spec(&[], &["train.precision=bf16"]);
    let found = gradient(&half, &model, training(&half, KEY));
    assert_ne!(found, expected, "the products are rounded");
    let loss = (found[0] - expected[0]).abs() / expected[0];
    assert!(loss < 5e-3, "the loss differs by {loss}");
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    let (a, b) = (&found[1..], &expected[1..]);
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    assert!(cosine > 0.999, "the gradients' cosine is {cosine}");
    let norm = (dot(a, a) / dot(b, b)).sqrt();
    assert!(
        (norm - 1.0).abs() < 1e-2,
        "the gradients' norms have the ratio {norm}"
    );
}

#[test]
fn counting_knows_every_parameter() {
    for variant in VARIANTS {
        let spec = spec(variant, &[]);
        let counted = cost(&spec.model, TEXT, TARGET).parameters();
        assert_eq!(counted, flat::layout(&model(&spec)).total as u64);
    }
}
