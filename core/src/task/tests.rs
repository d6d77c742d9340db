//! Tests of the whole way from a task file to examples. Rows are invented; only their columns are the data sets'.
#![allow(clippy::print_stderr, reason = "a test that does not run says so")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use parquet::{
    basic::Compression,
    data_type::{BoolType, ByteArray, ByteArrayType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use serde_json::{Value, json};
use sha2::Digest as _;

use super::*;
use crate::{
    Error,
    hub::{self, Hub},
};

/// Rows in memory, by split.
pub(super) struct Memory(BTreeMap<&'static str, Vec<Row>>);

impl RowSource for Memory {
    fn rows(&self, split: &str, limit: Option<usize>) -> Result<Rows> {
        let rows = self.0.get(split).ok_or_else(|| Error::new(format!("no split `{split}`")))?;
        Ok(Rows::generated(rows.iter().take(limit.unwrap_or(usize::MAX)).cloned().collect()))
    }
}

fn rows(value: Value) -> Vec<Row> {
    value.as_array().unwrap().iter().map(|row| row.as_object().unwrap().clone()).collect()
}

pub(super) fn memory(splits: impl IntoIterator<Item = (&'static str, Value)>) -> Memory {
    Memory(splits.into_iter().map(|(name, value)| (name, rows(value))).collect())
}

pub(super) fn shipped(name: &str) -> Task {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/tasks");
    Task::open(&folder.join(format!("{name}.toml"))).unwrap()
}

pub(super) fn options(order: Order, seed: u64) -> DataOptions {
    DataOptions { order, seed, ..DataOptions::default() }
}

/// Both halves and the test set in the order of the source's rows.
pub(super) fn by_row(data: &TaskData) -> Vec<&Example> {
    let mut all: Vec<&Example> = data.supervise.iter().chain(&data.transfer).collect();
    all.sort_by_key(|example| example.source_row);
    all
}

fn texts(data: &TaskData) -> Vec<&str> {
    by_row(data).into_iter().map(|example| example.text.as_str()).collect()
}

fn labels(data: &TaskData) -> Vec<u8> {
    by_row(data).into_iter().map(|example| example.label).collect()
}

fn golden() -> Value {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/golden_metrics.json"));
    serde_json::from_str::<Value>(text).unwrap()["data_order"].take()
}

fn sciq_rows(n: usize) -> Value {
    let row = |i: usize| {
        json!({"question": format!("Question {i}?"), "correct_answer": "C", "distractor1": "d1", "distractor2": "d2",
               "distractor3": "d3", "support": ""})
    };
    (0..n).map(row).collect()
}

fn message(error: Error) -> String {
    error.to_string()
}

// ---- the reference's data, bit for bit ----

#[test]
fn sciq_answers_are_the_references_for_seed_0() {
    let source = memory([("train", sciq_rows(20)), ("test", sciq_rows(3))]);
    let data = shipped("sciq").read_from(&source, &options(Order::Openai, 0)).unwrap();
    let golden = golden();
    let expected = golden["formatter_sciq_seed0_first20"].as_array().unwrap();
    for (i, (example, expected)) in by_row(&data).into_iter().zip(expected).enumerate() {
        assert_eq!(example.text, format!("Q: Question {i}? A: {}", expected["ans"].as_str().unwrap()));
        assert_eq!(u64::from(example.label), expected["hl"].as_u64().unwrap());
        assert_eq!(&example.text[example.context.clone()], format!("Question {i}?"));
    }
    // The test split starts from the same seed, in its own shuffled order.
    let order: Vec<u32> = data.test.iter().map(|example| example.source_row).collect();
    assert_eq!(order, super::order::permute(vec![0, 1, 2], 0));
    assert_eq!(data.test.iter().find(|example| example.source_row == 0).unwrap().text, "Q: Question 0? A: d2");
}

#[test]
fn halves_are_the_references() {
    let golden = golden();
    for (n, seed, name) in [(10, 0, "n10_seed0"), (11, 0, "n11_seed0"), (11, 42, "n11_seed42"), (32, 7, "n32_seed7")] {
        let shuffle: Vec<u32> = serde_json::from_value(golden[name]["shuffle"].clone()).unwrap();
        assert_eq!(super::order::permute((0..n).collect::<Vec<u32>>(), seed), shuffle);
        let source = memory([("train", sciq_rows(n as usize)), ("test", sciq_rows(1))]);
        let data = shipped("sciq").read_from(&source, &options(Order::Openai, seed)).unwrap();
        // The golden halves index the shuffled list.
        let half = |part: &str| -> Vec<u32> {
            let places: Vec<usize> =
                serde_json::from_value(golden[name]["train_test_split_0.5"][part].clone()).unwrap();
            places.into_iter().map(|place| shuffle[place]).collect()
        };
        let rows = |examples: &[Example]| -> Vec<u32> { examples.iter().map(|example| example.source_row).collect() };
        assert_eq!((rows(&data.supervise), rows(&data.transfer)), (half("train"), half("test")), "{name}");
    }
}

#[test]
fn sciqs_halves_are_the_references_at_full_size() {
    let source = memory([("train", sciq_rows(11679)), ("test", sciq_rows(1))]);
    let data = shipped("sciq").read_from(&source, &options(Order::Openai, 0)).unwrap();
    assert_sciq_halves(&data);
}

fn assert_sciq_halves(data: &TaskData) {
    let golden = golden()["sciq_train_order_seed0"].take();
    for (half, name) in [(&data.supervise, "first"), (&data.transfer, "second")] {
        assert_eq!(half.len() as u64, golden[format!("len_{name}_half")].as_u64().unwrap());
        let rows: Vec<u32> = half[..10].iter().map(|example| example.source_row).collect();
        assert_eq!(json!(rows), golden[format!("{name}_half_original_indices_first10")]);
    }
}

/// Expected values: the steps of EleutherAI/w2s written with NumPy and CPython's `random`: shuffle(0), format, balance, the first n,
/// halves with seed 42.
#[test]
fn eleuthers_order_is_eleuthers() {
    let rows: Value =
        (0..12).map(|i| json!({"question": format!("q{i}"), "passage": "p", "answer": i % 3 != 0})).collect();
    let source = memory([("train", rows.clone()), ("validation", rows)]);
    let mut asked = options(Order::Eleuther, 0);
    asked.n_train = Some(5);
    asked.n_validation = 2;
    let data = shipped("boolq").read_from(&source, &asked).unwrap();
    let rows = |examples: &[Example]| -> Vec<u32> { examples.iter().map(|example| example.source_row).collect() };
    assert_eq!(rows(&data.validation), ELEUTHER.0);
    assert_eq!(rows(&data.supervise), ELEUTHER.1);
    assert_eq!(rows(&data.transfer), ELEUTHER.2);
    assert_eq!(rows(&data.test), ELEUTHER.3);
    assert_eq!(data.counts.labels["test"], [4, 4]);
    assert_eq!(
        data.counts.pools["train"].dropped,
        BTreeMap::from([("balance".into(), 4), ("not asked for".into(), 1)])
    );
}

const ELEUTHER: (&[u32], &[u32], &[u32], &[u32]) = (&[3, 4], &[5, 6], &[0, 11, 9], &[3, 4, 6, 5, 11, 9, 0, 8]);

#[test]
fn k_points_gives_one_right_and_one_wrong_answer_and_splits_no_question() {
    let source = memory([("train", sciq_rows(51)), ("test", sciq_rows(10))]);
    let mut asked = options(Order::KPoints, 3);
    let data = shipped("sciq").read_from(&source, &asked).unwrap();
    assert_eq!((data.supervise.len(), data.transfer.len(), data.test.len()), (50, 52, 20));
    for part in [&data.supervise, &data.transfer, &data.test] {
        let mut shown: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        part.iter().for_each(|example| shown.entry(example.source_row).or_default().push(example.label));
        assert!(shown.values_mut().all(|labels| {
            labels.sort();
            labels == &[0, 1]
        }));
        assert!(part.iter().all(|example| (example.label == 1) == example.text.ends_with("A: C")));
        // The two are not side by side.
        assert!(part.windows(2).filter(|pair| pair[0].source_row == pair[1].source_row).count() < part.len() / 4);
    }
    assert_eq!(data.counts.transfer_in_supervise, 0);
    assert_ne!(
        data.fingerprint(),
        shipped("sciq").read_from(&source, &options(Order::KPoints, 4)).unwrap().fingerprint()
    );
    asked.n_train = Some(21);
    let fewer = shipped("sciq").read_from(&source, &asked).unwrap();
    assert_eq!((fewer.supervise.len(), fewer.transfer.len()), (10, 10));
    assert_eq!(fewer.counts.pools["train"].dropped["not asked for"], 41);
}

// ---- formats ----

#[test]
fn boolq() {
    let source = memory([
        (
            "train",
            json!([{"question": "is ice cold", "answer": true, "passage": "Ice is cold."},
                         {"question": "is ice hot", "answer": false, "passage": "Ice is cold."}]),
        ),
        ("validation", json!([{"question": "is fire cold", "answer": false, "passage": "Fire is hot."}])),
    ]);
    let data = shipped("boolq").read_from(&source, &DataOptions::default()).unwrap();
    assert_eq!(
        texts(&data),
        ["Passage: Ice is cold.\nQuestion: is ice cold", "Passage: Ice is cold.\nQuestion: is ice hot"]
    );
    assert_eq!(labels(&data), [1, 0]);
    let example = &data.test[0];
    assert_eq!(&example.text[example.context.clone()], "Fire is hot.");
    let prompt = example.prompt.as_ref().unwrap();
    assert_eq!(prompt.text, "Passage: Fire is hot.\nQuestion: is fire cold?\nAnswer:");
    assert_eq!(&prompt.text[prompt.context.clone()], "Fire is hot.");
    assert_eq!(data.prompt.unwrap().answers, [[" no"], [" yes"]]);
    assert_eq!(data.class_names, ["no", "yes"]);
}

#[test]
fn sst2() {
    let rows = json!([{"sentence": "a dull hour ", "label": 0, "idx": 0}, {"sentence": "warm and {{ witty }} ", "label": 1, "idx": 1}]);
    let source = memory([("train", rows.clone()), ("validation", rows)]);
    let data = shipped("sst2").read_from(&source, &DataOptions::default()).unwrap();
    assert_eq!(texts(&data), ["a dull hour ", "warm and {{ witty }} "]);
    assert_eq!(labels(&data), [0, 1]);
    assert_eq!((data.counts.transfer_in_supervise, data.counts.test_in_train), (0, 2));
}

#[test]
fn creak() {
    let row = |sentence: &str, label: &str| json!({"ex_id": "x", "sentence": sentence, "explanation": "e", "label": label, "entity": "E", "en_wiki_pageid": "1", "entity_mention_loc": []});
    let rows = json!([row("Whales sing.", "true"), row("Whales knit.", "false")]);
    let source = memory([("train", rows.clone()), ("validation", rows)]);
    let data = shipped("creak").read_from(&source, &DataOptions::default()).unwrap();
    assert_eq!(texts(&data), ["Claim: Whales sing.\nIs the claim true?", "Claim: Whales knit.\nIs the claim true?"]);
    assert_eq!(labels(&data), [1, 0]);
}

#[test]
fn mc_taco_trains_on_test() {
    let row = |answer: &str, label| json!({"sentence": "He naps.", "question": "How long does he nap?", "answer": answer, "label": label, "category": 1});
    let source =
        memory([("test", json!([row("an hour", 1), row("a year", 0)])), ("validation", json!([row("a minute", 0)]))]);
    let data = shipped("mc_taco").read_from(&source, &DataOptions::default()).unwrap();
    let text = |answer: &str| format!("He naps.\n\nGiven the above, How long does he nap? Is the answer {answer}?");
    assert_eq!(texts(&data), [text("an hour"), text("a year")]);
    assert_eq!(labels(&data), [1, 0]);
    assert_eq!(data.test[0].text, text("a minute"));
    let only = |part: &str, label: u8| {
        format!("every example of `{part}` has the class `{}`", data.class_names[usize::from(label)])
    };
    let (supervise, transfer) = (data.supervise[0].label, data.transfer[0].label);
    assert_eq!(data.counts.notes, [only("supervise", supervise), only("test", 0), only("transfer", transfer)]);
}

/// A task whose interesting parts are given; the rest is filler.
pub(super) fn task(parts: &str) -> Result<Task> {
    let filler = [
        ("classes", "classes = [\"no\", \"yes\"]\n"),
        ("template", "template = \"{{ text | context }}\"\n"),
        ("[source]", "[source]\nfiles = { train = \"train.jsonl\", test = \"test.jsonl\" }\n"),
        ("[splits]", "[splits]\ntrain = \"train\"\ntest = \"test\"\n"),
        ("[label", "[label.column]\nname = \"label\"\n"),
    ];
    let mut text = String::from("name = \"made-up\"\ntitle = \"T\"\nlicence = \"L\"\ncitation = \"C\"\n");
    let at = if parts.starts_with('[') { 0 } else { parts.find("\n[").map_or(parts.len(), |at| at + 1) };
    let (keys, tables) = parts.split_at(at);
    let missing =
        |key: &str| !if key.starts_with('[') { tables } else { keys }.lines().any(|line| line.starts_with(key));
    filler[..2].iter().filter(|(key, _)| missing(key)).for_each(|(_, line)| text.push_str(line));
    text.push_str(keys);
    text.push('\n');
    filler[2..].iter().filter(|(key, _)| missing(key)).for_each(|(_, table)| text.push_str(table));
    text.push_str(tables);
    Task::parse(&text, Path::new("tasks/made-up.toml"))
}

fn read(task: &Task, train: Value) -> Result<TaskData> {
    task.read_from(&memory([("train", train.clone()), ("test", train)]), &DataOptions::default())
}

/// cosmos_qa as the reference formats it. Expected values: its steps written with CPython's `random.Random(0)`.
#[test]
fn choices_with_an_index_and_an_answer_that_is_never_correct() {
    let task = task(
        r#"template = "Context: {{ context | context }}\nQuestion: {{ question }}\nAnswer: {{ answer }}"
[label.coin]
choices = ["answer0", "answer1", "answer2", "answer3"]
answer = "label"
never_correct = "None of the above choices ."
"#,
    )
    .unwrap();
    let row = |i: usize| {
        let last = if i.is_multiple_of(2) { "None of the above choices ." } else { "d" };
        json!({"context": "C.", "question": format!("Q{i}"), "answer0": "a", "answer1": "b", "answer2": "c", "answer3": last, "label": 3 - i % 4 * (i % 3 % 2)})
    };
    let data = read(&task, (0..12).map(row).collect()).unwrap();
    let shown: Vec<(u8, String)> = by_row(&data)
        .into_iter()
        .map(|example| (example.label, example.text.rsplit_once(": ").unwrap().1.to_owned()))
        .collect();
    let expected: Vec<(u8, String)> = COSMOS.iter().map(|(label, answer)| (*label, (*answer).to_owned())).collect();
    assert_eq!(shown, expected);
}

const COSMOS: [(u8, &str); 12] = [
    (0, "b"),
    (0, "b"),
    (0, "a"),
    (1, "d"),
    (0, "c"),
    (1, "d"),
    (0, "b"),
    (0, "c"),
    (0, "c"),
    (0, "a"),
    (0, "c"),
    (1, "d"),
];

/// ethics-utilitarianism. Expected values: the steps of EleutherAI/w2s written with CPython's `random.Random(0)`.
#[test]
fn shuffled_choices() {
    let task = task(
        r#"template = "Which is more pleasant?\n1) {{ choices[0] }}\n2) {{ choices[1] }} A: {{ number }}"
[label.coin]
correct = "baseline"
wrong = "less_pleasant"
shuffle = true
"#,
    )
    .unwrap();
    let data = read(&task, (0..8).map(|_| json!({"baseline": "g", "less_pleasant": "b"})).collect()).unwrap();
    let shown: Vec<(u8, String)> =
        by_row(&data).into_iter().map(|example| (example.label, example.text.clone())).collect();
    let text = |first: char, number: u8| {
        let second = if first == 'g' { 'b' } else { 'g' };
        format!("Which is more pleasant?\n1) {first}\n2) {second} A: {number}")
    };
    let expected: Vec<(u8, String)> =
        UTILITARIANISM.iter().map(|(label, first, number)| (*label, text(*first, *number))).collect();
    assert_eq!(shown, expected);
}

const UTILITARIANISM: [(u8, char, u8); 8] =
    [(0, 'g', 2), (1, 'g', 1), (1, 'g', 1), (0, 'g', 2), (0, 'b', 1), (0, 'g', 2), (1, 'b', 2), (0, 'g', 2)];

#[test]
fn nested_choices_keyed_by_letter_and_dialogues_joined() {
    let task = task(
        r#"template = "{{ dialogue | join(\"\\n\") | context }}\nQ: {{ stem }}\n{% for choice in choices %}{{ \"ABCD\"[loop.index0] }}) {{ choice }}\n{% endfor %}Answer: {{ answer }}"
columns = { stem = "question.stem" }
[label.coin]
choices = "choices.text"
keys = "choices.label"
answer = "answerKey"
"#,
    )
    .unwrap();
    let row = json!({"dialogue": ["M: hi", "W: ho"], "question": {"stem": "What?"}, "answerKey": "2",
                     "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}});
    let data = read(&task, json!([row, row, row, row, row, row])).unwrap();
    for example in by_row(&data) {
        let answer = example.text.rsplit(' ').next().unwrap();
        assert_eq!(example.text, format!("M: hi\nW: ho\nQ: What?\nA) x\nB) y\nC) z\nAnswer: {answer}"));
        assert_eq!(example.label == 1, answer == "y");
        assert_eq!(&example.text[example.context.clone()], "M: hi\nW: ho");
    }
    assert_eq!(labels(&data).iter().map(|label| u32::from(*label)).sum::<u32>(), 2);
}

#[test]
fn other_ways_to_a_label() {
    let equals = task("[label.equals]\nname = \"label\"\nvalue = 0\n").unwrap();
    assert_eq!(labels(&read(&equals, json!([{"text": "a", "label": 0}, {"text": "b", "label": 2}])).unwrap()), [1, 0]);
    let values = task(
        "classes = [\"a\", \"b\", \"c\"]\n[label.column]\nname = \"gold\"\nvalues = { x = \"c\", \"1\" = \"b\" }\n",
    )
    .unwrap();
    assert_eq!(labels(&read(&values, json!([{"text": "t", "gold": "x"}, {"text": "u", "gold": 1}])).unwrap()), [2, 1]);
    // As CSV gives them.
    let plain = task("").unwrap();
    assert_eq!(
        labels(&read(&plain, json!([{"text": "t", "label": "1"}, {"text": "u", "label": "no"}])).unwrap()),
        [1, 0]
    );
    // social_i_qa: the choices are called 1, 2, 3.
    let keyed = task("template = \"{{ answer }}\"\n[label.coin]\nchoices = [\"a\", \"b\", \"c\"]\nkeys = [\"1\", \"2\", \"3\"]\nanswer = \"label\"\n").unwrap();
    let data = read(&keyed, (0..9).map(|_| json!({"a": "x", "b": "y", "c": "z", "label": "3"})).collect()).unwrap();
    assert!(by_row(&data).iter().all(|example| (example.text == "z") == (example.label == 1)));
    // dream: the correct answer is in a column, among the choices.
    let among =
        task("template = \"{{ answer }}\"\n[label.coin]\nchoices = \"choice\"\ncorrect = \"answer\"\n").unwrap();
    let data = read(&among, (0..9).map(|_| json!({"choice": ["x", "y"], "answer": "x"})).collect()).unwrap();
    assert!(by_row(&data).iter().all(|example| (example.text == "x") == (example.label == 1)));
}

#[test]
fn filter_empty_texts_and_explicit_splits() {
    let task = task("filter = \"label != -1 and text is string\"\n[splits]\nsupervise = \"a\"\ntransfer = [\"b\", \"c\"]\ntest = \"d\"\n").unwrap();
    let row = |text: &str, label: i32| json!({"text": text, "label": label});
    let source = memory([
        ("a", json!([row("1", 0), row("2", -1), row("3", 1), row("", 1)])),
        ("b", json!([row("3", 1), row("5", 0)])),
        ("c", json!([row("6", 0)])),
        ("d", json!([row("6", 0), row("8", 1), {"text": null, "label": 1}])),
    ]);
    let data = task.read_from(&source, &DataOptions::default());
    // A null is undefined, and `is string` may be asked of it.
    let data = data.unwrap();
    let rows = |examples: &[Example]| {
        let mut rows: Vec<u32> = examples.iter().map(|example| example.source_row).collect();
        rows.sort();
        rows
    };
    assert_eq!(
        (rows(&data.supervise), rows(&data.transfer), rows(&data.test)),
        (vec![0, 2], vec![0, 1, 2], vec![0, 1])
    );
    assert_eq!((data.counts.transfer_in_supervise, data.counts.test_in_train), (1, 1));
    let pool = &data.counts.pools["supervise"];
    assert_eq!((pool.read, pool.left), (4, 2));
    assert_eq!(pool.dropped, BTreeMap::from([("empty text".into(), 1), ("filter".into(), 1)]));
    assert_eq!(data.counts.labels["supervise"], [1, 1]);
    let few = DataOptions { n_train: Some(3), ..DataOptions::default() };
    let data = task.read_from(&source, &few).unwrap();
    assert_eq!((rows(&data.supervise), rows(&data.transfer)), (vec![0], vec![0, 1]));
}

#[test]
fn limits_balance_pools_and_test_from_train() {
    let sciq = shipped("sciq");
    let source = memory([("train", sciq_rows(100)), ("validation", sciq_rows(7)), ("test", sciq_rows(50))]);
    let asked = DataOptions { n_train: Some(31), n_validation: 10, n_test: Some(5), ..DataOptions::default() };
    let data = sciq.read_from(&source, &asked).unwrap();
    assert_eq!((data.supervise.len(), data.transfer.len(), data.validation.len(), data.test.len()), (5, 16, 10, 5));
    let mut rows: Vec<u32> =
        data.supervise.iter().chain(&data.transfer).chain(&data.validation).map(|example| example.source_row).collect();
    rows.sort();
    assert_eq!(rows, (0..31).collect::<Vec<u32>>(), "the first rows, before any shuffling");
    let more = DataOptions { n_train: Some(20_000), ..DataOptions::default() };
    let data = sciq.read_from(&source, &more).unwrap();
    assert_eq!(data.counts.notes, ["20000 examples were asked for of `train`, there are 100: all are used"]);

    let mut pooled = sciq.clone();
    pooled.splits = Splits {
        train: Some(OneOrMany::Many(vec!["train".into(), "validation".into(), "test".into()])),
        test_from_train: Some(57),
        ..Splits::default()
    };
    let data = pooled.read_from(&source, &options(Order::Eleuther, 0)).unwrap();
    let all: Vec<u32> = super::order::permute((0..157).collect(), 0);
    let mut rows: Vec<u32> = data.test.iter().map(|example| example.source_row).collect();
    assert!(rows.iter().all(|row| all[..57].contains(row)));
    assert_eq!(data.counts.pools["test"].read, 57);
    rows.sort();
    let again = pooled.read_from(&source, &options(Order::Eleuther, 9)).unwrap();
    assert!(
        again.test.iter().all(|example| all[..57].contains(&example.source_row)),
        "the same test pool for every seed"
    );
    pooled.splits.test_from_train = Some(157);
    let error = message(pooled.read_from(&source, &DataOptions::default()).unwrap_err());
    assert!(error.contains("157 test rows are to be taken from the 157 rows"), "{error}");

    let balanced = DataOptions { balance: Some(Balance::Undersample), ..DataOptions::default() };
    let data = sciq.read_from(&source, &balanced).unwrap();
    let total: Vec<usize> =
        (0..2).map(|class| data.counts.labels["supervise"][class] + data.counts.labels["transfer"][class]).collect();
    assert_eq!(total[0], total[1]);
}

#[test]
fn what_is_held_out_is_a_part_of_the_supervisors_half_with_its_classes() {
    let rows: Value =
        (0..203).map(|i| json!({"question": format!("q{i}"), "passage": "p", "answer": i % 4 == 0})).collect();
    let boolq = memory([("train", rows.clone()), ("validation", rows)]);
    let sciq = memory([("train", sciq_rows(101)), ("test", sciq_rows(5))]);
    for (name, source) in [("boolq", &boolq), ("sciq", &sciq)] {
        for order in [Order::Openai, Order::KPoints] {
            let read = |n_validation| {
                let asked = DataOptions { n_validation, ..options(order, 5) };
                shipped(name).read_from(source, &asked).unwrap()
            };
            let none = read(0);
            assert!(none.validation.is_empty() && !none.counts.labels.contains_key("validation"));
            assert_eq!(none, shipped(name).read_from(source, &options(order, 5)).unwrap());
            let half = none.supervise.len();
            for n in [2, 10, 31, half - 2] {
                let data = read(n);
                let what = format!("{name} {order:?} {n}");
                assert_eq!((&data.transfer, &data.test), (&none.transfer, &none.test), "{what}");
                // The half in its order, without those that were held out; they are in its order too.
                let held_out: Vec<&Example> =
                    none.supervise.iter().filter(|example| !data.supervise.contains(example)).collect();
                assert_eq!(held_out, data.validation.iter().collect::<Vec<_>>(), "{what}");
                assert_eq!(data.supervise.len() + data.validation.len(), half, "{what}");
                let row = |example: &Example| example.source_row;
                let left: Vec<u32> = data.supervise.iter().map(row).collect();
                assert!(data.validation.iter().all(|example| !left.contains(&example.source_row)), "{what}");
                // With both answers of a question, two at a time.
                let pairs = name == "sciq" && order == Order::KPoints;
                assert_eq!(data.validation.len(), if pairs { n / 2 * 2 } else { n }, "{what}");
                let noted = data.counts.notes.iter().any(|note| note.contains("were asked for of `validation`"));
                assert_eq!(noted, pairs && n % 2 == 1, "{what}: {:?}", data.counts.notes);
                for class in 0..2 {
                    let share = n as f64 * none.counts.labels["supervise"][class] as f64 / half as f64;
                    let there = data.counts.labels["validation"][class] as f64;
                    assert!((there - share).abs() < 1.0, "{what}: {there} of class {class} instead of {share}");
                }
                assert_eq!(data, read(n), "{what}");
                assert_ne!(data.fingerprint(), none.fingerprint());
            }
            let refused = |n_validation| {
                let asked = DataOptions { n_validation, ..options(order, 5) };
                message(shipped(name).read_from(source, &asked).unwrap_err())
            };
            assert!(refused(half).contains(&format!("`n_validation` is {half} and the supervisor's half has {half} ")));
            assert!(refused(100_000).contains("none would be left to train the weak model on"));
        }
    }
}

#[test]
fn a_fact_of_a_world_is_held_out_in_all_its_phrases() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny");
    let path = fixtures.join("worlds/tiny.toml");
    let world = world::World::parse(&fs::read_to_string(&path).unwrap(), &path).unwrap();
    let task = Task::open(&fixtures.join("tasks/tiny-home.toml")).unwrap();
    let source = world.source(task.source.world.as_ref().unwrap(), 0).unwrap();
    for order in [Order::Openai, Order::Eleuther, Order::KPoints] {
        let asked = DataOptions { n_validation: 12, ..options(order, 0) };
        let data = task.read_from(&*source, &asked).unwrap();
        let facts = |part: &[Example]| -> Vec<String> {
            let animal = |text: &str| text.split(' ').nth(if text.starts_with("home") { 3 } else { 1 }).unwrap().into();
            part.iter().map(|example| animal(&example.text)).collect()
        };
        let held_out = facts(&data.validation);
        assert!((8..=12).contains(&held_out.len()), "{order:?}: {held_out:?}");
        assert!(facts(&data.supervise).iter().all(|fact| !held_out.contains(fact)), "{order:?}");
        assert!(data.counts.labels["validation"].iter().all(|n| *n > 0), "{order:?}: {:?}", data.counts.labels);
    }
}

/// The examples of the guide to task files are task files.
#[test]
fn the_guide_is_right() {
    let guide = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/tasks/README.md"));
    let mut blocks = 0;
    for block in guide.split("```toml\n").skip(1) {
        let text = block.split("```").next().unwrap();
        if let Err(error) = Task::parse(text, Path::new("README.md")) {
            panic!("{error}\n{text}");
        }
        blocks += 1;
    }
    assert_eq!(blocks, 7);
    // Its table has every key there is.
    let table = guide.split("## Every key\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let schema = serde_json::to_value(schemars::schema_for!(Task)).unwrap();
    let definitions = schema["$defs"].as_object().unwrap().values();
    let objects = definitions.chain([&schema]).flat_map(|kind| {
        let choices = kind["oneOf"].as_array().into_iter().chain(kind["anyOf"].as_array()).flatten();
        choices
            .chain([kind])
            .filter_map(|kind| kind["properties"].as_object())
            .flat_map(|keys| keys.keys())
            .collect::<Vec<_>>()
    });
    let keys: std::collections::BTreeSet<&String> = objects.collect();
    assert!(keys.len() > 40, "{keys:?}");
    let named = |key: &str| {
        ["`", "."].iter().any(|before| ["`", "."].iter().any(|after| table.contains(&format!("{before}{key}{after}"))))
    };
    let missing: Vec<&&String> = keys.iter().filter(|key| !named(key)).collect();
    assert!(missing.is_empty(), "not in the table of configs/tasks/README.md: {missing:?}");
}

#[test]
fn every_shipped_task_is_one() {
    // Of these no commit is known from several places: they follow a branch.
    const FOLLOW: [&str; 6] = [
        "EleutherAI/twitter-sentiment",
        "allenai/quartz",
        "brendenlake/scan simple",
        "single-turn",
        "yangdong/ecqa",
        "yasumasaonoe/creak",
    ];

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/tasks");
    let paths = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    assert!(paths.len() >= 5);
    for path in paths {
        let task = Task::open(&path).unwrap_or_else(|error| panic!("{error}"));
        if let Some(hub) = &task.source.hub {
            let configs = task.source.config.iter().flat_map(OneOrMany::as_slice);
            let names = configs.fold(hub.clone(), |names, config| format!("{names} {config}"));
            let commit =
                |revision: &String| revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
            let pinned = task.source.revision.as_ref().is_some_and(commit);
            // The hub's own conversion is a branch, too.
            let follows = FOLLOW.iter().any(|name| names.contains(name))
                || task.source.revision.as_deref() == Some("refs/convert/parquet");
            assert!(pinned != follows, "{names}: {:?}", task.source.revision);
        }
        let json = serde_json::to_value(&task).unwrap();
        let again: Task = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), json, "{}", task.name());
    }
}

// ---- storing ----

#[test]
fn stored_data_come_back_and_fingerprints_see_every_change() {
    let source = memory([("train", sciq_rows(9)), ("test", sciq_rows(4))]);
    let data = shipped("sciq").read_from(&source, &DataOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    data.write(folder.path()).unwrap();
    let back = TaskData::read(folder.path()).unwrap();
    assert_eq!(back, data);
    assert_eq!(back.fingerprint(), data.fingerprint());
    let changes: [fn(&mut TaskData); 6] = [
        |data| data.supervise[0].text.push('!'),
        |data| data.transfer[0].label ^= 1,
        |data| data.test.swap(0, 1),
        |data| data.class_names[0].push('!'),
        |data| data.prompt.as_mut().unwrap().answers[0][0].push('!'),
        |data| {
            let last = data.supervise.pop().unwrap();
            data.validation.push(last);
        },
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut changed = data.clone();
        change(&mut changed);
        assert_ne!(changed.fingerprint(), data.fingerprint(), "change {i}");
    }
    let mut same = data.clone();
    same.counts.notes.push("a note".into());
    same.files.clear();
    assert_eq!(same.fingerprint(), data.fingerprint());

    fs::write(
        folder.path().join("test.jsonl"),
        "{\"text\":\"a\",\"context\":{\"start\":0,\"end\":0},\"label\":2,\"source_row\":0}\n",
    )
    .unwrap();
    let error = message(TaskData::read(folder.path()).unwrap_err());
    assert!(error.contains("line 1 is no example: label 2 of 2 classes") && error.contains("test.jsonl"), "{error}");
    fs::write(
        folder.path().join("test.jsonl"),
        "{\"text\":\"é\",\"context\":{\"start\":1,\"end\":2},\"label\":1,\"source_row\":0}\n",
    )
    .unwrap();
    assert!(message(TaskData::read(folder.path()).unwrap_err()).contains("context is not a part of its text"));
    fs::remove_file(folder.path().join("test.jsonl")).unwrap();
    assert!(message(TaskData::read(folder.path()).unwrap_err()).contains("cannot read examples"));
}

// ---- fitting ----

fn words(text: &str) -> Result<usize> {
    Ok(text.split_whitespace().count())
}

fn characters(text: &str) -> Result<usize> {
    Ok(text.chars().count())
}

fn passage(words: &str) -> TaskData {
    let rows = json!([{"passage": words, "question": "so what", "answer": true}, {"passage": "short one", "question": "so what", "answer": false}]);
    let source = memory([("train", rows.clone()), ("validation", rows)]);
    shipped("boolq").read_from(&source, &DataOptions::default()).unwrap()
}

#[test]
fn the_context_is_shortened_from_the_left_for_the_tokenizer_that_needs_most() {
    let mut data = passage("one two three four five six");
    let before = data.fingerprint();
    let counts = fit(&mut data, &[&words, &characters], 39, OverLong::Truncate, &|| ()).unwrap();
    let example = by_row(&data)[0];
    assert_eq!(example.text, "Passage: five six\nQuestion: so what");
    assert_eq!(&example.text[example.context.clone()], "five six");
    let part = |shortened, dropped, longest| FitPart { shortened, dropped, longest };
    assert_eq!(counts.parts["test"], part(1, 0, 54));
    assert_eq!(data.counts.fit.as_ref(), Some(&counts));
    assert_ne!(data.fingerprint(), before);
    // "Passage: four five six\nQuestion: so what" has 40 characters.
    let mut data = passage("one two three four five six");
    fit(&mut data, &[&characters], 40, OverLong::Truncate, &|| ()).unwrap();
    assert_eq!(by_row(&data)[0].text, "Passage: four five six\nQuestion: so what");
}

#[test]
fn what_cannot_be_shortened_is_dropped_and_counted() {
    // Even the last word alone is too long, and words are not cut.
    let passage = |i: usize| if i == 0 { "one antidisestablishmentarianism" } else { "a b" };
    let rows: Value = (0..10).map(|i| json!({"passage": passage(i), "question": "so", "answer": i % 2 == 0})).collect();
    let source = memory([("train", rows.clone()), ("validation", rows)]);
    let mut data = shipped("boolq").read_from(&source, &DataOptions::default()).unwrap();
    assert!(!cuts_words(&data));
    let counts = fit(&mut data, &[&characters], 30, OverLong::Truncate, &|| ()).unwrap();
    assert_eq!((counts.parts["test"].dropped, counts.parts["test"].shortened, data.test.len()), (1, 0, 9));
    assert_eq!((data.supervise.len() + data.transfer.len(), data.counts.labels["test"].as_slice()), (9, &[5, 4][..]));
}

#[test]
fn drop_drops_for_all_tokenizers_and_an_empty_part_is_an_error() {
    let rows: Value = (0..10)
        .map(|i| json!({"text": if i < 3 { "many words are in here" } else { "few words" }, "label": i % 2}))
        .collect();
    let mut data = read(&task("").unwrap(), rows).unwrap();
    let counts = fit(&mut data, &[&words, &words], 4, OverLong::Drop, &|| ()).unwrap();
    assert_eq!(counts.parts["test"], FitPart { shortened: 0, dropped: 3, longest: 5 });
    assert_eq!(data.test.len(), 7);
    assert_eq!(data.counts.labels["test"].iter().sum::<usize>(), 7);
    let fails = |_: &str| -> Result<usize> { Err(Error::new("no tokens")) };
    assert_eq!(fit(&mut data, &[&fails], 1, OverLong::Drop, &|| ()).unwrap_err().message(), "no tokens");
    let error = message(fit(&mut data, &[&words], 1, OverLong::Drop, &|| ()).unwrap_err());
    assert!(error.contains("no example is left in `supervise`"), "{error}");
}

#[test]
fn texts_are_counted_once_and_fit_as_before() {
    let asked = std::sync::Mutex::new(Vec::new());
    let counts = TokenCounts::default();
    let remembered = |text: &str| -> Result<usize> {
        counts.get(text, |text| {
            asked.lock().unwrap().push(text.to_owned());
            characters(text)
        })
    };
    for limit in [39, 40, 60] {
        let (mut one, mut other) = (passage("one two three four five six"), passage("one two three four five six"));
        let plain = fit(&mut one, &[&characters], limit, OverLong::Truncate, &|| ()).unwrap();
        assert_eq!(fit(&mut other, &[&remembered], limit, OverLong::Truncate, &|| ()).unwrap(), plain);
        assert_eq!(one, other);
    }
    let mut asked = asked.into_inner().unwrap();
    let total = asked.len();
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), total);
    assert_eq!(lengths(&passage("a b"), words).unwrap(), [6, 6, 6, 6]);
    // Errors are not remembered.
    assert!(counts.get("new", |_| Err(Error::new("no"))).is_err());
    assert_eq!(counts.get("new", |_| Ok(7)).unwrap(), 7);
    assert_eq!(counts.get("new", |_| Ok(8)).unwrap(), 7);
}

#[test]
fn shortening_keeps_other_scripts_whole() {
    let mut text = String::from("A: größe  ß\u{a0}日本 語\nend");
    let mut context = 3..text.find("\nend").unwrap();
    let (shortened, before) = shorten(&mut text, &mut context, &[&characters], 12).unwrap();
    assert_eq!((shortened, before), (Shortened::Yes, 20));
    assert_eq!((text.as_str(), &text[context]), ("A: 日本 語\nend", "日本 語"));
}

#[test]
fn texts_without_spaces_lose_characters() {
    let cases = [
        // Chinese, after a clause with spaces; Japanese with a mark that belongs to its character; Thai.
        ("前 面 这段文字没有空格", 11, "文字没有空格"),
        ("か\u{3099}きくけこか\u{3099}", 8, "こか\u{3099}"),
        ("ภาษาไทยไม่มีช่องว่าง", 11, "องว่าง"),
        // A long address behind words, a family that is one character, and a word that ends in white space.
        ("see https://example.org/a/very/long/path/of/things", 12, "/things"),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa👨‍👩‍👧b", 11, "👨‍👩‍👧b"),
        ("いろはにほへと ", 9, "ほへと "),
    ];
    for (context, limit, kept) in cases {
        let mut text = format!("<{context}> ?!");
        let mut range = 1..1 + context.len();
        let (shortened, _) = shorten(&mut text, &mut range, &[&characters], limit).unwrap();
        assert_eq!((shortened, text.as_str()), (Shortened::Yes, format!("<{kept}> ?!").as_str()), "{context}");
        assert_eq!(&text[range], kept);
    }
    // The last character stays, and nothing is done where even that is too much.
    let mut text = String::from("长长长 rest of the text");
    let (shortened, _) = shorten(&mut text, &mut (0..9), &[&characters], 17).unwrap();
    assert_eq!((shortened, text.as_str()), (Shortened::TooLong, "长长长 rest of the text"));
    let (shortened, _) = shorten(&mut text, &mut (0..9), &[&characters], 18).unwrap();
    assert_eq!((shortened, text.as_str()), (Shortened::Yes, "长 rest of the text"));
    // Data of whose texts some may be cut are known as such; what is dropped whole is not.
    assert!(
        cuts_words(&passage("see https://example.org/a/very/long/path/of/things/and/more"))
            && cuts_words(&passage("一 二三"))
    );
    assert!(!cuts_words(&passage("see https://example.org/a/very/long/path/of/things/and more")));
}

/// A tokenizer that is asked what it is asked, and how often.
struct Asked(tokenizers::Tokenizer, std::sync::atomic::AtomicUsize);

impl Asked {
    fn new(pre_tokenizer: Value, model: Value) -> Self {
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null, "model": model
        });
        Self(file.to_string().parse().unwrap(), 0.into())
    }
}

