//! Training as a whole, on models small enough to train in a test.

use std::{path::Path, sync::atomic::Ordering};

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{DType, Device, FloatDType, Tensor, TensorData, activation::log_softmax},
};
use serde_json::{Value, json};

use super::{optimizer::clip, *};
use crate::{
    model::{Classifier, HeadConfig, HeadInit, Precision, Spec, Transformer},
    rng::Rng,
    strategy::{Batch, ExampleId, LabelRefiner, Memory, Needs, Pool, Progress, Selection, Selector, StudentLoss, math},
};

const VOCABULARY: usize = 24;

pub(super) fn spec(hidden: usize, layers: usize) -> Spec {
    let config = json!({
        "model_type": "gpt2", "vocab_size": VOCABULARY, "n_positions": 16, "n_embd": hidden, "n_layer": layers, "n_head": 2,
    });
    Spec::parse(&config.to_string(), Path::new("config.json")).unwrap()
}

pub(super) fn classifier_of(spec: &Spec, freeze_backbone: bool) -> Classifier {
    let head = HeadConfig { init: HeadInit::Normal { std: 0.5 }, freeze_backbone, ..HeadConfig::default() };
    Classifier::new(Transformer::init(spec, 1, &Device::flex()).unwrap(), &head, 2, 1, None).unwrap()
}

pub(super) fn classifier() -> Classifier {
    classifier_of(&spec(8, 2), false)
}

/// Sequences of 1 to 12 tokens; soft labels that follow the last token.
pub(super) fn examples(count: usize) -> (Encoded, Vec<Vec<f32>>) {
    let mut rng = Rng::named(7, "examples");
    let rows: Vec<Vec<u32>> =
        (0..count).map(|_| (0..=rng.below(12)).map(|_| rng.below(VOCABULARY) as u32).collect()).collect();
    let label = |row: &Vec<u32>| {
        let p = 0.1 + 0.8 * row[row.len() - 1] as f32 / VOCABULARY as f32;
        vec![1.0 - p, p]
    };
    let labels = rows.iter().map(label).collect();
    (Encoded::new(rows, &spec(8, 2)).unwrap(), labels)
}

pub(super) fn recipe() -> Recipe {
    Recipe { batch_size: 8, learning_rate: 1e-2, ..Recipe::default() }
}

pub(super) fn train(
    objective: Objective,
    recipe: &Recipe,
    execution: &Execution,
) -> crate::Result<Trained<Classifier>> {
    train_classifier(classifier(), &examples(objective.labels.len()).0, objective, recipe, 3, execution)
}

pub(super) fn cross_entropy(count: usize) -> Objective {
    Objective::new(examples(count).1, Box::new(CrossEntropy))
}

/// Every number of a module, in its own order.
pub(super) fn numbers(module: &impl Module) -> Vec<f32> {
    struct Numbers(Vec<f32>);
    impl ModuleVisitor for Numbers {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().inner().into_data().iter::<f32>());
        }
    }
    let mut numbers = Numbers(Vec::new());
    module.visit(&mut numbers);
    numbers.0
}

pub(super) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[derive(Debug)]
struct CrossEntropy;

impl StudentLoss for CrossEntropy {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets, logits)
    }
}

/// Half of each target is the mean prediction of the batch, from the third step on; remembers how often it was asked.
#[derive(Debug)]
pub(super) struct TowardsMean;

impl StudentLoss for TowardsMean {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets, logits)
    }

    fn targets(&self, logits: Tensor<2>, labels: Tensor<2>, at: &Progress, memory: &mut Memory) -> Tensor<2> {
        memory.push("asked", &[at.step as f32], 1000);
        assert_eq!(memory.entry("asked").len(), at.step + 1, "targets are computed once per step");
        if at.step < 2 {
            return labels;
        }
        let mean = math::softmax(logits).mean_dim(0).expand(labels.dims());
        labels * 0.5 + mean * 0.5
    }
}

/// Drops the half of the batch with the lowest probability of class 1 and doubles a row's weight where its id is odd.
#[derive(Debug)]
pub(super) struct UpperHalf;

impl Selector for UpperHalf {
    fn select(&self, batch: &Batch, memory: &mut Memory) -> Selection {
        memory.push("seen", &[batch.len() as f32], 3);
        let p = math::to_host(math::column(batch.student.clone(), 1));
        let mut sorted = p.clone();
        sorted.sort_by(f32::total_cmp);
        let median = sorted[p.len() / 2];
        let weight = |(p, ExampleId(id)): (&f32, &ExampleId)| if *p < median { 0.0 } else { 1.0 + (id % 2) as f32 };
        let weights: Vec<f32> = p.iter().zip(batch.ids).map(weight).collect();
        let own: Vec<f32> = batch.ids.iter().map(|ExampleId(id)| f32::from(id % 3 == 0)).collect();
        let device = batch.weak.device();
        Selection {
            own: Tensor::from_floats(own.as_slice(), &device),
            weight: Tensor::from_floats(weights.as_slice(), &device),
        }
    }

    fn needs(&self) -> Needs {
        Needs { self_labels: true, ..Needs::default() }
    }
}

/// Smooths labels by the similarity of embeddings.
#[derive(Debug)]
pub(super) struct Neighbours;

impl LabelRefiner for Neighbours {
    fn refine(&self, batch: &Batch, selection: &Selection, _memory: &mut Memory) -> Tensor<2> {
        let similar = math::softmax(batch.embedding.clone().matmul(batch.embedding.clone().transpose()));
        similar.matmul(selection.labels(batch))
    }
}

/// Does something at one step; cross-entropy otherwise.
struct At(usize, Box<dyn Fn(Tensor<1>) -> Tensor<1> + Send + Sync>);

impl std::fmt::Debug for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "At({})", self.0)
    }
}

impl StudentLoss for At {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, at: &Progress) -> Tensor<1> {
        let loss = math::cross_entropy(targets, logits);
        if at.step == self.0 { (self.1)(loss) } else { loss }
    }
}

pub(super) fn at(step: usize, change: impl Fn(Tensor<1>) -> Tensor<1> + Send + Sync + 'static) -> Objective {
    Objective { loss: Box::new(At(step, Box::new(change))), ..cross_entropy(40) }
}

