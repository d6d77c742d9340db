//! Scaled dot-product attention over packed rows, one fused pass forward and one backward.
//!
//! The work is one task per sequence. A task copies one head at a time into dense panels whose width is a multiple of the vector
//! tile, so that all products run in one small kernel without edges, and goes through the queries in blocks: scores exist for one block
//! of one head only, and only for keys that some query of the block sees. The backward pass computes the weights again from queries and
//! keys instead of keeping them.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::kernel::{Floats, Kernel, each, filled, shape, split_rows, tensor, values};
#[cfg(target_arch = "x86_64")]
use super::math::has_wide_vectors;
use super::math::{LANES, sum, tanh, vectorised};
use super::norm::softmax_row;

/// How [`attention`](super::attention) groups heads and which query rows see which key rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Query heads; query rows have `heads` times the head width.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`; query head `h` reads key head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// What scores are multiplied with before the softmax, most often `1 / sqrt(head width)`.
    pub scale: f64,
    /// Whether a query sees only keys up to its own position. The queries of a span are its last positions: query `i` of `q` over
    /// `k` keys sees the first `i + 1 + k - q` keys, at least one.
    pub causal: bool,
    /// A query sees only keys that are less than this many positions away from it; all of them if `None`.
    pub window: Option<usize>,
    /// Scores `s`, scaled, become `cap * tanh(s / cap)` before the softmax (Gemma 2); they stay as they are if `None`.
    pub cap: Option<f64>,
    /// One entry per sequence, in the order of the rows, not overlapping.
    pub spans: Vec<Span>,
}

/// One sequence of an [`Attention`]: these queries attend to these keys and to no others. Keys may not be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Rows of the query tensor.
    pub queries: Range<usize>,
    /// Rows of the key and value tensors.
    pub keys: Range<usize>,
    /// Which of the keys stands where the first query does; the other queries follow. Of use only to a window in both directions: causal
    /// queries are the last positions anyway.
    pub first: usize,
}

impl Span {
    /// Queries that are the last positions of their keys; all of them where there are as many.
    pub fn ending(queries: Range<usize>, keys: Range<usize>) -> Self {
        let first = keys.len().saturating_sub(queries.len());
        Self { queries, keys, first }
    }
}

impl Attention {
    /// Attention that every query pays to all keys, or to all up to its own position.
    pub fn plain(heads: usize, kv_heads: usize, scale: f64, causal: bool, spans: Vec<Span>) -> Self {
        Self { heads, kv_heads, scale, causal, window: None, cap: None, spans }
    }

    /// The keys of `span` that its query `row` sees: at least one. Neither end goes down from row to row.
    pub(super) fn visible(&self, span: &Span, row: usize) -> Range<usize> {
        let keys = span.keys.len();
        if self.causal {
            let end = (row + 1 + keys).saturating_sub(span.queries.len()).clamp(1, keys);
            return end.saturating_sub(self.window.unwrap_or(end).max(1))..end;
        }
        let Some(window) = self.window else { return 0..keys };
        let place = (span.first + row).min(keys - 1);
        (place + 1).saturating_sub(window.max(1))..(place + window.max(1)).min(keys)
    }

    /// About how many element operations all spans take, for heads of this width.
    fn cost(&self, width: usize) -> usize {
        self.spans.iter().map(|span| span.queries.len() * span.keys.len()).sum::<usize>() * self.heads * width / 8
    }

    /// # Panics
    /// If a span reaches beyond the rows, or has no keys.
    fn check(&self, queries: usize, keys: usize) {
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "kv_heads must divide heads");
        for span in &self.spans {
            assert!(
                span.queries.end <= queries && span.keys.end <= keys && !span.keys.is_empty(),
                "the spans of an attention must lie within its rows and have keys"
            );
        }
    }
}

/// Queries per block.
const BLOCK: usize = 32;

/// Columns of the product tile.
const TILE: usize = 16;

/// Rows of the product tile: 12 accumulators, 2 columns of the right matrix and 1 element of the left one fit 16 vector registers.
const TILE_ROWS: usize = 6;

