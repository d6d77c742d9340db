//! A training that is taken up from a checkpoint ends as one that was never interrupted: every bit of the model and the whole log.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use serde_json::json;

use super::{
    run::lock,
    tests::{
        Neighbours, Own, TowardsMean, UpperHalf, at, classifier_of, counting, cross_entropy, examples, knowing,
        numbers, recipe, spec, train,
    },
    tests_words, *,
};
use crate::{
    Result,
    model::{Lora, Precision, Transformer},
    strategy::{Batch, Form, Memory, Needs, Progress, Selection, Selector, StudentLoss, TokenView, math},
};

type Heard = Arc<Mutex<Vec<Passage>>>;

/// Checkpoints every so many steps in a folder, and what is said of them.
fn saving(folder: &Path, every: &str) -> (Execution, Heard) {
    let heard = Heard::default();
    let teller = heard.clone();
    let checkpoints = Checkpoints {
        folder: folder.join(".checkpoints-x-0"),
        aside: folder.join("quarantine"),
        training: json!({ "of": "x", "number": 0 }),
        every: every.parse().unwrap(),
        tell: Arc::new(move |passage| lock(&teller).push(passage)),
    };
    (Execution { checkpoints: Some(checkpoints), ..Execution::default() }, heard)
}

pub(super) fn bits(model: &impl Module) -> Vec<u32> {
    numbers(model).into_iter().map(f32::to_bits).collect()
}

/// Names of what is in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A process that is killed leaves the checkpoints that it has written; so does a training that ends, until somebody removes them. From each of
/// them another one goes on.
#[track_caller]
fn assert_continues<M: Module>(parts: Option<usize>, train: impl Fn(&Execution) -> Result<Trained<M>>) {
    for looks_late in [false, true] {
        assert_continues_looking(looks_late, parts, &train);
    }
}

#[track_caller]
fn assert_continues_looking<M: Module>(
    looks_late: bool,
    parts: Option<usize>,
    train: &impl Fn(&Execution) -> Result<Trained<M>>,
) {
    let whole = train(&Execution { micro_batch: parts, looks_late, ..Execution::default() }).unwrap();
    let steps = whole.log.steps.len();
    assert!(steps >= 5, "{steps} steps");
    let folder = tempfile::tempdir().unwrap();
    let (execution, heard) = saving(folder.path(), "2steps");
    let execution = Execution { micro_batch: parts, looks_late, ..execution };
    let same = |what: &str| {
        let trained = train(&execution).unwrap();
        assert_eq!(bits(&trained.model), bits(&whole.model), "{what}");
        assert_eq!(trained.log, whole.log, "{what}");
    };
    same("with checkpoints");
    assert!(lock(&heard).is_empty());
    let home = folder.path().join(".checkpoints-x-0");
    let last = (steps - 1) / 2 * 2;
    for step in [last, last - 2] {
        let saved = names(&home);
        assert!(saved.contains(&format!("step-{step}")) && saved.len() <= 2, "{saved:?}");
        same("continued");
        assert_eq!(std::mem::take(&mut *lock(&heard)), [Passage::Resumed { step, steps }]);
        fs::remove_dir_all(home.join(format!("step-{last}"))).unwrap();
    }
}

#[test]
fn every_optimizer_and_order_goes_on_as_if_nothing_had_happened() {
    let warm = Recipe { warmup_steps: 3, clip: Some(0.5), order: Order::Shuffled, ..recipe() };
    let recipes = [
        Recipe { order: Order::Bucketed, decayed: Decayed::Matrices, optimizer: Optimizer::Adamw, ..warm.clone() },
        Recipe { optimizer: Optimizer::Sgd, momentum: 0.9, ..warm.clone() },
        Recipe { optimizer: Optimizer::Sgd, schedule: Shape::Constant, ..warm.clone() },
        Recipe { optimizer: Optimizer::Adafactor, ..warm.clone() },
        Recipe { optimizer: Optimizer::Adafactor, relative_step: false, schedule: Shape::Linear, ..warm },
    ];
    for recipe in recipes {
        assert_continues(None, |execution| train(cross_entropy(20), &recipe, execution));
    }
}

/// Some tensors are large enough for 8 bits, others keep float32.
#[test]
fn moments_of_8_bits_go_on() {
    let start = || classifier_of(&spec(64, 1), false);
    for optimizer in [Optimizer::Adam8bit, Optimizer::Adamw8bit] {
        let recipe = Recipe { optimizer, ..recipe() };
        assert_continues(None, |execution| {
            train_classifier(start(), &examples(20).0, cross_entropy(20), &recipe, 3, execution)
        });
    }
}

