//! Candidates and words, from the grid to the results.

use std::{
    fs,
    path::{Path, PathBuf},
};

use w2s_core::{
    grid::{Cell, Plan, results::Books},
    report::results::{self, ResultRow},
    stage::{DECISIONS, Labels, Predictions, Store, Truth, judged_file, read_decisions},
    strategy::{Form, Split},
    task::TaskData,
};

use crate::support;

fn cell<'a>(plan: &'a Plan, method: &str) -> &'a Cell {
    plan.cells.iter().find(|cell| plan.grid.methods[cell.method].name == method).unwrap()
}

fn rows(plan: &Plan, store: &Store, folder: &Path) -> Vec<ResultRow> {
    Books::open(plan, folder, plan.finished(store).unwrap()).unwrap();
    results::read(&folder.join("results.csv")).unwrap()
}

fn value(rows: &[ResultRow], method: &str, metric: &str) -> Option<f64> {
    let row = rows.iter().find(|row| row.method == method && row.metric == metric);
    row.unwrap_or_else(|| panic!("{method} has no {metric}")).value
}

#[test]
fn words_are_taught_written_judged_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, store) = support::plan(&support::tiny().join("words.toml"), &[], folder.path()).unwrap();
    support::run_here(&plan, &store);
    let labels = |id, split| Labels::read(&store.find(id).unwrap().unwrap().folder, split).unwrap();
    let plain = cell(&plan, "finetune");
    let data = TaskData::read(&store.find(&plain.data.stage).unwrap().unwrap().folder).unwrap();
    let raw = |labels: &Labels| -> Vec<String> {
        labels.texts().unwrap().iter().map(|answer| answer.raw.trim().to_owned()).collect()
    };
    let references = |examples: &[w2s_core::task::Example]| -> Vec<String> {
        examples.iter().map(|example| example.reference.as_deref().unwrap().trim().to_owned()).collect()
    };
    // The rule of this task compares the whole text, so that right is what reads the same.
    let share = |own: &[String], other: &[String]| {
        own.iter().zip(other).filter(|(own, other)| own == other).count() as f64 / own.len() as f64
    };
    let rows = rows(&plan, &store, &folder.path().join("words"));
    let weak = raw(&labels(&plain.supervision, Split::Test));
    assert_eq!(weak.len(), data.test.len());
    for (method, stage) in [("finetune", &plain.student), ("weak", &plain.supervision), ("ceiling", &plain.ceiling)] {
        let own = raw(&labels(stage, Split::Test));
        assert_eq!(value(&rows, method, "accuracy"), Some(share(&own, &references(&data.test))), "{method}");
        assert_eq!(value(&rows, method, "no_answer"), Some(0.0), "{method}");
        if method != "weak" {
            assert_eq!(value(&rows, method, "agreement"), Some(share(&own, &weak)), "{method}");
        }
    }
    // An animal's home is asked for in two ways, and known if both are answered right.
    let groups: std::collections::BTreeSet<u64> = data.test.iter().map(|example| example.group.unwrap()).collect();
    let whole = rows.iter().find(|row| row.method == "ceiling" && row.metric == "group_accuracy").unwrap();
    assert_eq!(whole.n, groups.len() as u64);
    assert!(groups.len() < data.test.len() && whole.value <= value(&rows, "ceiling", "accuracy"), "{whole:?}");
    // It learns something: never a method, but the ends of the gap.
    assert!(value(&rows, "ceiling", "accuracy") > value(&rows, "weak", "accuracy"));

    // Selection decides between answers that were given, and among the own ones trusts those that are right.
    let oracle = cell(&plan, "oracle");
    let own = raw(&labels(oracle.answers.as_ref().unwrap(), Split::Transfer));
    let truth = references(&data.transfer);
    let decisions = read_decisions(&store.find(&oracle.student).unwrap().unwrap().file(DECISIONS)).unwrap();
    assert_eq!(decisions.len(), truth.len());
    for choice in &decisions {
        let row = choice.row as usize;
        assert_eq!(choice.own, own[row] == truth[row], "{choice:?}");
    }
    let kept = value(&rows, "two-stage", "kept").unwrap();
    assert!(kept > 0.0 && kept < 1.0, "{kept}");
    // What was done is done, and the same again elsewhere.
    assert!(plan.pending(&plan.finished(&store).unwrap(), true).is_empty());
    let again = tempfile::tempdir().unwrap();
    let (same, other) = support::plan(&support::tiny().join("words.toml"), &[], again.path()).unwrap();
    support::run_here(&same, &other);
    let bytes = |store: &Store| fs::read(store.find(&plain.student).unwrap().unwrap().file("test.jsonl")).unwrap();
    assert_eq!(bytes(&store), bytes(&other));
}

