//! Blocks of shards on a local disk, so that an epoch need not fetch again what an earlier one or an
//! earlier process of this machine has.
//!
//! A block is one file, named by what it is of: the version of the object and the block's number. It
//! holds its own checksum, and what does not match is fetched again. Several processes may share the
//! folder: each block appears by a rename, and any may vanish. What goes when room is needed is
//! drawn by chance: every epoch has another order, so what was used last says nothing of what is
//! used next.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ringmaster_proto::spec::Cache;

use crate::error::DatasetError;
use crate::fetch::Object;

/// Objects are cached in blocks of this size.
pub(crate) const BLOCK_BYTES: u64 = 1 << 20;

/// Bytes of the checksum before the block.
const SUM_BYTES: usize = 32;

/// Folders that the blocks are spread over, by the first byte of their names.
const FOLDERS: usize = 256;

/// Others write too: after this part of the budget, what is there is counted again.
const RECOUNT: u64 = 16;

/// A folder of blocks, up to a number of bytes.
#[derive(Debug)]
pub(crate) struct DiskCache {
    folder: PathBuf,
    budget: u64,
    count: Mutex<Count>,
    /// Whether a failed write has been told.
    told: AtomicBool,
}

/// What is believed to be in the folder.
#[derive(Debug, Default)]
struct Count {
    bytes: u64,
    /// Of those, written by this process since they were counted.
    written: u64,
    /// Names of unfinished files.
    next: u64,
}

/// The name of one block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key(blake3::Hash);

impl Key {
    /// Of block `number` of an object.
    pub(crate) fn of(object: &Object, number: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("ringmaster cached block v1");
        let entry = &object.entry;
        let url = object.store.child(&entry.key).url();
        // Each text with its length, so that no two objects have one name.
        for text in [url.as_str(), entry.etag.as_deref().unwrap_or_default()] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(&entry.bytes.to_le_bytes());
        hasher.update(&number.to_le_bytes());
        Self(hasher.finalize())
    }
}

impl DiskCache {
    /// Opens the folder of the run file, and counts what is there. Blocking.
    pub(crate) fn open(spec: &Cache) -> Result<Self, DatasetError> {
        let folder = PathBuf::from(&spec.path);
        let cache = Self {
            folder,
            budget: spec.bytes,
            count: Mutex::default(),
            told: AtomicBool::new(false),
        };
        let usable = fs::create_dir_all(cache.unfinished()).and_then(|()| {
            // Of processes that ended in the middle; one that is alive fetches again another time.
            for entry in fs::read_dir(cache.unfinished())? {
                let _gone = fs::remove_file(entry?.path());
            }
            cache.make_room(0)
        });
        usable.map_err(|error| DatasetError::Foreign {
            place: format!("data.cache.path = {:?}", spec.path),
            reason: error.to_string(),
            next: "name a folder that can be written to, or leave data.cache out".to_owned(),
        })?;
        Ok(cache)
    }

