//! Sums in an order of additions that is written down. Burn's own take vectors as wide as the processor has them, and above
//! [`WHOLE`] elements the order in which threads come: the last bit of a sum, and with it all that is trained, then depends on the machine.

use burn::tensor::Shape;
use half::bf16;

use super::kernel::{Floats, Kernel, Weights, filled, map_each, shape, tensor, values, weights};
use super::math::{vectorised, widen};

/// Lanes of a vector, and vectors that are summed side by side.
const LANES: usize = 8;
const VECTORS: usize = 8;

/// Up to so many elements are summed in one go, more in pieces of [`PIECE`].
const WHOLE: usize = 4 * 1024 * 1024;
const PIECE: usize = 64 * 1024;

vectorised! {
    /// Σ x, or Σ x² if `SQUARED`.
    fn sum_of<const SQUARED: bool>(x: &[f32]) -> f32 {
        let term = |x: f32| if SQUARED { x * x } else { x };
        let mut sums = [[0.0_f32; LANES]; VECTORS];
        let (blocks, rest) = x.as_chunks::<{ LANES * VECTORS }>();
        for block in blocks {
            for (sums, vector) in sums.iter_mut().zip(block.as_chunks::<LANES>().0) {
                for (sum, x) in sums.iter_mut().zip(vector) {
                    *sum += term(*x);
                }
            }
        }
        // Pairs of vectors, pairs of pairs, and so on.
        let mut width = 1;
        while width < VECTORS {
            for at in (0..VECTORS).step_by(2 * width) {
                let other = sums[at + width];
                for (sum, x) in sums[at].iter_mut().zip(other) {
                    *sum += x;
                }
            }
            width *= 2;
        }
        let lanes = &mut sums[0];
        let (vectors, rest) = rest.as_chunks::<LANES>();
        for vector in vectors {
            for (sum, x) in lanes.iter_mut().zip(vector) {
                *sum += term(*x);
            }
        }
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        let rest: f32 = rest.iter().map(|x| term(*x)).sum();
        lanes[0] + rest
    }
}

/// Σ x² over all elements, as `[1]`. Those in `bf16` are widened piece by piece.
pub(super) fn squared_norm(x: &Floats) -> Floats {
    if let Weights::Bf16(x) = weights(x) {
        let of = |x: &[bf16]| {
            // SAFETY: every element is written.
            let wide = unsafe { filled(x.len(), |wide| widen(x, wide)) };
            sum_of::<true>(&wide)
        };
        let total: f64 = map_each(x.len(), x.chunks(PIECE), of).into_iter().map(f64::from).sum();
        return tensor(vec![total as f32], [1]);
    }
    let x = values(x);
    let total = if x.len() < WHOLE {
        sum_of::<true>(x)
    } else {
        map_each(x.len(), x.chunks(PIECE), sum_of::<true>).into_iter().map(f64::from).sum::<f64>() as f32
    };
    tensor(vec![total], [1])
}

/// Σ x over the last dimension, which becomes 1.
#[derive(Debug, Clone)]
pub(super) struct SumLast;

impl Kernel<1> for SumLast {
    type Saved = Shape;

    fn forward(&self, [x]: [Floats; 1], keep: bool) -> (Floats, Option<Shape>) {
        let (whole, width) = shape(&x);
        let mut narrow = whole.clone();
        let last = narrow.num_dims() - 1;
        narrow[last] = 1;
        let sums = match width {
            0 => vec![0.0; narrow.num_elements()],
            _ => values(&x).chunks_exact(width).map(sum_of::<false>).collect(),
        };
        (tensor(sums, narrow), keep.then_some(whole))
    }

    fn backward(&self, whole: Shape, grad: Floats, _wanted: [bool; 1]) -> [Option<Floats>; 1] {
        let width = whole[whole.num_dims() - 1];
        let slopes = values(&grad).iter().flat_map(|&slope| std::iter::repeat_n(slope, width)).collect();
        [Some(tensor(slopes, whole))]
    }
}
