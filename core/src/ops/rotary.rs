//! Rotary position embedding in the half-split form of `transformers` (`rotate_half`).

use std::mem::MaybeUninit;
use std::sync::Arc;

use super::kernel::{Floats, Kernel, each, filled, shape, tensor, values};
use super::math::vectorised;

/// Cosines and sines of a rotary position embedding. Cloning shares them.
///
/// Source: Su et al., "RoFormer", 2021, equation 34; the first and second half of the rotated elements form the pairs.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// Elements of each head that are rotated, from the first on; even.
    rotated: usize,
    /// `[positions, rotated / 2]` each.
    cosines: Arc<[f32]>,
    sines: Arc<[f32]>,
}

impl Rotary {
    /// Tables for positions below `positions` from the angle per position of each pair (`theta^(-2 i / rotated)` for pair `i`, or what a
    /// scaling of long contexts makes of it). `attention_scaling` multiplies both tables; it is 1 but for YaRN.
    pub fn new(frequencies: &[f32], positions: usize, attention_scaling: f32) -> Self {
        let table = |f: fn(f32) -> f32| -> Arc<[f32]> {
            (0..positions)
                .flat_map(|position| frequencies.iter().map(move |&w| f(position as f32 * w) * attention_scaling))
                .collect()
        };
        Self { rotated: 2 * frequencies.len(), cosines: table(f32::cos), sines: table(f32::sin) }
    }

    /// These tables, with those of each position multiplied by what `scale` says of it.
    pub fn scaled(&self, scale: impl Fn(usize) -> f32) -> Self {
        let half = (self.rotated / 2).max(1);
        let table = |table: &[f32]| table.iter().enumerate().map(|(i, x)| x * scale(i / half)).collect();
        Self { rotated: self.rotated, cosines: table(&self.cosines), sines: table(&self.sines) }
    }

    /// Several tables that rotate as much of a head, one after the other: a position of the second comes as far behind as there are positions in
    /// the first.
    pub fn chained(tables: &[Self]) -> Self {
        let rotated = tables.first().map_or(0, |first| first.rotated);
        assert!(tables.iter().all(|table| table.rotated == rotated), "tables must rotate as much");
        let all = |of: fn(&Self) -> &Arc<[f32]>| tables.iter().flat_map(|table| of(table).iter().copied()).collect();
        Self { rotated, cosines: all(|table| &table.cosines), sines: all(|table| &table.sines) }
    }

    /// Positions that there are tables for.
    pub fn positions(&self) -> usize {
        self.cosines.len() / (self.rotated / 2).max(1)
    }

    /// Elements of each head that are rotated.
    pub fn rotated(&self) -> usize {
        self.rotated
    }

    /// Cosines and sines, `[positions, rotated / 2]` each.
    pub(super) fn tables(&self) -> (&[f32], &[f32]) {
        (&self.cosines, &self.sines)
    }
}

/// Rows of heads of `width` elements, the first `heads` of each row rotated to its position.
#[derive(Debug, Clone)]
pub(super) struct Rotate {
    pub(super) rotary: Rotary,
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) positions: Arc<[u32]>,
}

/// Rows per piece of work.
const ROWS: usize = 128;

vectorised! {
    /// Rotates the heads of each row forward, or backward with `sign` -1.
    fn rotate(how: &Rotate, sign: f32, positions: &[u32], x: &[f32], out: &mut [MaybeUninit<f32>]) {
        let half = how.rotary.rotated / 2;
        let row = x.len() / positions.len().max(1);
        for ((x, out), &position) in x.chunks_exact(row).zip(out.chunks_exact_mut(row)).zip(positions) {
            let at = position as usize * half;
            let (cosines, sines) = (&how.rotary.cosines[at..at + half], &how.rotary.sines[at..at + half]);
            let (x, kept) = x.split_at(how.heads * how.width);
            let (out, out_kept) = out.split_at_mut(x.len());
            out_kept.write_copy_of_slice(kept);
            for (x, out) in x.chunks_exact(how.width).zip(out.chunks_exact_mut(how.width)) {
                let ((first, x), (out_first, out)) = (x.split_at(half), out.split_at_mut(half));
                let ((second, rest), (out_second, out_rest)) = (x.split_at(half), out.split_at_mut(half));
                for i in 0..half {
                    let (a, b, c, s) = (first[i], second[i], cosines[i], sign * sines[i]);
                    out_first[i].write(a * c - b * s);
                    out_second[i].write(b * c + a * s);
                }
                out_rest.write_copy_of_slice(rest);
            }
        }
    }
}

impl Rotate {
    fn apply(&self, sign: f32, x: &Floats) -> Floats {
        let (shape, row) = shape(x);
        let input = values(x);
        assert!(
            row.is_multiple_of(self.width)
                && self.heads * self.width <= row
                && self.rotary.rotated <= self.width
                && input.len() == row * self.positions.len(),
            "rotary rows must hold heads of one width and have a position each"
        );
        let piece = (ROWS * row).max(1);
        // SAFETY: the pieces cover the vector, and `rotate` writes each row of a piece.
        let output = unsafe {
            filled(input.len(), |out| {
                let pieces = out.chunks_mut(piece).zip(input.chunks(piece)).zip(self.positions.chunks(ROWS));
                each(2 * input.len(), pieces, |((out, x), positions)| rotate(self, sign, positions, x, out));
            })
        };
        tensor(output, shape)
    }
}

impl Kernel<1> for Rotate {
    type Saved = ();

    fn forward(&self, [x]: [Floats; 1], keep: bool) -> (Floats, Option<()>) {
        (self.apply(1.0, &x), keep.then_some(()))
    }

    fn backward(&self, (): (), grad: Floats, _wanted: [bool; 1]) -> [Option<Floats>; 1] {
        [Some(self.apply(-1.0, &grad))]
    }
}