impl Counter for Asked {
    fn count(&self, text: &str) -> Result<usize> {
        self.1.fetch_add(text.len(), std::sync::atomic::Ordering::Relaxed);
        Ok(self.0.encode_fast(text, true).unwrap().len())
    }

    fn starts(&self, text: &str) -> Option<Vec<usize>> {
        self.1.fetch_add(text.len(), std::sync::atomic::Ordering::Relaxed);
        Some(self.0.encode(text, true).unwrap().get_offsets().iter().map(|(start, _)| *start).collect())
    }
}

/// Tokenizers that count otherwise from word to word: byte pairs with and without a space before them, with merges that reach over
/// spaces; pieces of words.
fn askable() -> [Asked; 4] {
    let bytes = "!\"#$%&'()*+,-./0123456789:;<=>?abcdefghijklmnopqrstuvwxyzĠĊÂÃåæçèéäĄ¡¢£¤¥¦§¨©ª«¬®¯°±²³´µ¶·¸¹º»¼½¾¿ĀāĂăĆćĈĉċČčĎďĐđĒēĔĕĖėĘęĚěĜĝĞğġĢģĤĥĦħĨĩĪīĬĭĮįİıĲĳĴĵĶķĸĹĺĻļĽľĿŀŁłàáâ";
    let bpe = |merges: &[[&str; 2]]| {
        let mut vocab: Vec<String> = bytes.chars().map(String::from).collect();
        vocab.extend(merges.iter().map(|pair| pair.concat()));
        let vocab: serde_json::Map<String, Value> =
            vocab.into_iter().zip(0..).map(|(token, id)| (token, Value::from(id))).collect();
        json!({ "type": "BPE", "vocab": vocab, "merges": merges, "unk_token": null, "fuse_unk": false })
    };
    let byte_level = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": regex });
    let common = [["a", "b"], ["ab", "a"], ["Ġ", "ab"], ["Ġab", "a"], ["Ġ", "c"], ["d", "e"]];
    let wide = [["a", "b"], ["bĠ", "a"], ["b", "Ġ"], ["Ġ", "ab"], ["abĠ", "ab"], ["ab", "Ġ"], ["c", "Ġ"], ["cĠ", "d"]];
    let words: serde_json::Map<String, Value> = ["[UNK]", "a", "ab", "##a", "##b", "##ab", "b", "c", "##c", "d", "e"]
        .into_iter()
        .zip(0..)
        .map(|(token, id)| (token.to_owned(), Value::from(id)))
        .collect();
    let pieces = json!({ "type": "WordPiece", "vocab": words, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100 });
    [
        Asked::new(byte_level(true), bpe(&common)),
        Asked::new(byte_level(false), bpe(&wide)),
        Asked::new(byte_level(false), bpe(&[])),
        Asked::new(json!({ "type": "Whitespace" }), pieces),
    ]
}

