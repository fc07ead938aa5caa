//! The files of VQA2, GQA, SNLI-VE and COCO, and WebDataset's, written here as they are published.

use std::path::Path;

use ringmaster_dataset::Texts;
use ringmaster_dataset::import::{Format, Row};
use serde_json::{Value, json};

use crate::import::{folder, picture, rows, source};

fn write(path: &Path, json: &Value) {
    std::fs::write(path, json.to_string()).unwrap();
}

/// A folder with pictures of these names.
fn pictures(names: &[&str]) -> tempfile::TempDir {
    let folder = folder(0..0, &[]);
    for (id, name) in (0..).zip(names) {
        std::fs::write(folder.path().join(name), picture(id)).unwrap();
    }
    folder
}

fn vqa2_files(folder: &Path) {
    // The part of COCO comes after the questions here, and before them elsewhere.
    let questions = json!({
        "info": {"description": "x", "contributor": ["a", {"b": 1}]},
        "questions": [
            {"image_id": 42, "question": "What is it?", "question_id": 42000},
            {"image_id": 42, "question": "Is it?", "question_id": 42001},
        ],
        "data_subtype": "val2014",
    });
    let answers = |said: &[&str]| -> Vec<Value> {
        let answer =
            |(id, said)| json!({"answer": said, "answer_confidence": "yes", "answer_id": id});
        (1..).zip(said).map(answer).collect()
    };
    let annotations = json!({
        "annotations": [
            {"question_type": "is it", "multiple_choice_answer": "no", "image_id": 42,
             "answers": answers(&["no", "no", "yes"]), "answer_type": "yes/no",
             "question_id": 42001},
            {"question_type": "what is", "multiple_choice_answer": "cat", "image_id": 42,
             "answers": answers(&["cat"]), "answer_type": "other", "question_id": 42000},
        ],
        "license": {"name": "x"},
    });
    write(&folder.join("q.json"), &questions);
    write(&folder.join("a.json"), &annotations);
}

#[test]
fn vqa2_is_joined_by_the_ids_of_the_questions() {
    let folder = pictures(&["COCO_val2014_000000000042.jpg"]);
    vqa2_files(folder.path());
    let mut vqa2 = source(Format::Vqa2, &folder.path().join("q.json"));
    let error = rows(&vqa2).unwrap_err();
    assert!(
        error.contains("q.json") && error.contains("--annotations"),
        "{error}"
    );
    vqa2.annotations = Some(folder.path().join("a.json"));
    let found = rows(&vqa2).unwrap();
    let expected = Row {
        place: found[0].place.clone(),
        id: "42001".into(),
        image_id: "42".into(),
        path: "COCO_val2014_000000000042.jpg".into(),
        image: picture(0).into(),
        texts: Texts {
            question: Some("Is it?".into()),
            answer: Some("no".into()),
            template: Some("yes/no".into()),
            ..Texts::default()
        },
        annotators: vec!["no".into(), "no".into(), "yes".into()],
    };
    assert_eq!(found[0], expected);
    assert!(found[0].place.ends_with("a.json, question 42001"));
    assert_eq!(found[1].texts.question.as_deref(), Some("What is it?"));
    assert_eq!(found.len(), 2);
    std::fs::remove_file(folder.path().join("COCO_val2014_000000000042.jpg")).unwrap();
    let error = rows(&vqa2).unwrap_err();
    assert!(
        error.contains("COCO_val2014_000000000042.jpg: No such file"),
        "{error}"
    );
}

