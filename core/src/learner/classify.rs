//! Training a classifier on soft labels with a selector, a refiner and a loss.

use std::{
    collections::BTreeMap,
    ops::{Range, RangeInclusive},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Device, FloatDType, Tensor, TensorData},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    encoded::{ABSENT, Encoded, parts},
    evaluate::{Evaluate, Halfway},
    method::{Memories, Method, Table, examples, left_out, tables, with_columns, wrong_weights},
    parallel::Shared,
    predict::embed,
    reading::Reading,
    recipe::Recipe,
    run::{Choice, DIVERGED, Execution, Looked, Step, Trained, Work, device_of, lock, train},
    sampler::{Minibatch, Order, Sampler},
};
use crate::{
    Error, Result,
    model::{Classifier, Tape, is_trained},
    ops, rng,
    strategy::{
        Batch, Calibration, ExampleId, LabelRefiner, Memory, Needs, Pool, Progress, Selector, StudentLoss, math,
    },
};

/// What a student learns from: labels, and what a method does with them.
#[derive(Debug)]
pub struct Objective {
    /// Soft labels, one row of K probabilities per example.
    pub labels: Vec<Vec<f32>>,
    /// The strong model's own answers, if a strategy needs them.
    pub self_labels: Option<OwnLabels>,
    /// True classes, if a control needs them.
    pub truth: Option<Vec<u8>>,
    /// Examples apart from these, with their truth, if a strategy needs them.
    pub calibration: Option<Calibration>,
    /// Embeddings of the pretrained strong model, one row per example, if a strategy needs them.
    pub embeddings: Option<Vec<Vec<f32>>>,
    /// Numbers of each example, by the names that strategies ask for.
    pub columns: BTreeMap<String, Vec<f32>>,
    /// One more, which a judge makes that is trained along.
    pub along: Option<Along>,
    /// Which task of a suite each example is of; empty where all are of one.
    pub tasks: Vec<u32>,
    /// Whose label is trusted; without one, the weak label of every row.
    pub selector: Option<Box<dyn Selector>>,
    /// How selected labels are refined; without one, not at all.
    pub refiner: Option<Box<dyn LabelRefiner>>,
    /// The loss.
    pub loss: Box<dyn StudentLoss>,
    /// What is asked of the model in the midst of its training, if anything.
    pub evaluate: Option<Evaluate>,
    /// Whether the last decision about every example is kept in the log. Looking at decisions waits for the device in every step.
    pub record: bool,
}

/// The strong model's own answers to the student's examples.
#[derive(Clone, Debug)]
pub enum OwnLabels {
    /// Known before training, in the form of the labels.
    Given(Vec<Vec<f32>>),
    /// Those of the model while it trains.
    Current {
        /// 1 for the likeliest class, instead of the probabilities.
        hard: bool,
        /// The head is an exponential moving average with this decay per step; 0 is the head itself.
        decay: f64,
    },
}

/// A judge beside the student's head that is trained along, on examples of its own (Selective W2SG, stage 2): its probability that something
/// is so of an example is a column.
#[derive(Clone, Debug)]
pub struct Along {
    /// Name of the column.
    pub column: String,
    /// The examples that it is learnt from.
    pub data: Encoded,
    /// Per example the probabilities of not so and so that it should have.
    pub labels: Vec<Vec<f32>>,
    /// λ: what its loss counts against the student's. With 0 the judge is there and not trained.
    pub lambda: f64,
    /// Examples of each step.
    pub batch_size: usize,
    /// Stop training it when its examples have been seen once, instead of starting again.
    pub once: bool,
    /// Part of the steps in which strategies are told 0: the judge has not learnt yet.
    pub warmup_fraction: f64,
}

impl Objective {
    /// Labels and a loss, nothing else.
    pub fn new(labels: Vec<Vec<f32>>, loss: Box<dyn StudentLoss>) -> Self {
        Self {
            labels,
            self_labels: None,
            truth: None,
            calibration: None,
            embeddings: None,
            columns: BTreeMap::new(),
            along: None,
            tasks: Vec::new(),
            selector: None,
            refiner: None,
            loss,
            evaluate: None,
            record: false,
        }
    }

