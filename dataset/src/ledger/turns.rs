//! Which rows of an epoch have had their turn: a bit per row, set from several threads.

use std::sync::atomic::{AtomicU64, Ordering};

/// Which rows of an epoch have had their turn; a row has one pass.
pub(super) struct Turns {
    words: Vec<AtomicU64>,
    rows: u64,
}

impl Turns {
    /// None of `rows` rows.
    pub(super) fn new(rows: u64) -> Self {
        let words = (0..rows.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { words, rows }
    }

    /// Whether this is the row's first turn.
    pub(super) fn take(&self, row: u64) -> bool {
        let bit = 1 << (row % 64);
        let word = self.words.get((row / 64) as usize);
        word.is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }

    /// The first row that had none.
    pub(super) fn first_without(&self) -> Option<u64> {
        let has = |row: &u64| {
            let word = self.words[(row / 64) as usize].load(Ordering::Relaxed);
            word >> (row % 64) & 1 == 1
        };
        (0..self.rows).find(|row| !has(row))
    }
}
