//! Small corpora, written here, whose every row says which row it is.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, LargeStringArray, RecordBatch, StringArray, StructArray,
};
use arrow::datatypes::{DataType, Field, Fields};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use ringmaster_dataset::{Corpus, Store, prepare};
use ringmaster_proto::RunSpec;

/// Side of the pictures, pixels.
pub(crate) const SIDE: usize = 8;

/// The pixels of row `id`.
pub(crate) fn pixels(id: u64) -> Vec<u8> {
    let word = id.to_le_bytes();
    (0..SIDE * SIDE * 3)
        .map(|at| word[at % 3].wrapping_mul(37).wrapping_add(at as u8))
        .collect()
}

/// The caption of row `id`.
pub(crate) fn caption(id: u64) -> String {
    format!("row number {id}")
}

/// RGB pixels as PNG.
pub(crate) fn png(rgb: &[u8], width: usize, height: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let (width, height) = (width as u32, height as u32);
    PngEncoder::new(&mut out)
        .write_image(rgb, width, height, ExtendedColorType::Rgb8)
        .unwrap();
    out
}

/// A table of one column per (name, values).
pub(crate) fn table(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

/// A shard whose row groups have `group_rows` rows.
pub(crate) fn write(path: &Path, table: &RecordBatch, group_rows: usize) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .build();
    let mut writer = ArrowWriter::try_new(file, table.schema(), Some(properties)).unwrap();
    writer.write(table).unwrap();
    writer.close().unwrap();
}

/// Rows `ids` with `picture(id)` as image; one form of column in even shards, another in odd ones.
pub(crate) fn rows(ids: &[u64], odd: bool, picture: impl Fn(u64) -> Vec<u8>) -> RecordBatch {
    let pictures = BinaryArray::from_iter_values(ids.iter().map(|id| picture(*id)));
    let captions = ids.iter().map(|id| caption(*id));
    if odd {
        let text: ArrayRef = Arc::new(LargeStringArray::from_iter_values(captions));
        return table(vec![("image", Arc::new(pictures)), ("text", text)]);
    }
    let fields = Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ]);
    let paths = StringArray::from_iter_values(ids.iter().map(u64::to_string));
    let image = StructArray::new(fields, vec![Arc::new(pictures), Arc::new(paths)], None);
    let caption: ArrayRef = Arc::new(StringArray::from_iter_values(captions));
    table(vec![("image", Arc::new(image)), ("caption", caption)])
}

/// Writes `counts[s]` rows into shard `s` below `folder`, numbered through.
pub(crate) fn write_corpus(
    folder: &Path,
    counts: &[usize],
    group_rows: usize,
    picture: impl Fn(u64) -> Vec<u8>,
) {
    let mut next = 0;
    for (shard, count) in counts.iter().enumerate() {
        let ids: Vec<u64> = (next..next + *count as u64).collect();
        next += *count as u64;
        let name = format!("part-{shard:03}.parquet");
        write(
            &folder.join(name),
            &rows(&ids, shard % 2 == 1, &picture),
            group_rows,
        );
    }
}

/// A spec for the corpus in `folder`, with more keys of `[data]` and `[run]`.
pub(crate) fn spec(folder: &Path, data: &str, run: &str) -> RunSpec {
    let url = folder.display();
    let text = format!(
        "[run]\nname = \"test\"\n{run}\n[data]\nsources = [{{ url = \"{url}\" }}]\n{data}\n"
    );
    RunSpec::parse(&text, &[]).unwrap()
}

/// Prepares below `root` and opens what was prepared.
pub(crate) async fn open(spec: &RunSpec, root: &Path) -> Corpus {
    let root = Store::open(root.to_str().unwrap()).unwrap();
    let prepared = prepare(spec, &root, &()).await.unwrap();
    let corpus = Corpus::open(
        spec,
        &root,
        &prepared.corpus_hash,
        &prepared.validation_hash,
        &prepared.tokenizer_hash,
    );
    let corpus = corpus.await.unwrap();
    assert_eq!(corpus.train.rows(), prepared.corpus_rows);
    assert_eq!(corpus.total_steps, prepared.total_steps);
    assert_eq!(corpus.plan.steps_per_epoch(), prepared.steps_per_epoch);
    corpus
}
