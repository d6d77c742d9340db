//! What a run leaves behind: `results.csv`, what stands beside it, and what tables say of it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use w2s_core::{
    grid::{Failure, Outcome, Plan, results::Books},
    report::{
        Table,
        results::{self, ResultRow},
        table::{MainOptions, Pivot},
    },
    stage::Store,
};

use crate::support::{self, run_here, text, tiny, w2s};

fn books(plan: &Plan, store: &Store, folder: &Path) -> Books {
    Books::open(plan, folder, plan.finished(store).unwrap()).unwrap()
}

/// The tiny grid with changes, run: its plan, its store, and what it measured, in `tiny/results.csv`.
fn measured(changes: &[&str], folder: &Path) -> (Plan, Store, Vec<ResultRow>) {
    let (plan, store) = support::plan(&tiny().join("grid.toml"), changes, folder).unwrap();
    run_here(&plan, &store);
    drop(books(&plan, &store, &folder.join("tiny")));
    let rows = results::read(&folder.join("tiny/results.csv")).unwrap();
    (plan, store, rows)
}

fn said(arguments: &[&str], columns: Option<&str>) -> Output {
    let mut command = w2s();
    if let Some(columns) = columns {
        command.env("COLUMNS", columns);
    }
    command.args(arguments).output().unwrap()
}

/// Rows of the test accuracy of a method, by seed.
fn accuracies(rows: &[ResultRow], method: &str) -> Vec<f64> {
    let own = rows.iter().filter(|row| row.method == method && row.metric == "accuracy");
    own.filter_map(|row| row.value).collect()
}

const NOISY: [&str; 4] = [
    "methods=slightly,badly",
    "method.slightly.supervisor={ type = \"noisy-truth\", rate = 0.6 }",
    "method.badly.supervisor={ type = \"noisy-truth\", rate = 0.9 }",
    "train.epochs=1",
];

#[test]
fn supervisors_of_one_name_are_told_apart_by_their_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, _, rows) = measured(&NOISY, folder.path());
    let worse = "weak: noisy-truth rate=0.9";
    let methods: BTreeSet<&str> = rows.iter().map(|row| row.method.as_str()).collect();
    assert_eq!(methods, BTreeSet::from(["badly", "ceiling", "slightly", "weak", worse]));
    let supervisor = |method: &str| rows.iter().find(|row| row.method == method).unwrap().supervisor.as_str();
    assert_eq!(["slightly", "badly"].map(supervisor), ["noisy-truth rate=0.6", "noisy-truth rate=0.9"]);
    assert_eq!(["weak", worse].map(supervisor), ["noisy-truth rate=0.6", "noisy-truth rate=0.9"]);
    assert!(accuracies(&rows, worse).iter().zip(accuracies(&rows, "weak")).all(|(worse, weak)| *worse < weak));
    let labels: BTreeSet<String> = plan.labels().into_values().collect();
    assert_eq!(labels.len(), plan.jobs.len(), "two stages have one label in {labels:?}");

    // A table takes the gap of a method from the supervisor that it was trained by, as results.csv does.
    let rows: Vec<ResultRow> = rows.into_iter().filter(|row| row.seed == 0).collect();
    let pgr =
        |method: &str| rows.iter().find(|row| row.method == method && row.metric == "pgr").unwrap().value.unwrap();
    let by_hand = |method: &str, weak: &str| {
        let [own, weak, ceiling] = [method, weak, "ceiling"].map(|method| accuracies(&rows, method)[0]);
        (own - weak) / (ceiling - weak)
    };
    assert!((pgr("badly") - by_hand("badly", worse)).abs() < 1e-9);
    // Gaps are resolved whatever the models learnt.
    let sure = |row: &ResultRow| ResultRow {
        n: 1_000_000,
        value: match row.method.as_str() {
            "weak" if row.metric == "accuracy" => Some(0.8),
            "ceiling" if row.metric == "accuracy" => Some(0.9),
            method if method == worse && row.metric == "accuracy" => Some(0.6),
            "slightly" | "badly" if row.metric == "accuracy" => Some(0.84),
            "ceiling" if row.metric == "gain_se" => Some(0.001),
            _ => row.value,
        },
        ..row.clone()
    };
    let rows: Vec<ResultRow> = rows.iter().map(sure).collect();
    let table = Table::main(&rows, &MainOptions::default()).unwrap().to_markdown();
    for line in
        ["| slightly† | 84.00 | 40.00 |", "| badly† | 84.00 | 80.00 |", "| Weak: noisy-truth rate=0.9 | 60.00 |  |"]
    {
        assert!(table.contains(line), "no `{line}` in\n{table}");
    }
    let pivot = Pivot { metric: "pgr".to_owned(), ..Pivot::default() };
    let table = Table::pivot(&rows, &pivot).unwrap().to_markdown();
    assert!(table.contains("| slightly† | 40.00 |") && table.contains("| badly† | 80.00 |"), "{table}");
    assert!(!table.contains("noisy-truth"), "{table}");
    let one = MainOptions { methods: vec!["slightly".to_owned()], ..MainOptions::default() };
    let table = Table::main(&rows, &one).unwrap().to_markdown();
    assert!(table.contains("| Weak |") && !table.contains("rate=0.9"), "{table}");
}

