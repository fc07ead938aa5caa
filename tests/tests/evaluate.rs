//! A checkpoint is scored alike wherever its questions come from.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ops::ControlFlow;
use std::path::Path;

use ringmaster_dataset::import::{Format, Row, Source, read};
use ringmaster_tests::sandbox::{SMALL, Sandbox};
use serde_json::{Map, Value, json};

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

/// Held-out rows that are asked.
const ROWS: u64 = 96;

/// Enough steps that some answers are right.
const TRAIN: [&str; 8] = [
    "run.steps=120",
    "data.validation=0.05",
    "eval.rows=96",
    "train.lr=2e-3",
    "model.image_size=16",
    "model.patch=4",
    "tasks.captioning=0",
    "tasks.question_answering=1",
];

/// Runs `ringmaster eval ARGS --output json`.
fn eval(sandbox: &Sandbox, args: &[&str]) -> Value {
    let args = ["eval", SMALL]
        .iter()
        .chain(args)
        .chain(&["--output", "json"]);
    sandbox.run(args).succeeded().last_object()
}

/// The same rows as a file of GQA and a folder of pictures.
fn write_gqa(parquet: &Path, folder: &Path) {
    let source = Source {
        format: Format::Parquet,
        from: parquet.to_owned(),
        annotations: None,
        images: None,
        columns: ringmaster_proto::spec::Columns::default(),
    };
    std::fs::create_dir(folder).unwrap();
    let mut questions = Map::new();
    let visit = &mut |row: Result<Row, _>| {
        let row = row.unwrap();
        // Zeros in front: an object may be stored in the order of its keys.
        let id = format!("{:05}", questions.len());
        std::fs::write(folder.join(format!("{id}.jpg")), &row.image).unwrap();
        let question = json!({"question": row.texts.question, "answer": row.texts.answer, "imageId": id,
                              "types": {"structural": row.texts.template}});
        questions.insert(id, question);
        ControlFlow::Continue(())
    };
    read(&source, visit).unwrap();
    std::fs::write(folder.join("q.json"), Value::from(questions).to_string()).unwrap();
}

#[test]
fn a_checkpoint_is_scored_as_at_the_end_of_its_run_from_any_copy_of_the_questions() {
    let sandbox = Sandbox::new(RINGMASTER);
    let sets = TRAIN.iter().flat_map(|set| ["--set", set]);
    let train = ["train", "run.toml", "--workers", "1", "--output", "json"];
    let end = sandbox
        .run(train.into_iter().chain(sets))
        .succeeded()
        .last_object();
    let expected = end["exact_match"].as_f64().unwrap();
    assert!(
        expected > 0.0 && expected < 1.0,
        "an unequal score could not show: {end}"
    );

    let held_out = eval(&sandbox, &["--html", "page.html"]);
    assert_eq!(held_out["score"], expected);
    assert_eq!(held_out["rows"], ROWS);
    assert_eq!(
        (&held_out["step"], &held_out["digest"]),
        (&end["steps"], &end["digest"])
    );
    assert_eq!(
        (&held_out["metric"], &held_out["bad_rows"]),
        (&json!("exact"), &json!(0))
    );
    let templates = held_out["templates"].as_array().unwrap();
    let weighted = |of: &Value| of["rows"].as_f64().unwrap() * of["score"].as_f64().unwrap();
    let sum: f64 = templates.iter().map(weighted).sum();
    assert!(
        templates.len() > 1 && (sum / ROWS as f64 - expected).abs() < 1e-9,
        "{held_out}"
    );

    let page = std::fs::read_to_string(sandbox.folder().join("page.html")).unwrap();
    let right = page.matches("<article class=\"right\">").count();
    assert_eq!(right as f64, expected * ROWS as f64);
    assert_eq!(page.matches("<article").count() as u64, ROWS);

    let scenes = sandbox.run_folder(SMALL).join("scenes/validation");
    let rows = ROWS.to_string();
    let rows = ["--rows", &rows];
    let data = ["--data", scenes.to_str().unwrap()];
    assert_eq!(eval(&sandbox, &[data, rows].concat())["score"], expected);

    let import = [
        "corpus", "import", "--format", "parquet", "--from", data[1], "--out", "copy",
    ];
    let imported = sandbox
        .run(import.iter().chain(&["--output", "json"]))
        .succeeded();
    assert_eq!(imported.last_object()["rows"], 1024);
    let copy = eval(&sandbox, &[&["--data", "copy"], &rows[..]].concat());
    assert_eq!(copy["score"], expected);
    assert_eq!(copy["templates"], held_out["templates"]);

    write_gqa(&scenes, &sandbox.folder().join("gqa"));
    let gqa = ["--data", "gqa/q.json", "--format", "gqa"];
    let exact = eval(
        &sandbox,
        &[&gqa[..], &rows, &["--metric", "exact"]].concat(),
    );
    assert_eq!(exact["score"], expected);
    assert_eq!(exact["templates"], held_out["templates"]);
    let strict = eval(&sandbox, &[&gqa[..], &rows].concat());
    assert_eq!(
        (&strict["metric"], &strict["rows"]),
        (&json!("gqa"), &json!(ROWS))
    );
    assert!(strict["score"].as_f64().unwrap() <= expected, "{strict}");

    std::fs::remove_file(sandbox.folder().join("gqa/00003.jpg")).unwrap();
    let args = ["eval", SMALL].iter().chain(&gqa).chain(&rows);
    let refused = sandbox.run(args).refused(3);
    assert!(
        refused.contains("question 00003") && refused.contains("00003.jpg"),
        "{refused}"
    );
    let args = ["eval", SMALL, "--metric", "vqa2"];
    let refused = sandbox.run(args).refused(2);
    assert!(refused.contains("--format vqa2"), "{refused}");
    sandbox.assert_nothing_left();
}
