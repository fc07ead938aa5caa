//! Cross-entropy of the target tokens, summed and never normalised: a mean over the global batch is
//! the trainer's to take, after the sums of all lanes have met.

use burn::tensor::{Int, Tensor, activation::log_softmax};

/// Weighted cross-entropy per example, nats: `-sum_t weight[b, t] log softmax(logits[b, t])[target]`.
///
/// Logits are `[B, T, V]`, targets and weights `[B, T]`; `-> [B]`.
pub(crate) fn cross_entropy(
    logits: Tensor<3>,
    target: Tensor<2, Int>,
    weight: Tensor<2>,
) -> Tensor<1> {
    let [batch, tokens] = target.dims();
    let chosen = log_softmax(logits, 2).gather(2, target.reshape([batch, tokens, 1]));
    let weighted = chosen.reshape([batch, tokens]) * weight;
    weighted.sum_dim(1).neg().reshape([batch])
}
