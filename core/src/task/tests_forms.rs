//! Tasks that choose among candidates or generate words, how answers are compared, and rows that stay together.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use super::{
    tests::{by_row, memory, options, task},
    *,
};
use crate::{Error, strategy};

fn read(task: &Task, train: &Value) -> Result<TaskData> {
    task.read_from(&memory([("train", train.clone()), ("test", train.clone())]), &DataOptions::default())
}

fn rows(n: usize, row: impl Fn(usize) -> Value) -> Value {
    (0..n).map(row).collect()
}

fn stored(data: &TaskData) -> Result<TaskData> {
    let folder = tempfile::tempdir().unwrap();
    data.write(folder.path()).unwrap();
    TaskData::read(folder.path())
}

fn told(error: &Error, message: &str, remedy: &str) {
    let said = error.message().contains(message) && error.remedy().unwrap_or_default().contains(remedy);
    assert!(said, "{error}\n{:?}", error.remedy());
}

// ---- answers ----

fn matching(text: &str) -> Matching {
    toml::from_str(text).unwrap()
}

fn matcher(text: &str) -> Matcher {
    Matcher::new(&matching(text)).unwrap()
}

/// What the harnesses trip over: recited examples, thousands, currency, trailing points, two markers, none, nothing.
#[test]
fn the_last_marked_number_is_the_answer() {
    let steps = matcher("extract = { after = '####' }\nrules = [{ delete = ['[$]'] }, 'strip-commas', 'number']\n");
    let recited = "Question: 1 + 1?\nAnswer: 1 + 1 = 2\n#### 2\n\nQuestion: 2 + 3?\nAnswer: It is 5.\n#### 5";
    for raw in
        ["#### 5", "#### 5.", "#### $5", "#### 5 #### 5", "#### 6 #### 5", recited, "####\n5\nand so on", "#### 05.00"]
    {
        assert_eq!(steps.answer(raw).text, "5", "{raw:?}");
        assert!(steps.right(raw, "2 + 3 = 5\n#### 5"), "{raw:?}");
    }
    assert!(steps.right("so #### $1,000.00", "#### 1000") && steps.agree("#### 1,000", "#### 1000."));
    assert!(!steps.right("#### 5 #### 6", "#### 5") && !steps.agree("#### 6", "#### 5"));
    let first = matcher("extract = { after = '####', which = 'first' }\nrules = ['number']\n");
    assert_eq!((first.answer(recited).text.as_str(), first.answer("#### 5 #### 6").text.as_str()), ("2", "5"));
    let other = matcher("extract = { regex = 'answer is ([0-9]+)' }\nextract_reference = { after = '####' }\n");
    assert!(other.right("the answer is 1, no, the answer is 12", "#### 12") && !other.right("#### 12", "#### 12"));
}

#[test]
fn a_failure_equals_nothing() {
    let steps = matcher("extract = { after = '####' }\nrules = ['strip-punctuation', 'number']\n");
    for raw in ["", "5", "the answer is 5", "####", "#### ", "#### ...", "# ### 5"] {
        let found = steps.answer(raw);
        assert!(found.failed && found.text.is_empty(), "{raw:?}");
        assert!(
            !steps.right(raw, raw) && !steps.agree(raw, raw) && !steps.agree(raw, "") && !steps.right(raw, "#### 5")
        );
    }
    let whole = Matcher::new(&Matching::default()).unwrap();
    assert!(whole.agree(" yes\n", "yes") && !whole.agree("", "") && !whole.agree("  ", "\n"));
    assert_eq!(whole.answer("x").rule, "whole text (rules 1)");
    assert_eq!(steps.answer("").rule, "after the last \"####\", strip-punctuation, number (rules 1)");
}

