//! What is imported comes back as it was, what is excluded does not, what is broken is named.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, StringArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use ringmaster_dataset::import::{
    BadRow, Exclusion, Format, ImportOptions, Imported, Row, Source, Tolerance, import, read,
};
use ringmaster_dataset::{CorpusManifest, DatasetError, Store, Texts, read_rows};
use ringmaster_proto::ErrorKind;
use ringmaster_proto::spec::Columns;
use serde_json::json;

use crate::corpora::{SIDE, pixels, png, table, write};

pub(crate) fn source(format: Format, from: &Path) -> Source {
    Source {
        format,
        from: from.to_owned(),
        annotations: None,
        images: None,
        columns: Columns::default(),
    }
}

/// The encoded picture `id`, alike for equal ids only.
pub(crate) fn picture(id: u64) -> Vec<u8> {
    png(&pixels(id), SIDE, SIDE)
}

/// A folder with picture `id` as `pics/ID.png` for each id, and `rows.jsonl` with `lines`.
pub(crate) fn folder(ids: std::ops::Range<u64>, lines: &[String]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("pics")).unwrap();
    for id in ids {
        let path = folder.path().join(format!("pics/{id}.png"));
        std::fs::write(path, picture(id)).unwrap();
    }
    std::fs::write(folder.path().join("rows.jsonl"), lines.join("\n")).unwrap();
    folder
}

async fn run(
    source: Source,
    exclude: &[PathBuf],
    out: &Path,
    rows_per_shard: Option<u64>,
    max_bad_fraction: f64,
) -> Result<Imported, DatasetError> {
    let out = Store::open(out.to_str().unwrap()).unwrap();
    let options = ImportOptions {
        rows_per_shard,
        max_bad_fraction,
    };
    import(source, Exclusion::read(exclude).unwrap(), &out, options, ()).await
}

/// Every row of a source, or the first thing that is wrong.
pub(crate) fn rows(source: &Source) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    let mut bad: Option<BadRow> = None;
    let visit = &mut |row: Result<Row, BadRow>| match row {
        Ok(row) => {
            rows.push(row);
            ControlFlow::Continue(())
        }
        Err(error) => {
            bad = Some(error);
            ControlFlow::Break(())
        }
    };
    read(source, visit).map_err(|error| error.to_string())?;
    bad.map_or(Ok(rows), |bad| Err(bad.to_string()))
}

/// The rows below `out`, in order, read with nothing of this crate but the names of the columns.
fn stored(out: &Path) -> Vec<Row> {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(out) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    };
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        let file = std::fs::File::open(file).unwrap();
        let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        for batch in batches.build().unwrap() {
            let batch = batch.unwrap();
            let image = batch.column_by_name("image").unwrap().as_struct();
            let bytes = image.column_by_name("bytes").unwrap().as_binary::<i32>();
            let paths = image.column_by_name("path").unwrap().as_string::<i32>();
            let text = |name: &str, row: usize| {
                let column = batch.column_by_name(name).unwrap().as_string::<i32>();
                let there = !arrow::array::Array::is_null(column, row);
                there.then(|| column.value(row).to_owned())
            };
            let objects = batch.column_by_name("objects").unwrap().as_list::<i32>();
            for row in 0..batch.num_rows() {
                let list = objects.value(row);
                let list = list.as_string::<i32>().iter().flatten();
                rows.push(Row {
                    path: paths.value(row).to_owned(),
                    image: bytes.value(row).to_vec().into(),
                    texts: Texts {
                        caption: text("caption", row),
                        question: text("question", row),
                        answer: text("answer", row),
                        template: text("template", row),
                        objects: list.map(str::to_owned).collect(),
                        hypothesis: text("hypothesis", row),
                        label: text("label", row),
                    },
                    ..Row::default()
                });
            }
        }
    }
    rows
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// A row about one of six pictures, with at least a caption.
pub(crate) fn any_row() -> impl Strategy<Value = Row> {
    let word = || "[a-zäé\"\\\\{},:. ]{0,12}[a-z]";
    let maybe = || prop::option::of(word());
    let objects = prop::collection::vec(word(), 0..4);
    (0..6_u64, word(), maybe(), maybe(), objects, maybe()).prop_map(
        |(picture_id, caption, asked, template, objects, stated)| Row {
            path: format!("pics/{picture_id}.png"),
            image: picture(picture_id).into(),
            texts: Texts {
                caption: Some(caption),
                answer: asked.as_ref().map(|question| format!("{question} yes")),
                question: asked,
                template,
                objects,
                label: stated.as_ref().map(|_| "neutral".to_owned()),
                hypothesis: stated,
            },
            ..Row::default()
        },
    )
}

