//! A page that says its checksum is held against it: what a disk or a network changed is no row.

use std::path::Path;

use crate::faults::read_epoch;

/// Written by pyarrow (tests/fixtures/checksums.py): 12 rows in row groups of 5.
fn shard() -> Vec<u8> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read(here.join("tests/fixtures/checksums.parquet")).unwrap()
}

fn read(shard: &[u8]) -> Result<usize, String> {
    let (folder, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("part-000.parquet"), shard).unwrap();
    let read = read_epoch(folder.path().to_str().unwrap(), run.path());
    read.map_err(|error| error.to_string())
}

#[test]
fn pages_that_match_their_checksums_are_read() {
    assert_eq!(read(&shard()), Ok(12));
}

/// One letter of a caption, and one byte of a picture: either would be trained on, or refused as if it had
/// been written so.
#[test]
fn a_changed_page_is_an_error_that_names_shard_and_row_group() {
    let whole = shard();
    let at = |needle: &[u8], number: usize| {
        let found = whole.windows(needle.len()).enumerate();
        let mut found = found.filter(|(_, part)| *part == needle);
        found.nth(number).unwrap().0
    };
    for (place, row_group) in [(at(b"row number 7", 0), 1), (at(b"IDAT", 11) + 6, 2)] {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        let error = read(&changed).unwrap_err();
        assert!(
            error.contains("part-000.parquet: cannot be read as Parquet")
                && error.contains(&format!("row group {row_group}: "))
                && error.contains("checksum"),
            "{error}"
        );
    }
}
