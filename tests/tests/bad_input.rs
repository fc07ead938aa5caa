//! Bad input gets one sentence with the thing, the reason and the next move, and nothing is lost.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;

use ringmaster_proto::ErrorKind;
use ringmaster_tests::s3::S3Server;
use ringmaster_tests::sandbox::{SMALL, SMALL_RUN, Sandbox};

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

const OTHER_COLUMNS: &[u8] = include_bytes!("../fixtures/other_columns.parquet");

/// Runs `train run.toml` with `overrides`, expects a refusal of this kind, returns its sentence.
fn refusal(sandbox: &Sandbox, kind: ErrorKind, overrides: &[&str]) -> String {
    let sets = overrides.iter().flat_map(|set| ["--set", set]);
    let args = ["train", "run.toml", "--workers", "2"]
        .into_iter()
        .chain(sets);
    let sentence = sandbox.run(args).refused(kind.exit_code().into());
    sandbox.assert_nothing_left();
    sentence
}

#[track_caller]
fn assert_says(sentence: &str, words: &[&str]) {
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in {sentence:?}");
    }
}

fn source(url: &str) -> String {
    format!("data.sources=[{{ url = \"{url}\" }}]")
}

#[test]
fn a_corpus_that_is_not_there_is_named() {
    let sandbox = Sandbox::new(RINGMASTER);
    let sentence = refusal(&sandbox, ErrorKind::Data, &[&source("./no-such-corpus")]);
    assert_says(&sentence, &["no-such-corpus"]);
}

#[test]
fn a_corpus_that_is_not_in_the_store_is_named() {
    let server = S3Server::start();
    let mut sandbox = Sandbox::new(RINGMASTER);
    sandbox.use_store(&server);
    let url = server.url("no-such-corpus");
    let sentence = refusal(&sandbox, ErrorKind::Data, &[&source(&url)]);
    assert_says(&sentence, &[&url]);
}

#[test]
fn credentials_the_store_refuses_are_said_to_be_refused() {
    let server = S3Server::start();
    server.put("corpus/a.parquet", OTHER_COLUMNS.to_vec());
    let mut sandbox = Sandbox::new(RINGMASTER);
    sandbox.use_store(&server);
    sandbox.set("AWS_SECRET_ACCESS_KEY", "wrong");
    let url = server.url("corpus");
    let sentence = refusal(&sandbox, ErrorKind::Invalid, &[&source(&url)]);
    assert_says(&sentence, &[&url, "credentials"]);
}

#[test]
fn parquet_without_the_columns_says_which_it_has_and_how_to_name_them() {
    let sandbox = Sandbox::new(RINGMASTER);
    std::fs::create_dir(sandbox.folder().join("corpus")).unwrap();
    sandbox.write("corpus/a.parquet", OTHER_COLUMNS);
    let sentence = refusal(&sandbox, ErrorKind::Data, &[&source("./corpus")]);
    assert_says(
        &sentence,
        &["a.parquet", "image", "id", "title", "data.columns"],
    );
}

#[test]
fn an_unknown_key_is_named() {
    let sandbox = Sandbox::new(RINGMASTER);
    let text = SMALL_RUN.replace("[data]", "[data]\nlane_bach = 4");
    sandbox.write("run.toml", text);
    let sentence = refusal(&sandbox, ErrorKind::Invalid, &[]);
    assert_says(&sentence, &["lane_bach", "lane_batch", "[data]"]);
}

#[test]
fn an_unknown_key_in_an_override_is_named() {
    let sandbox = Sandbox::new(RINGMASTER);
    let sentence = refusal(&sandbox, ErrorKind::Invalid, &["train.learning_rate=1"]);
    assert_says(&sentence, &["learning_rate", "[train]"]);
}

#[test]
fn a_port_in_use_is_named() {
    let sandbox = Sandbox::new(RINGMASTER);
    sandbox.write("token", "0".repeat(64));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port().to_string();
    let args = [
        "coordinator",
        "run.toml",
        "--token-file",
        "token",
        "--port",
        &port,
    ];
    let sentence = sandbox
        .run(args)
        .refused(ErrorKind::Invalid.exit_code().into());
    assert_says(&sentence, &[&address.to_string(), "in use", "--port"]);
    sandbox.assert_nothing_left();
}

/// A changed model is refused before anything is touched, and the old run is still what it was.
#[test]
fn a_checkpoint_of_another_model_is_refused_and_kept() {
    let sandbox = Sandbox::new(RINGMASTER);
    let train = ["train", "run.toml", "--workers", "1", "--output", "json"];
    let finished = sandbox.run(train).succeeded();
    let list = ["checkpoint", "list", SMALL, "--output", "json"];
    let before = sandbox.run(list).succeeded().stdout;
    assert!(!before.is_empty(), "the finished run has a checkpoint");

    let longer = ["run.steps=60", "model.width=64"];
    let sentence = refusal(&sandbox, ErrorKind::Invalid, &longer);
    assert_says(&sentence, &["model.width", "32", "64"]);

    assert_eq!(sandbox.run(list).succeeded().stdout, before);
    let longer = train.iter().chain(&["--set", "run.steps=60"]);
    let resumed = sandbox.run(longer).succeeded();
    assert_eq!(resumed.last_object()["steps"], 60);
    assert_ne!(resumed.digest(), finished.digest());
}

/// The parts of a checkpoint are checked, not believed: a damaged one is named.
#[test]
fn a_damaged_checkpoint_is_named() {
    let sandbox = Sandbox::new(RINGMASTER);
    let train = ["train", "run.toml", "--workers", "1"];
    sandbox.run(train).succeeded();
    let part = parts(&sandbox)
        .pop()
        .expect("a part of the last checkpoint");
    let mut bytes = std::fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let sentence = refusal(&sandbox, ErrorKind::Data, &["run.steps=60"]);
    assert_says(&sentence, &["step-", ".safetensors"]);
}

fn parts(sandbox: &Sandbox) -> Vec<std::path::PathBuf> {
    let folder = sandbox.run_folder(SMALL).join("checkpoints");
    let checkpoints = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = checkpoints.flat_map(|path| std::fs::read_dir(path).unwrap());
    let files = files.map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|kind| kind == "safetensors"))
        .collect()
}
