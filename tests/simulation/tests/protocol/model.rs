//! What there is, and what can happen to it: store, journal and network.
//!
//! There is no clock: a deadline may pass at any time, a message may arrive at any later time or never,
//! and a process that does nothing any more is one that died.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringmaster_coordinator::CorpusFacts;
use ringmaster_coordinator::record::Record;
use ringmaster_proto::{Generation, Term};
use stateright::{Model, Property};

use crate::office::{Office, Phase};
use crate::rules::{PROPERTIES, REACHED};
use crate::worker::{Report, What, Worker};

/// Coordinators, one after the other or at once. Another start of one that died is one more.
pub(crate) const OFFICES: usize = 3;
/// Workers.
pub(crate) const WORKERS: usize = 2;

/// A guard that is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The store lets a second create through.
    CreateOverwrites,
    /// A coordinator whose record is there already does not look whose it is.
    TakesAnyRecordForItsOwn,
    /// FormRing goes out while the record is on its way.
    TellsBeforeItRecords,
    /// A worker obeys whatever term, and attends without saying which it knows.
    ComparesNoTerms,
    /// The trainer answers a fence and goes on.
    StepsOnAfterAFence,
    /// Who has not answered the fence is ranked all the same.
    RanksTheSilent,
    /// A bound worker's report that it is in no ring counts, however old it is.
    TakesOldWord,
}

/// One record, and who wrote it: its number is its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    /// The coordinator, by number; none: whoever created the run.
    pub(crate) writer: Option<usize>,
    pub(crate) record: Record,
}

/// Everything there is. Shared, since most of it is the same in the next state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) journal: Arc<Vec<Entry>>,
    pub(crate) offices: [Arc<Office>; OFFICES],
    pub(crate) workers: [Arc<Worker>; WORKERS],
    /// What workers ever said to a coordinator that may count on it; it arrives at any time, and again.
    pub(crate) reports: Arc<BTreeSet<Report>>,
    /// A record was changed.
    pub(crate) changed: bool,
    /// A coordinator met its own record and knew it.
    pub(crate) recognised: bool,
    /// See [`Protocol::accidents`].
    accidents: u8,
}

/// Something that can happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A coordinator starts, and reads the journal.
    Starts(usize),
    /// It tries to create the record that it waits for. `heard`: the store's answer arrives.
    Creates { office: usize, heard: bool },
    /// A worker opens a stream to it.
    Attends { worker: usize, office: usize },
    /// Something said by a coordinator arrives, for the first time or again; what was said before it
    /// and has not arrived never will.
    Hears {
        worker: usize,
        office: usize,
        at: usize,
    },
    /// Something said by a worker arrives.
    Receives { office: usize, report: Report },
    /// A coordinator has a reason to end the generation.
    Fences(usize),
    /// It has waited long enough for answers.
    Proposes(usize),
    /// A worker's ring breaks, and nobody fences it for as long as a worker waits.
    Rejoins(usize),
}

/// The protocol, whole or with a guard less, and how far it is explored.
#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    pub(crate) broken: Option<Broken>,
    /// Coordinators that start, [`OFFICES`] at most.
    pub(crate) offices: usize,
    /// Workers that attend, [`WORKERS`] at most.
    pub(crate) workers: usize,
    /// The last generation that is proposed.
    pub(crate) generations: u64,
    /// How often at most something is lost or repeated on its way, an answer of the store is lost, or a
    /// worker is left alone with a broken ring; none: as often as can be.
    pub(crate) accidents: Option<u8>,
    /// Begin where the first coordinator has told its workers of the first generation.
    pub(crate) begun: bool,
}

impl Protocol {
    pub(crate) fn breaks(&self, guard: Broken) -> bool {
        self.broken == Some(guard)
    }
}

impl World {
    /// A run that was created, and of which nothing else is recorded.
    fn new() -> Self {
        let corpus = CorpusFacts {
            corpus_hash: String::new(),
            validation_hash: String::new(),
            tokenizer_hash: String::new(),
            init_hash: String::new(),
            total_steps: 1,
        };
        let created = Record::RunCreated {
            spec_json: String::new(),
            spec_hash: String::new(),
            corpus,
        };
        let records = [Record::TermStarted { term: Term(1) }, created];
        let entry = |record| Entry {
            writer: None,
            record,
        };
        Self {
            journal: Arc::new(records.map(entry).to_vec()),
            offices: Default::default(),
            workers: std::array::from_fn(|number| Arc::new(Worker::new(number))),
            reports: Arc::default(),
            changed: false,
            recognised: false,
            accidents: 0,
        }
    }