    /// Checks what comes from outside; labels have as many columns as `widths` allows.
    pub(super) fn check(&self, data: &Encoded, widths: RangeInclusive<usize>) -> Result<()> {
        check_labels("label", &self.labels, data.len(), widths)?;
        if let Some(Along { column, data, labels, .. }) = &self.along {
            check_labels(&format!("`{column}` label"), labels, data.len(), 2..=2)?;
        }
        if let Some(OwnLabels::Given(own)) = &self.self_labels {
            check_labels("self-label", own, data.len(), 1..=usize::MAX)?;
            if own.first().map(Vec::len) != self.labels.first().map(Vec::len) {
                return Err(Error::new("self-labels and labels have different numbers of classes"));
            }
        }
        if let Some((name, column)) = self.columns.iter().find(|(_, column)| column.len() != data.len()) {
            let (given, needed) = (column.len(), data.len());
            return Err(Error::new(format!("the column `{name}` has {given} values for {needed} examples")));
        }
        Ok(())
    }

    /// What strategies may ask for and this objective has.
    pub(super) fn given(&self) -> Needs {
        Needs {
            embeddings: self.embeddings.is_some(),
            self_labels: self.self_labels.is_some(),
            truth: self.truth.is_some(),
            calibration: self.calibration.is_some(),
            student: true,
        }
    }

    /// The whole data set, as strategies see it before training.
    pub(super) fn pool(&mut self, data: &Encoded, seed: u64) -> Pool {
        Pool {
            ids: data.ids(),
            weak: self.labels.clone(),
            embeddings: self.embeddings.take(),
            self_labels: match &self.self_labels {
                Some(OwnLabels::Given(own)) => Some(own.clone()),
                _ => None,
            },
            truth: self.truth.take(),
            calibration: self.calibration.take(),
            columns: std::mem::take(&mut self.columns),
            tasks: std::mem::take(&mut self.tasks),
            seed,
        }
    }
}

/// Refuses labels that are not one distribution per example.
fn check_labels(what: &str, labels: &[Vec<f32>], examples: usize, widths: RangeInclusive<usize>) -> Result<()> {
    if labels.len() != examples {
        return Err(Error::new(format!("there are {} {what}s for {examples} examples", labels.len())));
    }
    let classes = labels.first().map_or(0, Vec::len);
    for (row, label) in labels.iter().enumerate() {
        let sum: f64 = label.iter().copied().map(f64::from).sum();
        let wrong = if label.len() != classes || !widths.contains(&classes) {
            format!("has {} classes, the first has {classes}", label.len())
        } else if let Some(value) = label.iter().find(|value| !(0.0..=1.0).contains(*value)) {
            format!("contains {value}, which is no probability")
        } else if (sum - 1.0).abs() > 1e-3 {
            format!("sums to {sum}, not to 1")
        } else {
            continue;
        };
        return Err(Error::new(format!("the {what} of example {row} {wrong}")));
    }
    Ok(())
}

