//! Parts of shards, from the store or the disk: neighbours together, a few requests at a time, and
//! never more bytes than there is room for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::disk_cache::{BLOCK_BYTES, DiskCache, Key};
use crate::ranges;
use crate::store::{Entry, Store, StoreError};

/// Requests of one read under way at once.
const REQUESTS_IN_FLIGHT: usize = 6;

/// Encoded bytes that reads hold while they wait for them and decode them, all together.
const ROOM_BYTES: u64 = 256 << 20;

/// Room is counted in pieces of this size.
const ROOM_UNIT_BYTES: u64 = 64 << 10;

/// One version of one object.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) store: Store,
    pub(crate) entry: Entry,
}

/// Fetches for one reader.
#[derive(Debug)]
pub(crate) struct Fetcher {
    room: Arc<Semaphore>,
    cache: Option<Arc<DiskCache>>,
}

impl Fetcher {
    /// Fetches by way of `cache`, if there is one.
    pub(crate) fn new(cache: Option<DiskCache>) -> Self {
        Self {
            cache: cache.map(Arc::new),
            room: Arc::new(Semaphore::new(units(ROOM_BYTES) as usize)),
        }
    }

    /// Waits until there is room for `bytes`, which is taken until the permit is dropped. More than
    /// there is at all counts as all of it: such a read is alone.
    pub(crate) async fn room(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = units(bytes).min(units(ROOM_BYTES));
        // Nobody closes it.
        Arc::clone(&self.room).acquire_many_owned(units).await.ok()
    }

    /// The bytes of each of `parts`, in their order; `fresh` ones from the store itself.
    pub(crate) async fn fetch(
        &self,
        object: &Object,
        parts: &[Range<u64>],
        fresh: bool,
    ) -> Result<Vec<Bytes>, StoreError> {
        let (ranges, answers) = match &self.cache {
            Some(cache) => cached(cache, object, parts, fresh).await?,
            None => requested(object, parts).await?,
        };
        let part = |part| ranges::part(&ranges, &answers, part);
        let parts: Option<Vec<Bytes>> = parts.iter().map(part).collect();
        parts.ok_or_else(|| StoreError::Failed {
            url: object.store.child(&object.entry.key).url(),
            reason: "it sent less than was asked for".to_owned(),
        })
    }
}

type Answers = (Vec<Range<u64>>, Vec<Bytes>);

/// Ranges that cover `parts`, from the store, and their bytes.
async fn requested(object: &Object, parts: &[Range<u64>]) -> Result<Answers, StoreError> {
    let requests = ranges::requests(parts);
    let answers = stream::iter(requests.clone())
        .map(|request| object.store.get_part(&object.entry, request))
        .buffered(REQUESTS_IN_FLIGHT)
        .try_collect()
        .await?;
    Ok((requests, answers))
}

/// The blocks that cover `parts`, from the disk where they are there, and their bytes.
async fn cached(
    cache: &Arc<DiskCache>,
    object: &Object,
    parts: &[Range<u64>],
    fresh: bool,
) -> Result<Answers, StoreError> {
    let numbers: BTreeSet<u64> = parts
        .iter()
        .filter(|part| !part.is_empty())
        .flat_map(|part| part.start / BLOCK_BYTES..part.end.div_ceil(BLOCK_BYTES))
        .collect();
    let range_of = |number: u64| {
        let start = number * BLOCK_BYTES;
        start..(start + BLOCK_BYTES).min(object.entry.bytes)
    };
    let mut blocks: BTreeMap<u64, Bytes> = BTreeMap::new();
    let mut missing = Vec::new();
    for number in numbers {
        let known = match fresh {
            true => None,
            false => cache.get(Key::of(object, number)).await,
        };
        match known {
            Some(block) => drop(blocks.insert(number, block)),
            None => missing.push(number),
        }
    }
    let wanted: Vec<Range<u64>> = missing.iter().copied().map(range_of).collect();
    let (requests, answers) = requested(object, &wanted).await?;
    for (number, range) in missing.into_iter().zip(wanted) {
        if let Some(block) = ranges::part(&requests, &answers, &range) {
            cache.put(Key::of(object, number), block.clone()).await;
            blocks.insert(number, block);
        }
    }
    let ranges = blocks.keys().copied().map(range_of).collect();
    Ok((ranges, blocks.into_values().collect()))
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(ROOM_UNIT_BYTES)).unwrap_or(u32::MAX)
}
