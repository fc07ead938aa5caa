//! What the experiments share: a folder, a scenes corpus in it, and runs of `ringmaster train` on
//! that corpus.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use ringmaster_dataset::{Store, scenes_corpus};
use ringmaster_proto::RunSpec;
use ringmaster_worker::DeviceChoice;
use tokio_util::sync::CancellationToken;

use super::child;
use crate::error::CliError;
use crate::output::Output;
use crate::progress::Stages;

/// Seed of the corpus; that of a run decides initial values, order and draws.
const CORPUS_SEED: u64 = 1;

/// Arguments of every experiment.
#[derive(Args, Clone, Debug)]
pub(super) struct ExperimentArgs {
    /// Folder for the corpus, the runs and the results; what it holds of an earlier call is not done
    /// again
    #[arg(long, value_name = "FOLDER")]
    pub(super) out: PathBuf,
    /// Runs of each kind, with seeds 1, 2, ...
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(super) seeds: u64,
    /// Rows of the corpus to train on
    #[arg(long, default_value_t = 32_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Rows to hold out and measure by
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) held_out: u64,
    /// Override one key of every run
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Runs at a time, each on one core
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) jobs: u16,
    /// What to compute on: auto, cpu or cuda:N
    #[arg(long, default_value_t)]
    pub(super) device: DeviceChoice,
    /// Form of the table on stdout
    #[arg(long, value_enum, default_value_t)]
    pub(super) output: Output,
}

impl ExperimentArgs {
    /// The folder, made if need be, as an absolute path.
    pub(super) fn folder(&self) -> Result<PathBuf, CliError> {
        let made = fs::create_dir_all(&self.out).and_then(|()| std::path::absolute(&self.out));
        made.map_err(|error| CliError::file(&self.out, &error))
    }

    /// Makes the corpus, if it is not there.
    pub(super) async fn make_corpus(&self) -> Result<(), CliError> {
        let folder = Store::open(&self.out.join(self.corpus()).to_string_lossy())?;
        let (rows, held_out) = (self.rows, self.held_out);
        let stages = Stages::new();
        scenes_corpus::make(&folder, rows, held_out, CORPUS_SEED, &stages).await?;
        Ok(())
    }

    /// For the head of a table.
    pub(super) fn heading(&self, steps: u64) -> String {
        let Self {
            seeds,
            rows,
            held_out,
            ..
        } = self;
        let sets = self.overrides.iter().map(|set| format!(", {set}"));
        let sets: String = sets.collect();
        format!(
            "Each trained for {steps} steps with seeds 1 to {seeds} on {rows} scenes, measured on \
             {held_out} others; one worker of one thread per run{sets}."
        )
    }

    /// Relative to the folder, whose place is then no part of a run's identity.
    fn corpus(&self) -> String {
        format!("scenes-{}-{}", self.rows, self.held_out)
    }
}

/// One run of an experiment.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) seed: u64,
    pub(super) steps: u64,
    pub(super) spec: RunSpec,
    sets: Vec<String>,
}

impl Run {
    /// The run of `kind` with `seed`; `own` is what makes the kind.
    pub(super) fn new(
        args: &ExperimentArgs,
        kind: &str,
        (seed, steps): (u64, u64),
        own: impl IntoIterator<Item = String>,
    ) -> Result<Self, CliError> {
        let corpus = args.corpus();
        let mut sets = vec![
            format!("run.name={kind}-seed-{seed}"),
            "run.store=runs".to_owned(),
            format!("run.seed={seed}"),
            format!("run.steps={steps}"),
            format!("data.sources=[{{ url = \"{corpus}/train\" }}]"),
            format!("data.validation=\"{corpus}/validation\""),
            format!("eval.rows={}", args.held_out),
            // Nothing but training while training is measured.
            "eval.sample_every=1day".to_owned(),
            format!("checkpoint.every={steps}"),
        ];
        sets.extend(args.overrides.iter().cloned());
        sets.extend(own);
        Ok(Self {
            seed,
            steps,
            spec: RunSpec::parse("", &sets)?,
            sets,
        })
    }

    /// Its name, also of its folder below `runs`.
    pub(super) fn name(&self) -> &str {
        &self.spec.run.name
    }

    /// The first half of the hash of everything that decides the run's bits.
    pub(super) fn spec_hash(&self) -> String {
        self.spec.identity_hash().split_at(32).0.to_owned()
    }

    /// Trains it in the experiment's `folder`, and returns what `train --output json` printed; none
    /// if `stop` came first.
    pub(super) async fn train(
        &self,
        folder: &Path,
        device: DeviceChoice,
        stop: CancellationToken,
    ) -> Result<Option<Vec<String>>, CliError> {
        let device = device.to_string();
        // What was interrupted starts over: half a run's figures are not those of a run.
        let fixed = ["train", "--fresh", "--exit-with-parent", "--workers", "1"];
        let chosen = ["--output", "json", "--device", &device];
        let sets = self.sets.iter().flat_map(|set| ["--set", set]);
        let args = fixed.into_iter().chain(chosen).chain(sets);
        child::run(
            folder,
            self.name(),
            args.map(OsString::from).collect(),
            stop,
        )
        .await
    }

    /// Removes it from `folder`: of a finished run only the figures are wanted.
    pub(super) fn remove(&self, folder: &Path) -> Result<(), CliError> {
        let path = folder.join("runs").join(self.name());
        fs::remove_dir_all(&path).map_err(|error| CliError::file(&path, &error))
    }
}
