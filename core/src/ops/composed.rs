//! Every operation of this module written with Burn's own: what devices without a fused version run, and what the
//! fused versions are tested against.

use std::ops::Range;

use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor, activation};

use super::{Activation, Attention, Head, Rotary, loss, rounding};

/// Added to scores that must not be attended to. Finite, so that a row with nothing to attend to does not become NaN.
const MASKED: f32 = -1e30;

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

pub(super) fn gated_silu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    silu(gate) * up
}

pub(super) fn activate<const D: usize>(f: Activation, x: Tensor<D>) -> Tensor<D> {
    match f {
        Activation::GeluTanh => gelu_tanh(x),
        Activation::GeluErf => gelu_erf(x),
        Activation::Silu => silu(x),
    }
}

pub(super) fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    // Burn refuses operations on numbers of two kinds.
    let (given, held) = (x.dtype(), weight.dtype());
    if given == held {
        return burn::tensor::module::linear(x, weight, bias);
    }
    let y = burn::tensor::module::linear(x.cast(FloatDType::from(held)), weight, None).cast(FloatDType::from(given));
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// The places of `rows` among sequences that are laid out as one padded rectangle: row `i` of sequence `s` is at
/// `s * longest + i`.
struct Rectangle {
    sequences: usize,
    longest: usize,
    /// For each place the row that fills it, or any row.
    rows: Vec<i32>,
    /// For each row its place, if it has one.
    places: Vec<Option<usize>>,
}

impl Rectangle {
    fn new(ranges: impl ExactSizeIterator<Item = Range<usize>> + Clone, rows: usize) -> Self {
        let (sequences, longest) = (ranges.len(), ranges.clone().map(|range| range.len()).max().unwrap_or(0));
        let mut rectangle = Self { sequences, longest, rows: vec![0; sequences * longest], places: vec![None; rows] };
        for (sequence, range) in ranges.enumerate() {
            for (index, row) in range.enumerate() {
                let place = sequence * longest + index;
                rectangle.rows[place] = row as i32;
                rectangle.places[row] = Some(place);
            }
        }
        rectangle
    }

    /// `[rows, heads * width]` as `[sequences, heads, longest, width]`.
    fn spread(&self, x: Tensor<2>, heads: usize) -> Tensor<4> {
        let width = x.dims()[1] / heads;
        let rows = Tensor::<1, Int>::from_data(self.rows.as_slice(), &x.device());
        x.select(0, rows).reshape([self.sequences, self.longest, heads, width]).swap_dims(1, 2)
    }

    /// The reverse of [`spread`](Self::spread); rows without a place are 0.
    fn collect(&self, x: Tensor<4>) -> Tensor<2> {
        let [_, heads, _, width] = x.dims();
        let device = x.device();
        let x = x.swap_dims(1, 2).reshape([self.sequences * self.longest, heads * width]);
        let places: Vec<i32> = self.places.iter().map(|place| place.unwrap_or(0) as i32).collect();
        let real: Vec<f32> = self.places.iter().map(|place| if place.is_some() { 1.0 } else { 0.0 }).collect();
        let x = x.select(0, Tensor::<1, Int>::from_data(places.as_slice(), &device));
        x * Tensor::<1>::from_floats(real.as_slice(), &device).unsqueeze_dim::<2>(1)
    }
}

/// Repeats each of the `kv` heads of `[B, kv, T, width]` until there are `heads` of them, neighbours staying together.
fn repeat_heads(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, kv, time, width] = x.dims();
    if kv == heads {
        return x;
    }
    x.reshape([batch, kv, 1, time, width]).repeat_dim(2, heads / kv).reshape([batch, heads, time, width])
}

/// `cap * tanh(x / cap)`.
pub(super) fn soft_cap<const D: usize>(x: Tensor<D>, cap: f64) -> Tensor<D> {
    x.div_scalar(cap).tanh().mul_scalar(cap)
}

