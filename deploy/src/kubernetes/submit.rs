//! Asks a cluster for the objects of a run.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::{ByteString, NamespaceResourceScope};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use ringmaster_proto::auth::RunToken;
use ringmaster_proto::{ErrorKind, RunSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::render::common_labels;
use super::{Manifests, pod};
use crate::error::CliError;

/// How long one call to the cluster may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The field manager: later submits change what earlier ones set, and nothing else.
const MANAGER: &str = "ringmaster";

/// Applies `manifests`; returns one line per object, in order.
pub(crate) async fn submit(spec: &RunSpec, manifests: &Manifests) -> Result<Vec<String>, CliError> {
    let client = Client::try_default();
    let client = timed("cluster", client).await?;
    let cluster = Cluster {
        client,
        namespace: &spec.kubernetes.namespace,
    };
    Ok(vec![
        cluster.create_token(spec).await?,
        cluster.apply(&manifests.service_account).await?,
        cluster.apply(&manifests.run_file).await?,
        cluster.apply(&manifests.service).await?,
        cluster.apply(&manifests.coordinator).await?,
        cluster.apply(&manifests.workers).await?,
    ])
}

struct Cluster<'a> {
    client: Client,
    namespace: &'a str,
}

impl Cluster<'_> {
    /// A fresh token, unless the run already has one: its pods have read that.
    async fn create_token(&self, spec: &RunSpec) -> Result<String, CliError> {
        let name = pod::token_secret(&spec.run.name);
        let token = RunToken::generate().map_err(|error| {
            CliError::refused(ErrorKind::Internal, "token", error, "check /dev/urandom")
        })?;
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(self.namespace.to_owned()),
                labels: Some(common_labels(spec)),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(
                pod::TOKEN.to_owned(),
                ByteString(token.hex().into_bytes()),
            )])),
            immutable: Some(true),
            ..Secret::default()
        };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), self.namespace);
        let params = PostParams::default();
        match timed(&format!("secret {name}"), api.create(&params, &secret)).await {
            Ok(_) => Ok(format!("secret/{name} created")),
            Err(Failure::Exists) => Ok(format!("secret/{name} kept")),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    async fn apply<K>(&self, object: &K) -> Result<String, CliError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + Serialize + DeserializeOwned,
    {
        let name = object.meta().name.clone().unwrap_or_default();
        let what = format!("{}/{name}", K::kind(&()).to_lowercase());
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        let params = PatchParams::apply(MANAGER).force();
        timed(&what, api.patch(&name, &params, &Patch::Apply(object))).await?;
        Ok(format!("{what} applied"))
    }
}

enum Failure {
    /// An object of that name is there already.
    Exists,
    Other(CliError),
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Exists => Self::invalid("cluster", "the object exists", "remove it first"),
            Failure::Other(error) => error,
        }
    }
}

/// Waits for a call about `what`, at most [`CALL_TIMEOUT`].
async fn timed<T, E>(what: &str, call: impl Future<Output = Result<T, E>>) -> Result<T, Failure>
where
    kube::Error: From<E>,
{
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result.map_err(|error| failure(what, &error.into())),
        Err(_) => Err(unreachable(
            what,
            &format!("no answer within {CALL_TIMEOUT:?}"),
        )),
    }
}

fn failure(what: &str, error: &kube::Error) -> Failure {
    let kube::Error::Api(status) = error else {
        return unreachable(what, &root_cause(error));
    };
    let next = match status.code {
        409 => return Failure::Exists,
        401 | 403 => "use a context whose user may do this: `kubectl config use-context`",
        404 => "create the namespace first: `kubectl create namespace`",
        // What a Job runs cannot change while it exists.
        422 => "delete the run's Jobs first, or choose another run.name",
        _ => "see the cluster's events",
    };
    Failure::Other(CliError::invalid(what, &status.message, next))
}

fn unreachable(what: &str, reason: &str) -> Failure {
    let next = "check that `kubectl get pods` works with the same configuration";
    Failure::Other(CliError::refused(ErrorKind::Retry, what, reason, next))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
