//! One open shard: its footer and the places of its pages, and rows out of it.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection};
use parquet::arrow::async_reader::{
    AsyncFileReader, MetadataFetch, ParquetRecordBatchStreamBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use ringmaster_proto::spec::Columns;
use tokio::sync::OwnedSemaphorePermit;

use crate::byte_texts::texts_as_bytes;
use crate::columns::ColumnMap;
use crate::error::DatasetError;
use crate::fetch::{Fetcher, Object};
use crate::footer;
use crate::manifest::Shard;
use crate::pages::{Scan, ScanError, WithScan};
use crate::rows::{EncodedRow, encoded_rows, projection};
use crate::store::{Store, StoreError};

/// Rows decoded from Parquet at a time.
const BATCH_ROWS: usize = 1024;

/// A column chunk of more than this, whose writer stored no index, is not read whole for the sake of
/// a part of its rows.
const WHOLE_CHUNK_BYTES: i64 = 16 << 20;

/// One shard in the version that the manifest names.
pub(crate) struct OpenShard {
    pub(crate) number: usize,
    url: String,
    object: Object,
    metadata: ArrowReaderMetadata,
    columns: ColumnMap,
    /// The pages found so far, by row group and column.
    scans: Mutex<HashMap<(usize, usize), SharedScan>>,
}

impl fmt::Debug for OpenShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenShard").field(&self.url).finish()
    }
}

type SharedScan = Arc<tokio::sync::Mutex<Scan>>;

/// Which rows of a shard.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Row group, numbered within the shard.
    pub(crate) row_group: u32,
    /// Rows that the row group has.
    pub(crate) of: u32,
    /// Those that are wanted.
    pub(crate) rows: Range<u32>,
    /// Whether with their pictures.
    pub(crate) images: bool,
    /// Whether from the store itself, past what is cached.
    pub(crate) fresh: bool,
}

impl OpenShard {
    /// Opens shard `number` of a manifest, which describes it as `named`.
    pub(crate) async fn open(
        number: usize,
        named: &Shard,
        store: &Store,
        columns: &Columns,
    ) -> Result<Self, DatasetError> {
        let url = store.child(&named.key).url();
        let entry = store.head(&named.key).await?;
        if entry.bytes != named.bytes || (named.etag.is_some() && entry.etag != named.etag) {
            return Err(DatasetError::Changed { shard: url });
        }
        let store = store.clone();
        let object = Object { store, entry };
        let (footer, tail) = footer::read(&object.store, &object.entry).await?;
        if footer.hash != named.footer {
            return Err(DatasetError::Changed { shard: url });
        }
        let columns = ColumnMap::find(&url, &footer.schema, columns)?;
        let metadata = texts_as_bytes(&footer.metadata);
        let metadata = metadata.map_err(|error| of_parquet(&url, error))?;
        let metadata = with_pages(Arc::new(metadata), &object, &tail).await?;
        let metadata = ArrowReaderMetadata::try_new(metadata, options())
            .map_err(|error| of_parquet(&url, error))?;
        Ok(Self {
            number,
            url,
            object,
            metadata,
            columns,
            scans: Mutex::default(),
        })
    }

    /// Fetches and decodes rows. Holds no more of the row group in memory than their pages.
    pub(crate) async fn read(
        &self,
        wanted: &Wanted,
        fetcher: &Arc<Fetcher>,
    ) -> Result<Vec<EncodedRow>, DatasetError> {
        let row_group = wanted.row_group;
        // The bytes come from outside; a decoder that panics on them must not end the process.
        let read = AssertUnwindSafe(self.decode(wanted, fetcher)).catch_unwind();
        let found = match read.await {
            Ok(found) => found?,
            Err(_) => return Err(self.corrupt(format!("row group {row_group} breaks the decoder"))),
        };
        let (count, rows) = (found.len(), &wanted.rows);
        if count == rows.len() {
            return Ok(found);
        }
        Err(self.corrupt(format!(
            "row group {row_group} has {count} of the rows {rows:?}"
        )))
    }