/// Shortening as it was before anything was estimated.
fn by_bisection(
    text: &mut String,
    context: &mut std::ops::Range<usize>,
    counters: &[CountTokens],
    limit: usize,
) -> Option<()> {
    let most = |text: &str| counters.iter().map(|count| count.count(text).unwrap()).max().unwrap();
    if most(text) <= limit {
        return Some(());
    }
    let mut starts = Vec::new();
    let (mut seen, mut after_space) = (false, false);
    for (place, c) in text[context.clone()].char_indices() {
        if !c.is_whitespace() {
            if seen && after_space {
                starts.push(context.start + place);
            }
            seen = true;
        }
        after_space = c.is_whitespace();
    }
    let from = |place: usize| format!("{}{}", &text[..context.start], &text[place..]);
    let (mut low, mut high) = (0, starts.len());
    while low < high {
        let middle = low.midpoint(high);
        if most(&from(starts[middle])) <= limit { high = middle } else { low = middle + 1 }
    }
    let place = *starts.get(low)?;
    *text = from(place);
    context.end -= place - context.start;
    Some(())
}

proptest::proptest! {
    #![proptest_config(crate::arbitrary::few(192))]

    #[test]
    fn any_text_is_cut_where_bisection_cuts_it(
        words in proptest::collection::vec("[abcde]{1,9}|[a-e,.]{1,3}|[äå]{1,4}", 0..400),
        gaps in proptest::collection::vec("[ \n]{1,2}| ", 400),
        head in "[ab ]{0,20}",
        tail in "[ab \n]{0,20}",
        limit in 1_usize..300,
        pair in (0_usize..4, 0_usize..4),
    ) {
        let all = askable();
        let counters: [CountTokens; 2] = [&all[pair.0], &all[pair.1]];
        let middle: String = words.iter().zip(&gaps).flat_map(|(word, gap)| [word.as_str(), gap]).collect();
        let mut text = format!("{head}{middle}{tail}");
        let mut context = head.len()..head.len() + middle.len();
        let (mut expected, mut expected_context) = (text.clone(), context.clone());
        let fitted = by_bisection(&mut expected, &mut expected_context, &counters, limit);
        let (done, _) = shorten(&mut text, &mut context, &counters, limit).unwrap();
        proptest::prop_assert_eq!(done == Shortened::TooLong, fitted.is_none());
        proptest::prop_assert_eq!((text, context), (expected, expected_context));
    }
}