#[test]
fn a_loop_written_by_hand_gives_the_same_bits() {
    let (data, labels) = examples(40);
    for recipe in [
        Recipe { clip: Some(0.5), warmup_steps: 2, ..recipe() },
        Recipe { optimizer: Optimizer::Sgd, momentum: 0.9, order: Order::Shuffled, ..recipe() },
    ] {
        let trained = train(cross_entropy(40), &recipe, &Execution::default()).unwrap();

        let sampler = Sampler::new(&data.lengths(), 8, 2, recipe.order, 3).unwrap();
        let schedule = recipe.schedule(10);
        let mut optimizer = recipe.optimizer(&[]);
        let mut model = classifier().train();
        let mut losses = Vec::new();
        for step in 0..sampler.steps() {
            let rows = sampler.minibatch(step).unwrap().rows;
            let targets: Vec<f32> = rows.iter().flat_map(|&row| labels[row as usize].clone()).collect();
            let targets = Tensor::<2>::from_data(TensorData::new(targets, [8, 2]), &Device::flex());
            let (logits, _) = model.forward(&data.tokens(&rows));
            let loss = (targets * log_softmax(logits, 1)).sum_dim(1).neg().sum() / 8.0;
            losses.push(f64::from(loss.clone().into_scalar::<f32>()));
            let mut grads = GradientsParams::from_grads(loss.backward(), &model);
            if let Some(limit) = recipe.clip {
                clip(&model, &mut grads, limit);
            }
            model = optimizer.step(schedule.rate(step), model, grads);
        }
        assert_eq!(numbers(&trained.model), numbers(&model));
        assert_ne!(numbers(&trained.model), numbers(&classifier()));
        for (step, loss) in trained.log.steps.iter().zip(losses) {
            assert!((step.loss - loss).abs() < 1e-6, "{step:?} {loss}");
            assert_eq!(step.learning_rate, schedule.rate(step.step));
            assert_eq!(step.gradient_norm.is_some(), recipe.clip.is_some());
        }
        assert_eq!(trained.log.steps.len(), 10);
        assert_eq!(trained.log.tokens, 2 * data.lengths().iter().sum::<usize>() as u64);
    }
}

#[test]
fn training_learns_and_leaves_no_file() {
    let files = || std::fs::read_dir(".").unwrap().count();
    let before = files();
    let recipe = Recipe { epochs: 12, order: Order::Shuffled, ..recipe() };
    let trained = train(cross_entropy(120), &recipe, &Execution::default()).unwrap();
    let steps = &trained.log.steps;
    let mean = |part: &[StepLog]| part.iter().map(|step| step.loss).sum::<f64>() / part.len() as f64;
    assert!(mean(&steps[steps.len() - 15..]) < mean(&steps[..15]) - 0.05, "{steps:?}");
    assert!(steps.last().unwrap().accuracy.unwrap() > 0.7);
    assert_eq!(files(), before);
}

#[test]
fn the_same_bits_again_and_on_any_number_of_threads() {
    // Large enough for several threads to take part.
    let model = classifier_of(&spec(64, 2), false);
    let (data, labels) = examples(64);
    let recipe = Recipe { batch_size: 32, epochs: 3, clip: Some(1.0), order: Order::Bucketed, ..recipe() };
    let train = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let objective = Objective::new(labels.clone(), Box::new(CrossEntropy));
            let trained = train_classifier(model.clone(), &data, objective, &recipe, 3, &Execution::default()).unwrap();
            (numbers(&trained.model), trained.log)
        })
    };
    let one = train(1);
    assert_eq!(one, train(1));
    assert_eq!(one, train(2));
    assert_eq!(one, train(3));
}

#[test]
fn micro_batches_change_nothing() {
    let whole = |selective: bool| {
        let own: Vec<Vec<f32>> = examples(64).1.into_iter().map(|row| vec![row[1], row[0]]).collect();
        let objective = Objective { loss: Box::new(TowardsMean), ..cross_entropy(64) };
        match selective {
            false => objective,
            true => Objective {
                self_labels: Some(OwnLabels::Given(own)),
                selector: Some(Box::new(UpperHalf)),
                refiner: Some(Box::new(Neighbours)),
                ..objective
            },
        }
    };
    // Adam divides small gradients by themselves and so magnifies rounding; plain descent shows the gradients as they are.
    let recipe = Recipe { batch_size: 32, epochs: 4, optimizer: Optimizer::Sgd, learning_rate: 0.1, ..recipe() };
    for selective in [false, true] {
        let train = |micro_batch| {
            let execution = Execution { micro_batch, ..Execution::default() };
            train(whole(selective), &recipe, &execution).unwrap()
        };
        let all = train(None);
        assert_eq!(numbers(&all.model), numbers(&train(Some(32)).model));
        for size in [4, 7, 1] {
            let parts = train(Some(size));
            let far = distance(&numbers(&all.model), &numbers(&parts.model));
            assert!(far < 1e-5, "{size}: {far}");
            assert_ne!(numbers(&all.model), numbers(&parts.model), "the batch was not split");
            for (a, b) in all.log.steps.iter().zip(&parts.log.steps) {
                assert!((a.loss - b.loss).abs() < 1e-5 && a.accuracy == b.accuracy, "{a:?} {b:?}");
            }
        }
    }
    // The two objectives differ, so the test would notice a strategy that is not asked.
    let train = |selective| numbers(&train(whole(selective), &recipe, &Execution::default()).unwrap().model);
    assert!(distance(&train(true), &train(false)) > 1e-3);
}

/// Targets of twice as many columns as there are classes: labels beside the batch's mean prediction.
#[derive(Debug)]
struct Beside;

impl StudentLoss for Beside {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let part = |start| math::cross_entropy(targets.clone().narrow(1, start, 2), logits.clone());
        part(0) * 0.75 + part(2) * 0.25
    }

    fn targets(&self, logits: Tensor<2>, labels: Tensor<2>, _at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        let mean = math::softmax(logits).mean_dim(0).expand(labels.dims());
        Tensor::cat(vec![labels, mean], 1)
    }
}

#[test]
fn micro_batches_take_targets_of_any_width() {
    let recipe = Recipe { optimizer: Optimizer::Sgd, learning_rate: 0.1, ..recipe() };
    let train = |micro_batch| {
        let objective = Objective { loss: Box::new(Beside), ..cross_entropy(32) };
        numbers(&train(objective, &recipe, &Execution { micro_batch, ..Execution::default() }).unwrap().model)
    };
    assert!(distance(&train(None), &train(Some(3))) < 1e-5);
}

#[test]
fn a_model_may_come_from_the_differentiating_device() {
    let device = Device::flex().autodiff();
    let head = HeadConfig { init: HeadInit::Normal { std: 0.5 }, ..HeadConfig::default() };
    let model = Classifier::new(Transformer::init(&spec(8, 2), 1, &device).unwrap(), &head, 2, 1, None).unwrap();
    let (data, labels) = examples(40);
    let objective = Objective::new(labels, Box::new(CrossEntropy));
    let trained = train_classifier(model, &data, objective, &recipe(), 3, &Execution::default()).unwrap();
    let plain = train(cross_entropy(40), &recipe(), &Execution::default()).unwrap();
    assert_eq!(numbers(&trained.model), numbers(&plain.model));
    assert!(!trained.model.backbone.device().is_autodiff());
}

