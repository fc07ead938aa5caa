//! Questions come decoded, in order, in bounded batches, and end as they should.

use std::path::Path;
use std::sync::Arc;

use ringmaster_dataset::import::Format;
use ringmaster_dataset::{
    Asked, CorpusManifest, DatasetError, Question, QuestionOptions, Questions,
};
use ringmaster_proto::spec::Columns;
use serde_json::json;

use crate::corpora::{SIDE, pixels};
use crate::import::{folder, source};

fn options(asked: Asked) -> QuestionOptions {
    QuestionOptions {
        asked,
        rows_max: u64::MAX,
        image_size: SIDE,
        max_bad_fraction: 0.0,
    }
}

/// All questions and the number of bad rows.
async fn all(mut questions: Questions) -> Result<(Vec<Question>, u64), DatasetError> {
    let (mut found, mut bad) = (Vec::new(), 0);
    while let Some(batch) = questions.next().await {
        let batch = batch?;
        assert!(batch.questions.len() <= 64);
        found.extend(batch.questions);
        bad += batch.bad;
    }
    Ok((found, bad))
}

/// 150 rows: every third is a caption alone, the others ask about picture `row % 5`.
fn lines() -> Vec<String> {
    let line = |row: u64| match row % 3 {
        2 => json!({"image": "pics/0.png", "caption": "x"}),
        _ => json!({
            "image": format!("pics/{}.png", row % 5), "question": format!("q{row}"),
            "answer": format!("a{row}"), "answers": ["a", "b"],
            "hypothesis": format!("h{row}"), "label": "neutral", "template": "t",
        }),
    };
    (0..150).map(|row| line(row).to_string()).collect()
}

fn files(folder: &Path, options: QuestionOptions) -> Questions {
    Questions::of_files(source(Format::Jsonl, folder), options)
}

#[tokio::test]
async fn files_are_asked_in_order_and_rows_that_ask_nothing_are_passed_over() {
    let folder = folder(0..5, &lines());
    let (found, bad) = all(files(folder.path(), options(Asked::Question)))
        .await
        .unwrap();
    let asking: Vec<u64> = (0..150).filter(|row| row % 3 != 2).collect();
    assert_eq!((found.len(), bad), (asking.len(), 0));
    for (question, row) in found.iter().zip(&asking) {
        assert_eq!(question.text, format!("q{row}"));
        assert_eq!(question.answer, format!("a{row}"));
        assert_eq!(question.image, pixels(row % 5));
        assert_eq!(question.annotators, ["a", "b"]);
        assert_eq!(question.template.as_deref(), Some("t"));
    }
    let (found, _) = all(files(folder.path(), options(Asked::Entailment)))
        .await
        .unwrap();
    assert_eq!(found.len(), asking.len());
    assert_eq!(
        (found[2].text.as_str(), found[2].answer.as_str()),
        ("h3", "neutral")
    );
}

#[tokio::test]
async fn no_more_rows_are_read_than_asked_for() {
    // Line 4 is broken; who reads three rows never sees it.
    let mut lines = lines();
    lines[3] = "{".into();
    let folder = folder(0..5, &lines);
    let three = QuestionOptions {
        rows_max: 3,
        ..options(Asked::Question)
    };
    let (found, _) = all(files(folder.path(), three)).await.unwrap();
    assert_eq!(found.len(), 2);
    let four = QuestionOptions {
        rows_max: 4,
        ..three
    };
    let error = all(files(folder.path(), four))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("line 4"), "{error}");
    // One bad row of four is a quarter.
    let tolerant = |limit| QuestionOptions {
        max_bad_fraction: limit,
        ..four
    };
    let (found, bad) = all(files(folder.path(), tolerant(0.25))).await.unwrap();
    assert_eq!((found.len(), bad), (2, 1));
    let error = all(files(folder.path(), tolerant(0.24)))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("1 of 4 rows") && error.contains("line 4"),
        "{error}"
    );
}

#[tokio::test]
async fn a_corpus_is_asked_as_the_same_files_are() {
    let folder = folder(0..5, &lines());
    let out = folder.path().join("out");
    let store = ringmaster_dataset::Store::open(out.to_str().unwrap()).unwrap();
    let options_of_import = ringmaster_dataset::import::ImportOptions {
        rows_per_shard: Some(40),
        max_bad_fraction: 0.0,
    };
    let imported = ringmaster_dataset::import::import(
        source(Format::Jsonl, &folder.path().join("rows.jsonl")),
        ringmaster_dataset::import::Exclusion::default(),
        &store,
        options_of_import,
        (),
    );
    imported.await.unwrap();
    let columns = Columns::default();
    let urls = [out.to_str().unwrap().to_owned()];
    let manifest = CorpusManifest::open(&urls, &columns, "", |_, _| {})
        .await
        .unwrap();
    let manifest = Arc::new(manifest);
    let strip = |(questions, bad): (Vec<Question>, u64)| {
        let strip = |question: Question| Question {
            id: String::new(),
            annotators: Vec::new(),
            ..question
        };
        (questions.into_iter().map(strip).collect::<Vec<_>>(), bad)
    };
    for asked in [Asked::Question, Asked::Entailment] {
        let of_rows = Questions::of_rows(&manifest, &columns, options(asked)).unwrap();
        let of_files = files(folder.path(), options(asked));
        assert_eq!(
            strip(all(of_rows).await.unwrap()),
            strip(all(of_files).await.unwrap())
        );
    }
    let seven = QuestionOptions {
        rows_max: 7,
        ..options(Asked::Question)
    };
    let of_rows = Questions::of_rows(&manifest, &columns, seven).unwrap();
    assert_eq!(all(of_rows).await.unwrap().0.len(), 5);
}
