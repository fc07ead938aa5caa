//! Token embeddings, relative positions, text encoder and decoder.

use burn::tensor::{Int, Tensor, TensorData};

use super::reference::{Parameters, text};
use super::*;
use crate::attention::bucket;
use crate::decoder::Decoder;
use crate::fusion::Memory;
use crate::ops::Ops;
use crate::text::{Embedding, TextEncoder};

#[test]
fn buckets_of_distances_are_those_of_t5() {
    // transformers, T5Attention._relative_position_bucket with 32 buckets and max_distance 128:
    // (key - query, bidirectional, causal).
    let known = [
        (0, 0, 0),
        (-1, 1, 1),
        (-7, 7, 7),
        (-8, 8, 8),
        (-11, 8, 11),
        (-12, 9, 12),
        (-15, 9, 15),
        (-16, 10, 16),
        (-18, 10, 16),
        (-19, 10, 17),
        (-127, 15, 31),
        (-128, 15, 31),
        (-1000, 15, 31),
        (1, 17, 0),
        (7, 23, 0),
        (8, 24, 0),
        (15, 25, 0),
        (16, 26, 0),
        (127, 31, 0),
        (128, 31, 0),
        (1000, 31, 0),
    ];
    for (distance, two_sided, causal) in known {
        assert_eq!(bucket(distance, true), two_sided, "both sides, {distance}");
        assert_eq!(bucket(distance, false), causal, "causal, {distance}");
    }
}

#[test]
fn buckets_widen_by_powers() {
    for distance in -2000..=2000 {
        for two_sided in [false, true] {
            let expected = text::bucket(distance, two_sided);
            assert_eq!(bucket(distance, two_sided), expected, "{distance}");
        }
    }
}

#[test]
fn embedding_scales_rows_of_the_table_and_scores_are_products_with_them() {
    let module = random(|init| Embedding::new(init, 20, WIDTH));
    let values = values(&module);
    let p = Parameters::of(&values);
    let ids = [[0, 19, 7], [7, 1, 2]];
    let data: Vec<i64> = ids.iter().flatten().map(|id| *id as i64).collect();
    let tensor = Tensor::<2, Int>::from_data(TensorData::new(data, [BATCH, 3]), &device());
    assert_close(
        module.forward(tensor),
        each(|b| text::embedding(&p, &ids[b], WIDTH)),
    );
    let (x, rows) = input("x", TOKENS, WIDTH);
    assert_close(
        module.logits(x, &Ops::inference()),
        each(|b| text::logits(&p, &rows[b])),
    );
}

const STACKS: [&str; 2] = ["model.text_stack=plain", "model.text_stack=t5"];

#[test]
fn text_encoder_is_positions_and_layers_over_real_tokens() {
    for stack in STACKS {
        let spec = spec(&[stack]);
        let module = random(|init| TextEncoder::new(init, &spec));
        let values = values(&module);
        let p = Parameters::of(&values);
        let (x, rows) = input("x", TOKENS, TEXT_WIDTH);
        assert_close(
            module.forward(x, &key_mask(), &Ops::inference()),
            each(|b| text::encoder(&p, &spec, &rows[b], REAL[b])),
        );
    }
}

/// Long enough for buckets of several distances, on both sides.
#[test]
fn long_texts_share_biases_of_far_tokens() {
    let len = 40;
    let spec = spec(&[STACKS[1], "model.text_len=40"]);
    let module = random(|init| TextEncoder::new(init, &spec));
    let values = values(&module);
    let p = Parameters::of(&values);
    let (x, rows) = input("x", len, TEXT_WIDTH);
    let all = TensorData::new(vec![true; BATCH * len], [BATCH, len]);
    let mask = Mask::of_keys(Tensor::from_data(all, &device()));
    assert_close(
        module.forward(x, &mask, &Ops::inference()),
        each(|b| text::encoder(&p, &spec, &rows[b], len)),
    );
}

/// A decoder over a memory of [`TOKENS`] tokens that are `width` wide and partly padding.
struct Decoding {
    spec: ModelSpec,
    module: Decoder,
    memory: Memory,
    memory_rows: Vec<Matrix>,
}

impl Decoding {
    fn new(stack: &str, target_len: usize) -> Self {
        let spec = spec(&[stack, &format!("model.target_len={target_len}")]);
        let module = random(|init| Decoder::new(init, &spec));
        let (tokens, memory_rows) = input("memory", TOKENS, WIDTH);
        let mask = Some(key_mask());
        let memory = Memory { tokens, mask };
        Self {
            spec,
            module,
            memory,
            memory_rows,
        }
    }

    fn expected(&self, b: usize, tokens: &Matrix) -> Matrix {
        let values = values(&self.module);
        let visible: Vec<bool> = (0..TOKENS).map(|j| j < REAL[b]).collect();
        let memory = (&self.memory_rows[b], visible.as_slice());
        text::decoder(&Parameters::of(&values), &self.spec, tokens, memory)
    }
}

/// 30 tokens are enough for buckets of several distances.
#[test]
fn decoder_is_causal_and_sees_the_real_tokens_of_the_memory() {
    for (stack, len, target_len) in [(STACKS[0], 6, 8), (STACKS[1], 6, 8), (STACKS[1], 30, 30)] {
        let decoding = Decoding::new(stack, target_len);
        let (x, rows) = input("x", len, TEXT_WIDTH);
        assert_close(
            decoding
                .module
                .forward(x, &decoding.memory, &Ops::inference()),
            each(|b| decoding.expected(b, &rows[b])),
        );
    }
}

#[test]
fn decoding_token_by_token_gives_the_rows_of_decoding_all() {
    let ops = Ops::inference();
    for (stack, len) in [(STACKS[0], 8), (STACKS[1], 30)] {
        let decoding = Decoding::new(stack, len);
        let (x, rows) = input("x", len, TEXT_WIDTH);
        let mut cache = decoding.module.start(decoding.memory.clone(), &ops);
        let steps = (0..len).map(|t| {
            let token = x.clone().narrow(1, t, 1);
            decoding.module.next(token, &mut cache, &ops)
        });
        assert_close(
            Tensor::cat(steps.collect(), 1),
            each(|b| decoding.expected(b, &rows[b])),
        );
    }
}
