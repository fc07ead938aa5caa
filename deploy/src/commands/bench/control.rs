//! `ringmaster bench control`: one real coordinator process and very many workers that only talk: how
//! soon a generation forms, what the coordinator costs while they train, how soon it forms again.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use ringmaster_agent::{Agent, Task};
use ringmaster_proto::auth::RunToken;
use ringmaster_proto::v1::watch_run_response::Event;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, WorkerReport};
use ringmaster_proto::{ErrorKind, Generation, PROTOCOL_VERSION, RunSpec, WorkerId, dial};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::endpoint::Endpoint;
use crate::error::{CliError, Exit};
use crate::output::{self, Output};
use crate::run_folder::RunFolder;
use crate::supervisor::Watcher;
use crate::supervisor::child::{Launch, Started};
use crate::usage;

/// Nothing that is waited for takes this long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A worker's steps and signs of life.
const SECOND: Duration = Duration::from_secs(1);

/// Reports of one worker on their way.
const OUTBOUND: usize = 64;

/// Workers that begin to attend at once.
const AT_ONCE: usize = 32;

/// Arguments of `bench control`.
#[derive(Args, Debug)]
pub(crate) struct ControlArgs {
    /// Workers that attend
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(2..=4096))]
    workers: u32,
    /// For how long the coordinator is watched while they train, a step each second
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Form of the result on stdout
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// The result; its field names are a contract.
#[derive(Debug, Serialize)]
struct Report {
    workers: u32,
    /// From the last worker's readiness to all of them training.
    form_seconds: f64,
    /// Of one core, while they train.
    cpu_share: f64,
    resident_bytes: u64,
    /// From the death of one worker to the others training.
    reform_seconds: f64,
}

/// Runs it, prints it, removes it.
pub(crate) async fn run(args: ControlArgs) -> Result<Exit, CliError> {
    let out = std::env::temp_dir().join(format!("ringmaster-control-{}", std::process::id()));
    let measured = measure(&out, &args).await;
    fs::remove_dir_all(&out).map_err(|error| CliError::file(&out, &error))?;
    let report = measured?;
    if args.output == Output::Json {
        output::json(&report);
        return Ok(Exit::Done);
    }
    let rows = [
        ("workers", report.workers.to_string()),
        ("formed in", format!("{:.2} s", report.form_seconds)),
        ("of one core", format!("{:.1} %", 100.0 * report.cpu_share)),
        ("memory", output::bytes(report.resident_bytes)),
        ("formed again in", format!("{:.2} s", report.reform_seconds)),
    ];
    let rows = rows.map(|(name, value)| vec![name.to_owned(), value]);
    output::table(&["coordinator", ""], &rows);
    Ok(Exit::Done)
}

async fn measure(out: &Path, args: &ControlArgs) -> Result<Report, CliError> {
    let (coordinator, endpoint, folder) = start(out, args.workers).await?;
    let token = folder.ensure_token()?;
    let mut watcher = Watcher::new(&endpoint.address, &folder)?;
    let (dead, death) = watch::channel(None);
    let (ready, mut readied) = mpsc::channel(args.workers as usize);
    let crew = Arc::new(Crew {
        address: endpoint.address,
        token,
        ready,
        gate: tokio::sync::Semaphore::new(AT_ONCE),
    });
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..args.workers {
        workers.spawn(Arc::clone(&crew).work(number, death.clone()));
    }
    for _ in 0..args.workers {
        let next = tokio::select! {
            next = timeout(PATIENCE, readied.recv()) => next,
            Some(Ok(Err(error))) = workers.join_next() => return Err(error),
        };
        next.map_err(|_| late("a worker's readiness"))?;
    }
    let form_seconds = trains(&mut watcher, Instant::now(), 0).await?.0;
    let before = usage::of(endpoint.pid)?;
    let since = Instant::now();
    let steady = trains_for(&mut watcher, Duration::from_secs(args.seconds)).await?;
    let after = usage::of(endpoint.pid)?;
    let cpu_share = (after.core_seconds - before.core_seconds) / since.elapsed().as_secs_f64();
    let began = Instant::now();
    dead.send_replace(Some(args.workers / 2));
    let reform_seconds = trains(&mut watcher, began, steady).await?.0;
    drop(coordinator);
    Ok(Report {
        workers: args.workers,
        form_seconds,
        cpu_share,
        resident_bytes: after.resident_bytes,
        reform_seconds,
    })
}

