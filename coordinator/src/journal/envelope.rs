//! How a record lies in the store: JSON with its number, its writer and a checksum.

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::record::Record;

/// Version of the layout below.
const FORMAT: u32 = 1;

/// One object of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Envelope {
    format: u32,
    number: u64,
    pub(super) writer: String,
    /// Of number, writer and record; see [`checksum`].
    blake3: String,
    pub(super) record: Record,
}

impl Envelope {
    /// The bytes of `record` as number `number`.
    pub(super) fn seal(number: u64, writer: Ulid, record: &Record) -> Vec<u8> {
        let writer = writer.to_string();
        let blake3 = checksum(number, &writer, record);
        let record = record.clone();
        let envelope = Self {
            format: FORMAT,
            number,
            writer,
            blake3,
            record,
        };
        // Serialising plain structs of numbers and strings into memory cannot fail.
        serde_json::to_vec(&envelope).unwrap_or_default()
    }

    /// Reads `bytes` as number `number`; an error says what is wrong with them.
    pub(super) fn open(number: u64, bytes: &[u8]) -> Result<Self, String> {
        let envelope: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if envelope.format != FORMAT {
            return Err(format!(
                "format {} where {FORMAT} is expected",
                envelope.format
            ));
        }
        if envelope.number != number {
            return Err(format!("it says it is number {}", envelope.number));
        }
        if envelope.blake3 != checksum(number, &envelope.writer, &envelope.record) {
            return Err("its checksum does not match".to_owned());
        }
        Ok(envelope)
    }
}

/// blake3 over `number \n writer \n record`, the record as this crate serialises it: field order is
/// declaration order, so equal records have equal bytes.
fn checksum(number: u64, writer: &str, record: &Record) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{number}\n{writer}\n").as_bytes());
    hasher.update(&serde_json::to_vec(record).unwrap_or_default());
    hasher.finalize().to_hex().to_string()
}
