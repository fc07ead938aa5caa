//! The manifest: the immutable list that makes a set of shards one corpus.
//!
//! It is read once from the Parquet footers; its hash is the identity of the corpus. The hash
//! covers what the rows are, not where they lie: a copy of a corpus is the same corpus.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use ringmaster_proto::spec::Columns;
use serde::{Deserialize, Serialize};

use crate::columns::ColumnMap;
use crate::error::DatasetError;
use crate::footer;
use crate::footer_cache::FooterCache;
use crate::retry::Retry;
use crate::store::{Entry, Store};

/// Version of the manifest's form, part of its hash.
const FORMAT_VERSION: u32 = 1;

/// Footers under way at once; each holds one decoded footer in memory.
const FOOTERS_IN_FLIGHT: usize = 32;

/// How long one footer is asked for before a run gives up to begin.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every shard of a corpus with its row groups, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusManifest {
    /// Version of this form.
    pub format_version: u32,
    /// Where each source was found, absolute.
    pub sources: Vec<String>,
    /// The shards: by source, then by key.
    pub shards: Vec<Shard>,
}

/// One Parquet file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Index into `sources`.
    pub source: u32,
    /// Key below the source.
    pub key: String,
    /// Size.
    pub bytes: u64,
    /// The store's name for this version; none for files, whose ETag is their inode and time.
    pub etag: Option<String>,
    /// blake3 of the Parquet footer, lower-case hex.
    pub footer: String,
    /// The row groups that belong to this corpus, as (number within the shard, rows).
    pub row_groups: Vec<(u32, u32)>,
}

impl CorpusManifest {
    /// Reads the footers of all `sources` (a file, or a folder of `*.parquet`), several at a time,
    /// but those that are known from before. `key` is the run file's name for the sources, used in
    /// errors. Calls `progress` with (done, of) after each shard. Writes nothing.
    pub async fn open(
        sources: &[String],
        columns: &Columns,
        key: &'static str,
        progress: impl Fn(u64, u64),
    ) -> Result<Self, DatasetError> {
        let mut parts = Vec::new();
        for url in sources {
            let opened = open_source(url, columns, key, None, &progress).await?;
            parts.push(opened.manifest);
        }
        Ok(Self::concat(parts))
    }

    /// [`CorpusManifest::open`] of one source, and keeps what its footers said for the next time:
    /// beside the shards, or below `root` where the shards are read-only.
    pub async fn open_and_keep(
        source: &str,
        columns: &Columns,
        key: &'static str,
        root: &Store,
        progress: impl Fn(u64, u64),
    ) -> Result<Self, DatasetError> {
        let opened = open_source(source, columns, key, Some(root), &progress).await?;
        let Opened {
            manifest,
            entries,
            cache,
        } = opened;
        cache.save(&entries, &manifest.shards).await;
        Ok(manifest)
    }

    /// Reads a stored manifest; refuses one that is not what `hash` names.
    pub fn from_json(url: &str, bytes: &[u8], hash: &str) -> Result<Self, DatasetError> {
        let wrong = |reason: String| DatasetError::Manifest {
            url: url.to_owned(),
            reason,
        };
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if manifest.hash() == hash {
            return Ok(manifest);
        }
        Err(wrong(format!("its content does not hash to {hash}")))
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        // Plain structs of numbers and strings always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// blake3 of the shards, lower-case hex: the corpus's identity.
    pub fn hash(&self) -> String {
        let bytes = serde_json::to_vec(&(self.format_version, &self.shards)).unwrap_or_default();
        blake3::hash(&bytes).to_hex().to_string()
    }

    /// Rows of each row group, in order.
    pub fn row_groups(&self) -> impl Iterator<Item = u32> {
        self.shards
            .iter()
            .flat_map(|shard| &shard.row_groups)
            .map(|(_, rows)| *rows)
    }

    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.row_groups().map(u64::from).sum()
    }

    /// Size of all shards, whole.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    /// How `after` differs from this manifest, by the first shard that is not in both, as a sentence
    /// about it; `None` where they are the same corpus.
    pub fn difference(&self, after: &Self) -> Option<String> {
        let place = |of: &Self, shard: &Shard| {
            let source = of.sources.get(shard.source as usize);
            format!("{}/{}", source.map_or("", String::as_str), shard.key)
        };
        let mut pairs = self.shards.iter().zip(&after.shards);
        let changed = match pairs.find(|(before, after)| before != after) {
            Some((a, b)) if a.key == b.key && a.source == b.source => {
                format!("{} changed", place(self, a))
            }
            Some((a, b)) if (a.source, &a.key) < (b.source, &b.key) => {
                format!("{} is gone", place(self, a))
            }
            Some((_, b)) => format!("{} is new", place(after, b)),
            None => {
                let both = self.shards.len().min(after.shards.len());
                match (self.shards.get(both), after.shards.get(both)) {
                    (Some(a), _) => format!("{} is gone", place(self, a)),
                    (None, Some(b)) => format!("{} is new", place(after, b)),
                    (None, None) => return None,
                }
            }
        };
        Some(changed)
    }