    async fn decode(
        &self,
        wanted: &Wanted,
        fetcher: &Arc<Fetcher>,
    ) -> Result<Vec<EncodedRow>, DatasetError> {
        let of_parquet = |error| match of_parquet(&self.url, error) {
            DatasetError::Corrupt { shard, reason } => {
                let reason = format!("row group {}: {reason}", wanted.row_group);
                DatasetError::Corrupt { shard, reason }
            }
            error => error,
        };
        let Wanted { rows, images, .. } = wanted;
        let schema = self.metadata.parquet_schema();
        let projection = projection(&self.columns, schema, *images);
        let metadata = self.metadata_for(wanted, &projection, fetcher).await?;
        let range = rows.start as usize..rows.end as usize;
        let of = wanted.of as usize;
        let selection = RowSelection::from_consecutive_ranges(std::iter::once(range), of);
        let input = ShardBytes {
            object: self.object.clone(),
            fetcher: Arc::clone(fetcher),
            fresh: wanted.fresh,
            metadata: Arc::clone(metadata.metadata()),
            room: None,
        };
        let mut batches = ParquetRecordBatchStreamBuilder::new_with_metadata(input, metadata)
            .with_row_groups(vec![wanted.row_group as usize])
            .with_projection(projection)
            .with_row_selection(selection)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(of_parquet)?;
        let mut found = Vec::with_capacity(rows.len());
        while let Some(batch) = batches.try_next().await.map_err(of_parquet)? {
            encoded_rows(&batch, &self.columns, *images, &mut found).map_err(of_parquet)?;
        }
        Ok(found)
    }

    /// The metadata to read `wanted` by: with the pages of its long column chunk found, if it is a
    /// part of one without an index.
    async fn metadata_for(
        &self,
        wanted: &Wanted,
        projection: &ProjectionMask,
        fetcher: &Arc<Fetcher>,
    ) -> Result<ArrowReaderMetadata, DatasetError> {
        let part = wanted.rows.len() < wanted.of as usize;
        let Some((row_group, column)) = self.unindexed(wanted, projection).filter(|_| part) else {
            return Ok(self.metadata.clone());
        };
        let of_parquet = |error| of_parquet(&self.url, error);
        let scan = self.scan(row_group, column).map_err(of_parquet)?;
        // Whoever wants pages further on waits for those before them.
        let mut scan = scan.lock().await;
        let index = scan.up_to(
            u64::from(wanted.rows.end),
            fetcher,
            &self.object,
            wanted.fresh,
        );
        let index = index.await.map_err(|error| match error {
            ScanError::Store(error) => DatasetError::Store(error),
            ScanError::Parquet(error) => of_parquet(error),
        })?;
        drop(scan);
        let whole = self.metadata.metadata();
        let with_scan = WithScan {
            file: whole.page_index().cloned(),
            row_group,
            column,
            index,
        };
        let metadata = ParquetMetaData::clone(whole).into_builder();
        let metadata = metadata.set_page_index(Some(Arc::new(with_scan))).build();
        ArrowReaderMetadata::try_new(Arc::new(metadata), options()).map_err(of_parquet)
    }

    /// The longest column chunk of `wanted` that is too long to be read whole and has no index: row
    /// group and column. Only a flat one, whose pages tell how many rows they have.
    fn unindexed(&self, wanted: &Wanted, projection: &ProjectionMask) -> Option<(usize, usize)> {
        let metadata = self.metadata.metadata();
        let row_group = wanted.row_group as usize;
        let index = metadata.page_index_for_row_group(row_group);
        let columns = metadata.row_group(row_group).columns().iter().enumerate();
        let long = columns.filter(|(at, column)| {
            column.compressed_size() > WHOLE_CHUNK_BYTES
                && column.column_descr().max_rep_level() == 0
                && projection.leaf_included(*at)
                && index.offset_index(*at).is_none()
        });
        let longest = long.max_by_key(|(_, column)| column.compressed_size());
        longest.map(|(at, _)| (row_group, at))
    }

