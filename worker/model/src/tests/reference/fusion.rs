//! Reductions of tokens, and the ways in which image and text meet.

use ringmaster_proto::spec::{Combine, Fusion, Memory, ModelSpec, Resample, Skip, TokenLearner};

use super::image::{convolution, square, tokens};
use super::{
    ALL, Matrix, Parameters, Scores, Style, add, add_row, attention, cross_layer, gelu, layer_norm,
    layers, linear, map, mean, mlp, softmax,
};

/// `P(X_im)`, `X_text`, and how many of the text tokens are real.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) image: &'a Matrix,
    pub(crate) text: &'a Matrix,
    pub(crate) real: usize,
}

/// Eq. 2: `W2 Phi(X_N, Ln(x))`, of which the first `real` tokens are seen.
pub(crate) fn resample(p: &Parameters, spec: &ModelSpec, x: &Matrix, real: usize) -> Matrix {
    let latents = p.rows("latents", spec.width);
    let kv = if spec.kv_norm {
        layer_norm(&p.at("norm"), x)
    } else {
        x.clone()
    };
    let scores: Scores = &|_, _, j| (j < real).then_some(0.0);
    let style = Style::fusion(spec);
    let seen = attention(&p.at("attention"), style, (&latents, &kv), scores);
    linear(&p.at("output"), &seen)
}

/// TokenLearner over an image: weighted sums of x, the weights made of guides.
pub(crate) fn spatial_learner(
    p: &Parameters,
    kind: TokenLearner,
    guides: &Matrix,
    x: &Matrix,
) -> Matrix {
    let convolve =
        |i: usize, x: &Matrix| tokens(&convolution(&p.item("convolutions", i), &square(x), 3, 1));
    let g = layer_norm(&p.at("norm"), guides);
    let maps = match kind {
        TokenLearner::Conv => {
            softmax_over_tokens(&linear(&p.at("maps"), &map(&convolve(0, &g), gelu)))
        }
        TokenLearner::V1 => {
            let mut g = g;
            for i in 0..3 {
                g = map(&convolve(i, &g), gelu);
            }
            map(&convolve(3, &g), |x| 1.0 / (1.0 + (-x).exp()))
        }
        TokenLearner::V11 => {
            let hidden = map(&linear(&p.at("hidden"), &g), gelu);
            softmax_over_tokens(&linear(&p.at("maps"), &hidden))
        }
    };
    weighted_sums(&maps, x)
}

/// TokenLearner over text, of which the first `real` tokens count.
pub(crate) fn text_learner(p: &Parameters, guides: &Matrix, x: &Matrix, real: usize) -> Matrix {
    let g = layer_norm(&p.at("norm"), guides);
    let hidden = map(&linear(&p.at("dense"), &g), gelu);
    let scores = linear(&p.at("maps"), &hidden)[..real].to_vec();
    weighted_sums(&softmax_over_tokens(&scores), &x[..real].to_vec())
}

/// Every column a distribution over the rows.
fn softmax_over_tokens(scores: &Matrix) -> Matrix {
    transposed(&transposed(scores).iter().map(|x| softmax(x)).collect())
}

fn transposed(x: &Matrix) -> Matrix {
    let column = |j: usize| x.iter().map(|row| row[j]).collect();
    (0..x[0].len()).map(column).collect()
}

/// `sum_m maps[m][n] x[m]` for every n.
fn weighted_sums(maps: &Matrix, x: &Matrix) -> Matrix {
    let mut sums = vec![vec![0.0; x[0].len()]; maps[0].len()];
    for (weights, x) in maps.iter().zip(x) {
        for (sum, weight) in sums.iter_mut().zip(weights) {
            for (sum, x) in sum.iter_mut().zip(x) {
                *sum += weight * x;
            }
        }
    }
    sums
}

/// Eq. 3, line by line.
pub(crate) fn gated(p: &Parameters, spec: &ModelSpec, t: &Matrix, f: &Matrix) -> Matrix {
    let style = Style::fusion(spec);
    let gate = |name: &str| {
        if spec.gating {
            p.get(name)[0].tanh()
        } else {
            1.0
        }
    };
    let mut a = layer_norm(&p.at("norm_text"), t);
    if spec.fuse_self_attn {
        let own = attention(&p.at("attention_self"), style, (&a, &a), ALL);
        a = add(&a, &own, 1.0);
    }
    let image = layer_norm(&p.at("norm_image"), f);
    let seen = attention(&p.at("attention"), style, (&a, &image), ALL);
    let skip = match spec.skip {
        Skip::LnT => &a,
        Skip::T => t,
    };
    let crossed = add(skip, &seen, gate("alpha"));
    let hidden = mlp(&p.at("mlp"), style, &crossed);
    add(&crossed, &hidden, gate("beta"))
}

/// `T_i`.
fn transformer(p: &Parameters, spec: &ModelSpec, i: usize, x: &Matrix) -> Matrix {
    let stack = p.item("stacks", if spec.share_layers { 0 } else { i });
    let count = spec.fusion_layers / spec.iterations;
    layers(&stack, (count, Style::fusion(spec)), x, ALL)
}

/// The parameters `name` of iteration i.
fn of_iteration<'a>(p: &Parameters<'a>, spec: &ModelSpec, name: &str, i: usize) -> Parameters<'a> {
    p.item(name, if spec.share_fusion { 0 } else { i })
}

