//! Every task that comes with w2s, on hand-written rows with the columns and types of its data set, and the drafts of new tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    tests::{by_row, local, options, shipped},
    *,
};

/// Tasks that read the rows of another one's data set.
const SHARED: [(&str, &str); 9] = [
    ("arc-challenge", "arc"),
    ("arc-easy", "arc"),
    ("chess-move", "chess-mate"),
    ("hh-harmless-single", "hh-harmless"),
    ("hh-helpful", "hh-harmless"),
    ("hh-helpful-single", "hh-harmless"),
    ("scan-actions", "scan"),
    ("sciq-pooled", "sciq"),
    ("sciq_with_support", "sciq"),
];

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The task of classes that reads the same data set.
fn base(task: &str) -> &str {
    ["-steps-words", "-words", "-choose"].iter().find_map(|form| task.strip_suffix(form)).unwrap_or(task)
}

fn fixture(task: &str) -> PathBuf {
    let task = base(task);
    let name = SHARED.iter().find(|(name, _)| *name == task).map_or(task, |(_, name)| name);
    folder("tests/fixtures/tasks").join(format!("{name}.jsonl"))
}

/// The same rows for every split.
struct Fixture(PathBuf);

impl RowSource for Fixture {
    fn rows(&self, _: &str, limit: Option<usize>) -> Result<Rows> {
        super::rows::read_file(&self.0, "fixture.jsonl", limit)
    }
}

/// The tasks in `configs/tasks` that have data files.
fn names() -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder("configs/tasks")).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".toml") else { continue };
        if shipped(name).source.world.is_none() {
            names.push(name.to_owned());
        }
    }
    names.sort();
    names
}

/// The task, with few enough test rows for the few rows that there are.
fn small(name: &str) -> Task {
    let mut task = shipped(name);
    if let Some(n) = &mut task.splits.test_from_train {
        *n = 2;
    }
    // Of so few rows most may belong together.
    task.splits.together = None;
    // Splits would give the same rows again.
    if let Some(train) = &mut task.splits.train {
        *train = OneOrMany::One(train.as_slice()[0].clone());
    }
    task
}

#[test]
fn every_task_makes_examples_of_its_data_sets_rows() {
    for name in names() {
        let task = small(&name);
        assert!(!task.citation.is_empty() && !task.licence.is_empty() && task.about.is_some(), "{name}");
        for order in [Order::Openai, Order::Eleuther, Order::KPoints] {
            let data = task.read_from(&Fixture(fixture(&name)), &options(order, 0)).unwrap_or_else(|error| {
                panic!("{name} {order:?}: {error}");
            });
            let examples: Vec<&Example> = data.parts().into_iter().flat_map(|(_, part)| part).collect();
            if base(&name) != name {
                let form = if name.ends_with("-words") { "generate" } else { "choose" };
                assert_eq!(data.form.name(), form, "{name}");
                let texts = || examples.iter().flat_map(|example| example.texts().map(|(text, _)| text));
                assert!(texts().all(|text| !text.contains("{{") && !text.contains("{%")), "{name}");
                assert!(texts().all(|text| !text.ends_with(char::is_whitespace)), "{name}");
                assert!(data.counts.notes.iter().all(|note| !note.contains("no blank stands")), "{name}");
                continue;
            }
            let labels: BTreeSet<u8> = examples.iter().map(|example| example.label).collect();
            assert_eq!(labels.len(), data.classes(), "{name} {order:?}: not every class occurs");
            // Columns and self-labels ask a language model, which answers with one word for each class.
            let prompt = data.prompt.as_ref().unwrap_or_else(|| panic!("{name} has no prompt"));
            let words: BTreeSet<&String> = prompt.answers.iter().flatten().collect();
            assert_eq!(words.len(), data.classes(), "{name}: the prompt's answers");
            assert!(words.iter().all(|word| word.starts_with(' ')), "{name}: {words:?}");
            for example in examples {
                let prompt = example.prompt.as_ref().unwrap();
                assert!(!prompt.text.ends_with(char::is_whitespace), "{name}: {:?}", prompt.text);
                for text in [&example.text, &prompt.text] {
                    assert!(!text.contains("{{") && !text.contains("{%"), "{name}: {text}");
                }
            }
        }
    }
}

