//! From Arrow columns to rows that own their bytes.

use arrow::array::{Array, ArrayRef, AsArray, LargeBinaryArray, LargeStringArray, RecordBatch};
use arrow::compute::{cast, is_null, nullif};
use arrow::datatypes::DataType;
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
}

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncodedRow {
    /// JPEG, PNG or WebP; `None` where the column is null or was not read.
    pub(crate) image: Option<Vec<u8>>,
    pub(crate) texts: Texts,
}

/// The leaf columns to read; without `images`, text only.
pub(crate) fn projection(
    columns: &ColumnMap,
    schema: &SchemaDescriptor,
    images: bool,
) -> ProjectionMask {
    let question = columns
        .question
        .iter()
        .flat_map(|(question, answer)| [question, answer]);
    let texts: Vec<&String> = columns
        .caption
        .iter()
        .chain(question)
        .chain(&columns.template)
        .collect();
    let wanted = |parts: &[String]| match parts {
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
        Some(image_column(batch, &columns.image)?)
    } else {
        None
    };
    let text = |name: Option<&String>| name.map(|name| text_column(batch, name)).transpose();
    let question = columns.question.as_ref().map(|(question, _)| question);
    let answer = columns.question.as_ref().map(|(_, answer)| answer);
    let caption = text(columns.caption.as_ref())?;
    let (question, answer) = (text(question)?, text(answer)?);
    let template = text(columns.template.as_ref())?;
    for row in 0..batch.num_rows() {
        let (question, answer) = match (text_at(&question, row), text_at(&answer, row)) {
            (Some(question), Some(answer)) => (Some(question), Some(answer)),
            _ => (None, None),
        };
        rows.push(EncodedRow {
            image: image
                .as_ref()
                .and_then(|c| c.is_valid(row).then(|| c.value(row).to_vec())),
            texts: Texts {
                caption: text_at(&caption, row),
                question,
                answer,
                template: text_at(&template, row),
            },
        });
    }
    Ok(())
}

fn text_at(column: &Option<LargeStringArray>, row: usize) -> Option<String> {
    let column = column.as_ref()?;
    let text = column.is_valid(row).then(|| column.value(row))?;
    (!text.trim().is_empty()).then(|| text.to_owned())
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

fn text_column(batch: &RecordBatch, name: &str) -> Result<LargeStringArray, ParquetError> {
    Ok(cast(&column(batch, name)?, &DataType::LargeUtf8)?
        .as_string::<i64>()
        .clone())
}

fn column(batch: &RecordBatch, name: &str) -> Result<ArrayRef, ParquetError> {
    let found = batch.column_by_name(name).cloned();
    found.ok_or_else(|| ParquetError::General(format!("column {name} was not read")))
}
