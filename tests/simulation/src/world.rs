//! The loop: events in the order of their times, one owner of everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringmaster_dataset::Store;
use ringmaster_proto::v1::{Directive, WorkerReport};
use ringmaster_proto::{RunSpec, WorkerId};

use crate::faults::{Fault, UNTIL};
use crate::network::Stream;
use crate::office::Office;
use crate::oracle::{Oracle, Violation};
use crate::process::{Happening, Process, is_routine};
use crate::random::Random;
use crate::ring::Ring;
use crate::store::FlakyStore;
use crate::{Options, Sabotage};

/// Milliseconds since the simulation began.
pub(crate) type Ms = u64;

/// A run that has not ended by then never will: the longest deadline of the control plane is the ten
/// minutes after which a worker hangs of which nothing is known, and another may hang after it.
const PATIENCE: Ms = UNTIL + 2_000_000;

/// The run's root in the store.
pub(crate) const RUN: &str = "run";

/// How often the supervisors of this world look whether a coordinator is missing.
const SUPERVISION: Ms = 1_000;

/// Longest line of a trace.
const TRACED_MAX: usize = 240;

/// A coordinator process, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OfficeId(pub usize);

/// A worker process, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId(pub usize);

/// A stream, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamId(pub usize);

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Event {
    OfficeOpens(OfficeId),
    OfficeTicks(OfficeId),
    OfficeWrites(OfficeId),
    OfficeMisses(StreamId),
    WorkerMisses(StreamId),
    Report(StreamId, Box<WorkerReport>),
    Directive(StreamId, Box<Directive>),
    Breaks(StreamId),
    Worker(ProcessId, Happening),
    ProcessStarts(WorkerId),
    Silent(ProcessId),
    Dies(ProcessId),
    StoreReturns,
    Fails(Fault),
    Supervision,
}

/// What a run is, drawn from the seed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) spec: RunSpec,
    pub(crate) steps: u64,
    pub(crate) lanes: u32,
    pub(crate) checkpoint_every: u64,
    pub(crate) digest_every: u64,
}

/// What a run that ended well was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Events until the end.
    pub events: u64,
    /// Virtual time until the end.
    pub milliseconds: Ms,
    /// Steps of the run.
    pub steps: u64,
    /// Coordinators that were started.
    pub coordinators: usize,
    /// Rings that were formed or tried.
    pub rings: usize,
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) random: Random,
    pub(crate) now: Ms,
    pub(crate) store: FlakyStore,
    pub(crate) root: Store,
    pub(crate) offices: Vec<Office>,
    pub(crate) processes: Vec<Process>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) rings: Vec<Ring>,
    pub(crate) oracle: Oracle,
    pub(crate) finished: bool,
    trace: bool,
    names: usize,
    events: BTreeMap<(Ms, u64), Event>,
    sequence: u64,
}

/// Simulates one run.
///
/// # Errors
/// [`Violation`]: the first thing that must not have happened.
pub fn simulate(options: Options) -> Result<Summary, Violation> {
    let mut world = World::new(options);
    let mut events = 0;
    while let Some(((at, _), event)) = world.events.pop_first() {
        world.now = at;
        events += 1;
        world.handle(event);
        if let Some(violation) = world.oracle.violation() {
            return Err(violation.clone());
        }
        if world.finished {
            break;
        }
        if world.now > PATIENCE {
            let recorded = world.oracle.recorded();
            let text = format!("the run stands at step {recorded} for ever");
            return Err(Violation(text));
        }
    }
    world.oracle.close();
    if let Some(violation) = world.oracle.violation() {
        return Err(violation.clone());
    }
    Ok(Summary {
        events,
        milliseconds: world.now,
        steps: world.plan.steps,
        coordinators: world.offices.len(),
        rings: world.rings.len(),
    })
}

impl World {
    fn new(options: Options) -> Self {
        let mut random = Random::new(options.seed);
        let plan = Plan::draw(&mut random);
        let ambiguous = random.choose(&[0, 0, 3, 10]).unwrap_or(0);
        let overwrites = options.sabotage == Some(Sabotage::CreateOverwrites);
        let store = FlakyStore::new(Random::new(random.bits()), ambiguous, overwrites);
        let mut world = Self {
            sabotage: options.sabotage,
            now: 0,
            root: Store::over(Arc::new(store.clone())).child(RUN),
            store,
            offices: Vec::new(),
            processes: Vec::new(),
            streams: Vec::new(),
            rings: Vec::new(),
            oracle: Oracle::new(plan.steps, plan.lanes),
            finished: false,
            trace: options.trace,
            names: 0,
            events: BTreeMap::new(),
            sequence: 0,
            plan,
            random,
        };
        world.draw_faults();
        world.at(UNTIL, Event::StoreReturns);
        world.start_office();
        world.at(SUPERVISION, Event::Supervision);
        let least = u64::from(world.plan.spec.membership.min_workers);
        for _ in 0..world.random.within(least..5) {
            let name = world.new_name();
            world.start_process(name);
        }
        world
    }