/// Starts the coordinator, and waits until it listens.
async fn start(out: &Path, workers: u32) -> Result<(Started, Endpoint, RunFolder), CliError> {
    fs::create_dir_all(out).map_err(|error| CliError::file(out, &error))?;
    let sets = [
        "run.name=control".to_owned(),
        format!("run.store={}", out.join("runs").display()),
        "run.steps=1000000".to_owned(),
        format!("data.lanes={workers}"),
        format!("membership.min_workers={}", workers - 1),
        format!("membership.max_workers={workers}"),
        "membership.join_window=\"60s\"".to_owned(),
        "train.reduction=exact".to_owned(),
    ];
    let folder = RunFolder::of(&RunSpec::parse("", &sets)?);
    folder.create()?;
    folder.ensure_token()?;
    let mut args: Vec<String> = [
        "coordinator",
        "--exit-with-parent",
        "--alone",
        "--token-file",
    ]
    .map(str::to_owned)
    .into();
    args.push(folder.token().display().to_string());
    args.extend([
        "--metrics-file".to_owned(),
        folder.metrics().display().to_string(),
    ]);
    args.extend(sets.into_iter().flat_map(|set| ["--set".to_owned(), set]));
    let log = out.join("coordinator.log");
    let launch = Launch {
        role: "coordinator".to_owned(),
        args: args.into_iter().map(Into::into).collect(),
        env: vec![("RUST_LOG", "warn".to_owned())],
        log,
        folder: Some(out.to_owned()),
        read_stdout: true,
    };
    let mut started = launch.start()?;
    let lines = started
        .stdout
        .take()
        .map(|stdout| BufReader::new(stdout).lines());
    let said = match lines {
        Some(mut lines) => timeout(PATIENCE, lines.next_line()).await.ok(),
        None => None,
    };
    let said = said.and_then(Result::ok).flatten();
    let endpoint = said.and_then(|line| serde_json::from_str(&line).ok());
    let endpoint = endpoint.ok_or_else(|| late("the coordinator"))?;
    Ok((started, endpoint, folder))
}

/// Waits until a generation after `before` trains. Returns the seconds since `began`, and its number.
async fn trains(
    watcher: &mut Watcher,
    began: Instant,
    before: u64,
) -> Result<(f64, u64), CliError> {
    loop {
        let event = timeout(PATIENCE, watcher.next()).await;
        if let Event::Status(status) = event.map_err(|_| late("a generation"))?
            && status.phase == "training"
            && status.generation > before
        {
            return Ok((began.elapsed().as_secs_f64(), status.generation));
        }
    }
}

/// Follows the run for a while. Returns its generation.
async fn trains_for(watcher: &mut Watcher, time: Duration) -> Result<u64, CliError> {
    let until = Instant::now() + time;
    let mut generation = 0;
    while let Ok(event) = tokio::time::timeout_at(until, watcher.next()).await {
        if let Event::Step(step) = event {
            generation = step.generation;
        }
    }
    Ok(generation)
}

fn late(what: &str) -> CliError {
    let reason = format!("it did not come within {} s", PATIENCE.as_secs());
    CliError::refused(ErrorKind::Internal, what, reason, "try fewer workers")
}

/// What the workers share.
struct Crew {
    address: String,
    token: RunToken,
    ready: mpsc::Sender<()>,
    gate: tokio::sync::Semaphore,
}

/// One worker without a model, a corpus or a ring.
struct Talker {
    number: u32,
    agent: Agent,
    outbound: mpsc::Sender<WorkerReport>,
    step: u64,
    trains: bool,
}

