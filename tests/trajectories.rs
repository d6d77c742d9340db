//! Ten steps of a tiny GPT-2 as openai/weak-to-strong takes them (`golden/golden_tiny_gpt2.json`), and of two tiny models on answers in words as
//! transformers and PyTorch take them (`golden/golden_words.json`, made by `make_words.py`), step by step through the learner: burn-train, the
//! strategies as a configuration names them, and models read from files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};
use w2s_core::{
    learner::{Answering, Encoded, Execution, Objective, Recipe, Shape, Texts, predict, train_classifier, train_words},
    model::{Classifier, HeadConfig, Pretrained, Tokens, Transformer},
    strategy::ConfiguredLoss,
};

use crate::support::{safetensors, tensors, word_tokenizer};

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/golden_tiny_gpt2.json")).unwrap()
}

/// Writes a model's folder as the Hugging Face hub has it.
fn model_folder(config: &Value, weights: &Value, run: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{run}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), word_tokenizer('w').to_string()).unwrap();
    fs::write(folder.join("model.safetensors"), safetensors(&tensors(weights))).unwrap();
    folder
}

fn folder(golden: &Value, run: &str) -> PathBuf {
    let mut config = golden["config"].clone();
    config["model_type"] = json!("gpt2");
    config["activation_function"] = config["activation"].clone();
    let mut weights = golden["weights"].clone();
    for layer in 0..2 {
        // All zero, and left out of the file.
        weights[format!("transformer.h.{layer}.attn.c_attn.bias")] = json!(vec![0.0; 24]);
    }
    model_folder(&config, &weights, run)
}

