//! What a person sees when something is wrong: one sentence, an exit code by kind, no panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const INVALID: i32 = 2;
const DATA: i32 = 3;
const RETRY: i32 = 4;

fn ringmaster(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmaster"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command
        .env_remove("RUST_BACKTRACE")
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

/// Runs a command that must fail: exactly one line on stderr, nothing on stdout.
fn refusal(folder: &Path, args: &[&str], code: i32) -> String {
    let output = ringmaster(folder, args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert_eq!(
        stderr.lines().count(),
        1,
        "{args:?}: one sentence, not\n{stderr}"
    );
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(
        !stderr.contains("panicked") && !stderr.contains(".rs:"),
        "{stderr}"
    );
    assert!(output.stdout.is_empty());
    stderr
}

#[test]
fn an_unknown_run_is_named_with_those_that_exist() {
    let folder = tempfile::tempdir().unwrap();
    let error = refusal(folder.path(), &["status", "nope"], INVALID);
    assert!(
        error.contains("run nope") && error.contains("ringmaster train"),
        "{error}"
    );
    std::fs::create_dir_all(folder.path().join("ringmaster-runs/scenes")).unwrap();
    let error = refusal(folder.path(), &["watch", "nope"], INVALID);
    assert!(error.contains("scenes"), "{error}");
}

#[test]
fn a_run_that_is_not_running_says_how_to_start_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("ringmaster-runs/scenes")).unwrap();
    for args in [&["status", "scenes"][..], &["watch", "scenes"], &["status"]] {
        let error = refusal(folder.path(), args, RETRY);
        assert!(error.contains("ringmaster train"), "{error}");
    }
}

#[test]
fn a_run_file_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = refusal(folder.path(), &["render", "missing.toml"], INVALID);
    assert!(error.contains("missing.toml"), "{error}");
}

#[test]
fn an_unknown_key_is_named_with_its_section() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("r.toml"), "[train]\nlearning_rate = 1\n").unwrap();
    let error = refusal(folder.path(), &["render", "r.toml"], INVALID);
    assert!(
        error.contains("[train]") && error.contains("learning_rate"),
        "{error}"
    );
}

#[test]
fn more_workers_than_lanes_are_refused_with_both_keys() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["train", "--dry-run", "--workers", "9"];
    let error = refusal(folder.path(), &args, INVALID);
    assert!(
        error.contains("max_workers") && error.contains("data.lanes"),
        "{error}"
    );
}

#[test]
fn a_missing_corpus_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = refusal(folder.path(), &["corpus", "inspect", "./nowhere"], DATA);
    assert!(error.contains("nowhere"), "{error}");
}

#[test]
fn a_port_in_use_is_named_with_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "0".repeat(64)).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let args = ["coordinator", "--token-file", "token", "--port", &port];
    let error = refusal(folder.path(), &args, INVALID);
    assert!(error.contains(&port) && error.contains("--port"), "{error}");
}

#[test]
fn a_token_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "secret").unwrap();
    let args = [
        "worker",
        "--coordinator",
        "127.0.0.1:1",
        "--token-file",
        "token",
    ];
    let error = refusal(folder.path(), &args, INVALID);
    assert!(
        error.contains("token") && !error.contains("secret"),
        "{error}"
    );
}

