//! Supervisors that ask for more than the pair's weak model: what their labels are made of, what enters identities, and what is refused.

use std::{collections::BTreeSet, fs, path::Path};

use w2s_core::{
    Error,
    grid::{Cell, Plan},
    stage::{Labels, Predictions, Stage, StageId, Store, Truth, kinds::teach::Teach},
    strategy::Split,
    task::TaskData,
};

use crate::support;

type Rows = Vec<Vec<f32>>;

/// A tiny grid whose methods differ in their supervisors. Its training has several steps: after the first step of Adam only signs would show.
fn grid(supervisors: &[(&str, &str)], more: &str, folder: &Path) -> Result<(Plan, Store), Error> {
    support::tiny_copy(folder);
    let names: Vec<String> = supervisors.iter().map(|(name, _)| format!("{name:?}")).collect();
    let methods = supervisors.iter().map(|(name, by)| format!("[method.{name}]\nsupervisor = {by}\n"));
    let text = format!(
        "[grid]\nname = \"asked\"\ntasks = [\"tiny-home\"]\npairs = [{{ weak = \"tiny-weak\", strong = \"tiny-hasty\" }}]\n\
         methods = [{}]\nseeds = [0]\n[train]\nepochs = 3\nbatch_size = 8\n{more}\n{}",
        names.join(", "),
        methods.collect::<String>()
    );
    let path = folder.join("asked.toml");
    fs::write(&path, text).unwrap();
    support::plan(&path, &[], folder)
}

fn cell<'a>(plan: &'a Plan, method: &str) -> &'a Cell {
    plan.cells.iter().find(|cell| plan.grid.methods[cell.method].name == method).unwrap()
}

fn labels(store: &Store, cell: &Cell, split: Split) -> Rows {
    let stage = store.find(&cell.supervision).unwrap().unwrap();
    Predictions::read(&stage.file(&Predictions::file(split))).unwrap().into_rows()
}

/// A file with a label for every example of the transfer and the test split: the truth, but for every third.
fn label_file(data: &TaskData) -> String {
    let lines = [("transfer", &data.transfer), ("test", &data.test)].into_iter().flat_map(|(split, part)| {
        data.ids(split, part).into_iter().zip(part).enumerate().map(|(place, (id, example))| {
            let label = usize::from(example.label) ^ usize::from(place % 3 == 0);
            format!("{id},{},0.75\n", data.class_names[label])
        })
    });
    format!("id,label,confidence\n{}", lines.collect::<String>())
}

/// Stages of a kind.
fn stages(plan: &Plan, kind: &str) -> usize {
    plan.jobs.values().filter(|job| job.stage.kind() == kind).count()
}

/// The mean of some stages' labels of a split.
fn mean_of(store: &Store, ids: &[&StageId], split: Split) -> Rows {
    let read = |id: &&StageId| {
        Predictions::read(&store.find(id).unwrap().unwrap().file(&Predictions::file(split))).unwrap().into_rows()
    };
    let all: Vec<Rows> = ids.iter().map(read).collect();
    let mean = |row: usize, class: usize| {
        (all.iter().map(|rows| f64::from(rows[row][class])).sum::<f64>() / all.len() as f64) as f32
    };
    (0..all[0].len()).map(|row| (0..all[0][row].len()).map(|class| mean(row, class)).collect()).collect()
}

#[test]
fn copies_have_seeds_of_their_own_and_the_first_is_the_weak_model() {
    let folder = tempfile::tempdir().unwrap();
    let by = [("one", "{ type = \"fine-tuned\" }"), ("three", "{ type = \"fine-tuned\", copies = 3 }")];
    let (plan, store) = grid(&by, "", folder.path()).unwrap();
    let (alone, _) = grid(&by[..1], "", folder.path()).unwrap();
    assert_eq!(cell(&plan, "one").id(), cell(&alone, "one").id());
    // The weak model, two more, and the ceiling.
    assert_eq!(stages(&plan, "fine-tune"), 4);
    support::run_here(&plan, &store);
    let ids: Vec<&StageId> = plan.jobs[&cell(&plan, "three").supervision]
        .reads
        .iter()
        .filter(|id| id.as_str().starts_with("fine-tune"))
        .collect();
    assert_eq!(ids.len(), 3);
    assert_eq!(labels(&store, cell(&plan, "one"), Split::Transfer), mean_of(&store, &ids[..1], Split::Transfer));
    for split in [Split::Transfer, Split::Test] {
        assert_eq!(labels(&store, cell(&plan, "three"), split), mean_of(&store, &ids, split));
        assert_ne!(mean_of(&store, &ids[..1], split), mean_of(&store, &ids[1..2], split));
        assert_ne!(mean_of(&store, &ids[2..], split), mean_of(&store, &ids[1..2], split));
    }
    let none = grid(&[("none", "{ type = \"fine-tuned\", copies = 0 }")], "", folder.path()).unwrap_err();
    assert!(none.message().contains("`copies` must be between 1 and 1000, not 0"), "{none}");
}

