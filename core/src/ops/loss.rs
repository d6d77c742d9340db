//! Cross-entropy without the probabilities in between, and what else losses want to know of a distribution over a vocabulary.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::activation::SoftCap;
use super::kernel::{Floats, Kernel, each, filled, shape, tensor, values};
use super::linear::{Linear, LinearSaved, rows_of_a_part, weight_gradient};
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

/// Numbers per token, in the order of [`token_statistics`](super::token_statistics).
pub(super) const STATISTICS: usize = 5;

/// Elements of the logits that are there at once: 128 MiB. A vocabulary of up to 65,536 tokens is cut as its whole product would be.
const LOGITS: usize = 32 * 1024 * 1024;

/// The rows of one part of `rows` whose logits are there at once.
pub(super) fn part(rows: usize, sizes: (usize, usize)) -> usize {
    rows_of_a_part(rows, sizes, LOGITS / sizes.1.max(1))
}

/// Cuts rows into parts.
pub(super) fn parts(rows: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(size).map(move |start| start..rows.min(start + size))
}

vectorised! {
    /// Writes the five numbers of each row of logits.
    fn describe(width: usize, labels: &[u32], logits: &[f32], out: &mut [f32]) {
        for (x, (&label, out)) in logits.chunks_exact(width).zip(labels.iter().zip(out.chunks_exact_mut(STATISTICS))) {
            let top = largest(x);
            // Sums of e^d, of d e^d, of e^2d and of d, d being the distance from the largest.
            let (mut sums, mut weighted, mut squares, mut distances) = ([0.0; LANES], [0.0; LANES], [0.0; LANES], [0.0; LANES]);
            let (chunks, rest) = x.as_chunks::<LANES>();
            for x in chunks {
                for l in 0..LANES {
                    let d = x[l] - top;
                    let e = exp(d);
                    sums[l] += e;
                    weighted[l] += d * e;
                    squares[l] += e * e;
                    distances[l] += d;
                }
            }
            for (l, &x) in rest.iter().enumerate() {
                let d = x - top;
                let e = exp(d);
                sums[l] += e;
                weighted[l] += d * e;
                squares[l] += e * e;
                distances[l] += d;
            }
            let sum = add_lanes(sums);
            let log_sum = top + sum.ln();
            out[0] = x[label as usize] - log_sum;
            out[1] = top - log_sum;
            out[2] = sum.ln() - add_lanes(weighted) / sum;
            out[3] = add_lanes(distances) / width as f32 - sum.ln();
            out[4] = add_lanes(squares) / (sum * sum);
        }
    }
}

vectorised! {
    /// Overwrites logits with their slopes, from the slopes of the five numbers.
    fn descend(width: usize, labels: &[u32], log_sums: &[f32], numbers: &[f32], slopes: &[f32], logits: &mut [f32]) {
        let rows = labels.iter().zip(log_sums).zip(numbers.chunks_exact(STATISTICS).zip(slopes.chunks_exact(STATISTICS)));
        for (x, ((&label, &log_sum), (numbers, slopes))) in logits.chunks_exact_mut(width).zip(rows) {
            let (entropy, collision) = (numbers[2], numbers[4]);
            let (of_entropy, of_collision, each) = (slopes[2], 2.0 * slopes[4], slopes[3] / width as f32);
            let all = -(slopes[0] + slopes[1] + slopes[3]);
            let top = largest(x);
            let own = x.iter().position(|x| *x == top);
            for x in x.iter_mut() {
                let log_p = *x - log_sum;
                let p = exp(log_p);
                *x = p * (all - of_entropy * (log_p + entropy) + of_collision * (p - collision)) + each;
            }
            x[label as usize] += slopes[0];
            if let Some(own) = own {
                x[own] += slopes[1];
            }
        }
    }
}

/// A language-model head without bias, and rows that go through it in parts.
pub(super) struct Vocabulary<'a> {
    /// `[out, in]` if `transposed`, else `[in, out]`.
    pub(super) weight: &'a Floats,
    pub(super) transposed: bool,
    pub(super) cap: Option<SoftCap>,
}

