//! Every operation of this module written with Burn's own: what devices without a fused version run, and what the
//! fused versions are tested against.

use burn::tensor::{Bool, Int, Tensor, activation};

use super::Attention;

/// Added to scores that must not be attended to. Finite, so that a row with nothing to attend to does not become NaN.
pub(super) const MASKED: f32 = -1e30;

pub(super) fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let cube = x.clone() * x.clone() * x.clone();
    let inner = (x.clone() + cube.mul_scalar(0.044_715)).mul_scalar((2.0 / core::f64::consts::PI).sqrt());
    x.mul_scalar(0.5) * (inner.tanh() + 1.0)
}

pub(super) fn gelu_erf<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::gelu(x)
}

pub(super) fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::silu(x)
}

pub(super) fn softmax_last<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::softmax(x, D - 1)
}

pub(super) fn layer_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, beta: Tensor<1>, eps: f64) -> Tensor<D> {
    let mean = x.clone().mean_dim(D - 1);
    let centred = x - mean;
    let variance = (centred.clone() * centred.clone()).mean_dim(D - 1);
    centred / (variance + eps).sqrt() * gamma.unsqueeze() + beta.unsqueeze()
}

pub(super) fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, eps: f64) -> Tensor<D> {
    let square = (x.clone() * x.clone()).mean_dim(D - 1);
    x / (square + eps).sqrt() * gamma.unsqueeze()
}

/// Splits `[B, T, heads * width]` into `[B, heads, T, width]`.
fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, time, hidden] = x.dims();
    x.reshape([batch, time, heads, hidden / heads]).swap_dims(1, 2)
}

/// Repeats each of the `kv` heads of `[B, kv, T, width]` until there are `heads` of them, neighbours staying together.
fn repeat_heads(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, kv, time, width] = x.dims();
    if kv == heads {
        return x;
    }
    x.reshape([batch, kv, 1, time, width]).repeat_dim(2, heads / kv).reshape([batch, heads, time, width])
}

pub(super) fn attention(query: Tensor<3>, key: Tensor<3>, value: Tensor<3>, how: &Attention) -> Tensor<3> {
    let [batch, queries, hidden] = query.dims();
    let keys = key.dims()[1];
    let device = query.device();
    let query = split_heads(query, how.heads);
    let key = repeat_heads(split_heads(key, how.kv_heads), how.heads);
    let value = repeat_heads(split_heads(value, how.kv_heads), how.heads);
    let hidden_keys: Vec<bool> = how
        .lengths
        .iter()
        .flat_map(|&length| {
            (0..queries)
                .flat_map(move |row| (0..keys).map(move |column| column >= how.visible(length, row, queries, keys)))
        })
        .collect();
    let mask = Tensor::<1, Bool>::from_data(hidden_keys.as_slice(), &device).reshape([batch, 1, queries, keys]);
    let scores = query.matmul(key.swap_dims(2, 3)).mul_scalar(how.scale);
    let scores = scores.mask_fill(mask.expand([batch, how.heads, queries, keys]), MASKED);
    let weights = activation::softmax(scores, 3);
    weights.matmul(value).swap_dims(1, 2).reshape([batch, queries, hidden])
}

pub(super) fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let rows = logits.dims()[0];
    activation::log_softmax(logits, 1).gather(1, targets.reshape([rows, 1])).neg().reshape([rows])
}