/// Fine-tunes a classifier on soft labels. Rows of `objective.labels` belong to rows of `data`.
///
/// One step, in the reference's order: forward → [`Batch`] (detached) → selector → refiner → loss targets from the whole batch →
/// loss per row → Σ wᵢ lᵢ / Σ wᵢ → backward → clip → optimizer. With [`Execution::micro_batch`] the first forward pass is a pass of
/// its own without gradients, and the gradients of the parts add up to those of the whole batch.
///
/// # Errors
/// Labels that are no distributions, a strategy that refuses the data or lacks what it needs, too little data for one batch, a
/// loss that is not finite (names step, learning rate and examples), an interruption.
pub fn train_classifier(
    model: Classifier,
    data: &Encoded,
    mut objective: Objective,
    recipe: &Recipe,
    seed: u64,
    execution: &Execution,
) -> Result<Trained<Classifier>> {
    recipe.validate()?;
    objective.check(data, 2..=usize::MAX)?;
    let given = objective.given();
    let pool = objective.pool(data, seed);
    let record = objective.record;
    let mut method = Method::new(objective.selector, objective.refiner, objective.loss, record);
    method.prepare(&pool, &given, objective.along.as_ref().map(|along| along.column.as_str()))?;
    let chosen = method.chosen(&pool)?;
    let sampler = Sampler::among_chosen(&data.lengths(), chosen.as_deref(), recipe, seed)?;
    if data.chooses() && matches!(objective.self_labels, Some(OwnLabels::Current { decay, .. }) if decay > 0.0) {
        return Err(Error::new("the moving average of a head does not label examples that choose among candidates")
            .help("take `self_labels.source = \"current-head\"`"));
    }
    // With a fixed backbone every example has one embedding, computed once.
    let fixed = match is_frozen(&model.backbone) && !data.chooses() {
        true => Some(Table::new(&embed(&model, data, execution)?)),
        false => None,
    };
    let model = match &objective.along {
        Some(_) if model.judge.is_none() => model.with_judge(None),
        _ => model,
    };
    let judging = |along: Along| {
        let Along { batch_size, once, data, .. } = &along;
        // As many passes as there are steps to fill.
        let passes = if *once { 1 } else { (sampler.steps() * batch_size).div_ceil(data.len().max(1)).max(1) };
        let order = order_along(&along.column, &data.lengths(), *batch_size, passes, seed);
        let order = order.map_err(|error| error.context(format!("the column `{}`", along.column)))?;
        Ok::<_, Error>(Judging { labels: Table::new(&along.labels), along, order })
    };
    let judging = objective.along.map(judging).transpose()?;
    let method = Arc::new(method);
    let work = Classification {
        data: data.clone(),
        labels: Table::new(&objective.labels),
        self_labels: objective.self_labels.map(|own| match own {
            OwnLabels::Given(own) => Own::Given(Table::new(&own)),
            OwnLabels::Current { hard, decay } => Own::Current { hard, decay },
        }),
        columns: tables(&pool),
        judging,
        fixed,
        evaluate: objective.evaluate,
        method: method.clone(),
        head: Mutex::default(),
        shared: Shared::new(&model, &execution.beside),
        device: device_of(&model),
        micro_batch: execution.micro_batch,
        recompute: execution.recompute,
        labels_are_targets: AtomicBool::new(false),
    };
    let mut trained = train(model, work, sampler, recipe, execution)?;
    trained.log.remarks.extend(method.remarks());
    if let Some(chosen) = chosen.filter(|_| record) {
        trained.log.choices.extend(left_out(&chosen, &pool));
    }
    Ok(trained)
}

/// The order of a judge's examples, from a stream of its own: in the student's, as many examples would come in the very order of the student's.
pub(super) fn order_along(column: &str, lengths: &[usize], batch: usize, passes: usize, seed: u64) -> Result<Sampler> {
    let seed = rng::derive(seed, &format!("{column}-order"));
    Sampler::new(lengths, batch.min(lengths.len()), passes, Order::Shuffled, seed)
}

/// Whether no parameter of a module is trained.
pub fn is_frozen(module: &impl Module) -> bool {
    // What is trained shows on the autodiff device alone.
    !is_trained(&module.clone().train())
}

/// [`OwnLabels`] as training uses them.
#[derive(Debug)]
enum Own {
    Given(Table),
    Current { hard: bool, decay: f64 },
}

/// [`Along`] as training uses it.
#[derive(Debug)]
struct Judging {
    along: Along,
    labels: Table,
    order: Sampler,
}

#[derive(Debug)]
struct Classification {
    data: Encoded,
    labels: Table,
    self_labels: Option<Own>,
    /// The columns that are known before training.
    columns: BTreeMap<String, Table>,
    /// The judge that is trained along.
    judging: Option<Judging>,
    /// Embeddings of all rows, when the backbone is not trained.
    fixed: Option<Table>,
    evaluate: Option<Evaluate>,
    method: Arc<Method>,
    /// The moving average of the head `[H, K]`, once there is one.
    head: Mutex<Option<Tensor<2>>>,
    shared: Shared<Classifier>,
    /// The plain device.
    device: Device,
    micro_batch: Option<usize>,
    recompute: bool,
    /// Whether in every step so far every row's target was its label, with weight 1.
    labels_are_targets: AtomicBool,
}