pub(super) fn attention(query: Tensor<2>, key: Tensor<2>, value: Tensor<2>, how: &Attention) -> Tensor<2> {
    let device = query.device();
    let queries = Rectangle::new(how.spans.iter().map(|span| span.queries.clone()), query.dims()[0]);
    let keys = Rectangle::new(how.spans.iter().map(|span| span.keys.clone()), key.dims()[0]);
    let query = queries.spread(query, how.heads);
    let key = repeat_heads(keys.spread(key, how.kv_heads), how.heads);
    let value = repeat_heads(keys.spread(value, how.kv_heads), how.heads);
    let mut hidden = Vec::with_capacity(how.spans.len() * queries.longest * keys.longest);
    for span in &how.spans {
        for row in 0..queries.longest {
            let visible = how.visible(span, row);
            hidden.extend((0..keys.longest).map(|column| !visible.contains(&column)));
        }
    }
    let mask = Tensor::<1, Bool>::from_data(hidden.as_slice(), &device);
    let mask = mask.reshape([how.spans.len(), 1, queries.longest, keys.longest]);
    let scores = query.matmul(key.swap_dims(2, 3)).mul_scalar(how.scale);
    let scores = match how.cap {
        Some(cap) => soft_cap(scores, cap),
        None => scores,
    };
    let mask = mask.expand(scores.dims());
    let weights = activation::softmax(scores.mask_fill(mask, MASKED), 3);
    queries.collect(weights.matmul(value))
}

pub(super) fn disentangled_attention(
    [query, key, value]: [Tensor<2>; 3],
    positions: &[u32],
    places: [Tensor<2>; 2],
    row: impl Fn(i64) -> usize,
    how: &Attention,
) -> Tensor<2> {
    let device = query.device();
    let queries = Rectangle::new(how.spans.iter().map(|span| span.queries.clone()), query.dims()[0]);
    let keys = Rectangle::new(how.spans.iter().map(|span| span.keys.clone()), key.dims()[0]);
    let [query, key, value] = [(&queries, query), (&keys, key), (&keys, value)].map(|(of, x)| of.spread(x, how.heads));
    let [place_keys, place_queries] = places.map(|x| {
        let [rows, width] = x.dims();
        x.reshape([1, rows, how.heads, width / how.heads]).swap_dims(1, 2)
    });
    let (batch, heads, from, to) = (how.spans.len(), how.heads, queries.longest, keys.longest);
    let (mut hidden, mut distances) = (Vec::with_capacity(batch * to), Vec::with_capacity(batch * from * to));
    for span in &how.spans {
        hidden.extend((0..to).map(|column| column >= span.keys.len()));
        for query in 0..from {
            let place = positions.get(span.queries.start + query).filter(|_| query < span.queries.len());
            // What stands in a row or column of nobody is not looked at.
            let place = i64::from(place.copied().unwrap_or(0));
            distances.extend(
                (0..to as i64).map(|key| row(if key < span.keys.len() as i64 { place - key } else { 0 }) as i32),
            );
        }
    }
    let rows = Tensor::<1, Int>::from_data(distances.as_slice(), &device).reshape([batch, 1, from, to]);
    let rows = rows.expand([batch, heads, from, to]);
    let content = query.clone().matmul(key.clone().swap_dims(2, 3));
    let of_keys = query.matmul(place_keys.swap_dims(2, 3)).gather(3, rows.clone());
    let of_queries = key.matmul(place_queries.swap_dims(2, 3)).gather(3, rows.swap_dims(2, 3)).swap_dims(2, 3);
    let scores = (content + of_keys + of_queries).mul_scalar(how.scale);
    let mask = Tensor::<1, Bool>::from_data(hidden.as_slice(), &device).reshape([batch, 1, 1, to]);
    let mask = mask.expand(scores.dims());
    let weights = activation::softmax(scores.mask_fill(mask, MASKED), 3);
    queries.collect(weights.matmul(value))
}

