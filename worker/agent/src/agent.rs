//! The agent: its state, and what follows from a directive.

use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use ringmaster_proto::v1::directive::Body as Said;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, Directive, Outcome, WorkerReport};
use ringmaster_proto::{Generation, Rank, Term, WorkerId};

/// How long a worker with a broken ring waits to be fenced before it asks to be ranked anew: the
/// coordinator may have dropped it.
const FENCE_WAIT: Duration = Duration::from_secs(5);

/// Shortest and longest interval between two signs of life.
const HEARTBEAT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Something to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Open the corpus, build the model, then say [`Agent::prepared`].
    Prepare(v1::Welcome),
    /// Say that this worker is alive this often.
    Heartbeat(Duration),
    /// Put back what may not have been heard: see [`crate::Reports::rewind`].
    TellAgain {
        /// Newest step on record.
        completed: u64,
        /// The generation whose reports still matter; none: this worker leaves its ring.
        in_force: Option<Generation>,
    },
    /// Unwind whatever the ring is waiting for, for this reason.
    Abort(String),
    /// Become part of a generation.
    Form(Form),
    /// Every rank has formed: step until a boundary or a fence. With the mean time between failures as
    /// the coordinator estimates it, seconds.
    Start(Generation, f64),
    /// Apply nothing more in this generation, and say what is held.
    Fence(Generation),
    /// Propose this boundary to the other ranks.
    Drain(v1::Boundary),
    /// Leave.
    End(Ending),
}

/// One generation, as this worker sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// Its number.
    pub generation: Generation,
    /// This worker's rank.
    pub rank: Rank,
    /// Where each rank's ring listens.
    pub addresses: Vec<SocketAddr>,
    /// The state every rank starts from.
    pub resume: v1::Resume,
}

/// Why a worker leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The run is complete.
    Finished,
    /// The run is stopped and can be resumed.
    Stopped,
    /// The run goes on without this worker.
    Removed(String),
    /// The run has failed.
    Failed(String),
    /// The coordinator serves another spec than the one this worker prepared for.
    SpecChanged,
    /// The coordinator said something that cannot be.
    Nonsense(String),
}

/// The generation in force, and what has been reported of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Running {
    formed: bool,
    ended: bool,
    step: u64,
}

/// See the crate's text. A value, so that whoever explores what it may hear can tell where it has been.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agent {
    worker: WorkerId,
    incarnation: u64,
    run_id: String,
    spec_hash: String,
    term: Term,
    /// Newest that was told to form.
    generation: Generation,
    preparing: bool,
    /// What it said once it could be ranked; it holds nothing yet.
    prepared: Option<v1::Prepared>,
    running: Option<Running>,
    /// When the ring broke, until a fence or a new generation.
    broken_at: Option<Duration>,
    /// The trainer thread's next answer to a fence is told as Prepared.
    rejoining: bool,
}

impl Agent {
    /// A worker that has not attended yet; `incarnation` is random, so that no other process of this
    /// name has it.
    pub fn new(worker: WorkerId, incarnation: u64) -> Self {
        Self {
            worker,
            incarnation,
            run_id: String::new(),
            spec_hash: String::new(),
            term: Term::default(),
            generation: Generation::default(),
            preparing: false,
            prepared: None,
            running: None,
            broken_at: None,
            rejoining: false,
        }
    }

    /// The newest term heard; 0 before the first welcome.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The newest generation this worker was told to form; 0 before the first.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether a generation is in force here.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether this worker's part of its generation's ring is whole, as far as it has reported.
    pub fn in_ring(&self) -> bool {
        let whole = self.running.as_ref().is_some_and(|running| !running.ended);
        whole && self.broken_at.is_none()
    }

    /// The first message of a stream; `hello` says where this process runs.
    pub fn hello(&self, hello: v1::Hello) -> WorkerReport {
        let running = self.running.as_ref();
        let standing = self.prepared.as_ref().map(|prepared| v1::Standing {
            ring_address: prepared.ring_address.clone(),
            fingerprint: prepared.fingerprint.clone(),
            generation: self.generation.0,
            in_ring: self.in_ring(),
            formed: running.is_some_and(|running| running.formed),
            step: running.map_or(0, |running| running.step),
            state_bytes: prepared.state_bytes,
        });
        let body = Body::Hello(v1::Hello {
            standing,
            incarnation: self.incarnation,
            ..hello
        });
        self.envelope(self.generation, body)
    }

    /// `body` as this worker says it now. Only after the welcome of a stream: before it nobody knows
    /// in which term to say it.
    pub fn envelope(&self, generation: Generation, body: Body) -> WorkerReport {
        WorkerReport {
            run_id: self.run_id.clone(),
            worker_id: self.worker.to_string(),
            term: self.term.0,
            generation: generation.0,
            body: Some(body),
        }
    }

    /// The worker has opened the corpus and built the model. Returns what to report.
    pub fn prepared(&mut self, prepared: v1::Prepared) -> Body {
        self.preparing = false;
        Body::Prepared(self.prepared.insert(prepared).clone())
    }

    /// What the trainer thread has to tell of `generation`, as it is to be reported.
    pub fn note(&mut self, now: Duration, generation: Generation, body: Body) -> Body {
        let body = match (body, &self.prepared) {
            (Body::Fenced(fenced), Some(prepared)) if self.rejoining => {
                self.rejoining = false;
                Body::Prepared(v1::Prepared {
                    held: fenced.held,
                    ..prepared.clone()
                })
            }
            (body, _) => body,
        };
        let in_force = generation == self.generation;
        if let Some(running) = self.running.as_mut().filter(|_| in_force) {
            match &body {
                Body::Formed(_) => running.formed = true,
                Body::StepDone(done) => running.step = done.step,
                Body::Fenced(_) => running.ended = true,
                // Either way the coordinator fences, unless it has dropped this worker.
                Body::LinkLost(_) | Body::CheckpointDamaged(_) => {
                    self.broken_at.get_or_insert(now);
                }
                _ => {}
            }
        }
        body
    }

