//! What the records add up to, for the next coordinator and for people.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_dataset::{Entry, Store};
use ringmaster_proto::checkpoint::{CheckpointManifest, FORMAT_VERSION};
use ringmaster_proto::{Generation, Step, Term, keys};

use super::{JournalError, read};
use crate::record::{Committed, CorpusFacts, GenerationRecord, Held, Record};
use crate::run::Damaged;

/// A run, as its journal tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunHistory {
    /// Canonical form of the latest spec.
    pub spec_json: String,
    /// blake3 of `spec_json`.
    pub spec_hash: String,
    /// The corpus and the length.
    pub corpus: CorpusFacts,
    /// The last coordinator's term.
    pub term: Term,
    /// The last generation, if there was one.
    pub last: Option<GenerationRecord>,
    /// Where each generation resumed, ascending.
    pub lineage: Vec<(Generation, Step)>,
    /// Fingerprint of the workers, once a generation was recorded.
    pub fingerprint: Option<String>,
    /// Generations whose memory does not count: their members held different states of one step, or
    /// the run was taken back.
    pub distrusted: BTreeSet<Generation>,
    /// The checkpoint that the next generation starts from, if somebody asked for it.
    pub resume_from: Option<Committed>,
    /// How many workers may have a rank, if somebody changed it since the run was started.
    pub scaled: Option<u32>,
    /// The final state, if the run has finished and was not continued since.
    pub finished: Option<Held>,
    /// Where the run was stopped last, if it was not continued since.
    pub stopped: Option<Held>,
}

/// The last term, and the run if one was created.
pub fn replay(records: &[Record]) -> (Term, Option<RunHistory>) {
    let mut last_term = Term(0);
    let mut run: Option<RunHistory> = None;
    for record in records {
        if let Record::TermStarted { term } = record {
            last_term = *term;
        }
        if let Record::RunCreated {
            spec_json,
            spec_hash,
            corpus,
        } = record
        {
            let mut created = RunHistory::new(spec_json.clone(), spec_hash.clone(), corpus.clone());
            created.term = last_term;
            run = Some(created);
        }
        if let Some(run) = &mut run {
            run.follow(record);
        }
    }
    (last_term, run)
}

impl RunHistory {
    /// A run that was created just now.
    pub(crate) fn new(spec_json: String, spec_hash: String, corpus: CorpusFacts) -> Self {
        Self {
            spec_json,
            spec_hash,
            corpus,
            term: Term(0),
            last: None,
            lineage: Vec::new(),
            fingerprint: None,
            distrusted: BTreeSet::new(),
            resume_from: None,
            scaled: None,
            finished: None,
            stopped: None,
        }
    }

    /// What is known once `record` is there too.
    pub(crate) fn follow(&mut self, record: &Record) {
        match record {
            Record::TermStarted { term } => self.term = *term,
            Record::RunCreated { .. } | Record::CheckpointCommitted(_) => {}
            Record::SpecChanged {
                spec_json,
                spec_hash,
                total_steps,
            } => {
                self.spec_json.clone_from(spec_json);
                self.spec_hash.clone_from(spec_hash);
                self.corpus.total_steps = *total_steps;
                self.scaled = None;
            }
            Record::Generation(generation) => {
                self.last = Some(generation.clone());
                self.lineage
                    .push((generation.generation, generation.resume.step));
                self.fingerprint = Some(generation.fingerprint.clone());
                self.resume_from = None;
                self.finished = None;
                self.stopped = None;
            }
            Record::ResumeFrom(checkpoint) => {
                let generations = self.lineage.iter().map(|(generation, _)| *generation);
                self.distrusted.extend(generations);
                self.resume_from = Some(checkpoint.clone());
                self.finished = None;
            }
            Record::Diverged { generation } => {
                self.distrusted.insert(*generation);
            }
            Record::Scaled { workers } => self.scaled = Some(*workers),
            Record::Stopped(state) => {
                self.stopped = Some(state.clone());
                self.scaled = None;
            }
            Record::Finished(state) => {
                self.finished = Some(state.clone());
                self.scaled = None;
            }
        }
    }
}

/// The run below `root`; none if no run was created there.
pub async fn history(root: &Store) -> Result<Option<RunHistory>, JournalError> {
    Ok(replay(&read(root).await?).1)
}

/// Every checkpoint below `root` whose parts are all there with the size its manifest says, oldest
/// first. What is in the parts is not read.
pub async fn checkpoints(root: &Store) -> Result<Vec<CheckpointManifest>, JournalError> {
    Ok(stored_checkpoints(root).await?.complete)
}

/// What lies below the checkpoints' prefix.
#[derive(Debug, Default)]
pub struct StoredCheckpoints {
    /// Usable, oldest first.
    pub complete: Vec<CheckpointManifest>,
    /// Not usable though there is a manifest, and why.
    pub broken: Vec<Damaged>,
    /// Folders without a manifest: saves that never became checkpoints.
    pub orphans: Vec<String>,
}

/// Every checkpoint below `root`, and what is left of others. What is in the parts is not read.
pub async fn stored_checkpoints(root: &Store) -> Result<StoredCheckpoints, JournalError> {
    let entries = root.list(keys::CHECKPOINTS).await?;
    let sizes: BTreeMap<&str, u64> = entries.iter().map(|e| (e.key.as_str(), e.bytes)).collect();
    let folder = |entry: &Entry| {
        entry
            .key
            .rsplit_once('/')
            .map(|(folder, _)| folder.to_owned())
    };
    let folders: BTreeSet<String> = entries.iter().filter_map(folder).collect();
    let mut stored = StoredCheckpoints::default();
    for folder in folders {
        let key = keys::checkpoint_manifest(&folder);
        if !sizes.contains_key(key.as_str()) {
            stored.orphans.push(folder);
            continue;
        }
        match usable(&root.get(&key).await?, &sizes) {
            Ok(manifest) => stored.complete.push(manifest),
            Err(reason) => stored.broken.push(Damaged { folder, reason }),
        }
    }
    stored
        .complete
        .sort_by_key(|manifest| (manifest.step, manifest.generation));
    Ok(stored)
}

fn usable(bytes: &[u8], sizes: &BTreeMap<&str, u64>) -> Result<CheckpointManifest, String> {
    let manifest: CheckpointManifest =
        serde_json::from_slice(bytes).map_err(|error| format!("its manifest: {error}"))?;
    if manifest.format_version != FORMAT_VERSION {
        return Err(format!(
            "its format is {}, not {FORMAT_VERSION}",
            manifest.format_version
        ));
    }
    for part in &manifest.parts {
        match sizes.get(part.key.as_str()) {
            None => return Err(format!("part {} is missing", part.key)),
            Some(bytes) if *bytes != part.bytes => {
                return Err(format!(
                    "part {} has {bytes} bytes, not {}",
                    part.key, part.bytes
                ));
            }
            Some(_) => {}
        }
    }
    Ok(manifest)
}
