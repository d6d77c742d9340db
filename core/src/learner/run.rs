//! The composition on burn-train: what every kind of training shares.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::{
    module::{Module, ModuleDisplay},
    optim::{GradientsParams, ModuleOptimizer},
    tensor::Device,
    train::{ExecutionStrategy, InferenceStep, Interrupter, Learner, SupervisedTraining, TrainOutput, TrainStep},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    checkpoint::{Checkpoints, Resumed, Saver, Stop},
    optimizer::{clip, clip_unseen, narrow},
    progress::{Display, Nowhere},
    reading::Reading,
    recipe::Recipe,
    sampler::{Loader, Minibatch, Sampler},
    schedule::Schedule,
};
use crate::{Error, Result, alloc, error::panic_message, last_words, model::Precision};

/// Rows that go through the model at once when it predicts.
pub const PREDICT_BATCH: usize = 32;

/// How training is executed. Rows at once change the order of sums and with it the last digits, and precision changes more; nothing else here
/// changes a result.
#[derive(Clone, Debug)]
pub struct Execution {
    /// Rows that go through the model at once when it trains; without a value, the whole batch. Gradients are summed over the parts.
    pub micro_batch: Option<usize>,
    /// Rows that go through the model at once when it predicts, at most. Products of small matrices add in another order, so it
    /// changes last digits, too.
    pub predict_batch: usize,
    /// Further devices, which share the parts of each batch with the model's own: it trains on all of them. They change no result where they round as
    /// that one does.
    pub beside: Vec<Device>,
    /// Compute the blocks of a model again on the way back, in place of keeping what they computed: less memory, more time, the same bits.
    pub recompute: bool,
    /// In which numbers the matrices of models are, as models that were [read](crate::model::Pretrained) know themselves.
    pub precision: Precision,
    /// Look at the loss of a step while the device computes the next one: it need not wait for the host, and what is not finite ends the training a
    /// step later. For GPUs; on the CPU it changes no bit but those of clipping.
    pub looks_late: bool,
    /// Where progress is shown, if anywhere.
    pub bar: Option<indicatif::ProgressBar>,
    /// Asked from outside (by a signal handler) to stop at the end of the current step.
    pub stop: Option<Stop>,
    /// Where a training that is under way is saved, if it is.
    pub checkpoints: Option<Checkpoints>,
}

impl Default for Execution {
    fn default() -> Self {
        Self {
            micro_batch: None,
            predict_batch: PREDICT_BATCH,
            beside: Vec::new(),
            recompute: false,
            precision: Precision::default(),
            looks_late: false,
            bar: None,
            stop: None,
            checkpoints: None,
        }
    }
}

impl Execution {
    /// Shows a new piece of work of so many parts, if progress is shown.
    pub(super) fn begins(&self, work: &'static str, parts: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(parts);
            bar.set_position(0);
            bar.set_message(work);
        }
    }

    /// The same with at most so many rows at once, whether the model trains or predicts.
    pub fn in_parts(micro_batch: Option<usize>, like: &Self) -> Self {
        let predict_batch = micro_batch.map_or(PREDICT_BATCH, |rows| rows.clamp(1, PREDICT_BATCH));
        Self { micro_batch, predict_batch, ..like.clone() }
    }

    /// Whether somebody asked to stop.
    pub fn stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(Stop::is_asked)
    }
}

/// What happened in one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLog {
    /// Optimizer step, from 0.
    pub step: usize,
    /// Loss of the batch in nats: Σ wᵢ lᵢ / Σ wᵢ, before the step.
    pub loss: f64,
    /// Part of the batch on whose label the model agrees, before the step; weak labels if it trains on those. Of answers in words, the part of
    /// their tokens that the model would say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping, when it is clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
}