#[test]
fn gqa_is_an_object_by_the_ids_of_the_questions() {
    let folder = pictures(&["2337.jpg", "n16.jpg"]);
    let questions = json!({
        "0733": {"question": "Is the sky dark?", "answer": "yes", "imageId": "2337",
                 "isBalanced": true, "groups": {"global": null, "local": "06-sky_dark"},
                 "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": "verify"},
                 "semantic": [{"operation": "select", "dependencies": [], "argument": "sky"}]},
        "0200": {"question": "Who?", "answer": "man", "imageId": "n16"},
    });
    std::fs::create_dir(folder.path().join("questions")).unwrap();
    write(&folder.path().join("questions/all_1.json"), &json!({}));
    write(&folder.path().join("questions/all_0.json"), &questions);
    let mut gqa = source(Format::Gqa, &folder.path().join("questions"));
    gqa.images = Some(folder.path().into());
    let found = rows(&gqa).unwrap();
    assert_eq!(found.len(), 2);
    let sky = found.iter().find(|row| row.id == "0733").unwrap();
    assert_eq!(sky.texts.question.as_deref(), Some("Is the sky dark?"));
    assert_eq!(sky.texts.answer.as_deref(), Some("yes"));
    assert_eq!(sky.texts.template.as_deref(), Some("verify"));
    assert_eq!(
        (sky.image_id.as_str(), sky.image.to_vec()),
        ("2337", picture(0))
    );
    let who = found.iter().find(|row| row.id == "0200").unwrap();
    assert_eq!((who.path.as_str(), &who.texts.template), ("n16.jpg", &None));
}

