//! What a language model would answer, by the probabilities of given answers.

use std::collections::BTreeMap;

use burn::{
    module::Module,
    tensor::{FloatDType, Int, Tensor, TensorData},
};

use super::{
    encoded::Encoded,
    predict::in_halves,
    run::{DIVERGED, Execution, interrupted},
};
use crate::{
    Error, Result,
    model::{Spec, Tape, Tokens, Transformer, can_write},
    ops,
    strategy::math,
};

/// Log-probability of each answer after each prompt, in nats: prompts × answers. An answer is its tokens, at least one.
///
/// Answers that differ in their last token alone share one pass through the model.
///
/// # Errors
/// A model without a language-model head, a prompt and answer that are too long, a number that is not finite, an interruption.
pub fn score(
    model: &Transformer,
    prompts: &Encoded,
    answers: &[Vec<u32>],
    execution: &Execution,
) -> Result<Vec<Vec<f32>>> {
    // Answers by what stands before their last token.
    let mut beginnings: BTreeMap<&[u32], Vec<(usize, u32)>> = BTreeMap::new();
    for (index, answer) in answers.iter().enumerate() {
        let Some((last, beginning)) = answer.split_last() else { return Err(Error::new("an answer has no token")) };
        beginnings.entry(beginning).or_default().push((index, *last));
    }
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&row| prompts.row(row).len());
    execution.begins("asking", (prompts.len() * beginnings.len()) as u64);
    let mut scores = vec![vec![0.0_f32; answers.len()]; prompts.len()];
    for (beginning, ends) in &beginnings {
        for rows in order.chunks(execution.predict_batch.max(1)) {
            if execution.stopped() {
                return Err(interrupted());
            }
            let sequences = rows.iter().map(|&row| [prompts.row(row), beginning].concat()).collect();
            let sequences =
                Encoded::new(sequences, model.spec()).map_err(|error| error.context("a prompt with its answer"))?;
            let places: Vec<u32> = (0..rows.len() as u32).collect();
            let found = in_halves(&places, &|rows| ask(model, &sequences, rows, beginning.len(), ends))?;
            for (&row, found) in rows.iter().zip(found.chunks_exact(beginning.len() + ends.len())) {
                if found.iter().any(|value| !value.is_finite()) {
                    return Err(
                        Error::not_finite(format!("the model's answer to prompt {row} is not finite")).help(DIVERGED)
                    );
                }
                let (shared, last) = found.split_at(beginning.len());
                let shared: f32 = shared.iter().sum();
                for ((index, _), value) in ends.iter().zip(last) {
                    scores[row][*index] = shared + value;
                }
            }
            if let Some(bar) = &execution.bar {
                bar.inc(rows.len() as u64);
            }
        }
    }
    Ok(scores)
}

/// What a model reads to say an answer after a prompt: both but for the answer's last token, which does not go in. The ids of what is read
/// are left to [`Encoded::new`].
///
/// # Errors
/// An answer without tokens, or one that ends in a token outside the vocabulary.
pub(super) fn asking(prompt: &[u32], answer: &[u32], spec: &Spec) -> Result<Vec<u32>> {
    let (last, rest) = answer.split_last().ok_or_else(|| Error::new("it has no tokens"))?;
    spec.check_ids(&[*last])?;
    Ok([prompt, rest].concat())
}

/// The hidden states `[T, H]` after which the tokens of answers stand, with [the way back](Transformer::hidden_with), and those T tokens; an item is
/// what [`asking`] makes, and the answer.
pub(super) fn before<'a, 'm>(
    model: &'m Transformer,
    items: impl IntoIterator<Item = (&'a [u32], &'a [u32])>,
    recompute: bool,
) -> ((Tensor<2>, Tape<'m>), Vec<u32>) {
    let (mut inputs, mut places, mut labels, mut end) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (input, answer) in items {
        end += input.len() as u32;
        places.extend(end - answer.len() as u32..end);
        labels.extend_from_slice(answer);
        inputs.push(input);
    }
    let (hidden, tape) = model.hidden_with(&Tokens::packed(&inputs), recompute);
    ((ops::lookup(hidden, &places), tape), labels)
}

/// Log-probability of each token of one answer to each prompt, in nats; their sum is that of the answer.
///
/// # Errors
/// A model that cannot write, another number of answers than of prompts, an answer without tokens or with one outside the vocabulary, a prompt
/// and answer that are too long, a number that is not finite, an interruption.
pub fn log_p(
    model: &Transformer,
    prompts: &Encoded,
    answers: &[Vec<u32>],
    execution: &Execution,
) -> Result<Vec<Vec<f32>>> {
    can_write(model.spec())?;
    if answers.len() != prompts.len() {
        return Err(Error::new(format!("there are {} answers to {} prompts", answers.len(), prompts.len())));
    }
    let model = model.valid().held();
    let input = |(row, answer): (usize, &Vec<u32>)| {
        let input = asking(prompts.row(row), answer, model.spec());
        input.map_err(|error| error.context(format!("the answer to prompt {row}")))
    };
    let inputs = answers.iter().enumerate().map(input).collect::<Result<_>>()?;
    let inputs = Encoded::new(inputs, model.spec()).map_err(|error| error.context("an answer after its prompt"))?;
    let head = model.vocabulary()?;
    let compute = |rows: &[u32]| {
        let items = rows.iter().map(|&row| (inputs.row(row as usize), answers[row as usize].as_slice()));
        let ((states, _), labels) = before(&model, items, false);
        Ok(math::to_host(math::column(ops::token_statistics(states, &head, &labels), 0)))
    };
    let mut order: Vec<u32> = (0..prompts.len() as u32).collect();
    order.sort_by_key(|&row| inputs.row(row as usize).len());
    execution.begins("asking", prompts.len() as u64);
    let mut results = vec![Vec::new(); prompts.len()];
    for rows in order.chunks(execution.predict_batch.max(1)) {
        if execution.stopped() {
            return Err(interrupted());
        }
        let values = in_halves(rows, &compute)?;
        let mut values = values.as_slice();
        for &row in rows {
            let (own, rest) = values.split_at(answers[row as usize].len());
            if own.iter().any(|value| !value.is_finite()) {
                let message = format!("log p of the answer to prompt {row} is not finite");
                return Err(Error::not_finite(message).help(DIVERGED));
            }
            results[row as usize] = own.to_vec();
            values = rest;
        }
        if let Some(bar) = &execution.bar {
            bar.inc(rows.len() as u64);
        }
    }
    Ok(results)
}

/// Per sequence of some rows the log-probabilities of its last `shared` tokens, and of each of `ends` after it.
fn ask(
    model: &Transformer,
    sequences: &Encoded,
    rows: &[u32],
    shared: usize,
    ends: &[(usize, u32)],
) -> Result<Vec<f32>> {
    let tokens = sequences.tokens(rows);
    let (mut places, mut targets) = (Vec::new(), Vec::new());
    let mut end = 0;
    for sequence in rows.iter().map(|&row| sequences.row(row as usize)) {
        end += sequence.len();
        for back in (0..shared).rev() {
            places.push((end - back) as i64 - 2);
            targets.push(sequence[sequence.len() - 1 - back]);
        }
        for (_, target) in ends {
            places.push(end as i64 - 1);
            targets.push(*target);
        }
    }
    let hidden = model.hidden(&tokens);
    let count = places.len();
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &hidden.device());
    let logits = model.lm_logits(hidden.select(0, places))?.cast(FloatDType::F32);
    Ok(ops::cross_entropy(logits, &targets).neg().into_data().iter::<f32>().collect())
}
