//! Training on answers in words, on models small enough to train in a test.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use serde_json::json;

use super::{
    tests::{distance, numbers},
    tests_generate::words,
    *,
};
use crate::{
    Result,
    model::{Spec, Transformer},
    strategy::{Batch, Form, LabelRefiner, Memory, Needs, Progress, Selection, Selector, StudentLoss, TokenView, math},
};

const VOCABULARY: u32 = 24;
const END: u32 = 23;

fn spec() -> Spec {
    let config = json!({
        "model_type": "gpt2", "vocab_size": VOCABULARY, "n_positions": 12, "n_embd": 16, "n_layer": 1, "n_head": 2,
        "initializer_range": 0.2,
    });
    Spec::parse(&config.to_string(), Path::new("config.json")).unwrap()
}

pub(super) fn model() -> Transformer {
    Transformer::init(&spec(), 4, &Device::flex()).unwrap()
}

/// Prompts of one to three tokens, which are 10 to 19.
fn prompts(count: u32) -> Encoded {
    let rows = (0..count).map(|row| (0..=row % 3).map(|place| 10 + (5 * row + place) % 10).collect()).collect();
    Encoded::new(rows, &spec()).unwrap()
}

/// Answers of one to four tokens, which are 0 to 9; the last token of the prompt decides which.
fn weak(prompts: &Encoded) -> Vec<Vec<u32>> {
    let answer = |row: usize| {
        let last = *prompts.row(row).last().unwrap();
        (1..=1 + last % 4).map(|step| (last + step) % 10).collect()
    };
    (0..prompts.len()).map(answer).collect()
}

/// Other answers, of other lengths.
fn own(prompts: &Encoded) -> Vec<Vec<u32>> {
    (0..prompts.len() as u32).map(|row| vec![20 - row % 5; 1 + (row as usize + 1) % 3]).collect()
}

/// Cross-entropy, with a weight for rows that surprise, if it is told to look at them.
#[derive(Debug, Clone, Copy)]
pub(super) struct CrossEntropy {
    looks: bool,
}

impl StudentLoss for CrossEntropy {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets, logits)
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        Some(tokens.cross_entropy())
    }

    fn weigh(&self, surprise: Tensor<1>, _at: &Progress, _memory: &mut Memory) -> Tensor<1> {
        math::rank(surprise).lower_scalar(2).float()
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { student: self.looks, ..Needs::default() }
    }
}

/// Weights and decisions by the number of the example.
#[derive(Debug, Clone, Copy)]
struct ByNumber(fn(u32) -> (f32, f32));

impl Selector for ByNumber {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        let (own, weight): (Vec<f32>, Vec<f32>) = batch.ids.iter().map(|id| (self.0)(id.0)).unzip();
        let tensor = |values: Vec<f32>| Tensor::from_floats(values.as_slice(), &batch.weak.device());
        Selection { own: tensor(own), weight: tensor(weight) }
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { self_labels: true, ..Needs::default() }
    }
}

/// What a student learns from, as the tests vary it.
pub(super) struct Answers {
    weak: Vec<Vec<u32>>,
    own: Option<Vec<Vec<u32>>>,
    column: Option<Vec<f32>>,
    end_token: Option<u32>,
    answering: Answering,
    pub(super) selector: Option<Box<dyn Selector>>,
    refiner: Option<Box<dyn LabelRefiner>>,
    pub(super) loss: Box<dyn StudentLoss>,
    pub(super) record: bool,
}

impl Answers {
    fn new(weak: Vec<Vec<u32>>, end_token: Option<u32>, loss: Box<dyn StudentLoss>) -> Self {
        let (own, column, selector, refiner) = (None, None, None, None);
        Self { weak, own, column, end_token, answering: Answering::default(), selector, refiner, loss, record: false }
    }

    fn learnt(self, prompts: &Encoded, recipe: &Recipe, seed: u64) -> Result<Trained<Transformer>> {
        self.learnt_by(model(), prompts, recipe, seed, &Execution::default())
    }

