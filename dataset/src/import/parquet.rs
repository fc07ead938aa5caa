//! Parquet with the pictures inside: the columns that training finds, and the names of the pictures.

use std::fs::File;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::schema::types::SchemaDescriptor;
use ringmaster_proto::spec::Columns;

use super::{BadRow, Row, Source, Visit, files, unreadable};
use crate::columns::ColumnMap;
use crate::error::DatasetError;
use crate::rows::{EncodedRow, encoded_rows, projection};

/// Rows decoded at a time: pictures of many megabytes must fit.
const BATCH_ROWS: usize = 32;

/// Field of an image struct that holds the name of the picture's file.
const IMAGE_PATH: &str = "path";

/// Columns of names, by convention.
const ID: &str = "id";
const IMAGE_ID: &str = "image_id";

pub(super) fn read(source: &Source, visit: &mut Visit) -> Result<(), DatasetError> {
    for file in files(&source.from, "parquet")? {
        if read_file(&file, &source.columns, visit)?.is_break() {
            break;
        }
    }
    Ok(())
}

fn read_file(
    path: &Path,
    asked: &Columns,
    visit: &mut Visit,
) -> Result<ControlFlow<()>, DatasetError> {
    let shard = path.display().to_string();
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let open = || ParquetRecordBatchReaderBuilder::try_new(file);
    let builder = guarded(&shard, || open().map_err(|error| error.to_string()))?;
    let columns = ColumnMap::find(&shard, builder.schema(), asked)?;
    let mask = mask(&columns, builder.parquet_schema());
    let builder = builder.with_projection(mask).with_batch_size(BATCH_ROWS);
    let mut batches = guarded(&shard, || {
        builder.build().map_err(|error| error.to_string())
    })?;
    let mut number = 0;
    loop {
        let next = || {
            batches
                .next()
                .transpose()
                .map_err(|error| error.to_string())
        };
        let Some(batch) = guarded(&shard, next)? else {
            return Ok(ControlFlow::Continue(()));
        };
        for row in guarded(&shard, || rows(&batch, &columns))? {
            let place = format!("{shard}, row {number}");
            number += 1;
            if visit(named(row, place)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
}

/// The bytes come from outside; a decoder that panics on them must not end the process.
fn guarded<T>(shard: &str, read: impl FnOnce() -> Result<T, String>) -> Result<T, DatasetError> {
    let read = catch_unwind(AssertUnwindSafe(read));
    let read = read.unwrap_or_else(|_| Err("it breaks the decoder".to_owned()));
    read.map_err(|reason| DatasetError::Corrupt {
        shard: shard.to_owned(),
        reason,
    })
}

fn mask(columns: &ColumnMap, schema: &SchemaDescriptor) -> ProjectionMask {
    let wanted = |parts: &[String]| match parts {
        [name] => name == ID || name == IMAGE_ID,
        [name, field] => *name == columns.image && field == IMAGE_PATH,
        _ => false,
    };
    let leaves = schema.columns().iter().enumerate();
    let leaves = leaves.filter(|(_, leaf)| wanted(leaf.path().parts()));
    let mut mask = ProjectionMask::leaves(schema, leaves.map(|(index, _)| index));
    mask.union(&projection(columns, schema, true));
    mask
}

/// A row with what it is called.
struct NamedRow {
    stored: EncodedRow,
    id: String,
    image_id: String,
    path: String,
}

fn rows(batch: &RecordBatch, columns: &ColumnMap) -> Result<Vec<NamedRow>, String> {
    let mut stored = Vec::with_capacity(batch.num_rows());
    encoded_rows(batch, columns, true, &mut stored).map_err(|error| error.to_string())?;
    let column = |name: &str| batch.column_by_name(name).and_then(names);
    let (ids, image_ids) = (column(ID), column(IMAGE_ID));
    let image = batch.column_by_name(&columns.image);
    let image = image.and_then(|image| image.as_struct_opt());
    let paths = image
        .and_then(|image| image.column_by_name(IMAGE_PATH))
        .and_then(names);
    let name = |column: &Option<StringArray>, row: usize| {
        let column = column.as_ref().filter(|column| column.is_valid(row));
        column
            .map(|column| column.value(row).to_owned())
            .unwrap_or_default()
    };
    let named = |(row, stored)| NamedRow {
        stored,
        id: name(&ids, row),
        image_id: name(&image_ids, row),
        path: name(&paths, row),
    };
    Ok(stored.into_iter().enumerate().map(named).collect())
}

/// A column of texts or numbers as texts; any other is no column of names.
fn names(column: &ArrayRef) -> Option<StringArray> {
    let texts = match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => {
            true
        }
        kind => kind.is_integer(),
    };
    let texts = texts
        .then(|| cast(column, &DataType::Utf8).ok())
        .flatten()?;
    texts.as_string_opt::<i32>().cloned()
}

fn named(row: NamedRow, place: String) -> Result<Row, BadRow> {
    let Some(image) = row.stored.image else {
        let reason = "the image is null".to_owned();
        return Err(BadRow { place, reason });
    };
    Ok(Row {
        place,
        id: row.id,
        image_id: row.image_id,
        path: row.path,
        image,
        texts: row.stored.texts,
        annotators: Vec::new(),
    })
}