/// Expected values: the same rules written a second time, in Python (tests/golden/make_matching.py).
#[test]
fn answers_are_those_of_the_same_rules_in_python() {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/golden_matching.json"));
    let golden: Value = serde_json::from_str(text).unwrap();
    let texts: Vec<&str> = golden["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert!(texts.len() >= 200);
    for case in golden["cases"].as_array().unwrap() {
        let matching: Matching = serde_json::from_value(case["matching"].clone()).unwrap();
        let matcher = Matcher::new(&matching).unwrap();
        for (text, expected) in texts.iter().zip(case["answers"].as_array().unwrap()) {
            let found = matcher.answer(text);
            let answer = (!found.failed).then_some(found.text);
            assert_eq!(answer.as_deref(), expected.as_str(), "{} of {text:?}", matcher.name());
        }
    }
}

#[test]
fn what_cannot_find_an_answer_is_refused_where_it_stands() {
    let cases = [
        ("extract = { after = '' }", "the marker is empty", "the whole text"),
        ("extract = { after = ' ' }", "the marker is empty", "the whole text"),
        ("extract = { regex = '([0-9]+' }", "is not a regular expression: unclosed group", "single quotes"),
        ("extract = { regex = '(?<=a)b' }", "look-around", "no look-around"),
        ("extract = { regex = '[0-9]*' }", "matches nothing at all", "`+` in place of `*`"),
        ("extract = { after = '#', regex = '1' }", "by a marker and by an expression", "`after`"),
        ("extract = { which = 'first' }", "nothing says where the answer stands", "`regex`"),
        ("extract_reference = { after = '' }", "the marker is empty", "the whole text"),
        ("rules = [{ delete = ['('] }]", "is not a regular expression", "single quotes"),
        ("rules = [{ delete = [] }]", "nothing to take out", ""),
        ("rules = ['lower']", "unknown variant `lower`", "`lowercase`"),
    ];
    for (line, message, remedy) in cases {
        let error = words_task(&format!("[generate.answer]\n{line}\n")).unwrap_err();
        told(&error, message, remedy);
        assert!(error.place().and_then(|place| place.line_column()).is_some(), "{line}: {error}");
    }
}

// ---- words ----

/// A task that generates words, with more keys of `[generate]` and tables after it.
fn words_task(more: &str) -> Result<Task> {
    let text = format!(
        "name = \"words\"\ntitle = \"T\"\nlicence = \"L\"\ncitation = \"C\"\ntemplate = \"{{{{ q | context }}}}\\nA:\"\n[source]\npath = \"x\"\n[splits]\ntrain = \"train\"\ntest = \"test\"\n[generate]\nreference = \" {{{{ a }}}}\"\n{more}"
    );
    Task::parse(&text, Path::new("words.toml"))
}

const MARKED: &str = "[generate.answer]\nextract = { after = '####' }\nrules = ['number']\n";

#[test]
fn words_have_a_prompt_a_reference_and_rules() {
    let task = words_task(&format!("stop = ['Q:']\n{MARKED}")).unwrap();
    let train = rows(8, |i| json!({"q": format!("{i} + 1?"), "a": format!("it is\n#### {}", (i + 1) % 3)}));
    let data = read(&task, &train).unwrap();
    let first = by_row(&data)[0];
    assert_eq!((first.text.as_str(), first.reference.as_deref()), ("0 + 1?\nA:", Some(" it is\n#### 1")));
    let Form::Generate(generation) = &data.form else { panic!("{:?}", data.form) };
    assert_eq!((generation.max_new_tokens, &generation.stop[..]), (256, &["Q:".to_owned()][..]));
    assert_eq!((data.classes(), data.asks(), data.form.name()), (0, strategy::Form::Words, "generate"));
    let said = &data.counts.references["test"];
    assert_eq!((said.examples, said.distinct, said.answer.as_str(), said.count), (8, 3, "1", 3));
    let matcher = data.matcher().unwrap().unwrap();
    assert!(matcher.right("#### 1.0", first.reference.as_deref().unwrap()));
    let again = stored(&data).unwrap();
    assert_eq!((&again, again.fingerprint()), (&data, data.fingerprint()));
    // The rules say what is right, so they are part of what the data are.
    let other = read(&words_task(&MARKED.replace("'number'", "'lowercase'")).unwrap(), &train).unwrap();
    assert_ne!(other.fingerprint(), data.fingerprint());
}

#[test]
fn references_without_answers_are_refused_and_odd_ones_counted() {
    let train =
        rows(40, |i| json!({"q": format!("{i}"), "a": if i == 7 { "no idea".into() } else { format!("#### {i}") }}));
    let data = read(&words_task(MARKED).unwrap(), &train).unwrap();
    assert_eq!(data.counts.pools["train"].dropped["no answer in the reference"], 1);
    let none = words_task("[generate.answer]\nextract = { after = 'Answer:' }\n").unwrap();
    let error = read(&none, &train).unwrap_err();
    told(&error, "none of the 40 references for `train` holds an answer", "it is ` #### 0`");
    let place = error.place().unwrap();
    assert!(place.file.ends_with("words.toml") && place.line_column().unwrap().0 == 13, "{error}");
    let same = rows(40, |i| json!({"q": format!("{i}"), "a": "#### 5"}));
    told(
        &read(&words_task(MARKED).unwrap(), &same).unwrap_err(),
        "every reference of `test` has the answer `5`",
        "reference",
    );
}

#[test]
fn what_no_model_could_give_is_noted() {
    let glued = rows(6, |i| json!({"q": format!("{i}"), "a": format!("{i}\n\nQ: more")}));
    let text = words_task("stop = [\"\\n\\nQ:\", 'never']\n").unwrap();
    let data = read(&text, &glued).unwrap();
    assert_eq!(
        data.counts.notes,
        ["12 references hold \"\\n\\nQ:\", at which answers end: no model can give them whole"]
    );
    let mut tight = words_task("").unwrap();
    tight.generate.as_mut().unwrap().reference = "{{ a }}".into();
    let notes = read(&tight, &glued).unwrap().counts.notes;
    assert!(notes[0].starts_with("no blank stands between prompt and reference"), "{notes:?}");
    let balanced = DataOptions { balance: Some(Balance::Undersample), ..DataOptions::default() };
    let source = memory([("train", glued.clone()), ("test", glued)]);
    let notes = words_task("").unwrap().read_from(&source, &balanced).unwrap().counts.notes;
    assert!(notes.iter().any(|note| note.starts_with("`balance` does nothing here")), "{notes:?}");
}

#[test]
fn a_prompt_leaves_room_for_its_reference() {
    let train = rows(6, |_| json!({"q": "one two three four five six", "a": "seven eight nine"}));
    let words = |text: &str| Ok(2 + text.split_whitespace().count());
    let mut data = read(&words_task("").unwrap(), &train).unwrap();
    let room = |data: &mut TaskData, new: usize| {
        let Form::Generate(generation) = &mut data.form else { panic!("it asks for words") };
        generation.max_new_tokens = new;
    };
    // What a model may write has room as well.
    let error = fit(&mut data.clone(), &[&words], 13, OverLong::Truncate, &|| ()).unwrap_err().to_string();
    assert!(error.contains("lower `max_new_tokens`"), "{error}");
    room(&mut data, 5);
    let counts = fit(&mut data.clone(), &[&words], 13, OverLong::Truncate, &|| ()).unwrap();
    assert_eq!(counts.parts["test"].shortened, 6);
    room(&mut data, 4);
    // Seven words and two special tokens of the prompt, three words of the reference, and one token for its end.
    let counts = fit(&mut data.clone(), &[&words], 13, OverLong::Truncate, &|| ()).unwrap();
    assert_eq!((counts.parts["test"].shortened, counts.parts["test"].longest), (0, 13));
    fit(&mut data, &[&words], 11, OverLong::Truncate, &|| ()).unwrap();
    assert!(data.test.iter().all(|example| example.text == "three four five six\nA:"
        && example.reference.as_deref() == Some(" seven eight nine")));
    assert_eq!(lengths(&data, words).unwrap()[0], 10);
    assert!(fit(&mut data, &[&words], 7, OverLong::Truncate, &|| ()).is_err());
}

#[test]
fn the_form_of_a_task_is_one() {
    let both = words_task("[label.column]\nname = 'a'\n").unwrap_err();
    told(&both, "both a `[label]` and `[generate]`", "two files");
    let source = "name = \"words\"\ntitle = \"T\"\nlicence = \"L\"\ncitation = \"C\"\nclasses = [\"a\", \"b\"]\ntemplate = \"{{ q }}\"\n[source]\npath = \"x\"\n[splits]\ntrain = \"train\"\ntest = \"test\"\n";
    let parse = |more: &str| Task::parse(&format!("{source}{more}"), Path::new("words.toml")).unwrap_err();
    told(&parse("[generate]\nreference = '{{ a }}'\n"), "generates words has no classes", "`[label.column]`");
    told(
        &parse("[label.choose]\ncorrect = 'a'\nwrong = 'b'\n"),
        "chooses among candidates has no classes",
        "`[label.coin]`",
    );
    told(&words_task("max_new_tokens = 0\n").unwrap_err(), "at least 1 token", "");
    told(&words_task("stop = ['']\n").unwrap_err(), "is empty", "");
    let old = source.replace("classes = [\"a\", \"b\"]\n", "")
        + "[prompt]\ntemplate = \"{{ q }}\"\nreference = \"{{ a }}\"\n";
    told(&Task::parse(&old, Path::new("words.toml")).unwrap_err(), "nowhere what a row's label is", "`[generate]`");
    let missing = read(&words_task("").unwrap(), &rows(4, |_| json!({"q": "x", "answer": "y"}))).unwrap_err();
    told(&missing, "the data has no column `a`", "did you mean `answer`");
}

// ---- candidates ----

fn pairs(n: usize) -> Value {
    rows(
        n,
        |i| json!({"q": format!("q{i} and so on"), "good": format!("g{i}"), "bad": format!("b{i}"), "p": 0.5 + (i % 6) as f64 / 10.0, "m": i % 4}),
    )
}

const PAIR: &str = "classes = []\ntemplate = \"{{ q | context }} {{ answer }}\"\n[label.choose]\ncorrect = \"good\"\nwrong = \"bad\"\n";

#[test]
fn pairs_are_candidates_on_either_side() {
    let task = task(&format!("{PAIR}preference = \"p\"\nmargin = \"m\"\n")).unwrap();
    let data = read(&task, &pairs(200)).unwrap();
    assert_eq!(
        (&data.form, data.asks(), data.classes()),
        (&Form::Choose { candidates: 2 }, strategy::Form::Candidates(2), 0)
    );
    for example in by_row(&data) {
        let i = example.source_row;
        let right = &example.candidates[usize::from(example.label)];
        assert_eq!((right.text.clone(), right.answer.clone()), (format!("q{i} and so on g{i}"), format!("g{i}")));
        assert_eq!(&right.text[right.context.clone()], format!("q{i} and so on"));
        let p = 0.5 + (i % 6) as f32 / 10.0;
        assert!((example.preference[usize::from(example.label)] - p).abs() < 1e-6);
        assert!((example.target().iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(example.margin, Some((i % 4) as f32));
        assert_eq!(example.text, format!("q{i} and so on "));
    }
    let first = data.counts.labels["test"][0];
    assert!((80..=120).contains(&first), "the right one is the first of {first} in 200 pairs");
    // The side is the row's own, whatever other rows are read.
    let some = DataOptions { n_train: Some(20), ..DataOptions::default() };
    let fewer = task.read_from(&memory([("train", pairs(200)), ("test", pairs(5))]), &some).unwrap();
    assert!(by_row(&fewer).iter().all(|example| data.test.contains(example)));
    let other = DataOptions { seed: 1, ..DataOptions::default() };
    let other = task.read_from(&memory([("train", pairs(200)), ("test", pairs(5))]), &other).unwrap();
    assert!(by_row(&other).iter().zip(by_row(&data)).any(|(a, b)| a.label != b.label));
    assert_eq!(stored(&data).unwrap(), data);
}

#[test]
fn candidates_keep_the_datas_order_and_may_be_fewer() {
    let text = "classes = []\ntemplate = \"{{ q }} {{ number }} of {{ choices | length }}: {{ answer }}\"\n[label.choose]\nchoices = \"c\"\nanswer = \"k\"\n[prompt]\ntemplate = \"{{ q }} {{ choices | join(' ') }}\"\n";
    let task = task(text).unwrap();
    let row = |i: usize| match i % 3 {
        0 => json!({"q": "q", "c": ["a", "b", "c", "d"], "k": 2}),
        1 => json!({"q": "q", "c": ["a", "", null, "d"], "k": "3"}),
        // What reads like another one is that one, and the right one keeps its place.
        _ => json!({"q": "q", "c": ["b", "a", "b", "a"], "k": 2}),
    };
    let data = read(&task, &rows(9, row)).unwrap();
    assert_eq!(data.form, Form::Choose { candidates: 4 });
    let shown: Vec<(usize, Vec<&str>)> = by_row(&data)[..3]
        .iter()
        .map(|example| {
            let answers = example.candidates.iter().map(|candidate| candidate.answer.as_str());
            (usize::from(example.label), answers.collect())
        })
        .collect();
    assert_eq!(shown, [(2, vec!["a", "b", "c", "d"]), (1, vec!["a", "d"]), (1, vec!["a", "b"])]);
    assert_eq!(by_row(&data)[1].candidates[1].text, "q 2 of 2: d");
    assert_eq!(by_row(&data)[1].prompt.as_ref().unwrap().text, "q a d");
    for order in [Order::Eleuther, Order::KPoints] {
        let source = memory([("train", rows(9, row)), ("test", rows(9, row))]);
        assert_eq!(task.read_from(&source, &options(order, 0)).unwrap().counts.labels["test"].len(), 4);
    }
}

#[test]
fn choices_that_are_none_are_refused() {
    let refused = |parts: &str, row: Value| match task(parts) {
        Ok(task) => read(&task, &rows(40, |_| row.clone())).unwrap_err(),
        Err(error) => error,
    };
    let row = json!({"q": "q", "good": "g", "bad": "b", "p": 0.9, "m": 1});
    told(&refused(PAIR, json!({"q": "q", "good": "g", "bad": "g"})), "one candidate", "reads differently");
    told(&refused(&PAIR.replace("bad", "worse"), row.clone()), "no column `worse`", "the columns are");
    told(&refused(&PAIR.replace("answer }}", "q }}"), row.clone()), "neither `answer` nor `number`", "");
    told(
        &refused(&PAIR.replace("q | context }} {{ answer", "answer | context"), row.clone()),
        "not the same for every candidate",
        "and not the answer",
    );
    told(
        &refused(&format!("{PAIR}shuffle = false\n"), row.clone()),
        "the right candidate of every example of `test` is number 1",
        "",
    );
    let preference = format!("{PAIR}preference = \"p\"\n");
    let with = |p: Value| json!({"q": "q", "good": "g", "bad": "b", "p": p});
    told(&refused(&preference, with(json!(0.3))), "prefers another candidate", "compute `1 - COLUMN`");
    told(&refused(&preference, with(json!("much"))), "is `much`, which is no number", "");
    told(&refused(&preference, with(json!(70))), "no probabilities", "sum to 1");
    told(&refused(&preference, with(json!([0.5, 0.2, 0.3]))), "3 for 2 candidates", "each of them");
    told(&refused(&format!("{PAIR}margin = \"p\"\n"), with(json!(-1))), "a margin is a number from 0 on", "");
    told(
        &refused(&format!("{PAIR}[prompt]\ntemplate = \"{{{{ answer }}}}\"\n"), row),
        "the prompt shows one of the candidates",
        "`choices`",
    );
}

#[test]
fn candidates_are_shortened_alike() {
    let task = task("classes = []\ntemplate = \"{{ q | context }}: {{ answer }}\"\n[label.choose]\nchoices = [\"a\", \"b\"]\nanswer = \"k\"\n").unwrap();
    let train = rows(6, |i| json!({"q": "one two three four five", "a": "x", "b": "a much longer answer", "k": i % 2}));
    let words = |text: &str| Ok(text.split_whitespace().count());
    let mut data = read(&task, &train).unwrap();
    assert_eq!(lengths(&data, words).unwrap()[0], 9);
    let counts = fit(&mut data, &[&words], 6, OverLong::Truncate, &|| ()).unwrap();
    assert_eq!((counts.parts["test"].shortened, counts.parts["test"].longest), (6, 9));
    for example in &data.test {
        let texts: Vec<&str> = example.texts().map(|(text, _)| text).collect();
        assert_eq!(texts, ["four five: x", "four five: a much longer answer"]);
        assert!(example.texts().all(|(text, context)| &text[context.clone()] == "four five"));
        assert_eq!(example.text, "four five: ");
    }
    assert_eq!(stored(&data).unwrap().test, data.test);
    let dropped = fit(&mut data.clone(), &[&words], 5, OverLong::Drop, &|| ()).unwrap_err();
    assert!(dropped.message().contains("no example is left"), "{dropped}");
    let mut bad = data.clone();
    bad.test[0].candidates.truncate(1);
    assert!(stored(&bad).unwrap_err().message().contains("1 candidates where there are 2 to 2"));
    bad.test[0] = Example { label: 2, ..data.test[0].clone() };
    assert!(stored(&bad).unwrap_err().message().contains("number 2 of 2 candidates is right"));
}

/// What was stored before there were other forms reads as it did, and is called the same.
#[test]
fn classification_is_stored_as_before() {
    let train = rows(40, |i| json!({"text": format!("t{i}"), "label": i % 2}));
    let data = read(&task("").unwrap(), &train).unwrap();
    let folder = tempfile::tempdir().unwrap();
    data.write(folder.path()).unwrap();
    let written = std::fs::read_to_string(folder.path().join("test.jsonl")).unwrap();
    let first: BTreeMap<String, Value> = serde_json::from_str(written.lines().next().unwrap()).unwrap();
    assert_eq!(first.into_keys().collect::<Vec<_>>(), ["context", "label", "source_row", "text"]);
    let head: BTreeMap<String, Value> =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("task.json")).unwrap()).unwrap();
    assert_eq!(head.into_keys().collect::<Vec<_>>(), ["class_names", "counts", "files", "task"]);
}

// ---- rows that stay together ----

/// Rows of which the first group has 9, the second 1, then 4 each.
fn grouped() -> Value {
    let group = |i: usize| {
        if i < 9 {
            0
        } else if i == 9 {
            1
        } else {
            2 + (i - 10) / 4
        }
    };
    rows(58, |i| json!({"text": format!("t{i}"), "label": i % 2, "group": format!("g{}", group(i))}))
}

fn groups(examples: &[Example], rows: &Value) -> Vec<String> {
    let group = |example: &Example| rows[example.source_row as usize]["group"].as_str().unwrap().to_owned();
    let mut groups: Vec<String> = examples.iter().map(group).collect();
    groups.sort();
    groups.dedup();
    groups
}

#[test]
fn rows_of_one_group_stay_in_one_half() {
    let rows = grouped();
    let source = || memory([("train", rows.clone()), ("test", rows.clone())]);
    let together = "[splits]\ntrain = \"train\"\ntest = \"test\"\ntogether = \"group\"\n";
    let task_together = task(together).unwrap();
    for order in [Order::Openai, Order::Eleuther, Order::KPoints] {
        for seed in 0..5 {
            let asked = DataOptions { n_validation: 6, ..options(order, seed) };
            let data = task_together.read_from(&source(), &asked).unwrap();
            let first = [groups(&data.supervise, &rows), groups(&data.validation, &rows)];
            let second = groups(&data.transfer, &rows);
            assert!(first.iter().flatten().all(|group| !second.contains(group)), "{order:?} {seed}");
            assert!(first[0].iter().all(|group| !first[1].contains(group)), "{order:?} {seed}");
            let (one, two) = (data.supervise.len() + data.validation.len(), data.transfer.len());
            assert_eq!(one + two, 58);
            assert!(one.abs_diff(two) <= 9, "{order:?} {seed}: {one} and {two}");
            let again = task_together.read_from(&source(), &asked).unwrap();
            assert_eq!(again.fingerprint(), data.fingerprint());
        }
    }
    let halves = |seed| task_together.read_from(&source(), &options(Order::Openai, seed)).unwrap().transfer;
    assert_ne!(halves(0), halves(1));
    // Where no row shares its value the halves are as large as without.
    let alone =
        task("[compute]\nown = \"text ~ '.'\"\n[splits]\ntrain = \"train\"\ntest = \"test\"\ntogether = \"own\"\n")
            .unwrap();
    let data = alone.read_from(&source(), &options(Order::Openai, 0)).unwrap();
    assert_eq!((data.supervise.len(), data.transfer.len()), (29, 29));
}

#[test]
fn a_test_set_out_of_training_keeps_rows_together() {
    let rows = grouped();
    let parts = "[splits]\ntrain = \"train\"\ntest_from_train = 14\ntogether = \"group\"\n";
    let data = task(parts).unwrap().read_from(&memory([("train", rows.clone())]), &DataOptions::default()).unwrap();
    let test = groups(&data.test, &rows);
    assert!((10..=14).contains(&data.test.len()), "{}", data.test.len());
    assert_eq!(data.counts.notes.iter().any(|note| note.contains("`test_from_train`")), data.test.len() < 14);
    for part in [&data.supervise, &data.transfer] {
        assert!(groups(part, &rows).iter().all(|group| !test.contains(group)));
    }
    assert_eq!(data.supervise.len() + data.transfer.len() + data.test.len(), 58);
}

#[test]
fn groups_that_make_no_halves_are_refused() {
    let splits = |column: &str| format!("[splits]\ntrain = \"train\"\ntest = \"test\"\ntogether = \"{column}\"\n");
    let refused = |column: &str, row: &dyn Fn(usize) -> Value| {
        let error = read(&task(&splits(column)).unwrap(), &rows(40, row)).unwrap_err();
        assert!(error.place().and_then(|place| place.line_column()).is_some(), "{error}");
        error
    };
    let row = |i: usize, group: Value| json!({"text": format!("t{i}"), "label": i % 2, "group": group});
    told(&refused("grope", &|i| row(i, json!(1))), "no column `grope`", "did you mean `group`");
    told(&refused("group", &|i| row(i, json!(1))), "every row has the same `group`", "question or premise");
    told(
        &refused("group", &|i| row(i, json!(i.saturating_sub(25)))),
        "26 of 40 rows have the same `group`",
        "fewer rows",
    );
    told(&task(&splits("")).unwrap_err(), "names no column", "");
    // A row that says nothing of its group is odd.
    let odd = rows(41, |i| row(i, if i == 3 { Value::Null } else { json!(i / 2) }));
    let data = read(&task(&splits("group")).unwrap(), &odd).unwrap();
    assert_eq!(data.counts.pools["train"].dropped["no value"], 1);
}

#[test]
fn groups_are_told_apart_for_metrics() {
    let parts = "group = \"question\"\n";
    let train = rows(8, |i| json!({"text": format!("t{i}"), "label": i % 2, "question": format!("q{}", i / 4)}));
    let data = read(&task(parts).unwrap(), &train).unwrap();
    let all: Vec<Option<u64>> = by_row(&data).into_iter().map(|example| example.group).collect();
    assert!(all[..4].iter().all(|group| *group == all[0]) && all[4..].iter().all(|group| *group == all[4]));
    assert!(all[0].is_some() && all[0] != all[4]);
    told(
        &read(&task("group = \"questions\"\n").unwrap(), &train).unwrap_err(),
        "no column `questions`",
        "did you mean `question`",
    );
}
