//! A coordinator, as far as journal, term and fence go.

use std::sync::Arc;

use ringmaster_coordinator::record::{GenerationRecord, Held, Origin, Record};
use ringmaster_coordinator::replay;
use ringmaster_proto::{Generation, Step, Term};

use crate::model::{Broken, Entry, Protocol, WORKERS, World};
use crate::worker::{Report, What, Worker};

/// What a coordinator says to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Directive {
    /// Whether the worker stays where it says it is.
    Welcome {
        keep: bool,
    },
    Fence(Generation),
    Form(Generation, Vec<usize>),
}

/// One process. One that has died is one that does nothing more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Office {
    pub(crate) phase: Phase,
    /// The term that it wants to take, or has taken.
    pub(crate) term: Term,
    /// What it ever said to each worker, in order.
    pub(crate) said: [Vec<Directive>; WORKERS],
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Not started.
    #[default]
    Absent,
    /// It has read the journal, and wants to take the next term.
    Opening {
        next: usize,
        last: Option<GenerationRecord>,
    },
    Serving(Serving),
    /// Somebody else has written in its place.
    Replaced,
}

/// `coordinator/src/run/`: the machine of a coordinator in office.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Serving {
    pub(crate) next: usize,
    pub(crate) term: Term,
    pub(crate) generation: Generation,
    workers: [Known; WORKERS],
    /// Members of the last generation may act in it: not fenced, not gathering.
    running: bool,
    /// The record on its way to the store.
    wanted: Option<GenerationRecord>,
}

/// What it knows of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Known {
    /// It has not attended.
    Unknown,
    /// It is a member by the journal, and has not attended.
    Awaited(Generation),
    /// It was welcomed, and has not said that it can be ranked.
    Preparing,
    /// It may act in this generation.
    Bound(Generation),
    /// It can be ranked.
    Free,
}

impl Known {
    fn bound(self) -> Option<Generation> {
        match self {
            Self::Awaited(generation) | Self::Bound(generation) => Some(generation),
            Self::Unknown | Self::Preparing | Self::Free => None,
        }
    }
}

impl Office {
    /// The record it waits for, and its number.
    pub(crate) fn wanted(&self) -> Option<(usize, Record)> {
        match &self.phase {
            Phase::Opening { next, .. } => Some((*next, Record::TermStarted { term: self.term })),
            Phase::Serving(serving) => {
                let record = serving.wanted.clone()?;
                Some((serving.next, Record::Generation(record)))
            }
            Phase::Absent | Phase::Replaced => None,
        }
    }
}

impl World {
    /// `takeover.rs`: reads the journal. What is decided from it becomes true with the term's record.
    pub(crate) fn start(&mut self, office: usize) {
        let records: Vec<Record> = self.journal.iter().map(|e| e.record.clone()).collect();
        let (last_term, history) = replay(&records);
        let office = Arc::make_mut(&mut self.offices[office]);
        office.term = Term(last_term.0 + 1);
        office.phase = Phase::Opening {
            next: records.len(),
            last: history.and_then(|history| history.last),
        };
    }

    /// `desk.rs`: one attempt at the record that is waited for.
    pub(crate) fn create(&mut self, protocol: &Protocol, number: usize, heard: bool) {
        let Some((next, record)) = self.offices[number].wanted() else {
            return;
        };
        let entry = Entry {
            writer: Some(number),
            record,
        };
        let durable = self.append(protocol, next, entry, heard);
        let Office { phase, term, said } = Arc::make_mut(&mut self.offices[number]);
        match (durable, phase) {
            (None, phase) => {
                *phase = Phase::Replaced;
                // It listens to nobody any more.
                Arc::make_mut(&mut self.reports).retain(|report| report.term != *term);
            }
            (Some(false), _) => {}
            (Some(true), Phase::Serving(serving)) => {
                serving.begin(protocol, said);
                // What a member said before is of no effect any more.
                let old = |report: &Report| report.term == *term && serving.takes_no_more(report);
                if !protocol.breaks(Broken::TakesOldWord) && self.reports.iter().any(old) {
                    Arc::make_mut(&mut self.reports).retain(|report| !old(report));
                }
            }
            (Some(true), phase) => {
                if let Phase::Opening { next, last } = phase {
                    *phase = Phase::Serving(Serving::new(*next + 1, *term, last.as_ref()));
                }
            }
        }
    }

    /// Lets a coordinator in office do something.
    pub(crate) fn serving(
        &mut self,
        office: usize,
        act: impl FnOnce(&mut Serving, &mut [Vec<Directive>; WORKERS]),
    ) {
        let Office { phase, said, .. } = Arc::make_mut(&mut self.offices[office]);
        if let Phase::Serving(serving) = phase {
            act(serving, said);
        }
    }

    /// `machine.rs`, `apply` and `on_attended`; the hello says where the worker stands.
    pub(crate) fn attend(&mut self, protocol: &Protocol, worker: usize, office: usize) {
        let agent = &self.workers[worker].agent;
        let (knows, stands) = (agent.term(), agent.in_ring().then(|| agent.generation()));
        let shown = !protocol.breaks(Broken::ComparesNoTerms);
        self.serving(office, |serving, said| {
            if !(shown && knows > serving.term) {
                serving.attended(worker, stands, said);
            }
        });
    }

