//! One object store below one prefix: what is read and written durably goes through here.
//!
//! `file://` is fsynced. Every request has a deadline and is repeated a little; who needs more
//! patience than that brings its own. Every error names the URL.

mod copy;
mod error;
mod hedge;
mod open;
mod part;
mod probe;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    GetOptions, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};

pub use copy::Copied;
pub use error::StoreError;

/// Larger objects move in pieces of this size, so that each piece meets the request deadline.
const PIECE_BYTES: u64 = 8 << 20;

/// How many pieces are under way at once.
const PIECES_IN_FLIGHT: usize = 4;

/// One object store below one prefix. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    client: Arc<dyn ObjectStore>,
    prefix: Path,
    base: Arc<str>,
    /// How long reads of parts take here.
    hedge: Arc<hedge::Hedge>,
}

/// An object as a listing or a head shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Key below the store's prefix.
    pub key: String,
    /// Size.
    pub bytes: u64,
    /// What the store calls this version of the object.
    pub etag: Option<String>,
}

impl Store {
    /// Opens a path, `file://`, `s3://`, `gs://` or `az://` URL. Credentials and endpoints come
    /// from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`). Nothing is created; a folder appears
    /// with the first write.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let open::Opened {
            client,
            prefix,
            base,
        } = open::open(url)?;
        Ok(Self {
            client,
            prefix,
            base: base.into(),
            hedge: Arc::default(),
        })
    }

    /// A store that no URL opens: one that a simulation makes.
    pub fn over(client: Arc<dyn ObjectStore>) -> Self {
        Self {
            client,
            prefix: Path::default(),
            base: "memory:///".into(),
            hedge: Arc::default(),
        }
    }

    /// The same store below `key`.
    pub fn child(&self, key: &str) -> Self {
        Self {
            prefix: self.path(key),
            ..self.clone()
        }
    }

    /// The URL that [`Store::open`] turns into this store.
    pub fn url(&self) -> String {
        self.url_of(&self.prefix)
    }

    /// The path of a `file://` store.
    pub fn local_path(&self) -> Option<std::path::PathBuf> {
        self.is_local().then(|| format!("/{}", self.prefix).into())
    }

    /// The whole object.
    pub async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        let path = self.path(key);
        let fail = |error| StoreError::of(self.url_of(&path), error);
        let whole = self
            .client
            .get_opts(&path, GetOptions::default())
            .await
            .map_err(fail)?;
        let bytes = whole.meta.size;
        if bytes <= PIECE_BYTES || self.is_local() {
            return whole.bytes().await.map_err(fail);
        }
        drop(whole);
        let starts = (0..bytes).step_by(PIECE_BYTES as usize);
        let pieces: Vec<Bytes> = stream::iter(starts)
            .map(|start| {
                self.client
                    .get_range(&path, start..(start + PIECE_BYTES).min(bytes))
            })
            .buffered(PIECES_IN_FLIGHT)
            .try_collect()
            .await
            .map_err(fail)?;
        Ok(pieces.concat().into())
    }

    /// Part of an object. Asking beyond its end is an error.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = self.path(key);
        let bytes = self.client.get_range(&path, range.clone()).await;
        let bytes = bytes.map_err(|error| StoreError::of(self.url_of(&path), error))?;
        if bytes.len() as u64 == range.end - range.start {
            return Ok(bytes);
        }
        let reason = format!("it sent {} bytes of {range:?}", bytes.len());
        Err(StoreError::Failed {
            url: self.url_of(&path),
            reason,
        })
    }

    /// Size and version of an object.
    pub async fn head(&self, key: &str) -> Result<Entry, StoreError> {
        let path = self.path(key);
        let meta = self.client.head(&path).await;
        let meta = meta.map_err(|error| StoreError::of(self.url_of(&path), error))?;
        Ok(Entry {
            key: key.to_owned(),
            bytes: meta.size,
            etag: meta.e_tag,
        })
    }

    /// Writes an object, over an older one if there is one. Readers see the old or the new.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let path = self.path(key);
        let done = if bytes.len() as u64 <= PIECE_BYTES || self.is_local() {
            self.client
                .put(&path, PutPayload::from_bytes(bytes))
                .await
                .map(drop)
        } else {
            self.put_pieces(&path, bytes).await
        };
        done.map_err(|error| StoreError::of(self.url_of(&path), error))
    }

    /// Writes an object unless one is there ([`StoreError::is_already_exists`]). For small objects.
    ///
    /// A store may commit, fail to say so, and be asked again by the client below: the answer is
    /// then `AlreadyExists` to the object's own author. Who must know re-reads it.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let path = self.path(key);
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let created = self
            .client
            .put_opts(&path, PutPayload::from_bytes(bytes), options)
            .await;
        created
            .map(drop)
            .map_err(|error| StoreError::of(self.url_of(&path), error))
    }

    /// All objects below `prefix` (`""`: all), sorted by key. Nothing there is an empty list.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let path = self.path(prefix);
        let below = (!path.is_root()).then_some(&path);
        let found: Result<Vec<_>, _> = self.client.list(below).try_collect().await;
        let found = found.map_err(|error| match StoreError::of(self.url_of(&path), error) {
            // An empty prefix is no error to a store; only a missing bucket is.
            StoreError::NotFound { url } => StoreError::MissingBucket { url },
            other => other,
        })?;
        let mut entries: Vec<Entry> = found
            .into_iter()
            .filter_map(|meta| {
                let parts: Vec<_> = meta.location.prefix_match(&self.prefix)?.collect();
                let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
                Some(Entry {
                    key: parts.join("/"),
                    bytes: meta.size,
                    etag: meta.e_tag,
                })
            })
            .collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    /// Removes an object; one that is not there is no error.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key);
        match self.client.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StoreError::of(self.url_of(&path), error)),
        }
    }

    /// Whether simultaneous creates of one object let exactly one through. Leaves nothing behind.
    pub async fn probe(&self) -> Result<(), StoreError> {
        probe::probe(self).await
    }

    /// Whether the store is a folder of this machine.
    pub fn is_local(&self) -> bool {
        self.base.starts_with("file:")
    }

    async fn put_pieces(&self, path: &Path, bytes: Bytes) -> object_store::Result<()> {
        let mut upload = self.client.put_multipart(path).await?;
        let sent = send_pieces(upload.as_mut(), bytes).await;
        if sent.is_err() {
            // The first error is the one to report; a store drops unfinished uploads in time.
            let _ = upload.abort().await;
        }
        sent
    }

    fn path(&self, key: &str) -> Path {
        let prefix = self.prefix.as_ref();
        let joined = format!("{prefix}/{key}");
        let joined = joined.trim_matches('/');
        // A key that a store would refuse is escaped instead.
        Path::parse(joined).unwrap_or_else(|_| Path::from(joined))
    }

    fn url_of(&self, path: &Path) -> String {
        let file = || url::Url::from_file_path(format!("/{path}")).ok();
        match self.is_local().then(file).flatten() {
            Some(url) => url.into(),
            None => format!("{}{path}", self.base),
        }
    }
}

/// One object by its URL, if it has at most `bytes_max` bytes.
pub async fn read_url(url: &str, bytes_max: u64) -> Result<Bytes, StoreError> {
    let whole = Store::open(url)?.url();
    let (folder, name) = whole.rsplit_once('/').unwrap_or((&whole, ""));
    let folder = Store::open(folder)?;
    let bytes = folder.head(name).await?.bytes;
    if bytes > bytes_max {
        let url = whole;
        return Err(StoreError::TooLarge {
            url,
            bytes,
            bytes_max,
        });
    }
    folder.get(name).await
}

async fn send_pieces(upload: &mut dyn MultipartUpload, bytes: Bytes) -> object_store::Result<()> {
    let mut parts = Vec::new();
    for start in (0..bytes.len()).step_by(PIECE_BYTES as usize) {
        let end = (start + PIECE_BYTES as usize).min(bytes.len());
        parts.push(upload.put_part(PutPayload::from_bytes(bytes.slice(start..end))));
    }
    stream::iter(parts)
        .buffer_unordered(PIECES_IN_FLIGHT)
        .try_collect::<Vec<()>>()
        .await?;
    upload.complete().await.map(drop)
}
