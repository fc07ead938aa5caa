//! A line of JSON per row: `image` (or `file_name`) names a file in the folder of pictures.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::json::{self, Id};
use super::pictures::Pictures;
use super::{BadRow, Row, Source, Visit, files, text};
use crate::error::DatasetError;
use crate::rows::Texts;

/// What a line may say; anything else in it is left alone.
#[derive(Deserialize)]
pub(super) struct Line {
    id: Option<Id>,
    image_id: Option<Id>,
    image: Option<String>,
    file_name: Option<String>,
    caption: Option<String>,
    text: Option<String>,
    question: Option<String>,
    answer: Option<String>,
    #[serde(default)]
    answers: Vec<String>,
    template: Option<String>,
    #[serde(default)]
    objects: Vec<String>,
    hypothesis: Option<String>,
    label: Option<String>,
}

impl Line {
    /// Its texts, and every answer that people gave.
    pub(super) fn texts(self) -> (Texts, Vec<String>) {
        let texts = Texts {
            caption: text(self.caption).or(text(self.text)),
            question: text(self.question),
            answer: text(self.answer),
            template: text(self.template),
            objects: self.objects,
            hypothesis: text(self.hypothesis),
            label: text(self.label),
        };
        (texts, self.answers)
    }
}

pub(super) fn read(source: &Source, visit: &mut Visit) -> Result<(), DatasetError> {
    read_lines(source, visit, row)
}

/// Shows `visit` what `row` makes of every line of `source`.
pub(super) fn read_lines<T: DeserializeOwned>(
    source: &Source,
    visit: &mut Visit,
    row: fn(String, T, &mut Pictures) -> Result<Row, String>,
) -> Result<(), DatasetError> {
    let mut pictures = Pictures::of(source);
    for file in files(&source.from, "jsonl")? {
        let flow = json::lines(&file, |number, line| {
            let place = format!("{}, line {number}", file.display());
            let made = line.and_then(|line| row(place.clone(), line, &mut pictures));
            visit(made.map_err(|reason| BadRow { place, reason }))
        })?;
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}

/// The row of a line, with its picture; an error is what is wrong with it.
pub(super) fn row(place: String, mut line: Line, pictures: &mut Pictures) -> Result<Row, String> {
    let path = line.image.take().or(line.file_name.take());
    let path = path.ok_or("it names no image")?;
    let id = |id: Option<Id>| id.map(|id| id.to_string()).unwrap_or_default();
    let (row_id, image_id) = (id(line.id.take()), id(line.image_id.take()));
    let image = pictures.read(&path)?;
    let (texts, annotators) = line.texts();
    Ok(Row {
        place,
        id: row_id,
        image_id,
        path,
        image,
        texts,
        annotators,
    })
}
