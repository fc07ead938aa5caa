//! A worker's process: the real agent, and a trainer that is a model of one.

use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use ringmaster_agent::{Agent, Ending, Reports, Task};
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, Activity, Directive, WorkerReport};
use ringmaster_proto::{Generation, Term, WorkerId};

use crate::Sabotage;
use crate::oracle::State;
use crate::trainer::Active;
use crate::world::{Event, Ms, OfficeId, ProcessId, StreamId, World};

/// Interval between two signs of life.
const HEARTBEAT: Ms = 1_000;

/// How long a worker that was asked to end waits to be let go.
const DRAIN_DEADLINE: Ms = 60_000;

/// What happens to one worker.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening {
    /// It looks for a coordinator.
    Attends,
    /// It says that it is alive.
    Beats,
    /// It has opened the corpus and built the model.
    Prepared,
    /// It has waited long enough to be let go.
    Leaves,
    /// See `trainer.rs`.
    Formed(u64),
    /// A rank did not come to the ring.
    WaitedInVain(u64),
    /// Its gradient of the step is ready.
    Contributes(u64),
    /// The sum of the step has arrived.
    Completes(u64),
    /// A link of the ring is gone; the rank behind it.
    LosesLink(u64, u32),
    /// A part of a checkpoint of that state is written; the boundary it was written for.
    Wrote(u64, v1::Boundary, State),
}

impl Happening {
    /// Whether it needs the trainer thread.
    fn is_the_trainers(self) -> bool {
        match self {
            Self::Attends | Self::Beats | Self::Prepared | Self::Leaves => false,
            // Parts are written by another thread, but for the last ones.
            Self::Wrote(_, boundary, _) => boundary != v1::Boundary::Unspecified,
            Self::Formed(_)
            | Self::WaitedInVain(_)
            | Self::Contributes(_)
            | Self::Completes(_)
            | Self::LosesLink(..) => true,
        }
    }
}

/// One worker process.
pub(crate) struct Process {
    /// Its name, which a later process may have again.
    pub(crate) name: WorkerId,
    /// Where its ring listens; no other process has it.
    pub(crate) address: SocketAddr,
    /// Whether it lives.
    pub(crate) alive: bool,
    /// It is stopped (SIGSTOP) until then.
    pub(crate) paused_until: Ms,
    pub(crate) agent: Agent,
    pub(crate) reports: Reports,
    pub(crate) stream: Option<StreamId>,
    pub(crate) welcomed: bool,
    draining: bool,
    /// The newest term any coordinator has shown it.
    newest_term: Term,
    /// Its state, if it has one.
    pub(crate) state: Option<State>,
    pub(crate) active: Option<Active>,
    /// Its trainer thread does nothing any more, and its links live.
    pub(crate) hung: bool,
    /// What the trainer thread is at, and since when.
    pub(crate) doing: (Activity, Ms),
    /// How long its own part of the step took.
    pub(crate) computed: Ms,
    /// The newest generation it said it would apply nothing more in.
    pub(crate) left: Generation,
}

impl Process {
    /// A process that has just started. Its address is made of its number.
    pub(crate) fn new(number: usize, name: WorkerId) -> Self {
        let port = u16::try_from(number % 60_000).unwrap_or(0) + 1;
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            alive: true,
            paused_until: 0,
            agent: Agent::new(name.clone(), number as u64 + 1),
            name,
            reports: Reports::default(),
            stream: None,
            welcomed: false,
            draining: false,
            newest_term: Term(0),
            state: None,
            active: None,
            hung: false,
            doing: (Activity::Unspecified, 0),
            computed: 0,
            left: Generation(0),
        }
    }

    /// What it reports that it holds.
    pub(crate) fn held(&self) -> Option<v1::Held> {
        self.state.map(|state| v1::Held {
            step: state.step,
            digest: state.hex(),
        })
    }
}

impl World {
    /// A worker's process starts.
    pub(crate) fn start_process(&mut self, name: WorkerId) {
        let id = ProcessId(self.processes.len());
        self.trace(|| format!("{id:?} starts as {name}"));
        self.processes.push(Process::new(id.0, name));
        self.processes[id.0].doing.1 = self.now;
        let delay = self.random.within(10..600);
        self.happens(delay, id, Happening::Attends);
        self.happens(delay + HEARTBEAT, id, Happening::Beats);
    }