/// What the model says about some rows.
struct Output {
    logits: Tensor<2>,
    embedding: Tensor<2>,
}

impl Output {
    /// The same without gradients, on the plain device.
    fn detached(&self) -> Self {
        Self { logits: self.logits.clone().inner(), embedding: self.embedding.clone().inner() }
    }

    /// The same on a device.
    fn on(self, device: &Device) -> Self {
        Self { logits: self.logits.to_device(device), embedding: self.embedding.to_device(device) }
    }

    /// What the model says about the rows of all parts.
    fn of(parts: Vec<Self>) -> Self {
        let (logits, embeddings) = parts.into_iter().map(|part| (part.logits, part.embedding)).unzip();
        Self { logits: Tensor::cat(logits, 0), embedding: Tensor::cat(embeddings, 0) }
    }
}

/// What each row of a batch is trained towards; on the plain device.
struct Decision {
    /// `[B, K]`
    targets: Tensor<2>,
    /// `[B]`
    weights: Tensor<1>,
    /// For the record.
    choices: Vec<Choice>,
}

impl Decision {
    /// What belongs to some rows of the batch.
    fn part(&self, rows: &Range<usize>) -> Self {
        let (targets, weights) = (self.targets.clone(), self.weights.clone());
        Self {
            targets: targets.narrow(0, rows.start, rows.len()),
            weights: weights.narrow(0, rows.start, rows.len()),
            choices: Vec::new(),
        }
    }

    /// The same on a device.
    fn on(self, device: &Device) -> Self {
        Self { targets: self.targets.to_device(device), weights: self.weights.to_device(device), ..self }
    }

    fn equals(&self, other: &Self) -> bool {
        let values = |decision: &Self| (decision.targets.to_data(), decision.weights.to_data());
        values(self) == values(other)
    }
}

