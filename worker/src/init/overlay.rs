//! Lays the tensors of files over seeded values, and keeps account of what came from where.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_model::flat::{Layout, Slot};
use ringmaster_proto::vocab::RESERVED;
use serde::{Deserialize, Serialize};

use super::map::Placement;
use super::positions;
use super::tensors::Tensor;

/// Where every initial value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Per file, in the order in which they were laid over each other.
    pub sources: Vec<Source>,
    /// Parameters that no file named: they keep their seeded values.
    pub seeded: Vec<String>,
}

/// What came of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// As named in the run file.
    pub url: String,
    /// blake3 of the file, or the digest of the checkpoint's state.
    pub hash: String,
    /// How many parameters took its values.
    pub taken: usize,
    /// Position tables that were interpolated, as `path: 14x14 to 24x24`.
    pub interpolated: Vec<String>,
    /// Tensors of the file that are no parameter of this model.
    pub unused: Vec<String>,
}

/// The parameters so far.
pub(super) struct Overlay<'a> {
    slots: BTreeMap<&'a str, &'a Slot>,
    flat: Vec<f32>,
    covered: BTreeSet<&'a str>,
    sources: Vec<Source>,
}

impl<'a> Overlay<'a> {
    /// Over the seeded values `flat`.
    pub(super) fn new(layout: &'a Layout, flat: Vec<f32>) -> Self {
        let named = |slot: &'a Slot| (slot.path.as_str(), slot);
        Self {
            slots: layout.slots.iter().map(named).collect(),
            flat,
            covered: BTreeSet::new(),
            sources: Vec::new(),
        }
    }

    /// What follows comes from this file.
    pub(super) fn begin(&mut self, url: &str, hash: &str) {
        let (url, hash) = (url.to_owned(), hash.to_owned());
        self.sources.push(Source {
            url,
            hash,
            ..Source::default()
        });
    }

    /// Whether the model has this parameter.
    pub(super) fn has(&self, path: &str) -> bool {
        self.slots.contains_key(path)
    }

    /// Notes a tensor that nothing is made of.
    pub(super) fn leave(&mut self, name: &str) {
        if let Some(source) = self.sources.last_mut() {
            source.unused.push(name.to_owned());
        }
    }

    /// Puts a tensor in its parameter's place, if the model has it; an error names both shapes.
    pub(super) fn lay(&mut self, placement: Placement) -> Result<(), String> {
        let Placement {
            path,
            tensor,
            vocabulary,
        } = placement;
        let Some((&path, &slot)) = self.slots.get_key_value(path.as_str()) else {
            return Ok(());
        };
        let place = &mut self.flat[slot.offset..slot.offset + slot.len];
        let mut interpolated = None;
        if vocabulary {
            lay_vocabulary(place, slot, &tensor)?;
        } else if tensor.shape == slot.shape {
            place.copy_from_slice(&tensor.values);
        } else if let Some([width, from, to]) = grids(slot, &tensor) {
            place.copy_from_slice(&positions::resize(&tensor.values, width, from, to));
            interpolated = Some(format!("{path}: {from}x{from} to {to}x{to}"));
        } else {
            return Err(mismatch(slot, &tensor));
        }
        self.covered.insert(path);
        if let Some(source) = self.sources.last_mut() {
            source.taken += 1;
            source.interpolated.extend(interpolated);
        }
        Ok(())
    }

    /// How many parameters took values of the file at hand.
    pub(super) fn taken(&self) -> usize {
        self.sources.last().map_or(0, |source| source.taken)
    }

    /// The parameters and their account.
    pub(super) fn finish(self) -> (Vec<f32>, Account) {
        let covered = &self.covered;
        let seeded = self.slots.keys().filter(|path| !covered.contains(*path));
        let account = Account {
            seeded: seeded.map(|path| (*path).to_owned()).collect(),
            sources: self.sources,
        };
        (self.flat, account)
    }
}

/// Rows of another vocabulary move behind the reserved ids. Rows of ours that then have no
/// counterpart keep their values; rows of theirs beyond our vocabulary are left out.
fn lay_vocabulary(place: &mut [f32], slot: &Slot, tensor: &Tensor) -> Result<(), String> {
    let row = tensor.row_len();
    if slot.shape.len() != 2 || tensor.shape.len() != 2 || slot.shape[1] != row {
        return Err(mismatch(slot, tensor));
    }
    let behind = place.get_mut(RESERVED as usize * row..).unwrap_or_default();
    let len = behind.len().min(tensor.values.len());
    behind[..len].copy_from_slice(&tensor.values[..len]);
    Ok(())
}

