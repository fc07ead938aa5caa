//! A checkpoint for other programs: parameters, configuration and tokenizer in one folder.
//! worker/model/MODEL.md is the rest of what somebody needs to rebuild the model.

use ringmaster_dataset::{Store, normalise};
use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::spec::ModelSpec;
use ringmaster_proto::vocab::{BEGIN, END, PAD, RESERVED, SENTINEL, SENTINELS};
use ringmaster_proto::{RunSpec, Step, keys};
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::init::MODEL_FILE;
use crate::parameters::{self, FORMAT_VERSION};
use crate::{WorkerError, checkpoint, init};

/// The configuration's file; written last, so a folder that has it is whole.
const CONFIG_FILE: &str = "config.json";

/// `config.json`; its field names are a contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Version of this folder's layout.
    pub format_version: u32,
    /// Name of the run.
    pub run: String,
    /// Steps taken.
    pub step: Step,
    /// Digest of the state that the parameters are part of.
    pub digest: String,
    /// Which of the state's vectors was exported.
    pub weights: Weights,
    /// Number of parameters.
    pub parameters: usize,
    /// blake3 of `model.safetensors`.
    pub model_blake3: String,
    /// What a token id means.
    pub vocabulary: Vocabulary,
    /// What the model sees of a picture.
    pub pixels: Pixels,
    /// Every choice and size of the model.
    pub model: ModelSpec,
}

/// Which weights of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// Those that training goes on with.
    Parameters,
    /// Their exponential moving average, which evaluation uses where the run keeps one.
    Ema,
}

/// Token ids: those that every tokenizer shares, then the tokenizer's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vocabulary {
    /// Fills unused positions.
    pub pad: u32,
    /// First input of the decoder.
    pub begin: u32,
    /// Last target of the decoder.
    pub end: u32,
    /// First of the marks of taken out spans.
    pub sentinel: u32,
    /// How many of them there are.
    pub sentinels: u32,
    /// Id `i` of `tokenizer.json` is id `i + shift` of the model.
    pub shift: u32,
}

/// `(x / 255 - mean) / deviation` of every 8-bit channel value x, channels red, green, blue.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pixels {
    /// Subtracted.
    pub mean: f32,
    /// Divided by.
    pub deviation: f32,
}

/// Writes `weights` of the checkpoint `manifest` of the run below `root` to `out`, which is empty.
pub async fn export(
    spec: &RunSpec,
    root: &Store,
    manifest: &CheckpointManifest,
    weights: Weights,
    out: &Store,
) -> Result<Config, WorkerError> {
    let refused = |reason| WorkerError::Export {
        out: out.url(),
        reason,
    };
    if let Some(there) = out.list("").await?.first() {
        let reason = format!("there is {} already; choose another folder", there.key);
        return Err(refused(reason));
    }
    let layout = init::layout(&spec.model)?;
    let parameters = layout.total;
    let state = checkpoint::load(root, manifest, &layout).await?;
    let values = match weights {
        Weights::Parameters => Some(state.parameters),
        Weights::Ema => state.ema,
    };
    let values = values.ok_or_else(|| {
        let reason = "the run keeps no moving average; leave --ema out, or train with train.ema";
        refused(reason.to_owned())
    })?;
    let file = spawn_blocking(move || parameters::encode(&layout, &values));
    let file = file
        .await
        .map_err(|error| WorkerError::Internal(format!("export: {error}")))??;
    let config = Config {
        format_version: FORMAT_VERSION,
        run: manifest.run.clone(),
        step: manifest.step,
        digest: manifest.digest.clone(),
        weights,
        parameters,
        model_blake3: blake3::hash(&file).to_hex().to_string(),
        vocabulary: Vocabulary {
            pad: PAD,
            begin: BEGIN,
            end: END,
            sentinel: SENTINEL,
            sentinels: SENTINELS,
            shift: RESERVED,
        },
        pixels: pixels(),
        model: spec.model.clone(),
    };
    let json = serde_json::to_vec_pretty(&config)
        .map_err(|error| WorkerError::Internal(format!("config.json: {error}")))?;
    out.put(MODEL_FILE, file.into()).await?;
    out.put(keys::TOKENIZER, root.get(keys::TOKENIZER).await?)
        .await?;
    out.put(CONFIG_FILE, json.into()).await?;
    Ok(config)
}

/// The normalisation, read off what it makes of black and white.
fn pixels() -> Pixels {
    let mut seen = [0.0; 2];
    normalise(&[0, 0, 0], &mut seen[..1]);
    normalise(&[255, 255, 255], &mut seen[1..]);
    let [black, white] = seen;
    let deviation = 1.0 / (white - black);
    Pixels {
        mean: -black * deviation,
        deviation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stated_normalisation_is_the_one_that_is_used() {
        let Pixels { mean, deviation } = pixels();
        for value in 0..=255_u8 {
            let mut seen = [0.0];
            normalise(&[value, 0, 0], &mut seen);
            let stated = (f32::from(value) / 255.0 - mean) / deviation;
            assert!(
                (stated - seen[0]).abs() < 1e-6,
                "{value}: {stated} {}",
                seen[0]
            );
        }
    }
}
