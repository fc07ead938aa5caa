//! Rows as Parquet shards in the form that training finds by convention.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, ListBuilder, RecordBatch, StringArray, StringBuilder, StructArray,
};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::Row;
use crate::rows::Texts;

/// Pictures of a row group, bytes. A worker reads a part of one at a time, and row groups are what
/// held-out rows are chosen by.
const GROUP_BYTES: usize = 4 << 20;

/// Rows of a row group at most, where pictures are small.
const GROUP_ROWS: usize = 1024;

/// Size of a shard, bytes: it is held in memory until it is whole.
const SHARD_BYTES: usize = 256 << 20;

/// Makes shards of rows, one after the other.
pub(crate) struct ShardWriter {
    schema: Arc<Schema>,
    rows_per_shard: u64,
    /// The row group at hand, and the bytes of its pictures.
    group: Vec<Row>,
    group_bytes: usize,
    shard: Option<ArrowWriter<Vec<u8>>>,
    shard_rows: u64,
}

impl ShardWriter {
    /// A shard ends at `rows_per_shard` rows or 256 MiB, whichever comes first.
    pub(crate) fn new(rows_per_shard: Option<u64>) -> Self {
        Self {
            schema: schema(),
            rows_per_shard: rows_per_shard.unwrap_or(u64::MAX),
            group: Vec::new(),
            group_bytes: 0,
            shard: None,
            shard_rows: 0,
        }
    }

    /// Takes a row; returns a shard where this row makes one whole.
    pub(crate) fn push(&mut self, row: Row) -> Result<Option<Bytes>, String> {
        self.group_bytes += row.image.len();
        self.group.push(row);
        self.shard_rows += 1;
        let full = self.shard_rows >= self.rows_per_shard;
        if full || self.group_bytes >= GROUP_BYTES || self.group.len() >= GROUP_ROWS {
            self.end_group()?;
        }
        let bytes = self.shard.as_ref().map_or(0, ArrowWriter::bytes_written);
        if full || bytes >= SHARD_BYTES {
            return self.end_shard();
        }
        Ok(None)
    }

    /// The last shard, if there are rows in it.
    pub(crate) fn end_shard(&mut self) -> Result<Option<Bytes>, String> {
        self.end_group()?;
        self.shard_rows = 0;
        let shard = self.shard.take().map(ArrowWriter::into_inner).transpose();
        Ok(shard.map_err(|error| error.to_string())?.map(Bytes::from))
    }

    fn end_group(&mut self) -> Result<(), String> {
        if self.group.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        let batch = batch(&self.schema, &rows)?;
        let mut writer = match self.shard.take() {
            Some(writer) => writer,
            None => writer(&self.schema)?,
        };
        let written = writer.write(&batch).and_then(|()| writer.flush());
        written.map_err(|error| error.to_string())?;
        self.shard = Some(writer);
        Ok(())
    }
}

fn writer(schema: &Arc<Schema>) -> Result<ArrowWriter<Vec<u8>>, String> {
    let properties = WriterProperties::builder()
        // Row groups end where this file says.
        .set_max_row_group_row_count(None)
        // Pictures are compressed already, and texts are a few bytes beside them.
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    ArrowWriter::try_new(Vec::new(), Arc::clone(schema), Some(properties))
        .map_err(|error| error.to_string())
}

fn image_fields() -> Fields {
    let bytes = Field::new("bytes", DataType::Binary, false);
    Fields::from(vec![bytes, Field::new("path", DataType::Utf8, false)])
}

fn schema() -> Arc<Schema> {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let object = Field::new_list_field(DataType::Utf8, true);
    let mut fields = vec![Field::new("image", DataType::Struct(image_fields()), false)];
    fields.extend(["caption", "question", "answer", "template"].map(text));
    fields.push(Field::new(
        "objects",
        DataType::List(Arc::new(object)),
        true,
    ));
    fields.extend(["hypothesis", "label"].map(text));
    Arc::new(Schema::new(fields))
}

fn batch(schema: &Arc<Schema>, rows: &[Row]) -> Result<RecordBatch, String> {
    let pictures = BinaryArray::from_iter_values(rows.iter().map(|row| &row.image));
    let paths = StringArray::from_iter_values(rows.iter().map(|row| &row.path));
    let images = StructArray::try_new(
        image_fields(),
        vec![Arc::new(pictures), Arc::new(paths)],
        None,
    );
    let text = |of: fn(&Texts) -> &Option<String>| -> ArrayRef {
        Arc::new(
            rows.iter()
                .map(|row| of(&row.texts).as_deref())
                .collect::<StringArray>(),
        )
    };
    let columns = vec![
        Arc::new(images.map_err(|error| error.to_string())?) as ArrayRef,
        text(|texts| &texts.caption),
        text(|texts| &texts.question),
        text(|texts| &texts.answer),
        text(|texts| &texts.template),
        objects(rows),
        text(|texts| &texts.hypothesis),
        text(|texts| &texts.label),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|error| error.to_string())
}

/// Null where a row has no objects.
fn objects(rows: &[Row]) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in rows {
        for object in &row.texts.objects {
            lists.values().append_value(object);
        }
        lists.append(!row.texts.objects.is_empty());
    }
    Arc::new(lists.finish())
}
