//! Entries of a file that may be longer than memory: none of them may be.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Longest entry of a file, bytes; real ones have a few thousand.
pub(super) const ENTRY_BYTES_MAX: u64 = 1 << 20;

/// Bytes that may still be read for the entry at hand.
#[derive(Clone, Default)]
pub(super) struct Budget(Rc<Cell<u64>>);

impl Budget {
    /// A new entry begins.
    pub(super) fn one_entry(&self) {
        self.0.set(ENTRY_BYTES_MAX);
    }

    /// For what is skipped and takes no memory.
    pub(super) fn anything(&self) {
        self.0.set(u64::MAX);
    }
}

/// Fails rather than read an entry that is longer than any real one into memory.
pub(super) struct Limited<R> {
    inner: R,
    budget: Budget,
}

impl<R: Read> Limited<R> {
    /// Reads `inner` as far as `budget` allows.
    pub(super) fn new(inner: R, budget: &Budget) -> Self {
        let budget = budget.clone();
        Self { inner, budget }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Budget(left) = &self.budget;
        if left.get() == 0 {
            let reason = format!("an entry has more than {ENTRY_BYTES_MAX} bytes");
            return Err(io::Error::other(reason));
        }
        let most = usize::try_from(left.get()).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let read = self.inner.read(&mut buffer[..most])?;
        left.set(left.get() - read as u64);
        Ok(read)
    }
}
