//! From (row group, rows) to encoded rows: ranged reads of just the needed columns.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use ringmaster_proto::ErrorKind;
use ringmaster_proto::spec::Columns;
use tokio::time::Instant;

use crate::columns::ColumnMap;
use crate::error::DatasetError;
use crate::footer;
use crate::manifest::CorpusManifest;
use crate::rows::{EncodedRow, encoded_rows, projection};
use crate::store::Store;

/// Open shards kept: their decoded footers are the reader's only lasting memory.
const SHARDS_KEPT: usize = 64;

/// Rows decoded from Parquet at a time.
const BATCH_ROWS: usize = 1024;

/// How long a fetch is repeated before it becomes an error. A step waits rather than skip a row.
const PATIENCE: Duration = Duration::from_secs(600);

/// First and longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How often a shard that cannot be read as Parquet is read again: a body may arrive damaged.
const CORRUPT_READS: u32 = 2;

/// Reads the rows of one manifest.
#[derive(Debug)]
pub(crate) struct Reader {
    manifest: Arc<CorpusManifest>,
    columns: Columns,
    stores: Vec<Store>,
    /// (shard, number within it, rows) of every row group, in manifest order.
    groups: Vec<(usize, u32, u32)>,
    /// The most recently used open shards, newest first.
    open: Mutex<VecDeque<Arc<OpenShard>>>,
}

#[derive(Debug)]
struct OpenShard {
    number: usize,
    url: String,
    metadata: ArrowReaderMetadata,
    columns: ColumnMap,
}

impl Reader {
    /// A reader of `manifest`; nothing is fetched yet.
    pub(crate) fn new(
        manifest: Arc<CorpusManifest>,
        columns: &Columns,
    ) -> Result<Self, DatasetError> {
        let stores: Result<_, _> = manifest
            .sources
            .iter()
            .map(|url| Store::open(url))
            .collect();
        let shards = manifest.shards.iter().enumerate();
        let groups = shards
            .flat_map(|(at, shard)| {
                shard
                    .row_groups
                    .iter()
                    .map(move |(n, rows)| (at, *n, *rows))
            })
            .collect();
        Ok(Self {
            stores: stores?,
            columns: columns.clone(),
            groups,
            manifest,
            open: Mutex::default(),
        })
    }

    /// Rows of each row group, in manifest order.
    pub(crate) fn row_counts(&self) -> impl ExactSizeIterator<Item = u32> {
        self.groups.iter().map(|(_, _, rows)| *rows)
    }

    /// URL of the shard that holds `row_group`, and the row group's number within it.
    pub(crate) fn place(&self, row_group: u32) -> (String, u32) {
        let (at, number, _) = self.groups[row_group as usize];
        let shard = &self.manifest.shards[at];
        (
            self.stores[shard.source as usize].child(&shard.key).url(),
            number,
        )
    }

