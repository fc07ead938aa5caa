//! WebDataset: tar files, in which members that stand together and are alike up to the first dot of their
//! names are a row: a picture, and texts as `.txt` (the caption) or `.json` (what a line of JSON may say).

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use tar::Archive;

use super::jsonl::Line;
use super::{BadRow, Row, Source, Visit, files, text, unreadable};
use crate::decode::ENCODED_BYTES_MAX;
use crate::error::DatasetError;
use crate::rows::Texts;

/// Endings of pictures.
const PICTURES: [&str; 6] = ["jpg", "jpeg", "png", "webp", "gif", "bmp"];

/// The members of one row, as far as they say something here.
#[derive(Default)]
struct Members {
    key: String,
    picture: Option<(String, Bytes)>,
    caption: Option<(String, Bytes)>,
    json: Option<(String, Bytes)>,
}

pub(super) fn read(source: &Source, visit: &mut Visit) -> Result<(), DatasetError> {
    for file in files(&source.from, "tar")? {
        if read_tar(&file, visit)?.is_break() {
            break;
        }
    }
    Ok(())
}

fn read_tar(file: &Path, visit: &mut Visit) -> Result<ControlFlow<()>, DatasetError> {
    let wrong = |error: std::io::Error| unreadable(file, error);
    let mut archive = Archive::new(BufReader::new(File::open(file).map_err(wrong)?));
    let mut members = Members::default();
    for entry in archive.entries().map_err(wrong)? {
        let mut entry = entry.map_err(wrong)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let (key, ending) = split(&name);
        if key != members.key {
            if show(file, std::mem::take(&mut members), visit).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            key.clone_into(&mut members.key);
        }
        let slot = match ending.to_ascii_lowercase().as_str() {
            "txt" => &mut members.caption,
            "json" => &mut members.json,
            ending if PICTURES.contains(&ending) => &mut members.picture,
            _ => continue,
        };
        // As much as shows that it is too long; its length in the archive is not believed.
        let mut bytes = Vec::new();
        let most = ENCODED_BYTES_MAX as u64 + 1;
        let read = entry.by_ref().take(most).read_to_end(&mut bytes);
        read.map_err(wrong)?;
        *slot = Some((name, bytes.into()));
    }
    Ok(show(file, members, visit))
}

/// A member's row and what it is of it: `x/a.v1.cls` is the `v1.cls` of `x/a`.
fn split(name: &str) -> (&str, &str) {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].find('.') {
        Some(dot) => (&name[..file + dot], &name[file + dot + 1..]),
        None => (name, ""),
    }
}

fn show(file: &Path, members: Members, visit: &mut Visit) -> ControlFlow<()> {
    if members.key.is_empty() {
        return ControlFlow::Continue(());
    }
    let place = format!("{}, {}", file.display(), members.key);
    visit(row(&place, members).map_err(|reason| BadRow { place, reason }))
}

fn row(place: &str, members: Members) -> Result<Row, String> {
    let (path, image) = members.picture.ok_or("it has no picture")?;
    let mut row = Row {
        place: place.to_owned(),
        id: members.key,
        path,
        image,
        ..Row::default()
    };
    if let Some((name, json)) = members.json {
        let line: Line =
            serde_json::from_slice(&json).map_err(|error| format!("{name}: {error}"))?;
        (row.texts, row.annotators) = line.texts();
    }
    if let Some((name, bytes)) = members.caption {
        let caption = std::str::from_utf8(&bytes).map_err(|error| format!("{name}: {error}"))?;
        let caption = text(Some(caption.trim().to_owned()));
        row.texts = Texts {
            caption: caption.or(row.texts.caption),
            ..row.texts
        };
    }
    Ok(row)
}
