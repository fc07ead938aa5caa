//! From a run spec to the objects of a cluster: pure, so that `render` shows exactly what `submit`
//! applies.
//!
//! Coordinator and workers are Indexed Jobs below one headless Service, which gives every pod a
//! stable name. The coordinator is a Job and not a StatefulSet because a run ends: a finished
//! StatefulSet would be started again for ever. That a Job may, rarely, run two pods for a moment is
//! harmless: the journal lets only the newer coordinator act. No object holds the run's token;
//! `submit` creates that Secret, and the pods mount it.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use ringmaster_proto::{ErrorKind, RunSpec};

use super::pod;
use crate::error::{CliError, Exit};

/// Port of the coordinator's gRPC service.
pub(super) const GRPC_PORT: u16 = 7700;

/// Port of its admin HTTP service.
pub(super) const ADMIN_PORT: u16 = 7701;

/// Key of the run file in the ConfigMap.
pub(super) const RUN_FILE: &str = "run.toml";

/// Longest name Kubernetes gives a pod's host, a DNS label.
const LABEL_MAX: usize = 63;

/// Failures of one pod, beyond disruptions of the cluster, before its Job fails.
const BACKOFF_LIMIT: i32 = 20;

/// Every object of a run except the Secret with its token.
#[derive(Clone, Debug)]
pub(crate) struct Manifests {
    /// Whose cloud identity the pods have.
    pub(crate) service_account: ServiceAccount,
    /// The run file.
    pub(crate) run_file: ConfigMap,
    /// Names of the pods.
    pub(crate) service: Service,
    /// The control plane.
    pub(crate) coordinator: Job,
    /// The ranks.
    pub(crate) workers: Job,
}

impl Manifests {
    /// The objects as YAML documents, in the order they are applied.
    pub(crate) fn to_yaml(&self) -> Result<String, CliError> {
        let documents = [
            serde_yaml_ng::to_string(&self.service_account),
            serde_yaml_ng::to_string(&self.run_file),
            serde_yaml_ng::to_string(&self.service),
            serde_yaml_ng::to_string(&self.coordinator),
            serde_yaml_ng::to_string(&self.workers),
        ];
        let documents: Result<Vec<String>, _> = documents.into_iter().collect();
        let documents = documents.map_err(|error| {
            CliError::refused(ErrorKind::Internal, "manifests", error, "please report it")
        })?;
        Ok(documents.join("---\n"))
    }
}

/// The objects that run `spec`, whose run file is `text`.
pub(crate) fn render(spec: &RunSpec, text: &str) -> Result<Manifests, CliError> {
    refuse_what_cannot_run(spec)?;
    let run = spec.run.name.as_str();
    let kubernetes = &spec.kubernetes;
    let mut service_account = ServiceAccount {
        metadata: meta(spec, run),
        ..ServiceAccount::default()
    };
    service_account.automount_service_account_token = Some(false);
    service_account.metadata.annotations = some(&kubernetes.service_account_annotations);
    let run_file = ConfigMap {
        metadata: meta(spec, run),
        data: Some(BTreeMap::from([(RUN_FILE.to_owned(), text.to_owned())])),
        ..ConfigMap::default()
    };
    Ok(Manifests {
        service_account,
        run_file,
        service: service(spec),
        coordinator: coordinator(spec),
        workers: workers(spec),
    })
}

fn refuse_what_cannot_run(spec: &RunSpec) -> Result<(), CliError> {
    let store = &spec.run.store;
    if !store.contains("://") || store.starts_with("file://") {
        let thing = format!("run.store = {store}");
        let reason = "pods do not share this machine's files";
        return Err(CliError::invalid(
            thing,
            reason,
            "use an s3://, gs:// or az:// URL",
        ));
    }
    let run = &spec.run.name;
    let next = "choose another run.name";
    if !run.starts_with(|c: char| c.is_ascii_lowercase()) {
        let reason = "the name of a Service starts with a letter";
        return Err(CliError::invalid(format!("run.name = {run}"), reason, next));
    }
    let gpus = spec.kubernetes.gpus;
    if gpus > 1 {
        let thing = format!("kubernetes.gpus = {gpus}");
        let reason = "a worker computes on one GPU, so its pod would leave the others idle";
        let next = "set it to 1 and raise membership.max_workers, one worker per GPU";
        return Err(CliError::invalid(thing, reason, next));
    }
    let longest = pod::coordinator_host(run).len();
    if longest > LABEL_MAX {
        let reason = format!(
            "is {} characters too long for pod names",
            longest - LABEL_MAX
        );
        return Err(CliError::invalid(format!("run.name = {run}"), reason, next));
    }
    Ok(())
}

