//! What the journal can say about a run: the only facts that outlive a coordinator.
//!
//! Records are never changed or deleted; what a run is, is what replaying them yields.

use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::{Generation, Step, Term, WorkerId, keys, v1};
use serde::{Deserialize, Serialize};

/// What was prepared before the run began; workers open the corpus by these hashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusFacts {
    /// blake3 of the corpus manifest, lower-case hex.
    pub corpus_hash: String,
    /// blake3 of the held-out rows' manifest; empty if there are none.
    pub validation_hash: String,
    /// blake3 of the tokenizer.
    pub tokenizer_hash: String,
    /// blake3 of the initial parameters; empty if they are drawn from the seed.
    #[serde(default)]
    pub init_hash: String,
    /// Length of the run in optimizer updates.
    pub total_steps: u64,
}

/// A training state, by its position and content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Optimizer updates applied.
    pub step: Step,
    /// Digest of the whole state, lower-case hex.
    pub digest: String,
}

impl From<&v1::Held> for Held {
    fn from(held: &v1::Held) -> Self {
        Self {
            step: Step(held.step),
            digest: held.digest.clone(),
        }
    }
}

/// Where a generation's state comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Origin {
    /// Parameters drawn from the seed.
    Initial,
    /// A member holds it.
    Memory,
    /// The checkpoint with this manifest key.
    Checkpoint(String),
}

/// One agreed membership; durable before any worker hears of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationRecord {
    /// Its number.
    pub generation: Generation,
    /// Workers in rank order.
    pub members: Vec<WorkerId>,
    /// The state every member starts from; the digest is empty for [`Origin::Initial`].
    pub resume: Held,
    /// Where that state comes from.
    pub origin: Origin,
    /// Numeric fingerprint all members share; empty if the reduction is not exact.
    pub fingerprint: String,
}

/// A checkpoint whose manifest is in the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Committed {
    /// Generation that took it.
    pub generation: Generation,
    /// The state it holds.
    pub state: Held,
    /// Its folder below the run's root.
    pub folder: String,
    /// Size of all parts.
    pub bytes: u64,
}

impl From<CheckpointManifest> for Committed {
    fn from(manifest: CheckpointManifest) -> Self {
        let bytes = manifest.bytes();
        let folder = keys::checkpoint(manifest.generation, manifest.step, &manifest.digest);
        let state = Held {
            step: manifest.step,
            digest: manifest.digest,
        };
        Self {
            generation: manifest.generation,
            state,
            folder,
            bytes,
        }
    }
}

/// One numbered entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// A coordinator took over; every earlier one is fenced.
    TermStarted {
        /// Its term.
        term: Term,
    },
    /// What was asked for and prepared.
    RunCreated {
        /// Canonical form of the run spec.
        spec_json: String,
        /// blake3 of `spec_json`.
        spec_hash: String,
        /// The corpus and the length.
        corpus: CorpusFacts,
    },
    /// A resume changed keys that a resume may change.
    SpecChanged {
        /// Canonical form of the new spec.
        spec_json: String,
        /// blake3 of `spec_json`.
        spec_hash: String,
        /// New length of the run.
        total_steps: u64,
    },
    /// A membership.
    Generation(GenerationRecord),
    /// A checkpoint's manifest was created.
    CheckpointCommitted(Committed),
    /// Members of a generation held different states of one step: nobody's memory of it counts.
    Diverged {
        /// Which.
        generation: Generation,
    },
    /// The run goes on from this checkpoint, since somebody asked for it: whatever workers hold of
    /// the generations so far does not count.
    ResumeFrom(Committed),
    /// Somebody changed how many workers may have a rank, until the run ends or its spec changes.
    Scaled {
        /// At most.
        workers: u32,
    },
    /// The run was stopped; it can be resumed.
    Stopped(Held),
    /// The run reached its last step.
    Finished(Held),
}
