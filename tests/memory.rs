//! The plan of a training's memory against what trainings allocate. A program of its own, whose allocator counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use burn::tensor::Device;
use serde_json::{Value, json};
use w2s_core::{
    learner::{
        Answering, Encoded, Execution, Manner, Memory, Objective, Optimizer, Packing, Purpose, Recipe, Texts, Workload,
        train_classifier, train_lm, train_words,
    },
    model::{Classifier, Footprint, HeadConfig, Learns, Lora, Pooling, Precision, Spec, Transformer},
    rng::Rng,
    strategy::ConfiguredLoss,
};
use w2s_strategies as _;

/// The system's allocator, which knows how many bytes are there and how many were at most.
struct Counting;

static THERE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn grow(size: usize) {
    let now = THERE.fetch_add(size, Relaxed) + size;
    MOST.fetch_max(now, Relaxed);
}

// SAFETY: every block comes from the system's allocator and goes back to it as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promises are those that `System` asks for; so below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        THERE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were there at once while something was done, beyond those before.
fn peak_of<T>(work: impl FnOnce() -> T) -> usize {
    let before = THERE.load(Relaxed);
    MOST.store(before, Relaxed);
    let done = work();
    let peak = MOST.load(Relaxed) - before;
    drop(done);
    peak
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Classes,
    Words,
    Documents,
}

/// A model and a training of it.
struct Shape {
    name: &'static str,
    config: Value,
    kind: Kind,
    lora: bool,
    optimizer: Optimizer,
    batch: usize,
    length: usize,
    micro_batch: Option<usize>,
}

