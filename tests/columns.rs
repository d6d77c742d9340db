//! Columns: numbers of each example, from the grid to the strategies that read them.

use std::{collections::BTreeSet, fs, path::Path};

use w2s_core::{
    grid::Plan,
    learner::argmax,
    stage::{DECISIONS, Labels, Numbers, Predictions, StageId, Store, read_decisions},
    strategy::Split,
};

use crate::{forms, support};

const METHODS: [&str; 4] = [
    "methods=sure,agreed",
    "method.sure.selector={ type = \"judged\", column = \"lm-confidence\", threshold = 0.3 }",
    "method.agreed.selector={ type = \"judged\", column = \"agreement\" }",
    "lm_confidence.shots=0",
];

fn labels(store: &Store, id: &StageId) -> Labels {
    Labels::read(&store.find(id).unwrap().unwrap().folder, Split::Transfer).unwrap()
}

#[test]
fn a_column_says_which_examples_are_learnt_from() {
    let folder = tempfile::tempdir().unwrap();
    let changes = [&METHODS[..], &["agreement.shots=0"]].concat();
    let (plan, store) = support::plan(&support::tiny().join("selective.toml"), &changes, folder.path()).unwrap();
    let of_kind = |kind: &str| -> Vec<&StageId> {
        plan.jobs.iter().filter(|(_, job)| job.stage.kind() == kind).map(|(id, _)| id).collect()
    };
    // Both ask the same model in the same words: it answers once.
    assert_eq!(["answers", "lm-confidence", "agreement"].map(|kind| of_kind(kind).len()), [1, 1, 1]);
    support::run_here(&plan, &store);
    let numbers = |kind: &str| -> Vec<f32> {
        let stage = store.find(of_kind(kind)[0]).unwrap().unwrap();
        Predictions::read(&stage.file("transfer.csv")).unwrap().rows().iter().map(|row| row[1]).collect()
    };
    let own = labels(&store, of_kind("answers")[0]).into_soft().unwrap();
    let weak = labels(&store, &plan.cells[0].supervision).into_soft().unwrap();
    let sure: Vec<f32> = own.iter().map(|row| row.iter().copied().fold(0.0, f32::max)).collect();
    assert_eq!(numbers("lm-confidence"), sure);
    let agreed: Vec<f32> = own.iter().zip(&weak).map(|(own, weak)| f32::from(argmax(own) == argmax(weak))).collect();
    assert_eq!(numbers("agreement"), agreed);
    for (cell, column, threshold) in [(&plan.cells[0], &sure, 0.3), (&plan.cells[1], &agreed, 0.5)] {
        let student = store.find(&cell.student).unwrap().unwrap();
        let decisions = read_decisions(&student.file(DECISIONS)).unwrap();
        let kept: BTreeSet<u32> =
            decisions.iter().filter(|choice| choice.weight > 0.0).map(|choice| choice.row).collect();
        let above = (0..).zip(column).filter(|(_, number)| **number > threshold).map(|(row, _)| row);
        assert_eq!(kept, above.collect());
        assert!(!kept.is_empty());
    }
}

#[test]
fn what_is_wrong_with_a_column_is_said_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |changes: &[&str]| {
        let changes = [&METHODS[..], changes].concat();
        support::plan(&support::tiny().join("selective.toml"), &changes, folder.path()).unwrap_err()
    };
    let unknown = refused(&["method.sure.selector.column=lm-confidance"]);
    assert!(unknown.message().contains("reads the column `lm-confidance`"), "{unknown}");
    assert!(unknown.remedy().is_some_and(|help| help.contains("`lm-confidence`")), "{unknown}");
    let key = refused(&["agreement.shot=2"]);
    assert!(key.message().contains("unknown key `shot`"), "{key}");
    // An encoder cannot be asked.
    let mute = refused(&[
        "grid.pairs=[{ weak = \"tiny-weak\", strong = \"mute\" }]",
        "model.mute.pretrain={ world = \"tiny\", config = { model_type = \"bert\", hidden_size = 8, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 16, max_position_embeddings = 24, type_vocab_size = 2 } }",
    ]);
    assert!(mute.remedy().is_some(), "{mute}");
}