/// What a student's method made of one example, the last time it came up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Row of the example.
    pub row: u32,
    /// Whether the strong model's own label was trusted instead of the weak one.
    pub own: bool,
    /// How much the example counted.
    pub weight: f32,
    /// What the columns said of it, by their names.
    pub columns: BTreeMap<String, f32>,
    /// The strong model's own label `[K]`, if the method has one.
    pub self_label: Option<Vec<f32>>,
    /// What the refiner made of the trusted label `[K]`.
    pub refined: Vec<f32>,
}

/// What happened while training; the same on every run of the same recipe on a CPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainLog {
    /// Every step, in order.
    pub steps: Vec<StepLog>,
    /// Tokens that went through the model, without padding.
    pub tokens: u64,
    /// The last decision about every example, by row.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub choices: BTreeMap<u32, Choice>,
    /// What the model said after some of the steps, by their number; see [`Evaluate`](super::Evaluate).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub said: BTreeMap<usize, Value>,
    /// What the user should know: that training went astray, and what strategies say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// A trained model.
#[derive(Clone, Debug)]
pub struct Trained<M> {
    /// The model, on the plain device, ready to predict.
    pub model: M,
    /// What happened step by step.
    pub log: TrainLog,
    /// Wall time of training.
    pub seconds: f64,
}

impl<M> Trained<M> {
    /// The same training of a model that is seen as something else.
    pub fn map<N>(self, change: impl FnOnce(M) -> N) -> Trained<N> {
        Trained { model: change(self.model), log: self.log, seconds: self.seconds }
    }

    /// Tokens per second of wall time.
    pub fn speed(&self) -> f64 {
        self.log.tokens as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Loss of the last step.
    pub fn final_loss(&self) -> Option<f64> {
        self.log.steps.last().map(|step| step.loss)
    }
}

/// The mathematics of one kind of training: from a model and a batch to gradients.
pub(super) trait Work: Debug + Send + Sync + 'static {
    /// What is trained.
    type Model: Module + ModuleDisplay + Sync + 'static;
    /// What it carries from step to step beside the model; everything else is the same in every try.
    type State: Serialize + DeserializeOwned;
    /// What tells the loss of a step from the numbers that are read back.
    type Told: Debug + Send + 'static;

    /// Gradients of the batch's loss. An error stops training before the model changes; it need not name the step.
    fn step(&self, model: &Self::Model, minibatch: &Minibatch) -> Result<Step<Self::Told>>;

    /// What a step came to, from the numbers that it asked for. An error stops training.
    fn look(&self, told: Self::Told, numbers: &[f32]) -> Result<Looked>;

    /// What the model says after so many steps of so many, if anybody asks.
    fn evaluate(&self, _model: &Self::Model, _done: usize, _steps: usize) -> Result<Option<Value>> {
        Ok(None)
    }

    /// What it carries after the last step.
    fn state(&self) -> Self::State;

    /// Goes on with what an interrupted training carried.
    fn restore(&self, state: Self::State);
}

/// What [`Work`] found out about one batch.
pub(super) struct Step<T> {
    /// Gradients by parameter.
    pub(super) grads: GradientsParams,
    /// Everything that the host looks at, in one transfer.
    pub(super) numbers: Reading,
    /// What it means.
    pub(super) told: T,
    /// Tokens without padding.
    pub(super) tokens: usize,
    /// What the method decided about each example.
    pub(super) choices: Vec<Choice>,
}

/// What the numbers of a step say.
pub(super) struct Looked {
    /// Loss of the batch; finite.
    pub(super) loss: f64,
    /// Part of the batch on whose label the model agrees.
    pub(super) accuracy: Option<f64>,
}

/// A step whose numbers nobody has looked at yet.
#[derive(Debug)]
struct Unseen<T> {
    step: usize,
    numbers: Reading,
    told: T,
    /// Norm of the gradient, if it is clipped on the device.
    norm: Option<Reading>,
}

/// What the steps leave behind: the log, and why they stopped.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) log: TrainLog,
    started: Instant,
    /// Seconds and tokens of the tries before this one.
    before: (f64, u64),
    step: usize,
    failure: Option<Error>,
}