fn rows(split: &Value, pretrained: &Pretrained) -> (Encoded, Vec<Vec<f32>>) {
    let (mut tokens, mut labels) = (Vec::new(), Vec::new());
    for example in split.as_array().unwrap() {
        tokens.push(numbers(&example["input_ids"]).into_iter().map(|id| id as u32).collect());
        labels.push(numbers(&example["soft_label"]).into_iter().map(|label| label as f32).collect());
    }
    (Encoded::new(tokens, pretrained.spec()).unwrap(), labels)
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[track_caller]
fn assert_near(what: &str, ours: &[f32], reference: &Value, tolerance: f64) {
    for (ours, reference) in ours.iter().zip(numbers(reference)) {
        let far = (f64::from(*ours) - reference).abs();
        assert!(far < tolerance, "{what}: {ours} instead of {reference}");
    }
}

/// Trains as one of the reference's runs and compares everything that it left behind.
fn follow(run: &str, loss: Value, recipe: Recipe, tolerance: f64) {
    let golden = golden();
    let folder = folder(&golden, run);
    let pretrained = Pretrained::open(&folder).unwrap();
    let reference = &golden["runs"][run];
    let steps = reference["log"].as_array().unwrap();
    // The reference takes a batch in two parts and so may we.
    for micro_batch in [None, Some(2), Some(1)] {
        let execution = Execution { micro_batch, ..Execution::default() };
        let loss: Box<dyn ConfiguredLoss> = serde_json::from_value(loss.clone()).unwrap();
        let backbone = pretrained.load(&Device::flex()).unwrap();
        let model = Classifier::new(backbone, &HeadConfig::default(), 2, 0, None).unwrap();
        let (data, labels) = rows(&golden["train"], &pretrained);
        let trained = train_classifier(model, &data, Objective::new(labels, loss), &recipe, 0, &execution).unwrap();

        assert_eq!(trained.log.steps.len() + 1, steps.len());
        for (ours, reference) in trained.log.steps.iter().zip(steps) {
            let of = |key: &str| reference[key].as_f64().unwrap();
            assert_eq!(ours.step as f64, of("step"));
            assert!((ours.loss - of("loss")).abs() < tolerance, "{ours:?} instead of {reference}");
            if recipe.learning_rate == 0.01 {
                assert!((ours.learning_rate - of("lr")).abs() < 1e-12, "{ours:?} instead of {reference}");
            }
            assert_eq!(ours.accuracy, reference["train_accuracy"].as_f64(), "{reference}");
        }

        let (test, truth) = rows(&golden["test"], &pretrained);
        let tested = predict(&trained.model, &test, &execution).unwrap();
        for (ours, reference) in tested.logits.iter().zip(reference["test_logits"].as_array().unwrap()) {
            assert_near("test logits", ours, reference, tolerance);
        }
        let right =
            tested.logits.iter().zip(&truth).filter(|(ours, truth)| (ours[1] > ours[0]) == (truth[1] > truth[0]));
        assert_eq!(right.count() as f64 / truth.len() as f64, reference["test_acc"].as_f64().unwrap());

        // The weak labels that a student would get.
        let (other, _) = rows(&golden["inference"], &pretrained);
        let labelled = predict(&trained.model, &other, &execution).unwrap();
        let reference = reference["inference"].as_array().unwrap();
        assert_eq!(labelled.probabilities.len(), reference.len());
        for (row, reference) in reference.iter().enumerate() {
            assert_near("weak label", &labelled.probabilities[row], &reference["soft_label"], tolerance);
            assert_near("its logits", &labelled.logits[row], &reference["logits"], tolerance);
            let hard = usize::from(labelled.logits[row][1] > labelled.logits[row][0]);
            assert_eq!(Some(hard as u64), reference["hard_label"].as_u64());
        }
    }
    fs::remove_dir_all(folder).ok();
}

fn recipe(more: Value) -> Recipe {
    let mut recipe = json!({ "epochs": 2, "batch_size": 4, "learning_rate": 0.01 });
    recipe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(recipe).unwrap()
}

#[test]
fn cross_entropy_with_adam_and_cosine() {
    follow("xent_adam_cosine", json!({ "type": "cross-entropy" }), recipe(json!({})), 2e-6);
}

#[test]
fn auxiliary_confidence_with_adam_and_cosine() {
    follow("logconf_adam_cosine", json!({ "type": "aux-confidence" }), recipe(json!({})), 2e-6);
}

#[test]
fn product_with_adam_and_a_constant_rate() {
    let constant = recipe(json!({ "schedule": "constant" }));
    follow("product_adam_const", json!({ "type": "product" }), constant.clone(), 2e-6);
    follow("product_adam_const", json!({ "type": "product", "form": "openai" }), constant, 2e-6);
}

#[test]
fn cross_entropy_with_adafactor_which_ignores_the_cosine() {
    // Steps are small here, and with them the differences that matter.
    let adafactor = recipe(json!({ "optimizer": "adafactor" }));
    follow("xent_adafactor_cosine", json!({ "type": "cross-entropy" }), adafactor.clone(), 1e-7);
    let other = Recipe { learning_rate: 100.0, schedule: Shape::Constant, ..adafactor };
    follow("xent_adafactor_cosine", json!({ "type": "cross-entropy" }), other, 1e-7);
}

/// Trains on answers in words as transformers does, and compares every step and what is left.
fn follow_words(kind: &str, run: &str, loss: Value) {
    const TOLERANCE: f64 = 1e-5;
    let golden: Value = serde_json::from_str(include_str!("golden/golden_words.json")).unwrap();
    let of_model = &golden["models"][kind];
    let folder = model_folder(&of_model["config"], &of_model["weights"], &format!("words-{kind}-{run}"));
    let pretrained = Pretrained::open(&folder).unwrap();
    let ids = |value: &Value| -> Vec<u32> { numbers(value).into_iter().map(|id| id as u32).collect() };
    let rows = golden["rows"].as_array().unwrap();
    let prompts = Encoded::new(rows.iter().map(|row| ids(&row["prompt"])).collect(), pretrained.spec()).unwrap();
    let weak: Vec<Vec<u32>> = rows.iter().map(|row| ids(&row["answer"])).collect();
    let recipe = recipe(json!({ "schedule": "constant", "clip": 1.0 }));
    let reference = &of_model["runs"][run];
    for micro_batch in [None, Some(1)] {
        let loss: Box<dyn ConfiguredLoss> = serde_json::from_value(loss.clone()).unwrap();
        let end_token = golden["end"].as_u64().map(|id| id as u32);
        let texts = Texts { answers: vec![weak.clone()], end_token, answering: Answering::default() };
        let objective = Objective::new(vec![vec![1.0]; weak.len()], loss);
        let execution = Execution { micro_batch, ..Execution::default() };
        let model = pretrained.load(&Device::flex()).unwrap();
        let trained = train_words(model, &prompts, objective, texts, &recipe, 0, &execution).unwrap();

        let steps = reference["log"].as_array().unwrap();
        assert_eq!(trained.log.steps.len(), steps.len());
        for (ours, reference) in trained.log.steps.iter().zip(steps) {
            let of = |key: &str| reference[key].as_f64().unwrap();
            assert!((ours.loss - of("loss")).abs() < TOLERANCE, "{ours:?} instead of {reference}");
            assert!(
                (ours.gradient_norm.unwrap() - of("gradient_norm")).abs() < TOLERANCE,
                "{ours:?} instead of {reference}"
            );
            assert!((ours.accuracy.unwrap() - of("accuracy")).abs() < 1e-6, "{ours:?} instead of {reference}");
        }
        let every: Vec<u32> = (0..32).collect();
        let floats = |tensor: Tensor<2>| tensor.into_data().iter::<f32>().collect::<Vec<f32>>();
        let unembedding = floats(trained.model.unembedding(&every).unwrap());
        for (row, reference) in unembedding.chunks(8).zip(reference["unembedding"].as_array().unwrap()) {
            assert_near("unembedding", row, reference, TOLERANCE);
        }
        let tokens = Tokens::new(&[[prompts.row(0), &weak[0]].concat()], pretrained.spec()).unwrap();
        let logits = floats(trained.model.lm_logits(trained.model.hidden(&tokens)).unwrap());
        assert_near("logits", &logits[logits.len() - 32..], &reference["logits"], 5.0 * TOLERANCE);
    }
    fs::remove_dir_all(folder).ok();
}

#[test]
fn answers_in_words_with_cross_entropy() {
    follow_words("gpt2", "cross-entropy", json!({ "type": "cross-entropy" }));
    follow_words("llama", "cross-entropy", json!({ "type": "cross-entropy" }));
}

#[test]
fn answers_in_words_with_auxiliary_confidence() {
    let loss = json!({ "type": "aux-confidence", "variant": "raven" });
    follow_words("gpt2", "aux-confidence", loss.clone());
    follow_words("llama", "aux-confidence", loss);
}

/// Trains the adapters of a tiny model as peft and PyTorch do (`golden/golden_lora.json`, made by `make_lora.py`).
#[test]
fn adapters_are_trained_as_by_peft() {
    const TOLERANCE: f64 = 1e-5;
    let golden: Value = serde_json::from_str(include_str!("golden/golden_lora.json")).unwrap();
    for (kind, case) in golden["models"].as_object().unwrap() {
        let folder = model_folder(&case["config"], &case["weights"], &format!("lora-{kind}"));
        fs::write(folder.join("adapter_config.json"), case["adapter_config"].to_string()).unwrap();
        fs::write(folder.join("w2s.json"), json!({ "pooling": "last", "classes": 2 }).to_string()).unwrap();
        fs::write(folder.join("adapter_model.safetensors"), safetensors(&tensors(&case["adapter"]))).unwrap();
        let pretrained = Pretrained::open(&folder).unwrap().with_adapter(&folder).unwrap();
        let rows = golden["rows"].as_array().unwrap();
        let ids = |row: &Value| numbers(&row["ids"]).into_iter().map(|id| id as u32).collect();
        let label = |row: &Value| numbers(&row["label"]).into_iter().map(|share| share as f32).collect();
        let data = Encoded::new(rows.iter().map(ids).collect(), pretrained.spec()).unwrap();
        let loss: Box<dyn ConfiguredLoss> = serde_json::from_value(json!({ "type": "cross-entropy" })).unwrap();
        let objective = Objective::new(rows.iter().map(label).collect(), loss);
        let recipe = recipe(json!({ "optimizer": "adamw", "schedule": "constant" }));
        let classifier = Classifier::load(&pretrained, &Device::flex()).unwrap();
        let classifier = classifier.on_backbone(Transformer::adapters_alone);
        let trained = train_classifier(classifier, &data, objective, &recipe, 0, &Execution::default()).unwrap();
        for (step, reference) in trained.log.steps.iter().zip(numbers(&case["losses"])) {
            assert!((step.loss - reference).abs() < TOLERANCE, "{kind}: {step:?} instead of {reference}");
        }
        assert_eq!(trained.log.steps.len(), 10);
        // What is left, as peft writes it.
        trained.model.save_adapter(&folder, pretrained.tokenizer(), "tiny").unwrap();
        let written = fs::read(folder.join("adapter_model.safetensors")).unwrap();
        let header = 8 + u64::from_le_bytes(written[..8].try_into().unwrap()) as usize;
        let places: Value = serde_json::from_slice(&written[8..header]).unwrap();
        for (name, (_, shape, expected)) in tensors(&case["trained"]) {
            assert_eq!(places[&name]["shape"], json!(shape), "{name}");
            let [start, end] = [0, 1].map(|at| header + places[&name]["data_offsets"][at].as_u64().unwrap() as usize);
            for (ours, reference) in written[start..end].chunks(4).zip(expected.chunks(4)) {
                let [ours, reference] = [ours, reference].map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                assert!(f64::from(ours - reference).abs() < TOLERANCE, "{kind}: {name}: {ours} instead of {reference}");
            }
        }
        fs::remove_dir_all(folder).ok();
    }
}
