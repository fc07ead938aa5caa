//! Name maps: which tensor of another program's file is which parameter of ours.
//!
//! A map is TOML, a list of rules; the first whose `from` matches a tensor's name decides:
//! ```toml
//! [[rule]]
//! from = "blocks.{i}.attn.qkv.weight"   # {i} stands for a number
//! to = ["image_encoder.layers.{i}.attention.query.weight", "...", "..."]
//! transpose = true
//! ```
//! A tensor is changed in this order, all of which is optional: a table that is stored as a batch of
//! one becomes a plain table; `skip_rows = n` leaves out its first n rows; several `to` cut its first
//! dimension into equal parts; `transpose = true` turns `[out, a, b, ..]` into `[a b .., out]`, which
//! is the layout of our linear maps, convolution kernels over patches included; `scale` multiplies;
//! `vocabulary = true` says that rows are token ids, which move behind our reserved ids.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::tensors::Tensor;

/// The built-in maps by name.
const BUILT_IN: [(&str, &str); 3] = [
    ("t5", include_str!("maps/t5.toml")),
    ("vit", include_str!("maps/vit.toml")),
    ("resnet50", include_str!("maps/resnet50.toml")),
];

/// The text of the built-in map `name`.
pub(super) fn built_in(name: &str) -> Option<&'static str> {
    let map = BUILT_IN.iter().find(|(known, _)| *known == name);
    map.map(|(_, text)| *text)
}

/// Names of the built-in maps, for messages.
pub(super) fn built_in_names() -> String {
    BUILT_IN.map(|(name, _)| name).join(", ")
}

/// A list of rules.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NameMap {
    #[serde(rename = "rule", default)]
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    from: Pattern,
    to: Targets,
    #[serde(default)]
    skip_rows: usize,
    #[serde(default)]
    transpose: bool,
    #[serde(default)]
    vocabulary: bool,
    scale: Option<Scale>,
}

/// One parameter, or several that share a tensor.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Targets {
    One(String),
    Several(Vec<String>),
}

/// What values are multiplied by.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scale {
    /// One over the root of the last dimension, for tables of embeddings that are multiplied by that
    /// root where they are read.
    InverseRootWidth,
}

/// What a tensor of a file becomes.
#[derive(Debug)]
pub(super) struct Placement {
    /// Path of a parameter, if the model has it.
    pub(super) path: String,
    pub(super) tensor: Tensor,
    /// Whether rows are token ids of the file's own vocabulary.
    pub(super) vocabulary: bool,
}

impl NameMap {
    /// Reads a map; an error is what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let map: Self = toml::from_str(text).map_err(|error| one_line(&error.to_string()))?;
        if map.rules.is_empty() {
            return Err("it has no [[rule]]".to_owned());
        }
        for rule in &map.rules {
            if rule.to.paths().is_empty() {
                return Err(format!("the rule of {} names no parameter", rule.from.text));
            }
            for target in rule.to.paths() {
                // Any numbers will do: what is not replaced has no number.
                let numbers = rule
                    .from
                    .names()
                    .map(|name| (name.to_owned(), "0".to_owned()));
                fill(target, &numbers.collect())?;
            }
        }
        Ok(map)
    }

    /// The paths that the tensor `name` becomes; none if no rule is about it.
    pub(super) fn paths(&self, name: &str) -> Vec<String> {
        self.rule_of(name).map_or_else(Vec::new, |(_, paths)| paths)
    }

    /// What the tensor `name` becomes; nothing if no rule is about it. An error is what does not fit
    /// the rule.
    pub(super) fn place(&self, name: &str, tensor: Tensor) -> Result<Vec<Placement>, String> {
        let Some((rule, paths)) = self.rule_of(name) else {
            return Ok(Vec::new());
        };
        let whole = tensor.unbatched().without_rows(rule.skip_rows)?;
        let parts = whole.cut(paths.len())?;
        let place = |(path, part): (String, Tensor)| {
            let mut tensor = if rule.transpose {
                part.transposed()
            } else {
                part
            };
            if let Some(Scale::InverseRootWidth) = rule.scale {
                tensor = tensor.over_root_of_width();
            }
            Placement {
                path,
                tensor,
                vocabulary: rule.vocabulary,
            }
        };
        Ok(paths.into_iter().zip(parts).map(place).collect())
    }

    fn rule_of(&self, name: &str) -> Option<(&Rule, Vec<String>)> {
        self.rules.iter().find_map(|rule| {
            let numbers = rule.from.matches(name)?;
            let paths = rule.to.paths().iter().map(|path| fill(path, &numbers));
            Some((rule, paths.collect::<Result<_, _>>().ok()?))
        })
    }
}

impl Targets {
    fn paths(&self) -> &[String] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::Several(paths) => paths,
        }
    }
}

