//! Which requests to make for the parts of an object that are needed, and the parts out of the
//! answers: pure.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// Parts that lie this close are asked for together: a request costs more than reading so much.
const GAP_BYTES: u64 = 1 << 20;

/// Longest request: the deadline of a request is one for all lengths, and a lost one is asked for
/// again whole.
pub(crate) const REQUEST_BYTES_MAX: u64 = 8 << 20;

/// The requests that cover `parts`: sorted, disjoint, none longer than [`REQUEST_BYTES_MAX`], and
/// nothing between two parts that lie further apart than the gap.
pub(crate) fn requests(parts: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = parts.iter().filter(|p| !p.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|part| (part.start, part.end));
    let mut requests: Vec<Range<u64>> = Vec::new();
    for part in sorted {
        let mut start = part.start;
        if let Some(last) = requests.last_mut() {
            let together = part.end <= last.start + REQUEST_BYTES_MAX;
            if together && start <= last.end + GAP_BYTES {
                last.end = last.end.max(part.end);
                continue;
            }
            start = start.max(last.end);
        }
        while start < part.end {
            let end = part.end.min(start + REQUEST_BYTES_MAX);
            requests.push(start..end);
            start = end;
        }
    }
    requests
}

/// The bytes of `part`, which the `requests` with these `answers` cover: shared with the answer if
/// one holds all of it, else copied together. `None` if they do not cover it.
pub(crate) fn part(requests: &[Range<u64>], answers: &[Bytes], part: &Range<u64>) -> Option<Bytes> {
    if part.is_empty() {
        return Some(Bytes::new());
    }
    let at = requests
        .partition_point(|request| request.start <= part.start)
        .checked_sub(1)?;
    let within = |at: usize, range: Range<u64>| {
        let (request, answer) = (requests.get(at)?, answers.get(at)?);
        if range.start < request.start || range.start > range.end || range.end > request.end {
            return None;
        }
        let (start, end) = (range.start - request.start, range.end - request.start);
        (end <= answer.len() as u64).then(|| answer.slice(start as usize..end as usize))
    };
    if part.end <= requests[at].end {
        return within(at, part.clone());
    }
    let mut whole = BytesMut::with_capacity((part.end - part.start) as usize);
    let (mut at, mut start) = (at, part.start);
    while start < part.end {
        let end = part.end.min(requests.get(at)?.end);
        whole.extend_from_slice(&within(at, start..end)?);
        (at, start) = (at + 1, end);
    }
    Some(whole.freeze())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// An object without storing it: the byte at every offset.
    fn object(range: &Range<u64>) -> Bytes {
        range
            .clone()
            .map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8)
            .collect()
    }

    fn parts() -> impl Strategy<Value = Vec<Range<u64>>> {
        let length = prop_oneof![0..100_u64, 0..3 * GAP_BYTES, 0..2 * REQUEST_BYTES_MAX];
        let part = (0..4 * REQUEST_BYTES_MAX, length);
        prop::collection::vec(part.prop_map(|(start, length)| start..start + length), 0..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn every_part_comes_out_as_it_lies_in_the_object(parts in parts()) {
            let requests = requests(&parts);
            let answers: Vec<Bytes> = requests.iter().map(object).collect();
            for wanted in &parts {
                prop_assert!(part(&requests, &answers, wanted).unwrap() == object(wanted));
            }
        }
    }

    proptest! {
        #[test]
        fn requests_are_sorted_disjoint_short_and_read_no_more_than_gaps(parts in parts()) {
            let requests = requests(&parts);
            for request in &requests {
                prop_assert!(!request.is_empty());
                prop_assert!(request.end - request.start <= REQUEST_BYTES_MAX);
                prop_assert!(parts.iter().any(|part| part.contains(&request.start)));
                prop_assert!(parts.iter().any(|part| part.contains(&(request.end - 1))));
            }
            prop_assert!(requests.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let total = |ranges: &[Range<u64>]| -> u64 { ranges.iter().map(|r| r.end - r.start).sum() };
            prop_assert!(total(&requests) <= total(&parts) + parts.len() as u64 * GAP_BYTES);
        }

        /// Any number of small neighbours are one request.
        #[test]
        fn neighbours_share_a_request(gaps in prop::collection::vec(0..1000_u64, 1..50)) {
            let mut start = 0;
            let parts: Vec<Range<u64>> = gaps.iter().map(|gap| {
                let part = start + gap..start + gap + 10;
                start = part.end;
                part
            }).collect();
            prop_assert_eq!(requests(&parts).len(), 1);
        }
    }

    #[test]
    fn a_part_that_was_not_asked_for_is_not_made_up() {
        let requests = [0..10, 20..30];
        let answers = [object(&(0..10)), object(&(20..30))];
        for missing in [5..15, 10..12, 15..25, 25..35, 40..50] {
            assert_eq!(part(&requests, &answers, &missing), None, "{missing:?}");
        }
        assert_eq!(
            part(&requests[..1], &[object(&(0..5))], &(0..10)),
            None,
            "a short answer"
        );
    }
}
