//! Linear layers with what stands around them (bias, activation, residual sum) computed while rows are in the cache.

use std::mem::MaybeUninit;
use std::ops::Range;

use burn::tensor::Shape;
use half::bf16;

use super::activation::{self, Activation};
#[cfg(target_arch = "x86_64")]
use super::few;
use super::kernel::{
    CHUNK, Floats, Kernel, Weights, each, filled, map_each, shape, split_rows, tensor, values, weights,
};
use super::math::{self, vectorised, widen};
use super::norm::add_parts;

/// Rows per piece of work are between these. Each piece packs the weights anew, so it should be large; but its results should still be
/// in the cache when bias and activation are applied.
const FEWEST_ROWS: usize = 128;
const MOST_ROWS: usize = 512;

/// Results narrower than this are not cut for threads.
const TINY: usize = 16;

/// Cuts rows of results that are `width` wide into even pieces, two per thread where there are enough.
///
/// Unlike elsewhere the cut depends on the number of threads. Bits do not: within a product the order of additions depends on the depth
/// alone as long as neither side is tiny ([`multiply`]), and pieces of few rows are only made of few rows.
fn pieces(rows: usize, width: usize) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
    let threads = rayon::current_num_threads();
    let wanted = if threads == 1 || width < TINY { 1 } else { 2 * threads };
    let count = wanted.min(rows / FEWEST_ROWS).max(rows.div_ceil(MOST_ROWS));
    (0..count).map(move |i| i * rows / count..(i + 1) * rows / count)
}

/// A matrix inside a slice: element `(row, column)` is at `row * strides.0 + column * strides.1`.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f32],
    strides: (usize, usize),
}

impl<'a> Matrix<'a> {
    fn new(values: &'a [f32], width: usize) -> Self {
        Self { values, strides: (width, 1) }
    }

    fn transposed(self) -> Self {
        Self { values: self.values, strides: (self.strides.1, self.strides.0) }
    }

    /// Whether every element of a matrix of this size lies inside the slice.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.strides.0 + (columns - 1) * self.strides.1 < self.values.len()
    }
}

/// The deepest product that is added up in one go.
///
/// `gemm` cuts deep products by the size of the processor's first cache (512 where it has 32 KiB, 1,024 where it has 48), and with the cut
/// the order of additions changes: the same training ended elsewhere on another processor. So the cut is made here.
const DEPTH: usize = 512;

/// How deep the parts are that a product `[m, k]` times `[k, n]` is added up of.
fn depth_step((m, n, k): (usize, usize, usize)) -> usize {
    // Vectors and small products are computed in ways of their own, which no cache decides.
    let cut = m > 1 && n > 1 && (m > 64 || n > 64);
    if cut && k > 0 { even_step(k) } else { k.max(1) }
}

/// Depth of even parts of a depth above 0, none deeper than [`DEPTH`].
fn even_step(k: usize) -> usize {
    k.div_ceil(k.div_ceil(DEPTH))
}

/// Whether a product has no element, or each is a sum of nothing. Then `out` is as it should be afterwards.
fn adds_nothing((m, n, k): (usize, usize, usize), out: &mut [MaybeUninit<f32>], add: bool) -> bool {
    if m * n > 0 && k == 0 && !add {
        out.fill(MaybeUninit::new(0.0));
    }
    m * n == 0 || k == 0
}

