//! Training a language model on documents or on a task's own texts, and how a loss on tokens reaches a language model's parameters.

use burn::{
    optim::GradientsParams,
    tensor::{FloatDType, Tensor},
};

use super::{
    encoded::{Encoded, parts},
    parallel::Shared,
    reading::Reading,
    recipe::Recipe,
    run::{DIVERGED, Execution, Looked, Step, Trained, Work, train},
    sampler::{Minibatch, Sampler},
};
use crate::{
    Error, Result,
    model::{Tape, Transformer},
    ops,
    strategy::TokenView,
};

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
    next_token(model, (inputs, targets), recipe, seed, execution)
}

/// Trains a language model on the texts of examples as they are, whoever is right about them; a step takes as many examples as the recipe says,
/// with all their candidates. The loss is the mean over all tokens but the first of each text.
///
/// # Errors
/// A model without a language-model head, no text of two tokens, and as [`train_lm`].
pub fn train_texts(
    model: Transformer,
    examples: &Encoded,
    recipe: &Recipe,
    seed: u64,
    execution: &Execution,
) -> Result<Trained<Transformer>> {
    recipe.validate()?;
    model.lm_matrix()?;
    let shifted = examples.shifted();
    if shifted.0.is_empty() {
        return Err(Error::new("no text has two tokens, so there is none to predict"));
    }
    next_token(model, shifted, recipe, seed, execution)
}

/// Trains on sequences without their last and without their first tokens.
fn next_token(
    model: Transformer,
    (inputs, targets): (Encoded, Encoded),
    recipe: &Recipe,
    seed: u64,
    execution: &Execution,
) -> Result<Trained<Transformer>> {
    let sampler = Sampler::new(&inputs.lengths(), recipe.batch_size, recipe.epochs, recipe.order, seed)?;
    let Execution { micro_batch, recompute, .. } = *execution;
    let work = NextToken { inputs, targets, shared: Shared::new(&model, &execution.beside), micro_batch, recompute };
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
    shared: Shared<Transformer>,
    micro_batch: Option<usize>,
    recompute: bool,
}

impl Work for NextToken {
    type Model = Transformer;
    type State = ();
    type Told = ();

    fn state(&self) {}

    fn restore(&self, (): ()) {}

    fn step(&self, model: &Transformer, minibatch: &Minibatch) -> Result<Step<()>> {
        let total = minibatch.rows.iter().map(|&row| self.inputs.length(row as usize)).sum();
        let parts = parts(minibatch.rows.len(), self.micro_batch);
        let (grads, losses) = self.shared.gradients(model, &parts, |model, _, part| {
            let rows = &minibatch.rows[part];
            let states = model.hidden_with(&self.inputs.tokens(rows), self.recompute);
            // The mean over all positions of the batch, summed over those of some rows.
            let mean = |tokens: &TokenView| Ok(tokens.cross_entropy().sum().div_scalar(total as f64));
            let learnt = learn_tokens(model, states, &self.targets.tokens(rows).ids, mean)?;
            Ok((learnt.grads, self.shared.home(learnt.loss)))
        })?;
        let numbers = Reading::of(Tensor::cat(losses, 0));
        Ok(Step { grads, numbers, told: (), tokens: total, choices: Vec::new() })
    }

    fn look(&self, (): (), losses: &[f32]) -> Result<Looked> {
        let loss: f64 = losses.iter().copied().map(f64::from).sum();
        if !loss.is_finite() {
            return Err(Error::not_finite(format!("the loss is {loss}")).help(DIVERGED));
        }
        Ok(Looked { loss, accuracy: None })
    }
}

/// What [`learn_tokens`] found.
pub(super) struct Learnt {
    /// Gradients by parameter.
    pub(super) grads: GradientsParams,
    /// The loss `[1]`, on the plain device.
    pub(super) loss: Tensor<1>,
    /// The numbers `[T, 5]` of each token, on the plain device.
    pub(super) numbers: Tensor<2>,
}

/// Gradients of a loss on the tokens that a language model says after T hidden states `[T, H]`, which come with their way back; `labels` are those
/// that it should say.
///
/// Three ways of one chain: what the loss makes of the numbers of each token; from their slopes through the vocabulary, a part of the tokens at
/// a time, so that the logits of all are never there at once ([`ops::token_gradients`]); and from the hidden states through the model.
///
/// # Errors
/// A model without a language-model head, or whatever `loss` refuses.
pub(super) fn learn_tokens(
    model: &Transformer,
    (hidden, tape): (Tensor<2>, Tape),
    labels: &[u32],
    loss: impl FnOnce(&TokenView) -> Result<Tensor<1>>,
) -> Result<Learnt> {
    let (head, (matrix, _)) = (model.vocabulary()?, model.lm_matrix()?);
    let seen = hidden.clone().inner();
    let numbers = ops::token_statistics(seen.clone(), &head, labels);
    let live = Tensor::from_inner(numbers.clone()).require_grad();
    let loss = loss(&TokenView::new(live.clone(), head.vocabulary()))?;
    let slopes = live.grad(&loss.backward()).unwrap_or_else(|| numbers.zeros_like());
    let (of_hidden, of_head) =
        ops::token_gradients(seen, &head, labels, numbers.clone(), slopes, matrix.is_require_grad());
    // Σ h · g, g held still, is the number whose gradient along h is g.
    let on = (hidden * Tensor::from_inner(of_hidden)).sum();
    let mut grads = tape.gradients(model, on.backward());
    if let Some(of_head) = of_head {
        // In the numbers of the matrix, if that is a parameter in bfloat16.
        let of_head = of_head.cast(FloatDType::from(matrix.val().dtype()));
        // A table of embeddings has a gradient from its other use, too.
        let sum = match grads.remove::<2>(matrix.id) {
            Some(grad) => grad + of_head,
            None => of_head,
        };
        grads.register(matrix.id, sum);
    }
    Ok(Learnt { grads, loss: loss.inner(), numbers })
}
