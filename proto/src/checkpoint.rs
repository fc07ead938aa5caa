//! The manifest of a checkpoint: the one object that makes a set of parts a checkpoint.

use serde::{Deserialize, Serialize};

use crate::{Generation, Step};

/// Version of the manifest and of the parts it names.
pub const FORMAT_VERSION: u32 = 2;

/// Written last, by the coordinator, created if absent. Names parts of one (generation, step,
/// digest) only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointManifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// Name of the run.
    pub run: String,
    /// blake3 of the run spec's identity ([`crate::RunSpec::identity_hash`]).
    pub identity: String,
    /// Generation that took it.
    pub generation: Generation,
    /// Optimizer updates applied.
    pub step: Step,
    /// Digest of the whole state, lower-case hex.
    pub digest: String,
    /// Every part, in order.
    pub parts: Vec<Part>,
}

/// One uploaded piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Key below the run's root.
    pub key: String,
    /// Size of the object.
    pub bytes: u64,
    /// blake3 of the object, lower-case hex.
    pub blake3: String,
}

impl CheckpointManifest {
    /// Total size of the parts in bytes.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}
