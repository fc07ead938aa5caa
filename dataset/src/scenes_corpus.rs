//! The built-in corpus as Parquet: what the generator draws, stored like anybody's data.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, ListBuilder, RecordBatch, StringArray, StringBuilder, StructArray,
};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde::{Deserialize, Serialize};

use crate::error::DatasetError;
use crate::prepare::Progress;
use crate::scenes;
use crate::store::Store;

/// Folder of the rows to train on.
pub(crate) const TRAIN: &str = "train";

/// Folder of the held-out rows.
pub(crate) const VALIDATION: &str = "validation";

/// Written last: with it the corpus is whole.
const MARKER: &str = "corpus.json";

/// Rows per row group.
const GROUP_ROWS: usize = 512;

/// Rows per shard: a dozen row groups.
const SHARD_ROWS: u64 = 6144;

/// Held-out scenes are drawn from here on; no corpus is that long.
const HELD_OUT_FROM: u64 = 1 << 40;

/// Rows that tell one version of the generator from another.
const SAMPLE_ROWS: u64 = 16;

/// Fewer held-out rows than this measure little.
const HELD_OUT_ROWS_MIN: u64 = 1024;

/// What the marker says was made.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    rows: u64,
    held_out: u64,
    seed: u64,
    /// blake3 of the first rows: another version of the generator draws others.
    drawn: String,
}

/// One shard to make.
#[derive(Clone, Copy, Debug)]
struct Part {
    folder: &'static str,
    number: u64,
    of: u64,
    first: u64,
    rows: u64,
}

/// How many rows are drawn to be held out beside `rows` to train on: `fraction` of them, and enough
/// to measure by. None if `fraction` is 0.
pub fn held_out_rows(rows: u64, fraction: f64) -> u64 {
    if fraction > 0.0 {
        ((rows as f64 * fraction) as u64).max(HELD_OUT_ROWS_MIN)
    } else {
        0
    }
}