#[test]
fn every_order_trains() {
    let train =
        |order| numbers(&train(cross_entropy(40), &Recipe { order, ..recipe() }, &Execution::default()).unwrap().model);
    let [stored, shuffled, bucketed] = [Order::Stored, Order::Shuffled, Order::Bucketed].map(train);
    assert!(stored != shuffled && shuffled != bucketed && stored != bucketed);
}

#[test]
fn dropped_rows_do_not_train() {
    /// Weight 0 for all, or a weight that is not allowed.
    #[derive(Debug)]
    struct Weight(f32);
    impl Selector for Weight {
        fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
            let selection = Selection::weak(batch);
            Selection { weight: selection.weight * self.0, ..selection }
        }
    }
    let recipe = Recipe { optimizer: Optimizer::Sgd, ..recipe() };
    let train = |weight| {
        let objective = Objective { selector: Some(Box::new(Weight(weight))), ..cross_entropy(16) };
        train(objective, &recipe, &Execution::default())
    };
    let none = train(0.0).unwrap();
    assert_eq!(numbers(&none.model), numbers(&classifier()));
    assert_eq!(none.log.steps[0].loss, 0.0);
    // The loss is a weighted mean.
    for weight in [4.0, 1e-40, 1e-30, 3e38] {
        let far = distance(&numbers(&train(1.0).unwrap().model), &numbers(&train(weight).unwrap().model));
        assert!(far < 1e-6, "{weight}: {far}");
    }
    let error = train(-1.0).unwrap_err();
    assert!(error.message().contains("weights below 0 or not finite to examples 0, 1, 2, 3, 4, 5, 6, 7"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_stops_and_says_where() {
    let poison = |loss: Tensor<1>| {
        let poison = Tensor::<1>::from_floats([0.0, 0.0, f32::NAN, 0.0, 0.0, f32::INFINITY, 0.0, 0.0], &loss.device());
        loss + poison
    };
    let error = train(at(3, poison), &recipe(), &Execution::default()).unwrap_err();
    // The batch of step 3 is rows 24 to 31; the learning rate is that of a cosine over ten steps.
    assert_eq!(
        error.message(),
        format!(
            "step 3 (learning rate {:e}): the loss is not finite for examples 26, 29",
            recipe().schedule(10).rate(3)
        )
    );
    assert!(error.remedy().unwrap().contains("learning rate"));
    // In parts, too.
    let parts = Execution { micro_batch: Some(8), ..Execution::default() };
    let recipe = Recipe { batch_size: 16, ..recipe() };
    let error = train(at(1, poison), &recipe, &parts).unwrap_err();
    assert!(error.message().starts_with("step 1 (learning rate "), "{error}");
}

#[test]
fn a_gradient_that_is_not_finite_stops_where_it_is_clipped() {
    // Loss 0 · √0 is 0; its gradient is 0 · ∞.
    let poison = |loss: Tensor<1>| loss.clone() + (loss.clone() - loss.inner()).abs().sqrt() * 0.0;
    let recipe = Recipe { clip: Some(1.0), ..recipe() };
    let error = train(at(4, poison), &recipe, &Execution::default()).unwrap_err();
    assert!(error.message().starts_with("step 4 (learning rate "), "{error}");
    assert!(error.message().ends_with("the norm of the gradient is NaN"), "{error}");
}

/// As on a GPU: the loss of a step is looked at while the next one is computed.
#[test]
fn steps_that_are_looked_at_late_are_the_same() {
    let both = |recipe: &Recipe, micro_batch| {
        [false, true].map(|looks_late| {
            let execution = Execution { looks_late, micro_batch, ..Execution::default() };
            train(cross_entropy(40), recipe, &execution).unwrap()
        })
    };
    for micro_batch in [None, Some(3)] {
        let [at_once, late] = both(&Recipe { clip: None, ..recipe() }, micro_batch);
        assert_eq!((late.log, numbers(&late.model)), (at_once.log, numbers(&at_once.model)));
    }
    // The device clips with a norm of its own.
    let [at_once, late] = both(&Recipe { clip: Some(0.5), optimizer: Optimizer::Sgd, ..recipe() }, None);
    assert!(distance(&numbers(&late.model), &numbers(&at_once.model)) < 1e-6);
    for (late, at_once) in late.log.steps.iter().zip(&at_once.log.steps) {
        let norms = [late, at_once].map(|step| step.gradient_norm.unwrap());
        assert!((norms[0] - norms[1]).abs() < 1e-5 * norms[1] && norms[1] > 0.5, "{late:?} {at_once:?}");
    }
}

#[test]
fn what_is_not_finite_is_found_late_but_found() {
    let late = Execution { looks_late: true, ..Execution::default() };
    let nan = |loss: Tensor<1>| loss * f32::NAN;
    // The last of ten steps, too, and one after which a part of the method cannot go on.
    for step in [3, 9] {
        let error = train(at(step, nan), &recipe(), &late).unwrap_err();
        assert!(error.message().starts_with(&format!("step {step} (learning rate ")), "{error}");
        assert!(error.message().contains("the loss is not finite for examples "), "{error}");
    }
    let fragile = Objective { selector: Some(Box::new(UpperHalf)), ..at(3, nan) };
    let fragile = Objective { self_labels: Some(OwnLabels::Current { hard: false, decay: 0.0 }), ..fragile };
    assert!(train(fragile, &recipe(), &late).unwrap_err().message().starts_with("step 3 "));
    // Loss 0 · √0 is 0; its gradient is 0 · ∞.
    let poison = |loss: Tensor<1>| loss.clone() + (loss.clone() - loss.inner()).abs().sqrt() * 0.0;
    for step in [4, 9] {
        let error = train(at(step, poison), &Recipe { clip: Some(1.0), ..recipe() }, &late).unwrap_err();
        assert!(error.message().starts_with(&format!("step {step} (learning rate ")), "{error}");
        assert!(error.message().ends_with("the norm of the gradient is NaN"), "{error}");
    }
}

#[test]
fn a_panic_becomes_an_error() {
    let error = train(at(2, |_| panic!("shapes do not fit")), &recipe(), &Execution::default()).unwrap_err();
    assert_eq!(error.message(), "step 2: the computation panicked: shapes do not fit");
    // And the next training in the same process is none the worse for it.
    let after = train(cross_entropy(16), &recipe(), &Execution::default()).unwrap();
    assert_eq!(after.log.steps.len(), 4);
}

#[test]
fn training_stops_when_asked() {
    let stop = Stop::default();
    let execution = Execution { stop: Some(stop.clone()), ..Execution::default() };
    let ask = move |loss| {
        stop.ask();
        loss
    };
    let error = train(at(3, ask), &recipe(), &execution).unwrap_err();
    assert_eq!(error.message(), "after step 4 of 10: interrupted");
    let (data, _) = examples(4);
    assert_eq!(predict(&classifier(), &data, &execution).unwrap_err().message(), "interrupted");
}

/// A stage's process has a bar that nobody sees but its parent, which asks it how far training is.
#[test]
fn a_hidden_bar_tells_how_far_training_is() {
    let bar = indicatif::ProgressBar::with_draw_target(None, indicatif::ProgressDrawTarget::hidden());
    let execution = Execution { bar: Some(bar.clone()), ..Execution::default() };
    train(cross_entropy(40), &recipe(), &execution).unwrap();
    assert_eq!((bar.position(), bar.length()), (10, Some(10)));
    for part in ["loss ", "agreement ", " tokens/s"] {
        assert!(bar.message().contains(part), "{}", bar.message());
    }
}

#[test]
fn labels_are_checked() {
    let refused = |change: &dyn Fn(&mut Vec<Vec<f32>>)| {
        let mut objective = cross_entropy(16);
        change(&mut objective.labels);
        let data = examples(16).0;
        let error = train_classifier(classifier(), &data, objective, &recipe(), 0, &Execution::default());
        error.unwrap_err().message().to_owned()
    };
    assert_eq!(
        refused(&|labels| labels[3] = vec![f32::NAN, 0.5]),
        "the label of example 3 contains NaN, which is no probability"
    );
    assert_eq!(
        refused(&|labels| labels[3] = vec![-0.1, 1.1]),
        "the label of example 3 contains -0.1, which is no probability"
    );
    assert_eq!(refused(&|labels| labels[5] = vec![0.25, 0.25]), "the label of example 5 sums to 0.5, not to 1");
    assert_eq!(refused(&|labels| labels[7] = vec![1.0]), "the label of example 7 has 1 classes, the first has 2");
    assert_eq!(refused(&|labels| _ = labels.pop()), "there are 15 labels for 16 examples");
}

#[test]
fn what_a_strategy_needs_must_be_there() {
    let objective = Objective { selector: Some(Box::new(UpperHalf)), ..cross_entropy(16) };
    let error = train(objective, &recipe(), &Execution::default()).unwrap_err();
    assert_eq!(error.message(), "the selector needs self-labels, which were not provided");

    #[derive(Debug)]
    struct Looks(usize);
    impl StudentLoss for Looks {
        fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
            math::cross_entropy(targets, logits)
        }
        fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
            self.0 = pool.ids.len();
            let embeddings = pool.embeddings.as_ref().map_or(0, Vec::len);
            Err(format!("{} examples, {embeddings} embeddings, seed {}", self.0, pool.seed))
        }
        fn needs(&self) -> Needs {
            Needs { embeddings: true, ..Needs::default() }
        }
    }
    let error = train(Objective { loss: Box::new(Looks(0)), ..cross_entropy(16) }, &recipe(), &Execution::default());
    assert!(error.unwrap_err().message().starts_with("the loss needs embeddings"));
    let objective =
        Objective { loss: Box::new(Looks(0)), embeddings: Some(vec![vec![0.0; 3]; 16]), ..cross_entropy(16) };
    let error = train(objective, &recipe(), &Execution::default()).unwrap_err();
    assert_eq!(error.message(), "the loss: 16 examples, 16 embeddings, seed 3");
}

