//! Which objective is drawn, and what each makes of rows written by hand.
#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;

use ringmaster_dataset::Tokenizer;
use ringmaster_proto::vocab::{self, BEGIN, END, PAD, SENTINEL};

use super::{Composer, Fields, Lens, Objective, draw};
use crate::draw::Key;

/// A byte for a token: ids are bytes shifted, and texts can be read back.
fn tokenizer() -> Tokenizer {
    Tokenizer::train(std::iter::empty(), 300).unwrap()
}

const LENS: Lens = Lens {
    text: 80,
    target: 40,
};

fn key(step: u64) -> Key {
    Key {
        seed: 5,
        step,
        lane: 1,
    }
}

/// A row that counts, with everything a row may have.
fn row(caption: &str, objects: &[&str]) -> Fields {
    let tokenizer = tokenizer();
    let ids = |text: &str| tokenizer.encode(text);
    let (caption, words) = tokenizer.encode_words(caption);
    let questions = objects.iter().map(|o| ids(&vocab::presence_question(o)));
    Fields {
        caption,
        words,
        question: ids("how many?"),
        answer: ids("two"),
        listing: ids(&objects.join(", ")),
        presence: questions.collect(),
        hypothesis: ids("it is red"),
        label: ids("neutral"),
        ..Fields::supporting(&Objective::ALL)
    }
}

/// Encoder text, target and whether it counts, of every row.
fn read(objective: Objective, step: u64, rows: &[Fields]) -> Vec<(String, String, bool)> {
    let tokenizer = tokenizer();
    let tokens = Composer::new(&tokenizer, LENS).compose(objective, key(step), rows);
    let text = tokens.text.chunks(LENS.text);
    let target = tokens.target.chunks(LENS.target);
    let weight = tokens.weight.chunks(LENS.target);
    text.zip(target)
        .zip(weight)
        .map(|((text, target), weight)| {
            let texts = (tokenizer.decode(text), tokenizer.decode(target));
            (texts.0, texts.1, weight[0] > 0.0)
        })
        .collect()
}

fn one(objective: Objective, step: u64, rows: &[Fields]) -> (String, String) {
    let (text, target, counts) = read(objective, step, rows).remove(0);
    assert!(counts, "{objective:?}");
    (text, target)
}

#[test]
fn texts_and_targets_are_what_the_objective_says() {
    let rows = [row("a red ring", &["red ring", "dog"])];
    let expected = [
        (Objective::Captioning, vocab::CAPTION_PROMPT, "a red ring"),
        (Objective::QuestionAnswering, "how many?", "two"),
        (
            Objective::ObjectListing,
            vocab::LISTING_PROMPT,
            "red ring, dog",
        ),
        (Objective::Entailment, "it is red", "neutral"),
        // Alone in its microbatch, so with nobody to take a wrong one from.
        (Objective::Matching, "true or false:a red ring", "true"),
    ];
    for (objective, text, target) in expected {
        for step in 0..8 {
            assert_eq!(one(objective, step, &rows), (text.into(), target.into()));
        }
    }
    let asked: BTreeSet<_> = (0..40)
        .map(|step| one(Objective::ObjectPresence, step, &rows))
        .collect();
    let yes = |text: &str| (text.to_owned(), "yes".to_owned());
    let both = [yes("is there a dog?"), yes("is there a red ring?")];
    assert_eq!(asked, BTreeSet::from(both));
}

#[test]
fn a_caption_is_completed_from_every_number_of_words() {
    let rows = [row("a red ring, a dog", &["x"])];
    let seen: BTreeSet<_> = (0..100)
        .map(|step| one(Objective::Completion, step, &rows))
        .collect();
    let cut = |first: &str, rest: &str| {
        (
            format!("{}{first}", vocab::COMPLETION_PROMPT),
            rest.to_owned(),
        )
    };
    let expected = [
        cut("a", " red ring, a dog"),
        cut("a red", " ring, a dog"),
        cut("a red ring,", " a dog"),
        cut("a red ring, a", " dog"),
    ];
    assert_eq!(seen, BTreeSet::from(expected));
}

#[test]
fn a_completion_is_cut_so_that_its_beginning_fits() {
    let long = "y".repeat(LENS.text);
    let rows = [row(&format!("one two {long} three"), &["x"])];
    for step in 0..50 {
        let (text, _) = one(Objective::Completion, step, &rows);
        let first = text.strip_prefix(vocab::COMPLETION_PROMPT).unwrap();
        assert!(["one", "one two"].contains(&first), "{first}");
    }
    let rows = [row(&format!("{long} two"), &["x"])];
    let (text, _, counts) = read(Objective::Completion, 0, &rows).remove(0);
    assert!(
        text.is_empty() && !counts,
        "nothing fits, so nothing counts"
    );
}

