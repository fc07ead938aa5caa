//! The trainer thread: takes commands one at a time, owns the model, the state and the ring.
//!
//! A pending collective is unwound by the generation's `Abort`, which the agent holds; every command
//! is therefore answered soon, whatever the ring was doing.

use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use ringmaster_agent::Form;
use ringmaster_dataset::{Corpus, Store, lanes_of_rank, standby_lanes};
use ringmaster_proto::auth::RunToken;
use ringmaster_proto::spec::Transport;
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, Activity, Boundary, Held, Origin, Resume};
use ringmaster_proto::{ErrorKind, Generation, Rank, RunSpec, Step, WorldSize};
use ringmaster_ring::{self as ring, Abort, Ring, RingError, RingListener};
use tokio::runtime::Handle;

use crate::cadence::Cadence;
use crate::checkpoint::Place;
use crate::doing::Doing;
use crate::feeder::Feeder;
use crate::outbox::Mailbox;
use crate::sample::Sampler;
use crate::saver::{Saver, Snapshot};
use crate::tax::Tax;
use crate::trainer::{Agreed, Membership, Trainer};
use crate::{WorkerError, init, quarantine, recovery};

/// Pause before the last checkpoint is tried again.
const STORE_WAIT: Duration = Duration::from_secs(1);

/// What the agent asks of the trainer thread.
pub(crate) enum Command {
    /// Become part of a generation: links, then the state at its resume point.
    Form(Form, Reins),
    /// Every rank has formed: step until a boundary or a fence.
    Start(Generation, f64),
    /// Apply nothing more in this generation, and say what is held.
    Fence(Generation),
    /// End the thread.
    Exit,
}

/// How the agent reaches into a generation's ring.
#[derive(Clone)]
pub(crate) struct Reins {
    /// Unwinds whatever the ring waits for.
    pub(crate) abort: Abort,
    /// The boundary this rank proposes.
    pub(crate) drain: Arc<AtomicI32>,
}

/// Everything the trainer thread owns.
pub(crate) struct Session {
    pub(crate) spec: Arc<RunSpec>,
    pub(crate) corpus: Arc<Corpus>,
    pub(crate) root: Store,
    /// The stored parameters that the run starts from; empty: those of the seed.
    pub(crate) init_hash: String,
    pub(crate) token: RunToken,
    pub(crate) listener: RingListener,
    pub(crate) trainer: Trainer,
    pub(crate) sampler: Sampler,
    pub(crate) saver: Saver,
    pub(crate) runtime: Handle,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) doing: Doing,
    pub(crate) cadence: Cadence,
    pub(crate) tax: Arc<Tax>,
    /// Whether the trainer's state is one of the run's, not just fresh memory.
    pub(crate) holds_state: bool,
}

/// A generation in force.
struct Active {
    generation: Generation,
    rank: Rank,
    world: WorldSize,
    /// A generation is started once, though the coordinator may say so again.
    started: bool,
    member: Membership,
}

impl Session {
    /// Serves commands until `Exit` or until the agent is gone.
    ///
    /// # Errors
    /// When nothing that this process computes can be trusted any more.
    pub(crate) fn serve(mut self, commands: &Receiver<Command>) -> Result<(), WorkerError> {
        let span = tracing::info_span!("run", run = self.spec.run.name);
        let _entered = span.enter();
        let mut active: Option<Active> = None;
        while let Ok(command) = commands.recv() {
            let activity = match command {
                Command::Form(..) => Activity::Form,
                _ => Activity::Unspecified,
            };
            self.doing.begin(activity, self.trainer.step_count());
            match command {
                Command::Form(form, reins) => {
                    // The old links close before the new ones open.
                    drop(active.take());
                    self.saver.give_up();
                    let generation = form.generation;
                    match self.form(form, reins) {
                        Ok(formed) => active = Some(formed),
                        Err(error) => {
                            // What does not verify is nobody's state.
                            self.holds_state &= !matches!(error, WorkerError::Diverged { .. });
                            self.report_error(generation, None, error)?;
                        }
                    }
                }
                Command::Start(generation, failures) => {
                    self.cadence.expect_failures(failures);
                    let waits = |a: &&mut Active| a.generation == generation && !a.started;
                    if let Some(active) = active.as_mut().filter(waits) {
                        active.started = true;
                        let began = Instant::now();
                        let trained = self.train(active);
                        self.tax.training(began.elapsed());
                        self.tax.keeper(active.member.ring.keeping());
                        if let Err(error) = trained {
                            self.report_error(generation, Some(active.rank), error)?;
                        }
                    }
                }
                Command::Fence(generation) => {
                    drop(active.take());
                    self.report_fenced(generation, Boundary::Unspecified);
                }
                Command::Exit => break,
            }
            let step = self.trainer.step_count();
            self.doing.begin(Activity::Unspecified, step);
        }
        Ok(())
    }