#[test]
fn a_long_text_is_counted_once_and_its_end_a_few_times() {
    let [bytes, ..] = askable();
    for count in [3_000, 30_000, 300_000] {
        let context: String = (0..count).map(|i| ["abab ", "cd ", "e, "][i % 3]).collect();
        let (mut text, mut range) = (format!("{context}?"), 0..context.len());
        bytes.1.store(0, std::sync::atomic::Ordering::Relaxed);
        shorten(&mut text, &mut range, &[&bytes], 200).unwrap();
        assert!((150..=200).contains(&bytes.0.encode_fast(text.as_str(), true).unwrap().len()));
        let asked = bytes.1.load(std::sync::atomic::Ordering::Relaxed);
        assert!(asked < context.len() + 40_000, "{asked} bytes were tokenized for a text of {}", context.len());
    }
}

#[test]
fn a_text_of_many_megabytes_is_counted_in_pieces() {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    let (largest, all) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let counter = |text: &str| -> Result<usize> {
        largest.fetch_max(text.len(), Relaxed);
        all.fetch_add(text.len(), Relaxed);
        words(text)
    };
    let (mut text, mut context) = ("word ".repeat(800_000), 0..4_000_000);
    let (done, before) = shorten(&mut text, &mut context, &[&counter], 100).unwrap();
    assert_eq!((done, text.len()), (Shortened::Yes, 500));
    // A few pieces stand for all.
    assert!(before.abs_diff(800_000) < 10, "{before}");
    assert!(largest.load(Relaxed) < 300_000 && all.load(Relaxed) < 1_200_000, "{all:?}");
    // But where they hold too little to say that it is too long, all of it is counted.
    let (mut text, mut context) = (format!("{}{}", " ".repeat(1_500_000), "a b ".repeat(100)), 0..1_500_400);
    text.push_str(&" ".repeat(4_000_000));
    let (done, before) = shorten(&mut text, &mut context, &[&counter], 150).unwrap();
    assert_eq!((done, before), (Shortened::Yes, 200));
    let again = shorten(&mut text, &mut context, &[&counter], 150).unwrap();
    assert_eq!(again, (Shortened::Not, 150));
    // Where it is not the context that is long, it is not looked for in there.
    let mut text = format!("a b {}", "word ".repeat(800_000));
    assert_eq!(shorten(&mut text, &mut (0..3), &[&counter], 100).unwrap().0, Shortened::TooLong);
}