/// A name in which `{i}` stands for a number.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Pattern {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Literal(String),
    Number(String),
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while let Some((literal, after)) = rest.split_once('{') {
            let closed = after.split_once('}');
            let (name, after) = closed.ok_or_else(|| format!("{text}: a {{ is not closed"))?;
            pieces.push(Piece::Literal(literal.to_owned()));
            pieces.push(Piece::Number(name.to_owned()));
            rest = after;
        }
        pieces.push(Piece::Literal(rest.to_owned()));
        Ok(Self { text, pieces })
    }
}

impl Pattern {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Number(name) => Some(name.as_str()),
            Piece::Literal(_) => None,
        })
    }

    /// The numbers that `{..}` stand for if `name` has this form.
    fn matches(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let mut numbers = BTreeMap::new();
        let mut rest = name;
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => rest = rest.strip_prefix(literal.as_str())?,
                Piece::Number(name) => {
                    let end = rest
                        .find(|c: char| !c.is_ascii_digit())
                        .unwrap_or(rest.len());
                    let (number, after) = rest.split_at(end);
                    numbers.insert(name.clone(), number.to_owned());
                    rest = after;
                    if number.is_empty() {
                        return None;
                    }
                }
            }
        }
        rest.is_empty().then_some(numbers)
    }
}

/// `path` with its `{..}` replaced.
fn fill(path: &str, numbers: &BTreeMap<String, String>) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = path;
    while let Some((literal, after)) = rest.split_once('{') {
        let closed = after.split_once('}');
        let (name, after) = closed.ok_or_else(|| format!("{path}: a {{ is not closed"))?;
        let number = numbers.get(name);
        let number = number.ok_or_else(|| format!("{path}: its rule's from has no {{{name}}}"))?;
        filled.push_str(literal);
        filled.push_str(number);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// TOML errors draw the offending line over several; one sentence is enough.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tensor(shape: &[usize]) -> Tensor {
        let len: usize = shape.iter().product();
        Tensor::new(shape.to_vec(), (0..len).map(|i| i as f32).collect())
    }

    #[test]
    fn every_built_in_map_can_be_read() {
        for (name, text) in BUILT_IN {
            NameMap::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(built_in_names().contains(name));
        }
        assert!(built_in("bert").is_none());
    }

    #[test]
    fn a_fused_tensor_is_cut_and_each_part_transposed() {
        let map = r#"
            [[rule]]
            from = "b.{i}.qk"
            to = ["l.{i}.q", "l.{i}.k"]
            transpose = true
        "#;
        let map = NameMap::parse(map).unwrap();
        // Rows 0 1 2 / 3 4 5 are q, 6 7 8 / 9 10 11 are k.
        let placed = map.place("b.12.qk", tensor(&[4, 3])).unwrap();
        let paths: Vec<&str> = placed.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(paths, ["l.12.q", "l.12.k"]);
        assert_eq!(placed[0].tensor.shape, [3, 2]);
        assert_eq!(placed[0].tensor.values, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(placed[1].tensor.values, [6.0, 9.0, 7.0, 10.0, 8.0, 11.0]);
        for other in ["b..qk", "b.x.qk", "b.1.qkv", "ab.1.qk"] {
            assert!(map.place(other, tensor(&[4, 3])).unwrap().is_empty());
        }
        let error = map.place("b.1.qk", tensor(&[5, 3])).unwrap_err();
        assert!(error.contains("[5, 3]"), "{error}");
    }

    #[test]
    fn a_class_token_is_left_out_and_a_kernel_becomes_a_matrix() {
        let map = r#"
            [[rule]]
            from = "pos"
            to = "positions"
            skip_rows = 1
            [[rule]]
            from = "kernel"
            to = "weight"
            transpose = true
        "#;
        let map = NameMap::parse(map).unwrap();
        let positions = map.place("pos", tensor(&[1, 3, 2])).unwrap().remove(0);
        assert_eq!(positions.tensor.shape, [2, 2]);
        assert_eq!(positions.tensor.values, [2.0, 3.0, 4.0, 5.0]);
        let kernel = map
            .place("kernel", tensor(&[2, 1, 2, 2]))
            .unwrap()
            .remove(0);
        assert_eq!(kernel.tensor.shape, [4, 2]);
        assert_eq!(
            kernel.tensor.values,
            [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]
        );
    }

    #[test]
    fn a_wrong_map_says_what_is_wrong() {
        let wrong = [
            ("", "no [[rule]]"),
            ("[[rule]]\nfrom = \"a\"\nto = []", "names no parameter"),
            ("[[rule]]\nfrom = \"a\"\nto = \"b.{i}\"", "no {i}"),
            ("[[rule]]\nfrom = \"a.{i\"\nto = \"b\"", "not closed"),
            ("[[rule]]\nfrom = \"a\"\nto = \"b\"\nflip = true", "flip"),
        ];
        for (text, word) in wrong {
            let error = NameMap::parse(text).unwrap_err();
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
        }
    }
}
