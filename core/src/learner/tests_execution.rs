//! Trainings whose blocks are computed again on the way back, and those that several devices share: the bits of those that one device makes, which
//! keeps everything.

use burn::{module::Module, tensor::Device};

use super::{
    tests::{Neighbours, TowardsMean, UpperHalf, classifier, classifier_of, cross_entropy, examples, knowing, spec},
    tests_checkpoint::bits,
    *,
};
use crate::{
    Result,
    model::{Classifier, HeadConfig, Lora, Precision, Transformer},
};

/// Trains with and without computing blocks again, on one device and on several, in one part and in several: models and logs are the same to the bit,
/// and not those of `start`.
fn same<M: Module>(start: &M, train: impl Fn(&Execution) -> Result<Trained<M>>) {
    for micro_batch in [None, Some(3)] {
        let done = |recompute, beside| {
            let beside = vec![Device::flex(); beside];
            train(&Execution { micro_batch, beside, recompute, ..Execution::default() }).unwrap()
        };
        let plain = done(false, 0);
        assert_ne!(bits(&plain.model), bits(start));
        for (recompute, beside) in [(true, 0), (false, 1), (true, 2), (false, 9)] {
            let other = done(recompute, beside);
            assert_eq!(bits(&plain.model), bits(&other.model), "{recompute} {beside}");
            assert_eq!(plain.log, other.log, "{recompute} {beside}");
        }
    }
}

fn recipe() -> Recipe {
    Recipe { clip: Some(1.0), order: Order::Bucketed, ..super::tests::recipe() }
}

#[test]
fn a_student_is_the_same() {
    let own: Vec<Vec<f32>> = examples(32).1.into_iter().map(|row| vec![row[1], row[0]]).collect();
    let objective = || Objective {
        loss: Box::new(TowardsMean),
        self_labels: Some(OwnLabels::Given(own.clone())),
        selector: Some(Box::new(UpperHalf)),
        refiner: Some(Box::new(Neighbours)),
        record: true,
        ..cross_entropy(32)
    };
    same(&classifier(), |execution| {
        train_classifier(classifier(), &examples(32).0, objective(), &recipe(), 0, execution)
    });
}

#[test]
fn a_student_that_learns_to_know_is_the_same() {
    let objective = || Objective { along: Some(knowing(48, 1.0, false)), ..cross_entropy(32) };
    let start = classifier().with_judge(None);
    same(&start, |execution| train_classifier(classifier(), &examples(32).0, objective(), &recipe(), 0, execution));
}

#[test]
fn adapters_are_the_same() {
    let lora = Lora { rank: 2, ..Lora::default() };
    let start = classifier().on_backbone(|backbone| backbone.with_lora(&lora, 0).unwrap());
    same(&start, |execution| {
        train_classifier(start.clone(), &examples(32).0, cross_entropy(32), &recipe(), 0, execution)
    });
    // With nothing but the head to train there is nothing to compute again.
    let frozen = classifier_of(&spec(8, 2), true);
    same(&frozen, |execution| {
        train_classifier(frozen.clone(), &examples(32).0, cross_entropy(32), &recipe(), 0, execution)
    });
}

#[test]
fn one_that_is_trained_in_bf16_is_the_same() {
    let truly = |whole: Transformer| whole.in_precision(Precision::Bf16True);
    let start = || classifier_of(&spec(8, 2), false).on_backbone(truly);
    same(&start(), |execution| train_classifier(start(), &examples(32).0, cross_entropy(32), &recipe(), 0, execution));
    let start = || truly(Transformer::init(&spec(16, 2), 2, &Device::flex()).unwrap());
    let documents: Vec<Vec<u32>> =
        (0..24).map(|row| (0..2 + row % 9).map(|place| (7 * row + place) % 24).collect()).collect();
    same(&start(), |execution| train_lm(start(), &documents, Packing::Documents, &recipe(), 0, execution));
}

#[test]
fn one_that_chooses_is_the_same() {
    let mut texts = (0..50).map(|row| examples(50).0.row(row).to_vec());
    let groups: Vec<Vec<Vec<u32>>> = (0..20).map(|row| texts.by_ref().take(2 + row % 2).collect()).collect();
    let data = Encoded::choosing(groups, 3, &spec(8, 2)).unwrap();
    let backbone = || Transformer::init(&spec(8, 2), 1, &Device::flex()).unwrap();
    let start = |backbone: Transformer| Classifier::new(backbone, &HeadConfig::default(), 1, 1, None).unwrap();
    let labels = || (0..20).map(|row| if row % 2 == 0 { vec![0.7, 0.3, 0.0] } else { vec![0.2, 0.3, 0.5] }).collect();
    let objective = || Objective { labels: labels(), loss: Box::new(TowardsMean), ..cross_entropy(20) };
    for frozen in [false, true] {
        let start = || start(if frozen { backbone().no_grad() } else { backbone() });
        same(&start(), |execution| train_classifier(start(), &data, objective(), &recipe(), 0, execution));
    }
}

#[test]
fn one_that_writes_is_the_same() {
    let start = super::tests_words::model();
    let answers = || super::tests_words::selected(16, |row| ((row % 2) as f32, (row % 3) as f32));
    let recipe = Recipe { clip: Some(1.0), epochs: 3, ..super::tests_words::recipe() };
    same(&start, |execution| super::tests_words::train(answers(), &recipe, execution));
}

#[test]
fn one_that_reads_documents_is_the_same() {
    let start = || Transformer::init(&spec(16, 2), 2, &Device::flex()).unwrap();
    let documents: Vec<Vec<u32>> =
        (0..24).map(|row| (0..2 + row % 9).map(|place| (7 * row + place) % 24).collect()).collect();
    same(&start(), |execution| train_lm(start(), &documents, Packing::Documents, &recipe(), 0, execution));
}
