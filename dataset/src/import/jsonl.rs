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
struct Line {
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

fn row(place: String, line: Line, pictures: &mut Pictures) -> Result<Row, String> {
    let path = line.image.or(line.file_name).ok_or("it names no image")?;
    Ok(Row {
        place,
        id: line.id.map(|id| id.to_string()).unwrap_or_default(),
        image_id: line.image_id.map(|id| id.to_string()).unwrap_or_default(),
        image: pictures.read(&path)?,
        path,
        texts: Texts {
            caption: text(line.caption).or(text(line.text)),
            question: text(line.question),
            answer: text(line.answer),
            template: text(line.template),
            objects: line.objects,
            hypothesis: text(line.hypothesis),
            label: text(line.label),
        },
        annotators: line.answers,
    })
}