#[test]
fn a_frozen_backbone_stays_and_its_head_learns() {
    let (data, labels) = examples(40);
    let start = classifier_of(&spec(8, 2), true);
    let objective = || Objective::new(labels.clone(), Box::new(CrossEntropy));
    let recipe = Recipe { optimizer: Optimizer::Sgd, learning_rate: 0.5, ..recipe() };
    let trained = train_classifier(start.clone(), &data, objective(), &recipe, 3, &Execution::default()).unwrap();
    assert_eq!(numbers(&trained.model.backbone), numbers(&start.backbone));
    assert!(distance(&numbers(&trained.model.head), &numbers(&start.head)) > 1e-2);

    // The same by hand, through the whole model.
    let mut model = start.train();
    let mut optimizer = recipe.optimizer(&[]);
    let sampler = Sampler::new(&data.lengths(), 8, 2, Order::Stored, 3).unwrap();
    for step in 0..sampler.steps() {
        let rows = sampler.minibatch(step).unwrap().rows;
        let targets: Vec<f32> = rows.iter().flat_map(|&row| labels[row as usize].clone()).collect();
        let targets = Tensor::<2>::from_data(TensorData::new(targets, [8, 2]), &Device::flex());
        let (logits, _) = model.forward(&data.tokens(&rows));
        let loss = (targets * log_softmax(logits, 1)).sum().neg() / 8.0;
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(recipe.schedule(10).rate(step), model, grads);
    }
    assert!(distance(&numbers(&trained.model.head), &numbers(&model.head)) < 1e-5);
}

