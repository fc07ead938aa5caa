//! The training state and its update: AdamW over one flat buffer (Loshchilov & Hutter, 2019).
//!
//! This file owns [`State`]. The same struct is hashed into the digest, copied between peers and
//! written into checkpoints; nothing else changes a parameter.

use ringmaster_model::flat::{Layout, Slot};
use ringmaster_proto::spec::TrainSpec;

use crate::objective::Objective;
use crate::sampling::{Record, Rule, Sampling};

/// Values per block of the partial sums that decide anything: fixed, so that no thread count and
/// no bucket layout changes a bit.
const BLOCK: usize = 64 * 1024;

/// Everything a run carries from step to step, replicated on every rank.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Steps consumed: the cursor into the data.
    pub step: u64,
    /// Updates applied (Adam's t); smaller than `step` by the steps skipped.
    pub updates: u64,
    /// Rows refused by their content so far.
    pub bad_rows: u64,
    /// How likely each objective is drawn next, and why.
    pub sampling: Sampling,
    /// Parameters in layout order.
    pub parameters: Vec<f32>,
    /// First moments.
    pub first: Vec<f32>,
    /// Second moments.
    pub second: Vec<f32>,
    /// Exponential moving average of the parameters, where the run keeps one.
    pub ema: Option<Vec<f32>>,
}

/// Name of the parameters among the [vectors](State::vectors).
const PARAMETERS: &str = "parameters";

/// Name of their moving average.
pub(crate) const EMA: &str = "ema";

impl State {
    /// The state before the first step.
    pub(crate) fn initial(parameters: Vec<f32>, rule: &Rule, train: &TrainSpec) -> Self {
        let zeros = vec![0.0; parameters.len()];
        Self {
            step: 0,
            updates: 0,
            bad_rows: 0,
            sampling: Sampling::initial(rule),
            ema: (train.ema > 0.0).then(|| parameters.clone()),
            parameters,
            first: zeros.clone(),
            second: zeros,
        }
    }

    /// A state of `len` parameters to be overwritten: zeros, and no moving average.
    pub(crate) fn blank(len: usize) -> Self {
        Self {
            step: 0,
            updates: 0,
            bad_rows: 0,
            sampling: Sampling::default(),
            parameters: vec![0.0; len],
            first: vec![0.0; len],
            second: vec![0.0; len],
            ema: None,
        }
    }

    /// A [blank](Self::blank) state with room for as much as this one has.
    pub(crate) fn blank_alike(&self) -> Self {
        let len = self.parameters.len();
        Self {
            ema: self.ema.as_ref().map(|_| vec![0.0; len]),
            ..Self::blank(len)
        }
    }

    /// What evaluation uses: the moving average where there is one, else the parameters.
    pub fn evaluated(&self) -> &[f32] {
        self.ema.as_ref().unwrap_or(&self.parameters)
    }

    /// The vectors, each with the name it has in checkpoints; all are as long as the layout.
    pub fn vectors(&self) -> Vec<(&'static str, &[f32])> {
        let mut vectors = vec![
            (PARAMETERS, self.parameters.as_slice()),
            ("exp_avg", &self.first),
            ("exp_avg_sq", &self.second),
        ];
        vectors.extend(self.ema.as_ref().map(|ema| (EMA, ema.as_slice())));
        vectors
    }

    /// The vectors in the same order, to be overwritten.
    pub(crate) fn vectors_mut(&mut self) -> Vec<&mut Vec<f32>> {
        let mut vectors = vec![&mut self.parameters, &mut self.first, &mut self.second];
        vectors.extend(&mut self.ema);
        vectors
    }

    /// The scalars, each with the name it has in checkpoints.
    pub fn scalars(&self) -> Vec<(String, u64)> {
        let mut scalars = vec![
            ("step".to_owned(), self.step),
            ("updates".to_owned(), self.updates),
            ("bad_rows".to_owned(), self.bad_rows),
        ];
        for (objective, record) in Objective::ALL.iter().zip(&self.sampling.records) {
            let words = Record::WORDS.iter().zip(record.words());
            let name = |word| format!("sampling.{}.{word}", objective.name());
            scalars.extend(words.map(|(word, value)| (name(word), value)));
        }
        scalars
    }

    /// Overwrites the scalars, given in the order of [`Self::scalars`].
    pub(crate) fn set_scalars(&mut self, values: &[u64]) {
        let mut values = values.iter().copied();
        let mut next = || values.next().unwrap_or_default();
        (self.step, self.updates, self.bad_rows) = (next(), next(), next());
        for record in &mut self.sampling.records {
            *record = Record::from_words(std::array::from_fn(|_| next()));
        }
    }

