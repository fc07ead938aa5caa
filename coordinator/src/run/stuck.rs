//! A rank that is stuck while its links live: only the coordinator can tell it from those that wait for
//! it, by what each says it is at.
//!
//! Work of its own that takes a rank far longer than ever is an accusation. Waiting for rows is not:
//! a store that is away stalls the step, visibly, and nobody is the better for a new generation.

use ringmaster_proto::WorkerId;
use ringmaster_proto::v1::{Activity, Alive, StepDone};

use super::machine::RunMachine;
use super::membership::Worker;
use super::phase::Phase;
use super::{Level, Millis};

/// Steps after which it is known how long a worker takes: the first ones compile kernels and fill
/// caches.
const LEARNED: u64 = 3;

/// How many times its longest a rank may take.
const PATIENCE: f64 = 4.0;

/// What the longest is worth a step later, so that a single slow step is forgotten within some hundred.
const FADING: f64 = 0.99;

/// Ranks described in a report; of a very large world the rest only wait.
const DESCRIBED_MAX: usize = 8;

/// How long one worker's own part of a step takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usual {
    steps: u64,
    longest: f64,
}

impl Usual {
    /// A step is done.
    pub(super) fn learn(&mut self, done: &StepDone) {
        let own = done.step_seconds - done.data_seconds - done.exposed_seconds;
        self.steps += 1;
        if self.steps >= LEARNED {
            self.longest = own.max(self.longest * FADING);
        }
    }

    /// How long its own work may take, milliseconds.
    fn limit(&self, least_ms: u64, unknown_ms: u64) -> u64 {
        match self.steps {
            0..LEARNED => unknown_ms,
            _ => least_ms.max((PATIENCE * 1e3 * self.longest) as u64),
        }
    }
}

/// What a worker was at when it was last heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doing {
    pub(super) activity: Activity,
    step: u64,
    since: Millis,
    heard: Millis,
}

impl Doing {
    fn new(now: Millis, alive: &Alive) -> Self {
        let milliseconds = (alive.seconds.max(0.0) * 1e3) as u64;
        Self {
            activity: alive.activity(),
            step: alive.step,
            since: Millis(now.0.saturating_sub(milliseconds)),
            heard: now,
        }
    }

    /// How long it had been at it when it was heard, seconds.
    pub(super) fn seconds(&self) -> f64 {
        (self.heard.0 - self.since.0) as f64 / 1e3
    }

    /// For people.
    pub(super) fn name(&self) -> &'static str {
        match self.activity {
            Activity::Unspecified => "waiting for the coordinator",
            Activity::Form => "forming",
            Activity::Data => "waiting for rows",
            Activity::Compute => "computing",
            Activity::Reduce => "waiting for other ranks",
            Activity::Update => "updating",
            Activity::Save => "saving",
            Activity::Answer => "answering a question",
        }
    }

    /// How long a rank that trains may be at it, milliseconds; `None`: for ever.
    fn limit(&self, usual: Usual, least_ms: u64, unknown_ms: u64) -> Option<u64> {
        match self.activity {
            Activity::Data => None,
            Activity::Compute | Activity::Reduce | Activity::Update => {
                Some(usual.limit(least_ms, unknown_ms))
            }
            _ => Some(unknown_ms),
        }
    }
}

impl RunMachine {
    /// A sign of life says what a worker is at.
    pub(super) fn on_alive(&mut self, now: Millis, id: &WorkerId, alive: &Alive) {
        if let Some(worker) = self.workers.get_mut(id) {
            worker.doing = Some(Doing::new(now, alive));
        }
    }

