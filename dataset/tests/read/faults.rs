//! Whatever store and network do, every row arrives once and as it was written, or reading stops with
//! one sentence.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use ringmaster_dataset::{Corpus, DatasetError, Form, Loader, LoaderOptions, Store, prepare};
use ringmaster_proto::Step;
use tokio::runtime::Runtime;

use crate::corpora::{SIDE, caption, pixels, png, spec, write_corpus};
use crate::faulty::{Fault, Faulty};

/// Rows of the corpus: three shards.
const COUNTS: [usize; 3] = [40, 25, 35];

const NO_LATENCY: Duration = Duration::ZERO;

/// Reads an epoch of the corpus at `url` and checks every row of it against the generator; returns
/// how many there were.
pub(crate) fn read_epoch(url: &str, run: &Path) -> Result<usize, DatasetError> {
    let data = "lanes = 4\nlane_batch = 2\nshuffle_rows = 40\nvalidation = 0.0";
    let spec = spec(Path::new(url), data, "epochs = 1");
    let runtime = Runtime::new().unwrap();
    let corpus = runtime.block_on(async {
        let root = Store::open(run.to_str().unwrap())?;
        let prepared = prepare(&spec, &root, &()).await?;
        let (train, tokenizer) = (&prepared.corpus_hash, &prepared.tokenizer_hash);
        Corpus::open(&spec, &root, train, "", tokenizer).await
    })?;
    let options = LoaderOptions {
        lanes: 0..4,
        standby: Vec::new(),
        from: Step(0),
        to: Step(corpus.total_steps),
        image_size: SIDE,
        form: Form::Bytes,
        prefetch_steps: 2,
        threads: 1,
        dct_scaling: false,
        augment: None,
    };
    let mut loader = Loader::start(&corpus, options, runtime.handle());
    let mut seen = std::collections::BTreeSet::new();
    while let Some(batch) = loader.next_blocking() {
        for lane in batch?.lanes {
            let pictures = lane.images.as_bytes().chunks(3 * SIDE * SIDE);
            for (example, picture) in lane.examples.iter().zip(pictures) {
                let Some(row) = example.row else { continue };
                assert!(
                    example.refused.is_none() && picture == pixels(row.row_id),
                    "{row:?}"
                );
                assert_eq!(example.caption, Some(caption(row.row_id)));
                assert!(seen.insert(row.row_id), "{row:?} twice");
            }
        }
    }
    Ok(seen.len())
}

/// What the children below run, because a store reads its environment; by itself it does nothing.
#[test]
fn child_reads_an_epoch() {
    let Ok(run) = std::env::var("FAULTS_TEST_RUN") else {
        return;
    };
    // What it waits for, should it wait for ever.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let read = read_epoch("s3://corpus", Path::new(&run));
    println!(
        "answer: {}",
        read.map_or_else(|error| error.to_string(), |rows| format!("{rows} rows"))
    );
}

/// What a process says that reads an epoch from `server`.
pub(crate) async fn answer(server: &Faulty, env: &[(&str, String)]) -> String {
    let run = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "faults::child_reads_an_epoch", "--nocapture"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        child.env_remove(name);
    }
    let own = server.environment();
    let own = own.iter().chain(env);
    child
        .env("FAULTS_TEST_RUN", run.path())
        .envs(own.map(|(name, value)| (*name, value)));
    let output = tokio::task::spawn_blocking(move || child.output());
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text
        .lines()
        .find_map(|line| Some(line.split_once("answer: ")?.1.to_owned()));
    line.unwrap_or_else(|| panic!("no answer in {text}"))
}

fn corpus() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path(), &COUNTS, 10, |id| {
        png(&pixels(id), SIDE, SIDE)
    });
    folder
}

const SLOW_DOWN: Fault = Fault::Status(503, "SlowDown");

#[tokio::test]
async fn no_row_is_lost_or_repeated_or_other_while_reads_fail_now_and_then() {
    let folder = corpus();
    let kinds = [
        Fault::Status(500, "InternalError"),
        SLOW_DOWN,
        Fault::Status(429, "TooManyRequests"),
        Fault::Silence,
        Fault::Truncation,
        Fault::Reset,
        Fault::WrongBytes,
    ];
    let rows = COUNTS.iter().sum::<usize>();
    let told = kinds.map(|fault| {
        let folder = folder.path();
        async move {
            // An answer that never comes is waited for until it is late, which takes a while to learn.
            let every = if fault == Fault::Silence { 16 } else { 5 };
            let policy = move |read| {
                if read % every == 2 {
                    fault
                } else {
                    Fault::None
                }
            };
            let server = Faulty::start(folder, NO_LATENCY, policy).await;
            let told = answer(&server, &[]).await;
            assert!(
                server.counts.reads.load(Ordering::Relaxed) > 10,
                "{fault:?} was met"
            );
            assert_eq!(told, format!("{rows} rows"), "{fault:?}");
        }
    });
    join_all(told).await;
}

#[tokio::test]
async fn a_mix_of_everything_with_a_long_way_to_the_store_changes_nothing() {
    let folder = corpus();
    let policy = |read: u64| match read.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60 {
        0 => Fault::Reset,
        1 => SLOW_DOWN,
        2 => Fault::Truncation,
        _ => Fault::None,
    };
    let server = Faulty::start(folder.path(), Duration::from_millis(50), policy).await;
    let rows = COUNTS.iter().sum::<usize>();
    assert_eq!(answer(&server, &[]).await, format!("{rows} rows"));
}

#[tokio::test]
async fn what_waiting_cannot_mend_stops_with_one_sentence() {
    let folder = corpus();
    // The footers are read before: 3 of the manifest and the texts of the tokenizer.
    let late = 12;
    let cases = [
        (
            Fault::OtherVersion,
            "parquet: changed since the run began; restore it",
        ),
        (
            Fault::Status(404, "NoSuchKey"),
            "parquet: gone since the run began; restore it",
        ),
        (Fault::WrongBytes, "parquet: cannot be read as Parquet"),
        (
            Fault::Status(403, "AccessDenied"),
            "the store refused the credentials: AccessDenied",
        ),
    ];
    let told = cases.map(|(fault, sentence)| {
        let folder = folder.path();
        async move {
            let policy = move |read| if read >= late { fault } else { Fault::None };
            let server = Faulty::start(folder, NO_LATENCY, policy).await;
            let told = answer(&server, &[]).await;
            assert!(told.contains("s3://corpus/part-00"), "{fault:?}: {told}");
            assert!(told.contains(sentence), "{fault:?}: {told}");
        }
    });
    join_all(told).await;
}

#[tokio::test]
async fn missing_and_wrong_credentials_are_one_sentence_before_anything_is_read() {
    let folder = corpus();
    let denied = |_| Fault::Status(403, "InvalidAccessKeyId");
    let server = Faulty::start(folder.path(), NO_LATENCY, denied).await;
    let told = answer(&server, &[]).await;
    assert!(
        told.contains("the store refused the credentials: InvalidAccessKeyId"),
        "{told}"
    );
    let server = Faulty::start(folder.path(), NO_LATENCY, |_| Fault::None).await;
    let told = answer(&server, &[("AWS_ACCESS_KEY_ID", String::new())]).await;
    assert!(
        told.contains("no credentials are set; set AWS_ACCESS_KEY_ID"),
        "{told}"
    );
    assert_eq!(server.counts.reads.load(Ordering::Relaxed), 0);
}
