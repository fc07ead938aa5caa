//! The ledger of real runs: every row once whatever happens, and a changed record is found out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use nix::sys::signal::Signal;
use ringmaster_dataset::{CorpusManifest, Plan, PlanSpec, RowRef, Store};
use ringmaster_proto::v1::watch_run_response::Event;
use ringmaster_proto::{ErrorKind, Lane, RunSpec, Step, keys};
use ringmaster_tests::sandbox::{SMALL, Sandbox};
use ringmaster_tests::watch::Watch;
use serde_json::Value;

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

/// Rows that nobody should store, among good ones; `dataset/tests/read/bad_rows.rs` writes it.
const BAD_ROWS: &[u8] = include_bytes!("../fixtures/bad_rows.parquet");

const LEDGER: &str = "ledger.jsonl";
const QUARANTINE: &str = "quarantine.jsonl";

/// Exit code of a record that does not hold.
const UNTRUE: i32 = 7;

/// Rows of the scenes in [`three_epochs`]; 8 a step leave the last step of an epoch short.
const ROWS: u64 = 500;
const STEPS: u64 = 3 * 63;

/// The run file of the tests with epochs instead of steps.
fn use_epochs(sandbox: &Sandbox) {
    let path = sandbox.folder().join("run.toml");
    let text = std::fs::read_to_string(path).unwrap();
    sandbox.write("run.toml", text.replace("steps = 30\n", ""));
}

fn train<'a>(workers: &'a str, sets: &[&'a str]) -> Vec<&'a str> {
    let args = ["train", "run.toml", "--workers", workers];
    let sets = sets.iter().flat_map(|set| ["--set", *set]);
    let args = args.into_iter().chain(sets);
    args.chain(["--output", "json"]).collect()
}

/// What `ledger verify` says of the sandbox's run, which must hold.
fn verified(sandbox: &Sandbox) -> Value {
    let args = ["ledger", "verify", SMALL, "--json"];
    sandbox.run(args).succeeded().last_object()
}

fn at_step(step: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Step(done) if done.step.as_ref().is_some_and(|done| done.step >= step))
}

fn in_generation(generation: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Step(done) if done.generation >= generation)
}

/// Three epochs. Of three workers one is killed in the first, then all of them, which takes the run
/// back to a checkpoint; in the second it is stopped; two workers end it, whose coordinator is killed.
fn three_epochs() -> Sandbox {
    let sandbox = Sandbox::new(RINGMASTER);
    use_epochs(&sandbox);
    let sets = [
        "run.epochs=3",
        "data.sources=[{ url = \"scenes:500\" }]",
        "checkpoint.every=16",
    ];
    let mut process = sandbox.start(train("3", &sets));
    let watch = Watch::open(&mut process, &sandbox.run_folder(SMALL));
    watch.wait_for("step 20", at_step(20));
    let last = |status: &ringmaster_proto::v1::RunStatus| {
        let last = status.workers.iter().find(|worker| worker.rank == 2);
        last.expect("rank 2").pid
    };
    sandbox.kill(last(&watch.status()));
    watch.wait_for("generation 2", in_generation(2));
    watch.wait_for("step 45", at_step(45));
    let workers = watch.status().workers;
    let ranked = workers.iter().filter(|worker| worker.rank >= 0);
    ranked.for_each(|worker| sandbox.kill(worker.pid));
    watch.wait_for("step 80", at_step(80));
    process.signal(Signal::SIGINT);
    process.finish().stopped();
    verified(&sandbox);
    let mut process = sandbox.start(train("2", &sets));
    let watch = Watch::open(&mut process, &sandbox.run_folder(SMALL));
    watch.wait_for("step 120", at_step(120));
    sandbox.kill(sandbox.coordinator(SMALL));
    process.finish().succeeded();
    sandbox
}