/// `[width, from, to]` if both are tables of positions over square grids.
fn grids(slot: &Slot, tensor: &Tensor) -> Option<[usize; 3]> {
    let of_image = ["image_encoder", "projection"];
    let first = slot.path.split('.').next().unwrap_or_default();
    if !of_image.contains(&first) || !slot.path.ends_with(".positions") {
        return None;
    }
    let ([from, theirs], [to, width]) = (tensor.shape.as_slice(), slot.shape.as_slice()) else {
        return None;
    };
    let side = |tokens: usize| {
        let root = tokens.isqrt();
        (root > 0 && root * root == tokens).then_some(root)
    };
    (theirs == width).then_some([*width, side(*from)?, side(*to)?])
}

fn mismatch(slot: &Slot, tensor: &Tensor) -> String {
    format!(
        "{} is {:?} there and {:?} in this model",
        slot.path, tensor.shape, slot.shape
    )
}

impl Account {
    /// For people and logs, a sentence each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for source in &self.sources {
            lines.push(format!("{} parameters from {}", source.taken, source.url));
            let interpolated = source.interpolated.iter();
            lines.extend(interpolated.map(|table| format!("interpolated {table}")));
            lines.extend(list("not used of it", &source.unused));
        }
        lines.extend(list("drawn from the seed", &self.seeded));
        lines
    }
}

fn list(what: &str, names: &[String]) -> Option<String> {
    let all = || format!("{what} ({}): {}", names.len(), names.join(", "));
    (!names.is_empty()).then(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn layout(slots: &[(&str, &[usize])]) -> Layout {
        let mut layout = Layout {
            slots: Vec::new(),
            total: 0,
        };
        for (path, shape) in slots {
            let (offset, len) = (layout.total, shape.iter().product());
            layout.slots.push(Slot {
                path: (*path).to_owned(),
                shape: shape.to_vec(),
                offset,
                len,
                decay: true,
            });
            layout.total += len;
        }
        layout
    }

    fn placement(path: &str, shape: &[usize]) -> Placement {
        let values = (0..shape.iter().product()).map(|i| i as f32).collect();
        Placement {
            path: path.into(),
            tensor: Tensor::new(shape.to_vec(), values),
            vocabulary: false,
        }
    }

    #[test]
    fn every_value_is_accounted_for() {
        let layout = layout(&[
            ("a.weight", &[2, 3]),
            ("b", &[2]),
            ("projection.positions", &[9, 2]),
        ]);
        let mut overlay = Overlay::new(&layout, vec![9.0; layout.total]);
        overlay.begin("there", "hash");
        overlay.lay(placement("a.weight", &[2, 3])).unwrap();
        overlay
            .lay(placement("projection.positions", &[4, 2]))
            .unwrap();
        overlay.lay(placement("nowhere", &[2])).unwrap();
        overlay.leave("head");
        assert!(overlay.has("b") && !overlay.has("head"));
        let (flat, account) = overlay.finish();
        assert_eq!(flat[..8], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 9.0, 9.0]);
        let source = &account.sources[0];
        assert_eq!(
            (source.taken, &*source.unused),
            (2, &["head".to_owned()][..])
        );
        assert_eq!(source.interpolated, ["projection.positions: 2x2 to 3x3"]);
        assert_eq!(account.seeded, ["b"]);
        let text = account.lines().join("\n");
        assert!(text.contains("2 parameters from there"), "{text}");
        assert!(text.contains("drawn from the seed (1): b"), "{text}");
    }

    #[test]
    fn another_shape_is_refused_with_both_shapes() {
        let layout = layout(&[("a.weight", &[2, 3]), ("decoder.positions", &[9, 2])]);
        let mut overlay = Overlay::new(&layout, vec![0.0; layout.total]);
        let error = overlay.lay(placement("a.weight", &[3, 2])).unwrap_err();
        assert!(error.contains("a.weight"), "{error}");
        assert!(
            error.contains("[3, 2]") && error.contains("[2, 3]"),
            "{error}"
        );
        // Positions of a text are no picture.
        overlay
            .lay(placement("decoder.positions", &[4, 2]))
            .unwrap_err();
    }

    #[test]
    fn a_vocabulary_moves_behind_the_reserved_ids() {
        let reserved = RESERVED as usize;
        let layout = layout(&[("embedding.table", &[reserved + 2, 2])]);
        let mut overlay = Overlay::new(&layout, vec![-1.0; layout.total]);
        let theirs = Placement {
            vocabulary: true,
            ..placement("embedding.table", &[3, 2])
        };
        overlay.lay(theirs).unwrap();
        let (flat, _) = overlay.finish();
        assert!(flat[..2 * reserved].iter().all(|value| *value == -1.0));
        assert_eq!(flat[2 * reserved..], [0.0, 1.0, 2.0, 3.0]);
        let mut overlay = Overlay::new(&layout, flat);
        let narrow = Placement {
            vocabulary: true,
            ..placement("embedding.table", &[3, 1])
        };
        overlay.lay(narrow).unwrap_err();
    }
}
