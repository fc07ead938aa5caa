//! Everything a run needs before its first step, made once and stored below the run's root. Doing
//! it again finds it done.

use std::collections::HashSet;
use std::sync::Arc;

use ringmaster_proto::spec::{TaskSpec, Validation};
use ringmaster_proto::{RunSpec, keys, vocab};

use crate::corpus::read_texts;
use crate::error::DatasetError;
use crate::manifest::CorpusManifest;
use crate::plan::{Plan, PlanSpec};
use crate::rows::Texts;
use crate::scenes_corpus;
use crate::store::{Store, StoreError, read_url};
use crate::tokenizer::Tokenizer;

/// Prefix of a source that names the built-in corpus: `scenes:ROWS`.
const SCENES: &str = "scenes:";

/// Rows a tokenizer is trained on at most; its vocabulary settles long before.
const TOKENIZER_ROWS_MAX: u64 = 20_000;

/// Bytes of text a tokenizer is trained on at most.
const TOKENIZER_BYTES_MAX: usize = 8 << 20;

/// Earlier manifests of a run that are looked at to say what changed.
const MANIFESTS_COMPARED: usize = 8;

/// Largest tokenizer.json that is read.
const TOKENIZER_FILE_BYTES_MAX: u64 = 256 << 20;

/// Hears how far a long piece of work is.
pub trait Progress: Send + Sync {
    /// `done` of `total` units of stage `name` are done; a `total` of 0 is unknown.
    fn stage(&self, name: &str, done: u64, total: u64);
}

/// Nobody listens.
impl Progress for () {
    fn stage(&self, _: &str, _: u64, _: u64) {}
}

/// What was prepared. The hashes are what a worker opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Identity of the rows to train on.
    pub corpus_hash: String,
    /// Identity of the held-out rows; empty where there are none.
    pub validation_hash: String,
    /// blake3 of the tokenizer's JSON.
    pub tokenizer_hash: String,
    /// Rows to train on.
    pub corpus_rows: u64,
    /// Held-out rows.
    pub validation_rows: u64,
    /// Size of the shards.
    pub corpus_bytes: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Steps of the run.
    pub total_steps: u64,
}

/// Makes the built-in corpus if a source asks for it, reads the footers, splits off held-out rows,
/// loads or trains the tokenizer, and stores manifests and tokenizer below `root`.
pub async fn prepare(
    spec: &RunSpec,
    root: &Store,
    progress: &dyn Progress,
) -> Result<Prepared, DatasetError> {
    let (train, validation) = open_sources(spec, root, progress).await?;
    let plan = Plan::new(train.row_groups(), PlanSpec::from(spec))?;
    warn_of_change(root, &train).await?;
    let corpus_hash = store_manifest(root, &train).await?;
    let validation_hash = match &validation {
        Some(manifest) => store_manifest(root, manifest).await?,
        None => String::new(),
    };
    let train = Arc::new(train);
    let tokenizer_hash = prepare_tokenizer(spec, root, &train, progress).await?;
    Ok(Prepared {
        corpus_hash,
        validation_hash,
        tokenizer_hash,
        corpus_rows: train.rows(),
        validation_rows: validation.as_ref().map_or(0, CorpusManifest::rows),
        corpus_bytes: train.bytes(),
        steps_per_epoch: plan.steps_per_epoch(),
        total_steps: plan.total_steps(spec),
    })
}

