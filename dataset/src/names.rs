//! The names of rows: where a row's number within the corpus is in the files.

use crate::manifest::CorpusManifest;

/// Where one row is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowName {
    /// URL of the shard.
    pub shard: String,
    /// Row group, numbered within the shard.
    pub row_group: u32,
    /// Row within the row group.
    pub row: u64,
}

impl std::fmt::Display for RowName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            shard,
            row_group,
            row,
        } = self;
        write!(f, "row {row} of row group {row_group} of {shard}")
    }
}

/// Finds names by number.
#[derive(Debug)]
pub struct RowNames<'a> {
    manifest: &'a CorpusManifest,
    /// Number of the first row of each row group, its shard and its number there.
    groups: Vec<(u64, usize, u32)>,
    rows: u64,
}

impl<'a> RowNames<'a> {
    /// Of all rows of `manifest`.
    pub fn new(manifest: &'a CorpusManifest) -> Self {
        let (mut groups, mut rows) = (Vec::new(), 0);
        for (at, shard) in manifest.shards.iter().enumerate() {
            for (number, count) in &shard.row_groups {
                groups.push((rows, at, *number));
                rows += u64::from(*count);
            }
        }
        Self {
            manifest,
            groups,
            rows,
        }
    }

    /// Row `number` in manifest order.
    pub fn get(&self, number: u64) -> Option<RowName> {
        // The last row group that begins at or before it, which skips empty ones.
        let after = self.groups.partition_point(|(first, ..)| *first <= number);
        let (first, at, row_group) = *self.groups.get(after.checked_sub(1)?)?;
        let shard = &self.manifest.shards[at];
        let source = self.manifest.sources.get(shard.source as usize)?;
        (number < self.rows).then(|| RowName {
            shard: format!("{}/{}", source.trim_end_matches('/'), shard.key),
            row_group,
            row: number - first,
        })
    }
}
