//! The manifest is the identity of a corpus.

use std::collections::BTreeSet;
use std::path::Path;

use ringmaster_dataset::CorpusManifest;
use ringmaster_proto::spec::Columns;

use crate::corpora::{SIDE, pixels, png, write_corpus};

fn picture(id: u64) -> Vec<u8> {
    png(&pixels(id), SIDE, SIDE)
}

async fn manifest(sources: &[&Path]) -> CorpusManifest {
    let sources: Vec<String> = sources
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    CorpusManifest::open(&sources, &Columns::default(), "data.sources", |_, _| {})
        .await
        .unwrap()
}

#[tokio::test]
async fn row_counts_come_from_the_footers_in_order_of_source_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    write_corpus(&a, &[10, 3], 4, picture);
    write_corpus(&b.join("deeper"), &[5], 4, picture);
    let both = manifest(&[&b, &a]).await;
    assert_eq!(both.row_groups().collect::<Vec<_>>(), [4, 1, 4, 4, 2, 3]);
    assert_eq!(both.rows(), 18);
    let keys: Vec<&str> = both.shards.iter().map(|shard| shard.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "deeper/part-000.parquet",
            "part-000.parquet",
            "part-001.parquet"
        ]
    );
    let one = manifest(&[&a.join("part-001.parquet")]).await;
    assert_eq!(one.row_groups().collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn the_hash_changes_with_a_shard_and_not_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    write_corpus(&a, &[10, 3], 4, picture);
    write_corpus(&b, &[10, 3], 4, picture);
    let first = manifest(&[&a]).await;
    assert_eq!(first.hash(), manifest(&[&b]).await.hash());
    // One picture more or less, another row group size, one picture of another length.
    let others: [(&[usize], usize, u64); 4] = [
        (&[10, 4], 4, 0),
        (&[10], 4, 0),
        (&[10, 3], 5, 0),
        (&[10, 3], 4, 1),
    ];
    let mut hashes = BTreeSet::from([first.hash()]);
    for (counts, group_rows, extra) in others {
        std::fs::remove_dir_all(&b).unwrap();
        let longer = |id| {
            let mut picture = picture(id);
            picture.extend(vec![0; if id == 2 { extra as usize } else { 0 }]);
            picture
        };
        write_corpus(&b, counts, group_rows, longer);
        hashes.insert(manifest(&[&b]).await.hash());
    }
    assert_eq!(hashes.len(), 5);
}

#[tokio::test]
async fn a_manifest_survives_storage_and_no_other_passes_for_it() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path(), &[10], 4, picture);
    let stored = manifest(&[folder.path()]).await;
    let json = stored.to_json();
    let read = CorpusManifest::from_json("here", &json, &stored.hash()).unwrap();
    assert_eq!(read, stored);
    let other = String::from_utf8(json).unwrap().replace("[0,4]", "[0,5]");
    let error = CorpusManifest::from_json("here", other.as_bytes(), &stored.hash()).unwrap_err();
    assert!(error.to_string().starts_with("here: "), "{error}");
}

#[tokio::test]
async fn held_out_row_groups_are_whole_and_disjoint_from_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path(), &[40, 40, 20], 4, picture);
    let whole = manifest(&[folder.path()]).await;
    let groups = |manifest: &CorpusManifest| -> BTreeSet<(String, u32)> {
        let shards = manifest.shards.iter();
        shards
            .flat_map(|s| s.row_groups.iter().map(|(n, _)| (s.key.clone(), *n)))
            .collect()
    };
    let mut choices = BTreeSet::new();
    for seed in 0..8 {
        let (train, held_out) = whole.clone().split(seed, 0.2);
        let held_out = held_out.unwrap();
        assert_eq!(held_out.row_groups().count(), 5);
        assert_eq!(train.rows() + held_out.rows(), whole.rows());
        let (train, held_out) = (groups(&train), groups(&held_out));
        assert!(train.is_disjoint(&held_out));
        assert_eq!(
            train.union(&held_out).cloned().collect::<BTreeSet<_>>(),
            groups(&whole)
        );
        choices.insert(held_out);
    }
    assert!(choices.len() > 4, "another seed holds out other row groups");
    let (train, held_out) = whole.clone().split(0, 1e-9);
    assert_eq!(
        (
            train.row_groups().count(),
            held_out.unwrap().row_groups().count()
        ),
        (24, 1)
    );
    assert!(whole.split(0, 0.0).1.is_none());
}