impl Meter {
    /// Seconds of training, in this try and those before.
    fn seconds(&self) -> f64 {
        self.before.0 + self.started.elapsed().as_secs_f64()
    }

    /// Tokens per second, in this try.
    pub(super) fn speed(&self) -> f64 {
        (self.log.tokens - self.before.1) as f64 / self.started.elapsed().as_secs_f64().max(1e-3)
    }
}

/// What a checkpoint says of the steps that were done: a log, and the state of the [`Work`].
#[derive(Serialize, Deserialize)]
struct Past<L, S> {
    log: L,
    seconds: f64,
    work: S,
}

impl Default for Meter {
    fn default() -> Self {
        Self { log: TrainLog::default(), started: Instant::now(), before: (0.0, 0), step: 0, failure: None }
    }
}

/// A meter that training and display share.
pub(super) type SharedMeter = Arc<Mutex<Meter>>;

/// Takes the lock whether or not a panic happened while it was held.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What accompanies the model through burn-train.
#[derive(Debug)]
struct Run<W: Work> {
    work: W,
    /// Steps in their order: one at most, and none where steps are looked at before the model changes.
    unseen: Mutex<VecDeque<Unseen<W::Told>>>,
    steps: usize,
    schedule: Schedule,
    clip: Option<f64>,
    execution: Execution,
    saver: Option<Saver>,
    meter: SharedMeter,
    interrupter: Stopper,
}

/// An [`Interrupter`] that can be shown.
struct Stopper(Interrupter);

impl Debug for Stopper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupter")
    }
}

impl<W: Work> Run<W> {
    /// Keeps an error as the reason to stop, with the step it belongs to.
    fn fail(&self, step: usize, error: Error) {
        let mut meter = lock(&self.meter);
        meter.failure.get_or_insert_with(|| {
            error.context(format!("step {step} (learning rate {:e})", self.schedule.rate(step)))
        });
        self.interrupter.0.stop(None);
    }

    /// One batch: gradients, and an entry in the log. No gradients after an error.
    fn step(&self, model: &W::Model, minibatch: &Minibatch) -> GradientsParams {
        let step = minibatch.progress.step;
        lock(&self.meter).step = step;
        match self.work.step(model, minibatch) {
            Ok(Step { grads, numbers, told, tokens, choices }) => {
                let mut meter = lock(&self.meter);
                meter.log.tokens += tokens as u64;
                meter.log.choices.extend(choices.into_iter().map(|choice| (choice.row, choice)));
                drop(meter);
                lock(&self.unseen).push_back(Unseen { step, numbers, told, norm: None });
                self.look_at_all_but(usize::from(self.execution.looks_late));
                if lock(&self.meter).failure.is_some() { GradientsParams::new() } else { grads }
            }
            Err(error) => {
                self.look_at_all_but(0);
                self.fail(step, error);
                GradientsParams::new()
            }
        }
    }

    /// Looks at steps that nobody has looked at, but for the last few, and enters them in the log.
    fn look_at_all_but(&self, last: usize) {
        loop {
            let mut unseen = lock(&self.unseen);
            if unseen.len() <= last || lock(&self.meter).failure.is_some() {
                return;
            }
            let Some(Unseen { step, numbers, told, norm }) = unseen.pop_front() else { return };
            drop(unseen);
            match numbers.values().and_then(|numbers| self.work.look(told, &numbers)) {
                Ok(Looked { loss, accuracy }) => {
                    let learning_rate = self.schedule.rate(step);
                    let entry = StepLog { step, loss, accuracy, learning_rate, gradient_norm: None };
                    lock(&self.meter).log.steps.push(entry);
                }
                Err(error) => return self.fail(step, error),
            }
            if let Some(norm) = norm {
                match norm.values() {
                    Ok(norm) => self.enter_norm(step, norm.first().copied().map_or(f64::NAN, f64::from)),
                    Err(error) => return self.fail(step, error),
                };
            }
        }
    }