    /// The block, if it is here and whole.
    pub(crate) async fn get(self: &Arc<Self>, key: Key) -> Option<Bytes> {
        let cache = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || cache.read(key));
        read.await.ok().flatten()
    }

    /// Keeps a block. That it cannot be kept is told once, and is no error.
    pub(crate) async fn put(self: &Arc<Self>, key: Key, block: Bytes) {
        let cache = Arc::clone(self);
        let write = tokio::task::spawn_blocking(move || {
            if let Err(error) = cache.write(key, &block)
                && !cache.told.swap(true, Ordering::Relaxed)
            {
                let folder = cache.folder.display();
                tracing::warn!(%error, %folder, "cannot keep what was fetched in data.cache");
            }
        });
        let _ended = write.await;
    }

    fn read(&self, key: Key) -> Option<Bytes> {
        let path = self.path(key);
        let file = Bytes::from(fs::read(&path).ok()?);
        if file.len() >= SUM_BYTES {
            let block = file.slice(SUM_BYTES..);
            if sum(key, &block).as_bytes()[..] == file[..SUM_BYTES] {
                return Some(block);
            }
        }
        tracing::warn!(path = %path.display(), "a cached block is damaged; fetching it again");
        let _gone = fs::remove_file(&path);
        None
    }

    fn write(&self, key: Key, block: &[u8]) -> io::Result<()> {
        let bytes = (SUM_BYTES + block.len()) as u64;
        if bytes > self.budget {
            return Ok(());
        }
        let number = {
            let mut count = self.count();
            count.next += 1;
            count.next
        };
        self.make_room(bytes)?;
        let unfinished = self
            .unfinished()
            .join(format!("{}-{number}", std::process::id()));
        let path = self.path(key);
        let written = (|| {
            let mut file = File::create(&unfinished)?;
            file.write_all(sum(key, block).as_bytes())?;
            file.write_all(block)?;
            drop(file);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            // Not synced: a block that a power cut spoils does not match its checksum.
            fs::rename(&unfinished, &path)
        })();
        if written.is_err() {
            let _gone = fs::remove_file(&unfinished);
        }
        written
    }

    /// Removes blocks until `bytes` more fit, and counts them as there.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut count = self.count();
        if count.next == 0 || count.written > self.budget / RECOUNT {
            count.bytes = self
                .folders()
                .flat_map(blocks)
                .map(|(_, bytes)| bytes)
                .sum();
            count.written = 0;
        }
        let start = RandomState::new().hash_one(count.next) as usize;
        for at in 0..FOLDERS {
            if count.bytes + bytes <= self.budget {
                break;
            }
            for (path, size) in blocks(self.folder_of((start + at) as u8)) {
                if count.bytes + bytes <= self.budget {
                    break;
                }
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => count.bytes = count.bytes.saturating_sub(size),
                }
            }
        }
        count.bytes += bytes;
        count.written += bytes;
        Ok(())
    }

    fn count(&self) -> std::sync::MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unfinished(&self) -> PathBuf {
        self.folder.join("unfinished")
    }

    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        (0..=u8::MAX).map(|first| self.folder_of(first))
    }

    fn folder_of(&self, first: u8) -> PathBuf {
        self.folder.join(format!("{first:02x}"))
    }

    fn path(&self, key: Key) -> PathBuf {
        let name = format!("{}.block", key.0.to_hex());
        self.folder_of(key.0.as_bytes()[0]).join(name)
    }
}

/// Covers the name too: a block in another's place is none.
fn sum(key: Key, block: &[u8]) -> blake3::Hash {
    blake3::keyed_hash(key.0.as_bytes(), block)
}

