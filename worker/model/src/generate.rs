//! Greedy text generation, token by token.

use burn::module::Module;
use burn::tensor::{Bool, Int, Tensor, TensorData};
use ringmaster_proto::vocab::{BEGIN, END};

use crate::Model;
use crate::ops::Ops;

impl Model {
    /// The most likely next token until [`END`] or `max_len` tokens, for every example of a batch.
    /// [`END`] is not part of the answer.
    ///
    /// Images are `[B, 3, S, S]`, text and its mask `[B, L]`; `max_len` is at most the model's
    /// target length. The encoders run once, and the decoder once per token: keys and values of
    /// earlier tokens are kept.
    pub fn generate(
        &self,
        images: Tensor<4>,
        text: Tensor<2, Int>,
        text_mask: Tensor<2, Bool>,
        max_len: usize,
    ) -> Vec<Vec<u32>> {
        let model = self.valid();
        let ops = Ops::inference_on(&images.device());
        let batch = images.dims()[0];
        let memory = model.memory(images.inner(), text.inner(), text_mask.inner(), &ops);
        let device = memory.tokens.device();
        let mut cache = model.decoder.start(memory, &ops);
        let mut answers = vec![Vec::new(); batch];
        let mut running = vec![true; batch];
        let mut last = vec![i64::from(BEGIN); batch];
        for _ in 0..max_len {
            let input = Tensor::from_data(TensorData::new(last.clone(), [batch, 1]), &device);
            let logits = model.decode_next(input, &mut cache, &ops);
            let next = logits.argmax(2).into_data();
            for (i, token) in next.iter::<u32>().enumerate() {
                running[i] &= token != END;
                if running[i] {
                    answers[i].push(token);
                }
                last[i] = i64::from(token);
            }
            if !running.contains(&true) {
                break;
            }
        }
        answers
    }
}
