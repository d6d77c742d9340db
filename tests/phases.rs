//! Phases of every model: texts learnt before answers, by students, weak models and ceilings alike.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use w2s_core::{
    grid::{Cell, Plan},
    stage::{StageId, Store},
};

use crate::{forms, support};

/// Methods that learn texts first, by another supervisor too.
const METHODS: [&str; 4] = [
    "methods=finetune,generative-finetune,other",
    "method.other.supervisor={ type = \"mixed-truth\", share = 0.5 }",
    "method.other.phases=[{ aim = \"text\" }, { train = { epochs = 2 } }]",
    "train.epochs=3",
];

fn cell<'a>(plan: &'a Plan, method: &str) -> &'a Cell {
    plan.cells.iter().find(|cell| plan.grid.methods[cell.method].name == method).unwrap()
}

fn losses(store: &Store, id: &StageId, file: &str) -> Vec<f64> {
    let text = fs::read_to_string(store.find(id).unwrap().unwrap().file(file)).unwrap();
    text.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn texts_are_learnt_before_answers_and_no_label_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let choose = forms::choosing(folder.path());
    for grid in [support::tiny().join("grid.toml"), support::tiny().join("words.toml"), choose] {
        let seeds = [&METHODS[..], &["seeds=0", "train.batch_size=8"]].concat();
        let (plan, store) = support::plan(&grid, &seeds, folder.path()).unwrap();
        support::run_here(&plan, &store);
        let [plain, first, other] = ["finetune", "generative-finetune", "other"].map(|method| cell(&plan, method));
        assert_ne!(first.supervision, other.supervision);
        // Whoever labels, and whatever is made of labels, the texts are the same.
        let texts = losses(&store, &first.student, "log.csv");
        assert_eq!(texts, losses(&store, &other.student, "log.csv"));
        let third = texts.len() / 3;
        let (begin, end) = (mean(&texts[..third]), mean(&texts[texts.len() - third..]));
        assert!(end < begin, "{}: {begin} {end}", grid.display());
        // Then answers, from another model than the pretrained one.
        let answers = losses(&store, &first.student, "log-2.csv");
        assert_eq!(answers.len(), losses(&store, &plain.student, "log.csv").len());
        let said = |cell: &Cell| {
            let stage = store.find(&cell.student).unwrap().unwrap();
            let name = ["test.csv", "test.jsonl"].into_iter().find(|name| stage.manifest.files.contains_key(*name));
            fs::read(stage.file(name.unwrap())).unwrap()
        };
        assert_ne!(said(plain), said(first));
    }
}

#[test]
fn both_ends_of_the_gap_may_have_phases() {
    let folder = tempfile::tempdir().unwrap();
    let ids = |changes: &[&str]| {
        let changes = [&["methods=finetune", "seeds=0"][..], changes].concat();
        support::plan(&support::tiny().join("grid.toml"), &changes, folder.path()).unwrap()
    };
    let (plain, _) = ids(&[]);
    let of = |plan: &Plan| {
        let cell = &plan.cells[0];
        [&cell.supervision, &cell.ceiling, &cell.student].map(|id| id.to_string())
    };
    // One phase that says nothing is the one that there was.
    assert_eq!(of(&ids(&["ceiling.phases=[{}]", "weak.phases=[{ aim = \"answer\" }]"]).0), of(&plain));
    let text = "phases=[{ aim = \"text\", train = { epochs = 1 } }, {}]";
    let (ceiling, store) = ids(&[&format!("ceiling.{text}")]);
    let [before, after] = [of(&plain), of(&ceiling)];
    assert!(before[0] == after[0] && before[1] != after[1] && before[2] == after[2]);
    let (weak, _) = ids(&[&format!("weak.{text}")]);
    let after = of(&weak);
    assert!(before[0] != after[0] && before[1] == after[1] && before[2] != after[2]);
    support::run_here(&ceiling, &store);
    let texts = losses(&store, &ceiling.cells[0].ceiling, "log.csv");
    assert!(!texts.is_empty() && !losses(&store, &ceiling.cells[0].ceiling, "log-2.csv").is_empty());
    // A chain's links are trained as the weak model is, each on the texts of its own half.
    let chain = ["method.finetune.supervisor={ type = \"chain\" }", &format!("weak.{text}")];
    let (chain, store) = ids(&chain);
    support::run_here(&chain, &store);
    let teach = chain.jobs.iter().find(|(_, job)| job.stage.kind() == "teach").unwrap().0;
    let logs: BTreeSet<&str> = ["log.csv", "log-2.csv", "log-3.csv", "log-4.csv"].into();
    let files = store.find(teach).unwrap().unwrap().manifest.files;
    assert_eq!(files.keys().map(String::as_str).filter(|name| name.starts_with("log")).collect::<BTreeSet<_>>(), logs);
}