/// The settings of a method that trusts what P(IK) says of the answers that the strong model writes.
const P_IK: [&str; 4] = [
    "methods=mine",
    "method.mine.selector={ type = \"p-ik\", gamma = 0.5 }",
    "method.mine.self_labels={ source = \"precomputed-generation\", shots = 1 }",
    "p_ik={ task = \"tiny-food-words\", shots = 1, samples = 4, label = \"fraction\", epochs = 3, schedule = \"pretrain-then-freeze\" }",
];

#[test]
fn p_ik_of_written_answers_is_learnt_beforehand() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, store) = support::plan(&support::tiny().join("words.toml"), &P_IK[..4], folder.path()).unwrap();
    support::run_here(&plan, &store);
    let rows = rows(&plan, &store, &folder.path().join("words"));
    let mine = cell(&plan, "mine");
    let student = store.find(&mine.student).unwrap().unwrap();
    let knows: Vec<f64> = Predictions::read(&student.file(&judged_file("p-ik")))
        .unwrap()
        .rows()
        .iter()
        .map(|row| row[1].into())
        .collect();
    // What it is right about are the answers that stand in for the weak ones.
    let own = Labels::read(&store.find(mine.answers.as_ref().unwrap()).unwrap().unwrap().folder, Split::Test).unwrap();
    let right = own.right(&Truth::of(&mine.data.read(&store).unwrap(), Split::Test).unwrap());
    assert_eq!(knows.len(), right.len());
    let errors = knows.iter().zip(&right).map(|(knows, right)| (knows - f64::from(u8::from(*right))).powi(2));
    let brier = value(&rows, "mine", "p_ik_brier").unwrap();
    assert!((brier - errors.sum::<f64>() / right.len() as f64).abs() < 1e-6, "{brier}");
    let decisions = read_decisions(&student.file(DECISIONS)).unwrap();
    assert_eq!(decisions.len(), mine.data.examples["transfer"]);
    assert!(decisions.iter().all(|choice| choice.own == (choice.columns["p-ik"] > 0.5)));
}

/// Rows that ask which of two or three words is one for a wet home; `gap` is by how much one is better, with a sign, and `holes` not in every row.
fn choices(rows: usize, from: usize) -> String {
    let (wet, dry) = (["reef", "marsh"], ["desert", "cave"]);
    let row = |number: usize| {
        let wrong: Vec<&str> = dry.iter().copied().take(1 + number % 3 / 2).collect();
        let preference = 0.6 + 0.1 * (number % 4) as f64;
        let gap = [1.0, -1.0][number % 2] * (number % 4) as f64;
        let mut row = serde_json::json!({
            "gap": gap.to_string(), "question": format!("the otter lives in the {}", wet[number / 5 % 2]),
            "right": wet[number % 2], "wrong": wrong,
            "sure": if wrong.len() == 1 { vec![preference, 1.0 - preference] } else { vec![0.8, 0.1, 0.1] },
        });
        if number % 7 != 3 {
            row["holes"] = number.into();
        }
        row.to_string() + "\n"
    };
    (from..from + rows).map(row).collect()
}

pub const TASK: &str = r#"
name = "tiny-choose"
title = "Tiny: choose"
licence = "generated by this test"
citation = "w2s"
template = "{{ question | context }} {{ answer }}"

[source]
files = { train = "choices-train.jsonl", test = "choices-test.jsonl" }

[splits]
train = "train"
test = "test"

[label.choose]
correct = "right"
wrong = "wrong"
preference = "sure"
"#;

