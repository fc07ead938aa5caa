//! What a run starts from when its `[init]` names something.
//!
//! That is: seeded values, overlaid by `init.from` and then by each of `init.weights`. It is computed
//! once, before the run, and kept below the run's root; workers load it by hash. So the run depends on
//! nothing outside of itself, all workers start from the same bytes, and what was found in the files
//! and what was not is said before anything is started.

mod map;
mod overlay;
mod positions;
mod tensors;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use ringmaster_dataset::{Store, read_url};
use ringmaster_model::Model;
use ringmaster_model::flat::{self, Layout};
use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::spec::{InitWeights, ModelSpec};
use ringmaster_proto::{RunSpec, keys};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::{DeviceChoice, WorkerError, checkpoint, parameters};
use map::{NameMap, Placement};
use overlay::Overlay;
use tensors::Tensor;

pub use overlay::{Account, Source};

/// The file of parameters within an exported folder.
pub(crate) const MODEL_FILE: &str = "model.safetensors";

/// Largest file of weights; it is held in memory whole.
const FILE_BYTES_MAX: u64 = 16 << 30;

/// Largest name map.
const MAP_BYTES_MAX: u64 = 1 << 20;

/// Tensor names shown of a file of which none is known.
const NAMES_SHOWN: usize = 4;

/// What was made of a run's `[init]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initial {
    /// blake3 of the stored parameters, lower-case hex.
    pub hash: String,
    /// Where each of them comes from.
    pub account: Account,
}

/// A run that `init.from` names.
#[derive(Clone, Debug)]
pub struct TrainedRun {
    /// Its root.
    pub root: Store,
    /// Its model.
    pub model: ModelSpec,
    /// The checkpoint to start from.
    pub manifest: CheckpointManifest,
}

/// A file to lay over the parameters.
struct Given {
    /// The key of the run file that names it.
    key: &'static str,
    url: String,
    /// blake3 of the file, or the digest of the checkpoint's state.
    hash: String,
    bytes: Bytes,
    /// None: its names are our own.
    map: Option<NameMap>,
}

/// What was made for this run before, if it was.
pub async fn stored(spec: &RunSpec, root: &Store) -> Result<Option<Initial>, WorkerError> {
    let key = record_key(spec);
    let json = match root.get(&key).await {
        Err(error) if error.is_not_found() => return Ok(None),
        json => json?,
    };
    let read = serde_json::from_slice(&json);
    let wrong = |error: serde_json::Error| WorkerError::Initial {
        key: key.clone(),
        reason: error.to_string(),
    };
    read.map(Some).map_err(wrong)
}

/// Computes the initial parameters of a run and stores them below its root. `trained` is given where
/// `init.from` is the root of a run.
pub async fn make(
    spec: &RunSpec,
    root: &Store,
    trained: Option<TrainedRun>,
) -> Result<Initial, WorkerError> {
    let mut given = Vec::new();
    if let Some(url) = &spec.init.from {
        given.push(match trained {
            Some(run) => of_run(url, run).await?,
            None => of_export(url).await?,
        });
    }
    for weights in &spec.init.weights {
        given.push(foreign(weights).await?);
    }
    let of = spec.clone();
    let (file, account) = blocking(move || overlaid(&of, &given)).await?;
    let hash = blake3::hash(&file).to_hex().to_string();
    root.put(&keys::initial_parameters(&hash), file.into())
        .await?;
    let initial = Initial { hash, account };
    let json = serde_json::to_vec(&initial)
        .map_err(|error| WorkerError::Internal(format!("the account: {error}")))?;
    root.put(&record_key(spec), json.into()).await?;
    Ok(initial)
}

/// The parameters stored as `hash`, verified.
pub(crate) async fn load(
    root: &Store,
    hash: &str,
    layout: &Layout,
) -> Result<Vec<f32>, WorkerError> {
    let key = keys::initial_parameters(hash);
    let bytes = root.get(&key).await?;
    let wrong = |reason| WorkerError::Initial { key, reason };
    if blake3::hash(&bytes).to_hex().as_str() != hash {
        return Err(wrong("its hash is not the one in its name".to_owned()));
    }
    parameters::decode(&bytes, layout).map_err(wrong)
}

/// Equal for runs that start from the same parameters, as far as the run file can say.
fn record_key(spec: &RunSpec) -> String {
    let decides = (spec.run.seed, &spec.model, &spec.init);
    let json = serde_json::to_vec(&decides).unwrap_or_default();
    keys::initial_record(blake3::hash(&json).to_hex().as_str())
}

/// The parameters of a run's checkpoint as evaluation sees them, as if they had been exported.
async fn of_run(url: &str, run: TrainedRun) -> Result<Given, WorkerError> {
    let TrainedRun {
        root,
        model,
        manifest,
    } = run;
    let layout = blocking(move || layout(&model)).await?;
    let state = checkpoint::load(&root, &manifest, &layout).await?;
    let bytes = blocking(move || parameters::encode(&layout, state.evaluated())).await?;
    Ok(Given {
        key: "init.from",
        url: url.to_owned(),
        hash: manifest.digest,
        bytes: bytes.into(),
        map: None,
    })
}

