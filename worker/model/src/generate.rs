//! Greedy text generation, token by token.

use burn::module::Module;
use burn::tensor::{Bool, Int, Tensor, TensorData};
use ringmaster_proto::vocab::{BEGIN, END, PAD};

use crate::Model;

impl Model {
    /// The most likely next token until [`END`] or `max_len` tokens, for every example of a batch.
    /// [`END`] is not part of the answer.
    ///
    /// Images are `[B, 3, S, S]`, text and its mask `[B, L]`; `max_len` is at most the model's
    /// target length. Each step decodes the whole prefix again; the encoders run once.
    pub fn generate(
        &self,
        images: Tensor<4>,
        text: Tensor<2, Int>,
        text_mask: Tensor<2, Bool>,
        max_len: usize,
    ) -> Vec<Vec<u32>> {
        let model = self.valid();
        let batch = images.dims()[0];
        let memory = model.memory(images.inner(), text.inner(), text_mask.inner());
        let mut answers = vec![Vec::new(); batch];
        let mut running = vec![true; batch];
        for _ in 0..max_len {
            let input = prefixes(&answers);
            let len = input.shape()[1];
            let logits = model.decode(Tensor::from_data(input, &memory.device()), &memory);
            let next = logits.narrow(1, len - 1, 1).argmax(2).into_data();
            for (i, token) in next.iter::<u32>().enumerate() {
                running[i] &= token != END;
                if running[i] {
                    answers[i].push(token);
                }
            }
            if !running.contains(&true) {
                break;
            }
        }
        answers
    }
}

/// Decoder input of every answer so far; those that have ended are padded.
fn prefixes(answers: &[Vec<u32>]) -> TensorData {
    let len = answers.iter().map(Vec::len).max().unwrap_or(0) + 1;
    let mut ids = Vec::with_capacity(answers.len() * len);
    for answer in answers {
        ids.push(i64::from(BEGIN));
        ids.extend(answer.iter().map(|&token| i64::from(token)));
        ids.resize(ids.len() + len - 1 - answer.len(), i64::from(PAD));
    }
    TensorData::new(ids, [answers.len(), len])
}