    /// Forms the links of a generation and obtains the state at its resume point.
    fn form(&mut self, form: Form, reins: Reins) -> Result<Active, WorkerError> {
        let Form {
            generation,
            rank,
            addresses,
            resume,
        } = form;
        let Reins { abort, drain } = reins;
        let world = WorldSize(addresses.len() as u32);
        let membership = ring::Membership {
            run: self.spec.run.name.clone(),
            generation: generation.0,
            rank: rank.0 as usize,
            addrs: addresses,
            secret: self.token.ring_secret(&self.spec.run.name, generation),
        };
        let options = ring::Options {
            transport: match self.spec.train.transport {
                Transport::Best => ring::Transport::Best,
                Transport::Tcp => ring::Transport::Tcp,
            },
            ..ring::Options::default()
        };
        let began = Instant::now();
        let mut ring = Ring::form(&self.listener, membership, options, &abort)?;
        let collective = self.trainer.join(&mut ring)?;
        let connected = Instant::now();
        self.resume(&mut ring, &resume)?;
        self.holds_state = true;
        let held = self.held()?;
        tracing::info!(%generation, %rank, %world, step = resume.step, "formed");
        let formed = v1::Formed {
            held,
            connect_seconds: connected.duration_since(began).as_secs_f64(),
            copy_seconds: connected.elapsed().as_secs_f64(),
        };
        self.report(generation, Body::Formed(formed));
        let member = Membership {
            collective,
            ring,
            abort,
            drain,
            saving: self.saver.vote(),
            save: false,
            doing: self.doing.clone(),
            tax: Arc::clone(&self.tax),
        };
        Ok(Active {
            generation,
            rank,
            world,
            started: false,
            member,
        })
    }

    /// Makes the trainer's state that of the resume point.
    fn resume(&mut self, ring: &mut Ring, resume: &Resume) -> Result<(), WorkerError> {
        let trainer = &mut self.trainer;
        match resume.origin() {
            Origin::Initial => {
                if self.holds_state {
                    // A state of an earlier generation does not survive a start from the seed.
                    trainer.restart();
                }
                if !self.init_hash.is_empty() {
                    let stored = init::load(&self.root, &self.init_hash, &trainer.layout);
                    trainer.start_from(self.runtime.block_on(stored)?);
                }
            }
            Origin::Memory => {
                let (state, layout) = trainer.state()?;
                if let Some(arrived) = recovery::copy_between_peers(ring, state, layout, resume)? {
                    trainer.adopt(arrived);
                }
            }
            Origin::Checkpoint => {
                let loaded = recovery::load(&self.root, &trainer.layout, resume);
                trainer.adopt(self.runtime.block_on(loaded)?);
            }
            Origin::Unspecified => {
                return Err(WorkerError::Internal(
                    "a resume point without an origin".into(),
                ));
            }
        }
        Ok(())
    }

    /// Steps until the ranks agree on a boundary.
    fn train(&mut self, active: &mut Active) -> Result<(), WorkerError> {
        let (generation, rank) = (active.generation.0, active.rank.0);
        let span = tracing::info_span!("generation", generation, rank);
        let _entered = span.enter();
        let lanes = lanes_of_rank(self.spec.data.lanes, active.rank, active.world);
        let standby = if self.spec.data.takeover {
            standby_lanes(self.spec.data.lanes, active.rank, active.world)
        } else {
            Vec::new()
        };
        let from = Step(self.trainer.step_count());
        let to = Step(self.corpus.total_steps);
        if from >= to {
            return self.reach(active, Boundary::Finished);
        }
        let mut feeder = Feeder::start(
            &self.corpus,
            &self.spec,
            lanes,
            standby,
            (from, to),
            self.trainer.form(),
            &self.runtime,
        )?;
        loop {
            let span = tracing::info_span!("step", step = self.trainer.step_count());
            let _entered = span.enter();
            active.member.save = active.rank.0 == 0 && self.cadence.wants(Instant::now());
            let (mut done, agreed) = self.trainer.step(&mut feeder, &mut active.member)?;
            quarantine::name(&mut done.quarantined, &self.corpus.train);
            let (loss, seconds, digest) = (done.loss, done.step_seconds, done.digest.clone());
            self.report(active.generation, Body::StepDone(done));
            // What was one too many is on record by then.
            self.trainer.check_bad_rows(&self.corpus.plan)?;
            if agreed.boundary != Boundary::Unspecified {
                tracing::debug!(loss, seconds, "done");
                drop(feeder);
                return self.reach(active, agreed.boundary);
            }
            let stalled = self.save_if_due(active, agreed, digest)?;
            tracing::debug!(loss, seconds, stalled, "done");
            self.doing
                .begin(Activity::Answer, self.trainer.step_count());
            if active.rank.0 == 0
                && let Some(sample) = self.sampler.next_if_due(&mut self.trainer, &self.corpus)?
            {
                self.report(active.generation, Body::Sample(sample));
            }
        }
    }

