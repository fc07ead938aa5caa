//! A worker: the real agent, and of its trainer thread in which generation it may apply a step.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use ringmaster_agent::{Agent, Task};
use ringmaster_proto::v1::directive::Body as Said;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::{Generation, Term, WorkerId, v1};

use crate::model::{Broken, OFFICES, Protocol, World};
use crate::office::{Directive, Office, Phase};

/// Longer than any worker waits to be fenced.
const LONG: Duration = Duration::from_secs(60);

/// What a worker says that a coordinator may count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum What {
    /// It applies nothing more in the generation.
    Fenced,
    /// It is in no ring, and can be ranked.
    Prepared,
}

/// One report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Report {
    pub(crate) term: Term,
    pub(crate) worker: usize,
    pub(crate) generation: Generation,
    pub(crate) what: What,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    pub(crate) agent: Agent,
    /// The generation in which its trainer may apply a step at any time.
    pub(crate) acts_in: Option<Generation>,
    /// The newest generation it said it applies nothing more in.
    pub(crate) left: Generation,
    /// The newest term any coordinator has shown it.
    newest: Term,
    /// A directive of an older term had an effect.
    pub(crate) obeyed_older: bool,
    /// How much of what each coordinator said has arrived or never will.
    pub(crate) heard: [usize; OFFICES],
    /// `worker/agent/src/reports.rs`: what may have to be told again.
    told: BTreeSet<(Generation, What)>,
}

impl Worker {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            agent: Agent::new(Self::name(number), 1),
            acts_in: None,
            left: Generation(0),
            newest: Term(0),
            obeyed_older: false,
            heard: [0; OFFICES],
            told: BTreeSet::new(),
        }
    }

    /// Its name.
    pub(crate) fn name(number: usize) -> WorkerId {
        WorkerId::new(&format!("w{number}")).expect("a letter and a number")
    }

    /// The number in a name.
    pub(crate) fn number(name: &WorkerId) -> usize {
        name.as_str()[1..].parse().expect("a name of ours")
    }

    /// Reports `what`, now and when it is asked to say it again.
    fn say(&mut self, number: usize, generation: Generation, body: Body) -> Report {
        let what = match body {
            Body::Prepared(_) => What::Prepared,
            _ => What::Fenced,
        };
        self.told.insert((generation, what));
        self.report(number, generation, what)
    }

    fn report(&self, worker: usize, generation: Generation, what: What) -> Report {
        Report {
            term: self.agent.term(),
            worker,
            generation,
            what,
        }
    }

    /// `worker/src/agent.rs` and `session.rs`: does what the agent decided.
    fn carry_out(&mut self, protocol: &Protocol, number: usize, tasks: Vec<Task>) -> Vec<Report> {
        let stays = protocol.breaks(Broken::StepsOnAfterAFence);
        let mut reports = Vec::new();
        for task in tasks {
            match task {
                Task::Prepare(_) => {
                    let body = self.agent.prepared(v1::Prepared {
                        ring_address: address(number),
                        ..Default::default()
                    });
                    let generation = self.agent.generation();
                    reports.push(self.say(number, generation, body));
                }
                Task::TellAgain { in_force, .. } => {
                    let again = |(generation, _): &&(_, _)| Some(*generation) == in_force;
                    let told = self.told.iter().filter(again);
                    reports.extend(told.map(|(g, what)| self.report(number, *g, *what)));
                }
                Task::Abort(_) if !stays => self.acts_in = None,
                Task::Form(form) => {
                    self.acts_in = Some(form.generation);
                    // Only of the newest generation is anything told again.
                    self.told.clear();
                }
                Task::Fence(generation) => {
                    if !stays {
                        self.acts_in = self.acts_in.filter(|acts| *acts > generation);
                    }
                    self.left = self.left.max(generation);
                    let fenced = Body::Fenced(v1::Fenced::default());
                    let body = self.agent.note(Duration::ZERO, generation, fenced);
                    reports.push(self.say(number, generation, body));
                }
                _ => {}
            }
        }
        reports
    }
}

impl World {
    /// A directive arrives.
    pub(crate) fn hear(&mut self, protocol: &Protocol, number: usize, office: usize, at: usize) {
        let said = self.offices[office].said[number][at].clone();
        let term = self.offices[office].term;
        let worker = Arc::make_mut(&mut self.workers[number]);
        let stale = term < worker.newest;
        worker.newest = worker.newest.max(term);
        let shown = match protocol.breaks(Broken::ComparesNoTerms) {
            true => term.max(worker.agent.term()),
            false => term,
        };
        let directive = directive(shown, number, said);
        let tasks = worker.agent.direct(directive);
        if !stale {
            // Of what is refused, anything may arrive at any time.
            worker.heard[office] = at + 1;
        }
        worker.obeyed_older |= stale && !tasks.is_empty();
        let reports = worker.carry_out(protocol, number, tasks);
        self.say(reports);
    }

    /// The ring breaks, and nobody fences it in time.
    pub(crate) fn rejoin(&mut self, protocol: &Protocol, number: usize) {
        let worker = Arc::make_mut(&mut self.workers[number]);
        let generation = worker.agent.generation();
        let lost = Body::LinkLost(v1::LinkLost::default());
        worker.agent.note(Duration::ZERO, generation, lost);
        let tasks = worker.agent.tick(LONG);
        let reports = worker.carry_out(protocol, number, tasks);
        self.say(reports);
    }

    /// Reports are on their way, unless whoever they are for is no longer there.
    fn say(&mut self, reports: Vec<Report>) {
        let hears = |office: &Office, report: &Report| {
            office.term == report.term && matches!(office.phase, Phase::Serving(_))
        };
        for report in reports {
            if self.offices.iter().any(|office| hears(office, &report)) {
                Arc::make_mut(&mut self.reports).insert(report);
            }
        }
    }
}

fn address(number: usize) -> String {
    format!("127.0.0.1:{}", number + 1)
}

/// `said` as it goes over the wire.
fn directive(term: Term, to: usize, said: Directive) -> v1::Directive {
    let (generation, body) = match said {
        Directive::Welcome { keep } => {
            let welcome = v1::Welcome {
                keep,
                ..Default::default()
            };
            (Generation(0), Said::Welcome(welcome))
        }
        Directive::Fence(generation) => (generation, Said::Fence(v1::Fence::default())),
        Directive::Form(generation, members) => {
            let rank = members.iter().position(|member| *member == to);
            let member = |number: &usize| v1::Member {
                worker_id: Worker::name(*number).to_string(),
                ring_address: address(*number),
            };
            let members = members.iter().map(member).collect();
            let form = v1::FormRing {
                rank: rank.map_or(u32::MAX, |rank| rank as u32),
                roster: v1::Roster { members }.encode_to_vec().into(),
                resume: Some(v1::Resume::default()),
            };
            (generation, Said::FormRing(form))
        }
    };
    v1::Directive {
        term: term.0,
        generation: generation.0,
        body: Some(body),
    }
}
