//! Times training and prediction as the product runs them; `compare.py` runs PyTorch on the same shapes beside it.
//!
//! `w2s-bench SHAPE train|predict STEPS REPEATS` prints a line per repeat: wall milliseconds, processor milliseconds, tokens, peak resident
//! megabytes so far. The first repeat, which also fills caches, is not printed. `w2s-bench SHAPE memory STEPS` trains once and prints the
//! peak of each tenth of the run, in megabytes. With `W2S_COMPOSED=1` in the environment Burn's own operations run in place of the fused ones. With
//! `W2S_RECOMPUTE=1` blocks are computed again on the way back, and with `W2S_PRECISION=bf16` (or `bf16-true`) matrices are in bfloat16. `W2S_DEVICE=cuda:0` takes a
//! GPU in place of the CPU, and `W2S_MICRO_BATCH=N` sends N examples at a time through the model. With `W2S_CHECKPOINTS=DIR`, `train` writes a checkpoint after every step; `memory` writes one before the last step, from which the next call goes on.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use w2s_benches::peak_mb;
use w2s_core::learner::{
    Checkpoints, Encoded, Every, Execution, Objective, Optimizer, Packing, Recipe, predict, train_classifier, train_lm,
};
use w2s_core::model::{Classifier, HeadConfig, Lora, Precision, Spec, Transformer};
use w2s_core::rng::Rng;
use w2s_strategies as _;

/// What is measured: a model, a batch, and whether it is a language model or a classifier, trained whole or by adapters.
struct Shape {
    name: &'static str,
    config: serde_json::Value,
    batch: usize,
    /// Shortest and longest sequence; lengths are uniform between.
    lengths: (usize, usize),
    language: bool,
    lora: bool,
}