fn jar(p: &Parameters, spec: &ModelSpec, inputs: Inputs) -> Matrix {
    let Inputs { image, text, real } = inputs;
    let (of_image, of_text) = (p.at("image_resampler"), p.at("text_resampler"));
    let (f, mut t) = match spec.resample {
        Resample::Latent => (
            resample(&of_image, spec, image, image.len()),
            resample(&of_text, spec, text, real),
        ),
        Resample::Spatial => (
            spatial_learner(&of_image, spec.token_learner, image, image),
            text_learner(&of_text, text, text, real),
        ),
    };
    let mut outputs = Vec::new();
    for i in 0..spec.iterations {
        let fused = gated(&of_iteration(p, spec, "fusions", i), spec, &t, &f);
        let output = transformer(p, spec, i, &fused);
        t = match spec.combine {
            Combine::None => output.clone(),
            Combine::Residual => add(&output, &t, 1.0),
            Combine::Weighted => {
                let (a, b) = (p.get("combine_fused")[i], p.get("combine_text")[i]);
                add(&map(&output, |x| a * x), &t, b)
            }
        };
        outputs.push(output);
    }
    match spec.memory {
        Memory::Combined => t,
        Memory::Last => outputs[spec.iterations - 1].clone(),
        Memory::Mixture => {
            let shares = softmax(p.get("mixture"));
            let zero = map(&t, |_| 0.0);
            let terms = outputs.iter().zip(shares);
            terms.fold(zero, |sum, (output, share)| add(&sum, output, share))
        }
    }
}

fn perceiver(p: &Parameters, spec: &ModelSpec, inputs: Inputs) -> Matrix {
    let Inputs { image, text, real } = inputs;
    let style = Style::fusion(spec);
    let z = [image.as_slice(), text].concat();
    let scores: Scores = &|_, _, j| (j < image.len() + real).then_some(0.0);
    let mut x = p.rows("latents", spec.width);
    for i in 0..spec.iterations {
        let p_i = of_iteration(p, spec, "fusions", i);
        let a = layer_norm(&p_i.at("norm_latents"), &x);
        let kv = layer_norm(&p_i.at("norm_inputs"), &z);
        x = add(
            &x,
            &attention(&p_i.at("attention"), style, (&a, &kv), scores),
            1.0,
        );
        let b = layer_norm(&p_i.at("norm_mlp"), &x);
        x = add(&x, &mlp(&p_i.at("mlp"), style, &b), 1.0);
        x = transformer(p, spec, i, &x);
    }
    x
}

fn cotok(p: &Parameters, spec: &ModelSpec, inputs: Inputs) -> Matrix {
    let Inputs { image, text, real } = inputs;
    let mut state = mean(&text[..real]);
    let mut z = vec![vec![0.0; spec.width]; spec.tokens];
    for i in 0..spec.iterations {
        let p_i = of_iteration(p, spec, "reductions", i);
        let guide = &linear(&p.at("condition"), &vec![state])[0];
        let guides = add_row(image, guide);
        let v = spatial_learner(&p_i.at("image"), spec.token_learner, &guides, image);
        let guides = add_row(text, guide);
        let u = text_learner(&p_i.at("text"), &guides, text, real);
        z = transformer(p, spec, i, &add(&add(&v, &u, 1.0), &z, 1.0));
        state = mean(&z);
    }
    z
}

fn concat(p: &Parameters, spec: &ModelSpec, inputs: Inputs) -> Matrix {
    let Inputs { image, text, real } = inputs;
    let z = [add_row(image, p.get("image")), add_row(text, p.get("text"))].concat();
    let scores: Scores = &|_, _, j| (j < image.len() + real).then_some(0.0);
    layers(p, (spec.fusion_layers, Style::fusion(spec)), &z, scores)
}

fn xattn(p: &Parameters, spec: &ModelSpec, inputs: Inputs) -> Matrix {
    let Inputs { image, text, real } = inputs;
    let style = Style::fusion(spec);
    let image = layer_norm(&p.at("norm_image"), image);
    let own: Scores = &|_, _, j| (j < real).then_some(0.0);
    (0..spec.fusion_layers).fold(text.clone(), |x, i| {
        cross_layer(&p.item("layers", i), style, (&x, own), (&image, ALL))
    })
}

/// The memory before its norm, and which of its tokens the decoder may see.
pub(crate) fn fusion(p: &Parameters, spec: &ModelSpec, inputs: Inputs) -> (Matrix, Vec<bool>) {
    let text = (0..inputs.text.len()).map(|i| i < inputs.real);
    let visible = match spec.fusion {
        Fusion::Concat => inputs.image.iter().map(|_| true).chain(text).collect(),
        Fusion::Xattn => text.collect(),
        _ => vec![true; spec.tokens],
    };
    let memory = match spec.fusion {
        Fusion::Concat => concat(p, spec, inputs),
        Fusion::Xattn => xattn(p, spec, inputs),
        Fusion::Perceiver => perceiver(p, spec, inputs),
        Fusion::Cotok => cotok(p, spec, inputs),
        Fusion::Jar => jar(p, spec, inputs),
    };
    (memory, visible)
}
