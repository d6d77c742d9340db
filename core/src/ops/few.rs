//! Products of a few rows with a matrix of weights, as where texts are written token by token.
//!
//! What such a product costs is reading the weights. So each is read once, in the order in which it lies, where `gemm` lays them out anew first or
//! jumps from line to line. Results have the bits of `gemm`'s: a sum per element that begins at nothing, in the order of the depth, with one
//! rounding per product and addition; parts of the depth are added afterwards.

use std::arch::x86_64::{
    __m256, _MM_HINT_T1, _mm_loadu_si128, _mm_prefetch, _mm256_add_ps, _mm256_castsi256_ps, _mm256_cvtepu16_epi32,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_shuffle_ps,
    _mm256_slli_epi32, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
};
use std::array::from_fn;
use std::ops::Range;

use half::bf16;

use super::kernel::each;
use super::linear::Shared;
use super::math::has_wide_vectors;

/// The most rows for which this is faster than `gemm`.
const MOST_ROWS: usize = 16;

/// Numbers in a vector.
const LANES: usize = 8;

/// Lines of weights that are read together.
const LINES: usize = 4;

/// Sums that a piece of work keeps while it reads lines of weights: 32 KiB.
const SUMS: usize = 8192;

/// The fewest columns that are worth a thread of their own.
const NARROWEST: usize = 64;

/// Columns in a piece of work where the weights of a column lie beside each other.
const COLUMNS: usize = 256;

/// Numbers to the next line of the cache.
const fn cached<W>() -> usize {
    64 / size_of::<W>()
}

/// A number format of weights.
pub(super) trait Weight: Copy + Sync {
    /// The number.
    fn wide(self) -> f32;

    /// Eight of them.
    ///
    /// # Safety
    /// They must be there, and the processor must have AVX2.
    unsafe fn eight(from: *const Self) -> __m256;
}

impl Weight for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn eight(from: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }
}

impl Weight for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    unsafe fn eight(from: *const bf16) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())))) }
    }
}

/// How the weights `[k, n]` of a product lie.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lines {
    /// Each line has the weights of one input; lines are so long.
    Inputs(usize),
    /// Each line has the weights of one output.
    Outputs(usize),
}

/// Whether a product `[m, k]` times `[k, n]` is made here. `gemm` has ways of its own for what is narrow, flat or small, which have other bits.
pub(super) fn takes((m, n, k): (usize, usize, usize)) -> bool {
    (2..=MOST_ROWS).contains(&m) && n > 64 && m * n > 256 && k > 2 && has_wide_vectors()
}

/// A product of a few rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product<'a, W> {
    /// Rows, columns and depth, which [`takes`] must take.
    pub(super) sizes: (usize, usize, usize),
    /// The rows, one after the other.
    pub(super) rows: &'a [f32],
    pub(super) weights: &'a [W],
    pub(super) lines: Lines,
    /// How deep the parts are that are added.
    pub(super) step: usize,
    /// Whether it is added to what is there.
    pub(super) add: bool,
}

