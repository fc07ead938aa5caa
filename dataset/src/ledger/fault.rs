//! What can be wrong with a record, each with the number of the row where one can be told.

/// What is wrong with a record, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step {step}: {fault}")]
pub struct Mismatch {
    /// The step.
    pub step: u64,
    /// The row that it is about, by its number within the corpus, where one can be told.
    pub row: Option<u64>,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong with a step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A hole.
    #[error("it is not on record; the line in its place is of step {0}")]
    Missing(u64),
    /// The record ends too early.
    #[error("it is not on record; the last line is of step {0}")]
    Short(u64),
    /// The record ends too late.
    #[error("it is on record, and the run ended at step {0}")]
    Beyond(u64),
    /// Twice, or out of order.
    #[error("it is on record again after step {0}")]
    Again(u64),
    /// Of another generation.
    #[error(
        "it is on record as of generation {recorded}; by the journal generation {owner} owns it"
    )]
    Foreign {
        /// The generation on record.
        recorded: u64,
        /// The one that owns it.
        owner: u64,
    },
    /// Refused rows without a name, or the reverse.
    #[error("{refused} of its rows were refused, and the quarantine names {named}")]
    Unnamed {
        /// How many were refused.
        refused: u64,
        /// How many are named.
        named: u64,
    },
    /// One row too few.
    #[error("row {0} was not fed forward, and the quarantine does not name it")]
    Left(u64),
    /// One row too many.
    #[error("row {0} was fed forward once too often")]
    Doubled(u64),
    /// A quarantined row that was used all the same.
    #[error("row {0} is quarantined and was fed forward")]
    Used(u64),
    /// One row in another's place.
    #[error("row {fed} was fed forward in place of row {left}")]
    Exchanged {
        /// The one that was fed.
        fed: u64,
        /// The one that was not.
        left: u64,
    },
    /// More than one row.
    #[error(
        "it fed {rows} rows of hash {hash:016x} forward where the plan has {of} of hash \
         {expected:016x}; no single row explains it"
    )]
    Differs {
        /// Rows on record.
        rows: u64,
        /// Their hash.
        hash: u64,
        /// Rows of the plan.
        of: u64,
        /// Their hash.
        expected: u64,
    },
    /// The plan itself repeats a row.
    #[error("row {0} had its turn already in this epoch")]
    Repeated(u64),
    /// The plan itself leaves a row out.
    #[error("its epoch is over and row {0} had no turn")]
    Forgotten(u64),
}

impl Fault {
    pub(super) fn at(self, step: u64, row: impl Into<Option<u64>>) -> Mismatch {
        let row = row.into();
        Mismatch {
            step,
            row,
            fault: self,
        }
    }
}
