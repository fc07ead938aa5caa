//! The whole topology of a run on this machine: one coordinator, N workers, all children of ours.
//!
//! One task owns every child. It waits for exits, for what the coordinator reports, for signals and
//! for deadlines, and decides at once. Whatever way it ends, no child outlives it: each child ends
//! when its standard input closes, and what is left is killed before [`Supervisor::run`] returns.

pub(crate) mod child;
mod restarts;
mod topology;
mod watcher;

pub(crate) use self::topology::{THREADS, Topology};
pub(crate) use self::watcher::{Watcher, watch};

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use ringmaster_proto::v1::watch_run_response::Event;
use ringmaster_proto::v1::{RunStatus, WorkerStatus};
use ringmaster_proto::{ErrorKind, Step};
use ringmaster_worker::TaxSeconds;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::endpoint::{self, Endpoint};
use crate::error::{CliError, Exit};
use crate::progress::{LINE_EVERY, Progress};
use crate::signals::Signals;

use self::child::Leash;
use self::restarts::{Decision, Restarts};

/// How long the coordinator may take until it listens.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a stop may take: the step in progress, and the checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(330);

/// How long workers may take to end once the coordinator has.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);

/// How a run ended; the coordinator's last line on stdout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunEnd {
    /// Whether all steps are done, or the run was stopped and can be resumed.
    pub(crate) finished: bool,
    /// Optimizer updates applied.
    pub(crate) step: u64,
    /// Digest of the state after them.
    pub(crate) digest: String,
    /// Most memory of any worker, which they say themselves; none that was killed does.
    #[serde(skip)]
    pub(crate) peak_memory_bytes: Option<u64>,
    /// What the worker that spent most on other things than training spent on them.
    #[serde(skip)]
    pub(crate) tax: Option<TaxSeconds>,
}

/// What a worker cost; its last line on stdout.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WorkerEnd {
    /// Most resident memory it had.
    pub(crate) peak_memory_bytes: Option<u64>,
    /// What it did besides training.
    pub(crate) tax: TaxSeconds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Coordinator,
    Worker(usize),
}

struct Exited {
    role: Role,
    status: std::io::Result<ExitStatus>,
    last_line: Option<String>,
}

#[derive(Default)]
struct Slot {
    leash: Option<Leash>,
    starts: u32,
    restarts: Restarts,
    /// It was asked to leave, since the run has more workers than it is to have.
    leaving: bool,
}

enum Phase {
    Training,
    /// The coordinator was asked to stop the run.
    Stopping(Instant),
    /// The coordinator has ended; the workers are ending.
    Closing(Instant),
    Killed,
}

/// Owner of the children of one run.
pub(crate) struct Supervisor {
    topology: Topology,
    phase: Phase,
    coordinator: Option<Leash>,
    coordinators: Restarts,
    slots: Vec<Slot>,
    exits: JoinSet<Exited>,
    endpoint: Endpoint,
    step: Step,
    kill_at: Option<Step>,
    /// How many workers there are to be.
    wanted: usize,
    peak_memory_bytes: Option<u64>,
    tax: Option<TaxSeconds>,
    result: Option<Result<RunEnd, CliError>>,
}

impl Supervisor {
    /// Runs the topology until the run has ended; `None` when a signal ended it before the
    /// coordinator could say where it stands.
    pub(crate) async fn run(
        topology: Topology,
        signals: &mut Signals,
        progress: &mut Progress,
    ) -> Result<Option<RunEnd>, CliError> {
        let folder = topology.folder.clone();
        let started = tokio::select! {
            started = Self::start(topology) => Some(started?),
            () = signals.next() => None,
        };
        let result = match started {
            Some(mut supervisor) => {
                let admin = &supervisor.endpoint.admin;
                progress.note(&format!("status page http://{admin}/status"));
                let result = supervisor.serve(signals, progress).await;
                supervisor.kill_all();
                while supervisor.exits.join_next().await.is_some() {}
                result
            }
            None => Ok(None),
        };
        endpoint::remove(&folder.endpoint_file())?;
        result
    }

