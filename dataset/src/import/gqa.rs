//! GQA: an object of questions by their ids, pictures of Visual Genome.
//!
//! Hudson & Manning, arXiv 1902.09506.

use serde::Deserialize;

use super::json::{self, Id};
use super::pictures::Pictures;
use super::{BadRow, Row, Source, Visit, files, text};
use crate::error::DatasetError;
use crate::rows::Texts;

/// What is read of a question.
#[derive(Deserialize)]
struct Question {
    question: Option<String>,
    answer: Option<String>,
    #[serde(rename = "imageId")]
    image_id: Option<Id>,
    types: Option<Types>,
}

/// The kinds of a question; the data set's own evaluation reports by them.
#[derive(Deserialize)]
struct Types {
    structural: Option<String>,
}

pub(super) fn read(source: &Source, visit: &mut Visit) -> Result<(), DatasetError> {
    let mut pictures = Pictures::of(source);
    for file in files(&source.from, "json")? {
        let flow = json::entries(&file, |id, question| {
            let place = format!("{}, question {id}", file.display());
            let made = row(place.clone(), id, question, &mut pictures);
            visit(made.map_err(|reason| BadRow { place, reason }))
        })?;
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}

fn row(
    place: String,
    id: String,
    question: Question,
    pictures: &mut Pictures,
) -> Result<Row, String> {
    let image_id = question.image_id.ok_or("it has no imageId")?.to_string();
    let path = format!("{image_id}.jpg");
    Ok(Row {
        place,
        id,
        image: pictures.read(&path)?,
        image_id,
        path,
        texts: Texts {
            question: Some(text(question.question).ok_or("it has no question")?),
            answer: Some(text(question.answer).ok_or("it has no answer")?),
            template: question.types.and_then(|types| text(types.structural)),
            ..Texts::default()
        },
        annotators: Vec::new(),
    })
}
