//! Linear maps, norms, attention, transformer layers and the loss.

use burn::tensor::{Int, Tensor, TensorData};
use ringmaster_proto::spec::Activation;

use super::reference::{self, ALL, Parameters, Scores, Style};
use super::*;
use crate::attention::{Attention, AttentionSpec};
use crate::layer::{CrossLayer, Layer, LayerSpec, Mlp};
use crate::linear::Linear;
use crate::loss::cross_entropy;
use crate::norm::{Norm, NormKind};
use crate::ops::Ops;

/// Layers of every kind in the model, with the reference's word for each.
fn styles() -> [(LayerSpec, Style); 4] {
    let of_text = |stack: &str| {
        let spec = spec(&[stack, "model.text_width=12", "model.text_heads=3"]);
        (LayerSpec::text(&spec), Style::text(&spec))
    };
    let fusion = spec(&["model.activation=gelu"]);
    let published = LayerSpec {
        width: WIDTH,
        heads: 3,
        hidden: 20,
        activation: Activation::Gelu,
        norm: NormKind::Layer,
        bias: true,
        scaled: true,
    };
    let vit = spec(&[
        "model.image_encoder=vit",
        "model.image_width=12",
        "model.image_heads=3",
    ]);
    [
        (LayerSpec::fusion(&fusion), Style::fusion(&fusion)),
        of_text("model.text_stack=plain"),
        of_text("model.text_stack=t5"),
        (published, Style::image(&vit)),
    ]
}

/// Hides what [`key_mask`] hides.
fn real_keys(b: usize) -> impl Fn(usize, usize, usize) -> Option<f64> {
    move |_, _, j| (j < REAL[b]).then_some(0.0)
}

#[test]
fn error_function_of_the_reference_is_the_tabulated_one() {
    // Abramowitz & Stegun, table 7.1.
    let table = [
        (0.0, 0.0),
        (0.5, 0.520_499_877_8),
        (1.0, 0.842_700_792_9),
        (2.0, 0.995_322_265_0),
        (-0.5, -0.520_499_877_8),
        (7.0, 1.0),
    ];
    for (x, expected) in table {
        assert!((reference::erf(x) - expected).abs() < 1e-10, "at {x}");
    }
}

#[test]
fn linear_is_a_product_and_a_bias() {
    let (x, rows) = input("x", TOKENS, WIDTH);
    let plain = random(|init| Linear::new(init, WIDTH, 8, 1.0));
    let biased = random(|init| Linear::new(init, WIDTH, 8, 1.0).biased(init));
    let [of_plain, of_biased] = [values(&plain), values(&biased)];
    assert_close(
        plain.forward(x.clone(), &Ops::inference()),
        each(|b| reference::linear(&Parameters::of(&of_plain), &rows[b])),
    );
    assert_close(
        biased.forward(x, &Ops::inference()),
        each(|b| reference::affine(&Parameters::of(&of_biased), &rows[b])),
    );
}

#[test]
fn norms_are_layer_norm_and_rms_norm() {
    let layer = random(|init| Norm::new(init, NormKind::Layer, WIDTH));
    let rms = random(|init| Norm::new(init, NormKind::Rms, WIDTH));
    let [of_layer, of_rms] = [values(&layer), values(&rms)];
    // Tokens whose mean is far from 0, and tokens so small that the epsilons count.
    for (scale, shift) in [(1.0, 3.0), (0.01, 0.0)] {
        let (x, mut rows) = input("x", TOKENS, WIDTH);
        let x = x.mul_scalar(scale).add_scalar(shift);
        let all = rows.iter_mut().flatten().flatten();
        all.for_each(|x| *x = *x * scale + shift);
        assert_close(
            layer.forward(x.clone()),
            each(|b| reference::layer_norm(&Parameters::of(&of_layer), &rows[b])),
        );
        assert_close(
            rms.forward(x),
            each(|b| reference::rms_norm(&Parameters::of(&of_rms), &rows[b])),
        );
    }
}

#[test]
fn attention_is_softmax_of_products_of_real_keys() {
    let (q, q_rows) = input("q", LATENTS, WIDTH);
    let (kv, kv_rows) = input("kv", TOKENS, TEXT_WIDTH);
    for (layer, style) in styles() {
        let spec = layer.attention_to(TEXT_WIDTH);
        let module = random(|init| Attention::new(init, spec, 1.0));
        let values = values(&module);
        let expected = each(|b| {
            let inputs = (&q_rows[b], &kv_rows[b]);
            reference::attention(&Parameters::of(&values), style, inputs, &real_keys(b))
        });
        let mask = Some(&key_mask());
        assert_close(
            module.forward(q.clone(), kv.clone(), mask, &Ops::inference()),
            expected,
        );
    }
}

