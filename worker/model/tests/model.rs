//! Properties of the whole model.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::tensor::{Device, Int, Tensor, TensorData};
use ringmaster_model::{Batch, Model, Ops, cost, flat};
use ringmaster_proto::spec::{ModelSpec, RunSpec};
use ringmaster_proto::vocab::{BEGIN, END, PAD};

const BATCH: usize = 3;
const TEXT: usize = 5;
const TARGET: usize = 4;

fn tiny() -> ModelSpec {
    RunSpec::parse("", &[]).unwrap().model
}

/// A model small enough for a test, with everything in it.
fn small() -> ModelSpec {
    ModelSpec {
        image_size: 16,
        image_width: 20,
        image_heads: 2,
        image_layers: 1,
        text_width: 28,
        text_heads: 4,
        text_layers: 1,
        width: 24,
        heads: 3,
        tokens: 4,
        fusion_layers: 2,
        decoder_layers: 1,
        mlp_width: 32,
        fusion_mlp_width: 40,
        vocab: 300,
        ..tiny()
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

/// What a batch is made of, easy to change.
#[derive(Clone)]
struct Rows {
    images: Vec<f32>,
    text: Vec<i64>,
    real: Vec<bool>,
    input: Vec<i64>,
    target: Vec<i64>,
    weight: Vec<f32>,
}

impl Rows {
    /// The second text is padded by two, the second target by one; the third example has weight 0.
    fn new() -> Self {
        let pixels = BATCH * 3 * 16 * 16;
        let text: Vec<i64> = (0..BATCH * TEXT)
            .map(|i| 10 + (i * 7 % 90) as i64)
            .collect();
        let real = (0..BATCH * TEXT)
            .map(|i| !(TEXT + 3..2 * TEXT).contains(&i))
            .collect();
        let target: Vec<i64> = (0..BATCH * TARGET)
            .map(|i| 10 + (i * 11 % 90) as i64)
            .collect();
        let padded = |i: usize| i == 2 * TARGET - 1 || i / TARGET == 2;
        Self {
            images: (0..pixels)
                .map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0)
                .collect(),
            text,
            real,
            input: std::iter::once(i64::from(BEGIN))
                .chain(target.clone())
                .take(12)
                .collect(),
            target,
            weight: (0..BATCH * TARGET)
                .map(|i| if padded(i) { 0.0 } else { 1.0 })
                .collect(),
        }
    }

    fn batch(&self) -> Batch {
        let ids = |ids: &[i64], len: usize| -> Tensor<2, Int> {
            Tensor::from_data(TensorData::new(ids.to_vec(), [BATCH, len]), &device())
        };
        let images = TensorData::new(self.images.clone(), [BATCH, 3, 16, 16]);
        let real = TensorData::new(self.real.clone(), [BATCH, TEXT]);
        let weight = TensorData::new(self.weight.clone(), [BATCH, TARGET]);
        Batch {
            images: Tensor::from_data(images, &device()),
            text: ids(&self.text, TEXT),
            text_mask: Tensor::from_data(real, &device()),
            input: ids(&self.input, TARGET),
            target: ids(&self.target, TARGET),
            weight: Tensor::from_data(weight, &device()),
        }
    }

    /// Bits of the loss and of every gradient.
    fn gradient(&self, model: &Model) -> Vec<u32> {
        let layout = flat::layout(model);
        let loss = model.loss_sum(self.batch());
        let mut flat = vec![0.0; layout.total + 1];
        flat[layout.total] = loss.clone().into_scalar::<f32>();
        flat::gradients_into(model, loss.backward(), &layout, &mut flat[..layout.total]);
        // Adding zero makes the two zeros one.
        flat.iter().map(|x| (x + 0.0).to_bits()).collect()
    }
}

#[test]
fn what_padding_holds_changes_no_bit_of_the_gradient() {
    let model = Model::new(&small(), 1, &device());
    let rows = Rows::new();
    let mut other = rows.clone();
    other.text[TEXT + 3] = 99;
    other.text[2 * TEXT - 1] = 98;
    other.target[2 * TARGET - 1] = 97;
    assert_eq!(rows.gradient(&model), other.gradient(&model));

    let mut real = rows.clone();
    real.text[0] = 99;
    assert_ne!(
        rows.gradient(&model),
        real.gradient(&model),
        "a real token does"
    );
}

#[test]
fn an_example_of_weight_zero_changes_no_bit_of_the_gradient() {
    let model = Model::new(&small(), 1, &device());
    let rows = Rows::new();
    let mut other = rows.clone();
    other.images[2 * 3 * 16 * 16..].fill(0.25);
    other.text[2 * TEXT..].fill(i64::from(PAD));
    other.real[2 * TEXT..].fill(false);
    other.input[2 * TARGET..].fill(50);
    other.target[2 * TARGET..].fill(51);
    assert_eq!(rows.gradient(&model), other.gradient(&model));
}

#[test]
fn every_parameter_gets_a_gradient() {
    let model = Model::new(&small(), 1, &device());
    let gradient = Rows::new().gradient(&model);
    for slot in flat::layout(&model).slots {
        // A bias of keys would get none: it moves all scores alike. There are none.
        let moved = gradient[slot.offset..slot.offset + slot.len]
            .iter()
            .any(|&bits| bits != 0);
        assert!(moved, "{} has no gradient", slot.path);
    }
}

#[test]
fn the_loss_of_a_batch_is_the_sum_of_its_examples() {
    let model = Model::new(&small(), 1, &device());
    let each: Vec<f32> = model
        .losses(Rows::new().batch(), 0.0, &Ops::inference())
        .into_data()
        .try_into_vec()
        .unwrap();
    let sum = model.loss_sum(Rows::new().batch()).into_scalar::<f32>();
    assert_eq!(each.len(), BATCH);
    assert_eq!(each[2], 0.0);
    assert!(
        (each.iter().sum::<f32>() - sum).abs() <= 1e-5 * sum,
        "{each:?} and {sum}"
    );
}

#[test]
fn generation_follows_the_most_likely_token_of_the_full_decoder() {
    let spec = small();
    let model = Model::new(&spec, 1, &device());
    let batch = Rows::new().batch();
    let (images, text, mask) = (batch.images, batch.text, batch.text_mask);
    let answers = model.generate(images.clone(), text.clone(), mask.clone(), TARGET);
    for (i, answer) in answers.iter().enumerate() {
        let mut ids = vec![i64::from(BEGIN)];
        ids.extend(answer.iter().map(|&id| i64::from(id)));
        let len = ids.len();
        let input = Tensor::from_data(TensorData::new(ids, [1, len]), &device());
        let alone = Batch {
            images: images.clone().narrow(0, i, 1),
            text: text.clone().narrow(0, i, 1),
            text_mask: mask.clone().narrow(0, i, 1),
            input: input.clone(),
            target: input,
            weight: Tensor::ones([1, len], &device()),
        };
        let logits = model.logits(alone, &Ops::inference());
        let best: Vec<u32> = logits.argmax(2).into_data().iter::<u32>().collect();
        assert_eq!(&best[..answer.len()], &answer[..]);
        assert!(answer.len() == TARGET || best[answer.len()] == END);
    }
}

#[test]
fn the_demonstration_model_is_of_the_promised_size() {
    let spec = tiny();
    let parameters = flat::layout(&Model::new(&spec, 1, &device())).total;
    assert!(
        (2_000_000..=3_000_000).contains(&parameters),
        "{parameters} parameters"
    );
    let training = 3 * 2 * cost(&spec, spec.text_len, spec.target_len).macs();
    assert!(
        training <= 500_000_000,
        "{training} operations per training example"
    );
}