fn of_kind<'a>(plan: &'a Plan, kind: &str) -> Vec<&'a StageId> {
    plan.jobs.iter().filter(|(_, job)| job.stage.kind() == kind).map(|(id, _)| id).collect()
}

fn column(store: &Store, id: &StageId) -> Vec<f32> {
    let stage = store.find(id).unwrap().unwrap();
    Predictions::read(&stage.file("transfer.csv")).unwrap().rows().iter().map(|row| row[1]).collect()
}

#[test]
fn votes_are_those_of_whom_the_supervisor_asked() {
    let folder = tempfile::tempdir().unwrap();
    let changes = [
        "methods=counted",
        "method.counted.supervisor={ type = \"ensemble\", copies = 3, rows = \"bagged\", combine = \"majority\" }",
        "method.counted.selector={ type = \"judged\", column = \"votes\", threshold = 0.9 }",
    ];
    let (plan, store) = support::plan(&support::tiny().join("selective.toml"), &changes, folder.path()).unwrap();
    support::run_here(&plan, &store);
    let weak = labels(&store, &plan.cells[0].supervision);
    let members = of_kind(&plan, "fine-tune").into_iter().filter(|id| **id != plan.cells[0].ceiling);
    let agree: Vec<Vec<bool>> = members.map(|id| labels(&store, id).agree(&weak)).collect();
    assert_eq!(agree.len(), 3);
    let votes = column(&store, of_kind(&plan, "votes")[0]);
    let counted = |row: usize| agree.iter().filter(|agree| agree[row]).count();
    assert_eq!(votes, (0..weak.len()).map(|row| counted(row) as f32 / 3.0).collect::<Vec<f32>>());
    let student = store.find(&plan.cells[0].student).unwrap().unwrap();
    let decisions = read_decisions(&student.file(DECISIONS)).unwrap();
    assert!(decisions.iter().all(|choice| (choice.weight > 0.0) == (counted(choice.row as usize) == 3)));

    // Of a suite each task has voters of its own.
    let changes = [changes[0], changes[1], "method.counted.votes={}"];
    let (plan, store) = support::plan(&support::tiny().join("suite.toml"), &changes, folder.path()).unwrap();
    for job in plan.jobs.values().filter(|job| job.stage.kind() != "student" && job.stage.kind() != "portion") {
        job.stage.make(&support::bench(&plan, &store)).unwrap();
    }
    let mut expected = Vec::new();
    for cell in &plan.cells {
        let reads = plan.jobs[&cell.supervision].reads.iter();
        let voters = reads.filter(|id| id.as_str().starts_with("fine-tune")).map(|id| labels(&store, id));
        let weak = labels(&store, &cell.supervision);
        let agree: Vec<Vec<bool>> = voters.map(|voter| voter.agree(&weak)).collect();
        assert_eq!(agree.len(), 3);
        let share = |row: usize| agree.iter().filter(|agree| agree[row]).count() as f32 / 3.0;
        expected.extend((0..weak.len()).map(share));
    }
    assert_eq!(column(&store, of_kind(&plan, "votes")[0]), expected);
    assert!(plan.cells.len() == 2 && expected.iter().any(|share| *share > 0.0), "{expected:?}");

    // One alone is no vote.
    let alone = ["methods=mine", "method.mine.votes={}"];
    let refused = support::plan(&support::tiny().join("words.toml"), &alone, folder.path()).map(drop).unwrap_err();
    assert!(refused.message().contains("one alone is no vote") && refused.remedy().is_some(), "{refused}");
}

