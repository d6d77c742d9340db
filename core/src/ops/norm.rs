//! Softmax, layer normalisation and root-mean-square normalisation over the last dimension.

use std::mem::MaybeUninit;

use super::kernel::{Floats, Kernel, each, filled, map_each, shape, tensor, values};
use super::math::{LANES, add_lanes, exp, largest, sum, vectorised};

/// Rows per piece of work.
const ROWS: usize = 64;

/// About how many element operations these cost per element, for deciding on threads.
const COST: usize = 6;

/// Softmax over the last dimension.
#[derive(Debug, Clone)]
pub(super) struct Softmax;

/// Softmax of `scale * x`, in place. `scale` must not be negative.
#[inline(always)]
pub(super) fn softmax_row(x: &mut [f32], scale: f32) {
    let top = largest(x);
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for x in chunks {
        for l in 0..LANES {
            x[l] = exp((x[l] - top) * scale);
            lanes[l] += x[l];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *x = exp((*x - top) * scale);
        *lane += *x;
    }
    let factor = 1.0 / add_lanes(lanes);
    for x in x {
        *x *= factor;
    }
}

vectorised! {
    fn softmax_rows(width: usize, x: &[f32], out: &mut [MaybeUninit<f32>]) {
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            softmax_row(out.write_copy_of_slice(x), 1.0);
        }
    }
}

vectorised! {
    fn softmax_slope(width: usize, y: &[f32], grad: &mut [f32]) {
        for (y, grad) in y.chunks_exact(width).zip(grad.chunks_exact_mut(width)) {
            let shared = sum(y, grad, |y, g| y * g);
            for (grad, &y) in grad.iter_mut().zip(y) {
                *grad = y * (*grad - shared);
            }
        }
    }
}

impl Kernel<1> for Softmax {
    type Saved = Floats;

    fn forward(&self, [x]: [Floats; 1], keep: bool) -> (Floats, Option<Floats>) {
        let (shape, width) = shape(&x);
        let x = values(&x);
        let piece = ROWS * width;
        // SAFETY: the pieces cover the vector, and `softmax_rows` writes each row of a piece.
        let output = unsafe {
            filled(x.len(), |out| {
                each(COST * x.len(), out.chunks_mut(piece.max(1)).zip(x.chunks(piece.max(1))), |(out, x)| {
                    softmax_rows(width, x, out);
                });
            })
        };
        let output = tensor(output, shape);
        (output.clone(), keep.then_some(output))
    }

    fn backward(&self, y: Floats, mut grad: Floats, _wanted: [bool; 1]) -> [Option<Floats>; 1] {
        let (_, width) = shape(&y);
        let y = values(&y);
        let piece = (ROWS * width).max(1);
        let slopes = grad.storage_mut::<f32>();
        each(COST * y.len(), slopes.chunks_mut(piece).zip(y.chunks(piece)), |(grad, y)| softmax_slope(width, y, grad));
        [Some(grad)]
    }
}

/// Normalisation of each row: with `centred` the layer norm of inputs `[x, gamma, beta]`, without the root-mean-square norm of
/// `[x, gamma]`.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) eps: f32,
}

vectorised! {
    /// Per row the shift and scale that normalise it go to `moments`, the result to `out`.
    fn norm_rows<const CENTRED: bool>(
        eps: f32, gamma: &[f32], beta: &[f32], x: &[f32], out: &mut [MaybeUninit<f32>], moments: &mut [MaybeUninit<f32>],
    ) {
        let width = gamma.len();
        let count = width as f32;
        for ((x, out), moments) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(moments.chunks_exact_mut(2)) {
            let mean = if CENTRED { sum(x, x, |x, _| x) / count } else { 0.0 };
            let variance = sum(x, x, |x, _| (x - mean) * (x - mean)) / count;
            let scale = 1.0 / (variance + eps).sqrt();
            moments[0].write(mean);
            moments[1].write(scale);
            if CENTRED {
                for ((out, &x), (&gamma, &beta)) in out.iter_mut().zip(x).zip(gamma.iter().zip(beta)) {
                    out.write(((x - mean) * scale).mul_add(gamma, beta));
                }
            } else {
                for ((out, &x), &gamma) in out.iter_mut().zip(x).zip(gamma) {
                    out.write(x * scale * gamma);
                }
            }
        }
    }
}

/// Some columns of one row of [`norm_slope`]: adds to the column sums, and lane by lane to the row sums.
#[inline(always)]
fn slope_columns<const CENTRED: bool>(
    (mean, scale): (f32, f32),
    (x, grad, gamma): (&[f32], &[f32], &[f32]),
    (grad_gamma, grad_beta): (&mut [f32], &mut [f32]),
    (along, total): (&mut [f32; LANES], &mut [f32; LANES]),
) {
    for l in 0..x.len() {
        let normal = (x[l] - mean) * scale;
        let g = grad[l] * gamma[l];
        along[l] += g * normal;
        grad_gamma[l] += grad[l] * normal;
        if CENTRED {
            total[l] += g;
            grad_beta[l] += grad[l];
        }
    }
}