/// The blocks in one folder with their sizes. What cannot be read is not there.
fn blocks(folder: impl AsRef<Path>) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let block = |entry: fs::DirEntry| Some((entry.path(), entry.metadata().ok()?.len()));
    entries.filter_map(block).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::ops::Range;

    use object_store::memory::InMemory;

    use super::*;
    use crate::fetch::Fetcher;
    use crate::store::Store;

    const OBJECT_BYTES: u64 = 5 * BLOCK_BYTES + 1234;

    const PARTS: [Range<u64>; 4] = [
        0..10,
        BLOCK_BYTES - 3..BLOCK_BYTES + 3,
        2 * BLOCK_BYTES..4 * BLOCK_BYTES + 7,
        OBJECT_BYTES - 1..OBJECT_BYTES,
    ];

    fn body(seed: u8) -> Bytes {
        (0..OBJECT_BYTES)
            .map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8 ^ seed)
            .collect()
    }

    async fn object(seed: u8) -> Object {
        let store = Store::over(Arc::new(InMemory::new()));
        store.put("shard", body(seed)).await.unwrap();
        let entry = store.head("shard").await.unwrap();
        Object { store, entry }
    }

    fn open(folder: &Path, bytes: u64) -> Fetcher {
        let path = folder.to_str().unwrap().to_owned();
        Fetcher::new(Some(DiskCache::open(&Cache { path, bytes }).unwrap()))
    }

    /// Reads all parts and compares each with the object.
    async fn read(fetcher: &Fetcher, object: &Object, seed: u8) {
        let parts = fetcher.fetch(object, &PARTS, false).await.unwrap();
        let whole = body(seed);
        for (part, range) in parts.iter().zip(PARTS) {
            assert!(
                *part == whole[range.start as usize..range.end as usize],
                "{range:?}"
            );
        }
    }

    /// Whether the parts are served without the store.
    async fn is_kept(fetcher: &Fetcher, object: &Object, seed: u8) -> bool {
        object.store.delete("shard").await.unwrap();
        let kept = fetcher.fetch(object, &PARTS, false).await.is_ok();
        if kept {
            read(fetcher, object, seed).await;
        }
        kept
    }

    fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
        let folders = blocks(folder).into_iter().map(|(path, _)| path);
        folders
            .filter(|path| path.is_dir())
            .flat_map(blocks)
            .collect()
    }

    #[tokio::test]
    async fn what_was_read_once_is_there_for_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let object = object(1).await;
        read(&open(folder.path(), 1 << 30), &object, 1).await;
        assert_eq!(files(folder.path()).len(), 6);
        // What a process left that was killed in the middle goes.
        std::fs::write(folder.path().join("unfinished/1-1"), "half").unwrap();
        let next = open(folder.path(), 1 << 30);
        assert_eq!(files(folder.path()).len(), 6);
        assert!(is_kept(&next, &object, 1).await);
        let fresh = next.fetch(&object, &PARTS, true).await;
        assert!(fresh.is_err(), "past the cache there is nothing any more");
    }

    #[tokio::test]
    async fn another_version_of_an_object_is_another_object() {
        let folder = tempfile::tempdir().unwrap();
        let fetcher = open(folder.path(), 1 << 30);
        let mut object = object(1).await;
        read(&fetcher, &object, 1).await;
        object.store.put("shard", body(2)).await.unwrap();
        object.entry = object.store.head("shard").await.unwrap();
        read(&fetcher, &object, 2).await;
    }

    #[tokio::test]
    async fn a_damaged_block_is_never_believed() {
        let folder = tempfile::tempdir().unwrap();
        let fetcher = open(folder.path(), 1 << 30);
        let object = object(1).await;
        read(&fetcher, &object, 1).await;
        for (number, (path, _)) in files(folder.path()).into_iter().enumerate() {
            let mut file = std::fs::read(&path).unwrap();
            match number % 5 {
                0 => file[0] ^= 1,
                1 => *file.last_mut().unwrap() ^= 1,
                2 => file.truncate(SUM_BYTES + 5),
                3 => file.clear(),
                _ => file.push(0),
            }
            std::fs::write(path, file).unwrap();
        }
        read(&fetcher, &object, 1).await;
        // Two whole blocks, each in the other's place.
        let files = files(folder.path());
        let (a, b) = (&files[0].0, &files[1].0);
        let (bytes_a, bytes_b) = (std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
        std::fs::write(a, bytes_b).unwrap();
        std::fs::write(b, bytes_a).unwrap();
        read(&fetcher, &object, 1).await;
        assert!(is_kept(&fetcher, &object, 1).await, "and it was mended");
    }

    #[tokio::test]
    async fn no_more_than_the_budget_is_kept_by_several_processes_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let budget = 4 * BLOCK_BYTES;
        let mut object = object(0).await;
        for _ in 0..2 {
            let fetcher = open(folder.path(), budget);
            for seed in 0..4 {
                object.store.put("shard", body(seed)).await.unwrap();
                object.entry = object.store.head("shard").await.unwrap();
                read(&fetcher, &object, seed).await;
                let kept: u64 = files(folder.path()).iter().map(|(_, bytes)| bytes).sum();
                assert!(kept > BLOCK_BYTES && kept <= budget, "{kept}");
            }
        }
        // A smaller budget is kept to at once.
        drop(open(folder.path(), 2 * BLOCK_BYTES));
        let kept: u64 = files(folder.path()).iter().map(|(_, bytes)| bytes).sum();
        assert!(kept <= 2 * BLOCK_BYTES, "{kept}");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_used_is_named_and_one_that_goes_is_survived() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        let cache = |path: &Path| Cache {
            path: path.to_str().unwrap().to_owned(),
            bytes: 1 << 30,
        };
        let error = DiskCache::open(&cache(&path)).unwrap_err().to_string();
        assert!(error.starts_with("data.cache.path = ") && error.contains("leave data.cache out"));
        let inner = folder.path().join("cache");
        let fetcher = open(&inner, 1 << 30);
        std::fs::remove_dir_all(&inner).unwrap();
        std::fs::write(&inner, "in the way").unwrap();
        read(&fetcher, &object(1).await, 1).await;
    }
}
