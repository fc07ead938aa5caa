//! `ringmaster train`: a whole run on this machine, from corpus to evaluation.

mod dry_run;
mod fresh;
mod memory;
mod report;
mod workers;

use clap::Args;
use ringmaster_coordinator::RunHistory;
use ringmaster_dataset::{Corpus, Prepared, Store};
use ringmaster_proto::{RunSpec, Step};
use ringmaster_worker::init::{Account, Initial};
use ringmaster_worker::{DeviceChoice, Evaluation};

use crate::devices::Devices;
use crate::error::{CliError, Exit};
use crate::logging::LogFormat;
use crate::output::{self, Output};
use crate::progress::{Progress, Stages};
use crate::run_file::RunFile;
use crate::run_folder::RunFolder;
use crate::signals::{self, Signals};
use crate::supervisor::{RunEnd, Supervisor, Topology};

pub(super) use self::workers::Workers;
use self::workers::{lanes_line, with_workers};

/// Arguments of `train`.
#[derive(Args, Debug)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(super) run: RunFile,
    /// Worker processes, at most data.lanes, or auto: one per GPU, where there are any; sets
    /// membership.max_workers [default: 2, or membership.min_workers]
    #[arg(long, value_name = "N|auto")]
    pub(super) workers: Option<Workers>,
    /// Check everything, print what would run, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Remove what an earlier run of this name left, and start over
    #[arg(long)]
    pub(super) fresh: bool,
    /// Kill one worker at this step, then train the same run undisturbed and compare the digests
    #[arg(long, value_name = "STEP")]
    pub(super) kill_one_at: Option<u64>,
    /// What to compute on: auto (the workers take the GPUs in turn, or the CPU), cpu or cuda:N
    #[arg(long, default_value_t)]
    pub(super) device: DeviceChoice,
    /// End at once when standard input closes
    #[arg(long, hide = true)]
    pub(super) exit_with_parent: bool,
    /// Form of the result on stdout
    #[arg(long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// A run that is about to be trained.
struct Run {
    file: RunFile,
    spec: RunSpec,
    root: Store,
    folder: RunFolder,
    workers: u32,
    devices: Devices,
}

/// Trains until the run has ended, then evaluates.
pub(crate) async fn run(args: TrainArgs, log_format: LogFormat) -> Result<Exit, CliError> {
    if args.exit_with_parent {
        signals::exit_with_parent();
    }
    if args.dry_run {
        let devices = Devices::find(args.device);
        let (file, workers) = with_workers(args.run, args.workers, &devices)?;
        return dry_run::run(&file.load()?, workers, args.output).await;
    }
    let devices = Devices::to_compute_on(args.device);
    let run = Run::of(args.run.clone(), args.workers, devices)?;
    let mut signals = Signals::listen()?;
    run.folder.create()?;
    let _claim = run.folder.lock()?;
    if args.fresh {
        fresh::clear(&run.root, &run.folder).await?;
    }
    let history = crate::history::history(&run.spec, &run.root).await?;
    let Some(prepared) = run.prepare(&mut signals).await? else {
        return Ok(Exit::Stopped);
    };
    let stays = |history: &RunHistory| !history.is_taken_elsewhere(&run.spec);
    let finished = history.filter(stays).and_then(|history| history.finished);
    if let Some(end) = finished.filter(|end| end.step.0 >= prepared.total_steps) {
        report::already_finished(&run.spec, end, args.output);
        return Ok(Exit::Done);
    }
    run.print_start(&prepared);
    let kill_one_at = args.kill_one_at.map(Step);
    let mut progress = Progress::new(prepared.total_steps);
    let topology = run.topology(log_format, kill_one_at);
    let end = Supervisor::run(topology, &mut signals, &mut progress).await;
    progress.finish();
    let end = match end? {
        Some(end) if end.finished => end,
        stopped => {
            report::stopped(&run.folder, stopped.as_ref());
            return Ok(Exit::Stopped);
        }
    };
    if args.kill_one_at.is_some() {
        return run
            .compare_with_undisturbed(&end, log_format, args.output, &mut signals)
            .await;
    }
    let Some(evaluation) = run.evaluate(&prepared, &end, &mut signals).await? else {
        eprintln!("evaluation skipped; the run itself is finished");
        return Ok(Exit::Stopped);
    };
    report::finished(&run.folder, &run.root, &evaluation, &end, args.output)
}

impl Run {
    fn of(file: RunFile, workers: Option<Workers>, devices: Devices) -> Result<Self, CliError> {
        let (file, workers) = with_workers(file, workers, &devices)?;
        let spec = file.load()?;
        let root = Store::open(&spec.run.store)?.child(&spec.run.name);
        let folder = RunFolder::of(&spec);
        Ok(Self {
            file,
            spec,
            root,
            folder,
            workers,
            devices,
        })
    }

