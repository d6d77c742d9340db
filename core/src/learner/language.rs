//! Pretraining a language model on documents.

use burn::{
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{FloatDType, Tensor},
};

use super::{
    encoded::{Encoded, parts},
    recipe::Recipe,
    run::{DIVERGED, Execution, Step, Trained, Work, train},
    sampler::{Minibatch, Sampler},
};
use crate::{Error, Result, model::Transformer, ops};

/// How documents become sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// One after another, cut every so many tokens; each token but the very first is predicted once per epoch.
    Stream(usize),
    /// One document per sequence; each of its tokens but the first is predicted.
    Documents,
}

/// Trains a language model to predict the next token of `documents`; the loss is the mean over all positions but padding.
/// Documents carry their own end tokens.
///
/// # Errors
/// Tokens that the model cannot read, too few sequences for one batch, a loss that is not finite, an interruption.
pub fn train_lm(
    model: Transformer,
    documents: &[Vec<u32>],
    packing: Packing,
    recipe: &Recipe,
    seed: u64,
    execution: &Execution,
) -> Result<Trained<Transformer>> {
    recipe.validate()?;
    let sequences = sequences(documents, packing);
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for sequence in &sequences {
        inputs.push(sequence[..sequence.len() - 1].to_vec());
        targets.push(sequence[1..].to_vec());
    }
    let inputs = Encoded::new(inputs, model.spec())?;
    let targets = Encoded::new(targets, model.spec())?;
    let sampler = Sampler::new(&inputs.lengths(), recipe.batch_size, recipe.epochs, recipe.order, seed)?;
    let work = NextToken { inputs, targets, micro_batch: execution.micro_batch };
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
struct NextToken {
    /// All tokens of a sequence but the last.
    inputs: Encoded,
    /// All tokens of a sequence but the first.
    targets: Encoded,
    micro_batch: Option<usize>,
}

impl NextToken {
    /// Mean of the loss over `total` positions, summed over the positions of some rows.
    fn loss(&self, model: &Transformer, rows: &[u32], total: usize) -> Result<Tensor<1>> {
        let inputs = self.inputs.tokens(rows);
        let targets = self.targets.tokens(rows).ids;
        let logits = model.lm_logits(model.hidden(&inputs))?.cast(FloatDType::F32);
        Ok(ops::cross_entropy(logits, &targets).sum().div_scalar(total as f64))
    }
}

impl Work for NextToken {
    type Model = Transformer;

    fn step(&self, model: &Transformer, minibatch: &Minibatch) -> Result<Step> {
        let total = minibatch.rows.iter().map(|&row| self.inputs.row(row as usize).len()).sum();
        let mut accumulator = GradientsAccumulator::new();
        let mut losses = Vec::new();
        for part in parts(minibatch.rows.len(), self.micro_batch) {
            let loss = self.loss(model, &minibatch.rows[part], total)?;
            losses.push(loss.clone().inner());
            accumulator.accumulate(model, GradientsParams::from_grads(loss.backward(), model));
        }
        let loss: f64 = Tensor::cat(losses, 0).into_data().iter::<f32>().map(f64::from).sum();
        if !loss.is_finite() {
            return Err(Error::not_finite(format!("the loss is {loss}")).help(DIVERGED));
        }
        Ok(Step { grads: accumulator.grads(), loss, accuracy: None, tokens: total, choices: Vec::new() })
    }
}