/// The bytes of a tensor of a model's files.
fn tensor(folder: &Path, end: &str) -> Vec<u8> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let (_, entry) = header.as_object().unwrap().iter().find(|(name, _)| name.ends_with(end)).unwrap();
    let at = |place: usize| 8 + length + entry["data_offsets"][place].as_u64().unwrap() as usize;
    bytes[at(0)..at(1)].to_vec()
}

#[test]
fn a_frozen_backbone_learns_texts_and_is_frozen_again() {
    let folder = tempfile::tempdir().unwrap();
    let changes = [
        "methods=finetune,generative-finetune,longer",
        "method.longer.phases=[{ aim = \"text\" }, { train = { epochs = 5 } }]",
        "seeds=0",
        "model.tiny-strong.head.freeze_backbone=true",
        "output.save_students=true",
    ];
    let (plan, store) = support::plan(&support::tiny().join("grid.toml"), &changes, folder.path()).unwrap();
    support::run_here(&plan, &store);
    let [plain, text, longer] = ["finetune", "generative-finetune", "longer"].map(|method| {
        tensor(&store.find(&cell(&plan, method).student).unwrap().unwrap().file("model"), "h.0.mlp.c_fc.weight")
    });
    let pretrained = plan.jobs.values().find(|job| {
        job.stage.kind() == "pretrain"
            && job.stage.whole_parameters(&Default::default()).unwrap()["config"]["n_embd"] == 16
    });
    let pretrained = store.find(&pretrained.unwrap().stage.id(&Default::default()).unwrap()).unwrap().unwrap();
    assert_eq!(plain, tensor(&pretrained.file("model"), "h.0.mlp.c_fc.weight"));
    assert!(plain != text && text == longer);
}

/// A folder with a tiny encoder.
fn encoder(folder: &Path) -> String {
    let golden: Value = serde_json::from_str(include_str!("golden/golden_tiny_families.json")).unwrap();
    let bert = &golden["models"]["bert"];
    let folder = folder.join("mute");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), bert["config"].to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), support::word_tokenizer('w').to_string()).unwrap();
    fs::write(folder.join("model.safetensors"), support::safetensors(&support::tensors(&bert["weights"]))).unwrap();
    folder.to_string_lossy().replace('\\', "/")
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place_and_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |changes: &[&str]| {
        let changes = [&["methods=mine"][..], changes].concat();
        let error = support::plan(&support::tiny().join("grid.toml"), &changes, folder.path()).map(drop).unwrap_err();
        assert!(error.place().is_some() && error.remedy().is_some(), "{error}");
        error.to_string()
    };
    for part in ["loss = { type = \"js\" }", "selector = { type = \"all\" }", "refiner = { type = \"harden\" }"] {
        let said = refused(&[&format!("method.mine.phases=[{{ aim = \"text\", {part} }}, {{}}]")]);
        assert!(said.contains("looks at no label"), "{said}");
    }
    let last = refused(&["method.mine.phases=[{}, { aim = \"text\" }]"]);
    assert!(last.contains("nothing learns to answer"), "{last}");
    let plain = "method.mine.loss.type=js";
    let none = refused(&[plain, "ceiling.phases=[]"]);
    assert!(none.contains("`[ceiling]` is empty"), "{none}");
    let last = refused(&[plain, "weak.phases=[{ aim = \"text\" }]"]);
    assert!(last.contains("nothing learns to answer"), "{last}");
    // An encoder says no words.
    let mute = format!("model.mute.path={:?}", encoder(folder.path()));
    let text = "phases=[{ aim = \"text\" }, {}]";
    let pair = |weak: &str, strong: &str| format!("grid.pairs=[{{ weak = \"{weak}\", strong = \"{strong}\" }}]");
    let (strong, weak) = (pair("tiny-weak", "mute"), pair("mute", "tiny-strong"));
    for (pair, who, table) in
        [(&strong, "method `mine`", "method.mine"), (&strong, "`[ceiling]`", "ceiling"), (&weak, "`[weak]`", "weak")]
    {
        let said = refused(&[plain, &mute, pair, &format!("{table}.{text}")]);
        assert!(said.contains(who) && said.contains("no language model"), "{said}");
    }
}