#[test]
fn votes_may_be_drawn_answers() {
    for (grid, form) in [("selective.toml", "shares"), ("words.toml", "texts")] {
        let folder = tempfile::tempdir().unwrap();
        // The supervisor's answer is the likeliest of the model whose answers are drawn, which so are often the same.
        let changes = [
            "methods=drawn",
            "grid.pairs=[{ weak = \"tiny-reader\", strong = \"tiny-reader\" }]",
            "method.drawn.supervisor={ type = \"prompted\", shots = 0 }",
            "method.drawn.votes={ by = \"samples\", samples = 4, shots = 0 }",
        ];
        let (plan, store) = support::plan(&support::tiny().join(grid), &changes, folder.path()).unwrap();
        support::run_here(&plan, &store);
        let weak = labels(&store, &plan.cells[0].supervision);
        // Beside it stand the supervisor's own answers, of which none is drawn.
        let answers = of_kind(&plan, "answers").into_iter().map(|id| store.find(id).unwrap().unwrap());
        let draws = answers.map(|answers| answers.folder.join("draws")).find(|draws| draws.exists()).unwrap();
        let drawn = Labels::read(&draws, Split::Transfer).unwrap();
        let expected: Vec<f32> = match (&drawn, &weak) {
            (Labels::Soft(shares), Labels::Soft(weak)) => {
                shares.iter().zip(weak).map(|(shares, weak)| shares[argmax(weak)]).collect()
            }
            (Labels::Texts(drawn), Labels::Texts(weak)) => {
                assert_eq!(drawn.len(), 4 * weak.len());
                let same = |own: &[w2s_core::stage::Answer], weak: &w2s_core::stage::Answer| {
                    own.iter().filter(|own| own.answer.same(&weak.answer)).count() as f32 / 4.0
                };
                drawn.chunks(4).zip(weak).map(|(own, weak)| same(own, weak)).collect()
            }
            _ => panic!("{form}"),
        };
        assert_eq!(column(&store, of_kind(&plan, "votes")[0]), expected);
        assert!(expected.iter().any(|share| *share > 0.0) && expected.iter().any(|share| *share < 1.0), "{form}");
    }
}

/// The grid of candidates, with pairs alone.
fn pairs(folder: &Path) -> std::path::PathBuf {
    let grid = forms::choosing(folder);
    let task = forms::TASK.replace("tiny-choose", "tiny-pairs") + "\n[compute]\nnothing = \"0\"\n";
    let task = task.replace("template =", "filter = \"wrong | length == 1\"\ntemplate =");
    fs::write(folder.join("tasks/tiny-pairs.toml"), task).unwrap();
    grid
}

#[test]
fn a_field_of_the_data_is_a_column_and_a_margin() {
    let folder = tempfile::tempdir().unwrap();
    let grid = pairs(folder.path());
    let changes = [
        "tasks=tiny-pairs",
        "methods=finetune,margin,none,rated",
        "field={ name = \"gap\", absolute = true }",
        "method.none.loss.type=margin",
        "method.none.field.name=nothing",
        "method.rated.selector={ type = \"judged\", column = \"field\", threshold = 1.5 }",
        "train.learning_rate=1e-3",
    ];
    let (plan, store) = support::plan(&grid, &changes, folder.path()).unwrap();
    support::run_here(&plan, &store);
    let [plain, margin, none, rated] = [0, 1, 2, 3].map(|cell| store.find(&plan.cells[cell].student).unwrap().unwrap());
    let data = plan.cells[0].data.read(&store).unwrap();
    let gap = |row: u32| -> f32 { [1.0_f32, -1.0][row as usize % 2] * (row % 4) as f32 };
    let gaps: Vec<f32> = data.transfer.iter().map(|example| gap(example.source_row).abs()).collect();
    let field = store.find(
        &plan.jobs[&plan.cells[1].student].reads.iter().find(|id| id.as_str().starts_with("field")).unwrap().clone(),
    );
    assert_eq!(Numbers::read(&field.unwrap().unwrap().folder).unwrap().0, gaps);
    let first = |stage: &w2s_core::stage::Finished| -> Vec<f64> {
        let text = fs::read_to_string(stage.file("log.csv")).unwrap();
        text.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect()
    };
    // No score is ahead at first: each pair costs log(1 + e^m), whoever won.
    let expected = gaps[..16].iter().map(|gap| (1.0 + f64::from(*gap).exp()).ln()).sum::<f64>() / 16.0;
    assert!((first(&margin)[0] - expected).abs() < 1e-5, "{} {expected}", first(&margin)[0]);
    // Without a margin it is cross-entropy.
    let (none, plain) = (first(&none), first(&plain));
    assert_eq!(none[0], plain[0]);
    assert!(none.iter().zip(&plain).all(|(one, other)| (one - other).abs() < 1e-4), "{none:?} {plain:?}");
    let decisions = read_decisions(&rated.file(DECISIONS)).unwrap();
    assert!(decisions.iter().all(|choice| (choice.weight > 0.0) == (gaps[choice.row as usize] > 1.5)));
    // The same again is remembered, and another field is another student.
    let (again, _) = support::plan(&grid, &changes, folder.path()).unwrap();
    assert_eq!(again.cells[1].student, plan.cells[1].student);
    assert_ne!(plan.cells[1].student, plan.cells[2].student);

    // The sign would say who is right.
    let signed = [&changes[..], &["field.absolute=false"]].concat();
    let refused = support::plan(&grid, &signed, folder.path()).map(drop).unwrap_err();
    for part in ["method `margin`", "the loss", "the margin of example", "absolute = true"] {
        assert!(refused.to_string().contains(part), "{refused}");
    }
}

