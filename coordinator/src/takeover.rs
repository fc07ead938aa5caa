//! How a coordinator comes into office: read the journal, check that this is the
//! same run, take the next term.

use ringmaster_dataset::Store;
use ringmaster_proto::spec::Change;
use ringmaster_proto::{Generation, RunSpec, Term, keys};

use crate::desk::Desk;
use crate::error::CoordinatorError;
use crate::journal::{
    Journal, JournalError, RunHistory, StoredCheckpoints, replay, stored_checkpoints,
};
use crate::record::{Committed, CorpusFacts, GenerationRecord, Held, Record};
use crate::resume_from::{find, is_asked};
use crate::run::{Damaged, Recovered};

/// Takes over the run below `root`, or creates it. From here on every earlier coordinator fails its
/// next write.
///
/// `adopt`: workers of the last generation may still train. They are left in it, unless the run has
/// been stopped or changed since; if it has finished, there may be some who were not told.
///
/// # Errors
/// [`CoordinatorError`]: the store, or this is another run under the same name. After an error of the
/// store it may be called again; a term that was taken is left empty.
pub async fn take_over(
    spec: &RunSpec,
    corpus: &CorpusFacts,
    root: &Store,
    adopt: bool,
) -> Result<(Desk, Recovered), CoordinatorError> {
    let check = |history: &RunHistory| changed(history, spec, corpus, adopt);
    let Entered {
        mut journal,
        term,
        history,
        changed,
    } = enter(root, check).await?;
    let asked = is_asked(spec, history.as_ref());
    let mut history = match history {
        Some(history) => history,
        None => create(spec, corpus, &mut journal).await?,
    };
    let unchanged = changed.is_none() && !asked;
    let last = history.last.clone();
    let adopted = last.filter(|_| adopt && unchanged && may_train(&history));
    let mut stored = stored_checkpoints(root).await?;
    if let Some(record) = &adopted {
        // Its members may be writing them.
        stored
            .orphans
            .retain(|folder| !keys::is_checkpoint_of(folder, record.generation));
    }
    let damaged = stored.broken.clone();
    let mut checkpoints = usable(spec, stored, root).await?;
    if asked && let Some(checkpoint) = find(spec, &history.lineage, &checkpoints, root).await? {
        let record = Record::ResumeFrom(checkpoint.clone());
        journal.append(&record).await?;
        history.follow(&record);
        checkpoints.retain(|known| *known != checkpoint);
        checkpoints.push(checkpoint);
    }
    if let Some(record) = changed {
        journal.append(&record).await?;
        history.follow(&record);
    }
    let recovered = Recovered {
        term,
        generation: history.last.map_or(Generation(0), |last| last.generation),
        lineage: history.lineage,
        resume_from: still_there(history.resume_from, &checkpoints, spec)?,
        checkpoints,
        damaged,
        fingerprint: history.fingerprint,
        adopt: adopted,
        distrusted: history.distrusted,
        scaled: history.scaled,
        ..Default::default()
    };
    Ok((Desk::new(journal, root.clone()), recovered))
}

/// A coordinator in office.
struct Entered {
    journal: Journal,
    term: Term,
    history: Option<RunHistory>,
    /// What `check` said of it.
    changed: Option<Record>,
}

/// Takes the next term of a run that passes `check`.
async fn enter(
    root: &Store,
    check: impl Fn(&RunHistory) -> Result<Option<Record>, CoordinatorError>,
) -> Result<Entered, CoordinatorError> {
    let mut known = None;
    loop {
        let (records, mut journal) = Journal::open(root).await?;
        // The last word of the one before may land after we have looked, which is no reason to give
        // way; a rival's term is.
        if let Some((count, error)) = known.take()
            && started_since(&records, count)
        {
            return Err(error);
        }
        let (last_term, history) = replay(&records);
        let changed = history.as_ref().map(&check).transpose()?.flatten();
        let term = Term(last_term.0 + 1);
        match journal.append(&Record::TermStarted { term }).await {
            Err(error @ JournalError::Fenced { .. }) => {
                tracing::info!("looking at the journal again: {error}");
                known = Some((records.len(), error.into()));
            }
            appended => {
                appended?;
                return Ok(Entered {
                    journal,
                    term,
                    history,
                    changed,
                });
            }
        }
    }
}