const _: () = assert!(TILE == LANES);

fn padded(n: usize) -> usize {
    n.next_multiple_of(TILE)
}

/// A head's rows inside a tensor of packed heads.
#[derive(Clone, Copy)]
struct Head<'a> {
    values: &'a [f32],
    /// Elements from one row to the next.
    stride: usize,
    /// The head's first column.
    column: usize,
}

impl Head<'_> {
    fn row(&self, row: usize, width: usize) -> &[f32] {
        &self.values[row * self.stride + self.column..][..width]
    }
}

/// The left matrix of a product: element `(row, depth)` is at `row * strides.0 + depth * strides.1`.
#[derive(Clone, Copy)]
struct Left<'a> {
    values: &'a [f32],
    strides: (usize, usize),
}

/// One tile of `out (+)= left * right`: `M` rows, [`TILE`] columns.
///
/// # Safety
/// `left`, `right` and `out` must point to the tile's first elements, and every element of the tile must lie inside their slices.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "raw pointers with their strides; a struct would be taken apart again")]
unsafe fn tile<const M: usize>(
    depth: usize,
    left: *const f32,
    left_strides: (usize, usize),
    right: *const f32,
    right_stride: usize,
    out: *mut f32,
    out_stride: usize,
    add: bool,
) {
    let mut sums = [[0.0_f32; TILE]; M];
    for d in 0..depth {
        // SAFETY: the caller keeps all of this inside the slices.
        let row = unsafe { &*right.add(d * right_stride).cast::<[f32; TILE]>() };
        for (m, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let factor = unsafe { *left.add(m * left_strides.0 + d * left_strides.1) };
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum = factor.mul_add(x, *sum);
            }
        }
    }
    for (m, sums) in sums.iter().enumerate() {
        // SAFETY: as above.
        let out = unsafe { &mut *out.add(m * out_stride).cast::<[f32; TILE]>() };
        for (out, &sum) in out.iter_mut().zip(sums) {
            *out = if add { *out + sum } else { sum };
        }
    }
}

/// [`tile`] in vector instructions, which the compiler does not find by itself. The same bits where fused multiply-add is exact.
///
/// # Safety
/// As for [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
#[expect(clippy::too_many_arguments, reason = "raw pointers with their strides; a struct would be taken apart again")]
unsafe fn wide_tile<const M: usize>(
    depth: usize,
    left: *const f32,
    left_strides: (usize, usize),
    right: *const f32,
    right_stride: usize,
    out: *mut f32,
    out_stride: usize,
    add: bool,
) {
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    // SAFETY: the caller keeps all of this inside the slices.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        for d in 0..depth {
            let row = right.add(d * right_stride);
            let (first, second) = (_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8)));
            for (m, sums) in sums.iter_mut().enumerate() {
                let factor = _mm256_broadcast_ss(&*left.add(m * left_strides.0 + d * left_strides.1));
                sums[0] = _mm256_fmadd_ps(factor, first, sums[0]);
                sums[1] = _mm256_fmadd_ps(factor, second, sums[1]);
            }
        }
        for (m, &[mut first, mut second]) in sums.iter().enumerate() {
            let out = out.add(m * out_stride);
            if add {
                first = _mm256_add_ps(_mm256_loadu_ps(out), first);
                second = _mm256_add_ps(_mm256_loadu_ps(out.add(8)), second);
            }
            _mm256_storeu_ps(out, first);
            _mm256_storeu_ps(out.add(8), second);
        }
    }
}

