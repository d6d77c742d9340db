//! What a label's value says, which answers are shown, which rows are left out, and what a template may compute.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};

use super::{
    tests::{by_row, local, memory, options, task},
    *,
};
use crate::Error;

/// Rows of the label given, of which the first 20 or so are looked at.
fn rows(n: usize, label: impl Fn(usize) -> Value) -> Value {
    (0..n).map(|i| json!({"text": format!("t{i}"), "label": label(i)})).collect()
}

fn read(task: &Task, rows: &Value, options: &DataOptions) -> Result<TaskData> {
    task.read_from(&memory([("train", rows.clone()), ("test", rows.clone())]), options)
}

/// The class of the second of two kinds of rows, by its name, or why there is none.
fn second(parts: &str, values: [Value; 2]) -> Result<String, Error> {
    let rows = rows(40, |i| values[i % 2].clone());
    let data = read(&task(parts).unwrap(), &rows, &DataOptions::default())?;
    let second = by_row(&data).into_iter().find(|example| example.source_row == 1).unwrap();
    Ok(data.class_names[usize::from(second.label)].clone())
}

#[test]
fn a_label_has_one_reading_whatever_the_format_of_the_file() {
    let no_yes = "";
    let stars = "classes = [\"1\", \"2\", \"3\"]\n";
    let turned = "classes = [\"1\", \"0\"]\n";
    let truths = "classes = [\"true\", \"false\"]\n";
    let values = "[label.column]\nname = \"label\"\nvalues = { \"1\" = \"no\", \"2\" = \"yes\" }\n";
    let equals = "[label.equals]\nname = \"label\"\nvalue = 2\n";
    // Classes, a value of the first row, the ways in which files have the second row's, and its class.
    let cases: Vec<(&str, Value, Vec<Value>, &str)> = vec![
        (no_yes, json!(0), vec![json!(1), json!(1.0), json!("1"), json!("1.0"), json!(" 1"), json!("yes")], "yes"),
        (no_yes, json!(false), vec![json!(true), json!("true"), json!("True"), json!("TRUE")], "yes"),
        (turned, json!(0), vec![json!(1), json!(1.0), json!("1"), json!("1.0")], "1"),
        (stars, json!(1), vec![json!(2), json!(2.0), json!("2"), json!("2.0")], "2"),
        (truths, json!(false), vec![json!(true), json!("true"), json!("True")], "true"),
        (values, json!(1), vec![json!(2), json!(2.0), json!("2"), json!("2.0")], "yes"),
        (equals, json!(1), vec![json!(2), json!(2.0), json!("2"), json!("2.00")], "yes"),
        ("classes = [\"-1\", \"1\"]\n", json!(-1), vec![json!(1), json!("1"), json!("+1")], "1"),
        ("classes = [\"0\", \"1\", \"more\"]\n", json!(0), vec![json!(2), json!("2.0")], "more"),
        ("classes = [\"01\", \"02\"]\n", json!("01"), vec![json!("02"), json!(2)], "02"),
    ];
    for (parts, first, ways, expected) in cases {
        for way in ways {
            let class = second(parts, [first.clone(), way.clone()]);
            assert_eq!(class.unwrap_or_else(|error| panic!("{parts} {way:?}: {error}")), expected, "{parts} {way:?}");
        }
    }
}

