//! The output of `bench` is a contract.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use ringmaster_tests::sandbox::Sandbox;
use serde_json::Value;

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

const FIELDS: [&str; 9] = [
    "world",
    "mib",
    "dtype",
    "reduction",
    "transport",
    "repeats",
    "best_s",
    "median_s",
    "bus_gb_per_s",
];

#[test]
fn bench_allreduce_prints_one_object_per_case() {
    let sandbox = Sandbox::new(RINGMASTER);
    for (asked, taken) in [("best", "shm"), ("tcp", "tcp")] {
        let args = "bench allreduce --world 3 --mib 2 --dtype f32 --repeats 4 --output json";
        let args = args.split(' ').chain(["--transport", asked]);
        let finished = sandbox.run(args).succeeded();
        assert_eq!(finished.stdout.len(), 1, "{}", finished.transcript());
        check_allreduce(&finished.last_object(), taken);
    }
    let draw = "bench allreduce --mib 0.1,1 --reduction f32,memcpy --repeats 1 --svg all.svg";
    sandbox.run(draw.split(' ')).succeeded();
    let drawn = std::fs::read_to_string(sandbox.folder().join("all.svg")).unwrap();
    assert!(drawn.contains("memcpy") && drawn.contains("2 ranks, shm"));
    sandbox.assert_nothing_left();
}

fn check_allreduce(case: &Value, transport: &str) {
    let names: BTreeSet<&str> = case
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(names, BTreeSet::from(FIELDS));
    assert_eq!(
        (&case["world"], &case["mib"], &case["repeats"]),
        (&3.into(), &2.0.into(), &4.into())
    );
    assert_eq!(case["dtype"], "f32");
    assert_eq!(case["transport"], transport);
    let seconds = |name: &str| case[name].as_f64().unwrap();
    assert!(0.0 < seconds("best_s") && seconds("best_s") <= seconds("median_s"));
    // 2 (W - 1) / W of the f32 buffer crosses each link.
    let bytes = f64::from(2 << 20) * 2.0 * 2.0 / 3.0;
    let expected = [seconds("best_s"), seconds("median_s")].map(|time| bytes / time / 1e9);
    let close = |value: f64| (seconds("bus_gb_per_s") / value - 1.0).abs() < 0.01;
    assert!(
        expected.into_iter().any(close),
        "{case}, expected one of {expected:?}"
    );
}

/// A comparison of two variants that takes seconds.
const VARIANTS: [&str; 16] = [
    "bench",
    "variants",
    "--out",
    "v",
    "--only",
    "concat,jar",
    "--seeds",
    "1",
    "--jobs",
    "1",
    "--rows",
    "512",
    "--held-out",
    "32",
    "--set",
    "data.lane_batch=2",
];

fn rows(sandbox: &Sandbox) -> Vec<String> {
    let text = std::fs::read_to_string(sandbox.folder().join("v/variants.csv")).unwrap();
    text.lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn bench_variants_measures_each_run_once() {
    let sandbox = Sandbox::new(RINGMASTER);
    let args = [&VARIANTS[..], &["--steps", "2", "--output", "json"]].concat();
    let first = sandbox.run(&args).succeeded();
    let variants: Vec<Value> = first
        .stdout
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<&Value> = variants.iter().map(|line| &line["variant"]).collect();
    assert_eq!(names, ["concat", "jar"]);
    for line in &variants {
        assert_eq!(line["runs"], 1);
        for figure in [
            "params",
            "gflops_mac2",
            "peak_memory_bytes",
            "examples_per_second",
        ] {
            assert!(line[figure].as_f64().unwrap() > 0.0, "{figure} in {line}");
        }
        let right = line["exact_match_mean"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&right), "{line}");
    }
    let measured = rows(&sandbox);
    assert_eq!(measured.len(), 2);
    let second = sandbox.run(&args).succeeded();
    assert_eq!(first.stdout, second.stdout);
    assert_eq!(measured, rows(&sandbox), "nothing was measured again");
    let table = std::fs::read_to_string(sandbox.folder().join("v/variants.md")).unwrap();
    assert!(table.contains("| jar | 1 |"), "{table}");
    sandbox.assert_nothing_left();
}

#[test]
fn bench_variants_goes_on_after_ctrl_c() {
    let sandbox = Sandbox::new(RINGMASTER);
    let args = [&VARIANTS[..], &["--steps", "20"]].concat();
    let second_run = sandbox.folder().join("v/runs/jar-seed-1");
    std::fs::create_dir_all(&second_run).unwrap();
    let mut bench = sandbox.start(&args);
    bench.wait_for_file(&second_run.join("endpoint.json"));
    bench.signal(nix::sys::signal::Signal::SIGINT);
    bench.finish().stopped();
    sandbox.assert_nothing_left();
    let before = rows(&sandbox);
    assert_eq!(before.len(), 1, "the first run was done: {before:?}");
    sandbox.run(&args).succeeded();
    let after = rows(&sandbox);
    assert_eq!(after[..1], before);
    assert!(after[1].starts_with("jar,1,20,"), "{after:?}");
    sandbox.assert_nothing_left();
}

#[test]
fn bench_sampling_measures_each_curve_once() {
    let sandbox = Sandbox::new(RINGMASTER);
    let args = "bench sampling --out s --only difficulty --seeds 1 --jobs 1 --rows 512 --held-out 32 \
                --steps 4 --points 2 --set data.lane_batch=2 --output json";
    let args: Vec<&str> = args.split_whitespace().collect();
    let first = sandbox.run(&args).succeeded();
    let rules: Vec<Value> = first
        .stdout
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<&Value> = rules.iter().map(|line| &line["rule"]).collect();
    assert_eq!(names, ["uniform", "difficulty"]);
    for line in &rules {
        assert!(line["hard_loss_mean"].as_f64().unwrap() > 0.0, "{line}");
    }
    assert_eq!(
        rules[0]["steps_share_mean"],
        serde_json::json!([1.0, 1.0, 1.0])
    );
    let csv = sandbox.folder().join("s/sampling.csv");
    let measured = std::fs::read_to_string(&csv).unwrap();
    // A header, and two points of two curves.
    assert_eq!(measured.lines().count(), 5, "{measured}");
    let second = sandbox.run(&args).succeeded();
    assert_eq!(first.stdout, second.stdout);
    assert_eq!(measured, std::fs::read_to_string(&csv).unwrap());
    sandbox.assert_nothing_left();
}