    /// Begins a checkpoint if one is due. Returns for how long it kept the training waiting, seconds.
    fn save_if_due(
        &mut self,
        active: &Active,
        agreed: Agreed,
        digest: String,
    ) -> Result<f64, WorkerError> {
        if let Some(seconds) = self.saver.check()? {
            self.cadence.written(seconds);
        }
        let step = self.trainer.step_count();
        if !self.cadence.due(step, agreed.save) {
            return Ok(0.0);
        }
        if agreed.saving {
            let why = self.saver.hindrance();
            tracing::warn!("no checkpoint of step {step}: {why}");
            return Ok(0.0);
        }
        let stalled = self.save(active, digest)?;
        self.tax.saving(Duration::from_secs_f64(stalled));
        Ok(stalled)
    }

    /// Copies this rank's part of the state and begins to write it. `digest`: that of the state if it
    /// was taken. Returns what the copy took, seconds.
    fn save(&mut self, active: &Active, digest: String) -> Result<f64, WorkerError> {
        let started = Instant::now();
        let step = self.trainer.step_count();
        self.doing.begin(Activity::Save, step);
        let (state, layout) = self.trainer.state()?;
        let place = Place {
            generation: active.generation,
            part: active.rank.0,
            parts: active.world.0,
        };
        let snapshot = Snapshot::of(place, state, digest, layout);
        self.saver.start(snapshot);
        let stalled = started.elapsed().as_secs_f64();
        self.cadence.began(Instant::now(), stalled);
        Ok(stalled)
    }

    /// Ends at an agreed boundary; one that ends the run writes a checkpoint first, and waits for a
    /// store that is away.
    fn reach(&mut self, active: &Active, boundary: Boundary) -> Result<(), WorkerError> {
        tracing::info!(step = self.trainer.step_count(), ?boundary, "boundary");
        if matches!(boundary, Boundary::Stop | Boundary::Finished) {
            let abort = &active.member.abort;
            // What is nearly saved is worth something, should this process be killed next.
            self.saver.settle(abort)?;
            let digest = self.held()?.map_or_else(String::new, |held| held.digest);
            self.save(active, digest.clone())?;
            while let Err(error) = self.saver.wait(abort) {
                abort.check()?;
                if error.kind() != ErrorKind::Retry {
                    return Err(error);
                }
                tracing::warn!("the last checkpoint waits for the store: {error}");
                std::thread::sleep(STORE_WAIT);
                self.save(active, digest.clone())?;
            }
        }
        self.report_fenced(active.generation, boundary);
        Ok(())
    }

    fn held(&mut self) -> Result<Option<Held>, WorkerError> {
        if !self.holds_state {
            return Ok(None);
        }
        let (state, layout) = self.trainer.state()?;
        Ok(Some(Held {
            step: state.step,
            digest: state.digest(layout),
        }))
    }

    fn report_fenced(&mut self, generation: Generation, boundary: Boundary) {
        // A part of a generation that is over makes no checkpoint any more.
        self.saver.give_up();
        // A state that cannot be read any more is as good as none.
        let held = self.held().unwrap_or_else(|error| {
            tracing::error!(%generation, "{error}");
            None
        });
        let boundary = boundary as i32;
        let fenced = v1::Fenced { held, boundary };
        self.report(generation, Body::Fenced(fenced));
    }

    /// A broken ring is for the coordinator to judge; anything else this worker cannot mend. What not
    /// even this process survives is returned.
    fn report_error(
        &self,
        generation: Generation,
        rank: Option<Rank>,
        error: WorkerError,
    ) -> Result<(), WorkerError> {
        let body = match &error {
            WorkerError::Ring(RingError::Aborted { .. }) => return Ok(()),
            WorkerError::Ring(RingError::Wedged { .. }) => return Err(error),
            WorkerError::Ring(ring) => {
                tracing::warn!(%generation, "ring: {error}");
                let own = rank.map_or(0, |rank| rank.0);
                Body::LinkLost(v1::LinkLost {
                    accused_rank: ring.accused().map_or(own, |rank| rank as u32),
                    reason: error.to_string(),
                })
            }
            WorkerError::Unresumable { key, source } => {
                tracing::error!(%generation, "{error}");
                Body::CheckpointDamaged(v1::CheckpointDamaged {
                    key: key.clone(),
                    reason: source.to_string(),
                })
            }
            _ => {
                tracing::error!(%generation, "{error}");
                let kind = error.kind().as_str().to_owned();
                Body::Failed(v1::Failed {
                    kind,
                    message: error.to_string(),
                })
            }
        };
        self.report(generation, body);
        Ok(())
    }

    fn report(&self, generation: Generation, body: Body) {
        self.mailbox.put(generation, body);
    }
}
