//! The squared norm, for limiting gradients.

use super::kernel::{Floats, map_each, tensor, values};
use super::math::vectorised;

/// Lanes of a vector, and vectors that are summed side by side. Fixed, because both decide the order of additions; Burn's own sum takes
/// vectors as wide as the processor has them, and with more than [`WHOLE`] elements the order in which threads come.
const LANES: usize = 8;
const VECTORS: usize = 8;

/// Up to so many elements are summed in one go, more in pieces of [`PIECE`].
const WHOLE: usize = 4 * 1024 * 1024;
const PIECE: usize = 64 * 1024;

vectorised! {
    /// Σ x².
    fn sum_of_squares(x: &[f32]) -> f32 {
        let mut sums = [[0.0_f32; LANES]; VECTORS];
        let (blocks, rest) = x.as_chunks::<{ LANES * VECTORS }>();
        for block in blocks {
            for (sums, vector) in sums.iter_mut().zip(block.as_chunks::<LANES>().0) {
                for (sum, x) in sums.iter_mut().zip(vector) {
                    *sum += x * x;
                }
            }
        }
        // Pairs of vectors, pairs of pairs, and so on.
        let mut width = 1;
        while width < VECTORS {
            for at in (0..VECTORS).step_by(2 * width) {
                for lane in 0..LANES {
                    sums[at][lane] += sums[at + width][lane];
                }
            }
            width *= 2;
        }
        let lanes = &mut sums[0];
        let (vectors, rest) = rest.as_chunks::<LANES>();
        for vector in vectors {
            for (sum, x) in lanes.iter_mut().zip(vector) {
                *sum += x * x;
            }
        }
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        let rest: f32 = rest.iter().map(|x| x * x).sum();
        lanes[0] + rest
    }
}

/// Σ x² over all elements, as `[1]`: the same bits on every processor with AVX2 and any number of threads.
pub(super) fn squared_norm(x: &Floats) -> Floats {
    let x = values(x);
    let total = if x.len() < WHOLE {
        sum_of_squares(x)
    } else {
        map_each(x.len(), x.chunks(PIECE), sum_of_squares).into_iter().map(f64::from).sum::<f64>() as f32
    };
    tensor(vec![total], [1])
}
