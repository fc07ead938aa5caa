//! Whole models: that the modules are wired as the paper says, forwards and backwards.

use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use ringmaster_proto::spec::TrainSpec;
use ringmaster_proto::vocab::{BEGIN, END};

use super::loss::Targets;
use super::reference::model::{self, Question};
use super::reference::{self, Parameters};
use super::*;
use crate::ops::Ops;
use crate::{Batch, Model};

/// Together, and with [`WITH_RESNET`], they have every value of every choice.
pub(super) const VARIANTS: [&[&str]; 7] = [
    &[],
    &[
        "model.image_encoder=vit",
        "model.text_stack=t5",
        "model.resample=spatial",
        "model.gating=false",
        "model.combine=residual",
        "model.skip=T",
        "model.memory=last",
        "model.activation=gelu",
        "model.fuse_self_attn=true",
        "model.share_layers=true",
    ],
    &[
        "model.resample=spatial",
        "model.token_learner=v1",
        "model.combine=none",
        "model.memory=mixture",
        "model.share_fusion=true",
    ],
    &["model.image_encoder=vit", "model.fusion=perceiver"],
    &[
        "model.text_stack=t5",
        "model.fusion=cotok",
        "model.token_learner=v11",
    ],
    &["model.text_stack=t5", "model.fusion=concat"],
    &[
        "model.fusion=xattn",
        "model.text_width=12",
        "model.text_heads=4",
    ],
];

/// Too much for nested loops to be asked for often.
pub(super) const WITH_RESNET: &[&str] = &[
    "model.image_encoder=resnet50-c4",
    "model.image_size=36",
    "model.kv_norm=false",
];

/// Tokens of the decoder's input: fewer than a target may have.
const INPUT: usize = 6;

/// A model, a batch for it, and both for the reference.
struct Case {
    spec: ModelSpec,
    model: Model,
    batch: Batch,
    targets: Targets,
    questions: Vec<Question>,
    inputs: Vec<Vec<usize>>,
}

impl Case {
    fn new(sets: &[&str]) -> Self {
        let spec = spec(sets);
        let model = random(|_| Model::new(&spec, 1, &device()));
        let (images, pictures) = pictures("images", [3, spec.image_size, spec.image_size]);
        // Ids of words, not of markers.
        let ids = |count: usize, factor: usize| -> Vec<usize> {
            let id = |i| 3 + (i * factor + 11) % (spec.vocab - 3);
            (0..count).map(id).collect()
        };
        let tensor = |ids: &[usize], shape: [usize; 2]| {
            let ids: Vec<i64> = ids.iter().map(|id| *id as i64).collect();
            Tensor::<2, Int>::from_data(TensorData::new(ids, shape), &device())
        };
        let (texts, inputs) = (ids(BATCH * TOKENS, 37), ids(BATCH * INPUT, 53));
        let targets = Targets::new(INPUT, spec.vocab);
        let batch = Batch {
            images,
            text: tensor(&texts, [BATCH, TOKENS]),
            text_mask: real_tokens(),
            input: tensor(&inputs, [BATCH, INPUT]),
            target: targets.ids.clone(),
            weight: targets.weights.clone(),
        };
        let texts = texts.chunks_exact(TOKENS).zip(REAL);
        let question = |(image, (text, real)): (Picture, (&[usize], usize))| Question {
            image,
            text: text.to_vec(),
            real,
        };
        Self {
            model,
            batch,
            targets,
            questions: pictures.into_iter().zip(texts).map(question).collect(),
            inputs: inputs.chunks_exact(INPUT).map(<[usize]>::to_vec).collect(),
            spec,
        }
    }

    fn logits(&self, values: &Values, b: usize) -> Matrix {
        let p = Parameters::of(values);
        let memory = model::memory(&p, &self.spec, &self.questions[b]);
        model::logits(&p, &self.spec, &memory, &self.inputs[b])
    }

    /// What the reference answers.
    fn answers(&self) -> Vec<Vec<usize>> {
        let values = values(&self.model);
        let p = Parameters::of(&values);
        let markers = [BEGIN, END].map(|id| id as usize);
        let answer = |question| model::answer(&p, &self.spec, question, markers);
        self.questions.iter().map(answer).collect()
    }

    /// What the model answers.
    fn generated(&self) -> Vec<Vec<usize>> {
        let Batch {
            images,
            text,
            text_mask,
            ..
        } = self.batch.clone();
        let answers = self
            .model
            .generate(images, text, text_mask, self.spec.target_len);
        let ids = |answer: Vec<u32>| answer.into_iter().map(|id| id as usize).collect();
        answers.into_iter().map(ids).collect()
    }

    /// With the rows of two tokens exchanged in the table.
    fn with_names_exchanged(self, a: usize, b: usize) -> Self {
        let layout = flat::layout(&self.model);
        let mut all = flat::parameters(&self.model, &layout);
        let table = layout
            .slots
            .iter()
            .find(|slot| slot.path == "embedding.table");
        let first = table.unwrap().offset;
        for i in 0..self.spec.text_width {
            let row = |id: usize| first + id * self.spec.text_width + i;
            all.swap(row(a), row(b));
        }
        Self {
            model: flat::with_parameters(self.model, &layout, &all),
            ..self
        }
    }

    fn loss(&self, values: &Values, smoothing: f64) -> Vec<f64> {
        let of_example = |b: usize| {
            let (ids, weights) = &self.targets.of_example[b];
            reference::cross_entropy(&self.logits(values, b), ids, weights, smoothing)
        };
        (0..BATCH).map(of_example).collect()
    }
}