impl Classification {
    /// What the model, on a plain device, says about some rows, and the way back.
    fn forward<'m>(&self, model: &'m Classifier, device: &Device, rows: &[u32]) -> (Output, Tape<'m>) {
        let (embedding, tape) = match &self.fixed {
            Some(table) => (table.tensor(rows, device), Tape::default()),
            None => model.embed_with(&self.data.tokens(rows), self.recompute),
        };
        let logits = self.data.logits(rows, model.logits(embedding.clone()).cast(FloatDType::F32));
        (Output { logits, embedding: self.data.mean(rows, embedding) }, tape)
    }

    /// The model's own labels of a batch, by the head or its moving average.
    fn own_labels(&self, model: &Classifier, rows: &[u32], seen: &Output) -> Option<Tensor<2>> {
        let (hard, decay) = match self.self_labels.as_ref()? {
            Own::Given(table) => return Some(table.tensor(rows, &self.device)),
            Own::Current { hard, decay } => (*hard, *decay),
        };
        let logits = if decay > 0.0 {
            let now = model.head.weight.val().inner();
            let mut average = lock(&self.head);
            let head = match average.take() {
                Some(head) => head.mul_scalar(decay) + now.mul_scalar(1.0 - decay),
                None => now,
            };
            *average = Some(head.clone());
            seen.embedding.clone().matmul(head)
        } else {
            seen.logits.clone()
        };
        Some(if hard { math::one_hot_argmax(logits) } else { math::softmax(logits) })
    }

    /// The column `[B]` that is made along, as strategies are told it, and its name.
    fn judged(&self, model: &Classifier, minibatch: &Minibatch, seen: &Output) -> Option<(&str, Tensor<1>)> {
        let Along { column, warmup_fraction, .. } = &self.judging.as_ref()?.along;
        if minibatch.progress.fraction() < *warmup_fraction {
            return Some((column, Tensor::zeros([minibatch.rows.len()], &self.device)));
        }
        let weight = model.judge.as_ref()?.weight.val().inner();
        let logits = seen.embedding.clone().matmul(weight).cast(FloatDType::F32);
        Some((column, math::column(math::softmax(logits), 1)))
    }

    /// Gradients of λ times the judge's loss on its examples of this step, if there are any, and the number of their tokens.
    fn learn_to_judge(&self, model: &Classifier, step: usize) -> Result<Option<(GradientsParams, usize)>> {
        let judging = self.judging.as_ref().filter(|judging| judging.along.lambda != 0.0);
        let Some(Judging { along: Along { data, lambda, .. }, labels, order }) = judging else { return Ok(None) };
        let Some(Minibatch { rows, .. }) = order.minibatch(step) else { return Ok(None) };
        let parts = parts(rows.len(), self.micro_batch);
        let (grads, counts) = self.shared.gradients(model, &parts, |model, device, part| {
            let part = &rows[part];
            let tokens = data.tokens(part);
            let count = tokens.ids.len();
            let (embedding, tape) = model.embed_with(&tokens, self.recompute);
            let embedding = data.mean(part, embedding);
            let logits = model.judge_logits(embedding).ok_or_else(|| Error::new("the model has no judge"))?;
            let losses = math::cross_entropy(labels.tensor(part, device), logits.cast(FloatDType::F32));
            let loss = losses.sum().mul_scalar(lambda / rows.len() as f64);
            Ok((tape.gradients(model, loss.backward()), count))
        })?;
        Ok(Some((grads, counts.into_iter().sum())))
    }

    /// Selector, refiner and the loss's targets, over the whole batch.
    fn decide(&self, model: &Classifier, minibatch: &Minibatch, seen: Output, labels: &Tensor<2>) -> Decision {
        let ids: Vec<ExampleId> = minibatch.rows.iter().map(|&row| ExampleId(row)).collect();
        let at = &minibatch.progress;
        let judged = self.judged(model, minibatch, &seen);
        let batch = Batch::new(&ids, labels.clone())
            .at(*at)
            .with_student(math::softmax(seen.logits.clone()))
            .with_self_labels(self.own_labels(model, &minibatch.rows, &seen))
            .with_embedding(seen.embedding);
        let batch = with_columns(batch, &self.columns, &minibatch.rows);
        let batch = match judged {
            Some((column, numbers)) => batch.with_column(column, numbers),
            None => batch,
        };
        let (selection, labels, choices) = self.method.decide(&minibatch.rows, &batch);
        let targets = self.method.targets(&batch, seen.logits, labels);
        Decision { targets: targets.inner(), weights: within_range(selection.weight.inner()), choices }
    }

    /// Loss of each row and the gradient of `Σ wᵢ lᵢ / total`.
    fn backward(
        &self,
        model: &Classifier,
        (logits, tape): (Tensor<2>, Tape),
        decision: Decision,
        total: Tensor<1>,
        at: &Progress,
    ) -> (Tensor<1>, GradientsParams) {
        let losses = self.method.loss().loss(logits, decision.targets, at);
        let loss = ops::total(losses.clone() * decision.weights) / total;
        (losses.inner(), tape.gradients(model, loss.backward()))
    }

    /// Gradients of the whole batch, part by part, with targets that are known beforehand.
    fn accumulate(
        &self,
        model: &Classifier,
        minibatch: &Minibatch,
        parts: &[Range<usize>],
        decision: &Decision,
    ) -> Result<(Output, Tensor<1>, GradientsParams)> {
        let total = total(&decision.weights);
        let (grads, found) = self.shared.gradients(model, parts, |model, device, part| {
            let (output, tape) = self.forward(model, device, &minibatch.rows[part.clone()]);
            let seen = output.detached().on(&self.device);
            let (way, decision, total) = ((output.logits, tape), decision.part(&part).on(device), total.clone());
            let (losses, grads) = self.backward(model, way, decision, total.to_device(device), &minibatch.progress);
            Ok((grads, (seen, losses.to_device(&self.device))))
        })?;
        let (seen, losses): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        Ok((Output::of(seen), Tensor::cat(losses, 0), grads))
    }

    /// Logits and embeddings of the whole batch, without gradients.
    fn observe(&self, model: &Classifier, minibatch: &Minibatch, parts: &[Range<usize>]) -> Result<Output> {
        let mut outputs = Vec::with_capacity(parts.len());
        let of = |model: &Classifier, device: &Device, part: Range<usize>| {
            // On the plain device: a forward pass on the autodiff device keeps its graph until somebody goes backward.
            Ok(self.forward(&model.valid(), device, &minibatch.rows[part]).0.on(&self.device))
        };
        self.shared.each(model, parts, of, |output| outputs.push(output))?;
        Ok(Output::of(outputs))
    }
}

