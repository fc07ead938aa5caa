//! A store in memory that is away at times, and that sometimes does what it was asked and says that it
//! failed.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use ringmaster_dataset::Store;

use crate::random::Random;

/// See the module's text.
#[derive(Clone, Debug)]
pub(crate) struct FlakyStore {
    inner: Arc<InMemory>,
    mood: Arc<Mutex<Mood>>,
}

#[derive(Debug)]
struct Mood {
    random: Random,
    away: bool,
    /// One write in this many is done and said to have failed; 0: none.
    ambiguous: u64,
    /// Creates write over what is there: what no store may do.
    overwrites: bool,
}

impl FlakyStore {
    /// An empty store; `ambiguous`: one write in this many is done and said to have failed.
    pub(crate) fn new(random: Random, ambiguous: u64, overwrites: bool) -> Self {
        Self {
            inner: Arc::new(InMemory::new()),
            mood: Arc::new(Mutex::new(Mood {
                random,
                away: false,
                ambiguous,
                overwrites,
            })),
        }
    }

    /// What is in it, for those who look from outside.
    pub(crate) fn steady(&self) -> Store {
        Store::over(Arc::clone(&self.inner) as Arc<dyn ObjectStore>)
    }

    /// Whether every request fails from now on.
    pub(crate) fn set_away(&self, away: bool) {
        self.mood().away = away;
    }

    /// From now on the store does what it says.
    pub(crate) fn heal(&self) {
        let mut mood = self.mood();
        (mood.away, mood.ambiguous) = (false, 0);
    }

    fn mood(&self) -> MutexGuard<'_, Mood> {
        self.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn here(&self) -> Result<()> {
        if self.mood().away {
            return Err(failed("it is away"));
        }
        Ok(())
    }
}

fn failed(why: &str) -> Error {
    Error::Generic {
        store: "simulated",
        source: why.into(),
    }
}

impl fmt::Display for FlakyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated store")
    }
}

#[async_trait]
impl ObjectStore for FlakyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        self.here()?;
        if self.mood().overwrites {
            options.mode = PutMode::Overwrite;
        }
        let put = self.inner.put_opts(location, payload, options).await?;
        let mut mood = self.mood();
        let ambiguous = mood.ambiguous;
        if ambiguous > 0 && mood.random.once_in(ambiguous) {
            return Err(failed("the answer was lost"));
        }
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.here()?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.here()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.here() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => Box::pin(futures::stream::once(async { Err(error) })),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.here()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.here()?;
        self.inner.copy_opts(from, to, options).await
    }
}
