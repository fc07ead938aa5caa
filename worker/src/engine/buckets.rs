//! What of a gradient may leave for the other ranks when: pure.
//!
//! The last layers' gradients are known first, so buckets run from the end of the flat buffer to its
//! beginning. Which piece of a backward pass is the last one with a gradient for a parameter is a
//! property of the model, and is learned from the pass before.

use std::ops::Range;

use ringmaster_model::flat::Layout;

/// The buckets of a buffer of `total` elements in the order in which they are reduced, `size` elements
/// each; the last has what is left.
pub(super) fn buckets(total: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    let mut end = total;
    std::iter::from_fn(move || {
        let bucket = end.saturating_sub(size)..end;
        end = bucket.start;
        (!bucket.is_empty()).then_some(bucket)
    })
}

/// Follows the pieces of one backward pass after another.
#[derive(Debug)]
pub(super) struct Finality {
    /// First element of every parameter.
    offsets: Vec<usize>,
    total: usize,
    /// For every parameter the last piece of the pass before that had a gradient for it; empty before
    /// any pass.
    known: Vec<usize>,
    /// The same of this pass so far.
    seen: Vec<usize>,
    /// Pieces of this pass so far.
    pieces: usize,
    /// Number of the first parameter such that it and all after it are final.
    first: usize,
}

/// A gradient that came for a parameter whose gradients were thought complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late;

impl Finality {
    pub(super) fn new(layout: &Layout) -> Self {
        let offsets: Vec<usize> = layout.slots.iter().map(|slot| slot.offset).collect();
        Self {
            total: layout.total,
            known: Vec::new(),
            seen: vec![0; offsets.len()],
            pieces: 0,
            first: offsets.len(),
            offsets,
        }
    }

    /// A backward pass begins.
    pub(super) fn begin(&mut self) {
        self.seen.fill(0);
        self.pieces = 0;
        self.first = self.offsets.len();
    }

    /// A piece with gradients for the parameters `touched` has been added: from which element on the
    /// buffer is final. In the first pass of all nothing is before its end.
    pub(super) fn piece(&mut self, touched: &[usize]) -> Result<usize, Late> {
        let late = touched.iter().any(|parameter| *parameter >= self.first);
        for parameter in touched {
            self.seen[*parameter] = self.pieces;
        }
        let is_final = |parameter: usize| {
            let last = self.known.get(parameter);
            last.is_some_and(|last| *last <= self.pieces)
        };
        while self.first > 0 && is_final(self.first - 1) {
            self.first -= 1;
        }
        self.pieces += 1;
        if late {
            return Err(Late);
        }
        Ok(self.offsets.get(self.first).copied().unwrap_or(self.total))
    }

    /// The backward pass is over: the next one is expected to be like it.
    pub(super) fn end(&mut self) {
        self.known.clone_from(&self.seen);
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_model::flat::Slot;

    use super::*;

    /// Five parameters of ten elements.
    fn finality() -> Finality {
        let slot = |i: usize| Slot {
            path: i.to_string(),
            shape: vec![10],
            offset: 10 * i,
            len: 10,
            decay: false,
        };
        Finality::new(&Layout {
            slots: (0..5).map(slot).collect(),
            total: 50,
        })
    }

    fn pass(finality: &mut Finality, pieces: &[&[usize]]) -> Vec<Result<usize, Late>> {
        finality.begin();
        let all = pieces.iter().map(|piece| finality.piece(piece)).collect();
        finality.end();
        all
    }

    #[test]
    fn buckets_run_from_the_end_and_cover_everything_once() {
        for total in [0, 1, 9, 10, 11, 20, 25] {
            let all: Vec<_> = buckets(total, 10).collect();
            let mut end = total;
            for bucket in &all {
                assert_eq!(bucket.end, end, "{total}: {all:?}");
                assert!(bucket.len() == 10 || bucket.start == 0, "{total}: {all:?}");
                end = bucket.start;
            }
            assert_eq!((end, all.len()), (0, total.div_ceil(10)));
        }
    }

    #[test]
    fn a_parameter_is_final_with_the_last_piece_that_has_a_gradient_for_it() {
        let mut finality = finality();
        // As a tied table: parameter 0 is in the first piece and in the last. Nothing uses 3.
        let pieces: [&[usize]; 4] = [&[4, 0], &[2], &[1, 2], &[0]];
        let nothing_known: Vec<_> = vec![Ok(50); 4];
        assert_eq!(pass(&mut finality, &pieces), nothing_known);
        assert_eq!(
            pass(&mut finality, &pieces),
            [Ok(30), Ok(30), Ok(10), Ok(0)]
        );
    }

    #[test]
    fn a_gradient_after_its_bucket_could_leave_is_noticed_and_learned() {
        let mut finality = finality();
        pass(&mut finality, &[&[4, 3, 2, 1, 0], &[0]]);
        let other: [&[usize]; 2] = [&[4, 3, 2, 1, 0], &[3]];
        assert_eq!(pass(&mut finality, &other), [Ok(10), Err(Late)]);
        assert_eq!(pass(&mut finality, &other), [Ok(40), Ok(0)]);
    }
}