/// Writes `rows` scenes below `out`/train and `held_out` others below `out`/validation. The bytes
/// depend on the arguments alone. Does nothing when the same corpus is there.
pub async fn make(
    out: &Store,
    rows: u64,
    held_out: u64,
    seed: u64,
    progress: &dyn Progress,
) -> Result<(), DatasetError> {
    let made = Made {
        rows,
        held_out,
        seed,
        drawn: drawn(seed),
    };
    match out.get(MARKER).await {
        Ok(json) if serde_json::from_slice::<Made>(&json).is_ok_and(|known| known == made) => {
            return Ok(());
        }
        Ok(_) => out.delete(MARKER).await?,
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    remove_shards(out).await?;
    let mut parts = parts(TRAIN, 0, rows);
    parts.extend(self::parts(VALIDATION, HELD_OUT_FROM, held_out));
    let mut done = 0;
    progress.stage("scenes", 0, rows + held_out);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    stream::iter(parts)
        .map(|part| write_part(out, part, seed))
        .buffer_unordered(threads)
        .try_for_each(|rows_done| {
            done += rows_done;
            progress.stage("scenes", done, rows + held_out);
            std::future::ready(Ok(()))
        })
        .await?;
    let json = serde_json::to_vec(&made).unwrap_or_default();
    Ok(out.put(MARKER, json.into()).await?)
}

/// Mean size of a row as it is stored, bytes, over the first row group that `seed` draws.
pub fn row_bytes(seed: u64) -> Result<u64, DatasetError> {
    let group = Part {
        folder: TRAIN,
        number: 0,
        of: 1,
        first: 0,
        rows: GROUP_ROWS as u64,
    };
    let encoded = encode_part(group, seed).map_err(|reason| DatasetError::Corrupt {
        shard: "scenes".to_owned(),
        reason,
    })?;
    Ok(encoded.len() as u64 / group.rows)
}

/// What the generator draws, in short.
fn drawn(seed: u64) -> String {
    let mut hasher = blake3::Hasher::new();
    for index in 0..SAMPLE_ROWS {
        let row = scenes::row(seed, index);
        hasher.update(&row.image);
        let objects = row.objects.join(", ");
        let texts = [&row.caption, &row.question, &row.answer];
        for text in texts.into_iter().chain([&objects, &row.hypothesis]) {
            hasher.update(text.as_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// Shards of an unfinished or another corpus would be found as part of this one.
async fn remove_shards(out: &Store) -> Result<(), DatasetError> {
    for entry in out.list("").await? {
        let ours = [TRAIN, VALIDATION].iter().any(|folder| {
            entry
                .key
                .strip_prefix(folder)
                .is_some_and(|name| name.starts_with("/scenes-"))
        });
        if ours {
            out.delete(&entry.key).await?;
        }
    }
    Ok(())
}

fn parts(folder: &'static str, first: u64, rows: u64) -> Vec<Part> {
    let of = rows.div_ceil(SHARD_ROWS);
    let part = |number| {
        let start = number * SHARD_ROWS;
        Part {
            folder,
            number,
            of,
            first: first + start,
            rows: SHARD_ROWS.min(rows - start),
        }
    };
    (0..of).map(part).collect()
}

async fn write_part(out: &Store, part: Part, seed: u64) -> Result<u64, DatasetError> {
    let Part {
        folder,
        number,
        of,
        rows,
        ..
    } = part;
    let key = format!("{folder}/scenes-{number:05}-of-{of:05}.parquet");
    let made = tokio::task::spawn_blocking(move || encode_part(part, seed)).await;
    let bytes = made
        .map_err(|_| DatasetError::LoaderDied)?
        .map_err(|reason| DatasetError::Corrupt {
            shard: out.child(&key).url(),
            reason,
        })?;
    out.put(&key, bytes).await?;
    Ok(rows)
}

fn encode_part(part: Part, seed: u64) -> Result<Bytes, String> {
    let schema = schema();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        // Pictures are compressed already, and texts are a few bytes beside them.
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties))
        .map_err(|error| error.to_string())?;
    let indices: Vec<u64> = (part.first..part.first + part.rows).collect();
    for indices in indices.chunks(GROUP_ROWS) {
        let batch = batch(&schema, indices, seed)?;
        writer.write(&batch).map_err(|error| error.to_string())?;
    }
    writer
        .into_inner()
        .map(Bytes::from)
        .map_err(|error| error.to_string())
}

fn image_fields() -> Fields {
    let bytes = Field::new("bytes", DataType::Binary, false);
    Fields::from(vec![bytes, Field::new("path", DataType::Utf8, false)])
}

fn schema() -> Arc<Schema> {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let image = Field::new("image", DataType::Struct(image_fields()), false);
    let mut fields = vec![image];
    fields.extend(["caption", "question", "answer", "template"].map(text));
    fields.push(Field::new("objects", DataType::List(object()), false));
    fields.extend(["hypothesis", "label"].map(text));
    Arc::new(Schema::new(fields))
}

fn object() -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Utf8, false))
}

fn batch(schema: &Arc<Schema>, indices: &[u64], seed: u64) -> Result<RecordBatch, String> {
    let rows: Vec<scenes::Row> = indices
        .iter()
        .map(|index| scenes::row(seed, *index))
        .collect();
    let pictures: Result<Vec<Vec<u8>>, String> =
        rows.iter().map(|row| encode_png(&row.image)).collect();
    let pictures = BinaryArray::from_iter_values(pictures?);
    let paths = StringArray::from_iter_values(indices.iter().map(|i| format!("{i:012}.png")));
    let images = StructArray::try_new(
        image_fields(),
        vec![Arc::new(pictures), Arc::new(paths)],
        None,
    );
    let images = images.map_err(|error| error.to_string())?;
    let text = |of: fn(&scenes::Row) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
    };
    let mut objects = ListBuilder::new(StringBuilder::new()).with_field(object());
    for row in &rows {
        objects.append_value(row.objects.iter().map(Some));
    }
    let columns = vec![
        Arc::new(images) as ArrayRef,
        text(|row| &row.caption),
        text(|row| &row.question),
        text(|row| &row.answer),
        text(|row| row.template),
        Arc::new(objects.finish()),
        text(|row| &row.hypothesis),
        text(|row| row.label),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|error| error.to_string())
}

fn encode_png(rgb: &[u8]) -> Result<Vec<u8>, String> {
    let mut png = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Up);
    let side = scenes::SIZE as u32;
    encoder
        .write_image(rgb, side, side, ExtendedColorType::Rgb8)
        .map_err(|error| error.to_string())?;
    Ok(png)
}