    /// The weak answer to every prompt, unless a selector takes the own one.
    fn learnt_by(
        self,
        model: Transformer,
        prompts: &Encoded,
        recipe: &Recipe,
        seed: u64,
        execution: &Execution,
    ) -> Result<Trained<Transformer>> {
        let label = |column: usize| {
            let width = 1 + usize::from(self.own.is_some());
            vec![(0..width).map(|other| if other == column { 1.0 } else { 0.0 }).collect::<Vec<f32>>(); prompts.len()]
        };
        let mut objective = Objective::new(label(0), self.loss);
        objective.self_labels = self.own.as_ref().map(|_| OwnLabels::Given(label(1)));
        objective.columns = self.column.map(|numbers| ("known".to_owned(), numbers)).into_iter().collect();
        (objective.selector, objective.refiner, objective.record) = (self.selector, self.refiner, self.record);
        let answers = std::iter::once(self.weak).chain(self.own).collect();
        let texts = Texts { answers, end_token: self.end_token, answering: self.answering };
        train_words(model, prompts, objective, texts, recipe, seed, execution)
    }
}

pub(super) fn recipe() -> Recipe {
    Recipe { epochs: 1, batch_size: 4, learning_rate: 0.1, optimizer: Optimizer::Sgd, ..Recipe::default() }
}

pub(super) fn answers(count: u32) -> Answers {
    Answers::new(weak(&prompts(count)), Some(END), Box::new(CrossEntropy { looks: false }))
}

/// With own answers, some of which are chosen, and weights.
pub(super) fn selected(count: u32, select: fn(u32) -> (f32, f32)) -> Answers {
    Answers { own: Some(own(&prompts(count))), selector: Some(Box::new(ByNumber(select))), ..answers(count) }
}

pub(super) fn train(answers: Answers, recipe: &Recipe, execution: &Execution) -> Result<Trained<Transformer>> {
    let prompts = prompts(answers.weak.len() as u32);
    answers.learnt_by(model(), &prompts, recipe, 3, execution)
}

fn first_loss(answers: Answers) -> f64 {
    train(answers, &recipe(), &Execution::default()).unwrap().log.steps[0].loss
}

/// −log p of each of the tokens of an answer and the end after a prompt, by the model before training.
fn surprises(prompt: &[u32], answer: &[u32]) -> Vec<f64> {
    let answer = [answer, &[END]].concat();
    let whole = (1..=answer.len()).map(|count| {
        let prompt = Encoded::new(vec![[prompt, &answer[..count - 1]].concat()], &spec()).unwrap();
        let scores = score(&model(), &prompt, &[vec![answer[count - 1]]], &Execution::default()).unwrap();
        -f64::from(scores[0][0])
    });
    whole.collect()
}

#[test]
fn answers_are_learnt_and_then_the_model_stops() {
    let recipe = Recipe { epochs: 40, batch_size: 8, learning_rate: 2e-2, optimizer: Optimizer::Adam, ..recipe() };
    let trained = train(answers(16), &recipe, &Execution::default()).unwrap();
    let (first, last) = (trained.log.steps.first().unwrap(), trained.log.steps.last().unwrap());
    assert!(last.loss < 0.2 && last.loss < first.loss / 10.0, "{first:?} {last:?}");
    assert_eq!(last.accuracy, Some(1.0));
    // Row 3: its prompt is the one token 15, its answer four tokens long.
    let said = [vec![6], vec![6, 7], vec![6, 7, 8], vec![6, 7, 8, 9], vec![6, 7, 8, 9, END]];
    let prompt = Encoded::new(vec![vec![15]], &spec()).unwrap();
    let scores = score(&trained.model, &prompt, &said, &Execution::default()).unwrap();
    assert!(scores[0][4] > (0.5_f32).ln(), "{scores:?}");

    // What was learnt is written, by the trained model as it is.
    let decoding = Decoding { max_new_tokens: 6, ..Decoding::default() };
    let (prompts, execution) = (prompts(16), Execution::default());
    let written = generate(&trained.model, &words(24), &[END], &prompts, &decoding, 0, &execution).unwrap();
    for (written, answer) in written.iter().map(|written| &written[0]).zip(weak(&prompts)) {
        let text: String = answer.iter().map(|id| format!(" t{id}")).collect();
        assert_eq!((&written.text, written.ending), (&text, Ending::EndOfText));
        assert_eq!(written.tokens, [answer.as_slice(), &[END]].concat());
    }

    let again = train(answers(16), &recipe, &Execution::default()).unwrap();
    assert_eq!(numbers(&again.model), numbers(&trained.model));
    // Without the end there is one token less to learn from each answer, but none less to read.
    let endless = Answers { answering: Answering { end: false, ..Answering::default() }, ..answers(16) };
    let endless = train(endless, &recipe, &Execution::default()).unwrap();
    assert_eq!(trained.log.tokens - endless.log.tokens, 40 * 16);
    assert_ne!(numbers(&endless.model), numbers(&trained.model));
}

