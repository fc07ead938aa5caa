//! What the footers of a source said, kept as one object: a listing tells which of it still holds.
//!
//! The object lies beside the shards, or with the run where the shards are read-only. It is a help,
//! never a witness: it names the version (size and ETag) of every shard it speaks of, a shard of
//! another version is read again, and an object that is damaged or of another form is passed over.
//! The reader compares each footer with the manifest when it opens the shard.

use std::collections::HashMap;

use ringmaster_proto::spec::Columns;
use serde::{Deserialize, Serialize};

use crate::manifest::Shard;
use crate::store::{Entry, Store};

/// Form of the object, part of its key.
const FORM: &str = "v1";

/// With fewer shards than this, reading the footers takes no longer than reading the object.
const SHARDS_MIN: usize = 64;

/// Longest object that is read: some ten million row groups.
const OBJECT_BYTES_MAX: u64 = 256 << 20;

/// Hex digits of a blake3 hash.
const HASH_CHARS: usize = 64;

/// The known shards of one source.
pub(crate) struct FooterCache {
    /// Where to look and write, in this order.
    places: Vec<(Store, String)>,
    /// By key, with the listing's ETag.
    known: HashMap<String, (String, Shard)>,
    /// Whether the source is worth an object.
    worthwhile: bool,
}

/// One shard as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// What the listing called this version; the manifest has none for files.
    etag: String,
    shard: Shard,
}

impl FooterCache {
    /// What is known of `source`, which has `shards` shards and is read for `columns`. `fallback` is
    /// the run's own store, if there is a run.
    pub(crate) async fn load(
        source: &Store,
        shards: usize,
        columns: &Columns,
        fallback: Option<&Store>,
    ) -> Self {
        let mut cache = Self {
            places: places(source, columns, fallback),
            known: HashMap::new(),
            worthwhile: shards >= SHARDS_MIN,
        };
        if cache.worthwhile {
            for (store, key) in &cache.places {
                if let Some(records) = read(store, key).await {
                    let by_key = |r: Record| (r.shard.key.clone(), (r.etag, r.shard));
                    cache.known = records.into_iter().map(by_key).collect();
                    break;
                }
            }
        }
        cache
    }

    /// The shard of this very version, if its footer was read before.
    pub(crate) fn get(&self, source: u32, entry: &Entry) -> Option<Shard> {
        let (etag, shard) = self.known.get(&entry.key)?;
        let same = entry.etag.as_ref() == Some(etag) && entry.bytes == shard.bytes;
        same.then(|| Shard {
            source,
            ..shard.clone()
        })
    }

    /// Writes what is now known of the source, unless that was known before. `entries` and `shards`
    /// are in the same order. That it cannot be written anywhere is worth a warning and no more.
    pub(crate) async fn save(&self, entries: &[Entry], shards: &[Shard]) {
        let same = |entry: &Entry| self.get(0, entry).is_some();
        let unchanged = entries.len() == self.known.len() && entries.iter().all(same);
        if !self.worthwhile || unchanged {
            return;
        }
        let record = |(entry, shard): (&Entry, &Shard)| {
            let etag = entry.etag.clone()?;
            let shard = Shard {
                source: 0,
                ..shard.clone()
            };
            Some(Record { etag, shard })
        };
        let records: Vec<Record> = entries.iter().zip(shards).filter_map(record).collect();
        let object = encode(&records);
        let mut reason = None;
        for (store, key) in &self.places {
            match store.put(key, object.clone().into()).await {
                Ok(()) => return,
                Err(error) => reason = Some(error),
            }
        }
        if let Some(error) = reason {
            tracing::warn!(%error, "cannot keep what the footers say; they will be read again");
        }
    }
}

/// Beside the shards first: other runs find it there.
fn places(source: &Store, columns: &Columns, fallback: Option<&Store>) -> Vec<(Store, String)> {
    // Which columns a shard must have is checked when its footer is read.
    let asked = serde_json::to_vec(columns).unwrap_or_default();
    let columns = blake3::hash(&asked).to_hex();
    let mut both = blake3::Hasher::new();
    both.update(source.url().as_bytes());
    both.update(columns.as_bytes());
    let both = both.finalize().to_hex();
    let beside = format!("_ringmaster/footers-{FORM}-{}.json", &columns[..16]);
    let mut places = vec![(source.clone(), beside)];
    if let Some(root) = fallback {
        let key = format!("corpus/footers-{FORM}-{}.json", &both[..16]);
        places.push((root.clone(), key));
    }
    places
}

async fn read(store: &Store, key: &str) -> Option<Vec<Record>> {
    let found = store.head(key).await.ok()?;
    if found.bytes > OBJECT_BYTES_MAX {
        return None;
    }
    let object = store.get(key).await.ok()?;
    let records = decode(&object);
    if records.is_none() {
        let object = store.child(key).url();
        tracing::warn!(object, "damaged or of another form; footers are read anew");
    }
    records
}

/// A line with the blake3 of the rest, and JSON.
fn encode(records: &[Record]) -> Vec<u8> {
    // Plain structs of numbers and strings always serialise.
    let json = serde_json::to_vec(records).unwrap_or_default();
    let mut object = blake3::hash(&json).to_hex().as_bytes().to_vec();
    object.push(b'\n');
    object.extend(json);
    object
}

fn decode(object: &[u8]) -> Option<Vec<Record>> {
    let (hash, json) = object.split_at_checked(HASH_CHARS)?;
    let json = json.strip_prefix(b"\n")?;
    if blake3::hash(json).to_hex().as_bytes() != hash {
        return None;
    }
    serde_json::from_slice(json).ok()
}