/// Own labels by a moving average of the head, decisions on record, three parts with a memory or an eye on the whole batch, in parts and at once.
#[test]
fn what_a_method_carries_along_is_taken_up() {
    let objective = |average: f64| Objective {
        self_labels: Some(OwnLabels::Current { hard: false, decay: average }),
        selector: Some(Box::new(UpperHalf)),
        refiner: Some(Box::new(Neighbours)),
        loss: Box::new(TowardsMean),
        record: true,
        ..cross_entropy(20)
    };
    for parts in [None, Some(3)] {
        assert_continues(parts, |execution| train(objective(0.9), &recipe(), execution));
    }
    // Targets that are the labels in the first steps and then are not: whether they were is carried along as well.
    let towards = || Objective { loss: Box::new(TowardsMean), ..cross_entropy(20) };
    assert_continues(Some(3), |execution| train(towards(), &recipe(), execution));
}

/// A phase on the texts alone: of classes, of candidates, at once and in parts, and with adapters.
#[test]
fn a_training_on_texts_is_taken_up() {
    let texts = || Transformer::init(&spec(8, 2), 1, &Device::flex()).unwrap();
    let one_by_one = examples(30).0;
    let pairs = (0..30).map(|row| vec![one_by_one.row(row).to_vec(), one_by_one.row(29 - row).to_vec()]).collect();
    let choices = Encoded::choosing(pairs, 2, &spec(8, 2)).unwrap();
    for (data, parts) in [(&one_by_one, None), (&one_by_one, Some(3)), (&choices, None), (&choices, Some(1))] {
        assert_continues(parts, |execution| train_texts(texts(), data, &recipe(), 3, execution));
    }
    let lora = Lora { rank: 2, ..Lora::default() };
    let adapted = || texts().with_lora(&lora, 3).unwrap();
    assert_continues(None, |execution| train_texts(adapted(), &one_by_one, &recipe(), 3, execution));
}

#[test]
fn a_judge_that_is_trained_along_is_taken_up() {
    for once in [false, true] {
        let objective = || Objective {
            along: Some(knowing(24, 0.5, once)),
            self_labels: Some(OwnLabels::Current { hard: true, decay: 0.5 }),
            selector: Some(Box::new(Own)),
            ..cross_entropy(20)
        };
        assert_continues(None, |execution| train(objective(), &recipe(), execution));
    }
}

#[test]
fn what_was_said_on_the_way_is_taken_up() {
    let say = |model: Halfway| match model {
        Halfway::Chooses(model) => {
            Ok(serde_json::to_value(predict(model, &examples(9).0, &Execution::default())?.logits).unwrap())
        }
        Halfway::Writes(_) => unreachable!("a classifier is trained"),
    };
    let evaluate = || Some(Evaluate { at: vec![0.3, 0.5, 0.9], say: Arc::new(say) });
    let objective = || Objective { evaluate: evaluate(), ..cross_entropy(20) };
    // The log that is compared has what was said.
    assert_continues(None, |execution| train(objective(), &recipe(), execution));
    let trained = train(objective(), &recipe(), &Execution::default()).unwrap();
    assert_eq!(trained.log.said.len(), 3);
    // Asking changes nothing.
    let silent = train(cross_entropy(20), &recipe(), &Execution::default()).unwrap();
    assert_eq!((silent.log.steps, bits(&silent.model)), (trained.log.steps, bits(&trained.model)));
}

#[test]
fn what_is_found_late_is_in_no_checkpoint() {
    for every in ["1steps", "2steps"] {
        let folder = tempfile::tempdir().unwrap();
        let execution = Execution { looks_late: true, ..saving(folder.path(), every).0 };
        let error = train(at(3, |loss| loss * f32::NAN), &recipe(), &execution).unwrap_err();
        assert!(error.message().starts_with("step 3 "), "{error}");
        let saved = names(&folder.path().join(".checkpoints-x-0"));
        assert!(saved.iter().any(|name| name == "step-2") && !saved.iter().any(|name| name == "step-4"), "{saved:?}");
    }
}

#[test]
fn what_is_frozen_stays_frozen() {
    let start = || classifier_of(&spec(8, 1), true);
    assert_continues(None, |execution| {
        let trained = train_classifier(start(), &examples(20).0, cross_entropy(20), &recipe(), 0, execution)?;
        assert_eq!(bits(&trained.model.backbone), bits(&start().backbone));
        Ok(trained)
    });
}