/// Whether a coordinator came into office after the first `count` records, or none of them is new.
fn started_since(records: &[Record], count: usize) -> bool {
    let newer = records.get(count..).unwrap_or_default();
    let starts = |record: &Record| matches!(record, Record::TermStarted { .. });
    newer.is_empty() || newer.iter().any(starts)
}

/// Whether the members of the last generation may be training.
fn may_train(history: &RunHistory) -> bool {
    let distrusted = |last: &GenerationRecord| history.distrusted.contains(&last.generation);
    history.stopped.is_none()
        && history.resume_from.is_none()
        && !history.last.as_ref().is_some_and(distrusted)
}

/// The checkpoint that an earlier coordinator was asked to go on from and did not come to.
fn still_there(
    asked: Option<Committed>,
    checkpoints: &[Committed],
    spec: &RunSpec,
) -> Result<Option<Committed>, CoordinatorError> {
    match asked {
        Some(checkpoint) if !checkpoints.contains(&checkpoint) => Err(CoordinatorError::Resume {
            asked: spec.checkpoint.resume.to_string(),
            reason: format!(
                "{} is no longer whole; restore it, or name another",
                checkpoint.folder
            ),
        }),
        asked => Ok(asked),
    }
}

async fn create(
    spec: &RunSpec,
    corpus: &CorpusFacts,
    journal: &mut Journal,
) -> Result<RunHistory, CoordinatorError> {
    let (spec_json, spec_hash) = (spec.canonical(), spec.hash());
    let history = RunHistory::new(spec_json.clone(), spec_hash.clone(), corpus.clone());
    let record = Record::RunCreated {
        spec_json,
        spec_hash,
        corpus: corpus.clone(),
    };
    journal.append(&record).await?;
    Ok(history)
}

/// Refuses another run under the same name; returns the record of what changed, if anything did.
fn changed(
    history: &RunHistory,
    spec: &RunSpec,
    corpus: &CorpusFacts,
    adopt: bool,
) -> Result<Option<Record>, CoordinatorError> {
    let run = spec.run.name.clone();
    let before =
        RunSpec::from_canonical(&history.spec_json).map_err(|source| CoordinatorError::Spec {
            run: run.clone(),
            source,
        })?;
    let mut changes: Vec<Change> = before
        .changes(spec)
        .into_iter()
        .filter(|change| !change.allowed)
        .collect();
    let hashes = [
        ("corpus", &history.corpus.corpus_hash, &corpus.corpus_hash),
        (
            "held-out rows",
            &history.corpus.validation_hash,
            &corpus.validation_hash,
        ),
        (
            "tokenizer",
            &history.corpus.tokenizer_hash,
            &corpus.tokenizer_hash,
        ),
        (
            "initial parameters",
            &history.corpus.init_hash,
            &corpus.init_hash,
        ),
    ];
    // A changed key explains a changed hash; only an unexplained one needs words of its own.
    if changes.is_empty() {
        let differ = hashes
            .into_iter()
            .filter(|(_, before, after)| before != after);
        changes.extend(differ.map(|(key, before, after)| Change {
            key: format!("the content of the {key}"),
            before: before.clone(),
            after: after.clone(),
            allowed: false,
        }));
    }
    if !changes.is_empty() {
        return Err(CoordinatorError::SpecDiffers { run, changes });
    }
    if let Some(Held { step, digest }) = history.finished.clone()
        && corpus.total_steps <= step.0
        && !adopt
        && !is_asked(spec, Some(history))
    {
        return Err(CoordinatorError::AlreadyFinished { run, step, digest });
    }
    let same = history.spec_hash == spec.hash() && history.corpus == *corpus;
    let (spec_json, spec_hash) = (spec.canonical(), spec.hash());
    let total_steps = corpus.total_steps;
    Ok((!same).then_some(Record::SpecChanged {
        spec_json,
        spec_hash,
        total_steps,
    }))
}