#[test]
fn members_are_copies_bags_and_models() {
    let folder = tempfile::tempdir().unwrap();
    let by = [
        ("copies", "{ type = \"fine-tuned\", copies = 2 }"),
        ("same", "{ type = \"ensemble\", copies = 2 }"),
        ("bagged", "{ type = \"ensemble\", copies = 2, rows = \"bagged\", combine = \"majority\" }"),
        ("mixed", "{ type = \"ensemble\", copies = 1, models = [\"weak\", \"tiny-reader\"] }"),
    ];
    let (plan, store) = grid(&by, "", folder.path()).unwrap();
    let (plain, _) = grid(&by[..1], "", folder.path()).unwrap();
    assert_eq!(cell(&plan, "copies").id(), cell(&plain, "copies").id(), "a further model moves no identity");
    // Two copies, two bags, the named model, the ceiling.
    assert_eq!(stages(&plan, "fine-tune"), 6);
    support::run_here(&plan, &store);
    let of = |method: &str| -> Vec<&StageId> {
        let reads = &plan.jobs[&cell(&plan, method).supervision].reads;
        reads.iter().filter(|id| id.as_str().starts_with("fine-tune")).collect()
    };
    assert_eq!(of("copies"), of("same"));
    assert_eq!(labels(&store, cell(&plan, "mixed"), Split::Test), mean_of(&store, &of("mixed"), Split::Test));
    assert_eq!(of("mixed")[0], of("copies")[0]);
    let bags = of("bagged");
    assert_ne!(mean_of(&store, &bags[..1], Split::Test), mean_of(&store, &of("same")[..1], Split::Test));
    assert_ne!(mean_of(&store, &bags[..1], Split::Test), mean_of(&store, &bags[1..], Split::Test));
    assert!(labels(&store, cell(&plan, "bagged"), Split::Test).iter().all(|label| label.contains(&1.0)));

    // The weights of a named model are in the identity of the labels, whatever it is called.
    let named = |model: &str| {
        let more = format!("[model.other]\n{}\n", model);
        let by = [("named", "{ type = \"ensemble\", copies = 1, models = [\"other\"] }")];
        grid(&by, &more, folder.path()).map(|(plan, _)| cell(&plan, "named").supervision.clone())
    };
    let pretrain = fs::read_to_string(folder.path().join("models/tiny-weak.toml")).unwrap();
    let pretrain = pretrain
        .lines()
        .skip_while(|line| !line.starts_with("[pretrain]"))
        .take_while(|line| !line.starts_with("[train]"))
        .collect::<Vec<_>>()
        .join("\n");
    let pretrain = pretrain.replace("[pretrain", "[model.other.pretrain");
    let first = named(&pretrain).unwrap();
    assert_eq!(first, named(&pretrain).unwrap());
    assert_ne!(
        first,
        named(&pretrain.replacen("[model.other.pretrain]", "[model.other.pretrain]\nseed = 9", 1)).unwrap()
    );
    let unknown =
        grid(&[("mine", "{ type = \"ensemble\", models = [\"tiny-weka\"] }")], "", folder.path()).unwrap_err();
    assert!(unknown.remedy().unwrap().contains("tiny-weak") && unknown.place().is_some(), "{unknown}");
    let twice =
        grid(&[("mine", "{ type = \"ensemble\", models = [\"weak\", \"weak\"] }")], "", folder.path()).unwrap_err();
    assert!(twice.message().contains("must not name `weak` twice"), "{twice}");
}

