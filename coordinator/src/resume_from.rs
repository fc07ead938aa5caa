//! `checkpoint.resume`: the checkpoint that somebody wants a run to go on from. One of another run is
//! copied, so that the run stands for itself.

use ringmaster_dataset::Store;
use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::spec::Resume;
use ringmaster_proto::{Generation, RunSpec, Step, keys};

use crate::desk::create_manifest;
use crate::error::CoordinatorError;
use crate::journal::{RunHistory, history, stored_checkpoints};
use crate::record::Committed;
use crate::run::newest_surviving;

/// Whether `spec` asks to go on from a state, and that was not done yet.
pub(crate) fn is_asked(spec: &RunSpec, history: Option<&RunHistory>) -> bool {
    match history {
        Some(history) => history.is_taken_elsewhere(spec),
        None => spec.checkpoint.resume != Resume::Latest,
    }
}

impl RunHistory {
    /// Whether this run does not go on from where it stands if it is started with `spec`.
    pub fn is_taken_elsewhere(&self, spec: &RunSpec) -> bool {
        let resume = &spec.checkpoint.resume;
        let before = RunSpec::from_canonical(&self.spec_json);
        let same = before.is_ok_and(|before| before.checkpoint.resume == *resume);
        let began = self.last.is_some() || self.resume_from.is_some();
        *resume != Resume::Latest && !(same && began)
    }
}

/// The checkpoint that `spec` asks for, among those of the run or copied to them.
///
/// # Errors
/// [`CoordinatorError::Resume`]: there is none, or it is of another model or corpus; the stores.
pub(crate) async fn find(
    spec: &RunSpec,
    lineage: &[(Generation, Step)],
    checkpoints: &[Committed],
    root: &Store,
) -> Result<Option<Committed>, CoordinatorError> {
    match &spec.checkpoint.resume {
        Resume::Latest => Ok(None),
        Resume::Step(step) => at(*step, lineage, checkpoints).map(Some),
        Resume::Url(url) => {
            let generation = lineage.last().map_or(Generation(0), |(last, _)| *last);
            copy(spec, url, generation, root).await.map(Some)
        }
    }
}

/// The checkpoint of `step` on the surviving past.
fn at(
    step: Step,
    lineage: &[(Generation, Step)],
    checkpoints: &[Committed],
) -> Result<Committed, CoordinatorError> {
    let of_step: Vec<Committed> = checkpoints
        .iter()
        .filter(|checkpoint| checkpoint.state.step == step)
        .cloned()
        .collect();
    newest_surviving(lineage, &of_step).ok_or_else(|| {
        let on_it = |c: &&Committed| newest_surviving(lineage, &[(*c).clone()]).is_some();
        let surviving = checkpoints.iter().filter(on_it);
        let steps: Vec<String> = surviving.map(|c| c.state.step.to_string()).collect();
        let there = match steps.is_empty() {
            true => "there are no checkpoints".to_owned(),
            false => format!("there are those of steps {}", steps.join(", ")),
        };
        refused(
            &Resume::Step(step).to_string(),
            format!("no checkpoint of that step can be resumed; {there}"),
        )
    })
}

/// Copies a checkpoint of another run, as one that `generation` took. The manifest comes last.
async fn copy(
    spec: &RunSpec,
    url: &str,
    generation: Generation,
    root: &Store,
) -> Result<Committed, CoordinatorError> {
    let (from, mut manifest) = chosen(url).await?;
    if manifest.identity != spec.identity_hash() {
        let reason = format!(
            "step {} of run {} was trained with another model, corpus, optimizer or seed, so this run \
             cannot go on from it; [init] starts from its parameters alone",
            manifest.step, manifest.run
        );
        return Err(refused(url, reason));
    }
    let folder = keys::checkpoint(generation, manifest.step, &manifest.digest);
    let parts = u32::try_from(manifest.parts.len()).unwrap_or(u32::MAX);
    for (part, number) in manifest.parts.iter_mut().zip(0..) {
        tracing::info!(key = %part.key, bytes = part.bytes, "copying a part of a checkpoint");
        let to = keys::checkpoint_part(&folder, number, parts);
        let copied = root.copy_from(&from, &part.key, &to).await?;
        if (copied.bytes, &copied.blake3) != (part.bytes, &part.blake3) {
            let reason = format!("{} is not what its manifest says; name another", part.key);
            return Err(refused(url, reason));
        }
        part.key = to;
    }
    manifest.run.clone_from(&spec.run.name);
    manifest.generation = generation;
    create_manifest(root, &keys::checkpoint_manifest(&folder), &manifest).await?;
    Ok(manifest.into())
}