/// The order of the run's rows, made from what it stored.
fn plan(sandbox: &Sandbox) -> Plan {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let root = Store::open(sandbox.run_folder(SMALL).to_str().unwrap()).unwrap();
    let history = runtime.block_on(ringmaster_coordinator::history(&root));
    let history = history.unwrap().unwrap();
    let hash = &history.corpus.corpus_hash;
    let json = runtime.block_on(root.get(&keys::corpus_manifest(hash)));
    let manifest = CorpusManifest::from_json("", &json.unwrap(), hash).unwrap();
    let spec = RunSpec::from_canonical(&history.spec_json).unwrap();
    Plan::new(manifest.row_groups(), PlanSpec::from(&spec)).unwrap()
}

fn rows_of(plan: &Plan, step: u64) -> Vec<RowRef> {
    let lanes = (0..plan.spec().lanes).map(Lane);
    let rows = lanes.flat_map(|lane| plan.rows(Step(step - 1), lane));
    rows.flatten().collect()
}

/// Changes the lines of a file of the run, expects `ledger verify` to refuse them, returns its sentence
/// and puts the lines back.
fn tampered(sandbox: &Sandbox, name: &str, change: impl FnOnce(&mut Vec<Value>)) -> String {
    let path: PathBuf = sandbox.run_folder(SMALL).join(name);
    let before = std::fs::read_to_string(&path).unwrap();
    let parse = |line| serde_json::from_str(line).unwrap();
    let mut lines: Vec<Value> = before.lines().map(parse).collect();
    change(&mut lines);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, text).unwrap();
    let refused = sandbox.run(["ledger", "verify", SMALL]).refused(UNTRUE);
    std::fs::write(&path, before).unwrap();
    refused
}

/// Changes the hash of a step's rows by `by`, and their count.
fn change_rows(line: &mut Value, by: u64, more: i64) {
    let hash = line["row_hash"].as_str().unwrap();
    let hash = u64::from_str_radix(hash, 16).unwrap().wrapping_add(by);
    line["row_hash"] = format!("{hash:016x}").into();
    line["rows"] = (line["rows"].as_i64().unwrap() + more).into();
}

#[track_caller]
fn assert_says(sentence: &str, words: &[&str]) {
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in {sentence:?}");
    }
}

#[test]
fn every_row_is_fed_once_per_epoch_whatever_happens_and_no_line_can_be_changed() {
    let sandbox = three_epochs();
    let truth = verified(&sandbox);
    let expected = [("steps", STEPS), ("epochs", 3), ("rows", 3 * ROWS)];
    for (key, value) in expected {
        assert_eq!(truth[key], value, "{truth}");
    }
    assert_eq!(truth["quarantined"], 0, "{truth}");
    assert!(truth["generations"].as_u64().unwrap() >= 4, "{truth}");

    let plan = plan(&sandbox);
    let says = |change: &dyn Fn(&mut Vec<Value>), words: &[&str]| {
        assert_says(&tampered(&sandbox, LEDGER, change), words);
    };
    says(
        &|lines| drop(lines.remove(99)),
        &["step 100", "not on record", "101"],
    );
    says(
        &|lines| drop(lines.pop()),
        &["step 189", "not on record", "188"],
    );
    says(
        &|lines| lines.insert(100, lines[99].clone()),
        &["step 100", "again"],
    );
    let another = |lines: &mut Vec<Value>| lines[150]["generation"] = 1.into();
    says(&another, &["step 151", "generation 1", "by the journal"]);
    let row = rows_of(&plan, 41)[3];
    let named = format!("row {} was not fed forward", row.row_id);
    let place = format!("row {} of row group", row.row);
    let missing =
        |lines: &mut Vec<Value>| change_rows(&mut lines[40], row.hash().wrapping_neg(), -1);
    says(&missing, &["step 41", &named, &place, ".parquet"]);
    let named = format!("row {} was fed forward once too often", row.row_id);
    let repeated = |lines: &mut Vec<Value>| change_rows(&mut lines[40], row.hash(), 1);
    says(&repeated, &["step 41", &named, &place]);
    let other = rows_of(&plan, 63)[0];
    let named = format!(
        "row {} was fed forward in place of row {}",
        other.row_id, row.row_id
    );
    let by = other.hash().wrapping_sub(row.hash());
    says(
        &|lines| change_rows(&mut lines[40], by, 0),
        &["step 41", &named, &place],
    );
    says(
        &|lines| change_rows(&mut lines[7], 1, 0),
        &["step 8", "no single row"],
    );
    says(
        &|lines| lines[5]["quarantined"] = 1.into(),
        &["step 6", "refused"],
    );

    assert_eq!(verified(&sandbox), truth);
    sandbox.assert_nothing_left();
}

