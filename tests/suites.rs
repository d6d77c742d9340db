//! Suites: one student on several tasks, measured on each.

use std::{collections::BTreeSet, fs, path::Path};

use w2s_core::{
    grid::{Cell, Plan, results::Books},
    report::results::{self, ResultRow},
    stage::{DECISIONS, Labels, Store, Truth, judged_file, read_decisions},
    strategy::Split,
    task::TaskData,
};

use crate::support;

const TASKS: [&str; 2] = ["tiny-home-words", "tiny-food-words"];

fn cell<'a>(plan: &'a Plan, task: &str, method: &str) -> &'a Cell {
    let (tasks, methods) = (&plan.grid.tasks, &plan.grid.methods);
    let of = |cell: &&Cell| tasks[cell.task].name() == task && methods[cell.method].name == method;
    plan.cells.iter().find(of).unwrap()
}

fn reads<'a>(plan: &'a Plan, stage: &w2s_core::stage::StageId, kind: &str) -> Vec<&'a w2s_core::stage::StageId> {
    plan.jobs[stage].reads.iter().filter(|id| id.as_str().starts_with(kind)).collect()
}

fn rows(plan: &Plan, store: &Store, folder: &Path) -> Vec<ResultRow> {
    Books::open(plan, folder, plan.finished(store).unwrap()).unwrap();
    results::read(&folder.join("results.csv")).unwrap()
}

