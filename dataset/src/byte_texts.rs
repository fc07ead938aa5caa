//! Texts of a shard as the bytes they are.

use std::sync::Arc;

use parquet::basic::Type as Physical;
use parquet::errors::ParquetError;
use parquet::file::metadata::{FileMetaData, ParquetMetaData};
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};

/// `metadata` in which a text is a column of bytes like any other: whether it is UTF-8 is then asked
/// row by row, and one row that is not does not spoil the row group.
pub(crate) fn texts_as_bytes(metadata: &ParquetMetaData) -> Result<ParquetMetaData, ParquetError> {
    let file = metadata.file_metadata();
    let schema = SchemaDescriptor::new(as_bytes(&file.schema_descr().root_schema_ptr())?);
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        file.key_value_metadata().cloned(),
        Arc::new(schema),
        file.column_orders().cloned(),
    );
    Ok(ParquetMetaData::new(file, metadata.row_groups().to_vec()))
}

fn as_bytes(of: &TypePtr) -> Result<TypePtr, ParquetError> {
    let info = of.get_basic_info();
    let id = info.has_id().then(|| info.id());
    let made = match of.as_ref() {
        Type::PrimitiveType { physical_type, .. } if *physical_type == Physical::BYTE_ARRAY => {
            Type::primitive_type_builder(info.name(), Physical::BYTE_ARRAY)
                .with_repetition(info.repetition())
                .with_id(id)
                .build()?
        }
        Type::PrimitiveType { .. } => return Ok(Arc::clone(of)),
        Type::GroupType { fields, .. } => {
            let fields: Result<Vec<TypePtr>, ParquetError> = fields.iter().map(as_bytes).collect();
            let mut group = Type::group_type_builder(info.name())
                .with_converted_type(info.converted_type())
                .with_logical_type(info.logical_type_ref().cloned())
                .with_fields(fields?)
                .with_id(id);
            // Only the root has none.
            if info.has_repetition() {
                group = group.with_repetition(info.repetition());
            }
            group.build()?
        }
    };
    Ok(Arc::new(made))
}
