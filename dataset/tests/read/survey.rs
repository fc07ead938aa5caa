//! Looking at a corpus shows every row where it lies, and what is wrong with it.

use std::sync::Arc;

use ringmaster_dataset::{CorpusManifest, SeenRow, Which, survey};
use ringmaster_proto::spec::Columns;

use crate::corpora::{SIDE, caption, pixels, png, write_corpus};

const COUNTS: [usize; 2] = [10, 7];

async fn look(folder: &std::path::Path, which: Which) -> Vec<SeenRow> {
    let sources = [folder.display().to_string()];
    let columns = Columns::default();
    let opened = CorpusManifest::open(&sources, &columns, "the URL", |_, _| {}).await;
    let mut seen = Vec::new();
    let manifest = Arc::new(opened.unwrap());
    survey(&manifest, &columns, which, SIDE, |row| seen.push(row))
        .await
        .unwrap();
    seen
}

#[tokio::test]
async fn every_row_is_shown_once_in_its_place_and_bad_ones_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path(), &COUNTS, 4, |id| {
        let mut picture = png(&pixels(id), SIDE, SIDE);
        picture.truncate(if id == 12 {
            picture.len() / 2
        } else {
            usize::MAX
        });
        picture
    });
    let seen = look(folder.path(), Which::All).await;
    assert_eq!(seen.len(), 17);
    for (id, row) in (0..).zip(&seen) {
        let (shard, within) = if id < 10 { (0, id) } else { (1, id - 10) };
        assert!(row.shard.ends_with(&format!("part-00{shard}.parquet")));
        assert_eq!(
            (u64::from(row.row_group), u64::from(row.row)),
            (within / 4, within % 4)
        );
        assert_eq!(row.picture_size, Some((SIDE, SIDE)));
        match &row.decoded {
            Ok(example) => {
                assert_eq!(example.image, pixels(id));
                assert_eq!(example.caption, Some(caption(id)));
            }
            Err(reason) => assert!(id == 12 && !reason.is_empty(), "{id}: {reason}"),
        }
    }
    assert!(seen[12].decoded.is_err());
}

#[tokio::test]
async fn a_spread_is_evenly_spaced_and_a_row_group_that_is_damaged_does_not_end_it() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path(), &COUNTS, 4, |id| png(&pixels(id), SIDE, SIDE));
    let ids = |seen: &[SeenRow]| -> Vec<String> {
        let shown = seen.iter().map(|row| row.decoded.clone());
        shown.filter_map(|row| row.ok()?.caption).collect()
    };
    let spread = look(folder.path(), Which::Spread(6)).await;
    assert_eq!(ids(&spread), [0, 3, 6, 9, 12, 15].map(caption));
    let more = look(folder.path(), Which::Spread(1000)).await;
    assert_eq!(ids(&more), (0..17).map(caption).collect::<Vec<_>>());
    // The first row group's pages, not the footer.
    let path = folder.path().join("part-000.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4..200].fill(0xff);
    std::fs::write(path, bytes).unwrap();
    let seen = look(folder.path(), Which::All).await;
    assert_eq!(seen.len(), 17);
    assert!(
        seen[0]
            .decoded
            .as_ref()
            .unwrap_err()
            .contains("cannot be read as Parquet")
    );
    assert_eq!(ids(&seen[4..]), (4..17).map(caption).collect::<Vec<_>>());
}
