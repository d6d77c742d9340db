//! Elementary functions and reductions that compile to vector instructions: straight-line code on `f32`, no calls, no branches.
//!
//! Everything is `#[inline(always)]`, because a function takes on vector width only inside a caller that has it: [`vectorised`].

use std::mem::MaybeUninit;

use half::bf16;

/// Declares a function twice, once for every processor and once for those with AVX2 and FMA, and picks at run time. The body may
/// call only `#[inline(always)]` functions where speed matters.
macro_rules! vectorised {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident $(<const $n:ident: bool>)? ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name $(<const $n: bool>)? ($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body $(<const $n: bool>)? ($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn wide $(<const $n: bool>)? ($($argument: $type),*) $(-> $result)? {
                    body $(::<$n>)? ($($argument),*)
                }
                if $crate::ops::math::has_wide_vectors() {
                    // SAFETY: the processor has both features.
                    return unsafe { wide $(::<$n>)? ($($argument),*) };
                }
            }
            body $(::<$n>)? ($($argument),*)
        }
    };
}
pub(super) use vectorised;

/// Whether the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn has_wide_vectors() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

vectorised! {
    /// Writes each number of `from` as `f32`, which holds all of them.
    pub(super) fn widen(from: &[bf16], out: &mut [MaybeUninit<f32>]) {
        for (out, &x) in out.iter_mut().zip(from) {
            out.write(f32::from_bits(u32::from(x.to_bits()) << 16));
        }
    }
}

vectorised! {
    /// Writes the number in `bf16` that is nearest to each of `from`, the even one where two are.
    pub(super) fn narrow(from: &[f32], out: &mut [MaybeUninit<bf16>]) {
        for (out, &x) in out.iter_mut().zip(from) {
            let bits = x.to_bits();
            let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
            // What is not a number must not be carried into one that is.
            let bits = if x.is_nan() { bits | 0x0040_0000 } else { nearest };
            out.write(bf16::from_bits((bits >> 16) as u16));
        }
    }
}

/// Width of the lanes that reductions run in. Fixed, because it decides the order of additions.
pub(super) const LANES: usize = 16;

