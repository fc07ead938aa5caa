//! A look, now and then, at whether what is saved can still be read: better known while older
//! checkpoints are left than when one is needed.

use std::time::Duration;

use ringmaster_dataset::{Store, StoreError};
use ringmaster_proto::checkpoint::{CheckpointManifest, Part};
use ringmaster_proto::keys;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::actor::Command;
use crate::journal::{JournalError, stored_checkpoints};
use crate::run::Damaged;

/// How much of a part is in memory at once, bytes.
const PIECE: u64 = 8 << 20;

/// Tells `owner` every `interval` which checkpoints below `root` are not what their manifests say,
/// until nobody listens.
pub(crate) async fn run(root: Store, owner: mpsc::Sender<Command>, interval: Duration) {
    loop {
        sleep(interval).await;
        match look(&root).await {
            Ok(damaged) => {
                for one in damaged {
                    if owner.send(Command::Damaged(one)).await.is_err() {
                        return;
                    }
                }
            }
            // It says nothing about a checkpoint, and whoever writes notices too.
            Err(error) => tracing::debug!(%error, "checkpoints were not looked at"),
        }
    }
}

/// Reads every checkpoint below `root` whole.
pub(crate) async fn look(root: &Store) -> Result<Vec<Damaged>, JournalError> {
    let mut damaged = Vec::new();
    for manifest in stored_checkpoints(root).await?.complete {
        let folder = keys::checkpoint(manifest.generation, manifest.step, &manifest.digest);
        match wrong_part(root, &manifest).await {
            Ok(None) => {}
            Ok(Some(key)) => damaged.push(Damaged {
                folder,
                reason: format!("part {key} has another hash than its manifest says"),
            }),
            // Retention deletes while this reads.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(damaged)
}

/// The first part that is not what was written, though it was read twice.
async fn wrong_part(
    root: &Store,
    manifest: &CheckpointManifest,
) -> Result<Option<String>, StoreError> {
    for part in &manifest.parts {
        if hash(root, part).await? != part.blake3 && hash(root, part).await? != part.blake3 {
            return Ok(Some(part.key.clone()));
        }
    }
    Ok(None)
}

/// Reads a part at half the speed it could, since somebody else may want to.
async fn hash(root: &Store, part: &Part) -> Result<String, StoreError> {
    let mut hasher = blake3::Hasher::new();
    let mut from = 0;
    while from < part.bytes {
        let (to, began) = ((from + PIECE).min(part.bytes), Instant::now());
        hasher.update(&root.get_range(&part.key, from..to).await?);
        sleep(began.elapsed()).await;
        from = to;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use ringmaster_proto::checkpoint::FORMAT_VERSION;
    use ringmaster_proto::{Generation, Step};

    use super::*;

    async fn save(root: &Store, step: u64, parts: &[&[u8]]) -> Vec<String> {
        let digest = format!("{step:064x}");
        let folder = keys::checkpoint(Generation(1), Step(step), &digest);
        let count = u32::try_from(parts.len()).unwrap();
        let mut written = Vec::new();
        for (number, bytes) in (0..).zip(parts) {
            let key = keys::checkpoint_part(&folder, number, count);
            root.put(&key, Bytes::copy_from_slice(bytes)).await.unwrap();
            written.push(Part {
                key,
                bytes: bytes.len() as u64,
                blake3: blake3::hash(bytes).to_hex().to_string(),
            });
        }
        let keys = written.iter().map(|part| part.key.clone()).collect();
        let manifest = CheckpointManifest {
            format_version: FORMAT_VERSION,
            run: "t".into(),
            identity: "i".into(),
            generation: Generation(1),
            step: Step(step),
            digest,
            parts: written,
        };
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let key = keys::checkpoint_manifest(&folder);
        root.put(&key, Bytes::from(bytes)).await.unwrap();
        keys
    }

    #[tokio::test]
    async fn a_flipped_bit_is_found_and_named_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let root = Store::open(folder.path().to_str().unwrap()).unwrap();
        let large = vec![7; usize::try_from(PIECE).unwrap() + 1];
        save(&root, 10, &[b"one", &large]).await;
        let keys = save(&root, 20, &[&large, b"two"]).await;
        assert_eq!(look(&root).await.unwrap(), []);
        let mut bytes = large;
        *bytes.last_mut().unwrap() ^= 1;
        root.put(&keys[0], Bytes::from(bytes)).await.unwrap();
        let found = look(&root).await.unwrap();
        assert!(
            found.len() == 1 && found[0].reason.contains(&keys[0]),
            "{found:?}"
        );
    }
}