#[test]
fn one_student_learns_every_task_of_a_suite() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, store) = support::plan(&support::tiny().join("suite.toml"), &[], folder.path()).unwrap();
    support::run_here(&plan, &store);
    let folder_of = |id| store.find(id).unwrap().unwrap().folder;
    let labels = |id, split| Labels::read(&folder_of(id), split).unwrap();
    let data = TASKS.map(|task| TaskData::read(&folder_of(&cell(&plan, task, "finetune").data.stage)).unwrap());

    // The union has the examples of both, and its weak labels are those of both.
    let [home, food] = TASKS.map(|task| cell(&plan, task, "finetune"));
    let student = reads(&plan, &home.student, "student")[0];
    assert_eq!(reads(&plan, &food.student, "student"), [student], "one student");
    let union = reads(&plan, student, "data")[0];
    let union = TaskData::read(&folder_of(union)).unwrap();
    for (part, ((name, all), (one, other))) in
        union.parts().into_iter().zip(data[0].parts().into_iter().zip(data[1].parts())).enumerate()
    {
        assert_eq!(all.as_slice(), [one.1.as_slice(), other.1.as_slice()].concat(), "{name}");
        assert_eq!(union.portions.iter().map(|portion| portion.rows[part]).sum::<usize>(), all.len());
    }
    let gathered = reads(&plan, student, "gather")[0];
    let texts = |labels: &Labels| labels.texts().unwrap().to_vec();
    let weak = [home, food].map(|cell| texts(&labels(&cell.supervision, Split::Transfer)));
    assert_eq!(texts(&labels(gathered, Split::Transfer)), weak.concat());

    // What it says of each task is what it said of its rows, read by that task's own rules.
    let said = texts(&labels(student, Split::Test));
    let own = [home, food].map(|cell| texts(&labels(&cell.student, Split::Test)));
    assert_eq!(said, own.concat());
    for (data, own) in data.iter().zip(&own) {
        let matcher = data.matcher().unwrap().unwrap();
        assert!(own.iter().all(|answer| answer.answer == matcher.answer(&answer.raw)));
    }
    let ending = |answers: &[w2s_core::stage::Answer]| answers.iter().any(|answer| answer.answer.text.ends_with('s'));
    assert!(!ending(&own[1]) && own[1].iter().any(|answer| answer.raw.trim().ends_with('s')));

    // Alone, everything is what it is in a grid of single tasks.
    let grid = support::tiny().join("words.toml");
    let apart = ["method.x.loss.type=cross-entropy", "methods=x", "train.epochs=6"];
    let (single, _) = support::plan(&grid, &apart, folder.path()).unwrap();
    let alone = cell(&plan, TASKS[0], "alone");
    assert_eq!(alone.student, single.cells[0].student);
    assert_eq!((&alone.supervision, alone.suite.as_deref()), (&single.cells[0].supervision, None));
    assert_ne!(alone.ceiling, single.cells[0].ceiling, "the ceiling is that of the suite");
    let each = support::plan(&support::tiny().join("suite.toml"), &["suite.tiny-words.ceiling=each"], folder.path());
    assert_eq!(cell(&each.unwrap().0, TASKS[0], "alone").ceiling, single.cells[0].ceiling);

    // Without a task, the student is not trained on it and asked about it all the same.
    let without = cell(&plan, TASKS[1], "without");
    let student = reads(&plan, &without.student, "student")[0];
    let rest = TaskData::read(&folder_of(reads(&plan, student, "data")[0])).unwrap();
    assert_eq!(rest.transfer, data[0].transfer);
    assert_eq!(rest.test, union.test);
    assert_eq!(labels(&without.student, Split::Test).len(), data[1].test.len());

    // Weakened, one task has another supervisor and the others theirs.
    let weakened = TASKS.map(|task| cell(&plan, task, "weakened"));
    assert_eq!(weakened[0].supervision, home.supervision);
    assert_ne!(weakened[1].supervision, food.supervision);

    // Relabelled, it learns what a plain student of the suite says.
    let relabelled = cell(&plan, TASKS[0], "relabelled");
    let kept = labels(relabelled.answers.as_ref().unwrap(), Split::Test);
    assert_eq!(texts(&kept), own[0], "the plain student that is kept answers as the one that is not");

    let rows = rows(&plan, &store, &folder.path().join("suite"));
    let truth = |task: usize| Truth::of(&data[task], Split::Test).unwrap();
    for (place, task) in TASKS.into_iter().enumerate() {
        for method in &plan.grid.methods {
            let right = labels(&cell(&plan, task, &method.name).student, Split::Test).right(&truth(place));
            let share = right.iter().filter(|right| **right).count() as f64 / right.len() as f64;
            let of = |row: &&ResultRow| row.task == task && row.method == method.name && row.metric == "accuracy";
            let row = rows.iter().find(of).unwrap();
            assert_eq!(row.value, Some(share), "{task} {}", method.name);
            assert_eq!(row.suite, if method.together { "tiny-words" } else { task });
        }
    }
    let of = |method: &str| -> Vec<(&str, &str)> {
        let of = rows.iter().filter(|row| row.method == method && row.metric == "accuracy");
        of.map(|row| (row.task.as_str(), row.suite.as_str())).collect()
    };
    assert_eq!(of("weak"), TASKS.map(|task| (task, task)));
    assert_eq!(of("ceiling"), TASKS.map(|task| (task, "tiny-words")));
    assert_eq!(of("weak: fine-tuned model=tiny-hasty"), [(TASKS[1], TASKS[1])]);
    // Of words and of each task, what a judge let pass is told.
    let kept = rows.iter().filter(|row| row.method == "two-stage" && row.metric == "kept");
    assert_eq!(kept.map(|row| row.task.as_str()).collect::<Vec<_>>(), TASKS);
    assert!(plan.pending(&plan.finished(&store).unwrap(), true).is_empty());

    // What it decided of a task is measured before the labels that it decided on have been taken out for that task.
    fs::remove_dir_all(folder_of(relabelled.answers.as_ref().unwrap())).unwrap();
    let early = self::rows(&plan, &store, &folder.path().join("early"));
    let of = |row: &&ResultRow| row.task == TASKS[0] && row.method == "relabelled" && row.metric == "accuracy";
    assert_eq!(early.iter().filter(of).count(), 1);
}

