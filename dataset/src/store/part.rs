//! Parts of one version of an object.

use std::ops::Range;

use bytes::Bytes;
use object_store::{GetOptions, GetRange};

use super::{Entry, Store, StoreError};

impl Store {
    /// Part of the version of an object that `of` describes; an error that says so
    /// ([`StoreError::is_other_version`]) if another is there now. The store itself says which
    /// version it answers with, so nothing can come between a look and a read. Asking beyond the end
    /// is an error. A request that is late is made twice.
    pub(crate) async fn get_part(
        &self,
        of: &Entry,
        range: Range<u64>,
    ) -> Result<Bytes, StoreError> {
        if self.is_local() {
            return self.get_part_once(of, range).await;
        }
        let request = || self.get_part_once(of, range.clone());
        self.hedge.first(request).await
    }

    async fn get_part_once(&self, of: &Entry, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = self.path(&of.key);
        let fail = |error| StoreError::of(self.url_of(&path), error);
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let answer = self.client.get_opts(&path, options).await.map_err(fail)?;
        let other = match (&answer.meta.e_tag, &of.etag) {
            (Some(now), Some(listed)) => now != listed,
            _ => false,
        };
        if other || answer.meta.size != of.bytes {
            return Err(StoreError::OtherVersion {
                url: self.url_of(&path),
            });
        }
        let bytes = answer.bytes().await.map_err(fail)?;
        if bytes.len() as u64 == range.end - range.start {
            return Ok(bytes);
        }
        Err(StoreError::Failed {
            url: self.url_of(&path),
            reason: format!("it sent {} bytes of {range:?}", bytes.len()),
        })
    }
}
