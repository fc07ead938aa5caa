//! Encoder and decoder token ids of a microbatch, of fixed length.

use ringmaster_proto::spec::ModelSpec;
use ringmaster_proto::vocab::{BEGIN, END, PAD};

/// Sequence lengths of the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lens {
    /// Encoder positions.
    pub(crate) text: usize,
    /// Decoder positions.
    pub(crate) target: usize,
}

impl Lens {
    /// Of the model of `spec`.
    pub(crate) fn of(spec: &ModelSpec) -> Self {
        Self {
            text: spec.text_len,
            target: spec.target_len,
        }
    }
}

/// Token ids of a microbatch, row-major on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tokens {
    /// Encoder ids, `[rows, text_len]`, padded.
    pub(crate) text: Vec<u32>,
    /// Decoder inputs, `[rows, target_len]`: BEGIN, then the target shifted right.
    pub(crate) input: Vec<u32>,
    /// Decoder targets, `[rows, target_len]`: the target, END, padding.
    pub(crate) target: Vec<u32>,
    /// 1 where a target counts, `[rows, target_len]`.
    pub(crate) weight: Vec<f32>,
}

impl Tokens {
    /// Targets that count.
    pub(crate) fn counted(&self) -> u64 {
        self.weight.iter().filter(|weight| **weight > 0.0).count() as u64
    }

    /// Appends one row. Longer texts are cut; a cut target has no END. An encoder text always
    /// begins with BEGIN, so that attention has at least one key.
    pub(crate) fn push(&mut self, text: &[u32], target: &[u32], counts: bool, lens: Lens) {
        let text_ids = std::iter::once(BEGIN).chain(text.iter().copied());
        self.text
            .extend(text_ids.chain(std::iter::repeat(PAD)).take(lens.text));
        let with_end: Vec<u32> = target
            .iter()
            .copied()
            .chain([END])
            .take(lens.target)
            .collect();
        let pads = lens.target - with_end.len();
        self.input.push(BEGIN);
        self.input
            .extend(with_end.iter().take(with_end.len().min(lens.target - 1)));
        self.input.extend(std::iter::repeat_n(
            PAD,
            (lens.target - 1).saturating_sub(with_end.len()),
        ));
        self.weight.extend(std::iter::repeat_n(
            if counts { 1.0 } else { 0.0 },
            with_end.len(),
        ));
        self.weight.extend(std::iter::repeat_n(0.0, pads));
        self.target.extend(with_end);
        self.target.extend(std::iter::repeat_n(PAD, pads));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shifted_ended_padded_and_cut() {
        let lens = Lens { text: 4, target: 4 };
        let mut tokens = Tokens::default();
        tokens.push(&[7, 8], &[5, 6], true, lens);
        tokens.push(&[7, 8, 9, 10], &[3, 4, 5, 6, 7], true, lens);
        tokens.push(&[], &[], false, lens);
        assert_eq!(tokens.text, [1, 7, 8, 0, 1, 7, 8, 9, 1, 0, 0, 0]);
        assert_eq!(tokens.input, [1, 5, 6, 2, 1, 3, 4, 5, 1, 2, 0, 0]);
        assert_eq!(tokens.target, [5, 6, 2, 0, 3, 4, 5, 6, 2, 0, 0, 0]);
        assert_eq!(
            tokens.weight,
            [1., 1., 1., 0., 1., 1., 1., 1., 0., 0., 0., 0.]
        );
        assert_eq!(tokens.counted(), 7);
    }
}