impl Crew {
    /// Attends until it is let go, or dies, or loses a neighbour, which it reports.
    async fn work(
        self: Arc<Self>,
        number: u32,
        mut death: watch::Receiver<Option<u32>>,
    ) -> Result<(), CliError> {
        let permit = self.gate.acquire().await;
        let (outbound, reports) = mpsc::channel(OUTBOUND);
        let name = WorkerId::new(&format!("w{number}"));
        let Some(name) = name else { return Ok(()) };
        let mut talker = Talker {
            number,
            agent: Agent::new(name, u64::from(number) + 1),
            outbound,
            step: 0,
            trains: false,
        };
        let hello = talker.agent.hello(v1::Hello {
            protocol: PROTOCOL_VERSION,
            host: format!("host-{}", number / 8),
            ..Default::default()
        });
        talker.tell(hello).await;
        let channel = dial::dial(&self.address, &self.token).await?;
        let mut client = dial::coordinator(channel);
        let attended = client.attend(ReceiverStream::new(reports)).await;
        let mut directives = attended
            .map_err(|status| CliError::rpc("Attend", &status))?
            .into_inner();
        drop(permit);
        let mut second = interval(SECOND);
        loop {
            tokio::select! {
                directive = directives.message() => {
                    let Ok(Some(directive)) = directive else { return Ok(()) };
                    for task in talker.agent.direct(directive) {
                        if talker.carry_out(task, &self.ready).await {
                            return Ok(());
                        }
                    }
                }
                _ = second.tick() => talker.second().await,
                changed = death.changed() => {
                    let dead = *death.borrow_and_update();
                    if changed.is_err() || dead == Some(number) {
                        return Ok(());
                    }
                    talker.lost(dead).await;
                }
            }
        }
    }
}

impl Talker {
    async fn tell(&self, report: WorkerReport) {
        // Whoever does not listen any more ends the stream too.
        let _ended = self.outbound.send(report).await;
    }

    async fn say(&mut self, generation: Generation, body: Body) {
        let body = self.agent.note(Duration::ZERO, generation, body);
        self.tell(self.agent.envelope(generation, body)).await;
    }

    fn held(&self) -> Option<v1::Held> {
        Some(v1::Held {
            step: self.step,
            digest: "0".repeat(64),
        })
    }

    /// Does what was decided; true at the end.
    async fn carry_out(&mut self, task: Task, ready: &mpsc::Sender<()>) -> bool {
        match task {
            Task::Prepare(_) => {
                let address = format!("127.0.0.1:{}", 1 + self.number);
                let body = self.agent.prepared(v1::Prepared {
                    ring_address: address,
                    fingerprint: "f".to_owned(),
                    ..Default::default()
                });
                self.tell(self.agent.envelope(Generation(0), body)).await;
                let _nobody_counts = ready.send(()).await;
            }
            Task::Form(form) => {
                (self.trains, self.step) = (false, form.resume.step);
                let held = self.held();
                self.say(
                    form.generation,
                    Body::Formed(v1::Formed {
                        held,
                        ..Default::default()
                    }),
                )
                .await;
            }
            Task::Start(..) => self.trains = true,
            Task::Fence(generation) => {
                self.trains = false;
                let held = self.held();
                let fenced = v1::Fenced { held, boundary: 0 };
                self.say(generation, Body::Fenced(fenced)).await;
            }
            Task::End(_) => return true,
            Task::Heartbeat(_) | Task::TellAgain { .. } | Task::Abort(_) | Task::Drain(_) => {}
        }
        false
    }

    /// A second passes: a step, and a sign of life.
    async fn second(&mut self) {
        let generation = self.agent.generation();
        if self.trains {
            self.step += 1;
            let done = v1::StepDone {
                step: self.step,
                loss: 1.0 / self.step as f64,
                ..Default::default()
            };
            self.say(generation, Body::StepDone(done)).await;
        }
        self.say(generation, Body::Alive(v1::Alive::default()))
            .await;
    }

    /// A worker died; its neighbours by number report it.
    async fn lost(&mut self, dead: Option<u32>) {
        if let Some(dead) = dead.filter(|dead| dead.abs_diff(self.number) == 1) {
            let lost = v1::LinkLost {
                accused_rank: dead,
                reason: "reset".to_owned(),
            };
            self.say(self.agent.generation(), Body::LinkLost(lost))
                .await;
        }
    }
}
