//! `ringmaster render`: prints what `submit` would apply, and changes nothing.

use std::path::PathBuf;

use clap::Args;
use ringmaster_proto::RunSpec;

use crate::error::{CliError, Exit};
use crate::kubernetes::{Manifests, render};
use crate::output;
use crate::run_file::RunFile;

/// Arguments of `render` and `submit`.
#[derive(Args, Debug)]
pub(crate) struct KubernetesArgs {
    /// Run file (TOML) with a remote store
    #[arg(value_name = "RUN.TOML")]
    path: PathBuf,
}

impl KubernetesArgs {
    /// The spec and the objects that run it.
    pub(crate) fn manifests(self) -> Result<(RunSpec, Manifests), CliError> {
        let file = RunFile {
            path: Some(self.path),
            overrides: Vec::new(),
        };
        let (text, spec) = (file.text()?, file.load()?);
        let manifests = render(&spec, &text)?;
        Ok((spec, manifests))
    }
}

/// Prints YAML documents.
pub(crate) fn run(args: KubernetesArgs) -> Result<Exit, CliError> {
    let (_, manifests) = args.manifests()?;
    output::line(manifests.to_yaml()?.trim_end());
    Ok(Exit::Done)
}