#[test]
fn a_number_whose_class_has_another_numbers_name_is_refused() {
    let cases: [(&str, [Value; 2], &str, &str); 11] = [
        ("classes = [\"1\", \"2\", \"3\"]\n", [json!(1), json!(0)], "the class `1`, but the names", "\"3\" = \"3\""),
        ("classes = [\"1 star\", \"2 stars\"]\n", [json!(0), json!(1)], "the class `1 star`", "\"1\" = \"1 star\""),
        ("classes = [\"one\", \"two\", \"three\"]\n", [json!(1), json!("1")], "the class `two`", "\"1\" = \"one\""),
        (
            "classes = [\"level 1\", \"level 2\"]\n",
            [json!(1), json!(1.0)],
            "the class `level 2`",
            "\"1\" = \"level 1\"",
        ),
        ("classes = [\"true\", \"false\"]\n", [json!(0), json!(1)], "the class `true`", "values = {"),
        ("classes = [\"yes\", \"no\"]\n", [json!(false), json!(true)], "the class `yes`", "\"true\" = \"yes\""),
        ("classes = [\"a\", \"b\", \"c\"]\n", [json!(false), json!("True")], "says nothing of 3 classes", "values = {"),
        ("classes = [\"a\", \"b\", \"c\"]\n", [json!(1), json!(3)], "names no class", "count from 1"),
        ("", [json!("ja"), json!("nein")], "`ja`, which names no class", "values"),
        ("", [json!(0.5), json!(1.5)], "which names no class", "values"),
        ("", [json!("nan"), json!("inf")], "which names no class", "values"),
    ];
    for (parts, values, message, remedy) in cases {
        let error = second(parts, values.clone()).unwrap_err();
        let said = error.message().contains(message) && error.remedy().unwrap_or_default().contains(remedy);
        assert!(said, "{parts} {values:?}: {error}");
    }
    let twice = task("[label.column]\nname = \"label\"\nvalues = { \"1\" = \"no\", \"1.0\" = \"yes\" }\n").unwrap_err();
    assert!(twice.message().contains("are one value"), "{twice}");
}

#[test]
fn a_class_that_never_occurs_is_noted() {
    let three = task("classes = [\"bad\", \"fair\", \"good\"]\n").unwrap();
    let data = read(&three, &rows(40, |i| json!(1 + i % 2)), &DataOptions::default()).unwrap();
    let note = "no example for training has the class `bad`, number 0: do the labels count from 1?";
    assert_eq!(data.counts.notes, [note]);
}

// ---- answers ----

/// Label and answer of each row, in the order of the rows.
fn shown(data: &TaskData) -> Vec<(u8, &str)> {
    by_row(data).into_iter().map(|example| (example.label, example.text.as_str())).collect()
}

fn unbalanced(order: Order) -> DataOptions {
    DataOptions { balance: Some(Balance::None), ..options(order, 0) }
}

/// Expected values: the draws of EleutherAI/w2s (its formats of hellaswag and sciq) by CPython's `random.Random(0)`, on rows in the order of
/// NumPy's `default_rng(0)`. Where the original shows the right answer as a wrong one, the next is shown.
#[test]
fn with_doubled_choices_the_draws_are_the_originals() {
    let choices = |i: usize| if i.is_multiple_of(3) { json!(["r", "r", "w"]) } else { json!(["r", "a", "b", "c"]) };
    let key = |i: usize| usize::from(i.is_multiple_of(3) && i.is_multiple_of(2));
    let doubled: Value = (0..12).map(|i| json!({"choices": choices(i), "label": key(i)})).collect();
    let coin = "template = \"{{ answer }}\"\n[label.coin]\nchoices = \"choices\"\nanswer = \"label\"\n";
    let data = read(&task(coin).unwrap(), &doubled, &unbalanced(Order::Eleuther)).unwrap();
    let mut expected = [
        (0, "r"),
        (0, "c"),
        (1, "r"),
        (0, "w"),
        (1, "r"),
        (0, "b"),
        (1, "r"),
        (0, "b"),
        (0, "c"),
        (0, "w"),
        (1, "r"),
        (0, "b"),
    ];
    expected[0] = (0, "w");
    assert_eq!(shown(&data), expected);

    // The format of CosmosQA draws from what reads differently, also where that is one of several.
    let by_text: Value = (0..10)
        .map(|i| json!({"choices": if i % 2 == 1 { ["r", "r", "w"] } else { ["r", "a", "b"] }, "label": 0}))
        .collect();
    let expected = [(0, "b"), (1, "r"), (0, "b"), (1, "r"), (0, "b"), (0, "w"), (0, "a"), (0, "w"), (1, "r"), (1, "r")];
    let data = read(&task(coin).unwrap(), &by_text, &options(Order::Openai, 0)).unwrap();
    assert_eq!(shown(&data), expected);

    let wrong: Value =
        (0..10).map(|i| json!({"c": "C", "w": [if i % 4 == 0 { "C" } else { "x" }, "y", "z"]})).collect();
    let rule = task("template = \"{{ answer }}\"\n[label.coin]\ncorrect = \"c\"\nwrong = \"w\"\n").unwrap();
    let expected = [(0, "y"), (1, "C"), (0, "y"), (1, "C"), (0, "y"), (0, "y"), (0, "x"), (0, "y"), (1, "C"), (1, "C")];
    assert_eq!(shown(&read(&rule, &wrong, &options(Order::Openai, 0)).unwrap()), expected);
}

