//! What must never come about, and what has to, lest the rules hold because nothing happens.

use std::sync::Arc;

use ringmaster_coordinator::record::Record;
use ringmaster_proto::{Generation, Term};

use crate::model::{Protocol, World};
use crate::office::{Directive, Office, Phase};
use crate::worker::Worker;

/// The rules, in the order of [`PROPERTIES`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    OneChain,
    OneMembership,
    DurableFirst,
    NewestTermOnly,
    FenceKept,
    MembersAnswered,
    OneInOffice,
}

type Condition = fn(&Protocol, &World) -> bool;

/// What holds in every state.
pub(crate) const PROPERTIES: [(&str, Condition); 7] = [
    (
        "the journal is one chain, never changed, of terms that rise",
        |_, world| !world.changed && world.is_one_chain(),
    ),
    (
        "a generation has one membership, whoever tells of it",
        |_, world| {
            let all: Vec<_> = world.told().collect();
            let same = |(g, m): &(Generation, &[usize])| all.iter().all(|(o, n)| o != g || n == m);
            all.iter().all(same)
        },
    ),
    (
        "a generation is durable, as it is told, before any worker can hear of it",
        |_, world| {
            world
                .told()
                .all(|(g, members)| world.recorded(g) == Some(members.to_vec()))
        },
    ),
    (
        "nobody obeys a coordinator that was replaced",
        |_, world| world.workers.iter().all(|worker| !worker.obeyed_older),
    ),
    (
        "who has answered a fence acts in nothing as old",
        |_, world| {
            let kept = |w: &Arc<Worker>| w.acts_in.is_none_or(|generation| generation > w.left);
            world.workers.iter().all(kept)
        },
    ),
    ("no member acts in an older generation", |_, world| {
        let acts = |member: &usize| world.workers[*member].acts_in;
        let older = |g: Generation, member: &usize| acts(member).is_some_and(|old| old < g);
        let mut told = world.told();
        told.all(|(g, members)| !members.iter().any(|member| older(g, member)))
    }),
    ("one coordinator at most can write", |_, world| {
        let next = world.journal.len();
        let can = |office: &&Arc<Office>| matches!(&office.phase, Phase::Serving(serving) if serving.next == next);
        world.offices.iter().filter(can).count() <= 1
    }),
];

/// What can come about, lest the rules hold because nothing happens.
pub(crate) const REACHED: [(&str, Condition); 4] = [
    (
        "all workers act in the last generation",
        |protocol, world| {
            let last = Some(Generation(protocol.generations));
            let mut workers = world.workers[..protocol.workers].iter();
            workers.all(|worker| worker.acts_in == last)
        },
    ),
    (
        "who records the last generation is the last coordinator",
        |protocol, world| {
            let last = world.journal.last();
            let last = last.filter(|entry| {
                matches!(&entry.record, Record::Generation(record)
                if record.generation.0 == protocol.generations)
            });
            last.is_some_and(|entry| entry.writer == Some(protocol.offices - 1))
        },
    ),
    (
        "a record whose answer was lost is recognised",
        |_, world| world.recognised,
    ),
    (
        "a worker acts alone in the last generation",
        |protocol, world| {
            let last = Generation(protocol.generations);
            world.recorded(last) == Some(vec![0]) && world.workers[0].acts_in == Some(last)
        },
    ),
];

impl World {
    /// Every FormRing that was ever said.
    fn told(&self) -> impl Iterator<Item = (Generation, &[usize])> {
        let all = self.offices.iter().flat_map(|office| office.said.iter());
        all.flatten().filter_map(|directive| match directive {
            Directive::Form(generation, members) => Some((*generation, members.as_slice())),
            _ => None,
        })
    }

    /// Members of a generation as the journal has them.
    pub(crate) fn recorded(&self, number: Generation) -> Option<Vec<usize>> {
        self.journal.iter().find_map(|entry| match &entry.record {
            Record::Generation(record) if record.generation == number => {
                Some(record.members.iter().map(Worker::number).collect())
            }
            _ => None,
        })
    }

    /// Terms rise, what follows a term is its coordinator's, and generations follow each other.
    fn is_one_chain(&self) -> bool {
        let (mut newest, mut writer, mut generation) = (Term(0), None, Generation(0));
        self.journal.iter().all(|entry| match &entry.record {
            Record::TermStarted { term } => {
                writer = entry.writer;
                std::mem::replace(&mut newest, *term) < *term
            }
            Record::Generation(record) => {
                let before = std::mem::replace(&mut generation, record.generation);
                entry.writer == writer && record.generation == before.next()
            }
            _ => entry.writer == writer,
        })
    }
}
