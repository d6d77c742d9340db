//! GELU, SiLU and soft caps, one pass forward and one backward.

use std::mem::MaybeUninit;

use super::kernel::{CHUNK, Floats, Kernel, each, filled, shape, tensor, values};
use super::math::{erf, exp, sigmoid, tanh, vectorised};

/// The non-linear functions of a transformer's feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// See [`gelu_tanh`](super::gelu_tanh).
    GeluTanh,
    /// See [`gelu_erf`](super::gelu_erf).
    GeluErf,
    /// See [`silu`](super::silu).
    Silu,
}

/// About how many element operations an activation costs, for deciding on threads.
pub(super) const COST: usize = 8;

/// The tanh GELU is `x * sigmoid(2 u)` with `u = SLOPE * (x + CUBIC * x^3)`.
const SLOPE: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    x * sigmoid(2.0 * SLOPE * (CUBIC * x * x * x + x))
}

#[inline(always)]
fn gelu_tanh_slope(x: f32) -> f32 {
    let s = sigmoid(2.0 * SLOPE * (CUBIC * x * x * x + x));
    s + x * s * (1.0 - s) * (2.0 * SLOPE) * (3.0 * CUBIC * x * x + 1.0)
}

#[inline(always)]
fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_erf_slope(x: f32) -> f32 {
    const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * DENSITY * exp(-0.5 * x * x)
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

#[inline(always)]
fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s + x * s * (1.0 - s)
}

vectorised! {
    /// Writes `f(x)` for every element of `x`.
    pub(super) fn apply(f: Activation, x: &[f32], out: &mut [MaybeUninit<f32>]) {
        macro_rules! map {
            ($f: ident) => {
                for (out, &x) in out.iter_mut().zip(x) {
                    out.write($f(x));
                }
            };
        }
        match f {
            Activation::GeluTanh => map!(gelu_tanh),
            Activation::GeluErf => map!(gelu_erf),
            Activation::Silu => map!(silu),
        }
    }
}

vectorised! {
    /// Multiplies `grad` with the derivative of `f` at `x`.
    pub(super) fn apply_slope(f: Activation, x: &[f32], grad: &mut [f32]) {
        macro_rules! map {
            ($f: ident) => {
                for (grad, &x) in grad.iter_mut().zip(x) {
                    *grad *= $f(x);
                }
            };
        }
        match f {
            Activation::GeluTanh => map!(gelu_tanh_slope),
            Activation::GeluErf => map!(gelu_erf_slope),
            Activation::Silu => map!(silu_slope),
        }
    }
}

impl Kernel<1> for Activation {
    type Saved = Floats;

    fn forward(&self, [x]: [Floats; 1], keep: bool) -> (Floats, Option<Floats>) {
        let (shape, _) = shape(&x);
        let input = values(&x);
        // SAFETY: the pieces cover the vector, and `apply` writes each element of a piece.
        let output = unsafe {
            filled(input.len(), |out| {
                each(COST * input.len(), out.chunks_mut(CHUNK).zip(input.chunks(CHUNK)), |(out, x)| {
                    apply(*self, x, out)
                });
            })
        };
        (tensor(output, shape), keep.then_some(x))
    }

    fn backward(&self, x: Floats, mut grad: Floats, _wanted: [bool; 1]) -> [Option<Floats>; 1] {
        let input = values(&x);
        let slopes = grad.storage_mut::<f32>();
        each(COST * input.len(), slopes.chunks_mut(CHUNK).zip(input.chunks(CHUNK)), |(grad, x)| {
            apply_slope(*self, x, grad);
        });
        [Some(grad)]
    }
}

/// `cap * tanh(x / cap)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct SoftCap(pub(super) f32);

vectorised! {
    /// Caps every element.
    fn soft_cap(cap: f32, x: &mut [f32]) {
        let inverse = 1.0 / cap;
        for x in x {
            *x = cap * tanh(*x * inverse);
        }
    }
}

