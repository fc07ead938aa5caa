//! The text of a row against its pixels.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use super::{Row, SIZE, row};

const ROWS: u64 = 4000;

fn rows() -> impl Iterator<Item = Row> {
    (0..ROWS).map(|index| row(7, index))
}

/// Colours of the picture's objects in reading order, seen from its fully covered pixels: one object
/// at most stands in each quarter of the picture.
fn colors(image: &[u8]) -> Vec<&'static str> {
    let name = |pixel: &[u8]| match pixel {
        [255, 110, 110] => Some("red"),
        [110, 255, 110] => Some("green"),
        [110, 110, 255] => Some("blue"),
        [235, 235, 100] => Some("yellow"),
        [235, 100, 235] => Some("purple"),
        [100, 235, 235] => Some("cyan"),
        _ => None,
    };
    let mut quarters = BTreeMap::new();
    for (i, pixel) in image.chunks_exact(3).enumerate() {
        if let Some(name) = name(pixel) {
            let (column, row) = (i % SIZE * 2 / SIZE, i / SIZE * 2 / SIZE);
            quarters.insert((row, column), name);
        }
    }
    quarters.into_values().collect()
}

/// (colour, shape) of every object a caption names.
fn named(caption: &str) -> Vec<(&str, &str)> {
    let words: Vec<&str> = caption
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .collect();
    let article = |(_, words): &(usize, &[&str])| words[0] == "a";
    let objects = words.windows(3).enumerate().filter(article);
    objects.map(|(_, words)| (words[1], words[2])).collect()
}

#[test]
fn a_row_is_a_function_of_seed_and_index() {
    assert_eq!(row(1, 5), row(1, 5));
    assert_ne!(row(1, 5), row(1, 6));
    assert_ne!(row(1, 5), row(2, 5));
}

#[test]
fn the_caption_names_what_the_picture_shows_in_reading_order() {
    for row in rows() {
        assert_eq!(row.image.len(), SIZE * SIZE * 3);
        let caption: Vec<&str> = named(&row.caption)
            .into_iter()
            .map(|object| object.0)
            .collect();
        assert_eq!(caption, colors(&row.image), "{}", row.caption);
    }
}

#[test]
fn the_answer_follows_from_the_caption() {
    for row in rows() {
        let objects = named(&row.caption);
        let words: Vec<&str> = row.question.trim_end_matches('?').split(' ').collect();
        let at = |word: &str| {
            objects
                .iter()
                .position(|o| o.0 == word || o.1 == word)
                .unwrap()
        };
        let answer = match (row.template, words.as_slice()) {
            ("color", [.., shape]) => objects[at(shape)].0,
            ("shape", [.., color, _]) => objects[at(color)].1,
            ("count", _) => ["one", "two", "three"][objects.len() - 1],
            ("exists", [.., color, shape]) if objects.contains(&(color, shape)) => "yes",
            ("exists", _) => "no",
            _ => panic!("{row:?}"),
        };
        assert_eq!(row.answer, answer, "{row:?}");
    }
}

#[test]
fn the_objects_are_the_captions() {
    for row in rows() {
        let names = named(&row.caption);
        let names = names
            .iter()
            .map(|(color, shape)| format!("{color} {shape}"));
        assert_eq!(row.objects, names.collect::<Vec<_>>(), "{}", row.caption);
    }
}

#[test]
fn the_label_follows_from_the_objects_and_no_label_is_rare() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for row in rows() {
        let words: Vec<&str> = row.hypothesis.split(' ').collect();
        let there = |color: &str, shape: &str| row.objects.contains(&format!("{color} {shape}"));
        let label = match words.as_slice() {
            ["there", "is", "a", color, shape] if there(color, shape) => "entailment",
            ["there", "is", "a", ..] => "contradiction",
            ["the", color, shape, "is", _] if there(color, shape) => "neutral",
            _ => panic!("{row:?}"),
        };
        assert_eq!(row.label, label, "{row:?}");
        *counts.entry(label).or_default() += 1;
    }
    let few = ROWS * 3 / 10;
    assert!(counts.values().all(|count| *count > few), "{counts:?}");
}

/// Rows as the first version drew them: what came later changes none of it.
#[test]
fn what_was_drawn_before_stays_as_it_was() {
    let mut hasher = blake3::Hasher::new();
    for row in rows().take(64) {
        hasher.update(&row.image);
        for text in [&row.caption, &row.question, &row.answer, row.template] {
            hasher.update(text.as_bytes());
        }
    }
    assert_eq!(
        hasher.finalize().to_hex().as_str(),
        "a7752cd4fd4bf665a715997a2c18b91f2fbed46d9516590c873950c9389b91b4"
    );
}

#[test]
fn answers_are_balanced_within_every_template() {
    let mut counts: BTreeMap<&str, BTreeMap<String, u64>> = BTreeMap::new();
    for row in rows() {
        *counts
            .entry(row.template)
            .or_default()
            .entry(row.answer)
            .or_default() += 1;
    }
    let kinds = [("color", 6), ("shape", 4), ("count", 3), ("exists", 2)];
    assert_eq!(counts.len(), kinds.len());
    for (template, kind) in kinds {
        let answers = &counts[template];
        let total: u64 = answers.values().sum();
        assert_eq!(answers.len(), kind, "{template}");
        for (answer, count) in answers {
            let share = *count as f64 / total as f64 * kind as f64;
            assert!(
                (0.75..1.25).contains(&share),
                "{template} {answer}: {share:.2} of its share"
            );
        }
    }
}