impl<W: Weight> Product<'_, W> {
    /// Writes the product `[m, n]`; by several threads if `threads`.
    ///
    /// # Safety
    /// There must be room for it at `out`, which is initialised if it is added to.
    pub(super) unsafe fn write(self, out: Shared, threads: bool) {
        let (m, n, k) = self.sizes;
        assert!(takes(self.sizes), "there must be a few rows, and a product that is large enough");
        let needed = match self.lines {
            Lines::Inputs(line) => (k - 1) * line + n,
            Lines::Outputs(line) => (n - 1) * line + k,
        };
        assert!(self.rows.len() == m * k && self.weights.len() >= needed, "matrices must have the stated sizes");
        assert!(self.step > 0, "parts must be of some depth");
        let workers = if threads { rayon::current_num_threads() } else { 1 };
        let pieces = match self.lines {
            Lines::Inputs(_) => n.div_ceil(SUMS / m).max(workers.min(n / NARROWEST)),
            Lines::Outputs(_) => n.div_ceil(COLUMNS),
        };
        let columns = (0..pieces).map(|i| i * n / pieces..(i + 1) * n / pieces);
        each(if threads { m * n * k / 16 } else { 0 }, columns, |columns| {
            // SAFETY: the processor has these vectors, or the product would not have been taken; sizes are as asserted; pieces have their own columns.
            unsafe {
                match self.lines {
                    Lines::Inputs(line) => self.along(line, columns, out),
                    Lines::Outputs(line) => self.across(line, columns, out),
                }
            }
        });
    }

    /// The number of a row at a depth.
    ///
    /// # Safety
    /// Both must be inside the rows.
    #[inline(always)]
    unsafe fn row(&self, row: usize, depth: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { *self.rows.get_unchecked(row * self.sizes.2 + depth) }
    }

    /// Some columns where a line has the weights of one input: sums of all of them stay in the cache while lines pass by.
    ///
    /// # Safety
    /// As [`write`](Self::write), with all that it asserts.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn along(&self, line: usize, columns: Range<usize>, out: Shared) {
        let ((m, n, k), width) = (self.sizes, columns.len());
        let mut sums = [0.0_f32; SUMS];
        let sums = &mut sums[..m * width];
        for start in (0..k).step_by(self.step) {
            let end = k.min(start + self.step);
            sums.fill(0.0);
            let mut depth = start;
            // SAFETY: lines and depths are inside the matrices, and `sums` has `width` for each row.
            unsafe {
                while depth + LINES <= end {
                    let lines = from_fn(|i| self.weights.as_ptr().add((depth + i) * line + columns.start));
                    let (mut row, mut first) = (0, true);
                    let to = |row: usize, sums: &mut [f32]| sums.as_mut_ptr().add(row * width);
                    let of = |row: usize| from_fn(|i| self.row(row, depth + i));
                    while row + 1 < m {
                        let next = if first { LINES * line } else { 0 };
                        add_lines(lines, next, [of(row), of(row + 1)], [to(row, sums), to(row + 1, sums)], width);
                        (row, first) = (row + 2, false);
                    }
                    if row < m {
                        add_lines(lines, 0, [of(row)], [to(row, sums)], width);
                    }
                    depth += LINES;
                }
                for depth in depth..end {
                    let weights = &self.weights[depth * line + columns.start..][..width];
                    for (row, sums) in sums.chunks_exact_mut(width).enumerate() {
                        let x = self.row(row, depth);
                        sums.iter_mut().zip(weights).for_each(|(sum, w)| *sum = x.mul_add(w.wide(), *sum));
                    }
                }
                for (row, sums) in sums.chunks_exact(width).enumerate() {
                    let out = out.at(row * n + columns.start);
                    for (i, &sum) in sums.iter().enumerate() {
                        let out = out.add(i);
                        out.write(if start > 0 || self.add { out.read() + sum } else { sum });
                    }
                }
            }
        }
    }

    /// Some columns where a line has the weights of one output, eight lines at a time.
    ///
    /// # Safety
    /// As [`write`](Self::write), with all that it asserts.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn across(&self, line: usize, columns: Range<usize>, out: Shared) {
        let ((m, n, k), end) = (self.sizes, columns.end);
        let mut column = columns.start;
        // SAFETY: the caller's promise.
        unsafe {
            while column + LANES <= end {
                // As many sums as there are registers for; the lines are in the cache when the next rows come.
                let mut row = 0;
                while row + 4 <= m {
                    self.eight_columns::<4>(line, column, row, out);
                    row += 4;
                }
                match m - row {
                    3 => self.eight_columns::<3>(line, column, row, out),
                    2 => self.eight_columns::<2>(line, column, row, out),
                    1 => self.eight_columns::<1>(line, column, row, out),
                    _ => {}
                }
                column += LANES;
            }
        }
        for column in column..end {
            let weights = &self.weights[column * line..][..k];
            for (row, x) in self.rows.chunks_exact(k).enumerate() {
                for start in (0..k).step_by(self.step) {
                    let part = start..k.min(start + self.step);
                    let numbers = x[part.clone()].iter().zip(&weights[part]);
                    let sum = numbers.fold(0.0_f32, |sum, (x, w)| x.mul_add(w.wide(), sum));
                    // SAFETY: the caller's promise.
                    unsafe {
                        let out = out.at(row * n + column);
                        out.write(if start > 0 || self.add { out.read() + sum } else { sum });
                    }
                }
            }
        }
    }

    /// Eight columns of some rows.
    ///
    /// # Safety
    /// As [`write`](Self::write), with all that it asserts; columns and rows must be there.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn eight_columns<const ROWS: usize>(&self, line: usize, column: usize, row: usize, out: Shared) {
        let (_, n, k) = self.sizes;
        // SAFETY: the caller's promise. What is fetched ahead need not be there.
        unsafe {
            let weights = self.weights.as_ptr().add(column * line);
            let out: [*mut f32; ROWS] = from_fn(|i| out.at((row + i) * n + column));
            let mut whole = out.map(|out| if self.add { _mm256_loadu_ps(out) } else { _mm256_setzero_ps() });
            let mut depth = 0;
            for start in (0..k).step_by(self.step) {
                let end = k.min(start + self.step);
                let mut sums = [_mm256_setzero_ps(); ROWS];
                while depth + LANES <= end {
                    if row == 0 && depth % cached::<W>() < LANES {
                        for i in LANES..2 * LANES {
                            _mm_prefetch::<_MM_HINT_T1>(weights.wrapping_add(i * line + depth).cast());
                        }
                    }
                    let inputs = transposed(from_fn(|i| W::eight(weights.add(i * line + depth))));
                    for (i, weights) in inputs.into_iter().enumerate() {
                        for (of, sum) in sums.iter_mut().enumerate() {
                            *sum = _mm256_fmadd_ps(_mm256_set1_ps(self.row(row + of, depth + i)), weights, *sum);
                        }
                    }
                    depth += LANES;
                }
                while depth < end {
                    let weights: [f32; LANES] = from_fn(|i| (*weights.add(i * line + depth)).wide());
                    let weights = _mm256_loadu_ps(weights.as_ptr());
                    for (of, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm256_fmadd_ps(_mm256_set1_ps(self.row(row + of, depth)), weights, *sum);
                    }
                    depth += 1;
                }
                for (whole, sum) in whole.iter_mut().zip(sums) {
                    *whole = if start > 0 || self.add { _mm256_add_ps(*whole, sum) } else { sum };
                }
            }
            for (out, whole) in out.into_iter().zip(whole) {
                _mm256_storeu_ps(out, whole);
            }
        }
    }
}

