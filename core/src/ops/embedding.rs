//! Looking up rows of a table, whose gradient adds rows to a table.

use burn::tensor::Shape;

use super::kernel::{Floats, Kernel, Weights, each, filled, shape, tensor, values, weights};
use super::math::widen;

/// Rows per piece of a look-up.
const ROWS: usize = 256;

/// Pieces of the table that gradients are gathered in. Fixed, but it cannot change a result: each row of the table belongs to one.
const SHARDS: usize = 8;

/// Row `ids[i]` of a table `[rows, width]` as row `i`.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    pub(super) ids: Vec<u32>,
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
