//! A host that a worker runs on: the real agent, behind a real stream, as `worker/src/agent.rs` has it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use prost::Message;
use ringmaster_agent::{Agent, Ending, Task};
use ringmaster_proto::v1::directive::Body as Said;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, Directive, Outcome, WorkerReport};
use ringmaster_proto::{Generation, PROTOCOL_VERSION, Term, WorkerId, dial};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Sender};
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::hosts::{Dice, OFFICES, World};
use super::net::Connector;
use super::office::GRPC;
use super::trainer::{Command, Outbox, Reins, Trainer};
use crate::world::ProcessId;

/// Reports that may wait for the wire.
const OUTBOUND: usize = 64;

/// Commands that may wait for the trainer: a generation takes three.
const COMMANDS: usize = 64;

/// How long the wire may refuse a report before the stream counts as lost.
const SEND_DEADLINE: Duration = Duration::from_secs(10);

/// One process.
struct Worker {
    world: Rc<World>,
    dice: Rc<Dice>,
    name: WorkerId,
    address: SocketAddr,
    began: Instant,
    agent: Agent,
    outbox: Rc<Outbox>,
    commands: Sender<Command>,
    trainer: AbortHandle,
    reins: Option<Reins>,
    /// When it can say that it is prepared.
    prepared_at: Option<Instant>,
    newest_term: Term,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.trainer.abort();
    }
}

/// Attends until it is let go.
pub(crate) async fn live(world: Rc<World>, host: usize) -> turmoil::Result {
    let (process, name, dice) = world.new_process(host);
    world.trace(|| format!("{name} starts"));
    let mut worker = Worker::new(world.clone(), process, name, dice);
    loop {
        if let Some(ending) = worker.attend().await {
            let name = &worker.name;
            world.trace(|| format!("{name} ends: {ending:?}"));
            if matches!(ending, Ending::Nonsense(_) | Ending::SpecChanged) {
                world.object(format!("{name} ends: {ending:?}"));
            }
            return Ok(());
        }
        sleep(worker.dice.within(100..1_500)).await;
    }
}

impl Worker {
    fn new(world: Rc<World>, process: ProcessId, name: WorkerId, dice: Rc<Dice>) -> Self {
        // No other process has this address.
        let port = u16::try_from(process.0 % 60_000).unwrap_or(0) + 1;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let outbox = Rc::new(Outbox::default());
        let (commands, taken) = mpsc::channel(COMMANDS);
        let trainer = Trainer {
            world: world.clone(),
            process,
            dice: dice.clone(),
            name: name.clone(),
            address,
            outbox: outbox.clone(),
            state: None,
            left: Generation(0),
        };
        Self {
            agent: Agent::new(name.clone(), process.0 as u64 + 1),
            trainer: tokio::task::spawn_local(trainer.run(taken)).abort_handle(),
            world,
            dice,
            name,
            address,
            began: Instant::now(),
            outbox,
            commands,
            reins: None,
            prepared_at: None,
            newest_term: Term(0),
        }
    }

    /// One stream, from hello to its end. Returns why the worker is let go, if it is.
    async fn attend(&mut self) -> Option<Ending> {
        let office = self.dice.choose(&OFFICES)?;
        let address = format!("{office}:{GRPC}");
        let (outbound, reports) = mpsc::channel(OUTBOUND);
        let hello = self.agent.hello(v1::Hello {
            protocol: PROTOCOL_VERSION,
            host: "h".into(),
            ..Default::default()
        });
        outbound.send(hello).await.ok()?;
        let endpoint = dial::endpoint(&address).ok()?;
        let connected = endpoint.connect_with_connector(Connector).await;
        let channel = dial::show(&address, &self.world.token, connected).ok()?;
        let mut client = dial::coordinator(channel);
        let answer = client.attend(ReceiverStream::new(reports));
        let answer = timeout(dial::CONNECT_TIMEOUT, answer).await.ok()?;
        let directives = answer.ok()?.into_inner();
        self.follow(directives, outbound).await
    }

