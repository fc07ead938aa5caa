//! A row of CSV per row (RFC 4180); the first names the columns, which are those of a line of JSON.
//!
//! An empty cell says nothing. `objects` and `answers` are lists: a cell of theirs is a JSON list of
//! texts, `["cat", "hat"]` before it is quoted.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use csv::{ErrorKind, Reader, ReaderBuilder, StringRecord, Trim};
use serde_json::{Map, Value};

use super::jsonl::{self, Line};
use super::limited::{Budget, Limited};
use super::pictures::Pictures;
use super::{BadRow, Source, Visit, files, foreign, unreadable};
use crate::error::DatasetError;

/// Columns of which one names the picture.
const PICTURE: [&str; 2] = ["image", "file_name"];

/// Columns whose cells are lists.
const LISTS: [&str; 2] = ["objects", "answers"];

/// Read after the end of every file. A row that holds it has a quote that nothing closes, which would
/// otherwise take the rest of the file for its text.
const END: &str = "\u{4}the end of the file\u{4}";

/// What comes of a file whose columns cannot be told.
const NEXT: &str = "check that its first row names the columns, separated by commas";

pub(super) fn read(source: &Source, visit: &mut Visit) -> Result<(), DatasetError> {
    let mut pictures = Pictures::of(source);
    for file in files(&source.from, "csv")? {
        if read_file(&file, &mut pictures, visit)?.is_break() {
            break;
        }
    }
    Ok(())
}

fn read_file(
    path: &Path,
    pictures: &mut Pictures,
    visit: &mut Visit,
) -> Result<ControlFlow<()>, DatasetError> {
    let budget = Budget::default();
    budget.one_entry();
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let end = format!("\n{END}\n");
    let mut rows = ReaderBuilder::new()
        .flexible(true)
        .trim(Trim::Headers)
        .from_reader(Limited::new(file.chain(end.as_bytes()), &budget));
    let names = rows.headers().cloned();
    let names = names.map_err(|error| foreign(path, error, NEXT))?;
    check(&names).map_err(|reason| foreign(path, reason, NEXT))?;
    let mut cells = StringRecord::new();
    // Not by its line: a row may have several, and empty lines are none.
    for number in 1_u64.. {
        budget.one_entry();
        let read = next(&mut rows, &mut cells).map_err(|error| foreign(path, error, NEXT))?;
        if matches!(read, Ok(false)) || (cells.len() == 1 && cells.get(0) == Some(END)) {
            break;
        }
        let place = format!("{}, row {number}", path.display());
        let made = read.and_then(|_| parse(&names, &cells));
        let made = made.and_then(|line| jsonl::row(place.clone(), line, pictures));
        if visit(made.map_err(|reason| BadRow { place, reason })).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Reads a row into `cells`; whether there was one, or what is wrong with it alone.
fn next<R: Read>(
    rows: &mut Reader<R>,
    cells: &mut StringRecord,
) -> Result<Result<bool, String>, csv::Error> {
    match rows.read_record(cells) {
        Ok(read) => Ok(Ok(read)),
        Err(error) => match error.kind() {
            ErrorKind::Utf8 { err, .. } => Ok(Err(err.to_string())),
            _ => Err(error),
        },
    }
}

/// Refuses a first row that names no column of pictures, or one column twice.
fn check(names: &StringRecord) -> Result<(), String> {
    let twice = |at: usize, name: &str| names.iter().take(at).any(|other| other == name);
    let mut named = names
        .iter()
        .enumerate()
        .filter(|(_, name)| !name.is_empty());
    if let Some((_, name)) = named.find(|(at, name)| twice(*at, name)) {
        return Err(format!("has two columns {name:?}"));
    }
    if !names.iter().any(|name| PICTURE.contains(&name)) {
        return Err(format!("has no column {}", PICTURE.join(" or ")));
    }
    Ok(())
}

/// What the row says, as if it were a line of JSON.
fn parse(names: &StringRecord, cells: &StringRecord) -> Result<Line, String> {
    if cells
        .iter()
        .next_back()
        .is_some_and(|cell| cell.contains(END))
    {
        return Err("a quote in it is never closed".to_owned());
    }
    if cells.len() != names.len() {
        let (cells, names) = (cells.len(), names.len());
        return Err(format!("it has {cells} cells, and the first row {names}"));
    }
    let mut line = Map::new();
    for (name, cell) in names.iter().zip(cells).filter(|(_, cell)| !cell.is_empty()) {
        let value = if LISTS.contains(&name) {
            let list: Result<Vec<String>, _> = serde_json::from_str(cell);
            list.map_err(|error| format!("{name} is no JSON list of texts: {error}"))?
                .into()
        } else {
            cell.into()
        };
        line.insert(name.to_owned(), value);
    }
    serde_json::from_value(Value::Object(line)).map_err(|error| error.to_string())
}
