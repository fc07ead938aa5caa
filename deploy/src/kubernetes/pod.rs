//! The pods of a run, within the "restricted" Pod Security Standard.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    EnvVarSource, HTTPGetAction, ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec,
    Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use ringmaster_proto::RunSpec;

use super::render::{ADMIN_PORT, GRPC_PORT, RUN_FILE};

/// Component, and name of the coordinator's container.
pub(super) const COORDINATOR: &str = "coordinator";

/// Component, and name of a worker's container.
pub(super) const WORKER: &str = "worker";

/// Key of the token in the run's Secret, and its file name in a pod.
pub(super) const TOKEN: &str = "token";

/// The user of the image; any but root works.
const USER: i64 = 65_532;

/// Longer than a drain takes: the step in progress, and the checkpoint.
const GRACE_SECONDS: i64 = 330;

/// How long a coordinator may prepare the corpus before it listens, in probes of 10 s.
const STARTUP_PROBES: i32 = 360;

const RUN_FOLDER: &str = "/etc/ringmaster/run";
const TOKEN_FOLDER: &str = "/etc/ringmaster/token";
const SCRATCH: &str = "/scratch";

/// Name of the Secret with the run's token.
pub(super) fn token_secret(run: &str) -> String {
    format!("{run}-token")
}

/// Host name that an Indexed Job gives the one coordinator pod.
pub(super) fn coordinator_host(run: &str) -> String {
    format!("{run}-{COORDINATOR}-0")
}

/// The coordinator's pod.
pub(super) fn coordinator(spec: &RunSpec, labels: BTreeMap<String, String>) -> PodTemplateSpec {
    let (grpc, admin) = (GRPC_PORT.to_string(), ADMIN_PORT.to_string());
    let run_file = format!("{RUN_FOLDER}/{RUN_FILE}");
    let metrics = format!("{SCRATCH}/metrics.jsonl");
    let args = [
        "coordinator",
        &run_file,
        "--bind",
        "$(POD_IP)",
        "--port",
        &grpc,
        "--admin-port",
        &admin,
        "--metrics-file",
        &metrics,
    ];
    let mut container = container(spec, COORDINATOR, &args);
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: port.into(),
        ..ContainerPort::default()
    };
    container.ports = Some(vec![port("grpc", GRPC_PORT), port("admin", ADMIN_PORT)]);
    container.startup_probe = Some(probe("/healthz", STARTUP_PROBES));
    container.liveness_probe = Some(probe("/healthz", 6));
    container.readiness_probe = Some(probe("/readyz", 3));
    container.resources = Some(resources("1", memory(spec), 0));
    let mounts = container.volume_mounts.get_or_insert_default();
    mounts.push(mount("run", RUN_FOLDER, true));
    let run = ConfigMapVolumeSource {
        name: spec.run.name.clone(),
        ..Default::default()
    };
    let run = Volume {
        name: "run".to_owned(),
        config_map: Some(run),
        ..Volume::default()
    };
    template(spec, labels, container, vec![run])
}

/// What the coordinator needs: little, unless it computes the initial parameters first.
fn memory(spec: &RunSpec) -> &str {
    match spec.init.is_empty() {
        true => "2Gi",
        false => &spec.kubernetes.memory,
    }
}

/// A worker's pod.
pub(super) fn worker(spec: &RunSpec, labels: BTreeMap<String, String>) -> PodTemplateSpec {
    let run = &spec.run.name;
    let coordinator = format!("{}.{run}:{GRPC_PORT}", coordinator_host(run));
    let kubernetes = &spec.kubernetes;
    // By name and not `auto`: an image without CUDA must not hold a GPU idle, and a pod that asked
    // for none must not use one that its image happens to show it.
    let device = if kubernetes.gpus == 0 {
        "cpu"
    } else {
        "cuda:0"
    };
    let args = [
        "worker",
        "--coordinator",
        &coordinator,
        "--ring-bind",
        "$(POD_IP)",
        "--device",
        device,
    ];
    let mut container = container(spec, WORKER, &args);
    container.resources = Some(resources(
        &kubernetes.cpu,
        &kubernetes.memory,
        kubernetes.gpus,
    ));
    let mut template = template(spec, labels, container, Vec::new());
    if let Some(pod) = &mut template.spec
        && !kubernetes.node_selector.is_empty()
    {
        pod.node_selector = Some(kubernetes.node_selector.clone());
    }
    template
}