pub(super) fn rotate(x: Tensor<2>, heads: usize, rotated: usize, positions: &[u32], rotary: &Rotary) -> Tensor<2> {
    let [rows, total] = x.dims();
    let device = x.device();
    let (width, half) = (total / heads, rotary.rotated() / 2);
    let table = |table: &[f32]| -> Tensor<3> {
        let rows: Vec<f32> = positions.iter().flat_map(|&p| &table[p as usize * half..][..half]).copied().collect();
        Tensor::<1>::from_floats(rows.as_slice(), &device).reshape([positions.len(), 1, half])
    };
    let (cosines, sines) = rotary.tables();
    let (cosines, sines) = (table(cosines), table(sines));
    let all = x.reshape([rows, heads, width]);
    let x = all.clone().narrow(1, 0, rotated);
    let (first, second) = (x.clone().narrow(2, 0, half), x.clone().narrow(2, half, half));
    let mut parts =
        vec![first.clone() * cosines.clone() - second.clone() * sines.clone(), second * cosines + first * sines];
    if width > 2 * half {
        parts.push(x.narrow(2, 2 * half, width - 2 * half));
    }
    let mut heads_of_all = vec![Tensor::cat(parts, 2)];
    if heads > rotated {
        heads_of_all.push(all.narrow(1, rotated, heads - rotated));
    }
    Tensor::cat(heads_of_all, 1).reshape([rows, total])
}

pub(super) fn lookup(table: Tensor<2>, ids: &[u32]) -> Tensor<2> {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let device = table.device();
    // The gradient of a parameter is summed as wide as what was looked up, and rounded once.
    let is_parameter = table.dtype() == DType::BF16 && table.is_require_grad();
    let table = if is_parameter { table.cast(FloatDType::F32) } else { table };
    let rows = table.select(0, Tensor::<1, Int>::from_data(ids.as_slice(), &device));
    if rows.dtype() == DType::BF16 { rows.cast(FloatDType::F32) } else { rows }
}

pub(super) fn cross_entropy(logits: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let rows = targets.len();
    let ids: Vec<i32> = targets.iter().map(|&id| id as i32).collect();
    let targets = Tensor::<1, Int>::from_data(ids.as_slice(), &logits.device()).reshape([rows, 1]);
    activation::log_softmax(logits, 1).gather(1, targets).neg().reshape([rows])
}

pub(super) fn squared_norm<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    super::widen(x).square().sum()
}

/// Numbers that are rounded by chance at once: there are as many integers for each of them for a while.
const AT_ONCE: usize = 16 * 1024 * 1024;

/// As the fused one, to the bit but for numbers below 2⁻¹²⁶, which are rounded to the nearest: without a look at bits, the next number in `bf16` is
/// what lies one part in 253 away, to the nearest, and chance decides by the part of the way there.
pub(super) fn round_by_chance<const D: usize>(x: Tensor<D>, key: u64) -> Tensor<D> {
    let (shape, device) = (x.shape(), x.device());
    let elements = shape.num_elements();
    let x = x.reshape([elements]);
    let part = |start: usize| {
        let count = AT_ONCE.min(elements - start);
        let x = x.clone().narrow(0, start, count);
        let rounded = |x: Tensor<1>| x.cast(FloatDType::BF16).cast(FloatDType::F32);
        let nearest = rounded(x.clone());
        let beyond = (x - nearest.clone()) * nearest.clone().sign();
        let next = |factor: f64| rounded(nearest.clone().mul_scalar(factor));
        let (above, below) = (next(1.0 + 1.01 / 256.0), next(1.0 - 1.01 / 256.0));
        let chances = chances(start, count, key, &device);
        let way = |to: &Tensor<1>| {
            beyond.clone().mul_scalar(rounding::CHANCES) / (to.clone() - nearest.clone()).abs() + chances.clone()
        };
        let (up, down) = (way(&above).greater_equal_elem(rounding::CHANCES), way(&below).lower_elem(0));
        nearest.mask_where(up, above).mask_where(down, below).cast(FloatDType::BF16)
    };
    let parts: Vec<Tensor<1>> = (0..elements).step_by(AT_ONCE).map(part).collect();
    match parts.is_empty() {
        true => x.cast(FloatDType::BF16).reshape(shape),
        false => Tensor::cat(parts, 0).reshape(shape),
    }
}