    async fn follow(
        &mut self,
        mut directives: Streaming<Directive>,
        outbound: mpsc::Sender<WorkerReport>,
    ) -> Option<Ending> {
        let mut heartbeat = interval(Duration::from_millis(500));
        let mut welcomed = false;
        loop {
            let generation = self.agent.generation();
            let prepared_at = self.prepared_at;
            let outbox = self.outbox.clone();
            let report = tokio::select! {
                biased;
                directive = directives.message() => {
                    let directive = directive.ok()??;
                    welcomed |= matches!(directive.body, Some(Said::Welcome(_)));
                    for task in self.hear(directive) {
                        match task {
                            Task::Heartbeat(every) => heartbeat = interval(every),
                            Task::End(ending) => return Some(ending),
                            task => self.carry_out(task),
                        }
                    }
                    None
                }
                () = sleep_until(prepared_at.unwrap_or_else(Instant::now)),
                    if welcomed && prepared_at.is_some() =>
                {
                    self.prepared_at = None;
                    let body = self.agent.prepared(v1::Prepared {
                        ring_address: self.address.to_string(),
                        fingerprint: "f".to_owned(),
                        ..Default::default()
                    });
                    Some(self.agent.envelope(generation, body))
                }
                (generation, body) = outbox.next(), if welcomed => {
                    let body = self.agent.note(self.began.elapsed(), generation, body);
                    outbox.reports.borrow_mut().told(generation, body.clone());
                    Some(self.agent.envelope(generation, body))
                }
                _ = heartbeat.tick() => {
                    Some(self.agent.envelope(generation, Body::Alive(v1::Alive::default())))
                }
            };
            if let Some(report) = report {
                if !matches!(report.body, Some(Body::Alive(_))) {
                    self.world
                        .trace(|| format!("{} says {report:?}", self.name));
                }
                let sent = timeout(SEND_DEADLINE, outbound.send(report)).await;
                sent.ok()?.ok()?;
            }
            for task in self.agent.tick(self.began.elapsed()) {
                self.carry_out(task);
            }
        }
    }

    /// Takes one directive, and looks whether it may be what it is.
    fn hear(&mut self, directive: Directive) -> Vec<Task> {
        let name = self.name.clone();
        if let Some(Said::Stop(stop)) = &directive.body
            && stop.outcome() == Outcome::Finished
        {
            self.world.completes();
        }
        self.world.trace(|| format!("{name} hears {directive:?}"));
        let term = Term(directive.term);
        let stale = term < self.newest_term;
        self.newest_term = self.newest_term.max(term);
        let (said, generation) = (directive.body.clone(), directive.generation);
        let tasks = self.agent.direct(directive);
        if stale && !tasks.is_empty() {
            self.world
                .object(format!("{name} obeys a coordinator that was replaced"));
        }
        if let Some(Said::FormRing(form)) = said
            && tasks.iter().any(|task| matches!(task, Task::Form(_)))
        {
            let roster = v1::Roster::decode(form.roster).unwrap_or_default();
            let members = roster.members.into_iter().map(|m| m.worker_id);
            self.world.heard_generation(generation, members.collect());
        }
        tasks
    }

    /// Does what was decided, except what concerns the stream itself.
    fn carry_out(&mut self, task: Task) {
        let command = match task {
            Task::Prepare(_) => {
                self.prepared_at = Some(Instant::now() + self.dice.within(100..1_000));
                return;
            }
            Task::TellAgain {
                completed,
                in_force,
            } => {
                let mut reports = self.outbox.reports.borrow_mut();
                reports.rewind(completed, in_force);
                return self.outbox.changed.notify_one();
            }
            Task::Abort(_) => {
                if let Some(reins) = self.reins.take() {
                    reins.abort.cancel();
                }
                return;
            }
            Task::Drain(boundary) => {
                if let Some(reins) = &self.reins {
                    reins.proposes.set(boundary);
                }
                return;
            }
            Task::Form(form) => {
                let reins = Reins::default();
                self.reins = Some(reins.clone());
                Command::Form(form, reins)
            }
            Task::Start(generation, _) => Command::Start(generation),
            Task::Fence(generation) => Command::Fence(generation),
            Task::Heartbeat(_) | Task::End(_) => return,
        };
        if let Err(TrySendError::Full(_)) = self.commands.try_send(command) {
            self.world
                .object(format!("the trainer of {} takes no commands", self.name));
        }
    }
}