    /// Rows `rows` of `row_group`, repeated with a jittered backoff while the store is away.
    pub(crate) async fn read(
        &self,
        row_group: u32,
        rows: Range<u32>,
        images: bool,
    ) -> Result<Vec<EncodedRow>, DatasetError> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = BACKOFF.0;
        let mut corrupt = 0;
        loop {
            let error = match self.read_once(row_group, rows.clone(), images).await {
                Ok(rows) => return Ok(rows),
                Err(error) => error,
            };
            let again = match &error {
                DatasetError::Corrupt { .. } => {
                    corrupt += 1;
                    corrupt < CORRUPT_READS
                }
                error => error.kind() == ErrorKind::Retry,
            };
            if !again || Instant::now() + pause > deadline {
                return Err(error);
            }
            tracing::warn!(%error, row_group, ?pause, "cannot read rows; trying again");
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    async fn read_once(
        &self,
        row_group: u32,
        rows: Range<u32>,
        images: bool,
    ) -> Result<Vec<EncodedRow>, DatasetError> {
        let (at, number, of) = self.groups[row_group as usize];
        let shard = self.shard(at).await?;
        let input = ShardBytes {
            store: self.stores[self.manifest.shards[at].source as usize].clone(),
            key: self.manifest.shards[at].key.clone(),
            metadata: Arc::clone(shard.metadata.metadata()),
        };
        let read = AssertUnwindSafe(read_rows(&shard, input, number, rows.clone(), of, images));
        // The bytes come from outside; a decoder that panics on them must not end the process.
        let read = read.catch_unwind().await;
        let corrupt = |reason: String| DatasetError::Corrupt {
            shard: shard.url.clone(),
            reason,
        };
        let found = match read {
            Ok(found) => found.map_err(|error| of_parquet(&shard.url, error))?,
            Err(_) => return Err(corrupt(format!("row group {number} breaks the decoder"))),
        };
        if found.len() == rows.len() {
            return Ok(found);
        }
        Err(corrupt(format!(
            "row group {number} has {} of the rows {rows:?}",
            found.len()
        )))
    }

    async fn shard(&self, at: usize) -> Result<Arc<OpenShard>, DatasetError> {
        if let Some(shard) = self.recall(at) {
            return Ok(shard);
        }
        let named = &self.manifest.shards[at];
        let store = &self.stores[named.source as usize];
        let url = store.child(&named.key).url();
        let found = store.head(&named.key).await?;
        if found.bytes != named.bytes || (named.etag.is_some() && found.etag != named.etag) {
            return Err(DatasetError::Changed { shard: url });
        }
        let footer = footer::read(store, &named.key, named.bytes).await?;
        if footer.hash != named.footer {
            return Err(DatasetError::Changed { shard: url });
        }
        let columns = ColumnMap::find(&url, &footer.schema, &self.columns)?;
        let metadata = ArrowReaderMetadata::try_new(footer.metadata, ArrowReaderOptions::new())
            .map_err(|error| of_parquet(&url, error))?;
        let shard = Arc::new(OpenShard {
            number: at,
            url,
            metadata,
            columns,
        });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push_front(Arc::clone(&shard));
        open.truncate(SHARDS_KEPT);
        Ok(shard)
    }

    fn recall(&self, at: usize) -> Option<Arc<OpenShard>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let found = open.iter().position(|shard| shard.number == at)?;
        let shard = open.remove(found)?;
        open.push_front(Arc::clone(&shard));
        Some(shard)
    }
}

async fn read_rows(
    shard: &OpenShard,
    input: ShardBytes,
    number: u32,
    rows: Range<u32>,
    of: u32,
    images: bool,
) -> Result<Vec<EncodedRow>, ParquetError> {
    let metadata = shard.metadata.clone();
    let projection = projection(&shard.columns, metadata.parquet_schema(), images);
    let range = rows.start as usize..rows.end as usize;
    let selection = RowSelection::from_consecutive_ranges(std::iter::once(range), of as usize);
    let mut batches = ParquetRecordBatchStreamBuilder::new_with_metadata(input, metadata)
        .with_row_groups(vec![number as usize])
        .with_projection(projection)
        .with_row_selection(selection)
        .with_batch_size(BATCH_ROWS)
        .build()?;
    let mut found = Vec::with_capacity(rows.len());
    while let Some(batch) = batches.try_next().await? {
        encoded_rows(&batch, &shard.columns, images, &mut found)?;
    }
    Ok(found)
}

/// What the Parquet reader sees of a shard.
struct ShardBytes {
    store: Store,
    key: String,
    metadata: Arc<ParquetMetaData>,
}

impl AsyncFileReader for ShardBytes {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            let bytes = self.store.get_range(&self.key, range).await;
            bytes.map_err(|error| ParquetError::External(Box::new(error)))
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move {
            let bytes = self.store.get_ranges(&self.key, &ranges).await;
            bytes.map_err(|error| ParquetError::External(Box::new(error)))
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let metadata = Arc::clone(&self.metadata);
        async move { Ok(metadata) }.boxed()
    }
}

/// A store's error passes through the Parquet reader unchanged; anything else is about the shard.
fn of_parquet(shard: &str, error: ParquetError) -> DatasetError {
    let corrupt = |reason: String| DatasetError::Corrupt {
        shard: shard.to_owned(),
        reason,
    };
    match error {
        ParquetError::External(cause) => match cause.downcast() {
            Ok(store) => DatasetError::Store(*store),
            Err(cause) => corrupt(cause.to_string()),
        },
        error => corrupt(error.to_string()),
    }
}

/// Between half of `pause` and all of it, so that many readers do not knock at once.
fn jittered(pause: Duration) -> Duration {
    let draw = RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64;
    pause.mul_f64(0.5 + draw / 2.0)
}