/// Expected values: the formatters of EleutherAI/w2s (`w2s/ds_registry.py` at a929af0) run by CPython on the same rows with
/// `random.Random(0)`.
#[test]
fn formats_are_the_references() {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/golden_task_formats.json"));
    let golden: BTreeMap<String, Vec<(String, u8)>> = serde_json::from_str(text).unwrap();
    assert_eq!(golden.len(), 25);
    for (name, expected) in golden {
        let mut task = small(&name);
        task.splits.test_from_train = None;
        task.splits.test = Some(OneOrMany::One("another".into()));
        let data = task.read_from(&Fixture(fixture(&name)), &options(Order::Openai, 0)).unwrap();
        let shown: Vec<(String, u8)> =
            by_row(&data).into_iter().map(|example| (example.text.clone(), example.label)).collect();
        if name != "openbookqa" {
            assert_eq!(shown, expected, "{name}");
            continue;
        }
        // The reference shows the right answer as a letter, the wrong one as a text.
        assert_eq!(shown.len(), expected.len());
        for ((text, label), (reference, known)) in shown.iter().zip(&expected) {
            assert_eq!(label, known);
            let (question, answer) = text.rsplit_once("Answer: ").unwrap();
            let (same, said) = reference.rsplit_once("Answer: ").unwrap();
            assert_eq!(question, same);
            let line = format!("{said}) {answer}\n");
            assert!(if *label == 1 { question.contains(&line) } else { answer == said }, "{text}\n{reference}");
        }
    }
}

/// The tasks of which no reference formats the rows; read by people, once.
#[test]
fn other_formats() {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/golden_task_formats.json"));
    let golden: BTreeMap<String, Value> = serde_json::from_str(text).unwrap();
    let mut shown = String::new();
    let same =
        |name: &str| SHARED.iter().any(|(other, _)| *other == name) && name != "chess-move" || base(name) != name;
    for name in names().into_iter().filter(|name| !golden.contains_key(name) && !same(name)) {
        let data = small(&name).read_from(&Fixture(fixture(&name)), &options(Order::Openai, 0)).unwrap();
        writeln!(shown, "==== {name}").unwrap();
        for (i, example) in by_row(&data).into_iter().enumerate() {
            let context = &example.text[example.context.clone()];
            let (class, text) = (&data.class_names[usize::from(example.label)], &example.text);
            writeln!(shown, "-- row {}: {class}; context {context:?}\n{text}", example.source_row).unwrap();
            if i == 0 {
                writeln!(shown, "-- as a prompt\n{}", example.prompt.as_ref().unwrap().text).unwrap();
            }
        }
    }
    insta::assert_snapshot!(shown);
}