#[test]
fn logits_of_every_variant_are_those_of_the_equations() {
    for sets in VARIANTS.iter().chain([&WITH_RESNET]) {
        let case = Case::new(sets);
        let values = values(&case.model);
        let logits = case.model.logits(case.batch.clone(), &Ops::inference());
        assert_within(1e-4, logits, each(|b| case.logits(&values, b)));
    }
}

#[test]
fn losses_are_cross_entropies_of_the_logits() {
    let case = Case::new(&[]);
    let values = values(&case.model);
    for smoothing in [0.0, 0.1] {
        let losses = case
            .model
            .losses(case.batch.clone(), smoothing, &Ops::inference());
        assert_within(1e-4, losses, case.loss(&values, smoothing));
    }
    let sum = case.model.loss_sum(case.batch.clone());
    assert_within(1e-4, sum, [case.loss(&values, 0.0).iter().sum()]);
}

/// The gradient of a case's loss by the model's own code.
fn gradient(case: &Case, smoothing: f64, train: &TrainSpec) -> Vec<f32> {
    let layout = flat::layout(&case.model);
    let mut gradient = vec![0.0; layout.total];
    let (batch, ops) = (case.batch.clone(), Ops::training(train, KEY));
    let model = &case.model;
    model.forward_backward(batch, smoothing, ops, |gradients| {
        flat::add_gradients(model, gradients, &layout, &mut gradient);
    });
    gradient
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// Along one random direction for every parameter: the slope of the reference is the product of the
/// direction and the gradient. The step is small, for a rectifier that switches within it has no
/// slope; f64 has the digits.
#[test]
fn gradients_of_every_variant_are_slopes_of_the_equations() {
    const STEP: f64 = 1e-7;
    let smoothing = 0.1;
    for sets in VARIANTS {
        let case = Case::new(sets);
        let values = values(&case.model);
        let layout = flat::layout(&case.model);
        let gradient = gradient(&case, smoothing, &train(&["train.dropout=0"]));
        for slot in &layout.slots {
            let direction = normal(6, &slot.path, slot.len, 1.0);
            let loss = |offset: f64| {
                let mut values = values.clone();
                let moved = values.get_mut(&slot.path).unwrap();
                for (x, d) in moved.iter_mut().zip(&direction) {
                    *x += offset * f64::from(*d);
                }
                case.loss(&values, smoothing).iter().sum::<f64>()
            };
            let slope = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
            let gradient = &gradient[slot.offset..slot.offset + slot.len];
            let products = gradient.iter().zip(&direction);
            let along: f64 = products.map(|(g, d)| f64::from(g * d)).sum();
            // A slope along a random direction is about as large as the gradient is long.
            let error = (along - slope).abs();
            assert!(
                error <= 1e-3 * norm(gradient) + 1e-5,
                "{sets:?} {}: {along} instead of {slope}",
                slot.path
            );
        }
    }
}

/// The dropout masks come again when a block is computed again; only the order of sums differs.
#[test]
fn activation_checkpointing_does_not_change_gradients() {
    for sets in VARIANTS.iter().chain([&WITH_RESNET]) {
        let case = Case::new(sets);
        let of = |checkpointing: &str| {
            let train = train(&["train.dropout=0.2", checkpointing]);
            gradient(&case, 0.1, &train)
        };
        let plain = of("train.activation_checkpointing=false");
        let again = of("train.activation_checkpointing=true");
        for slot in &flat::layout(&case.model).slots {
            let [plain, again] =
                [&plain, &again].map(|all| &all[slot.offset..slot.offset + slot.len]);
            let errors: Vec<f32> = plain.iter().zip(again).map(|(a, b)| a - b).collect();
            assert!(
                norm(&errors) <= 1e-4 * norm(plain) + 1e-6,
                "{sets:?} {}: {:.1e} of {:.1e}",
                slot.path,
                norm(&errors),
                norm(plain)
            );
        }
    }
}

#[test]
fn dropout_changes_gradients_and_repeats_itself() {
    let case = Case::new(&[]);
    let of = |dropout: &str| gradient(&case, 0.0, &train(&[dropout]));
    let dropped = of("train.dropout=0.2");
    assert_eq!(dropped, of("train.dropout=0.2"));
    assert_ne!(dropped, of("train.dropout=0"));
}

#[test]
fn bf16_products_are_those_of_f32_rounded() {
    let case = Case::new(&[]);
    let logits = |precision: &str| {
        let train = train(&["train.dropout=0", precision]);
        let ops = Ops::training(&train, KEY);
        floats(
            case.model
                .logits(case.batch.clone(), &ops)
                .cast(FloatDType::F32),
        )
    };
    let (exact, rounded) = (
        logits("train.precision=f32"),
        logits("train.precision=bf16"),
    );
    let errors: Vec<f32> = exact.iter().zip(&rounded).map(|(a, b)| a - b).collect();
    // Factors of 8 bits are off by up to 0.4 %; the depth of the model makes it several times that.
    let share = norm(&errors) / norm(&exact);
    assert!((1e-4..0.1).contains(&share), "{share}");
}

#[test]
fn generation_is_the_most_likely_token_again_and_again() {
    for sets in VARIANTS {
        let case = Case::new(sets);
        let unending = case.answers();
        assert_eq!(case.generated(), unending);
        // The second token of the first answer and the end marker change their names.
        let last = unending[0][1];
        let case = case.with_names_exchanged(last, END as usize);
        let answers = case.answers();
        assert!(answers[0].len() < unending[0].len());
        assert_eq!(case.generated(), answers);
    }
}
