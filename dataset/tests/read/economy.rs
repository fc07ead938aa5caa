//! What is read of a shard is what is needed of it, whatever its writer chose.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{
    EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion,
};

use crate::corpora::{SIDE, caption, pixels, png, table};
use crate::faults::{answer, read_epoch};
use crate::faulty::{Fault, Faulty};

const MIB: u64 = 1 << 20;

/// `length` bytes that no codec makes shorter.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The picture of row `id`, with `more` bytes behind its end that decoders pass over.
fn picture(id: u64, more: usize) -> Vec<u8> {
    let mut picture = png(&pixels(id), SIDE, SIDE);
    picture.extend(noise(id, more));
    picture
}

fn binary(values: impl Iterator<Item = Vec<u8>>) -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values(values))
}

/// Rows 0..`count` with pictures `more` bytes longer than need be, and a column between that nobody
/// asks for, of `unused` bytes a row.
fn rows(count: u64, more: usize, unused: usize) -> RecordBatch {
    let captions: ArrayRef = Arc::new(StringArray::from_iter_values((0..count).map(caption)));
    let mut columns = vec![("image", binary((0..count).map(|id| picture(id, more))))];
    if unused > 0 {
        let others = (0..count).map(|id| noise(!id, unused));
        columns.push(("unused", binary(others)));
    }
    columns.push(("caption", captions));
    table(columns)
}

fn write(folder: &Path, table: &RecordBatch, properties: WriterPropertiesBuilder) -> u64 {
    let path = folder.join("part-000.parquet");
    let file = std::fs::File::create(&path).unwrap();
    let properties = Some(properties.build());
    let mut writer = ArrowWriter::try_new(file, table.schema(), properties).unwrap();
    writer.write(table).unwrap();
    writer.close().unwrap();
    std::fs::metadata(path).unwrap().len()
}

/// As a writer that stores no page index, which is what pyarrow does unless told.
fn without_index(properties: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
    properties
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
}

/// Pages of a few rows.
fn short_pages() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_write_batch_size(1)
        .set_data_page_size_limit(MIB as usize)
}

/// Reads an epoch from a server; returns how many object bytes and requests that took.
async fn cost(folder: &Path, rows: u64) -> (u64, u64) {
    let server = Faulty::start(folder, Duration::ZERO, |_| Fault::None).await;
    assert_eq!(answer(&server, &[]).await, format!("{rows} rows"));
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    (count(&server.counts.bytes), count(&server.counts.reads))
}

#[tokio::test]
async fn columns_that_nobody_asked_for_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let groups = WriterProperties::builder().set_max_row_group_row_count(Some(10));
    let whole = write(folder.path(), &rows(20, 0, 256 << 10), groups);
    let (bytes, reads) = cost(folder.path(), 20).await;
    assert!(whole > 5 * MIB && bytes < MIB, "{bytes} of {whole} bytes");
    assert!(reads < 60, "neighbours share a request: {reads}");
}

/// A row group much longer than a window: 24 MiB in 12 windows.
#[tokio::test]
async fn a_long_row_group_is_read_in_parts_with_and_without_an_index() {
    for indexed in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let properties = short_pages();
        let properties = if indexed {
            properties
        } else {
            without_index(properties)
        };
        let whole = write(folder.path(), &rows(96, 256 << 10, 0), properties);
        let (bytes, _) = cost(folder.path(), 96).await;
        assert!(
            whole > 24 * MIB && bytes < 3 * whole,
            "{indexed}: {bytes} of {whole} bytes"
        );
    }
}

#[test]
fn rows_are_the_same_in_every_form_of_page() {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        zstd,
        Compression::LZ4_RAW,
    ];
    for codec in codecs {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for dictionary in [true, false] {
                let folder = tempfile::tempdir().unwrap();
                let properties = WriterProperties::builder()
                    .set_compression(codec)
                    .set_writer_version(version)
                    .set_dictionary_enabled(dictionary)
                    .set_max_row_group_row_count(Some(17))
                    .set_write_batch_size(3)
                    .set_data_page_row_count_limit(3);
                let properties = if dictionary {
                    properties
                } else {
                    without_index(properties)
                };
                write(folder.path(), &rows(50, 100, 10), properties);
                let run = tempfile::tempdir().unwrap();
                let read = read_epoch(folder.path().to_str().unwrap(), run.path());
                assert_eq!(read.unwrap(), 50, "{codec:?} {version:?} {dictionary}");
            }
        }
    }
}