    /// Time passes while a stream is up.
    pub fn tick(&mut self, now: Duration) -> Vec<Task> {
        match self.broken_at {
            Some(at) if now.saturating_sub(at) > FENCE_WAIT => self.rejoin(),
            _ => Vec::new(),
        }
    }

    /// Takes one directive.
    pub fn direct(&mut self, directive: Directive) -> Vec<Task> {
        let (term, generation) = (Term(directive.term), Generation(directive.generation));
        if term < self.term {
            return Vec::new();
        }
        self.term = term;
        match directive.body {
            Some(Said::Welcome(welcome)) => self.welcome(welcome),
            Some(Said::FormRing(form)) => self.form(generation, form),
            Some(Said::Start(start)) if self.prepared.is_some() => {
                vec![Task::Start(generation, start.failure_seconds)]
            }
            Some(Said::Fence(fence)) => self.fence(generation, fence.reason),
            Some(Said::Drain(drain)) if generation == self.generation && self.is_running() => {
                let boundary = v1::Boundary::try_from(drain.intent).unwrap_or_default();
                vec![Task::Drain(boundary)]
            }
            Some(Said::Stop(stop)) => vec![Task::End(Ending::of(stop))],
            Some(Said::Start(_) | Said::Drain(_)) | None => Vec::new(),
        }
    }

    /// Starts preparing at the first welcome. A later one finds the worker prepared: it stays where it
    /// is if the coordinator counts it there, and is ranked anew if not. Either way it says again what
    /// may not have been heard.
    fn welcome(&mut self, welcome: v1::Welcome) -> Vec<Task> {
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms);
        let mut tasks = vec![Task::Heartbeat(heartbeat.clamp(HEARTBEAT.0, HEARTBEAT.1))];
        if self.prepared.is_some() {
            if welcome.spec_hash != self.spec_hash {
                return vec![Task::End(Ending::SpecChanged)];
            }
            tasks.push(Task::TellAgain {
                completed: welcome.completed_step,
                in_force: welcome.keep.then_some(self.generation),
            });
            if !welcome.keep {
                tasks.extend(self.rejoin());
            }
        } else if !self.preparing {
            self.preparing = true;
            self.run_id.clone_from(&welcome.run_id);
            self.spec_hash.clone_from(&welcome.spec_hash);
            tasks.push(Task::Prepare(welcome));
        }
        tasks
    }

    fn form(&mut self, generation: Generation, form: v1::FormRing) -> Vec<Task> {
        if generation <= self.generation || self.prepared.is_none() {
            return Vec::new();
        }
        let nonsense = |what: &str| vec![Task::End(Ending::Nonsense(format!("FormRing {what}")))];
        let parse = |member: &v1::Member| member.ring_address.parse();
        let Ok(roster) = v1::Roster::decode(form.roster) else {
            return nonsense("has a roster that cannot be read");
        };
        let addresses: Result<Vec<SocketAddr>, _> = roster.members.iter().map(parse).collect();
        let Ok(addresses) = addresses else {
            return nonsense("names an address that is not ip:port");
        };
        let Some(resume) = form.resume else {
            return nonsense("has no resume point");
        };
        let beyond = |rank: &u32| *rank as usize >= addresses.len();
        if beyond(&form.rank) || resume.holders.iter().any(beyond) {
            return nonsense("names a rank beyond its members");
        }
        if resume.origin() == v1::Origin::Memory && resume.holders.is_empty() {
            return nonsense("resumes from the memory of nobody");
        }
        let running = Running {
            formed: false,
            ended: false,
            step: resume.step,
        };
        let mut tasks = Vec::new();
        if self.running.replace(running).is_some() {
            tasks.push(Task::Abort("a newer generation forms".to_owned()));
        }
        (self.generation, self.broken_at, self.rejoining) = (generation, None, false);
        tasks.push(Task::Form(Form {
            generation,
            rank: Rank(form.rank),
            addresses,
            resume,
        }));
        tasks
    }

    fn fence(&mut self, generation: Generation, reason: String) -> Vec<Task> {
        if self.prepared.is_none() {
            return Vec::new();
        }
        self.broken_at = None;
        let mut tasks = Vec::new();
        if self.generation <= generation && self.running.take().is_some() {
            tasks.push(Task::Abort(reason));
        }
        tasks.push(Task::Fence(generation));
        tasks
    }

    /// Leaves the ring, if any, and reports what is held as a worker that can be ranked.
    fn rejoin(&mut self) -> Vec<Task> {
        self.broken_at = None;
        self.rejoining = true;
        let mut tasks = Vec::new();
        if self.running.take().is_some() {
            tasks.push(Task::Abort("the worker rejoins".to_owned()));
        }
        tasks.push(Task::Fence(self.generation));
        tasks
    }
}

impl Ending {
    fn of(stop: v1::Stop) -> Self {
        match stop.outcome() {
            Outcome::Finished => Self::Finished,
            Outcome::Stopped => Self::Stopped,
            Outcome::Removed => Self::Removed(stop.message),
            Outcome::Failed | Outcome::Unspecified => Self::Failed(stop.message),
        }
    }
}