#[test]
fn snli_ve_has_a_pair_per_line_in_both_spellings() {
    let folder = pictures(&["4705.jpg", "2407.jpg"]);
    let pair = |key: &str, picture: Value, label: &str| {
        json!({"gold_label": label, "sentence1": "A caption.", "sentence2": "A man sleeps.",
               "pairID": "1r1n", key: picture})
    };
    let lines = [
        pair("Flickr30K_ID", json!("4705"), "neutral"),
        pair("Flikr30kID", json!("2407.jpg"), "contradiction"),
        pair("Flickr30K_ID", json!(4705), "entailment"),
    ];
    let file = folder.path().join("dev.jsonl");
    let text = |lines: &[Value]| {
        lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    std::fs::write(&file, text(&lines)).unwrap();
    let found = rows(&source(Format::SnliVe, &file)).unwrap();
    let labels: Vec<_> = found
        .iter()
        .map(|row| row.texts.label.as_deref().unwrap())
        .collect();
    assert_eq!(labels, ["neutral", "contradiction", "entailment"]);
    let paths: Vec<_> = found.iter().map(|row| row.path.as_str()).collect();
    assert_eq!(paths, ["4705.jpg", "2407.jpg", "4705.jpg"]);
    assert_eq!(found[1].image.to_vec(), picture(1));
    assert_eq!(found[0].texts.hypothesis.as_deref(), Some("A man sleeps."));

    std::fs::write(&file, text(&[pair("Flickr30K_ID", json!("4705"), "-")])).unwrap();
    let error = rows(&source(Format::SnliVe, &file)).unwrap_err();
    assert!(
        error.contains("line 1") && error.contains("\"-\""),
        "{error}"
    );
}

#[test]
fn a_file_that_is_not_what_it_should_be_is_named_with_the_place() {
    let folder = pictures(&["1.jpg"]);
    let file = folder.path().join("q.json");
    let gqa = source(Format::Gqa, &file);
    for (text, reason) in [
        (
            r#"{"1": {"question": "a?", "answer": "b", "imageId": "1"}, "2": {"#,
            "EOF",
        ),
        (r#"{"1": {"question": 5}}"#, "line 1 column"),
        (r#"{} {}"#, "trailing"),
        (r#"[1]"#, "expected an object"),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = rows(&gqa).unwrap_err();
        assert!(
            error.contains("q.json: ") && error.contains(reason),
            "{error}"
        );
        assert!(error.contains("--format"), "{error}");
    }
    // An entry longer than any real one is refused before it fills the memory.
    let long = "x".repeat(2 << 20);
    write(&file, &json!({"1": {"question": long}}));
    let error = rows(&gqa).unwrap_err();
    assert!(error.contains("an entry has more than"), "{error}");
    let skipped = json!({"info": long, "questions": [], "data_subtype": "val2014"});
    write(&file, &skipped);
    let mut vqa2 = source(Format::Vqa2, &file);
    vqa2.annotations = Some(file);
    let error = rows(&vqa2).unwrap_err();
    assert!(
        error.contains("no array annotations"),
        "long, but of no interest: {error}"
    );
}

#[test]
fn captions_of_coco_are_rows_of_the_picture_they_name() {
    let folder = pictures(&["a.jpg", "b.jpg"]);
    let path = folder.path().join("captions.json");
    let caption =
        |id: u64, image: u64, text: &str| json!({"image_id": image, "id": id, "caption": text});
    let mut file = json!({
        "info": {"year": 2014},
        "annotations": [caption(7, 12, "two"), caption(8, 11, "one"), caption(9, 12, "more")],
        // The pictures come after their captions here, and before them elsewhere.
        "images": [
            {"license": 5, "file_name": "a.jpg", "height": 4, "id": 11},
            {"file_name": "b.jpg", "id": 12},
        ],
    });
    write(&path, &file);
    let coco = source(Format::Coco, &path);
    let expected = |id: &str, image: &str, path: &str, pixels: u64, caption: &str| {
        (
            id.to_owned(),
            image.to_owned(),
            path.to_owned(),
            picture(pixels),
            caption.to_owned(),
        )
    };
    let found: Vec<_> = rows(&coco)
        .unwrap()
        .into_iter()
        .map(|row| {
            (
                row.id,
                row.image_id,
                row.path,
                row.image.to_vec(),
                row.texts.caption.unwrap(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            expected("7", "12", "b.jpg", 1, "two"),
            expected("8", "11", "a.jpg", 0, "one"),
            expected("9", "12", "b.jpg", 1, "more"),
        ]
    );
    file["annotations"][1]["image_id"] = json!(13);
    write(&path, &file);
    let error = rows(&coco).unwrap_err();
    assert!(
        error.contains("annotation 2: no picture has its image_id"),
        "{error}"
    );
}

/// A tar as other programs write it, of members (name, bytes).
fn tar(path: &Path, members: &[(&str, Vec<u8>)]) {
    let mut tar = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    tar.finish().unwrap();
}

#[test]
fn members_of_one_name_are_a_row_of_a_webdataset() {
    let folder = tempfile::tempdir().unwrap();
    let text = |text: &str| text.as_bytes().to_vec();
    tar(
        &folder.path().join("00001.tar"),
        &[("x/c.png", picture(3)), ("x/c.txt", text("three\n"))],
    );
    tar(
        &folder.path().join("00000.tar"),
        &[
            ("x/a.jpg", picture(1)),
            ("x/a.txt", text("one")),
            (
                "x/a.json",
                text(r#"{"question": "Q?", "answer": "A", "width": 3}"#),
            ),
            ("x/b.v1.cls", text("7")),
            ("x/b.json", text(r#"{"caption": "two"}"#)),
            ("x/b.PNG", picture(2)),
        ],
    );
    let webdataset = source(Format::WebDataset, folder.path());
    let found: Vec<_> = rows(&webdataset)
        .unwrap()
        .into_iter()
        .map(|row| {
            (
                row.path,
                row.image.to_vec(),
                row.texts.caption.unwrap(),
                row.texts.answer,
            )
        })
        .collect();
    let row = |path: &str, pixels, caption: &str, answer: Option<&str>| {
        (
            path.to_owned(),
            picture(pixels),
            caption.to_owned(),
            answer.map(str::to_owned),
        )
    };
    assert_eq!(
        found,
        [
            row("x/a.jpg", 1, "one", Some("A")),
            row("x/b.PNG", 2, "two", None),
            row("x/c.png", 3, "three", None),
        ]
    );
}

#[test]
fn a_webdataset_names_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let webdataset = source(Format::WebDataset, &path);
    let text = |text: &str| text.as_bytes().to_vec();
    let cases = [
        (vec![("a.txt", text("x"))], "a.tar, a: it has no picture"),
        (
            vec![("a.jpg", picture(1)), ("a.json", text("{"))],
            "a.tar, a: a.json: ",
        ),
        (
            vec![("a.jpg", picture(1)), ("a.txt", vec![0xff])],
            "a.tar, a: a.txt: ",
        ),
    ];
    for (members, reason) in cases {
        tar(&path, &members);
        let error = rows(&webdataset).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    tar(&path, &[("a.jpg", picture(1)), ("a.txt", text("x"))]);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..700]).unwrap();
    let error = rows(&webdataset).unwrap_err();
    assert!(error.contains("a.tar"), "{error}");
}