/// The manifests of the rows to train on and of the held-out rows.
async fn open_sources(
    spec: &RunSpec,
    root: &Store,
    progress: &dyn Progress,
) -> Result<(CorpusManifest, Option<CorpusManifest>), DatasetError> {
    let open = |url: String, key| {
        let footers = move |done, of| progress.stage("footers", done, of);
        async move {
            let columns = &spec.data.columns;
            CorpusManifest::open_and_keep(&url, columns, key, root, footers).await
        }
    };
    let fraction = match &spec.data.validation {
        Validation::Fraction(fraction) => *fraction,
        Validation::Url(_) => 0.0,
    };
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for source in &spec.data.sources {
        if let Some(rows) = source.url.strip_prefix(SCENES) {
            let rows = scenes_rows(&source.url, rows)?;
            let folder = root.child(keys::SCENES);
            let rest = scenes_corpus::held_out_rows(rows, fraction);
            scenes_corpus::make(&folder, rows, rest, spec.run.seed, progress).await?;
            let part = |name| folder.child(name).url();
            train.push(open(part(scenes_corpus::TRAIN), "data.sources").await?);
            if rest > 0 {
                held_out.push(open(part(scenes_corpus::VALIDATION), "data.sources").await?);
            }
        } else {
            let whole = open(source.url.clone(), "data.sources").await?;
            let (rest, part) = whole.split(spec.run.seed, fraction);
            train.push(rest);
            held_out.extend(part);
        }
    }
    if let Validation::Url(url) = &spec.data.validation {
        held_out.push(open(url.clone(), "data.validation").await?);
    }
    let train = CorpusManifest::concat(train);
    let held_out = (!held_out.is_empty()).then(|| CorpusManifest::concat(held_out));
    if held_out.is_none() && fraction > 0.0 {
        tracing::warn!("the corpus has a single row group, so no rows are held out");
    }
    Ok((train, held_out))
}

fn scenes_rows(url: &str, rows: &str) -> Result<u64, DatasetError> {
    let rows = rows.replace('_', "").parse().ok().filter(|rows| *rows > 0);
    rows.ok_or_else(|| DatasetError::Source {
        key: "data.sources",
        value: url.to_owned(),
        reason: "write scenes: and a number of rows, as in scenes:24000",
    })
}

/// Written again even if it is there: the shards may have moved, which the hash does not see.
async fn store_manifest(root: &Store, manifest: &CorpusManifest) -> Result<String, StoreError> {
    let hash = manifest.hash();
    let key = keys::corpus_manifest(&hash);
    root.put(&key, manifest.to_json().into()).await?;
    Ok(hash)
}

/// Warns if the corpus to train on is not the one that was prepared below `root` before. The journal
/// refuses to go on with another; which shard it is, only the manifests can tell.
async fn warn_of_change(root: &Store, manifest: &CorpusManifest) -> Result<(), StoreError> {
    match root.head(&keys::corpus_manifest(&manifest.hash())).await {
        Err(error) if error.is_not_found() => {}
        known => return known.map(drop),
    }
    if let Some(difference) = difference(root, manifest).await? {
        tracing::warn!("the corpus is not what it was when this run was prepared: {difference}");
    }
    Ok(())
}

/// What sets `manifest` apart from the one most like it that was prepared below `root` before.
async fn difference(root: &Store, manifest: &CorpusManifest) -> Result<Option<String>, StoreError> {
    let names = |of: &CorpusManifest| -> HashSet<String> {
        of.shards.iter().map(|shard| shard.key.clone()).collect()
    };
    let ours = names(manifest);
    let mut nearest: Option<(usize, CorpusManifest)> = None;
    let found = root.list(keys::CORPUS_MANIFESTS).await?;
    let found = found
        .iter()
        .filter_map(|entry| keys::hash_of_manifest(&entry.key));
    for hash in found.take(MANIFESTS_COMPARED) {
        let key = keys::corpus_manifest(hash);
        let url = root.child(&key).url();
        let Ok(before) = CorpusManifest::from_json(&url, &root.get(&key).await?, hash) else {
            continue;
        };
        let shared = names(&before).intersection(&ours).count();
        if nearest.as_ref().is_none_or(|(most, _)| shared > *most) {
            nearest = Some((shared, before));
        }
    }
    Ok(nearest.and_then(|(_, before)| before.difference(manifest)))
}