#[test]
fn means_are_over_what_they_say() {
    let (data, answers) = (prompts(4), weak(&prompts(4)));
    let surprises: Vec<Vec<f64>> = (0..4).map(|row| surprises(data.row(row), &answers[row])).collect();
    let weights = [1.0, 0.0, 2.0, 0.5];
    let sum = |f: &dyn Fn(&[f64]) -> f64| -> f64 { surprises.iter().zip(weights).map(|(row, w)| w * f(row)).sum() };
    let total = |row: &[f64]| row.iter().sum::<f64>();
    let length = |row: &[f64]| row.len() as f64;
    for (mean, expected) in [
        (Mean::Tokens, sum(&total) / sum(&length)),
        (Mean::Examples, sum(&|row| total(row) / length(row)) / 3.5),
        (Mean::Answers, sum(&total) / 3.5),
    ] {
        let answers = Answers {
            answering: Answering { mean, end: true },
            ..selected(4, |row| (0.0, [1.0, 0.0, 2.0, 0.5][row as usize % 4]))
        };
        let got = first_loss(answers);
        assert!((got - expected).abs() < 1e-5, "{mean:?}: {got} instead of {expected}");
    }
}

#[test]
fn micro_batches_change_no_more_than_last_digits() {
    for (mean, looks) in [(Mean::Tokens, false), (Mean::Examples, true), (Mean::Answers, false)] {
        let run = |micro_batch| {
            let answers = Answers {
                answering: Answering { mean, end: true },
                loss: Box::new(CrossEntropy { looks }),
                record: true,
                ..selected(8, |row| ((row % 2) as f32, 1.0 + (row % 3) as f32))
            };
            train(answers, &recipe(), &Execution { micro_batch, ..Execution::default() }).unwrap()
        };
        let whole = run(None);
        assert!(whole.log.choices[&3].own && !whole.log.choices[&4].own);
        assert_eq!(whole.log.choices[&3].refined, [0.0, 1.0]);
        for size in [1, 3] {
            let parts = run(Some(size));
            assert!(distance(&numbers(&whole.model), &numbers(&parts.model)) < 1e-5, "{mean:?} {size}");
            for (a, b) in whole.log.steps.iter().zip(&parts.log.steps) {
                assert!((a.loss - b.loss).abs() < 1e-5 && a.accuracy == b.accuracy, "{a:?} {b:?}");
            }
            assert_eq!(whole.log.tokens, parts.log.tokens);
        }
    }
}

#[test]
fn a_selector_says_whose_answer_is_learnt() {
    let all_own = train(selected(8, |_| (1.0, 1.0)), &recipe(), &Execution::default()).unwrap();
    let given = Answers { weak: own(&prompts(8)), ..answers(8) };
    assert_eq!(all_own.log.steps, train(given, &recipe(), &Execution::default()).unwrap().log.steps);
    let none = train(selected(8, |_| (0.0, 1.0)), &recipe(), &Execution::default()).unwrap();
    assert_eq!(none.log.steps, train(answers(8), &recipe(), &Execution::default()).unwrap().log.steps);
    assert_ne!(all_own.log.steps, none.log.steps);
    // Half of each: the mean of both.
    let by_answer =
        |select| first_loss(Answers { answering: Answering { mean: Mean::Answers, end: true }, ..selected(4, select) });
    let both = by_answer(|_| (0.5, 1.0));
    let mean = (by_answer(|_| (0.0, 1.0)) + by_answer(|_| (1.0, 1.0))) / 2.0;
    assert!((both - mean).abs() < 1e-5, "{both} {mean}");
}