fn line(row: &Row) -> String {
    let Texts {
        caption,
        question,
        answer,
        template,
        objects,
        hypothesis,
        label,
    } = &row.texts;
    json!({
        "image": row.path, "caption": caption, "question": question, "answer": answer,
        "template": template, "objects": objects, "hypothesis": hypothesis, "label": label,
    })
    .to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_imported_comes_back_equal_and_in_order(
        given in prop::collection::vec(any_row(), 1..20),
        rows_per_shard in prop::option::of(1..7_u64),
    ) {
        let lines: Vec<String> = given.iter().map(line).collect();
        let folder = folder(0..6, &lines);
        let out = folder.path().join("out");
        let all = given.len() as u64;
        let imported = runtime().block_on(run(
            source(Format::Jsonl, folder.path()), &[], &out, rows_per_shard, 0.0,
        )).unwrap();
        prop_assert_eq!(imported.rows, all);
        prop_assert_eq!(imported.shards, rows_per_shard.map_or(1, |per| all.div_ceil(per)));
        prop_assert_eq!(&stored(&out), &given);

        // As training reads it.
        let urls = [out.to_str().unwrap().to_owned()];
        let columns = Columns::default();
        let examples = runtime().block_on(async {
            let manifest = CorpusManifest::open(&urls, &columns, "", |_, _| {}).await.unwrap();
            assert_eq!(manifest.bytes(), imported.bytes);
            read_rows(&Arc::new(manifest), &columns, 0..all, SIDE).await.unwrap()
        });
        for (example, row) in examples.iter().zip(&given) {
            let id: u64 = row.path[5..6].parse().unwrap();
            prop_assert_eq!(&example.image, &pixels(id));
            let read = Texts {
                caption: example.caption.clone(),
                question: example.question.clone(),
                answer: example.answer.clone(),
                template: example.template.clone(),
                objects: example.objects.clone(),
                hypothesis: example.hypothesis.clone(),
                label: example.label.clone(),
            };
            prop_assert_eq!(&read, &row.texts);
        }

        // What was imported can be imported.
        let again = folder.path().join("again");
        runtime().block_on(run(source(Format::Parquet, &out), &[], &again, Some(3), 0.0)).unwrap();
        prop_assert_eq!(&stored(&again), &given);
    }

    #[test]
    fn an_excluded_picture_is_in_no_shard_whatever_its_position(
        given in prop::collection::vec(any_row(), 1..20),
        excluded in prop::collection::btree_set(0..6_u64, 0..4),
        how in 0..5_usize,
    ) {
        let lines: Vec<String> = given.iter().map(line).collect();
        let folder = folder(0..6, &lines);
        let list = folder.path().join("list.txt");
        let named = excluded.iter().map(|id| match how {
            0 => format!("pics/{id}.png"),
            1 => format!("{id}.png"),
            2 => id.to_string(),
            3 => blake3::hash(&picture(*id)).to_hex().to_string(),
            _ => format!("sha256:{}", sha256(&picture(*id))),
        });
        let named: Vec<String> = named.chain(["# said by nobody".into(), "nobody".into()]).collect();
        std::fs::write(&list, named.join("\n")).unwrap();
        let out = folder.path().join("out");
        let source = source(Format::Jsonl, &folder.path().join("rows.jsonl"));
        let imported = runtime().block_on(run(source, &[list], &out, Some(4), 0.0)).unwrap();

        let stays = |row: &&Row| !excluded.contains(&row.path[5..6].parse().unwrap());
        let expected: Vec<Row> = given.iter().filter(stays).cloned().collect();
        prop_assert_eq!(imported.rows, expected.len() as u64);
        prop_assert_eq!(imported.excluded, (given.len() - expected.len()) as u64);
        prop_assert_eq!(stored(&out), expected);
        let there = |id: &u64| given.iter().any(|row| row.path == format!("pics/{id}.png"));
        let absent = excluded.iter().filter(|id| !there(id)).count();
        prop_assert_eq!(imported.unmatched.len(), absent + 1, "{:?}", imported.unmatched);
    }
}

/// Of another implementation than the one under test.
fn sha256(bytes: &[u8]) -> String {
    use std::io::Write;
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[test]
fn an_excluded_id_is_that_of_the_picture_where_there_is_one() {
    let lines = [
        json!({"id": 1, "image_id": 7, "image": "pics/0.png", "caption": "a"}),
        json!({"id": 7, "image_id": 8, "image": "pics/1.png", "caption": "b"}),
        json!({"id": 7, "image": "pics/2.png", "caption": "c"}),
    ];
    let folder = folder(0..3, &lines.map(|line| line.to_string()));
    let list = folder.path().join("list.txt");
    std::fs::write(&list, "7\n").unwrap();
    let mut exclusion = Exclusion::read(&[list]).unwrap();
    let rows = rows(&source(Format::Jsonl, folder.path())).unwrap();
    let excluded: Vec<bool> = rows.iter().map(|row| exclusion.excludes(row)).collect();
    assert_eq!(excluded, [true, false, true]);
    assert_eq!(exclusion.unmatched().count(), 0);
}

#[test]
fn a_list_that_cannot_be_meant_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.txt");
    std::fs::write(&list, "a.png\n\nsha256:12ab\n").unwrap();
    let error = Exclusion::read(&[list]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("list.txt: line 3") && text.contains("sha256:12ab"),
        "{text}"
    );
    let missing = Exclusion::read(&[folder.path().join("none")]).unwrap_err();
    assert!(missing.to_string().contains("none"), "{missing}");
}

