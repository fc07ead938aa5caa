//! CSV written here by the letter of RFC 4180 says what the same rows say as lines of JSON.

use std::ops::ControlFlow;
use std::path::Path;

use proptest::prelude::*;
use ringmaster_dataset::Texts;
use ringmaster_dataset::import::{Format, Row, read};
use serde_json::json;

use crate::import::{any_row, folder, rows, source};

const NAMES: [&str; 9] = [
    "image",
    "id",
    "caption",
    "question",
    "answer",
    "template",
    "objects",
    "hypothesis",
    "label",
];

fn quoted(cell: &str) -> String {
    format!("\"{}\"", cell.replace('"', "\"\""))
}

/// A cell; quoted where it must be, and where it need not be if `always`.
fn cell(text: &str, always: bool) -> String {
    match always || text.contains(['"', ',', '\n', '\r']) {
        true => quoted(text),
        false => text.to_owned(),
    }
}

/// The cells of `row` in the order of `NAMES`.
fn cells(row: &Row) -> [String; 9] {
    let Texts {
        caption,
        question,
        answer,
        template,
        objects,
        hypothesis,
        label,
    } = row.texts.clone();
    let objects = (!objects.is_empty()).then(|| json!(objects).to_string());
    [
        Some(row.path.clone()),
        Some(row.id.clone()),
        caption,
        question,
        answer,
        template,
        objects,
        hypothesis,
        label,
    ]
    .map(Option::unwrap_or_default)
}

/// `rows.csv` in `folder`, and what is read of it.
fn of(folder: &Path, text: &[u8]) -> Vec<Result<Row, String>> {
    let path = folder.join("rows.csv");
    std::fs::write(&path, text).unwrap();
    let mut found = Vec::new();
    let visit = &mut |row: Result<Row, _>| {
        found.push(row.map_err(|bad| format!("{bad:?}")));
        ControlFlow::Continue(())
    };
    match read(&source(Format::Csv, &path), visit) {
        Ok(()) => found,
        Err(error) => vec![Err(error.to_string())],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_row_of_csv_says_what_a_line_of_json_says(
        given in prop::collection::vec((any_row(), "0{0,2}[1-9a-z]{0,3}", "[\r\n,\"]{0,3}"), 1..12),
        order in Just((0..NAMES.len()).collect::<Vec<_>>()).prop_shuffle(),
        always: bool,
        mark: bool,
        end in prop_oneof![Just("\n"), Just("\r\n")],
        ended: bool,
    ) {
        // What tells apart rows of CSV may stand within a caption.
        let given: Vec<Row> = given
            .into_iter()
            .map(|(mut row, id, odd)| {
                row.texts.caption = row.texts.caption.map(|caption| caption + &odd + ".");
                Row { id, ..row }
            })
            .collect();
        let folder = folder(0..6, &[]);
        let table = given.iter().map(cells);
        let lines = [NAMES.map(str::to_owned)].into_iter().chain(table).map(|cells| {
            let line: Vec<String> = order.iter().map(|at| cell(&cells[*at], always)).collect();
            line.join(",")
        });
        let mut text = lines.collect::<Vec<_>>().join(end);
        if ended {
            text += end;
        }
        if mark {
            text.insert(0, '\u{feff}');
        }
        let found = of(folder.path(), text.as_bytes());
        let found: Vec<Row> = found
            .into_iter()
            .map(|row| Row { place: String::new(), ..row.unwrap() })
            .collect();
        prop_assert_eq!(&found, &given);

        // The oracle of both: the same rows as JSON.
        let lines: Vec<String> = given
            .iter()
            .map(|row| {
                let Texts { caption, question, answer, template, objects, hypothesis, label } =
                    &row.texts;
                json!({
                    "image": row.path, "id": row.id, "caption": caption, "question": question,
                    "answer": answer, "template": template, "objects": objects,
                    "hypothesis": hypothesis, "label": label,
                })
                .to_string()
            })
            .collect();
        std::fs::write(folder.path().join("rows.jsonl"), lines.join("\n")).unwrap();
        let mut of_json = rows(&source(Format::Jsonl, &folder.path().join("rows.jsonl"))).unwrap();
        of_json.iter_mut().for_each(|row| row.place.clear());
        prop_assert_eq!(of_json, found);
    }
}

/// The second of three rows is broken; it alone is named, with its number and the reason.
#[test]
fn a_broken_row_is_named_and_costs_no_other_row() {
    let cases: [(&[u8], &str); 8] = [
        (b"pics/0.png,x,[],3", "it has 4 cells, and the first row 3"),
        (b"pics/0.png", "it has 1 cells, and the first row 3"),
        (b"pics/0.png,\xff\xfe,", "UTF-8"),
        (b"pics/9.png,x,", "pics/9.png"),
        (b"../rows.csv,x,", "../rows.csv"),
        (b",x,", "no image"),
        (b"pics/0.png,,", "neither a caption"),
        (
            b"pics/0.png,x,cat and hat",
            "objects is no JSON list of texts",
        ),
    ];
    for (broken, reason) in cases {
        let folder = folder(0..3, &[]);
        let text = [
            b"image,caption,objects\n\"pics/1.png\",\"two\nlines\",\n\n",
            broken,
            b"\npics/2.png,x,\"[\"\"cat\"\"]\"\n",
        ]
        .concat();
        let found = of(folder.path(), &text);
        let [Ok(_), Err(error), Ok(after)] = &found[..] else {
            panic!("{reason}: {found:?}");
        };
        assert!(
            error.contains("rows.csv, row 2") && error.contains(reason),
            "{error}"
        );
        assert_eq!(after.texts.objects, ["cat"]);
    }
}

#[test]
fn a_quote_that_is_never_closed_is_no_text() {
    let folder = folder(0..3, &[]);
    let text = b"image,caption\npics/1.png,x\npics/2.png,\"y\npics/0.png,z\n";
    let found = of(folder.path(), text);
    let [Ok(_), Err(error)] = &found[..] else {
        panic!("{found:?}");
    };
    assert!(
        error.contains("row 2") && error.contains("never closed"),
        "{error}"
    );
}

#[test]
fn a_file_without_names_of_columns_is_refused_whole() {
    let folder = folder(0..1, &[]);
    let long = format!("image,caption\npics/0.png,\"{}\"\n", "x".repeat(2 << 20));
    for (text, reason) in [
        ("", "no column image or file_name"),
        ("pics/0.png,x\n", "no column image or file_name"),
        (
            "image,caption,caption\npics/0.png,x,y\n",
            "two columns \"caption\"",
        ),
        (
            "\"image,caption\npics/0.png,x\n",
            "no column image or file_name",
        ),
        (&long, "an entry has more than 1048576 bytes"),
    ] {
        let found = of(folder.path(), text.as_bytes());
        let [Err(error)] = &found[..] else {
            panic!("{reason}: {found:?}");
        };
        assert!(
            error.contains("rows.csv") && error.contains(reason),
            "{error}"
        );
        assert!(error.contains("first row names the columns"), "{error}");
    }
}
