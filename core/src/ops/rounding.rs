//! Rounding up or down by chance, so that the mean of what is rounded is the number itself: steps that are smaller than half a unit in the last
//! place, which rounding to the nearest number would lose one and all, count in the mean.
//!
//! Source: Gupta et al., "Deep Learning with Limited Numerical Precision", 2015, section 3; for the weights of a training in bfloat16, Zamirai et al.,
//! "Revisiting BFloat16 Training", 2020, section 4.

use std::mem::MaybeUninit;

use half::bf16;

use super::kernel::{CHUNK, Floats, each, filled, shape, tensor, values};
use super::math::{vectorised, widen};

/// How many numbers chance draws from.
pub(super) const CHANCES: u32 = 1 << 16;

/// Odd, and below 2¹⁵: a product with 16 bits is a number that fits 31, so that devices whose integers have a sign compute the same.
pub(super) const FACTORS: [u32; 4] = [0x6a09, 0x3c6f, 0x54ff, 0x7137];

/// The part of a key that each round takes.
pub(super) fn parts(key: u64) -> [u32; 4] {
    [0, 16, 32, 48].map(|shift| (key >> shift) as u32 & 0xffff)
}

/// One of [`CHANCES`] for the number at a place, by a Feistel network of four rounds over the place; places count up to 2³¹.
#[inline(always)]
fn chance(place: u32, parts: [u32; 4]) -> u32 {
    let (mut left, mut right) = (place >> 16 & 0x7fff, place & 0xffff);
    for round in 0..4 {
        let product = (right ^ parts[round]) * FACTORS[round];
        (left, right) = (right, left ^ ((product ^ product >> 15) & 0xffff));
    }
    right
}

vectorised! {
    /// Writes each number of `from`, the first of which is at a place, rounded towards zero or away from it.
    fn round(place: u32, parts: [u32; 4], from: &[f32], out: &mut [MaybeUninit<bf16>]) {
        for (index, (out, &x)) in out.iter_mut().zip(from).enumerate() {
            let bits = x.to_bits();
            // The lower half of the bits is how far the number is from the next one towards zero, in 2¹⁶ths of the way to the next one away from it.
            let moved = bits.wrapping_add(chance(place.wrapping_add(index as u32), parts));
            let bits = if x.is_nan() { bits | 0x0040_0000 } else { moved };
            out.write(bf16::from_bits((bits >> 16) as u16));
        }
    }
}

/// A tensor in `f32` rounded to `bf16`, each number by the chance that its place has under a key.
pub(super) fn stochastically(x: &Floats, key: u64) -> Floats {
    let from = values(x);
    // SAFETY: the pieces cover the vector, and each is written whole.
    let rounded = unsafe {
        filled(from.len(), |out| {
            let pieces = out.chunks_mut(CHUNK).zip(from.chunks(CHUNK)).enumerate();
            each(4 * from.len(), pieces, |(piece, (out, from))| round((piece * CHUNK) as u32, parts(key), from, out));
        })
    };
    tensor(rounded, shape(x).0)
}

