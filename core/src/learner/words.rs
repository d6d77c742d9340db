//! Training a language model on answers in words with a selector, a refiner and a loss.
//!
//! The way of one step: [`Batch`] (answers as columns, detached) → selector → refiner, which say whose answer of each row is learnt and how much
//! it counts → those answers after their prompts, in parts → loss per answer token → [`learn_tokens`] → sum of the parts' gradients.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    answers::{asking, before},
    classify::{Objective, OwnLabels},
    encoded::{Encoded, parts},
    evaluate::{Evaluate, Halfway},
    language::learn_tokens,
    method::{Memories, Method, Table, examples, left_out, tables, with_columns, wrong_weights},
    parallel::Shared,
    reading::Reading,
    recipe::Recipe,
    run::{Choice, DIVERGED, Execution, Looked, Step, Trained, Work, device_of, train},
    sampler::{Minibatch, Sampler},
};
use crate::{
    Error, Result,
    model::{Tape, Transformer, can_write},
    ops,
    strategy::{Batch, ExampleId, Form, Needs, Settings, math},
};

/// Over what the loss of answers in words is averaged. Rows count by their weights w in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mean {
    /// Over all answer tokens of a batch, Σᵢ wᵢ Σₜ lᵢₜ / Σᵢ wᵢ Tᵢ: long answers count for more.
    #[default]
    Tokens,
    /// Over the tokens of each answer, then over the answers, Σᵢ wᵢ (Σₜ lᵢₜ / Tᵢ) / Σᵢ wᵢ: every answer counts the same.
    Examples,
    /// Over answers, each with the sum over its tokens, Σᵢ wᵢ Σₜ lᵢₜ / Σᵢ wᵢ: with cross-entropy −log p of the whole answer.
    Answers,
}

/// How answers in words are learnt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Answering {
    /// Over what the loss is averaged: `tokens` of the batch, `examples` (first over the tokens of each) or `answers` (sums over their tokens).
    ///
    /// Origin: transformers' Trainer, `tokens` (`num_items_in_batch`).
    pub mean: Mean,
    /// Learn the end-of-text token after every answer, without which a model does not stop.
    ///
    /// Origin: supervised fine-tuning with transformers (TRL), true.
    pub end: bool,
}

impl Default for Answering {
    fn default() -> Self {
        Self { mean: Mean::Tokens, end: true }
    }
}

impl Settings for Answering {}

/// The answers in words that an [`Objective`] is about: its labels are shares of these.
#[derive(Clone, Debug, PartialEq)]
pub struct Texts {
    /// M answers to each of N prompts, as tokens: `answers[m][n]`.
    pub answers: Vec<Vec<Vec<u32>>>,
    /// The end-of-text token, which [`Answering::end`] puts after each answer that does not end in it; an empty answer is it in any case.
    pub end_token: Option<u32>,
    /// How answers are learnt.
    pub answering: Answering,
}

