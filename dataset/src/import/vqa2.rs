//! VQA2: a file of questions and one of annotations, pictures of COCO.
//!
//! Goyal et al., arXiv 1612.00837.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use serde::Deserialize;

use super::json;
use super::pictures::Pictures;
use super::{BadRow, Row, Source, Visit, foreign, text};
use crate::error::DatasetError;
use crate::rows::Texts;

/// Questions held in memory at most; the data set has 1.1 million in all.
const QUESTIONS_MAX: usize = 4 << 20;

/// What a file of questions says besides the questions.
#[derive(Deserialize)]
struct Head {
    /// Part of COCO that the pictures are of, as in `val2014`.
    data_subtype: Option<String>,
}

#[derive(Deserialize)]
struct Question {
    question_id: u64,
    image_id: u64,
    question: String,
}

#[derive(Deserialize)]
struct Annotation {
    question_id: u64,
    multiple_choice_answer: Option<String>,
    answer_type: Option<String>,
    #[serde(default)]
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    answer: String,
}

/// Questions by their ids, as (picture, text).
type Questions = HashMap<u64, (u64, String)>;

pub(super) fn read(source: &Source, visit: &mut Visit) -> Result<(), DatasetError> {
    let from = &source.from;
    let Some(annotations) = &source.annotations else {
        let next = "name the file of annotations with --annotations";
        return Err(foreign(from, "has questions without answers", next));
    };
    let Head { data_subtype } = json::head(from)?;
    let part = data_subtype.ok_or_else(|| {
        let next = "name the file of questions as it is published";
        foreign(from, "does not say its data_subtype", next)
    })?;
    let questions = questions(from)?;
    let mut pictures = Pictures::of(source);
    // The annotations are the longer file, so they are what is streamed.
    let _ended = json::elements(annotations, "annotations", |annotation: Annotation| {
        let place = format!(
            "{}, question {}",
            annotations.display(),
            annotation.question_id
        );
        let made = row(place.clone(), annotation, &questions, &part, &mut pictures);
        visit(made.map_err(|reason| BadRow { place, reason }))
    })?;
    Ok(())
}

fn questions(from: &Path) -> Result<Questions, DatasetError> {
    let mut questions = Questions::new();
    let flow = json::elements(from, "questions", |question: Question| {
        let about = (question.image_id, question.question);
        questions.insert(question.question_id, about);
        match questions.len() {
            ..=QUESTIONS_MAX => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    })?;
    if flow.is_break() {
        let reason = format!("has more than {QUESTIONS_MAX} questions");
        return Err(foreign(from, reason, "split it"));
    }
    Ok(questions)
}

fn row(
    place: String,
    annotation: Annotation,
    questions: &Questions,
    part: &str,
    pictures: &mut Pictures,
) -> Result<Row, String> {
    let id = annotation.question_id;
    let (image, question) = questions
        .get(&id)
        .ok_or("no question has its question_id")?;
    let path = format!("COCO_{part}_{image:012}.jpg");
    let answer = text(annotation.multiple_choice_answer);
    Ok(Row {
        place,
        id: id.to_string(),
        image_id: image.to_string(),
        image: pictures.read(&path)?,
        path,
        texts: Texts {
            question: Some(text(Some(question.clone())).ok_or("its question is empty")?),
            answer: Some(answer.ok_or("it has no multiple_choice_answer")?),
            template: text(annotation.answer_type),
            ..Texts::default()
        },
        annotators: annotation.answers.into_iter().map(|a| a.answer).collect(),
    })
}