/// A tensor in `bf16` as `f32`.
pub(super) fn widened(x: &Floats) -> Floats {
    let from = x.storage::<bf16>();
    // SAFETY: as above.
    let wide = unsafe {
        filled(from.len(), |out| {
            each(from.len(), out.chunks_mut(CHUNK).zip(from.chunks(CHUNK)), |(out, from)| widen(from, out));
        })
    };
    tensor(wide, shape(x).0)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Tensor, TensorData};

    use super::super::{composed, round_by_chance, widen};
    use super::*;

    const COUNT: usize = 1 << 16;

    fn tensor_of(values: Vec<f32>) -> Tensor<1> {
        let count = values.len();
        Tensor::from_data(TensorData::new(values, [count]), &Device::flex())
    }

    fn rounded(x: &Tensor<1>, key: u64) -> Vec<f32> {
        let rounded = round_by_chance(x.clone(), key);
        assert_eq!(rounded.dtype(), DType::BF16);
        widen(rounded).into_data().try_to_vec::<f32>().unwrap()
    }

    fn key(number: u64) -> u64 {
        crate::rng::derive(number, "rounding")
    }

    /// Of many numbers that are all one part of the way from one number in `bf16` to the next, that part is rounded there.
    #[test]
    fn the_mean_is_the_number() {
        for (low, high) in [(1.0_f32, 1.007_812_5), (-3.0, -3.015_625), (1.992_187_5, 2.0), (1e-3, 0.0)] {
            let low = bf16::from_f32(low).to_f32();
            let high = if high == 0.0 { f32::from_bits(low.to_bits() + 0x1_0000) } else { high };
            for part in [0.001, 0.25, 0.5, 0.9] {
                let x = low + (high - low) * part;
                let part = f64::from((x - low) / (high - low));
                let found = rounded(&tensor_of(vec![x; COUNT]), key((part * 1e6) as u64));
                let there = found.iter().filter(|found| **found == high).count() as f64;
                assert!(found.iter().all(|found| *found == low || *found == high), "{x}");
                // Five standard deviations.
                let expected = part * COUNT as f64;
                assert!(
                    (there - expected).abs() < 5.0 * (expected * (1.0 - part)).sqrt() + 1.0,
                    "{x}: {there} {expected}"
                );
            }
        }
    }

    /// Neither a place nor its neighbours nor another key say which way a number goes.
    #[test]
    fn chances_have_nothing_to_do_with_each_other() {
        let x = tensor_of(vec![f32::from_bits(1.0_f32.to_bits() + 0x8000); COUNT]);
        let up = |number| {
            rounded(&x, key(number)).into_iter().map(|x| if x > 1.0 { 1.0 } else { -1.0 }).collect::<Vec<f64>>()
        };
        let correlation = |a: &[f64], b: &[f64]| {
            let sum: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            sum / (a.len().min(b.len()) as f64).sqrt()
        };
        for number in 0..20 {
            let (one, other) = (up(number), up(number + 1));
            let apart = [1, 2, 3, 16, 64, 128, 768, 4096].map(|apart| correlation(&one, &one[apart..]));
            for found in apart.into_iter().chain([correlation(&one, &other), one.iter().sum::<f64>() / 256.0]) {
                assert!(found.abs() < 5.0, "{found} standard deviations");
            }
        }
    }

    #[test]
    fn what_bf16_holds_stays() {
        let all = (0..=u16::MAX).map(|bits| bf16::from_bits(bits).to_f32()).collect::<Vec<_>>();
        for number in 0..8 {
            for (found, x) in rounded(&tensor_of(all.clone()), key(number)).iter().zip(&all) {
                assert!(found.to_bits() == x.to_bits() || (found.is_nan() && x.is_nan()), "{found} {x}");
            }
        }
        assert!(
            rounded(&tensor_of(vec![f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)]), 1)
                .iter()
                .all(|x| x.is_nan())
        );
    }

    /// Whatever the shape, the number of threads and, but for the smallest numbers, the device.
    #[test]
    fn the_same_key_rounds_the_same_everywhere() {
        let mut rng = crate::rng::Rng::named(3, "numbers");
        let mut values: Vec<f32> =
            (0..COUNT + 77).map(|_| rng.normal() as f32 * 10_f32.powi(rng.below(30) as i32 - 15)).collect();
        // Powers of two, and what is just below and above.
        values.extend((-100..100).flat_map(|n| {
            let power = 2.0_f32.powi(n);
            [power, -power]
                .into_iter()
                .flat_map(|x| [-2, -1, 0, 1, 2].map(|by| f32::from_bits((x.to_bits() as i32 + by) as u32)))
        }));
        let x = tensor_of(values);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| rounded(&x, key(5)))
        };
        let found = on(1);
        assert_eq!(found, on(2));
        assert_eq!(found, on(5));
        assert_ne!(found, rounded(&x, key(6)));
        let count = x.dims()[0];
        let composed = composed::round_by_chance(x.clone().reshape([1, count]), key(5));
        assert_eq!((composed.dims(), composed.dtype()), ([1, count], DType::BF16));
        assert_eq!(found, widen(composed).into_data().try_to_vec::<f32>().unwrap());
        assert_eq!(composed::round_by_chance(tensor_of(Vec::new()), 1).dims(), [0]);
    }
}