#[test]
fn what_is_known_and_decided_is_told_task_by_task() {
    let folder = tempfile::tempdir().unwrap();
    let changes = ["~grid.tasks", "grid.suites=[\"tiny-classes\"]", "p_ik.allow_leakage=true"];
    let (plan, store) = support::plan(&support::tiny().join("selective.toml"), &changes, folder.path()).unwrap();
    support::run_here(&plan, &store);
    let [home, food] = ["tiny-home", "tiny-food"].map(|task| cell(&plan, task, "mine"));
    let finished = |id| store.find(id).unwrap().unwrap();
    let whole = read_decisions(&finished(reads(&plan, &home.student, "student")[0]).file(DECISIONS)).unwrap();
    let mut seen = 0;
    for cell in [home, food] {
        let own = read_decisions(&finished(&cell.student).file(DECISIONS)).unwrap();
        let places: BTreeSet<u32> = own.iter().map(|choice| choice.row).collect();
        assert!(places.len() == own.len() && places.iter().all(|row| (*row as usize) < cell.data.examples["transfer"]));
        for choice in &own {
            let there = whole.iter().find(|there| there.row == choice.row + seen).unwrap();
            assert_eq!((there.own, &there.refined, &there.columns), (choice.own, &choice.refined, &choice.columns));
        }
        seen += cell.data.examples["transfer"] as u32;
        let p_ik = fs::read_to_string(finished(&cell.student).file(&judged_file("p-ik"))).unwrap();
        assert_eq!(p_ik.lines().count(), cell.data.examples["test"] + 1);
    }
    let rows = rows(&plan, &store, &folder.path().join("selective"));
    for task in ["tiny-home", "tiny-food"] {
        for metric in ["accuracy", "pgr", "p_ik_auroc", "coverage"] {
            let of = |row: &&ResultRow| row.task == task && row.method == "mine" && row.metric == metric;
            assert!(rows.iter().any(|row| of(&row)), "{task} {metric}");
        }
        // P(IK) is learnt from the truth of one task, and the student of both has learnt from P(IK).
        assert!(
            rows.iter().filter(|row| row.task == task).all(|row| row.truth_used == (row.method == "mine")),
            "{task}"
        );
    }
}

