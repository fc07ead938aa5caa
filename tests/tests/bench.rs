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
    let args = "bench allreduce --world 3 --mib 2 --dtype f32 --repeats 4 --output json";
    let finished = sandbox.run(args.split(' ')).succeeded();
    assert_eq!(finished.stdout.len(), 1, "{}", finished.transcript());
    let case: Value = finished.last_object();
    let names: BTreeSet<&str> = case
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(names, BTreeSet::from(FIELDS));
    assert_eq!(
        (&case["world"], &case["mib"], &case["repeats"]),
        (&3.into(), &2.into(), &4.into())
    );
    assert_eq!(case["dtype"], "f32");
    assert_eq!(case["transport"], "tcp");
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
    sandbox.assert_nothing_left();
}
