//! `ledger verify`: the record against the plan and the journal.

use std::collections::BTreeSet;

use ringmaster_coordinator::{LedgerLine, Owners};
use ringmaster_dataset::RowNames;
use ringmaster_dataset::ledger::{self, End, Entry, Extent, Mismatch, Verified};
use ringmaster_proto::{Generation, Step};
use serde::Serialize;

use super::LedgerArgs;
use super::record::Record;
use crate::error::{CliError, Exit};
use crate::output::{self, Output};

/// What `--output json` prints; its field names are a contract.
#[derive(Serialize)]
struct Summary<'a> {
    run: &'a str,
    steps: u64,
    total_steps: u64,
    epochs: u64,
    rows: u64,
    generations: u64,
    quarantined: u64,
    quarantined_rows: usize,
}

pub(super) async fn run(args: LedgerArgs) -> Result<Exit, CliError> {
    let record = Record::read(args.run.as_deref()).await?;
    let owners = record.owners();
    let entries: Result<Vec<Entry>, CliError> = record
        .lines
        .iter()
        .map(|line| entry(&record, &owners, line))
        .collect();
    let quarantined: BTreeSet<u64> = record.quarantine.iter().map(|line| line.row_id).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let verified = ledger::verify(
        &record.plan,
        &entries?,
        &quarantined,
        extent(&record),
        threads,
    );
    let verified = verified.map_err(|mismatch| named(&record, &mismatch))?;
    let summary = summary(&record, verified, quarantined.len());
    match args.output() {
        Output::Json => output::json(&summary),
        Output::Table => output::line(&sentence(&summary)),
    }
    Ok(Exit::Done)
}

/// Which steps the record must tell of, by the journal.
fn extent(record: &Record) -> Extent {
    let history = &record.history;
    let resumed = |at: Option<&(Generation, Step)>| at.map_or(0, |(_, resume)| resume.0);
    let end = match history.finished.as_ref().or(history.stopped.as_ref()) {
        Some(state) => End::At(state.step.0),
        None => End::AtLeast(resumed(history.lineage.last())),
    };
    let began = resumed(history.lineage.first());
    Extent { began, end }
}

fn entry(record: &Record, owners: &Owners, line: &LedgerLine) -> Result<Entry, CliError> {
    let row_hash = u64::from_str_radix(&line.row_hash, 16).map_err(|_| {
        let (step, hash) = (line.step, &line.row_hash);
        let reason = format!("step {step}: row_hash {hash:?} is no hash");
        CliError::untrue(&record.path, reason)
    })?;
    Ok(Entry {
        step: line.step,
        generation: line.generation,
        owner: owners.of(Step(line.step)).map(|owner| owner.0),
        rows: line.rows,
        row_hash,
        quarantined: line.quarantined,
    })
}

/// The mismatch, with the row's place where it is about one.
fn named(record: &Record, mismatch: &Mismatch) -> CliError {
    let names = RowNames::new(&record.manifest);
    let reason = match mismatch.row.and_then(|row| names.get(row)) {
        Some(name) => format!("{mismatch} ({name})"),
        None => mismatch.to_string(),
    };
    CliError::untrue(&record.path, reason)
}

fn summary(record: &Record, verified: Verified, quarantined_rows: usize) -> Summary<'_> {
    Summary {
        run: &record.spec.run.name,
        steps: verified.steps,
        total_steps: record.history.corpus.total_steps,
        epochs: verified.epochs,
        rows: verified.rows,
        generations: verified.generations,
        quarantined: verified.quarantined,
        quarantined_rows,
    }
}

fn sentence(of: &Summary<'_>) -> String {
    let count = output::count;
    format!(
        "run {}: {} of {} steps are as planned, by {} generations; {} rows fed forward and {} left out \
         ({} quarantined); {} whole epochs, every row once in each",
        of.run,
        count(of.steps),
        count(of.total_steps),
        count(of.generations),
        count(of.rows),
        count(of.quarantined),
        count(of.quarantined_rows as u64),
        count(of.epochs)
    )
}
