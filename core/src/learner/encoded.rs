//! Tokenised examples, checked once at the border.

use std::ops::Range;

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

use crate::{
    Error, Result,
    model::{Spec, Tokens},
    strategy::ExampleId,
};

/// Tokenised examples of one split, in the split's order: what models train on and predict.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// One text each; of examples that choose, their candidates one after the other.
    rows: Vec<Vec<u32>>,
    /// Where examples choose among texts of their own.
    candidates: Option<Candidates>,
}

/// Which texts belong to which example.
#[derive(Clone, Debug, PartialEq)]
struct Candidates {
    /// The place behind each example's last candidate; the first of the next is there.
    ends: Vec<usize>,
    /// Most candidates of an example.
    most: usize,
}

/// The logit of a candidate that an example does not have. Its probability is 0 in float32, beside any logit of a model that is sound.
pub const ABSENT: f32 = -1e4;

impl Encoded {
    /// Takes tokenised examples of a model. What the model cannot read would end in a panic deep inside of it, so it is refused here.
    ///
    /// # Errors
    /// An example without tokens, with too many, or with an id outside the vocabulary; the message names the row.
    pub fn new(rows: Vec<Vec<u32>>, spec: &Spec) -> Result<Self> {
        for (row, tokens) in rows.iter().enumerate() {
            spec.check_ids(tokens).map_err(|error| error.context(format!("example {row}")))?;
        }
        Ok(Self { rows, candidates: None })
    }

    /// Takes examples that each choose among candidates of their own, at most `most` of them.
    ///
    /// # Errors
    /// As [`new`](Self::new), and an example with fewer than two candidates, or more than `most`.
    pub fn choosing(examples: Vec<Vec<Vec<u32>>>, most: usize, spec: &Spec) -> Result<Self> {
        let (mut rows, mut ends) = (Vec::new(), Vec::with_capacity(examples.len()));
        for (row, candidates) in examples.into_iter().enumerate() {
            let fault = |error: Error| error.context(format!("example {row}"));
            if !(2..=most).contains(&candidates.len()) {
                let message = format!("{} candidates where there are 2 to {most}", candidates.len());
                return Err(fault(Error::new(message)));
            }
            candidates.iter().try_for_each(|tokens| spec.check_ids(tokens)).map_err(fault)?;
            rows.extend(candidates);
            ends.push(rows.len());
        }
        Ok(Self { rows, candidates: Some(Candidates { ends, most }) })
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.candidates.as_ref().map_or(self.rows.len(), |candidates| candidates.ends.len())
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether examples choose among candidates of their own: a model then gives each text one score.
    pub fn chooses(&self) -> bool {
        self.candidates.is_some()
    }

    /// The places of an example's texts.
    fn texts(&self, row: usize) -> Range<usize> {
        match &self.candidates {
            None => row..row + 1,
            Some(Candidates { ends, .. }) => row.checked_sub(1).map_or(0, |before| ends[before])..ends[row],
        }
    }

    /// Tokens of one example; of one that chooses those of its first candidate.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.rows[self.texts(row).start]
    }

    /// Number of tokens of an example, with all its candidates.
    pub fn length(&self, row: usize) -> usize {
        self.rows[self.texts(row)].iter().map(Vec::len).sum()
    }

    /// Number of tokens of each example.
    pub fn lengths(&self) -> Vec<usize> {
        (0..self.len()).map(|row| self.length(row)).collect()
    }

    /// Names of the examples: their rows.
    pub fn ids(&self) -> Vec<ExampleId> {
        (0..self.len() as u32).map(ExampleId).collect()
    }

    /// Some of the examples, as a set of their own.
    pub fn part(&self, rows: &[usize]) -> Self {
        let mut part = Self { rows: Vec::new(), candidates: self.candidates.clone() };
        part.candidates.iter_mut().for_each(|candidates| candidates.ends.clear());
        for &row in rows {
            part.rows.extend_from_slice(&self.rows[self.texts(row)]);
            part.candidates.iter_mut().for_each(|candidates| candidates.ends.push(part.rows.len()));
        }
        part
    }

    /// Every text without its last token, and without its first: what a language model reads, and what it should say next. Texts of one token are
    /// left out, and with them examples that have no other.
    pub(super) fn shifted(&self) -> (Self, Self) {
        let (mut inputs, mut targets) = (self.part(&[]), self.part(&[]));
        for example in 0..self.len() {
            let before = inputs.rows.len();
            for tokens in self.rows[self.texts(example)].iter().filter(|tokens| tokens.len() > 1) {
                inputs.rows.push(tokens[..tokens.len() - 1].to_vec());
                targets.rows.push(tokens[1..].to_vec());
            }
            let end = inputs.rows.len();
            for side in [&mut inputs, &mut targets] {
                side.candidates.iter_mut().filter(|_| end > before).for_each(|candidates| candidates.ends.push(end));
            }
        }
        (inputs, targets)
    }

    /// Some rows as one batch: the texts of the first, of the second, and so on.
    pub fn tokens(&self, rows: &[u32]) -> Tokens {
        let texts: Vec<&[u32]> =
            rows.iter().flat_map(|&row| &self.rows[self.texts(row as usize)]).map(Vec::as_slice).collect();
        Tokens::packed(&texts)
    }

    /// Logits `[B, M]` of some rows from the scores `[T, 1]` of their texts, [`ABSENT`] where there is no candidate. What is no choice is
    /// `[B, K]` already, and stays as it is.
    pub fn logits(&self, rows: &[u32], scores: Tensor<2>) -> Tensor<2> {
        let Some(Candidates { most, .. }) = &self.candidates else { return scores };
        let device = scores.device();
        let mut places: Vec<i32> = Vec::with_capacity(rows.len() * most);
        let (mut texts, absent) = (0, scores.dims()[0] as i32);
        for &row in rows {
            let count = self.texts(row as usize).len();
            places.extend((0..*most).map(|place| if place < count { texts + place as i32 } else { absent }));
            texts += count as i32;
        }
        let places = Tensor::<1, Int>::from_data(TensorData::from(places.as_slice()), &device);
        let absent = Tensor::full([1, 1], ABSENT, &device);
        Tensor::cat(vec![scores, absent], 0).select(0, places).reshape([rows.len(), *most])
    }

    /// One vector for each of some rows from those of their texts, `[T, H]` to `[B, H]`: the mean over an example's candidates.
    pub fn mean(&self, rows: &[u32], texts: Tensor<2>) -> Tensor<2> {
        if self.candidates.is_none() {
            return texts;
        }
        let (device, [count, width]) = (texts.device(), texts.dims());
        let (mut shares, mut places) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (place, &row) in rows.iter().enumerate() {
            let texts = self.texts(row as usize).len();
            places.extend(std::iter::repeat_n(place as i32, texts));
            shares.extend(std::iter::repeat_n(1.0 / texts as f32, texts));
        }
        let places = Tensor::<1, Int>::from_data(TensorData::from(places.as_slice()), &device);
        let shares = Tensor::<1>::from_floats(shares.as_slice(), &device).unsqueeze_dim::<2>(1);
        Tensor::zeros([rows.len(), width], &device).select_assign(0, places, texts * shares, IndexingUpdateOp::Add)
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
