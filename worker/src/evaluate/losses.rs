//! Losses by objective: what shows which of them a run has learned.

use ringmaster_dataset::Example;
use ringmaster_proto::spec::TaskSpec;

use super::{BATCH, Bench};
use crate::feeder::{MicroBatch, images};
use crate::objective::{self, Objective};
use crate::{WorkerError, batch};

/// How well one objective is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ObjectiveLoss {
    /// Its name in a run file.
    pub objective: &'static str,
    /// Mean cross-entropy of a target token, nats.
    pub loss: f64,
    /// Target tokens.
    pub tokens: u64,
}

/// Token losses, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct LossSum {
    nats: f64,
    tokens: u64,
}

impl LossSum {
    /// Adds another.
    pub(super) fn add(&mut self, other: Self) {
        self.nats += other.nats;
        self.tokens += other.tokens;
    }

    /// Nats per token; 0 without any.
    pub(super) fn mean(self) -> f64 {
        self.nats / self.tokens.max(1) as f64
    }
}

impl Bench {
    /// The loss of `rows` by every objective of the mix that one of them supports.
    pub fn losses(
        &self,
        mix: &TaskSpec,
        rows: &[Example],
    ) -> Result<Vec<ObjectiveLoss>, WorkerError> {
        let mut losses = Vec::new();
        for objective in Objective::ALL {
            if objective.weight(mix) <= 0.0 {
                continue;
            }
            let mut sum = LossSum::default();
            for rows in rows.chunks(BATCH) {
                let pictures = rows.iter().map(|row| row.image.as_slice());
                sum.add(self.loss(objective, rows, pictures)?);
            }
            if sum.tokens > 0 {
                losses.push(ObjectiveLoss {
                    objective: objective.name(),
                    loss: sum.mean(),
                    tokens: sum.tokens,
                });
            }
        }
        Ok(losses)
    }

    /// Of `rows` by one objective, in one forward pass, with one of `pictures` for each.
    pub(super) fn loss<'a>(
        &self,
        objective: Objective,
        rows: &[Example],
        pictures: impl Iterator<Item = &'a [u8]>,
    ) -> Result<LossSum, WorkerError> {
        let lens = self.answering().lens();
        let texts = objective::tokens(objective, rows, &self.tokenizer, lens);
        let tokens = texts.counted();
        let micro = MicroBatch {
            lane: 0,
            images: images(pictures),
            tokens: texts,
            rows: rows.len(),
        };
        let batch = batch::on_device(&micro, &self.spec, &self.device);
        let nats = batch::scalar(self.model.loss_sum(batch))?;
        Ok(LossSum {
            nats: f64::from(nats),
            tokens,
        })
    }
}
