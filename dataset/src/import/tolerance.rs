//! How many rows of somebody's files may be bad.

use super::BadRow;
use crate::error::DatasetError;

/// Rows after which a share of bad ones says something about the whole.
const ROWS_MIN: u64 = 1000;

/// Bad rows that are named in the log; their number is known anyway.
const NAMED_MAX: u64 = 20;

/// Counts rows against the fraction of them that may be bad.
#[derive(Clone, Debug)]
pub struct Tolerance {
    limit: f64,
    rows: u64,
    bad: u64,
    first: String,
}

impl Tolerance {
    /// Tolerates the fraction `limit` of the rows.
    pub fn new(limit: f64) -> Self {
        Self {
            limit,
            rows: 0,
            bad: 0,
            first: String::new(),
        }
    }

    /// Bad rows so far.
    pub fn bad(&self) -> u64 {
        self.bad
    }

    /// A row that can be used.
    pub fn accept(&mut self) {
        self.rows += 1;
    }

    /// A row that cannot; an error as soon as it is one too many whatever else comes, supposing a
    /// thousand rows.
    pub fn refuse(&mut self, row: &BadRow) -> Result<(), DatasetError> {
        self.rows += 1;
        self.bad += 1;
        if self.bad == 1 {
            self.first = row.to_string();
        }
        self.check(self.rows.max(ROWS_MIN))?;
        if self.bad <= NAMED_MAX {
            tracing::warn!("row refused: {row}");
        }
        Ok(())
    }

    /// All rows have been seen.
    pub fn end(&self) -> Result<(), DatasetError> {
        self.check(self.rows)
    }

    fn check(&self, of: u64) -> Result<(), DatasetError> {
        if self.bad as f64 <= self.limit * of as f64 {
            return Ok(());
        }
        Err(DatasetError::BadRows {
            bad: self.bad,
            rows: self.rows,
            limit: self.limit,
            first: self.first.clone(),
        })
    }
}
