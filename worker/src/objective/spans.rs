//! Span corruption (Raffel et al. 2020, section 3.1.4): short spans of a text are taken out, and the
//! decoder learns to write them.

use ringmaster_proto::vocab::{SENTINEL, SENTINELS};

use crate::draw::Draws;

/// Tokens taken out, percent.
const MASKED_PERCENT: usize = 15;

/// Mean length of a span, tokens.
const SPAN: usize = 3;

/// Takes spans out of `ids`. Returns what is left, with a sentinel in place of each span, and what
/// was taken, each span behind its sentinel. `None` if there are fewer than two ids.
pub(super) fn corrupt(ids: &[u32], draws: &mut Draws) -> Option<(Vec<u32>, Vec<u32>)> {
    if ids.len() < 2 {
        return None;
    }
    let masked = rounded(ids.len() * MASKED_PERCENT, 100).clamp(1, ids.len() - 1);
    let kept = ids.len() - masked;
    // Between two spans at least one token is kept.
    let spans = rounded(masked, SPAN).clamp(1, (SENTINELS as usize).min(kept + 1));
    let lengths = cut(masked, spans, draws);
    // The first and the last gap may be empty, which a cut of two more tokens allows.
    let mut gaps = cut(kept + 2, spans + 1, draws);
    gaps[0] -= 1;
    let mut rest = ids;
    let mut take = |len: usize| {
        let (taken, left) = rest.split_at(len.min(rest.len()));
        rest = left;
        taken
    };
    let (mut text, mut target) = (Vec::new(), Vec::new());
    for ((gap, length), sentinel) in gaps.into_iter().zip(lengths).zip(SENTINEL..) {
        text.extend(take(gap));
        text.push(sentinel);
        target.push(sentinel);
        target.extend(take(length));
    }
    text.extend(rest);
    Some((text, target))
}

/// `a / b` to the nearest.
fn rounded(a: usize, b: usize) -> usize {
    (2 * a + b) / (2 * b)
}

/// Cuts `total` into `parts` parts of at least 1, every such cut equally likely.
fn cut(total: usize, parts: usize, draws: &mut Draws) -> Vec<usize> {
    let mut cuts = Vec::with_capacity(parts);
    let (mut last, mut wanted) = (0, parts - 1);
    // Each place between two tokens is chosen with the share of places still wanted (Knuth,
    // TAOCP 2, algorithm S).
    for place in 1..total {
        if draws.below(total - place) < wanted {
            cuts.push(place - last);
            (last, wanted) = (place, wanted - 1);
        }
    }
    cuts.push(total - last);
    cuts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::draw::Key;

    fn draws(seed: u64) -> Draws {
        let key = Key {
            seed,
            ..Key::default()
        };
        key.of_row("spans", 0)
    }

    proptest! {
        /// Putting each span back in place of its sentinel gives the text again.
        #[test]
        fn text_and_target_hold_the_whole_text(len in 2_usize..600, seed in any::<u64>()) {
            let ids: Vec<u32> = (100..100 + len as u32).collect();
            let (text, target) = corrupt(&ids, &mut draws(seed)).unwrap();
            let is_sentinel = |id: u32| (SENTINEL..SENTINEL + SENTINELS).contains(&id);
            let mut spans: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
            let mut current = target[0];
            for id in &target {
                if is_sentinel(*id) {
                    current = *id;
                    prop_assert!(spans.insert(current, Vec::new()).is_none());
                } else {
                    spans.get_mut(&current).unwrap().push(*id);
                }
            }
            prop_assert!(spans.values().all(|span| !span.is_empty()));
            let back: Vec<u32> = text
                .iter()
                .flat_map(|id| spans.get(id).cloned().unwrap_or_else(|| vec![*id]))
                .collect();
            prop_assert_eq!(back, ids);
            let order: Vec<u32> = text.iter().copied().filter(|id| is_sentinel(*id)).collect();
            prop_assert_eq!(&order, &spans.keys().copied().collect::<Vec<_>>());
            prop_assert!(text.windows(2).all(|two| !(is_sentinel(two[0]) && is_sentinel(two[1]))));
            let masked = (target.len() - spans.len()) as f64;
            prop_assert!((masked - 0.15 * len as f64).abs() < 0.501 || masked == 1.0);
            let expected = (masked / 3.0).round().clamp(1.0, f64::from(SENTINELS));
            prop_assert_eq!(spans.len() as f64, expected);
        }
    }

    #[test]
    fn every_token_is_taken_out_equally_often_in_the_middle_of_a_text() {
        let ids: Vec<u32> = (100..112).collect();
        let mut taken = [0_u32; 12];
        for seed in 0..6000 {
            let (_, target) = corrupt(&ids, &mut draws(seed)).unwrap();
            for id in target.iter().filter(|id| **id >= 100) {
                taken[*id as usize - 100] += 1;
            }
        }
        // One span of two tokens at 11 places: the outermost tokens are reached by one of them.
        for (at, count) in taken.into_iter().enumerate() {
            let places = if at == 0 || at == 11 { 1.0 } else { 2.0 };
            let share = f64::from(count) / (6000.0 * places / 11.0);
            assert!((0.9..1.1).contains(&share), "token {at}: {share}");
        }
    }

    #[test]
    fn a_single_token_cannot_be_corrupted() {
        assert_eq!(corrupt(&[7], &mut draws(1)), None);
        let (text, target) = corrupt(&[7, 8], &mut draws(1)).unwrap();
        assert_eq!(text.len() + target.len(), 4);
    }
}