/// The checkpoints that can be resumed; says which cannot, and removes what never became one.
async fn usable(
    spec: &RunSpec,
    stored: StoredCheckpoints,
    root: &Store,
) -> Result<Vec<Committed>, CoordinatorError> {
    for Damaged { folder, reason } in &stored.broken {
        tracing::warn!(%folder, %reason, "checkpoint is not used");
    }
    for folder in &stored.orphans {
        tracing::info!(%folder, "removing a checkpoint that was never completed");
        delete_folder(root, folder).await?;
    }
    let identity = spec.identity_hash();
    let (ours, others): (Vec<_>, Vec<_>) = stored
        .complete
        .into_iter()
        .partition(|manifest| manifest.identity == identity);
    for manifest in others {
        tracing::warn!(
            step = manifest.step.0,
            "checkpoint of another run identity is not used"
        );
    }
    Ok(ours.into_iter().map(Committed::from).collect())
}

/// Deletes everything below `folder`, the manifest first: without it the rest is no checkpoint.
pub(crate) async fn delete_folder(
    root: &Store,
    folder: &str,
) -> Result<(), ringmaster_dataset::StoreError> {
    root.delete(&keys::checkpoint_manifest(folder)).await?;
    for entry in root.list(folder).await? {
        root.delete(&entry.key).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use ringmaster_proto::{ErrorKind, Step};

    fn spec(overrides: &[&str]) -> RunSpec {
        let mut all = vec!["run.name=\"t\"".to_owned(), "run.steps=10".to_owned()];
        all.extend(overrides.iter().map(|text| (*text).to_owned()));
        RunSpec::parse("", &all).unwrap()
    }

    fn corpus(total_steps: u64) -> CorpusFacts {
        CorpusFacts {
            corpus_hash: "c".into(),
            validation_hash: "v".into(),
            tokenizer_hash: "t".into(),
            init_hash: String::new(),
            total_steps,
        }
    }

    async fn started() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let root = Store::open(folder.path().to_str().unwrap()).unwrap();
        let (_, recovered) = take_over(&spec(&[]), &corpus(10), &root, true)
            .await
            .unwrap();
        assert_eq!(recovered.term, Term(1));
        (folder, root)
    }

    #[tokio::test]
    async fn each_coordinator_takes_the_next_term() {
        let (_folder, root) = started().await;
        for term in 2..4 {
            let (_, recovered) = take_over(&spec(&[]), &corpus(10), &root, true)
                .await
                .unwrap();
            assert_eq!(recovered.term, Term(term));
        }
    }

    #[tokio::test]
    async fn another_model_under_the_same_name_is_refused_by_key() {
        let (_folder, root) = started().await;
        let other = spec(&["model.width=64", "train.lr=0.5"]);
        let error = take_over(&other, &corpus(10), &root, true)
            .await
            .err()
            .unwrap();
        let text = error.to_string();
        assert!(
            text.contains("model.width: 128 -> 64") && text.contains("train.lr"),
            "{text}"
        );
        assert!(
            text.contains("--fresh") && text.contains("run.name"),
            "{text}"
        );
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[tokio::test]
    async fn another_corpus_behind_the_same_url_is_refused() {
        let (_folder, root) = started().await;
        let other = CorpusFacts {
            corpus_hash: "d".into(),
            ..corpus(10)
        };
        let error = take_over(&spec(&[]), &other, &root, true)
            .await
            .err()
            .unwrap();
        assert!(
            error
                .to_string()
                .contains("the content of the corpus: c -> d"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_finished_run_continues_only_if_it_got_longer() {
        let (_folder, root) = started().await;
        let (_, mut journal) = Journal::open(&root).await.unwrap();
        let state = Held {
            step: Step(10),
            digest: "d".into(),
        };
        journal.append(&Record::Finished(state)).await.unwrap();
        // Workers that may not have been told are another matter.
        take_over(&spec(&[]), &corpus(10), &root, true)
            .await
            .unwrap();
        let error = take_over(&spec(&[]), &corpus(10), &root, false)
            .await
            .err()
            .unwrap();
        assert!(matches!(
            error,
            CoordinatorError::AlreadyFinished { step: Step(10), .. }
        ));
        take_over(&spec(&["run.steps=20"]), &corpus(20), &root, true)
            .await
            .unwrap();
        let history = crate::journal::history(&root).await.unwrap().unwrap();
        assert_eq!(history.corpus.total_steps, 20);
        assert_eq!(history.spec_hash, spec(&["run.steps=20"]).hash());
    }
}
