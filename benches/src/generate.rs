//! Times writing: prompts of one length, answers of one length, by the likeliest token. `generate.py` runs transformers beside it.
//!
//! `w2s-bench-generate CONFIG BATCH PROMPT NEW REPEATS`, with the text of a `config.json`, prints a line per repeat: wall milliseconds, new tokens,
//! peak resident megabytes so far. The first repeat, which also fills caches, is not printed.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use serde_json::json;
use w2s_benches::peak_mb;
use w2s_core::learner::{Decoding, Encoded, Execution, generate};
use w2s_core::model::{Spec, Tokenizer, Transformer};
use w2s_core::rng::Rng;

fn main() -> Result<(), Box<dyn Error>> {
    w2s_core::alloc::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, batch, prompt, new, repeats] = arguments.as_slice() else {
        return Err("usage: w2s-bench-generate CONFIG BATCH PROMPT NEW REPEATS".into());
    };
    let (batch, prompt, new) = (batch.parse::<usize>()?, prompt.parse::<usize>()?, new.parse::<usize>()?);
    let spec = Spec::parse(config, Path::new("CONFIG"))?;
    let model = Transformer::init(&spec, 1, &Device::flex())?;
    // What is written is not read; one word is a tokenizer.
    let words = json!({ "version": "1.0", "added_tokens": [], "model": { "type": "WordLevel", "vocab": { "a": 0 }, "unk_token": "a" } });
    let tokenizer = Tokenizer::parse(&words.to_string(), Path::new("tokenizer.json"))?;
    let mut rng = Rng::named(1, "bench");
    let rows = (0..batch).map(|_| (0..prompt).map(|_| rng.below(spec.vocab) as u32).collect()).collect();
    let prompts = Encoded::new(rows, &spec)?;
    let decoding = Decoding { max_new_tokens: new, ..Decoding::default() };
    let execution = Execution { predict_batch: batch, ..Execution::default() };
    for repeat in 0..=repeats.parse()? {
        let start = Instant::now();
        let written = generate(&model, &tokenizer, &[], &prompts, &decoding, 0, &execution)?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let tokens: usize = written.iter().flatten().map(|answer| answer.tokens.len()).sum();
        if repeat > 0 {
            println!("{ms:.3} {tokens} {}", peak_mb());
        }
    }
    Ok(())
}
