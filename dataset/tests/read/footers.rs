//! What is kept of the footers changes nothing but the time it takes to open a corpus.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use arrow::array::{ArrayRef, BinaryArray, StringArray};
use ringmaster_dataset::{CorpusManifest, Store, prepare};
use ringmaster_proto::spec::Columns;
use std::sync::Arc;

use crate::corpora::{SIDE, pixels, png, spec, table, write, write_corpus};

/// Enough shards for their footers to be kept.
const SHARDS: usize = 70;

fn corpus(folder: &Path) {
    write_corpus(folder, &[3; SHARDS], 2, |id| png(&pixels(id), SIDE, SIDE));
}

fn shard(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("part-{number:03}.parquet"))
}

/// Opens and keeps; tells what came out, and how many footers were read, by what it costs to read a
/// footer that is not there: the files are hidden behind `broken` while nobody needs them.
async fn keep(folder: &Path, root: &Path) -> CorpusManifest {
    let root = Store::open(root.to_str().unwrap()).unwrap();
    let source = folder.to_str().unwrap();
    let columns = Columns::default();
    CorpusManifest::open_and_keep(source, &columns, "data.sources", &root, |_, _| {})
        .await
        .unwrap()
}

async fn plain(folder: &Path) -> Result<CorpusManifest, ringmaster_dataset::DatasetError> {
    let sources = [folder.display().to_string()];
    CorpusManifest::open(&sources, &Columns::default(), "data.sources", |_, _| {}).await
}

fn kept(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Overwrites bytes of a file without changing what a listing says of it: whoever reads it again
/// fails, whoever remembers does not.
fn spoil(path: &Path) {
    let times = std::fs::metadata(path).unwrap().modified().unwrap();
    let bytes = std::fs::metadata(path).unwrap().len() as usize;
    std::fs::write(path, vec![0; bytes]).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(times).unwrap();
}

#[tokio::test]
async fn a_shard_that_a_listing_shows_unchanged_is_not_read_again() {
    let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    corpus(folder.path());
    let before = keep(folder.path(), root.path()).await;
    for number in 0..SHARDS {
        spoil(&shard(folder.path(), number));
    }
    assert_eq!(plain(folder.path()).await.unwrap(), before);
    assert_eq!(keep(folder.path(), root.path()).await, before);
    assert!(kept(root.path()).is_empty(), "it lies beside the shards");
    // Without what was kept, the same files are unreadable.
    std::fs::remove_dir_all(folder.path().join("_ringmaster")).unwrap();
    assert!(plain(folder.path()).await.is_err());
}

#[tokio::test]
async fn changed_new_and_removed_shards_are_found_out() {
    let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    corpus(folder.path());
    let before = keep(folder.path(), root.path()).await;
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d"]));
    let image: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"a", b"b", b"c", b"d"]));
    let other = table(vec![("image", image), ("caption", text)]);
    write(&shard(folder.path(), 4), &other, 4);
    let after = keep(folder.path(), root.path()).await;
    assert_eq!(after.rows(), before.rows() + 1);
    assert_eq!(after.shards[4].row_groups, [(0, 4)]);
    let said = before.difference(&after).unwrap();
    assert!(said.ends_with("part-004.parquet changed"), "{said}");
    std::fs::remove_file(shard(folder.path(), 9)).unwrap();
    let less = keep(folder.path(), root.path()).await;
    assert_eq!(less.shards.len(), SHARDS - 1);
    let said = after.difference(&less).unwrap();
    assert!(said.ends_with("part-009.parquet is gone"), "{said}");
    assert!(
        less.difference(&after)
            .unwrap()
            .ends_with("part-009.parquet is new")
    );
    assert_eq!(less.difference(&less.clone()), None);
    // The oracle: the same files with nothing kept.
    std::fs::remove_dir_all(folder.path().join("_ringmaster")).unwrap();
    assert_eq!(plain(folder.path()).await.unwrap(), less);
}

#[tokio::test]
async fn damage_to_what_is_kept_is_noticed() {
    let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    corpus(folder.path());
    let before = keep(folder.path(), root.path()).await;
    let object = kept(&folder.path().join("_ringmaster")).pop().unwrap();
    let whole = std::fs::read(&object).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let lied = text.replacen("[[0,2],[1,1]]", "[[0,2],[1,2]]", 1);
    assert_ne!(lied, text);
    for damaged in [lied.as_bytes(), &whole[..whole.len() / 2], b"", b"{}"] {
        std::fs::write(&object, damaged).unwrap();
        assert_eq!(plain(folder.path()).await.unwrap(), before);
        assert_eq!(keep(folder.path(), root.path()).await, before);
        assert_eq!(std::fs::read(&object).unwrap(), whole, "written anew");
    }
}

#[tokio::test]
async fn footers_of_a_corpus_that_cannot_be_written_to_are_kept_with_the_run() {
    let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    corpus(folder.path());
    // A file where the folder would be: even root cannot write below it.
    std::fs::write(folder.path().join("_ringmaster"), "").unwrap();
    let before = keep(folder.path(), root.path()).await;
    assert_eq!(kept(&root.path().join("corpus")).len(), 1);
    for number in 0..SHARDS {
        spoil(&shard(folder.path(), number));
    }
    assert_eq!(keep(folder.path(), root.path()).await, before);
}

#[tokio::test]
async fn other_columns_are_looked_for_in_the_footers_themselves() {
    let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    corpus(folder.path());
    keep(folder.path(), root.path()).await;
    let columns = Columns {
        caption: Some("nowhere".into()),
        ..Columns::default()
    };
    let sources = [folder.path().display().to_string()];
    let opened = CorpusManifest::open(&sources, &columns, "data.sources", |_, _| {}).await;
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("no column nowhere"), "{error}");
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn preparing_again_after_a_shard_went_says_which() {
    let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_corpus(folder.path(), &[8, 8, 8], 2, |id| {
        png(&pixels(id), SIDE, SIDE)
    });
    let spec = spec(folder.path(), "validation = 0.0", "steps = 3");
    let root = Store::open(root.path().to_str().unwrap()).unwrap();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || writer.clone())
        .finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    prepare(&spec, &root, &()).await.unwrap();
    prepare(&spec, &root, &()).await.unwrap();
    assert!(log.0.lock().unwrap().is_empty());
    std::fs::remove_file(shard(folder.path(), 1)).unwrap();
    prepare(&spec, &root, &()).await.unwrap();
    let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(said.contains("part-001.parquet is gone"), "{said}");
}
