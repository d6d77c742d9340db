//! What Selective W2SG costs: a student's step with P(IK) against a plain step of the same batch in the same run, and graph smoothing alone.
//!
//! `w2s-bench-selective step STEPS ROUNDS` trains MiniLM's shape on batches of 32 with 8 to 40 tokens, in turn plain and selective;
//! `w2s-bench-selective smoothing ROUNDS` smooths a batch of 32 × 768; `w2s-bench-selective dataset N` prepares smoothing over a whole data
//! set of N × 384.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use w2s_benches::peak_mb;
use w2s_core::learner::{Along, Encoded, Execution, Objective, OwnLabels, Recipe, train_classifier};
use w2s_core::model::{Classifier, HeadConfig, Spec, Transformer};
use w2s_core::rng::Rng;
use w2s_core::strategy::{
    Batch, ConfiguredLoss, ConfiguredRefiner, ConfiguredSelector, ExampleId, Memory, Pool, Selection,
};
use w2s_strategies as _;

const BATCH: usize = 32;

fn strategy<T: DeserializeOwned>(value: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(value)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Soft labels that differ from row to row.
fn labels(count: usize) -> Vec<Vec<f32>> {
    (0..count).map(|row| if row % 3 == 0 { vec![0.2, 0.8] } else { vec![0.9, 0.1] }).collect()
}

/// Seconds of `steps` plain and selective steps in turn, and of the same selective steps without smoothing.
fn step(steps: usize, rounds: usize) -> Result<(), Box<dyn Error>> {
    let config = json!({
        "model_type": "bert", "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536, "max_position_embeddings": 512,
    });
    let spec = Spec::from_config(config.as_object().ok_or("not an object")?, Path::new("config.json"))?;
    let mut rng = Rng::named(1, "bench");
    let mut texts = || -> Vec<Vec<u32>> {
        let mut text = || (0..8 + rng.below(33)).map(|_| rng.below(spec.vocab) as u32).collect();
        (0..steps * BATCH).map(|_| text()).collect()
    };
    let (data, known) = (Encoded::new(texts(), &spec)?, Encoded::new(texts(), &spec)?);
    let count = steps * BATCH;
    let recipe = Recipe { epochs: 1, batch_size: BATCH, learning_rate: 1e-4, ..Recipe::default() };
    let model = Transformer::init(&spec, 1, &Device::flex())?;
    let plain = || -> Result<Objective, Box<dyn Error>> {
        Ok(Objective::new(labels(count), strategy::<Box<dyn ConfiguredLoss>>(json!({ "type": "cross-entropy" }))?))
    };
    let selective = |smooth: bool| -> Result<Objective, Box<dyn Error>> {
        let along = Along {
            column: "p-ik".to_owned(),
            data: known.clone(),
            labels: labels(count),
            lambda: 1.0,
            batch_size: BATCH,
            once: false,
            warmup_fraction: 0.0,
        };
        let refiner = json!({ "type": if smooth { "graph-smoothing" } else { "identity" } });
        Ok(Objective {
            along: Some(along),
            self_labels: Some(OwnLabels::Given(labels(count))),
            selector: Some(strategy::<Box<dyn ConfiguredSelector>>(json!({ "type": "p-ik", "gamma": 0.5 }))?),
            refiner: Some(strategy::<Box<dyn ConfiguredRefiner>>(refiner)?),
            ..plain()?
        })
    };
    let time = |objective: Objective, heads: bool| -> Result<f64, Box<dyn Error>> {
        let mut classifier = Classifier::new(model.clone(), &HeadConfig::default(), 2, 1, None)?;
        if heads {
            classifier = classifier.with_judge(None);
        }
        let start = Instant::now();
        train_classifier(classifier, &data, objective, &recipe, 1, &Execution::default())?;
        Ok(start.elapsed().as_secs_f64() / steps as f64 * 1e3)
    };
    let mut times = [vec![], vec![], vec![]];
    for round in 0..=rounds {
        let row = [time(plain()?, false)?, time(selective(true)?, true)?, time(selective(false)?, true)?];
        if round > 0 {
            times.iter_mut().zip(row).for_each(|(times, time)| times.push(time));
        }
    }
    let [plain, smoothed, selected] = times.map(median);
    println!("plain step            {plain:.2} ms");
    println!("selective step        {smoothed:.2} ms  {:.2} ×", smoothed / plain);
    println!("  without smoothing   {selected:.2} ms  {:.2} ×", selected / plain);
    Ok(())
}

fn embeddings(count: usize, width: usize) -> Vec<Vec<f32>> {
    let mut rng = Rng::named(2, "bench/embeddings");
    (0..count).map(|_| (0..width).map(|_| rng.normal() as f32).collect()).collect()
}

/// Milliseconds of smoothing one batch of 32 × 768.
fn smoothing(rounds: usize) -> Result<(), Box<dyn Error>> {
    const WIDTH: usize = 768;
    let device = Device::flex();
    let tensor = |rows: Vec<Vec<f32>>| -> Tensor<2> {
        let shape = [rows.len(), rows[0].len()];
        Tensor::from_data(TensorData::new(rows.concat(), shape), &device)
    };
    let ids: Vec<ExampleId> = (0..BATCH as u32).map(ExampleId).collect();
    let batch = Batch::new(&ids, tensor(labels(BATCH))).with_embedding(tensor(embeddings(BATCH, WIDTH)));
    let refiner: Box<dyn ConfiguredRefiner> = strategy(json!({ "type": "graph-smoothing" }))?;
    let selection = Selection::weak(&batch);
    let mut times = Vec::new();
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        let labels = refiner.refine(&batch, &selection, &mut Memory::default());
        let sum: f32 = labels.sum().into_scalar();
        times.push(start.elapsed().as_secs_f64() * 1e3);
        assert!(sum > 0.0);
    }
    println!("smoothing 32 × {WIDTH}    {:.3} ms", median(times));
    Ok(())
}

/// Seconds and peak memory of smoothing over a whole data set.
fn dataset(count: usize) -> Result<(), Box<dyn Error>> {
    const WIDTH: usize = 384;
    let pool = Pool {
        ids: (0..count as u32).map(ExampleId).collect(),
        weak: labels(count),
        embeddings: Some(embeddings(count, WIDTH)),
        ..Pool::default()
    };
    let mut refiner: Box<dyn ConfiguredRefiner> = strategy(json!({ "type": "graph-smoothing", "scope": "dataset" }))?;
    let before = peak_mb();
    let start = Instant::now();
    refiner.prepare(&pool)?;
    println!(
        "whole data set {count} × {WIDTH}  {:.1} s, peak {} MB ({} MB of it the input)",
        start.elapsed().as_secs_f64(),
        peak_mb(),
        before
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    w2s_core::alloc::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["step", steps, rounds] => step(steps.parse()?, rounds.parse()?),
        ["smoothing", rounds] => smoothing(rounds.parse()?),
        ["dataset", count] => dataset(count.parse()?),
        _ => Err("usage: w2s-bench-selective step STEPS ROUNDS | smoothing ROUNDS | dataset N".into()),
    }
}
