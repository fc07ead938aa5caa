//! Text encoder and decoder.

use ringmaster_proto::spec::{ModelSpec, TextStack};

use super::{Matrix, Parameters, Scores, Style, add, cross_layer, layers, rms_norm};

/// T5's bucket of a key `distance` positions after its query, in whole numbers: distances below
/// half of one side's buckets have their own, and the edges of the other half are powers of one
/// ratio that end at 128.
pub(crate) fn bucket(distance: i64, two_sided: bool) -> usize {
    let size = distance.unsigned_abs() as u128;
    if !two_sided {
        // Edges at 16 * 8^(k/16): size >= edge where size^16 >= 16^16 * 8^k.
        return match size {
            _ if distance > 0 => 0,
            0..16 => size as usize,
            128.. => 31,
            _ => {
                16 + (1..16)
                    .filter(|k| size.pow(16) >= 16u128.pow(16) << (3 * k))
                    .count()
            }
        };
    }
    // Edges at 8 * 16^(k/8): size^2 >= 64 * 2^k.
    let side = match size {
        0..8 => size as usize,
        _ => 8 + (1..8).filter(|k| size * size >= 64 << k).count(),
    };
    if distance > 0 { 16 + side } else { side }
}

/// Rows of the token table, times the root of their length.
pub(crate) fn embedding(p: &Parameters, ids: &[usize], width: usize) -> Matrix {
    let table = p.rows("table", width);
    let row = |id: &usize| table[*id].iter().map(|x| x * (width as f64).sqrt());
    ids.iter().map(|id| row(id).collect()).collect()
}

/// Products of x with every row of the token table.
pub(crate) fn logits(p: &Parameters, x: &Matrix) -> Matrix {
    let table = p.rows("table", x[0].len());
    let dot = |x: &[f64], row: &[f64]| x.iter().zip(row).map(|(x, w)| x * w).sum();
    x.iter()
        .map(|x| table.iter().map(|row| dot(x, row)).collect())
        .collect()
}

/// The bias of T5 on (head, query, key), or 0.
fn bias<'a>(
    p: &Parameters<'a>,
    spec: &ModelSpec,
    two_sided: bool,
) -> impl Fn(usize, usize, usize) -> f64 + 'a {
    let relative = spec.text_stack == TextStack::T5;
    let table = relative.then(|| p.at("positions").get("bias"));
    let heads = spec.text_heads;
    move |head, i, j| {
        table.map_or(0.0, |table| {
            table[bucket(j as i64 - i as i64, two_sided) * heads + head]
        })
    }
}

/// Tokens with their learned positions, if any.
fn positioned(p: &Parameters, spec: &ModelSpec, tokens: &Matrix) -> Matrix {
    if spec.text_stack == TextStack::T5 {
        return tokens.clone();
    }
    let positions = p.at("positions").rows("positions", spec.text_width);
    add(tokens, &positions[..tokens.len()].to_vec(), 1.0)
}

/// `X_text` of embedded tokens, of which the first `real` are not padding.
pub(crate) fn encoder(p: &Parameters, spec: &ModelSpec, tokens: &Matrix, real: usize) -> Matrix {
    let bias = bias(p, spec, true);
    let scores: Scores = &|head, i, j| (j < real).then(|| bias(head, i, j));
    let style = (spec.text_layers, Style::text(spec));
    let x = layers(p, style, &positioned(p, spec, tokens), scores);
    match spec.text_stack {
        TextStack::Plain => x,
        TextStack::T5 => rms_norm(&p.at("norm"), &x),
    }
}

/// What the decoder makes of embedded tokens and a memory, of which it may see some.
pub(crate) fn decoder(
    p: &Parameters,
    spec: &ModelSpec,
    tokens: &Matrix,
    (memory, visible): (&Matrix, &[bool]),
) -> Matrix {
    let bias = bias(p, spec, false);
    let own: Scores = &|head, i, j| (j <= i).then(|| bias(head, i, j));
    let seen: Scores = &|_, _, j| visible[j].then_some(0.0);
    let style = Style::text(spec);
    let mut x = positioned(p, spec, tokens);
    for i in 0..spec.decoder_layers {
        x = cross_layer(&p.item("layers", i), style, (&x, own), (memory, seen));
    }
    (style.norm)(&p.at("norm"), &x)
}
