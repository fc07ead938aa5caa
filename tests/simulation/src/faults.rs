//! What goes wrong, when, and to whom.

use futures::FutureExt;
use ringmaster_coordinator::stored_checkpoints;
use ringmaster_proto::keys;
use ringmaster_proto::v1::Activity;

use crate::process::Happening;
use crate::random::Random;
use crate::world::{Event, Ms, OfficeId, ProcessId, RUN, World};

/// Faults happen until then; from then on a run must come to its end.
pub(crate) const UNTIL: Ms = 60_000;

/// How long a stopped rank is silent before its neighbours accuse it.
const SILENCE: Ms = 3_000;

/// Something that goes wrong. Who it hits is drawn when it happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// A worker is killed.
    KillWorker,
    /// Two workers are killed at once.
    KillTwoWorkers,
    /// Every worker is killed at once.
    KillAllWorkers,
    /// The coordinator is killed.
    KillOffice,
    /// The coordinator and a worker are killed at once.
    KillOfficeAndWorker,
    /// Another coordinator starts though one serves.
    SecondOffice,
    /// A worker is asked to end.
    Drain,
    /// A worker is asked to end and killed a moment later.
    DrainAndKill,
    /// A worker more.
    Join,
    /// A worker is stopped and goes on later (SIGSTOP, SIGCONT).
    Pause(Ms),
    /// A link of the ring is reset.
    ResetLink,
    /// A control stream breaks.
    BreakStream,
    /// Nothing gets through between a worker and its coordinator.
    Partition(Ms),
    /// The store is away.
    Outage(Ms),
    /// A bit of a rank's state flips, and nothing says so.
    Corrupt,
    /// A worker's trainer thread does nothing any more, while its links and its stream live.
    Hang,
    /// What is saved is no longer what was written.
    Damage(Damage),
}

/// Which checkpoints are damaged, and who could do without them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Damage {
    /// The newest; workers train on.
    Newest,
    /// The newest, and every worker is killed.
    NewestIsNeeded,
    /// All, and every worker is killed.
    AllAreNeeded,
}

impl Fault {
    /// One fault.
    fn draw(random: &mut Random) -> Self {
        let while_ms = random.within(50..14_000);
        match random.within(0..24) {
            0..=3 => Self::KillWorker,
            4 => Self::KillTwoWorkers,
            5 => Self::KillAllWorkers,
            6 | 7 => Self::KillOffice,
            8 => Self::KillOfficeAndWorker,
            9 => Self::SecondOffice,
            10 => Self::Drain,
            11 => Self::DrainAndKill,
            12 => Self::Join,
            13 => Self::Pause(while_ms),
            14 => Self::ResetLink,
            15 => Self::BreakStream,
            16 => Self::Partition(while_ms),
            17 | 18 => Self::Hang,
            19 => Self::Damage(Damage::Newest),
            20 | 21 => Self::Damage(Damage::NewestIsNeeded),
            22 => Self::Damage(Damage::AllAreNeeded),
            _ => Self::Outage(while_ms),
        }
    }
}

impl World {
    /// Draws the faults of a run: none to eight. A corruption comes alone: of what it spoiled, another
    /// fault may leave nothing to compare it with.
    pub(crate) fn draw_faults(&mut self) {
        if self.random.once_in(8) {
            let at = self.random.within(4_000..20_000);
            return self.at(at, Event::Fails(Fault::Corrupt));
        }
        for _ in 0..self.random.within(0..9) {
            let at = self.random.within(500..UNTIL);
            let fault = Fault::draw(&mut self.random);
            self.at(at, Event::Fails(fault));
        }
    }

    /// A fault happens.
    pub(crate) fn fail(&mut self, fault: Fault) {
        self.trace(|| format!("fault: {fault:?}"));
        match fault {
            Fault::KillWorker => self.kill_workers(1),
            Fault::KillTwoWorkers => self.kill_workers(2),
            Fault::KillAllWorkers => self.kill_workers(usize::MAX),
            Fault::KillOffice => self.kill_an_office(),
            Fault::KillOfficeAndWorker => {
                self.kill_an_office();
                self.kill_workers(1);
            }
            Fault::SecondOffice => self.start_office(),
            Fault::Drain | Fault::DrainAndKill => {
                let Some(worker) = self.a_worker() else {
                    return;
                };
                self.drain(worker);
                if matches!(fault, Fault::DrainAndKill) {
                    let delay = self.random.within(1..2_000);
                    self.after(delay, Event::Dies(worker));
                }
            }
            Fault::Join => {
                let name = self.new_name();
                self.start_process(name);
            }
            Fault::Pause(milliseconds) => {
                let Some(worker) = self.a_worker() else {
                    return;
                };
                self.processes[worker.0].paused_until = self.now + milliseconds;
                if milliseconds > SILENCE {
                    self.after(SILENCE, Event::Silent(worker));
                }
            }
            Fault::ResetLink => {
                if let Some(worker) = self.a_worker() {
                    self.reset_link(worker);
                }
            }
            Fault::BreakStream => {
                let stream = self.a_worker().and_then(|w| self.processes[w.0].stream);
                if let Some(stream) = stream {
                    self.break_stream(stream);
                }
            }
            Fault::Partition(milliseconds) => {
                let stream = self.a_worker().and_then(|w| self.processes[w.0].stream);
                if let Some(stream) = stream {
                    self.stall_stream(stream, milliseconds);
                }
            }
            Fault::Corrupt => self.corrupt(),
            Fault::Hang => self.hang(),
            Fault::Damage(Damage::Newest) => self.damage(1),
            Fault::Damage(Damage::NewestIsNeeded) => {
                self.damage(1);
                self.kill_workers(usize::MAX);
            }
            Fault::Damage(Damage::AllAreNeeded) => {
                self.damage(usize::MAX);
                self.kill_workers(usize::MAX);
            }
            Fault::Outage(milliseconds) => {
                self.store.set_away(true);
                self.after(milliseconds, Event::StoreReturns);
            }
        }
    }