    /// Starts the coordinator, waits until it listens, starts the workers.
    async fn start(topology: Topology) -> Result<Self, CliError> {
        let mut launched = topology.coordinator(None).start()?;
        let stdout = launched.stdout.take();
        let mut lines = stdout.map(|stdout| BufReader::new(stdout).lines());
        let said = timeout(READY_TIMEOUT, first_line(&mut lines)).await;
        let endpoint = said
            .ok()
            .flatten()
            .and_then(|line| serde_json::from_str(&line).ok());
        let Some(endpoint) = endpoint else {
            launched.leash.signal(Signal::SIGKILL);
            let status = launched.process.wait().await;
            return Err(status.map_or_else(lost, |status| launched.leash.error(status)));
        };
        let mut exits = JoinSet::new();
        exits.spawn(wait(Role::Coordinator, launched.process, lines));
        let slots = (0..topology.workers).map(|_| Slot::default()).collect();
        let mut supervisor = Self {
            phase: Phase::Training,
            coordinator: Some(launched.leash),
            coordinators: Restarts::default(),
            slots,
            exits,
            endpoint,
            step: Step(0),
            kill_at: topology.kill_one_at,
            wanted: topology.workers as usize,
            peak_memory_bytes: None,
            tax: None,
            result: None,
            topology,
        };
        for slot in 0..supervisor.slots.len() {
            supervisor.start_worker(slot)?;
        }
        Ok(supervisor)
    }

    fn start_worker(&mut self, slot: usize) -> Result<(), CliError> {
        let starts = self.slots[slot].starts;
        let address = &self.endpoint.address;
        let launch = self.topology.worker(address, slot, starts);
        let started = launch.start()?;
        self.slots[slot].starts += 1;
        self.slots[slot].leaving = false;
        self.slots[slot].leash = Some(started.leash);
        let lines = started.stdout.map(|stdout| BufReader::new(stdout).lines());
        self.exits
            .spawn(wait(Role::Worker(slot), started.process, lines));
        Ok(())
    }

