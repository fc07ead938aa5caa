//! Figure 2 of the paper: FLOPs over image size, depth and width. The paper prints no numbers there;
//! what is compared is the shape.

use serde::Serialize;

use super::gflops;
use super::paper::Counter;
use crate::error::CliError;
use crate::output;
use crate::svg::{Chart, Panel, Series};

/// Points of the three curves.
const IMAGE_SIZES: [usize; 7] = [128, 224, 288, 320, 384, 448, 512];
const DEPTHS: [usize; 6] = [8, 16, 24, 32, 48, 64];
const WIDTHS: [usize; 4] = [512, 768, 1024, 1280];

/// Layers of preset `base`, half of which make its concat (see `paper.rs`).
const BASE_DEPTH: usize = 32;

/// Width of preset `base`, the widths of its MLPs, and the width of a head.
const BASE_WIDTH: usize = 768;
const BASE_MLP: usize = 2048;
const BASE_FUSION_MLP: usize = 3072;
const HEAD_WIDTH: usize = 64;

/// The lines of every panel.
const VARIANTS: [(&str, &str); 3] = [
    ("ours", "ours"),
    ("concat", "concat"),
    ("concat_equal_depth", "concat, as deep as ours"),
];

/// One point; the field names are a contract.
#[derive(Debug, Serialize)]
pub(super) struct Point {
    figure: &'static str,
    /// image_size, depth or width.
    axis: &'static str,
    value: usize,
    /// ours, concat or concat_equal_depth.
    variant: &'static str,
    params: u64,
    macs: u64,
    gflops_mac1: f64,
    gflops_mac2: f64,
}

/// How many points there are.
pub(super) fn points() -> usize {
    VARIANTS.len() * places().count()
}

/// Axis, value, what of `base` it overrides, and the layers of ours.
fn places() -> impl Iterator<Item = (&'static str, usize, Vec<String>, usize)> {
    let images = IMAGE_SIZES.map(|side| {
        let sets = vec![format!("image_size={side}")];
        ("image_size", side, sets, BASE_DEPTH)
    });
    let depths = DEPTHS.map(|layers| ("depth", layers, Vec::new(), layers));
    let widths = WIDTHS.map(|width| {
        let sets = vec![
            format!("width={width}"),
            format!("heads={}", width / HEAD_WIDTH),
            format!("mlp_width={}", BASE_MLP * width / BASE_WIDTH),
            format!("fusion_mlp_width={}", BASE_FUSION_MLP * width / BASE_WIDTH),
        ];
        ("width", width, sets, BASE_DEPTH)
    });
    images.into_iter().chain(depths).chain(widths)
}

/// Every point, calling `step` after each.
pub(super) fn count(counter: &mut Counter, mut step: impl FnMut()) -> Result<Vec<Point>, CliError> {
    let mut points = Vec::new();
    for (axis, value, sets, depth) in places() {
        for (variant, _) in VARIANTS {
            let layers = if variant == "concat" {
                depth / 2
            } else {
                depth
            };
            let fusion = if variant == "ours" { "jar" } else { "concat" };
            let mut sets = sets.clone();
            sets.extend([
                format!("fusion={fusion}"),
                format!("fusion_layers={layers}"),
            ]);
            let cost = counter.count(&sets)?;
            points.push(Point {
                figure: "2",
                axis,
                value,
                variant,
                params: cost.parameters(),
                macs: cost.macs(),
                gflops_mac1: gflops(cost.macs(), 1),
                gflops_mac2: gflops(cost.macs(), 2),
            });
            step();
        }
    }
    Ok(points)
}

/// A line per place, as the figure has its three curves.
pub(super) fn print(points: &[Point]) {
    let row = |place: &[Point]| {
        let mut row = vec![place[0].axis.to_owned(), place[0].value.to_string()];
        row.extend(
            place
                .iter()
                .map(|point| format!("{:.1}", point.gflops_mac2)),
        );
        row
    };
    let mut header = vec!["figure 2", "value"];
    header.extend(VARIANTS.map(|(_, name)| name));
    output::table(
        &header,
        &points.chunks(VARIANTS.len()).map(row).collect::<Vec<_>>(),
    );
}

/// The figure.
pub(super) fn chart(points: &[Point]) -> Chart {
    let axes = [
        ("image_size", "image size (px)"),
        ("depth", "fusion layers"),
        ("width", "fusion width"),
    ];
    let series = |axis: &str, variant: &str| {
        let on = points
            .iter()
            .filter(|p| p.axis == axis && p.variant == variant);
        on.map(|point| (point.value as f64, point.gflops_mac2))
            .collect()
    };
    let panel = |(axis, label): (&str, &str)| Panel {
        x_label: label.to_owned(),
        y_label: "GFLOP".to_owned(),
        series: VARIANTS
            .map(|(variant, name)| Series {
                name: name.to_owned(),
                points: series(axis, variant),
            })
            .to_vec(),
    };
    Chart {
        title: "Forward pass of one example, MAC = 2".to_owned(),
        panels: axes.map(panel).to_vec(),
    }
}
