//! Rows that nobody should store, one of each kind, among good ones: each refused for its own reason.
//! The shard is a fixture, since the whole-system tests train on it too.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use ringmaster_dataset::{CorpusManifest, Refusal, read_rows};
use ringmaster_proto::spec::Columns;

use crate::corpora::{SIDE, caption, pixels, png};
use crate::decode::bomb;

const JPEG: &[u8] = include_bytes!("../fixtures/baseline.jpg");
const ROWS: u64 = 40;
const GROUP_ROWS: u64 = 16;

fn shard() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/bad_rows.parquet")
}

/// What is wrong with row `id`.
fn wrong(id: u64) -> Option<Refusal> {
    Some(match id {
        2 => Refusal::ImageTruncated,
        5 => Refusal::ImageFormat,
        11 => Refusal::ImageSize(30_000, 30_000),
        16 => Refusal::NoText,
        23 => Refusal::LongText(1 << 20),
        31 => Refusal::NotUtf8,
        39 => Refusal::NoImage,
        _ => return None,
    })
}

/// Picture and caption of row `id`.
fn row(id: u64) -> [Option<Vec<u8>>; 2] {
    let picture = png(&pixels(id), SIDE, SIDE);
    let text = caption(id).into_bytes();
    match wrong(id) {
        Some(Refusal::ImageTruncated) => [Some(JPEG[..JPEG.len() / 2].to_vec()), Some(text)],
        Some(Refusal::ImageFormat) => [Some(Vec::new()), Some(text)],
        Some(Refusal::ImageSize(..)) => [Some(bomb(30_000, 30_000)), Some(text)],
        Some(Refusal::NoText) => [Some(picture), None],
        Some(Refusal::LongText(bytes)) => [Some(picture), Some(vec![b'x'; bytes as usize])],
        Some(Refusal::NotUtf8) => [Some(picture), Some(b"a \xff ring".to_vec())],
        Some(_) => [None, Some(text)],
        None => [Some(picture), Some(text)],
    }
}

/// The bytes of the shard.
fn written() -> Vec<u8> {
    let schema = "message rows { optional binary image; optional binary caption (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for first in (0..ROWS).step_by(GROUP_ROWS as usize) {
        let rows: Vec<_> = (first..ROWS.min(first + GROUP_ROWS)).map(row).collect();
        let mut group = writer.next_row_group().unwrap();
        for column in 0..2 {
            let values = rows.iter().filter_map(|row| row[column].clone());
            let values: Vec<ByteArray> = values.map(ByteArray::from).collect();
            let there: Vec<i16> = rows
                .iter()
                .map(|row| row[column].is_some().into())
                .collect();
            let mut chunk = group.next_column().unwrap().unwrap();
            chunk
                .typed::<ByteArrayType>()
                .write_batch(&values, Some(&there), None)
                .unwrap();
            chunk.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

/// The shard says that it holds what is above. Where it is to hold something else, what it should be is
/// written beside it.
#[test]
fn the_shard_of_bad_rows_is_what_is_written_here() {
    let written = written();
    if std::fs::read(shard()).unwrap_or_default() != written {
        let new = shard().with_extension("parquet.new");
        std::fs::write(&new, written).unwrap();
        panic!("look at {} and put it in place", new.display());
    }
}

#[tokio::test]
async fn every_bad_row_is_refused_for_its_own_reason_and_its_neighbours_are_read() {
    let sources = [shard().display().to_string()];
    let names = Columns::default();
    let manifest = CorpusManifest::open(&sources, &names, "data.sources", |_, _| {}).await;
    let rows = read_rows(&Arc::new(manifest.unwrap()), &names, 0..100, SIDE).await;
    let rows = rows.unwrap();
    assert_eq!(rows.len() as u64, ROWS);
    for (id, row) in (0..).zip(rows) {
        assert_eq!(row.refused, wrong(id), "row {id}");
        if wrong(id).is_none() {
            assert_eq!((row.weight, row.caption), (1.0, Some(caption(id))));
            assert_eq!(row.image, pixels(id));
        }
    }
}