    /// blake3 over (path, shape, little-endian bytes) of every vector in path order, then the
    /// scalars; lower-case hex. Equal digests mean equal states.
    pub fn digest(&self, layout: &Layout) -> String {
        let mut slots: Vec<_> = layout.slots.iter().collect();
        slots.sort_by(|a, b| a.path.cmp(&b.path));
        let mut hasher = blake3::Hasher::new();
        let mut bytes = Vec::new();
        for (kind, values) in self.vectors() {
            for slot in &slots {
                hasher
                    .update(kind.as_bytes())
                    .update(b"/")
                    .update(slot.path.as_bytes());
                for side in &slot.shape {
                    hasher.update(&(*side as u64).to_le_bytes());
                }
                bytes.clear();
                let values = &values[slot.offset..slot.offset + slot.len];
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                hasher.update(&bytes);
            }
        }
        for (_, scalar) in self.scalars() {
            hasher.update(&scalar.to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// One AdamW update with averaged gradients `g`, each first multiplied by `scale` (clipping).
    /// All arithmetic is f32, elementwise, without fused multiply-add: equal on every machine.
    ///
    /// m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2;
    /// p <- p - lr wd p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
    ///
    /// and, where a moving average is kept, e <- d e + (1 - d) p.
    pub fn update(&mut self, layout: &Layout, g: &[f32], scale: f32, lr: f64, spec: &TrainSpec) {
        self.updates += 1;
        let adam = Adam::of(self.updates, lr, spec);
        for slot in &layout.slots {
            let decay = adam.decay_of(slot);
            let range = slot.offset..slot.offset + slot.len;
            let p = &mut self.parameters[range.clone()];
            let m = &mut self.first[range.clone()];
            let v = &mut self.second[range.clone()];
            for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(&g[range]) {
                let g = g * scale;
                *m = adam.beta1 * *m + (1.0 - adam.beta1) * g;
                *v = adam.beta2 * *v + (1.0 - adam.beta2) * (g * g);
                *p =
                    *p * decay - adam.step_size * *m / (v.sqrt() / adam.root_correction + adam.eps);
            }
        }
        if let Some(ema) = &mut self.ema {
            let (old, new) = (spec.ema as f32, (1.0 - spec.ema) as f32);
            for (e, p) in ema.iter_mut().zip(&self.parameters) {
                *e = old * *e + new * *p;
            }
        }
    }
}

/// The numbers of one update that all parameters share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adam {
    pub(crate) beta1: f32,
    pub(crate) beta2: f32,
    /// `lr / (1 - beta1^t)`.
    pub(crate) step_size: f32,
    /// `sqrt(1 - beta2^t)`.
    pub(crate) root_correction: f32,
    pub(crate) eps: f32,
    /// `1 - lr * weight_decay`.
    pub(crate) decay: f32,
}

impl Adam {
    /// Of the `t`-th update, from 1.
    pub(crate) fn of(t: u64, lr: f64, spec: &TrainSpec) -> Self {
        let t = t as f64;
        Self {
            beta1: spec.beta1 as f32,
            beta2: spec.beta2 as f32,
            step_size: (lr / (1.0 - spec.beta1.powf(t))) as f32,
            root_correction: (1.0 - spec.beta2.powf(t)).sqrt() as f32,
            eps: spec.eps as f32,
            decay: 1.0 - (lr * spec.weight_decay) as f32,
        }
    }

    /// What a parameter is multiplied by before its step.
    fn decay_of(&self, slot: &Slot) -> f32 {
        if slot.decay { self.decay } else { 1.0 }
    }
}

/// Euclidean norm of a flat buffer: f64 sums over fixed blocks, added in order.
pub fn norm(values: &[f32]) -> f64 {
    let block = |block: &[f32]| {
        block
            .iter()
            .map(|v| f64::from(*v) * f64::from(*v))
            .sum::<f64>()
    };
    values.chunks(BLOCK).map(block).sum::<f64>().sqrt()
}

/// Factor that brings a gradient of norm `norm` down to `clip`; 1 when it is smaller or clipping
/// is off (`clip` = 0).
pub fn clip_scale(norm: f64, clip: f64) -> f32 {
    if clip > 0.0 && norm > clip {
        (clip / norm) as f32
    } else {
        1.0
    }
}

/// Learning rate of the update that takes `step` to `step + 1`: linear warm-up to the peak, then a
/// cosine to zero at `total`.
pub fn learning_rate(step: u64, total: u64, spec: &TrainSpec) -> f64 {
    let warmup = spec.warmup_steps.min(total);
    if step < warmup {
        return spec.lr * (step + 1) as f64 / warmup as f64;
    }
    let progress = (step - warmup) as f64 / (total - warmup).max(1) as f64;
    spec.lr * 0.5 * (1.0 + cosine_half_turn(progress))
}

/// cos(pi x) for 0 <= x <= 1 by its Taylor series around the nearest zero: plain arithmetic gives
/// the same bits on every platform, which a mathematics library does not promise.
fn cosine_half_turn(x: f64) -> f64 {
    // cos(pi x) = -sin(pi (x - 1/2)), and |pi (x - 1/2)| <= pi / 2.
    let y = std::f64::consts::PI * (x - 0.5);
    let mut term = y;
    let mut sum = y;
    for k in 1..14 {
        let n = f64::from(2 * k);
        term *= -y * y / (n * (n + 1.0));
        sum += term;
    }
    -sum
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ringmaster_proto::RunSpec;

    fn spec() -> TrainSpec {
        RunSpec::parse("", &[]).unwrap().train
    }

    fn state(parameters: Vec<f32>, train: &TrainSpec) -> State {
        let tasks = RunSpec::parse("", &[]).unwrap().tasks;
        State::initial(parameters, &Rule::new(&tasks, 100), train)
    }

    #[test]
    fn the_schedule_rises_linearly_and_falls_along_a_cosine() {
        let spec = TrainSpec {
            lr: 2.0,
            warmup_steps: 10,
            ..spec()
        };
        for step in 0..10 {
            assert!((learning_rate(step, 110, &spec) - 0.2 * (step + 1) as f64).abs() < 1e-12);
        }
        for step in 10..110 {
            let x = (step - 10) as f64 / 100.0;
            let expected = 1.0 + (std::f64::consts::PI * x).cos();
            assert!((learning_rate(step, 110, &spec) - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn clipping_scales_the_norm_to_the_limit_and_never_up() {
        let g = vec![3.0_f32, 4.0];
        assert!((norm(&g) - 5.0).abs() < 1e-12);
        assert_eq!(clip_scale(5.0, 0.0), 1.0);
        assert_eq!(clip_scale(0.5, 1.0), 1.0);
        assert!((f64::from(clip_scale(5.0, 1.0)) * 5.0 - 1.0).abs() < 1e-6);
    }

    /// PyTorch's documented AdamW, in f64 and one value at a time.
    #[test]
    fn the_update_is_adamw_and_its_average_a_moving_one() {
        let slot = |path: &str, offset, decay| ringmaster_model::flat::Slot {
            path: path.into(),
            shape: vec![2],
            offset,
            len: 2,
            decay,
        };
        let layout = Layout {
            slots: vec![slot("a", 0, true), slot("b", 2, false)],
            total: 4,
        };
        let start = [0.5_f64, -0.25, 1.0, -2.0];
        let spec = TrainSpec {
            weight_decay: 0.1,
            ema: 0.75,
            ..spec()
        };
        let mut state = state(start.map(|v| v as f32).to_vec(), &spec);
        let (mut p, mut m, mut v) = (start, [0.0; 4], [0.0; 4]);
        let mut e = start;
        for t in 1..=5 {
            let g = [0.1 * f64::from(t), -0.2, 0.3, 0.05 * f64::from(t)];
            let flat: Vec<f32> = g.iter().map(|g| *g as f32).collect();
            state.update(&layout, &flat, 0.5, 0.01, &spec);
            for i in 0..4 {
                let g = 0.5 * g[i];
                p[i] *= if i < 2 { 1.0 - 0.01 * 0.1 } else { 1.0 };
                m[i] = spec.beta1 * m[i] + (1.0 - spec.beta1) * g;
                v[i] = spec.beta2 * v[i] + (1.0 - spec.beta2) * g * g;
                let m_hat = m[i] / (1.0 - spec.beta1.powi(t));
                let v_hat = v[i] / (1.0 - spec.beta2.powi(t));
                p[i] -= 0.01 * m_hat / (v_hat.sqrt() + spec.eps);
                e[i] = 0.75 * e[i] + 0.25 * p[i];
            }
        }
        let mine = state.parameters.iter().chain(state.evaluated());
        for (mine, oracle) in mine.zip(p.into_iter().chain(e)) {
            assert!((f64::from(*mine) - oracle).abs() < 1e-6, "{mine} {oracle}");
        }
    }

    #[test]
    fn one_changed_bit_changes_the_digest() {
        let slot = ringmaster_model::flat::Slot {
            path: "a".into(),
            shape: vec![3],
            offset: 0,
            len: 3,
            decay: true,
        };
        let layout = Layout {
            slots: vec![slot],
            total: 3,
        };
        let average = TrainSpec { ema: 0.9, ..spec() };
        let state = state(vec![1.0, 2.0, 3.0], &average);
        let mut others = vec![state.clone(); 6];
        others[0].second[2] = f32::from_bits(1);
        others[1].updates = 1;
        others[2].parameters[0] = f32::from_bits(1.0_f32.to_bits() ^ 1);
        others[3].ema.as_mut().unwrap()[1] = 0.0;
        others[4].ema = None;
        others[5].sampling.records[7].loss = f64::from_bits(1);
        for other in others {
            assert_ne!(state.digest(&layout), other.digest(&layout));
        }
    }
}
