//! The rows of a step whose content was refused, told by every rank.
//!
//! Whichever rank reports a step first tells all of it, so that a record needs nobody's word twice and
//! the death of one rank takes no row's name with it.

use ringmaster_dataset::{CorpusManifest, LaneBatch, Refusal, RowNames, RowRef};
use ringmaster_proto::v1::QuarantinedRow;
use ringmaster_ring::{Ring, RingError, Tag};

/// Bucket number, in the ring's frames, of the rows refused.
const REFUSED: u32 = u32::MAX - 4;

/// Most rows that a report names, so that it fits a message; where a step has more, the corpus has other
/// problems.
const NAMED_MAX: usize = 8192;

/// Words that name one row: its pass, its number, and why.
const WORDS: usize = 3;

/// A row of this rank that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Its place in the global batch.
    slot: usize,
    row: RowRef,
    why: Refusal,
}

/// The refused rows of one lane.
pub(crate) fn refused(batch: &LaneBatch) -> impl Iterator<Item = Refused> {
    let first = batch.lane.0 as usize * batch.examples.len();
    let slots = (first..).zip(&batch.examples);
    slots.filter_map(|(slot, example)| {
        let (row, why) = (example.row?, example.refused?);
        Some(Refused { slot, row, why })
    })
}

/// The refused rows of all ranks of a step of `slots` rows, by their place in the global batch, still
/// without the names of their places in the corpus. `count` of them, a reduced value, decides whether
/// ranks talk about them at all, so all of them do or none.
pub(crate) fn of_all_ranks(
    own: &[Refused],
    count: i64,
    (step, slots): (u64, u64),
    ring: &mut Ring,
) -> Result<Vec<QuarantinedRow>, RingError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    // A slot belongs to one rank, so the sums are what that rank said.
    let mut words = vec![0; slots as usize * WORDS];
    for Refused { slot, row, why } in own {
        let said = [u64::from(row.pass), row.row_id, why.word()];
        if let Some(place) = words.chunks_exact_mut(WORDS).nth(*slot) {
            place.copy_from_slice(&said.map(u64::cast_signed));
        }
    }
    ring.all_reduce_i64(Tag::new(step, REFUSED), &mut words)?;
    let rows = words.chunks_exact(WORDS).filter_map(|said| {
        let why = Refusal::from_word(said[2].cast_unsigned())?;
        Some(QuarantinedRow {
            row_id: said[1].cast_unsigned(),
            pass: said[0] as u32,
            reason: why.to_string(),
            ..QuarantinedRow::default()
        })
    });
    Ok(rows.take(NAMED_MAX).collect())
}

/// Says where in the corpus each of `rows` is.
pub(crate) fn name(rows: &mut [QuarantinedRow], manifest: &CorpusManifest) {
    if rows.is_empty() {
        return;
    }
    let names = RowNames::new(manifest);
    for row in rows {
        if let Some(name) = names.get(row.row_id) {
            (row.shard, row.row_group, row.row) = (name.shard, name.row_group, name.row);
        }
    }
}
