//! The equations in nested loops over f64, for one example; written from the papers and the layer
//! definitions, sharing nothing with the modules but the names of the parameters.

pub(super) mod fusion;
pub(super) mod image;
pub(super) mod model;
pub(super) mod text;

use std::collections::BTreeMap;

use ringmaster_proto::spec::{Activation, ImageEncoder, ModelSpec, TextStack};

/// Rows of columns.
pub(super) type Matrix = Vec<Vec<f64>>;

/// Parameter values by path.
pub(super) type Values = BTreeMap<String, Vec<f64>>;

/// The values of one module: those below its path.
#[derive(Clone)]
pub(super) struct Parameters<'a> {
    values: &'a Values,
    path: String,
}

impl<'a> Parameters<'a> {
    pub(super) fn of(values: &'a Values) -> Self {
        Self {
            values,
            path: String::new(),
        }
    }

    /// Of the field `name`.
    pub(super) fn at(&self, name: &str) -> Self {
        Self {
            values: self.values,
            path: self.join(name),
        }
    }

    /// Of element `index` of the list `name`.
    pub(super) fn item(&self, name: &str, index: usize) -> Self {
        self.at(&format!("{name}.{index}"))
    }

    pub(super) fn get(&self, name: &str) -> &'a [f64] {
        &self.values[&self.join(name)]
    }

    pub(super) fn rows(&self, name: &str, columns: usize) -> Matrix {
        let rows = self.get(name).chunks_exact(columns);
        rows.map(<[f64]>::to_vec).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.values.contains_key(&self.join(name))
    }

    fn join(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }
}

/// `x W`, with `W` stored row by row as `[inputs, outputs]`; there is no bias.
pub(super) fn linear(p: &Parameters, x: &Matrix) -> Matrix {
    assert!(!p.has("bias"), "{} has a bias", p.path);
    product(x, p.get("weight"))
}

/// `x W + b`.
pub(super) fn affine(p: &Parameters, x: &Matrix) -> Matrix {
    add_row(&product(x, p.get("weight")), p.get("bias"))
}

fn product(x: &Matrix, weight: &[f64]) -> Matrix {
    let outputs = weight.len() / x[0].len();
    let cell = |row: &Vec<f64>, j: usize| {
        let terms = row.iter().enumerate();
        terms.map(|(i, x)| x * weight[i * outputs + j]).sum()
    };
    let row = |row| (0..outputs).map(|j| cell(row, j)).collect();
    x.iter().map(row).collect()
}

/// `(x - mean) / sqrt(variance + 1e-5) * gamma + beta`, row by row.
pub(super) fn layer_norm(p: &Parameters, x: &Matrix) -> Matrix {
    let (gamma, beta) = (p.get("gamma"), p.get("beta"));
    let normalise = |row: &Vec<f64>| {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let scaled =
            |(i, x): (usize, &f64)| (x - mean) / (variance + 1e-5).sqrt() * gamma[i] + beta[i];
        row.iter().enumerate().map(scaled).collect()
    };
    x.iter().map(normalise).collect()
}

/// `x / sqrt(mean(x^2) + 1e-6) * gamma`, row by row.
pub(super) fn rms_norm(p: &Parameters, x: &Matrix) -> Matrix {
    assert!(!p.has("beta"), "{} has a beta", p.path);
    let gamma = p.get("gamma");
    let normalise = |row: &Vec<f64>| {
        let square = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        let scaled = |(i, x): (usize, &f64)| x / (square + 1e-6).sqrt() * gamma[i];
        row.iter().enumerate().map(scaled).collect()
    };
    x.iter().map(normalise).collect()
}

pub(super) fn relu(x: f64) -> f64 {
    x.max(0.0)
}

/// `x` times the share of a normal distribution below `x`.
pub(super) fn gelu(x: f64) -> f64 {
    x * (1.0 + erf(x / 2f64.sqrt())) / 2.0
}

pub(super) fn activation(kind: Activation) -> fn(f64) -> f64 {
    match kind {
        Activation::Relu => relu,
        Activation::Gelu => gelu,
    }
}

/// `2 / sqrt(pi) exp(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!` (Abramowitz & Stegun 7.1.6), whose terms
/// all have one sign, so that nothing cancels.
pub(super) fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-17 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

pub(super) fn softmax(x: &[f64]) -> Vec<f64> {
    let total: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x.exp() / total).collect()
}

pub(super) fn map(x: &Matrix, f: impl Fn(f64) -> f64) -> Matrix {
    x.iter()
        .map(|row| row.iter().map(|x| f(*x)).collect())
        .collect()
}

/// `a + scale * b`.
pub(super) fn add(a: &Matrix, b: &Matrix, scale: f64) -> Matrix {
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    let row =
        |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a + scale * b).collect();
    a.iter().zip(b).map(row).collect()
}

/// `a + v` in every row.
pub(super) fn add_row(a: &Matrix, v: &[f64]) -> Matrix {
    add(a, &vec![v.to_vec(); a.len()], 1.0)
}

pub(super) fn mean(x: &[Vec<f64>]) -> Vec<f64> {
    let column = |j: usize| x.iter().map(|row| row[j]).sum::<f64>() / x.len() as f64;
    (0..x[0].len()).map(column).collect()
}

/// What is added to the score of (head, query, key); `None` where the key is hidden.
pub(super) type Scores<'a> = &'a dyn Fn(usize, usize, usize) -> Option<f64>;