/// Σ wᵢ as `[1]`, and 1 instead of 0, so that a batch whose rows are all dropped has loss 0 and no gradient.
fn total(weights: &Tensor<1>) -> Tensor<1> {
    let sum = ops::total(weights.clone());
    sum.clone().mask_fill(sum.equal_elem(0.0), 1.0)
}

/// Weights whose sum a float can hold and be divided by: those of an extraordinary size in units of the largest, which changes no weighted mean.
fn within_range(weights: Tensor<1>) -> Tensor<1> {
    let largest = weights.clone().max();
    let tiny = largest.clone().greater_elem(0.0).bool_and(largest.clone().lower_elem(1e-20));
    let extraordinary = tiny.bool_or(largest.clone().greater_elem(1e20));
    let unit = largest.ones_like().mask_where(extraordinary, largest);
    let rows = weights.dims();
    weights / unit.expand(rows)
}

/// What training on classes and candidates carries from step to step.
#[derive(Debug, Serialize, Deserialize)]
struct Carried {
    memories: Memories,
    head: Option<TensorData>,
    labels_are_targets: bool,
}

impl Work for Classification {
    type Model = Classifier;
    type State = Carried;
    type Told = Vec<u32>;

    fn evaluate(&self, model: &Classifier, done: usize, steps: usize) -> Result<Option<Value>> {
        self.evaluate.as_ref().map_or(Ok(None), |evaluate| evaluate.after(done, steps, Halfway::Chooses(model)))
    }

    fn state(&self) -> Carried {
        Carried {
            memories: self.method.memories(),
            head: lock(&self.head).as_ref().map(Tensor::to_data),
            labels_are_targets: self.labels_are_targets.load(Ordering::Relaxed),
        }
    }

    fn restore(&self, state: Carried) {
        self.method.restore(state.memories);
        *lock(&self.head) = state.head.map(|head| {
            let dtype = head.dtype();
            Tensor::from_data(head, (&self.device, dtype))
        });
        self.labels_are_targets.store(state.labels_are_targets, Ordering::Relaxed);
    }

    fn step(&self, model: &Classifier, minibatch: &Minibatch) -> Result<Step<Self::Told>> {
        let at = &minibatch.progress;
        let parts = parts(minibatch.rows.len(), self.micro_batch);
        let labels = self.labels.tensor(&minibatch.rows, &self.device);
        let (logits, weights, losses, mut grads, choices) = if parts.len() == 1 {
            let (output, tape) = self.forward(model, &self.device, &minibatch.rows);
            let seen = output.detached();
            let logits = seen.logits.clone();
            let mut decision = self.decide(model, minibatch, seen, &labels);
            let (weights, total) = (decision.weights.clone(), total(&decision.weights));
            let choices = std::mem::take(&mut decision.choices);
            let (losses, grads) = self.backward(model, (output.logits, tape), decision, total, at);
            (logits, weights, losses, grads, choices)
        } else {
            // Targets may depend on the whole batch, so they come first. Once they turned out to be the labels themselves, and for as long as
            // they do, that pass is saved: labels are assumed, and the assumption is checked on the logits of the same step.
            let assumed = Decision {
                targets: labels.clone(),
                weights: Tensor::ones([minibatch.rows.len()], &self.device),
                choices: Vec::new(),
            };
            let guess = self.labels_are_targets.load(Ordering::Relaxed);
            let guessed = guess.then(|| self.accumulate(model, minibatch, &parts, &assumed)).transpose()?;
            let seen = match &guessed {
                Some((seen, ..)) => seen.detached(),
                None => self.observe(model, minibatch, &parts)?,
            };
            let decision = self.decide(model, minibatch, seen, &labels);
            let right = (guess || at.step == 0) && decision.equals(&assumed);
            self.labels_are_targets.store(right, Ordering::Relaxed);
            let (seen, losses, grads) = match guessed.filter(|_| right) {
                Some(done) => done,
                None => self.accumulate(model, minibatch, &parts, &decision)?,
            };
            (seen.logits, decision.weights, losses, grads, decision.choices)
        };
        let mut tokens: usize = minibatch.rows.iter().map(|&row| self.data.length(row as usize)).sum();
        if let Some((more, count)) = self.learn_to_judge(model, at.step)? {
            let mut accumulator = GradientsAccumulator::new();
            accumulator.accumulate(model, grads);
            accumulator.accumulate(model, more);
            grads = accumulator.grads();
            tokens += count;
        }
        // Everything that the host looks at, in one transfer.
        let columns = vec![logits, losses.unsqueeze_dim(1), weights.unsqueeze_dim(1)];
        let numbers = Reading::of(Tensor::cat(columns, 1));
        Ok(Step { grads, numbers, told: minibatch.rows.clone(), tokens, choices })
    }