/// `out (+)= left * right` for `rows` rows and `columns` (a multiple of [`TILE`]) columns; the rows of `right` and `out` lie
/// `strides.0` and `strides.1` apart.
fn product(
    (rows, columns, depth): (usize, usize, usize),
    left: Left,
    right: &[f32],
    out: &mut [f32],
    strides: (usize, usize),
    add: bool,
) {
    if rows == 0 || columns == 0 || depth == 0 {
        if !add {
            (0..rows).for_each(|row| out[row * strides.1..][..columns].fill(0.0));
        }
        return;
    }
    assert!(
        columns.is_multiple_of(TILE)
            && (rows - 1) * left.strides.0 + (depth - 1) * left.strides.1 < left.values.len()
            && (depth - 1) * strides.0 + columns <= right.len()
            && (rows - 1) * strides.1 + columns <= out.len()
    );
    // SAFETY: by the assertion, rows below `rows`, depths below `depth` and columns below `columns` are inside the slices; `M` is at most
    // `rows - row` throughout; and the vector version runs where the processor has its instructions.
    macro_rules! tiles {
        ($tile: ident) => {
            for column in (0..columns).step_by(TILE) {
                for row in (0..rows).step_by(TILE_ROWS) {
                    unsafe {
                        let left_at = left.values.as_ptr().add(row * left.strides.0);
                        let right_at = right.as_ptr().add(column);
                        let out_at = out.as_mut_ptr().add(row * strides.1 + column);
                        macro_rules! tile {
                            ($m: literal) => {
                                $tile::<$m>(depth, left_at, left.strides, right_at, strides.0, out_at, strides.1, add)
                            };
                        }
                        match rows - row {
                            1 => tile!(1),
                            2 => tile!(2),
                            3 => tile!(3),
                            4 => tile!(4),
                            5 => tile!(5),
                            _ => tile!(6),
                        }
                    }
                }
            }
        };
    }
    #[cfg(target_arch = "x86_64")]
    if has_wide_vectors() {
        tiles!(wide_tile);
        return;
    }
    tiles!(tile);
}

/// Copies a head's rows, padded with zeros to the width of tiles.
#[inline(always)]
fn copy_head(head: Head, rows: Range<usize>, width: usize, out: &mut [f32]) {
    for (row, out) in rows.zip(out.chunks_exact_mut(padded(width))) {
        let (out, pad) = out.split_at_mut(width);
        out.copy_from_slice(head.row(row, width));
        pad.fill(0.0);
    }
}

/// Copies a head's rows as columns: `[width, padded(rows)]`.
#[inline(always)]
fn transpose_head(head: Head, rows: Range<usize>, width: usize, out: &mut [f32]) {
    let stride = padded(rows.len());
    let count = rows.len();
    // In squares that the registers hold; what is left over one by one.
    const SIDE: usize = 8;
    let (squares, blocks) = (width / SIDE * SIDE, count / SIDE * SIDE);
    for block in (0..blocks).step_by(SIDE) {
        for from in (0..squares).step_by(SIDE) {
            let mut square = [[0.0_f32; SIDE]; SIDE];
            for (r, line) in square.iter_mut().enumerate() {
                line.copy_from_slice(&head.row(rows.start + block + r, width)[from..from + SIDE]);
            }
            for d in 0..SIDE {
                let line: [f32; SIDE] = std::array::from_fn(|r| square[r][d]);
                out[(from + d) * stride + block..][..SIDE].copy_from_slice(&line);
            }
        }
    }
    for column in 0..count {
        let first = if column < blocks { squares } else { 0 };
        for (d, &x) in head.row(rows.start + column, width).iter().enumerate().skip(first) {
            out[d * stride + column] = x;
        }
    }
    for out in out.chunks_exact_mut(stride).take(width) {
        out[count..].fill(0.0);
    }
}