/// Every key is seen.
pub(super) const ALL: Scores = &|_, _, _| Some(0.0);

/// What the layers of a stack have in common.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) heads: usize,
    /// Whether scores are divided by the root of a head's width.
    pub(super) scaled: bool,
    /// The maps of attention and MLP: [`linear`] or [`affine`].
    pub(super) map: fn(&Parameters, &Matrix) -> Matrix,
    pub(super) norm: fn(&Parameters, &Matrix) -> Matrix,
    pub(super) activation: fn(f64) -> f64,
}

impl Style {
    pub(super) fn fusion(spec: &ModelSpec) -> Self {
        Self {
            heads: spec.heads,
            scaled: true,
            map: linear,
            norm: layer_norm,
            activation: activation(spec.activation),
        }
    }

    pub(super) fn text(spec: &ModelSpec) -> Self {
        let plain = spec.text_stack == TextStack::Plain;
        Self {
            heads: spec.text_heads,
            scaled: plain,
            map: linear,
            norm: if plain { layer_norm } else { rms_norm },
            activation: relu,
        }
    }

    pub(super) fn image(spec: &ModelSpec) -> Self {
        let published = spec.image_encoder == ImageEncoder::Vit;
        Self {
            heads: spec.image_heads,
            scaled: true,
            map: if published { affine } else { linear },
            norm: layer_norm,
            activation: if published { gelu } else { relu },
        }
    }
}

/// `Phi(q, kv)`, head by head.
pub(super) fn attention(
    p: &Parameters,
    style: Style,
    (q, kv): (&Matrix, &Matrix),
    scores: Scores,
) -> Matrix {
    let [query, key, value] =
        [("query", q), ("key", kv), ("value", kv)].map(|(name, x)| (style.map)(&p.at(name), x));
    let width = query[0].len();
    let per_head = width / style.heads;
    let divisor = if style.scaled { per_head as f64 } else { 1.0 }.sqrt();
    let mut seen = vec![vec![0.0; width]; q.len()];
    for head in 0..style.heads {
        let columns = head * per_head..(head + 1) * per_head;
        for i in 0..q.len() {
            let score = |j: usize| {
                let dot: f64 = columns.clone().map(|c| query[i][c] * key[j][c]).sum();
                scores(head, i, j).map_or(f64::NEG_INFINITY, |added| dot / divisor + added)
            };
            let weights = softmax(&(0..kv.len()).map(score).collect::<Vec<_>>());
            for c in columns.clone() {
                seen[i][c] = (0..kv.len()).map(|j| weights[j] * value[j][c]).sum();
            }
        }
    }
    (style.map)(&p.at("output"), &seen)
}

pub(super) fn mlp(p: &Parameters, style: Style, x: &Matrix) -> Matrix {
    let hidden = map(&(style.map)(&p.at("input"), x), style.activation);
    (style.map)(&p.at("output"), &hidden)
}

/// `x + Phi(Ln x, Ln x)`, then `+ MLP(Ln x)`.
pub(super) fn layer(p: &Parameters, style: Style, x: &Matrix, scores: Scores) -> Matrix {
    let a = (style.norm)(&p.at("norm_attention"), x);
    let x = add(
        x,
        &attention(&p.at("attention"), style, (&a, &a), scores),
        1.0,
    );
    let b = (style.norm)(&p.at("norm_mlp"), &x);
    add(&x, &mlp(&p.at("mlp"), style, &b), 1.0)
}

/// `count` layers, one after another.
pub(super) fn layers(
    p: &Parameters,
    (count, style): (usize, Style),
    x: &Matrix,
    scores: Scores,
) -> Matrix {
    (0..count).fold(x.clone(), |x, i| {
        layer(&p.item("layers", i), style, &x, scores)
    })
}

/// `x + Phi(Ln x, Ln x)`, then `+ Phi(Ln x, memory)`, then `+ MLP(Ln x)`.
pub(super) fn cross_layer(
    p: &Parameters,
    style: Style,
    (x, own): (&Matrix, Scores),
    (memory, seen): (&Matrix, Scores),
) -> Matrix {
    let a = (style.norm)(&p.at("norm_self"), x);
    let looked = attention(&p.at("attention_self"), style, (&a, &a), own);
    let x = add(x, &looked, 1.0);
    let b = (style.norm)(&p.at("norm_cross"), &x);
    let looked = attention(&p.at("attention_cross"), style, (&b, memory), seen);
    let x = add(&x, &looked, 1.0);
    let c = (style.norm)(&p.at("norm_mlp"), &x);
    add(&x, &mlp(&p.at("mlp"), style, &c), 1.0)
}

/// `-sum_t w_t sum_v y_tv ln softmax(logits_t)_v`, where `y_t` is `1 - smoothing` at the target
/// plus `smoothing / V` everywhere.
pub(super) fn cross_entropy(
    logits: &Matrix,
    target: &[usize],
    weight: &[f64],
    smoothing: f64,
) -> f64 {
    let mut loss = 0.0;
    for ((row, target), weight) in logits.iter().zip(target).zip(weight) {
        for (v, probability) in softmax(row).into_iter().enumerate() {
            let even = smoothing / row.len() as f64;
            let wanted = if v == *target { 1.0 - smoothing } else { 0.0 } + even;
            loss -= weight * wanted * probability.ln();
        }
    }
    loss
}
