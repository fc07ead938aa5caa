//! What a worker opens: the corpus that was prepared, by hash. Nothing is listed or derived again.

use std::ops::Range;
use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use ringmaster_proto::spec::{Columns, Validation};
use ringmaster_proto::{RunSpec, keys};

use crate::augment::View;
use crate::decode::Decoder;
use crate::disk_cache::DiskCache;
use crate::error::DatasetError;
use crate::example::Example;
use crate::held::Held;
use crate::manifest::CorpusManifest;
use crate::plan::{Plan, PlanSpec, RowRef};
use crate::reader::Reader;
use crate::rows::{EncodedRow, Texts};
use crate::store::Store;
use crate::tokenizer::Tokenizer;

/// Rows of a row group that are held at once while a manifest is read from end to end.
const CHUNK_ROWS: u32 = 1024;

/// Rows read for their texts alone at once.
const TEXT_CHUNK_ROWS: u32 = 16_384;

/// A prepared corpus.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// The rows to train on.
    pub train: Arc<CorpusManifest>,
    /// The held-out rows.
    pub validation: Option<Arc<CorpusManifest>>,
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// The order of `train`.
    pub plan: Arc<Plan>,
    /// Steps of the run.
    pub total_steps: u64,
    pub(crate) reader: Arc<Reader>,
    pub(crate) held: Arc<Held>,
}

impl Corpus {
    /// Opens what [`crate::prepare()`] stored below `root`. `validation_hash` is empty where
    /// nothing is held out.
    pub async fn open(
        spec: &RunSpec,
        root: &Store,
        corpus_hash: &str,
        validation_hash: &str,
        tokenizer_hash: &str,
    ) -> Result<Self, DatasetError> {
        let train = Arc::new(open_manifest(root, corpus_hash).await?);
        let validation = match validation_hash {
            "" => None,
            hash => Some(Arc::new(open_manifest(root, hash).await?)),
        };
        let json = root.get(keys::TOKENIZER).await?;
        if blake3::hash(&json).to_hex().as_str() != tokenizer_hash {
            return Err(DatasetError::Tokenizer {
                name: root.child(keys::TOKENIZER).url(),
                reason: "it is not the one this run began with".into(),
            });
        }
        let plan = Plan::new(train.row_groups(), PlanSpec::from(spec))?;
        let cache = match spec.data.cache.clone() {
            Some(cache) => {
                let open = tokio::task::spawn_blocking(move || DiskCache::open(&cache));
                Some(open.await.map_err(|_| DatasetError::LoaderDied)??)
            }
            None => None,
        };
        let reader = Reader::with_cache(Arc::clone(&train), &spec.data.columns, cache)?;
        // Held-out row groups lie in the same shards.
        let others = match spec.data.validation {
            Validation::Fraction(_) => validation.as_ref().map_or(0, |rows| rows.rows()),
            Validation::Url(_) => 0,
        };
        let row_bytes = train.bytes().div_ceil((train.rows() + others).max(1));
        let (plan, reader) = (Arc::new(plan), Arc::new(reader));
        Ok(Self {
            held: Arc::new(Held::new(&plan, &reader, row_bytes)),
            reader,
            train,
            validation,
            tokenizer: Tokenizer::from_json(&json)?,
            total_steps: plan.total_steps(spec),
            plan,
        })
    }
}

async fn open_manifest(root: &Store, hash: &str) -> Result<CorpusManifest, DatasetError> {
    let key = keys::corpus_manifest(hash);
    CorpusManifest::from_json(&root.child(&key).url(), &root.get(&key).await?, hash)
}

/// Decodes rows `range` of `manifest`, in manifest order, to squares of `image_size` pixels. A row
/// whose content is refused is there with weight 0. Rows beyond the end are left out.
pub async fn read_rows(
    manifest: &Arc<CorpusManifest>,
    columns: &Columns,
    range: Range<u64>,
    image_size: usize,
) -> Result<Vec<Example>, DatasetError> {
    row_chunks(manifest, columns, range, image_size)?
        .try_concat()
        .await
}

/// The same, a bounded number of rows at a time.
pub(crate) fn row_chunks(
    manifest: &Arc<CorpusManifest>,
    columns: &Columns,
    range: Range<u64>,
    image_size: usize,
) -> Result<impl Stream<Item = Result<Vec<Example>, DatasetError>> + Send + use<>, DatasetError> {
    let reader = Arc::new(Reader::new(Arc::clone(manifest), columns)?);
    let chunks = chunks(&reader, &range, CHUNK_ROWS);
    let decode = move |(first, row_group, rows)| {
        let reader = Arc::clone(&reader);
        async move { decode_chunk(&reader, first, row_group, rows, image_size).await }
    };
    Ok(stream::iter(chunks).then(decode))
}

/// Rows `rows` of `row_group`, of which the first is row `first` of the manifest.
async fn decode_chunk(
    reader: &Reader,
    first: u64,
    row_group: u32,
    rows: Range<u32>,
    image_size: usize,
) -> Result<Vec<Example>, DatasetError> {
    let stored = reader.read(row_group, rows.clone(), true).await?;
    // Decoding takes long enough to keep other tasks of this thread waiting.
    let decoded = tokio::task::spawn_blocking(move || {
        let mut decoder = Decoder::new(image_size);
        let decode = |(row, stored)| {
            let row_id = first + u64::from(row - rows.start);
            let row = RowRef {
                epoch: 0,
                pass: 0,
                row_group,
                row,
                row_id,
            };
            Example::decode(row, &stored, &View::WHOLE, &mut decoder)
                .unwrap_or_else(|why| Example::refused(row, why, image_size))
        };
        rows.clone().zip(stored).map(decode).collect::<Vec<_>>()
    });
    decoded.await.map_err(|_| DatasetError::LoaderDied)
}

/// Shows `visit` the texts of the first `rows_max` rows of `manifest`, in manifest order, without
/// reading the pictures. Texts that are refused are left out: nobody trains on them.
pub async fn read_texts(
    manifest: &Arc<CorpusManifest>,
    columns: &Columns,
    rows_max: u64,
    mut visit: impl FnMut(Texts),
) -> Result<(), DatasetError> {
    let reader = Reader::new(Arc::clone(manifest), columns)?;
    for (_, row_group, rows) in chunks(&reader, &(0..rows_max), TEXT_CHUNK_ROWS) {
        let stored = reader.read(row_group, rows, false).await?;
        let good = |row: &EncodedRow| row.check().is_ok();
        let texts = stored.into_iter().filter(good).map(|row| row.texts);
        texts.for_each(&mut visit);
    }
    Ok(())
}

/// Cuts rows `range` of a manifest into (number of the first row, row group, rows), at most `most`
/// rows each.
fn chunks(reader: &Reader, range: &Range<u64>, most: u32) -> Vec<(u64, u32, Range<u32>)> {
    let mut chunks = Vec::new();
    let mut base = 0;
    for (row_group, rows) in (0_u32..).zip(reader.row_counts()) {
        let within = |row: u64| row.saturating_sub(base).min(u64::from(rows)) as u32;
        let (mut at, end) = (within(range.start), within(range.end));
        while at < end {
            let until = end.min(at.saturating_add(most));
            chunks.push((base + u64::from(at), row_group, at..until));
            at = until;
        }
        base += u64::from(rows);
    }
    chunks
}
