//! Several decoders at work on one list, each on a thread of its own.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Decoder;

/// As many decoders as threads.
pub(crate) struct DecoderPool {
    own: Decoder,
    others: Vec<Decoder>,
}

impl DecoderPool {
    /// Decoders as `decoder` makes them; at least 1.
    pub(crate) fn new(threads: usize, decoder: impl Fn() -> Decoder) -> Self {
        Self {
            own: decoder(),
            others: (1..threads).map(|_| decoder()).collect(),
        }
    }

    /// The decoder of the calling thread.
    pub(crate) fn own(&mut self) -> &mut Decoder {
        &mut self.own
    }

    /// `work` done on every item, in the order of the items. Who is free takes the next, so that one
    /// large picture holds up nobody else.
    pub(crate) fn map<T: Sync, R: Send>(
        &mut self,
        items: &[T],
        work: impl Fn(&T, &mut Decoder) -> R + Sync,
    ) -> Vec<R> {
        let next = AtomicUsize::new(0);
        let take = |decoder: &mut Decoder| {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(at) else {
                    return done;
                };
                done.push((at, work(item, decoder)));
            }
        };
        // Nobody is started for whom there is no item.
        let helpers = self.others.iter_mut().take(items.len().saturating_sub(1));
        let take = &take;
        let mut done = std::thread::scope(|scope| {
            let helpers: Vec<_> = helpers
                .map(|decoder| scope.spawn(|| take(decoder)))
                .collect();
            let mut done = take(&mut self.own);
            for helper in helpers {
                match helper.join() {
                    Ok(part) => done.extend(part),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            done
        });
        done.sort_unstable_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once_and_results_keep_the_order() {
        for threads in [0, 1, 2, 5] {
            let mut pool = DecoderPool::new(threads, || Decoder::new(1));
            for length in [0_usize, 1, 3, 100] {
                let items: Vec<usize> = (0..length).collect();
                let squares = pool.map(&items, |item, _| item * item);
                let expected: Vec<usize> = items.iter().map(|item| item * item).collect();
                assert_eq!(squares, expected);
            }
        }
    }
}