    fn a_worker(&mut self) -> Option<ProcessId> {
        let alive: Vec<ProcessId> = (0..self.processes.len())
            .map(ProcessId)
            .filter(|id| self.processes[id.0].alive)
            .collect();
        self.random.choose(&alive)
    }

    fn kill_workers(&mut self, count: usize) {
        for _ in 0..count {
            let Some(worker) = self.a_worker() else { break };
            self.kill_process(worker);
        }
    }

    fn kill_an_office(&mut self) {
        let alive: Vec<OfficeId> = (0..self.offices.len())
            .map(OfficeId)
            .filter(|id| self.offices[id.0].alive)
            .collect();
        if let Some(office) = self.random.choose(&alive) {
            self.kill_office(office);
        }
    }

    /// Of what a thread is at: one that waits for a command is at nothing.
    fn hang(&mut self) {
        let Some(worker) = self.a_worker() else {
            return;
        };
        let process = &mut self.processes[worker.0];
        process.hung |= process.doing.0 != Activity::Unspecified;
    }

    /// A lone rank has nobody to be compared with.
    fn corrupt(&mut self) {
        let Some(worker) = self.a_worker() else {
            return;
        };
        let process = &mut self.processes[worker.0];
        let ring = process.active.as_ref().map(|active| active.ring);
        let Some(state) = process.state.as_mut() else {
            return;
        };
        if ring.is_some_and(|ring| self.rings[ring].world() > 1) {
            state.digest ^= 1 << 17;
            self.oracle.corrupted();
        }
    }

    /// Of each of the newest `count` checkpoints a part is spoiled, cut short or lost.
    fn damage(&mut self, count: usize) {
        let root = self.store.steady().child(RUN);
        let Some(Ok(stored)) = stored_checkpoints(&root).now_or_never() else {
            return self.oracle.object("looking at checkpoints waited");
        };
        for manifest in stored.complete.iter().rev().take(count) {
            let keys: Vec<&str> = manifest.parts.iter().map(|p| p.key.as_str()).collect();
            let Some(key) = self.random.choose(&keys) else {
                continue;
            };
            let Some(Ok(bytes)) = root.get(key).now_or_never() else {
                continue;
            };
            let mut bytes = bytes.to_vec();
            let how = self.random.within(0..3);
            match how {
                0 => bytes[0] ^= 1,
                _ => bytes.truncate(7),
            }
            let done = match how {
                2 => root.delete(key).now_or_never(),
                _ => root.put(key, bytes.into()).now_or_never(),
            };
            if !matches!(done, Some(Ok(()))) {
                self.oracle.object("damaging a checkpoint failed");
            }
            let folder = keys::checkpoint(manifest.generation, manifest.step, &manifest.digest);
            self.trace(|| format!("damaged: {folder}"));
            self.oracle
                .damaged(folder, manifest.generation, manifest.step);
        }
    }

    /// The link from a worker to the next: both of its ends notice.
    fn reset_link(&mut self, worker: ProcessId) {
        let Some(active) = self.processes[worker.0].active.clone() else {
            return;
        };
        let world = self.rings[active.ring].world();
        if world > 1 {
            let next = (active.form.rank.0 + 1) % world;
            self.loses_link(worker, active.form.generation.0, next);
            self.break_ring_at(active.ring, active.form.rank.0);
        }
    }

    /// The neighbours of a silent rank close their links to it, which it finds out later.
    pub(crate) fn accuse(&mut self, worker: ProcessId) {
        let Some(active) = self.processes[worker.0].active.clone() else {
            return;
        };
        let world = self.rings[active.ring].world();
        if world > 1 {
            let next = (active.form.rank.0 + 1) % world;
            self.break_ring(worker);
            let lost = Happening::LosesLink(active.form.generation.0, next);
            self.happens(1, worker, lost);
        }
    }
}
