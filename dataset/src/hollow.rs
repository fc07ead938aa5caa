//! Shards of any number of rows that hold nothing: what a corpus costs that is only looked at from
//! outside.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

/// Parquet with `row_groups` row groups of `rows` rows, all with the picture missing and `caption`
/// as the caption: a few bytes per row group, and a footer like any other. Errors are the
/// encoder's.
pub fn hollow_shard(row_groups: u32, rows: u32, caption: &str) -> Result<Vec<u8>, ParquetError> {
    let rows = rows as usize;
    let pictures: ArrayRef = Arc::new(BinaryArray::from_iter(std::iter::repeat_n(
        None::<&[u8]>,
        rows,
    )));
    let captions = std::iter::repeat_n(caption, rows);
    let captions: ArrayRef = Arc::new(StringArray::from_iter_values(captions));
    let batch = RecordBatch::try_from_iter([("image", pictures), ("caption", captions)])?;
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(rows))
        .build();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(properties))?;
    for _ in 0..row_groups {
        writer.write(&batch)?;
        writer.flush()?;
    }
    writer.close()?;
    Ok(out)
}