/// Scratch memory for one head of one sequence.
struct Scratch<'a> {
    /// Keys as columns, `[width, keys]`.
    keys_t: &'a mut [f32],
    /// Values, `[keys, width]`; as columns in the backward pass.
    values: &'a mut [f32],
    /// Weights of one block, `[BLOCK, keys]`.
    weights: &'a mut [f32],
    /// Results of one block, `[BLOCK, width]`.
    block: &'a mut [f32],
    /// What the backward pass needs besides; empty in the forward pass.
    more: &'a mut [f32],
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's scratch memory: contents are undefined (numbers of earlier use). `work` should only call a function compiled
/// for vectors, since a closure is not.
fn with_scratch(keys: usize, width: usize, backward: bool, work: impl FnOnce(Scratch)) {
    let (keys, width) = (padded(keys), padded(width));
    let sizes = [keys * width, keys * width, BLOCK * keys, BLOCK * width];
    let more = if backward { 3 * keys * width + 2 * BLOCK * keys + 2 * BLOCK * width } else { 0 };
    let len = sizes.iter().sum::<usize>() + more;
    let mut memory = SCRATCH.take();
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
    let (keys_t, rest) = memory.split_at_mut(sizes[0]);
    let (values, rest) = rest.split_at_mut(sizes[1]);
    let (weights, rest) = rest.split_at_mut(sizes[2]);
    let (block, rest) = rest.split_at_mut(sizes[3]);
    work(Scratch { keys_t, values, weights, block, more: &mut rest[..more] });
    SCRATCH.set(memory);
}

/// The weights of a block of queries: `[rows, stride]`, zero where a query does not see a key. Gives the number of keys that any query
/// of the block sees. Where scores are capped, `flatness` takes in what is left of their slopes, `1 - tanh²`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "slices of one scratch memory; a struct would be taken apart again")]
fn block_weights(
    how: &Attention,
    span: &Span,
    queries: Head,
    block: Range<usize>,
    width: usize,
    keys_t: &[f32],
    weights: &mut [f32],
    mut flatness: Option<&mut [f32]>,
) -> usize {
    let stride = padded(span.keys.len());
    let seen = how.visible(span, block.end - 1).end;
    let first = (span.queries.start + block.start) * queries.stride + queries.column;
    let left = Left { values: &queries.values[first..], strides: (queries.stride, 1) };
    product((block.len(), padded(seen), width), left, keys_t, weights, (stride, stride), false);
    for (index, (row, weights)) in block.zip(weights.chunks_exact_mut(stride)).enumerate() {
        let keys = how.visible(span, row);
        let (before, rest) = weights[..padded(seen)].split_at_mut(keys.start);
        let (seen_by_row, hidden) = rest.split_at_mut(keys.len());
        before.fill(0.0);
        hidden.fill(0.0);
        let Some(cap) = how.cap else {
            softmax_row(seen_by_row, how.scale as f32);
            continue;
        };
        let (cap, inner) = (cap as f32, (how.scale / cap) as f32);
        for x in seen_by_row.iter_mut() {
            *x = tanh(*x * inner);
        }
        if let Some(flatness) = flatness.as_deref_mut() {
            for (flatness, &x) in flatness[index * stride + keys.start..].iter_mut().zip(seen_by_row.iter()) {
                *flatness = 1.0 - x * x;
            }
        }
        softmax_row(seen_by_row, cap);
    }
    seen
}

/// The three inputs of an attention.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    width: usize,
    queries: Head<'a>,
    keys: Head<'a>,
    values: Head<'a>,
}

impl<'a> Inputs<'a> {
    fn packed(rows: &'a [f32], how: &Attention, width: usize) -> Self {
        let stride = (how.heads + 2 * how.kv_heads) * width;
        let from = |column| Head { values: rows, stride, column };
        let keys = how.heads * width;
        Self { width, queries: from(0), keys: from(keys), values: from(keys + how.kv_heads * width) }
    }

    fn separate(queries: &'a [f32], keys: &'a [f32], values: &'a [f32], how: &Attention, width: usize) -> Self {
        let from = |values, heads| Head { values, stride: heads * width, column: 0 };
        Self {
            width,
            queries: from(queries, how.heads),
            keys: from(keys, how.kv_heads),
            values: from(values, how.kv_heads),
        }
    }

    /// Query head `head` and, of the keys and values, head `group`.
    fn heads(&self, head: usize, group: usize) -> (Head<'a>, Head<'a>, Head<'a>) {
        let at = |all: Head<'a>, head: usize| Head { column: all.column + head * self.width, ..all };
        (at(self.queries, head), at(self.keys, group), at(self.values, group))
    }
}

fn blocks(queries: usize) -> impl Iterator<Item = Range<usize>> {
    (0..queries).step_by(BLOCK).map(move |start| start..queries.min(start + BLOCK))
}

