//! The ledger: whether the record of a run tells of every row of the plan, once.
//!
//! Everything is computed again from the plan. A step's line must hold exactly the rows that the plan
//! has for it, less those that are quarantined, and be of the generation that owns the step; and over
//! an epoch every row must have its turn once, which is counted here rather than believed of the plan.

mod fault;
mod turns;

use std::collections::{BTreeSet, HashMap};
use std::thread::ScopedJoinHandle;

use ringmaster_proto::{Lane, Step};

pub use fault::{Fault, Mismatch};

use crate::plan::{Plan, RowRef};
use turns::Turns;

/// What the record says of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Steps applied after it.
    pub step: u64,
    /// Generation on record.
    pub generation: u64,
    /// Generation that owns it, by the journal.
    pub owner: Option<u64>,
    /// Rows fed forward.
    pub rows: u64,
    /// Wrapping sum of their hashes.
    pub row_hash: u64,
    /// Rows whose content was refused.
    pub quarantined: u64,
}

/// How far a record must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// To this step at least: the run may be going on.
    AtLeast(u64),
    /// To this step, where the run ended.
    At(u64),
}

/// Which steps a record tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Steps that were done before the first: by another run whose state this one went on from.
    pub began: u64,
    /// The last.
    pub end: End,
}

/// What a sound record comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Steps on record.
    pub steps: u64,
    /// Whole epochs among them.
    pub epochs: u64,
    /// Rows fed forward.
    pub rows: u64,
    /// Generations that own steps.
    pub generations: u64,
    /// Rows that had their turn and were not fed forward, since their content was refused.
    pub quarantined: u64,
}

/// Holds a record against the plan and the numbers of the rows that are quarantined; `threads` share
/// the work.
///
/// # Errors
/// The first step that is not as planned.
pub fn verify(
    plan: &Plan,
    entries: &[Entry],
    quarantined: &BTreeSet<u64>,
    extent: Extent,
    threads: usize,
) -> Result<Verified, Mismatch> {
    let (whole, gap) = contiguous(entries, extent);
    let per_epoch = plan.steps_per_epoch();
    let mut verified = Verified::default();
    // The rest of the epoch in which the run began, and from there whole ones.
    let begun = (per_epoch - extent.began % per_epoch) as usize;
    let (rest, epochs) = entries[..whole].split_at(begun.min(whole));
    for epoch in std::iter::once(rest).chain(epochs.chunks(per_epoch as usize)) {
        verified.epochs += u64::from(epoch_as_planned(plan, epoch, quarantined, threads)?);
        let sum = |of: fn(&Entry) -> u64| epoch.iter().map(of).sum::<u64>();
        verified.steps += epoch.len() as u64;
        verified.rows += sum(|entry| entry.rows);
        verified.quarantined += sum(|entry| entry.quarantined);
    }
    if let Some(gap) = gap {
        return Err(gap);
    }
    let generations: BTreeSet<u64> = entries.iter().map(|entry| entry.generation).collect();
    verified.generations = generations.len() as u64;
    Ok(verified)
}

/// How many lines are of the steps from the first on, and what is wrong after them.
fn contiguous(entries: &[Entry], extent: Extent) -> (usize, Option<Mismatch>) {
    let Extent { began, end } = extent;
    let (End::At(steps) | End::AtLeast(steps)) = end;
    let out_of_order = (began + 1..)
        .zip(entries)
        .find(|(step, entry)| entry.step != *step);
    if let Some((expected, entry)) = out_of_order {
        let fault = if entry.step > expected {
            Fault::Missing(entry.step).at(expected, None)
        } else {
            Fault::Again(expected - 1).at(entry.step, None)
        };
        return ((expected - began) as usize - 1, Some(fault));
    }
    let last = began + entries.len() as u64;
    let fault = match end {
        _ if last < steps => Some(Fault::Short(last).at(last + 1, None)),
        End::At(steps) if last > steps => Some(Fault::Beyond(steps).at(steps + 1, None)),
        _ => None,
    };
    (entries.len(), fault)
}