#[test]
fn masked_spans_are_ids_behind_sentinels() {
    let tokenizer = tokenizer();
    let rows = [row("abcdefghijkl", &["x"])];
    let tokens = Composer::new(&tokenizer, LENS).compose(Objective::MaskedSpans, key(3), &rows);
    let prompt = tokenizer.encode(vocab::SPANS_PROMPT);
    let mut rest = tokens.text.iter().copied().filter(|id| *id != PAD);
    assert_eq!(rest.next(), Some(BEGIN));
    assert!(prompt.iter().all(|id| rest.next() == Some(*id)));
    let text: Vec<u32> = rest.collect();
    let at = text.iter().position(|id| *id == SENTINEL).unwrap();
    let target: Vec<u32> = tokens.target.iter().copied().take(4).collect();
    assert_eq!(
        (target[0], target[3]),
        (SENTINEL, END),
        "two of twelve tokens"
    );
    let mut back = text.clone();
    back.splice(at..=at, target[1..3].iter().copied());
    assert_eq!(tokenizer.decode(&back), "abcdefghijkl");
}

#[test]
fn half_the_captions_are_swapped_for_one_that_counts_and_reads_differently() {
    let mut padding = row("padding", &["padding"]);
    padding = Fields {
        caption: padding.caption,
        words: padding.words,
        presence: padding.presence,
        ..Fields::default()
    };
    let rows = [
        row("a ring", &["ring"]),
        padding,
        row("a dog", &["dog"]),
        row("a ring", &["cat"]),
    ];
    let mut swapped = 0;
    for step in 0..1000 {
        let read = read(Objective::Matching, step, &rows);
        assert!(!read[1].2, "a row of weight 0 counts nothing");
        for (at, own) in [(0, "a ring"), (2, "a dog"), (3, "a ring")] {
            let caption = read[at].0.strip_prefix(vocab::MATCHING_PROMPT).unwrap();
            assert!(["a ring", "a dog"].contains(&caption), "{caption}");
            assert_eq!(read[at].1 == "true", caption == own, "{read:?}");
            swapped += u32::from(caption != own);
        }
    }
    // Row 2 is swapped half the time, rows 0 and 3 only when they do not meet each other.
    let share = f64::from(swapped) / 1000.0;
    assert!((share - 1.0).abs() < 0.1, "{share}");
    let alone = [rows[0].clone(), rows[1].clone()];
    assert!((0..100).all(|step| read(Objective::Matching, step, &alone)[0].1 == "true"));
}

#[test]
fn objects_that_are_asked_for_in_vain_are_those_of_rows_that_count() {
    let mut padding = row("p", &["padding"]);
    padding = Fields {
        presence: padding.presence,
        ..Fields::default()
    };
    let rows = [
        row("a", &["ring", "dog"]),
        padding,
        row("b", &["dog", "cat"]),
    ];
    let seen: BTreeSet<_> = (0..300)
        .flat_map(|step| read(Objective::ObjectPresence, step, &rows))
        .filter(|(.., counts)| *counts)
        .map(|(text, answer, _)| (text, answer))
        .collect();
    let pair = |object: &str, answer: &str| (vocab::presence_question(object), answer.to_owned());
    let expected = [
        pair("ring", "yes"),
        pair("dog", "yes"),
        pair("cat", "no"),
        pair("cat", "yes"),
        pair("ring", "no"),
    ];
    assert_eq!(seen, BTreeSet::from(expected));
}

#[test]
fn composing_is_a_function_of_seed_step_and_lane() {
    let rows: Vec<Fields> = ["one two three four", "five six seven", "eight nine ten"]
        .map(|caption| row(caption, &[&caption[..3], "x"]))
        .into();
    let composer = Composer::new(&tokenizer(), LENS);
    let drawing = [
        Objective::Completion,
        Objective::MaskedSpans,
        Objective::Matching,
        Objective::ObjectPresence,
    ];
    let all = |key: Key| drawing.map(|objective| composer.compose(objective, key, &rows));
    let once = all(key(1));
    assert_eq!(once, all(key(1)));
    for other in [key(2), Key { seed: 6, ..key(1) }, Key { lane: 2, ..key(1) }] {
        assert_ne!(once, all(other));
    }
}

#[test]
fn objectives_are_the_keys_of_the_run_file_in_their_order() {
    let tasks = ringmaster_proto::RunSpec::parse("", &[])
        .expect("the defaults are valid")
        .tasks;
    for (objective, (key, _)) in Objective::ALL.into_iter().zip(tasks.weights()) {
        assert_eq!(format!("tasks.{}", objective.name()), key);
    }
}

#[test]
fn only_objectives_the_rows_support_are_drawn_in_proportion() {
    let row = |objectives: &[Objective]| Fields::supporting(objectives);
    let (caption, answer) = (Objective::Captioning, Objective::QuestionAnswering);
    let mut mix = [0.0; Objective::COUNT];
    mix[caption as usize] = 0.25;
    mix[answer as usize] = 0.75;
    let drawn = |step, rows: &[Fields]| {
        let key = Key {
            seed: 1,
            step,
            lane: 0,
        };
        draw(&mix, key, rows)
    };
    // Rows of weight 0 support nothing and are not asked.
    let both = [row(&[caption, answer]), row(&Objective::ALL), row(&[])];
    let asked = (0..2000).filter(|step| drawn(*step, &both) == answer);
    let share = asked.count() as f64 / 2000.0;
    assert!((share - 0.75).abs() < 0.05, "{share}");
    let captions_only = [row(&[caption, answer]), row(&[caption])];
    let mixed = [row(&[answer]), row(&[answer]), row(&[caption])];
    for step in 0..100 {
        assert_eq!(drawn(step, &captions_only), caption);
        assert_eq!(drawn(step, &mixed), answer, "fits most rows");
    }
}