#[test]
fn the_right_answer_is_never_shown_as_a_wrong_one() {
    let row = |i: usize| {
        let wrong = if i.is_multiple_of(2) { "right" } else { "wrong" };
        json!({"q": i, "c": "right", "w": [wrong, "other"], "all": ["other", "right", wrong], "key": "b", "none": null})
    };
    let rows: Value = (0..60).map(row).collect();
    for rule in [
        "correct = \"c\"\nwrong = \"w\"\n",
        "correct = \"c\"\nwrong = [\"w\", \"none\"]\nshuffle = true\n",
        "choices = \"all\"\ncorrect = \"c\"\n",
        "choices = [\"all\", \"none\"]\nanswer = \"key\"\nkeys = [\"a\", \"b\", \"c\", \"d\"]\n",
        "choices = \"all\"\nanswer = \"key\"\nkeys = [\"a\", \"b\", \"c\"]\ndraw = \"place\"\n",
    ] {
        let task = task(&format!("template = \"{{{{ q }}}}: {{{{ answer }}}}\"\n[label.coin]\n{rule}")).unwrap();
        for (order, seed) in [(Order::Openai, 0), (Order::Eleuther, 1), (Order::KPoints, 2), (Order::Openai, 3)] {
            let data = read(&task, &rows, &options(order, seed)).unwrap();
            for example in data.parts().into_iter().flat_map(|(_, part)| part) {
                assert_eq!(example.text.ends_with(": right"), example.label == 1, "{rule}{order:?}: {}", example.text);
            }
        }
    }
}

/// Of a large table few examples are made; they are the first of those that all rows give, whatever odd rows there are between.
#[test]
fn the_few_that_are_chosen_are_those_of_all() {
    let row = |i: usize| {
        let text = match i % 97 {
            0 => Value::Null,
            1 => json!(""),
            2 => json!("\u{fdd0} é"),
            n => json!(format!("text {n} é")),
        };
        let label = if i.is_multiple_of(89) { json!("maybe") } else { json!(usize::from(i.is_multiple_of(3))) };
        let wrong = if i.is_multiple_of(83) { json!(["right"]) } else { json!(["a", "right", "b"]) };
        json!({"text": text, "label": label, "n": i, "c": "right", "w": wrong, "all": ["x", "right", "y"]})
    };
    let rows: Value = (0..5000).map(row).collect();
    let coin = "[label.coin]\ncorrect = \"c\"\nwrong = \"w\"\nshuffle = true\n";
    for parts in [
        "".to_owned(),
        "template = \"{{ n }} {{ text }}\"\ngroup = \"text\"\n".into(),
        "template = \"{{ text | upper | context }}\"\n".into(),
        "template = \"{{ 'odd' if n is odd else text }}\"\nfilter = \"n % 7\"\n".into(),
        "template = \"{{ twice | context }}{{ text }}\"\n[compute]\ntwice = \"text ~ text\"\n".into(),
        format!("template = \"{{{{ text | context }}}} {{{{ answer }}}}\"\n{coin}"),
        format!("template = \"{{{{ number }}}} of {{{{ choices | join }}}}: {{{{ answer }}}}\"\n{coin}"),
        "template = \"{{ text }} {{ answer }}\"\n[label.coin]\nchoices = \"all\"\ncorrect = \"c\"\ndraw = \"text\"\n"
            .into(),
        "classes = []\ntemplate = \"{{ text }} {{ answer }}\"\n[label.choose]\nchoices = \"all\"\ncorrect = \"c\"\nshuffle = true\n"
            .into(),
    ] {
        let task = task(&parts).unwrap_or_else(|error| panic!("{parts}: {error}"));
        let all = read(&task, &rows, &options(Order::Eleuther, 3)).unwrap();
        let asked = DataOptions { n_test: Some(60), ..options(Order::Eleuther, 3) };
        let few = read(&task, &rows, &asked).unwrap();
        assert!(all.test.len() > 2000, "{parts}");
        assert_eq!(few.test, all.test[..60], "{parts}");
        assert_eq!(few.counts.notes, all.counts.notes, "{parts}");
        let mut dropped = few.counts.pools["test"].dropped.clone();
        assert_eq!(dropped.remove("not asked for"), Some(all.test.len() - 60), "{parts}");
        assert_eq!(dropped, all.counts.pools["test"].dropped, "{parts}");
    }
}