/// Every quarantined row as (file, row group, row, reason), in order.
fn quarantined(sandbox: &Sandbox) -> Vec<[String; 4]> {
    let args = ["ledger", "show", SMALL, "--quarantined", "--json"];
    let shown = sandbox.run(args).succeeded().stdout;
    let one = |line: &String| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| match &line[key] {
            Value::String(text) => text.rsplit('/').next().unwrap().to_owned(),
            other => other.to_string(),
        };
        ["shard", "row_group", "row", "reason"].map(text)
    };
    let mut rows: Vec<_> = shown.iter().map(one).collect();
    rows.sort();
    rows
}

/// A sandbox whose corpus is the shard of bad rows.
fn with_bad_rows() -> Sandbox {
    let sandbox = Sandbox::new(RINGMASTER);
    use_epochs(&sandbox);
    std::fs::create_dir(sandbox.folder().join("corpus")).unwrap();
    sandbox.write("corpus/a.parquet", BAD_ROWS);
    sandbox
}

#[test]
fn bad_rows_are_named_once_and_the_run_is_the_same_on_every_world_size() {
    let sets = [
        "run.epochs=2",
        "data.sources=[{ url = \"./corpus\" }]",
        "data.max_bad_fraction=0.5",
    ];
    let run = |workers: &str| {
        let sandbox = with_bad_rows();
        let digest = sandbox.run(train(workers, &sets)).succeeded().digest();
        let truth = verified(&sandbox);
        assert_eq!(truth["rows"], 2 * (40 - 7), "{truth}");
        assert_eq!(truth["quarantined"], 2 * 7, "{truth}");
        let named = quarantined(&sandbox);
        let losses = sandbox.losses(SMALL);
        let hidden = tampered(&sandbox, QUARANTINE, |lines| drop(lines.remove(3)));
        assert_says(&hidden, &["was not fed forward", "a.parquet"]);
        sandbox.assert_nothing_left();
        (digest, losses, named)
    };
    let alone = run("1");
    assert_eq!(run("2"), alone);
    assert_eq!(run("3"), alone);

    let expected = [
        ("0", "11", "30000 x 30000"),
        ("0", "2", "cut short"),
        ("0", "5", "not JPEG"),
        ("1", "0", "neither a caption"),
        ("1", "15", "not UTF-8"),
        ("1", "7", "1048576 bytes"),
        ("2", "7", "null"),
    ];
    assert_eq!(alone.2.len(), expected.len(), "{:?}", alone.2);
    for ((group, row, reason), found) in expected.into_iter().zip(&alone.2) {
        assert_eq!(found[..3], ["a.parquet", group, row]);
        assert!(found[3].contains(reason), "{found:?}");
    }
}

#[test]
fn more_bad_rows_than_allowed_end_the_run_at_the_same_step_on_every_world_size() {
    let sets = [
        "run.epochs=2",
        "data.sources=[{ url = \"./corpus\" }]",
        "data.max_bad_fraction=0.05",
    ];
    let data = ErrorKind::Data.exit_code().into();
    let run = |workers: &str| {
        let sandbox = with_bad_rows();
        let sentence = sandbox.run(train(workers, &sets)).refused(data);
        assert_says(
            &sentence,
            &[
                "of 40 rows were refused",
                "data.max_bad_fraction = 0.05",
                QUARANTINE,
            ],
        );
        let truth = verified(&sandbox);
        sandbox.assert_nothing_left();
        (truth, quarantined(&sandbox))
    };
    let alone = run("1");
    assert!(alone.1.len() > 2, "what was too much has a name: {alone:?}");
    assert_eq!(run("3"), alone);
}
