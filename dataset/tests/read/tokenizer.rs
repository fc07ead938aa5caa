//! Any text survives, and the same texts give the same tokenizer.

use proptest::prelude::*;
use ringmaster_dataset::Tokenizer;
use ringmaster_proto::vocab::RESERVED;

fn texts() -> Vec<String> {
    let colors = ["red", "green", "blue", "yellow"];
    let shapes = ["circle", "square", "triangle"];
    let pairs = colors
        .iter()
        .flat_map(|c| shapes.iter().map(move |s| (c, s)));
    pairs
        .map(|(c, s)| format!("a {c} {s} left of the {s}"))
        .collect()
}

proptest! {
    #[test]
    fn any_text_survives_encoding(text in "\\PC{0,40}|[ a-z\\n\\t]{0,60}") {
        let tokenizer = Tokenizer::train(texts().into_iter(), 400).unwrap();
        let ids = tokenizer.encode(&text);
        prop_assert!(ids.iter().all(|id| (RESERVED..tokenizer.size() as u32).contains(id)));
        prop_assert_eq!(tokenizer.decode(&ids), text);
    }

    #[test]
    fn words_begin_where_spaces_end(words in prop::collection::vec("[a-zé€,.']{1,6}", 0..8), around in "[ ]{0,2}", between in "[ ]{1,3}") {
        let tokenizer = Tokenizer::train(texts().into_iter(), 400).unwrap();
        let text = format!("{around}{}{around}", words.join(&between));
        let (ids, mut starts) = tokenizer.encode_words(&text);
        prop_assert_eq!(&ids, &tokenizer.encode(&text));
        prop_assert_eq!(starts.len(), words.len());
        starts.push(ids.len());
        for (word, ends) in words.iter().zip(starts.windows(2)) {
            let decoded = tokenizer.decode(&ids[ends[0]..ends[1]]);
            prop_assert_eq!(decoded.trim(), word);
        }
    }
}

#[test]
fn the_same_texts_in_any_order_give_the_same_tokenizer() {
    let forward = Tokenizer::train(texts().into_iter(), 320)
        .unwrap()
        .to_json()
        .unwrap();
    let backward = Tokenizer::train(texts().into_iter().rev(), 320)
        .unwrap()
        .to_json()
        .unwrap();
    assert_eq!(forward, backward);
    let read = Tokenizer::from_json(&forward).unwrap();
    assert_eq!(read.to_json().unwrap(), forward);
}

#[test]
fn training_learns_words_within_the_vocabulary() {
    let tokenizer = Tokenizer::train(texts().into_iter(), 320).unwrap();
    assert!(tokenizer.size() <= 320);
    let text = "a red circle left of the square";
    assert!(
        tokenizer.encode(text).len() <= 8,
        "{:?}",
        tokenizer.encode(text)
    );
}

#[test]
fn decoding_leaves_reserved_and_unknown_ids_out() {
    let tokenizer = Tokenizer::train(texts().into_iter(), 300).unwrap();
    let mut ids = tokenizer.encode("red");
    ids.insert(0, 1);
    ids.push(2);
    ids.push(1_000_000);
    assert_eq!(tokenizer.decode(&ids), "red");
}
