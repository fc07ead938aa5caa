//! `ringmaster submit`: starts a run on Kubernetes.

use crate::commands::render::KubernetesArgs;
use crate::error::{CliError, Exit};
use crate::kubernetes::submit::submit;
use crate::output;

/// Applies the manifests and says what was done and how to watch.
pub(crate) async fn run(args: KubernetesArgs) -> Result<Exit, CliError> {
    let (spec, manifests) = args.manifests()?;
    for line in submit(&spec, &manifests).await? {
        output::line(&line);
    }
    let (run, namespace) = (&spec.run.name, &spec.kubernetes.namespace);
    let select = format!("-l app.kubernetes.io/instance={run}");
    eprintln!("watch it:  kubectl -n {namespace} get pods {select} --watch");
    eprintln!("its log:   kubectl -n {namespace} logs --follow job/{run}-coordinator");
    eprintln!(
        "remove it: kubectl -n {namespace} delete job,service,configmap,secret,serviceaccount {select}"
    );
    Ok(Exit::Done)
}
