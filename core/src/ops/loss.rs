//! Cross-entropy without the probabilities in between.

use super::kernel::{Floats, Kernel, each, shape, tensor, values};
use super::math::{LANES, add_lanes, exp, largest, vectorised};

/// Rows per piece of work.
const ROWS: usize = 32;

/// About how many element operations this costs per element, for deciding on threads.
const COST: usize = 6;

/// Cross-entropy of each row of logits against one class.
#[derive(Debug, Clone)]
pub(super) struct CrossEntropy {
    pub(super) targets: Vec<u32>,
}

vectorised! {
    /// Writes the logarithm of the sum of exponentials of each row.
    fn log_sums(width: usize, logits: &[f32], out: &mut [f32]) {
        for (x, out) in logits.chunks_exact(width).zip(out) {
            let top = largest(x);
            let mut lanes = [0.0; LANES];
            let (chunks, rest) = x.as_chunks::<LANES>();
            for x in chunks {
                for l in 0..LANES {
                    lanes[l] += exp(x[l] - top);
                }
            }
            for (lane, &x) in lanes.iter_mut().zip(rest) {
                *lane += exp(x - top);
            }
            *out = top + add_lanes(lanes).ln();
        }
    }
}

vectorised! {
    /// Overwrites logits with `(softmax - target) * grad` of their row.
    fn slopes(width: usize, targets: &[u32], log_sums: &[f32], grad: &[f32], logits: &mut [f32]) {
        for (x, (&target, (&log_sum, &grad))) in
            logits.chunks_exact_mut(width).zip(targets.iter().zip(log_sums.iter().zip(grad)))
        {
            for x in x.iter_mut() {
                *x = exp(*x - log_sum) * grad;
            }
            x[target as usize] -= grad;
        }
    }
}

impl Kernel<1> for CrossEntropy {
    type Saved = (Floats, Vec<f32>);

    fn forward(&self, [logits]: [Floats; 1], keep: bool) -> (Floats, Option<Self::Saved>) {
        let (shape, width) = shape(&logits);
        let x = values(&logits);
        assert_eq!(shape[0], self.targets.len(), "cross-entropy takes one target per row");
        let mut sums = vec![0.0; self.targets.len()];
        each(COST * x.len(), sums.chunks_mut(ROWS).zip(x.chunks((ROWS * width).max(1))), |(out, x)| {
            log_sums(width, x, out)
        });
        let rows = sums.iter().zip(x.chunks_exact(width)).zip(&self.targets);
        let losses = rows.map(|((sum, x), &target)| sum - x[target as usize]).collect();
        (tensor(losses, [self.targets.len()]), keep.then_some((logits, sums)))
    }

    fn backward(&self, (mut logits, sums): Self::Saved, grad: Floats, _wanted: [bool; 1]) -> [Option<Floats>; 1] {
        let (_, width) = shape(&logits);
        let grad = values(&grad);
        let x = logits.storage_mut::<f32>();
        let rows = self.targets.chunks(ROWS).zip(sums.chunks(ROWS).zip(grad.chunks(ROWS)));
        each(COST * x.len(), x.chunks_mut((ROWS * width).max(1)).zip(rows), |(x, (targets, (sums, grad)))| {
            slopes(width, targets, sums, grad, x);
        });
        [Some(logits)]
    }
}
