//! From a welcome to a worker that can be ranked: corpus open, model built, numerics probed, ring
//! port bound, trainer thread started.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringmaster_dataset::{Corpus, Store};
use ringmaster_proto::RunSpec;
use ringmaster_proto::v1::{Alive, Welcome};
use ringmaster_ring::RingListener;

use crate::cadence::Cadence;
use crate::doing::Doing;
use crate::outbox::{Outbox, outbox};
use crate::sample::Sampler;
use crate::saver::Saver;
use crate::session::{Command, Session};
use crate::trainer::Trainer;
use crate::{WorkerError, WorkerOptions, fingerprint};

/// Commands that may wait for the trainer thread; a generation needs three.
const COMMANDS: usize = 64;

/// How long a trainer thread may take to end: it looks up between microbatches.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// Held-out rows the sampler asks about.
const SAMPLE_ROWS: u64 = 32;

/// A running trainer thread and how to reach it.
pub(crate) struct Prepared {
    commands: SyncSender<Command>,
    outbox: Outbox,
    thread: Option<JoinHandle<Result<(), WorkerError>>>,
    ring_address: SocketAddr,
    fingerprint: String,
    state_bytes: u64,
    doing: Doing,
}

impl Prepared {
    /// Where its ring listens.
    pub(crate) fn ring_address(&self) -> String {
        self.ring_address.to_string()
    }

    /// What it shares with workers that compute equal bits.
    pub(crate) fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// Size of a training state.
    pub(crate) fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    /// A sign of life, with what the trainer thread is at.
    pub(crate) fn alive(&self) -> Alive {
        self.doing.alive()
    }

    /// Hands a command to the trainer thread.
    pub(crate) fn command(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            tracing::error!("the trainer thread takes no commands; the coordinator will fence it");
        }
    }

    /// The trainer thread's reports; they end when the thread does.
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Why the trainer thread has ended, once [`Self::outbox`] says so. The thread's end of the
    /// reports is among the last things it drops, so this hardly waits.
    pub(crate) fn why_ended(&mut self) -> WorkerError {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => error,
            _ => WorkerError::Internal("the trainer thread ended; see its log lines".into()),
        }
    }

    /// Ends the trainer thread and waits for it; not for ever, since it may be stuck.
    pub(crate) async fn end(self) {
        self.command(Command::Exit);
        drop(self.commands);
        let Some(thread) = self.thread else {
            return;
        };
        let deadline = Instant::now() + END_DEADLINE;
        while !thread.is_finished() {
            if Instant::now() > deadline {
                let Alive { step, seconds, .. } = self.doing.alive();
                tracing::error!(
                    step,
                    seconds,
                    "the trainer thread is stuck and is abandoned"
                );
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
        if thread.join().is_err() {
            tracing::error!("the trainer thread panicked; its log lines are above");
        }
    }
}

/// Prepares this worker for the run it is welcomed to.
pub(crate) async fn prepare(
    welcome: Welcome,
    options: WorkerOptions,
) -> Result<Prepared, WorkerError> {
    let spec = RunSpec::from_canonical(&welcome.spec_json)
        .map_err(|error| WorkerError::Internal(format!("the coordinator sent: {error}")))?;
    let root = Store::open(&welcome.root_url)?;
    let hashes = (
        &welcome.corpus_hash,
        &welcome.validation_hash,
        &welcome.tokenizer_hash,
    );
    let corpus = Corpus::open(&spec, &root, hashes.0, hashes.1, hashes.2).await?;
    let held_out = match &corpus.validation {
        Some(manifest) => {
            let rows = 0..SAMPLE_ROWS.min(manifest.rows());
            let (columns, size) = (&spec.data.columns, spec.model.image_size);
            ringmaster_dataset::read_rows(manifest, columns, rows, size).await?
        }
        None => Vec::new(),
    };
    let listener = RingListener::bind(SocketAddr::new(options.ring_bind, 0))?;
    let runtime = tokio::runtime::Handle::current();
    let opened = Opened {
        spec,
        root,
        init_hash: welcome.init_hash,
        corpus,
        held_out,
    };
    let build = move || build(opened, &options, listener, runtime);
    tokio::task::spawn_blocking(build)
        .await
        .map_err(|error| WorkerError::Internal(format!("building the model: {error}")))?
}

/// What the store holds of the run.
struct Opened {
    spec: RunSpec,
    root: Store,
    init_hash: String,
    corpus: Corpus,
    held_out: Vec<ringmaster_dataset::Example>,
}

fn build(
    opened: Opened,
    options: &WorkerOptions,
    listener: RingListener,
    runtime: tokio::runtime::Handle,
) -> Result<Prepared, WorkerError> {
    let Opened {
        spec,
        root,
        init_hash,
        corpus,
        held_out,
    } = opened;
    let device = options.device.resolve()?;
    let spec = Arc::new(spec);
    let trainer = Trainer::new(Arc::clone(&spec), corpus.total_steps, &device);
    let autodiff = device.clone().autodiff();
    let (model, layout) = (&trainer.model, &trainer.layout);
    let precision = spec.train.precision;
    let fingerprint = fingerprint::probe(model, layout, &spec.model, precision, &autodiff)?;
    tracing::info!(fingerprint, parameters = trainer.layout.total, "prepared");
    let sampler = Sampler::new(held_out, spec.eval.sample_every, &spec.model, &autodiff);
    let ring_address = listener.local_addr();
    let (mailbox, outbox) = outbox();
    let mailbox = Arc::new(mailbox);
    let saver = Saver::new(root.clone(), runtime.clone(), Arc::clone(&mailbox));
    let doing = Doing::new();
    let cadence = Cadence::new(spec.checkpoint.every);
    let state_bytes = trainer.state_bytes();
    let session = Session {
        spec,
        corpus: Arc::new(corpus),
        root,
        init_hash,
        token: options.token.clone(),
        listener,
        trainer,
        sampler,
        saver,
        runtime,
        mailbox,
        doing: doing.clone(),
        cadence,
        tax: Arc::clone(&options.tax),
        holds_state: false,
    };
    let (commands, inbox) = std::sync::mpsc::sync_channel(COMMANDS);
    let thread = std::thread::Builder::new()
        .name("trainer".into())
        .spawn(move || session.serve(&inbox))
        .map_err(|error| WorkerError::Internal(format!("starting the trainer: {error}")))?;
    Ok(Prepared {
        commands,
        outbox,
        thread: Some(thread),
        ring_address,
        fingerprint,
        state_bytes,
        doing,
    })
}