fn gpt2(vocab: usize, width: usize, layers: usize, heads: usize) -> serde_json::Value {
    json!({ "model_type": "gpt2", "vocab_size": vocab, "n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 128 })
}

fn minilm() -> serde_json::Value {
    json!({
        "model_type": "bert", "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536, "max_position_embeddings": 512,
    })
}

/// Shapes of Qwen2, and of Qwen1.5 before it.
fn qwen2(width: usize, inner: usize, layers: usize, [heads, kv_heads]: [usize; 2], tied: bool) -> serde_json::Value {
    json!({
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": inner, "max_position_embeddings": 512, "tie_word_embeddings": tied,
    })
}

fn shapes() -> Vec<Shape> {
    let shape = |name, config, batch, lengths, language| Shape { name, config, batch, lengths, language, lora: false };
    let lora =
        |name, config, batch, length| Shape { lora: true, ..shape(name, config, batch, (length, length), false) };
    let gpt2_small = |positions: usize| {
        let mut config = gpt2(50257, 768, 12, 12);
        config["n_positions"] = positions.into();
        config
    };
    let half = || qwen2(896, 4864, 24, [14, 2], true);
    let (two, seven) = (|| qwen2(2048, 5504, 24, [16; 2], false), || qwen2(4096, 11008, 32, [32; 2], false));
    vec![
        shape("world-pretrain", gpt2(700, 128, 2, 4), 32, (12, 32), true),
        shape("world-finetune", gpt2(700, 128, 2, 4), 32, (12, 32), false),
        shape("minilm-128", minilm(), 32, (128, 128), false),
        shape("minilm-sst2", minilm(), 32, (8, 40), false),
        shape("gpt2", gpt2(50257, 768, 12, 12), 4, (64, 64), true),
        shape("gpt2-classifier", gpt2(50257, 768, 12, 12), 4, (64, 64), false),
        shape("gpt2-classifier-wide", gpt2(50257, 768, 12, 12), 16, (128, 128), false),
        lora("gpt2-lora", gpt2_small(128), 16, 128),
        lora("gpt2-lora-512", gpt2_small(512), 16, 512),
        lora("qwen2-lora", half(), 16, 128),
        lora("qwen2-lora-4", half(), 4, 128),
        lora("qwen-1.8b-lora", two(), 32, 128),
        lora("qwen-1.8b-lora-512", two(), 32, 512),
        lora("qwen-7b-lora", seven(), 32, 128),
        lora("qwen-7b-lora-512", seven(), 32, 512),
    ]
}

/// Processor time of this process so far, all threads, in milliseconds.
fn processor_ms() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// Looks every few milliseconds at how much memory is resident.
struct Watch {
    running: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u64>>,
}

impl Watch {
    fn start() -> Self {
        let running = Arc::new(AtomicBool::new(true));
        let on = running.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while on.load(Ordering::Relaxed) {
                let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
                let resident: u64 = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
                seen.push(resident * 4);
                std::thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        Self { running, thread }
    }

    /// Kilobytes, in the order seen.
    fn stop(self) -> Vec<u64> {
        self.running.store(false, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    w2s_core::alloc::keep_freed_memory();
    w2s_core::ops::use_composed(std::env::var_os("W2S_COMPOSED").is_some());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, phase, steps, repeats) = match arguments.as_slice() {
        [name, phase, steps, repeats] => (name, phase, steps, repeats.parse()?),
        [name, phase, steps] if phase == "memory" => (name, phase, steps, 0),
        _ => return Err("usage: w2s-bench SHAPE train|predict STEPS REPEATS, or SHAPE memory STEPS".into()),
    };
    let steps: usize = steps.parse()?;
    let all = shapes();
    let names = || all.iter().map(|shape| shape.name).collect::<Vec<_>>().join(", ");
    let shape = all.iter().find(|shape| shape.name == name).ok_or_else(|| format!("shapes: {}", names()))?;

    let config = shape.config.as_object().ok_or("a configuration is an object")?;
    let spec = Spec::from_config(config, Path::new("config.json"))?;
    let mut rng = Rng::named(1, "bench");
    let (short, long) = shape.lengths;
    let mut sequence = |extra: usize| -> Vec<u32> {
        let length = short + rng.below(long - short + 1) + extra;
        (0..length).map(|_| rng.below(spec.vocab) as u32).collect()
    };
    let rows: Vec<Vec<u32>> = (0..steps * shape.batch).map(|_| sequence(usize::from(shape.language))).collect();
    let extra = if shape.language { rows.len() } else { 0 };
    let tokens = rows.iter().map(Vec::len).sum::<usize>() - extra;
    let recipe = Recipe {
        epochs: 1,
        batch_size: shape.batch,
        learning_rate: 1e-4,
        optimizer: Optimizer::Adamw,
        ..Recipe::default()
    };
    let folder = std::env::var_os("W2S_CHECKPOINTS").map(std::path::PathBuf::from);
    let every = if phase == "memory" { steps - 1 } else { 1 };
    let every = std::num::NonZeroUsize::new(every).map_or(Every::Never, Every::Steps);
    let checkpoints = folder.as_ref().map(|folder| Checkpoints {
        folder: folder.join("checkpoints"),
        aside: folder.join("aside"),
        training: json!(name),
        every,
        tell: Arc::new(|passage| eprintln!("{passage:?}")),
    });
    let recompute = std::env::var_os("W2S_RECOMPUTE").is_some();
    let micro_batch = std::env::var("W2S_MICRO_BATCH").ok().map(|rows| rows.parse()).transpose()?;
    let (device, name) = w2s_core::device::open(&std::env::var("W2S_DEVICE").unwrap_or_else(|_| "cpu".to_owned()))?;
    let (predict_batch, looks_late) = (micro_batch.unwrap_or(shape.batch), name != "cpu");
    let execution =
        Execution { micro_batch, predict_batch, recompute, looks_late, checkpoints, ..Execution::default() };
    let precision: Precision = std::env::var("W2S_PRECISION").map_or(Ok(Precision::F32), |name| name.parse())?;
    let labels: Vec<Vec<f32>> =
        (0..rows.len()).map(|row| if row % 3 == 0 { vec![0.2, 0.8] } else { vec![0.9, 0.1] }).collect();
    let data = Encoded::new(rows.clone(), &spec)?;

    let watch = (phase == "memory").then(Watch::start);
    for repeat in 0..=repeats {
        if let Some(folder) = folder.as_ref().filter(|folder| phase == "train" && folder.exists()) {
            std::fs::remove_dir_all(folder)?;
        }
        // A model of its own for every repeat: one that is kept would be in memory twice, which no run does.
        let model = match (shape.lora, phase.as_str()) {
            (true, "predict") => Transformer::init_frozen(&spec, 1, &device, precision)?,
            (true, _) => {
                let model = Transformer::init_frozen(&spec, 1, &device.clone().autodiff(), precision)?;
                model.with_lora(&Lora::default(), 1)?
            }
            (false, _) => Transformer::init_to_train(&spec, 1, &device, precision)?,
        };
        let head = |model| Classifier::new(model, &HeadConfig::default(), 2, 1, None);
        let (start, start_cpu) = (Instant::now(), processor_ms());
        match phase.as_str() {
            "train" | "memory" if shape.language => {
                train_lm(model, &rows, Packing::Documents, &recipe, 1, &execution)?;
            }
            "train" | "memory" => {
                let loss: Box<dyn w2s_core::strategy::ConfiguredLoss> =
                    serde_json::from_value(json!({ "type": "cross-entropy" }))?;
                train_classifier(head(model)?, &data, Objective::new(labels.clone(), loss), &recipe, 1, &execution)?;
            }
            _ => {
                predict(&head(model)?, &data, &execution)?;
            }
        }
        let (wall, cpu) = (start.elapsed().as_secs_f64() * 1e3, processor_ms() - start_cpu);
        if repeat > 0 {
            println!("{wall:.3} {cpu:.3} {tokens} {}", peak_mb());
        }
    }
    if let Some(watch) = watch {
        let seen = watch.stop();
        let tenths = seen.chunks(seen.len().div_ceil(10).max(1)).filter_map(|part| part.iter().max());
        println!("{}", tenths.map(|kb| format!("{:.1}", *kb as f64 / 1024.0)).collect::<Vec<_>>().join(" "));
    }
    Ok(())
}