// ---- rows that are odd ----

/// The tasks of three kinds of rules, and a row of each.
fn rules() -> [(&'static str, Value); 3] {
    let coin = "template = \"{{ text }} {{ answer }}\"\n[label.coin]\n";
    let choices: &'static str = Box::leak(format!("{coin}choices = \"all\"\nanswer = \"label\"\n").into());
    let wrong: &'static str = Box::leak(format!("{coin}correct = \"c\"\nwrong = \"w\"\n").into());
    [
        ("", json!({"text": "t", "label": 1})),
        (choices, json!({"text": "t", "all": ["x", "y"], "label": 1})),
        (wrong, json!({"text": "t", "c": "x", "w": "y"})),
    ]
}

#[test]
fn a_few_odd_rows_are_left_out_counted_and_said() {
    let cases: [(usize, Value, &str, &str); 12] = [
        (0, json!({"label": null}), "no label", "column `label` has no value"),
        (0, json!({"label": ""}), "no label", "column `label` has no value"),
        (0, json!({"label": -1}), "unknown label", "`-1`, which names no class"),
        (0, json!({"label": [0]}), "unknown label", "holds a list, not one value"),
        (0, json!({"text": null}), "no value", "no value in `text`"),
        (0, json!({"text": ["a"]}), "no text", "a list or table is no text"),
        (1, json!({"label": null}), "no value", "column `label` has no value"),
        (1, json!({"label": 2}), "unknown answer", "`2`, which is none of the 2 choices"),
        (1, json!({"all": ["x", null]}), "unknown answer", "`1`, which is none of the 2 choices"),
        (1, json!({"all": ["x", "x"]}), "no wrong answer", "no answer differs from the correct one"),
        (2, json!({"w": "x"}), "no wrong answer", "no answer differs from the correct one"),
        (2, json!({"c": " "}), "no value", "column `c` has no value"),
    ];
    for (rule, change, reason, message) in cases {
        let (parts, fine) = &rules()[rule];
        let row = |i: usize| {
            let mut row = fine.clone();
            if fine.get("label").is_some() {
                row["label"] = json!(i % 2);
            }
            if i == 7 {
                change.as_object().unwrap().iter().for_each(|(key, value)| row[key] = value.clone());
            }
            row
        };
        let rows: Value = (0..40).map(row).collect();
        for order in [Order::Openai, Order::Eleuther, Order::KPoints] {
            let data = read(&task(parts).unwrap(), &rows, &unbalanced(order)).unwrap_or_else(|error| {
                panic!("{change} {order:?}: {error}");
            });
            let pool = &data.counts.pools["train"];
            let dropped = BTreeMap::from([(reason.to_owned(), 1)]);
            assert_eq!((pool.read, &pool.dropped), (40, &dropped), "{change} {order:?}");
            let note = &data.counts.notes[0];
            let said = note.starts_with("1 row is left out of the 40 for `train`") && note.contains(message);
            assert!(said && note.contains("strict = true"), "{note}");
            assert!(by_row(&data).iter().all(|example| example.source_row != 7), "{change}");
        }
        let strict = task(&format!("strict = true\n{parts}")).unwrap();
        let error = read(&strict, &rows, &DataOptions::default()).unwrap_err();
        assert!(error.message().contains("row 7") && error.message().contains(message), "{change}: {error}");
        assert!(error.remedy().is_some(), "{error}");
    }
}

#[test]
fn many_odd_rows_are_a_pattern_and_refused() {
    let hidden = rows(60, |i| if i < 30 { json!(-1) } else { json!(i % 2) });
    let error = read(&task("").unwrap(), &hidden, &DataOptions::default()).unwrap_err();
    let message =
        "30 of 60 rows for `train` make no example, all for this reason: row 0, counted from 0: column `label` is `-1`";
    assert!(error.message().contains(message), "{error}");
    assert!(error.remedy().unwrap().contains("filter = \"label != -1\""), "{error}");
    // The same for a coin, and for a test split alone.
    let (parts, _) = rules()[1];
    let labelled = |label: i32| -> Value {
        (0..40)
            .map(|i| json!({"text": "t", "all": ["x", "y"], "label": if label < 0 { label } else { i % 2 }}))
            .collect()
    };
    let source = memory([("train", labelled(0)), ("test", labelled(-1))]);
    let error = task(parts).unwrap().read_from(&source, &DataOptions::default()).unwrap_err();
    assert!(error.message().contains("40 of 40 rows for `test`"), "{error}");
    let remedy = error.remedy().unwrap();
    assert!(remedy.contains("filter = \"label != -1\"") && remedy.contains("labels are not hidden"), "{error}");
    // Several reasons: the most frequent one is named.
    let mixed = rows(60, |i| [json!(null), json!("maybe"), json!("maybe"), json!(1)][i % 4].clone());
    let error = read(&task("").unwrap(), &mixed, &DataOptions::default()).unwrap_err();
    assert!(error.message().contains("45 of 60 rows for `train` make no example, 30 for this reason"), "{error}");
    assert!(error.message().contains("row 1, counted from 0: column `label` is `maybe`"), "{error}");
}

#[test]
fn an_option_that_is_not_there_is_none() {
    let row = |i: usize| {
        let fifth = if i.is_multiple_of(5) { json!("e") } else { [json!(null), json!("")][i % 2].clone() };
        json!({"text": i, "label": (["A", "B", "C", "D"][i % 4]), "a": "a", "b": "b", "c": "c", "d": "d", "e": fifth,
               "all": ["a", "b", "c", "d", fifth]})
    };
    let rows: Value = (0..80).map(row).collect();
    for choices in ["[\"a\", \"b\", \"c\", \"d\", \"e\"]", "\"all\""] {
        let rule = format!("choices = {choices}\nkeys = [\"A\", \"B\", \"C\", \"D\", \"E\"]\nanswer = \"label\"\n");
        let task = task(&format!("template = \"{{{{ text }}}}:{{{{ answer }}}}\"\n[label.coin]\n{rule}")).unwrap();
        let data = read(&task, &rows, &DataOptions::default()).unwrap();
        assert_eq!(data.counts.pools["train"].left, 80);
        for example in by_row(&data) {
            let (row, answer) = example.text.split_once(':').unwrap();
            let row: usize = row.parse().unwrap();
            assert!(!answer.is_empty() && (answer != "e" || row.is_multiple_of(5)), "{}", example.text);
            assert_eq!(answer == ["a", "b", "c", "d"][row % 4], example.label == 1, "{}", example.text);
        }
    }
}

/// A column that cannot be computed, or a filter that fails, on one row.
#[test]
fn one_row_that_cannot_be_computed_is_left_out() {
    let parts =
        "filter = \"n > 0\"\ntemplate = \"{{ text }}\"\n[compute]\nn = \"label | int + 1\"\nlong = \"text | length\"\n";
    let rows = rows(50, |i| if i == 3 { json!(null) } else { json!(i % 2) });
    let data = read(&task(parts).unwrap(), &rows, &DataOptions::default()).unwrap();
    assert_eq!(data.counts.pools["train"].dropped, BTreeMap::from([("no value".into(), 1)]));
    assert_eq!(data.counts.pools["train"].read, 50);
}

// ---- what a template may compute ----

#[test]
fn a_template_that_computes_too_much_is_refused() {
    let doubling = "{% set ns = namespace(s=text) %}{% for i in range(60) %}{% set ns.s = STEP %}{% endfor %}";
    let of = |step: &str, end: &str| format!("{}{end}", doubling.replace("STEP", step));
    let templates = [
        of("ns.s ~ ns.s", "{{ ns.s | length }}"),
        of("ns.s + ns.s", "{{ ns.s }}"),
        of("ns.s * 2", "{{ ns.s | length }}"),
        of("[ns.s, ns.s] | join", "{{ ns.s | length }}"),
        of("ns.s | replace('', ns.s)", "{{ ns.s | length }}"),
        of("(ns.s ~ '\\\\') | string | replace('\\\\', '\\\\\\\\')", "{{ ns.s ~ ns.s ~ 1 }}").replace("range(60)", "range(100000)"),
        of("'%s%s' | replace('%s', ns.s)", "{{ ns.s | length }}"),
        of("(ns.s | list) + (ns.s | list)", "{{ ns.s | length }}"),
        of("ns.s | list | map('replace', '', ns.s) | join", "{{ ns.s | length }}"),
        of("(ns.s ~ ns.s)[0:]", "{{ ns.s[-1:] }}"),
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | length }}".into(),
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s * 9 %}{% endfor %}{{ ns.s | length }}".into(),
        "{% macro twice(t, n) %}{% if n > 0 %}{{ twice(t ~ t, n - 1) }}{% else %}{{ t }}{% endif %}{% endmacro %}{{ twice(text, 40) }}".into(),
        "{% macro m(n) %}{% if n > 0 %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{{ text }}{% endmacro %}{{ m(30) }}".into(),
        "{% set s %}{% for i in range(100000) %}0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789{% endfor %}{% endset %}{{ s | length }}".into(),
        "{% set s = 'x' * 90000000 %}{{ s | length }}".into(),
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".into(),
        "{{ text }}{{ range(100000) | list | sort | unique | list | length }}".into(),
        "{% set big = 'x' * 4000000 %}{% for i in range(100000) %}{% if big == big ~ 'x' %}1{% endif %}{% endfor %}".into(),
        "{% set big = 'x' * 4000000 %}{% for i in range(100000) %}{% if 'y' in big %}1{% endif %}{% endfor %}".into(),
        "{% set big = 'x' * 4000000 %}{% for i in range(100000) %}{% set s = big[-1:] %}{% endfor %}".into(),
        "{{ range(90000) | map('string') | sum(start='') | length }}{{ range(90000) | map('upper') | join(text * 1000) }}".into(),
    ];
    let rows = rows(30, |i| json!(i % 2));
    for template in templates {
        for parts in [
            format!("template = {template:?}\n"),
            format!("template = \"{{{{ text }}}}\"\n[prompt]\ntemplate = {template:?}\n"),
        ] {
            let error = read(&task(&parts).unwrap(), &rows, &DataOptions::default()).unwrap_err();
            let place = if parts.contains("[prompt]") { "the prompt" } else { "the template" };
            assert!(error.message().contains(&format!("{place} has too much to do")), "{template}: {error}");
            assert!(error.message().contains("row ") && error.remedy().is_some(), "{template}: {error}");
        }
    }
    let computed = "[compute]\nlong = \"range(100000) | list | sort | unique | list | length\"\n";
    let error = read(&task(computed).unwrap(), &rows, &DataOptions::default()).unwrap_err();
    assert!(error.message().contains("computing `long` has too much to do"), "{error}");
    let filter = "filter = \"range(100000) | list | sort | unique | list | length > 1\"\n";
    let error = read(&task(filter).unwrap(), &rows, &DataOptions::default()).unwrap_err();
    assert!(error.message().contains("the filter has too much to do"), "{error}");
}