    fn topology(&self, log_format: LogFormat, kill_one_at: Option<Step>) -> Topology {
        Topology {
            run: self.file.clone(),
            folder: self.folder.clone(),
            workers: self.workers,
            devices: self.devices.clone(),
            log_format,
            kill_one_at,
        }
    }

    /// Token, corpus, tokenizer, initial parameters; `None` when a signal came first.
    async fn prepare(&self, signals: &mut Signals) -> Result<Option<Prepared>, CliError> {
        self.folder.create()?;
        self.folder.ensure_token()?;
        let stages = Stages::new();
        let prepare = async {
            let initial = crate::init::prepare(&self.spec, &self.root).await?;
            let prepared = ringmaster_dataset::prepare(&self.spec, &self.root, &stages).await?;
            Ok::<_, CliError>((prepared, initial))
        };
        let (prepared, initial) = tokio::select! {
            done = prepare => done?,
            () = signals.next() => return Ok(None),
        };
        drop(stages);
        if let Some(Initial { account, .. }) = &initial {
            self.print_account(account);
        }
        Ok(Some(prepared))
    }

    fn print_account(&self, account: &Account) {
        for source in &account.sources {
            eprintln!("{} parameters from {}", source.taken, source.url);
        }
        let log = self.folder.log("coordinator");
        let seeded = account.seeded.len();
        eprintln!(
            "{seeded} parameters drawn from the seed; {} names all",
            log.display()
        );
    }

    fn print_start(&self, prepared: &Prepared) {
        let run = &self.spec.run;
        eprintln!("run {} in {}", run.name, self.root.url());
        let rows = output::count(prepared.corpus_rows);
        let held_out = output::count(prepared.validation_rows);
        let steps = output::count(prepared.total_steps);
        eprintln!("{rows} rows to train on, {held_out} held out, {steps} steps");
        eprintln!("{}", lanes_line(self.spec.data.lanes, self.workers));
    }

    /// The numbers at the end of the run; `None` when a signal came first.
    async fn evaluate(
        &self,
        prepared: &Prepared,
        end: &RunEnd,
        signals: &mut Signals,
    ) -> Result<Option<Evaluation>, CliError> {
        let (spec, root, device) = (self.spec.clone(), self.root.clone(), self.devices.first());
        let prepared = prepared.clone();
        let manifest = report::checkpoint_of(&root, end).await?;
        let runtime = tokio::runtime::Handle::current();
        // A thread of its own: the forward passes are long and never yield.
        let evaluation = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                let Prepared {
                    corpus_hash,
                    validation_hash,
                    tokenizer_hash,
                    ..
                } = &prepared;
                let corpus =
                    Corpus::open(&spec, &root, corpus_hash, validation_hash, tokenizer_hash)
                        .await?;
                let stages = Stages::new();
                let show = |done, total| stages.show("evaluating", done, total);
                let evaluation =
                    ringmaster_worker::evaluate(&spec, &corpus, &root, &manifest, device, show);
                Ok::<_, CliError>(evaluation.await?)
            })
        });
        tokio::select! {
            evaluation = evaluation => match evaluation {
                Ok(evaluation) => evaluation.map(Some),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            },
            () = signals.next() => Ok(None),
        }
    }

    /// The proof of the demonstration: the same run with one worker and nobody killed.
    async fn compare_with_undisturbed(
        &self,
        disturbed: &RunEnd,
        log_format: LogFormat,
        output: Output,
        signals: &mut Signals,
    ) -> Result<Exit, CliError> {
        let name = format!("{}-undisturbed", self.spec.run.name);
        let file = self
            .file
            .clone()
            .with("run.name", name)
            .with("membership.min_workers", 1);
        let run = Self::of(file, Some(Workers::Number(1)), self.devices.clone())?;
        run.folder.create()?;
        let _claim = run.folder.lock()?;
        fresh::clear(&run.root, &run.folder).await?;
        let Some(prepared) = run.prepare(signals).await? else {
            return Ok(Exit::Stopped);
        };
        eprintln!(
            "the same run undisturbed, on one worker: {}",
            run.folder.path().display()
        );
        let mut progress = Progress::quiet(prepared.total_steps);
        let end = Supervisor::run(run.topology(log_format, None), signals, &mut progress).await?;
        let Some(undisturbed) = end.filter(|end| end.finished) else {
            return Ok(Exit::Stopped);
        };
        Ok(report::comparison(disturbed, &undisturbed, output))
    }
}