/// Fine-tunes a language model on answers to prompts. Labels are shares of the M answers in `texts`; rows of `objective` and `texts` belong
/// to rows of `prompts`; the loss is taken on answer tokens alone.
///
/// What a micro-batch holds changes no more than last digits: decisions are made on the whole batch, and every answer's tokens are weighed by
/// what the whole batch is averaged over.
///
/// # Errors
/// Answers that do not fit the prompts or the model, labels that are no shares of them, a strategy that refuses words or lacks what it needs,
/// own labels or a column that are not known before training, too little data for one batch, a loss that is not finite (names step, learning
/// rate and examples), an interruption.
pub fn train_words(
    model: Transformer,
    prompts: &Encoded,
    mut objective: Objective,
    texts: Texts,
    recipe: &Recipe,
    seed: u64,
    execution: &Execution,
) -> Result<Trained<Transformer>> {
    recipe.validate()?;
    can_write(model.spec())?;
    let width = texts.answers.len();
    objective.check(prompts, width..=width)?;
    let given = Needs { embeddings: false, ..objective.given() };
    let pool = objective.pool(prompts, seed);
    let record = objective.record;
    let mut method = Method::new(objective.selector, objective.refiner, objective.loss, record);
    method.check_form(Form::Words)?;
    let self_labels = match objective.self_labels {
        None => None,
        Some(OwnLabels::Given(own)) => Some(Table::new(&own)),
        Some(OwnLabels::Current { .. }) => {
            return Err(Error::new("a student that writes has no head whose answers could change while it trains")
                .help("let the pretrained model answer beforehand"));
        }
    };
    if let Some(along) = &objective.along {
        let message =
            format!("a student that writes has no head, beside which the column `{}` could be learnt", along.column);
        return Err(Error::new(message).help("let it be made beforehand"));
    }
    let end = match (texts.answering.end, texts.end_token) {
        (true, None) => {
            return Err(Error::new("answers are to end in the end-of-text token, and the tokenizer names none")
                .help("set `end = false`"));
        }
        (true, token) => token,
        (false, _) => None,
    };
    let column = |(number, answers): (usize, &Vec<Vec<u32>>)| {
        Column::new(number, prompts, answers, (end, texts.end_token), &model)
    };
    let answers: Vec<Column> = texts.answers.iter().enumerate().map(column).collect::<Result<_>>()?;
    method.prepare(&pool, &given, None)?;
    let chosen = method.chosen(&pool)?;
    let lengths = answers[0].inputs.lengths();
    let sampler = Sampler::among_chosen(&lengths, chosen.as_deref(), recipe, seed)?;
    let method = Arc::new(method);
    let work = Words {
        looks: method.needs().student,
        answers,
        labels: Table::new(&objective.labels),
        self_labels,
        columns: tables(&pool),
        mean: texts.answering.mean,
        evaluate: objective.evaluate,
        method: method.clone(),
        shared: Shared::new(&model, &execution.beside),
        device: device_of(&model),
        micro_batch: execution.micro_batch,
        recompute: execution.recompute,
    };
    let mut trained = train(model, work, sampler, recipe, execution)?;
    trained.log.remarks.extend(method.remarks());
    if let Some(chosen) = chosen.filter(|_| record) {
        trained.log.choices.extend(left_out(&chosen, &pool));
    }
    Ok(trained)
}

/// One answer to every prompt.
#[derive(Debug)]
struct Column {
    /// Prompt and answer but for the answer's last token.
    inputs: Encoded,
    answers: Vec<Vec<u32>>,
}

impl Column {
    fn new(
        number: usize,
        prompts: &Encoded,
        answers: &[Vec<u32>],
        (end, end_token): (Option<u32>, Option<u32>),
        model: &Transformer,
    ) -> Result<Self> {
        let what = match number {
            0 => "the weak answer".to_owned(),
            1 => "the own answer".to_owned(),
            other => format!("answer {}", other + 1),
        };
        if answers.len() != prompts.len() {
            let (given, needed) = (answers.len(), prompts.len());
            return Err(Error::new(format!("{what} is there {given} times, and there are {needed} prompts")));
        }
        let ended = |answer: &Vec<u32>| match end {
            Some(end) if answer.last() != Some(&end) => [answer.as_slice(), &[end]].concat(),
            // Of an answer in which nothing was written its end alone can be learnt.
            _ if answer.is_empty() => end_token.into_iter().collect(),
            _ => answer.clone(),
        };
        let answers: Vec<Vec<u32>> = answers.iter().map(ended).collect();
        let mut inputs = Vec::with_capacity(answers.len());
        for (row, answer) in answers.iter().enumerate() {
            let fault = |error: Error| error.context(format!("{what} of example {row}"));
            inputs.push(asking(prompts.row(row), answer, model.spec()).map_err(fault)?);
        }
        let inputs =
            Encoded::new(inputs, model.spec()).map_err(|error| error.context(format!("{what} after its prompt")))?;
        Ok(Self { inputs, answers })
    }
}

/// An answer that is learnt, or looked at.
#[derive(Clone, Copy, Debug)]
struct Item {
    row: u32,
    column: usize,
    weight: f64,
}

#[derive(Debug)]
struct Words {
    /// The answers that labels are about.
    answers: Vec<Column>,
    labels: Table,
    self_labels: Option<Table>,
    /// Numbers of each example.
    columns: BTreeMap<String, Table>,
    mean: Mean,
    evaluate: Option<Evaluate>,
    method: Arc<Method>,
    /// Whether somebody wants to know what the model makes of each answer before the step.
    looks: bool,
    shared: Shared<Transformer>,
    /// The plain device.
    device: Device,
    micro_batch: Option<usize>,
    recompute: bool,
}

impl Words {
    fn answer(&self, item: &Item) -> &[u32] {
        &self.answers[item.column].answers[item.row as usize]
    }