    /// Something happens to a living process that is not stopped.
    pub(crate) fn process_event(&mut self, id: ProcessId, happening: Happening) {
        if self.processes[id.0].hung && happening.is_the_trainers() {
            return;
        }
        match happening {
            Happening::Attends => self.attend(id),
            Happening::Beats => self.beat(id),
            Happening::Prepared => {
                let process = &mut self.processes[id.0];
                let address = process.address.to_string();
                let body = process.agent.prepared(v1::Prepared {
                    ring_address: address,
                    fingerprint: "f".to_owned(),
                    ..Default::default()
                });
                let generation = process.agent.generation();
                self.say(id, generation, body);
            }
            Happening::Leaves => self.kill_process(id),
            Happening::Formed(generation) => self.formed(id, generation),
            Happening::WaitedInVain(generation) => self.waited_in_vain(id, generation),
            Happening::Contributes(generation) => self.contributes(id, generation),
            Happening::Completes(generation) => self.completes(id, generation),
            Happening::LosesLink(generation, accused) => self.loses_link(id, generation, accused),
            Happening::Wrote(generation, boundary, state) => {
                self.wrote(id, generation, boundary, state);
            }
        }
    }

    fn attend(&mut self, id: ProcessId) {
        if self.processes[id.0].stream.is_some() {
            return;
        }
        let serving: Vec<OfficeId> = (0..self.offices.len())
            .map(OfficeId)
            .filter(|office| self.offices[office.0].serves())
            .collect();
        let Some(office) = self.random.choose(&serving) else {
            let wait = self.random.within(100..2_000);
            return self.happens(wait, id, Happening::Attends);
        };
        let stream = self.connect(office, id);
        let process = &mut self.processes[id.0];
        (process.stream, process.welcomed) = (Some(stream), false);
        let mut hello = process.agent.hello(v1::Hello {
            host: "h".into(),
            ..Default::default()
        });
        if self.sabotage == Some(Sabotage::ObeysAnyTerm) {
            hello.term = 0;
        }
        self.send_up(stream, hello);
    }

    /// The worker's end of a stream is noticed to be gone.
    pub(crate) fn worker_misses(&mut self, stream: StreamId) {
        let id = self.streams[stream.0].process;
        let process = &mut self.processes[id.0];
        if process.alive && process.stream == Some(stream) {
            (process.stream, process.welcomed) = (None, false);
            let wait = self.random.within(100..2_000);
            self.happens(wait, id, Happening::Attends);
        }
    }

    fn beat(&mut self, id: ProcessId) {
        self.happens(HEARTBEAT, id, Happening::Beats);
        if self.processes[id.0].stream.is_none() {
            return;
        }
        let (now, generation) = (self.now, self.processes[id.0].agent.generation());
        let (activity, since) = self.processes[id.0].doing;
        let alive = v1::Alive {
            activity: activity.into(),
            step: self.processes[id.0].state.map_or(0, |state| state.step),
            seconds: (self.now - since) as f64 / 1e3,
        };
        self.say(id, generation, Body::Alive(alive));
        let tasks = self.processes[id.0].agent.tick(Duration::from_millis(now));
        self.tasks(id, tasks);
    }

    /// Says `body` on the present stream, if there is one.
    fn say(&mut self, id: ProcessId, generation: Generation, body: Body) {
        let process = &self.processes[id.0];
        if let Some(stream) = process.stream {
            let report = process.agent.envelope(generation, body);
            self.send_up(stream, report);
        }
    }

    /// Tells everything the trainer has to tell, if somebody listens.
    pub(crate) fn tell(&mut self, id: ProcessId) {
        while self.processes[id.0].welcomed {
            let now = Duration::from_millis(self.now);
            let process = &mut self.processes[id.0];
            let Some((generation, body)) = process.reports.take() else {
                break;
            };
            let body = process.agent.note(now, generation, body);
            process.reports.told(generation, body.clone());
            self.say(id, generation, body);
        }
    }