/// An exported folder, or its file of parameters.
async fn of_export(url: &str) -> Result<Given, WorkerError> {
    let folder = url.trim_end_matches('/');
    let file = if is_file(url) {
        url.to_owned()
    } else {
        format!("{folder}/{MODEL_FILE}")
    };
    let bytes = read_url(&file, FILE_BYTES_MAX).await.map_err(|error| {
        if !error.is_not_found() {
            return error.into();
        }
        let reason = "there is neither a run with a checkpoint nor an exported model; check the \
                      path, and see `ringmaster checkpoint list`";
        refused("init.from", url, reason)
    })?;
    Ok(Given::new("init.from", url, bytes, None))
}

/// Whether `url` names a file of parameters and not a folder.
pub fn is_file(url: &str) -> bool {
    url.ends_with(".safetensors")
}

async fn foreign(weights: &InitWeights) -> Result<Given, WorkerError> {
    let InitWeights { url, map } = weights;
    let text = match map::built_in(map) {
        Some(text) => text.to_owned(),
        None => read_map(map).await?,
    };
    let map = NameMap::parse(&text).map_err(|reason| refused("init.weights.map", map, reason))?;
    let bytes = read_url(url, FILE_BYTES_MAX).await?;
    Ok(Given::new("init.weights", url, bytes, Some(map)))
}

async fn read_map(map: &str) -> Result<String, WorkerError> {
    let bytes = read_url(map, MAP_BYTES_MAX).await.map_err(|error| {
        if !error.is_not_found() {
            return error.into();
        }
        let names = map::built_in_names();
        let reason = format!("there is no such file; built-in maps are {names}");
        refused("init.weights.map", map, reason)
    })?;
    String::from_utf8(bytes.into()).map_err(|error| refused("init.weights.map", map, error))
}

/// The file of the run's parameters, and where each comes from.
fn overlaid(spec: &RunSpec, given: &[Given]) -> Result<(Vec<u8>, Account), WorkerError> {
    let device = DeviceChoice::Cpu.resolve()?;
    let model = Model::new(&spec.model, spec.run.seed, &device);
    let layout = flat::layout(&model);
    let mut overlay = Overlay::new(&layout, flat::parameters(&model, &layout));
    drop(model);
    for file in given {
        lay(&mut overlay, file).map_err(|reason| refused(file.key, &file.url, reason))?;
    }
    let (flat, account) = overlay.finish();
    Ok((parameters::encode(&layout, &flat)?, account))
}

/// Lays one file over the parameters; an error is what is wrong with it.
fn lay(overlay: &mut Overlay<'_>, file: &Given) -> Result<(), String> {
    overlay.begin(&file.url, &file.hash);
    let tensors = match &file.map {
        Some(_) => SafeTensors::deserialize(&file.bytes).map_err(|error| error.to_string())?,
        None => parameters::open(&file.bytes).map_err(|reason| {
            format!("{reason}; weights of other programs belong into init.weights, with a map")
        })?,
    };
    let mut tensors: Vec<_> = tensors.iter().collect();
    tensors.sort_by_key(|(name, _)| *name);
    for (name, view) in &tensors {
        let paths = match &file.map {
            Some(map) => map.paths(name),
            None => vec![(*name).to_owned()],
        };
        if !paths.iter().any(|path| overlay.has(path)) {
            overlay.leave(name);
            continue;
        }
        place(overlay, file, name, Tensor::read(view)).map_err(|why| format!("{name}: {why}"))?;
    }
    if overlay.taken() == 0 {
        let names = tensors.iter().map(|(name, _)| *name).take(NAMES_SHOWN);
        let names = names.collect::<Vec<_>>().join(", ");
        let count = tensors.len();
        return Err(format!(
            "none of its {count} tensors ({names}, ..) is a parameter of this model"
        ));
    }
    Ok(())
}

fn place(
    overlay: &mut Overlay<'_>,
    file: &Given,
    name: &str,
    tensor: Result<Tensor, String>,
) -> Result<(), String> {
    let placements = match &file.map {
        Some(map) => map.place(name, tensor?)?,
        None => vec![Placement {
            path: name.to_owned(),
            tensor: tensor?,
            vocabulary: false,
        }],
    };
    placements
        .into_iter()
        .try_for_each(|placement| overlay.lay(placement))
}

/// The parameters of a model, by shape.
pub fn layout(model: &ModelSpec) -> Result<Layout, WorkerError> {
    let device = DeviceChoice::Cpu.resolve()?;
    Ok(flat::layout(&Model::blank(model, &device)))
}

impl Given {
    fn new(key: &'static str, url: &str, bytes: Bytes, map: Option<NameMap>) -> Self {
        Self {
            key,
            url: url.to_owned(),
            hash: blake3::hash(&bytes).to_hex().to_string(),
            bytes,
            map,
        }
    }
}

fn refused(key: &'static str, value: &str, reason: impl ToString) -> WorkerError {
    WorkerError::Init {
        key,
        value: value.to_owned(),
        reason: reason.to_string(),
    }
}

/// Work that takes long and never yields, on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkerError> + Send + 'static,
) -> Result<T, WorkerError> {
    spawn_blocking(work)
        .await
        .map_err(|error| WorkerError::Internal(format!("initial parameters: {error}")))?
}
