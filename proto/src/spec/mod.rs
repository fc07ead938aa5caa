//! The run spec: what somebody asks for, in one file.
//!
//! A run file is TOML. [`RunSpec::parse`] lays it over the defaults and the chosen model preset,
//! applies `--set` overrides, refuses unknown keys and impossible combinations, and yields a spec in
//! which every value is written out. Its canonical form is what the journal keeps and workers get.

mod diff;
mod model;
mod parse;
mod resume;
mod sections;
mod validate;

pub use diff::Change;
pub use model::{
    Activation, Combine, Fusion, ImageEncoder, Memory, ModelSpec, Preset, Resample, Skip,
    TextStack, TokenLearner,
};
pub use parse::SpecError;
pub use resume::Resume;
pub use sections::{
    Augment, Auto, Cache, CheckpointSpec, Columns, DataSpec, EvalSpec, Every, InitSpec,
    InitWeights, KubernetesSpec, MembershipSpec, Precision, Reduction, RunSection, Sampling,
    Source, TaskSpec, TrainSpec, Transport, Validation,
};

use serde::{Deserialize, Serialize};

/// Everything a run is, as asked for; every default written out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// Name, store, seed, length.
    pub run: RunSection,
    /// Where the examples come from and in what order they are used.
    pub data: DataSpec,
    /// The model.
    pub model: ModelSpec,
    /// Optimizer, schedule, reduction.
    pub train: TrainSpec,
    /// The mix of objectives.
    pub tasks: TaskSpec,
    /// What the model starts from.
    pub init: InitSpec,
    /// How many workers.
    pub membership: MembershipSpec,
    /// When the state is saved and how long it is kept.
    pub checkpoint: CheckpointSpec,
    /// What is measured on held-out rows.
    pub eval: EvalSpec,
    /// Only read by `submit` and `render`.
    pub kubernetes: KubernetesSpec,
}

impl RunSpec {
    /// Canonical form: JSON with every key in declaration order. Equal specs have equal bytes.
    pub fn canonical(&self) -> String {
        // Serialising plain structs of numbers and strings into memory cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A run file that says every key.
    ///
    /// # Errors
    /// A number that TOML has no room for: a seed above 2^63 - 1.
    pub fn to_toml(&self) -> Result<String, SpecError> {
        toml::to_string(self).map_err(|error| SpecError::Syntax(error.to_string()))
    }

    /// blake3 of the canonical form, lower-case hex.
    pub fn hash(&self) -> String {
        blake3::hash(self.canonical().as_bytes())
            .to_hex()
            .to_string()
    }

    /// blake3 over the parts of the spec that decide the bits of the run: everything except what a
    /// resume may change (steps, overlap, transport, checkpoint, membership, evaluation and Kubernetes
    /// keys).
    pub fn identity_hash(&self) -> String {
        let train = TrainSpec {
            overlap: true,
            transport: Transport::default(),
            ..self.train.clone()
        };
        let data = DataSpec {
            cache: None,
            takeover: true,
            ..self.data.clone()
        };
        let bits = (
            &self.run.seed,
            &data,
            &self.model,
            &train,
            &self.tasks,
            &self.init,
        );
        let bytes = serde_json::to_vec(&bits).unwrap_or_default();
        blake3::hash(&bytes).to_hex().to_string()
    }

    /// Examples per step over all lanes.
    pub fn global_batch(&self) -> u64 {
        u64::from(self.data.lanes) * u64::from(self.data.lane_batch)
    }
}