fn service(spec: &RunSpec) -> Service {
    let port = |name: &str, port: u16| ServicePort {
        name: Some(name.to_owned()),
        port: port.into(),
        ..ServicePort::default()
    };
    let service = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        // Workers dial while the coordinator still prepares; a name that appears late only delays.
        publish_not_ready_addresses: Some(true),
        selector: Some(selector(spec)),
        ports: Some(vec![port("grpc", GRPC_PORT), port("admin", ADMIN_PORT)]),
        ..ServiceSpec::default()
    };
    Service {
        metadata: meta(spec, &spec.run.name),
        spec: Some(service),
        ..Service::default()
    }
}

fn coordinator(spec: &RunSpec) -> Job {
    let container = pod::COORDINATOR;
    let mut job = job(spec, container, 1);
    if let Some(job) = &mut job.spec {
        job.backoff_limit = Some(BACKOFF_LIMIT);
        job.template = pod::coordinator(spec, labels(spec, container));
        // A wrong run file, or a corpus that is not what it should be, stays wrong.
        let hopeless = [ErrorKind::Invalid, ErrorKind::Data];
        job.pod_failure_policy = Some(failure_policy(container, &hopeless, &[]));
    }
    job
}

fn workers(spec: &RunSpec) -> Job {
    let container = pod::WORKER;
    let count = i32::try_from(spec.membership.max_workers).unwrap_or(i32::MAX);
    let mut job = job(spec, container, count);
    if let Some(job) = &mut job.spec {
        job.backoff_limit_per_index = Some(BACKOFF_LIMIT);
        job.template = pod::worker(spec, labels(spec, container));
        let hopeless = [ErrorKind::Invalid];
        job.pod_failure_policy = Some(failure_policy(container, &hopeless, &[ErrorKind::Rejoin]));
    }
    job
}

fn job(spec: &RunSpec, component: &str, count: i32) -> Job {
    let name = format!("{}-{component}", spec.run.name);
    let mut metadata = meta(spec, &name);
    metadata.labels = Some(labels(spec, component));
    let job = JobSpec {
        completion_mode: Some("Indexed".to_owned()),
        completions: Some(count),
        parallelism: Some(count),
        // A replacement starts only when its predecessor is gone: one holder per name.
        pod_replacement_policy: Some("Failed".to_owned()),
        ..JobSpec::default()
    };
    Job {
        metadata,
        spec: Some(job),
        ..Job::default()
    }
}

/// Disruptions of the cluster and orderly leaves are forgiven, what can never succeed fails the Job
/// at once, everything else counts towards the limit.
fn failure_policy(
    container: &str,
    hopeless: &[ErrorKind],
    forgiven: &[ErrorKind],
) -> PodFailurePolicy {
    let on_exit = |action: &str, mut values: Vec<i32>| {
        values.sort_unstable();
        PodFailurePolicyRule {
            action: action.to_owned(),
            on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                container_name: Some(container.to_owned()),
                operator: "In".to_owned(),
                values,
            }),
            ..PodFailurePolicyRule::default()
        }
    };
    let disrupted = PodFailurePolicyRule {
        action: "Ignore".to_owned(),
        on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
            type_: "DisruptionTarget".to_owned(),
            status: Some("True".to_owned()),
        }]),
        ..PodFailurePolicyRule::default()
    };
    let codes = |kinds: &[ErrorKind]| kinds.iter().map(|k| i32::from(k.exit_code())).collect();
    let mut again: Vec<i32> = codes(forgiven);
    again.push(Exit::Stopped.code().into());
    let rules = vec![
        disrupted,
        on_exit("Ignore", again),
        on_exit("FailJob", codes(hopeless)),
    ];
    PodFailurePolicy { rules }
}

/// Labels that select every pod of the run.
pub(super) fn selector(spec: &RunSpec) -> BTreeMap<String, String> {
    let label = |key: &str, value: &str| (format!("app.kubernetes.io/{key}"), value.to_owned());
    BTreeMap::from([
        label("name", "ringmaster"),
        label("instance", &spec.run.name),
    ])
}

fn labels(spec: &RunSpec, component: &str) -> BTreeMap<String, String> {
    let mut labels = common_labels(spec);
    labels.insert(
        "app.kubernetes.io/component".to_owned(),
        component.to_owned(),
    );
    labels
}

pub(super) fn common_labels(spec: &RunSpec) -> BTreeMap<String, String> {
    let mut labels = selector(spec);
    labels.insert(
        "app.kubernetes.io/managed-by".to_owned(),
        "ringmaster".to_owned(),
    );
    labels
}

fn meta(spec: &RunSpec, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(spec.kubernetes.namespace.clone()),
        labels: Some(common_labels(spec)),
        ..ObjectMeta::default()
    }
}

fn some(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then(|| map.clone())
}