/// Candidates, and what words follow; read by people, once.
#[test]
fn formats_of_other_forms() {
    let mut shown = String::new();
    let single = |name: &str| name.contains("-single-") || name.starts_with("hh-helpful");
    for name in names().into_iter().filter(|name| base(name) != name && !single(name)) {
        let data = small(&name).read_from(&Fixture(fixture(&name)), &options(Order::Openai, 0)).unwrap();
        writeln!(shown, "==== {name}").unwrap();
        let matcher = data.matcher().unwrap();
        for example in by_row(&data).into_iter().take(3) {
            writeln!(shown, "-- row {}: {}", example.source_row, example.label).unwrap();
            for (text, context) in example.texts() {
                writeln!(shown, "context {:?}\n{text}", &text[context.clone()]).unwrap();
            }
            if let (Some(matcher), Some(reference)) = (&matcher, &example.reference) {
                writeln!(shown, "-> {reference}\n= {}", matcher.reference(reference).text).unwrap();
            }
        }
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn pairs_that_are_not_comparable_are_left_out() {
    let data = shipped("hh-harmless").read_from(&Fixture(fixture("hh-harmless")), &options(Order::Openai, 0)).unwrap();
    assert_eq!(data.counts.pools["train"].dropped, BTreeMap::from([("filter".into(), 3)]));
    for example in by_row(&data) {
        let better = &["Put it", "The Elbe", "Spoon", "No, it", "What is brown", "Goethe"][example.source_row as usize];
        assert_eq!(example.label == 1, example.text.contains(&format!("A: {better}")), "{}", example.text);
    }
}

// ---- computed columns ----

#[test]
fn computed_columns_build_on_each_other_and_reach_everything() {
    let text = "name = \"sums\"\ntitle = \"T\"\nlicence = \"L\"\ncitation = \"C\"\nclasses = [\"no\", \"yes\"]\nfilter = \"all | length > 1\"\ntemplate = \"{{ all | join(', ') }}: {{ last }}\"\ncolumns = { listed = \"inner.list\" }\n[compute]\na-first = \"all[0]\"\nall = \"listed | map('int') | list\"\nlast = \"all[-1]\"\nlarge = \"last > 2\"\n[source]\npath = \"x\"\n[splits]\ntrain = \"train\"\ntest = \"test\"\n[label.column]\nname = \"large\"\n";
    let rows = |text: &str| -> Vec<Row> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    struct Rows1(Vec<Row>);
    impl RowSource for Rows1 {
        fn rows(&self, _: &str, _: Option<usize>) -> Result<Rows> {
            Ok(Rows::generated(self.0.clone()))
        }
    }
    let source = Rows1(rows(
        "{\"inner\": {\"list\": [\"1\", \"2\"]}}\n{\"inner\": {\"list\": [\"3\"]}}\n{\"inner\": {\"list\": [\"1\", \"4\"]}}",
    ));
    let task = Task::parse(text, Path::new("sums.toml")).unwrap();
    let data = task.read_from(&source, &DataOptions::default()).unwrap();
    let shown: Vec<(&str, u8)> =
        by_row(&data).into_iter().map(|example| (example.text.as_str(), example.label)).collect();
    assert_eq!(shown, [("1, 2: 2", 0), ("1, 4: 4", 1)]);

    let cases = [
        ("last = \"all[-1]\"", "last = \"large\"", "`large` is computed from itself"),
        ("last = \"all[-1]\"", "last = \"all[\"", "not an expression"),
        ("last = \"all[-1]\"", "last = \"all | lst\"", "not an expression: filter lst is unknown"),
        ("last = \"all[-1]\"", "last = \"al\"", "the data has no column `al`"),
        ("last = \"all[-1]\"", "last = \"all[-1]\"\ninner = \"1\"", "the data already have a column `inner`"),
        ("map('int')", "map('upper') | map('int')", "computing `all` fails"),
        ("last = \"all[-1]\"", "last = \"{'a': 1}\"", "the result is no text, number or list"),
    ];
    let bad = Rows1(rows("{\"inner\": {\"list\": [\"x\"]}}"));
    for (from, to, expected) in cases {
        let text = text.replace(from, to);
        let result = Task::parse(&text, Path::new("sums.toml")).and_then(|task| {
            let source = if expected.contains("fails") { &bad } else { &source };
            task.read_from(source, &DataOptions::default())
        });
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
}

// ---- drafts ----

fn drafted(file: &Path, text: Option<&str>, label: Option<&str>) -> Result<(String, TaskData)> {
    drafted_as(DraftForm::Classify, file, text, label)
}

fn drafted_as(form: DraftForm, file: &Path, text: Option<&str>, label: Option<&str>) -> Result<(String, TaskData)> {
    let path = file.to_string_lossy();
    let text = draft(file, &DraftOptions { name: "new", path: &path, text, label, form })?;
    let task = Task::parse(&text, Path::new("new.toml")).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let data = task.read(&local(&[]), &DataOptions::default()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    Ok((text, data))
}

/// What is guessed of data sets that people describe like this in `configs/tasks`.
#[test]
fn drafts_guess_what_people_say() {
    let column = "[label.column]\nname = \"label\"\n";
    let listed = "[label.coin]\nchoices = \"choices.text\"\nanswer = \"answerKey\"\nkeys = \"choices.label\"\n";
    let cases = [
        ("amazon_polarity", column),
        ("anli-r2", column),
        ("anthropic_hh", "correct = \"chosen\"\nwrong = \"rejected\"\nshuffle = true"),
        ("arc", listed),
        ("boolq", "[label.column]\nname = \"answer\"\n"),
        ("cola", column),
        ("commonsense_qa", listed),
        ("cosmos_qa", "choices = [\"answer0\", \"answer1\", \"answer2\", \"answer3\"]\nanswer = \"label\"\n"),
        ("creak", column),
        ("dream", "choices = \"choice\"\ncorrect = \"answer\"\n"),
        ("ecqa", "choices = [\"q_op1\", \"q_op2\", \"q_op3\", \"q_op4\", \"q_op5\"]\ncorrect = \"q_ans\"\n"),
        ("esnli", column),
        ("ethics-virtue", column),
        ("hellaswag", "choices = \"endings\"\nanswer = \"label\"\n"),
        ("mc_taco", column),
        ("multirc", column),
        ("openbookqa", listed),
        ("paws", column),
        ("piqa", "choices = [\"sol1\", \"sol2\"]\nanswer = \"label\"\n"),
        ("quail", "choices = \"answers\"\nanswer = \"correct_answer_id\"\n"),
        ("quartz", listed),
        ("rte", column),
        ("sciq", "correct = \"correct_answer\"\nwrong = [\"distractor3\", \"distractor1\", \"distractor2\"]\n"),
        (
            "social_i_qa",
            "choices = [\"answerA\", \"answerB\", \"answerC\"]\nanswer = \"label\"\nkeys = [\"1\", \"2\", \"3\"]\n",
        ),
        ("sst2", column),
        ("wic", column),
        ("winogrande", "choices = [\"option1\", \"option2\"]\nanswer = \"answer\"\nkeys = [\"1\", \"2\"]\n"),
    ];
    for (name, expected) in cases {
        let (text, data) = drafted(&fixture(name), None, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.contains(expected), "{name}:\n{text}");
        assert_eq!(data.classes(), if ["anli-r2", "esnli"].contains(&name) { 3 } else { 2 }, "{name}");
        assert!(data.prompt.is_some_and(|prompt| prompt.answers.len() == data.class_names.len()), "{name}");
        // What the label is made of is not shown beside it.
        assert!(
            !text.contains("{{ label") && !text.contains("{{ answerKey") && !text.contains("{{ explanation"),
            "{text}"
        );
    }
    for name in ["chess-mate", "ethics-utilitarianism", "gsm8k", "scan"] {
        let error = drafted(&fixture(name), None, None).unwrap_err();
        assert_eq!(error.message(), "no column looks like a label", "{name}");
        assert!(error.remedy().unwrap().contains("--label COLUMN"), "{error}");
    }
}

#[test]
fn drafts_of_other_forms_run() {
    use DraftForm::{Choose, Generate};
    let cases = [
        (Choose, "anthropic_hh", None, "[label.choose]\ncorrect = \"chosen\"\nwrong = \"rejected\"\n"),
        (Choose, "ecqa", None, "[label.choose]\nchoices = [\"q_op1\", \"q_op2\", \"q_op3\", \"q_op4\", \"q_op5\"]\n"),
        (Choose, "arc", None, "keys = \"choices.label\"\n"),
        (Generate, "gsm8k", None, "extract = { after = \"####\" }\nrules = [\"strip-commas\", \"number\"]\n"),
        (Generate, "scan", Some("actions"), "reference = \" {{ actions }}\"\n"),
        (Generate, "sciq", None, "reference = \" {{ correct_answer }}\"\nmax_new_tokens = 256\nstop = [\"\\n\"]\n"),
    ];
    for (form, name, label, expected) in cases {
        let (text, data) =
            drafted_as(form, &fixture(name), None, label).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(
            text.contains(expected) && !text.contains("classes =") && !text.contains("[prompt]"),
            "{name}:\n{text}"
        );
        assert_eq!(data.form.name(), if form == Choose { "choose" } else { "generate" }, "{name}");
    }
    let refused = [
        (Choose, "sst2", None, "nothing looks like answers to choose among"),
        (Choose, "ecqa", Some("q_ans"), "the candidates of a choice are guessed"),
        (Generate, "sst2", None, "no column looks like what a model should write"),
    ];
    for (form, name, label, expected) in refused {
        let error = drafted_as(form, &fixture(name), None, label).unwrap_err();
        assert!(error.message().contains(expected) && error.remedy().is_some(), "{error}");
    }
}

#[test]
fn drafts_of_awkward_files_run() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = root.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    // Column names that no template can use, levels that are not 0, 1, …, texts that are missing, and quotes.
    let csv = "Ticket {Text},number,How urgent\n\"it \"\"burns\"\"\nhere\",n1,3\nall fine here,n2,1\n,n3,2\nstill ''' fine,n4,1\nwhat is it,n5,2\nhelp me now,n6,3\n";
    let (text, data) = drafted(&write("a.csv", csv), None, Some("How urgent")).unwrap();
    assert_eq!(data.class_names, ["1", "2", "3"]);
    assert!(text.contains("ticket__text_ = \"Ticket {Text}\"") && text.contains("values = { \"1\" = \"1\""), "{text}");
    // Rows without a label are left out.
    let jsonl = "{\"t\": \"one two\", \"y\": -1}\n{\"t\": \"three four\", \"y\": 0}\n{\"t\": \"five six\", \"y\": 1}\n{\"t\": \"seven\", \"y\": 1}\n{\"t\": \"eight nine\", \"y\": 0}\n{\"t\": \"ten eleven\", \"y\": 0}\n";
    let (text, data) = drafted(&write("b.jsonl", jsonl), None, None).unwrap();
    assert!(text.contains("filter = \"y != -1\""), "{text}");
    assert_eq!(data.counts.pools["train"].read, 5);
    let (text, _) =
        drafted(&write("c.csv", "t,verdict\na b,yes\nc d,\ne f,no\ng h,no\ni j,yes\nk l,no\n"), None, None).unwrap();
    assert!(text.contains("classes = [\"no\", \"yes\"]") && text.contains("verdict is defined"), "{text}");
    let (_, data) =
        drafted(&write("d.csv", "t,mood\na b,positive\nc d,bad\ne f,bad\ng h,positive\n"), None, None).unwrap();
    assert_eq!(data.class_names, ["bad", "positive"]);
    let csv = "t,u,label\na b,c,0\nd e,f,1\ng h,i,0\nj k,l,1\n";
    let (text, _) = drafted(&write("e.csv", csv), Some("u"), None).unwrap();
    assert!(text.contains("'''\n{{ u | context }}'''"), "{text}");

    let path = write("f.csv", csv);
    let cases = [
        (Some("v"), None, "--text: the data have no column `v`"),
        (None, Some("labl"), "--label: the data have no column `labl`"),
        (None, Some("t"), ""),
    ];
    for (text, label, expected) in cases {
        match drafted(&path, text, label) {
            Err(error) => assert!(error.message().contains(expected) && error.remedy().is_some(), "{error}"),
            Ok((text, _)) => assert!(expected.is_empty() && text.contains("name = \"t\""), "{text}"),
        }
    }
    for (text, expected) in [
        ("t,label\na,1\n", "the file has 1 rows"),
        ("t,label\na,1\nb,1\nc,1\n", "no column looks like a label"),
        ("", "the file has 0 rows"),
    ] {
        let error = drafted(&write("g.csv", text), None, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = drafted(&write("h.csv", "t,label\na,1\nb,1\nc,1\n"), None, Some("label")).unwrap_err().to_string();
    assert!(error.contains("the same value in every row"), "{error}");
}