/// The checkpoint at `url`, or the newest of the run there.
async fn chosen(url: &str) -> Result<(Store, CheckpointManifest), CoordinatorError> {
    let url = url.trim_end_matches('/');
    let marker = format!("/{}/", keys::CHECKPOINTS);
    let (run, one) = match url.rsplit_once(&marker) {
        Some((run, name)) => (run, Some(format!("{}/{name}", keys::CHECKPOINTS))),
        None => (url, None),
    };
    let from = Store::open(run)?;
    let complete = stored_checkpoints(&from).await?.complete;
    let lineage = history(&from)
        .await?
        .map_or_else(Vec::new, |run| run.lineage);
    let all: Vec<Committed> = complete.iter().cloned().map(Committed::from).collect();
    let wanted = match one {
        Some(folder) => Some(folder),
        None => newest_surviving(&lineage, &all).map(|newest| newest.folder),
    };
    let mut pairs = all.iter().zip(complete);
    let found = pairs.find(|(committed, _)| Some(&committed.folder) == wanted.as_ref());
    let (_, manifest) = found.ok_or_else(|| {
        let reason = "there is no whole checkpoint; see `ringmaster checkpoint list`";
        refused(url, reason.to_owned())
    })?;
    Ok((from, manifest))
}

fn refused(asked: &str, reason: String) -> CoordinatorError {
    CoordinatorError::Resume {
        asked: asked.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ringmaster_proto::WorkerId;
    use ringmaster_proto::checkpoint::{FORMAT_VERSION, Part};

    use super::*;
    use crate::journal::Journal;
    use crate::record::{CorpusFacts, GenerationRecord, Held, Origin, Record};
    use crate::run::Recovered;
    use crate::takeover::take_over;

    struct Run {
        folder: tempfile::TempDir,
        root: Store,
    }

    fn spec(overrides: &[&str]) -> RunSpec {
        let mut all = vec!["run.name=\"t\"".to_owned(), "run.steps=90".to_owned()];
        all.extend(overrides.iter().map(|text| (*text).to_owned()));
        RunSpec::parse("", &all).unwrap()
    }

    impl Run {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let root = Store::open(folder.path().to_str().unwrap()).unwrap();
            Self { folder, root }
        }

        async fn take(&self, spec: &RunSpec) -> Result<Recovered, CoordinatorError> {
            let corpus = CorpusFacts {
                corpus_hash: "c".into(),
                validation_hash: "v".into(),
                tokenizer_hash: "t".into(),
                init_hash: String::new(),
                total_steps: 90,
            };
            let taken = take_over(spec, &corpus, &self.root, true).await;
            taken.map(|(_, recovered)| recovered)
        }

        async fn say(&self, record: Record) {
            let (_, mut journal) = Journal::open(&self.root).await.unwrap();
            journal.append(&record).await.unwrap();
        }

        async fn generation(&self, generation: u64, step: u64) {
            let resume = Held {
                step: Step(step),
                digest: format!("{step:032}"),
            };
            let record = GenerationRecord {
                generation: Generation(generation),
                members: vec![WorkerId::new("w").unwrap()],
                resume,
                origin: Origin::Memory,
                fingerprint: "f".into(),
            };
            self.say(Record::Generation(record)).await;
        }

        /// A checkpoint of `step` in two parts.
        async fn save(&self, generation: u64, step: u64) {
            let digest = format!("{step:032}");
            let folder = keys::checkpoint(Generation(generation), Step(step), &digest);
            let mut parts = Vec::new();
            for part in 0..2 {
                let key = keys::checkpoint_part(&folder, part, 2);
                let content = format!("{part} of {step}");
                self.root.put(&key, content.clone().into()).await.unwrap();
                parts.push(Part {
                    key,
                    bytes: content.len() as u64,
                    blake3: blake3::hash(content.as_bytes()).to_hex().to_string(),
                });
            }
            let manifest = CheckpointManifest {
                format_version: FORMAT_VERSION,
                run: "t".into(),
                identity: spec(&[]).identity_hash(),
                generation: Generation(generation),
                step: Step(step),
                digest,
                parts,
            };
            let text = serde_json::to_vec(&manifest).unwrap();
            let key = keys::checkpoint_manifest(&folder);
            self.root.create(&key, text.into()).await.unwrap();
        }

        fn url(&self) -> String {
            self.folder.path().to_str().unwrap().to_owned()
        }
    }

    /// Checkpoints of steps 10, 20 and 30; the last is of a past that did not survive.
    async fn trained() -> Run {
        let run = Run::new();
        run.take(&spec(&[])).await.unwrap();
        run.generation(1, 0).await;
        for step in [10, 20, 30] {
            run.save(1, step).await;
        }
        run.generation(2, 25).await;
        run
    }

    #[tokio::test]
    async fn a_run_is_taken_back_once_and_not_by_every_coordinator() {
        let run = trained().await;
        let back = spec(&["checkpoint.resume=\"step 10\""]);
        for _ in 0..2 {
            // As long as no generation came of it, it is still to be done.
            let recovered = run.take(&back).await.unwrap();
            let from = recovered.resume_from.unwrap();
            assert_eq!(from.state.step, Step(10));
            assert!(recovered.checkpoints.contains(&from));
            let distrusted: Vec<u64> = recovered.distrusted.iter().map(|g| g.0).collect();
            assert_eq!(distrusted, [1, 2]);
            assert_eq!(recovered.adopt, None);
        }
        run.generation(3, 10).await;
        let recovered = run.take(&back).await.unwrap();
        assert_eq!(recovered.resume_from, None);
        assert!(recovered.adopt.is_some());
        let again = run.take(&spec(&["checkpoint.resume=\"step 20\""])).await;
        let refused = again.err().unwrap().to_string();
        assert!(
            refused.contains("step 20") && refused.contains("10"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn only_a_checkpoint_of_the_surviving_past_is_gone_back_to() {
        let run = trained().await;
        for step in [15, 30] {
            let asked = format!("checkpoint.resume=\"step {step}\"");
            let refused = run.take(&spec(&[&asked])).await.err().unwrap().to_string();
            assert!(
                refused.contains("there are those of steps 10, 20"),
                "{refused}"
            );
        }
    }

    #[tokio::test]
    async fn a_new_run_goes_on_from_a_copy_of_anothers_checkpoint() {
        let other = trained().await;
        let named = keys::checkpoint(Generation(1), Step(10), &format!("{:032}", 10));
        for (url, step) in [(other.url(), 20), (format!("{}/{named}", other.url()), 10)] {
            let run = Run::new();
            let asked = spec(&[&format!("checkpoint.resume={url:?}")]);
            for _ in 0..2 {
                let from = run.take(&asked).await.unwrap().resume_from.unwrap();
                assert_eq!(
                    (from.state.step, from.generation),
                    (Step(step), Generation(0))
                );
                for part in 0..2 {
                    let key = keys::checkpoint_part(&from.folder, part, 2);
                    let copied = run.root.get(&key).await.unwrap();
                    assert_eq!(copied, format!("{part} of {step}").as_bytes());
                }
            }
            run.generation(1, step).await;
            let recovered = run.take(&asked).await.unwrap();
            let newest = newest_surviving(&recovered.lineage, &recovered.checkpoints);
            assert_eq!(newest.unwrap().state.step, Step(step));
        }
    }

    #[tokio::test]
    async fn what_another_model_or_a_damaged_part_left_is_refused_in_one_sentence() {
        let other = trained().await;
        let asked = format!("checkpoint.resume={:?}", other.url());
        let run = Run::new();
        let wider = spec(&["model.width=64", &asked]);
        let refused = run.take(&wider).await.err().unwrap().to_string();
        assert!(
            refused.contains("another model") && refused.contains("[init]"),
            "{refused}"
        );
        let folder = keys::checkpoint(Generation(1), Step(20), &format!("{:032}", 20));
        let key = keys::checkpoint_part(&folder, 1, 2);
        other.root.put(&key, "1 of 99".into()).await.unwrap();
        let refused = Run::new().take(&spec(&[&asked])).await.err().unwrap();
        assert!(
            refused.to_string().contains("not what its manifest says"),
            "{refused}"
        );
        let nowhere = Run::new();
        let asked = format!("checkpoint.resume={:?}", nowhere.url());
        let refused = Run::new().take(&spec(&[&asked])).await.err().unwrap();
        assert!(
            refused.to_string().contains("no whole checkpoint"),
            "{refused}"
        );
    }
}