#[test]
fn a_batch_of_dropped_rows_teaches_nothing() {
    let trained = train(selected(4, |_| (0.0, 0.0)), &recipe(), &Execution::default()).unwrap();
    assert_eq!(trained.log.steps[0].loss, 0.0);
    assert_eq!(numbers(&trained.model), numbers(&model()));
    for weight in [|_| (0.0, -1.0), |_| (0.0, f32::NAN)] {
        let error = train(selected(4, weight), &recipe(), &Execution::default()).unwrap_err();
        assert!(error.to_string().contains("weights below 0 or not finite to examples 0, 1, 2, 3"), "{error}");
    }
}

#[test]
fn a_loss_may_weigh_rows_by_what_surprises_the_student() {
    let (data, answers_of) = (prompts(4), weak(&prompts(4)));
    let mut rows: Vec<Vec<f64>> = (0..4).map(|row| surprises(data.row(row), &answers_of[row])).collect();
    let mean = |row: &Vec<f64>| row.iter().sum::<f64>() / row.len() as f64;
    rows.sort_by(|a, b| mean(a).total_cmp(&mean(b)));
    let kept = rows[..2].concat();
    let expected = kept.iter().sum::<f64>() / kept.len() as f64;
    let got = first_loss(Answers { loss: Box::new(CrossEntropy { looks: true }), ..answers(4) });
    assert!((got - expected).abs() < 1e-5, "{got} instead of {expected}");
}

#[test]
fn what_cannot_be_learnt_is_refused_before_training() {
    let refused = |answers: Answers, recipe: &Recipe| {
        train(answers, recipe, &Execution::default()).map(|trained| trained.log).unwrap_err().to_string()
    };
    let expect = |answers: Answers, parts: &[&str]| {
        let said = refused(answers, &recipe());
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    };
    expect(Answers { end_token: None, ..answers(4) }, &["names none"]);
    let with = |change: fn(&mut Vec<Vec<u32>>)| {
        let mut answers = answers(4);
        change(&mut answers.weak);
        answers
    };
    let short = Answers { weak: weak(&prompts(3)), own: Some(own(&prompts(4))), ..answers(4) };
    let said = short.learnt(&prompts(4), &recipe(), 0).unwrap_err().to_string();
    assert!(said.contains("3 times") && said.contains("4 prompts"), "{said}");
    expect(with(|weak| weak[2][0] = 99), &["weak answer", "example 2", "99"]);
    expect(with(|weak| weak[2] = vec![1; 12]), &["weak answer", "example 2", "12 positions"]);
    expect(
        Answers {
            own: Some(vec![vec![]; 4]),
            end_token: None,
            answering: Answering { end: false, ..Answering::default() },
            ..answers(4)
        },
        &["own answer", "example 0", "no tokens"],
    );
    expect(Answers { column: Some(vec![0.5]), ..answers(4) }, &["column `known` has 1 values for 4 examples"]);
    expect(
        Answers { selector: Some(Box::new(ByNumber(|_| (0.0, 1.0)))), ..answers(4) },
        &["selector needs self-labels"],
    );

    /// Says nothing about words.
    #[derive(Debug)]
    struct Mute;
    impl StudentLoss for Mute {
        fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
            math::cross_entropy(targets, logits)
        }
    }
    impl LabelRefiner for Mute {
        fn refine(&self, batch: &Batch, selection: &Selection, _memory: &mut Memory) -> Tensor<2> {
            selection.labels(batch)
        }
    }
    expect(Answers { loss: Box::new(Mute), ..answers(4) }, &["the loss cannot be used on answers in words"]);
    expect(
        Answers { refiner: Some(Box::new(Mute)), ..answers(4) },
        &["the refiner cannot be used on answers in words"],
    );

    let bert = json!({
        "model_type": "bert", "vocab_size": VOCABULARY, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 8, "max_position_embeddings": 12,
    });
    let bert = Spec::parse(&bert.to_string(), Path::new("config.json")).unwrap();
    let bert = Transformer::init(&bert, 0, &Device::flex()).unwrap();
    let error = answers(4).learnt_by(bert, &prompts(4), &recipe(), 0, &Execution::default()).unwrap_err();
    assert!(error.to_string().contains("both directions"), "{error}");
}