// ---- task files that are wrong ----

/// Message, line and column.
fn wrong(parts: &str) -> (String, Option<(usize, usize)>) {
    let error = task(parts).unwrap_err();
    let place = error.place().unwrap().line_column();
    (message(error), place)
}

#[test]
fn wrong_task_files_say_what_and_where() {
    let cases = [
        ("[label.colum]\nname = \"x\"\n", "did you mean `column`"),
        ("[label.column]\nname = \"x\"\n[label.equals]\nname = \"x\"\nvalue = 1\n", "a label has one rule"),
        ("[label.column]\nnme = \"x\"\n", "did you mean `name`"),
        ("tempalte = \"x\"\n", "did you mean `template`"),
        ("metric = \"accuracy\"\n", "w2s table --metric"),
        ("classes = [\"one\"]\n", "1 classes are no classification"),
        ("classes = [\"one\", \"one\"]\n", "the class `one` is there twice"),
        ("template = \"{{ text \"\n", "not a template"),
        ("template = \"{{ text | contxt }}\"\n", "not a template: filter contxt is unknown"),
        ("filter = \"label ==\"\n", "not an expression"),
        ("[source]\n", "the source says nothing"),
        ("[source]\nhub = \"a/b\"\npath = \"x\"\n", "the source gives both `hub` and `path`"),
        ("[source]\nhub = \"a/../b\"\n", "`a/../b` is not the id of a data set"),
        ("[source]\nhub = \"../b\"\n", "`../b` is not the id of a data set"),
        ("[source]\npath = \"x\"\nrevision = \"y\"\n", "`revision` belongs to `hub`"),
        ("[source]\nworld = { size = 3 }\nconfig = \"x\"\n", "a generated world has neither"),
        ("[source]\nfiles = { train = 3 }\n", "expected a string or a list of strings"),
        ("[splits]\ntrain = \"train\"\n", "the splits do not say"),
        ("[splits]\ntrain = \"train\"\ntest = \"test\"\ntest_from_train = 3\n", "the splits do not say"),
        ("[splits]\nsupervise = \"a\"\ntest = \"c\"\n", "the splits do not say"),
        ("[splits]\ntrain = \"a\"\ntest = \"a\"\n", "the split `a` is used twice"),
        ("[splits]\ntrain = []\ntest = \"a\"\n", "a list of splits is empty"),
        ("[label.column]\nname = \"x\"\nvalues = { a = \"maybe\" }\n", "`maybe` is not a class"),
        ("[label.equals]\nname = \"x\"\nvalue = [1]\n", "cannot equal a list"),
        (
            "classes = [\"a\", \"b\", \"c\"]\n[label.equals]\nname = \"x\"\nvalue = 1\n",
            "this rule gives two classes, the task has 3",
        ),
        (
            "template = \"{{ answer }}\"\n[label.coin]\ncorrect = \"x\"\n",
            "does not say which answers are correct and wrong",
        ),
        ("template = \"{{ answer }}\"\n[label.coin]\nchoices = \"x\"\n", "does not say which answers"),
        (
            "template = \"{{ text }}\"\n[label.coin]\ncorrect = \"x\"\nwrong = \"y\"\n",
            "shows neither `answer` nor `number`",
        ),
        (
            "template = \"{{ choices }} {{ answer }}\"\n[label.coin]\ncorrect = \"x\"\nwrong = \"y\"\n",
            "the correct one always first",
        ),
        ("[prompt]\ntemplate = \"{{ text }}\"\nanswers = [\"a\"]\n", "1 answers for 2 classes"),
        ("[prompt]\ntemplate = \"{{ text }}\"\nanswers = [\"a\", []]\n", "a class has no answer"),
    ];
    for (parts, expected) in cases {
        let (error, place) = wrong(parts);
        assert!(error.contains(expected), "{parts}: {error}");
        assert!(error.contains("tasks/made-up.toml") && place.is_some(), "{parts}: {error}");
    }
    let (error, place) = wrong("[label.column]\nnme = \"x\"\n");
    assert_eq!(place, Some((14, 1)), "{error}");
}