/// `e^x`, within 2 units in the last place; 0 below -86.9, infinity above 88.7, NaN for NaN.
#[inline(always)]
#[allow(clippy::excessive_precision)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_375;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let inside = if x < -86.9 { -86.9 } else { x };
    let inside = if inside > 88.7 { 88.7 } else { inside };
    let shifted = inside.mul_add(std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = whole.mul_add(-LN2_HIGH, inside);
    let rest = whole.mul_add(-LN2_LOW, rest);
    // Cephes, expf.
    let p = 1.987_569_15e-4_f32;
    let p = p.mul_add(rest, 1.398_199_95e-3);
    let p = p.mul_add(rest, 8.333_451_9e-3);
    let p = p.mul_add(rest, 4.166_579_6e-2);
    let p = p.mul_add(rest, 1.666_666_55e-1);
    let p = p.mul_add(rest, 0.5);
    let p = p.mul_add(rest * rest, rest) + 1.0;
    // 2^whole in two factors, since 2^128 itself is not a number.
    let half = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f00_0000));
    let value = (p * half) * 2.0;
    if x < -86.9 {
        0.0
    } else if x > 88.7 {
        f32::INFINITY
    } else {
        value
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent, within 3 units in the last place.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    // Near 0 the difference below would lose digits; Cephes, tanhf.
    let square = x * x;
    let p = -5.704_988_7e-3_f32;
    let p = p.mul_add(square, 2.063_908_9e-2);
    let p = p.mul_add(square, -5.373_971_4e-2);
    let p = p.mul_add(square, 1.333_144_2e-1);
    let p = p.mul_add(square, -3.333_328_2e-1);
    let small = (p * square).mul_add(x, x);
    let large = (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 { small } else { large }
}

/// The error function, within 2e-7: a rational approximation in `x * x` (the one Eigen and XLA use).
#[inline(always)]
#[allow(clippy::excessive_precision)]
pub(super) fn erf(x: f32) -> f32 {
    const EDGE: f32 = 3.832_506_856_900_711;
    let x = if x < -EDGE { -EDGE } else { x };
    let x = if x > EDGE { EDGE } else { x };
    let square = x * x;
    let top = 2.290_506_586_136_464_6e-4_f32;
    let top = top.mul_add(square, 3.408_291_010_710_950_6e-3);
    let top = top.mul_add(square, 5.095_569_506_238_086_1e-2);
    let top = top.mul_add(square, 1.852_083_223_997_614_5e-1);
    let top = top.mul_add(square, 1.128_379_143_519_084);
    let bottom = -1.179_160_295_436_169_7e-7_f32;
    let bottom = bottom.mul_add(square, 2.354_796_647_131_318_5e-5);
    let bottom = bottom.mul_add(square, 1.017_962_527_891_488_5e-3);
    let bottom = bottom.mul_add(square, 1.407_047_017_116_766_7e-2);
    let bottom = bottom.mul_add(square, 1.109_850_517_828_536_2e-1);
    let bottom = bottom.mul_add(square, 4.974_692_511_006_753_8e-1);
    let bottom = bottom.mul_add(square, 1.0);
    x * top / bottom
}

/// Adds the lanes, neighbours first.
#[inline(always)]
pub(super) fn add_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of `term(x, y)` over two slices of one length, in [`LANES`] interleaved partial sums.
#[inline(always)]
pub(super) fn sum(x: &[f32], y: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for l in 0..LANES {
            lanes[l] += term(x[l], y[l]);
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *lane += term(x, y);
    }
    add_lanes(lanes)
}

/// The largest element; minus infinity when empty, NaN passed over.
#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for l in 0..LANES {
            lanes[l] = if x[l] > lanes[l] { x[l] } else { lanes[l] };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = if x > *lane { x } else { *lane };
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_the_exponential() {
        for i in -869..=887 {
            let x = i as f32 / 10.0;
            let right = (x as f64).exp();
            assert!((exp(x) as f64 - right).abs() <= 2.5e-7 * right, "exp({x}) = {} instead of {right}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_and_erf_agree_with_tables() {
        assert_eq!(sigmoid(0.0), 0.5);
        assert!((sigmoid(2.0) - 0.880_797_1).abs() < 1e-7);
        assert_eq!(sigmoid(-200.0), 0.0);
        assert_eq!(sigmoid(200.0), 1.0);
        // Abramowitz and Stegun, table 7.1.
        for (x, right) in [(0.1, 0.112_462_92), (0.5, 0.520_499_88), (1.0, 0.842_700_8), (2.0, 0.995_322_3)] {
            assert!((erf(x) - right).abs() < 2e-7, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert!((erf(10.0) - 1.0).abs() < 2e-7);
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn the_nearest_number_in_bf16_is_that_of_others() {
        let mut x: Vec<f32> = (0..1_000_000_u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).collect();
        x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::from_bits(0x7fff_ffff)]);
        let mut found = Vec::with_capacity(x.len());
        narrow(&x, &mut found.spare_capacity_mut()[..x.len()]);
        // SAFETY: each element was written.
        unsafe { found.set_len(x.len()) };
        for (x, found) in x.iter().zip(&found) {
            assert_eq!(found.to_bits(), bf16::from_f32(*x).to_bits(), "{x} {:x}", x.to_bits());
        }
    }

    #[test]
    fn sums_and_maxima_take_every_element() {
        for n in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let total: f32 = x.iter().sum();
            assert_eq!(sum(&x, &x, |a, _| a), total);
            assert_eq!(largest(&x), if n == 0 { f32::NEG_INFINITY } else { (n - 1) as f32 });
        }
    }
}