#[test]
fn methods_are_compared_with_their_own_supervisor() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, rows) = measured(&NOISY, folder.path());
    let place = folder.path().to_str().unwrap();
    let compare =
        ["compare", "tests/fixtures/tiny/grid.toml", "--results", place, "--against", "slightly", "--draws", "20"];
    let csv = said(&[&compare[..], &["--format", "csv"]].concat(), None);
    let csv = String::from_utf8_lossy(&csv.stdout).into_owned();
    let accuracy = |method: &str| -> f64 {
        let line =
            csv.lines().find(|line| line.contains(&format!(",{method},slightly,"))).unwrap_or_else(|| panic!("{csv}"));
        line.split(',').nth(8).unwrap().parse().unwrap()
    };
    for method in ["weak", "weak: noisy-truth rate=0.9", "badly", "ceiling"] {
        let own = accuracies(&rows, method);
        assert!((accuracy(method) - own.iter().sum::<f64>() / own.len() as f64).abs() < 1e-6, "{method}\n{csv}");
    }
    let figure = said(&["figure", "tests/fixtures/tiny/grid.toml", "pgr", "--results", place], None);
    assert!(figure.status.success(), "{}", text(&figure));
    let drawn = fs::read_to_string(folder.path().join("tiny/figures/pgr.svg")).unwrap();
    assert!(drawn.contains("weak: noisy-truth rate=0.9 (mean)"), "{drawn}");
}

/// A supervisor alone with its name keeps it.
#[test]
fn supervisors_of_two_names_are_called_by_them() {
    let folder = tempfile::tempdir().unwrap();
    let changes =
        ["methods=finetune,noisy", "method.noisy.supervisor={ type = \"noisy-truth\" }", "seeds=0", "train.epochs=1"];
    let (_, _, rows) = measured(&changes, folder.path());
    let found: BTreeSet<(&str, &str)> = rows.iter().map(|row| (row.method.as_str(), row.supervisor.as_str())).collect();
    let expected = [("ceiling", ""), ("finetune", "fine-tuned"), ("noisy", "noisy-truth"), ("weak", "fine-tuned")];
    assert_eq!(found, expected.into_iter().chain([("weak: noisy-truth", "noisy-truth")]).collect());
}