    fn input(&self, item: &Item) -> &[u32] {
        self.answers[item.column].inputs.row(item.row as usize)
    }

    /// The hidden states `[T, H]` after which the items' answer tokens stand, with their way back, and those T tokens.
    fn states<'m>(&self, model: &'m Transformer, items: &[Item]) -> ((Tensor<2>, Tape<'m>), Vec<u32>) {
        before(model, items.iter().map(|item| (self.input(item), self.answer(item))), self.recompute)
    }

    /// Mean log p of a token of each answer of the batch, `[B, M]` row by row.
    fn look(&self, model: &Transformer, rows: &[u32]) -> Result<Vec<f32>> {
        let items: Vec<Item> = rows
            .iter()
            .flat_map(|&row| (0..self.answers.len()).map(move |column| Item { row, column, weight: 1.0 }))
            .collect();
        let mut means = Vec::with_capacity(items.len());
        let parts = parts(items.len(), self.micro_batch);
        let of = |model: &Transformer, _: &Device, part: Range<usize>| {
            // On the plain device: a forward pass on the autodiff device keeps its graph until somebody goes backward.
            let model = model.valid();
            let items = &items[part];
            let ((states, _), labels) = self.states(&model, items);
            let said = math::to_host(math::column(ops::token_statistics(states, &model.vocabulary()?, &labels), 0));
            let mut said = said.as_slice();
            let mean = |item| {
                let (own, rest) = said.split_at(self.answer(item).len());
                said = rest;
                (own.iter().copied().map(f64::from).sum::<f64>() / own.len() as f64) as f32
            };
            Ok(items.iter().map(mean).collect::<Vec<_>>())
        };
        self.shared.each(model, &parts, of, |of_part| means.extend(of_part))?;
        Ok(means)
    }

    /// The answers that are learnt, with their weights, in the order of the batch; and the record of the decision.
    fn decide(&self, model: &Transformer, minibatch: &Minibatch) -> Result<(Vec<Item>, Vec<Choice>)> {
        let (rows, at) = (&minibatch.rows, &minibatch.progress);
        let (count, width) = (rows.len(), self.answers.len());
        let ids: Vec<ExampleId> = rows.iter().map(|&row| ExampleId(row)).collect();
        // What nobody asked for is not there, and not a number for whoever takes it nevertheless.
        let means = if self.looks { self.look(model, rows)? } else { vec![f32::NAN; count * width] };
        let means = Tensor::<2>::from_data(TensorData::new(means, [count, width]), &self.device);
        let batch = Batch::new(&ids, self.labels.tensor(rows, &self.device))
            .at(*at)
            .with_student(means.clone().exp())
            .with_self_labels(self.self_labels.as_ref().map(|table| table.tensor(rows, &self.device)));
        let batch = with_columns(batch, &self.columns, rows);
        let (selection, labels, choices) = self.method.decide(rows, &batch);
        let mut weights = selection.weight;
        if self.looks {
            let surprise = math::rows(labels.clone() * means).neg();
            weights = weights * self.method.weigh(surprise, at);
        }
        let weights = math::to_host(weights);
        let wrong = rows.iter().zip(&weights).filter(|(_, weight)| !(weight.is_finite() && **weight >= 0.0));
        let wrong: Vec<u32> = wrong.map(|(row, _)| *row).collect();
        if !wrong.is_empty() {
            return Err(wrong_weights(&wrong));
        }
        let labels = math::rows_to_host(labels);
        let mut items = Vec::new();
        for (place, (&row, shares)) in rows.iter().zip(labels.chunks_exact(width)).enumerate() {
            if let Some(share) = shares.iter().find(|share| !(share.is_finite() && **share >= 0.0)) {
                return Err(Error::new(format!("the refiner gave an answer to example {row} a share of {share}")));
            }
            let item = |(column, share): (usize, &f32)| Item {
                row,
                column,
                weight: f64::from(weights[place]) * f64::from(*share),
            };
            items.extend(shares.iter().enumerate().map(item).filter(|item| item.weight > 0.0));
        }
        if items.is_empty() {
            // The batch has loss 0 and gradients of 0, with which the optimizer takes its step.
            items.extend(rows.first().map(|&row| Item { row, column: 0, weight: 0.0 }));
        }
        Ok((items, choices))
    }

    /// What each token of each item counts, so that the sum over all is the loss of the batch.
    fn shares(&self, items: &[Item]) -> Vec<f64> {
        let length = |item: &Item| self.answer(item).len() as f64;
        let total: f64 = match self.mean {
            Mean::Tokens => items.iter().map(|item| item.weight * length(item)).sum(),
            Mean::Examples | Mean::Answers => items.iter().map(|item| item.weight).sum(),
        };
        let total = if total > 0.0 { total } else { 1.0 };
        let share = |item: &Item| match self.mean {
            Mean::Tokens | Mean::Answers => item.weight / total,
            Mean::Examples => item.weight / (total * length(item)),
        };
        items.iter().map(share).collect()
    }
}