    /// Whether a rank is over its limit: it is removed, and the generation ends. When all wait for each
    /// other nobody can be named, and the generation ends all the same.
    pub(super) fn look_for_the_stuck(&mut self, now: Millis) {
        let least = self.config.timing.stuck_ms;
        if !matches!(self.phase, Phase::Training) || self.pace.moves(now, least) {
            return;
        }
        let over: Vec<(WorkerId, Doing, u64)> = self
            .members
            .iter()
            .filter_map(|id| {
                let worker = self.workers.get(id)?;
                let doing = worker.doing?;
                let limit = doing.limit(worker.usual, least, self.config.timing.unknown_ms)?;
                // Before it was let train it may have waited for hours to be told.
                let since = doing.since.max(worker.asked);
                let is_over = doing.heard >= since.after(limit);
                is_over.then(|| (id.clone(), doing, limit))
            })
            .collect();
        // Who waits for what others have left behind has it, and does not go on.
        let highest = over.iter().map(|(_, doing, _)| doing.step).max();
        let waits =
            |doing: &Doing| doing.activity == Activity::Reduce && Some(doing.step) == highest;
        let all_wait = over.len() == self.members.len() && over.iter().all(|(_, d, _)| waits(d));
        let stuck: Vec<_> = over.iter().filter(|(_, d, _)| !waits(d)).collect();
        if stuck.is_empty() && !all_wait {
            return self.tell_of_starvation(now);
        }
        let report = self.hang_report();
        self.log(Level::Error, report.clone());
        for (id, _, limit) in stuck {
            self.remove(
                id,
                format!("it is stuck, over its limit of {limit} ms: {report}"),
            );
        }
        self.fence(now, format!("no step within the limits: {report}"), "stuck");
    }

    /// A worker that owes an answer, to a fence or to a welcome, and whose thread is at something else for
    /// longer than it may be: it keeps its lease, so nobody else would ever let it go, and whoever could
    /// take its place may be waiting for it to end.
    pub(super) fn look_for_those_that_do_not_answer(&mut self, now: Millis) {
        let timing = &self.config.timing;
        let (least, unknown) = (timing.stuck_ms, timing.unknown_ms);
        let (current, running) = (self.generation, self.phase.running());
        let owes = |worker: &Worker| match worker.bound {
            Some(bound) => bound < current || !running,
            None => worker.ring_address.is_none(),
        };
        let silent: Vec<(WorkerId, String)> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.session.is_some() && owes(worker))
            .filter_map(|(id, worker)| {
                let doing = worker.doing.filter(|d| d.activity != Activity::Unspecified)?;
                let limit = doing.limit(worker.usual, least, unknown)?;
                let (what, step, seconds) = (doing.name(), doing.step, doing.seconds());
                let text = format!(
                    "it does not answer: it has been {what} at step {step} for {seconds:.1} s, over \
                     its limit of {limit} ms"
                );
                // A thread that does not hang answers at once.
                let had_time = doing.heard >= worker.asked.after(least);
                let is_over = had_time && doing.heard >= doing.since.after(limit);
                is_over.then(|| (id.clone(), text))
            })
            .collect();
        for (id, text) in silent {
            self.log(
                Level::Error,
                format!("{} is stuck: {text}", self.named(&id)),
            );
            self.remove(&id, text);
            self.settle(now);
        }
    }

    /// The run waits for rows: said where people look.
    fn tell_of_starvation(&mut self, now: Millis) {
        let least = self.config.timing.stuck_ms;
        let starved = |id: &&WorkerId| {
            let doing = self.workers.get(*id).and_then(|worker| worker.doing);
            doing.is_some_and(|d| d.activity == Activity::Data && now >= d.since.after(least))
        };
        let Some(id) = self.members.iter().find(starved) else {
            return;
        };
        let reason = format!(
            "{} waits for rows: is the store away? No worker is to blame, so training goes on \
             when they come",
            self.named(id)
        );
        self.explain(reason, false);
    }

    /// What every rank is at, those that wait for others last.
    fn hang_report(&self) -> String {
        let mut all: Vec<(bool, String)> = self
            .members
            .iter()
            .map(|id| {
                let name = self.named(id);
                match self.workers.get(id).and_then(|worker| worker.doing) {
                    None => (false, format!("{name} has not said what it is at")),
                    Some(doing) => {
                        let (what, step, seconds) = (doing.name(), doing.step, doing.seconds());
                        let text =
                            format!("{name} has been {what} at step {step} for {seconds:.1} s");
                        (doing.activity == Activity::Reduce, text)
                    }
                }
            })
            .collect();
        all.sort_by_key(|(waits, _)| *waits);
        let more = all.len().saturating_sub(DESCRIBED_MAX);
        let mut described: Vec<String> = all.into_iter().map(|(_, text)| text).collect();
        described.truncate(DESCRIBED_MAX);
        let rest = match more {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        described.join("; ") + &rest
    }
}
