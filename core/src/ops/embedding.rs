//! Looking up rows of a table, whose gradient adds rows to a table.

use std::mem::MaybeUninit;

use burn::tensor::Shape;

use half::bf16;

use super::kernel::{Floats, Kernel, Weights, each, filled, shape, tensor, values, weights};
use super::math::{narrow, widen};

/// Rows per piece of a look-up.
const ROWS: usize = 256;

/// Pieces of the table that gradients are gathered in. Fixed, but it cannot change a result: each row of the table belongs to one.
const SHARDS: usize = 8;

/// Row `ids[i]` of a table `[rows, width]` as row `i`.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    pub(super) ids: Vec<u32>,
    /// Whether the gradient of the table is in `bf16`, as the table is.
    pub(super) rounds: bool,
}

impl Lookup {
    /// The gradient of the table in `bf16`: each row is summed in `f32`, in the order of the ids, and rounded once.
    fn rounded(&self, (count, width): (usize, usize), grad: &[f32]) -> Vec<bf16> {
        let of = |at: &u32| self.ids[*at as usize] as usize;
        let mut order: Vec<u32> = (0..self.ids.len() as u32).collect();
        order.sort_by_key(of);
        let order = &order;
        let shard = count.div_ceil(SHARDS).max(1);
        // SAFETY: the pieces cover the vector, and each is filled first.
        unsafe {
            filled(count * width, |table: &mut [MaybeUninit<bf16>]| {
                let pieces = table.chunks_mut((shard * width).max(1)).enumerate();
                each(self.ids.len() * width, pieces, |(index, table)| {
                    table.fill(MaybeUninit::new(bf16::ZERO));
                    let first = index * shard;
                    let [start, end] =
                        [first, first + table.len() / width].map(|row| order.partition_point(|at| of(at) < row));
                    let mut sums = vec![0.0_f32; width];
                    for same in order[start..end].chunk_by(|a, b| of(a) == of(b)) {
                        sums.fill(0.0);
                        for &at in same {
                            for (sum, &g) in sums.iter_mut().zip(&grad[at as usize * width..]) {
                                *sum += g;
                            }
                        }
                        narrow(&sums, &mut table[(of(&same[0]) - first) * width..][..width]);
                    }
                });
            })
        }
    }
}

impl Kernel<1> for Lookup {
    type Saved = Shape;

    fn forward(&self, [table]: [Floats; 1], keep: bool) -> (Floats, Option<Shape>) {
        let (shape, width) = shape(&table);
        let table = weights(&table);
        // SAFETY: the pieces cover the vector, and each row of a piece is written.
        let rows = unsafe {
            filled(self.ids.len() * width, |out| {
                let pieces = out.chunks_mut((ROWS * width).max(1)).zip(self.ids.chunks(ROWS));
                each(self.ids.len() * width, pieces, |(out, ids)| {
                    for (out, &id) in out.chunks_exact_mut(width).zip(ids) {
                        let row = id as usize * width..(id as usize + 1) * width;
                        match table {
                            Weights::F32(table) => {
                                out.write_copy_of_slice(&table[row]);
                            }
                            Weights::Bf16(table) => widen(&table[row], out),
                        }
                    }
                });
            })
        };
        (tensor(rows, [self.ids.len(), width]), keep.then_some(shape))
    }

    fn backward(&self, shape: Shape, grad: Floats, _wanted: [bool; 1]) -> [Option<Floats>; 1] {
        let (count, width) = (shape[0], shape[1]);
        let grad = values(&grad);
        if self.rounds {
            return [Some(tensor(self.rounded((count, width), grad), shape))];
        }
        let mut table = vec![0.0_f32; count * width];
        let shard = count.div_ceil(SHARDS).max(1);
        each(self.ids.len() * width, table.chunks_mut((shard * width).max(1)).enumerate(), |(index, table)| {
            let first = index * shard;
            let rows = table.len() / width;
            for (&id, grad) in self.ids.iter().zip(grad.chunks_exact(width)) {
                let row = (id as usize).wrapping_sub(first);
                if row < rows {
                    for (sum, &g) in table[row * width..][..width].iter_mut().zip(grad) {
                        *sum += g;
                    }
                }
            }
        });
        [Some(tensor(table, shape))]
    }
}
