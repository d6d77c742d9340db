//! Supervisors that ask for more than the pair's weak model: what their labels are made of, what enters identities, and what is refused.

use std::{fs, path::Path};

use w2s_core::{
    Error,
    grid::{Cell, Plan},
    stage::{Predictions, StageId, Store},
    strategy::Split,
    task::TaskData,
};

use crate::support;

type Rows = Vec<Vec<f32>>;

/// A tiny grid whose methods differ in their supervisors.
fn grid(supervisors: &[(&str, &str)], more: &str, folder: &Path) -> Result<(Plan, Store), Error> {
    support::tiny_copy(folder);
    let names: Vec<String> = supervisors.iter().map(|(name, _)| format!("{name:?}")).collect();
    let methods = supervisors.iter().map(|(name, by)| format!("[method.{name}]\nsupervisor = {by}\n"));
    let text = format!(
        "[grid]\nname = \"asked\"\ntasks = [\"tiny-home\"]\npairs = [{{ weak = \"tiny-weak\", strong = \"tiny-hasty\" }}]\n\
         methods = [{}]\nseeds = [0]\n[train]\nepochs = 1\nbatch_size = 16\n{more}\n{}",
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
    let pretrain = pretrain.lines().skip_while(|line| !line.starts_with("[pretrain]")).collect::<Vec<_>>().join("\n");
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
fn a_file_labels_by_the_names_of_examples() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, store) = grid(&[("plain", "{ type = \"fine-tuned\" }")], "", folder.path()).unwrap();
    let data = plain.cells[0].data.read(&store).unwrap();
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
        let right = |place: usize| if place % 3 == 0 { 0.25 } else { 0.75 };
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