/// Nesting, which is dropped by recursion, and other templates, which are not there.
#[test]
fn a_template_cannot_nest_without_end_or_reach_others() {
    let rows = rows(30, |i| json!(i % 2));
    let nested = |step: &str| {
        format!(
            "{{% set ns = namespace(s=[1]) %}}{{% for i in range(9000) %}}{{% set ns.s = {step} %}}{{% endfor %}}{{{{ ns.s | length }}}}"
        )
    };
    for step in ["[ns.s]", "{'a': ns.s}", "(ns.s, 1)", "namespace(s=ns.s)", "dict(a=ns.s)", "ns"] {
        let parts = format!("template = {:?}\n", nested(step));
        let error = read(&task(&parts).unwrap(), &rows, &DataOptions::default()).unwrap_err();
        assert!(error.message().contains("nested more than 64 deep"), "{step}: {error}");
    }
    // What is only promised is worked out on the way.
    let parts = format!("template = {:?}\n", nested("ns.s[0:]").replace("9000", "900"));
    assert_eq!(read(&task(&parts).unwrap(), &rows, &DataOptions::default()).unwrap().test[0].text, "1");
    for template in ["{% include 'prompt' %}", "{% extends 'prompt' %}", "{% block a %}{% endblock %}"] {
        let error = task(&format!("template = {template:?}\n")).unwrap_err();
        assert!(error.message().contains("not a template"), "{template}: {error}");
    }
}

