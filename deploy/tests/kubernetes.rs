//! What `ringmaster render` prints, read back as a cluster would read it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::process::{Command, Output};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Service, ServiceAccount, Volume};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;

const RUN: &str = r#"
[run]
name = "laion"
store = "s3://bucket/runs"
[data]
sources = [{ url = "s3://bucket/corpus/" }]
lanes = 8
[membership]
max_workers = 3
[kubernetes]
namespace = "training"
image = "registry.example/ringmaster@sha256:00"
gpus = 1
service_account_annotations = { "eks.amazonaws.com/role-arn" = "arn:aws:iam::1:role/r" }
node_selector = { "gpu" = "h200" }
"#;

fn render(text: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("run.toml");
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmaster"));
    command.arg("render").arg(path).output().unwrap()
}

fn rendered() -> String {
    let output = render(RUN);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn documents(yaml: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(yaml)
        .map(|d| Value::deserialize(d).unwrap())
        .collect()
}

/// The only object of a kind and name, read strictly: every key must survive the typed form.
fn object<T: DeserializeOwned + serde::Serialize>(kind: &str, name: &str) -> T {
    let yaml = rendered();
    let is = |d: &&Value| d["kind"] == kind && d["metadata"]["name"] == name;
    let all = documents(&yaml);
    let found: Vec<&Value> = all.iter().filter(is).collect();
    assert_eq!(found.len(), 1, "one {kind} {name} in\n{yaml}");
    let typed: T = serde_yaml_ng::from_value(found[0].clone()).unwrap();
    assert_eq!(&serde_yaml_ng::to_value(&typed).unwrap(), found[0]);
    typed
}

fn pods() -> Vec<(PodSpec, String)> {
    let jobs = [
        object::<Job>("Job", "laion-coordinator"),
        object("Job", "laion-worker"),
    ];
    let spec = |job: Job| job.spec.unwrap().template.spec.unwrap();
    jobs.map(|job| (spec(job.clone()), job.metadata.name.unwrap()))
        .into()
}

#[test]
fn every_document_is_a_known_object_of_the_namespace() {
    let expected = [
        ("ServiceAccount", "laion"),
        ("ConfigMap", "laion"),
        ("Service", "laion"),
        ("Job", "laion-coordinator"),
        ("Job", "laion-worker"),
    ];
    let documents = documents(&rendered());
    let found: Vec<(&str, &str)> = documents
        .iter()
        .map(|d| {
            (
                d["kind"].as_str().unwrap(),
                d["metadata"]["name"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(found, expected);
    assert!(
        documents
            .iter()
            .all(|d| d["metadata"]["namespace"] == "training")
    );
    let account: ServiceAccount = object("ServiceAccount", "laion");
    assert!(
        account
            .metadata
            .annotations
            .unwrap()
            .contains_key("eks.amazonaws.com/role-arn")
    );
    let config: ConfigMap = object("ConfigMap", "laion");
    assert_eq!(config.data.unwrap()["run.toml"], RUN);
}

/// Field by field, the Pod Security Standards' list for "restricted", which includes "baseline".
#[test]
fn pods_satisfy_the_restricted_profile() {
    for (pod, name) in pods() {
        for host in [pod.host_network, pod.host_pid, pod.host_ipc] {
            assert_ne!(host, Some(true), "{name}: host namespaces");
        }
        let pod_security = pod.security_context.as_ref().unwrap();
        assert_eq!(pod_security.run_as_non_root, Some(true), "{name}");
        assert!(
            pod_security.run_as_user.is_some_and(|user| user != 0),
            "{name}"
        );
        assert_eq!(
            pod_security.seccomp_profile.as_ref().unwrap().type_,
            "RuntimeDefault"
        );
        assert!(pod_security.sysctls.is_none() && pod_security.se_linux_options.is_none());
        assert!(
            pod_security.windows_options.is_none(),
            "{name}: HostProcess"
        );
        assert!(pod.ephemeral_containers.is_none(), "{name}");
        let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
        containers.for_each(|container| container_is_restricted(container, &name));
        pod.volumes
            .iter()
            .flatten()
            .for_each(|volume| volume_is_allowed(volume, &name));
    }
}

fn container_is_restricted(container: &Container, pod: &str) {
    let security = container.security_context.as_ref().unwrap();
    assert_ne!(security.privileged, Some(true), "{pod}");
    assert_eq!(security.allow_privilege_escalation, Some(false), "{pod}");
    assert_ne!(security.run_as_non_root, Some(false), "{pod}");
    assert_ne!(security.run_as_user, Some(0), "{pod}");
    let capabilities = security.capabilities.as_ref().unwrap();
    assert_eq!(
        capabilities.drop.as_deref(),
        Some(&["ALL".to_owned()][..]),
        "{pod}"
    );
    assert!(capabilities.add.is_none(), "{pod}");
    assert!(
        security.proc_mount.is_none() && security.se_linux_options.is_none(),
        "{pod}"
    );
    assert_eq!(
        security.seccomp_profile.as_ref().unwrap().type_,
        "RuntimeDefault",
        "{pod}"
    );
    let ports = container.ports.iter().flatten();
    assert!(
        ports.clone().all(|port| port.host_port.is_none()),
        "{pod}: host ports"
    );
    let probes = [
        &container.liveness_probe,
        &container.readiness_probe,
        &container.startup_probe,
    ];
    for probe in probes.into_iter().flatten() {
        assert!(
            probe.http_get.as_ref().unwrap().host.is_none(),
            "{pod}: a probe's host"
        );
    }
    // Beyond the standard: nothing is written outside the scratch volume.
    assert_eq!(security.read_only_root_filesystem, Some(true), "{pod}");
}

fn volume_is_allowed(volume: &Volume, pod: &str) {
    let allowed = [
        volume.config_map.is_some(),
        volume.secret.is_some(),
        volume.empty_dir.is_some(),
    ];
    assert_eq!(
        allowed.iter().filter(|is| **is).count(),
        1,
        "{pod}: volume {}",
        volume.name
    );
    assert!(volume.host_path.is_none(), "{pod}");
}

#[test]
fn the_token_is_mounted_as_a_private_file_and_nowhere_else() {
    for (pod, name) in pods() {
        let volumes = pod.volumes.unwrap();
        let secrets: Vec<_> = volumes
            .iter()
            .filter_map(|volume| volume.secret.as_ref())
            .collect();
        assert_eq!(secrets.len(), 1, "{name}");
        assert_eq!(secrets[0].secret_name.as_deref(), Some("laion-token"));
        assert_eq!(secrets[0].default_mode, Some(0o400));
        assert!(
            pod.security_context.unwrap().fs_group.is_some(),
            "or the user cannot read it"
        );
        assert_eq!(pod.automount_service_account_token, Some(false));
        let env = pod
            .containers
            .iter()
            .flat_map(|container| container.env.iter().flatten());
        for variable in env {
            let source = variable.value_from.as_ref();
            assert!(
                source.is_none_or(|source| source.secret_key_ref.is_none()),
                "{name}"
            );
        }
    }
    let kinds: Vec<Value> = documents(&rendered())
        .iter()
        .map(|d| d["kind"].clone())
        .collect();
    assert!(!kinds.contains(&"Secret".into()), "render shows no secret");
}

#[test]
fn the_same_run_file_renders_to_the_same_bytes() {
    assert_eq!(rendered(), rendered());
}

#[test]
fn workers_find_the_coordinator_by_a_name_the_service_gives() {
    let service: Service = object("Service", "laion");
    let service = service.spec.unwrap();
    assert_eq!(service.cluster_ip.as_deref(), Some("None"));
    let selector = service.selector.unwrap();
    let job: Job = object("Job", "laion-coordinator");
    let job = job.spec.unwrap();
    assert_eq!(
        job.completion_mode.as_deref(),
        Some("Indexed"),
        "host names need indexes"
    );
    let labels = job.template.metadata.unwrap().labels.unwrap();
    assert!(
        selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    );
    let subdomain = job.template.spec.unwrap().subdomain.unwrap();
    let [_, (worker, _)] = &pods()[..] else {
        panic!("two pods")
    };
    let args = worker.containers[0].args.as_ref().unwrap();
    assert!(
        args.contains(&format!("laion-coordinator-0.{subdomain}:7700")),
        "{args:?}"
    );
}

#[test]
fn workers_have_what_the_run_file_asks_for_and_come_back() {
    let job: Job = object("Job", "laion-worker");
    let job = job.spec.unwrap();
    assert_eq!((job.completions, job.parallelism), (Some(3), Some(3)));
    assert!(job.backoff_limit_per_index.is_some_and(|limit| limit > 0));
    let pod = job.template.spec.unwrap();
    assert_eq!(
        pod.restart_policy.as_deref(),
        Some("Never"),
        "pod failure policies need it"
    );
    assert_eq!(pod.node_selector.unwrap()["gpu"], "h200");
    let resources = pod.containers[0].resources.clone().unwrap();
    assert_eq!(resources.limits.as_ref().unwrap()["nvidia.com/gpu"].0, "1");
    assert_eq!(resources.limits, resources.requests);
    for rule in job.pod_failure_policy.unwrap().rules {
        if let Some(codes) = rule.on_exit_codes {
            assert_eq!(
                codes.container_name.as_deref(),
                Some(&*pod.containers[0].name)
            );
            assert!(
                !codes.values.contains(&0) && codes.values.is_sorted(),
                "the API refuses it"
            );
        }
    }
}

#[test]
fn a_store_on_this_machine_is_refused_with_the_reason() {
    for store in ["./ringmaster-runs", "file:///data/runs"] {
        let output = render(&RUN.replace("s3://bucket/runs", store));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(
            stderr.contains("run.store") && stderr.contains("s3://"),
            "{stderr}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn gpus_that_a_worker_would_leave_idle_are_refused_with_what_to_do() {
    let output = render(&RUN.replace("gpus = 1", "gpus = 2"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("kubernetes.gpus = 2") && stderr.contains("membership.max_workers"),
        "{stderr}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn a_worker_computes_on_what_its_pod_asks_for() {
    for (gpus, device) in [(0, "cpu"), (1, "cuda:0")] {
        let output = render(&RUN.replace("gpus = 1", &format!("gpus = {gpus}")));
        let yaml = String::from_utf8(output.stdout).unwrap();
        let workers = documents(&yaml).pop().unwrap();
        let container = &workers["spec"]["template"]["spec"]["containers"][0];
        let args = container["args"].as_sequence().unwrap();
        let at = args.iter().position(|arg| arg == "--device").unwrap();
        assert_eq!(args[at + 1], device);
        let limit = &container["resources"]["limits"]["nvidia.com/gpu"];
        assert_eq!(limit.is_null(), gpus == 0, "{yaml}");
    }
}

#[test]
fn names_that_kubernetes_would_refuse_are_refused_here() {
    for name in ["9lives".to_owned(), "x".repeat(60)] {
        let output = render(&RUN.replace("laion", &name));
        assert_eq!(output.status.code(), Some(2));
        assert!(
            String::from_utf8(output.stderr)
                .unwrap()
                .contains("run.name")
        );
    }
}