vectorised! {
    /// The results of one span, row by row.
    fn attend(how: &Attention, span: &Span, inputs: Inputs, scratch: Scratch, out: &mut [MaybeUninit<f32>]) {
        let width = inputs.width;
        let (stride, wide) = (how.heads * width, padded(width));
        let per_group = how.heads / how.kv_heads;
        for group in 0..how.kv_heads {
            let (_, keys, values) = inputs.heads(0, group);
            transpose_head(keys, span.keys.clone(), width, scratch.keys_t);
            copy_head(values, span.keys.clone(), width, scratch.values);
            for head in group * per_group..(group + 1) * per_group {
                let (queries, _, _) = inputs.heads(head, group);
                for block in blocks(span.queries.len()) {
                    let seen = block_weights(how, span, queries, block.clone(), width, scratch.keys_t, scratch.weights, None);
                    let weights = Left { values: scratch.weights, strides: (padded(span.keys.len()), 1) };
                    let size = (block.len(), wide, seen);
                    product(size, weights, scratch.values, scratch.block, (wide, wide), false);
                    for (row, result) in block.zip(scratch.block.chunks_exact(wide)) {
                        out[row * stride + head * width..][..width].write_copy_of_slice(&result[..width]);
                    }
                }
            }
        }
    }
}

/// Where the gradients of one span go.
enum Targets<'a> {
    /// Rows of queries, keys and values side by side, of this many elements, with these first columns.
    Packed(&'a mut [MaybeUninit<f32>], usize, [usize; 3]),
    /// Rows of queries, keys and values, of these many elements.
    Separate([&'a mut [MaybeUninit<f32>]; 3], [usize; 3]),
}

impl Targets<'_> {
    /// Writes a row of a head of queries (0), keys (1) or values (2).
    fn write(&mut self, which: usize, row: usize, column: usize, values: &[f32]) {
        let out = match self {
            Self::Packed(rows, stride, columns) => &mut rows[row * *stride + columns[which] + column..],
            Self::Separate(rows, strides) => &mut rows[which][row * strides[which] + column..],
        };
        out[..values.len()].write_copy_of_slice(values);
    }
}

vectorised! {
    /// The gradients of one span, from the gradient of its results (`grad`, from its first row on).
    fn attend_slope(how: &Attention, span: &Span, inputs: Inputs, scratch: Scratch, grad: &[f32], targets: &mut Targets) {
        let width = inputs.width;
        let (keys_wide, wide) = (padded(span.keys.len()), padded(width));
        let per_group = how.heads / how.kv_heads;
        let count = span.keys.len();
        let values_t = scratch.values;
        let (keys_by_row, more) = scratch.more.split_at_mut(keys_wide * wide);
        let (grad_keys, more) = more.split_at_mut(keys_wide * wide);
        let (grad_values, more) = more.split_at_mut(keys_wide * wide);
        let (grad_weights, more) = more.split_at_mut(BLOCK * keys_wide);
        let (grad_block, more) = more.split_at_mut(BLOCK * wide);
        let (queries_block, flatness) = more.split_at_mut(BLOCK * wide);
        for group in 0..how.kv_heads {
            let (_, keys, values) = inputs.heads(0, group);
            transpose_head(keys, span.keys.clone(), width, scratch.keys_t);
            copy_head(keys, span.keys.clone(), width, keys_by_row);
            transpose_head(values, span.keys.clone(), width, values_t);
            grad_keys.fill(0.0);
            grad_values.fill(0.0);
            for head in group * per_group..(group + 1) * per_group {
                let (queries, _, _) = inputs.heads(head, group);
                let grads = Head { values: grad, stride: how.heads * width, column: head * width };
                for block in blocks(span.queries.len()) {
                    let seen = block_weights(
                        how, span, queries, block.clone(), width, scratch.keys_t, scratch.weights, Some(&mut *flatness),
                    );
                    let rows = span.queries.start + block.start..span.queries.start + block.end;
                    copy_head(queries, rows, width, queries_block);
                    copy_head(grads, block.clone(), width, grad_block);
                    // With results O = P V and weights P = softmax(scale S): dP = dO V^T, dV += P^T dO.
                    let left = Left { values: grad_block, strides: (wide, 1) };
                    let size = (block.len(), padded(seen), width);
                    product(size, left, values_t, grad_weights, (keys_wide, keys_wide), false);
                    let left = Left { values: scratch.weights, strides: (1, keys_wide) };
                    product((seen, wide, block.len()), left, grad_block, grad_values, (wide, wide), true);
                    // scale dS = scale P (dP - sum over keys of P dP), in place of dP.
                    let rows = grad_weights.chunks_exact_mut(keys_wide).zip(scratch.weights.chunks_exact(keys_wide));
                    for (index, (grad, weights)) in rows.take(block.len()).enumerate() {
                        let (grad, weights) = (&mut grad[..padded(seen)], &weights[..padded(seen)]);
                        let shared = sum(weights, grad, |p, g| p * g);
                        let scale = how.scale as f32;
                        for (grad, &p) in grad.iter_mut().zip(weights) {
                            *grad = p * (*grad - shared) * scale;
                        }
                        if how.cap.is_some() {
                            // Where no key is seen the slope is 0 already, and what is there of earlier use may be anything.
                            let keys = how.visible(span, block.start + index);
                            let flatness = &flatness[index * keys_wide..][keys.clone()];
                            for (grad, &flat) in grad[keys].iter_mut().zip(flatness) {
                                *grad *= flat;
                            }
                        }
                    }
                    // dQ = dS K, dK += dS^T Q.
                    let left = Left { values: grad_weights, strides: (keys_wide, 1) };
                    product((block.len(), wide, seen), left, keys_by_row, scratch.block, (wide, wide), false);
                    let left = Left { values: grad_weights, strides: (1, keys_wide) };
                    product((seen, wide, block.len()), left, queries_block, grad_keys, (wide, wide), true);
                    for (row, result) in block.zip(scratch.block.chunks_exact(wide)) {
                        targets.write(0, row, head * width, &result[..width]);
                    }
                }
            }
            for row in 0..count {
                targets.write(1, row, group * width, &grad_keys[row * wide..][..width]);
                targets.write(2, row, group * width, &grad_values[row * wide..][..width]);
            }
        }
    }
}

fn clear(gaps: Vec<&mut [MaybeUninit<f32>]>) {
    for gap in gaps {
        gap.fill(MaybeUninit::new(0.0));
    }
}

impl Attention {
    fn results(&self, inputs: Inputs, queries: usize) -> Vec<f32> {
        let stride = self.heads * inputs.width;
        // SAFETY: rows of no span are cleared, and `attend` writes all heads of all rows of a span.
        unsafe {
            filled(queries * stride, |out| {
                let (pieces, gaps) = split_rows(out, stride, self.spans.iter().map(|span| span.queries.clone()));
                clear(gaps);
                each(self.cost(inputs.width), pieces.into_iter().zip(&self.spans), |(out, span)| {
                    with_scratch(span.keys.len(), inputs.width, false, |scratch| {
                        attend(self, span, inputs, scratch, out)
                    });
                });
            })
        }
    }

    fn slopes<'a>(&self, inputs: Inputs, grad: &[f32], targets: impl ExactSizeIterator<Item = Targets<'a>>) {
        let stride = self.heads * inputs.width;
        each(3 * self.cost(inputs.width), targets.zip(&self.spans), |(mut targets, span)| {
            let grad = &grad[span.queries.start * stride..];
            with_scratch(span.keys.len(), inputs.width, true, |scratch| {
                attend_slope(self, span, inputs, scratch, grad, &mut targets);
            });
        });
    }
}

