//! Rows as somebody wants to look at them: where each lies, what is wrong with it, what its picture is.

use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, stream};
use image::ImageReader;
use ringmaster_proto::spec::Columns;
use zune_jpeg::JpegDecoder;

use crate::augment::View;
use crate::decode::Decoder;
use crate::error::DatasetError;
use crate::example::Example;
use crate::manifest::CorpusManifest;
use crate::plan::RowRef;
use crate::reader::Reader;
use crate::rows::EncodedRow;

/// Rows read and decoded together; pictures make a few of them large.
const CHUNK_ROWS: u64 = 256;

/// Chunks under way at once.
const CHUNKS_IN_FLIGHT: usize = 3;

/// One row that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenRow {
    /// URL of its shard.
    pub shard: String,
    /// Row group within the shard.
    pub row_group: u32,
    /// Row within the row group.
    pub row: u32,
    /// Size of the encoded picture.
    pub picture_bytes: usize,
    /// Width and height of the encoded picture, pixels, if its head says so.
    pub picture_size: Option<(usize, usize)>,
    /// The decoded row, or why training would refuse it.
    pub decoded: Result<Example, String>,
}

/// Which rows of a corpus.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// Every row.
    All,
    /// About so many, spread evenly.
    Spread(u64),
}

/// Shows `visit` rows of `manifest` in manifest order, decoded to squares of `side` pixels. A row
/// group that cannot be read is shown as rows that cannot be used; a store that is away is an error.
pub async fn survey(
    manifest: &Arc<CorpusManifest>,
    columns: &Columns,
    which: Which,
    side: usize,
    mut visit: impl FnMut(SeenRow),
) -> Result<(), DatasetError> {
    let reader = Arc::new(Reader::new(Arc::clone(manifest), columns)?);
    let chunks = chunks(&reader, which);
    let mut seen = stream::iter(chunks)
        .map(|(row_group, rows)| look(Arc::clone(&reader), row_group, rows, side))
        .buffered(CHUNKS_IN_FLIGHT);
    while let Some(rows) = seen.next().await {
        rows?.into_iter().for_each(&mut visit);
    }
    Ok(())
}

/// (row group, rows) of what is to be read.
fn chunks(reader: &Reader, which: Which) -> Vec<(u32, Range<u32>)> {
    let all: u64 = reader.row_counts().map(u64::from).sum();
    let stride = match which {
        Which::All => 1,
        Which::Spread(count) => all.div_ceil(count.max(1)).max(1),
    };
    let length = if stride == 1 { CHUNK_ROWS } else { 1 };
    let mut chunks = Vec::new();
    // Rows before the row group; the next row that is wanted.
    let (mut base, mut next) = (0, 0);
    for (row_group, count) in (0..).zip(reader.row_counts()) {
        let end = base + u64::from(count);
        while next < end {
            let until = end.min(next + length);
            chunks.push((row_group, (next - base) as u32..(until - base) as u32));
            next = until + stride - 1;
        }
        base = end;
    }
    chunks
}

async fn look(
    reader: Arc<Reader>,
    row_group: u32,
    rows: Range<u32>,
    side: usize,
) -> Result<Vec<SeenRow>, DatasetError> {
    let (shard, number) = reader.place(row_group);
    let unseen = move |row| SeenRow {
        shard: shard.clone(),
        row_group: number,
        row,
        picture_bytes: 0,
        picture_size: None,
        decoded: Err(String::new()),
    };
    let stored = match reader.read(row_group, rows.clone(), true).await {
        Ok(stored) => stored,
        Err(DatasetError::Corrupt { reason, .. }) => {
            let lost = |row| SeenRow {
                decoded: Err(format!("cannot be read as Parquet: {reason}")),
                ..unseen(row)
            };
            return Ok(rows.map(lost).collect());
        }
        Err(error) => return Err(error),
    };
    // Decoding takes long enough to keep other tasks of this thread waiting.
    let decoded = tokio::task::spawn_blocking(move || {
        let mut decoder = Decoder::new(side);
        let see = |(row, stored): (u32, EncodedRow)| {
            let picture = stored.image.as_deref().unwrap_or_default();
            let of = RowRef {
                epoch: 0,
                pass: 0,
                row_group,
                row,
                row_id: 0,
            };
            SeenRow {
                picture_bytes: picture.len(),
                picture_size: size_of(picture),
                decoded: Example::decode(of, &stored, &View::WHOLE, &mut decoder)
                    .map_err(|why| why.to_string()),
                ..unseen(row)
            }
        };
        rows.zip(stored).map(see).collect()
    });
    decoded.await.map_err(|_| DatasetError::LoaderDied)
}

/// What the head of a picture says of its width and height.
fn size_of(picture: &[u8]) -> Option<(usize, usize)> {
    const JPEG: &[u8] = &[0xff, 0xd8];
    if picture.starts_with(JPEG) {
        let mut decoder = JpegDecoder::new(zune_core::bytestream::ZCursor::new(picture));
        decoder.decode_headers().ok()?;
        return decoder.dimensions();
    }
    let reader = ImageReader::new(Cursor::new(picture)).with_guessed_format();
    let (width, height) = reader.ok()?.into_dimensions().ok()?;
    Some((width as usize, height as usize))
}
