//! Where things lie below a run's root in the store. Keys are made of typed ids only, never of text
//! from outside.

use crate::{Generation, Step};

/// Record `number` of the journal, 1-based.
pub fn journal_record(number: u64) -> String {
    format!("journal/{number:012}.json")
}

/// Prefix of all journal records.
pub const JOURNAL: &str = "journal";

/// Prefix of all checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";

/// The corpus manifest whose blake3 is `hash`.
pub fn corpus_manifest(hash: &str) -> String {
    format!("corpus/manifest-{hash}.json")
}

/// Prefix of all corpus manifests.
pub const CORPUS_MANIFESTS: &str = "corpus";

/// The blake3 that the key of a corpus manifest names; `None` for any other key.
pub fn hash_of_manifest(key: &str) -> Option<&str> {
    key.strip_prefix("corpus/manifest-")?.strip_suffix(".json")
}

/// The run's tokenizer, in the `tokenizers` JSON format.
pub const TOKENIZER: &str = "tokenizer.json";

/// Folder of the built-in scenes corpus of a run.
pub const SCENES: &str = "scenes";

/// Folder of what a run with `[init]` starts from.
pub const INIT: &str = "init";

/// The initial parameters whose blake3 is `hash`.
pub fn initial_parameters(hash: &str) -> String {
    format!("{INIT}/parameters-{hash}.safetensors")
}

/// What was made of the `[init]` whose blake3 is `identity`.
pub fn initial_record(identity: &str) -> String {
    format!("{INIT}/record-{identity}.json")
}

/// Folder of one checkpoint.
pub fn checkpoint(generation: Generation, step: Step, digest: &str) -> String {
    let digest = digest.get(..16).unwrap_or(digest);
    format!(
        "{CHECKPOINTS}/step-{:012}-gen-{:06}-{digest}",
        step.0, generation.0
    )
}

/// Whether `folder` is one of the checkpoints taken in `generation`.
pub fn is_checkpoint_of(folder: &str, generation: Generation) -> bool {
    folder.contains(&format!("-gen-{:06}-", generation.0))
}

/// Whether `folder` is a checkpoint of the state at `step`.
pub fn is_checkpoint_at(folder: &str, step: Step) -> bool {
    folder.contains(&format!("/step-{:012}-gen-", step.0))
}

/// One part of a checkpoint in `folder`.
pub fn checkpoint_part(folder: &str, part: u32, parts: u32) -> String {
    format!("{folder}/part-{part:05}-of-{parts:05}.safetensors")
}

/// The manifest that makes the parts in `folder` a checkpoint; written last, created if absent.
pub fn checkpoint_manifest(folder: &str) -> String {
    format!("{folder}/manifest.json")
}
