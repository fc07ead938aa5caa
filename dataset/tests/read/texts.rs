//! Objects, hypotheses and labels: from every form of column, within limits.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, ListArray, StringArray, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use ringmaster_dataset::{CorpusManifest, DatasetError, Example, read_rows};
use ringmaster_proto::spec::Columns;

use crate::corpora::{SIDE, pixels, png, table, write};

fn pictures(rows: u64) -> ArrayRef {
    let pictures = (0..rows).map(|id| png(&pixels(id), SIDE, SIDE));
    Arc::new(BinaryArray::from_iter_values(pictures))
}

/// Texts as a list column: two of row 0, one of row 1 beside a null and a blank, none of row 2, and
/// a null for row 3.
fn lists() -> ListArray {
    let texts = [Some("red ring"), Some("dog"), None, Some(" "), Some("cat")];
    ListArray::new(
        item(DataType::Utf8),
        OffsetBuffer::new(vec![0, 2, 5, 5, 5].into()),
        Arc::new(StringArray::from(texts.to_vec())),
        Some(NullBuffer::from(vec![true, true, true, false])),
    )
}

fn item(of: DataType) -> Arc<Field> {
    Arc::new(Field::new_list_field(of, true))
}

fn text(values: [Option<&str>; 4]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// Rows of a shard of these columns.
async fn read(
    columns: Vec<(&str, ArrayRef)>,
    names: &Columns,
) -> Result<Vec<Example>, DatasetError> {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("x.parquet"), &table(columns), 2);
    open(folder.path(), names).await
}

async fn open(folder: &Path, names: &Columns) -> Result<Vec<Example>, DatasetError> {
    let sources = [folder.display().to_string()];
    let manifest = CorpusManifest::open(&sources, names, "data.sources", |_, _| {}).await?;
    read_rows(&Arc::new(manifest), names, 0..100, SIDE).await
}

fn objects(rows: &[Example]) -> Vec<Vec<&str>> {
    let names = |row: &'_ Example| row.objects.len();
    assert!(rows.iter().all(|row| names(row) == 0 || row.weight == 1.0));
    rows.iter()
        .map(|row| row.objects.iter().map(String::as_str).collect())
        .collect()
}

#[tokio::test]
async fn every_flavour_of_list_reads_the_same() {
    let captions = text([Some("a"); 4]);
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let flavours = [
        DataType::List(item(DataType::Utf8)),
        DataType::LargeList(item(DataType::Utf8)),
        DataType::ListView(item(DataType::Utf8)),
        DataType::LargeListView(item(DataType::Utf8)),
        DataType::List(item(DataType::LargeUtf8)),
        DataType::List(item(DataType::Utf8View)),
        DataType::List(item(dictionary)),
    ];
    for flavour in flavours {
        let stored = cast(&lists(), &flavour).unwrap();
        let columns = vec![
            ("image", pictures(4)),
            ("caption", Arc::clone(&captions)),
            ("objects", stored),
        ];
        let rows = read(columns, &Columns::default()).await.unwrap();
        let expected = [vec!["red ring", "dog"], vec!["cat"], vec![], vec![]];
        assert_eq!(objects(&rows), expected, "{flavour}");
    }
}

#[tokio::test]
async fn a_list_of_fixed_size_may_be_called_anything_and_be_all_there_is() {
    let texts = StringArray::from(vec!["a", "b", "c", "d"]);
    let stored =
        arrow::array::FixedSizeListArray::new(item(DataType::Utf8), 2, Arc::new(texts), None);
    let columns = vec![
        ("image", pictures(2)),
        ("things", Arc::new(stored) as ArrayRef),
    ];
    let named = Columns {
        objects: Some("things".into()),
        ..Columns::default()
    };
    let rows = read(columns, &named).await.unwrap();
    assert_eq!(objects(&rows), [["a", "b"], ["c", "d"]]);
    assert!(rows.iter().all(|row| row.weight == 1.0));
}

#[tokio::test]
async fn a_hypothesis_needs_its_label() {
    let columns = vec![
        ("image", pictures(4)),
        ("caption", text([Some("c"), Some("c"), Some("c"), None])),
        ("hypothesis", text([Some("h"), Some("h"), None, Some("h")])),
        (
            "label",
            text([Some("neutral"), None, Some("neutral"), Some(" ")]),
        ),
    ];
    let rows = read(columns, &Columns::default()).await.unwrap();
    let pairs: Vec<_> = rows
        .iter()
        .map(|row| (row.hypothesis.as_deref(), row.label.as_deref()))
        .collect();
    assert_eq!(pairs[0], (Some("h"), Some("neutral")));
    assert_eq!(pairs[1..], [(None, None); 3]);
    assert!(rows[3].refused.is_some(), "half a pair is no text");
    let alone = vec![("image", pictures(4)), ("hypothesis", text([Some("h"); 4]))];
    let named = Columns {
        hypothesis: Some("hypothesis".into()),
        ..Columns::default()
    };
    let error = read(alone, &named).await.unwrap_err().to_string();
    assert!(
        error.contains("no label column") && error.contains("data.columns.label"),
        "{error}"
    );
}

/// Boxes are called objects and class numbers label in many corpora; they are passed over, unless
/// the run file asks for them.
#[tokio::test]
async fn other_things_of_the_same_name_are_passed_over_unless_asked_for() {
    let boxes = StructArray::from(vec![(
        Arc::new(Field::new("area", DataType::Int64, false)),
        Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef,
    )]);
    let columns = || {
        vec![
            ("image", pictures(2)),
            (
                "caption",
                Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef,
            ),
            ("objects", Arc::new(boxes.clone()) as ArrayRef),
            (
                "hypothesis",
                Arc::new(StringArray::from(vec!["h", "h"])) as ArrayRef,
            ),
            ("label", Arc::new(Int64Array::from(vec![0, 1])) as ArrayRef),
        ]
    };
    let rows = read(columns(), &Columns::default()).await.unwrap();
    assert!(
        rows.iter()
            .all(|row| row.objects.is_empty() && row.label.is_none())
    );
    let named = Columns {
        objects: Some("objects".into()),
        ..Columns::default()
    };
    let error = read(columns(), &named).await.unwrap_err().to_string();
    assert!(error.contains("not a list of texts"), "{error}");
    let named = Columns {
        label: Some("label".into()),
        ..Columns::default()
    };
    let error = read(columns(), &named).await.unwrap_err().to_string();
    assert!(error.contains("label is Int64, not text"), "{error}");
}

#[tokio::test]
async fn more_objects_than_anybody_means_are_refused() {
    let list = |lengths: [usize; 2], each: &str| -> ArrayRef {
        let texts = StringArray::from(vec![each; lengths.iter().sum()]);
        let offsets = OffsetBuffer::from_lengths(lengths);
        Arc::new(ListArray::new(
            item(DataType::Utf8),
            offsets,
            Arc::new(texts),
            None,
        ))
    };
    let long = "x".repeat(65);
    for (lengths, each) in [([1024, 1025], "x"), ([1008, 1009], long.as_str())] {
        let columns = vec![("image", pictures(2)), ("objects", list(lengths, each))];
        let rows = read(columns, &Columns::default()).await.unwrap();
        assert_eq!((rows[0].objects.len(), rows[0].refused), (lengths[0], None));
        assert!(
            rows[1].refused.is_some() && rows[1].objects.is_empty(),
            "{lengths:?}"
        );
    }
}
