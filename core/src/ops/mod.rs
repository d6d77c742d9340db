//! Element-wise operations that models share, in one place so that they can be fused.

mod composed;

use burn::tensor::{Int, Tensor};

/// GELU with the hyperbolic-tangent approximation (`gelu_new` of GPT-2, `gelu_pytorch_tanh`):
/// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x)))`. Any shape; the same comes back.
///
/// Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    composed::gelu_tanh(x)
}

/// Exact GELU (`gelu` of BERT and GPT-NeoX): `x / 2 * (1 + erf(x / sqrt(2)))`. Any shape; the same comes back.
///
/// Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2.
pub fn gelu_erf<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    composed::gelu_erf(x)
}

/// SiLU, also called swish (Llama, Qwen): `x / (1 + exp(-x))`. Any shape; the same comes back.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    composed::silu(x)
}

/// Softmax over the last dimension. A row that is minus infinity throughout becomes NaN; mask with finite values.
pub fn softmax_last<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    composed::softmax_last(x)
}

/// Layer normalisation over the last dimension, of width `gamma` and `beta`:
/// `(x - mean) / sqrt(variance + eps) * gamma + beta` with the biased variance.
///
/// Source: Ba, Kiros and Hinton, "Layer Normalization", 2016, equation 4.
pub fn layer_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, beta: Tensor<1>, eps: f64) -> Tensor<D> {
    composed::layer_norm(x, gamma, beta, eps)
}

/// Root-mean-square normalisation over the last dimension: `x / sqrt(mean(x * x) + eps) * gamma`.
///
/// Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, eps: f64) -> Tensor<D> {
    composed::rms_norm(x, gamma, eps)
}

/// How [`attention`] groups heads and what each query may see.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Query heads; the hidden size of the queries is `heads` times the head width.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`; query head `h` reads key head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// What scores are multiplied with before the softmax, most often `1 / sqrt(head width)`.
    pub scale: f64,
    /// Whether a query sees only keys up to its own position. Queries are the last of the positions: query `i` of `q` over
    /// `k` keys stands at `i + k - q`.
    pub causal: bool,
    /// Number of keys that exist, one per sequence (right padding beyond). Every query sees at least the first key.
    pub lengths: Vec<usize>,
}

impl Attention {
    /// The number of keys that query `row` of `queries` sees in a sequence of `length`, out of `keys`.
    fn visible(&self, length: usize, row: usize, queries: usize, keys: usize) -> usize {
        let reach = if self.causal { (row + keys + 1).saturating_sub(queries) } else { keys };
        reach.min(length).clamp(1, keys)
    }
}

/// Scaled dot-product attention over heads that lie side by side in the last dimension, as a linear layer leaves them.
///
/// `query` is `[B, Q, heads * width]`, `key` and `value` are `[B, K, kv_heads * width]`; the result is shaped like `query`.
/// Splitting heads, repeating shared ones, masking and joining happen inside. Differentiable in all three.
///
/// Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1.
///
/// # Panics
/// If shapes do not fit `how`.
pub fn attention(query: Tensor<3>, key: Tensor<3>, value: Tensor<3>, how: &Attention) -> Tensor<3> {
    composed::attention(query, key, value, how)
}

/// Cross-entropy in nats per row of `logits` `[N, C]` against one class each (`targets` `[N]`, from 0 to C - 1).
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    composed::cross_entropy(logits, targets)
}
