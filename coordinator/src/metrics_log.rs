//! `metrics.jsonl`: one line per step, in order, once, across restarts.
//!
//! A step that is redone after resuming an older checkpoint must come to the same line, so nothing
//! is written for it; if its loss differs, that is an error worth a log line.

use std::collections::BTreeMap;
use std::path::Path;

use ringmaster_proto::{Generation, Step, v1};
use serde::{Deserialize, Serialize};

use crate::json_lines::JsonLines;

/// How many steps back a redo is compared.
const COMPARED_MAX: usize = 65_536;

/// One completed step; equal on all ranks except what is in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Steps applied after this one.
    pub step: u64,
    /// Mean token loss over the global batch, nats; null if not finite.
    pub loss: Option<f64>,
    /// Target tokens in the global batch.
    pub tokens: u64,
    /// Rows fed forward, all ranks.
    pub rows: u64,
    /// Wrapping sum of the rows' hashes, 16 hexadecimal digits.
    pub row_hash: String,
    /// Global gradient norm before clipping; null if not finite.
    pub grad_norm: Option<f64>,
    /// Learning rate of the step.
    pub lr: f64,
    /// Whether the update was skipped for a value that is not finite.
    pub skipped: bool,
    /// Rows that could not be decoded.
    pub bad_rows: u64,
    /// Generation that completed it first.
    pub generation: u64,
    /// Each objective of the mix by its key in `[tasks]`.
    #[serde(default)]
    pub objectives: BTreeMap<String, ObjectiveLine>,
    /// Digest of the state after it, at digest boundaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Wall-clock time of the step on the rank that reported it first.
    pub seconds: f64,
    /// Part of it in which gradients went around the ring.
    #[serde(default)]
    pub reduce_seconds: f64,
    /// Part of that in which the rank waited for them with nothing else to do.
    #[serde(default)]
    pub exposed_seconds: f64,
    /// Part of the sums in which frames from the preceding rank were under way.
    #[serde(default)]
    pub link_seconds: f64,
}

/// What a step came to for one objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveLine {
    /// Mean token loss, nats; null if no microbatch drew it or if not finite.
    pub loss: Option<f64>,
    /// Target tokens.
    pub tokens: u64,
    /// Of being drawn, in this step.
    pub probability: f64,
}

impl StepLine {
    /// From the first report of the step.
    pub fn new(generation: Generation, done: &v1::StepDone) -> Self {
        let finite = |value: f64| value.is_finite().then_some(value);
        let objective = |of: &v1::ObjectiveStep| {
            let line = ObjectiveLine {
                loss: finite(of.loss).filter(|_| of.tokens > 0),
                tokens: of.tokens,
                probability: of.probability,
            };
            (of.name.clone(), line)
        };
        Self {
            step: done.step,
            loss: finite(done.loss),
            tokens: done.tokens,
            rows: done.rows,
            row_hash: format!("{:016x}", done.row_hash),
            grad_norm: finite(done.grad_norm),
            lr: done.lr,
            skipped: done.skipped,
            bad_rows: done.bad_rows,
            generation: generation.0,
            objectives: done.objectives.iter().map(objective).collect(),
            digest: (!done.digest.is_empty()).then(|| done.digest.clone()),
            seconds: done.step_seconds,
            reduce_seconds: done.reduce_seconds,
            exposed_seconds: done.exposed_seconds,
            link_seconds: done.link_seconds,
        }
    }
}

/// What became of a line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Appended {
    /// It was written.
    Written,
    /// The step is already in the file, with the same loss, or too far back to compare.
    Known,
    /// The step is already in the file with this other loss.
    Differs(Option<f64>),
}

/// The open file.
pub(crate) struct MetricsLog {
    file: JsonLines,
    last: u64,
    losses: BTreeMap<u64, Option<u64>>,
}

impl MetricsLog {
    /// Opens or creates the file and reads where it ends; a torn last line is cut off.
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let (mut losses, mut last) = (BTreeMap::new(), 0);
        let file = JsonLines::open(path, |line: StepLine| {
            last = line.step;
            losses.insert(line.step, line.loss.map(f64::to_bits));
            if losses.len() > COMPARED_MAX {
                losses.pop_first();
            }
        })?;
        Ok(Self { file, last, losses })
    }

    /// The newest step in the file; 0 if there is none.
    pub(crate) fn last(&self) -> Step {
        Step(self.last)
    }

    /// Removes the lines of all steps after `step`.
    pub(crate) fn forget_after(&mut self, step: Step) -> std::io::Result<()> {
        self.file
            .keep_while(|line: &StepLine| line.step <= step.0)?;
        self.last = self.last.min(step.0);
        self.losses.retain(|logged, _| *logged <= step.0);
        Ok(())
    }

    /// Appends `line` unless its step is there already.
    pub(crate) fn append(&mut self, line: &StepLine) -> std::io::Result<Appended> {
        if line.step <= self.last {
            return Ok(match self.losses.get(&line.step) {
                Some(was) if *was != line.loss.map(f64::to_bits) => {
                    Appended::Differs(was.map(f64::from_bits))
                }
                _ => Appended::Known,
            });
        }
        self.file.append(line)?;
        self.last = line.step;
        Ok(Appended::Written)
    }

    /// See [`JsonLines::flush`].
    pub(crate) fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn line(step: u64, loss: f64) -> StepLine {
        let done = v1::StepDone {
            step,
            loss,
            row_hash: u64::MAX,
            objectives: vec![v1::ObjectiveStep {
                name: "captioning".into(),
                loss,
                tokens: 7,
                probability: 0.5,
            }],
            ..Default::default()
        };
        StepLine::new(Generation(1), &done)
    }

    fn losses(path: &Path) -> Vec<(u64, f64)> {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<StepLine>(line).unwrap());
        lines.map(|line| (line.step, line.loss.unwrap())).collect()
    }

    #[test]
    fn every_step_is_written_once_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let odd = 0.1 + 0.2;
        let mut log = MetricsLog::open(&path).unwrap();
        for step in 1..=3 {
            assert_eq!(log.append(&line(step, odd)).unwrap(), Appended::Written);
        }
        drop(log);
        let mut log = MetricsLog::open(&path).unwrap();
        assert_eq!(log.append(&line(2, odd)).unwrap(), Appended::Known);
        assert_eq!(
            log.append(&line(3, 0.5)).unwrap(),
            Appended::Differs(Some(odd))
        );
        assert_eq!(log.append(&line(4, 1.0)).unwrap(), Appended::Written);
        assert_eq!(losses(&path), [(1, odd), (2, odd), (3, odd), (4, 1.0)]);
    }

    #[test]
    fn a_torn_last_line_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut log = MetricsLog::open(&path).unwrap();
        log.append(&line(1, 2.0)).unwrap();
        log.append(&line(2, 1.5)).unwrap();
        let length = std::fs::metadata(&path).unwrap().len();
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length - 5)
            .unwrap();
        let mut log = MetricsLog::open(&path).unwrap();
        assert_eq!(log.append(&line(2, 1.5)).unwrap(), Appended::Written);
        assert_eq!(losses(&path), [(1, 2.0), (2, 1.5)]);
    }
}