    /// The loop: one event, one decision, until no child is left.
    async fn serve(
        &mut self,
        signals: &mut Signals,
        progress: &mut Progress,
    ) -> Result<Option<RunEnd>, CliError> {
        let mut watcher = Watcher::new(&self.endpoint.address, &self.topology.folder)?;
        let mut tick = tokio::time::interval(LINE_EVERY);
        loop {
            let deadline = self.deadline();
            tokio::select! {
                exited = self.exits.join_next() => match exited {
                    Some(Ok(exited)) => self.exited(exited, progress)?,
                    Some(Err(error)) => return Err(lost(error)),
                    None => break,
                },
                event = watcher.next() => self.reported(&event, progress)?,
                () = signals.next() => self.signalled(progress),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    progress.note("the deadline for ending passed; killing what is left");
                    self.kill_all();
                }
                _ = tick.tick() => progress.tick(),
            }
        }
        let (peak_memory_bytes, tax) = (self.peak_memory_bytes, self.tax);
        let end = self.result.take().transpose()?;
        Ok(end.map(|end| RunEnd {
            peak_memory_bytes,
            tax,
            ..end
        }))
    }

    fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Stopping(deadline) | Phase::Closing(deadline) => Some(deadline),
            Phase::Training | Phase::Killed => None,
        }
    }

    /// The first signal stops the run at a step boundary; the second kills everything.
    fn signalled(&mut self, progress: &Progress) {
        if let (Phase::Training, Some(coordinator)) = (&self.phase, &self.coordinator) {
            progress.note("stopping at the next step boundary; again to end at once");
            coordinator.signal(Signal::SIGTERM);
            self.phase = Phase::Stopping(Instant::now() + STOP_TIMEOUT);
        } else {
            self.kill_all();
        }
    }

    fn kill_all(&mut self) {
        self.phase = Phase::Killed;
        let workers = self.slots.iter().filter_map(|slot| slot.leash.as_ref());
        for leash in workers.chain(&self.coordinator) {
            leash.signal(Signal::SIGKILL);
        }
    }

    fn exited(&mut self, exited: Exited, progress: &Progress) -> Result<(), CliError> {
        let status = exited.status.map_err(lost)?;
        match exited.role {
            Role::Coordinator => self.coordinator_exited(status, exited.last_line, progress)?,
            Role::Worker(slot) => {
                let said = exited.last_line.as_deref().map(serde_json::from_str);
                if let Some(Ok(WorkerEnd {
                    peak_memory_bytes,
                    tax,
                })) = said
                {
                    self.peak_memory_bytes = self.peak_memory_bytes.max(peak_memory_bytes);
                    if tax.share() > self.tax.and_then(|tax| tax.share()) {
                        self.tax = Some(tax);
                    }
                }
                self.worker_exited(slot, status, progress)?;
            }
        }
        Ok(())
    }

    /// A coordinator that was killed is started again where it was: the workers train on meanwhile.
    fn coordinator_exited(
        &mut self,
        status: ExitStatus,
        last_line: Option<String>,
        progress: &Progress,
    ) -> Result<(), CliError> {
        let Some(leash) = self.coordinator.take() else {
            return Ok(());
        };
        if matches!(self.phase, Phase::Killed) {
            return Ok(());
        }
        let killed = status.code().is_none() && matches!(self.phase, Phase::Training);
        if killed && let Decision::Restart(reason) = self.coordinators.died(self.step) {
            progress.note(&format!("{}; {reason}", leash.error(status)));
            return self.restart_coordinator();
        }
        self.phase = Phase::Closing(Instant::now() + CLOSE_TIMEOUT);
        let end = last_line.and_then(|line| serde_json::from_str(&line).ok());
        if end.is_none() {
            // Nobody will tell the workers that the run is over, and nothing waits for them.
            self.kill_all();
        }
        self.result
            .get_or_insert_with(|| end.ok_or_else(|| leash.error(status)));
        Ok(())
    }

    /// Starts a coordinator where the last one was; whoever looks for it finds it once it listens.
    fn restart_coordinator(&mut self) -> Result<(), CliError> {
        let port = |address: &str| {
            let address: SocketAddr = address.parse().map_err(lost)?;
            Ok::<_, CliError>(address.port())
        };
        let ports = (port(&self.endpoint.address)?, port(&self.endpoint.admin)?);
        let started = self.topology.coordinator(Some(ports)).start()?;
        self.coordinator = Some(started.leash);
        let lines = started.stdout.map(|stdout| BufReader::new(stdout).lines());
        self.exits
            .spawn(wait(Role::Coordinator, started.process, lines));
        Ok(())
    }

    /// A worker that died while the run goes on is started again, within reason.
    fn worker_exited(
        &mut self,
        slot: usize,
        status: ExitStatus,
        progress: &Progress,
    ) -> Result<(), CliError> {
        let Some(leash) = self.slots[slot].leash.take() else {
            return Ok(());
        };
        if !matches!(self.phase, Phase::Training) {
            return Ok(());
        }
        if status.success() || status.code() == Some(Exit::Stopped.code().into()) {
            // Sent home by the coordinator, or drained by somebody: not ours to start again. When
            // the last one has gone, the coordinator is about to end.
            if self.slots.iter().all(|slot| slot.leash.is_none()) {
                self.phase = Phase::Stopping(Instant::now() + STOP_TIMEOUT);
            }
            return Ok(());
        }
        if self.alive() >= self.wanted {
            return Ok(());
        }
        let error = leash.error(status);
        match self.slots[slot].restarts.died(self.step) {
            Decision::Restart(reason) => {
                progress.note(&format!("{} died: {error}; {reason}", leash.role()));
                self.start_worker(slot)
            }
            Decision::GiveUp(reason) => {
                progress.note(&format!("{} is given up: {reason}", leash.role()));
                if self.slots.iter().all(|slot| slot.leash.is_none()) {
                    self.result = Some(Err(error));
                    self.kill_all();
                }
                Ok(())
            }
        }
    }

    fn reported(&mut self, event: &Event, progress: &mut Progress) -> Result<(), CliError> {
        if let Event::Status(status) = event {
            self.scale(status)?;
        }
        if let Event::Step(worker) = event {
            let applied = worker.step.as_ref().map_or(0, |step| step.step);
            self.step = self.step.max(Step(applied));
        }
        progress.apply(event);
        if self.kill_at.is_some_and(|at| self.step >= at) {
            self.kill_at = None;
            self.kill_one(progress);
        }
        Ok(())
    }

    fn alive(&self) -> usize {
        let alive = self.slots.iter().filter(|slot| slot.leash.is_some());
        alive.count()
    }

    /// Has as many workers as the run is to have: starts what is missing at once, and asks those to
    /// leave that have become spare.
    fn scale(&mut self, status: &RunStatus) -> Result<(), CliError> {
        let wanted = status.max_workers as usize;
        if !matches!(self.phase, Phase::Training) || wanted == 0 {
            return Ok(());
        }
        let grows = wanted > std::mem::replace(&mut self.wanted, wanted);
        self.topology.workers = status.max_workers;
        while grows && self.alive() < wanted {
            let free = self.slots.iter().position(|slot| slot.leash.is_none());
            let slot = free.unwrap_or(self.slots.len());
            if free.is_none() {
                self.slots.push(Slot::default());
            }
            self.start_worker(slot)?;
        }
        let spare = |slot: &&mut Slot| {
            let role = slot.leash.as_ref().map(Leash::role);
            let is = |w: &WorkerStatus| role == Some(&w.worker_id) && w.state == "spare";
            status.phase == "training" && !slot.leaving && status.workers.iter().any(is)
        };
        let leaving = self.slots.iter().filter(|slot| slot.leaving).count();
        let surplus = self.alive().saturating_sub(wanted + leaving);
        for slot in self.slots.iter_mut().filter(spare).take(surplus) {
            slot.leaving = true;
            if let Some(leash) = &slot.leash {
                leash.signal(Signal::SIGTERM);
            }
        }
        Ok(())
    }

    /// The demonstration: the last rank dies without warning.
    fn kill_one(&self, progress: &Progress) {
        let alive = |slot: &&Slot| slot.leash.is_some();
        let rank = |slot: &&Slot| slot.leash.as_ref().and_then(|l| progress.rank_of(l.role()));
        let victim = self.slots.iter().filter(alive).max_by_key(rank);
        if let Some(leash) = victim.and_then(|slot| slot.leash.as_ref()) {
            progress.note(&format!(
                "killing {} at step {}, as asked",
                leash.role(),
                self.step
            ));
            leash.signal(Signal::SIGKILL);
        }
    }
}

/// Waits for the end of a child, reading its standard output to the end first.
async fn wait(
    role: Role,
    mut process: Child,
    mut lines: Option<Lines<BufReader<ChildStdout>>>,
) -> Exited {
    let mut last_line = None;
    while let Some(line) = first_line(&mut lines).await {
        last_line = Some(line);
    }
    Exited {
        role,
        status: process.wait().await,
        last_line,
    }
}

async fn first_line(lines: &mut Option<Lines<BufReader<ChildStdout>>>) -> Option<String> {
    lines.as_mut()?.next_line().await.ok().flatten()
}

fn lost(error: impl std::fmt::Display) -> CliError {
    CliError::refused(ErrorKind::Internal, "supervisor", error, "please report it")
}