impl Vocabulary<'_> {
    /// Inputs and outputs.
    fn sizes(&self) -> (usize, usize) {
        let (shape, width) = shape(self.weight);
        if self.transposed { (width, shape[0]) } else { (shape[0], width) }
    }

    fn layer(&self) -> Linear {
        Linear { transposed: self.transposed, bias: false, residual: false, after: None, frozen: false, rounds: false }
    }

    fn logits(&self, hidden: Floats) -> Floats {
        let mut logits = self.layer().forward([hidden, self.weight.clone()], false).0;
        if let Some(cap) = self.cap {
            cap.apply(&mut logits);
        }
        logits
    }

    /// The five numbers of each row.
    pub(super) fn describe(&self, hidden: &Floats, labels: &[u32]) -> Floats {
        let (wide, narrow) = self.sizes();
        let mut numbers = vec![0.0; labels.len() * STATISTICS];
        for rows in parts(labels.len(), part(labels.len(), (wide, narrow))) {
            let logits = self.logits(some(hidden, &rows, wide));
            let out = numbers[rows.start * STATISTICS..rows.end * STATISTICS].chunks_mut(ROWS * STATISTICS);
            let pieces = out.zip(labels[rows].chunks(ROWS)).zip(values(&logits).chunks((ROWS * narrow).max(1)));
            each(2 * COST * values(&logits).len(), pieces, |((out, labels), x)| describe(narrow, labels, x, out));
        }
        tensor(numbers, [labels.len(), STATISTICS])
    }

    /// Gradients of hidden states and, if `with_weight`, of the weight, from the five numbers and their slopes.
    pub(super) fn descend(
        &self,
        hidden: &Floats,
        labels: &[u32],
        numbers: &Floats,
        slopes: &Floats,
        with_weight: bool,
    ) -> (Floats, Option<Floats>) {
        let (wide, narrow) = self.sizes();
        let mut grad_hidden = Vec::with_capacity(labels.len() * wide);
        let mut run = |mut grad_weight: Option<&mut [MaybeUninit<f32>]>| {
            for rows in parts(labels.len(), part(labels.len(), (wide, narrow))) {
                let x = some(hidden, &rows, wide);
                let mut logits = self.logits(x.clone());
                let capped = self.cap.map(|cap| (cap, values(&logits).to_vec()));
                let of = |table: &[f32]| table[rows.start * STATISTICS..rows.end * STATISTICS].to_vec();
                slope(narrow, &labels[rows.clone()], &of(values(numbers)), &of(values(slopes)), &mut logits);
                if let Some((cap, capped)) = capped {
                    cap.descend(&capped, &mut logits);
                }
                if let Some(out) = &mut grad_weight {
                    // SAFETY: the first part writes everything, and the others add to it.
                    unsafe {
                        let sizes = (rows.len(), wide, narrow);
                        weight_gradient(values(&x), values(&logits), sizes, self.transposed, out, rows.start > 0);
                    }
                }
                let saved = LinearSaved::plain(x, self.weight.clone());
                let [grad, _] = Kernel::<2>::backward(&self.layer(), saved, logits, [true, false]);
                grad_hidden.extend_from_slice(grad.as_ref().map_or(&[], values));
            }
        };
        let grad_weight = match with_weight && !labels.is_empty() {
            // SAFETY: there is a first part, and it writes every element.
            true => Some(unsafe { filled(wide * narrow, |out| run(Some(out))) }),
            false => {
                run(None);
                with_weight.then(|| vec![0.0; wide * narrow])
            }
        };
        let grad_weight = grad_weight.map(|grad| tensor(grad, shape(self.weight).0));
        (tensor(grad_hidden, [labels.len(), wide]), grad_weight)
    }
}

/// Some rows of a matrix that is `width` wide.
fn some(matrix: &Floats, rows: &Range<usize>, width: usize) -> Floats {
    tensor(values(matrix)[rows.start * width..rows.end * width].to_vec(), [rows.len(), width])
}

/// Overwrites the logits of some rows with their slopes.
fn slope(width: usize, labels: &[u32], numbers: &[f32], slopes: &[f32], logits: &mut Floats) {
    let x = logits.storage_mut::<f32>();
    let cost = 2 * COST * x.len();
    let of_rows = numbers.chunks(ROWS * STATISTICS).zip(slopes.chunks(ROWS * STATISTICS));
    let pieces = x.chunks_mut((ROWS * width).max(1)).zip(labels.chunks(ROWS).zip(of_rows));
    each(cost, pieces, |(x, (labels, (numbers, slopes)))| {
        let mut sums = [0.0; ROWS];
        let sums = &mut sums[..labels.len()];
        log_sums(width, x, sums);
        descend(width, labels, sums, numbers, slopes, x);
    });
}
