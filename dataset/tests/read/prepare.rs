//! Preparing is idempotent, and what it stores is all a worker needs.

use std::path::Path;
use std::sync::Mutex;

use ringmaster_dataset::{Corpus, Prepared, Progress, Store, prepare, read_rows, scenes};
use ringmaster_proto::{ErrorKind, RunSpec};

use crate::corpora::{SIDE, open, pixels, png, spec, write_corpus};

fn scenes_spec(rows: u64) -> RunSpec {
    let text = format!("[data]\nsources = [{{ url = \"scenes:{rows}\" }}]");
    RunSpec::parse(&text, &[]).unwrap()
}

fn store(folder: &Path) -> Store {
    Store::open(folder.to_str().unwrap()).unwrap()
}

#[derive(Default)]
struct Heard(Mutex<Vec<(String, u64, u64)>>);

impl Progress for Heard {
    fn stage(&self, name: &str, done: u64, total: u64) {
        self.0.lock().unwrap().push((name.to_owned(), done, total));
    }
}

#[tokio::test]
async fn scenes_are_made_once_and_the_same_everywhere() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spec = scenes_spec(700);
    let heard = Heard::default();
    let first = prepare(&spec, &store(a.path()), &heard).await.unwrap();
    let stages = heard.0.into_inner().unwrap();
    assert!(
        stages.contains(&("scenes".into(), 700 + 1024, 700 + 1024)),
        "{stages:?}"
    );
    let again = Heard::default();
    assert_eq!(
        prepare(&spec, &store(a.path()), &again).await.unwrap(),
        first
    );
    let stages = again.0.into_inner().unwrap();
    assert!(
        stages.iter().all(|(name, ..)| name == "footers"),
        "{stages:?}"
    );
    assert_eq!(prepare(&spec, &store(b.path()), &()).await.unwrap(), first);
    assert_eq!((first.corpus_rows, first.validation_rows), (700, 1024));
}

#[tokio::test]
async fn an_unfinished_corpus_of_scenes_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let spec = scenes_spec(600);
    let first = prepare(&spec, &store(folder.path()), &()).await.unwrap();
    let scenes = folder.path().join("scenes");
    std::fs::remove_file(scenes.join("corpus.json")).unwrap();
    let shard = scenes.join("train/scenes-00000-of-00001.parquet");
    std::fs::copy(&shard, scenes.join("train/scenes-00001-of-00002.parquet")).unwrap();
    std::fs::write(&shard, "cut short").unwrap();
    assert_eq!(
        prepare(&spec, &store(folder.path()), &()).await.unwrap(),
        first
    );
}

#[tokio::test]
async fn stored_scenes_are_what_the_generator_draws() {
    let folder = tempfile::tempdir().unwrap();
    let spec = scenes_spec(600);
    let corpus = open(&spec, folder.path()).await;
    let columns = &spec.data.columns;
    let rows = read_rows(&corpus.train, columns, 500..520, scenes::SIZE)
        .await
        .unwrap();
    for (index, example) in (500..).zip(&rows) {
        let drawn = scenes::row(spec.run.seed, index);
        assert_eq!(example.image, drawn.image);
        assert_eq!(example.caption.as_ref(), Some(&drawn.caption));
        assert_eq!(example.question.as_ref(), Some(&drawn.question));
        assert_eq!(example.answer.as_ref(), Some(&drawn.answer));
        assert_eq!(example.template.as_deref(), Some(drawn.template));
        assert_eq!(example.objects, drawn.objects);
        assert_eq!(example.hypothesis.as_ref(), Some(&drawn.hypothesis));
        assert_eq!(example.label.as_deref(), Some(drawn.label));
    }
    let held_out = corpus.validation.unwrap();
    let others = read_rows(&held_out, columns, 0..20, scenes::SIZE)
        .await
        .unwrap();
    assert!(
        others
            .iter()
            .zip(&rows)
            .any(|(other, row)| other.image != row.image)
    );
    assert!(corpus.tokenizer.size() <= spec.model.vocab);
}