#[test]
fn a_result_is_never_replaced_by_less() {
    let folder = tempfile::tempdir().unwrap();
    let changes = ["methods=finetune,gce", "train.epochs=1"];
    let (plan, _, _) = measured(&changes, folder.path());
    let out = folder.path().join("tiny");
    let read = || fs::read_to_string(out.join("results.csv")).unwrap();
    let whole = read();
    fs::remove_dir_all(folder.path().join("stages")).unwrap();
    let (again, store) = support::plan(&tiny().join("grid.toml"), &changes, folder.path()).unwrap();
    assert!(again.finished(&store).unwrap().is_empty());
    let mut open = books(&again, &store, &out);
    assert_eq!(read(), whole, "before anything is done");
    // A stage that now fails takes no result away either, and neither does what is measured without it.
    let place = w2s_core::stage::Place {
        device: burn::tensor::Device::flex(),
        name: "cpu".to_owned(),
        execution: w2s_core::learner::Execution::default(),
        checkpoint_every: w2s_core::learner::Every::Never,
    };
    let needed: BTreeSet<_> = plan.cells.iter().map(|cell| cell.ceiling.clone()).collect();
    for (id, job) in again.jobs.iter().filter(|(id, _)| !needed.contains(id)) {
        job.stage.make(&again.bench(&store, place.clone())).unwrap();
        open.enter(&again, &store, id).unwrap();
        assert_eq!(read().lines().count(), whole.lines().count());
    }
    let failure = |id: &w2s_core::stage::StageId| Failure {
        kind: w2s_core::error::ErrorKind::Panic,
        stage: id.clone(),
        message: "out of memory".to_owned(),
        help: None,
        log: PathBuf::new(),
    };
    let outcome = Outcome { failed: needed.iter().map(failure).collect(), ..Outcome::default() };
    open.close(&again, &outcome).unwrap();
    assert_eq!(read(), whole);
    assert!(open.notes().iter().any(|note| note.contains("their stages are not there")), "{:?}", open.notes());
    drop(open);
    // Everything made again gives the same bytes, and nothing is left to say.
    run_here(&again, &store);
    let mut open = books(&again, &store, &out);
    open.close(&again, &Outcome::default()).unwrap();
    assert_eq!((read(), open.notes()), (whole, &[][..]));
    assert!(!out.join("earlier").exists());
}

#[test]
fn an_edited_file_is_said_and_not_taken_for_results() {
    let folder = tempfile::tempdir().unwrap();
    let changes = ["methods=finetune,gce", "train.epochs=1"];
    let (plan, store, _) = measured(&changes, folder.path());
    let out = folder.path().join("tiny");
    let [csv, record] = ["results.csv", "grid.json"].map(|name| out.join(name));
    let place = folder.path().to_str().unwrap();
    let grid = "tests/fixtures/tiny/grid.toml";
    let commands = [
        &["table", grid, "--results", place][..],
        &["compare", grid, "--results", place, "--draws", "10"],
        &["figure", grid, "pgr", "--results", place],
        &["analyse", grid, "--results", place],
        &["table", csv.to_str().unwrap(), "--metric", "brier"],
    ];
    let warned = |file: &str| {
        for command in commands {
            let output = said(command, None);
            let warning = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{command:?}: {}", text(&output));
            assert_eq!(
                warning.contains("edited or damaged") && warning.contains(file),
                !file.is_empty(),
                "{command:?}: {warning}"
            );
        }
    };
    warned("");
    let (rows, told) = (fs::read_to_string(&csv).unwrap(), fs::read_to_string(&record).unwrap());
    let at = rows.find(",accuracy,0.").unwrap() + ",accuracy,0.".len();
    let mut edited = rows.clone();
    let digit = if rows.as_bytes()[at] == b'9' { "8" } else { "9" };
    edited.replace_range(at..at + 1, digit);
    fs::write(&csv, &edited).unwrap();
    warned("results.csv");
    // A run writes it anew, and keeps what it was.
    let open = books(&plan, &store, &out);
    assert!(open.notes().iter().any(|note| note.contains("edited") && note.contains("earlier")), "{:?}", open.notes());
    drop(open);
    assert_eq!(fs::read_to_string(&csv).unwrap(), rows);
    let kept = fs::read_dir(out.join("earlier")).unwrap().flatten().next().unwrap();
    assert_eq!(fs::read_to_string(kept.path().join("results.csv")).unwrap(), edited);
    warned("");
    fs::write(&record, told.replacen("Tiny, strong", "Tiny, stronger", 1)).unwrap();
    warned("grid.json");
    // Results of before there were checksums are taken as they are.
    fs::remove_file(out.join("checksums.txt")).unwrap();
    warned("");
    fs::write(&record, "{").unwrap();
    let output = said(commands[0], None);
    assert!(output.status.success() && text(&output).contains("grid.json cannot be read"), "{}", text(&output));
}

#[test]
fn runs_with_other_cells_do_not_share_a_folder_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tiny");
    let plan = |changes: &[&str]| support::plan(&tiny().join("grid.toml"), changes, folder.path()).unwrap();
    let ((first, store), (other, _), (same, _)) = (plan(&[]), plan(&["seeds=0"]), plan(&[]));
    let open = books(&first, &store, &out);
    let refused = Books::open(&other, &out, other.finished(&store).unwrap()).unwrap_err();
    let process = format!("(process {})", std::process::id());
    assert!(refused.message().contains("another run of `tiny`") && refused.message().contains(&process), "{refused}");
    assert!(refused.remedy().unwrap().contains("name="), "{refused:?}");
    let beside = books(&same, &store, &out);
    drop(open);
    assert!(Books::open(&other, &out, other.finished(&store).unwrap()).is_err(), "one of two is still at work");
    drop(beside);
    drop(books(&other, &store, &out));
}

