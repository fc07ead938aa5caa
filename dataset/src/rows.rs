//! From Arrow columns to rows, whose pictures share the memory they were read into.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, LargeBinaryArray, LargeListArray, RecordBatch};
use arrow::compute::{cast, is_null, nullif};
use arrow::datatypes::{DataType, Field};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::errors::ParquetError;
use parquet::schema::types::SchemaDescriptor;

use crate::columns::{ColumnMap, IMAGE_BYTES};

/// The texts of a row; an empty text counts as none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// What the picture shows.
    pub caption: Option<String>,
    /// A question about it; comes with `answer`.
    pub question: Option<String>,
    /// The answer.
    pub answer: Option<String>,
    /// Name of the question's template, for evaluation.
    pub template: Option<String>,
    /// Names of the things in the picture; empty where they are not known.
    pub objects: Vec<String>,
    /// A statement about the picture; comes with `label`.
    pub hypothesis: Option<String>,
    /// Whether the picture entails it: `entailment`, `neutral` or `contradiction`.
    pub label: Option<String>,
}

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncodedRow {
    /// JPEG, PNG, WebP, GIF or BMP; `None` where the column is null or was not read.
    pub(crate) image: Option<Bytes>,
    pub(crate) texts: Texts,
    /// Whether every text is UTF-8; what is not is replaced in `texts`.
    pub(crate) utf8: bool,
}

impl EncodedRow {
    /// Takes memory of its own: what it was read with can go.
    pub(crate) fn unshare(&mut self) {
        if let Some(image) = &mut self.image {
            *image = Bytes::copy_from_slice(image);
        }
    }

    /// Memory that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let Texts {
            caption,
            question,
            answer,
            template,
            objects,
            hypothesis,
            label,
        } = &self.texts;
        let texts = [caption, question, answer, template, hypothesis, label];
        let texts = texts.into_iter().flatten().map(String::len);
        let objects = objects.iter().map(|text| text.len() + size_of::<String>());
        let image = self.image.as_ref().map_or(0, Bytes::len);
        (size_of::<Self>() + image + texts.chain(objects).sum::<usize>()) as u64
    }
}

/// The leaf columns to read; without `images`, text only.
pub(crate) fn projection(
    columns: &ColumnMap,
    schema: &SchemaDescriptor,
    images: bool,
) -> ProjectionMask {
    let pairs = columns.question.iter().chain(&columns.statement);
    let texts: Vec<&String> = pairs
        .flat_map(|(first, second)| [first, second])
        .chain(&columns.caption)
        .chain(&columns.template)
        .collect();
    let wanted = |parts: &[String]| match parts {
        // Writers name the levels of a list differently; its one leaf is the text.
        [name, ..] if columns.objects.as_ref() == Some(name) => true,
        [name] => texts.contains(&name) || (images && *name == columns.image),
        [name, field] => images && *name == columns.image && field == IMAGE_BYTES,
        _ => false,
    };
    let leaves = schema.columns().iter().enumerate();
    let leaves = leaves.filter(|(_, column)| wanted(column.path().parts()));
    ProjectionMask::leaves(schema, leaves.map(|(index, _)| index))
}

/// Appends the rows of `batch` to `rows`.
pub(crate) fn encoded_rows(
    batch: &RecordBatch,
    columns: &ColumnMap,
    images: bool,
    rows: &mut Vec<EncodedRow>,
) -> Result<(), ParquetError> {
    let image = if images {
        Some(Pictures::new(image_column(batch, &columns.image)?))
    } else {
        None
    };
    let text = |name: Option<&String>| name.map(|name| text_column(batch, name)).transpose();
    let pair = |names: &Option<(String, String)>| -> Result<_, ParquetError> {
        let (first, second) = names.as_ref().map(|(a, b)| (a, b)).unzip();
        Ok((text(first)?, text(second)?))
    };
    let caption = text(columns.caption.as_ref())?;
    let question = pair(&columns.question)?;
    let template = text(columns.template.as_ref())?;
    let objects = columns.objects.as_ref();
    let objects = objects.map(|name| list_column(batch, name)).transpose()?;
    let statement = pair(&columns.statement)?;
    for row in 0..batch.num_rows() {
        let mut utf8 = true;
        let (question, answer) = pair_at(&question, row, &mut utf8);
        let (hypothesis, label) = pair_at(&statement, row, &mut utf8);
        rows.push(EncodedRow {
            image: image.as_ref().and_then(|pictures| pictures.at(row)),
            texts: Texts {
                caption: text_at(caption.as_ref(), row, &mut utf8),
                question,
                answer,
                template: text_at(template.as_ref(), row, &mut utf8),
                objects: texts_at(objects.as_ref(), row, &mut utf8),
                hypothesis,
                label,
            },
            utf8,
        });
    }
    Ok(())
}

