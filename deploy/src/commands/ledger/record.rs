//! What a run wrote of its steps, and what that is held against.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use ringmaster_coordinator::{LEDGER, LedgerLine, Owners, QUARANTINE, QuarantineLine, RunHistory};
use ringmaster_dataset::{CorpusManifest, DatasetError, Plan, PlanSpec};
use ringmaster_proto::{ErrorKind, RunSpec, keys};
use serde::de::DeserializeOwned;

use crate::error::CliError;
use crate::run_folder::RunFolder;

/// The record of a run.
pub(super) struct Record {
    pub(super) spec: RunSpec,
    pub(super) history: RunHistory,
    pub(super) manifest: CorpusManifest,
    pub(super) plan: Plan,
    /// Where the ledger is.
    pub(super) path: PathBuf,
    pub(super) lines: Vec<LedgerLine>,
    pub(super) quarantine: Vec<QuarantineLine>,
}

impl Record {
    /// Reads that of `run`; see [`RunFolder::find`], or the URL of a run's root in a store.
    pub(super) async fn read(run: Option<&str>) -> Result<Self, CliError> {
        let root = RunFolder::root(run)?;
        let history = ringmaster_coordinator::history(&root).await?;
        let history = history.ok_or_else(|| {
            let reason = "there is no journal of a run";
            let next = "name the run, or the URL of its root if its store is remote";
            CliError::refused(ErrorKind::Data, root.url(), reason, next)
        })?;
        let spec = RunSpec::from_canonical(&history.spec_json)?;
        let hash = &history.corpus.corpus_hash;
        let key = keys::corpus_manifest(hash);
        let bytes = root.get(&key).await?;
        let manifest = CorpusManifest::from_json(&root.child(&key).url(), &bytes, hash)?;
        let plan = Plan::new(manifest.row_groups(), PlanSpec::from(&spec));
        // A run whose store is remote keeps its records on this machine.
        let folder = match run.filter(|run| run.contains("://")) {
            Some(_) => RunFolder::of(&spec),
            None => RunFolder::find(run)?,
        };
        let path = folder.path().join(LEDGER);
        Ok(Self {
            plan: plan.map_err(DatasetError::from)?,
            lines: lines(&path)?,
            quarantine: lines(&folder.path().join(QUARANTINE))?,
            path,
            spec,
            history,
            manifest,
        })
    }

    /// Which generation owns which steps.
    pub(super) fn owners(&self) -> Owners {
        Owners::new(&self.history.lineage)
    }
}

/// Every whole line of a file of records; one that is being written is not there yet.
fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, CliError> {
    let file = File::open(path).map_err(|error| {
        let next = "run this where the run's coordinator keeps its folder";
        CliError::refused(ErrorKind::Data, path.display(), error, next)
    })?;
    let (mut reader, mut text, mut lines) = (BufReader::new(file), Vec::new(), Vec::new());
    loop {
        text.clear();
        let read = reader.read_until(b'\n', &mut text);
        read.map_err(|error| CliError::file(path, &error))?;
        if text.last() != Some(&b'\n') {
            return Ok(lines);
        }
        let line = serde_json::from_slice(&text);
        lines.push(line.map_err(|error| {
            let reason = format!("line {} cannot be read: {error}", lines.len() + 1);
            CliError::untrue(path, reason)
        })?);
    }
}
