//! A judge of weak labels and a student of two phases, from the grid to what the student was trained on.

use std::{collections::BTreeSet, path::Path};

use w2s_core::{
    Result,
    grid::{Cell, Plan, results::Books},
    report::results,
    stage::{DECISIONS, Predictions, StageId, Store, read_decisions},
    strategy::Split,
};

use crate::support;

fn plan(changes: &[&str], folder: &Path) -> Result<(Plan, Store)> {
    support::plan(&support::tiny().join("judged.toml"), changes, folder)
}

fn cell<'a>(plan: &'a Plan, method: &str) -> &'a Cell {
    plan.cells.iter().find(|cell| plan.grid.methods[cell.method].name == method).unwrap()
}

fn kinds<'a>(plan: &'a Plan, kind: &str) -> Vec<&'a StageId> {
    plan.jobs.iter().filter(|(_, job)| job.stage.kind() == kind).map(|(id, _)| id).collect()
}

fn rows(store: &Store, id: &StageId, split: Split) -> Vec<Vec<f32>> {
    let stage = store.find(id).unwrap().unwrap();
    Predictions::read(&stage.file(&Predictions::file(split))).unwrap().into_rows()
}

fn class(row: &[f32]) -> usize {
    usize::from(row[1] > row[0])
}

#[test]
fn two_phases_learn_from_what_a_judge_believes() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, store) = plan(&[], folder.path()).unwrap();
    // One judge for all who ask, and the student whose labels it compares.
    assert_eq!((kinds(&plan, "judge").len(), kinds(&plan, "label").len(), kinds(&plan, "student").len()), (1, 1, 6));
    support::run_here(&plan, &store);

    let judge = store.find(kinds(&plan, "judge")[0]).unwrap().unwrap();
    let own = rows(&store, kinds(&plan, "label")[0], Split::Transfer);
    let weak = rows(&store, &cell(&plan, "plain").supervision, Split::Transfer);
    let agreed = weak.iter().zip(&own).filter(|(weak, own)| class(weak) == class(own)).count();
    assert_eq!(judge.manifest.summary["agreed"], agreed);
    assert!(agreed > 0 && agreed < weak.len(), "{agreed} of {}", weak.len());

    // What is above the threshold is what the second phase saw.
    let judged = rows(&store, &judge.manifest.id, Split::Transfer);
    let believed: BTreeSet<u32> = (0..).zip(&judged).filter(|(_, row)| row[1] > 0.6).map(|(row, _)| row).collect();
    let student = |method: &str| store.find(&cell(&plan, method).student).unwrap().unwrap();
    let kept = |method: &str| -> BTreeSet<u32> {
        let decisions = read_decisions(&student(method).file(DECISIONS)).unwrap();
        assert_eq!(decisions.len(), weak.len(), "{method}");
        decisions.iter().filter(|choice| choice.weight > 0.0).map(|choice| choice.row).collect()
    };
    assert!(!believed.is_empty() && believed.len() < weak.len(), "{} of {}", believed.len(), weak.len());
    assert_eq!(kept("two-stage"), believed);
    assert_eq!(kept("judged"), believed);
    assert_eq!(kept("two-stage-random").len(), believed.len());
    assert_ne!(kept("two-stage-random"), believed);

    let log = |method: &str, name: &str| std::fs::read_to_string(student(method).file(name)).unwrap();
    let steps = |text: &str| text.lines().count() - 1;
    // The first phase is the plain student's training, and the second one goes on from it, over fewer examples.
    assert_eq!(log("two-stage", "log.csv"), log("plain", "log.csv"));
    assert_eq!(steps(&log("two-stage", "log-2.csv")), believed.len() * 3 / 16);
    assert_eq!(steps(&log("two-stage-all", "log-2.csv")), weak.len() * 3 / 16);
    assert_eq!(steps(&log("judged", "log.csv")), believed.len() * 3 / 16);
    let losses = |text: &str| -> Vec<f64> {
        text.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect()
    };
    let (first, second) = (losses(&log("two-stage-all", "log.csv")), losses(&log("two-stage-all", "log-2.csv")));
    assert!(second[0] < first[0], "the second phase starts from the pretrained model: {} {}", second[0], first[0]);
    // A student that is kept and one that is not are one training.
    assert!(student("plain").manifest.summary["copied_from"].is_string() || !student("plain").file("model").exists());
    assert_eq!(rows(&store, &cell(&plan, "plain").student, Split::Test).len(), 30);

    let books = Books::open(&plan, &folder.path().join("out"), plan.finished(&store).unwrap()).unwrap();
    drop(books);
    let rows = results::read(&folder.path().join("out/results.csv")).unwrap();
    let value = |method: &str, metric: &str| {
        let row = rows.iter().find(|row| row.method == method && row.metric == metric);
        row.unwrap_or_else(|| panic!("{method} {metric}")).value.unwrap()
    };
    assert_eq!(value("two-stage", "kept"), believed.len() as f64 / weak.len() as f64);
    assert_eq!(value("two-stage", "kept"), value("two-stage-random", "kept"));
    assert!(rows.iter().filter(|row| row.method == "two-stage").all(|row| row.selector == "judged"));

    // What is kept of the labels that both had right, and of those that the weak model alone had right.
    let data = plan.cells[0].data.read(&store).unwrap();
    let truth: Vec<usize> = data.transfer.iter().map(|example| usize::from(example.label)).collect();
    let right = |row: u32| [&own, &weak].map(|labels| class(&labels[row as usize]) == truth[row as usize]);
    for (metric, part) in [("kept_both_right", [true, true]), ("kept_only_weak_right", [false, true])] {
        let of: Vec<u32> = (0..weak.len() as u32).filter(|row| right(*row) == part).collect();
        let share = of.iter().filter(|row| believed.contains(row)).count() as f64 / of.len() as f64;
        for method in ["two-stage", "judged"] {
            assert_eq!(value(method, metric), share, "{method} {metric}");
        }
    }
    assert!(!rows.iter().any(|row| row.method == "two-stage-all" && row.metric.starts_with("kept")));
}

#[test]
fn the_open_questions_of_a_judge_change_its_judgement() {
    let folder = tempfile::tempdir().unwrap();
    let judgement = |change: &str| {
        let changes: Vec<&str> = ["methods=judged"].into_iter().chain(Some(change).filter(|c| !c.is_empty())).collect();
        let (plan, store) = plan(&changes, folder.path()).unwrap();
        let judge = kinds(&plan, "judge")[0];
        let bench = support::bench(&plan, &store);
        for (id, job) in &plan.jobs {
            job.stage.make(&bench).unwrap();
            if id == judge {
                break;
            }
        }
        rows(&store, judge, Split::Transfer)
    };
    let usual = judgement("");
    let mut seen = vec![usual.clone()];
    for change in [
        "agrees.folds=3",
        "agrees.loss=difference",
        "agrees.balance=undersample",
        "agrees.balance=none",
        "agrees.init=student",
        "agrees.train.epochs=5",
    ] {
        let other = judgement(change);
        assert_eq!(other.len(), usual.len(), "{change}");
        assert!(!seen.contains(&other), "{change} changes nothing");
        seen.push(other);
    }
    assert_eq!(judgement(""), usual);
    // Another judge is another student.
    let student =
        |change: &str| cell(&plan(&["methods=judged", change], folder.path()).unwrap().0, "judged").student.clone();
    assert_ne!(student("agrees.folds=3"), student("agrees.folds=0"));
}
