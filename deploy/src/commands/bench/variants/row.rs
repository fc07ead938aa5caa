//! One finished run: a row of `variants.csv`.

use ringmaster_model::Cost;
use ringmaster_proto::ErrorKind;
use serde::Deserialize;

use super::Trial;
use crate::error::CliError;
use crate::output;

/// The columns of `variants.csv`; a contract.
pub(super) const HEADER: &str = "variant,seed,steps,params,gflops_mac2,peak_memory_bytes,\
examples_per_second,exact_match,shuffled_exact_match,caption_loss,core_seconds,spec_hash";

/// What a run came to. Figures that were not taken are empty cells.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) variant: String,
    pub(super) seed: u64,
    pub(super) steps: u64,
    /// Parameters of the model.
    pub(super) params: u64,
    /// Forward pass of one example at full text lengths, 10^9 operations, a multiply-accumulate
    /// being two.
    pub(super) gflops_mac2: f64,
    pub(super) measured: Measured,
    pub(super) spec_hash: String,
}

/// What `train --output json` says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Measured {
    /// Most resident memory of the worker.
    pub(super) peak_memory_bytes: Option<u64>,
    pub(super) examples_per_second: Option<f64>,
    /// Share of held-out questions answered right.
    pub(super) exact_match: Option<f64>,
    /// The same with the pictures exchanged among the rows.
    pub(super) shuffled_exact_match: Option<f64>,
    /// Of held-out captions, nats per token.
    pub(super) caption_loss: Option<f64>,
    /// Processor time of the whole run.
    pub(super) core_seconds: Option<f64>,
}

impl Row {
    /// The row of `trial`, whose run ended with the line `said`.
    pub(super) fn of(trial: &Trial, cost: &Cost, said: &str) -> Result<Self, CliError> {
        let measured = serde_json::from_str(said).map_err(|error| {
            let thing = format!("run {}", trial.run.name());
            let next = "please report it";
            CliError::refused(ErrorKind::Internal, thing, error, next)
        })?;
        Ok(Self {
            variant: trial.variant.name.to_owned(),
            seed: trial.run.seed,
            steps: trial.run.steps,
            params: cost.parameters(),
            gflops_mac2: 2.0 * cost.macs() as f64 / 1e9,
            measured,
            spec_hash: trial.run.spec_hash(),
        })
    }

    /// Whether this is what `trial` would come to.
    pub(super) fn is_of(&self, trial: &Trial) -> bool {
        let run = &trial.run;
        (self.variant.as_str(), self.seed) == (trial.variant.name, run.seed)
            && self.steps == run.steps
            && self.spec_hash == run.spec_hash()
    }

    /// The cells, in the order of [`HEADER`].
    pub(super) fn cells(&self) -> Vec<String> {
        let of = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        let Measured {
            peak_memory_bytes,
            examples_per_second,
            exact_match,
            shuffled_exact_match,
            caption_loss,
            core_seconds,
        } = self.measured;
        vec![
            self.variant.clone(),
            self.seed.to_string(),
            self.steps.to_string(),
            self.params.to_string(),
            self.gflops_mac2.to_string(),
            peak_memory_bytes.map_or_else(String::new, |bytes| bytes.to_string()),
            of(examples_per_second),
            of(exact_match),
            of(shuffled_exact_match),
            of(caption_loss),
            of(core_seconds),
            self.spec_hash.clone(),
        ]
    }

    /// Reads the rows of an earlier call.
    pub(super) fn parse_all(rows: &[Vec<String>]) -> Result<Vec<Self>, CliError> {
        let numbered = rows.iter().enumerate();
        let parsed = numbered.map(|(index, cells)| {
            Self::parse(cells).ok_or_else(|| {
                // Below the header, and people count from 1.
                let thing = format!("variants.csv line {}", index + 2);
                let next = "mend or remove the line; a removed one is trained again";
                CliError::refused(ErrorKind::Data, thing, "is no row of this table", next)
            })
        });
        parsed.collect()
    }

    fn parse(cells: &[String]) -> Option<Self> {
        fn optional<T: std::str::FromStr>(cell: &str) -> Option<Option<T>> {
            match cell {
                "" => Some(None),
                cell => cell.parse().ok().map(Some),
            }
        }
        let [
            variant,
            seed,
            steps,
            params,
            gflops,
            memory,
            rate,
            right,
            shuffled,
            caption,
            seconds,
            hash,
        ] = cells
        else {
            return None;
        };
        Some(Self {
            variant: variant.clone(),
            seed: seed.parse().ok()?,
            steps: steps.parse().ok()?,
            params: params.parse().ok()?,
            gflops_mac2: gflops.parse().ok()?,
            measured: Measured {
                peak_memory_bytes: optional(memory)?,
                examples_per_second: optional(rate)?,
                exact_match: optional(right)?,
                shuffled_exact_match: optional(shuffled)?,
                caption_loss: optional(caption)?,
                core_seconds: optional(seconds)?,
            },
            spec_hash: hash.clone(),
        })
    }

    /// What came of it, for people.
    pub(super) fn line(&self) -> String {
        let percent = |share: f64| format!("{:.1}%", 100.0 * share);
        let right = self
            .measured
            .exact_match
            .map_or_else(|| "-".to_owned(), percent);
        let time = output::duration(self.measured.core_seconds.unwrap_or_default());
        let (variant, seed) = (&self.variant, self.seed);
        format!("{variant} with seed {seed} answers {right} right, after {time} of one core")
    }
}
