//! The run file and overrides as given on a command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use ringmaster_proto::RunSpec;
use ringmaster_proto::spec::Columns;

use crate::error::CliError;

/// The keys that [`columns`] takes.
const COLUMNS: &str = "data.columns.";

/// The columns that overrides name; the rest is found by convention.
pub(crate) fn columns(overrides: &[String]) -> Result<Columns, CliError> {
    if let Some(other) = overrides.iter().find(|set| !set.starts_with(COLUMNS)) {
        let reason = "names no column";
        let next = "write --set data.columns.caption=COLUMN, or another key of data.columns";
        return Err(CliError::invalid(format!("--set {other}"), reason, next));
    }
    Ok(RunSpec::parse("", overrides)?.data.columns)
}

/// Which run: a file, and overrides laid over it.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RunFile {
    /// Run file (TOML); without one, the built-in demonstration run
    #[arg(value_name = "RUN.TOML")]
    pub(crate) path: Option<PathBuf>,

    /// Override one key of the run file
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

impl RunFile {
    /// Text of the file; empty for the built-in run.
    pub(crate) fn text(&self) -> Result<String, CliError> {
        let Some(path) = &self.path else {
            return Ok(String::new());
        };
        std::fs::read_to_string(path).map_err(|error| {
            let thing = format!("run file {}", path.display());
            let next = "check the path, or name no file to train the built-in run";
            CliError::invalid(thing, error, next)
        })
    }

    /// The complete, valid spec.
    pub(crate) fn load(&self) -> Result<RunSpec, CliError> {
        let spec = RunSpec::parse(&self.text()?, &self.overrides)?;
        Ok(spec)
    }

    /// The same run with one more override, which wins over earlier ones.
    pub(crate) fn with(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.overrides.push(format!("{key}={value}"));
        self
    }

    /// The arguments that make another process load the same spec.
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let path = self.path.iter().map(|path| path.clone().into_os_string());
        let sets = self
            .overrides
            .iter()
            .flat_map(|set| ["--set".into(), set.into()]);
        path.chain(sets).collect()
    }
}