#[test]
fn a_dry_run_prints_facts_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = ringmaster(folder.path(), &["train", "--dry-run", "--output", "json"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(facts["global_batch"], 64);
    assert_eq!(facts["efficiency"], 1.0);
    let parameters = facts["parameters"].as_u64().unwrap();
    assert!((2_000_000..3_000_000).contains(&parameters), "{parameters}");
    let memory = &facts["worker_memory"];
    assert_eq!(memory["host_moments_bytes"], parameters * 8);
    // 24 000 rows and 64 a step.
    assert_eq!(facts["steps_per_epoch"], 375);
    assert_eq!(facts["epochs"], 2400.0 / 375.0);
    let each = facts["read_bytes_per_epoch"].as_u64().unwrap();
    let all = facts["read_bytes_in_all"].as_u64().unwrap();
    assert_eq!(all, each * 32 / 5, "6.4 epochs");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_dry_run_says_what_needs_no_corpus_where_the_corpus_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let source = r#"data.sources=[{ url = "./nowhere" }]"#;
    let args = ["train", "--dry-run", "--output", "json", "--set", source];
    let output = ringmaster(folder.path(), &args);
    assert_eq!(output.status.code(), Some(DATA));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: ") && stderr.contains("nowhere"));
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(facts["parameters"].as_u64().unwrap() > 0);
    assert_eq!(facts["total_steps"], 2400, "the run file says it");
    for unknown in ["rows", "steps_per_epoch", "epochs", "read_bytes_in_all"] {
        assert_eq!(facts[unknown], serde_json::Value::Null, "{unknown}");
    }
}

#[test]
fn a_dry_run_of_a_store_without_credentials_says_what_is_missing_last() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmaster"));
    for name in [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    ] {
        command.env_remove(name);
    }
    // Nobody answers there, so that no metadata service is asked.
    command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
    let store = ["--set", "run.store=s3://a-bucket/runs"];
    let output = command
        .args(["train", "--dry-run"])
        .args(store)
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("parameters") && stdout.contains("host memory"));
    assert!(stdout.contains("unknown without the corpus"), "{stdout}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: s3://a-bucket/runs"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn the_dry_run_of_a_corpus_is_that_of_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let make = "corpus make --out c --rows 640 --held-out 512";
    assert!(
        ringmaster(folder.path(), &make.split(' ').collect::<Vec<_>>())
            .status
            .success()
    );
    let of = |source: &str| -> serde_json::Value {
        let source = format!("data.sources=[{{ url = \"{source}\" }}]");
        let args = ["train", "--dry-run", "--output", "json", "--set", &source];
        let validation = ["--set", "data.validation=0"];
        let output = ringmaster(folder.path(), &[&args[..], &validation].concat());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (made, drawn) = (of("c/train"), of("scenes:640"));
    assert_eq!(made["rows"], drawn["rows"]);
    assert_eq!(made["steps_per_epoch"], 10);
    let bytes = |facts: &serde_json::Value| facts["read_bytes_per_epoch"].as_f64().unwrap();
    let ratio = bytes(&drawn) / bytes(&made);
    assert!((ratio - 1.0).abs() < 0.05, "{ratio}");
}

#[test]
fn a_corpus_that_was_made_can_be_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let make = [
        "corpus",
        "make",
        "--out",
        "c",
        "--rows",
        "600",
        "--held-out",
        "10",
    ];
    assert!(ringmaster(folder.path(), &make).status.success());
    let inspect = [
        "corpus",
        "inspect",
        "c/train",
        "--shuffle",
        "--html",
        "sheet.html",
        "--output",
        "json",
    ];
    let output = ringmaster(folder.path(), &inspect);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let corpus: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&corpus["rows"], &corpus["captioned_rows"]),
        (&600.into(), &600.into())
    );
    assert!(corpus["size_bytes"].as_u64().unwrap() > 0);
    let pictures = &corpus["pictures"];
    assert_eq!(pictures["widths"], serde_json::json!([64, 64, 64]));
    assert_eq!(pictures["refused_rows"], 0);
    // Fewer rows than a window takes: the plan is a full shuffle.
    let travel = corpus["shuffle"]["travel"]["plan"].as_f64().unwrap();
    assert!((0.2..0.45).contains(&travel), "{travel}");
    let sheet = std::fs::read_to_string(folder.path().join("sheet.html")).unwrap();
    let sampled = pictures["sampled_rows"].as_u64().unwrap();
    assert_eq!(sheet.matches("<figure>").count() as u64, sampled);
    let verify = ["corpus", "verify", "c/train", "--output", "json"];
    let output = ringmaster(folder.path(), &verify);
    assert!(output.status.success());
    let verified: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&verified["rows"], &verified["refused_rows"]),
        (&600.into(), &0.into())
    );
}

#[test]
fn bench_says_one_line_per_case_and_ends_its_processes() {
    let folder = tempfile::tempdir().unwrap();
    let args = [
        "bench",
        "allreduce",
        "--mib",
        "1",
        "--reduction",
        "exact,f32,bf16",
    ];
    let more = ["--repeats", "2", "--output", "json"];
    // Output is read to its end, so a process left behind would hang this test.
    let output = ringmaster(folder.path(), &[&args[..], &more[..]].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let cases: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let reductions: Vec<&str> = cases
        .iter()
        .map(|c| c["reduction"].as_str().unwrap())
        .collect();
    assert_eq!(reductions, ["exact", "f32", "bf16"]);
}

#[test]
fn what_cannot_be_imported_or_asked_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let import = ["corpus", "import", "--out", "c", "--from"];
    let with = |more: &[&'static str]| [&import[..], more].concat();
    let error = refusal(folder.path(), &with(&["nowhere.jsonl"]), DATA);
    assert!(error.contains("nowhere.jsonl"), "{error}");
    std::fs::write(folder.path().join("r.jsonl"), "{\"image\": \"a.png\"}\n").unwrap();
    let error = refusal(folder.path(), &with(&["r.jsonl"]), DATA);
    assert!(
        error.contains("r.jsonl, line 1") && error.contains("a.png"),
        "{error}"
    );
    let error = refusal(
        folder.path(),
        &with(&["r.jsonl", "--exclude", "none"]),
        DATA,
    );
    assert!(error.contains("none"), "{error}");
    let set = ["r.jsonl", "--set", "run.name=x"];
    let error = refusal(folder.path(), &with(&set), INVALID);
    assert!(error.contains("data.columns"), "{error}");
    assert!(!folder.path().join("c").exists());
    let error = refusal(folder.path(), &["eval"], RETRY);
    assert!(error.contains("ringmaster train"), "{error}");
}

#[test]
fn an_import_says_what_it_wrote_and_what_it_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let make = "corpus make --out c --rows 20 --held-out 0";
    let make: Vec<&str> = make.split(' ').collect();
    assert!(ringmaster(folder.path(), &make).status.success());
    std::fs::write(folder.path().join("no.txt"), "000000000003\nabsent\n").unwrap();
    let import = "corpus import --format parquet --from c/train --out d --exclude no.txt \
                  --rows-per-shard 8 --output json";
    let import: Vec<&str> = import.split_whitespace().collect();
    let output = ringmaster(folder.path(), &import);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["rows"], 19);
    assert_eq!(
        (&said["shards"], &said["excluded_rows"]),
        (&3.into(), &1.into())
    );
    assert_eq!(
        (&said["bad_rows"], &said["unmatched_excludes"][0]),
        (&0.into(), &"absent".into())
    );
    let inspect = ["corpus", "inspect", "d", "--output", "json"];
    let corpus = ringmaster(folder.path(), &inspect).stdout;
    let corpus: serde_json::Value = serde_json::from_slice(&corpus).unwrap();
    assert_eq!(
        (&corpus["rows"], &corpus["shards"]),
        (&19.into(), &3.into())
    );
    assert_eq!(corpus["size_bytes"], said["size_bytes"]);
}
