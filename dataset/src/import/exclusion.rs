//! Pictures that must not be imported: those that will be evaluated on.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Row, foreign, unreadable};
use crate::error::DatasetError;

/// Longest list, bytes: a name for each of several million pictures.
const LIST_BYTES_MAX: u64 = 256 << 20;

/// Pictures by name or by content.
///
/// A list has one per line; empty lines and those that begin with `#` are left out. `sha256:HEX` is
/// the hash of the encoded picture; `blake3:HEX`, or 64 hex digits alone, its blake3. Anything else
/// is a name: the id of the picture, the path of its file, the file's name, or that without its
/// ending. Where the source has no ids of pictures, the id of the row counts.
#[derive(Clone, Debug, Default)]
pub struct Exclusion {
    /// With each, whether a row has matched it.
    pictures: BTreeMap<Key, bool>,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Blake3([u8; 32]),
    Sha256([u8; 32]),
    Name(String),
}

impl Exclusion {
    /// Reads lists.
    pub fn read(lists: &[PathBuf]) -> Result<Self, DatasetError> {
        let mut exclusion = Self::default();
        for list in lists {
            for (number, line) in text(list)?.lines().enumerate() {
                let line = line.trim();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let key = Key::parse(line).ok_or_else(|| {
                    let reason = format!("line {}: {line:?} has no 64 hex digits", number + 1);
                    foreign(
                        list,
                        reason,
                        "write the whole hash, or a name without sha256:",
                    )
                })?;
                exclusion.pictures.insert(key, false);
            }
        }
        Ok(exclusion)
    }

    /// Whether the picture of `row` is on a list.
    pub fn excludes(&mut self, row: &Row) -> bool {
        // By kind, so that no hash is computed that nobody asks for.
        let has = |first: Key, last: Key| self.pictures.range(first..=last).next().is_some();
        let (low, high) = ([0; 32], [u8::MAX; 32]);
        let mut keys = Vec::new();
        if has(Key::Blake3(low), Key::Blake3(high)) {
            keys.push(Key::Blake3(*blake3::hash(&row.image).as_bytes()));
        }
        if has(Key::Sha256(low), Key::Sha256(high)) {
            keys.push(Key::Sha256(Sha256::digest(&row.image).into()));
        }
        keys.extend(names(row).map(Key::Name));
        let mut found = false;
        for key in keys {
            if let Some(matched) = self.pictures.get_mut(&key) {
                *matched = true;
                found = true;
            }
        }
        found
    }

    /// The lines that no row has matched.
    pub fn unmatched(&self) -> impl Iterator<Item = String> {
        let lines = self.pictures.iter().filter(|(_, matched)| !**matched);
        lines.map(|(key, _)| key.to_string())
    }
}

impl Key {
    fn parse(line: &str) -> Option<Self> {
        // Both hashes have 32 bytes, and are written alike.
        let hash = |hex: &str| Some(*blake3::Hash::from_hex(hex).ok()?.as_bytes());
        match line.split_once(':') {
            Some(("sha256", hex)) => hash(hex).map(Self::Sha256),
            Some(("blake3", hex)) => hash(hex).map(Self::Blake3),
            _ => Some(hash(line).map_or_else(|| Self::Name(line.to_owned()), Self::Blake3)),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |bytes: &[u8; 32]| blake3::Hash::from_bytes(*bytes).to_hex();
        match self {
            Self::Blake3(bytes) => write!(f, "blake3:{}", hex(bytes)),
            Self::Sha256(bytes) => write!(f, "sha256:{}", hex(bytes)),
            Self::Name(name) => f.write_str(name),
        }
    }
}

fn lossy(part: Option<&OsStr>) -> String {
    part.unwrap_or_default().to_string_lossy().into_owned()
}

/// Everything the picture of `row` may be called.
fn names(row: &Row) -> impl Iterator<Item = String> {
    let path = Path::new(&row.path);
    let id = if row.image_id.is_empty() {
        &row.id
    } else {
        &row.image_id
    };
    let names = [
        id.clone(),
        row.path.clone(),
        lossy(path.file_name()),
        lossy(path.file_stem()),
    ];
    names.into_iter().filter(|name| !name.is_empty())
}

fn text(list: &Path) -> Result<String, DatasetError> {
    let metadata = std::fs::metadata(list).map_err(|error| unreadable(list, error))?;
    if metadata.len() > LIST_BYTES_MAX {
        let reason = format!("has more than {LIST_BYTES_MAX} bytes");
        return Err(foreign(list, reason, "split it over several --exclude"));
    }
    std::fs::read_to_string(list).map_err(|error| unreadable(list, error))
}