/// Checks the steps of one epoch, as far as they are on record. Returns whether it is whole.
fn epoch_as_planned(
    plan: &Plan,
    epoch: &[Entry],
    quarantined: &BTreeSet<u64>,
    threads: usize,
) -> Result<bool, Mismatch> {
    let turns = &Turns::new(plan.rows_per_epoch());
    let share = epoch.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let check = |part: &[Entry]| {
            let mut entries = part.iter();
            entries.try_for_each(|entry| as_planned(plan, entry, quarantined, turns))
        };
        let parts = epoch.chunks(share);
        let parts: Vec<_> = parts.map(|part| scope.spawn(move || check(part))).collect();
        let verdict = |part: ScopedJoinHandle<'_, _>| match part.join() {
            Ok(verdict) => verdict,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        parts.into_iter().try_for_each(verdict)
    })?;
    if (epoch.len() as u64) < plan.steps_per_epoch() {
        return Ok(false);
    }
    let last = epoch.last().map_or(0, |entry| entry.step);
    match turns.first_without() {
        Some(row) => Err(Fault::Forgotten(row).at(last, row)),
        None => Ok(true),
    }
}

/// One step against the plan.
fn as_planned(
    plan: &Plan,
    entry: &Entry,
    quarantined: &BTreeSet<u64>,
    turns: &Turns,
) -> Result<(), Mismatch> {
    let step = entry.step;
    if entry.owner != Some(entry.generation) {
        let owner = entry.owner.unwrap_or(0);
        let recorded = entry.generation;
        return Err(Fault::Foreign { recorded, owner }.at(step, None));
    }
    let (mut fed, mut left_out) = (Vec::new(), Vec::new());
    let lanes = (0..plan.spec().lanes).map(Lane);
    let rows = lanes.flat_map(|lane| plan.rows(Step(step - 1), lane));
    for row in rows.flatten() {
        if !turns.take(row.row_id) {
            return Err(Fault::Repeated(row.row_id).at(step, row.row_id));
        }
        let out = quarantined.contains(&row.row_id);
        if out { &mut left_out } else { &mut fed }.push(row);
    }
    let expected = (fed.iter()).fold(0, |sum: u64, row| sum.wrapping_add(row.hash()));
    let named = left_out.len() as u64;
    if (entry.rows, entry.row_hash) != (fed.len() as u64, expected) {
        let difference = entry.row_hash.wrapping_sub(expected);
        let (fault, row) = explained(plan, &fed, &left_out, entry.rows, difference).unwrap_or((
            Fault::Differs {
                rows: entry.rows,
                hash: entry.row_hash,
                of: fed.len() as u64,
                expected,
            },
            None,
        ));
        return Err(fault.at(step, row));
    }
    if entry.quarantined != named {
        let refused = entry.quarantined;
        return Err(Fault::Unnamed { refused, named }.at(step, None));
    }
    Ok(())
}

/// The one row, or exchange of two, that makes a step of `fed` one of `rows` rows and a hash that is
/// off by `difference`. The row that is too many may be any of the corpus.
fn explained(
    plan: &Plan,
    fed: &[RowRef],
    left_out: &[RowRef],
    rows: u64,
    difference: u64,
) -> Option<(Fault, Option<u64>)> {
    let epoch = fed.iter().chain(left_out).next()?.epoch;
    let of_hash = |rows: &[RowRef], hash: u64| rows.iter().find(|row| row.hash() == hash).copied();
    let planned = fed.len() as u64;
    let id = |row: RowRef| row.row_id;
    if rows + 1 == planned {
        let left = id(of_hash(fed, difference.wrapping_neg())?);
        return Some((Fault::Left(left), Some(left)));
    }
    if rows == planned + 1 {
        if let Some(used) = of_hash(left_out, difference).map(id) {
            return Some((Fault::Used(used), Some(used)));
        }
        let is_it = |row: &RowRef| row.hash() == difference;
        let doubled = id(plan.all_rows(epoch).find(is_it)?);
        return Some((Fault::Doubled(doubled), Some(doubled)));
    }
    if rows != planned {
        return None;
    }
    let wanted = |left: &RowRef| (left.hash().wrapping_add(difference), left.row_id);
    let wanted: HashMap<u64, u64> = fed.iter().map(wanted).collect();
    plan.all_rows(epoch).find_map(|row| {
        let left = *wanted.get(&row.hash())?;
        let fed = row.row_id;
        Some((Fault::Exchanged { fed, left }, Some(left)))
    })
}