/// `out = left * right`, or `out += left * right` if `add` (then `out` must be initialised): `[m, k]` times `[k, n]`, `out` row by
/// row. On one thread unless `threads`.
///
/// The order of additions depends on `k` and not on the other sizes, but for special cases below 65 rows or columns; nor does it depend on
/// the processor, as long as it has AVX2 and FMA.
///
/// # Safety
/// With `add`, `out` must be initialised. In any case it is afterwards.
unsafe fn multiply(
    (m, n, k): (usize, usize, usize),
    left: Matrix,
    right: Matrix,
    out: &mut [MaybeUninit<f32>],
    add: bool,
    threads: bool,
) {
    assert!(left.holds(m, k) && right.holds(k, n) && out.len() == m * n, "matrices must have the stated sizes");
    if adds_nothing((m, n, k), out, add) {
        return;
    }
    let parallelism =
        if threads && rayon::current_num_threads() > 1 { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    let step = depth_step((m, n, k));
    for start in (0..k).step_by(step) {
        let depth = step.min(k - start);
        // SAFETY: the assertion above keeps every access inside its slice, `out` is not shared, and it is read only if `add` or after
        // the first part has written it.
        unsafe {
            gemm::gemm(
                m,
                n,
                depth,
                out.as_mut_ptr().cast::<f32>(),
                1,
                n as isize,
                add || start > 0,
                left.values[start * left.strides.1..].as_ptr(),
                left.strides.1 as isize,
                left.strides.0 as isize,
                right.values[start * right.strides.0..].as_ptr(),
                right.strides.1 as isize,
                right.strides.0 as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

/// A matrix of weights, which lies as a [`Matrix`] does.
#[derive(Clone, Copy)]
struct WeightMatrix<'a> {
    values: Weights<'a>,
    strides: (usize, usize),
}

impl WeightMatrix<'_> {
    fn transposed(self) -> Self {
        Self { values: self.values, strides: (self.strides.1, self.strides.0) }
    }
}

/// The most columns of weights in `bf16` that are widened at once: with [`DEPTH`] rows half a mebibyte, which stays in the second cache.
const COLUMNS: usize = 256;

/// A vector that parts of it are written to from several threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared(*mut f32);

// SAFETY: who writes through it says why no two threads write the same element.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The element at a place.
    ///
    /// # Safety
    /// The place must be inside the vector.
    pub(super) unsafe fn at(self, place: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(place) }
    }
}

/// [`multiply`] with weights on the right. Those in `bf16` are widened block by block, so that no copy of the whole is ever there; sums are
/// those of the same numbers in `f32`.
///
/// # Safety
/// As [`multiply`].
unsafe fn multiply_weights(
    (m, n, k): (usize, usize, usize),
    left: Matrix,
    right: WeightMatrix,
    out: &mut [MaybeUninit<f32>],
    add: bool,
    threads: bool,
) {
    #[cfg(target_arch = "x86_64")]
    if few::takes((m, n, k)) {
        // SAFETY: the caller's promise.
        return unsafe { multiply_few((m, n, k), left, right, out, add, threads) };
    }
    let (WeightMatrix { strides, .. }, numbers) = match right.values {
        // SAFETY: the caller's promise.
        Weights::F32(values) => {
            return unsafe { multiply((m, n, k), left, Matrix { values, strides: right.strides }, out, add, threads) };
        }
        Weights::Bf16(numbers) => (right, numbers),
    };
    let last = |rows: usize, columns: usize| (rows - 1) * strides.0 + (columns - 1) * strides.1;
    assert!(left.holds(m, k) && out.len() == m * n, "matrices must have the stated sizes");
    assert!(strides.0 == 1 || strides.1 == 1, "weights lie row by row or column by column");
    if adds_nothing((m, n, k), out, add) {
        return;
    }
    assert!(last(k, n) < numbers.len(), "matrices must have the stated sizes");
    let (step, blocks) = (even_step(k), n.div_ceil(COLUMNS));
    let out = Shared(out.as_mut_ptr().cast());
    let block = |index: usize| {
        let columns = index * n / blocks..(index + 1) * n / blocks;
        let mut wide = Vec::with_capacity(step * columns.len());
        for start in (0..k).step_by(step) {
            let depth = start..k.min(start + step);
            // A block lies as the whole does.
            let (lines, of_line, line, strides) = match strides {
                (line, 1) => (depth.clone(), columns.clone(), line, (columns.len(), 1)),
                (_, line) => (columns.clone(), depth.clone(), line, (1, depth.len())),
            };
            wide.clear();
            let places = &mut wide.spare_capacity_mut()[..lines.len() * of_line.len()];
            for (index, out) in lines.zip(places.chunks_exact_mut(of_line.len())) {
                widen(&numbers[index * line + of_line.start..index * line + of_line.end], out);
            }
            // SAFETY: the lines cover the places. Products read and write inside of their slices, as asserted above; blocks have their own
            // columns, which are read only if `add` or after the first part has written them.
            unsafe {
                wide.set_len(depth.len() * columns.len());
                gemm::gemm(
                    m,
                    columns.len(),
                    depth.len(),
                    out.at(columns.start),
                    1,
                    n as isize,
                    add || start > 0,
                    left.values[start * left.strides.1..].as_ptr(),
                    left.strides.1 as isize,
                    left.strides.0 as isize,
                    wide.as_ptr(),
                    strides.1 as isize,
                    strides.0 as isize,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        }
    };
    each(if threads { m * n * k / 16 } else { 0 }, 0..blocks, block);
}

/// [`multiply_weights`] for [a few rows](few).
///
/// # Safety
/// As [`multiply`].
#[cfg(target_arch = "x86_64")]
unsafe fn multiply_few(
    sizes: (usize, usize, usize),
    left: Matrix,
    right: WeightMatrix,
    out: &mut [MaybeUninit<f32>],
    add: bool,
    threads: bool,
) {
    let (m, n, k) = sizes;
    assert!(left.strides == (k, 1) && left.values.len() == m * k && out.len() == m * n, "rows lie one after the other");
    let lines = match right.strides {
        (line, 1) => few::Lines::Inputs(line),
        (1, line) => few::Lines::Outputs(line),
        _ => unreachable!("weights lie row by row or column by column"),
    };
    let (rows, step, out) = (left.values, even_step(k), Shared(out.as_mut_ptr().cast()));
    // SAFETY: there is room for the product, and the caller's promise.
    unsafe {
        match right.values {
            Weights::F32(weights) => few::Product { sizes, rows, weights, lines, step, add }.write(out, threads),
            Weights::Bf16(weights) => few::Product { sizes, rows, weights, lines, step, add }.write(out, threads),
        }
    }
}

/// `after(x * weight + bias) + residual` for each row of `x`, over inputs `[x, weight]`, then bias and residual where there are any.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    /// `weight` is `[out, in]` (a tied embedding) instead of `[in, out]`.
    pub(super) transposed: bool,
    /// Whether inputs have a bias.
    pub(super) bias: bool,
    /// Whether inputs have a residual, shaped like the result.
    pub(super) residual: bool,
    /// Applied to the sum of product and bias.
    pub(super) after: Option<Activation>,
    /// Whether the weight has no gradient, so that the rows need not be kept for it.
    pub(super) frozen: bool,
    /// Whether the gradient of the weight is in `bf16`, as the weight is.
    pub(super) rounds: bool,
}

#[derive(Debug, Clone)]
pub(super) struct LinearSaved {
    /// The rows, unless the weight is frozen.
    x: Option<Floats>,
    /// Their shape.
    rows: Shape,
    weight: Floats,
    /// What the activation was applied to.
    before: Option<Floats>,
}

impl LinearSaved {
    /// What is kept of a layer without bias and activation.
    pub(super) fn plain(x: Floats, weight: Floats) -> Self {
        Self { rows: shape(&x).0, x: Some(x), weight, before: None }
    }
}

vectorised! {
    /// Writes `bias + residual` (either may be empty) to each row.
    fn start_rows(bias: &[f32], residual: &[f32], out: &mut [MaybeUninit<f32>]) {
        if bias.is_empty() {
            for (out, &r) in out.iter_mut().zip(residual) {
                out.write(r);
            }
        } else if residual.is_empty() {
            for out in out.chunks_exact_mut(bias.len()) {
                for (out, &b) in out.iter_mut().zip(bias) {
                    out.write(b);
                }
            }
        } else {
            for (out, r) in out.chunks_exact_mut(bias.len()).zip(residual.chunks_exact(bias.len())) {
                for (out, (&b, &r)) in out.iter_mut().zip(bias.iter().zip(r)) {
                    out.write(b + r);
                }
            }
        }
    }
}

vectorised! {
    /// The sum of each column.
    fn column_sums(width: usize, rows: &[f32]) -> Vec<f32> {
        let mut sums = vec![0.0; width];
        for row in rows.chunks_exact(width) {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
        sums
    }
}

impl Linear {
    /// The weights as `[in, out]`, and these two sizes.
    fn weights<'a>(&self, weight: &'a Floats) -> (WeightMatrix<'a>, usize, usize) {
        let (shape, width) = shape(weight);
        let matrix = WeightMatrix { values: weights(weight), strides: (width, 1) };
        if self.transposed { (matrix.transposed(), width, shape[0]) } else { (matrix, shape[0], width) }
    }
}

impl<const N: usize> Kernel<N> for Linear {
    type Saved = LinearSaved;

    fn forward(&self, inputs: [Floats; N], keep: bool) -> (Floats, Option<LinearSaved>) {
        let mut inputs = inputs.into_iter();
        let (Some(x), Some(weight)) = (inputs.next(), inputs.next()) else {
            unreachable!("a linear layer has at least an input and a weight");
        };
        let bias = if self.bias { inputs.next() } else { None };
        let residual = if self.residual { inputs.next() } else { None };
        let (matrix, wide, narrow) = self.weights(&weight);
        let (mut out_shape, width) = shape(&x);
        let x_shape = out_shape.clone();
        assert_eq!(width, wide, "the weight must have as many inputs as the rows have elements");
        let last = out_shape.num_dims() - 1;
        out_shape[last] = narrow;
        let input = values(&x);
        let rows = input.len() / wide.max(1);
        let bias = bias.as_ref().map_or(&[][..], values);
        let residual = residual.as_ref().map_or(&[][..], values);
        assert!(!self.bias || bias.len() == narrow, "the bias must have as many elements as the weight has outputs");
        assert!(!self.residual || residual.len() == rows * narrow, "the residual must be shaped like the result");
        let cost = rows * wide * narrow / 16;
        // A few rows, such as the newest tokens of texts that are being written, are not cut: threads share their columns.
        let cut = pieces(rows, narrow);
        let alone = cut.len() == 1;
        let product = |rows: Range<usize>, out: &mut [MaybeUninit<f32>]| {
            let residual =
                if residual.is_empty() { residual } else { &residual[rows.start * narrow..rows.end * narrow] };
            let start = !bias.is_empty() || !residual.is_empty();
            if start {
                start_rows(bias, residual, out);
            }
            let x = Matrix::new(&input[rows.start * wide..rows.end * wide], wide);
            // SAFETY: `start_rows` has initialised `out` where the product is added to it.
            unsafe { multiply_weights((rows.len(), narrow, wide), x, matrix, out, start, alone) };
        };
        let mut before = None;
        // SAFETY: the pieces cover each vector, and `product` and `apply` write whole pieces.
        let output = unsafe {
            filled(rows * narrow, |out| {
                let (outs, _) = split_rows(out, narrow, cut.clone());
                match self.after {
                    None => each(cost, outs.into_iter().zip(cut), |(out, rows)| product(rows, out)),
                    Some(after) => {
                        before = Some(filled(rows * narrow, |before| {
                            let (befores, _) = split_rows(before, narrow, cut.clone());
                            each(cost, outs.into_iter().zip(befores).zip(cut), |((out, before), rows)| {
                                product(rows, before);
                                activation::apply(after, assume_init(before), out);
                            });
                        }));
                    }
                }
            })
        };
        let before = before.filter(|_| keep).map(|before| tensor(before, [rows * narrow]));
        let saved = keep.then(|| LinearSaved { x: Some(x).filter(|_| !self.frozen), rows: x_shape, weight, before });
        (tensor(output, out_shape), saved)
    }

    fn wanting(self, wanted: [bool; N]) -> Self {
        Self { frozen: !wanted[1], ..self }
    }

    fn backward(&self, saved: LinearSaved, grad: Floats, wanted: [bool; N]) -> [Option<Floats>; N] {
        let mut results = [const { None }; N];
        if self.residual && wanted[N - 1] {
            results[N - 1] = Some(grad.clone());
        }
        let LinearSaved { x, rows: x_shape, weight, before } = saved;
        let (matrix, wide, narrow) = self.weights(&weight);
        let elements = x_shape.num_elements();
        let rows = elements / wide.max(1);
        let cost = rows * wide * narrow / 16;
        let mut grad = grad;
        if let (Some(after), Some(before)) = (self.after, &before) {
            let slopes = grad.storage_mut::<f32>();
            let pieces = slopes.chunks_mut(CHUNK).zip(values(before).chunks(CHUNK));
            each(activation::COST * rows * narrow, pieces, |(grad, before)| {
                activation::apply_slope(after, before, grad)
            });
        }
        let slopes = values(&grad);
        if wanted[0] {
            // SAFETY: the pieces cover the vector, and each product writes a whole piece.
            let grad_x = unsafe {
                filled(elements, |out| {
                    let (outs, _) = split_rows(out, wide, pieces(rows, wide));
                    each(cost, outs.into_iter().zip(pieces(rows, wide)), |(out, rows)| {
                        let grad = Matrix::new(&slopes[rows.start * narrow..rows.end * narrow], narrow);
                        multiply_weights((rows.len(), wide, narrow), grad, matrix.transposed(), out, false, false);
                    });
                })
            };
            results[0] = Some(tensor(grad_x, x_shape));
        }
        if let Some(x) = x.filter(|_| wanted[1]) {
            let (input, sizes) = (values(&x), (rows, wide, narrow));
            let shape: Shape = if self.transposed { [narrow, wide].into() } else { [wide, narrow].into() };
            results[1] = Some(match self.rounds {
                true => tensor(rounded_gradient(input, slopes, sizes, self.transposed), shape),
                // SAFETY: the product writes the whole vector.
                false => unsafe {
                    let write = |out: &mut [MaybeUninit<f32>]| {
                        weight_gradient(input, slopes, sizes, self.transposed, out, false);
                    };
                    tensor(filled(wide * narrow, write), shape)
                },
            });
        }
        if self.bias && wanted[2] {
            let parts =
                map_each(rows * narrow, slopes.chunks((FEWEST_ROWS * narrow).max(1)), |grad| column_sums(narrow, grad));
            results[2] = Some(tensor(add_parts(parts, narrow), [narrow]));
        }
        results
    }
}

/// The largest number of rows, at most `most`, in which the gradient of a weight `[wide, narrow]` may be summed over `rows` rows so that
/// it has the same bits as that of all rows at once; where that is more than `most`, `most`.
pub(super) fn rows_of_a_part(rows: usize, (wide, narrow): (usize, usize), most: usize) -> usize {
    depth_step((wide, narrow, rows)).min(most).max(1)
}

/// Writes the gradient of a weight (`[out, in]` if `transposed`, else `[in, out]`) from rows `x` `[rows, in]` and the slopes of the results
/// `[rows, out]`, or adds it if `add`.
///
/// # Safety
/// With `add`, `out` must be initialised. In any case it is afterwards.
pub(super) unsafe fn weight_gradient(
    x: &[f32],
    slopes: &[f32],
    (rows, wide, narrow): (usize, usize, usize),
    transposed: bool,
    out: &mut [MaybeUninit<f32>],
    add: bool,
) {
    let (x, slopes) = (Matrix::new(x, wide), Matrix::new(slopes, narrow));
    // SAFETY: the caller's promise is the product's.
    unsafe {
        if transposed {
            multiply((narrow, wide, rows), slopes.transposed(), x, out, add, true);
        } else {
            multiply((wide, narrow, rows), x.transposed(), slopes, out, add, true);
        }
    }
}

/// Rows of a gradient in `bf16` that are there in `f32` at once.
const ROUNDED: usize = 128;

/// [`weight_gradient`] in `bf16`: each number is summed in `f32` and rounded once. The whole is never there in `f32`.
fn rounded_gradient(
    x: &[f32],
    slopes: &[f32],
    (rows, wide, narrow): (usize, usize, usize),
    transposed: bool,
) -> Vec<bf16> {
    let (x, slopes) = (Matrix::new(x, wide), Matrix::new(slopes, narrow));
    let (left, right, height, width) = match transposed {
        true => (slopes.transposed(), x, narrow, wide),
        false => (x.transposed(), slopes, wide, narrow),
    };
    if rows == 0 {
        return vec![bf16::ZERO; height * width];
    }
    let count = height.div_ceil(ROUNDED);
    let cut = (0..count).map(|i| i * height / count..(i + 1) * height / count);
    // SAFETY: the pieces cover the vector; of each, the product writes every number, and so does rounding.
    unsafe {
        filled(height * width, |out| {
            let (outs, _) = split_rows(out, width, cut.clone());
            each(rows * height * width / 16, outs.into_iter().zip(cut), |(out, lines)| {
                let part = Matrix { values: &left.values[lines.start * left.strides.0..], ..left };
                let sums = filled(out.len(), |sums| {
                    multiply((lines.len(), width, rows), part, right, sums, false, false);
                });
                math::narrow(&sums, out);
            });
        })
    }
}

/// Some columns of a matrix in `bf16` that is a parameter, of which the gradient is in `bf16`, too.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    pub(super) start: usize,
    pub(super) width: usize,
}

impl Kernel<1> for Columns {
    type Saved = Shape;

    fn forward(&self, [matrix]: [Floats; 1], keep: bool) -> (Floats, Option<Shape>) {
        let (whole, width) = shape(&matrix);
        let lines = matrix.storage::<bf16>().chunks_exact(width.max(1));
        let columns: Vec<bf16> = lines.flat_map(|line| &line[self.start..][..self.width]).copied().collect();
        (tensor(columns, [whole[0], self.width]), keep.then_some(whole))
    }

    fn backward(&self, whole: Shape, grad: Floats, _wanted: [bool; 1]) -> [Option<Floats>; 1] {
        let width = whole[1];
        // SAFETY: each line is filled first.
        let lines = unsafe {
            filled(whole.num_elements(), |out: &mut [MaybeUninit<bf16>]| {
                out.fill(MaybeUninit::new(bf16::ZERO));
                for (out, grad) in out.chunks_exact_mut(width).zip(values(&grad).chunks_exact(self.width)) {
                    math::narrow(grad, &mut out[self.start..][..self.width]);
                }
            })
        };
        [Some(tensor(lines, whole))]
    }
}

/// The same slice, known to be initialised.
///
/// # Safety
/// Every element must be initialised.
pub(super) unsafe fn assume_init(values: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    // SAFETY: `MaybeUninit<f32>` is laid out like `f32`, and the caller promises that the elements are initialised.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut [f32]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A product of a few rows has the bits of `gemm`'s, on any number of threads.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_few_rows_have_the_bits_of_many() {
        let mut state = 1_u32;
        let mut numbers = |len: usize| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 8_388_608.0 - 1.0
            };
            (0..len).map(|_| next()).collect()
        };
        let bits = |out: Vec<MaybeUninit<f32>>| -> Vec<u32> {
            // SAFETY: all of it was initialised before the product was written to it.
            out.into_iter().map(|x| unsafe { x.assume_init() }.to_bits()).collect()
        };
        for m in [2, 3, 4, 5, 8, 11, 16] {
            for (n, k) in [(65, 3), (129, 77), (200, 515), (3000, 8), (515, 1030), (1025, 9), (5461, 3)] {
                if !few::takes((m, n, k)) {
                    continue;
                }
                let x = numbers(m * k);
                let narrow: Vec<bf16> = numbers(n * k).into_iter().map(bf16::from_f32).collect();
                let wide: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
                let start: Vec<MaybeUninit<f32>> = numbers(m * n).into_iter().map(MaybeUninit::new).collect();
                for (strides, add) in [((n, 1), false), ((n, 1), true), ((1, k), false), ((1, k), true)] {
                    let mut many = start.clone();
                    // SAFETY: everything is initialised.
                    unsafe {
                        let right = Matrix { values: &wide, strides };
                        multiply((m, n, k), Matrix::new(&x, k), right, &mut many, add, false);
                    }
                    let many = bits(many);
                    for values in [Weights::F32(&wide), Weights::Bf16(&narrow)] {
                        for threads in [1, 3, 70] {
                            let mut out = start.clone();
                            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                            let write = || {
                                let right = WeightMatrix { values, strides };
                                // SAFETY: everything is initialised.
                                unsafe { multiply_weights((m, n, k), Matrix::new(&x, k), right, &mut out, add, true) }
                            };
                            pool.install(write);
                            assert!(bits(out) == many, "{m} {n} {k} {strides:?} {add} {values:?} {threads}");
                        }
                    }
                }
            }
        }
    }
}
