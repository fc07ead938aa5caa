//! Cross-entropy of the target tokens, summed and never normalised: a mean over the global batch is
//! the trainer's to take, after the sums of all lanes have met.

use burn::tensor::{FloatDType, Int, Tensor, activation::log_softmax};

/// Weighted cross-entropy per example, nats, of targets of which `smoothing` is spread evenly over
/// the vocabulary (Szegedy et al. 2016, section 7), with `p = log softmax(logits)`:
/// ```text
/// -sum_t weight[b, t] ((1 - smoothing) p[b, t, target] + smoothing mean_v p[b, t, v])
/// ```
/// Logits are `[B, T, V]`, targets and weights `[B, T]`; `-> [B]`.
pub(crate) fn cross_entropy(
    logits: Tensor<3>,
    target: Tensor<2, Int>,
    weight: Tensor<2>,
    smoothing: f64,
) -> Tensor<1> {
    let [batch, tokens] = target.dims();
    #[cfg(feature = "cuda")]
    if crate::cuda::is_cuda(&logits.device()) {
        let losses = crate::cuda::loss::cross_entropy(logits, target, weight, smoothing);
        return losses.sum_dim(1).reshape([batch]);
    }
    let logits = logits.cast(FloatDType::F32);
    let log_probabilities = log_softmax(logits, 2);
    let chosen = log_probabilities
        .clone()
        .gather(2, target.reshape([batch, tokens, 1]));
    let scores = if smoothing > 0.0 {
        chosen.mul_scalar(1.0 - smoothing) + log_probabilities.mean_dim(2).mul_scalar(smoothing)
    } else {
        chosen
    };
    let weighted = scores.reshape([batch, tokens]) * weight;
    weighted.sum_dim(1).neg().reshape([batch])
}