#[test]
fn suites_that_cannot_be_are_refused_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    support::tiny_copy(folder.path());
    let suite = |name: &str, text: &str| fs::write(folder.path().join(format!("suites/{name}.toml")), text).unwrap();
    suite("itself", "tasks = [\"tiny-home\", \"itself\"]\n");
    suite("one", "tasks = [\"tiny-home\"]\n");
    suite("mixed", "title = \"x\"\ntasks = [\"tiny-home\", \"tiny-food-words\"]\n");
    suite("unknown", "tasks = [\"tiny-home\", \"tiny-hom\"]\n");
    suite("twice", "tasks = [\"tiny-home\", \"tiny-home\"]\n");
    suite("none", "tasks = []\n");
    suite("tiny-food", "tasks = [\"tiny-home\", \"tiny-home-words\"]\n");
    suite("odd", "tasks = [\"tiny-home\", \"tiny-food\"]\nceiling = \"none\"\n");
    suite("key", "tasks = [\"tiny-home\", \"tiny-food\"]\nstudents = 2\n");
    let base = |head: &str, rest: &str| {
        format!("[grid]\n{head}\npairs = [{{ weak = \"tiny-weak\", strong = \"tiny-hasty\" }}]\n{rest}")
    };
    let plain = "methods = [\"gce\"]\n";
    for (head, rest, place, said) in [
        ("suites = [\"itself\"]", plain, "itself.toml:1:", "cannot hold itself"),
        ("suites = [\"one\"]", plain, "one.toml:1:", "is that task"),
        ("suites = [\"mixed\"]", plain, "mixed.toml:2:", "have one form"),
        ("suites = [\"unknown\"]", plain, "unknown.toml:1:", "there is no task `tiny-hom`"),
        ("suites = [\"twice\"]", plain, "twice.toml:1:", "stands twice"),
        ("suites = [\"none\"]", plain, "none.toml:1:", "is empty"),
        ("suites = [\"tiny-food\"]\ntasks = [\"tiny-food\"]", plain, "tiny-food.toml", "name of a task"),
        ("suites = [\"odd\"]", plain, "odd.toml:2:", "unknown variant `none`"),
        ("suites = [\"key\"]", plain, "key.toml:2:", "students"),
        ("suites = [\"tiny-classe\"]", plain, "grid.toml:2:", "there is no suite `tiny-classe`"),
        ("suites = []", plain, "grid.toml:2:", "is empty"),
        ("suites = [\"tiny-classes\"]\ntasks = [\"tiny-food\"]", plain, "tiny-classes.toml:2:", "in this grid already"),
        (
            "suites = [\"tiny-classes\"]",
            "methods = [\"m\"]\n[method.m]\nwithout = [\"tiny-home\", \"tiny-food\"]\n",
            "grid.toml:6:",
            "nothing of `tiny-classes` is left",
        ),
        (
            "suites = [\"tiny-classes\"]",
            "methods = [\"m\"]\n[method.m]\nwithout = [\"tiny-hom\"]\n",
            "grid.toml:6:",
            "is no task of this grid",
        ),
        (
            "suites = [\"tiny-classes\"]",
            "methods = [\"m\"]\n[method.m]\ntogether = false\nwithout = [\"tiny-home\"]\n",
            "grid.toml:7:",
            "trains each task alone",
        ),
        (
            "tasks = [\"tiny-home\"]",
            "methods = [\"m\"]\n[method.m]\nwithout = [\"tiny-food\"]\n",
            "grid.toml:6:",
            "this grid has none",
        ),
        (
            "suites = [\"tiny-classes\"]",
            "methods = [\"m\"]\n[method.m]\nsupervisors = { tiny-hone = { type = \"ground-truth\" } }\n",
            "grid.toml:6:",
            "is no task of this grid",
        ),
        (
            "suites = [\"tiny-classes\"]",
            "methods = [\"m\"]\n[method.m]\nsupervisors = { tiny-home = { type = \"ground-truht\" } }\n",
            "grid.toml:6:",
            "there is no supervisor",
        ),
        (
            "suites = [\"tiny-classes\"]",
            "methods = [\"m\"]\n[method.m]\nselector = { type = \"p-ik\" }\n[p_ik]\ntask = \"evaluated\"\nallow_leakage = true\n",
            "grid.toml",
            "is several tasks",
        ),
        (
            "suites = [\"tiny-classes\"]",
            "methods = [\"gce\"]\n[suite.tiny-clases]\nceiling = \"each\"\n",
            "grid.toml:5:",
            "there is no suite",
        ),
        (
            "suites = [\"tiny-classes\"]",
            "methods = [\"gce\"]\n[suite.tiny-classes]\nepochs = 2\n",
            "grid.toml:6:",
            "epochs",
        ),
        (
            "suites = [\"tiny-classes\"]",
            "methods = [\"gce\"]\n[suite.tiny-classes.train]\nepochs = 0\n",
            "grid.toml:6:",
            "epochs",
        ),
    ] {
        let grid = folder.path().join("grid.toml");
        fs::write(&grid, base(head, rest)).unwrap();
        let error = support::plan(&grid, &[], folder.path()).err().unwrap_or_else(|| panic!("{head} {rest}: accepted"));
        let error = error.to_string();
        assert!(error.contains(said) && error.contains(place), "{head} {rest}\nexpected {place} {said}\n{error}");
        let helped = error.contains("hint: ")
            || ["must be", "stands twice", "is empty", "unknown", "expected"]
                .iter()
                .any(|remedy| error.contains(remedy));
        assert!(helped, "{error}");
    }
}
