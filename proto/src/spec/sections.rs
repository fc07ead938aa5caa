//! The sections of a run file except `[model]`. Each field says its effect, trade-off and unit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Resume;

/// `[run]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSection {
    /// Name of the run: 1-63 of `[a-z0-9-]`. Also its folder below `store`.
    pub name: String,
    /// URL or path under which runs live: a path, `file://`, `s3://`, `gs://`, `az://`.
    pub store: String,
    /// Seeds everything random: initial values, row order, objective draws.
    pub seed: u64,
    /// Length in optimizer updates. Exactly one of `steps` and `epochs` is given.
    pub steps: Option<u64>,
    /// Length in passes over the corpus.
    pub epochs: Option<u64>,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Parquet sources; together they are the corpus.
    pub sources: Vec<Source>,
    /// L: parallel streams of examples; also the largest number of ranks. More lanes spread more
    /// evenly over changing world sizes, and make smaller microbatches.
    pub lanes: u32,
    /// Examples a step takes from every lane; the global batch is `lanes * lane_batch`.
    pub lane_batch: u32,
    /// Rows shuffled together within windows, over all lanes. More mixes better and takes more
    /// memory: a worker holds its share of encoded rows two and a half times. What `--dry-run` prints is
    /// never exceeded: rows larger than most are read again, one by one, when their step comes.
    pub shuffle_rows: u64,
    /// Column names; found by convention where absent.
    pub columns: Columns,
    /// Held-out rows: a fraction of the corpus (whole row groups, by hash) or a URL of their own.
    pub validation: Validation,
    /// The run stops when more than this fraction of the rows cannot be decoded.
    pub max_bad_fraction: f64,
    /// Whether a JPEG at least twice as large as `model.image_size` is decoded at a half, a quarter or
    /// an eighth of its size: faster, and pixels half a level of 255 apart on average. For
    /// training; evaluation decodes whole pictures.
    pub dct_scaling: bool,
    /// Random changes of the pictures that are trained on; absent: none. Held-out rows are never changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augment>,
    /// A `tokenizer.json` to use; absent: a byte-level BPE is trained on the captions.
    pub tokenizer: Option<String>,
    /// Whether a worker reads ahead for the lanes that it would have if another worker were gone, so that
    /// taking over waits for no read. Reads about twice as much of the corpus, after the worker's own rows,
    /// and holds about one and a half times as many encoded rows; changes no bit.
    pub takeover: bool,
    /// A folder of each worker's machine that keeps what was read of the corpus; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
}

/// `[data.augment]`: drawn from the seed for every row of every step, so that a redo, a resume and any
/// number of workers see the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// A picture is shown as a random box of it, of this share of its area: least and most, above 0 and at
    /// most 1. Less teaches more about parts, and loses what the texts speak of. Absent: whole pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<[f64; 2]>,
    /// Width over height of such a box: least and most.
    pub ratio: [f64; 2],
    /// Share of the pictures that are mirrored. Texts are not: a caption that says left or right is wrong
    /// of a mirrored picture, and so is the answer to a question about letters.
    pub flip: f64,
}

impl Default for Augment {
    /// Nothing is changed.
    fn default() -> Self {
        Self {
            scale: None,
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            flip: 0.0,
        }
    }
}

/// A local copy of the parts of the corpus that were read last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// The folder; workers of one machine may share it. Survives them.
    pub path: String,
    /// How much may lie there, bytes. Every epoch saves the fraction of the reads that fits.
    pub bytes: u64,
}

/// One source of Parquet files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A file, a folder of `*.parquet`, or `scenes:ROWS` for the built-in corpus.
    pub url: String,
}