#[test]
fn names_of_task_and_file_agree() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.toml");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/tasks/sst2.toml"), &path).unwrap();
    let error = message(Task::open(&path).unwrap_err());
    assert!(error.contains("the task calls itself `sst2`") && error.contains("other.toml:1:8"), "{error}");
    assert!(message(Task::open(&folder.path().join("none.toml")).unwrap_err()).contains("cannot read the task"));
}

// ---- rows that are wrong ----

#[test]
fn wrong_rows_say_which_row_and_column() {
    let fine = json!({"text": "t", "label": 1});
    let cases = [
        ("", json!({"text": "t", "label": 7}), "row 1, counted from 0: column `label` is `7`, which names no class"),
        ("", json!({"text": "t", "label": -1}), "filter = \"label != -1\""),
        ("", json!({"text": "t", "label": null}), "row 1, counted from 0: column `label` has no value"),
        ("", json!({"text": null, "label": 1}), "row 1, counted from 0: no value in `text`"),
        ("", json!({"text": "t", "label": [1]}), "column `label` holds a list, not one value"),
        ("template = \"{{ text }}\"\n", json!({"text": ["t"], "label": 1}), "a list or table is no text"),
        (
            "[label.column]\nname = \"label\"\nvalues = { \"1\" = \"yes\" }\n",
            json!({"text": "t", "label": 2}),
            "the `values` are `1`",
        ),
        (
            "template = \"{{ answer }}\"\n[label.coin]\nchoices = \"text\"\nanswer = \"label\"\n",
            json!({"text": ["a", "b"], "label": 2}),
            "column `label` is `2`, which is none of the 2 choices",
        ),
        (
            "template = \"{{ text | context }} {{ label | string | context }}\"\n",
            fine.clone(),
            "more than one part marked",
        ),
        ("filter = \"missing == 1\"\n", fine.clone(), "the data has no column `missing`"),
    ];
    for (parts, bad, expected) in cases {
        let good = if parts.contains("coin") { json!({"text": ["a", "b"], "label": 1}) } else { fine.clone() };
        let error = message(read(&task(parts).unwrap(), json!([good, bad])).unwrap_err());
        assert!(error.contains(expected) && error.contains("task `made-up`"), "{parts}: {error}");
    }
    let same =
        task("template = \"{{ answer }}\"\n[label.coin]\nchoices = [\"a\", \"b\"]\nanswer = \"label\"\n").unwrap();
    let error = message(read(&same, (0..9).map(|_| json!({"a": "x", "b": "x", "label": 1})).collect()).unwrap_err());
    assert!(error.contains("no answer differs from the correct one"), "{error}");
}

#[test]
fn missing_columns_are_guessed() {
    let rows = json!([{"txet": "t", "label": 1}, {"txet": "t", "label": 1}]);
    let error = task("").unwrap();
    let error = read(&error, rows.clone()).unwrap_err();
    assert_eq!(error.remedy().unwrap(), "did you mean `txet`? The columns are `txet`, `label`");
    assert!(message(error).contains("the data has no column `text` (tasks/made-up.toml:6:12)"));
    for parts in [
        "[label.column]\nname = \"lable\"\n",
        "columns = { text = \"txt\" }\n",
        "[label.equals]\nname = \"lab\"\nvalue = 1\n",
    ] {
        let parts =
            if parts.starts_with('[') { format!("template = \"{{{{ txet }}}}\"\n{parts}") } else { parts.into() };
        let error = message(read(&task(&parts).unwrap(), rows.clone()).unwrap_err());
        assert!(error.contains("the data has no column") && error.contains("did you mean"), "{parts}: {error}");
    }
}

#[test]
fn too_few_rows_are_errors() {
    let plain = task("").unwrap();
    let error = message(read(&plain, json!([])).unwrap_err());
    assert!(error.contains("the split `train` of the task `made-up` has no rows"), "{error}");
    let error = message(read(&plain, json!([{"text": "t", "label": 1}])).unwrap_err());
    assert!(error.contains("no example is left in `supervise`"), "{error}");
    let one_class: Value = (0..4).map(|_| json!({"text": "t", "label": 1})).collect();
    let source = memory([("train", one_class.clone()), ("test", one_class)]);
    let error = message(plain.read_from(&source, &options(Order::Eleuther, 0)).unwrap_err());
    assert!(error.contains("no example has the class `no`"), "{error}");
}

// ---- files ----

const SCHEMA: &str = "message m { optional binary sentence (UTF8); optional int64 label; optional boolean flag; }";