/// One of three rows is broken; it is named with the reason.
#[tokio::test]
async fn a_broken_row_is_named_counted_and_left_out() {
    let good = |id: u64| json!({"image": format!("pics/{id}.png"), "caption": "x"}).to_string();
    let cases = [
        ("{\"image\": \"pics/0.png\", ", "EOF"),
        (r#"{"image": "pics/9.png", "caption": "x"}"#, "pics/9.png"),
        (
            r#"{"image": "../rows.jsonl", "caption": "x"}"#,
            "../rows.jsonl",
        ),
        (
            r#"{"image": "/etc/hostname", "caption": "x"}"#,
            "/etc/hostname",
        ),
        (
            r#"{"image": "rows.jsonl", "caption": "x"}"#,
            "not JPEG, PNG, WebP, GIF or BMP",
        ),
        (
            r#"{"image": "pics/0.png", "caption": " "}"#,
            "neither a caption",
        ),
        (
            r#"{"image": "pics/0.png", "question": "who?"}"#,
            "neither a caption",
        ),
        (r#"{"caption": "x"}"#, "no image"),
        (r#"{"image": "pics/0.png", "caption": 3}"#, "invalid type"),
    ];
    for (broken, reason) in cases {
        let folder = folder(0..3, &[good(1), broken.to_owned(), good(2)]);
        let out = folder.path().join("out");
        let source = source(Format::Jsonl, folder.path());
        let error = run(source.clone(), &[], &out, Some(1), 0.0)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        let text = error.to_string();
        assert!(
            text.contains("rows.jsonl, line 2: ") && text.contains(reason),
            "{text}"
        );
        assert!(text.contains("--max-bad-fraction"), "{text}");
        assert_eq!(stored(&out), [], "nothing is left of {broken}");

        let imported = run(source, &[], &out, None, 0.34).await.unwrap();
        assert_eq!((imported.rows, imported.bad), (2, 1));
        assert_eq!(stored(&out).len(), 2);
    }
}

#[tokio::test]
async fn what_is_there_already_is_not_touched() {
    let line = json!({"image": "pics/0.png", "caption": "x"}).to_string();
    let folder = folder(0..1, &[line]);
    let out = folder.path().join("out");
    let source = source(Format::Jsonl, folder.path());
    run(source.clone(), &[], &out, None, 0.0).await.unwrap();
    let before = stored(&out);
    let error = run(source, &[], &out, None, 0.0)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("rows-00000.parquet") && error.contains("empty folder"),
        "{error}"
    );
    assert_eq!(stored(&out), before);
}

#[test]
fn parquet_of_others_is_read_with_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let pictures: ArrayRef = Arc::new(BinaryArray::from_iter_values([picture(1), picture(2)]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["one", "two"]));
    let ids: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![11, 12]));
    let shard = table(vec![("jpg", pictures), ("words", texts), ("image_id", ids)]);
    write(&folder.path().join("x.parquet"), &shard, 1);
    let mut source = source(Format::Parquet, folder.path());
    let error = rows(&source).unwrap_err();
    assert!(error.contains("data.columns.image"), "{error}");
    source.columns.image = Some("jpg".into());
    source.columns.caption = Some("words".into());
    let rows = rows(&source).unwrap();
    let found: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.texts.caption.as_deref(),
                row.image_id.as_str(),
                row.image.to_vec(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (Some("one"), "11", picture(1)),
            (Some("two"), "12", picture(2))
        ]
    );
    assert!(
        rows[1].place.ends_with("x.parquet, row 1"),
        "{}",
        rows[1].place
    );
    std::fs::write(folder.path().join("y.parquet"), "PAR1 not PAR1").unwrap();
    let error = self::rows(&source).unwrap_err();
    assert!(error.contains("y.parquet"), "{error}");
}

#[test]
fn bad_rows_end_the_reading_once_a_thousand_rows_could_not_make_up_for_them() {
    let bad = |line: u64| BadRow {
        place: format!("line {line}"),
        reason: "broken".into(),
    };
    // Two of a thousand are tolerated, so the third ends it at once, wherever it comes.
    let mut tolerance = Tolerance::new(0.002);
    tolerance.refuse(&bad(1)).unwrap();
    tolerance.refuse(&bad(2)).unwrap();
    let error = tolerance.refuse(&bad(3)).unwrap_err().to_string();
    assert!(
        error.contains("3 of 3 rows") && error.contains("line 1: broken"),
        "{error}"
    );
    // Two of 999 are too many at the end, two of 1000 are not.
    let mut tolerance = Tolerance::new(0.002);
    tolerance.refuse(&bad(1)).unwrap();
    tolerance.refuse(&bad(2)).unwrap();
    (0..997).for_each(|_| tolerance.accept());
    tolerance.end().unwrap_err();
    tolerance.accept();
    tolerance.end().unwrap();
    assert_eq!(tolerance.bad(), 2);
    // Of many rows, as many more are tolerated.
    (0..1000).for_each(|_| tolerance.accept());
    tolerance.refuse(&bad(3)).unwrap();
}
