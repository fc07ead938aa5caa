//! Every metric of the coordinator, by name.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use ringmaster_proto::v1::RunStatus;

use crate::run::Measure;

/// The current generation.
pub const GENERATION: &str = "coordinator_generation";
/// Workers by state: preparing, spare, ranked, lost, draining.
pub const WORKERS: &str = "coordinator_workers";
/// From the decision to re-form until everybody trains again.
pub const RENDEZVOUS: &str = "coordinator_rendezvous_duration_seconds";
/// Workers unheard for too long. Exposed with `_total`, like every counter below.
pub const LEASE_EXPIRATIONS: &str = "coordinator_lease_expirations";
/// Steps completed for the first time.
pub const STEPS_COMMITTED: &str = "coordinator_steps_committed";
/// Generations that ended in mid-step, by reason: link, lease, worker, forming, drain.
pub const STEPS_ABORTED: &str = "coordinator_steps_aborted";
/// One record of the journal, retries included.
pub const JOURNAL_WRITE: &str = "coordinator_journal_write_duration_seconds";
/// Step of the newest checkpoint.
pub const CHECKPOINT_LAST_STEP: &str = "checkpoint_last_step";

/// States of `coordinator_workers`; all are always shown, so that a graph has no holes.
const STATES: [&str; 5] = ["preparing", "spare", "ranked", "lost", "draining"];

type Label = [(&'static str, &'static str); 1];

/// The coordinator's metrics; clones share the values.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    generation: Gauge<u64, AtomicU64>,
    workers: Family<Label, Gauge>,
    rendezvous: Histogram,
    lease_expirations: Counter,
    steps_committed: Counter,
    steps_aborted: Family<Label, Counter>,
    journal_write: Histogram,
    checkpoint_last_step: Gauge<u64, AtomicU64>,
}

impl Metrics {
    /// Metrics of `run`, labelled with its name.
    pub(crate) fn new(run: &str) -> Self {
        let mut registry =
            Registry::with_labels(std::iter::once(("run".into(), run.to_owned().into())));
        // 1 ms to about 65 s.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        let (rendezvous, journal_write) = (seconds(), seconds());
        let generation = Gauge::default();
        let workers = Family::default();
        let lease_expirations = Counter::default();
        let steps_committed = Counter::default();
        let steps_aborted = Family::default();
        let checkpoint_last_step = Gauge::default();
        registry.register(GENERATION, "The current generation", generation.clone());
        registry.register(WORKERS, "Workers by state", workers.clone());
        registry.register(RENDEZVOUS, "Time to train again", rendezvous.clone());
        registry.register(
            LEASE_EXPIRATIONS,
            "Workers unheard too long",
            lease_expirations.clone(),
        );
        registry.register(STEPS_COMMITTED, "Steps completed", steps_committed.clone());
        registry.register(
            STEPS_ABORTED,
            "Generations ended in mid-step",
            steps_aborted.clone(),
        );
        registry.register(JOURNAL_WRITE, "Time of one record", journal_write.clone());
        let help = "Step of the newest checkpoint";
        registry.register(CHECKPOINT_LAST_STEP, help, checkpoint_last_step.clone());
        let registry = Arc::new(registry);
        Self {
            registry,
            generation,
            workers,
            rendezvous,
            lease_expirations,
            steps_committed,
            steps_aborted,
            journal_write,
            checkpoint_last_step,
        }
    }

    pub(crate) fn measure(&self, measure: &Measure) {
        match measure {
            Measure::LeaseExpired => {
                self.lease_expirations.inc();
            }
            Measure::StepCommitted => {
                self.steps_committed.inc();
            }
            Measure::StepAborted(reason) => {
                self.steps_aborted
                    .get_or_create(&[("reason", *reason)])
                    .inc();
            }
            Measure::Rendezvous(ms) => {
                self.rendezvous
                    .observe(Duration::from_millis(*ms).as_secs_f64());
            }
        }
    }

    pub(crate) fn journal_write(&self, took: Duration) {
        self.journal_write.observe(took.as_secs_f64());
    }

    pub(crate) fn follow(&self, status: &RunStatus) {
        self.generation.set(status.generation);
        self.checkpoint_last_step.set(status.checkpoint_step);
        for state in STATES {
            let count = status
                .workers
                .iter()
                .filter(|worker| worker.state == state)
                .count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.workers.get_or_create(&[("state", state)]).set(count);
        }
    }

    /// The text a scraper reads.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
            let _ = text.write_str("# EOF\n");
        }
        text
    }
}
