//! SNLI-VE: a line of JSON per pair of a hypothesis and a picture of Flickr30k.
//!
//! Xie et al., arXiv 1901.06706.

use serde::Deserialize;

use super::json::Id;
use super::jsonl::read_lines;
use super::pictures::Pictures;
use super::{Row, Source, Visit, text};
use crate::error::DatasetError;
use crate::rows::Texts;

/// The labels; the majority of the annotators chose one.
const LABELS: [&str; 3] = ["entailment", "neutral", "contradiction"];

/// What is read of a pair.
#[derive(Deserialize)]
struct Pair {
    gold_label: Option<String>,
    sentence2: Option<String>,
    #[serde(rename = "pairID")]
    pair: Option<String>,
    #[serde(rename = "Flickr30K_ID")]
    picture: Option<Id>,
    /// The spelling of the published files.
    #[serde(rename = "Flikr30kID")]
    published: Option<Id>,
}

pub(super) fn read(source: &Source, visit: &mut Visit) -> Result<(), DatasetError> {
    read_lines(source, visit, row)
}

fn row(place: String, pair: Pair, pictures: &mut Pictures) -> Result<Row, String> {
    let picture = pair.picture.or(pair.published);
    let picture = picture.ok_or("it has no Flickr30K_ID")?.to_string();
    let label = pair.gold_label.ok_or("it has no gold_label")?;
    if !LABELS.contains(&label.as_str()) {
        return Err(format!("its gold_label is {label:?}, none of {LABELS:?}"));
    }
    let hypothesis = text(pair.sentence2).ok_or("it has no sentence2")?;
    let image_id = picture.trim_end_matches(".jpg").to_owned();
    let path = format!("{image_id}.jpg");
    Ok(Row {
        place,
        id: pair.pair.unwrap_or_default(),
        image: pictures.read(&path)?,
        image_id,
        path,
        texts: Texts {
            hypothesis: Some(hypothesis),
            label: Some(label),
            ..Texts::default()
        },
        annotators: Vec::new(),
    })
}
