//! Pretraining a language model on documents.

use std::marker::PhantomData;

use burn::{
    module::{Module, ModuleDisplay},
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Device, FloatDType, Int, Tensor, TensorData},
};

use super::{
    encoded::{Encoded, pad, parts},
    recipe::{Parameters, Recipe},
    run::{DIVERGED, Execution, Step, Trained, Work, device_of, train},
    sampler::{Minibatch, Sampler},
};
use crate::{Error, Result, model::Tokens, ops};

/// A model that predicts the next token at every position.
pub trait LanguageModel: Module + ModuleDisplay + Sync + 'static {
    /// Logits `[B, T, V]` of the token after each position.
    fn next_token(&self, tokens: &Tokens) -> Tensor<3>;
}

/// How documents become sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// One after another, cut every so many tokens; each token but the very first is predicted once per epoch.
    Stream(usize),
    /// One document per sequence; each of its tokens but the first is predicted.
    Documents,
}

/// Trains a language model to predict the next token of `documents`; the loss is the mean over all positions but padding.
/// `vocabulary` and `positions` are the model's limits. Documents carry their own end tokens.
///
/// # Errors
/// Tokens that the model cannot read, too few sequences for one batch, a loss that is not finite, an interruption.
#[expect(clippy::too_many_arguments, reason = "each is one thing that decides what is learnt")]
pub fn train_lm<L: LanguageModel>(
    model: L,
    documents: &[Vec<u32>],
    packing: Packing,
    vocabulary: usize,
    positions: usize,
    recipe: &Recipe,
    seed: u64,
    execution: &Execution,
) -> Result<Trained<L>> {
    recipe.validate()?;
    if recipe.parameters == Parameters::Head {
        return Err(Error::new("`parameters = \"head\"` is for classifiers; a language model has no head of its own"));
    }
    // A sequence of n + 1 tokens is n inputs and the n tokens that follow them.
    let data = Encoded::new(sequences(documents, packing), vocabulary, positions + 1)?;
    let sampler = Sampler::new(&data.lengths(), recipe.batch_size, recipe.epochs, recipe.order, seed)?;
    let device = device_of(&model);
    let work = NextToken { data, device, micro_batch: execution.micro_batch, model: PhantomData };
    train(model, work, sampler, recipe, execution)
}

/// Sequences of at least two tokens.
fn sequences(documents: &[Vec<u32>], packing: Packing) -> Vec<Vec<u32>> {
    let mut sequences = match packing {
        Packing::Documents => documents.to_vec(),
        Packing::Stream(size) => {
            let stream = documents.concat();
            let starts = (0..stream.len()).step_by(size.max(1));
            starts.map(|start| stream[start..stream.len().min(start + size.max(1) + 1)].to_vec()).collect()
        }
    };
    sequences.retain(|tokens| tokens.len() > 1);
    sequences
}

#[derive(Debug)]
struct NextToken<L> {
    data: Encoded,
    device: Device,
    micro_batch: Option<usize>,
    model: PhantomData<fn() -> L>,
}

impl<L: LanguageModel> Work for NextToken<L> {
    type Model = L;

    fn step(&self, model: &L, minibatch: &Minibatch) -> Result<Step> {
        let rows: Vec<&[u32]> = minibatch.rows.iter().map(|&row| self.data.row(row as usize)).collect();
        let lengths: Vec<usize> = rows.iter().map(|row| row.len() - 1).collect();
        let total: usize = lengths.iter().sum();
        let mut accumulator = GradientsAccumulator::new();
        let mut losses = Vec::new();
        for part in parts(&lengths, self.micro_batch) {
            let inputs = pad(part.iter().map(|&row| &rows[row][..lengths[row]]), &self.device);
            let [count, width] = inputs.ids.dims();
            let mut targets = vec![0i32; count * width];
            let mut weights = vec![0f32; count * width];
            for (place, &row) in part.iter().enumerate() {
                for (position, &token) in rows[row][1..].iter().enumerate() {
                    targets[place * width + position] = token as i32;
                    weights[place * width + position] = 1.0 / total as f32;
                }
            }
            let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [count * width]), &self.device);
            let weights = Tensor::<1>::from_data(TensorData::new(weights, [count * width]), &self.device);
            let logits = model.next_token(&inputs).cast(FloatDType::F32);
            let [_, _, vocabulary] = logits.dims();
            let loss = (ops::cross_entropy(logits.reshape([count * width, vocabulary]), targets) * weights).sum();
            losses.push(loss.clone().inner());
            accumulator.accumulate(model, GradientsParams::from_grads(loss.backward(), model));
        }
        let loss: f64 = Tensor::cat(losses, 0).into_data().iter::<f32>().map(f64::from).sum();
        if !loss.is_finite() {
            return Err(Error::new(format!("the loss is {loss}")).help(DIVERGED));
        }
        Ok(Step { grads: accumulator.grads(), loss, accuracy: None, tokens: total })
    }
}