/// A grid of a task with two or three candidates, in a folder with all that it needs.
pub fn choosing(folder: &Path) -> PathBuf {
    support::tiny_copy(folder);
    let tasks = folder.join("tasks");
    fs::write(tasks.join("choices-train.jsonl"), choices(160, 0)).unwrap();
    fs::write(tasks.join("choices-test.jsonl"), choices(40, 160)).unwrap();
    fs::write(tasks.join("tiny-choose.toml"), TASK).unwrap();
    let grid = folder.join("choose.toml");
    let document = r#"
        [grid]
        name = "choose"
        tasks = ["tiny-choose"]
        pairs = [{ weak = "tiny-weak", strong = "tiny-strong" }]
        methods = ["finetune", "js", "own", "two-stage"]
        [train]
        epochs = 4
        batch_size = 16
        learning_rate = 2e-2
        [method.own]
        selector = { type = "agreement" }
        self_labels = { source = "current-head" }
        [method.two-stage]
        selector = { type = "judged", threshold = 0.0 }
        phases = [{ selector = { type = "all" } }, {}]
    "#;
    fs::write(&grid, document).unwrap();
    grid
}

#[test]
fn candidates_share_one_score_and_those_that_are_missing_have_none() {
    let folder = tempfile::tempdir().unwrap();
    let grid = choosing(folder.path());
    let (plan, store) = support::plan(&grid, &[], folder.path()).unwrap();
    assert_eq!(plan.cells[0].data.form, Form::Candidates(3));
    support::run_here(&plan, &store);

    let plain = cell(&plan, "finetune");
    let data = TaskData::read(&store.find(&plain.data.stage).unwrap().unwrap().folder).unwrap();
    let Labels::Soft(said) = Labels::read(&store.find(&plain.ceiling).unwrap().unwrap().folder, Split::Test).unwrap()
    else {
        panic!("candidates have probabilities");
    };
    assert!(data.test.iter().any(|example| example.candidates.len() == 2));
    for (row, example) in said.iter().zip(&data.test) {
        assert!(row[example.candidates.len()..].iter().all(|share| *share == 0.0), "{row:?}");
        assert!(row[..example.candidates.len()].iter().all(|share| *share > 0.0), "{row:?}");
    }
    // A loss that would give those that are missing a share is refused, with how many there are.
    let smooth = support::plan(&grid, &["method.js.loss.type=label-smoothing"], folder.path()).map(|_| ()).unwrap_err();
    let smooth = smooth.to_string();
    assert!(["js", "the loss", "fewer than 3"].iter().all(|part| smooth.contains(part)), "{smooth}");
    let rows = rows(&plan, &store, &folder.path().join("choose"));
    assert!(value(&rows, "ceiling", "accuracy").unwrap() > 0.9, "{:?}", value(&rows, "ceiling", "accuracy"));
    assert!(value(&rows, "finetune", "accuracy").unwrap() > 0.5);
}

#[test]
fn what_a_form_is_not_for_is_refused_before_anything_runs() {
    let refused_in = |grid: &str, changes: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let plan = support::plan(&support::tiny().join(grid), changes, folder.path());
        plan.map(|_| ()).unwrap_err().to_string()
    };
    let refused = |changes: &[&str]| refused_in("words.toml", changes);
    let p_ik = |change| refused(&[&P_IK[..], &[change]].concat());
    assert!(p_ik("p_ik.schedule=joint").contains("no head beside it"));
    assert!(p_ik("p_ik.answers=classifier").contains("a classifier's answers"));
    assert!(refused_in("selective.toml", &["p_ik.task=tiny-food-words"]).contains("has no classes"));
    for (changes, parts) in [
        (["method.finetune.loss.type=aux-confidence", ""], ["finetune", "the loss", "words"]),
        (["method.finetune.refiner.type=graph-smoothing", ""], ["finetune", "the refiner", "words"]),
        (["method.finetune.selector.type=confidence", ""], ["finetune", "the selector", "words"]),
        (
            ["method.finetune.supervisor={ type = \"mixed-truth\", labels = \"random\" }", ""],
            ["finetune", "the supervisor", "words"],
        ),
        (["method.agreement.self_labels.source=current-head", ""], ["agreement", "the self-labels", "words"]),
        (["words.mean=lines", ""], ["unknown variant", "lines", ""]),
        (["words.ends=true", ""], ["unknown key", "ends", ""]),
    ] {
        let changes: Vec<&str> = changes.into_iter().filter(|change| !change.is_empty()).collect();
        let said = refused(&changes);
        assert!(parts.iter().all(|part| said.contains(part)), "{changes:?}: {said}");
    }
}