#[test]
fn what_templates_are_for_is_not_refused() {
    // A long row, many rows, and every construct that pays.
    let template = "{% set parts = text | split(' ') %}{% for part in parts %}{% if part != 'x' and part not in ['z'] %}{{ loop.index }}{{ part ~ '-' }}{% endif %}{% endfor %}\
                    {% macro quoted(t) %}<{{ t }}>{% endmacro %}{{ quoted(parts[1:3] | join(', ')) }}{{ parts[-1] * 2 }}{{ [1, 2] | sum + 1 }}{{ text[:2] | upper }}";
    let long = "ab cd ".repeat(20_000) + "x";
    let rows: Value = (0..400)
        .map(|i| json!({"text": if i == 5 { long.clone() } else { "ab cd x".to_owned() }, "label": i % 2}))
        .collect();
    let data = read(&task(&format!("template = {template:?}\n")).unwrap(), &rows, &DataOptions::default()).unwrap();
    let examples = by_row(&data);
    assert_eq!(examples[0].text, "1ab-2cd-<cd, x>xx4AB");
    assert!(examples[5].text.len() > long.len());
}

// ---- what is shown ----

#[test]
fn nothing_that_a_terminal_obeys_is_shown() {
    for key in ["title", "licence", "citation"] {
        let text = format!("{key} = \"a\\u001b[2Jb\"");
        let text = "name = \"n\"\ntitle = \"T\"\nlicence = \"L\"\ncitation = \"C\"\nclasses = [\"a\", \"b\"]\ntemplate = \"{{ t }}\"\n[source]\npath = \"x\"\n[splits]\ntrain = \"train\"\ntest = \"test\"\n[label.column]\nname = \"l\"\n"
            .lines()
            .map(|line| if line.starts_with(key) { text.as_str() } else { line })
            .collect::<Vec<_>>()
            .join("\n");
        let error = Task::parse(&text, Path::new("n.toml")).unwrap_err();
        assert!(
            error.message().contains("cannot be shown in a table") && !error.to_string().contains('\u{1b}'),
            "{error}"
        );
    }
    let error = second("", [json!(0), json!("\u{1b}[31mred\u{202e}")]).unwrap_err();
    assert!(error.message().contains("\\u{1b}[31mred\\u{202e}") && !error.to_string().contains('\u{1b}'), "{error}");
}

