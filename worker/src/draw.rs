//! Counter-based randomness: every draw is a pure function of what it is for.

/// What all draws of one microbatch have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key {
    /// Of the run.
    pub(crate) seed: u64,
    /// Steps consumed before this one.
    pub(crate) step: u64,
    /// The lane whose microbatch it is.
    pub(crate) lane: u32,
}

impl Key {
    /// A uniform number in [0, 1) keyed by (seed, purpose, step, lane, position); 53 random bits of
    /// blake3, so equal on every machine and independent of order, rank and world size.
    pub(crate) fn uniform(self, purpose: &str, position: u64) -> f64 {
        let mut hasher = blake3::Hasher::new_derive_key("ringmaster 2026 counter-based draw v1");
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(&(purpose.len() as u64).to_le_bytes());
        hasher.update(purpose.as_bytes());
        hasher.update(&self.step.to_le_bytes());
        hasher.update(&self.lane.to_le_bytes());
        hasher.update(&position.to_le_bytes());
        let hash = hasher.finalize();
        let mut word = [0; 8];
        word.copy_from_slice(&hash.as_bytes()[..8]);
        (u64::from_le_bytes(word) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The draws of one row of the microbatch for one purpose, one after another.
    pub(crate) fn of_row(self, purpose: &'static str, row: usize) -> Draws {
        Draws {
            key: self,
            purpose,
            next: (row as u64) << 32,
        }
    }
}

/// Draws at consecutive positions.
#[derive(Clone, Debug)]
pub(crate) struct Draws {
    key: Key,
    purpose: &'static str,
    next: u64,
}

impl Draws {
    fn uniform(&mut self) -> f64 {
        let position = self.next;
        self.next += 1;
        self.key.uniform(self.purpose, position)
    }

    /// One way or the other, equally likely.
    pub(crate) fn coin(&mut self) -> bool {
        self.uniform() < 0.5
    }

    /// A whole number below `bound`; 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let drawn = (self.uniform() * bound as f64) as usize;
        drawn.min(bound.saturating_sub(1))
    }

    /// One of `items`, equally likely.
    pub(crate) fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key {
        seed: 1,
        step: 2,
        lane: 3,
    };

    #[test]
    fn draws_are_uniform_and_keyed_by_every_argument() {
        let draws: Vec<f64> = (0..4000).map(|p| KEY.uniform("x", p)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        assert!(draws.iter().all(|d| (0.0..1.0).contains(d)));
        let base = KEY.uniform("x", 4);
        for other in [
            Key { seed: 2, ..KEY }.uniform("x", 4),
            KEY.uniform("y", 4),
            Key { step: 3, ..KEY }.uniform("x", 4),
            Key { lane: 4, ..KEY }.uniform("x", 4),
            KEY.uniform("x", 5),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn rows_draw_for_themselves_and_every_item_is_drawn() {
        let drawn = |row| {
            let mut draws = KEY.of_row("x", row);
            (0..3000).map(|_| draws.below(3)).collect::<Vec<_>>()
        };
        assert_ne!(drawn(0), drawn(1));
        for item in 0..3 {
            let share = drawn(0).iter().filter(|d| **d == item).count();
            assert!((900..1100).contains(&share), "{item}: {share} of 3000");
        }
        assert_eq!(KEY.of_row("x", 0).choose::<u8>(&[]), None);
    }
}