#[test]
fn a_chain_hands_labels_on() {
    let folder = tempfile::tempdir().unwrap();
    let by = [
        ("plain", "{ type = \"fine-tuned\" }"),
        ("once", "{ type = \"chain\" }"),
        ("twice", "{ type = \"chain\", through = [\"strong\", \"weak\"], gap_from = \"last-link\" }"),
        ("same", "{ type = \"chain\", rows = \"same\" }"),
        ("named", "{ type = \"chain\", through = [\"tiny-reader\"] }"),
    ];
    let (plan, store) = grid(&by, "[data]\nn_validation = 8\n", folder.path()).unwrap();
    // Weak model and ceiling; two links of `twice`, the first of which is the one of `once`; those of `same` and `named`.
    assert_eq!((stages(&plan, "fine-tune"), stages(&plan, "teach")), (2, 4));
    assert!(plan.grid.methods.iter().all(|method| !method.uses_truth("tiny-home")));
    support::run_here(&plan, &store);
    let weak = cell(&plan, "plain");
    let link = |method: &str, number: usize| {
        let reads = &plan.jobs[&cell(&plan, method).supervision].reads;
        reads.iter().filter(|id| id.as_str().starts_with("teach")).nth(number).unwrap()
    };
    for (method, split) in
        [("once", Split::Transfer), ("once", Split::Validation), ("twice", Split::Test), ("same", Split::Transfer)]
    {
        let said = labels(&store, cell(&plan, method), split);
        assert_eq!(said, mean_of(&store, &[link(method, 0)], split), "{method}");
        assert_ne!(said, labels(&store, weak, split), "{method}");
    }
    // The gap begins at the weak model unless something else is said.
    assert_eq!(labels(&store, cell(&plan, "once"), Split::Test), labels(&store, weak, Split::Test));
    assert_ne!(labels(&store, cell(&plan, "twice"), Split::Test), labels(&store, weak, Split::Test));
    assert_ne!(
        labels(&store, cell(&plan, "once"), Split::Transfer),
        labels(&store, cell(&plan, "same"), Split::Transfer)
    );

    let wrong = |by: &str, more: &str| grid(&[("mine", by)], more, folder.path()).unwrap_err();
    let none = wrong("{ type = \"chain\", through = [] }", "");
    assert!(none.message().contains("`through` must name at least one model"), "{none}");
    // 60 examples make halves of 30, which three epochs make 90 of.
    let large = wrong("{ type = \"chain\" }", "[model.tiny-hasty]\ntrain = { batch_size = 100 }\n");
    assert!(large.message().contains("a link of a chain"), "{large}");
}

/// What a link says of a row must not depend on the label that it was given there: nobody labels what he was trained on.
#[test]
fn no_link_labels_what_it_was_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, store) = grid(&[("plain", "{ type = \"fine-tuned\" }")], "", folder.path()).unwrap();
    let data = plan.cells[0].data.clone();
    let text = label_file(&data.read(&store).unwrap());
    // Two files that differ in the label of one example of the transfer split.
    let line = text.lines().nth(1).unwrap();
    let other = line.replace("0.75", "1");
    let said = |text: &str, halves: bool| {
        fs::write(folder.path().join("labels.csv"), text).unwrap();
        let path = folder.path().join("labels.csv").to_string_lossy().replace('\\', "/");
        let by = format!("{{ type = \"file\", path = {path:?} }}");
        let (plan, store) = grid(&[("people", &by)], "", folder.path()).unwrap();
        let cell = cell(&plan, "people");
        let Some(ceiling) = plan.jobs.get(&cell.ceiling) else { panic!("no ceiling") };
        let ceiling = serde_json::to_value(&ceiling.stage).unwrap();
        let teach = Teach {
            model: serde_json::from_value(ceiling["model"].clone()).unwrap(),
            phases: serde_json::from_value(ceiling["phases"].clone()).unwrap(),
            data: data.clone(),
            labels: plan.jobs[&cell.supervision].reads.iter().find(|id| id.as_str().starts_with("labels")).cloned(),
            halves,
            seed: 0,
        };
        let teach: Box<dyn Stage> = Box::new(teach);
        plan.jobs.values().filter(|job| job.stage.kind() == "pretrain").for_each(|job| {
            job.stage.make(&support::bench(&plan, &store)).unwrap();
        });
        let made = teach.make(&support::bench(&plan, &store)).unwrap();
        Predictions::read(&made.file(&Predictions::file(Split::Transfer))).unwrap().into_rows()
    };
    let changed = text.replace(line, &other);
    let (one, two) = (said(&text, true), said(&changed, true));
    // The half of that example is labelled by the model that did not see it; the other half by the one that did.
    assert_eq!(one[0], two[0]);
    assert_eq!(one.iter().zip(&two).filter(|(one, two)| one != two).count(), one.len() / 2);
    assert_ne!(said(&text, false)[0], said(&changed, false)[0]);
}

