//! The files of other programs, row by row: what `corpus import` stores and what `eval` asks.
//!
//! A reader pushes rows to a visitor, one at a time and in the order of the file, so that a file of
//! any length is read in little memory. What is wrong with one row is the visitor's to judge; what
//! is wrong with the whole file ends the reading.

mod coco;
mod csv;
mod exclusion;
mod gqa;
mod json;
mod jsonl;
mod limited;
mod parquet;
mod pictures;
mod run;
mod shards;
mod snli_ve;
mod tolerance;
mod vqa2;
mod webdataset;

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytes::Bytes;
use ringmaster_proto::spec::Columns;

use crate::error::DatasetError;
use crate::rows::Texts;
use crate::{decode, example};

pub use exclusion::Exclusion;
pub(crate) use shards::ShardWriter;

pub use run::{ImportOptions, Imported, import};
pub use tolerance::Tolerance;

/// Whose files they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line of JSON per row, pictures in a folder.
    Jsonl,
    /// A row of CSV per row, pictures in a folder.
    Csv,
    /// Parquet with the pictures inside, as Hugging Face `datasets` writes it.
    Parquet,
    /// SNLI-VE: a line of JSON per pair, pictures of Flickr30k.
    SnliVe,
    /// VQA2: a file of questions and one of annotations, pictures of COCO.
    Vqa2,
    /// GQA: questions by their ids, pictures of Visual Genome.
    Gqa,
    /// Captions of COCO: pictures and annotations in one file.
    Coco,
    /// WebDataset: tar files whose members of one name are a row.
    WebDataset,
}

impl Format {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Jsonl, "jsonl"),
        (Self::Csv, "csv"),
        (Self::Parquet, "parquet"),
        (Self::SnliVe, "snli-ve"),
        (Self::Vqa2, "vqa2"),
        (Self::Gqa, "gqa"),
        (Self::Coco, "coco"),
        (Self::WebDataset, "webdataset"),
    ];

    fn names() -> String {
        Self::ALL.map(|(_, name)| name).join(", ")
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found
            .map(|(format, _)| *format)
            .ok_or_else(|| format!("{text:?} is none of {}", Self::names()))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.iter().find(|(format, _)| format == self);
        f.write_str(found.map_or("", |(_, name)| name))
    }
}

/// Files to read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Whose files they are.
    pub format: Format,
    /// A file, or where the format may have several, a folder of them.
    pub from: PathBuf,
    /// The answers, where they have a file of their own.
    pub annotations: Option<PathBuf>,
    /// Folder of the pictures; absent: the folder of `from`.
    pub images: Option<PathBuf>,
    /// Column names, for Parquet; found by convention where absent.
    pub columns: Columns,
}

/// One row of somebody's data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Where it stands, for messages.
    pub place: String,
    /// What its source calls the row; empty: nothing.
    pub id: String,
    /// What its source calls the picture; empty: nothing.
    pub image_id: String,
    /// Name of the picture's file below its folder; empty where the picture has no file.
    pub path: String,
    /// JPEG, PNG, WebP, GIF or BMP.
    pub image: Bytes,
    /// What is said about it; of several answers to a question, the one most people gave.
    pub texts: Texts,
    /// Every answer that people gave, where the source has them.
    pub annotators: Vec<String>,
}

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct BadRow {
    /// Where it stands.
    pub place: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Takes one row; `Break` ends the reading.
type Visit<'a> = dyn FnMut(Result<Row, BadRow>) -> ControlFlow<()> + 'a;

/// Shows `visit` every row of `source`, in the order of its files. Blocks.
pub fn read(
    source: &Source,
    visit: &mut dyn FnMut(Result<Row, BadRow>) -> ControlFlow<()>,
) -> Result<(), DatasetError> {
    let visit = &mut |row: Result<Row, BadRow>| visit(row.and_then(usable));
    match source.format {
        Format::Jsonl => jsonl::read(source, visit),
        Format::Csv => csv::read(source, visit),
        Format::Parquet => parquet::read(source, visit),
        Format::SnliVe => snli_ve::read(source, visit),
        Format::Vqa2 => vqa2::read(source, visit),
        Format::Gqa => gqa::read(source, visit),
        Format::Coco => coco::read(source, visit),
        Format::WebDataset => webdataset::read(source, visit),
    }
}

/// Refuses what training would refuse, as far as the head of a picture shows it.
fn usable(mut row: Row) -> Result<Row, BadRow> {
    let texts = &mut row.texts;
    if texts.question.is_none() || texts.answer.is_none() {
        (texts.question, texts.answer) = (None, None);
    }
    if texts.hypothesis.is_none() || texts.label.is_none() {
        (texts.hypothesis, texts.label) = (None, None);
    }
    let picture = || match decode::check(&row.image) {
        Err(error) if row.path.is_empty() => Err(format!("the picture: {error}")),
        Err(error) => Err(format!("picture {}: {error}", row.path)),
        Ok(()) => Ok(()),
    };
    let checked = example::check(&row.texts).map_err(|error| error.to_string());
    match checked.and_then(|()| picture()) {
        Ok(()) => Ok(row),
        Err(reason) => Err(BadRow {
            place: row.place,
            reason,
        }),
    }
}

/// A text, unless there is nothing in it.
fn text(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

/// The files that `from` names: itself, or the files of a folder whose names end in `ending`, sorted.
fn files(from: &Path, ending: &str) -> Result<Vec<PathBuf>, DatasetError> {
    if !from.is_dir() {
        return Ok(vec![from.to_owned()]);
    }
    let entries = std::fs::read_dir(from).map_err(|error| unreadable(from, error))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let paths: Result<Vec<PathBuf>, _> = paths.collect();
    let mut paths = paths.map_err(|error| unreadable(from, error))?;
    let ends = |path: &PathBuf| {
        path.extension()
            .is_some_and(|extension| extension == ending)
    };
    paths.retain(|path| ends(path) && path.is_file());
    paths.sort();
    if paths.is_empty() {
        let reason = format!("holds no file whose name ends in .{ending}");
        return Err(foreign(from, reason, "name the file, or check --format"));
    }
    Ok(paths)
}

fn unreadable(path: &Path, error: impl fmt::Display) -> DatasetError {
    foreign(path, error, "check the path and its permissions")
}

fn foreign(path: &Path, reason: impl fmt::Display, next: impl fmt::Display) -> DatasetError {
    DatasetError::Foreign {
        place: path.display().to_string(),
        reason: reason.to_string(),
        next: next.to_string(),
    }
}
