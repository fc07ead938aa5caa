//! One object from one store to another, a piece at a time.

use blake3::Hasher;
use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};

use super::{Entry, PIECE_BYTES, Store, StoreError};

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Size.
    pub bytes: u64,
    /// blake3 of the content, lower-case hex.
    pub blake3: String,
}

impl Store {
    /// Copies the object `key` of `from` to `to` here, over one that is there. Of a large one only a
    /// piece is in memory.
    ///
    /// # Errors
    /// Reading or writing; nothing is at `to` then but what was there.
    pub async fn copy_from(&self, from: &Self, key: &str, to: &str) -> Result<Copied, StoreError> {
        let source = from.head(key).await?;
        if source.bytes <= PIECE_BYTES {
            let bytes = from.get(key).await?;
            let copied = Copied {
                bytes: bytes.len() as u64,
                blake3: blake3::hash(&bytes).to_hex().to_string(),
            };
            self.put(to, bytes).await?;
            return Ok(copied);
        }
        let path = self.path(to);
        let fail = |error| StoreError::of(self.url_of(&path), error);
        let mut upload = self.client.put_multipart(&path).await.map_err(fail)?;
        let copied = copy_pieces(from, &source, |piece| {
            let part = upload.put_part(PutPayload::from_bytes(piece));
            async { part.await.map_err(fail) }
        });
        match copied.await {
            Ok(copied) => upload.complete().await.map(|_| copied).map_err(fail),
            Err(error) => {
                // The first error is the one to report; a store drops unfinished uploads in time.
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }
}

async fn copy_pieces<F: Future<Output = Result<(), StoreError>>>(
    from: &Store,
    source: &Entry,
    mut put: impl FnMut(Bytes) -> F,
) -> Result<Copied, StoreError> {
    let mut hasher = Hasher::new();
    for start in (0..source.bytes).step_by(PIECE_BYTES as usize) {
        let end = (start + PIECE_BYTES).min(source.bytes);
        let piece = from.get_part(source, start..end).await?;
        hasher.update(&piece);
        put(piece).await?;
    }
    Ok(Copied {
        bytes: source.bytes,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_copy_is_what_it_is_of_whatever_its_size() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [from, to] = folders
            .each_ref()
            .map(|folder| Store::open(folder.path().to_str().unwrap()).unwrap());
        let piece = PIECE_BYTES as usize;
        for bytes in [0, 1, piece, piece + 1, 2 * piece, 2 * piece + 7] {
            let content: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            from.put("a/b", content.clone().into()).await.unwrap();
            let copied = to.copy_from(&from, "a/b", "c").await.unwrap();
            assert_eq!(copied.bytes, bytes as u64);
            assert_eq!(copied.blake3, blake3::hash(&content).to_hex().as_str());
            assert!(to.get("c").await.unwrap() == content, "{bytes} bytes");
        }
    }
}
