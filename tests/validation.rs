//! A grid that holds examples out of the supervisor's half, from its file to what the student was trained towards; and the identities of
//! grids that hold none out.

use std::{collections::BTreeSet, path::Path};

use burn::tensor::{Device, Tensor};
use serde_json::json;
use w2s_core::{
    Result,
    grid::{Cell, Plan, results::Books},
    learner::{Every, Execution},
    report::results,
    stage::{DECISIONS, Numeric, Place, Predictions, StageId, Store, read_decisions},
    strategy::{Batch, Calibration, ConfiguredRefiner, ExampleId, Memory, Pool, Selection, Split, math},
    task::Example,
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
    let batch = Batch::new(&ids, Tensor::cat(rows, 0));
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

    let data = cell(&plan, "platt").data.read(&store).unwrap();
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

fn ids(plan: &Plan) -> Vec<&StageId> {
    plan.jobs.keys().collect()
}

#[test]
fn numeric_modes_are_stages_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let changes = ["methods=mine", "train.batch_size=16", "p_ik.batch_size=16"];
    let planned = |device: &str, micro_batch| {
        support::plan_for(
            &support::tiny().join("selective.toml"),
            &changes,
            folder.path(),
            Numeric::new(device, micro_batch),
        )
        .unwrap()
    };
    let (usual, store) = planned("cpu", None);
    // As many rows as in any batch, predicted ones included, are the whole batch.
    assert_eq!(ids(&usual), ids(&planned("cpu", Some(32)).0));
    let parts = planned("cpu", Some(5)).0;
    let gpu = planned("cuda:1", None).0;
    assert_eq!(ids(&gpu), ids(&planned("cuda:0", Some(64)).0));
    let others = [&parts, &gpu, &planned("cuda:0", Some(5)).0]
        .map(|plan| ids(plan).into_iter().cloned().collect::<BTreeSet<_>>());
    for (number, other) in others.iter().enumerate() {
        assert!(ids(&usual).iter().all(|id| !other.contains(*id)), "{number}");
        assert!(others[number + 1..].iter().all(|another| other.is_disjoint(another)), "{number}");
    }
    assert_eq!(usual.cells[0].data.stage, gpu.cells[0].data.stage);
    for (id, job) in &parts.jobs {
        assert_eq!(job.stage.whole_parameters(&parts.numeric).unwrap()["numeric"], json!({ "micro_batch": 5 }), "{id}");
    }

    // Whoever does a stage knows it by the identity that the plan gave it.
    let place = |micro_batch| {
        let execution = Execution { micro_batch, ..Execution::default() };
        Place { device: Device::flex(), name: "cpu".to_owned(), execution, checkpoint_every: Every::Never }
    };
    for job in parts.jobs.values() {
        job.stage.make(&parts.bench(&store, place(Some(5)))).unwrap();
    }
    assert_eq!(parts.finished(&store).unwrap().len(), parts.jobs.len());
    assert!(usual.finished(&store).unwrap().is_empty() && gpu.finished(&store).unwrap().is_empty());
    let made = store.find(&parts.cells[0].student).unwrap().unwrap();
    assert_eq!(made.manifest.parameters["numeric"], json!({ "micro_batch": 5 }));

    // And what is the same stage has the same bits: predictions are not cut where training is not.
    let others = tempfile::tempdir().unwrap();
    let (whole, whole_store) = plan("grid.toml", &["seeds=0"], folder.path()).unwrap();
    let (cut, cut_store) = support::plan_for(
        &support::tiny().join("grid.toml"),
        &["seeds=0"],
        others.path(),
        Numeric::new("cpu", Some(16)),
    )
    .unwrap();
    assert_eq!(ids(&whole), ids(&cut));
    for (id, job) in &whole.jobs {
        let one = job.stage.make(&whole.bench(&whole_store, place(None))).unwrap();
        let other = cut.jobs[id].stage.make(&cut.bench(&cut_store, place(Some(16)))).unwrap();
        assert_eq!(one.manifest.files, other.manifest.files, "{id}");
    }
}

/// A weak model is trained once, though the limit of its partner is in its identity, as long as that cuts nothing.
#[test]
fn a_limit_that_cuts_nothing_trains_nothing_again() {
    let folder = tempfile::tempdir().unwrap();
    let planned = |limit: usize, rate: &str| {
        let limit = format!("data.max_tokens={limit}");
        plan("grid.toml", &["methods=finetune", "seeds=0", &limit, rate], folder.path()).unwrap()
    };
    let rate = "train.epochs=2";
    let (long, store) = planned(20, rate);
    support::run_here(&long, &store);
    let (short, _) = planned(12, rate);
    let of = |plan: &Plan| store.find(&plan.cells[0].ceiling).unwrap().unwrap();
    assert_ne!(long.cells[0].ceiling, short.cells[0].ceiling);
    assert_eq!(long.cells[0].data.fingerprint, short.cells[0].data.fingerprint);
    support::run_here(&short, &store);
    let (long, short) = (of(&long), of(&short));
    assert_eq!(short.manifest.summary["copied_from"], json!(long.manifest.id));
    assert_eq!(short.manifest.files, long.manifest.files);
    // Other settings, or other texts, are another training.
    for (limit, rate) in [(12, "train.epochs=1"), (5, rate)] {
        let (other, _) = planned(limit, rate);
        support::run_here(&other, &store);
        assert_eq!(of(&other).manifest.summary.get("copied_from"), None);
    }
}

