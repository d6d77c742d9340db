//! Tokenised examples, checked once at the border.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{Error, Result, model::Tokens, strategy::ExampleId};

/// Tokenised examples of one split, in the split's order: what models train on and predict.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    rows: Vec<Vec<u32>>,
}

impl Encoded {
    /// Takes tokenised examples of a model with `vocabulary` token ids and room for `positions` tokens.
    ///
    /// A token id outside the vocabulary would end in a panic deep inside the embedding, so it is refused here.
    ///
    /// # Errors
    /// An example without tokens, with too many, or with an id outside the vocabulary; the message names the row.
    pub fn new(rows: Vec<Vec<u32>>, vocabulary: usize, positions: usize) -> Result<Self> {
        for (row, tokens) in rows.iter().enumerate() {
            if tokens.is_empty() {
                return Err(Error::new(format!("example {row} has no tokens")));
            }
            if tokens.len() > positions {
                return Err(Error::new(format!(
                    "example {row} has {} tokens, more than the {positions} that the model can read",
                    tokens.len()
                ))
                .help("lower the limit on tokens in the data options"));
            }
            if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocabulary) {
                return Err(Error::new(format!(
                    "example {row} contains token id {id}, outside the vocabulary of {vocabulary}"
                ))
                .help("use the tokenizer that belongs to the model"));
            }
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

    /// Some rows as one batch, padded on the right to the longest of them.
    pub fn tokens(&self, rows: &[u32], device: &Device) -> Tokens {
        pad(rows.iter().map(|&row| self.row(row as usize)), device)
    }
}

/// Rows of tokens as one batch, padded on the right to the longest. What stands in the padding is never looked at.
pub(super) fn pad<'a>(rows: impl Iterator<Item = &'a [u32]> + Clone, device: &Device) -> Tokens {
    let lengths: Vec<usize> = rows.clone().map(<[u32]>::len).collect();
    let width = lengths.iter().copied().max().unwrap_or_default();
    let mut ids = vec![0i32; lengths.len() * width];
    for (row, tokens) in rows.enumerate() {
        for (place, &token) in ids[row * width..].iter_mut().zip(tokens) {
            *place = token as i32;
        }
    }
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [lengths.len(), width]), device);
    Tokens { ids, lengths }
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
    fn what_a_model_cannot_read_is_refused() {
        let good = Encoded::new(vec![vec![1, 2], vec![9]], 10, 2).unwrap();
        assert_eq!((good.len(), good.lengths()), (2, vec![2, 1]));
        for (rows, message) in [
            (vec![vec![1], vec![]], "example 1 has no tokens"),
            (vec![vec![1, 2, 3]], "example 0 has 3 tokens, more than the 2 that the model can read"),
            (vec![vec![1], vec![10]], "example 1 contains token id 10, outside the vocabulary of 10"),
        ] {
            assert_eq!(Encoded::new(rows, 10, 2).unwrap_err().message(), message);
        }
    }

    #[test]
    fn batches_are_padded_to_their_longest() {
        let data = Encoded::new(vec![vec![1], vec![2, 3, 4], vec![5, 6]], 10, 8).unwrap();
        let tokens = data.tokens(&[2, 0], &Device::flex());
        assert_eq!(tokens.lengths, [2, 1]);
        assert_eq!(tokens.ids.dims(), [2, 2]);
        assert_eq!(tokens.ids.into_data().to_vec_as::<i64>(), [5, 6, 1, 0]);
    }

    #[test]
    fn parts_hold_every_row_once() {
        let lengths = [5, 1, 4, 1, 9];
        assert_eq!(parts(&lengths, None), [vec![0, 1, 2, 3, 4]]);
        assert_eq!(parts(&lengths, Some(5)), [vec![0, 1, 2, 3, 4]]);
        assert_eq!(parts(&lengths, Some(2)), [vec![1, 3], vec![2, 0], vec![4]]);
        assert_eq!(parts(&lengths, Some(1)).len(), 5);
    }
}