/// Adds some lines of weights, each times a row's number, to the sums of some rows. The lines that are `next` numbers further on are fetched ahead,
/// unless that is nothing.
///
/// # Safety
/// Lines and sums must be `width` long, and the processor must have AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_lines<W: Weight, const ROWS: usize>(
    lines: [*const W; LINES],
    next: usize,
    x: [[f32; LINES]; ROWS],
    sums: [*mut f32; ROWS],
    width: usize,
) {
    // SAFETY: the caller's promise. What is fetched ahead need not be there.
    unsafe {
        let wide = x.map(|x| x.map(|x| _mm256_set1_ps(x)));
        let mut column = 0;
        while column + LANES <= width {
            if next > 0 && column % cached::<W>() < LANES {
                lines.iter().for_each(|line| _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(next + column).cast()));
            }
            let weights = lines.map(|line| W::eight(line.add(column)));
            for (x, sums) in wide.iter().zip(sums) {
                let mut sum = _mm256_loadu_ps(sums.add(column));
                for (x, weights) in x.iter().zip(weights) {
                    sum = _mm256_fmadd_ps(*x, weights, sum);
                }
                _mm256_storeu_ps(sums.add(column), sum);
            }
            column += LANES;
        }
        for column in column..width {
            for (x, sums) in x.iter().zip(sums) {
                let sum = sums.add(column);
                for (x, line) in x.iter().zip(lines) {
                    *sum = x.mul_add((*line.add(column)).wide(), *sum);
                }
            }
        }
    }
}

/// Columns of a square of numbers in place of its lines.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(lines: [__m256; LANES]) -> [__m256; LANES] {
    let [a, b, c, d, e, f, g, h] = lines;
    let pairs = |a, b| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    let ((ab, ab2), (cd, cd2), (ef, ef2), (gh, gh2)) = (pairs(a, b), pairs(c, d), pairs(e, f), pairs(g, h));
    let fours = |a, b| [_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b)];
    let ([a, b], [c, d]) = (fours(ab, cd), fours(ab2, cd2));
    let ([e, f], [g, h]) = (fours(ef, gh), fours(ef2, gh2));
    let low = |a, b| _mm256_permute2f128_ps::<0x20>(a, b);
    let high = |a, b| _mm256_permute2f128_ps::<0x31>(a, b);
    [low(a, e), low(b, f), low(c, g), low(d, h), high(a, e), high(b, f), high(c, g), high(d, h)]
}