/// A column of pictures, and its memory as something to share.
struct Pictures {
    column: LargeBinaryArray,
    memory: Bytes,
}

impl Pictures {
    fn new(column: LargeBinaryArray) -> Self {
        let memory = Bytes::from_owner(column.values().clone());
        Self { column, memory }
    }

    fn at(&self, row: usize) -> Option<Bytes> {
        let ends = &self.column.value_offsets()[row..row + 2];
        let bytes = || self.memory.slice(ends[0] as usize..ends[1] as usize);
        self.column.is_valid(row).then(bytes)
    }
}

fn text_at(column: Option<&LargeBinaryArray>, row: usize, utf8: &mut bool) -> Option<String> {
    let column = column?;
    let bytes = column.is_valid(row).then(|| column.value(row))?;
    let text = String::from_utf8_lossy(bytes);
    *utf8 &= text.as_bytes() == bytes;
    (!text.trim().is_empty()).then(|| text.into_owned())
}

/// Both texts or neither.
fn pair_at(
    (first, second): &(Option<LargeBinaryArray>, Option<LargeBinaryArray>),
    row: usize,
    utf8: &mut bool,
) -> (Option<String>, Option<String>) {
    let texts = text_at(first.as_ref(), row, utf8).zip(text_at(second.as_ref(), row, utf8));
    texts.unzip()
}

/// The texts of a list, in order.
fn texts_at(column: Option<&LargeListArray>, row: usize, utf8: &mut bool) -> Vec<String> {
    let Some(column) = column.filter(|column| column.is_valid(row)) else {
        return Vec::new();
    };
    let texts = column.value(row);
    let texts = texts.as_binary::<i64>();
    (0..texts.len())
        .filter_map(|at| text_at(Some(texts), at, utf8))
        .collect()
}

/// The picture's bytes, whichever of the binary types holds them; a struct's are in a field.
fn image_column(batch: &RecordBatch, name: &str) -> Result<LargeBinaryArray, ParquetError> {
    let column = column(batch, name)?;
    let bytes = match column.as_struct_opt() {
        Some(fields) => {
            let bytes = fields.column_by_name(IMAGE_BYTES).ok_or_else(|| {
                ParquetError::General(format!("column {name} has no field {IMAGE_BYTES}"))
            })?;
            // A field knows nothing of the rows in which the whole struct is null.
            nullif(bytes, &is_null(fields)?)?
        }
        None => column,
    };
    Ok(cast(&bytes, &DataType::LargeBinary)?
        .as_binary::<i64>()
        .clone())
}

fn text_column(batch: &RecordBatch, name: &str) -> Result<LargeBinaryArray, ParquetError> {
    Ok(cast(&column(batch, name)?, &DataType::LargeBinary)?
        .as_binary::<i64>()
        .clone())
}

fn list_column(batch: &RecordBatch, name: &str) -> Result<LargeListArray, ParquetError> {
    let text = Field::new_list_field(DataType::LargeBinary, true);
    Ok(
        cast(&column(batch, name)?, &DataType::LargeList(Arc::new(text)))?
            .as_list::<i64>()
            .clone(),
    )
}

fn column(batch: &RecordBatch, name: &str) -> Result<ArrayRef, ParquetError> {
    let found = batch.column_by_name(name).cloned();
    found.ok_or_else(|| ParquetError::General(format!("column {name} was not read")))
}