/// Queries, keys and values in one tensor, side by side in this order.
impl Kernel<1> for Attention {
    type Saved = Floats;

    fn forward(&self, [rows]: [Floats; 1], keep: bool) -> (Floats, Option<Floats>) {
        let (shape, total) = shape(&rows);
        let heads = self.heads + 2 * self.kv_heads;
        assert!(total.is_multiple_of(heads), "rows must hold heads of one width");
        let width = total / heads;
        self.check(shape[0], shape[0]);
        assert!(self.spans.iter().all(|span| span.queries == span.keys), "packed rows hold as many queries as keys");
        let results = self.results(Inputs::packed(values(&rows), self, width), shape[0]);
        (tensor(results, [shape[0], self.heads * width]), keep.then_some(rows))
    }

    fn backward(&self, rows: Floats, grad: Floats, _wanted: [bool; 1]) -> [Option<Floats>; 1] {
        let (shape, stride) = shape(&rows);
        let width = stride / (self.heads + 2 * self.kv_heads);
        let input = values(&rows);
        let columns = [0, self.heads * width, (self.heads + self.kv_heads) * width];
        // SAFETY: rows of no span are cleared, and `attend_slope` writes all heads of all rows of a span.
        let grad_rows = unsafe {
            filled(input.len(), |out| {
                let (pieces, gaps) = split_rows(out, stride, self.spans.iter().map(|span| span.queries.clone()));
                clear(gaps);
                let targets = pieces.into_iter().map(|rows| Targets::Packed(rows, stride, columns));
                self.slopes(Inputs::packed(input, self, width), values(&grad), targets);
            })
        };
        [Some(tensor(grad_rows, shape))]
    }
}

