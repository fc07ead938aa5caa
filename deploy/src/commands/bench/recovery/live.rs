//! A live run of real processes, and what can be done to it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmaster_proto::v1::watch_run_response::Event;
use ringmaster_proto::v1::{RunStatus, WorkerStatus};
use ringmaster_proto::{ErrorKind, RunSpec};
use tokio::process::Child;
use tokio::time::{Instant, timeout};

use super::timeline::{Phases, Timeline};
use crate::error::CliError;
use crate::run_folder::RunFolder;
use crate::supervisor::Watcher;
use crate::supervisor::child::{Launch, Leash};

/// Nothing that is waited for takes this long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(120);

/// One run, watched.
pub(super) struct Live {
    leash: Leash,
    process: Child,
    folder: RunFolder,
    watcher: Watcher,
    /// The last status, and the newest step.
    status: RunStatus,
    step: u64,
}

impl Live {
    /// Starts `ringmaster train` below `out`, and waits until it serves.
    pub(super) async fn start(out: &Path, workers: u32, sets: &[String]) -> Result<Self, CliError> {
        fs::create_dir_all(out).map_err(|error| CliError::file(out, &error))?;
        let store = out.join("runs");
        let mut all = vec![
            "run.name=recovery".to_owned(),
            format!("run.store={}", store.display()),
            "run.steps=1000000".to_owned(),
            "membership.min_workers=1".to_owned(),
            "eval.sample_every=1day".to_owned(),
        ];
        all.extend(sets.iter().cloned());
        let folder = RunFolder::of(&RunSpec::parse("", &all)?);
        let workers = workers.to_string();
        let fixed = [
            "train",
            "--fresh",
            "--exit-with-parent",
            "--workers",
            &workers,
        ];
        let sets = all.iter().flat_map(|set| ["--set", set]);
        let launch = Launch {
            role: "train".to_owned(),
            args: fixed.into_iter().chain(sets).map(OsString::from).collect(),
            env: Vec::new(),
            log: out.join("train.log"),
            folder: Some(out.to_owned()),
            read_stdout: false,
        };
        let started = launch.start()?;
        let until = Instant::now() + PATIENCE;
        let endpoint = loop {
            if let Some(endpoint) = folder.endpoint()? {
                break endpoint;
            }
            if Instant::now() > until {
                return Err(late("the run's coordinator", &out.join("train.log")));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        Ok(Self {
            leash: started.leash,
            process: started.process,
            watcher: Watcher::new(&endpoint.address, &folder)?,
            folder,
            status: RunStatus::default(),
            step: 0,
        })
    }

    /// Ends the run at its next step boundary.
    pub(super) async fn end(mut self) -> Result<(), CliError> {
        self.leash.signal(Signal::SIGTERM);
        let ended = timeout(PATIENCE, self.process.wait()).await;
        ended
            .map_err(|_| late("the end of the run", self.folder.path()))?
            .ok();
        Ok(())
    }

    /// The next event.
    async fn next(&mut self) -> Result<Event, CliError> {
        let event = timeout(PATIENCE, self.watcher.next()).await;
        let event = event.map_err(|_| late("an event of the run", self.folder.path()))?;
        match &event {
            Event::Status(status) => self.status = status.clone(),
            Event::Step(step) => {
                self.step = step.step.as_ref().map_or(self.step, |step| step.step);
            }
            _ => {}
        }
        Ok(event)
    }

    /// Waits until `workers` have trained `steps` steps in one generation. Returns the median of
    /// their seconds.
    pub(super) async fn settle(&mut self, workers: usize, steps: u64) -> Result<f64, CliError> {
        let (mut generation, mut from, mut seconds) = (0, 0, Vec::new());
        let until = Instant::now() + PATIENCE;
        loop {
            if let Event::Step(step) = self.next().await? {
                if step.generation != generation {
                    (generation, from) = (step.generation, self.step);
                    seconds.clear();
                }
                seconds.extend(step.step.map(|step| step.step_seconds));
            }
            let all = self.ranked().len() == workers && self.status.phase == "training";
            if all && self.status.generation == generation && self.step >= from + steps {
                return Ok(super::timeline::median(seconds));
            }
            if Instant::now() > until {
                return Err(late("the whole membership", self.folder.path()));
            }
        }
    }

    fn ranked(&self) -> Vec<&WorkerStatus> {
        let workers = self.status.workers.iter();
        workers.filter(|worker| worker.state == "ranked").collect()
    }

    /// The process of the last rank.
    pub(super) fn last_rank(&self) -> Option<u32> {
        let last = self.ranked().into_iter().max_by_key(|worker| worker.rank);
        last.map(|worker| worker.pid)
    }

    /// The process of the coordinator.
    pub(super) fn coordinator(&self) -> Result<u32, CliError> {
        Ok(self.folder.live_endpoint()?.pid)
    }

    /// Sends `signal` to a process of the run, and follows the run until its next generation has
    /// completed a step.
    pub(super) async fn strike(&mut self, pid: u32, signal: Signal) -> Result<Phases, CliError> {
        let mut timeline = Timeline::new(self.status.generation);
        let began = Instant::now();
        send(pid, signal)?;
        loop {
            let event = self.next().await?;
            let at = began.elapsed().as_secs_f64();
            if let Some(phases) = timeline.take(at, &event) {
                return Ok(phases);
            }
        }
    }

    /// Follows the run from when a worker without a rank attends until it has completed a step with it.
    pub(super) async fn joiner(&mut self) -> Result<Phases, CliError> {
        let mut joins: Option<(Instant, Timeline)> = None;
        loop {
            let event = self.next().await?;
            let mut workers = self.status.workers.iter();
            let waits =
                workers.any(|worker| matches!(worker.state.as_str(), "preparing" | "spare"));
            if joins.is_none() && waits {
                joins = Some((Instant::now(), Timeline::new(self.status.generation)));
            }
            if let Some((began, timeline)) = &mut joins
                && let Some(phases) = timeline.take(began.elapsed().as_secs_f64(), &event)
            {
                return Ok(phases);
            }
        }
    }

    /// Kills the coordinator, waits for the next one and `steps` steps more. Returns how much longer
    /// than `usual` seconds the longest step meanwhile took, and whether the generation is the same.
    pub(super) async fn replace_coordinator(
        &mut self,
        usual: f64,
        steps: u64,
    ) -> Result<(f64, bool), CliError> {
        let (generation, term, from) = (self.status.generation, self.status.term, self.step);
        send(self.coordinator()?, Signal::SIGKILL)?;
        let mut longest = 0f64;
        while self.status.term == term || self.step < from + steps {
            if let Event::Step(step) = self.next().await? {
                longest = longest.max(step.step.map_or(0.0, |step| step.step_seconds));
            }
        }
        Ok((
            (longest - usual).max(0.0),
            self.status.generation == generation,
        ))
    }

    /// Where the run lies.
    pub(super) fn remove(out: &Path) -> Result<(), CliError> {
        fs::remove_dir_all(out).map_err(|error| CliError::file(out, &error))
    }
}

/// Sends a signal to a process of the run.
pub(super) fn send(pid: u32, signal: Signal) -> Result<(), CliError> {
    let pid = i32::try_from(pid).unwrap_or(i32::MAX);
    kill(Pid::from_raw(pid), signal).map_err(|error| {
        let next = "it ended by itself; see the run's logs";
        CliError::refused(ErrorKind::Internal, format!("process {pid}"), error, next)
    })
}

fn late(what: &str, logs: &Path) -> CliError {
    let next = format!("see {}", PathBuf::from(logs).display());
    let reason = format!("it did not come within {} s", PATIENCE.as_secs());
    CliError::refused(ErrorKind::Internal, what, reason, next)
}