/// Writes rows of (sentence, label, flag).
pub(super) fn write_parquet(path: &Path, rows: &[(Option<&str>, i64, bool)]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(Default::default())).build();
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let present: Vec<i16> = rows.iter().map(|(sentence, ..)| i16::from(sentence.is_some())).collect();
    let all = vec![1; rows.len()];
    let mut column = group.next_column().unwrap().unwrap();
    let sentences: Vec<ByteArray> = rows.iter().filter_map(|(sentence, ..)| sentence.map(ByteArray::from)).collect();
    column.typed::<ByteArrayType>().write_batch(&sentences, Some(&present), None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let labels: Vec<i64> = rows.iter().map(|(_, label, _)| *label).collect();
    column.typed::<Int64Type>().write_batch(&labels, Some(&all), None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let flags: Vec<bool> = rows.iter().map(|(.., flag)| *flag).collect();
    column.typed::<BoolType>().write_batch(&flags, Some(&all), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

pub(super) fn local(roots: &[&Path]) -> Sources {
    Sources { roots: roots.iter().map(|root| root.to_path_buf()).collect(), hub: None }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

pub(super) const FOUR: [(Option<&str>, i64, bool); 4] =
    [(Some("good"), 1, true), (Some("bad"), 0, false), (Some("fine"), 1, true), (Some("poor"), 0, false)];

#[test]
fn parquet_from_a_folder_in_the_hubs_layout() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("nyu-mll/glue/sst2");
    write_parquet(&folder.join("train-00000-of-00002.parquet"), &FOUR);
    write_parquet(&folder.join("train-00001-of-00002.parquet"), &FOUR[..3]);
    write_parquet(&folder.join("validation-00000-of-00001-0123456789abcdef.parquet"), &FOUR[..2]);
    let empty = tempfile::tempdir().unwrap();
    let sources = local(&[empty.path(), root.path()]);
    let data = shipped("sst2").read(&sources, &DataOptions::default()).unwrap();
    assert_eq!(texts(&data), ["good", "bad", "fine", "poor", "good", "bad", "fine"]);
    assert_eq!(labels(&data), [1, 0, 1, 0, 1, 0, 1]);
    let names: Vec<&str> = data.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names[0], "nyu-mll/glue/sst2/train-00000-of-00002.parquet");
    assert_eq!(data.files.iter().map(|file| file.rows).collect::<Vec<_>>(), [4, 3, 2]);
    assert_eq!(data.files[1].blake3, blake3::hash(&fs::read(&data.files[1].path).unwrap()).to_hex().to_string());
    let sha256 = sha2::Sha256::digest(fs::read(&data.files[1].path).unwrap());
    assert_eq!(data.files[1].sha256, sha256.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    // Only as many rows as are asked for are read.
    let few = DataOptions { n_train: Some(2), ..DataOptions::default() };
    let data = shipped("sst2").read(&sources, &few).unwrap();
    assert_eq!(data.files.iter().map(|file| file.rows).collect::<Vec<_>>(), [2, 2]);

    write_parquet(&folder.join("train-00001-of-00002.parquet"), &[(Some("x"), 1, true), (None, 1, true)]);
    let error = message(shipped("sst2").read(&sources, &DataOptions::default()).unwrap_err());
    assert!(
        error.contains("row 1, counted from 0: no value in `sentence`") && error.contains("train-00001-of-00002"),
        "{error}"
    );
    fs::remove_file(folder.join("train-00000-of-00002.parquet")).unwrap();
    let error = message(shipped("sst2").read(&sources, &DataOptions::default()).unwrap_err());
    assert!(error.contains("the split `train` in `sst2/` is not complete: 1 of 2 files"), "{error}");
}

/// Lists inside of tables, as `datasets` writes the choices of multiple-choice questions.
#[test]
fn nested_parquet() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("train.parquet");
    let list = "optional group NAME (LIST) { repeated group list { optional binary element (UTF8); } }";
    let (texts, labels) = (list.replace("NAME", "text"), list.replace("NAME", "label"));
    let schema = format!("message m {{ optional group choices {{ {texts} {labels} }} }}");
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let mut writer = SerializedFileWriter::new(fs::File::create(&path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for values in [["x", "y", "z"], ["A", "B", "A"]] {
        let mut column = group.next_column().unwrap().unwrap();
        let values = values.map(ByteArray::from);
        column.typed::<ByteArrayType>().write_batch(&values, Some(&[4, 4, 4]), Some(&[0, 1, 0])).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    let read = super::rows::read_file(&path, "train.parquet", None).unwrap();
    let rows: Vec<Value> = read.read_whole().unwrap().rows.into_iter().map(|(_, row)| Value::Object(row)).collect();
    let row = |text: Value, label: Value| json!({"choices": {"text": text, "label": label}});
    assert_eq!(rows, [row(json!(["x", "y"]), json!(["A", "B"])), row(json!(["z"]), json!(["A"]))]);
    assert_eq!(read.columns, ["choices"]);
}

/// Some programs write texts as bytes that are not said to be texts; pictures are bytes, too.
#[test]
fn parquet_of_bytes() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("train.parquet");
    let schema = "message m { required binary text; required binary picture; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(fs::File::create(&path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for values in [[&b"plain words"[..], b"more"], [b"ok so far", b"\xff\xfe"]] {
        let mut column = group.next_column().unwrap().unwrap();
        let values = values.map(|value| ByteArray::from(value.to_vec()));
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    let read = super::rows::read_file(&path, "train.parquet", None).unwrap();
    let rows: Vec<Value> = read.read_whole().unwrap().rows.into_iter().map(|(_, row)| Value::Object(row)).collect();
    assert_eq!(rows, [json!({"text": "plain words"}), json!({"text": "more"})]);
    assert_eq!(read.read_whole().unwrap().columns, ["text"]);
}

#[test]
fn damaged_parquet_is_an_error_and_never_a_panic() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("train.parquet");
    write_parquet(&path, &FOUR);
    let whole = fs::read(&path).unwrap();
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        super::rows::read_file(&path, "train.parquet", None)?.read_whole()
    };
    assert_eq!(read(&whole).unwrap().rows.len(), 4);
    for length in [0, 3, whole.len() / 2, whole.len() - 1] {
        let error = message(read(&whole[..length]).unwrap_err());
        assert!(error.contains("not a readable Parquet file") && error.contains("train.parquet"), "{error}");
    }
    let mut errors = 0;
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x55;
        errors += usize::from(read(&bytes).is_err());
    }
    assert!(errors > whole.len() / 4, "{errors} of {}", whole.len());
}

#[test]
fn other_layouts_and_formats() {
    let root = tempfile::tempdir().unwrap();
    let mut sst2 = shipped("sst2");
    sst2.source.revision = None;
    let jsonl = "\u{feff}{\"sentence\": \"good\", \"label\": 1}\n\n{\"sentence\": \"bad\", \"label\": 0}\n";
    let csv = "label,sentence\n1,\"good, \"\"really\"\"\"\n0,bad\n";
    let layouts: [(&str, &str, &str); 5] = [
        ("datasets--nyu-mll--glue/snapshots/abc/sst2/train.jsonl", jsonl, "good"),
        ("hub/datasets--nyu-mll--glue/snapshots/abc/sst2/train.csv", csv, "good, \"really\""),
        ("nyu-mll/glue/sst2/train/0000.tsv", "sentence\tlabel\ngood\t1\nbad\t0\n", "good"),
        (
            "nyu-mll/glue/sst2/train.json",
            "[{\"sentence\": \"good\", \"label\": 1}, {\"sentence\": \"bad\", \"label\": 0}]",
            "good",
        ),
        ("nyu-mll/glue/sst2/train.ndjson", jsonl, "good"),
    ];
    for (i, (path, text, first)) in layouts.into_iter().enumerate() {
        let root = root.path().join(i.to_string());
        write(&root.join(path), text);
        write(&root.join(path.replace("train", "validation")), text);
        for cache in ["datasets--nyu-mll--glue", "hub/datasets--nyu-mll--glue"] {
            if path.starts_with(cache) {
                write(&root.join(cache).join("refs/main"), "abc\n");
            }
        }
        let data = sst2.read(&local(&[&root]), &DataOptions::default()).unwrap();
        assert_eq!(texts(&data), [first, "bad"], "{path}");
        assert_eq!(labels(&data), [1, 0], "{path}");
    }
    // The configuration `default` is often not in a folder of its own; a pinned revision has no reference.
    let mut sciq = shipped("sciq");
    sciq.source.revision = Some("0123abc".into());
    let folder = root.path().join("x/datasets--allenai--sciq/snapshots/0123abc/data");
    let row = "{\"question\": \"q\", \"correct_answer\": \"a\", \"distractor1\": \"b\", \"distractor2\": \"c\", \"distractor3\": \"d\"}\n";
    write(&folder.join("train.jsonl"), &row.repeat(4));
    write(&folder.join("test.jsonl"), row);
    assert_eq!(sciq.read(&local(&[&root.path().join("x")]), &DataOptions::default()).unwrap().supervise.len(), 2);
}

#[test]
fn several_configurations_are_pooled() {
    let root = tempfile::tempdir().unwrap();
    let mut task = task("[source]\nhub = \"a/b\"\nconfig = [\"hard\", \"easy\"]\n").unwrap();
    for (config, text) in [("hard", "h"), ("easy", "e")] {
        for split in ["train", "test"] {
            write(
                &root.path().join(format!("a/b/{config}/{split}.jsonl")),
                &format!("{{\"text\": \"{text}\", \"label\": 1}}\n").repeat(2),
            );
        }
    }
    let data = task.read(&local(&[root.path()]), &DataOptions::default()).unwrap();
    assert_eq!(texts(&data), ["h", "h", "e", "e"]);
    task.source.config = Some(OneOrMany::Many(vec!["hard".into(), "soft".into()]));
    assert!(task.read(&local(&[root.path()]), &DataOptions::default()).is_err());
}

#[test]
fn paths_start_at_the_task_file() {
    let root = tempfile::tempdir().unwrap();
    let row = "{\"text\": \"t\", \"label\": 1}\n";
    write(&root.path().join("data/mine.jsonl"), &row.repeat(10));
    write(&root.path().join("data/folder/test.jsonl"), row);
    fs::create_dir(root.path().join("tasks")).unwrap();
    let parse = |source: &str, splits: &str| {
        let text = format!(
            "name = \"mine\"\ntitle = \"T\"\nlicence = \"L\"\ncitation = \"C\"\nclasses = [\"a\", \"b\"]\ntemplate = \"{{{{ text }}}}\"\n[label.column]\nname = \"label\"\n[source]\n{source}\n[splits]\n{splits}\n"
        );
        Task::parse(&text, &root.path().join("tasks/mine.toml")).unwrap()
    };
    let none = local(&[]);
    let read = |source: &str, splits: &str| parse(source, splits).read(&none, &DataOptions::default());
    let data = read("path = \"../data/mine.jsonl\"", "train = \"train\"\ntest_from_train = 4").unwrap();
    assert_eq!((data.supervise.len(), data.transfer.len(), data.test.len()), (3, 3, 4));
    let data = read(
        "files = { train = \"../data/mine.jsonl\", test = [\"../data/folder/test.jsonl\", \"../data/mine.jsonl\"] }",
        "train = \"train\"\ntest = \"test\"",
    )
    .unwrap();
    assert_eq!((data.supervise.len(), data.test.len()), (5, 11));
    let cases = [
        ("path = \"../data/mine.jsonl\"", "train = \"train\"\ntest = \"test\"", "one file holds all rows"),
        ("path = \"../nowhere\"", "train = \"train\"\ntest = \"test\"", "is neither a file nor a folder"),
        ("path = \"../data/folder\"", "train = \"tests\"\ntest = \"test\"", "did you mean `test`"),
        (
            "files = { train = \"../data/mine.jsonl\" }",
            "train = \"train\"\ntest = \"test\"",
            "names no files of a split `test`",
        ),
        ("files = { train = \"gone.jsonl\" }", "train = \"train\"\ntest_from_train = 4", "gone.jsonl`"),
    ];
    for (source, splits, expected) in cases {
        let error = message(read(source, splits).unwrap_err());
        assert!(error.contains(expected), "{source}: {error}");
    }
}

#[test]
fn wrong_files_name_file_and_line() {
    let root = tempfile::tempdir().unwrap();
    let cases: [(&str, &[u8], &str); 9] = [
        ("a.jsonl", b"{\"a\": 1}\n{\"a\": \n", "line 2 is no row"),
        ("b.jsonl", b"[1]\n", "line 1 is no row"),
        ("c.jsonl", b"{\"a\": \"\xff\"}\n", "line 1 is no row"),
        ("d.json", b"[{\"a\": 1}, 2]", "not a list of rows"),
        ("e.csv", b"a,b\n1,2\n3\n", "not a readable table"),
        ("f.csv", b"a,a\n1,2\n", "two columns are called `a`"),
        ("g.txt", b"x", "unknown format"),
        ("h.jsonl.gz", b"x", "cannot read the data"),
        ("i.csv", b"a\n\xff\n", "not a readable table"),
    ];
    for (name, bytes, expected) in cases {
        let path = root.path().join(name);
        fs::write(&path, bytes).unwrap();
        let read = super::rows::read_file(&path, name, None).and_then(|rows| rows.read_whole());
        let error = message(read.err().unwrap());
        assert!(error.contains(expected) && error.contains(name), "{name}: {error}");
    }
}

#[test]
fn what_is_not_there_says_where_it_was_looked_for_and_how_to_get_it() {
    let root = tempfile::tempdir().unwrap();
    write_parquet(&root.path().join("nyu-mll/glue/sst2/test-00000-of-00001.parquet"), &FOUR);
    let gone = PathBuf::from("no/such/folder");
    let sources = Sources { roots: vec![gone, root.path().into()], hub: None };
    let error = shipped("sst2").read(&sources, &DataOptions::default()).unwrap_err();
    for part in [
        "the split `train` of `nyu-mll/glue` (config `sst2`) is not on this machine",
        "no/such/folder (not there)",
        "nyu-mll/glue (no such split)",
    ] {
        assert!(error.message().contains(part), "{error}");
    }
    let help = error.remedy().unwrap();
    for part in [
        "HF_HUB_OFFLINE",
        "https://huggingface.co/datasets/nyu-mll/glue",
        "DIR/nyu-mll/glue/sst2/train-00000-of-00001.parquet",
        "--data DIR",
    ] {
        assert!(help.contains(part), "{help}");
    }
    let sources = Sources { roots: Vec::new(), hub: Some(Box::new(Unreachable)) };
    let error = shipped("sst2").read(&sources, &DataOptions::default()).unwrap_err();
    assert!(error.message().ends_with("looked in no folder: no answer"), "{error}");
    let help = error.remedy().unwrap();
    assert!(help.starts_with("check the network; or put the files") && help.ends_with("--data DIR"), "{help}");
    let error = message(Sources::from_env(&[PathBuf::from("no/such/folder")]).err().unwrap());
    assert!(error.contains("not a folder with data sets"), "{error}");
}

/// A hub that does not answer.
struct Unreachable;

impl Hub for Unreachable {
    fn list(&self, _: &hub::Repo) -> Result<hub::Listing> {
        Err(Error::new("no answer").help("check the network"))
    }

    fn fetch(&self, repo: &hub::Repo, _: &str, _: &str) -> Result<PathBuf> {
        self.list(repo).map(|_| PathBuf::new())
    }
}

const PINNED: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub whose files are in a folder.
struct Folder(PathBuf);

impl Hub for Folder {
    fn list(&self, repo: &hub::Repo) -> Result<hub::Listing> {
        assert_eq!((repo.kind, repo.id.as_str()), (hub::Kind::Dataset, "nyu-mll/glue"));
        assert!(["main", PINNED].contains(&repo.revision.as_str()), "{}", repo.revision);
        let files = ["README.md", "sst2/train.jsonl", "sst2/validation.jsonl", "cola/test.jsonl"];
        Ok(hub::Listing { commit: "c0ffee".into(), files: files.map(String::from).into() })
    }

    fn fetch(&self, _: &hub::Repo, commit: &str, file: &str) -> Result<PathBuf> {
        assert_eq!(commit, "c0ffee");
        Ok(self.0.join(file))
    }
}

#[test]
fn what_no_folder_has_comes_from_the_hub() {
    let root = tempfile::tempdir().unwrap();
    for split in ["train", "validation"] {
        let text = "{\"sentence\": \"far\", \"label\": 1}\n{\"sentence\": \"near\", \"label\": 0}\n";
        write(&root.path().join(format!("sst2/{split}.jsonl")), text);
    }
    let sources = Sources { roots: Vec::new(), hub: Some(Box::new(Folder(root.path().into()))) };
    let mut task = shipped("sst2");
    task.source.revision = None;
    let data = task.read(&sources, &DataOptions::default()).unwrap();
    assert_eq!(texts(&data), ["far", "near"]);
    assert_eq!(data.files[0].name, "nyu-mll/glue/sst2/train.jsonl");
    assert_eq!(data.files[0].commit.as_deref(), Some("c0ffee"));
    // Who does not pin it learns how.
    let pins = "`nyu-mll/glue` follows `main`, which is the commit c0ffee on this machine; `source.revision = \"c0ffee\"` pins it";
    assert!(data.counts.notes.iter().any(|note| note == pins), "{:?}", data.counts.notes);
    task.source.revision = Some(PINNED.into());
    let pinned = task.read(&sources, &DataOptions::default()).unwrap();
    assert!(!pinned.counts.notes.iter().any(|note| note.contains("follows")), "{:?}", pinned.counts.notes);
    task.splits.train = Some(OneOrMany::One("trian".into()));
    let error = message(task.read(&sources, &DataOptions::default()).unwrap_err());
    assert!(error.contains("`nyu-mll/glue` has no files for the split `trian`"), "{error}");
    assert!(error.contains("`cola/test`, `sst2/train`, `sst2/validation`"), "{error}");
}

// ---- the real data, where they are ----

/// Runs only where `W2S_DATA` names folders that hold the data sets; prints what `cargo test -- --nocapture` shows.
#[test]
fn the_real_data_sets() {
    let Some(paths) = std::env::var_os("W2S_DATA") else {
        eprintln!("not run: W2S_DATA is not set");
        return;
    };
    let sources = Sources { roots: std::env::split_paths(&paths).collect(), hub: None };
    let names = ["sciq", "boolq", "sst2", "creak", "mc_taco", "arc"];
    for task in names.into_iter().map(shipped) {
        let name = task.name();
        for order in [Order::Openai, Order::Eleuther, Order::KPoints] {
            let start = std::time::Instant::now();
            let data = task.read(&sources, &options(order, 0)).unwrap();
            let time = start.elapsed();
            eprintln!("{name} {order:?} {time:.2?}: {}", serde_json::to_string(&data.counts).unwrap());
            if order == Order::Openai {
                for example in &data.supervise[..3] {
                    eprintln!(
                        "  {:?} {:?} {example:?}",
                        data.class_names[usize::from(example.label)],
                        &example.text[example.context.clone()]
                    );
                }
                if name == "sciq" {
                    assert_sciq_halves(&data);
                }
            }
        }
    }
}