    /// `reports.rs`, `on_report`: what was said in another term changes nothing.
    pub(crate) fn receive(&mut self, protocol: &Protocol, office: usize, report: &Report) {
        self.serving(office, |serving, said| {
            serving.heard(protocol, report, said)
        });
    }
}

impl Serving {
    /// `adopting.rs`: the members of the last generation are left in it.
    fn new(next: usize, term: Term, last: Option<&GenerationRecord>) -> Self {
        let mut workers = [Known::Unknown; WORKERS];
        for member in last.iter().flat_map(|last| last.members.iter()) {
            workers[Worker::number(member)] =
                Known::Awaited(last.map_or(Generation(0), |last| last.generation));
        }
        Self {
            next,
            term,
            generation: last.map_or(Generation(0), |last| last.generation),
            workers,
            running: last.is_some(),
            wanted: None,
        }
    }

    /// Whether `worker` has not attended yet.
    pub(crate) fn awaits(&self, worker: usize) -> bool {
        matches!(self.workers[worker], Known::Unknown | Known::Awaited(_))
    }

    fn attended(
        &mut self,
        worker: usize,
        stands: Option<Generation>,
        said: &mut [Vec<Directive>; WORKERS],
    ) {
        // `adopting.rs`, `is_that_member`.
        let member = self.workers[worker].bound() == Some(self.generation);
        let keep = member && stands == Some(self.generation);
        self.workers[worker] = match keep {
            true => Known::Bound(self.generation),
            false => Known::Preparing,
        };
        said[worker].push(Directive::Welcome { keep });
        if member && !keep && self.running {
            self.fence(said);
        }
    }

    fn heard(
        &mut self,
        protocol: &Protocol,
        report: &Report,
        said: &mut [Vec<Directive>; WORKERS],
    ) {
        if self.awaits(report.worker) {
            return;
        }
        let bound = self.workers[report.worker].bound();
        let counts = match report.what {
            What::Fenced => bound == Some(report.generation),
            // In no ring: which a worker can only say of generations it has heard of.
            What::Prepared => {
                let old = bound.is_some_and(|bound| report.generation < bound);
                !old || protocol.breaks(Broken::TakesOldWord)
            }
        };
        if counts {
            self.workers[report.worker] = Known::Free;
            if self.running && bound == Some(self.generation) {
                self.fence(said);
            }
        }
    }

    /// Whether `report` can have no effect from now on: its worker is bound to a later generation.
    fn takes_no_more(&self, report: &Report) -> bool {
        let bound = self.workers[report.worker].bound();
        bound.is_some_and(|bound| report.generation < bound)
    }

    /// Whether there is a generation to end.
    pub(crate) fn may_fence(&self) -> bool {
        self.running
    }

    /// `fencing.rs`, `fence`.
    pub(crate) fn fence(&mut self, said: &mut [Vec<Directive>; WORKERS]) {
        self.running = false;
        for (worker, said) in said.iter_mut().enumerate() {
            if self.workers[worker].bound() == Some(self.generation) {
                said.push(Directive::Fence(self.generation));
            }
        }
    }

    /// Whether there is somebody to rank.
    pub(crate) fn may_propose(&self, protocol: &Protocol) -> bool {
        let idle = !self.running && self.wanted.is_none();
        idle && !self.candidates(protocol).is_empty()
    }

    /// `membership.rs`, `Worker::rankable`: who may still act in a generation is in no other.
    fn candidates(&self, protocol: &Protocol) -> Vec<usize> {
        let silent = protocol.breaks(Broken::RanksTheSilent);
        let rankable = |worker: &usize| match self.workers[*worker] {
            Known::Free => true,
            Known::Bound(_) => silent,
            Known::Unknown | Known::Awaited(_) | Known::Preparing => false,
        };
        (0..WORKERS).filter(rankable).collect()
    }

    /// `forming.rs`, `propose`.
    pub(crate) fn propose(&mut self, protocol: &Protocol, said: &mut [Vec<Directive>; WORKERS]) {
        let members = self.candidates(protocol);
        self.wanted = Some(GenerationRecord {
            generation: self.generation.next(),
            members: members.iter().map(|worker| Worker::name(*worker)).collect(),
            resume: Held {
                step: Step(0),
                digest: String::new(),
            },
            origin: Origin::Initial,
            fingerprint: String::new(),
        });
        if protocol.breaks(Broken::TellsBeforeItRecords) {
            tell(self.generation.next(), &members, said);
        }
    }

    /// `forming.rs`, `begin`: the record is durable.
    fn begin(&mut self, protocol: &Protocol, said: &mut [Vec<Directive>; WORKERS]) {
        let Some(record) = self.wanted.take() else {
            return;
        };
        self.next += 1;
        self.generation = record.generation;
        let members: Vec<usize> = record.members.iter().map(Worker::number).collect();
        let rankable = self.candidates(protocol);
        if members.iter().all(|member| rankable.contains(member)) {
            for member in &members {
                self.workers[*member] = Known::Bound(record.generation);
            }
            self.running = true;
            tell(record.generation, &members, said);
        }
    }
}

fn tell(generation: Generation, members: &[usize], said: &mut [Vec<Directive>; WORKERS]) {
    for member in members {
        said[*member].push(Directive::Form(generation, members.to_vec()));
    }
}