fn template(
    spec: &RunSpec,
    labels: BTreeMap<String, String>,
    container: Container,
    mut volumes: Vec<Volume>,
) -> PodTemplateSpec {
    let run = &spec.run.name;
    let token = SecretVolumeSource {
        secret_name: Some(token_secret(run)),
        default_mode: Some(0o400),
        ..SecretVolumeSource::default()
    };
    volumes.push(Volume {
        name: TOKEN.to_owned(),
        secret: Some(token),
        ..Volume::default()
    });
    let scratch = Some(EmptyDirVolumeSource::default());
    volumes.push(Volume {
        name: "scratch".to_owned(),
        empty_dir: scratch,
        ..Volume::default()
    });
    let pod = PodSpec {
        containers: vec![container],
        volumes: Some(volumes),
        service_account_name: Some(run.clone()),
        automount_service_account_token: Some(false),
        // Service variables of the whole namespace are noise, and slow where there are many.
        enable_service_links: Some(false),
        // With the host name of an Indexed Job this makes the stable name <job>-<index>.<run>.
        subdomain: Some(run.clone()),
        restart_policy: Some("Never".to_owned()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(pod_security()),
        ..PodSpec::default()
    };
    let metadata = ObjectMeta {
        labels: Some(labels),
        ..ObjectMeta::default()
    };
    PodTemplateSpec {
        metadata: Some(metadata),
        spec: Some(pod),
    }
}

fn container(spec: &RunSpec, name: &str, args: &[&str]) -> Container {
    let token_file = format!("{TOKEN_FOLDER}/{TOKEN}");
    let common = ["--token-file", &token_file, "--log-format", "json"];
    Container {
        name: name.to_owned(),
        image: Some(spec.kubernetes.image.clone()),
        command: Some(vec!["ringmaster".to_owned()]),
        args: Some(
            args.iter()
                .chain(&common)
                .map(ToString::to_string)
                .collect(),
        ),
        env: Some(vec![
            field("POD_IP", "status.podIP"),
            value("TMPDIR", SCRATCH),
        ]),
        volume_mounts: Some(vec![
            mount(TOKEN, TOKEN_FOLDER, true),
            mount("scratch", SCRATCH, false),
        ]),
        security_context: Some(container_security()),
        ..Container::default()
    }
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        // The token file belongs to root; its group is what lets the user read it.
        fs_group: Some(USER),
        seccomp_profile: Some(runtime_default()),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    let drop = Some(vec!["ALL".to_owned()]);
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop,
            ..Capabilities::default()
        }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        seccomp_profile: Some(runtime_default()),
        ..SecurityContext::default()
    }
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        ..SeccompProfile::default()
    }
}

fn resources(cpu: &str, memory: &str, gpus: u32) -> ResourceRequirements {
    let quantity = |name: &str, value: &str| (name.to_owned(), Quantity(value.to_owned()));
    let mut limits = BTreeMap::from([quantity("cpu", cpu), quantity("memory", memory)]);
    if gpus > 0 {
        limits.extend([quantity("nvidia.com/gpu", &gpus.to_string())]);
    }
    // Requests equal limits: a throttled or evicted rank slows or breaks the whole ring.
    ResourceRequirements {
        requests: Some(limits.clone()),
        limits: Some(limits),
        ..ResourceRequirements::default()
    }
}

fn probe(path: &str, failures: i32) -> Probe {
    let get = HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::String("admin".to_owned()),
        ..HTTPGetAction::default()
    };
    Probe {
        http_get: Some(get),
        period_seconds: Some(10),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    }
}

fn value(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    let selector = ObjectFieldSelector {
        field_path: path.to_owned(),
        ..Default::default()
    };
    let source = EnvVarSource {
        field_ref: Some(selector),
        ..EnvVarSource::default()
    };
    EnvVar {
        name: name.to_owned(),
        value_from: Some(source),
        ..EnvVar::default()
    }
}
