//! `ledger show`: who fed what, and what was left out.

use ringmaster_coordinator::{LedgerLine, QuarantineLine};
use serde::Serialize;

use super::ShowArgs;
use super::record::Record;
use crate::error::{CliError, Exit};
use crate::output::{self, Output};

/// Consecutive steps that one generation owns; its field names are a contract.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Share {
    generation: u64,
    first_step: u64,
    last_step: u64,
    rows: u64,
    quarantined: u64,
}

pub(super) async fn run(args: ShowArgs) -> Result<Exit, CliError> {
    let record = Record::read(args.of.run.as_deref()).await?;
    if args.quarantined {
        show_quarantined(&record.quarantine, args.of.output());
    } else {
        show_shares(&shares(&record.lines), args.of.output());
    }
    Ok(Exit::Done)
}

fn show_quarantined(lines: &[QuarantineLine], form: Output) {
    if form == Output::Json {
        return lines.iter().for_each(output::json);
    }
    let row = |line: &QuarantineLine| {
        vec![
            line.step.to_string(),
            line.shard.clone(),
            line.row_group.to_string(),
            line.row.to_string(),
            line.reason.clone(),
        ]
    };
    let header = ["first step", "shard", "row group", "row", "reason"];
    output::table(&header, &lines.iter().map(row).collect::<Vec<_>>());
}

fn show_shares(shares: &[Share], form: Output) {
    if form == Output::Json {
        return shares.iter().for_each(output::json);
    }
    let row = |of: &Share| {
        let numbers = [
            of.generation,
            of.first_step,
            of.last_step,
            of.rows,
            of.quarantined,
        ];
        numbers.map(|n| n.to_string()).to_vec()
    };
    let header = ["generation", "from step", "to step", "rows", "quarantined"];
    output::table(&header, &shares.iter().map(row).collect::<Vec<_>>());
}

fn shares(lines: &[LedgerLine]) -> Vec<Share> {
    let of_one = lines.chunk_by(|a, b| a.generation == b.generation);
    let share = |lines: &[LedgerLine]| Share {
        generation: lines[0].generation,
        first_step: lines[0].step,
        last_step: lines[lines.len() - 1].step,
        rows: lines.iter().map(|line| line.rows).sum(),
        quarantined: lines.iter().map(|line| line.quarantined).sum(),
    };
    of_one.map(share).collect()
}
