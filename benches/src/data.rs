//! How long it takes from texts to batches: tokenised, put into buckets of similar length, and made into the arrays that a step reads.
//!
//! `w2s-bench-data MODEL TEXTS COUNT`: MODEL is a folder with `tokenizer.json`, TEXTS a file with a text on each line; its lines are taken
//! again from the start until there are COUNT.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use w2s_benches::peak_mb;
use w2s_core::learner::{Encoded, Order, Sampler};
use w2s_core::model::Pretrained;

const BATCH: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    w2s_core::alloc::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, texts, count] = arguments.as_slice() else {
        return Err("usage: w2s-bench-data MODEL TEXTS COUNT".into());
    };
    let model = Pretrained::open(Path::new(model))?;
    let texts = std::fs::read_to_string(texts)?;
    let texts: Vec<&str> = texts.lines().cycle().take(count.parse()?).collect();
    let start = Instant::now();
    let rows = model.tokenizer().encode_all(texts)?;
    let tokenised = start.elapsed().as_secs_f64();
    let data = Encoded::new(rows, model.spec())?;
    let sampler = Sampler::new(&data.lengths(), BATCH, 1, Order::Bucketed, 0)?;
    let mut tokens = 0;
    for step in 0..sampler.steps() {
        let batch = sampler.minibatch(step).ok_or("a step without a batch")?;
        tokens += data.tokens(&batch.rows).ids.len();
    }
    let all = start.elapsed().as_secs_f64();
    println!(
        "{} examples, {tokens} tokens: {all:.1} s ({tokenised:.1} s of it the tokenizer), peak {} MB",
        data.len(),
        peak_mb()
    );
    Ok(())
}
