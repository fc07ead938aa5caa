//! `quarantine.jsonl`: one line per row whose content was refused, once, however often it comes up.
//!
//! Content does not change, so what is here stays though steps are forgotten or done again.

use std::collections::BTreeSet;
use std::path::Path;

use ringmaster_proto::v1;
use serde::{Deserialize, Serialize};

use crate::json_lines::JsonLines;

/// One refused row: it is fed to no step of the run, and a row of weight zero stands in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineLine {
    /// The row within the corpus, numbered in manifest order.
    pub row_id: u64,
    /// URL of its shard.
    pub shard: String,
    /// Its row group, numbered within the shard.
    pub row_group: u32,
    /// The row within the row group.
    pub row: u64,
    /// Why it is refused.
    pub reason: String,
    /// The first step that it was missing from.
    pub step: u64,
}

/// The open file.
pub(crate) struct QuarantineLog {
    file: JsonLines,
    known: BTreeSet<u64>,
}

impl QuarantineLog {
    /// Opens or creates the file; a torn last line is cut off.
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let mut known = BTreeSet::new();
        let file = JsonLines::open(path, |line: QuarantineLine| {
            known.insert(line.row_id);
        })?;
        Ok(Self { file, known })
    }

    /// Appends those rows of a step that are not there yet.
    pub(crate) fn append(&mut self, step: u64, rows: &[v1::QuarantinedRow]) -> std::io::Result<()> {
        for row in rows {
            if self.known.contains(&row.row_id) {
                continue;
            }
            self.file.append(&QuarantineLine {
                row_id: row.row_id,
                shard: row.shard.clone(),
                row_group: row.row_group,
                row: row.row,
                reason: row.reason.clone(),
                step,
            })?;
            self.known.insert(row.row_id);
        }
        Ok(())
    }

    /// See [`JsonLines::flush`].
    pub(crate) fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_row_is_written_once_across_restarts_and_replays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quarantine.jsonl");
        let row = |row_id| v1::QuarantinedRow {
            row_id,
            reason: "it is cut short".into(),
            ..Default::default()
        };
        for (step, rows) in [(1, [4, 9]), (3, [9, 2]), (1, [4, 9]), (7, [2, 5])] {
            let mut log = QuarantineLog::open(&path).unwrap();
            log.append(step, &rows.map(row)).unwrap();
        }
        // The last write was cut short by a kill.
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 3]).unwrap();
        QuarantineLog::open(&path)
            .unwrap()
            .append(8, &[row(5)])
            .unwrap();
        let mut rows = Vec::new();
        JsonLines::open(&path, |line: QuarantineLine| {
            rows.push((line.row_id, line.step));
        })
        .unwrap();
        assert_eq!(rows, [(4, 1), (9, 1), (2, 3), (5, 8)]);
    }
}
