//! Tokenised examples, checked once at the border.

use crate::{
    Result,
    model::{Spec, Tokens},
    strategy::ExampleId,
};

/// Tokenised examples of one split, in the split's order: what models train on and predict.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    rows: Vec<Vec<u32>>,
}

impl Encoded {
    /// Takes tokenised examples of a model. What the model cannot read would end in a panic deep inside of it, so it is refused here.
    ///
    /// # Errors
    /// An example without tokens, with too many, or with an id outside the vocabulary; the message names the row.
    pub fn new(rows: Vec<Vec<u32>>, spec: &Spec) -> Result<Self> {
        for (row, tokens) in rows.iter().enumerate() {
            spec.check_ids(tokens).map_err(|error| error.context(format!("example {row}")))?;
        }
        Ok(Self { rows })
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Tokens of one example.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.rows[row]
    }

    /// Number of tokens of each example.
    pub fn lengths(&self) -> Vec<usize> {
        self.rows.iter().map(Vec::len).collect()
    }

    /// Names of the examples: their rows.
    pub fn ids(&self) -> Vec<ExampleId> {
        (0..self.rows.len() as u32).map(ExampleId).collect()
    }

    /// Some rows as one batch.
    pub fn tokens(&self, rows: &[u32]) -> Tokens {
        let rows: Vec<&[u32]> = rows.iter().map(|&row| self.row(row as usize)).collect();
        Tokens::packed(&rows)
    }
}

/// Some of a batch's rows, as positions in it.
pub(super) type Part = Vec<usize>;

/// Splits a batch into parts of at most `size` rows, rows of similar length together. Without a size, one part in the batch's order.
pub(super) fn parts(lengths: &[usize], size: Option<usize>) -> Vec<Part> {
    let mut order: Part = (0..lengths.len()).collect();
    let size = size.unwrap_or(order.len()).max(1);
    if size < order.len() {
        order.sort_by_key(|&row| lengths[row]);
    }
    order.chunks(size).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_every_row_once() {
        let lengths = [5, 1, 4, 1, 9];
        assert_eq!(parts(&lengths, None), [vec![0, 1, 2, 3, 4]]);
        assert_eq!(parts(&lengths, Some(5)), [vec![0, 1, 2, 3, 4]]);
        assert_eq!(parts(&lengths, Some(2)), [vec![1, 3], vec![2, 0], vec![4]]);
        assert_eq!(parts(&lengths, Some(1)).len(), 5);
    }
}