#[test]
fn adapters_go_on() {
    let lora = Lora { rank: 2, ..Lora::default() };
    let start = || classifier_of(&spec(8, 1), false).on_backbone(|whole| whole.with_lora(&lora, 3).unwrap());
    assert_continues(None, |execution| {
        let trained = train_classifier(start(), &examples(20).0, cross_entropy(20), &recipe(), 0, execution)?;
        assert_ne!(bits(&trained.model.backbone), bits(&start().backbone));
        Ok(trained)
    });
}

/// Frozen matrices in bfloat16 beside adapters, trained ones rounded in every pass, and a head alone.
#[test]
fn models_in_bf16_go_on_on_any_number_of_threads() {
    let lora = Lora { rank: 2, ..Lora::default() };
    let half = |whole: Transformer| whole.in_precision(Precision::Bf16);
    let truly = |whole: Transformer| whole.in_precision(Precision::Bf16True);
    let starts: [&(dyn Fn() -> crate::model::Classifier + Sync); 5] = [
        &|| classifier_of(&spec(8, 2), false).on_backbone(truly),
        &|| classifier_of(&spec(8, 1), false).on_backbone(|whole| truly(whole).with_lora(&lora, 3).unwrap()),
        &|| classifier_of(&spec(8, 1), false).on_backbone(|whole| half(whole).with_lora(&lora, 3).unwrap()),
        &|| classifier_of(&spec(8, 1), false).on_backbone(half),
        &|| classifier_of(&spec(8, 1), false).on_backbone(|whole| half(whole).frozen()),
    ];
    for start in starts {
        let train = |execution: &Execution| {
            train_classifier(start(), &examples(20).0, cross_entropy(20), &recipe(), 0, execution)
        };
        assert_continues(None, train);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let trained = train(&Execution::default()).unwrap();
                let said = predict(&trained.model, &examples(9).0, &Execution::default()).unwrap();
                (bits(&trained.model), said.logits)
            })
        };
        let (one, three) = (on(1), on(3));
        assert_eq!(one, three);
        assert_ne!(one.0, bits(&start()));
    }
}

/// Trained in bfloat16, every optimizer goes on with the same chances; so does a language model whose head is its table.
#[test]
fn chances_go_on_with_every_optimizer() {
    let warm = Recipe { warmup_steps: 3, clip: Some(0.5), order: Order::Shuffled, ..recipe() };
    let recipes = [
        Recipe { decayed: Decayed::Matrices, optimizer: Optimizer::Adamw, ..warm.clone() },
        Recipe { optimizer: Optimizer::Sgd, momentum: 0.9, ..warm.clone() },
        Recipe { optimizer: Optimizer::Sgd, ..warm.clone() },
        Recipe { optimizer: Optimizer::Adafactor, ..warm.clone() },
        Recipe { optimizer: Optimizer::Adafactor, relative_step: false, ..warm },
    ];
    for recipe in recipes {
        assert_continues(None, |execution| {
            let start = classifier_of(&spec(8, 1), false);
            let start = start.on_backbone(|whole| whole.in_precision(Precision::Bf16True));
            train_classifier(start, &examples(20).0, cross_entropy(20), &recipe, 0, execution)
        });
    }
    let start = || Transformer::init_to_train(&spec(16, 1), 2, &Device::flex(), Precision::Bf16True).unwrap();
    let recipe = Recipe { epochs: 1, order: Order::Shuffled, ..recipe() };
    assert_continues(Some(3), |execution| {
        train_lm(start(), &counting()[..48], Packing::Documents, &recipe, 3, execution)
    });
}

#[test]
fn candidates_go_on() {
    let mut texts = (0..50).map(|row| examples(50).0.row(row).to_vec());
    let groups: Vec<Vec<Vec<u32>>> = (0..20).map(|row| texts.by_ref().take(2 + row % 2).collect()).collect();
    let data = Encoded::choosing(groups, 3, &spec(8, 2)).unwrap();
    let start = || {
        let backbone = Transformer::init(&spec(8, 2), 1, &Device::flex()).unwrap();
        crate::model::Classifier::new(backbone, &crate::model::HeadConfig::default(), 1, 1, None).unwrap()
    };
    let labels = || (0..20).map(|row| if row % 2 == 0 { vec![0.7, 0.3, 0.0] } else { vec![0.2, 0.3, 0.5] }).collect();
    let objective = || Objective { loss: Box::new(TowardsMean), record: true, ..cross_entropy(20) };
    assert_continues(None, |execution| {
        train_classifier(start(), &data, Objective { labels: labels(), ..objective() }, &recipe(), 0, execution)
    });
}

