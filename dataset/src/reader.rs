//! From (row group, rows) to encoded rows: ranged reads of just the needed columns.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ringmaster_proto::spec::Columns;

use crate::disk_cache::DiskCache;
use crate::error::DatasetError;
use crate::fetch::Fetcher;
use crate::manifest::CorpusManifest;
use crate::retry::Retry;
use crate::rows::EncodedRow;
use crate::shard::{OpenShard, Wanted};
use crate::store::Store;

/// Open shards kept: their decoded footers are the reader's only lasting memory.
const SHARDS_KEPT: usize = 64;

/// How long a fetch is repeated before it becomes an error. A step waits rather than skip a row.
const PATIENCE: Duration = Duration::from_secs(600);

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
    fetcher: Arc<Fetcher>,
}

impl Reader {
    /// A reader of `manifest`; nothing is fetched yet.
    pub(crate) fn new(
        manifest: Arc<CorpusManifest>,
        columns: &Columns,
    ) -> Result<Self, DatasetError> {
        Self::with_cache(manifest, columns, None)
    }

    /// The same, by way of a disk.
    pub(crate) fn with_cache(
        manifest: Arc<CorpusManifest>,
        columns: &Columns,
        cache: Option<DiskCache>,
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
            fetcher: Arc::new(Fetcher::new(cache)),
        })
    }

    /// Rows of each row group, in manifest order.
    pub(crate) fn row_counts(&self) -> impl ExactSizeIterator<Item = u32> {
        self.groups.iter().map(|(_, _, rows)| *rows)
    }

    /// What is stored of a row of `row_group`, bytes: the mean of its shard.
    pub(crate) fn row_bytes(&self, row_group: u32) -> u64 {
        let (at, ..) = self.groups[row_group as usize];
        let shard = &self.manifest.shards[at];
        let rows: u64 = shard
            .row_groups
            .iter()
            .map(|(_, rows)| u64::from(*rows))
            .sum();
        shard.bytes / rows.max(1)
    }

    /// URL of the shard that holds `row_group`, and the row group's number within it.
    pub(crate) fn place(&self, row_group: u32) -> (String, u32) {
        let (at, number, _) = self.groups[row_group as usize];
        (self.url(at), number)
    }

    fn url(&self, at: usize) -> String {
        let shard = &self.manifest.shards[at];
        self.stores[shard.source as usize].child(&shard.key).url()
    }

    /// Rows `rows` of `row_group`, repeated with a jittered backoff while the store is away.
    pub(crate) async fn read(
        &self,
        row_group: u32,
        rows: Range<u32>,
        images: bool,
    ) -> Result<Vec<EncodedRow>, DatasetError> {
        self.read_with(row_group, rows, images, false).await
    }

    /// [`Reader::read`] with pictures, past everything that is cached here.
    pub(crate) async fn read_past_caches(
        &self,
        row_group: u32,
        rows: Range<u32>,
    ) -> Result<Vec<EncodedRow>, DatasetError> {
        self.read_with(row_group, rows, true, true).await
    }

    async fn read_with(
        &self,
        row_group: u32,
        rows: Range<u32>,
        images: bool,
        fresh: bool,
    ) -> Result<Vec<EncodedRow>, DatasetError> {
        let (at, number, of) = self.groups[row_group as usize];
        let mut wanted = Wanted {
            row_group: number,
            of,
            rows,
            images,
            fresh,
        };
        let mut retry = Retry::for_at_most(PATIENCE);
        loop {
            let error = match self.read_once(at, &wanted).await {
                Ok(rows) => return Ok(rows),
                Err(error) => error,
            };
            if matches!(error, DatasetError::Corrupt { .. }) {
                // The damage may be in what is remembered.
                self.forget(at);
                wanted.fresh = true;
            }
            retry.after(error).await?;
        }
    }

    async fn read_once(&self, at: usize, wanted: &Wanted) -> Result<Vec<EncodedRow>, DatasetError> {
        let read = async { self.shard(at).await?.read(wanted, &self.fetcher).await };
        let shard = || self.url(at);
        read.await.map_err(|error| match error {
            DatasetError::Store(error) if error.is_other_version() => {
                DatasetError::Changed { shard: shard() }
            }
            DatasetError::Store(error) if error.is_not_found() => {
                DatasetError::Vanished { shard: shard() }
            }
            error => error,
        })
    }

    async fn shard(&self, at: usize) -> Result<Arc<OpenShard>, DatasetError> {
        if let Some(shard) = self.recall(at) {
            return Ok(shard);
        }
        let named = &self.manifest.shards[at];
        let store = &self.stores[named.source as usize];
        let shard = Arc::new(OpenShard::open(at, named, store, &self.columns).await?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push_front(Arc::clone(&shard));
        open.truncate(SHARDS_KEPT);
        Ok(shard)
    }

    fn forget(&self, at: usize) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|shard| shard.number != at);
    }

    fn recall(&self, at: usize) -> Option<Arc<OpenShard>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let found = open.iter().position(|shard| shard.number == at)?;
        let shard = open.remove(found)?;
        open.push_front(Arc::clone(&shard));
        Some(shard)
    }
}