    /// Splits off `fraction` of the row groups, whole: those with the smallest hash of (seed, shard
    /// key, row group), so that the choice moves with nothing else. At least one row group stays on
    /// each side when there are two; with fewer, nothing is split off. Returns (train, held out).
    pub fn split(self, seed: u64, fraction: f64) -> (Self, Option<Self>) {
        let mut ranked = Vec::new();
        for (at, shard) in self.shards.iter().enumerate() {
            for (group, _) in &shard.row_groups {
                ranked.push((held_out_rank(seed, shard, *group), at, *group));
            }
        }
        if ranked.len() < 2 || fraction <= 0.0 {
            return (self, None);
        }
        let count = (ranked.len() as f64 * fraction).round() as usize;
        let count = count.clamp(1, ranked.len() - 1);
        ranked.sort_unstable();
        let chosen: std::collections::HashSet<(usize, u32)> = ranked[..count]
            .iter()
            .map(|(_, at, group)| (*at, *group))
            .collect();
        let part = |held_out: bool| {
            let mut part = self.clone();
            for (at, shard) in part.shards.iter_mut().enumerate() {
                shard
                    .row_groups
                    .retain(|(group, _)| chosen.contains(&(at, *group)) == held_out);
            }
            part.shards.retain(|shard| !shard.row_groups.is_empty());
            part
        };
        (part(false), Some(part(true)))
    }

    /// One corpus of several, one after the other.
    pub fn concat(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut whole = Self {
            format_version: FORMAT_VERSION,
            sources: Vec::new(),
            shards: Vec::new(),
        };
        for part in parts {
            let before = whole.sources.len() as u32;
            whole.sources.extend(part.sources);
            whole.shards.extend(part.shards.into_iter().map(|s| Shard {
                source: s.source + before,
                ..s
            }));
        }
        whole
    }
}

fn held_out_rank(seed: u64, shard: &Shard, group: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("ringmaster validation split v1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&group.to_le_bytes());
    hasher.update(shard.key.as_bytes());
    *hasher.finalize().as_bytes()
}

/// One source, as it was opened.
struct Opened {
    manifest: CorpusManifest,
    entries: Vec<Entry>,
    cache: FooterCache,
}

async fn open_source(
    url: &str,
    columns: &Columns,
    key: &'static str,
    root: Option<&Store>,
    progress: impl Fn(u64, u64),
) -> Result<Opened, DatasetError> {
    let (store, entries) = find_shards(url, key).await?;
    let cache = FooterCache::load(&store, entries.len(), columns, root).await;
    let of = entries.len() as u64;
    let mut done = 0;
    let shards = stream::iter(&entries)
        .map(|entry| {
            let known = cache.get(0, entry);
            let read = read_shard(&store, entry, columns);
            async move {
                match known {
                    Some(shard) => Ok(shard),
                    None => read.await,
                }
            }
        })
        .buffered(FOOTERS_IN_FLIGHT)
        .inspect_ok(|_| {
            done += 1;
            progress(done, of);
        })
        .try_collect()
        .await?;
    let manifest = CorpusManifest {
        format_version: FORMAT_VERSION,
        sources: vec![store.url()],
        shards,
    };
    Ok(Opened {
        manifest,
        entries,
        cache,
    })
}

/// The shards of one source, sorted by key: the object itself if the URL names one.
async fn find_shards(url: &str, key: &'static str) -> Result<(Store, Vec<Entry>), DatasetError> {
    let store = Store::open(url)?;
    let url = store.url();
    if let Some((folder, name)) = url.rsplit_once('/').filter(|(_, name)| is_parquet(name)) {
        let folder = Store::open(folder)?;
        match folder.head(name).await {
            Ok(entry) => return Ok((folder, vec![entry])),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut entries = store.list("").await?;
    entries.retain(|entry| is_parquet(&entry.key));
    if entries.is_empty() {
        return Err(DatasetError::NoShards {
            url: store.url(),
            key,
        });
    }
    Ok((store, entries))
}

fn is_parquet(key: &str) -> bool {
    key.ends_with(".parquet")
}

async fn read_shard(
    store: &Store,
    entry: &Entry,
    columns: &Columns,
) -> Result<Shard, DatasetError> {
    let mut retry = Retry::for_at_most(PATIENCE);
    loop {
        match read_shard_once(store, entry, columns).await {
            Ok(shard) => return Ok(shard),
            Err(error) => retry.after(error).await?,
        }
    }
}

async fn read_shard_once(
    store: &Store,
    entry: &Entry,
    columns: &Columns,
) -> Result<Shard, DatasetError> {
    let (footer, _) = footer::read(store, entry).await?;
    let url = store.child(&entry.key).url();
    ColumnMap::find(&url, &footer.schema, columns)?;
    let mut row_groups = Vec::new();
    for (number, group) in (0_u32..).zip(footer.metadata.row_groups()) {
        let rows = u32::try_from(group.num_rows()).map_err(|_| DatasetError::Corrupt {
            shard: url.clone(),
            reason: format!("row group {number} claims {} rows", group.num_rows()),
        })?;
        row_groups.push((number, rows));
    }
    Ok(Shard {
        source: 0,
        key: entry.key.clone(),
        bytes: entry.bytes,
        etag: entry.etag.clone().filter(|_| !store.is_local()),
        footer: footer.hash,
        row_groups,
    })
}