#[test]
fn runs_with_the_same_cells_keep_what_the_other_has_measured() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tiny");
    let plan = || {
        support::plan(&tiny().join("grid.toml"), &["methods=finetune,gce", "train.epochs=1"], folder.path()).unwrap()
    };
    let ((first, store), (second, _)) = (plan(), plan());
    let (mut one, mut two) = (books(&first, &store, &out), books(&second, &store, &out));
    run_here(&first, &store);
    let count = || fs::read_to_string(out.join("results.csv")).unwrap().lines().count();
    let mut lines = 0;
    for (number, id) in first.jobs.keys().enumerate() {
        let (open, plan) = if number % 2 == 0 { (&mut one, &first) } else { (&mut two, &second) };
        open.enter(plan, &store, id).unwrap();
        assert!(count() >= lines, "{id} took lines away");
        lines = count();
    }
    for open in [&mut one, &mut two] {
        open.close(&first, &Outcome::default()).unwrap();
        assert!(count() >= lines);
    }
    drop((one, two));
    let rest = fs::read_to_string(out.join("results.csv")).unwrap();
    fs::remove_file(out.join("results.csv")).unwrap();
    drop(books(&first, &store, &out));
    let whole = fs::read_to_string(out.join("results.csv")).unwrap();
    assert!(rest.lines().all(|line| whole.contains(line.split(",test,").next().unwrap())));
}

#[test]
fn tasks_and_models_of_the_same_content_have_rows_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    support::tiny_copy(folder.path());
    let copy = |kind: &str, from: &str, to: &str| {
        let text = fs::read_to_string(folder.path().join(kind).join(format!("{from}.toml"))).unwrap();
        let text = text.replace(&format!("name = \"{from}\""), &format!("name = \"{to}\""));
        fs::write(folder.path().join(kind).join(format!("{to}.toml")), text).unwrap();
    };
    copy("tasks", "tiny-home", "tiny-again");
    copy("models", "tiny-weak", "weak-again");
    let grid = folder.path().join("grid.toml");
    fs::copy(tiny().join("grid.toml"), &grid).unwrap();
    let pairs = "pairs=[{ weak = \"tiny-weak\", strong = \"tiny-strong\" }, { weak = \"weak-again\", strong = \"tiny-strong\" }]";
    let changes = ["tasks=tiny-home,tiny-again", pairs, "methods=finetune", "seeds=0", "train.epochs=1"];
    let (plan, store) = support::plan(&grid, &changes, folder.path()).unwrap();
    assert_eq!(
        (plan.cells.len(), plan.jobs.len()),
        (4, 6),
        "two pretrained models, a weak one and its labels, a ceiling, a student"
    );
    run_here(&plan, &store);
    drop(books(&plan, &store, &folder.path().join("out")));
    let rows = results::read(&folder.path().join("out/results.csv")).unwrap();
    let students: BTreeSet<(&str, &str)> =
        rows.iter().filter(|row| row.method == "finetune").map(|row| (row.task.as_str(), row.weak.as_str())).collect();
    assert_eq!(students.len(), 4);
    let table = Table::main(&rows, &MainOptions::default()).unwrap().to_csv();
    assert_eq!(table.lines().filter(|line| line.contains(",finetune,")).count(), 2, "{table}");
    // Running it again changes nothing.
    let before = fs::read(folder.path().join("out/results.csv")).unwrap();
    drop(books(&plan, &store, &folder.path().join("out")));
    assert_eq!(fs::read(folder.path().join("out/results.csv")).unwrap(), before);
    assert!(!folder.path().join("out/earlier").exists());
}

