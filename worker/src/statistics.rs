//! The numbers every rank must agree on, summed around the ring with the gradients.

use ringmaster_dataset::LaneBatch;

/// Fixed-point scale of the loss: 2^32 resolves 1e-9 nats and holds 2^31 nats per step.
const LOSS_SCALE: f64 = 4_294_967_296.0;

/// What one rank adds to a step, and after the all-reduce what all ranks know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// Target tokens that count.
    pub(crate) tokens: i64,
    /// Sum of token losses, fixed point.
    pub(crate) loss: i64,
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
    pub(crate) fn add_loss(&mut self, sum: f32, tokens: u64) {
        let scaled = (f64::from(sum) * LOSS_SCALE).round_ties_even();
        if scaled.is_finite() && scaled.abs() < i64::MAX as f64 / 65_536.0 {
            self.loss = self.loss.wrapping_add(scaled as i64);
        } else {
            self.bad_values += 1;
        }
        self.tokens += tokens.cast_signed();
    }

    /// Mean token loss, nats; 0 without tokens.
    pub(crate) fn mean_loss(&self) -> f64 {
        if self.tokens == 0 {
            0.0
        } else {
            self.loss as f64 / LOSS_SCALE / self.tokens as f64
        }
    }

    /// As the vector the ring sums.
    pub(crate) fn to_vector(self) -> [i64; 8] {
        let Self {
            tokens,
            loss,
            bad_values,
            rows,
            row_hash,
            bad_rows,
            stop,
            reconfigure,
        } = self;
        [
            tokens,
            loss,
            bad_values,
            rows,
            row_hash,
            bad_rows,
            stop,
            reconfigure,
        ]
    }

    /// Back from the summed vector.
    pub(crate) fn from_vector(vector: [i64; 8]) -> Self {
        let [
            tokens,
            loss,
            bad_values,
            rows,
            row_hash,
            bad_rows,
            stop,
            reconfigure,
        ] = vector;
        Self {
            tokens,
            loss,
            bad_values,
            rows,
            row_hash,
            bad_rows,
            stop,
            reconfigure,
        }
    }
}
