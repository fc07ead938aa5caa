//! Captions of COCO: a file of pictures and of several captions of each, a row per caption.
//!
//! Chen et al., arXiv 1504.00325.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use serde::Deserialize;

use super::json::{self, Id};
use super::pictures::Pictures;
use super::{BadRow, Row, Source, Visit, foreign, text};
use crate::error::DatasetError;
use crate::rows::Texts;

/// Pictures held in memory at most, by name; the data set has 164,000 in all.
const PICTURES_MAX: usize = 4 << 20;

#[derive(Deserialize)]
struct Picture {
    id: i64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    id: Option<Id>,
    image_id: i64,
    caption: Option<String>,
}

pub(super) fn read(source: &Source, visit: &mut Visit) -> Result<(), DatasetError> {
    let from = &source.from;
    let names = names(from)?;
    let mut pictures = Pictures::of(source);
    let mut number = 0_u64;
    let _ended = json::elements(from, "annotations", |annotation: Annotation| {
        number += 1;
        let place = format!("{}, annotation {number}", from.display());
        let made = row(place.clone(), annotation, &names, &mut pictures);
        visit(made.map_err(|reason| BadRow { place, reason }))
    })?;
    Ok(())
}

/// File names of the pictures by their ids.
fn names(from: &Path) -> Result<HashMap<i64, String>, DatasetError> {
    let mut names = HashMap::new();
    let flow = json::elements(from, "images", |picture: Picture| {
        names.insert(picture.id, picture.file_name);
        match names.len() {
            ..=PICTURES_MAX => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    })?;
    if flow.is_break() {
        let reason = format!("has more than {PICTURES_MAX} pictures");
        return Err(foreign(from, reason, "split it"));
    }
    Ok(names)
}

fn row(
    place: String,
    annotation: Annotation,
    names: &HashMap<i64, String>,
    pictures: &mut Pictures,
) -> Result<Row, String> {
    let image = annotation.image_id;
    let path = names.get(&image).ok_or("no picture has its image_id")?;
    Ok(Row {
        place,
        id: annotation.id.map(|id| id.to_string()).unwrap_or_default(),
        image_id: image.to_string(),
        image: pictures.read(path)?,
        path: path.clone(),
        texts: Texts {
            caption: Some(text(annotation.caption).ok_or("its caption is empty")?),
            ..Texts::default()
        },
        ..Row::default()
    })
}