    /// Enters the norm of a gradient beside the last step of the log; whether it is one that a model may learn from.
    fn enter_norm(&self, step: usize, norm: f64) -> bool {
        if !norm.is_finite() {
            self.fail(step, Error::not_finite(format!("the norm of the gradient is {norm}")).help(DIVERGED));
            return false;
        }
        if let Some(entry) = lock(&self.meter).log.steps.last_mut() {
            entry.gradient_norm = Some(norm);
        }
        true
    }

    /// Clips the gradients; whether the optimizer may use them.
    fn admit(&self, model: &W::Model, grads: &mut GradientsParams) -> bool {
        if lock(&self.meter).failure.is_some() {
            return false;
        }
        let Some(limit) = self.clip else { return true };
        // A step that nobody has looked at is not held up for its norm either.
        if let Some(unseen) = lock(&self.unseen).back_mut() {
            unseen.norm = clip_unseen(model, grads, limit).map(Reading::of);
            return true;
        }
        let norm = clip(model, grads, limit);
        let step = lock(&self.meter).step;
        self.enter_norm(step, norm)
    }

    /// What follows a step: what the model says then, a checkpoint if it is time for one, and the end if somebody asked for it.
    fn after(&self, model: &W::Model, optimizer: &ModuleOptimizer) {
        let step = lock(&self.meter).step;
        let done = step + 1;
        match self.work.evaluate(model, done, self.steps) {
            Ok(said) => lock(&self.meter).log.said.extend(said.map(|said| (done, said))),
            Err(error) => return self.fail(step, error),
        }
        let stop = self.execution.stopped();
        if let Some(saver) = &self.saver {
            // After the last step nothing is left to be continued.
            if done < self.steps && (stop || saver.is_due(done)) {
                // What is saved is known to be finite, and its log whole.
                self.look_at_all_but(0);
                let meter = lock(&self.meter);
                if meter.failure.is_some() {
                    return;
                }
                let past = Past { log: &meter.log, seconds: meter.seconds(), work: self.work.state() };
                saver.save(done, model, optimizer, &past);
            }
        }
        if stop {
            self.interrupter.0.stop(None);
        }
    }
}

/// What helps against numbers that are not finite.
pub(super) const DIVERGED: &str = "a lower learning rate, a warm-up or `clip = 1.0` usually helps";

/// A model on its way through burn-train.
#[derive(Module, Debug)]
struct Trainee<M: Module, R> {
    model: M,
    #[module(skip)]
    run: R,
}

impl<W: Work> TrainStep for Trainee<W::Model, Arc<Run<W>>> {
    type Input = Minibatch;
    type Output = ();

    fn step(&self, minibatch: Minibatch) -> TrainOutput<()> {
        TrainOutput { grads: self.run.step(&self.model, &minibatch), item: () }
    }

    fn optimize(self, optimizer: &mut ModuleOptimizer, rate: ModuleLearningRate, mut grads: GradientsParams) -> Self {
        if !self.run.admit(&self.model, &mut grads) {
            return self;
        }
        let trained = optimizer.step(rate, self, grads);
        trained.run.after(&trained.model, optimizer);
        trained
    }
}

/// burn-train evaluates after each of its epochs; its validation set is empty here, because results are computed from stored
/// predictions.
impl<W: Work> InferenceStep for Trainee<W::Model, Arc<Run<W>>> {
    type Input = Minibatch;
    type Output = ();

    fn step(&self, _minibatch: Minibatch) {}
}

