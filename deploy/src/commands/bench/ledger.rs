//! A CSV file that grows by a row per finished run, so that an experiment can go on where it ended.
//!
//! Cells are names, numbers and hashes: none holds a comma or a quote.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ringmaster_proto::ErrorKind;

use crate::error::CliError;

/// The open file, which no other process may append to meanwhile.
pub(super) struct Ledger {
    path: PathBuf,
    file: File,
}

impl Ledger {
    /// Opens or creates the file and reads its rows; a torn last line is cut off.
    pub(super) fn open(path: &Path, header: &str) -> Result<(Self, Vec<Vec<String>>), CliError> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path);
        let file = file.map_err(|error| CliError::file(path, &error))?;
        let path = path.to_owned();
        let mut ledger = Self { path, file };
        match ledger.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ledger.is_busy()),
            Err(TryLockError::Error(error)) => return Err(CliError::file(&ledger.path, &error)),
        }
        let text = ledger
            .read_whole_lines()
            .map_err(|error| CliError::file(&ledger.path, &error))?;
        let mut lines = text.lines();
        match lines.next() {
            None => ledger.write(&format!("{header}\n"))?,
            Some(found) if found == header => {}
            Some(_) => {
                let reason = "has other columns than this version writes";
                let next = "move it away, or choose another --out";
                return Err(CliError::invalid(ledger.path.display(), reason, next));
            }
        }
        let cells = |line: &str| line.split(',').map(str::to_owned).collect();
        let rows = lines.map(cells).collect();
        Ok((ledger, rows))
    }

    /// Appends the rows of one run, in one write.
    pub(super) fn append(&mut self, rows: &[Vec<String>]) -> Result<(), CliError> {
        let lines = rows.iter().map(|cells| cells.join(",") + "\n");
        self.write(&lines.collect::<String>())
    }

    fn write(&mut self, text: &str) -> Result<(), CliError> {
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|error| CliError::file(&self.path, &error))
    }

    fn read_whole_lines(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_string(&mut text)?;
        text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
        self.file.set_len(text.len() as u64)?;
        Ok(text)
    }

    fn is_busy(&self) -> CliError {
        let reason = "another process runs this experiment";
        let next = "wait for it, or choose another --out";
        CliError::refused(ErrorKind::Fenced, self.path.display(), reason, next)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    fn row(cells: [&str; 2]) -> Vec<String> {
        cells.map(str::to_owned).to_vec()
    }

    #[test]
    fn rows_are_there_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        let (mut ledger, rows) = Ledger::open(&path, "a,b").unwrap();
        assert!(rows.is_empty());
        ledger.append(&[row(["1", ""])]).unwrap();
        assert!(Ledger::open(&path, "a,b").is_err(), "one process at a time");
        drop(ledger);
        let (mut ledger, rows) = Ledger::open(&path, "a,b").unwrap();
        assert_eq!(rows, [row(["1", ""])]);
        ledger.append(&[row(["2", "3"])]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a,b\n1,\n2,3\n");
    }

    #[test]
    fn a_torn_line_is_cut_and_other_columns_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        fs::write(&path, "a,b\n1,2\n3").unwrap();
        let (mut ledger, rows) = Ledger::open(&path, "a,b").unwrap();
        assert_eq!(rows, [row(["1", "2"])]);
        ledger.append(&[row(["4", "5"])]).unwrap();
        drop(ledger);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a,b\n1,2\n4,5\n");
        let refusal = Ledger::open(&path, "a,b,c").err().unwrap().to_string();
        assert!(refusal.contains("other columns"), "{refusal}");
    }
}