/// What chance draws for the places `start..start + count`.
fn chances(start: usize, count: usize, key: u64, device: &Device) -> Tensor<1> {
    let start = start & 0x7fff_ffff;
    let places = Tensor::<1, Int>::arange(start as i64..(start + count) as i64, device);
    let mut left = places.clone().bitwise_right_shift_scalar(16).bitwise_and_scalar(0x7fff);
    let mut right = places.bitwise_and_scalar(0xffff);
    for (part, factor) in rounding::parts(key).into_iter().zip(rounding::FACTORS) {
        let product = right.clone().bitwise_xor_scalar(part as i32).mul_scalar(factor as i32);
        let mixed = product.clone().bitwise_xor(product.bitwise_right_shift_scalar(15)).bitwise_and_scalar(0xffff);
        (left, right) = (right, left.bitwise_xor(mixed));
    }
    right.float()
}

pub(super) fn sum_last<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.sum_dim(D - 1)
}

/// The head's part of a pass through a vocabulary, and the parts in which rows go through it.
fn in_parts(hidden: &Tensor<2>, head: &Head, count: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let [_, width] = hidden.dims();
    loss::parts(count, loss::part(count, (width, head.vocabulary())))
}

pub(super) fn statistics(logits: Tensor<2>, labels: &[u32]) -> Tensor<2> {
    let rows = labels.len();
    let classes: Vec<i32> = labels.iter().map(|&label| label as i32).collect();
    let labels = Tensor::<1, Int>::from_data(classes.as_slice(), &logits.device()).reshape([rows, 1]);
    let log_p = activation::log_softmax(logits, 1);
    let own = log_p.clone().detach().argmax(1);
    let p = log_p.clone().exp();
    let entropy = sum_last(p.clone() * log_p.clone()).neg();
    let mean = sum_last(log_p.clone()) / log_p.dims()[1] as f64;
    let columns = vec![log_p.clone().gather(1, labels), log_p.gather(1, own), entropy, mean, sum_last(p.square())];
    Tensor::cat(columns, 1)
}

pub(super) fn token_statistics(hidden: Tensor<2>, head: &Head, labels: &[u32]) -> Tensor<2> {
    let of = |rows: Range<usize>| {
        let hidden = hidden.clone().narrow(0, rows.start, rows.len());
        statistics(head.logits(hidden).cast(FloatDType::F32), &labels[rows])
    };
    let parts: Vec<Tensor<2>> = in_parts(&hidden, head, labels.len()).map(of).collect();
    if parts.is_empty() { Tensor::zeros([0, loss::STATISTICS], &hidden.device()) } else { Tensor::cat(parts, 0) }
}

pub(super) fn token_gradients(
    hidden: Tensor<2>,
    head: &Head,
    labels: &[u32],
    slopes: Tensor<2>,
    with_head: bool,
) -> (Tensor<2>, Option<Tensor<2>>) {
    let (mut of_hidden, mut of_head): (Vec<Tensor<2>>, Option<Tensor<2>>) = (Vec::new(), None);
    for rows in in_parts(&hidden, head, labels.len()) {
        let part = |x: &Tensor<2>| Tensor::from_inner(x.clone().narrow(0, rows.start, rows.len()));
        let x = part(&hidden).require_grad();
        let weight = Tensor::from_inner(head.weight.clone());
        let weight = if with_head { weight.require_grad() } else { weight };
        let head = Head { weight: weight.clone(), ..head.clone() };
        let numbers = statistics(head.logits(x.clone()).cast(FloatDType::F32), &labels[rows.clone()]);
        let mut grads = (numbers * part(&slopes)).sum().backward();
        of_hidden.extend(x.grad_remove(&mut grads));
        let grad = weight.grad_remove(&mut grads).map(|grad| grad.cast(FloatDType::F32));
        of_head = match (of_head, grad) {
            (Some(sum), Some(grad)) => Some(sum + grad),
            (sum, grad) => sum.or(grad),
        };
    }
    let of_hidden = if of_hidden.is_empty() { hidden.zeros_like() } else { Tensor::cat(of_hidden, 0) };
    (of_hidden, of_head.or_else(|| with_head.then(|| head.weight.zeros_like())))
}