/// The given tokenizer, the run's own from before, that of what it starts from, or a new one.
/// Returns its hash.
async fn prepare_tokenizer(
    spec: &RunSpec,
    root: &Store,
    train: &Arc<CorpusManifest>,
    progress: &dyn Progress,
) -> Result<String, DatasetError> {
    let vocab = spec.model.vocab;
    if let Some(url) = &spec.data.tokenizer {
        return take_tokenizer(url, vocab, root).await;
    }
    // A run keeps the tokenizer it began with, whatever a later version would train.
    match root.get(keys::TOKENIZER).await {
        Ok(json) if Tokenizer::from_json(&json).is_ok_and(|known| known.size() <= vocab) => {
            return Ok(hash_of(&json));
        }
        Ok(_) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    // Trained parameters mean something only with the ids that they were trained with.
    if let Some(from) = &spec.init.from {
        return take_tokenizer(&tokenizer_beside(from), vocab, root).await;
    }
    progress.stage("tokenizer", 0, 1);
    let texts = sample_texts(spec, train).await?;
    let trained = tokio::task::spawn_blocking(move || Tokenizer::train(texts.into_iter(), vocab));
    let trained = trained.await.map_err(|_| DatasetError::LoaderDied)??;
    progress.stage("tokenizer", 1, 1);
    store_tokenizer(root, &trained.to_json()?).await
}

/// Where a run, an exported folder or an exported file has its tokenizer.
fn tokenizer_beside(from: &str) -> String {
    let folder = from.trim_end_matches('/');
    let folder = match folder.rsplit_once('/') {
        Some((folder, file)) if file.ends_with(".safetensors") => folder,
        None if folder.ends_with(".safetensors") => ".",
        _ => folder,
    };
    format!("{folder}/{}", keys::TOKENIZER)
}

async fn take_tokenizer(url: &str, vocab: usize, root: &Store) -> Result<String, DatasetError> {
    let json = read_url(url, TOKENIZER_FILE_BYTES_MAX).await?;
    let given = Tokenizer::from_json(&json)?;
    if given.size() > vocab {
        let reason = format!("it has {} ids and model.vocab is {vocab}", given.size());
        return Err(DatasetError::Tokenizer {
            name: url.to_owned(),
            reason,
        });
    }
    store_tokenizer(root, &json).await
}

async fn store_tokenizer(root: &Store, json: &[u8]) -> Result<String, DatasetError> {
    root.put(keys::TOKENIZER, json.to_vec().into()).await?;
    Ok(hash_of(json))
}

fn hash_of(json: &[u8]) -> String {
    blake3::hash(json).to_hex().to_string()
}

/// The texts of the first rows, bounded.
async fn sample_texts(
    spec: &RunSpec,
    train: &Arc<CorpusManifest>,
) -> Result<Vec<String>, DatasetError> {
    let mut texts = Vec::new();
    let mut bytes = 0;
    let tasks = &spec.tasks;
    let objects = tasks.object_listing > 0.0 || tasks.object_presence > 0.0;
    let visit = |row: Texts| {
        let named = objects.then(|| row.objects.join(", "));
        let stated = row
            .hypothesis
            .zip(row.label)
            .filter(|_| tasks.entailment > 0.0);
        let (hypothesis, label) = stated.unzip();
        let always = [row.caption, row.question, row.answer];
        for text in always
            .into_iter()
            .chain([named, hypothesis, label])
            .flatten()
        {
            bytes += text.len();
            if bytes <= TOKENIZER_BYTES_MAX {
                texts.push(text);
            }
        }
    };
    read_texts(train, &spec.data.columns, TOKENIZER_ROWS_MAX, visit).await?;
    // A prompt is read as often as its objective is trained, so its words are worth tokens of their
    // own.
    let share = texts.len() / 4;
    for prompt in prompts(tasks) {
        texts.extend(std::iter::repeat_n(prompt, share));
    }
    Ok(texts)
}

/// The texts that the objectives of the mix add to those of the rows.
fn prompts(tasks: &TaskSpec) -> Vec<String> {
    let presence = vocab::presence_question("thing");
    let weighted = [
        // Evaluation asks for captions whether they were trained or not.
        (1.0, vocab::CAPTION_PROMPT),
        (tasks.completion, vocab::COMPLETION_PROMPT),
        (tasks.masked_spans, vocab::SPANS_PROMPT),
        (tasks.matching, vocab::MATCHING_PROMPT),
        (tasks.object_listing, vocab::LISTING_PROMPT),
        (tasks.object_presence, &presence),
    ];
    let used = weighted.into_iter().filter(|(weight, _)| *weight > 0.0);
    used.map(|(_, prompt)| prompt.to_owned()).collect()
}
