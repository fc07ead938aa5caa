//! JSON that may be longer than memory: entry by entry, never as a tree.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, Deserializer};

use super::limited::{Budget, ENTRY_BYTES_MAX, Limited};
use super::{foreign, unreadable};
use crate::error::DatasetError;

/// An id as people write it: a text or a number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Id {
    /// As most programs write it.
    Number(i64),
    /// With leading zeros, a file ending or letters.
    Text(String),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// Shows `visit` every line of `path` that is not empty with its number, from 1: the JSON in it, or
/// what is wrong with it.
pub(super) fn lines<T: DeserializeOwned>(
    path: &Path,
    mut visit: impl FnMut(u64, Result<T, String>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, DatasetError> {
    let mut file = BufReader::new(open(path)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = (&mut file)
            .take(ENTRY_BYTES_MAX + 1)
            .read_until(b'\n', &mut line);
        if read.map_err(|error| unreadable(path, error))? == 0 {
            break;
        }
        if line.len() as u64 > ENTRY_BYTES_MAX {
            let reason = format!("line {number} has more than {ENTRY_BYTES_MAX} bytes");
            return Err(foreign(
                path,
                reason,
                "check that it has one JSON object per line",
            ));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let parsed = serde_json::from_slice(&line).map_err(|error| error.to_string());
        if visit(number, parsed).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The object that is the whole of `path`; what `T` does not name is skipped.
pub(super) fn head<T: DeserializeOwned>(path: &Path) -> Result<T, DatasetError> {
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(open(path)?));
    T::deserialize(&mut json).map_err(|error| wrong(path, &error))
}

/// Shows `visit` every element of the array that is the value of `key` in the object of `path`.
pub(super) fn elements<T: DeserializeOwned>(
    path: &Path,
    key: &'static str,
    mut visit: impl FnMut(T) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, DatasetError> {
    let mut flow = ControlFlow::Continue(());
    let visit = &mut |element| {
        flow = visit(element);
        flow
    };
    let parsed = parse(path, |budget| Array { key, budget, visit });
    ended(path, flow, parsed)
}

/// Shows `visit` every key and value of the object of `path`.
pub(super) fn entries<T: DeserializeOwned>(
    path: &Path,
    mut visit: impl FnMut(String, T) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, DatasetError> {
    let mut flow = ControlFlow::Continue(());
    let visit = &mut |key, value| {
        flow = visit(key, value);
        flow
    };
    let parsed = parse(path, |budget| Entries { budget, visit });
    ended(path, flow, parsed)
}

/// A visitor that stopped leaves the parser in mid-file; that is no error of the file.
fn ended(
    path: &Path,
    flow: ControlFlow<()>,
    parsed: Result<serde_json::Result<()>, DatasetError>,
) -> Result<ControlFlow<()>, DatasetError> {
    match parsed? {
        Err(error) if flow.is_continue() => Err(wrong(path, &error)),
        _ => Ok(flow),
    }
}

fn parse<V: for<'de> Visitor<'de, Value = ()>>(
    path: &Path,
    visitor: impl FnOnce(Budget) -> V,
) -> Result<serde_json::Result<()>, DatasetError> {
    let budget = Budget::default();
    budget.one_entry();
    let file = Limited::new(BufReader::new(open(path)?), &budget);
    let mut json = serde_json::Deserializer::from_reader(file);
    Ok(json
        .deserialize_map(visitor(budget))
        .and_then(|()| json.end()))
}

/// An object of which one key holds the array that is streamed.
struct Array<'a, T> {
    key: &'static str,
    budget: Budget,
    visit: &'a mut dyn FnMut(T) -> ControlFlow<()>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Array<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with an array {}", self.key)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        loop {
            self.budget.one_entry();
            let Some(key) = map.next_key::<String>()? else {
                break;
            };
            if key == self.key {
                found = true;
                let (budget, visit) = (&self.budget, &mut *self.visit);
                map.next_value_seed(Elements { budget, visit })?;
            } else {
                self.budget.anything();
                map.next_value::<IgnoredAny>()?;
            }
        }
        // What follows the object is white space.
        self.budget.anything();
        let missing = || A::Error::custom(format!("it has no array {}", self.key));
        found.then_some(()).ok_or_else(missing)
    }
}

/// The array itself.
struct Elements<'a, T> {
    budget: &'a Budget,
    visit: &'a mut dyn FnMut(T) -> ControlFlow<()>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Elements<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        loop {
            self.budget.one_entry();
            let Some(element) = elements.next_element()? else {
                return Ok(());
            };
            if (self.visit)(element).is_break() {
                return Err(A::Error::custom("stopped"));
            }
        }
    }
}

/// An object whose entries are streamed.
struct Entries<'a, T> {
    budget: Budget,
    visit: &'a mut dyn FnMut(String, T) -> ControlFlow<()>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        loop {
            self.budget.one_entry();
            let Some((key, value)) = map.next_entry()? else {
                self.budget.anything();
                return Ok(());
            };
            if (self.visit)(key, value).is_break() {
                return Err(A::Error::custom("stopped"));
            }
        }
    }
}

fn wrong(path: &Path, error: &serde_json::Error) -> DatasetError {
    let next = "check that the file is whole and in the format that --format names";
    foreign(path, error, next)
}

fn open(path: &Path) -> Result<File, DatasetError> {
    File::open(path).map_err(|error| unreadable(path, error))
}
