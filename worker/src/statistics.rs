//! The numbers every rank must agree on, summed around the ring with the gradients.

use ringmaster_dataset::LaneBatch;
use ringmaster_proto::v1::ObjectiveStep;

use crate::objective::Objective;

/// Fixed-point scale of the loss: 2^32 resolves 1e-9 nats and holds 2^31 nats per step.
const LOSS_SCALE: f64 = 4_294_967_296.0;

/// What one rank adds to a step, and after the all-reduce what all ranks know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// Target tokens that count, by objective.
    pub(crate) tokens: [i64; Objective::COUNT],
    /// Sum of token losses by objective, fixed point.
    pub(crate) loss: [i64; Objective::COUNT],
    /// Values (gradients or losses) that were not finite or too large.
    pub(crate) bad_values: i64,
    /// Rows of weight 1 fed forward.
    pub(crate) rows: i64,
    /// Wrapping sum of the hashes of those rows.
    pub(crate) row_hash: i64,
    /// Rows refused by their content.
    pub(crate) bad_rows: i64,
    /// Ranks asked to stop the run.
    pub(crate) stop: i64,
    /// Ranks asked to end at this boundary for a new membership.
    pub(crate) reconfigure: i64,
    /// Ranks whose part of an earlier checkpoint is still being written.
    pub(crate) saving: i64,
    /// Ranks that want a checkpoint at this boundary.
    pub(crate) save: i64,
}

impl Statistics {
    /// Counts the rows of one microbatch.
    pub(crate) fn count_rows(&mut self, batch: &LaneBatch) {
        for example in &batch.examples {
            if example.weight > 0.0 {
                self.rows += 1;
                let hash = example.row.map_or(0, |row| row.hash());
                self.row_hash = self.row_hash.wrapping_add(hash.cast_signed());
            }
            self.bad_rows += i64::from(example.refused.is_some());
        }
    }

    /// Counts the target tokens of one microbatch.
    pub(crate) fn count_tokens(&mut self, objective: Objective, tokens: u64) {
        self.tokens[objective as usize] += tokens.cast_signed();
    }

    /// Adds a microbatch's summed token loss, nats.
    pub(crate) fn add_loss(&mut self, objective: Objective, sum: f32) {
        let at = objective as usize;
        let scaled = (f64::from(sum) * LOSS_SCALE).round_ties_even();
        if scaled.is_finite() && scaled.abs() < i64::MAX as f64 / 65_536.0 {
            self.loss[at] = self.loss[at].wrapping_add(scaled as i64);
        } else {
            self.bad_values += 1;
        }
    }

    /// Target tokens that count, of all objectives.
    pub(crate) fn all_tokens(&self) -> i64 {
        self.tokens.iter().sum()
    }

    /// Mean token loss over all objectives, nats; 0 without tokens.
    pub(crate) fn mean_loss(&self) -> f64 {
        let loss = self
            .loss
            .iter()
            .fold(0, |sum: i64, loss| sum.wrapping_add(*loss));
        mean(loss, self.all_tokens()).unwrap_or(0.0)
    }

    /// Mean token loss of each objective that occurred, nats.
    pub(crate) fn losses(&self) -> [Option<f64>; Objective::COUNT] {
        std::array::from_fn(|at| mean(self.loss[at], self.tokens[at]))
    }

    /// What the step came to for each objective that was or could have been drawn.
    pub(crate) fn by_objective(
        &self,
        probabilities: &[f64; Objective::COUNT],
    ) -> Vec<ObjectiveStep> {
        let all = Objective::ALL.iter().zip(self.losses()).zip(probabilities);
        let step =
            |((objective, loss), probability): ((&Objective, Option<f64>), &f64)| ObjectiveStep {
                name: objective.name().to_owned(),
                loss: loss.unwrap_or(0.0),
                tokens: self.tokens[*objective as usize].cast_unsigned(),
                probability: *probability,
            };
        all.map(step)
            .filter(|step| step.probability > 0.0 || step.tokens > 0)
            .collect()
    }

    /// What is known before the step is computed, as a vector the ring sums.
    pub(crate) fn counts(&self) -> Vec<i64> {
        let rows = [self.rows, self.row_hash, self.bad_rows];
        [&self.tokens[..], &rows].concat()
    }

    /// What is known afterwards.
    pub(crate) fn outcome(&self) -> Vec<i64> {
        let votes = [self.stop, self.reconfigure, self.saving, self.save];
        [&self.loss[..], &[self.bad_values], &votes].concat()
    }

    /// Takes the sums of [`Self::counts`] over the ranks.
    pub(crate) fn set_counts(&mut self, sums: &[i64]) {
        let mut next = numbers(sums);
        self.tokens = std::array::from_fn(|_| next());
        (self.rows, self.row_hash, self.bad_rows) = (next(), next(), next());
    }

    /// Takes the sums of [`Self::outcome`] over the ranks.
    pub(crate) fn set_outcome(&mut self, sums: &[i64]) {
        let mut next = numbers(sums);
        self.loss = std::array::from_fn(|_| next());
        (self.bad_values, self.stop) = (next(), next());
        (self.reconfigure, self.saving, self.save) = (next(), next(), next());
    }
}

fn numbers(vector: &[i64]) -> impl FnMut() -> i64 {
    let mut values = vector.iter().copied();
    move || values.next().unwrap_or_default()
}

fn mean(loss: i64, tokens: i64) -> Option<f64> {
    (tokens > 0).then(|| loss as f64 / LOSS_SCALE / tokens as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_ranks_are_the_statistics_of_all() {
        let (caption, answer) = (Objective::Captioning, Objective::QuestionAnswering);
        let mut ranks = [Statistics::default(); 2];
        let lanes = [(caption, 6.0, 4), (answer, 1.5, 1)];
        let others = [(caption, 2.0, 4), (answer, f32::NAN, 3)];
        for (rank, lanes) in ranks.iter_mut().zip([lanes, others]) {
            for (objective, loss, tokens) in lanes {
                rank.count_tokens(objective, tokens);
                rank.add_loss(objective, loss);
            }
        }
        ranks[1].rows = 7;
        ranks[1].reconfigure = 1;
        ranks[0].saving = 1;
        ranks[1].saving = 1;
        ranks[1].save = 1;
        let sum = |vector: fn(&Statistics) -> Vec<i64>| -> Vec<i64> {
            let [a, b] = [0, 1].map(|rank| vector(&ranks[rank]));
            a.iter().zip(&b).map(|(a, b)| a + b).collect()
        };
        let mut all = Statistics::default();
        all.set_counts(&sum(Statistics::counts));
        all.set_outcome(&sum(Statistics::outcome));
        assert_eq!((all.rows, all.reconfigure, all.stop), (7, 1, 0));
        assert_eq!((all.saving, all.save), (2, 1));
        assert_eq!((all.bad_values, all.all_tokens()), (1, 12));
        let mut losses = [None; Objective::COUNT];
        losses[caption as usize] = Some(1.0);
        losses[answer as usize] = Some(0.375);
        assert_eq!(all.losses(), losses);
        assert_eq!(all.mean_loss(), 9.5 / 12.0);
    }
}