    /// A directive arrives.
    pub(crate) fn worker_hears(&mut self, stream: StreamId, mut directive: Directive) {
        let id = self.streams[stream.0].process;
        let process = &mut self.processes[id.0];
        if !self.streams[stream.0].down || process.stream != Some(stream) {
            return;
        }
        let term = Term(directive.term);
        let stale = term < process.newest_term;
        process.newest_term = process.newest_term.max(term);
        if self.sabotage == Some(Sabotage::ObeysAnyTerm) {
            directive.term = directive.term.max(process.agent.term().0);
        }
        let said = directive.body.clone();
        let tasks = process.agent.direct(directive.clone());
        if stale && !tasks.is_empty() {
            let name = process.name.clone();
            self.oracle
                .object(format!("{name} obeys a coordinator that was replaced"));
        }
        if let Some(v1::directive::Body::FormRing(form)) = &said
            && tasks.iter().any(|task| matches!(task, Task::Form(_)))
        {
            let roster = v1::Roster::decode(form.roster.clone()).unwrap_or_default();
            let members = roster.members.into_iter().map(|m| m.worker_id);
            let members: Vec<String> = members.collect();
            self.oracle.heard_generation(directive.generation, &members);
        }
        if matches!(said, Some(v1::directive::Body::Welcome(_))) && !stale {
            self.processes[id.0].welcomed = true;
        }
        self.tasks(id, tasks);
        if self.processes[id.0].draining {
            self.say_draining(id);
        }
        self.tell(id);
    }

    fn tasks(&mut self, id: ProcessId, tasks: Vec<Task>) {
        for task in tasks {
            match task {
                Task::Prepare(_) => {
                    let delay = self.random.within(100..1_500);
                    self.happens(delay, id, Happening::Prepared);
                }
                Task::TellAgain {
                    completed,
                    in_force,
                } => self.processes[id.0].reports.rewind(completed, in_force),
                Task::Abort(_) | Task::Form(_) | Task::Start(..) | Task::Fence(_)
                    if self.processes[id.0].hung => {}
                Task::Abort(_) => self.abort(id),
                Task::Form(form) => self.form(id, form),
                Task::Start(generation, _) => self.start(id, generation),
                Task::Fence(generation) => self.leave(id, generation),
                Task::Drain(boundary) => {
                    if let Some(active) = &mut self.processes[id.0].active {
                        active.proposes = boundary;
                    }
                }
                Task::Heartbeat(_) => {}
                Task::End(ending) => return self.ends(id, &ending),
            }
        }
        self.tell(id);
    }

    fn ends(&mut self, id: ProcessId, ending: &Ending) {
        let name = self.processes[id.0].name.clone();
        self.trace(|| format!("{id:?} ({name}) ends: {ending:?}"));
        if matches!(ending, Ending::Nonsense(_) | Ending::SpecChanged) {
            self.oracle.object(format!("{name} ends: {ending:?}"));
        }
        if let Ending::Removed(why) = ending
            && why.contains("over its limit")
            && !self.processes[id.0].hung
        {
            self.oracle
                .object(format!("{name} is blamed and did not hang: {why}"));
        }
        self.kill_process(id);
    }

    /// Somebody asks the worker to end (SIGTERM).
    pub(crate) fn drain(&mut self, id: ProcessId) {
        self.processes[id.0].draining = true;
        self.happens(DRAIN_DEADLINE, id, Happening::Leaves);
        self.say_draining(id);
    }

    fn say_draining(&mut self, id: ProcessId) {
        let process = &self.processes[id.0];
        if process.welcomed {
            let reason = "SIGTERM".to_owned();
            let generation = process.agent.generation();
            self.say(id, generation, Body::Draining(v1::Draining { reason }));
        }
    }

    /// The process dies; another takes its place after a while, under its name or another.
    pub(crate) fn kill_process(&mut self, id: ProcessId) {
        if !std::mem::replace(&mut self.processes[id.0].alive, false) {
            return;
        }
        if let Some(stream) = self.processes[id.0].stream.take() {
            self.break_stream(stream);
        }
        self.leave_ring(id);
        let delay = self.random.within(200..3_000);
        let name = match self.random.once_in(2) {
            true => self.processes[id.0].name.clone(),
            false => self.new_name(),
        };
        self.after(delay, Event::ProcessStarts(name));
    }

    /// The trainer has something to tell.
    pub(crate) fn report(&mut self, id: ProcessId, generation: Generation, body: Body) {
        self.processes[id.0].reports.put(generation, body);
        self.tell(id);
    }
}

/// What a worker says that is not worth a line of a trace.
pub(crate) fn is_routine(report: &WorkerReport) -> bool {
    matches!(report.body, Some(Body::Alive(_)))
}
