//! The footer of a Parquet shard: what rows it has and where they are.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::datatypes::Schema;
use bytes::Bytes;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::error::DatasetError;
use crate::store::{Entry, Store};

/// Read first: most footers are shorter, and a second request costs more than these bytes.
const TAIL_BYTES: u64 = 64 << 10;

/// Length of the footer's length and the magic that end every file.
const END_BYTES: u64 = 8;

/// A footer of more than this is refused rather than read.
const FOOTER_BYTES_MAX: u64 = 256 << 20;

/// A decoded footer.
pub(crate) struct Footer {
    pub(crate) metadata: Arc<ParquetMetaData>,
    pub(crate) schema: Schema,
    /// blake3 of the encoded footer, lower-case hex. It holds the place and size of every column
    /// chunk, so it changes with nearly any change of the rows.
    pub(crate) hash: String,
}

/// Reads the footer of a shard. Also returns the end of the file as it was read, and where that
/// begins: other things lie just before the footer.
pub(crate) async fn read(
    store: &Store,
    shard: &Entry,
) -> Result<(Footer, (u64, Bytes)), DatasetError> {
    let bytes = shard.bytes;
    let corrupt = |reason: String| DatasetError::Corrupt {
        shard: store.child(&shard.key).url(),
        reason,
    };
    if bytes < END_BYTES {
        return Err(corrupt(format!("it has {bytes} bytes")));
    }
    let tail_start = bytes.saturating_sub(TAIL_BYTES);
    let tail = store.get_part(shard, tail_start..bytes).await?;
    let (length, magic) = tail[tail.len() - END_BYTES as usize..].split_at(4);
    if magic != b"PAR1" {
        return Err(corrupt("it does not end in PAR1".into()));
    }
    let length = length
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    if length > FOOTER_BYTES_MAX || length + END_BYTES > bytes {
        return Err(corrupt(format!("its footer claims {length} bytes")));
    }
    let end = bytes - END_BYTES;
    let footer = if length + END_BYTES <= tail.len() as u64 {
        let end = tail.len() - END_BYTES as usize;
        tail.slice(end - length as usize..end)
    } else {
        store.get_part(shard, end - length..end).await?
    };
    Ok((decode(&footer).map_err(corrupt)?, (tail_start, tail)))
}

fn decode(footer: &Bytes) -> Result<Footer, String> {
    // The bytes come from outside; a decoder that panics on them must not end the process.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        let metadata = ParquetMetaDataReader::decode_metadata(footer)?;
        let file = metadata.file_metadata();
        let schema = parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata())?;
        Ok::<_, ParquetError>((metadata, schema))
    }));
    let (metadata, schema) = decoded
        .map_err(|_| "its footer breaks the decoder".to_owned())?
        .map_err(|error| error.to_string())?;
    Ok(Footer {
        metadata: Arc::new(metadata),
        schema,
        hash: blake3::hash(footer).to_hex().to_string(),
    })
}