// ---- drafts ----

fn drafted(file: &Path) -> (String, TaskData) {
    let path = file.to_string_lossy();
    let text =
        draft(file, &DraftOptions { name: "new", path: &path, text: None, label: None, form: DraftForm::Classify })
            .unwrap();
    let task = Task::parse(&text, Path::new("new.toml")).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let data = task.read(&local(&[]), &DataOptions::default()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    (text, data)
}

#[test]
fn drafts_leave_nothing_out_in_silence() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, row: &dyn Fn(usize) -> Value| {
        let path = root.path().join(name);
        fs::write(&path, (0..60).map(|i| row(i).to_string() + "\n").collect::<String>()).unwrap();
        path
    };
    let word = |i: usize| ["bank", "bat", "spring", "light"][i * 7 % 4];
    let (text, _) = drafted(&write("a.jsonl", &|i| {
        json!({"word": word(i), "one": format!("a sentence {i}"), "two": format!("another one {i}"), "start": i, "label": i / 3 % 2,
               "name_of_label": (["different", "same"][i / 3 % 2]), "split": (["x", "y"][i % 2]), "note": {"a": [i]}})
    }));
    assert!(text.contains("Word: {{ word }}\nOne: {{ one }}\nTwo: {{ two | context }}"), "{text}");
    assert!(text.contains("start (numbers)") && text.contains("name_of_label (may be the label)"), "{text}");
    assert!(text.contains("split (where the row is from)") && text.contains("note.a (numbers)"), "{text}");
    let (text, data) = drafted(&write("b.jsonl", &|i| {
        json!({"talk": [format!("M: it is {i} now"), "W: so late?"], "asks": format!("what time is it {i}"), "kind": (["when", "why"][i / 2 % 2]),
               "choice": ["one", "two"], "answer": (["one", "two"][i % 2]), "again": (["one", "two"][i % 2])})
    }));
    assert!(text.contains("{{ talk | join(\"\\n\") | context }}") && text.contains("Kind: {{ kind }}"), "{text}");
    assert!(text.contains("again (is one of the answers)") && !text.contains("{{ again"), "{text}");
    assert!(data.test[0].text.contains(" now\nW: so late?"), "{}", data.test[0].text);
    // A text that says the same as the label.
    let (text, _) = drafted(&write(
        "c.jsonl",
        &|i| json!({"body": format!("some longer text {i}"), "label": i % 2, "feeling": (["sad", "glad"][i % 2])}),
    ));
    assert!(text.contains("feeling (tells the label)") && !text.contains("{{ feeling"), "{text}");
}

