//! What is trained, and what the table says of it.
#![allow(clippy::unwrap_used)]

use clap::Parser;
use ringmaster_proto::spec::Every;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: SamplingArgs,
}

fn args(more: &[&str]) -> SamplingArgs {
    let line = ["sampling", "--out", "x", "--steps", "40", "--points", "4"];
    Line::try_parse_from(line.iter().chain(more)).unwrap().args
}

fn said(points: &[(u64, f64, f64)]) -> Vec<String> {
    let lines = points.iter().flat_map(|(step, easy, hard)| {
        [("captioning", easy), ("question_answering", hard)].map(|(objective, loss)| {
            format!(r#"{{"step":{step},"objective":"{objective}","loss":{loss},"tokens":9}}"#)
        })
    });
    lines.collect()
}

#[test]
fn runs_differ_in_the_rule_alone_and_mix_two_objectives() {
    let trials = trials(&args(&["--seeds", "1", "--easy", "captioning"])).unwrap();
    let uniform = &trials[0].run.spec;
    let weights = uniform.tasks.weights().into_iter();
    let mixed: Vec<&str> = weights
        .filter(|(_, w)| *w > 0.0)
        .map(|(key, _)| key)
        .collect();
    assert_eq!(mixed, ["tasks.captioning", "tasks.question_answering"]);
    let (every, keep) = (uniform.checkpoint.every, uniform.checkpoint.keep);
    assert_eq!((every, keep), (Every::Steps(10), 5));
    for trial in &trials[1..] {
        let changes = uniform.changes(&trial.run.spec).into_iter();
        let mut keys: Vec<String> = changes.map(|change| change.key).collect();
        keys.retain(|key| !["run.name", "tasks.gamma"].contains(&key.as_str()));
        assert_eq!(keys, ["tasks.sampling"], "{}", trial.rule.name);
    }
    let same = args(&["--easy", "question_answering"]);
    assert!(self::trials(&same).is_err());
}

#[test]
fn the_table_counts_steps_to_the_loss_of_uniform() {
    let args = args(&[
        "--seeds",
        "1",
        "--easy",
        "captioning",
        "--only",
        "difficulty",
    ]);
    let trials = trials(&args).unwrap();
    let uniform = said(&[
        (10, 9.0, 5.0),
        (20, 8.0, 4.0),
        (30, 7.0, 3.0),
        (40, 6.0, 2.0),
    ]);
    // Down to 4 at 15 and to 3 at 20; never to 2.
    let other = said(&[
        (10, 9.0, 5.0),
        (20, 8.5, 3.0),
        (30, 8.0, 2.5),
        (40, 7.5, 2.5),
    ]);
    let mut rows = Row::curve(&trials[0], &uniform).unwrap();
    rows.extend(Row::curve(&trials[1], &other).unwrap());
    let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    assert_eq!(Row::parse_all(&cells).unwrap(), rows);
    assert!(rows[3].ends(&trials[0]) && !rows[2].ends(&trials[0]) && !rows[3].ends(&trials[1]));

    let table = serde_json::to_value(table::Table::of(&rows).summaries()).unwrap();
    assert_eq!(
        table[0]["steps_share_mean"],
        serde_json::json!([1.0, 1.0, 1.0])
    );
    let shares = serde_json::json!([15.0 / 20.0, 20.0 / 30.0, null]);
    assert_eq!(table[1]["steps_share_mean"], shares);
    assert_eq!(table[1]["reached"], serde_json::json!([1, 1, 0]));
    assert_eq!(table[1]["hard_loss_mean"], 2.5);
}
