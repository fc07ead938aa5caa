//! From text and overrides to a complete spec: defaults, preset, file, `--set`, in that order.

use toml::{Table, Value};

use super::{ModelSpec, Preset, RunSpec};
use crate::ErrorKind;

const DEFAULTS: &str = include_str!("defaults.toml");

/// What is wrong with a run file.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("run file: {0}")]
    Syntax(String),
    /// An override is not `section.key=value`.
    #[error("--set {given}: {reason}; write it as section.key=value")]
    Override {
        /// As given.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value or combination that cannot work.
    #[error("run file: {key} = {value}: {reason}")]
    Value {
        /// Dotted key.
        key: &'static str,
        /// The value, as text.
        value: String,
        /// Why it cannot work, and what would.
        reason: String,
    },
}

impl SpecError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl RunSpec {
    /// Parses a run file (TOML), applies `overrides` (`section.key=value`), and validates.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self, SpecError> {
        let mut asked: Table = text.parse().map_err(syntax)?;
        for given in overrides {
            set(&mut asked, given)?;
        }
        let spec = complete(asked)?;
        spec.validate()?;
        Ok(spec)
    }

    /// Reads the canonical form back.
    pub fn from_canonical(json: &str) -> Result<Self, SpecError> {
        let spec: Self =
            serde_json::from_str(json).map_err(|e| SpecError::Syntax(e.to_string()))?;
        spec.validate()?;
        Ok(spec)
    }
}

/// Lays what was asked over the defaults and the preset.
fn complete(mut asked: Table) -> Result<RunSpec, SpecError> {
    let mut table: Table = DEFAULTS.parse().map_err(syntax)?;
    let model = match asked.remove("model") {
        None => Table::new(),
        Some(Value::Table(model)) => model,
        Some(_) => return Err(SpecError::Syntax("model is a table: write [model]".into())),
    };
    let preset = match model.get("preset") {
        None => Preset::Tiny,
        Some(name) => name
            .clone()
            .try_into()
            .map_err(|error| in_section("model.preset", error))?,
    };
    let mut full: Table = preset.table().parse().map_err(syntax)?;
    lay_over(&mut full, model);
    lay_over(&mut table, asked);
    if let Some(Value::Table(run)) = table.get_mut("run")
        && !run.contains_key("steps")
        && !run.contains_key("epochs")
    {
        run.insert("steps".into(), Value::Integer(DEFAULT_STEPS));
    }
    follow_lanes(&mut table);
    // The model is read on its own first, so that its errors name its section.
    let model: ModelSpec = Value::Table(full.clone())
        .try_into()
        .map_err(|error| in_section("model", error))?;
    table.insert(
        "model".into(),
        Value::try_from(model).map_err(|e| in_section("model", e))?,
    );
    for (name, section) in &table {
        check_section(name, section)?;
    }
    Value::Table(table).try_into().map_err(syntax)
}

/// Length of a run that does not say.
const DEFAULT_STEPS: i64 = 2400;

/// `max_workers` follows `lanes` unless it is given.
fn follow_lanes(table: &mut Table) {
    let lanes = table
        .get("data")
        .and_then(|data| data.get("lanes"))
        .cloned();
    if let (Some(Value::Table(membership)), Some(lanes)) = (table.get_mut("membership"), lanes) {
        membership.entry("max_workers").or_insert(lanes);
    }
}

/// Reads one section alone, so that an error can name it.
fn check_section(name: &str, section: &Value) -> Result<(), SpecError> {
    fn read<'de, T: serde::Deserialize<'de>>(name: &str, value: &Value) -> Result<(), SpecError> {
        T::deserialize(value.clone())
            .map(drop)
            .map_err(|error| in_section(name, error))
    }
    match name {
        "run" => read::<super::RunSection>(name, section),
        "data" => read::<super::DataSpec>(name, section),
        "train" => read::<super::TrainSpec>(name, section),
        "tasks" => read::<super::TaskSpec>(name, section),
        "init" => read::<super::InitSpec>(name, section),
        "membership" => read::<super::MembershipSpec>(name, section),
        "checkpoint" => read::<super::CheckpointSpec>(name, section),
        "eval" => read::<super::EvalSpec>(name, section),
        "kubernetes" => read::<super::KubernetesSpec>(name, section),
        "model" => Ok(()),
        _ => Err(SpecError::Syntax(format!(
            "unknown section [{name}]; sections are run, data, model, train, tasks, init, membership, \
             checkpoint, eval and kubernetes"
        ))),
    }
}

/// Values of `over` replace those of `base`; tables are merged.
fn lay_over(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => lay_over(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Applies one `section.key=value`; the value is TOML, or a plain string.
fn set(table: &mut Table, given: &str) -> Result<(), SpecError> {
    let wrong = |reason: &str| SpecError::Override {
        given: given.into(),
        reason: reason.into(),
    };
    let (path, text) = given
        .split_once('=')
        .ok_or_else(|| wrong("there is no ="))?;
    let (section, key) = path
        .trim()
        .split_once('.')
        .ok_or_else(|| wrong("the key has no section"))?;
    let text = text.trim();
    let value = format!("v = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    let mut at = table;
    let mut parts: Vec<&str> = std::iter::once(section).chain(key.split('.')).collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let entry = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
        at = entry
            .as_table_mut()
            .ok_or_else(|| wrong("the key goes through a value"))?;
    }
    at.insert(last.to_owned(), value);
    // Giving one length takes the place of the other.
    if section == "run" && (last == "steps" || last == "epochs") {
        at.remove(if last == "steps" { "epochs" } else { "steps" });
    }
    Ok(())
}

fn syntax(error: toml::de::Error) -> SpecError {
    SpecError::Syntax(one_line(&error.to_string()))
}

fn in_section(name: &str, error: impl std::fmt::Display) -> SpecError {
    SpecError::Syntax(format!("[{name}] {}", one_line(&error.to_string())))
}

/// TOML errors draw the offending line over several; one sentence is enough.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