#[test]
fn a_field_without_numbers_is_refused_with_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let grid = pairs(folder.path());
    let refused = |grid: &Path, changes: &[&str]| {
        let changes = [&["methods=rated", "method.rated.field={}"][..], changes].concat();
        let error = support::plan(grid, &changes, folder.path()).map(drop).unwrap_err();
        assert!(error.remedy().is_some() && error.place().is_some(), "{error}");
        error.to_string()
    };
    let of = |name: &str| refused(&grid, &["tasks=tiny-pairs", &format!("field.name={name}")]);
    let holes = of("holes");
    assert!(holes.contains("line 4: column `holes` has no value") && holes.contains("choices-train.jsonl"), "{holes}");
    assert!(of("question").contains("which is no number"));
    assert!(of("gapp").contains("did you mean `gap`?"));
    assert!(refused(&grid, &["tasks=tiny-pairs"]).contains("nothing says which"));
    let truth = refused(&support::tiny().join("grid.toml"), &["field.name=class"]);
    assert!(truth.contains("told the truth"), "{truth}");
    // Two candidates are a pair, three are not.
    let three = refused(&grid, &["method.rated.loss.type=margin", "field.name=gap"]);
    assert!(three.contains("two classes"), "{three}");
}

#[test]
fn a_suite_may_have_a_judge_for_each_task() {
    let folder = tempfile::tempdir().unwrap();
    let changes = [
        "methods=two-stage,left-out",
        "agrees.per=task",
        "method.left-out.selector={ type = \"judged\", threshold = 0.0 }",
        "method.left-out.without=[\"tiny-food-words\"]",
    ];
    let (plan, store) = support::plan(&support::tiny().join("suite.toml"), &changes, folder.path()).unwrap();
    support::run_here(&plan, &store);
    // Two for the suite, and another one where a task is left out.
    let judges = of_kind(&plan, "judge");
    assert_eq!(judges.len(), 3);
    let tasks: BTreeSet<String> = judges.iter().map(|id| plan.jobs[*id].stage.title()).collect();
    assert_eq!(tasks.len(), 2, "{tasks:?}");
    let numbers = |student: &StageId| -> Vec<f32> {
        let reads = &plan.jobs[student].reads;
        let gather = reads.iter().find(|id| {
            plan.jobs.get(*id).is_some_and(|job| {
                job.stage.kind() == "gather" && job.reads.iter().any(|id| id.as_str().starts_with("judge"))
            })
        });
        column(&store, gather.unwrap())
    };
    let students =
        of_kind(&plan, "student").into_iter().filter(|id| plan.jobs[*id].stage.title().starts_with("student  "));
    let of: Vec<Vec<f32>> = students.map(numbers).collect();
    assert_eq!(of.len(), 2);
    // What the two judges say stands task behind task.
    let both: Vec<f32> = judges.iter().take(2).flat_map(|id| column(&store, id)).collect();
    assert_eq!(of[0], both);
    assert_eq!(of[1].len(), column(&store, judges[2]).len());
    // Alone, a task's judge is the one that it always was.
    let alone = |change: &str| {
        let (plan, _) =
            support::plan(&support::tiny().join("words.toml"), &["methods=two-stage", change], folder.path()).unwrap();
        plan.cells[0].student.clone()
    };
    assert_eq!(alone("agrees.per=task"), alone("agrees.per=suite"));
}