/// Column names. Convention: `image` (binary or struct{bytes, path}), `caption` or `text`,
/// optionally `question` with `answer`, `template` (groups questions in evaluation), `objects`, and
/// `hypothesis` with `label`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// Encoded picture: JPEG, PNG, WebP, GIF or BMP.
    pub image: Option<String>,
    /// Caption text.
    pub caption: Option<String>,
    /// Question text.
    pub question: Option<String>,
    /// Answer text.
    pub answer: Option<String>,
    /// Name of the question's template.
    pub template: Option<String>,
    /// Names of the things in the picture: a list of texts.
    pub objects: Option<String>,
    /// A statement about the picture.
    pub hypothesis: Option<String>,
    /// Whether the picture entails it: `entailment`, `neutral` or `contradiction`.
    pub label: Option<String>,
}

/// Where held-out rows come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Validation {
    /// This fraction of the corpus' row groups, 0 <= fraction < 1.
    Fraction(f64),
    /// Rows of their own.
    Url(String),
}

/// What carries gradients between workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Shared memory between workers of one host, TCP between hosts.
    #[default]
    Best,
    /// TCP everywhere.
    Tcp,
}

/// How gradients are summed (design: the step).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// 64-bit fixed point: neither world size nor order changes a bit. Twice the bytes of `f32` in
    /// the reduce-scatter.
    Exact,
    /// Plain f32 sums; a redo is then not bit-identical.
    F32,
    /// bf16 on the wire, f32 sums: half the bytes of `f32`.
    Bf16,
}

impl Reduction {
    /// As written in a run file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// `[train]`: AdamW with PyTorch's defaults except where the model asks otherwise, linear warm-up
/// and cosine decay to zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSpec {
    /// Peak learning rate.
    pub lr: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; none on norms, gates, latents, embeddings of position and biases.
    pub weight_decay: f64,
    /// Global gradient norm above which gradients are scaled down; 0 switches clipping off.
    pub clip: f64,
    /// How gradients are summed.
    pub reduction: Reduction,
    /// Size of a gradient bucket, MiB of f32.
    pub bucket_mib: u32,
    /// Whether buckets leave while the rest of the gradient is still computed, on CPUs; changes no bit.
    pub overlap: bool,
    /// What carries gradients between workers; changes no bit.
    pub transport: Transport,
    /// Every that many steps the digest of the state is taken and compared; 0: only at checkpoints.
    pub digest_every: u64,
    /// Share of the activations that dropout sets to 0 after every attention, MLP and embedding.
    pub dropout: f64,
    /// Share of the target's probability that label smoothing spreads over the vocabulary.
    pub label_smoothing: f64,
    /// Decay of the exponential moving average of the weights that evaluation uses; 0: none is kept.
    pub ema: f64,
    /// Number format of matrix products; parameters, sums and the optimizer stay f32.
    pub precision: Precision,
    /// Keep only the inputs of blocks and compute them again in the backward pass: less memory for
    /// about a third more time.
    pub activation_checkpointing: bool,
}

/// Number format of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits throughout.
    F32,
    /// bfloat16 factors. On a CPU slower than `f32`, and for comparison only.
    Bf16,
}

/// How the objective of a microbatch is drawn among those its rows support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Every objective of weight above 0 alike.
    Uniform,
    /// By weight.
    Proportional,
    /// By weight times (loss / loss at the beginning)^gamma: what is still hard is trained more.
    Difficulty,
    /// By weight times (recent decrease of the loss)^gamma: what is being learned is trained more.
    Progress,
}

/// `[tasks]`: relative weights of the objectives; each microbatch draws one its rows support. All are
/// text to text: encoder text in, decoder text out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// Caption the image.
    pub captioning: f64,
    /// Complete a caption from its first words.
    pub completion: f64,
    /// Fill masked spans of a caption.
    pub masked_spans: f64,
    /// Say whether a caption belongs to the image.
    pub matching: f64,
    /// Answer the question about the image.
    pub question_answering: f64,
    /// List the things in the image.
    pub object_listing: f64,
    /// Say whether a thing is in the image.
    pub object_presence: f64,
    /// Say whether the image entails a statement.
    pub entailment: f64,
    /// How an objective is drawn.
    pub sampling: Sampling,
    /// Exponent of `difficulty` and `progress`.
    pub gamma: f64,
    /// Share of the draws that `difficulty` and `progress` spread evenly.
    pub floor: f64,
    /// Batches of an objective whose mean loss is its reference; 0: 2 % of the run's steps.
    pub reference_batches: u64,
    /// Steps between updates of the probabilities; 0: 1 % of the run's steps.
    pub update_every: u64,
}