#[test]
fn predictions_come_in_the_order_of_the_examples() {
    let (data, _) = examples(23);
    let model = classifier();
    let predict = |predict_batch| predict(&model, &data, &Execution { predict_batch, ..Execution::default() }).unwrap();
    let predictions = predict(5);
    let embeddings = embed(&model, &data, &Execution::default()).unwrap();
    for (row, expected) in embeddings.iter().enumerate() {
        let (logits, embedding) = model.forward(&data.tokens(&[row as u32]));
        let logits: Vec<f32> = logits.into_data().iter().collect();
        assert!(distance(&predictions.logits[row], &logits) < 1e-6);
        let embedding: Vec<f32> = embedding.into_data().iter().collect();
        assert!(distance(expected, &embedding) < 1e-5);
        let odds = (predictions.probabilities[row][1] / predictions.probabilities[row][0]).ln();
        assert!((odds - (logits[1] - logits[0])).abs() < 1e-5);
        assert!((predictions.probabilities[row].iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
    assert_eq!(predictions, predict(5));
    assert!(distance(&predictions.logits.concat(), &predict(100).logits.concat()) < 1e-6);
    // A model that diverged is not asked for labels.
    let mut broken = classifier();
    broken.head.weight = broken.head.weight.map(|weight| weight * f32::NAN);
    let error = super::predict(&broken, &data, &Execution::default()).unwrap_err();
    assert!(error.message().contains("is not finite"), "{error}");
    let nothing = Encoded::new(Vec::new(), &spec(8, 2)).unwrap();
    assert!(super::predict(&model, &nothing, &Execution::default()).unwrap().logits.is_empty());
}

#[test]
fn what_is_too_much_at_once_is_predicted_in_halves() {
    let most = std::sync::atomic::AtomicUsize::new(0);
    let compute = |rows: &[u32]| {
        assert!(rows.len() <= 3, "out of memory");
        most.fetch_max(rows.len(), Ordering::Relaxed);
        Ok(rows.iter().map(|row| row * 10).collect::<Vec<u32>>())
    };
    let rows: Vec<u32> = (0..11).collect();
    let expected: Vec<u32> = rows.iter().map(|row| row * 10).collect();
    assert_eq!(super::predict::in_halves(&rows, &compute).unwrap(), expected);
    assert_eq!(most.load(Ordering::Relaxed), 3);
    // What fails for one row, and what is no panic, is an error.
    let error = super::predict::in_halves(&rows, &|rows: &[u32]| -> crate::Result<Vec<u32>> {
        panic!("no memory for {}", rows.len())
    });
    assert_eq!(error.unwrap_err().message(), "the computation panicked: no memory for 1");
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let refuse = |_: &[u32]| -> crate::Result<Vec<u32>> {
        calls.fetch_add(1, Ordering::Relaxed);
        Err(crate::Error::new("no"))
    };
    assert_eq!(super::predict::in_halves(&rows, &refuse).unwrap_err().message(), "no");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn a_loss_that_has_grown_out_of_all_proportion_is_told_of() {
    let steps = |losses: &[f64]| -> Vec<StepLog> {
        let step = |(step, loss): (usize, &f64)| StepLog {
            step,
            loss: *loss,
            accuracy: None,
            learning_rate: 0.1,
            gradient_norm: None,
        };
        losses.iter().enumerate().map(step).collect()
    };
    let said = |losses: &[f64]| super::run::astray(&steps(losses));
    assert!(
        said(&[0.69, 1e3, 1e12]).unwrap().starts_with("training went astray: the loss rose from 0.690 to 3.333e11")
    );
    assert!(said(&[0.0, 1e37]).is_some());
    assert!(said(&[&[0.69; 30][..], &[150.0; 20]].concat()).is_some());
    for fine in [&[][..], &[0.69], &[0.69, 90.0, 60.0], &[200.0, 300.0], &[&[1e30][..], &[0.5; 25]].concat()] {
        assert_eq!(said(fine), None, "{fine:?}");
    }
}

#[test]
fn batches_are_packed() {
    let data = Encoded::new(vec![vec![1], vec![2, 3, 4], vec![5, 6]], &spec(8, 1)).unwrap();
    let tokens = data.tokens(&[2, 0]);
    assert_eq!(tokens.lengths, [2, 1]);
    assert_eq!(tokens.ids, [5, 6, 1]);
    let error = Encoded::new(vec![vec![1], vec![VOCABULARY as u32]], &spec(8, 1)).unwrap_err();
    assert!(error.message().starts_with("example 1: "), "{error}");
    assert!(Encoded::new(vec![vec![0; 17]], &spec(8, 1)).is_err());
}

fn golden_optimizers() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/golden_optim.json")).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

#[derive(Module, Debug)]
struct Affine {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

#[test]
fn optimizers_are_those_of_pytorch() {
    let golden = golden_optimizers();
    let matrix = |value: &Value| Tensor::<2>::from_data(TensorData::new(floats(value), [3, 4]), &Device::flex());
    let vector = |value: &Value| Tensor::<1>::from_data(TensorData::new(floats(value), [4]), &Device::flex());
    for case in golden["cases"].as_array().unwrap() {
        let recipe: Recipe = serde_json::from_value(case["recipe"].clone()).unwrap();
        recipe.validate().unwrap();
        let mut model = Affine {
            weight: Param::from_tensor(matrix(&golden["weight"])),
            bias: Param::from_tensor(vector(&golden["bias"])),
        }
        .train();
        let mut optimizer = recipe.optimizer(&[]);
        for step in 0..6 {
            let mut grads = GradientsParams::new();
            grads.register(model.weight.id, matrix(&golden["grads"][step]["weight"]));
            grads.register(model.bias.id, vector(&golden["grads"][step]["bias"]));
            if let Some(limit) = recipe.clip {
                let norm = clip(&model, &mut grads, limit);
                let expected = case["norms"][step].as_f64().unwrap();
                assert!((norm - expected).abs() <= 1e-6 * expected, "{norm} {expected}");
            }
            model = optimizer.step(golden["rates"][step].as_f64().unwrap(), model, grads);
            let after = &case["after"][step];
            let expected = [floats(&after["weight"]), floats(&after["bias"])].concat();
            let far = distance(&numbers(&model), &expected);
            assert!(far < 2e-6, "{} step {step}: {far}", case["recipe"]);
        }
    }
}

/// A step of 2⁻¹² from 1, whose neighbours in bfloat16 are 2⁻⁸ and 2⁻⁷ away, is lost if it is rounded to the nearest number. By chance it counts in
/// the mean.
#[test]
fn steps_below_the_rounding_of_bf16_count_in_the_mean() {
    const STEPS: usize = 100;
    let ones = |numbers| Tensor::<2>::ones([64, 64], (&Device::flex(), numbers));
    let (half, whole) = (DType::BF16, DType::F32);
    let nearest = (ones(whole) - ones(whole) * 2.0_f64.powi(-12)).cast(FloatDType::BF16);
    assert_eq!(nearest.into_data(), ones(half).into_data());
    let recipes = [
        Recipe { optimizer: Optimizer::Sgd, ..recipe() },
        Recipe { optimizer: Optimizer::Adam, ..recipe() },
        Recipe { optimizer: Optimizer::Adafactor, relative_step: false, scale_parameter: false, ..recipe() },
    ];
    for recipe in recipes {
        let moved = |numbers| {
            let bias = Tensor::<1>::zeros([4], &Device::flex());
            let mut model =
                Affine { weight: Param::from_tensor(ones(numbers)), bias: Param::from_tensor(bias) }.train();
            let paths: &[String] = if numbers == half { &["model.weight".to_owned()] } else { &[] };
            assert_eq!(super::optimizer::narrow(&model, "model"), paths);
            // Here the optimizer is given the model itself.
            let paths: Vec<String> = paths.iter().map(|path| path.replace("model.", "")).collect();
            let mut optimizer = recipe.optimizer(&paths);
            for _ in 0..STEPS {
                let mut grads = GradientsParams::new();
                grads.register(model.weight.id, ones(numbers));
                model = optimizer.step(2.0_f64.powi(-12), model, grads);
            }
            assert_eq!(model.weight.val().dtype(), numbers);
            1.0 - numbers_of(model.weight.val())
        };
        let (found, expected) = (moved(half), moved(whole));
        assert!((expected - STEPS as f64 / 4096.0).abs() < 1e-4, "{expected}");
        // Each step of each number is 2⁻¹² in the mean, with a deviation of less than 2⁻¹⁰; the mean is of 4096 numbers.
        let deviation = 2.0_f64.powi(-10) * (STEPS as f64 / 4096.0).sqrt();
        assert!((found - expected).abs() < 5.0 * deviation, "{found} {expected} {deviation}");
    }
}

/// Mean of a matrix.
fn numbers_of(matrix: Tensor<2>) -> f64 {
    let values: Vec<f32> = matrix.into_data().iter::<f32>().collect();
    values.iter().copied().map(f64::from).sum::<f64>() / values.len() as f64
}

/// Trained in bfloat16 a student ends near where it ends in float32; with rounding to the nearest number it would not get as far.
#[test]
fn training_in_bf16_ends_near_that_in_float32() {
    let last = |precision: Precision, learning_rate: f64, optimizer: Optimizer| {
        let recipe = Recipe { epochs: 12, learning_rate, optimizer, ..recipe() };
        let start = classifier().on_backbone(|whole| whole.in_precision(precision));
        let trained =
            train_classifier(start, &examples(64).0, cross_entropy(64), &recipe, 3, &Execution::default()).unwrap();
        let losses: Vec<f64> = trained.log.steps.iter().map(|step| step.loss).collect();
        (losses[0], losses[losses.len() - 8..].iter().sum::<f64>() / 8.0)
    };
    for (rate, optimizer) in [(1e-2, Optimizer::Adam), (1e-2, Optimizer::Adafactor)] {
        let [whole, half] = [Precision::F32, Precision::Bf16True].map(|precision| last(precision, rate, optimizer));
        assert!((half.0 - whole.0).abs() < 0.02, "{half:?} {whole:?}");
        assert!((half.1 - whole.1).abs() < 0.15 * (whole.0 - whole.1) && whole.1 < whole.0, "{half:?} {whole:?}");
    }
}

#[test]
fn moments_of_8_bits_train_as_well() {
    let start = || classifier_of(&spec(64, 2), false);
    let last = |optimizer| {
        let recipe = Recipe { optimizer, epochs: 12, learning_rate: 1e-3, ..recipe() };
        let trained =
            train_classifier(start(), &examples(64).0, cross_entropy(64), &recipe, 3, &Execution::default()).unwrap();
        let losses = |steps: &[StepLog]| steps.iter().map(|step| step.loss).sum::<f64>() / steps.len() as f64;
        let steps = &trained.log.steps;
        (losses(&steps[..8]), losses(&steps[steps.len() - 8..]), numbers(&trained.model))
    };
    for (whole, eight) in [(Optimizer::Adam, Optimizer::Adam8bit), (Optimizer::Adamw, Optimizer::Adamw8bit)] {
        let (right, ours) = (last(whole), last(eight));
        assert!(right.1 < 0.97 * right.0, "{right:?}", right = (right.0, right.1));
        assert!((ours.1 - right.1).abs() < 0.01, "{} and not {}", ours.1, right.1);
        assert_ne!(ours.2, right.2);
    }
}

#[test]
fn recipes_are_read_and_checked() {
    let recipe = |text: &str| toml::from_str::<Recipe>(text);
    assert_eq!(recipe("").unwrap(), Recipe::default());
    let full = recipe("optimizer = \"adamw\"\nwarmup_fraction = 0.05\nclip = 1.0\norder = \"bucketed\"").unwrap();
    assert_eq!((full.decay(), full.order, full.clip), (0.01, Order::Bucketed, Some(1.0)));
    assert_eq!(toml::from_str::<Recipe>(&toml::to_string(&full).unwrap()).unwrap(), full);
    assert!(recipe("learning_rat = 1.0").unwrap_err().to_string().contains("unknown field `learning_rat`"));
    assert!(recipe("optimizer = \"adan\"").is_err());
    for (name, optimizer, decay) in
        [("adam-8bit", Optimizer::Adam8bit, 0.0), ("adamw-8bit", Optimizer::Adamw8bit, 0.01)]
    {
        let recipe = recipe(&format!("optimizer = \"{name}\"")).unwrap();
        assert_eq!((recipe.optimizer, recipe.decay()), (optimizer, decay));
        assert!(toml::to_string(&recipe).unwrap().contains(&format!("optimizer = \"{name}\"")));
        recipe.validate().unwrap();
    }

    let refused = |text: &str| recipe(text).unwrap().validate().unwrap_err().message().to_owned();
    assert_eq!(refused("epochs = 0"), "`epochs` must be at least 1, not 0");
    assert_eq!(refused("learning_rate = -1.0"), "`learning_rate` must be a number of at least 0, not -1");
    assert_eq!(refused("learning_rate = nan"), "`learning_rate` must be a number of at least 0, not NaN");
    assert_eq!(refused("warmup_fraction = 1.5"), "`warmup_fraction` must be between 0 and 1, not 1.5");
    assert_eq!(refused("momentum = 0.9"), "`momentum` is for `sgd` alone");
    assert_eq!(refused("relative_step = false"), "`relative_step` is for `adafactor` alone");
    assert_eq!(refused("warmup_steps = 3\nwarmup_fraction = 0.1"), "`warmup_steps` and `warmup_fraction` are both set");
    assert!(refused("clip = 0.0").starts_with("`clip` must be"));
    assert!(refused("optimizer = \"adafactor\"\nweight_decay = 0.1").contains("weight_decay"));
    for text in ["", "learning_rate = 7.0", "optimizer = \"sgd\"\nmomentum = 0.9\nweight_decay = 0.1"] {
        recipe(text).unwrap().validate().unwrap();
    }
    // Rates above 1, which Burn's own schedulers refuse.
    let recipe = Recipe { learning_rate: 3.0, optimizer: Optimizer::Sgd, schedule: Shape::Constant, ..self::recipe() };
    let trained = train(cross_entropy(8), &recipe, &Execution::default()).unwrap();
    assert_eq!(trained.log.steps[0].learning_rate, 3.0);
}

/// A language in which token n is followed by n + 1, in documents of different lengths.
pub(super) fn counting() -> Vec<Vec<u32>> {
    let mut rng = Rng::named(1, "counting");
    (0..60)
        .map(|_| {
            let start = rng.below(8) as u32;
            (start..start + 3 + rng.below(12) as u32).collect()
        })
        .collect()
}

#[test]
fn a_language_model_learns_what_follows() {
    let start = || Transformer::init(&spec(16, 1), 2, &Device::flex()).unwrap();
    let recipe = Recipe { epochs: 20, learning_rate: 2e-2, order: Order::Shuffled, ..recipe() };
    for packing in [Packing::Documents, Packing::Stream(16)] {
        let train = |micro_batch| {
            let execution = Execution { micro_batch, ..Execution::default() };
            train_lm(start(), &counting(), packing, &recipe, 3, &execution).unwrap()
        };
        let trained = train(None);
        assert!((trained.log.steps[0].loss - (VOCABULARY as f64).ln()).abs() < 0.1, "{:?}", trained.log.steps[0]);
        assert!(trained.final_loss().unwrap() < 0.8, "{packing:?} {:?}", trained.final_loss());
        assert!(trained.speed() > 0.0);
        assert_eq!(numbers(&trained.model), numbers(&train(None).model));
        // One step in parts; over many, Adam magnifies rounding.
        let once = Recipe { epochs: 1, batch_size: 24, optimizer: Optimizer::Sgd, ..recipe.clone() };
        let once = |micro_batch| {
            let execution = Execution { micro_batch, ..Execution::default() };
            train_lm(start(), &counting(), packing, &once, 3, &execution).unwrap()
        };
        let (whole, parts) = (once(None), once(Some(5)));
        assert!(distance(&numbers(&whole.model), &numbers(&parts.model)) < 1e-6);
        assert!((whole.log.steps[0].loss - parts.log.steps[0].loss).abs() < 1e-6);
    }
}

#[test]
fn the_loss_of_a_language_model_counts_every_token_once_and_no_padding() {
    let start = || Transformer::init(&spec(16, 1), 2, &Device::flex()).unwrap();
    let documents = vec![vec![3, 4, 5, 6], vec![9, 8], vec![7]];
    // All in one batch: documents of 4 and 2 tokens have 3 + 1 targets, and one token alone has none.
    let recipe = Recipe { epochs: 1, batch_size: 2, ..recipe() };
    let trained = train_lm(start(), &documents, Packing::Documents, &recipe, 0, &Execution::default()).unwrap();
    assert_eq!(trained.log.tokens, 4);
    let loss_of = |tokens: &[u32]| {
        let data = Encoded::new(vec![tokens[..tokens.len() - 1].to_vec()], &spec(16, 1)).unwrap();
        let model = start();
        let logits = model.lm_logits(model.hidden(&data.tokens(&[0]))).unwrap();
        let logs: Vec<f32> = log_softmax(logits, 1).into_data().iter().collect();
        let rows = logs.chunks(VOCABULARY).zip(&tokens[1..]);
        rows.map(|(row, &next)| -f64::from(row[next as usize])).sum::<f64>()
    };
    let expected = (loss_of(&documents[0]) + loss_of(&documents[1])) / 4.0;
    assert!((trained.log.steps[0].loss - expected).abs() < 1e-5, "{} {expected}", trained.log.steps[0].loss);

    // A stream of seven tokens in pieces of three: 3 + 3 targets.
    let recipe = Recipe { batch_size: 2, ..recipe };
    let trained = train_lm(start(), &documents, Packing::Stream(3), &recipe, 0, &Execution::default()).unwrap();
    assert_eq!(trained.log.tokens, 6);
    let error = train_lm(start(), &[vec![1, 99]], Packing::Documents, &recipe, 0, &Execution::default()).unwrap_err();
    assert!(error.message().contains("99"), "{error}");
}

/// Trusts every own label.
#[derive(Debug)]
pub(super) struct Own;

impl Selector for Own {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        let weak = Selection::weak(batch);
        Selection { own: weak.weight.clone(), ..weak }
    }

    fn needs(&self) -> Needs {
        Needs { self_labels: true, ..Needs::default() }
    }
}

#[test]
fn soft_labels_of_the_own_head_carry_no_gradient_and_hard_ones_do() {
    let recipe = Recipe { optimizer: Optimizer::Sgd, learning_rate: 1.0, epochs: 1, ..recipe() };
    let moved = |own: OwnLabels| {
        let objective = Objective { self_labels: Some(own), selector: Some(Box::new(Own)), ..cross_entropy(32) };
        let trained = train(objective, &recipe, &Execution::default()).unwrap();
        distance(&numbers(&trained.model), &numbers(&classifier()))
    };
    assert!(moved(OwnLabels::Current { hard: false, decay: 0.0 }) < 1e-6);
    assert!(moved(OwnLabels::Current { hard: true, decay: 0.0 }) > 1e-3);
    // The average lags behind the head, so there is something to learn from it.
    assert!(moved(OwnLabels::Current { hard: true, decay: 0.9 }) > 1e-3);
}

/// What the model knows are the examples whose last token is in the lower half of the vocabulary.
pub(super) fn knowing(count: usize, lambda: f64, once: bool) -> Along {
    let (data, _) = examples(count);
    let known = |row: usize| data.row(row).last().is_some_and(|token| (*token as usize) < VOCABULARY / 2);
    let labels = (0..count).map(|row| if known(row) { vec![0.0, 1.0] } else { vec![1.0, 0.0] }).collect();
    Along { column: "known".to_owned(), data, labels, lambda, batch_size: 8, once, warmup_fraction: 0.0 }
}

#[test]
fn a_judge_is_learnt_along() {
    let recipe = Recipe { epochs: 20, ..recipe() };
    let objective = Objective { along: Some(knowing(96, 1.0, false)), ..cross_entropy(64) };
    let trained = train(objective, &recipe, &Execution::default()).unwrap();
    let (data, _) = examples(96);
    let knows = judge(&trained.model, &data, &Execution::default()).unwrap();
    let right = (0..96)
        .filter(|&row| (knows[row][1] > 0.5) == ((*data.row(row).last().unwrap() as usize) < VOCABULARY / 2))
        .count();
    assert!(right > 90, "{right} of 96");
    // Micro-batches add up to the same.
    let objective = |lambda| Objective { along: Some(knowing(32, lambda, false)), ..cross_entropy(32) };
    let recipe = Recipe { optimizer: Optimizer::Sgd, epochs: 2, ..recipe };
    let whole = train(objective(1.0), &recipe, &Execution::default()).unwrap();
    let parts = train(objective(1.0), &recipe, &Execution { micro_batch: Some(3), ..Execution::default() }).unwrap();
    assert!(distance(&numbers(&whole.model), &numbers(&parts.model)) < 1e-5);
    // λ counts.
    let double = train(objective(2.0), &recipe, &Execution::default()).unwrap();
    assert!(distance(&numbers(&whole.model), &numbers(&double.model)) > 1e-3);
}

#[test]
fn a_judge_has_an_order_of_its_own() {
    let lengths = vec![1; 64];
    for seed in 0..5 {
        let students = Sampler::new(&lengths, 8, 3, Order::Shuffled, seed).unwrap();
        let own = super::classify::order_along("known", &lengths, 8, 3, seed).unwrap();
        let same = |step| {
            students
                .minibatch(step)
                .unwrap()
                .rows
                .iter()
                .zip(own.minibatch(step).unwrap().rows)
                .filter(|(a, b)| *a == b)
                .count()
        };
        // 24 batches of 8 of 64 examples: three in the same place by chance.
        let same: usize = (0..24).map(same).sum();
        assert!(same < 12, "{same} of 192 rows in the same place");
    }
}

#[test]
fn decisions_are_kept_where_somebody_wants_them() {
    let own = || Objective { self_labels: Some(OwnLabels::Current { hard: true, decay: 0.0 }), ..cross_entropy(32) };
    for record in [false, true] {
        let trained = train(Objective { record, ..own() }, &recipe(), &Execution::default()).unwrap();
        assert_eq!(trained.log.choices.len(), if record { 32 } else { 0 });
    }
    // A selector alone decides, too.
    let objective = Objective { record: true, ..cross_entropy(32) };
    assert_eq!(train(objective, &recipe(), &Execution::default()).unwrap().log.choices.len(), 32);
}

#[test]
fn a_judge_that_counts_nothing_changes_nothing() {
    let plain = train(cross_entropy(32), &recipe(), &Execution::default()).unwrap();
    let objective = Objective { along: Some(knowing(32, 0.0, false)), ..cross_entropy(32) };
    let beside = train(objective, &recipe(), &Execution::default()).unwrap();
    assert_eq!(numbers(&plain.model.backbone), numbers(&beside.model.backbone));
    assert_eq!(numbers(&plain.model.head), numbers(&beside.model.head));
    assert_eq!(plain.log.steps, beside.log.steps);
}

#[test]
fn examples_of_a_judge_are_seen_once_or_again() {
    let tokens = |once| {
        let recipe = Recipe { epochs: 8, ..recipe() };
        let objective = Objective { along: Some(knowing(16, 1.0, once)), ..cross_entropy(32) };
        train(objective, &recipe, &Execution::default()).unwrap().log.tokens
    };
    let of = |count: usize| examples(count).0.lengths().iter().sum::<usize>() as u64;
    assert_eq!(tokens(true), 8 * of(32) + of(16));
    // 32 steps of 8 are 16 passes over 16 examples.
    assert_eq!(tokens(false), 8 * of(32) + 16 * of(16));
}

#[test]
fn answers_have_the_probability_that_the_model_gives_them() {
    let model = Transformer::init(&spec(8, 2), 1, &Device::flex()).unwrap();
    let (prompts, _) = examples(9);
    let answers = vec![vec![3], vec![5], vec![4, 6], vec![4, 7]];
    let scores = score(&model, &prompts, &answers, &Execution { predict_batch: 4, ..Execution::default() }).unwrap();
    for (row, scores) in scores.iter().enumerate() {
        for (answer, score) in answers.iter().zip(scores) {
            // Token by token, each after all before it.
            let mut tokens = prompts.row(row).to_vec();
            let mut expected = 0.0;
            for &next in answer {
                let packed = Encoded::new(vec![tokens.clone()], model.spec()).unwrap().tokens(&[0]);
                let logits = model.lm_logits(model.hidden(&packed)).unwrap();
                let values: Vec<f32> = math::log_softmax(logits).into_data().iter().collect();
                expected += values[values.len() - VOCABULARY + next as usize];
                tokens.push(next);
            }
            assert!((score - expected).abs() < 1e-5, "{score} {expected}");
        }
    }
}

/// Perplexity of texts under a model: e to the mean loss over their tokens but the first.
fn perplexity(model: &Transformer, texts: &Encoded) -> f64 {
    let still = Recipe { learning_rate: 0.0, epochs: 1, batch_size: texts.len(), ..Recipe::default() };
    train_texts(model.clone(), texts, &still, 0, &Execution::default()).unwrap().log.steps[0].loss.exp()
}

#[test]
fn texts_that_were_not_read_become_likelier_by_those_that_were() {
    let spec = spec(8, 2);
    let (mut rng, vocabulary) = (Rng::named(5, "texts"), VOCABULARY as u32);
    // Each token is the one before and 3 more, in a circle.
    let mut text = || {
        let first = rng.below(VOCABULARY) as u32;
        (0..4 + rng.below(6) as u32).map(|place| (first + 3 * place) % vocabulary).collect::<Vec<u32>>()
    };
    let (read, kept) = ((0..64).map(|_| text()).collect::<Vec<_>>(), (0..16).map(|_| text()).collect::<Vec<_>>());
    let encoded = |rows: &[Vec<u32>]| Encoded::new(rows.to_vec(), &spec).unwrap();
    let fresh = || Transformer::init(&spec, 1, &Device::flex()).unwrap();
    let recipe = Recipe { epochs: 10, learning_rate: 2e-2, ..recipe() };
    let learn = |data: &Encoded| train_texts(fresh(), data, &recipe, 3, &Execution::default()).unwrap();
    let trained = learn(&encoded(&read));
    let [before, after] = [&fresh(), &trained.model].map(|model| perplexity(model, &encoded(&kept)));
    assert!(before > 0.7 * f64::from(vocabulary) && after < before / 3.0, "{before} {after}");
    // It is what pretraining on them as documents does.
    let documents = train_lm(fresh(), &read, Packing::Documents, &recipe, 3, &Execution::default()).unwrap();
    assert_eq!(numbers(&trained.model), numbers(&documents.model));
    // Of candidates all are read, and a text of one token says nothing.
    let choices = read.chunks(2).map(|pair| vec![pair[0].clone(), vec![1], pair[1].clone()]).collect();
    let choices = Encoded::choosing(choices, 3, &spec).unwrap();
    let of_choices = train_texts(fresh(), &choices, &recipe, 3, &Execution::default()).unwrap();
    assert_eq!(of_choices.log.tokens, trained.log.tokens);
    assert!(perplexity(&of_choices.model, &encoded(&kept)) < before / 2.0);
    let silent = Encoded::new(vec![vec![1]; 8], &spec).unwrap();
    assert!(
        train_texts(fresh(), &silent, &recipe, 3, &Execution::default()).unwrap_err().message().contains("no text")
    );
}