fn shapes() -> Vec<Shape> {
    let gpt2 = json!({ "model_type": "gpt2", "vocab_size": 2000, "n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 64 });
    let gpt2_124m = json!({
        "model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 64,
    });
    let bert = json!({
        "model_type": "bert", "vocab_size": 3000, "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 384, "max_position_embeddings": 64,
    });
    let llama = json!({
        "model_type": "llama", "vocab_size": 4000, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 344, "max_position_embeddings": 128, "tie_word_embeddings": false,
    });
    let neox = json!({
        "model_type": "gpt_neox", "vocab_size": 3000, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 512, "max_position_embeddings": 128, "use_parallel_residual": true,
    });
    let qwen = json!({
        "model_type": "qwen2", "vocab_size": 6000, "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 4, "intermediate_size": 344, "max_position_embeddings": 128, "tie_word_embeddings": true,
    });
    let shape = |name, config: &Value, kind, lora, batch, length, micro_batch| Shape {
        name,
        config: config.clone(),
        kind,
        lora,
        optimizer: Optimizer::Adamw,
        batch,
        length,
        micro_batch,
    };
    let in_bytes = |shape: Shape| Shape { optimizer: Optimizer::Adamw8bit, ..shape };
    vec![
        shape("GPT-2, classes", &gpt2, Kind::Classes, false, 16, 48, None),
        shape("GPT-2, documents", &gpt2, Kind::Documents, false, 4, 32, None),
        Shape {
            optimizer: Optimizer::Adafactor,
            ..shape("GPT-2, classes, Adafactor", &gpt2, Kind::Classes, false, 16, 48, None)
        },
        shape("BERT, classes in parts", &bert, Kind::Classes, false, 16, 48, Some(4)),
        shape("Llama, words", &llama, Kind::Words, true, 8, 48, None),
        shape("GPT-NeoX, classes", &neox, Kind::Classes, true, 16, 64, None),
        shape("Qwen2, words in parts", &qwen, Kind::Words, true, 16, 64, Some(4)),
        in_bytes(shape("GPT-2, classes, moments in 8 bits", &gpt2, Kind::Classes, false, 16, 48, None)),
        in_bytes(shape("GPT-2, documents, moments in 8 bits", &gpt2, Kind::Documents, false, 4, 32, None)),
        in_bytes(shape("Llama, words, moments in 8 bits", &llama, Kind::Words, true, 8, 48, None)),
        shape("GPT-2 of 124M, classes", &gpt2_124m, Kind::Classes, true, 2, 48, None),
    ]
}

/// Tokens of an answer in words, and its end.
const ANSWER: usize = 8;

impl Shape {
    fn recipe(&self) -> Recipe {
        let (batch_size, optimizer) = (self.batch, self.optimizer);
        Recipe { epochs: 1, batch_size, learning_rate: 1e-4, optimizer, ..Recipe::default() }
    }

    fn planned(&self, spec: &Spec, manner: Manner) -> Memory {
        let purpose = match self.kind {
            Kind::Classes => {
                Purpose::Classes { outputs: 2, pooling: if spec.causal { Pooling::Last } else { Pooling::Mean } }
            }
            Kind::Words => Purpose::Tokens { answer: ANSWER },
            Kind::Documents => Purpose::Tokens { answer: self.length },
        };
        let training = Workload {
            spec,
            learns: if self.lora { Learns::Adapters(lora()) } else { Learns::All },
            purpose,
            longest: self.length,
            texts: 1,
            recipe: &self.recipe(),
            micro_batch: self.micro_batch,
            manner,
            beside: None,
        };
        training.memory().unwrap()
    }

    /// Loads the model and trains it for three steps.
    fn measured(&self, spec: &Spec, Manner { recompute, precision }: Manner) -> usize {
        let mut rng = Rng::named(1, "memory");
        let mut text = |length: usize| (0..length).map(|_| rng.below(spec.vocab - 1) as u32).collect::<Vec<u32>>();
        let count = 3 * self.batch;
        let (rows, answers): (Vec<_>, Vec<_>) = match self.kind {
            Kind::Classes => (0..count).map(|_| (text(self.length), Vec::new())).unzip(),
            Kind::Documents => (0..count).map(|_| (text(self.length + 1), Vec::new())).unzip(),
            // What is read is the prompt and the answer but for its last token.
            Kind::Words => (0..count).map(|_| (text(self.length + 1 - ANSWER), text(ANSWER - 1))).unzip(),
        };
        let execution = Execution { micro_batch: self.micro_batch, recompute, ..Execution::default() };
        let loss = || serde_json::from_value::<Box<dyn ConfiguredLoss>>(json!({ "type": "cross-entropy" })).unwrap();
        let recipe = self.recipe();
        let data = (self.kind != Kind::Documents).then(|| Encoded::new(rows.clone(), spec).unwrap());
        peak_of(|| {
            let device = Device::flex().autodiff();
            let model = match self.lora {
                true => Transformer::init_frozen(spec, 1, &device, precision).unwrap().with_lora(&lora(), 1).unwrap(),
                false => Transformer::init_to_train(spec, 1, &device, precision).unwrap(),
            };
            match (self.kind, &data) {
                (Kind::Classes, Some(data)) => {
                    let labels = vec![vec![0.3, 0.7]; count];
                    let model = Classifier::new(model, &HeadConfig::default(), 2, 1, None).unwrap();
                    train_classifier(model, data, Objective::new(labels, loss()), &recipe, 1, &execution).unwrap();
                }
                (Kind::Words, Some(data)) => {
                    let end_token = Some(spec.vocab as u32 - 1);
                    let texts = Texts { answers: vec![answers], end_token, answering: Answering::default() };
                    let objective = Objective::new(vec![vec![1.0]; count], loss());
                    train_words(model, data, objective, texts, &recipe, 1, &execution).unwrap();
                }
                _ => {
                    train_lm(model, &rows, Packing::Documents, &recipe, 1, &execution).unwrap();
                }
            }
        })
    }
}

/// Numbers of the matrices that a precision is of.
fn matrices(spec: &Spec) -> u64 {
    Footprint::new(spec, &Learns::All).unwrap().matrices.total()
}

fn lora() -> Lora {
    Lora { alpha: 16.0, ..Lora::default() }
}

/// Within a tenth of what is allocated, whether blocks are computed again or not.
#[expect(clippy::print_stdout, reason = "docs/memory.md is made of what this prints")]
#[test]
fn a_training_needs_the_memory_that_was_planned() {
    let mut far = Vec::new();
    let shapes = shapes();
    // What threads and products of matrices hold on to from the first training on belongs to the process.
    for shape in &shapes[..1] {
        let spec = Spec::from_config(shape.config.as_object().unwrap(), Path::new("config.json")).unwrap();
        shape.measured(&spec, Manner::default());
    }
    for shape in shapes {
        let config = shape.config.as_object().unwrap();
        let spec = Spec::from_config(config, Path::new("config.json")).unwrap();
        let mut peaks = Vec::new();
        for (precision, recompute) in
            Precision::ALL.into_iter().flat_map(|precision| [false, true].map(|recompute| (precision, recompute)))
        {
            let manner = Manner { recompute, precision };
            let planned = shape.planned(&spec, manner);
            let measured = shape.measured(&spec, manner);
            let ratio = planned.peak as f64 / measured as f64;
            println!(
                "{}, {precision}, {recompute}: planned {}, measured {measured}: {ratio:.3}  {planned:?}",
                shape.name, planned.peak
            );
            if !(0.9..=1.1).contains(&ratio) {
                far.push(format!("{}, {precision}, {recompute}: {ratio:.3}", shape.name));
            }
            peaks.push(measured);
            // What is frozen has no gradient. Those of matrices are half as large where they are in bfloat16.
            let narrow = if shape.lora || precision != Precision::Bf16True { 0 } else { matrices(&spec) };
            assert_eq!(planned.gradients, 4 * planned.trained - 2 * narrow);
            assert_eq!(shape.lora, planned.trained < planned.parameters);
        }
        for pair in peaks.chunks(2) {
            assert!(pair[1] < pair[0] || shape.optimizer == Optimizer::Adafactor, "{}: {peaks:?}", shape.name);
        }
        // Of frozen weights half is left; beside those that are trained there is a copy, unless they are halved themselves.
        assert_eq!(shape.lora, peaks[2] < peaks[0], "{}: {peaks:?}", shape.name);
        assert!(peaks[4] < peaks[0], "{}: {peaks:?}", shape.name);
    }
    assert!(far.is_empty(), "{far:?}");
}
