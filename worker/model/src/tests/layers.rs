//! Linear maps, norms, attention and transformer layers.

use burn::tensor::{Tensor, TensorData};
use ringmaster_proto::spec::Activation;

use super::reference::{self, ALL, Parameters, Scores, Style};
use super::*;
use crate::attention::{Attention, AttentionSpec};
use crate::layer::{CrossLayer, Layer, LayerSpec, Mlp};
use crate::linear::Linear;
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
    // Two heads of width 4 whose maps are identities. In the first, two keys whose products with
    // the query are 2 and 0 have the weights e^s and 1, where s is 2 divided by root 4, or 2
    // without. The second has values of 0.
    for (scaled, s) in [(true, 1.0f64), (false, 2.0)] {
        let spec = AttentionSpec {
            width: 8,
            memory_width: 8,
            heads: 2,
            bias: false,
            scaled,
        };
        let device = device();
        let module = Attention::new(&Init::new(1, &device), spec, 1.0);
        let layout = flat::layout(&module);
        let identity = |i: usize| if i % 64 / 8 == i % 8 { 1.0 } else { 0.0 };
        let identities: Vec<f32> = (0..layout.total).map(identity).collect();
        let module = flat::with_parameters(module, &layout, &identities);
        // Rows of zeros with one number each, in columns 0, 1, ...
        let diagonal = |numbers: &[f32]| {
            let row = |(i, x): (usize, &f32)| {
                let mut row = vec![0.0; 8];
                row[i] = *x;
                row
            };
            let rows = numbers.iter().enumerate().map(row);
            let data = TensorData::new(rows.collect::<Vec<_>>().concat(), [1, numbers.len(), 8]);
            Tensor::from_data(data, &device)
        };
        let share = s.exp() / (s.exp() + 1.0);
        let mut expected = [0.0; 8];
        expected[..2].copy_from_slice(&[share, 1.0 - share]);
        assert_close(
            module.forward(
                diagonal(&[2.0]),
                diagonal(&[1.0, 1.0]),
                None,
                &Ops::inference(),
            ),
            expected,
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
