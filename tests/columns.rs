//! Columns: numbers of each example, from the grid to the strategies that read them.

use std::collections::BTreeSet;

use w2s_core::{
    learner::argmax,
    stage::{DECISIONS, Labels, Predictions, StageId, Store, read_decisions},
    strategy::Split,
};

use crate::support;

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
