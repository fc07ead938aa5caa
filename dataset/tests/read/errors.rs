//! Each mistake gets one sentence: the thing, the reason, the next move.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, StringArray};
use ringmaster_dataset::{CorpusManifest, DatasetError};
use ringmaster_proto::ErrorKind;
use ringmaster_proto::spec::Columns;

use crate::corpora::{table, write, write_corpus};

async fn refusal(source: &Path, columns: &Columns) -> DatasetError {
    let sources = [source.display().to_string()];
    let opened = CorpusManifest::open(&sources, columns, "data.sources", |_, _| {}).await;
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    error
}

fn assert_says(error: &DatasetError, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
    assert!(!text.contains('\n') && !text.ends_with('.'), "{text}");
}

fn shard(folder: &Path, columns: Vec<(&str, ArrayRef)>) {
    write(&folder.join("x.parquet"), &table(columns), 4);
}

fn text() -> ArrayRef {
    Arc::new(StringArray::from(vec!["a", "b"]))
}

fn binary() -> ArrayRef {
    Arc::new(BinaryArray::from_vec(vec![b"a", b"b"]))
}

#[tokio::test]
async fn a_missing_corpus_is_named_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    let error = refusal(&nowhere, &Columns::default()).await;
    assert_says(
        &error,
        &[nowhere.to_str().unwrap(), "no Parquet file", "data.sources"],
    );
    let error = refusal(&nowhere.join("one.parquet"), &Columns::default()).await;
    assert_says(&error, &["nowhere/one.parquet", "no Parquet file"]);
}

#[tokio::test]
async fn missing_columns_are_named_with_those_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let none = Columns::default();
    shard(
        folder.path(),
        vec![("picture", binary()), ("caption", text())],
    );
    let error = refusal(folder.path(), &none).await;
    assert_says(
        &error,
        &[
            "x.parquet",
            "picture (Binary)",
            "caption (Utf8)",
            "data.columns.image",
        ],
    );
    let named = Columns {
        image: Some("photo".into()),
        ..Columns::default()
    };
    let error = refusal(folder.path(), &named).await;
    assert_says(&error, &["no column photo", "data.columns.image"]);
    shard(
        folder.path(),
        vec![("image", binary()), ("question", text())],
    );
    let error = refusal(folder.path(), &none).await;
    assert_says(&error, &["caption or text", "data.columns.caption"]);
    let named = Columns {
        question: Some("question".into()),
        ..Columns::default()
    };
    let error = refusal(folder.path(), &named).await;
    assert_says(&error, &["answer", "data.columns.answer"]);
}

#[tokio::test]
async fn a_column_of_another_type_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    shard(folder.path(), vec![("image", text()), ("caption", text())]);
    let error = refusal(folder.path(), &Columns::default()).await;
    assert_says(
        &error,
        &["column image is Utf8, not binary", "data.columns.image"],
    );
    let numbers = Arc::new(Int64Array::from(vec![1, 2]));
    shard(
        folder.path(),
        vec![("image", binary()), ("caption", numbers)],
    );
    let error = refusal(folder.path(), &Columns::default()).await;
    assert_says(
        &error,
        &["column caption is Int64, not text", "data.columns.caption"],
    );
}

/// Every damage to the end of a shard is refused by name; none ends the process.
#[tokio::test]
async fn a_damaged_shard_is_named_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-000.parquet");
    write_corpus(folder.path(), &[8], 4, |_| vec![1, 2, 3]);
    let whole = std::fs::read(&path).unwrap();
    let footer = whole.len() - 8;
    let mut damaged: Vec<Vec<u8>> = [0, 4, 7, 8, footer]
        .iter()
        .map(|length| whole[..*length].to_vec())
        .collect();
    let mut claims = whole.clone();
    claims[footer..footer + 4].copy_from_slice(&[0xff; 4]);
    damaged.push(claims);
    let mut garbled = whole.clone();
    garbled[footer - 300..footer].fill(0x5a);
    damaged.push(garbled);
    damaged.push(b"PAR1 but not really, PAR1".to_vec());
    for bytes in damaged {
        std::fs::write(&path, bytes).unwrap();
        let error = refusal(folder.path(), &Columns::default()).await;
        assert!(matches!(error, DatasetError::Corrupt { .. }), "{error}");
        assert_says(
            &error,
            &[
                "part-000.parquet",
                "cannot be read as Parquet",
                "write it again",
            ],
        );
    }
}