/// Queries, keys and values in a tensor each.
impl Kernel<3> for Attention {
    type Saved = [Floats; 3];

    fn forward(&self, [q, k, v]: [Floats; 3], keep: bool) -> (Floats, Option<[Floats; 3]>) {
        let ((q_shape, q_width), (k_shape, k_width), (v_shape, _)) = (shape(&q), shape(&k), shape(&v));
        let width = q_width / self.heads;
        assert!(
            q_width == self.heads * width && k_width == self.kv_heads * width && k_shape == v_shape,
            "queries, keys and values must hold heads of one width"
        );
        self.check(q_shape[0], k_shape[0]);
        let inputs = Inputs::separate(values(&q), values(&k), values(&v), self, width);
        let results = self.results(inputs, q_shape[0]);
        (tensor(results, q_shape), keep.then_some([q, k, v]))
    }

    fn backward(&self, [q, k, v]: [Floats; 3], grad: Floats, _wanted: [bool; 3]) -> [Option<Floats>; 3] {
        let ((q_shape, q_width), (k_shape, k_width)) = (shape(&q), shape(&k));
        let inputs = Inputs::separate(values(&q), values(&k), values(&v), self, q_width / self.heads);
        let (mut grad_keys, mut grad_values) = (Vec::new(), Vec::new());
        let (q_len, k_len) = (values(&q).len(), values(&k).len());
        let queries = || self.spans.iter().map(|span| span.queries.clone());
        let keys = || self.spans.iter().map(|span| span.keys.clone());
        // SAFETY: rows of no span are cleared, and `attend_slope` writes all heads of all rows of a span.
        let grad_queries = unsafe {
            filled(q_len, |for_queries| {
                grad_keys = filled(k_len, |for_keys| {
                    grad_values = filled(k_len, |for_values| {
                        let (for_queries, gaps) = split_rows(for_queries, q_width, queries());
                        clear(gaps);
                        let (for_keys, gaps) = split_rows(for_keys, k_width, keys());
                        clear(gaps);
                        let (for_values, gaps) = split_rows(for_values, k_width, keys());
                        clear(gaps);
                        let targets = for_queries.into_iter().zip(for_keys.into_iter().zip(for_values));
                        let strides = [q_width, k_width, k_width];
                        let targets = targets.map(|(q, (k, v))| Targets::Separate([q, k, v], strides));
                        self.slopes(inputs, values(&grad), targets);
                    });
                });
            })
        };
        [
            Some(tensor(grad_queries, q_shape)),
            Some(tensor(grad_keys, k_shape.clone())),
            Some(tensor(grad_values, k_shape)),
        ]
    }
}
