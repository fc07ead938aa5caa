//! Many servers that speak S3 accept conditional writes in sequence and lose them in parallel. A
//! journal on such a store would have two authors, so this is found out before a run starts.

use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use futures::future::join_all;

use super::{Store, StoreError};

const WRITERS: usize = 32;

/// [`Store::probe`].
pub(super) async fn probe(store: &Store) -> Result<(), StoreError> {
    // Any key that no other probe uses at the same time will do.
    let key = format!(
        "probe/{:016x}",
        RandomState::new().hash_one(std::process::id())
    );
    let outcome = race(store, &key).await;
    let removed = store.delete(&key).await;
    let winners = outcome?;
    removed?;
    if winners == 1 {
        return Ok(());
    }
    Err(StoreError::NotAtomic {
        url: store.url(),
        winners,
        writers: WRITERS,
    })
}

/// How many writers have reason to believe that they created the object.
async fn race(store: &Store, key: &str) -> Result<usize, StoreError> {
    let body = |writer: usize| Bytes::from(writer.to_string());
    let created = join_all((0..WRITERS).map(|writer| store.create(key, body(writer)))).await;
    let stored = store.get(key).await?;
    let mut winners = 0;
    for (writer, outcome) in created.into_iter().enumerate() {
        match outcome {
            Ok(()) => winners += 1,
            // A create that was repeated meets its own object.
            Err(error) if error.is_already_exists() => {
                winners += usize::from(stored == body(writer));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(winners)
}