vectorised! {
    /// Overwrites `grad` with the gradient of `x`; gives those of gamma and beta (zero unless centred), one after the other.
    fn norm_slope<const CENTRED: bool>(gamma: &[f32], x: &[f32], moments: &[f32], grad: &mut [f32]) -> Vec<f32> {
        let width = gamma.len();
        let count = width as f32;
        let mut sums = vec![0.0; 2 * width];
        let (grad_gamma, grad_beta) = sums.split_at_mut(width);
        let (gammas, gamma_rest) = gamma.as_chunks::<LANES>();
        for ((x, grad), moments) in x.chunks_exact(width).zip(grad.chunks_exact_mut(width)).zip(moments.chunks_exact(2)) {
            let (mean, scale) = (moments[0], moments[1]);
            let (mut along, mut total) = ([0.0; LANES], [0.0; LANES]);
            let (xs, x_rest) = x.as_chunks::<LANES>();
            let (grads, grad_rest) = grad.as_chunks::<LANES>();
            let (by_gamma, by_gamma_rest) = grad_gamma.as_chunks_mut::<LANES>();
            let (by_beta, by_beta_rest) = grad_beta.as_chunks_mut::<LANES>();
            for ((x, grad), (gamma, (by_gamma, by_beta))) in
                xs.iter().zip(grads).zip(gammas.iter().zip(by_gamma.iter_mut().zip(by_beta)))
            {
                let sums = (&mut along, &mut total);
                slope_columns::<CENTRED>((mean, scale), (x, grad, gamma), (by_gamma, by_beta), sums);
            }
            let sums = (&mut along, &mut total);
            let rest = (x_rest, grad_rest, gamma_rest);
            slope_columns::<CENTRED>((mean, scale), rest, (by_gamma_rest, by_beta_rest), sums);
            let along = add_lanes(along) / count;
            let total = add_lanes(total) / count;
            for ((grad, &x), &gamma) in grad.iter_mut().zip(x).zip(gamma) {
                let normal = (x - mean) * scale;
                *grad = scale * (*grad * gamma - total - normal * along);
            }
        }
        sums
    }
}

/// What the backward pass of a norm needs: `x`, `gamma`, and per row the mean and the reciprocal deviation.
type NormSaved = (Floats, Floats, Vec<f32>);

impl Norm {
    fn rows<const CENTRED: bool>(
        &self,
        x: Floats,
        gamma: Floats,
        beta: &[f32],
        keep: bool,
    ) -> (Floats, Option<NormSaved>) {
        let (shape, width) = shape(&x);
        let (input, scale) = (values(&x), values(&gamma));
        assert!(
            scale.len() == width && (!CENTRED || beta.len() == width),
            "norm weights must have the width of the rows"
        );
        let rows = input.len() / width.max(1);
        let piece = ROWS * width;
        let mut moments = Vec::new();
        // SAFETY: the pieces cover both vectors, and `norm_rows` writes each row and both moments of each row.
        let output = unsafe {
            filled(input.len(), |out| {
                moments = filled(2 * rows, |moments| {
                    let pieces = out.chunks_mut(piece).zip(moments.chunks_mut(2 * ROWS)).zip(input.chunks(piece));
                    each(COST * input.len(), pieces, |((out, moments), x)| {
                        norm_rows::<CENTRED>(self.eps, scale, beta, x, out, moments);
                    });
                });
            })
        };
        (tensor(output, shape), keep.then_some((x, gamma, moments)))
    }

    fn slopes<const CENTRED: bool>(saved: NormSaved, mut grad: Floats) -> (Floats, Vec<f32>) {
        let (x, gamma, moments) = saved;
        let (input, gamma) = (values(&x), values(&gamma));
        let width = gamma.len();
        let piece = ROWS * width;
        let slopes = grad.storage_mut::<f32>();
        let pieces = slopes.chunks_mut(piece).zip(input.chunks(piece)).zip(moments.chunks(2 * ROWS));
        let parts =
            map_each(COST * input.len(), pieces, |((grad, x), moments)| norm_slope::<CENTRED>(gamma, x, moments, grad));
        (grad, add_parts(parts, 2 * width))
    }
}

/// Adds vectors of one length in their order.
pub(super) fn add_parts(parts: Vec<Vec<f32>>, len: usize) -> Vec<f32> {
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_else(|| vec![0.0; len]);
    for part in parts {
        for (total, part) in total.iter_mut().zip(part) {
            *total += part;
        }
    }
    total
}

impl Kernel<3> for Norm {
    type Saved = NormSaved;

    fn forward(&self, [x, gamma, beta]: [Floats; 3], keep: bool) -> (Floats, Option<NormSaved>) {
        self.rows::<true>(x, gamma, values(&beta), keep)
    }

    fn backward(&self, saved: NormSaved, grad: Floats, _wanted: [bool; 3]) -> [Option<Floats>; 3] {
        let (grad, mut sums) = Self::slopes::<true>(saved, grad);
        let width = sums.len() / 2;
        let beta = sums.split_off(width);
        [Some(grad), Some(tensor(sums, [width])), Some(tensor(beta, [width]))]
    }
}

impl Kernel<2> for Norm {
    type Saved = NormSaved;

    fn forward(&self, [x, gamma]: [Floats; 2], keep: bool) -> (Floats, Option<NormSaved>) {
        self.rows::<false>(x, gamma, &[], keep)
    }

    fn backward(&self, saved: NormSaved, grad: Floats, _wanted: [bool; 2]) -> [Option<Floats>; 2] {
        let (grad, mut sums) = Self::slopes::<false>(saved, grad);
        let width = sums.len() / 2;
        sums.truncate(width);
        [Some(grad), Some(tensor(sums, [width]))]
    }
}
