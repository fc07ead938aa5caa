//! A file of JSON objects, one per line, that outlives a process killed while it writes and a disk
//! that is full for a while.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Error, Result, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// How many lines wait for a disk that takes none: hours of steps, some 50 MB.
const UNWRITTEN_MAX: usize = 100_000;

/// The open file. Writing is a single small append to the page cache, so its owner may do it in
/// line.
pub(crate) struct JsonLines {
    file: File,
    /// Length of what is whole.
    end: u64,
    /// Lines that could not be written yet, oldest first: a disk that is full costs none.
    unwritten: VecDeque<Vec<u8>>,
}

impl JsonLines {
    /// Opens or creates the file and shows `each` what is in it, in order; a torn last line is cut
    /// off.
    pub(crate) fn open<T: DeserializeOwned>(path: &Path, mut each: impl FnMut(T)) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut lines = Self {
            file: options.open(path)?,
            end: 0,
            unwritten: VecDeque::new(),
        };
        let end = lines.scan(|line, _| each(line))?;
        lines.cut(end)?;
        Ok(lines)
    }

    /// Appends one line. One that cannot be written yet is kept, and is written with a later one or by
    /// [`Self::flush`].
    ///
    /// # Errors
    /// Too many could not be written: this one is lost.
    pub(crate) fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        if self.unwritten.len() >= UNWRITTEN_MAX {
            return Err(Error::other("too many lines wait to be written"));
        }
        self.unwritten.push_back(text);
        // Whoever wants to know why it waits asks `flush`.
        let _waits = self.flush();
        Ok(())
    }

    /// Writes what could not be written before.
    pub(crate) fn flush(&mut self) -> Result<()> {
        while let Some(text) = self.unwritten.front() {
            self.file.seek(SeekFrom::Start(self.end))?;
            if let Err(error) = self.file.write_all(text) {
                // Half a line would hide every later one.
                let _cut_off_when_opened = self.file.set_len(self.end);
                return Err(error);
            }
            self.end += text.len() as u64;
            self.unwritten.pop_front();
        }
        Ok(())
    }

    /// Ends before the first line that is not to stay, and returns that line and all after it.
    pub(crate) fn keep_while<T: DeserializeOwned>(
        &mut self,
        mut stays: impl FnMut(&T) -> bool,
    ) -> Result<Vec<T>> {
        let (mut end, mut others) = (0, Vec::new());
        self.scan(|line, to| {
            if others.is_empty() && stays(&line) {
                end = to;
            } else {
                others.push(line);
            }
        })?;
        let (mut kept, mut waiting) = (VecDeque::new(), std::mem::take(&mut self.unwritten));
        for text in waiting.drain(..) {
            let line = serde_json::from_slice(&text)?;
            if others.is_empty() && stays(&line) {
                kept.push_back(text);
            } else {
                others.push(line);
            }
        }
        self.unwritten = kept;
        self.cut(end)?;
        Ok(others)
    }

    /// Shows `each` every whole line in the file and the byte it ends at; returns where the last one
    /// ends.
    fn scan<T: DeserializeOwned>(&mut self, mut each: impl FnMut(T, u64)) -> Result<u64> {
        self.file.seek(SeekFrom::Start(0))?;
        let (mut reader, mut end, mut text) = (BufReader::new(&self.file), 0, Vec::new());
        loop {
            text.clear();
            let read = reader.read_until(b'\n', &mut text)?;
            if text.last() != Some(&b'\n') {
                return Ok(end);
            }
            end += read as u64;
            each(serde_json::from_slice(&text)?, end);
        }
    }

    fn cut(&mut self, end: u64) -> Result<()> {
        self.file.set_len(end)?;
        self.end = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn numbers(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// `/dev/full` takes nothing, as a full disk does.
    #[test]
    fn what_a_full_disk_does_not_take_is_written_once_it_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers.jsonl");
        let mut lines = JsonLines::open(&path, |_: u64| {}).unwrap();
        lines.append(&1).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let disk = std::mem::replace(&mut lines.file, full);
        (2..=4).for_each(|number| lines.append(&number).unwrap());
        assert!(lines.flush().is_err());
        assert_eq!(numbers(&path), [1]);
        lines.file = disk;
        lines.append(&5).unwrap();
        assert_eq!(numbers(&path), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_is_cut_off_comes_back_whether_it_was_written_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers.jsonl");
        for kept in 0..6 {
            let mut lines = JsonLines::open(&path, |_: u64| {}).unwrap();
            (1..=3).for_each(|number| lines.append(&number).unwrap());
            // Reads as before, and takes nothing.
            let disk = std::mem::replace(&mut lines.file, File::open(&path).unwrap());
            (4..=5).for_each(|number| lines.append(&number).unwrap());
            lines.file = disk;
            let cut = lines.keep_while(|number: &u64| *number <= kept).unwrap();
            assert_eq!(cut, (kept + 1..=5).collect::<Vec<_>>());
            lines.append(&9).unwrap();
            let expected: Vec<u64> = (1..=kept.min(5)).chain([9]).collect();
            assert_eq!(numbers(&path), expected);
            std::fs::remove_file(&path).unwrap();
        }
    }
}