    /// Something is to happen at a time.
    pub(crate) fn at(&mut self, at: Ms, event: Event) {
        self.sequence += 1;
        self.events.insert((at.max(self.now), self.sequence), event);
    }

    /// Something is to happen after a while.
    pub(crate) fn after(&mut self, delay: Ms, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Something is to happen to a worker after a while.
    pub(crate) fn happens(&mut self, delay: Ms, id: ProcessId, happening: Happening) {
        self.after(delay, Event::Worker(id, happening));
    }

    /// A name that no process had.
    pub(crate) fn new_name(&mut self) -> WorkerId {
        self.names += 1;
        let name = format!("w{}", self.names);
        // A letter and a number are a name.
        WorkerId::new(&name).unwrap_or_else(|| unreachable!("{name} is a name"))
    }

    /// Prints a line if somebody wants to read.
    pub(crate) fn trace(&self, text: impl FnOnce() -> String) {
        if self.trace {
            let text: String = text().chars().take(TRACED_MAX).collect();
            println!("{:>8} ms  {text}", self.now);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::OfficeOpens(id) => self.open_office(id),
            Event::OfficeTicks(id) => self.tick_office(id),
            Event::OfficeWrites(id) => self.office_writes(id),
            Event::OfficeMisses(stream) => self.office_misses(stream),
            Event::Report(stream, report) => {
                if !is_routine(&report) {
                    let worker = self.streams[stream.0].process;
                    self.trace(|| format!("{worker:?} says {report:?}"));
                }
                self.office_receives(stream, *report);
            }
            Event::Breaks(stream) => self.break_stream(stream),
            Event::WorkerMisses(stream) => {
                let id = self.streams[stream.0].process;
                if !self.deferred(id, || Event::WorkerMisses(stream)) {
                    self.worker_misses(stream);
                }
            }
            Event::Directive(stream, directive) => {
                let id = self.streams[stream.0].process;
                let until = self.processes[id.0].paused_until;
                if self.now < until {
                    return self.at(until, Event::Directive(stream, directive));
                }
                if self.processes[id.0].alive {
                    self.trace(|| format!("{id:?} hears {directive:?}"));
                    self.worker_hears(stream, *directive);
                }
            }
            Event::Worker(id, happening) => {
                if self.processes[id.0].alive && !self.deferred(id, || Event::Worker(id, happening))
                {
                    if !matches!(happening, Happening::Beats) {
                        self.trace(|| format!("{id:?}: {happening:?}"));
                    }
                    self.process_event(id, happening);
                }
            }
            Event::ProcessStarts(name) => self.start_process(name),
            Event::Silent(id) => {
                if self.now < self.processes[id.0].paused_until {
                    self.accuse(id);
                }
            }
            Event::Dies(id) => self.kill_process(id),
            Event::StoreReturns if self.now >= UNTIL => self.store.heal(),
            Event::StoreReturns => self.store.set_away(false),
            Event::Fails(fault) => self.fail(fault),
            Event::Supervision => self.supervise(),
        }
    }

    /// A stopped process lives through everything later.
    fn deferred(&mut self, id: ProcessId, event: impl FnOnce() -> Event) -> bool {
        let until = self.processes[id.0].paused_until;
        let stopped = self.now < until;
        if stopped {
            self.at(until, event());
        }
        stopped
    }

    /// A coordinator that died is started again, here or elsewhere.
    fn supervise(&mut self) {
        self.after(SUPERVISION, Event::Supervision);
        let alive = self.offices.iter().any(|office| office.alive);
        if !alive && (self.now > UNTIL || !self.random.once_in(3)) {
            self.start_office();
        }
    }

    /// The ranks of a ring notice that one of them is gone.
    pub(crate) fn break_ring_at(&mut self, ring: usize, rank: u32) {
        let generation = self.rings[ring].form.generation.0;
        if self.rings[ring].broken.is_some() {
            return;
        }
        self.rings[ring].broken = Some(rank);
        for (other, member) in self.rings[ring].members.clone() {
            if other != rank {
                let delay = self.random.within(1..400);
                self.happens(delay, member, Happening::LosesLink(generation, rank));
            }
        }
    }
}

impl Plan {
    /// What a run of the simulation is.
    pub(crate) fn draw(random: &mut Random) -> Self {
        let steps = random.within(8..60);
        let lanes = u32::try_from(random.within(4..9)).unwrap_or(4);
        let checkpoint_every = random.within(2..16);
        let digest_every = random.within(1..5);
        let min_workers = random.within(1..3);
        let overrides = [
            "run.name=t".to_owned(),
            format!("data.lanes={lanes}"),
            format!("membership.min_workers={min_workers}"),
            "membership.max_workers=4".to_owned(),
            "membership.join_window=\"1s\"".to_owned(),
        ];
        // The text above is ours, and every value is within its limits.
        let spec = RunSpec::parse("", &overrides)
            .unwrap_or_else(|error| unreachable!("a run file of ours: {error}"));
        Self {
            spec,
            steps,
            lanes,
            checkpoint_every,
            digest_every,
        }
    }
}
