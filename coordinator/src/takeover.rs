//! How a coordinator comes into office: read the journal, check that this is the
//! same run, take the next term.

use ringmaster_dataset::Store;
use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::spec::Change;
use ringmaster_proto::{Generation, RunSpec, Term, keys};

use crate::desk::Desk;
use crate::error::CoordinatorError;
use crate::journal::{Journal, RunHistory, StoredCheckpoints, replay, stored_checkpoints};
use crate::record::{Committed, CorpusFacts, Held, Record};
use crate::run::{Damaged, Recovered};

/// Takes over the run below `root`, or creates it. From here on every earlier coordinator fails its
/// next write.
///
/// `adopt`: workers of the last generation may still train. They are left in it, unless the run has
/// been stopped or changed since.
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
    let (records, mut journal) = Journal::open(root).await?;
    let (last_term, history) = replay(&records);
    let opening = match &history {
        None => Some(created(spec, corpus)),
        Some(history) => changed(history, spec, corpus)?,
    };
    let term = Term(last_term.0 + 1);
    // What a changed spec says counts more than what was asked of the run before.
    let scaled = history
        .as_ref()
        .filter(|_| opening.is_none())
        .and_then(|history| history.scaled);
    let open = |history: &RunHistory| history.stopped.is_none() && history.finished.is_none();
    let adopt = history
        .as_ref()
        .filter(|history| adopt && opening.is_none() && open(history))
        .and_then(|history| history.last.clone())
        .filter(|last| {
            !history
                .iter()
                .any(|h| h.distrusted.contains(&last.generation))
        });
    journal.append(&Record::TermStarted { term }).await?;
    if let Some(record) = opening {
        journal.append(&record).await?;
    }
    let mut stored = stored_checkpoints(root).await?;
    if let Some(record) = &adopt {
        // Its members may be writing them.
        stored
            .orphans
            .retain(|folder| !keys::is_checkpoint_of(folder, record.generation));
    }
    let damaged = stored.broken.clone();
    let checkpoints = usable(spec, stored, root).await?;
    let recovered = match history {
        None => Recovered {
            term,
            checkpoints,
            damaged,
            ..Default::default()
        },
        Some(history) => Recovered {
            term,
            generation: history.last.map_or(Generation(0), |last| last.generation),
            lineage: history.lineage,
            checkpoints,
            damaged,
            fingerprint: history.fingerprint,
            adopt,
            distrusted: history.distrusted,
            scaled,
            ..Default::default()
        },
    };
    Ok((Desk::new(journal, root.clone()), recovered))
}

fn created(spec: &RunSpec, corpus: &CorpusFacts) -> Record {
    let (spec_json, spec_hash) = (spec.canonical(), spec.hash());
    Record::RunCreated {
        spec_json,
        spec_hash,
        corpus: corpus.clone(),
    }
}

/// Refuses another run under the same name; returns the record of what changed, if anything did.
fn changed(
    history: &RunHistory,
    spec: &RunSpec,
    corpus: &CorpusFacts,
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
    Ok(ours.into_iter().map(committed).collect())
}

fn committed(manifest: CheckpointManifest) -> Committed {
    let bytes = manifest.bytes();
    let folder = keys::checkpoint(manifest.generation, manifest.step, &manifest.digest);
    let state = Held {
        step: manifest.step,
        digest: manifest.digest,
    };
    Committed {
        generation: manifest.generation,
        state,
        folder,
        bytes,
    }
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
        let error = take_over(&spec(&[]), &corpus(10), &root, true)
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