#[test]
fn a_language_model_goes_on() {
    let start = || Transformer::init(&spec(16, 1), 2, &Device::flex()).unwrap();
    let recipe = Recipe { epochs: 1, order: Order::Shuffled, ..recipe() };
    for packing in [Packing::Documents, Packing::Stream(8)] {
        assert_continues(None, |execution| train_lm(start(), &counting()[..48], packing, &recipe, 3, execution));
    }
}

/// Believes an answer by how many it has seen before, which it remembers.
#[derive(Debug, Clone, Copy)]
struct Counts;

impl Selector for Counts {
    fn select(&self, batch: &Batch, memory: &mut Memory) -> Selection {
        let seen = memory.entry("seen").len() as u32;
        memory.push("seen", &vec![f32::NAN; batch.len()], 1000);
        let weights: Vec<f32> = batch.ids.iter().map(|id| 1.0 + ((id.0 + seen) % 3) as f32).collect();
        let own: Vec<f32> = batch.ids.iter().map(|id| f32::from((id.0 + seen).is_multiple_of(4))).collect();
        let tensor = |values: Vec<f32>| Tensor::from_floats(values.as_slice(), &batch.weak.device());
        Selection { own: tensor(own), weight: tensor(weights) }
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { self_labels: true, ..Needs::default() }
    }
}

/// Weighs answers by whether they surprise more than the mean of all before.
#[derive(Debug, Clone, Copy)]
struct Surprised;

impl StudentLoss for Surprised {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets, logits)
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        Some(tokens.cross_entropy())
    }

    fn weigh(&self, surprise: Tensor<1>, _at: &Progress, memory: &mut Memory) -> Tensor<1> {
        memory.push("surprise", &math::to_host(surprise.clone()), 1000);
        let all = memory.entry("surprise");
        let mean = all.iter().sum::<f32>() / all.len() as f32;
        surprise.lower_equal_elem(mean).float() + 0.5
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { student: true, ..Needs::default() }
    }
}

#[test]
fn answers_in_words_go_on() {
    let recipe = Recipe { optimizer: Optimizer::Adam, learning_rate: 1e-2, ..tests_words::recipe() };
    for parts in [None, Some(1)] {
        assert_continues(parts, |execution| {
            let mut answers = tests_words::selected(24, |_| (0.0, 1.0));
            answers.selector = Some(Box::new(Counts));
            answers.loss = Box::new(Surprised);
            answers.record = true;
            tests_words::train(answers, &recipe, execution)
        });
    }
}

#[test]
fn whoever_is_asked_to_stop_saves_first() {
    let whole = train(cross_entropy(40), &recipe(), &Execution::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (execution, heard) = saving(folder.path(), "1h");
    for done in [4, 5] {
        // Asked before it begins, it takes the one step that it has begun.
        let stop = Stop::default();
        let bar = indicatif::ProgressBar::hidden();
        let execution = Execution { stop: Some(stop.clone()), bar: Some(bar.clone()), ..execution.clone() };
        let asked = done == 5;
        if asked {
            stop.ask();
        }
        #[derive(Debug)]
        struct Asks(Stop);
        impl StudentLoss for Asks {
            fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, at: &Progress) -> Tensor<1> {
                if at.step == 3 {
                    self.0.ask();
                }
                math::cross_entropy(targets, logits)
            }
        }
        let error = train(Objective { loss: Box::new(Asks(stop)), ..cross_entropy(40) }, &recipe(), &execution);
        assert_eq!(error.unwrap_err().message(), format!("after step {done} of 10: interrupted"));
        assert_eq!(bar.position(), done);
    }
    assert_eq!(names(&folder.path().join(".checkpoints-x-0")), ["step-4", "step-5"]);
    let trained = train(cross_entropy(40), &recipe(), &execution).unwrap();
    assert_eq!((bits(&trained.model), trained.log), (bits(&whole.model), whole.log));
    assert_eq!(*lock(&heard), [4, 5].map(|step| Passage::Resumed { step, steps: 10 }));
    // The log of an hour ago counts for the time, too.
    assert!(trained.seconds > 0.0);
}

#[test]
fn without_checkpoints_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (execution, _) = saving(folder.path(), "off");
    train(cross_entropy(16), &recipe(), &execution).unwrap();
    assert!(names(folder.path()).is_empty());
}