vectorised! {
    /// Multiplies `grad` with the derivative where the capped elements are `y`.
    fn soft_cap_slope(cap: f32, y: &[f32], grad: &mut [f32]) {
        let inverse = 1.0 / cap;
        for (grad, &y) in grad.iter_mut().zip(y) {
            *grad *= 1.0 - (y * inverse) * (y * inverse);
        }
    }
}

impl SoftCap {
    /// Caps every element of a tensor of its own.
    pub(super) fn apply(self, x: &mut Floats) {
        let x = x.storage_mut::<f32>();
        each(COST * x.len(), x.chunks_mut(CHUNK), |x| soft_cap(self.0, x));
    }

    /// Multiplies `grad` with the derivative where the capped elements are `y`.
    pub(super) fn descend(self, y: &[f32], grad: &mut Floats) {
        let grad = grad.storage_mut::<f32>();
        each(COST * y.len(), grad.chunks_mut(CHUNK).zip(y.chunks(CHUNK)), |(grad, y)| soft_cap_slope(self.0, y, grad));
    }
}

impl Kernel<1> for SoftCap {
    type Saved = Floats;

    fn forward(&self, [x]: [Floats; 1], keep: bool) -> (Floats, Option<Floats>) {
        let (shape, _) = shape(&x);
        let mut y = tensor(values(&x).to_vec(), shape);
        self.apply(&mut y);
        (y.clone(), keep.then_some(y))
    }

    fn backward(&self, y: Floats, mut grad: Floats, _wanted: [bool; 1]) -> [Option<Floats>; 1] {
        self.descend(values(&y), &mut grad);
        [Some(grad)]
    }
}

/// `silu(gate) * up`, the middle of a gated feed-forward layer.
#[derive(Debug, Clone)]
pub(super) struct GatedSilu;

vectorised! {
    fn gated(gate: &[f32], up: &[f32], out: &mut [MaybeUninit<f32>]) {
        for (out, (&gate, &up)) in out.iter_mut().zip(gate.iter().zip(up)) {
            out.write(silu(gate) * up);
        }
    }
}

vectorised! {
    /// Overwrites `grad` with the gradient of `gate`, and writes that of `up`.
    fn gated_slope(gate: &[f32], up: &[f32], grad: &mut [f32], grad_up: &mut [MaybeUninit<f32>]) {
        for ((grad, grad_up), (&gate, &up)) in grad.iter_mut().zip(grad_up).zip(gate.iter().zip(up)) {
            let s = sigmoid(gate);
            grad_up.write(*grad * gate * s);
            *grad *= up * (s + gate * s * (1.0 - s));
        }
    }
}

impl Kernel<2> for GatedSilu {
    type Saved = (Floats, Floats);

    fn forward(&self, [gate, up]: [Floats; 2], keep: bool) -> (Floats, Option<Self::Saved>) {
        let (shape, _) = shape(&gate);
        let (g, u) = (values(&gate), values(&up));
        assert_eq!(g.len(), u.len(), "gate and up must have one shape");
        // SAFETY: the pieces cover the vector, and `gated` writes each element of a piece.
        let output = unsafe {
            filled(g.len(), |out| {
                let pieces = out.chunks_mut(CHUNK).zip(g.chunks(CHUNK).zip(u.chunks(CHUNK)));
                each(COST * g.len(), pieces, |(out, (g, u))| gated(g, u, out));
            })
        };
        (tensor(output, shape), keep.then_some((gate, up)))
    }

    fn backward(&self, (gate, up): Self::Saved, mut grad: Floats, _wanted: [bool; 2]) -> [Option<Floats>; 2] {
        let (shape, _) = shape(&gate);
        let (g, u) = (values(&gate), values(&up));
        let d = grad.storage_mut::<f32>();
        // SAFETY: the pieces cover the vector, and `gated_slope` writes each element of a piece.
        let grad_up = unsafe {
            filled(g.len(), |out| {
                let pieces = out.chunks_mut(CHUNK).zip(d.chunks_mut(CHUNK)).zip(g.chunks(CHUNK).zip(u.chunks(CHUNK)));
                each(COST * g.len(), pieces, |((out, d), (g, u))| gated_slope(g, u, d, out));
            })
        };
        [Some(grad), Some(tensor(grad_up, shape))]
    }
}
