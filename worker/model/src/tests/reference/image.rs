//! Image encoders.

use ringmaster_proto::spec::{ImageEncoder, ModelSpec};

use super::{Matrix, Parameters, Style, add, affine, layer_norm, layers, map, relu};

/// Channels of rows of columns.
pub(crate) type Picture = Vec<Matrix>;

/// `y[o][r][c] = sum_{i,a,b} W[o][i][a][b] x[i][s r + a - k/2][s c + b - k/2]`; x is 0 outside.
pub(crate) fn convolution(p: &Parameters, x: &Picture, k: usize, stride: usize) -> Picture {
    let weight = p.get("weight");
    let (inputs, height, width) = (x.len(), x[0].len(), x[0][0].len());
    let outputs = weight.len() / (inputs * k * k);
    let (rows, columns) = (height.div_ceil(stride), width.div_ceil(stride));
    let mut y = vec![vec![vec![0.0; columns]; rows]; outputs];
    for (o, y) in y.iter_mut().enumerate() {
        for (r, y) in y.iter_mut().enumerate() {
            for (c, y) in y.iter_mut().enumerate() {
                for (i, x) in x.iter().enumerate() {
                    for a in 0..k {
                        for b in 0..k {
                            // Wraps around to a place far outside where it would be negative.
                            let r = (stride * r + a).wrapping_sub(k / 2);
                            let c = (stride * c + b).wrapping_sub(k / 2);
                            if r < height && c < width {
                                *y += weight[((o * inputs + i) * k + a) * k + b] * x[r][c];
                            }
                        }
                    }
                }
            }
        }
    }
    y
}

/// Layer norm of groups of neighbouring channels; gamma and beta are per channel.
pub(crate) fn group_norm(p: &Parameters, x: &Picture, groups: usize) -> Picture {
    let (gamma, beta) = (p.get("gamma"), p.get("beta"));
    let per_group = x.len() / groups;
    let mut y = x.clone();
    for (g, group) in y.chunks_mut(per_group).enumerate() {
        let all: Vec<f64> = group.iter().flatten().flatten().copied().collect();
        let n = all.len() as f64;
        let mean = all.iter().sum::<f64>() / n;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        for (i, channel) in group.iter_mut().enumerate() {
            let (gamma, beta) = (gamma[g * per_group + i], beta[g * per_group + i]);
            *channel = map(channel, |x| {
                (x - mean) / (variance + 1e-5).sqrt() * gamma + beta
            });
        }
    }
    y
}

/// The largest of the 3x3 values around every second place in both directions.
fn max_pool(x: &Picture) -> Picture {
    let largest = |channel: &Matrix, r: usize, c: usize| {
        let (height, width) = (channel.len(), channel[0].len());
        let mut max = f64::NEG_INFINITY;
        for row in &channel[(2 * r).saturating_sub(1)..(2 * r + 2).min(height)] {
            for x in &row[(2 * c).saturating_sub(1)..(2 * c + 2).min(width)] {
                max = max.max(*x);
            }
        }
        max
    };
    let pooled = |channel: &Matrix| {
        let (rows, columns) = (channel.len().div_ceil(2), channel[0].len().div_ceil(2));
        let row = |r| (0..columns).map(|c| largest(channel, r, c)).collect();
        (0..rows).map(row).collect()
    };
    x.iter().map(pooled).collect()
}

fn over_channels(x: Picture, f: impl Fn(f64) -> f64) -> Picture {
    x.iter().map(|channel| map(channel, &f)).collect()
}

/// A convolution and its norm.
fn unit(p: &Parameters, x: &Picture, k: usize, stride: usize) -> Picture {
    let y = convolution(&p.at("convolution"), x, k, stride);
    group_norm(&p.at("norm"), &y, 32)
}

/// 1x1, 3x3 with the stride, 1x1; the first block of a stage also maps its shortcut.
fn bottleneck(p: &Parameters, x: Picture, stride: usize, first: bool) -> Picture {
    let y = over_channels(unit(&p.at("reduce"), &x, 1, 1), relu);
    let y = over_channels(unit(&p.at("middle"), &y, 3, stride), relu);
    let y = unit(&p.at("expand"), &y, 1, 1);
    let shortcut = if first {
        unit(&p.at("shortcut"), &x, 1, stride)
    } else {
        x
    };
    let sums = y.iter().zip(&shortcut).map(|(a, b)| add(a, b, 1.0));
    over_channels(sums.collect(), relu)
}

/// He et al. 2016, table 1, 50 layers, up to conv4_x: M tokens of 1024 channels.
pub(crate) fn resnet(p: &Parameters, image: &Picture) -> Matrix {
    let stem = over_channels(unit(&p.at("stem"), image, 7, 2), relu);
    let mut x = max_pool(&stem);
    let mut i = 0;
    for (blocks, stride) in [(3, 1), (4, 2), (6, 2)] {
        for block in 0..blocks {
            let first = block == 0;
            x = bottleneck(
                &p.item("blocks", i),
                x,
                if first { stride } else { 1 },
                first,
            );
            i += 1;
        }
    }
    tokens(&x)
}

/// One token per place, rows first.
pub(crate) fn tokens(x: &Picture) -> Matrix {
    let (height, width) = (x[0].len(), x[0][0].len());
    let token = |i: usize| x.iter().map(move |channel| channel[i / width][i % width]);
    (0..height * width).map(|i| token(i).collect()).collect()
}

/// The tokens of a square in their places.
pub(crate) fn square(x: &Matrix) -> Picture {
    let side = x.len().isqrt();
    let row = |channel: usize, r: usize| (0..side).map(|c| x[r * side + c][channel]).collect();
    let channel = |channel| (0..side).map(|r| row(channel, r)).collect();
    (0..x[0].len()).map(channel).collect()
}

/// Patches, positions, layers; in a `vit` a last norm.
fn vit(p: &Parameters, spec: &ModelSpec, image: &Picture) -> Matrix {
    let (patch, side) = (spec.patch, spec.image_size / spec.patch);
    let mut patches = Vec::new();
    for r in 0..side {
        for c in 0..side {
            let mut values = Vec::new();
            for channel in image {
                for row in &channel[r * patch..(r + 1) * patch] {
                    values.extend_from_slice(&row[c * patch..(c + 1) * patch]);
                }
            }
            patches.push(values);
        }
    }
    let x = affine(&p.at("embedding"), &patches);
    let x = add(&x, &p.rows("positions", spec.image_width), 1.0);
    let style = (spec.image_layers, Style::image(spec));
    let x = layers(p, style, &x, super::ALL);
    match spec.image_encoder {
        ImageEncoder::Vit => layer_norm(&p.at("norm"), &x),
        _ => x,
    }
}

/// `X_im`, `[M, C]`.
pub(crate) fn encoder(p: &Parameters, spec: &ModelSpec, image: &Picture) -> Matrix {
    match spec.image_encoder {
        ImageEncoder::Resnet50C4 => resnet(p, image),
        ImageEncoder::Patch | ImageEncoder::Vit => vit(p, spec, image),
    }
}