#[test]
fn p_ik_is_measured_on_the_strong_models_own_answers() {
    for (answers, source) in [("language-model", None), ("classifier", None), ("classifier", Some("current-head"))] {
        let folder = tempfile::tempdir().unwrap();
        let by = format!("p_ik.answers={answers}");
        let mut changes = vec!["methods=mtl", by.as_str()];
        let own = source.map(|source| format!("self_labels.source={source}"));
        if let Some(own) = &own {
            changes = vec!["methods=mine", by.as_str(), own.as_str()];
        }
        let (plan, store) = plan("selective.toml", &changes, folder.path()).unwrap();
        support::run_here(&plan, &store);
        let cell = &plan.cells[0];
        let stage = cell.answers.clone().unwrap();
        assert_eq!(stage == cell.student, source.is_some(), "{answers} {source:?}");
        assert_eq!(plan.jobs[&stage].stage.kind(), if source.is_some() { "student" } else { "answers" });
        Books::open(&plan, &folder.path().join("out"), plan.finished(&store).unwrap()).unwrap();
        let rows = results::read(&folder.path().join("out/results.csv")).unwrap();
        let value = |metric: &str| {
            let row = rows.iter().find(|row| row.metric == metric && row.config_hash == cell.student.to_string());
            row.unwrap_or_else(|| panic!("no {metric}")).value
        };
        assert!(value("p_ik_brier").is_some());
        let own = Predictions::read(&store.find(&stage).unwrap().unwrap().file("test.csv")).unwrap().into_rows();
        let data = cell.data.read(&store).unwrap();
        let right =
            own.iter().zip(&data.test).filter(|(row, example)| u8::from(row[1] > row[0]) == example.label).count();
        assert_eq!(value("self_label_accuracy"), Some(right as f64 / own.len() as f64), "{answers} {source:?}");
    }
}

#[test]
fn a_language_model_that_nobody_says_how_to_ask_is_not_asked() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[grid]\nname = \"silent\"\ntasks = [\"silent\"]\npairs = [{ weak = \"tiny-weak\", strong = \"tiny-reader\" }]\n\
                methods = [\"mtl\"]\nseeds = [0]\n[train]\nbatch_size = 16\n[p_ik]\ntask = \"tiny-food\"\nshots = 0\n";
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny");
    let tasks = folder.path().join("tasks");
    std::fs::create_dir_all(&tasks).unwrap();
    let task = std::fs::read_to_string(fixtures.join("tasks/tiny-home.toml")).unwrap();
    std::fs::write(tasks.join("silent.toml"), task.split("[prompt]").next().unwrap().replace("tiny-home", "silent"))
        .unwrap();
    for kind in ["models", "worlds"] {
        std::fs::create_dir_all(folder.path().join(kind)).unwrap();
        for file in std::fs::read_dir(fixtures.join(kind)).unwrap().flatten() {
            std::fs::copy(file.path(), folder.path().join(kind).join(file.file_name())).unwrap();
        }
    }
    std::fs::copy(fixtures.join("tasks/tiny-food.toml"), tasks.join("tiny-food.toml")).unwrap();
    let grid = folder.path().join("silent.toml");
    std::fs::write(&grid, text).unwrap();
    let (plan, _) = plan(grid.to_str().unwrap(), &[], folder.path()).unwrap();
    assert_eq!(plan.cells[0].answers, None);
    assert!(
        plan.notes.iter().any(|note| note.starts_with("silent: P(IK) of `mtl` is not measured")),
        "{:?}",
        plan.notes
    );
}

#[test]
fn a_training_that_went_astray_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let changes = [
        "methods=finetune",
        "seeds=0",
        "model.tiny-weak.train.learning_rate=3e6",
        "model.tiny-weak.train.optimizer=sgd",
    ];
    let (plan, store) = plan("grid.toml", &changes, folder.path()).unwrap();
    support::run_here(&plan, &store);
    let books = Books::open(&plan, &folder.path().join("out"), plan.finished(&store).unwrap()).unwrap();
    let remarks = books.remarks(&plan);
    let (remark, about) = remarks.iter().next().expect("a remark");
    assert!(remark.starts_with("training went astray: the loss rose from 0.693 to "), "{remark}");
    assert_eq!(about.iter().collect::<Vec<_>>(), ["fine-tune tiny-home tiny-weak seed 0"]);
}

/// Identities decide what is done again. One that changes throws away results that somebody has; whoever means to do that changes this file.
#[test]
fn identities_of_known_grids_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = Vec::new();
    for grid in ["grid.toml", "selective.toml"] {
        let (plan, _) = plan(grid, &[], folder.path()).unwrap();
        for cell in &plan.cells {
            let stage = &cell.data.stage;
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