#[test]
fn timings_are_csv_whatever_methods_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let changes = ["grid.methods=[\"a, \\\"b\\\"\"]", "method.\"a, \\\"b\\\"\".title=x", "seeds=0", "train.epochs=1"];
    let (plan, store) = support::plan(&tiny().join("grid.toml"), &changes, folder.path()).unwrap();
    run_here(&plan, &store);
    books(&plan, &store, folder.path()).close(&plan, &Outcome::default()).unwrap();
    let timings = fs::read_to_string(folder.path().join("timings.csv")).unwrap();
    assert!(timings.contains(",\"student  tiny-home  a, \"\"b\"\"  seed 0\","), "{timings}");
}

#[test]
fn an_analysis_keeps_pairs_apart_and_leaves_out_what_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let row = |strong: &str, method: &str, value: f64| ResultRow {
        run: "made-up".to_owned(),
        cell: format!("{strong}/{method}"),
        suite: "task".to_owned(),
        task: "task".to_owned(),
        weak: "small".to_owned(),
        strong: strong.to_owned(),
        supervisor: "fine-tuned".to_owned(),
        selector: String::new(),
        refiner: String::new(),
        loss: String::new(),
        method: method.to_owned(),
        seed: 0,
        step: None,
        split: w2s_core::strategy::Split::Test,
        metric: "accuracy".to_owned(),
        value: Some(value),
        n: 100,
        status: results::Status::Ok,
        device: "cpu".to_owned(),
        commit: "x".to_owned(),
        config_hash: "x".to_owned(),
        data_hash: "x".to_owned(),
        truth_used: false,
        schema_version: results::SCHEMA_VERSION,
    };
    let rows = [
        row("large", "mine", 0.61),
        row("large", "ceiling", 0.6),
        row("larger", "mine", 0.5),
        row("larger", "ceiling", 0.4),
    ];
    let path = folder.path().join("results.csv");
    results::write(&path, &rows).unwrap();
    fs::write(folder.path().join("grid.json"), "{\"cells\": []}").unwrap();
    let analyse = |columns: Option<&str>| {
        let output = said(&["analyse", path.to_str().unwrap()], columns);
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let shown = analyse(None);
    for part in ["task, small → large\n", "task, small → larger\n", "60.0", "40.0", "61.0"] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    assert!(!shown.contains("AUROC") && !shown.contains("trusted"), "{shown}");
    for columns in ["20", "33", "60"] {
        let shown = analyse(Some(columns));
        let widest = shown.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= columns.parse().unwrap(), "{widest} of {columns}:\n{shown}");
    }
    for columns in ["20", "60"] {
        let output = said(&["table", path.to_str().unwrap()], Some(columns));
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(shown.lines().all(|line| line.chars().count() <= columns.parse().unwrap()), "{shown}");
    }
}

/// Identities of the stages of P(IK) in a selective grid.
fn stages_of_p_ik(changes: &[&str]) -> w2s_core::Result<BTreeSet<String>> {
    let folder = tempfile::tempdir().unwrap();
    let (plan, _) = support::plan(&tiny().join("selective.toml"), changes, folder.path())?;
    Ok(plan.jobs.iter().filter(|(_, job)| job.stage.kind() == "p-ik").map(|(id, _)| id.to_string()).collect())
}

#[test]
fn settings_of_an_auxiliary_task_are_used() {
    let plain = stages_of_p_ik(&[]).unwrap();
    assert_eq!(plain.len(), 1);
    for change in [
        "task.tiny-food.n_train=40",
        "task.tiny-food.n_test=10",
        "task.tiny-food.max_tokens=20",
        "task.tiny-food.train={ learning_rate = 1e-4 }",
        "task.tiny-food.model.tiny-reader={ train = { batch_size = 8 } }",
        "task.tiny-food.model.tiny-reader={ head = { pooling = \"mean\" } }",
        "task.tiny-food.template={{ prompt }} so",
    ] {
        assert_ne!(stages_of_p_ik(&[change]).unwrap(), plain, "{change}");
    }
    // What a method says itself goes first, and what is said of tasks that are left out is not asked.
    let of_method = stages_of_p_ik(&["p_ik.n_train=40"]).unwrap();
    assert_eq!(stages_of_p_ik(&["p_ik.n_train=40", "task.tiny-food.n_train=30"]).unwrap(), of_method);
    for change in ["task.tiny-food.n_validation=5", "task.tiny-food.ceiling_split=supervise"] {
        let refused = stages_of_p_ik(&[change]).unwrap_err();
        assert!(refused.message().contains("learnt from by P(IK)") && refused.remedy().is_some(), "{refused}");
    }
}
