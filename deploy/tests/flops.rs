//! Counted costs against the analytic model (fixtures/flops.py), and the shape of the paper's numbers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

/// MACs and parameters of the analytic model.
static EXPECTED: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("fixtures/flops.json")).unwrap());

/// What `flops --paper` counts, and what it draws; once, for it builds every model.
static PAPER: LazyLock<(Vec<Value>, String)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("figure2.svg");
    let counted = lines(&["--paper", "--svg", path.to_str().unwrap()]);
    (counted, std::fs::read_to_string(path).unwrap())
});

fn lines(args: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmaster"));
    let output = command
        .arg("flops")
        .args(args)
        .args(["--output", "json"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The rows of the tables by "table row".
fn rows() -> BTreeMap<String, &'static Value> {
    let rows = PAPER.0.iter().filter(|line| line["table"].is_string());
    let name = |row: &Value| {
        let (table, row) = (row["table"].as_str().unwrap(), row["row"].as_str().unwrap());
        format!("{table} {row}")
    };
    rows.map(|row| (name(row), row)).collect()
}

/// The points of figure 2 by "axis value variant".
fn points() -> BTreeMap<String, &'static Value> {
    let points = PAPER.0.iter().filter(|line| line["figure"].is_string());
    let name = |point: &Value| {
        let (axis, variant) = (&point["axis"], &point["variant"]);
        let (axis, variant) = (axis.as_str().unwrap(), variant.as_str().unwrap());
        format!("{axis} {} {variant}", point["value"])
    };
    points.map(|point| (name(point), point)).collect()
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn gflops(row: &str) -> f64 {
    number(&rows()[row]["gflops_mac2"])
}

#[track_caller]
fn assert_within(what: &str, counted: f64, expected: f64, percent: f64) {
    let off = (counted - expected).abs();
    assert!(
        off <= percent / 100.0 * expected,
        "{what}: {counted}, expected {expected}"
    );
}

/// Parameters of a component as the analytic model counts them.
fn large_params(component: &Value) -> f64 {
    number(&component["params"]) - number(&component["small_params"])
}

#[test]
fn every_row_is_counted_as_the_analytic_model_has_it() {
    let expected = EXPECTED["rows"].as_object().unwrap();
    let rows = rows();
    assert_eq!(rows.len(), expected.len());
    for (name, expected) in expected {
        let row = rows[name];
        let (mut macs, mut params) = (0.0, 0.0);
        for component in row["components"].as_array().unwrap() {
            let part = component["name"].as_str().unwrap();
            let of_part = &expected[part];
            let what = format!("MACs of {name}, {part}");
            assert_within(&what, number(&component["macs"]), number(&of_part[0]), 0.5);
            macs += number(&of_part[0]);
            params += number(&of_part[1]);
        }
        assert_within(&format!("MACs of {name}"), number(&row["macs"]), macs, 0.5);
        let counted: f64 = row["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(large_params)
            .sum();
        assert_within(&format!("parameters of {name}"), counted, params, 0.5);
    }
}

#[test]
fn every_point_of_figure_2_is_counted_as_the_analytic_model_has_it() {
    let expected = EXPECTED["figure"].as_object().unwrap();
    let points = points();
    assert_eq!(points.len(), expected.len());
    for (name, expected) in expected {
        let point = points[name];
        assert_within(
            &format!("MACs of {name}"),
            number(&point["macs"]),
            number(&expected[0]),
            0.5,
        );
        // Norms and biases are below 0.1 % of these.
        let params = number(&point["params"]);
        assert_within(
            &format!("parameters of {name}"),
            params,
            number(&expected[1]),
            0.5,
        );
    }
}

#[test]
fn published_numbers_are_met_as_far_as_any_sizes_can() {
    for (name, row) in rows() {
        let tolerance = match &name[..2] {
            // The headline rows.
            "1 " | "2 " | "3 " | "4d" => 3.0,
            "4c" => 5.0,
            // Published costs are not affine in layers, tokens and iterations; those of every model
            // of this family are.
            "4a" | "4b" | "4e" => 11.0,
            _ => {
                assert!(row["published_gflops"].is_null(), "{name}");
                continue;
            }
        };
        let (ours, theirs) = (
            number(&row["gflops_mac2"]),
            number(&row["published_gflops"]),
        );
        assert_within(&name, ours, theirs, tolerance);
        let residual = number(&row["residual_percent"]);
        assert!(
            (residual - 100.0 * (ours - theirs) / theirs).abs() < 1e-9,
            "{name}: {residual}"
        );
    }
    assert_within(
        "parameters",
        number(&rows()["1 Ours-Base"]["params"]),
        350e6,
        2.0,
    );
}

#[test]
fn the_order_of_the_models_is_the_papers() {
    let ascending = |names: &[&str]| {
        let costs: Vec<f64> = names.iter().map(|name| gflops(name)).collect();
        assert!(costs.is_sorted_by(|a, b| a < b), "{names:?}: {costs:?}");
    };
    ascending(&[
        "2 Ours",
        "2 Perceiver",
        "2 Iterative Co-Tokenization",
        "3 Concat",
    ]);
    ascending(&["4c Latent", "4c Spatial"]);
    ascending(&[
        "4a 1 iteration",
        "4a 2 iterations",
        "4a 4 iterations",
        "4a 8 iterations",
    ]);
    ascending(&[
        "4b 16 tokens",
        "4b 32 tokens",
        "4b 64 tokens",
        "4b 128 tokens",
    ]);
    ascending(&["4e 8 layers", "4e 16 layers", "4e 32 layers"]);
    for same in ["3 Ours, no gating", "4d None", "4d Residual", "4d Weighted"] {
        assert_within(same, gflops(same), gflops("1 Ours-Base"), 0.1);
    }
    let ratio = gflops("3 Concat") / gflops("3 Ours");
    assert!((1.40..=1.55).contains(&ratio), "{ratio}");
}

#[test]
fn the_curves_of_figure_2_have_its_shape() {
    let cost = |axis: &str, value: u64, variant: &str| {
        number(&points()[&format!("{axis} {value} {variant}")]["gflops_mac2"])
    };
    let sizes = [128, 224, 288, 320, 384, 448, 512];
    let ratio = |size| cost("image_size", size, "concat") / cost("image_size", size, "ours");
    let ratios = sizes.map(ratio);
    assert!(ratios.is_sorted_by(|a, b| a < b), "{ratios:?}");
    let places = [
        ("image_size", &sizes[..]),
        ("depth", &[8, 16, 24, 32, 48, 64]),
    ];
    let places = places
        .into_iter()
        .chain([("width", &[512, 768, 1024, 1280][..])]);
    for (axis, values) in places {
        for &value in values {
            let (deep, ours) = (
                cost(axis, value, "concat_equal_depth"),
                cost(axis, value, "ours"),
            );
            assert!(deep > ours, "{axis} {value}: {deep} {ours}");
        }
    }
}

#[test]
fn one_more_fusion_layer_costs_exactly_one_layer() {
    let total = |layers: &str| {
        let set = format!("model.fusion_layers={layers}");
        let counted = lines(&["--set", &set, "--set", "model.iterations=1"]);
        let counted = &counted[0];
        (
            counted["macs"].as_u64().unwrap(),
            counted["params"].as_u64().unwrap(),
        )
    };
    let (four, five) = (total("4"), total("5"));
    // The demonstration's sizes: N = 16 tokens, D = 128, an MLP of 512; two norms of 2 D.
    let (n, d, mlp) = (16, 128, 512);
    assert_eq!(
        five.0 - four.0,
        n * (4 * d * d + 2 * d * mlp) + 2 * n * n * d
    );
    assert_eq!(five.1 - four.1, 4 * d * d + 2 * d * mlp + 4 * d);
}

#[test]
fn more_tokens_than_the_model_has_places_for_are_refused() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmaster"));
    let output = command.args(["flops", "--target-tokens", "25"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("--target-tokens 25: the model has places for 1 to 24"),
        "{error}"
    );
}

#[test]
fn both_conventions_and_all_components_add_up() {
    let counted = &lines(&["--text-tokens", "5", "--target-tokens", "3"])[0];
    let macs = number(&counted["macs"]);
    assert_eq!(number(&counted["gflops_mac1"]), macs / 1e9);
    assert_eq!(number(&counted["gflops_mac2"]), 2.0 * macs / 1e9);
    for field in ["macs", "params"] {
        let parts = counted["components"].as_array().unwrap().iter();
        let sum: f64 = parts.map(|part| number(&part[field])).sum();
        assert_eq!(sum, number(&counted[field]), "{field}");
    }
    let longer = &lines(&["--text-tokens", "6", "--target-tokens", "3"])[0];
    assert!(number(&longer["macs"]) > macs);
}

#[test]
fn the_figure_is_drawn() {
    let svg = &PAPER.1;
    // Three panels of three lines and a legend.
    assert_eq!(svg.matches("<polyline").count(), 9 + 3);
    assert!(svg.contains("fusion layers") && svg.ends_with("</svg>\n"));
}