    fn look(&self, rows: Vec<u32>, table: &[f32]) -> Result<Looked> {
        let (loss, accuracy) = self.check(&rows, table)?;
        Ok(Looked { loss, accuracy: Some(accuracy) })
    }
}

impl Classification {
    /// Loss and agreement with the labels from rows of K logits, loss and weight.
    fn check(&self, rows: &[u32], table: &[f32]) -> Result<(f64, f64)> {
        let classes = self.labels.width;
        let (mut sum, mut total, mut agree) = (0.0, 0.0, 0);
        let (mut not_finite, mut wrong_weight) = (Vec::new(), Vec::new());
        for (&row, values) in rows.iter().zip(table.chunks_exact(classes + 2)) {
            let (logits, [loss, weight]) = (&values[..classes], [values[classes], values[classes + 1]]);
            if !loss.is_finite() {
                not_finite.push(row);
            }
            if !(weight.is_finite() && weight >= 0.0) {
                wrong_weight.push(row);
            }
            sum += f64::from(weight) * f64::from(loss);
            total += f64::from(weight);
            agree += usize::from(argmax(logits) == argmax(self.labels.row(row)));
        }
        if !not_finite.is_empty() {
            return Err(
                Error::not_finite(format!("the loss is not finite for {}", examples(&not_finite))).help(DIVERGED)
            );
        }
        if !wrong_weight.is_empty() {
            return Err(wrong_weights(&wrong_weight));
        }
        let loss = if total > 0.0 { sum / total } else { 0.0 };
        Ok((loss, agree as f64 / rows.len() as f64))
    }
}

/// Whether a loss is the same with a candidate that is not there as without it: of one that spreads probability over all places it is not.
pub fn passes_over_absent(loss: &dyn StudentLoss) -> bool {
    let device = &Device::flex();
    let at = Progress { step: 1, total_steps: 2, epoch: 0, epochs: 1 };
    let losses = |absent: bool| {
        let rows = |values: [[f32; 3]; 4], beyond: f32| {
            let width = 3 + usize::from(absent);
            let row = |row: [f32; 3]| row.into_iter().chain(absent.then_some(beyond)).collect::<Vec<f32>>();
            Tensor::<2>::from_data(TensorData::new(values.map(row).concat(), [4, width]), device)
        };
        let logits = rows([[0.3, -0.8, 0.1], [1.2, 0.4, -0.5], [-0.2, 0.9, 0.6], [0.7, -0.1, 1.1]], ABSENT);
        let labels = rows([[0.2, 0.5, 0.3], [0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [0.1, 0.3, 0.6]], 0.0);
        let targets = loss.targets(logits.clone(), labels, &at, &mut Memory::default());
        math::to_host(loss.loss(logits, targets, &at))
    };
    let near = |(with, without): (&f32, &f32)| (with - without).abs() <= 1e-4 * (1.0 + without.abs());
    losses(true).iter().zip(&losses(false)).all(near)
}

/// First of the largest values.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (place, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = place;
        }
    }
    best
}