/// Trains `model`: one burn-train epoch over all steps of `sampler` (data epochs are the sampler's business), or over those that are left after
/// the newest checkpoint of the same training.
///
/// # Errors
/// Whatever [`Work::step`] refuses, a gradient that is not finite, a panic inside of Burn, or an interruption.
pub(super) fn train<W: Work>(
    model: W::Model,
    work: W,
    sampler: Sampler,
    recipe: &Recipe,
    execution: &Execution,
) -> Result<Trained<W::Model>> {
    alloc::refuse_for_a_test("train");
    let steps = sampler.steps();
    let schedule = recipe.schedule(steps);
    let mut meter = Meter::default();
    let device = device_of(&model);
    let mut model = model.train();
    // Where the trainee has it.
    let mut optimizer = recipe.optimizer(&narrow(&model, "model"));
    let saver = Saver::new(execution, steps);
    if let Some(saved) = saver.as_ref().and_then(|saver| saver.newest(&model, &optimizer)) {
        let past: Past<TrainLog, W::State>;
        Resumed { model, optimizer, state: past } = saved;
        meter.before = (past.seconds, past.log.tokens);
        meter.log = past.log;
        work.restore(past.work);
    }
    let first = meter.log.steps.len();
    let meter = Arc::new(Mutex::new(meter));
    let interrupter = Interrupter::new();
    let run = Arc::new(Run {
        work,
        unseen: Mutex::default(),
        steps,
        schedule: schedule.clone(),
        clip: recipe.clip,
        execution: execution.clone(),
        saver,
        meter: meter.clone(),
        interrupter: Stopper(interrupter.clone()),
    });
    let trainee = Trainee { model, run: run.clone() };
    let sampler = Arc::new(sampler);
    let training = SupervisedTraining::new(
        Path::new(""),
        Arc::new(Loader::new(sampler.clone(), first..steps)),
        Arc::new(Loader::new(sampler, 0..0)),
    )
    .num_epochs(1)
    .with_training_strategy(ExecutionStrategy::single(device.autodiff()).into())
    .with_interrupter(interrupter)
    .with_application_logger(None)
    .with_metric_logger(Nowhere)
    .renderer(Box::new(Display::new(execution.bar.clone(), meter.clone(), first)));
    let learner = Learner::new(trainee, optimizer, schedule.starting_at(first));

    let result = guard(|| training.launch(learner));
    // The last step, or the one before whatever went wrong, which may tell why.
    let looked = guard(|| run.look_at_all_but(0));
    let meter = &mut *lock(&meter);
    let seconds = meter.seconds();
    if let Some(failure) = meter.failure.take() {
        return Err(failure);
    }
    let result = result.map_err(|error| error.context(format!("step {}", meter.step)))?;
    if let Some(error) = result.error {
        return Err(Error::new(format!("training stopped after step {}: {error}", meter.step)));
    }
    looked.map_err(|error| error.context(format!("step {}", meter.step)))?;
    let mut log = std::mem::take(&mut meter.log);
    if log.steps.len() < steps {
        return Err(interrupted().context(format!("after step {} of {steps}", log.steps.len())));
    }
    log.remarks.extend(astray(&log.steps));
    Ok(Trained { model: result.model.model, log, seconds })
}

/// What to say of a training whose loss has grown out of all proportion, though it is a number.
pub(super) fn astray(steps: &[StepLog]) -> Option<String> {
    /// Steps at the end that count.
    const LAST: usize = 20;
    /// How many times the first loss, or one nat, is no longer learning: a probability of e⁻¹⁰⁰.
    const TIMES: f64 = 100.0;
    let first = steps.first()?.loss;
    let last = &steps[steps.len().saturating_sub(LAST)..];
    let last = last.iter().map(|step| step.loss).sum::<f64>() / last.len() as f64;
    (last > TIMES * first.max(1.0))
        .then(|| format!("training went astray: the loss rose from {first:.3} to {last:.3e} at the end; {DIVERGED}"))
}

/// The error of a run that was asked to stop.
pub fn interrupted() -> Error {
    Error::new("interrupted")
}

/// The plain device that a model lives on.
pub(super) fn device_of(model: &impl Module) -> Device {
    model.devices().into_iter().next().unwrap_or_default().inner()
}

/// Turns a panic inside of Burn (shapes, memory) into an error.
pub(super) fn guard<T>(body: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| {
        let (kind, message, help) = last_words::classify(panic_message(panic.as_ref()));
        let error = Error::new(message).of_kind(kind);
        if let Some(help) = help { error.help(help) } else { error }
    })
}