impl TaskSpec {
    /// Every weight with its key, in order of declaration.
    pub fn weights(&self) -> [(&'static str, f64); 8] {
        [
            ("tasks.captioning", self.captioning),
            ("tasks.completion", self.completion),
            ("tasks.masked_spans", self.masked_spans),
            ("tasks.matching", self.matching),
            ("tasks.question_answering", self.question_answering),
            ("tasks.object_listing", self.object_listing),
            ("tasks.object_presence", self.object_presence),
            ("tasks.entailment", self.entailment),
        ]
    }
}

/// `[init]`: what the model starts from instead of seeded values. Parameters that no file names keep
/// their seeded values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitSpec {
    /// The root of a run (its newest checkpoint, and of it the moving average of the weights where
    /// the run keeps one), an exported folder, or its file `model.safetensors`. Positions of another
    /// image size are interpolated. Its tokenizer is used too unless `data.tokenizer` names one.
    pub from: Option<String>,
    /// Weights of other programs, applied after `from`.
    pub weights: Vec<InitWeights>,
}

impl InitSpec {
    /// Whether nothing is named: all parameters are drawn from the seed.
    pub fn is_empty(&self) -> bool {
        self.from.is_none() && self.weights.is_empty()
    }
}

/// One file of foreign weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitWeights {
    /// A safetensors file.
    pub url: String,
    /// A built-in name map (`t5`, `vit`, `resnet50`) or the path of one (TOML).
    pub map: String,
}

/// `[membership]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembershipSpec {
    /// Fewer workers wait.
    pub min_workers: u32,
    /// More workers are spares; at most `data.lanes`.
    pub max_workers: u32,
    /// How long the first generation waits for `max_workers` once `min_workers` are there.
    #[serde(with = "humantime_serde")]
    pub join_window: Duration,
}

/// How often a checkpoint is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number of steps, or \"auto\"")]
pub enum Every {
    /// Every so many steps.
    Steps(u64),
    /// As often as pays: see [`Auto`].
    Auto(Auto),
}

/// `"auto"`: the interval follows from what a checkpoint costs and how often the run fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auto {
    /// The only one.
    Auto,
}

/// `[checkpoint]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSpec {
    /// Steps between checkpoints. Survivors continue from memory; this bounds what is lost when
    /// nobody survives.
    pub every: Every,
    /// How many of the newest are kept.
    pub keep: u32,
    /// Besides, those of every that many steps are kept for ever; 0: none.
    #[serde(default)]
    pub keep_every: u64,
    /// Which state the run goes on from when it is started.
    #[serde(default)]
    pub resume: Resume,
}

/// `[eval]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalSpec {
    /// Held-out rows evaluated at the end of the run; 0: none.
    pub rows: u64,
    /// How often the first rank answers a held-out question while training.
    #[serde(with = "humantime_serde")]
    pub sample_every: Duration,
}

/// `[kubernetes]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesSpec {
    /// Namespace of every object.
    pub namespace: String,
    /// Image that holds the `ringmaster` command, best by digest.
    pub image: String,
    /// GPUs per worker (`nvidia.com/gpu`): 1, since a worker computes on one, or 0 for CPU workers.
    pub gpus: u32,
    /// CPUs per worker, as Kubernetes writes quantities.
    pub cpu: String,
    /// Memory per worker, as Kubernetes writes quantities.
    pub memory: String,
    /// Service account annotations, e.g. for a cloud identity that may read the store.
    pub service_account_annotations: std::collections::BTreeMap<String, String>,
    /// Labels a node must have.
    pub node_selector: std::collections::BTreeMap<String, String>,
}
