//! Tokenised examples, checked once at the border.

use std::ops::Range;

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

    /// Some of the examples, as a set of their own.
    pub fn part(&self, rows: &[usize]) -> Self {
        Self { rows: rows.iter().map(|&row| self.rows[row].clone()).collect() }
    }

    /// Some rows as one batch.
    pub fn tokens(&self, rows: &[u32]) -> Tokens {
        let rows: Vec<&[u32]> = rows.iter().map(|&row| self.row(row as usize)).collect();
        Tokens::packed(&rows)
    }
}

/// Splits a batch into parts of at most `size` rows; without a size, into one.
pub(super) fn parts(rows: usize, size: Option<usize>) -> Vec<Range<usize>> {
    let size = size.unwrap_or(rows).max(1);
    (0..rows).step_by(size).map(|start| start..rows.min(start + size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_every_row_once() {
        assert_eq!(parts(5, None), vec![0..5; 1]);
        assert_eq!(parts(5, Some(5)), vec![0..5; 1]);
        assert_eq!(parts(5, Some(2)), [0..2, 2..4, 4..5]);
        assert_eq!(parts(5, Some(1)).len(), 5);
        assert_eq!(parts(5, Some(0)).len(), 5);
    }
}