    /// Whether this is not how it usually goes.
    fn is_accident(&self, action: &Action) -> bool {
        match action {
            Action::Hears { worker, office, at } => self.workers[*worker].heard[*office] != *at,
            Action::Creates { heard, .. } => !heard,
            Action::Rejoins(_) => true,
            _ => false,
        }
    }

    /// `coordinator/src/journal/mod.rs`, `Journal::append`: create if absent; what is there already is
    /// ours if it is what we wanted to write, from an attempt whose answer was lost. Whether the record
    /// is durable; none: somebody else has written in our place.
    pub(crate) fn append(
        &mut self,
        protocol: &Protocol,
        number: usize,
        entry: Entry,
        heard: bool,
    ) -> Option<bool> {
        match self.journal.get(number) {
            None => Arc::make_mut(&mut self.journal).push(entry),
            Some(there) if protocol.breaks(Broken::CreateOverwrites) => {
                self.changed |= *there != entry;
                Arc::make_mut(&mut self.journal)[number] = entry;
            }
            Some(there) if *there == entry => {
                self.recognised = true;
                return Some(true);
            }
            Some(_) => {
                return protocol
                    .breaks(Broken::TakesAnyRecordForItsOwn)
                    .then_some(true);
            }
        }
        Some(heard)
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut world = World::new();
        let mut happens = |action| {
            let next = self.next_state(&world, action);
            world = next.expect("it changes something");
        };
        if self.begun {
            let (office, heard) = (0, true);
            happens(Action::Starts(office));
            happens(Action::Creates { office, heard });
            for worker in 0..self.workers {
                happens(Action::Attends { worker, office });
                let at = 0;
                happens(Action::Hears { worker, office, at });
                let report = Report {
                    term: Term(2),
                    worker,
                    generation: Generation(0),
                    what: What::Prepared,
                };
                happens(Action::Receives { office, report });
            }
            happens(Action::Proposes(office));
            happens(Action::Creates { office, heard });
        }
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (number, office) in world.offices[..self.offices].iter().enumerate() {
            if matches!(office.phase, Phase::Absent) {
                // They start in the order of their numbers: which is which does not matter.
                actions.push(Action::Starts(number));
                break;
            }
            let creates = |heard| Action::Creates {
                office: number,
                heard,
            };
            if office.wanted().is_some() {
                actions.extend([true, false].map(creates));
            }
            let Phase::Serving(serving) = &office.phase else {
                continue;
            };
            if serving.may_fence() {
                actions.push(Action::Fences(number));
            }
            if serving.generation.0 < self.generations && serving.may_propose(self) {
                actions.push(Action::Proposes(number));
            }
            for (worker, said) in office.said[..self.workers].iter().enumerate() {
                // Workers come in the order of their numbers: which is which does not matter.
                let comes = worker == 0 || world.workers[worker - 1].agent.term() > Term(0);
                if comes && serving.awaits(worker) {
                    actions.push(Action::Attends {
                        worker,
                        office: number,
                    });
                }
                let heard = world.workers[worker].heard[number];
                let hears = |at| Action::Hears {
                    worker,
                    office: number,
                    at,
                };
                actions.extend((heard.saturating_sub(1)..said.len()).map(hears));
            }
            let ours = world.reports.iter().filter(|r| r.term == serving.term);
            actions.extend(ours.map(|report| Action::Receives {
                office: number,
                report: report.clone(),
            }));
        }
        let rejoins = (0..WORKERS).filter(|worker| world.workers[*worker].agent.in_ring());
        actions.extend(rejoins.map(Action::Rejoins));
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        if let Some(most) = self.accidents
            && before.is_accident(&action)
        {
            world.accidents += 1;
            if world.accidents > most {
                return None;
            }
        }
        match action {
            Action::Starts(office) => world.start(office),
            Action::Creates { office, heard } => world.create(self, office, heard),
            Action::Attends { worker, office } => world.attend(self, worker, office),
            Action::Hears { worker, office, at } => world.hear(self, worker, office, at),
            Action::Receives { office, report } => world.receive(self, office, &report),
            Action::Fences(office) => world.serving(office, |serving, said| serving.fence(said)),
            Action::Proposes(office) => {
                world.serving(office, |serving, said| serving.propose(self, said));
            }
            Action::Rejoins(worker) => world.rejoin(self, worker),
        }
        let changed = |accidents| {
            world
                != World {
                    accidents,
                    ..before.clone()
                }
        };
        changed(world.accidents).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = PROPERTIES.map(|(name, holds)| Property::always(name, holds));
        let sometimes = REACHED.map(|(name, holds)| Property::sometimes(name, holds));
        always.into_iter().chain(sometimes).collect()
    }
}
