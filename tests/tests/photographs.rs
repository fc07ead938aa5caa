//! Real input, end to end: JPEG photographs in Parquet that pyarrow wrote, read over S3 by three
//! workers, stopped in mid-epoch and continued.
//!
//! `cargo test --release -p ringmaster-tests --test photographs` makes corpus, server and runs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use nix::sys::signal::Signal;
use ringmaster_tests::photographs;
use ringmaster_tests::s3::S3Server;
use ringmaster_tests::sandbox::Sandbox;
use ringmaster_tests::watch::Watch;

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

/// Two epochs of 96 steps of eight rows each, but for the held-out row groups.
const ROWS: usize = 768;

/// The command that trains the photographs as the run `name`, corpus and checkpoints on `server`.
fn train(server: &S3Server, name: &str) -> Vec<String> {
    let mut args: Vec<String> = ["train", "run.toml", "--workers", "3", "--output", "json"]
        .map(str::to_owned)
        .into();
    let overrides = [
        format!("run.name={name}"),
        format!("run.store={}", server.url("store")),
        "run.epochs=2".to_owned(),
        format!(
            "data.sources=[{{ url = \"{}\" }}]",
            server.url("photographs")
        ),
        "data.validation=0.1".to_owned(),
    ];
    args.extend(
        overrides
            .into_iter()
            .flat_map(|set| ["--set".to_owned(), set]),
    );
    args
}

fn upload(folder: &Path, server: &S3Server) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        server.put(
            &format!("photographs/{name}"),
            std::fs::read(&path).unwrap(),
        );
    }
}

#[test]
fn stopped_in_mid_epoch_and_continued_the_losses_are_those_of_an_undisturbed_run() {
    let corpus = tempfile::tempdir().unwrap();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if photographs::make(cache, corpus.path(), ROWS).is_none() {
        return;
    }
    let server = S3Server::start();
    upload(corpus.path(), &server);
    let mut sandbox = Sandbox::new(RINGMASTER);
    sandbox.use_store(&server);

    let undisturbed = sandbox.run(train(&server, "undisturbed")).succeeded();

    let mut process = sandbox.start(train(&server, "disturbed"));
    let watch = Watch::open(&mut process, &sandbox.run_folder("disturbed"));
    watch.wait_for_step(20);
    sandbox.note_sockets();
    process.signal(Signal::SIGINT);
    process.finish().stopped();
    sandbox.assert_nothing_left();
    let losses = sandbox.losses("undisturbed");
    let done = sandbox.losses("disturbed").len();
    assert!(
        (20..losses.len()).contains(&done),
        "stopped after {done} of {} steps",
        losses.len()
    );
    assert!(
        !done.is_multiple_of(losses.len() / 2),
        "stopped in the middle of an epoch"
    );

    let resumed = sandbox.run(train(&server, "disturbed")).succeeded();
    assert_eq!(resumed.digest(), undisturbed.digest());
    assert_eq!(sandbox.losses("disturbed"), losses);
    assert_eq!(
        sandbox.metrics("disturbed").len(),
        losses.len(),
        "no step was done twice"
    );
    sandbox.assert_nothing_left();
}
