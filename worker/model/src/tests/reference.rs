//! The equations in nested loops over f64, for one example; written from the paper and the layer
//! definitions, sharing nothing with the modules but the names of the parameters.

use std::collections::BTreeMap;

/// Rows of columns.
pub(super) type Matrix = Vec<Vec<f64>>;

/// Parameter values by path.
pub(super) type Values = BTreeMap<String, Vec<f64>>;

/// `x W (+ b)`, with `W` stored row by row as `[inputs, outputs]`.
pub(super) fn linear(values: &Values, path: &str, x: &Matrix) -> Matrix {
    let weight = &values[&format!("{path}.weight")];
    let bias = values.get(&format!("{path}.bias"));
    let outputs = weight.len() / x[0].len();
    let cell = |row: &Vec<f64>, j: usize| {
        let products = row
            .iter()
            .enumerate()
            .map(|(i, x)| x * weight[i * outputs + j]);
        products.sum::<f64>() + bias.map_or(0.0, |bias| bias[j])
    };
    x.iter()
        .map(|row| (0..outputs).map(|j| cell(row, j)).collect())
        .collect()
}

pub(super) fn layer_norm(values: &Values, path: &str, x: &Matrix) -> Matrix {
    let gamma = &values[&format!("{path}.gamma")];
    let beta = &values[&format!("{path}.beta")];
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

/// `Phi(q, kv)`; `visible(i, j)` says whether query i may see key j.
pub(super) fn attention(
    values: &Values,
    path: &str,
    (q, kv): (&Matrix, &Matrix),
    heads: usize,
    visible: impl Fn(usize, usize) -> bool,
) -> Matrix {
    let query = linear(values, &format!("{path}.query"), q);
    let key = linear(values, &format!("{path}.key"), kv);
    let value = linear(values, &format!("{path}.value"), kv);
    let width = query[0].len();
    let per_head = width / heads;
    let mut seen = vec![vec![0.0; width]; q.len()];
    for head in 0..heads {
        let range = head * per_head..(head + 1) * per_head;
        for i in 0..q.len() {
            let score = |j: usize| {
                let dot: f64 = range.clone().map(|c| query[i][c] * key[j][c]).sum();
                if visible(i, j) {
                    (dot / (per_head as f64).sqrt()).exp()
                } else {
                    0.0
                }
            };
            let scores: Vec<f64> = (0..kv.len()).map(score).collect();
            let total: f64 = scores.iter().sum();
            for c in range.clone() {
                seen[i][c] = (0..kv.len()).map(|j| scores[j] / total * value[j][c]).sum();
            }
        }
    }
    linear(values, &format!("{path}.output"), &seen)
}

pub(super) fn mlp(values: &Values, path: &str, x: &Matrix) -> Matrix {
    let mut hidden = linear(values, &format!("{path}.input"), x);
    hidden.iter_mut().flatten().for_each(|x| *x = x.max(0.0));
    linear(values, &format!("{path}.output"), &hidden)
}

pub(super) fn add(a: &Matrix, b: &Matrix, scale: f64) -> Matrix {
    let row =
        |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a + scale * b).collect();
    a.iter().zip(b).map(row).collect()
}

/// `x + Phi(Ln x, Ln x)`, then `+ MLP(Ln x)`.
pub(super) fn layer(
    values: &Values,
    path: &str,
    x: &Matrix,
    heads: usize,
    visible: impl Fn(usize, usize) -> bool,
) -> Matrix {
    let at = |name: &str| {
        if path.is_empty() {
            name.into()
        } else {
            format!("{path}.{name}")
        }
    };
    let a = layer_norm(values, &at("norm_attention"), x);
    let x = add(
        x,
        &attention(values, &at("attention"), (&a, &a), heads, visible),
        1.0,
    );
    let a = layer_norm(values, &at("norm_mlp"), &x);
    add(&x, &mlp(values, &at("mlp"), &a), 1.0)
}

/// Eq. 2: `W2 Phi(X_N, Ln(x))`.
pub(super) fn resample(
    values: &Values,
    x: &Matrix,
    heads: usize,
    visible: impl Fn(usize, usize) -> bool,
) -> Matrix {
    let latents: Matrix = values["latents"]
        .chunks(x[0].len())
        .map(<[f64]>::to_vec)
        .collect();
    let kv = layer_norm(values, "norm", x);
    linear(
        values,
        "output",
        &attention(values, "attention", (&latents, &kv), heads, visible),
    )
}

/// Eq. 3, line by line.
pub(super) fn gated_fusion(
    values: &Values,
    path: &str,
    (t, f): (&Matrix, &Matrix),
    heads: usize,
) -> Matrix {
    let at = |name: &str| {
        if path.is_empty() {
            name.into()
        } else {
            format!("{path}.{name}")
        }
    };
    let gate = |name: &str| values[&at(name)][0].tanh();
    let a = layer_norm(values, &at("norm_text"), t);
    let image = layer_norm(values, &at("norm_image"), f);
    let seen = attention(values, &at("attention"), (&a, &image), heads, |_, _| true);
    let crossed = add(&a, &seen, gate("alpha"));
    add(&crossed, &mlp(values, &at("mlp"), &crossed), gate("beta"))
}

/// `-sum_t w_t ln softmax(logits_t)[target_t]`.
pub(super) fn cross_entropy(logits: &Matrix, target: &[usize], weight: &[f64]) -> f64 {
    let token = |(row, (target, weight)): (&Vec<f64>, (&usize, &f64))| {
        let total: f64 = row.iter().map(|x| x.exp()).sum();
        -weight * (row[*target].exp() / total).ln()
    };
    logits
        .iter()
        .zip(target.iter().zip(weight))
        .map(token)
        .sum()
}