impl Work for Words {
    type Model = Transformer;
    type State = Memories;
    type Told = (Vec<Item>, Vec<f64>);

    fn evaluate(&self, model: &Transformer, done: usize, steps: usize) -> Result<Option<Value>> {
        self.evaluate.as_ref().map_or(Ok(None), |evaluate| evaluate.after(done, steps, Halfway::Writes(model)))
    }

    fn state(&self) -> Memories {
        self.method.memories()
    }

    fn restore(&self, state: Memories) {
        self.method.restore(state);
    }

    fn step(&self, model: &Transformer, minibatch: &Minibatch) -> Result<Step<Self::Told>> {
        let at = &minibatch.progress;
        let (items, choices) = self.decide(model, minibatch)?;
        let shares = self.shares(&items);
        let parts = parts(items.len(), self.micro_batch);
        let (grads, columns) = self.shared.gradients(model, &parts, |model, device, part| {
            let (items, shares) = (&items[part.clone()], &shares[part]);
            let (states, labels) = self.states(model, items);
            let weights: Vec<f32> = items
                .iter()
                .zip(shares)
                .flat_map(|(item, share)| std::iter::repeat_n(*share as f32, self.answer(item).len()))
                .collect();
            let weights = Tensor::<1>::from_floats(weights.as_slice(), device);
            let mut of_tokens = None;
            let learnt = learn_tokens(model, states, &labels, |tokens| {
                let losses = self.method.loss().tokens(tokens, at);
                let losses =
                    losses.ok_or_else(|| Error::new("the loss has no form for words, though it says it fits"))?;
                of_tokens = Some(losses.clone().inner());
                Ok(ops::total(losses * weights))
            })?;
            let losses = of_tokens.unwrap_or_else(|| learnt.loss.clone()).unsqueeze_dim::<2>(1);
            let table = Tensor::cat(vec![losses, learnt.numbers.narrow(1, 0, 2)], 1);
            Ok((learnt.grads, self.shared.home(table)))
        })?;
        // Everything that the host looks at, in one transfer: loss, log p of the label, log p of the likeliest.
        let numbers = Reading::of(Tensor::cat(columns, 0));
        let tokens = items.iter().map(|item| self.input(item).len()).sum();
        Ok(Step { grads, numbers, told: (items, shares), tokens, choices })
    }

    fn look(&self, (items, shares): Self::Told, table: &[f32]) -> Result<Looked> {
        let (loss, accuracy) = self.check(&items, &shares, table)?;
        Ok(Looked { loss, accuracy: Some(accuracy) })
    }
}

impl Words {
    /// The loss of the batch, and the part of its answer tokens that the model would say.
    fn check(&self, items: &[Item], shares: &[f64], table: &[f32]) -> Result<(f64, f64)> {
        let (mut loss, mut right, mut not_finite) = (0.0, 0, Vec::new());
        let mut tokens = table.chunks_exact(3);
        for (item, share) in items.iter().zip(shares) {
            let of_item = tokens.by_ref().take(self.answer(item).len());
            let (mut sum, mut finite) = (0.0, true);
            for token in of_item {
                sum += f64::from(token[0]);
                finite &= token[0].is_finite();
                right += usize::from(token[1] >= token[2]);
            }
            loss += share * sum;
            if !finite && !not_finite.contains(&item.row) {
                not_finite.push(item.row);
            }
        }
        if !not_finite.is_empty() {
            return Err(
                Error::not_finite(format!("the loss is not finite for {}", examples(&not_finite))).help(DIVERGED)
            );
        }
        Ok((loss, right as f64 / (table.len() / 3).max(1) as f64))
    }
}