#[tokio::test]
async fn a_worker_refuses_what_was_not_prepared() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("corpus");
    write_corpus(&corpus, &[20], 4, |id| png(&pixels(id), SIDE, SIDE));
    let spec = spec(&corpus, "validation = 0.2", "steps = 3");
    let root = store(&folder.path().join("run"));
    let Prepared {
        corpus_hash,
        validation_hash,
        tokenizer_hash,
        ..
    } = prepare(&spec, &root, &()).await.unwrap();
    assert!(!validation_hash.is_empty());
    let nothing = "0".repeat(64);
    let wrong = [
        (&nothing, &validation_hash, &tokenizer_hash),
        (&corpus_hash, &nothing, &tokenizer_hash),
        (&corpus_hash, &validation_hash, &nothing),
    ];
    for (corpus, validation, tokenizer) in wrong {
        let opened = Corpus::open(&spec, &root, corpus, validation, tokenizer).await;
        let text = opened.unwrap_err().to_string();
        assert!(text.contains(&root.url()), "{text}");
    }
}

#[tokio::test]
async fn a_given_tokenizer_must_fit_and_is_then_used() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("corpus");
    write_corpus(&corpus, &[20], 4, |id| png(&pixels(id), SIDE, SIDE));
    let given = folder.path().join("given.json");
    let words = (0..2000).map(|n: u64| format!("word{}", n * n));
    let tokenizer = ringmaster_dataset::Tokenizer::train(words, 600).unwrap();
    std::fs::write(&given, tokenizer.to_json().unwrap()).unwrap();
    let root = store(&folder.path().join("run"));
    let data = format!("tokenizer = {:?}", given.to_str().unwrap());
    let error = prepare(&spec(&corpus, &data, ""), &root, &())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("model.vocab is 512"), "{error}");
    let mut fits = spec(&corpus, &data, "");
    fits.model.vocab = 600;
    prepare(&fits, &root, &()).await.unwrap();
    assert_eq!(
        root.get("tokenizer.json").await.unwrap(),
        tokenizer.to_json().unwrap()
    );
}

#[tokio::test]
async fn a_run_that_starts_from_another_takes_its_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("corpus");
    write_corpus(&corpus, &[20], 4, |id| png(&pixels(id), SIDE, SIDE));
    let earlier = folder.path().join("earlier");
    std::fs::create_dir(&earlier).unwrap();
    let words = (0..50).map(|n: u64| format!("word{n}"));
    let tokenizer = ringmaster_dataset::Tokenizer::train(words, 400).unwrap();
    let json = tokenizer.to_json().unwrap();
    std::fs::write(earlier.join("tokenizer.json"), &json).unwrap();
    let file = earlier.join("model.safetensors");
    for (run, from) in [("a", &earlier), ("b", &file)] {
        let mut spec = spec(&corpus, "", "");
        spec.init.from = Some(from.to_str().unwrap().to_owned());
        let root = store(&folder.path().join(run));
        prepare(&spec, &root, &()).await.unwrap();
        assert_eq!(root.get("tokenizer.json").await.unwrap(), json);
    }
    // It is the run's own from then on; and without one there is nothing to guess.
    std::fs::remove_file(earlier.join("tokenizer.json")).unwrap();
    let mut spec = spec(&corpus, "", "");
    spec.init.from = Some(earlier.to_str().unwrap().to_owned());
    let root = store(&folder.path().join("a"));
    prepare(&spec, &root, &()).await.unwrap();
    let root = store(&folder.path().join("c"));
    let error = prepare(&spec, &root, &()).await.unwrap_err().to_string();
    assert!(error.contains("earlier/tokenizer.json"), "{error}");
}

#[tokio::test]
async fn a_source_of_impossible_scenes_is_refused_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = scenes_spec(1);
    for url in ["scenes:", "scenes:0", "scenes:many"] {
        spec.data.sources[0].url = url.to_owned();
        let error = prepare(&spec, &store(folder.path()), &())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(url) && error.to_string().contains("data.sources"));
    }
}