#[test]
fn a_language_model_labels_by_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let by = [
        ("five", "{ type = \"prompted\", shots = 2 }"),
        ("none", "{ type = \"prompted\", shots = 0 }"),
        ("reader", "{ type = \"prompted\", model = \"tiny-reader\", shots = 0 }"),
    ];
    let (plan, store) = grid(&by, "[data]\nn_validation = 8\n", folder.path()).unwrap();
    // Nobody is fine-tuned but the ceiling.
    assert_eq!((stages(&plan, "fine-tune"), stages(&plan, "answers")), (1, 3));
    assert!(plan.grid.methods.iter().all(|method| !method.uses_truth("tiny-home")));
    support::run_here(&plan, &store);
    let said = |method: &str, split| labels(&store, cell(&plan, method), split);
    let data = plan.cells[0].data.read(&store).unwrap();
    assert_eq!(said("five", Split::Validation).len(), data.validation.len());
    assert_ne!(said("five", Split::Transfer), said("none", Split::Transfer));
    // Who has read the world answers right without being taught the task.
    let rows = said("reader", Split::Test);
    let right = rows.iter().zip(&data.test).filter(|(row, example)| u8::from(row[1] > row[0]) == example.label).count();
    assert!(right * 5 > data.test.len() * 3, "{right} of {}", data.test.len());

    let silent = fs::read_to_string(folder.path().join("tasks/tiny-home.toml")).unwrap();
    let silent = silent.split("[prompt]").next().unwrap().to_owned();
    let refused = |more: &str| {
        let other = folder.path().join("other");
        fs::create_dir_all(&other).unwrap();
        support::tiny_copy(&other);
        fs::write(other.join("tasks/silent.toml"), silent.replace("tiny-home", "silent")).unwrap();
        let text = format!(
            "[grid]\nname = \"asked\"\ntasks = [\"silent\"]\npairs = [{{ weak = \"tiny-weak\", strong = \"tiny-hasty\" }}]\n\
             methods = [\"mine\"]\n[train]\nbatch_size = 16\n[method.mine]\nsupervisor = {more}\n"
        );
        fs::write(other.join("asked.toml"), text).unwrap();
        support::plan(&other.join("asked.toml"), &[], &other).unwrap_err()
    };
    let error = refused("{ type = \"prompted\" }");
    assert!(error.message().contains("asks a language model, and task `silent` does not say how"), "{error}");
    assert!(error.remedy().is_some() && error.place().is_some(), "{error}");
}

