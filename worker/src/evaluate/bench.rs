//! A checkpoint, loaded to be measured.

use burn::tensor::Device;
use ringmaster_dataset::{Store, Tokenizer};
use ringmaster_model::{Model, flat};
use ringmaster_proto::RunSpec;
use ringmaster_proto::checkpoint::CheckpointManifest;
use ringmaster_proto::spec::ModelSpec;

use super::metrics::{Metric, Reference};
use crate::sample::Answering;
use crate::{DeviceChoice, WorkerError, checkpoint};

/// A model that answers.
pub struct Bench {
    pub(super) spec: ModelSpec,
    pub(super) tokenizer: Tokenizer,
    pub(super) device: Device,
    pub(super) model: Model,
}

/// A question to the model, and what people answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inquiry<'a> {
    /// RGB u8, row by row.
    pub(super) image: &'a [u8],
    /// What the encoder reads.
    pub(super) text: &'a str,
    pub(super) reference: Reference<'a>,
}

/// What the model answered, and what that is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The answer.
    pub answer: String,
    /// In [0, 1].
    pub score: f64,
}

impl Bench {
    /// Loads a checkpoint of the run below `root`.
    pub async fn open(
        spec: &RunSpec,
        tokenizer: &Tokenizer,
        root: &Store,
        manifest: &CheckpointManifest,
        device: DeviceChoice,
    ) -> Result<Self, WorkerError> {
        let device = device.resolve()?;
        let model = Model::blank(&spec.model, &device);
        let layout = flat::layout(&model);
        let state = checkpoint::load(root, manifest, &layout).await?;
        Ok(Self {
            spec: spec.model.clone(),
            tokenizer: tokenizer.clone(),
            model: flat::with_parameters(model, &layout, state.evaluated()),
            device,
        })
    }

    pub(super) fn answering(&self) -> Answering<'_> {
        Answering {
            spec: &self.spec,
            device: &self.device,
            tokenizer: &self.tokenizer,
        }
    }

    /// Asks, answers greedily, and scores; as many at a time as are given.
    pub(super) fn verdicts(&self, metric: Metric, inquiries: &[Inquiry]) -> Vec<Verdict> {
        let pictures: Vec<&[u8]> = inquiries.iter().map(|inquiry| inquiry.image).collect();
        let texts: Vec<&str> = inquiries.iter().map(|inquiry| inquiry.text).collect();
        let answers = self.answering().answers(&self.model, &pictures, &texts);
        let verdict = |(inquiry, answer): (&Inquiry, String)| Verdict {
            score: metric.score(&answer, inquiry.reference),
            answer,
        };
        inquiries.iter().zip(answers).map(verdict).collect()
    }
}
