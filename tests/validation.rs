//! A grid that holds examples out of the supervisor's half, from its file to what the student was trained towards; and the identities of
//! grids that hold none out.

use std::{collections::BTreeSet, path::Path};

use burn::tensor::{Device, Tensor};
use serde_json::json;
use w2s_core::{
    Result,
    grid::{Cell, Plan, results::Books},
    report::results,
    stage::{DECISIONS, Predictions, Store, read_decisions},
    strategy::{Batch, Calibration, ConfiguredRefiner, ExampleId, Memory, Pool, Progress, Selection, Split, math},
    task::{Example, TaskData},
};

use crate::support;

fn plan(grid: &str, changes: &[&str], folder: &Path) -> Result<(Plan, Store)> {
    support::plan(&support::tiny().join(grid), changes, folder)
}

fn cell<'a>(plan: &'a Plan, method: &str) -> &'a Cell {
    plan.cells.iter().find(|cell| plan.grid.methods[cell.method].name == method).unwrap()
}

fn predictions(store: &Store, cell: &Cell, split: Split) -> Vec<Vec<f32>> {
    let stage = store.find(&cell.supervision).unwrap().unwrap();
    Predictions::read(&stage.file(&Predictions::file(split))).unwrap().into_rows()
}

/// The refiner on these labels alone: no grid, no learner.
fn by_hand(method: &str, weak: &[Vec<f32>], calibration: Calibration) -> Vec<Vec<f32>> {
    let refiner = json!({ "type": "calibration", "method": method });
    let mut refiner: Box<dyn ConfiguredRefiner> = serde_json::from_value(refiner).unwrap();
    let ids: Vec<ExampleId> = (0..weak.len() as u32).map(ExampleId).collect();
    let pool =
        Pool { ids: ids.clone(), weak: weak.to_vec(), calibration: Some(calibration), seed: 1, ..Pool::default() };
    refiner.prepare(&pool).unwrap();
    let device = Device::flex();
    let rows: Vec<Tensor<2>> =
        weak.iter().map(|row| Tensor::<1>::from_floats(row.as_slice(), &device).unsqueeze_dim::<2>(0)).collect();
    let batch = Batch {
        ids: &ids,
        progress: Progress { step: 0, total_steps: 1, epoch: 0, epochs: 1 },
        weak: Tensor::cat(rows, 0),
        student: Tensor::zeros([weak.len(), 2], &device),
        embedding: Tensor::zeros([weak.len(), 1], &device),
        p_ik: None,
        self_labels: None,
    };
    let refined = refiner.refine(&batch, &Selection::weak(&batch), &mut Memory::default());
    math::rows_to_host(refined).chunks_exact(2).map(<[f32]>::to_vec).collect()
}

/// The animal of a tiny world's question: `the … lives in the`, `home of the … is the`.
fn animal(example: &Example) -> &str {
    let words: Vec<&str> = example.text.split(' ').collect();
    if words[0] == "home" { words[3] } else { words[1] }
}

#[test]
fn weak_labels_are_calibrated_with_what_was_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, store) = plan("calibration.toml", &[], folder.path()).unwrap();
    support::run_here(&plan, &store);

    let data = TaskData::read(&cell(&plan, "platt").data.folder).unwrap();
    // Two phrases of each of 15 facts.
    assert!((8..=10).contains(&data.validation.len()), "{}", data.validation.len());
    assert_eq!(data.validation.len() + data.supervise.len(), 30);
    let animals = |part: &[Example]| -> BTreeSet<String> { part.iter().map(|e| animal(e).to_owned()).collect() };
    assert_eq!(animals(&data.supervise).len() + animals(&data.validation).len(), 15);
    assert!(animals(&data.supervise).is_disjoint(&animals(&data.validation)), "a fact is in both parts");
    assert!(animals(&data.transfer).is_disjoint(&animals(&data.validation)));

    let truth: Vec<u8> = data.validation.iter().map(|example| example.label).collect();
    for method in ["platt", "isotonic"] {
        let cell = cell(&plan, method);
        assert_eq!(cell.supervision, self::cell(&plan, "finetune").supervision, "one weak model for all methods");
        let held_out = predictions(&store, cell, Split::Validation);
        assert_eq!(held_out.len(), truth.len());
        let weak = predictions(&store, cell, Split::Transfer);
        let expected = by_hand(method, &weak, Calibration { weak: held_out.clone(), truth: truth.clone() });
        let student = store.find(&cell.student).unwrap().unwrap();
        let decisions = read_decisions(&student.file(DECISIONS)).unwrap();
        assert!(decisions.len() >= 48, "{} decisions", decisions.len());
        let mut largest: f32 = 0.0;
        for decision in &decisions {
            let row = decision.row as usize;
            assert_eq!(decision.refined, expected[row], "{method}, row {row}");
            largest = largest.max((decision.refined[1] - weak[row][1]).abs());
        }
        assert!(largest > 0.01, "{method} left the labels as they were");
        // The truth matters: turned around it gives other labels.
        let other = Calibration { weak: held_out, truth: truth.iter().map(|class| 1 - class).collect() };
        assert_ne!(by_hand(method, &weak, other), expected);
    }

    // It is the supervisor's truth, not the student's: nothing is flagged.
    Books::open(&plan, &folder.path().join("out"), plan.finished(&store).unwrap()).unwrap();
    let rows = results::read(&folder.path().join("out/results.csv")).unwrap();
    for method in ["finetune", "platt", "isotonic"] {
        let of_method: Vec<_> = rows.iter().filter(|row| row.method == method).collect();
        assert!(
            of_method.iter().any(|row| row.metric == "accuracy" && row.value.is_some()),
            "{method} has no accuracy"
        );
        assert!(of_method.iter().all(|row| !row.truth_used), "{method} is flagged");
    }
}

#[test]
fn a_grid_that_holds_nothing_out_has_no_trace_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, store) = plan("calibration.toml", &["data.n_validation=0", "methods=finetune"], folder.path()).unwrap();
    support::run_here(&plan, &store);
    let mut stages = 0;
    for stage in std::fs::read_dir(folder.path().join("stages")).unwrap().flatten() {
        stages += usize::from(stage.path().join("manifest.json").is_file());
        assert!(!stage.path().join("validation.csv").exists(), "{:?}", stage.path());
    }
    assert!(stages >= 6, "{stages}");
}

/// Identities decide what is done again. One that changes throws away results that somebody has; whoever means to do that changes this file.
#[test]
fn identities_of_known_grids_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = Vec::new();
    for grid in ["grid.toml", "selective.toml"] {
        let (plan, _) = plan(grid, &[], folder.path()).unwrap();
        for cell in &plan.cells {
            let stage = cell.data.folder.file_name().unwrap().to_string_lossy().into_owned();
            let line = format!("{grid}  data  {stage}  {}", cell.data.fingerprint);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.extend(plan.labels().iter().map(|(id, label)| format!("{grid}  {label}  {id}")));
    }
    let golden = include_str!("golden/identities.txt");
    assert_eq!(lines, golden.lines().collect::<Vec<_>>(), "now:\n{}\n", lines.join("\n"));
}
