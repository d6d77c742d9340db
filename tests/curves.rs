//! What students say in the midst of their training: kept by the stage, measured with the results, and shown where somebody asks.

use std::{fs, path::Path};

use w2s_core::{
    grid::results::Books,
    report::results::{self, ResultRow},
    stage::{Labels, steps_of},
    strategy::Split,
};

use crate::support::{self, text, w2s};

const ASK: &str = "output.evaluate=[0.5, 0.2]";

/// The rows of a grid, measured.
fn rows(grid: &str, changes: &[&str], folder: &Path) -> Vec<ResultRow> {
    let (plan, store) = support::plan(&support::tiny().join(grid), changes, folder).unwrap();
    support::run_here(&plan, &store);
    let out = folder.join(&plan.grid.name);
    drop(Books::open(&plan, &out, plan.finished(&store).unwrap()).unwrap());
    results::read(&out.join("results.csv")).unwrap()
}

/// Rows without what a stage of another identity is called.
fn ends(rows: &[ResultRow]) -> Vec<ResultRow> {
    let plain = |row: &ResultRow| ResultRow { cell: String::new(), config_hash: String::new(), ..row.clone() };
    rows.iter().filter(|row| row.step.is_none()).map(plain).collect()
}

#[test]
fn a_student_is_measured_on_its_way_and_ends_where_it_would_have_ended() {
    let folder = tempfile::tempdir().unwrap();
    // Classes; words with two phases, whose steps are counted on.
    for (grid, methods) in [("grid.toml", "methods=finetune,gce"), ("words.toml", "methods=finetune,two-stage")] {
        let plain = rows(grid, &[methods, "seeds=0"], folder.path());
        assert!(plain.iter().all(|row| row.step.is_none()));
        let asked = rows(grid, &[methods, "seeds=0", ASK], folder.path());
        assert_eq!(ends(&asked), ends(&plain), "{grid}");

        let (plan, store) =
            support::plan(&support::tiny().join(grid), &[methods, "seeds=0", ASK], folder.path()).unwrap();
        for cell in &plan.cells {
            let method = &plan.grid.methods[cell.method];
            let student = store.find(&cell.student).unwrap().unwrap();
            let steps = steps_of(&student);
            assert_eq!(steps.len(), 2 * method.phases.len(), "{}", method.name);
            let all = student.manifest.summary["steps"].as_u64().unwrap();
            let found: Vec<(u64, f64)> = asked
                .iter()
                .filter(|row| row.method == method.name && row.metric == "accuracy")
                .filter_map(|row| Some((row.step?, row.value?)))
                .collect();
            let expected: Vec<u64> = steps.iter().copied().chain([all]).collect();
            assert_eq!(found.iter().map(|(step, _)| *step).collect::<Vec<_>>(), expected, "{}", method.name);
            let at_end = |row: &&ResultRow| row.method == method.name && row.metric == "accuracy" && row.step.is_none();
            assert_eq!(asked.iter().find(at_end).unwrap().value, Some(found[found.len() - 1].1));
            let said = |step: u64| Labels::checked_after(&student, step, Split::Test).unwrap();
            assert_ne!(said(steps[0]), Labels::checked(&student, Split::Test).unwrap(), "{}", method.name);
        }
        let measured = |metric: &str| asked.iter().any(|row| row.metric == metric && row.step.is_some());
        assert!(measured("pgr") && measured("agreement") && !measured("kept"));
        assert!(asked.iter().all(|row| row.step.is_none() || !["weak", "ceiling"].contains(&row.method.as_str())));
    }
}

#[test]
fn tables_ask_for_steps_and_a_figure_shows_them() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    rows("grid.toml", &["methods=finetune,gce", ASK], folder.path());
    let said = |arguments: &[&str]| {
        let output =
            w2s().args(arguments).args(["tests/fixtures/tiny/grid.toml", "--results", place]).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let main = said(&["table", "--format", "csv"]);
    assert_eq!(main.lines().filter(|line| line.contains(",Finetune,")).count(), 1, "{main}");
    let by_step = said(&["table", "--metric", "accuracy", "--rows", "method", "--columns", "step", "--format", "csv"]);
    let heads = by_step.lines().next().unwrap().split(',').count();
    assert!(heads > 3 && !by_step.contains("ceiling"), "{by_step}");
    let by_task = said(&["table", "--metric", "accuracy", "--format", "csv"]);
    assert!(by_task.contains("ceiling"), "{by_task}");
    said(&["figure"]);
    let drawn = fs::read_to_string(folder.path().join("tiny/figures/steps.svg")).unwrap();
    assert!(drawn.contains("Accuracy over the steps of") && drawn.contains("ceiling (mean)"), "{drawn}");
    let refused = w2s()
        .args(["table", "tests/fixtures/tiny/grid.toml", "--metric", "pgr", "--columns", "step", "--results", place])
        .output()
        .unwrap();
    assert!(!refused.status.success() && text(&refused).contains("w2s figure GRID steps"), "{}", text(&refused));
}

#[test]
fn parts_that_are_none_are_refused_at_their_place() {
    let folder = tempfile::tempdir().unwrap();
    for list in ["[0.5, 1.5]", "[0.0]", "[-0.1]"] {
        let change = format!("output.evaluate={list}");
        let refused = support::plan(&support::tiny().join("grid.toml"), &[&change], folder.path()).unwrap_err();
        assert!(refused.message().contains("is no part of a training"), "{refused}");
        assert!(refused.remedy().is_some_and(|help| help.contains("evaluate = [0.25, 0.5, 0.75]")), "{refused}");
    }
}
