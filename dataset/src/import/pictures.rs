//! Pictures in a folder, by the names that a data set gives them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::Source;
use crate::decode::ENCODED_BYTES_MAX;

/// A folder of pictures.
pub(super) struct Pictures {
    folder: PathBuf,
    /// The last one read: rows of one picture mostly stand together.
    last: Option<(String, Bytes)>,
}

impl Pictures {
    /// The pictures of `source`: in the folder it names, else beside its rows.
    pub(super) fn of(source: &Source) -> Self {
        let beside = || match source.from.parent() {
            _ if source.from.is_dir() => source.from.clone(),
            Some(parent) => parent.to_owned(),
            None => PathBuf::new(),
        };
        Self {
            folder: source.images.clone().unwrap_or_else(beside),
            last: None,
        }
    }

    /// The bytes of the file `name`; an error is what is wrong with it. A name that leads out of
    /// the folder is refused: it would carry any file of this machine into a corpus.
    pub(super) fn read(&mut self, name: &str) -> Result<Bytes, String> {
        if let Some((_, bytes)) = self.last.as_ref().filter(|(last, _)| last == name) {
            return Ok(bytes.clone());
        }
        let inside = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
        if name.is_empty() || !Path::new(name).components().all(inside) {
            return Err(format!(
                "picture {name:?} is no file below {}; write its path from there",
                self.folder.display()
            ));
        }
        let path = self.folder.join(name);
        let bytes = read_file(&path).map_err(|error| {
            let path = path.display();
            format!("picture {path}: {error}; check --images, or leave the row out")
        })?;
        self.last = Some((name.to_owned(), bytes.clone()));
        Ok(bytes)
    }
}

/// The whole file, or as much of it as shows that it is too long.
fn read_file(path: &Path) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    let most = ENCODED_BYTES_MAX as u64 + 1;
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}
