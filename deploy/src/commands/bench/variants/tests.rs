//! What is trained, what is not trained again, and what the table says of it.
#![allow(clippy::unwrap_used)]

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: VariantsArgs,
}

fn args(more: &[&str]) -> VariantsArgs {
    into_folder("x", more)
}

fn into_folder(folder: &str, more: &[&str]) -> VariantsArgs {
    let line = ["variants", "--out", folder];
    Line::try_parse_from(line.iter().chain(more)).unwrap().args
}

fn row(trial: &Trial, right: f64) -> Row {
    let said = format!(r#"{{"steps":4,"exact_match":{right},"peak_memory_bytes":3000000}}"#);
    let counted = ringmaster_model::Cost { parts: Vec::new() };
    Row::of(trial, &counted, &said).unwrap()
}

#[test]
fn every_variant_differs_from_the_papers_in_its_own_keys_alone() {
    let trials = trials(&args(&["--seeds", "1"])).unwrap();
    let jar = trials
        .iter()
        .find(|trial| trial.variant.name == "jar")
        .unwrap();
    for trial in &trials {
        let changes = jar.run.spec.changes(&trial.run.spec);
        let mut keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
        keys.retain(|key| *key != "run.name");
        let sets = trial.variant.sets.iter();
        let own: Vec<&str> = sets.map(|set| set.split_once('=').unwrap().0).collect();
        assert_eq!(keys, own, "{}", trial.variant.name);
    }
    let mut hashes: Vec<String> = trials.iter().map(|trial| trial.run.spec_hash()).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 9, "no two are the same run");
}

#[test]
fn only_the_same_run_counts_as_done() {
    let same = || trials(&args(&["--only", "jar", "--seeds", "1"])).unwrap();
    let done = row(&same()[0], 0.5);
    assert!(done.is_of(&same()[0]));
    for other in [
        vec!["--only", "jar", "--steps", "3"],
        vec!["--only", "jar", "--rows", "3"],
        vec!["--only", "jar", "--set", "train.lr=0.1"],
        vec!["--only", "concat"],
    ] {
        let others = trials(&args(&other)).unwrap();
        assert!(!done.is_of(&others[0]), "{other:?}");
    }
    let elsewhere = into_folder("/y", &["--only", "jar"]);
    assert!(
        done.is_of(&trials(&elsewhere).unwrap()[0]),
        "wherever the folder is"
    );
}

#[test]
fn a_row_reads_back_as_it_was_written() {
    let trial = &trials(&args(&["--only", "xattn"])).unwrap()[0];
    let written = row(trial, 0.1 + 0.2);
    let read = Row::parse_all(&[written.cells()]).unwrap();
    assert_eq!(read, std::slice::from_ref(&written));
    assert_eq!(written.cells().len(), row::HEADER.split(',').count());
    let mut torn = written.cells();
    torn.pop();
    let refusal = Row::parse_all(&[written.cells(), torn])
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("line 3"), "{refusal}");
}

#[test]
fn the_table_has_means_and_spreads_in_the_order_of_the_family() {
    let trials = trials(&args(&["--only", "jar,concat", "--seeds", "2"])).unwrap();
    let right = |trial: &Trial| if trial.run.seed == 1 { 0.5 } else { 0.7 };
    let rows: Vec<Row> = trials.iter().rev().map(|t| row(t, right(t))).collect();
    let folder = tempfile::tempdir().unwrap();
    let table = table::Table::of(&rows);
    table.write(folder.path(), "How.").unwrap();
    let text = std::fs::read_to_string(folder.path().join("variants.md")).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    // sqrt(2 * 0.1^2 / 1) = 0.1414.
    let cells = "| 2 | 0.00 | 0.000 | 3 ± 0 | - | 60.0 ± 14.1 | - | - | - |";
    assert_eq!(
        lines[2..],
        [format!("| concat {cells}"), format!("| jar {cells}")]
    );
    let json = serde_json::to_value(&table.summaries()[1]).unwrap();
    assert_eq!(json["exact_match_mean"], 0.6);
    assert_eq!(json["caption_loss_mean"], serde_json::Value::Null);
}
