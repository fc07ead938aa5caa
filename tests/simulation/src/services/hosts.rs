//! The hosts of one run, what they share, and the loop that moves them on together.

use std::cell::{Cell, RefCell, RefMut};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use ringmaster_coordinator::StepLine;
use ringmaster_coordinator::record::Record;
use ringmaster_dataset::Store;
use ringmaster_proto::auth::RunToken;
use ringmaster_proto::{WorkerId, keys};
use turmoil::{Builder, Sim};

use super::faults::{Faults, UNTIL};
use super::ring::Rings;
use super::{office, worker};
use crate::Options;
use crate::oracle::{Oracle, Violation};
use crate::random::{Random, mix};
use crate::store::FlakyStore;
use crate::world::{Ms, Plan, ProcessId, RUN};

/// Hosts that a coordinator may run on.
pub(crate) const OFFICES: [&str; 2] = ["c0", "c1"];

/// How far one host runs before the next does: the resolution of everything.
const TICK: Duration = Duration::from_millis(10);

/// How long a message may be under way.
const LATENCY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(30));

/// How often the supervisors of this world look.
const SUPERVISION: Ms = 100;

/// A run that has not ended by then never will.
const PATIENCE: Ms = UNTIL + 240_000;

/// What a run that ended well was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Virtual time until the end.
    pub milliseconds: Ms,
    /// Steps of the run.
    pub steps: u64,
    /// Coordinators that were started.
    pub coordinators: usize,
    /// blake3 of every line of the trace until the run is complete. Who hears of that first is not drawn
    /// from the seed, nor who hears first that an earlier coordinator has ended: tokio wakes the
    /// connections of a server that ends in an order of its own.
    pub trace: String,
}

/// What the hosts of a run share. One thread runs them in turn.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) store: FlakyStore,
    pub(crate) root: Store,
    pub(crate) token: RunToken,
    /// Two coordinators may live at once: each has records of its own.
    pub(crate) contended: bool,
    oracle: RefCell<Oracle>,
    rings: RefCell<Rings>,
    /// What the dice of each process are made of.
    seed: u64,
    folder: tempfile::TempDir,
    processes: Cell<usize>,
    coordinators: Cell<usize>,
    finished: Cell<bool>,
    now: Cell<Ms>,
    prints: bool,
    told: RefCell<blake3::Hasher>,
    /// The run is complete, and everybody is being told.
    complete: Cell<bool>,
}

/// Chance, for one process alone: what others do does not change what it draws.
pub(crate) struct Dice(RefCell<Random>);

impl Dice {
    pub(crate) fn number(&self, range: Range<u64>) -> u64 {
        self.0.borrow_mut().within(range)
    }

    /// Some milliseconds.
    pub(crate) fn within(&self, milliseconds: Range<u64>) -> Duration {
        Duration::from_millis(self.number(milliseconds))
    }

    pub(crate) fn once_in(&self, n: u64) -> bool {
        self.0.borrow_mut().once_in(n)
    }

    pub(crate) fn choose<T: Copy>(&self, choices: &[T]) -> Option<T> {
        self.0.borrow_mut().choose(choices)
    }
}

impl World {
    fn new(options: Options) -> std::io::Result<Self> {
        let mut random = Random::new(options.seed);
        let mut plan = Plan::draw(&mut random);
        plan.steps = random.within(8..30);
        let ambiguous = random.choose(&[0, 0, 4]).unwrap_or(0);
        let store = FlakyStore::new(Random::new(random.bits()), ambiguous, false);
        Ok(Self {
            root: Store::over(Arc::new(store.clone())).child(RUN),
            store,
            token: RunToken::generate()?,
            contended: random.once_in(4),
            oracle: RefCell::new(Oracle::new(plan.steps, plan.lanes)),
            rings: RefCell::default(),
            seed: random.bits(),
            folder: tempfile::tempdir()?,
            processes: Cell::new(0),
            coordinators: Cell::new(0),
            finished: Cell::new(false),
            now: Cell::new(0),
            prints: options.trace,
            told: RefCell::new(blake3::Hasher::new()),
            complete: Cell::new(false),
            plan,
        })
    }

