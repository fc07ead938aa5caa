//! Newtypes for every identifier, so that no signature holds two bare numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Number of optimizer updates applied; also the cursor: step `s` reads the s-th global batch.
    Step(u64)
);
number!(
    /// One agreed membership; bumps on every change and fences everything older.
    Generation(u64)
);
number!(
    /// Coordinator incarnation; a lower term than seen is refused.
    Term(u64)
);
number!(
    /// A worker's number within a generation, 0-based.
    Rank(u32)
);
number!(
    /// How many ranks a generation has.
    WorldSize(u32)
);
number!(
    /// One of the L parallel streams of examples that make up the global batch, 0-based.
    Lane(u32)
);

impl Step {
    /// The step after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Generation {
    /// The generation after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Name of a worker process, unique for its life; chosen by the worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(String);

impl WorkerId {
    /// Accepts 1 to 63 characters of `[a-z0-9-]`: safe in object keys, labels and logs.
    pub fn new(name: &str) -> Option<Self> {
        is_name(name).then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `name` is a valid run or worker name: 1 to 63 characters of `[a-z0-9-]`, no dash at
/// either end (a DNS label, RFC 1123).
pub fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