#[test]
fn attention_scale_is_the_root_of_the_head_width_unless_it_is_off() {
    // One head of width 4 whose maps are identities: two keys whose products with the query are 2
    // and 0 have the weights e^s and 1, where s is 1 divided by root 4, and 2 without.
    for (scaled, s) in [(true, 1.0f64), (false, 2.0)] {
        let spec = AttentionSpec {
            width: 4,
            memory_width: 4,
            heads: 1,
            bias: false,
            scaled,
        };
        let device = device();
        let module = Attention::new(&Init::new(1, &device), spec, 1.0);
        let layout = flat::layout(&module);
        let identity = |i: usize| if (i % 16).is_multiple_of(5) { 1.0 } else { 0.0 };
        let identities: Vec<f32> = (0..layout.total).map(identity).collect();
        let module = flat::with_parameters(module, &layout, &identities);
        let tensor = |values: Vec<f32>, rows: usize| {
            Tensor::from_data(TensorData::new(values, [1, rows, 4]), &device)
        };
        let q = tensor(vec![2.0, 0.0, 0.0, 0.0], 1);
        let kv = tensor(vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0], 2);
        let share = s.exp() / (s.exp() + 1.0);
        assert_close(
            module.forward(q, kv, None, &Ops::inference()),
            [share, 1.0 - share, 0.0, 0.0],
        );
    }
}

#[test]
fn causal_attention_never_sees_later_positions() {
    let (layer, style) = styles()[0];
    let module = random(|init| Attention::new(init, layer.attention(), 1.0));
    let values = values(&module);
    let (x, rows) = input("x", TOKENS, WIDTH);
    let causal: Scores = &|_, i, j| (j <= i).then_some(0.0);
    let expected = each(|b| {
        let inputs = (&rows[b], &rows[b]);
        reference::attention(&Parameters::of(&values), style, inputs, causal)
    });
    let mask = Mask::causal(TOKENS, &device());
    assert_close(
        module.forward(x.clone(), x, Some(&mask), &Ops::inference()),
        expected,
    );
}

#[test]
fn attention_that_may_see_nothing_sees_the_mean_of_everything() {
    let (layer, style) = styles()[0];
    let module = random(|init| Attention::new(init, layer.attention(), 1.0));
    let values = values(&module);
    let (x, rows) = input("x", TOKENS, WIDTH);
    let nothing = Tensor::from_data(
        TensorData::new(vec![false; BATCH * TOKENS], [BATCH, TOKENS]),
        &device(),
    );
    // The mean of all values is the value of the mean token.
    let expected = each(|b| {
        let mean = vec![reference::mean(&rows[b])];
        let inputs = (&rows[b], &mean);
        reference::attention(&Parameters::of(&values), style, inputs, ALL)
    });
    let mask = Mask::of_keys(nothing);
    assert_close(
        module.forward(x.clone(), x, Some(&mask), &Ops::inference()),
        expected,
    );
}

#[test]
fn mlp_is_two_maps_around_a_nonlinearity() {
    let (x, rows) = input("x", TOKENS, WIDTH);
    for (layer, style) in styles() {
        let module = random(|init| Mlp::new(init, layer, 1.0));
        let values = values(&module);
        assert_close(
            module.forward(x.clone(), &Ops::inference()),
            each(|b| reference::mlp(&Parameters::of(&values), style, &rows[b])),
        );
    }
}

#[test]
fn layer_is_two_pre_norm_residual_branches() {
    let (x, rows) = input("x", TOKENS, WIDTH);
    for (layer, style) in styles() {
        let module = random(|init| Layer::new(init, layer, 1.0));
        let values = values(&module);
        let expected =
            each(|b| reference::layer(&Parameters::of(&values), style, &rows[b], &real_keys(b)));
        assert_close(
            module.forward(x.clone(), Some(&key_mask()), &Ops::inference()),
            expected,
        );
    }
}

#[test]
fn cross_layer_is_three_pre_norm_residual_branches() {
    let (x, rows) = input("x", LATENTS, WIDTH);
    let (memory, memory_rows) = input("memory", TOKENS, TEXT_WIDTH);
    let causal: Scores = &|_, i, j| (j <= i).then_some(0.0);
    for (layer, style) in styles() {
        let modules = random(|init| CrossLayer::stack(init, 1, layer, TEXT_WIDTH));
        let (values, ops) = (values(&modules), Ops::inference());
        let expected = each(|b| {
            let p = Parameters::of(&values).at("0");
            let memory = (&memory_rows[b], &real_keys(b) as Scores);
            reference::cross_layer(&p, style, (&rows[b], causal), memory)
        });
        let own = modules[0].own(x.clone(), &ops);
        let seen = modules[0].memory(memory.clone(), &ops);
        let (own_mask, mask) = (Mask::causal(LATENTS, &device()), key_mask());
        let actual =
            modules[0].forward(x.clone(), (own, Some(&own_mask)), (seen, Some(&mask)), &ops);
        assert_close(actual, expected);
    }
}

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
        let ids: Vec<i64> = of_example
            .iter()
            .flat_map(|e| &e.0)
            .map(|i| *i as i64)
            .collect();
        let weights: Vec<f32> = of_example
            .iter()
            .flat_map(|e| &e.1)
            .map(|w| *w as f32)
            .collect();
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
    for smoothing in [0.0, 0.1, 0.9] {
        let targets = Targets::new(TOKENS, vocab);
        let expected = (0..BATCH).map(|b| {
            let (ids, weights) = &targets.of_example[b];
            reference::cross_entropy(&rows[b], ids, weights, smoothing)
        });
        let loss = cross_entropy(logits.clone(), targets.ids, targets.weights, smoothing);
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