#[test]
fn drafts_know_ties_hidden_labels_and_numbers_with_a_point() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, row: &dyn Fn(usize) -> Value| {
        let path = root.path().join(name);
        fs::write(&path, (0..60).map(|i| row(i).to_string() + "\n").collect::<String>()).unwrap();
        path
    };
    let (text, data) = drafted(&write(
        "a.jsonl",
        &|i| json!({"chosen": format!("good {i}"), "rejected": if i % 6 == 0 { format!("good {i}") } else { format!("bad {i}") }}),
    ));
    assert!(text.contains("10 rows in which both are the same are left out"), "{text}");
    let dropped = data.parts().iter().map(|(_, part)| part.len()).sum::<usize>();
    assert_eq!(dropped, 50, "{text}");
    let (text, data) =
        drafted(&write("b.jsonl", &|i| json!({"t": format!("some words {i}"), "label": (i % 2) as f64})));
    assert!(text.contains("classes = [\"0\", \"1\"]"), "{text}");
    assert!(by_row(&data).iter().all(|example| !example.text.is_empty()));
    let (text, data) = drafted(&write(
        "c.jsonl",
        &|i| json!({"q": format!("which one {i}"), "choices": ["x", "y", if i % 4 == 0 { json!(null) } else { json!("z") }], "label": if i < 20 { -1 } else { (i % 2) as i64 }}),
    ));
    assert!(
        text.contains("filter = \"label != -1\"") && text.contains("choices = \"choices\"\nanswer = \"label\""),
        "{text}"
    );
    assert_eq!(data.parts().iter().map(|(_, part)| part.len()).sum::<usize>(), 40);
}
