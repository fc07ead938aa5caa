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
}

/// Numbers besides tokens and losses.
const OTHERS: usize = 6;

impl Statistics {
    /// Counts the rows of one microbatch.
    pub(crate) fn count_rows(&mut self, batch: &LaneBatch) {
        for example in &batch.examples {
            if example.weight > 0.0 {
                self.rows += 1;
                let hash = example.row.map_or(0, |row| row.hash());
                self.row_hash = self.row_hash.wrapping_add(hash.cast_signed());
            }
            self.bad_rows += i64::from(example.bad);
        }
    }

    /// Adds a microbatch's summed token loss, nats.
    pub(crate) fn add_loss(&mut self, objective: Objective, sum: f32, tokens: u64) {
        let at = objective as usize;
        let scaled = (f64::from(sum) * LOSS_SCALE).round_ties_even();
        if scaled.is_finite() && scaled.abs() < i64::MAX as f64 / 65_536.0 {
            self.loss[at] = self.loss[at].wrapping_add(scaled as i64);
        } else {
            self.bad_values += 1;
        }
        self.tokens[at] += tokens.cast_signed();
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

    /// As the vector the ring sums.
    pub(crate) fn to_vector(self) -> Vec<i64> {
        let others: [i64; OTHERS] = [
            self.bad_values,
            self.rows,
            self.row_hash,
            self.bad_rows,
            self.stop,
            self.reconfigure,
        ];
        [&self.tokens[..], &self.loss, &others].concat()
    }

    /// Back from the summed vector.
    pub(crate) fn from_vector(vector: &[i64]) -> Self {
        let mut values = vector.iter().copied();
        let mut next = || values.next().unwrap_or_default();
        Self {
            tokens: std::array::from_fn(|_| next()),
            loss: std::array::from_fn(|_| next()),
            bad_values: next(),
            rows: next(),
            row_hash: next(),
            bad_rows: next(),
            stop: next(),
            reconfigure: next(),
        }
    }
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
        ranks[0].add_loss(caption, 6.0, 4);
        ranks[0].add_loss(answer, 1.5, 1);
        ranks[1].add_loss(caption, 2.0, 4);
        ranks[1].add_loss(answer, f32::NAN, 3);
        ranks[1].rows = 7;
        ranks[1].reconfigure = 1;
        let vectors = ranks.map(Statistics::to_vector);
        let sum: Vec<i64> = vectors[0]
            .iter()
            .zip(&vectors[1])
            .map(|(a, b)| a + b)
            .collect();
        let all = Statistics::from_vector(&sum);
        assert_eq!((all.rows, all.reconfigure, all.stop), (7, 1, 0));
        assert_eq!((all.bad_values, all.all_tokens()), (1, 12));
        let mut losses = [None; Objective::COUNT];
        losses[caption as usize] = Some(1.0);
        losses[answer as usize] = Some(0.375);
        assert_eq!(all.losses(), losses);
        assert_eq!(all.mean_loss(), 9.5 / 12.0);
    }
}