    pub(crate) fn oracle(&self) -> RefMut<'_, Oracle> {
        self.oracle.borrow_mut()
    }

    pub(crate) fn rings(&self) -> RefMut<'_, Rings> {
        self.rings.borrow_mut()
    }

    /// The dice of one process, or of one thing that goes wrong.
    pub(crate) fn dice(&self, of: u64) -> Dice {
        Dice(RefCell::new(Random::new(mix(self.seed ^ mix(of)))))
    }

    /// Something happened that must not.
    pub(crate) fn object(&self, what: impl Into<String>) {
        self.oracle().object(what);
    }

    /// The run is over.
    pub(crate) fn finish(&self) {
        self.finished.set(true);
    }

    /// The run is complete: nothing is decided any more.
    pub(crate) fn completes(&self) {
        self.complete.set(true);
    }

    /// A line of the trace.
    pub(crate) fn trace(&self, text: impl FnOnce() -> String) {
        let line = format!("{:>8} ms  {}\n", self.now.get(), text());
        if !self.complete.get() {
            self.told.borrow_mut().update(line.as_bytes());
        }
        if self.prints {
            print!("{}", line.chars().take(240).collect::<String>().trim_end());
            println!();
        }
    }

    /// A process that starts on a worker's host: under its name, or another.
    pub(crate) fn new_process(&self, host: usize) -> (ProcessId, WorkerId, Rc<Dice>) {
        let number = self.processes.replace(self.processes.get() + 1);
        let dice = Rc::new(self.dice(number as u64));
        let name = match dice.once_in(2) {
            true => format!("w{host}"),
            false => format!("w{host}-{number}"),
        };
        // Letters, numbers and a dash are a name.
        let name = WorkerId::new(&name).unwrap_or_else(|| unreachable!("{name} is a name"));
        (ProcessId(number), name, dice)
    }

    /// A coordinator starts.
    pub(crate) fn coordinator_starts(&self, host: usize) {
        self.coordinators.set(self.coordinators.get() + 1);
        self.trace(|| format!("coordinator {host} starts"));
    }

    /// Where a coordinator's records lie.
    pub(crate) fn records_of(&self, host: usize) -> PathBuf {
        let folder = match self.contended {
            true => self.folder.path().join(OFFICES[host]),
            false => self.folder.path().to_owned(),
        };
        if let Err(error) = std::fs::create_dir_all(&folder) {
            self.object(format!("{}: {error}", folder.display()));
        }
        folder.join("metrics.jsonl")
    }

    /// A worker heard of a generation: it has to be in the journal by now.
    pub(crate) fn heard_generation(&self, number: u64, members: Vec<String>) {
        for record in self.journal() {
            if let Record::Generation(record) = record {
                self.oracle().recorded_generation(record);
            }
        }
        self.oracle().heard_generation(number, &members);
    }

    fn journal(&self) -> Vec<Record> {
        let root = self.store.steady().child(RUN);
        let all = async {
            let mut records = Vec::new();
            for entry in root.list(keys::JOURNAL).await.ok()? {
                let bytes = root.get(&entry.key).await.ok()?;
                let mut record: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
                records.push(serde_json::from_value(record["record"].take()).ok()?);
            }
            Some(records)
        };
        let Some(Some(records)) = all.now_or_never() else {
            self.object("the journal cannot be read");
            return Vec::new();
        };
        records
    }

    /// The run is over: looks at what is on record.
    fn close(&self) {
        let hosts = match self.contended {
            true => 0..OFFICES.len(),
            false => 0..1,
        };
        for host in hosts {
            // Of two that live at once, each has what it heard, from its newest checkpoint on.
            let text = std::fs::read_to_string(self.records_of(host)).unwrap_or_default();
            let mut last = 0;
            for line in text.lines() {
                let Ok(line) = serde_json::from_str::<StepLine>(line) else {
                    return self.object(format!("a torn line on record: {line}"));
                };
                if line.step <= last || line.loss != self.oracle().loss(line.step) {
                    return self.object(format!("on record after step {last}: {line:?}"));
                }
                last = line.step;
                if !self.contended {
                    self.oracle().line(&line);
                }
            }
        }
        if !self.contended {
            self.oracle().close();
        }
    }
}

/// Simulates one run.
///
/// # Errors
/// [`Violation`]: the first thing that must not have happened.
pub fn simulate(options: Options) -> Result<Served, Violation> {
    let failed = |error: &dyn std::fmt::Display| Violation(error.to_string());
    let world = Rc::new(World::new(options).map_err(|error| failed(&error))?);
    let mut sim = Builder::new()
        .tick_duration(TICK)
        .min_message_latency(LATENCY.0)
        .max_message_latency(LATENCY.1)
        .rng_seed(options.seed)
        .build();
    let mut faults = Faults::draw(&world);
    for (number, name) in OFFICES.into_iter().enumerate() {
        let (world, serves) = (world.clone(), faults.serves[number].clone());
        sim.host(name, move || {
            let (world, serves) = (world.clone(), serves.get());
            async move {
                match serves {
                    true => office::live(world, number).await,
                    false => Ok(()),
                }
            }
        });
    }
    for (number, name) in faults.workers.iter().enumerate() {
        let world = world.clone();
        sim.host(name.as_str(), move || worker::live(world.clone(), number));
    }
    while !world.finished.get() {
        let now = milliseconds(&sim);
        world.now.set(now);
        faults.happen(now, &mut sim, &world);
        if now.is_multiple_of(SUPERVISION) {
            faults.supervise(now, &mut sim);
        }
        sim.step().map_err(|error| failed(&error))?;
        if let Some(violation) = world.oracle().violation() {
            return Err(violation.clone());
        }
        if now > PATIENCE {
            return Err(Violation("the run stands for ever".to_owned()));
        }
    }
    world.close();
    let trace = world.told.borrow().finalize().to_hex().to_string();
    match world.oracle().violation() {
        Some(violation) => Err(violation.clone()),
        None => Ok(Served {
            milliseconds: world.now.get(),
            steps: world.plan.steps,
            coordinators: world.coordinators.get(),
            trace,
        }),
    }
}

fn milliseconds(sim: &Sim<'_>) -> Ms {
    u64::try_from(sim.elapsed().as_millis()).unwrap_or(u64::MAX)
}