#[test]
fn a_file_labels_by_the_names_of_examples() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, store) = grid(&[("plain", "{ type = \"fine-tuned\" }")], "", folder.path()).unwrap();
    let data = plain.cells[0].data.read(&store).unwrap();
    // What the command writes is what the file refers to.
    support::tiny_copy(&folder.path().join("configs"));
    let written = support::w2s_in(folder.path()).args(["task", "ids", "tiny-home"]).output().unwrap();
    let written = support::text(&written);
    let names: Vec<&str> = written.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    let known: Vec<String> = data.parts().into_iter().flat_map(|(name, part)| data.ids(name, part)).collect();
    assert_eq!(names, known, "{written}");
    assert!(written.starts_with("id,split,text\n"), "{written}");

    let path = |name: &str| folder.path().join(name).to_string_lossy().replace('\\', "/");
    let by = |name: &str, more: &str| format!("{{ type = \"file\", path = \"{}\"{more} }}", path(name));
    let text = label_file(&data);
    for name in ["of-tiny-home-0.csv", "moved.csv"] {
        fs::write(path(name), &text).unwrap();
    }
    fs::write(path("edited.csv"), text.replacen(",0.75\n", ",0.5\n", 1)).unwrap();
    let plan = |file: &str, more: &str| grid(&[("people", &by(file, more))], "", folder.path()).map(|(plan, _)| plan);
    let at = plan("of-{task}-{seed}.csv", "").unwrap();
    assert_eq!(cell(&at, "people").id(), cell(&plan("moved.csv", "").unwrap(), "people").id());
    assert_eq!(cell(&at, "people").id(), cell(&plan("moved.csv", ", others = \"ignore\"").unwrap(), "people").id());
    assert_ne!(cell(&at, "people").id(), cell(&plan("edited.csv", "").unwrap(), "people").id());
    assert!(!at.grid.methods[0].uses_truth("tiny-home"));
    assert!(
        at.labels()
            .into_iter()
            .all(|(id, _)| !id.as_str().starts_with("fine-tune") || id == cell(&at, "people").ceiling)
    );

    support::run_here(&at, &store);
    let expected = |part: &[w2s_core::task::Example]| -> Rows {
        let right = |place: usize| if place.is_multiple_of(3) { 0.25 } else { 0.75 };
        let of = |(place, example): (usize, &w2s_core::task::Example)| match example.label {
            0 => vec![right(place), 1.0 - right(place)],
            _ => vec![1.0 - right(place), right(place)],
        };
        part.iter().enumerate().map(of).collect()
    };
    assert_eq!(labels(&store, cell(&at, "people"), Split::Transfer), expected(&data.transfer));
    assert_eq!(labels(&store, cell(&at, "people"), Split::Test), expected(&data.test));

    // What is wrong is refused before anything runs.
    let lines: Vec<&str> = text.lines().collect();
    for (name, text, says) in [
        ("twice.csv", format!("{text}{}\n", lines[1]), format!("line {}: the id `", lines.len() + 1)),
        (
            "unknown.csv",
            format!("{text}train-99999-00000000,{},1\n", data.class_names[0]),
            format!("line {}: `train-99999-0", lines.len() + 1),
        ),
        (
            "short.csv",
            lines[..lines.len() - 1].join("\n"),
            "1 of the 30 examples of the test split have no label".to_owned(),
        ),
        (
            "class.csv",
            text.replacen(&format!(",{},", data.class_names[1]), ",perhaps,", 1),
            "`perhaps` is none of the classes".to_owned(),
        ),
    ] {
        fs::write(path(name), text).unwrap();
        let error = plan(name, "").unwrap_err();
        assert!(error.message().contains(&says), "{name}: {error}");
        assert!(error.place().unwrap().file.ends_with(name) && error.remedy().is_some(), "{name}: {error}");
    }
    assert!(plan("unknown.csv", ", others = \"ignore\"").is_ok());
    let none = plan("none.csv", "").unwrap_err();
    assert!(none.remedy().is_some() && none.to_string().contains("none.csv"), "{none}");
    // With examples held out, these need labels too.
    let held = grid(&[("people", &by("moved.csv", ""))], "[data]\nn_validation = 8\n", folder.path()).unwrap_err();
    assert!(held.message().contains("of the validation split have no label"), "{held}");
}

#[test]
fn noise_in_words_is_what_is_right_of_another_example() {
    let folder = tempfile::tempdir().unwrap();
    let changes = ["methods=noisy", "method.noisy.supervisor={ type = \"noisy-truth\", rate = 0.4 }"];
    let (plan, store) = support::plan(&support::tiny().join("words.toml"), &changes, folder.path()).unwrap();
    let cell = &plan.cells[0];
    plan.jobs[&cell.supervision].stage.make(&support::bench(&plan, &store)).unwrap();
    let data = cell.data.read(&store).unwrap();
    let made = store.find(&cell.supervision).unwrap().unwrap();
    for (split, examples) in [(Split::Transfer, &data.transfer), (Split::Test, &data.test)] {
        let labels = Labels::read(&made.folder, split).unwrap();
        let right = labels.right(&Truth::of(&data, split).unwrap());
        let wrong = right.iter().filter(|right| !**right).count();
        assert_eq!(wrong, (0.4 * examples.len() as f64).round() as usize);
        let references: BTreeSet<&str> = examples.iter().filter_map(|example| example.reference.as_deref()).collect();
        let said = labels.texts().unwrap().iter().map(|answer| answer.raw.as_str()).collect::<BTreeSet<_>>();
        assert!(said.is_subset(&references) && said.len() > 2, "{said:?}");
    }
    assert!(plan.grid.methods[0].uses_truth("tiny-home-words"));
}