    fn scan(&self, row_group: usize, column: usize) -> Result<SharedScan, ParquetError> {
        let mut scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scan) = scans.get(&(row_group, column)) {
            return Ok(Arc::clone(scan));
        }
        let group = self.metadata.metadata().row_group(row_group);
        let scan = Scan::new(group.column(column), group.num_rows() as usize)?;
        let scan = Arc::new(tokio::sync::Mutex::new(scan));
        scans.insert((row_group, column), Arc::clone(&scan));
        Ok(scan)
    }

    fn corrupt(&self, reason: String) -> DatasetError {
        DatasetError::Corrupt {
            shard: self.url.clone(),
            reason,
        }
    }
}

/// The Arrow schema that a writer may have stored says again what is a text.
fn options() -> ArrowReaderOptions {
    ArrowReaderOptions::new().with_skip_arrow_metadata(true)
}

/// Adds where the pages of each column chunk lie, if the writer stored that.
async fn with_pages(
    metadata: Arc<ParquetMetaData>,
    object: &Object,
    tail: &(u64, Bytes),
) -> Result<Arc<ParquetMetaData>, DatasetError> {
    let url = || object.store.child(&object.entry.key).url();
    let mut reader = ParquetMetaDataReader::new_with_metadata(Arc::unwrap_or_clone(metadata))
        .with_column_index_policy(PageIndexPolicy::Skip)
        .with_offset_index_policy(PageIndexPolicy::Optional);
    let mut source = Source { object, tail };
    let load = AssertUnwindSafe(reader.load_page_index(&mut source)).catch_unwind();
    let loaded = load.await.map_err(|_| DatasetError::Corrupt {
        shard: url(),
        reason: "its page index breaks the decoder".to_owned(),
    })?;
    let metadata = loaded.and_then(|()| reader.finish());
    metadata
        .map(Arc::new)
        .map_err(|error| of_parquet(&url(), error))
}

/// A shard as the page index is read from it; what came with the footer is not asked for again.
struct Source<'a> {
    object: &'a Object,
    tail: &'a (u64, Bytes),
}

impl MetadataFetch for &mut Source<'_> {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            let (start, tail) = self.tail;
            let end = start + tail.len() as u64;
            if *start <= range.start && range.start <= range.end && range.end <= end {
                return Ok(tail.slice((range.start - start) as usize..(range.end - start) as usize));
            }
            let Object { store, entry } = self.object;
            let bytes = store.get_part(entry, range).await;
            bytes.map_err(|error| ParquetError::External(Box::new(error)))
        }
        .boxed()
    }
}

/// What the Parquet reader sees of a shard.
struct ShardBytes {
    object: Object,
    fetcher: Arc<Fetcher>,
    fresh: bool,
    metadata: Arc<ParquetMetaData>,
    /// Room for what is read, taken once and held until the rows are decoded.
    room: Option<OwnedSemaphorePermit>,
}

impl AsyncFileReader for ShardBytes {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            let mut parts = self.get_byte_ranges(vec![range]).await?;
            Ok(parts.pop().unwrap_or_default())
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move {
            if self.room.is_none() {
                let bytes = ranges.iter().map(|range| range.end - range.start).sum();
                self.room = self.fetcher.room(bytes).await;
            }
            let parts = self.fetcher.fetch(&self.object, &ranges, self.fresh).await;
            parts.map_err(|error| ParquetError::External(Box::new(error)))
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
        ParquetError::External(cause) => match cause.downcast::<StoreError>() {
            Ok(error) => DatasetError::Store(*error),
            Err(cause) => corrupt(cause.to_string()),
        },
        error => corrupt(error.to_string()),
    }
}