/// Of a damaged checkpoint the one before it is taken, and of another training's none.
#[test]
fn what_is_damaged_or_foreign_is_put_aside() {
    let whole = train(cross_entropy(20), &recipe(), &Execution::default()).unwrap();
    type Damage = (&'static str, fn(&Path), &'static str);
    let damages: [Damage; 6] = [
        ("model", |step| flip(&step.join("model.bpk")), "`model.bpk` is not the file that was written"),
        ("optimizer", |step| flip(&step.join("optimizer.bpk")), "`optimizer.bpk` is not the file that was written"),
        ("state", |step| flip(&step.join("state.json")), "`state.json` is not the file that was written"),
        (
            "manifest",
            |step| rewrite(step, "\"steps\": 5", "\"steps\": 6"),
            "its manifest is not the one that was written",
        ),
        (
            "half",
            |step| fs::remove_file(step.join("manifest.json")).unwrap(),
            "cannot read the manifest of a checkpoint",
        ),
        ("cut", |step| fs::write(step.join("manifest.json"), "{").unwrap(), "it cannot be written or read"),
    ];
    for (what, damage, reason) in damages {
        let folder = tempfile::tempdir().unwrap();
        let (execution, heard) = saving(folder.path(), "2steps");
        train(cross_entropy(20), &recipe(), &execution).unwrap();
        let home = folder.path().join(".checkpoints-x-0");
        damage(&home.join("step-4"));
        // A process that was killed while it wrote.
        fs::create_dir(home.join(".tmp-abc")).unwrap();
        let trained = train(cross_entropy(20), &recipe(), &execution).unwrap();
        assert_eq!(bits(&trained.model), bits(&whole.model), "{what}");
        let heard = lock(&heard);
        let [Passage::PutAside { folder: aside, reason: said }, Passage::Resumed { step: 2, steps: 5 }] = &heard[..]
        else {
            panic!("{what}: {heard:?}")
        };
        assert!(said.starts_with(reason), "{what}: {said}");
        assert_eq!(*aside, folder.path().join("quarantine/checkpoints-x-0-step-4.0"));
        assert_eq!(fs::read_to_string(aside.join("reason.txt")).unwrap(), format!("{said}\n"));
        assert_eq!(names(&home), ["step-2", "step-4"]);
    }
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (execution, heard) = saving(folder.path(), "2steps");
    train(cross_entropy(20), &recipe(), &execution).unwrap();
    type Change = Box<dyn Fn(&mut Execution)>;
    let foreign: [(&str, Change); 3] = [
        ("micro batch is null and should be 3", Box::new(|execution| execution.micro_batch = Some(3))),
        ("predict batch is 32 and should be 7", Box::new(|execution| execution.predict_batch = 7)),
        (
            "training is {\"of\":\"x\",\"number\":0} and should be {\"of\":\"x\",\"number\":1}",
            Box::new(|execution| {
                let checkpoints = execution.checkpoints.as_mut().unwrap();
                checkpoints.training = json!({ "of": "x", "number": 1 });
            }),
        ),
    ];
    for (said, change) in foreign {
        lock(&heard).clear();
        let mut execution = execution.clone();
        change(&mut execution);
        // The same folder of checkpoints in another store.
        let home = other.path().join(".checkpoints-x-0");
        let _ = fs::remove_dir_all(&home);
        copy(&folder.path().join(".checkpoints-x-0"), &home);
        let checkpoints = execution.checkpoints.as_mut().unwrap();
        (checkpoints.folder, checkpoints.aside) = (home, other.path().join("quarantine"));
        train(cross_entropy(20), &recipe(), &execution).unwrap();
        let heard = lock(&heard);
        assert_eq!(heard.len(), 2, "{heard:?}");
        for passage in &*heard {
            let Passage::PutAside { reason, .. } = passage else { panic!("{passage:?}") };
            assert_eq!(*reason, format!("it is of another training: {said}"));
        }
    }
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn rewrite(step: &Path, from: &str, to: &str) {
    let path = step.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for step in names(from) {
        fs::create_dir_all(to.join(&step)).unwrap();
        for file in names(&from.join(&step)) {
            fs::copy(from.join(&step).join(&file), to.join(&step).join(&file)).unwrap();
        }
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_costs_nothing_but_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let (mut execution, heard) = saving(folder.path(), "4steps");
    fs::write(folder.path().join("file"), "").unwrap();
    execution.checkpoints.as_mut().unwrap().folder = folder.path().join("file/checkpoints");
    train(cross_entropy(20), &recipe(), &execution).unwrap();
    let heard = lock(&heard);
    let [Passage::NotWritten(reason)] = &heard[..] else { panic!("{heard:?}") };
    assert!(reason.contains("create the folder of checkpoints"), "{reason}");
}
