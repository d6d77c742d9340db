//! Models against values that transformers computed, and every way a model's folder can be wrong.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Gradients, Tensor, TensorData, activation::log_softmax},
};
use proptest::prelude::*;
use rayon::prelude::*;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Map, Value, json};
use sha2::Digest as _;

use super::{arch, pretrained::floats, spec::LmHead, *};
use crate::arbitrary::{few, scraps, spliced};

#[path = "tests_lora.rs"]
mod lora;
#[path = "tests_precision.rs"]
mod precision;
#[path = "tests_recompute.rs"]
mod recompute;

const LENGTHS: [usize; 4] = [5, 3, 8, 1];

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Numbers of a nested list, with its shape.
fn numbers(value: &Value) -> (Vec<f32>, Vec<usize>) {
    fn walk(value: &Value, flat: &mut Vec<f32>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(item, flat)),
            number => flat.push(number.as_f64().unwrap() as f32),
        }
    }
    let mut flat = Vec::new();
    walk(value, &mut flat);
    let mut shape = Vec::new();
    let mut inner = value;
    while let Value::Array(items) = inner {
        shape.push(items.len());
        inner = &items[0];
    }
    (flat, shape)
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance, "{what}[{at}]: {found} instead of {expected}");
    }
}

/// A tensor of a file under construction.
#[derive(Clone)]
struct Raw {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Raw {
    fn f32(values: &[f32], shape: &[usize]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }
}

type Files = BTreeMap<String, Raw>;

fn tensors_of(weights: &Value) -> Files {
    let weights = weights.as_object().unwrap();
    weights
        .iter()
        .map(|(name, value)| {
            let (values, shape) = numbers(value);
            (name.clone(), Raw::f32(&values, &shape))
        })
        .collect()
}

fn write_tensors(path: &Path, tensors: &Files) {
    let views =
        tensors.iter().map(|(name, raw)| (name, TensorView::new(raw.dtype, raw.shape.clone(), &raw.bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A tokenizer of whole words `t0`, `t1`, ...
fn word_tokenizer(words: usize) -> Value {
    let vocab: Map<String, Value> = (0..words).map(|id| (format!("t{id}"), id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "t0" }
    })
}

/// A folder with a model in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(config: &Value, tensors: &Files) -> Self {
        let folder = Self::bare(config);
        write_tensors(&folder.file("model.safetensors"), tensors);
        folder
    }

    fn bare(config: &Value) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::write(folder.file("config.json"), config.to_string()).unwrap();
        let words = config["vocab_size"].as_u64().unwrap_or(32) as usize;
        fs::write(folder.file("tokenizer.json"), word_tokenizer(words).to_string()).unwrap();
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self) -> Pretrained {
        Pretrained::open(self.path()).unwrap()
    }

    fn error(&self) -> String {
        let error = Pretrained::open(self.path()).unwrap_err();
        let said = error.to_string().replace(&self.path().display().to_string(), "FOLDER");
        // What is said of any file that is damaged, or of any two that do not belong together.
        let general = [
            "\nhint: get the file again",
            "\nhint: get `config.json` again",
            "\nhint: do `config.json` and the weights belong to the same model, and",
        ];
        general.iter().fold(said, |said, hint| said.split(hint).next().unwrap_or_default().to_owned())
    }
}

/// A model of `golden_tiny_forward.json`, `golden_tiny_families.json` or `golden_tiny_architectures.json`.
struct Tiny {
    golden: Value,
    case: Value,
}

const FAMILIES: [&str; 15] = [
    "gpt2",
    "gpt_neox",
    "llama",
    "bert",
    "qwen2",
    "qwen3",
    "mistral",
    "opt",
    "qwen",
    "roberta",
    "phi3",
    "gemma2",
    "gemma3_text",
    "modernbert",
    "deberta-v2",
];

impl Tiny {
    fn new(name: &str) -> Self {
        let golden = golden(match name {
            "gpt2" | "gpt_neox" | "llama" => "golden_tiny_forward.json",
            "bert" | "qwen2" | "qwen3" | "mistral" | "opt" => "golden_tiny_families.json",
            _ => "golden_tiny_architectures.json",
        });
        let case = golden["models"][if name == "llama" { "llama_gqa" } else { name }].clone();
        Self { golden, case }
    }

    fn config(&self) -> &Value {
        &self.case["config"]
    }

    fn tensors(&self) -> Files {
        tensors_of(&self.case["weights"])
    }

    fn folder(&self) -> Folder {
        Folder::new(self.config(), &self.tensors())
    }

    fn rows(&self) -> Vec<Vec<u32>> {
        let (ids, _) = numbers(&self.golden["input_ids_right_padded_with_0"]);
        let rows = ids.chunks_exact(8).zip(LENGTHS);
        rows.map(|(row, length)| row[..length].iter().map(|&id| id as u32).collect()).collect()
    }

    fn tokens(&self) -> Tokens {
        Tokens::packed(&self.rows())
    }

    fn model(&self, device: &Device) -> Transformer {
        self.folder().open().load(device).unwrap()
    }

    fn classifier(&self, device: &Device) -> Classifier {
        let mut classifier = Classifier::new(self.model(device), &HeadConfig::default(), 2, 0, None).unwrap();
        set_head(&mut classifier, &self.case["head_weight"], device);
        classifier
    }

    fn values(&self, key: &str) -> Vec<f32> {
        numbers(&self.case[key]).0
    }
}

/// Gives a classifier a head of one row per class.
fn set_head(classifier: &mut Classifier, rows: &Value, device: &Device) {
    let (values, shape) = numbers(rows);
    let weights = Tensor::<2>::from_data(TensorData::new(values, shape), device).transpose();
    classifier.head.weight = Param::from_tensor(weights.detach());
}

/// The hidden state `[B, H]` of one token per sequence.
fn at(hidden: &Tensor<2>, tokens: &Tokens, places: &[usize]) -> Tensor<2> {
    let starts = tokens.lengths.iter().scan(0, |start, length| {
        *start += length;
        Some(*start - length)
    });
    Tensor::cat(starts.zip(places).map(|(start, place)| hidden.clone().narrow(0, start + place, 1)).collect(), 0)
}

/// Path and value of every parameter.
fn parameters<M: Module>(module: &M) -> BTreeMap<String, Vec<f32>> {
    #[derive(Default)]
    struct All {
        path: Vec<String>,
        values: BTreeMap<String, Vec<f32>>,
    }
    impl ModuleVisitor for All {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            assert!(param.is_initialized(), "{} is lazy", self.path.join("."));
            self.values.insert(self.path.join("."), floats(&param.val()));
        }
    }
    let mut all = All::default();
    module.visit(&mut all);
    all.values
}

/// Cross-entropy with soft labels, mean over rows.
fn cross_entropy(logits: Tensor<2>, labels: &Value) -> Tensor<1> {
    let (labels, shape) = numbers(labels);
    let labels = Tensor::<2>::from_data(TensorData::new(labels, shape), &logits.device());
    (log_softmax(logits, 1) * labels).sum_dim(1).mean().neg()
}

/// Norm of every parameter's gradient by path; parameters without one are left out.
fn gradient_norms(classifier: &Classifier, gradients: &Gradients) -> BTreeMap<String, f32> {
    struct Norms<'a> {
        gradients: &'a Gradients,
        path: Vec<String>,
        norms: BTreeMap<String, f32>,
    }
    impl ModuleVisitor for Norms<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.gradients) {
                let square: f64 = floats(&gradient).iter().map(|&value| f64::from(value).powi(2)).sum();
                self.norms.insert(self.path.join("."), square.sqrt() as f32);
            }
        }
    }
    let mut norms = Norms { gradients, path: Vec::new(), norms: BTreeMap::new() };
    classifier.visit(&mut norms);
    norms.norms
}

fn forward_matches(name: &str) {
    let tiny = Tiny::new(name);
    let device = Device::flex();
    let classifier = tiny.classifier(&device);
    let model = &classifier.backbone;
    let tokens = tiny.tokens();

    let first = Tokens::packed(&tiny.rows()[..1]);
    let mut states = model.states(&first);
    *states.last_mut().unwrap() = model.hidden(&first);
    let states: Vec<f32> = states.iter().flat_map(floats).collect();
    assert_close(&states, &tiny.values("hidden_states_seq0"), 2e-6, "hidden states");

    let last = at(&model.hidden(&tokens), &tokens, &LENGTHS.map(|length| length - 1));
    let golden = if model.spec().causal { "pooled" } else { "last" };
    assert_close(&floats(&last), &tiny.values(golden), 2e-6, "last hidden states");
    if model.spec().lm_head != LmHead::Absent {
        let logits = model.lm_logits(last).unwrap();
        assert_close(&floats(&logits), &tiny.values("lm_logits_last_token"), 2e-6, "language-model logits");
    }

    let (logits, embedding) = classifier.forward(&tokens);
    assert_close(&floats(&embedding), &tiny.values("pooled"), 2e-6, "pooled");
    assert_close(&floats(&logits), &tiny.values("head_logits"), 2e-6, "head logits");
}

fn gradients_match(name: &str) {
    let tiny = Tiny::new(name);
    let device = Device::flex().autodiff();
    let classifier = tiny.classifier(&device);
    let tokens = tiny.tokens();
    let (logits, _) = classifier.forward(&tokens);
    let loss = cross_entropy(logits, &tiny.case["soft_labels"]);
    assert_close(&floats(&loss), &[tiny.case["xent_loss"].as_f64().unwrap() as f32], 1e-6, "loss");
    let gradients = loss.backward();
    let head = classifier.head.weight.val().grad(&gradients).unwrap().transpose();
    assert_close(&floats(&head), &tiny.values("head_grad"), 1e-5, "gradient of the head");

    let norms = gradient_norms(&classifier, &gradients);
    let expected = tiny.case["backbone_grad_norms"].as_object().unwrap();
    let spec = classifier.backbone.spec();
    let entries = arch::find(spec.architecture).unwrap().entries(spec.layers, false);
    let mut compared = 0;
    for (path, entry) in &entries {
        let Some(norm) = entry.names.iter().find_map(|name| expected.get(name)) else { continue };
        let found = norms[&format!("backbone.{path}")];
        assert_close(&[found], &[norm.as_f64().unwrap() as f32], 1e-5, path);
        compared += 1;
    }
    assert_eq!(compared, expected.len());
    // Only the head's own gradient is not among them.
    assert_eq!(norms.len(), expected.len() + 1);
}

macro_rules! families {
    ($($module:ident = $name:literal)*) => {$(
        mod $module {
            #[test]
            fn computes_what_transformers_computes() {
                super::forward_matches($name);
            }

            #[test]
            fn has_the_gradients_of_transformers() {
                super::gradients_match($name);
            }
        }
    )*};
}

families! {
    gpt2 = "gpt2" gpt_neox = "gpt_neox" llama = "llama" bert = "bert" qwen2 = "qwen2" qwen3 = "qwen3" mistral = "mistral" opt = "opt" qwen = "qwen"
    roberta = "roberta" phi3 = "phi3" gemma2 = "gemma2" gemma3_text = "gemma3_text" modernbert = "modernbert" deberta_v2 = "deberta-v2"
}

/// Texts longer than `seq_length`: what the published code does to their positions, and that it does nothing of it while it trains.
#[test]
fn the_first_qwen_goes_beyond_its_pretraining() {
    let (long, tiny) = (golden("golden_qwen_long.json"), Tiny::new("qwen"));
    let scale = long["scale"].as_f64().unwrap() as f32;
    let weights = tiny.case["weights"].as_object().unwrap();
    let tensors: Files = weights
        .iter()
        .map(|(name, value)| {
            let (mut values, shape) = numbers(value);
            if name.ends_with("c_attn.weight") {
                values.iter_mut().for_each(|value| *value *= scale);
            }
            (name.clone(), Raw::f32(&values, &shape))
        })
        .collect();
    let mut config = tiny.config().clone();
    config["max_position_embeddings"] = long["positions"].clone();
    let ids = |value: &Value| -> Vec<u32> { numbers(value).0.into_iter().map(|id| id as u32).collect() };
    let rows = long["rows"].as_array().unwrap();
    let texts: Vec<Vec<u32>> = rows.iter().map(|row| ids(&row["ids"])).collect();
    let tokens = Tokens::packed(&texts);
    let lasts: Vec<usize> = tokens.lengths.iter().map(|length| length - 1).collect();
    let expected = |key: &str| -> Vec<f32> { rows.iter().flat_map(|row| numbers(&row[key]).0).collect() };
    let compare = |config: &Value, device: &Device, expected: &[f32], what: &str| {
        let folder = Folder::new(config, &tensors);
        let model = folder.open().load(device).unwrap();
        // The last block computes all tokens, or those alone that are asked for.
        for last in [at(&model.hidden(&tokens), &tokens, &lasts), model.pooled(&tokens, Pooling::Last)] {
            assert_close(&floats(&model.lm_logits(last).unwrap()), expected, 4e-6, what);
        }
        model
    };
    compare(&config, &Device::flex().autodiff(), &expected("train"), "in training");
    for key in ["use_dynamic_ntk", "use_logn_attn"] {
        let mut config = config.clone();
        config[key] = false.into();
        compare(&config, &Device::flex(), &numbers(&long["without"][key]).0, key);
    }
    let model = compare(&config, &Device::flex(), &expected("eval"), "in evaluation");

    // What is written after the text, whose length tells how positions turn; halfway some rows go on alone.
    let mut going_on: Vec<usize> = (0..rows.len()).collect();
    let (mut decoder, mut logits) = model.decoder(&tokens).unwrap();
    for step in 0..numbers(&rows[0]["new"]).0.len() {
        if step == 3 {
            let kept = [8, 4, 2, 0];
            decoder.keep(&kept);
            logits = Tensor::cat(kept.map(|row| logits.clone().narrow(0, row, 1)).to_vec(), 0);
            going_on = kept.to_vec();
        }
        let found = floats(&log_softmax(logits, 1));
        let next: Vec<u32> = going_on.iter().map(|row| ids(&rows[*row]["new"])[step]).collect();
        for ((found, next), row) in found.chunks_exact(model.spec().vocab).zip(&next).zip(&going_on) {
            let expected = numbers(&rows[*row]["log_p"]).0[step];
            assert!(found.iter().all(|other| *other <= found[*next as usize]), "{row} {step}");
            assert_close(&[found[*next as usize]], &[expected], 1e-5, "log-probability");
        }
        logits = decoder.step(&next).unwrap();
    }
}

/// Prints the table of docs/models.md: `cargo test --release --workspace --lib -- agreement_with_transformers --nocapture`.
#[test]
#[allow(clippy::print_stdout)] // The table is what it is for.
fn agreement_with_transformers() {
    let apart = |found: &[f32], expected: &[f32]| {
        assert_eq!(found.len(), expected.len());
        found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
    };
    println!("| `model_type` | hidden states | logits | norms of gradients |\n| --- | --- | --- | --- |");
    for name in arch::names() {
        let tiny = Tiny::new(name);
        let classifier = tiny.classifier(&Device::flex().autodiff());
        let (model, tokens) = (&classifier.backbone, tiny.tokens());
        let (logits, pooled) = classifier.forward(&tokens);
        let states = apart(&floats(&pooled), &tiny.values("pooled"));
        let mut far = apart(&floats(&logits), &tiny.values("head_logits"));
        if model.spec().lm_head != LmHead::Absent {
            let said = model.lm_logits(model.pooled(&tokens, Pooling::Last)).unwrap();
            far = far.max(apart(&floats(&said), &tiny.values("lm_logits_last_token")));
        }
        let gradients = cross_entropy(logits, &tiny.case["soft_labels"]).backward();
        let norms = gradient_norms(&classifier, &gradients);
        let expected = tiny.case["backbone_grad_norms"].as_object().unwrap();
        let entries = arch::find(name).unwrap().entries(model.spec().layers, false);
        let slopes = entries.iter().filter_map(|(path, entry)| {
            let expected = entry.names.iter().find_map(|name| expected.get(name))?;
            Some((norms[&format!("backbone.{path}")] - expected.as_f64()? as f32).abs())
        });
        let slopes = slopes.fold(0.0, f32::max);
        assert!(states.max(far).max(slopes) <= 1e-5, "{name}: {states:.1e} {far:.1e} {slopes:.1e}");
        println!("| `{name}` | {states:.1e} | {far:.1e} | {slopes:.1e} |");
    }
}

#[test]
fn encoders_pool_the_first_token() {
    for name in ["bert", "roberta", "modernbert", "deberta-v2"] {
        let tiny = Tiny::new(name);
        let model = tiny.model(&Device::flex());
        let first = model.pooled(&tiny.tokens(), Pooling::First);
        assert_close(&floats(&first), &tiny.values("pooled_first"), 2e-6, name);
    }
}

/// `golden_tiny_gpt2.json`, whose file leaves out the biases of `c_attn`: they are zero.
fn reference_model(device: &Device) -> (Value, Classifier) {
    let golden = golden("golden_tiny_gpt2.json");
    let mut tensors = tensors_of(&golden["weights"]);
    for layer in 0..2 {
        tensors.insert(format!("transformer.h.{layer}.attn.c_attn.bias"), Raw::f32(&[0.0; 24], &[24]));
    }
    let mut config = golden["config"].clone();
    config["model_type"] = "gpt2".into();
    config["activation_function"] = config["activation"].take();
    let backbone = Folder::new(&config, &tensors).open().load(device).unwrap();
    let mut classifier = Classifier::new(backbone, &HeadConfig::default(), 2, 0, None).unwrap();
    set_head(&mut classifier, &golden["forward_check"]["head_weight"], device);
    (golden, classifier)
}

#[test]
fn agrees_with_the_reference_implementation() {
    let device = Device::flex();
    let (golden, classifier) = reference_model(&device);
    let check = &golden["forward_check"];
    let rows: Vec<Vec<u32>> = golden["test"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| numbers(&row["input_ids"]).0.iter().map(|&id| id as u32).collect())
        .collect();
    let tokens = Tokens::new(&rows, classifier.backbone.spec()).unwrap();
    let (logits, embedding) = classifier.forward(&tokens);
    assert_close(&floats(&embedding), &numbers(&check["final_hidden_last_token"]).0, 1e-6, "embedding");
    assert_close(&floats(&logits), &numbers(&check["logits"]).0, 1e-6, "logits");
}

// The reference counts ids that are not 0 to find the last token, and so pools one too early for each "!" of GPT-2.
#[test]
fn token_id_0_is_a_token() {
    let device = Device::flex();
    let (golden, classifier) = reference_model(&device);
    let case = &golden["forward_check"]["token0_bug"];
    let ids: Vec<u32> = numbers(&case["input_ids"]).0.iter().map(|&id| id as u32).collect();
    let tokens = Tokens::new(&[&ids[..5], &[5, 6, 7, 8, 9, 10]], classifier.backbone.spec()).unwrap();
    let logits = floats(&classifier.forward(&tokens).0);
    assert_close(&logits[..2], &numbers(&case["logits_correct_index"]).0, 1e-6, "logits");
}

#[test]
fn one_row_of_the_last_block_is_the_same_as_all_rows() {
    for name in FAMILIES {
        let tiny = Tiny::new(name);
        let device = Device::flex().autodiff();
        let classifier = tiny.classifier(&device);
        let model = &classifier.backbone;
        let tokens = tiny.tokens();
        for (pooling, places) in [(Pooling::Last, LENGTHS.map(|length| length - 1)), (Pooling::First, [0; 4])] {
            let short = model.pooled(&tokens, pooling);
            let long = at(&model.hidden(&tokens), &tokens, &places);
            assert_close(&floats(&short), &floats(&long), 2e-6, name);
            let gradients = [short, long]
                .map(|x| gradient_norms(&classifier, &classifier.logits(x).powi_scalar(2).sum().backward()));
            let [short, long] = gradients;
            assert_eq!(short.keys().collect::<Vec<_>>(), long.keys().collect::<Vec<_>>());
            for (path, norm) in &short {
                assert_close(&[*norm], &[long[path]], 2e-5 * norm.max(1.0), path);
            }
        }
    }
}

#[test]
fn a_sequence_does_not_see_its_neighbours() {
    let device = Device::flex();
    for name in FAMILIES {
        let tiny = Tiny::new(name);
        let model = tiny.model(&device);
        let spec = model.spec();
        let rows = tiny.rows();
        let batch = tiny.tokens();
        for pooling in [Pooling::Last, Pooling::First, Pooling::Mean] {
            let together = floats(&model.pooled(&batch, pooling));
            for (row, together) in rows.iter().zip(together.chunks_exact(spec.hidden)) {
                let alone = model.pooled(&Tokens::new(&[row], spec).unwrap(), pooling);
                assert_close(together, &floats(&alone), 2e-6, name);
            }
        }
    }
}

#[test]
fn distances_have_the_buckets_of_transformers() {
    for case in golden("golden_tiny_architectures.json")["buckets"].as_array().unwrap() {
        let [count, longest] = ["count", "longest"].map(|key| case[key].as_u64().unwrap() as usize);
        let buckets = spec::Buckets { count, longest };
        let distances = 1 - longest as i64..longest as i64;
        let found: Vec<Value> = distances.map(|distance| buckets.of(distance).into()).collect();
        // What transformers gives beyond the table it clamps when it looks there.
        let limit = count as i64;
        let expected =
            case["of"].as_array().unwrap().iter().map(|bucket| bucket.as_i64().unwrap().clamp(-limit, limit - 1));
        assert_eq!(found, expected.map(Value::from).collect::<Vec<_>>());
    }
}

#[test]
fn padding_in_a_text_takes_no_position() {
    let tiny = Tiny::new("roberta");
    let model = tiny.model(&Device::flex());
    let states = |rows: &[&[u32]]| model.states(&Tokens::packed(rows)).swap_remove(0);
    // The third token stands where the second would.
    let with = states(&[&[7], &[5, 1, 6]]);
    let without = states(&[&[5, 6]]);
    assert_eq!(floats(&with.clone().narrow(0, 1, 1)), floats(&without.clone().narrow(0, 0, 1)));
    assert_eq!(floats(&with.narrow(0, 3, 1)), floats(&without.narrow(0, 1, 1)));
}

#[test]
fn square_matrices_of_conv1d_are_not_transposed() {
    let tiny = Tiny::new("gpt2");
    let model = parameters(&tiny.model(&Device::flex()));
    let (file, shape) = numbers(&tiny.case["weights"]["transformer.h.0.attn.c_proj.weight"]);
    assert_eq!(shape, [8, 8]);
    assert_eq!(model["blocks.0.attention.output.weight"], file);
}

#[test]
fn initialisation_depends_on_seed_and_path_alone() {
    let spec = tiny_spec("gpt2");
    let device = Device::flex();
    let model = Transformer::init(&spec, 1, &device).unwrap();
    device.seed(5);
    let again = Transformer::init(&spec, 1, &device).unwrap();
    // Used before it is looked at.
    let tokens = Tokens::new(&[[1_u32, 2]], &spec).unwrap();
    again.pooled(&tokens, Pooling::Last);
    let (model, again) = (parameters(&model), parameters(&again));
    assert_eq!(model, again);
    assert_eq!(model, parameters(&Transformer::init(&spec, 1, &Device::flex().autodiff()).unwrap()));
    assert_ne!(model, parameters(&Transformer::init(&spec, 2, &device).unwrap()));
    // A deeper model starts from the same weights where both have them, but for the scale of what adds to the residual stream.
    let deeper = Spec { layers: 3, ..spec };
    let deeper = parameters(&Transformer::init(&deeper, 1, &device).unwrap());
    assert_eq!(model["blocks.1.mlp.input.0.weight"], deeper["blocks.1.mlp.input.0.weight"]);
    assert!(model["blocks.1.mlp_norm.gamma"].iter().all(|&gain| gain == 1.0));
    assert!(model["blocks.1.mlp.output.bias"].iter().all(|&bias| bias == 0.0));
}

#[test]
fn initialisation_has_the_spread_of_gpt2() {
    let config =
        json!({ "model_type": "gpt2", "vocab_size": 500, "n_positions": 16, "n_embd": 64, "n_layer": 2, "n_head": 2 });
    let spec = Spec::parse(&config.to_string(), Path::new("config.json")).unwrap();
    let model = parameters(&Transformer::init(&spec, 0, &Device::flex()).unwrap());
    let std = |path: &str| {
        let values = &model[path];
        (values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    };
    assert!((std("tokens.weight") - 0.02).abs() < 0.0005, "{}", std("tokens.weight"));
    assert!((std("blocks.0.mlp.input.0.weight") - 0.02).abs() < 0.0005);
    // Divided by the square root of 2 additions per layer.
    assert!((std("blocks.0.mlp.output.weight") - 0.01).abs() < 0.0003);
}

#[test]
fn a_clone_can_be_frozen_before_first_use() {
    let device = Device::flex().autodiff();
    let model = Transformer::init(&tiny_spec("gpt2"), 0, &device).unwrap();
    let frozen = model.clone().no_grad();
    let tokens = Tokens::new(&[[1_u32, 2, 3]], model.spec()).unwrap();
    let config = HeadConfig { init: HeadInit::Normal { std: 1.0 }, ..HeadConfig::default() };
    for (backbone, trained) in [(model, 28), (frozen, 0)] {
        let classifier = Classifier::new(backbone, &config, 2, 0, None).unwrap();
        let gradients = classifier.forward(&tokens).0.powi_scalar(2).sum().backward();
        assert_eq!(gradient_norms(&classifier, &gradients).len(), trained + 1);
    }
}

#[test]
fn a_frozen_backbone_leaves_only_the_head_to_train() {
    let tiny = Tiny::new("llama");
    let device = Device::flex().autodiff();
    let config = HeadConfig { freeze_backbone: true, ..HeadConfig::default() };
    let classifier = Classifier::new(tiny.model(&device), &config, 2, 0, None).unwrap();
    let tokens = tiny.tokens();
    let (logits, embedding) = classifier.forward(&tokens);
    assert!(!embedding.is_require_grad());
    let gradients = cross_entropy(logits, &tiny.case["soft_labels"]).backward();
    assert_eq!(gradient_norms(&classifier, &gradients).into_keys().collect::<Vec<_>>(), ["head.weight"]);
    // Evaluating and training on does not thaw it.
    let classifier = classifier.valid().train();
    let gradients = cross_entropy(classifier.forward(&tokens).0, &tiny.case["soft_labels"]).backward();
    assert_eq!(gradient_norms(&classifier, &gradients).into_keys().collect::<Vec<_>>(), ["head.weight"]);
}

#[test]
fn a_model_loaded_on_the_plain_device_can_be_trained() {
    let tiny = Tiny::new("gpt2");
    let classifier = tiny.classifier(&Device::flex()).train();
    let tokens = tiny.tokens();
    let gradients = cross_entropy(classifier.forward(&tokens).0, &tiny.case["soft_labels"]).backward();
    assert_eq!(gradient_norms(&classifier, &gradients).len(), 29);
}

#[test]
fn heads_start_as_configured() {
    let tiny = Tiny::new("gpt2");
    let device = Device::flex();
    let folder = tiny.folder();
    let pretrained = folder.open();
    let model = pretrained.load(&device).unwrap();
    let head = |config: &str, seed| {
        let config: HeadConfig = serde_json::from_str(config).unwrap();
        Classifier::new(model.clone(), &config, 2, seed, Some(pretrained.tokenizer()))
            .map(|classifier| floats(&classifier.head.weight.val()))
    };
    assert_eq!(head("{}", 0).unwrap(), [0.0; 16]);
    let normal = r#"{ "init": { "type": "normal", "std": 0.5 } }"#;
    assert_eq!(head(normal, 3).unwrap(), head(normal, 3).unwrap());
    assert_ne!(head(normal, 3).unwrap(), head(normal, 4).unwrap());
    let words = r#"{ "init": { "type": "unembedding", "tokens": ["t7", "t3"] } }"#;
    let (table, _) = numbers(&tiny.case["weights"]["transformer.wte.weight"]);
    let expected: Vec<f32> = (0..8).flat_map(|h| [table[7 * 8 + h], table[3 * 8 + h]]).collect();
    assert_eq!(head(words, 0).unwrap(), expected);
    let separate = Tiny::new("llama");
    let model = separate.model(&device);
    let (table, _) = numbers(&separate.case["weights"]["lm_head.weight"]);
    assert_eq!(floats(&model.unembedding(&[30]).unwrap()), table[30 * 8..31 * 8]);

    let error = |config: &str| head(config, 0).unwrap_err().to_string();
    assert_eq!(
        error(r#"{ "init": { "type": "normal", "std": -1.0 } }"#),
        "the standard deviation of a head must be at least 0, not -1"
    );
    assert_eq!(
        error(r#"{ "init": { "type": "unembedding", "tokens": ["t7"] } }"#),
        "a head for 2 classes cannot start from 1 words\nhint: give `init.tokens` one word for each class"
    );
    assert_eq!(
        error(r#"{ "init": { "type": "unembedding", "tokens": ["t7", "t1 t2"] } }"#),
        "`t1 t2` is not one token but 2: `t1`, `t2`\nhint: many tokenizers know a word only with a space before it"
    );
    for wrong in [
        r#"{ "pool": "last" }"#,
        r#"{ "pooling": "middle" }"#,
        r#"{ "init": { "type": "zero", "std": 1.0 } }"#,
        r#"{ "init": { "type": "normal" } }"#,
    ] {
        assert!(serde_json::from_str::<HeadConfig>(wrong).is_err(), "{wrong}");
    }
    let bert = Tiny::new("bert").model(&device);
    let bert = Classifier::new(bert, &HeadConfig::default(), 3, 0, None).unwrap();
    assert_eq!((bert.pooling(), bert.classes()), (Pooling::Mean, 3));
    let classes = Classifier::new(model, &HeadConfig::default(), 0, 0, None).unwrap_err().to_string();
    assert_eq!(classes, "a classifier needs at least one output");
}

#[test]
fn saving_and_loading_keeps_every_bit() {
    let device = Device::flex();
    for name in FAMILIES {
        let tiny = Tiny::new(name);
        let source = tiny.folder();
        let pretrained = source.open();
        let model = pretrained.load(&device).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            // The second time over existing files.
            model.save(folder.path(), pretrained.tokenizer()).unwrap();
        }
        let again = Pretrained::open(folder.path()).unwrap();
        assert_eq!(parameters(&again.load(&device).unwrap()), parameters(&model), "{name}");
        assert_eq!(again.spec().lm_head, model.spec().lm_head);
        assert_eq!(
            fs::read(folder.path().join("tokenizer.json")).unwrap(),
            fs::read(source.file("tokenizer.json")).unwrap()
        );

        let classifier = tiny.classifier(&device);
        classifier.save(folder.path(), pretrained.tokenizer()).unwrap();
        let again = Pretrained::open(folder.path()).unwrap();
        let again = Classifier::load(&again, &device).unwrap();
        assert_eq!(parameters(&again), parameters(&classifier), "{name}");
        assert_eq!(again.pooling(), classifier.pooling());
    }
}

#[test]
fn saved_files_are_what_transformers_expects() {
    let device = Device::flex();
    for name in FAMILIES {
        let tiny = Tiny::new(name);
        let source = tiny.folder();
        let pretrained = source.open();
        let folder = tempfile::tempdir().unwrap();
        let read = |key: &str| {
            let text = fs::read_to_string(folder.path().join("config.json")).unwrap();
            serde_json::from_str::<Value>(&text).unwrap()[key].clone()
        };
        pretrained.load(&device).unwrap().save(folder.path(), pretrained.tokenizer()).unwrap();
        let bytes = fs::read(folder.path().join("model.safetensors")).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (tensor, raw) in tiny.tensors() {
            // The file the weights came from was written by transformers.
            let view = file.tensor(&tensor).unwrap();
            assert_eq!((view.shape(), view.data()), (raw.shape.as_slice(), raw.bytes.as_slice()), "{name}: {tensor}");
        }
        assert_eq!(file.len(), tiny.tensors().len(), "{name}");

        let classifier = tiny.classifier(&device);
        classifier.save(folder.path(), pretrained.tokenizer()).unwrap();
        let bytes = fs::read(folder.path().join("model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let known = !arch::find(name).unwrap().classifier_class.is_empty();
        let head = if known { "score.weight" } else { "w2s_head.weight" };
        let (rows, shape) = numbers(&tiny.case["head_weight"]);
        let view = file.tensor(head).unwrap();
        assert_eq!((view.shape(), view.data()), (shape.as_slice(), Raw::f32(&rows, &shape).bytes.as_slice()));
        let class = read("architectures")[0].as_str().unwrap().to_owned();
        assert_eq!(class.ends_with("ForSequenceClassification"), known, "{class}");
        assert_eq!(read("id2label"), json!({ "0": "LABEL_0", "1": "LABEL_1" }));
        assert!(read("pad_token_id").as_u64().unwrap() < 32);
        assert_eq!(read("torch_dtype"), "float32");
    }
}

#[test]
fn names_with_and_without_prefix_are_read() {
    let device = Device::flex();
    for name in FAMILIES {
        let tiny = Tiny::new(name);
        let expected = parameters(&tiny.model(&device));
        let architecture = arch::find(name).unwrap();
        let head = format!("{}.weight", architecture.lm_head);
        for prefix in architecture.prefixes {
            let rename = |tensor: String| match tensor.strip_prefix(architecture.prefixes[0]) {
                _ if tensor == head => tensor,
                bare => format!("{prefix}{}", bare.unwrap_or(&tensor)),
            };
            let tensors = tiny.tensors().into_iter().map(|(tensor, raw)| (rename(tensor), raw)).collect();
            let folder = Folder::new(tiny.config(), &tensors);
            assert_eq!(parameters(&folder.open().load(&device).unwrap()), expected, "{name}");
        }
    }
}

#[test]
fn old_names_and_buffers_are_read() {
    let device = Device::flex();
    let bert = Tiny::new("bert");
    let mut tensors: Files = bert
        .tensors()
        .into_iter()
        .map(|(tensor, raw)| {
            let old = tensor.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            (format!("bert.{old}"), raw)
        })
        .collect();
    for extra in ["bert.pooler.dense.weight", "cls.predictions.bias", "bert.embeddings.position_ids"] {
        tensors.insert(extra.to_owned(), Raw { dtype: Dtype::I64, shape: vec![1], bytes: vec![0; 8] });
    }
    let folder = Folder::new(bert.config(), &tensors);
    assert_eq!(parameters(&folder.open().load(&device).unwrap()), parameters(&bert.model(&device)));

    let gpt2 = Tiny::new("gpt2");
    let mut tensors = gpt2.tensors();
    tensors
        .insert("transformer.h.1.attn.bias".to_owned(), Raw { dtype: Dtype::U8, shape: vec![1, 1, 1], bytes: vec![1] });
    tensors.insert("transformer.h.1.attn.masked_bias".to_owned(), Raw::f32(&[f32::NEG_INFINITY], &[]));
    tensors.insert("lm_head.weight".to_owned(), tensors["transformer.wte.weight"].clone());
    assert_eq!(
        parameters(&Folder::new(gpt2.config(), &tensors).open().load(&device).unwrap()),
        parameters(&gpt2.model(&device))
    );
}

#[test]
fn a_decoder_without_its_language_model_head_can_classify() {
    let llama = Tiny::new("llama");
    let mut tensors = llama.tensors();
    tensors.remove("lm_head.weight");
    let folder = Folder::new(llama.config(), &tensors);
    let model = folder.open().load(&Device::flex()).unwrap();
    assert_eq!(model.spec().lm_head, LmHead::Absent);
    let hidden = model.hidden(&llama.tokens());
    assert_eq!(model.lm_logits(hidden).unwrap_err().to_string(), "this `llama` model has no language-model head");
    let config =
        HeadConfig { init: HeadInit::Unembedding { tokens: vec!["t1".into(), "t2".into()] }, ..HeadConfig::default() };
    let error = Classifier::new(model, &config, 2, 0, Some(folder.open().tokenizer())).unwrap_err();
    assert_eq!(error.to_string(), "this `llama` model has no language-model head");
}

#[test]
fn half_precision_is_read() {
    let device = Device::flex();
    let tiny = Tiny::new("llama");
    let expected = parameters(&tiny.model(&device));
    let numbers = |raw: &Raw| -> Vec<f32> {
        raw.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let f16: fn(f32) -> u16 = |value| half::f16::from_f32(value).to_bits();
    let bf16: fn(f32) -> u16 = |value| half::bf16::from_f32(value).to_bits();
    for (dtype, bits, tolerance) in [(Dtype::F16, f16, 5e-4), (Dtype::BF16, bf16, 4e-3)] {
        let tensors = tiny.tensors().into_iter().map(|(name, raw)| {
            let bytes = numbers(&raw).into_iter().flat_map(|value| bits(value).to_le_bytes()).collect();
            (name, Raw { dtype, bytes, ..raw })
        });
        let folder = Folder::new(tiny.config(), &tensors.collect());
        let found = parameters(&folder.open().load(&device).unwrap());
        assert_ne!(found, expected);
        for (path, values) in &expected {
            for (found, expected) in found[path].iter().zip(values) {
                assert!(
                    (found - expected).abs() <= tolerance * expected.abs().max(1e-3),
                    "{path}: {found}, {expected}"
                );
            }
        }
    }
}

/// Splits tensors over two files and writes the index.
fn shard(folder: &Folder, tensors: &Files) -> Map<String, Value> {
    let mut map = Map::new();
    let mut shards = [Files::new(), Files::new()];
    for (number, (tensor, raw)) in tensors.iter().enumerate() {
        map.insert(tensor.clone(), format!("model-0000{}-of-00002.safetensors", number % 2 + 1).into());
        shards[number % 2].insert(tensor.clone(), raw.clone());
    }
    for (number, shard) in shards.iter().enumerate() {
        write_tensors(&folder.file(&format!("model-0000{}-of-00002.safetensors", number + 1)), shard);
    }
    write_index(folder, &map);
    map
}

fn write_index(folder: &Folder, map: &Map<String, Value>) {
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    fs::write(folder.file("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn sharded_files_are_read() {
    let tiny = Tiny::new("gpt2");
    let folder = Folder::bare(tiny.config());
    let mut map = shard(&folder, &tiny.tensors());
    let device = Device::flex();
    assert_eq!(parameters(&folder.open().load(&device).unwrap()), parameters(&tiny.model(&device)));

    map["transformer.ln_f.bias"] = "model-00001-of-00002.safetensors".into();
    map["transformer.ln_f.weight"] = "model-00001-of-00002.safetensors".into();
    write_index(&folder, &map);
    assert_eq!(
        folder.error(),
        "tensor `transformer.ln_f.weight` is missing, though the index says it is here (FOLDER/model-00001-of-00002.safetensors)"
    );
    map["transformer.ln_f.weight"] = "../elsewhere.safetensors".into();
    write_index(&folder, &map);
    assert_eq!(
        folder.error(),
        "`../elsewhere.safetensors` is not the name of a file in the model's folder (FOLDER/model.safetensors.index.json)"
    );
    map["transformer.ln_f.weight"] = "model-00003-of-00002.safetensors".into();
    write_index(&folder, &map);
    assert_eq!(
        folder.error(),
        "cannot open the weights: No such file or directory (os error 2) (FOLDER/model-00003-of-00002.safetensors)"
    );
    fs::write(folder.file("model.safetensors.index.json"), "{}").unwrap();
    assert_eq!(
        folder.error(),
        "the index of the weights cannot be read: missing field `weight_map` at line 1 column 2 (FOLDER/model.safetensors.index.json)"
    );
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    const HINT: &str = "\nhint: do `config.json` and the weights belong to the same model?";
    let tiny = Tiny::new("gpt2");
    let error = |change: &dyn Fn(&mut Files)| {
        let mut tensors = tiny.tensors();
        change(&mut tensors);
        Folder::new(tiny.config(), &tensors).error()
    };
    assert_eq!(
        error(&|tensors| drop(tensors.remove("transformer.ln_f.weight"))),
        format!("tensor `transformer.ln_f.weight` is missing (FOLDER/model.safetensors){HINT}")
    );
    assert_eq!(
        error(&|tensors| tensors.retain(|name, _| !name.contains("h.1.attn"))),
        format!(
            "tensor `transformer.h.1.attn.c_attn.weight` is missing, and so are 3 more (FOLDER/model.safetensors){HINT}"
        )
    );
    assert_eq!(
        error(&|tensors| drop(tensors.insert("transformer.h.2.ln_1.bias".into(), Raw::f32(&[0.0; 8], &[8])))),
        format!(
            "tensor `transformer.h.2.ln_1.bias` is not part of the `gpt2` that `config.json` describes (FOLDER/model.safetensors){HINT}"
        )
    );
    assert_eq!(
        error(&|tensors| drop(
            tensors.insert("transformer.h.1.mlp.c_fc.weight".into(), Raw::f32(&[0.0; 256], &[32, 8]))
        )),
        format!(
            "tensor `transformer.h.1.mlp.c_fc.weight` has shape [32, 8], the configuration asks for [8, 32] (FOLDER/model.safetensors){HINT}"
        )
    );
    assert_eq!(
        error(&|tensors| {
            let raw = Raw { dtype: Dtype::I32, ..tensors["transformer.ln_f.weight"].clone() };
            tensors.insert("transformer.ln_f.weight".into(), raw);
        }),
        "tensor `transformer.ln_f.weight` holds I32 values; only F32, F16 and BF16 are read (FOLDER/model.safetensors)"
    );
    for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut tensors = tiny.tensors();
        let mut gains = [1.0; 8];
        gains[3] = value;
        tensors.insert("transformer.ln_f.weight".into(), Raw::f32(&gains, &[8]));
        let folder = Folder::new(tiny.config(), &tensors);
        let error = folder.open().load(&Device::flex()).unwrap_err();
        assert_eq!(error.message(), format!("tensor `transformer.ln_f.weight` holds {text} at element 3"));
        assert_eq!(error.place().unwrap().file, folder.file("model.safetensors"));
    }
}

#[test]
fn damaged_files_are_refused() {
    let tiny = Tiny::new("gpt2");
    let folder = tiny.folder();
    let path = folder.file("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let size = whole.len();
    let error = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = folder.error();
        let error = error.strip_suffix(" (FOLDER/model.safetensors)").unwrap();
        error.strip_prefix("not a whole safetensors file: ").unwrap().to_owned()
    };
    assert_eq!(error(&[]), "it is shorter than 8 bytes");
    assert_eq!(
        error(&whole[..100]),
        format!("its header claims {} bytes of a file of 100", u64::from_le_bytes(whole[..8].try_into().unwrap()))
    );
    assert_eq!(error(&whole[..size - 1]), format!("it has {} bytes and its header describes {size}", size - 1));
    let with_header = |header: &str| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes
    };
    assert!(error(&u64::MAX.to_le_bytes()).starts_with("its header claims 18446744073709551615 bytes"));
    assert!(error(&with_header("{")).starts_with("its header is wrong: EOF"));
    assert!(error(&with_header("[]")).starts_with("its header is wrong: invalid type"));
    let tensor = |shape: &str, offsets: &str| {
        with_header(&format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#))
    };
    for hostile in [
        tensor("[1]", "[4, 8]"),
        tensor("[1]", "[8, 4]"),
        tensor("[4611686018427387904, 4]", "[0, 0]"),
        tensor("[2]", "[0, 4]"),
        tensor("[-1]", "[0, 4]"),
        tensor("[1]", "[0, 18446744073709551615]"),
    ] {
        assert!(error(&hostile).starts_with("its header is wrong: "));
    }
    // The whole file is described, but it is not there.
    let short = tensor("[1]", "[0, 4]");
    assert_eq!(error(&short), format!("it has {} bytes and its header describes {}", short.len(), short.len() + 4));
}

#[test]
fn folders_that_are_not_models_are_refused() {
    let tiny = Tiny::new("gpt2");
    let folder = tiny.folder();
    let without = |name: &str| {
        let bytes = fs::read(folder.file(name)).unwrap();
        fs::remove_file(folder.file(name)).unwrap();
        let error = folder.error();
        fs::write(folder.file(name), bytes).unwrap();
        error.lines().next().unwrap().to_owned()
    };
    assert_eq!(without("config.json"), "there is no `config.json` (FOLDER)");
    assert_eq!(without("tokenizer.json"), "there is no `tokenizer.json` (FOLDER)");
    assert_eq!(
        without("model.safetensors"),
        "there is neither `model.safetensors` nor `model.safetensors.index.json` (FOLDER)"
    );
    fs::write(folder.file("tokenizer.json"), "{}").unwrap();
    assert!(folder.error().starts_with("the tokenizer cannot be read: "));
    fs::write(folder.file("tokenizer.json"), word_tokenizer(33).to_string()).unwrap();
    assert_eq!(
        folder.error(),
        "the tokenizer's ids end at 32, the model has 32 from 0 on (FOLDER)\nhint: do tokenizer and weights belong to the same model?"
    );
}

// ---- the same ids as AutoTokenizer ----

/// A folder with a tokenizer and what transformers reads beside it.
fn tokenizer_folder(tokenizer: &Value, model_type: &str, beside: &[(&str, &Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &Value| fs::write(folder.path().join(name), content.to_string()).unwrap();
    write("tokenizer.json", tokenizer);
    write("config.json", &json!({ "model_type": model_type }));
    beside.iter().for_each(|(name, content)| write(name, content));
    folder
}

/// The 2,000 texts of `golden_tokenizers.json`, as its script draws them.
fn odd_texts(pieces: &Value) -> Vec<String> {
    let pieces: Vec<&str> = pieces.as_array().unwrap().iter().map(|piece| piece.as_str().unwrap()).collect();
    let mut state = 1_u64;
    let mut draw = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let mut text = |i: usize| {
        let size = if i == 0 {
            0
        } else if i.is_multiple_of(50) {
            400
        } else {
            1 + draw(14)
        };
        (0..size).map(|_| pieces[draw(pieces.len())]).collect()
    };
    (0..2000).map(&mut text).collect()
}

#[test]
fn two_thousand_odd_texts_have_the_ids_of_auto_tokenizer() {
    let golden = golden("golden_tokenizers.json");
    let texts = odd_texts(&golden["pieces"]);
    let mut wrong = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        for variant in case["variants"].as_array().unwrap() {
            let beside: &[_] =
                if variant["config"].is_null() { &[] } else { &[("tokenizer_config.json", &variant["config"])] };
            let folder = tokenizer_folder(&case["tokenizer"], case["model_type"].as_str().unwrap(), beside);
            let tokenizer = Tokenizer::open(folder.path()).unwrap();
            let ids = tokenizer.encode_all(texts.par_iter().map(String::as_str)).unwrap();
            let digest = |block: &[Vec<u32>]| {
                let hash = sha2::Sha256::digest(serde_json::to_string(block).unwrap());
                hash[..4].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            };
            let first = json!(ids[1..4]) == variant["first"];
            let blocks: Vec<String> = ids.chunks(100).map(digest).collect();
            if !first || json!(blocks) != variant["blocks"] {
                let differ = blocks.iter().zip(variant["blocks"].as_array().unwrap()).filter(|(a, b)| *a != *b).count();
                wrong.push(format!("{} with {}: {differ} of 20 blocks differ", case["kind"], variant["config"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A folder with a tokenizer of the first Qwen.
fn tiktoken_folder(ranks: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("qwen.tiktoken"), ranks).unwrap();
    fs::write(folder.path().join("config.json"), json!({ "model_type": "qwen" }).to_string()).unwrap();
    let config = json!({ "model_max_length": 8192, "tokenizer_class": "QWenTokenizer" });
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn a_vocabulary_of_tiktoken_has_the_ids_of_tiktoken() {
    let golden_ids = golden("golden_tiktoken.json");
    let ranks = golden_ids["ranks"].as_str().unwrap();
    let folder = tiktoken_folder(ranks);
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    for case in golden_ids["runs"].as_array().unwrap() {
        let text = case[0].as_str().unwrap();
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(json!(ids), case[1], "{text}");
        let without_marks = text.replace("<|im_start|>", "").replace("<|extra_204|>", "");
        assert_eq!(tokenizer.decode(&ids).unwrap(), without_marks);
    }
    let texts = odd_texts(&golden("golden_tokenizers.json")["pieces"]);
    let ids = tokenizer.encode_all(texts.par_iter().map(String::as_str)).unwrap();
    assert_eq!(json!(ids[1..4]), golden_ids["first"]);
    let digest = |block: &[Vec<u32>]| {
        let hash = sha2::Sha256::digest(serde_json::to_string(block).unwrap());
        hash[..4].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert_eq!(json!(ids.chunks(100).map(digest).collect::<Vec<_>>()), golden_ids["blocks"]);
    // Saved with a model, it is the same again.
    let saved = tempfile::tempdir().unwrap();
    tokenizer.save(saved.path()).unwrap();
    assert_eq!(Tokenizer::open(saved.path()).unwrap().fingerprint(), tokenizer.fingerprint());
    assert_eq!(fs::read_to_string(saved.path().join("qwen.tiktoken")).unwrap(), ranks);

    let error = |ranks: &str| Tokenizer::open(tiktoken_folder(ranks).path()).unwrap_err().message().to_owned();
    assert_eq!(error("IQ==\n"), "the tokenizer cannot be read: line 1 is not a token in base64 with its rank");
    assert_eq!(error("I! 0\n"), "the tokenizer cannot be read: line 1 is not a token in base64 with its rank");
    assert_eq!(
        error("IQ== 0\nIg== 2\n"),
        "the tokenizer cannot be read: line 2 has rank 2, and 1 comes next: the file is not complete"
    );
    assert_eq!(error("IQ== 0\nIQ== 1\n"), "the tokenizer cannot be read: a token is in it twice: the file is damaged");
    assert_eq!(
        error("IQ== 0\n"),
        "the tokenizer cannot be read: no token stands for the byte 0 alone: the file is not complete"
    );
}

/// The tokenizer of a case of `golden_tokenizers.json`, and its model's type.
fn golden_tokenizer(kind: &str) -> (Value, String) {
    let golden = golden("golden_tokenizers.json");
    let case = golden["cases"].as_array().unwrap().iter().find(|case| case["kind"] == kind).unwrap();
    (case["tokenizer"].clone(), case["model_type"].as_str().unwrap().to_owned())
}

#[test]
fn keys_that_cannot_be_followed_are_refused_by_name() {
    let cases = [
        (
            "gpt2",
            json!({ "tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": true }),
            "`add_prefix_space` = true contradicts",
        ),
        (
            "gpt2 with digits",
            json!({ "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true }),
            "`add_prefix_space` = true contradicts",
        ),
        ("qwen2", json!({ "add_prefix_space": true }), "`add_prefix_space` = true contradicts"),
        ("neox", json!({ "add_bos_token": true }), "`add_bos_token` = true contradicts what"),
        ("neox", json!({ "add_eos_token": true }), "`add_eos_token` = true contradicts what"),
        (
            "llama",
            json!({ "tokenizer_class": "LlamaTokenizer", "add_eos_token": true }),
            "`add_eos_token` = true contradicts what",
        ),
        (
            "llama",
            json!({ "tokenizer_class": "LlamaTokenizerFast", "add_bos_token": false }),
            "`add_bos_token` = false contradicts what",
        ),
        ("bert cased", json!({ "cls_token": "the" }), "`cls_token` = \"the\" is not what"),
        ("bert cased", json!({ "unk_token": "the" }), "`unk_token` = \"the\" contradicts"),
        (
            "albert",
            json!({ "tokenizer_class": "AlbertTokenizer", "do_lower_case": false }),
            "`do_lower_case` = false contradicts",
        ),
        (
            "albert",
            json!({ "tokenizer_class": "AlbertTokenizer", "keep_accents": true }),
            "`keep_accents` = true contradicts",
        ),
        (
            "xlm-roberta",
            json!({ "tokenizer_class": "XLMRobertaTokenizer", "add_prefix_space": false }),
            "`add_prefix_space` = false contradicts",
        ),
        (
            "neox",
            json!({ "added_tokens_decoder": { "0": { "content": "<|endoftext|>", "special": true } } }),
            "`added_tokens_decoder` lacks `  ",
        ),
        ("gpt2", json!({ "added_tokens_decoder": { "0": "<|endoftext|>" } }), "`added_tokens_decoder.0` is no token"),
        ("gpt2", json!({ "tokenizer_class": "ByT5Tokenizer" }), "`ByT5Tokenizer` is written in Python"),
    ];
    for (kind, config, says) in cases {
        let (tokenizer, model_type) = golden_tokenizer(kind);
        let folder = tokenizer_folder(&tokenizer, &model_type, &[("tokenizer_config.json", &config)]);
        let error = Tokenizer::open(folder.path()).unwrap_err();
        assert!(error.message().contains(says) && error.message().contains("tokenizer_config.json"), "{kind}: {error}");
        assert!(error.remedy().unwrap().contains("`PreTrainedTokenizerFast`"), "{kind}");
    }
}

#[test]
fn older_files_beside_a_tokenizer_are_read() {
    let (tokenizer, model_type) = golden_tokenizer("gpt2");
    let open =
        |beside: &[(&str, &Value)]| Tokenizer::open(tokenizer_folder(&tokenizer, &model_type, beside).path()).unwrap();
    let plain = open(&[]);
    let special = json!({ "pad_token": { "content": "<pad>", "lstrip": true, "rstrip": false, "normalized": false, "single_word": false } });
    let added = json!({ "<other>": 401, "<pad>": 400 });
    let map = [("special_tokens_map.json", &special)];
    let both = [("special_tokens_map.json", &special), ("added_tokens.json", &added)];
    let end = u32::try_from(tokenizer["model"]["vocab"].as_object().unwrap().len()).unwrap();
    let [a] = plain.encode("a").unwrap()[..] else { panic!("`a` is a token") };
    assert_eq!(open(&map).encode("a  <pad>a").unwrap(), [a, end, a]);
    assert_eq!(open(&both).encode("a<pad>a<other>").unwrap(), [a, end, a, end + 1]);
    // Newer files say all in one place, and the older ones are not looked at.
    let config = json!({ "added_tokens_decoder": {} });
    let newer = [both[0], both[1], ("tokenizer_config.json", &config)];
    assert_eq!(open(&newer).encode("<pad>").unwrap(), plain.encode("<pad>").unwrap());
    // Whatever changes ids changes the fingerprint; what does not, leaves it.
    let all = [&[][..], &map, &both[1..], &[("tokenizer_config.json", &json!({ "add_prefix_space": true }))]]
        .map(|beside| open(beside).fingerprint());
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
    // Saved, it has the same ids again.
    let saved = tempfile::tempdir().unwrap();
    fs::write(saved.path().join("config.json"), json!({ "model_type": model_type }).to_string()).unwrap();
    open(&both).save(saved.path()).unwrap();
    assert_eq!(Tokenizer::open(saved.path()).unwrap().fingerprint(), open(&both).fingerprint());
}

#[test]
fn nothing_is_left_to_chance() {
    let (mut tokenizer, model_type) = golden_tokenizer("gpt2");
    let text = "of the people, for the people and about the people";
    let ids = |tokenizer: &Value| Tokenizer::open(tokenizer_folder(tokenizer, &model_type, &[]).path()).unwrap();
    let expected = ids(&tokenizer);
    assert!(expected.notes().is_empty());
    for (dropout, notes) in [(0.5, 1), (1.0, 1), (0.0, 0)] {
        tokenizer["model"]["dropout"] = json!(dropout);
        let found = ids(&tokenizer);
        for _ in 0..5 {
            assert_eq!(found.encode(text).unwrap(), expected.encode(text).unwrap());
        }
        assert_eq!(found.notes().len(), notes);
    }
}

// ---- what the computation does not need ----

/// Values of a file's tensor in half precision; what is too large for it becomes infinite, as with `half()` of PyTorch.
fn halved(raw: Raw) -> Raw {
    let values = raw.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    let bytes = values.flat_map(|value| half::f16::from_f32(value).to_bits().to_le_bytes()).collect();
    Raw { dtype: Dtype::F16, bytes, ..raw }
}

/// What lies in the files of the hub beside a family's parameters: buffers, in the precision of the file, and other heads.
fn passed_over(name: &str) -> Vec<(&'static str, Raw)> {
    let mask = Raw { dtype: Dtype::BOOL, shape: vec![1, 1, 2, 2], bytes: vec![1; 4] };
    let minus = halved(Raw::f32(&[-1e9], &[]));
    let angles = halved(Raw::f32(&[1.0, f32::NAN], &[2]));
    let wide = Raw { dtype: Dtype::F64, shape: vec![1], bytes: f64::NAN.to_le_bytes().to_vec() };
    match name {
        "gpt_neox" => vec![
            ("gpt_neox.layers.0.attention.bias", mask),
            ("gpt_neox.layers.1.attention.masked_bias", minus),
            ("gpt_neox.layers.0.attention.rotary_emb.inv_freq", angles),
            ("v_head.summary.bias", wide),
        ],
        "gpt2" => vec![
            ("transformer.h.0.attn.bias", mask),
            ("transformer.h.1.attn.masked_bias", minus),
            ("score.weight", Raw::f32(&[f32::NAN; 16], &[2, 8])),
            ("multiple_choice_head.summary.weight", wide),
        ],
        "bert" => vec![
            ("embeddings.position_ids", Raw { dtype: Dtype::I64, shape: vec![1], bytes: vec![0; 8] }),
            ("qa_outputs.weight", Raw::f32(&[f32::INFINITY; 16], &[2, 8])),
            ("cls.seq_relationship.bias", wide),
        ],
        _ => vec![
            ("model.layers.0.self_attn.rotary_emb.inv_freq", angles),
            ("model.rotary_emb.inv_freq", minus),
            ("v_head.0.weight", wide),
        ],
    }
}

#[test]
fn what_is_no_part_of_the_computation_is_neither_read_nor_judged() {
    let device = Device::flex();
    for name in FAMILIES {
        let tiny = Tiny::new(name);
        let halves: Files = tiny.tensors().into_iter().map(|(tensor, raw)| (tensor, halved(raw))).collect();
        let plain = Folder::new(tiny.config(), &halves);
        let expected = parameters(&plain.open().load(&device).unwrap());
        assert_eq!(plain.open().notes().unwrap(), <[&str; 0]>::default());
        let beside = passed_over(name);
        let mut tensors = halves.clone();
        tensors.extend(beside.iter().map(|(tensor, raw)| ((*tensor).to_owned(), raw.clone())));
        // In one file, and in two with an index that also names what is nowhere.
        let whole = Folder::new(tiny.config(), &tensors);
        let shards = Folder::bare(tiny.config());
        let mut map = shard(&shards, &tensors);
        map.insert("lm_head.decoder.bias".to_owned(), "model-00001-of-00002.safetensors".into());
        map.insert("extra_head.weight".to_owned(), "model-00003-of-00003.safetensors".into());
        write_index(&shards, &map);
        for folder in [whole, shards] {
            let model = folder.open();
            assert_eq!(model.fingerprint().unwrap().len(), 64, "{name}");
            assert_eq!(parameters(&model.load(&device).unwrap()), expected, "{name}");
            let notes = model.notes().unwrap();
            assert!(notes.len() == 1 && notes[0].contains("passed over"), "{name}: {notes:?}");
        }
    }
}

#[test]
fn a_part_of_a_larger_model_of_the_family_is_refused() {
    let hint = "is not part of the";
    for (name, tensor) in [
        ("gpt_neox", "gpt_neox.layers.2.attention.dense.weight"),
        ("llama", "model.layers.0.self_attn.q_proj.bias"),
        ("qwen2", "model.layers.1.self_attn.q_norm.weight"),
        ("bert", "encoder.layer.7.output.LayerNorm.gamma"),
    ] {
        let tiny = Tiny::new(name);
        let mut tensors = tiny.tensors();
        tensors.insert(tensor.to_owned(), Raw::f32(&[0.0; 8], &[8]));
        let said = Folder::new(tiny.config(), &tensors).error();
        assert!(said.contains(hint) && said.contains(tensor), "{said}");
    }
}

#[test]
fn heads_are_found_as_they_lie_in_files() {
    let device = Device::flex();
    for name in ["gpt2", "gpt_neox", "llama", "qwen2", "opt"] {
        let tiny = Tiny::new(name);
        let architecture = arch::find(name).unwrap();
        let head = format!("{}.weight", architecture.lm_head);
        let table = arch::find(name).unwrap().entries(2, false)["tokens.weight"].names[0].clone();
        let mut config = tiny.config().clone();
        config["tie_word_embeddings"] = true.into();
        let mut tensors = tiny.tensors();
        tensors.remove(&head);
        let open = |tensors: &Files| Folder::new(&config, tensors).open().load(&device).unwrap();
        let tied = open(&tensors);
        assert_eq!(tied.spec().lm_head, LmHead::Tied, "{name}");
        // One matrix under both names, and under the head's alone.
        tensors.insert(head.clone(), tensors[&table].clone());
        assert_eq!(parameters(&open(&tensors)), parameters(&tied), "{name}");
        tensors.remove(&table);
        assert_eq!(parameters(&open(&tensors)), parameters(&tied), "{name}");
        // Of its own, or not there.
        config["tie_word_embeddings"] = false.into();
        let tensors = tiny.tensors();
        let open = |tensors: &Files| Folder::new(&config, tensors).open().spec().lm_head;
        let mut with = tensors.clone();
        with.entry(head.clone()).or_insert_with(|| tensors[&table].clone());
        assert_eq!(open(&with), LmHead::Separate, "{name}");
        with.remove(&head);
        assert_eq!(open(&with), LmHead::Absent, "{name}");
    }
}

#[test]
fn a_token_without_a_place_is_an_error_in_a_text_that_holds_it() {
    let tiny = Tiny::new("gpt2");
    let folder = tiny.folder();
    let mut json = word_tokenizer(32);
    json["added_tokens"] = json!([{ "id": 32, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }]);
    fs::write(folder.file("tokenizer.json"), json.to_string()).unwrap();
    let model = folder.open();
    assert_eq!(model.tokenizer().encode("t3 t1").unwrap(), [3, 1]);
    let error = model.tokenizer().encode("t3 <pad>").unwrap_err();
    assert!(error.to_string().contains("its token `<pad>` has the id 32, and the model has 32 from 0 on"), "{error}");
    assert!(
        model
            .tokenizer()
            .encode_all(["t1", "t2 <pad>"].into_par_iter())
            .unwrap_err()
            .message()
            .starts_with("example 1: ")
    );
}

// ---- rotary positions of Llama 3.1 ----

#[test]
fn llama3_stretches_frequencies_as_transformers_does() {
    let golden = golden("golden_rope.json");
    for case in golden.as_array().unwrap() {
        let tiny = Tiny::new("llama");
        let mut config = tiny.config().clone();
        config.as_object_mut().unwrap().extend(case["config"].as_object().unwrap().clone());
        let spec = Spec::parse(&config.to_string(), Path::new("config.json")).unwrap();
        let (expected, _) = numbers(&case["inv_freq"]);
        let found = spec.positions.frequencies().unwrap();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= 5e-7 * expected, "{found} instead of {expected}: {}", case["config"]);
        }
    }
    let error = |scaling: Value| config_error("llama", "rope_scaling", scaling);
    let full = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8 });
    let with = |key: &str, value: Value| {
        let mut scaling = full.clone();
        scaling[key] = value;
        error(scaling)
    };
    assert_eq!(
        with("factor", Value::Null),
        "`rope_scaling` with `factor` = null is not supported, only plain rotary positions and those of `llama3`"
    );
    assert!(with("low_freq_factor", json!(4.0)).starts_with("a `llama3` rotary embedding needs"));
    assert_eq!(
        error(json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0 })),
        "`rope_scaling` of type `llama3` has no `high_freq_factor`"
    );
}

/// The library reads this file and panics when it is used.
#[test]
fn a_tokenizer_that_cannot_be_used_is_refused() {
    let mut file = tokenizers()[2].clone();
    file["post_processor"]["special_tokens"]["[SEP]"]["ids"] = json!([]);
    file["post_processor"]["special_tokens"].as_object_mut().unwrap().remove("[CLS]");
    let said = Tokenizer::parse(&file.to_string(), Path::new("tokenizer.json"))
        .and_then(|tokenizer| tokenizer.encode("hello"))
        .unwrap_err()
        .to_string();
    assert!(said.contains("tokenizer"), "{said}");
}

fn tiny_spec(name: &str) -> Spec {
    Spec::parse(&Tiny::new(name).config().to_string(), Path::new("config.json")).unwrap()
}

/// The error about a family's configuration with one key changed (`null` removes it).
fn config_error(name: &str, key: &str, value: Value) -> String {
    let mut config = Tiny::new(name).config().clone();
    config[key] = value;
    let text = serde_json::to_string_pretty(&config).unwrap();
    let error = Spec::parse(&text, Path::new("config.json")).unwrap_err().to_string();
    error.split(" (config.json").next().unwrap().to_owned()
}

#[test]
fn configurations_that_are_not_supported_are_refused() {
    let refused = [
        (
            "gpt2",
            "scale_attn_by_inverse_layer_idx",
            json!(true),
            "`scale_attn_by_inverse_layer_idx` = true is not supported, only false",
        ),
        ("gpt2", "scale_attn_weights", json!(false), "`scale_attn_weights` = false is not supported, only true"),
        ("gpt2", "n_embd", json!(null), "the model's configuration has no `n_embd`"),
        ("gpt2", "n_embd", json!(0), "`n_embd` must be a whole number from 1 to 2147483647, not 0"),
        ("gpt2", "n_embd", json!("8"), "`n_embd` must be a whole number from 1 to 2147483647, not \"8\""),
        ("gpt2", "n_head", json!(3), "a hidden size of 8 cannot be shared evenly by 3 attention heads"),
        ("gpt2", "n_layer", json!(1_000_000), "1000000 layers are more than any model has"),
        ("gpt2", "layer_norm_epsilon", json!(0.0), "the epsilon of the normalisation must be positive, not 0"),
        ("gpt2", "layer_norm_epsilon", json!("small"), "`layer_norm_epsilon` must be a number, not \"small\""),
        (
            "llama",
            "rope_scaling",
            json!({ "rope_type": "linear", "factor": 2.0 }),
            "`rope_scaling` with `rope_type` = \"linear\" is not supported, only plain rotary positions and those of `llama3`",
        ),
        (
            "llama",
            "rope_scaling",
            json!({ "type": "default", "factor": 8.0 }),
            "`rope_scaling` with `factor` = 8.0 is not supported, only plain rotary positions and those of `llama3`",
        ),
        (
            "qwen2",
            "rope_parameters",
            json!({ "rope_type": "yarn" }),
            "`rope_parameters` with `rope_type` = \"yarn\" is not supported, only plain rotary positions and those of `llama3`",
        ),
        ("llama", "rope_theta", json!(-1.0), "the base of the rotary embedding must be positive, not -1"),
        ("llama", "num_key_value_heads", json!(3), "4 attention heads cannot share 3 key and value heads"),
        ("llama", "attention_bias", json!("no"), "`attention_bias` must be true or false, not \"no\""),
        (
            "llama",
            "hidden_act",
            json!("mish"),
            "`hidden_act` must be one of `gelu`, `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`, `silu`, `swish`, `relu`, not \"mish\"",
        ),
        ("gpt_neox", "rotary_pct", json!(0.01), "cannot rotate 0 of the 8 dimensions of a head"),
        (
            "bert",
            "position_embedding_type",
            json!("relative_key"),
            "`position_embedding_type` = \"relative_key\" is not supported, only \"absolute\"",
        ),
        ("bert", "is_decoder", json!(true), "`is_decoder` = true is not supported, only false"),
        (
            "qwen2",
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "`layer_types` may only hold `full_attention`",
        ),
        ("qwen", "kv_channels", json!(8), "`kv_channels` = 8 is not supported, only 4"),
        (
            "phi3",
            "rope_parameters",
            json!({ "long_factor": [1.0], "short_factor": [1.0], "type": "su" }),
            "`rope_parameters` with `type` = \"su\" is not supported, only plain rotary positions and those of `llama3`",
        ),
        (
            "gemma2",
            "use_bidirectional_attention",
            json!(true),
            "`use_bidirectional_attention` = true is not supported, only false",
        ),
        ("gemma2", "final_logit_softcapping", json!(-1.0), "the soft cap of logits must be positive, not -1"),
        ("gemma2", "head_dim", json!(null), "the model's configuration has no `head_dim`"),
        (
            "gemma3_text",
            "rope_parameters",
            json!({ "full_attention": { "rope_type": "linear", "factor": 8.0 } }),
            "`rope_parameters` with `rope_type` = \"linear\" is not supported, only plain rotary positions and those of `llama3`",
        ),
        (
            "modernbert",
            "layer_types",
            json!(["full_attention"]),
            "`layer_types` must be a list of 2 kinds of layers, not [\"full_attention\"]",
        ),
        (
            "modernbert",
            "layer_types",
            json!(["full_attention", "chunked_attention"]),
            "`layer_types` may only hold `full_attention` and `sliding_attention`, not \"chunked_attention\"",
        ),
        (
            "roberta",
            "position_embedding_type",
            json!("relative_key_query"),
            "`position_embedding_type` = \"relative_key_query\" is not supported, only \"absolute\"",
        ),
        ("roberta", "pad_token_id", json!(17), "18 positions are none after that of the padding token 17"),
        (
            "deberta-v2",
            "share_att_key",
            json!(null),
            "`share_att_key` must be true (nothing else is supported), not null",
        ),
        (
            "deberta-v2",
            "pos_att_type",
            json!(["c2p"]),
            "`pos_att_type` must be \"p2c|c2p\" (nothing else is supported), not [\"c2p\"]",
        ),
        ("deberta-v2", "conv_kernel_size", json!(3), "`conv_kernel_size` = 3 is not supported, only 0"),
        (
            "deberta-v2",
            "position_buckets",
            json!(30),
            "distances of up to 16 are too few for 30 buckets on a logarithmic scale",
        ),
        ("opt", "word_embed_proj_dim", json!(4), "`word_embed_proj_dim` = 4 is not supported, only 8"),
        ("opt", "model_type", json!("gpt5"), "models of type `gpt5` are not supported"),
        ("opt", "model_type", json!(null), "the model's configuration has no `model_type`"),
    ];
    for (name, key, value, expected) in refused {
        assert_eq!(config_error(name, key, value), expected);
    }
    let error = Spec::parse("{\n \"model_type\": \"gpt5\"\n}", Path::new("config.json")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "models of type `gpt5` are not supported (config.json:2:2)\nhint: supported are `bert`, `deberta-v2`, `gemma2`, `gemma3_text`, `gpt2`, `gpt_neox`, `llama`, `mistral`, `modernbert`, `opt`, `phi3`, `qwen`, `qwen2`, `qwen3`, `roberta`"
    );
    let error = |text: &str| Spec::parse(text, Path::new("config.json")).unwrap_err().to_string();
    assert_eq!(error("[]"), "a model's configuration must be a JSON object (config.json)");
    assert!(error("{").starts_with("the model's configuration is not JSON: EOF"));
}

#[test]
fn configurations_of_all_ages_are_understood() {
    let with = |name: &str, changes: Value| {
        let mut config = Tiny::new(name).config().clone();
        let changes = changes.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(changes);
        Spec::parse(&config.to_string(), Path::new("config.json")).unwrap()
    };
    let rotary = |dims, base| spec::Positions::Rotary { dims, base, stretched: None };
    assert_eq!(with("llama", json!({ "rope_theta": 500_000.0, "rope_scaling": null })).positions, rotary(2, 500_000.0));
    assert_eq!(
        with("llama", json!({ "rope_parameters": { "rope_theta": 1e6, "rope_type": "default" } })).positions,
        rotary(2, 1e6)
    );
    assert_eq!(with("gpt_neox", json!({ "rotary_pct": 0.5, "rotary_emb_base": 77 })).positions, rotary(4, 77.0));
    let new =
        json!({ "rope_parameters": { "rope_theta": 77.0, "partial_rotary_factor": 0.5, "rope_type": "default" } });
    assert_eq!(with("gpt_neox", new).positions, rotary(4, 77.0));
    assert_eq!(with("gpt2", json!({ "n_inner": null })).inner, 32);
    assert_eq!(with("llama", json!({ "num_key_value_heads": null })).kv_heads, 4);
    // Up to the window, a sliding window changes nothing.
    assert_eq!(with("mistral", json!({})).max_positions, 12);
    assert_eq!(with("mistral", json!({ "sliding_window": null })).max_positions, 16);
    assert_eq!(with("qwen2", json!({ "sliding_window": 4, "use_sliding_window": false })).max_positions, 16);
    assert_eq!(with("qwen2", json!({ "sliding_window": 4, "use_sliding_window": true })).max_positions, 4);
    assert_eq!(with("gpt_neox", json!({ "use_parallel_residual": false })).residual, spec::Residual::Pre);
    // What the first Qwen does to long texts begins after `seq_length`: 2^ceil(log2(tokens / 16) + 1) - 1.
    let qwen = with("qwen", json!({}));
    let beyond = qwen.extras.beyond.unwrap();
    assert_eq!((qwen.max_positions, beyond.length), (32, 16));
    assert_eq!([1, 16, 17, 32, 33, 64, 65].map(|tokens| beyond.growth(tokens)), [1, 1, 3, 3, 7, 7, 15]);
    assert_eq!(spec::Beyond { ntk: false, ..beyond }.growth(65), 1);
    assert_eq!([0, 15, 255].map(|position| beyond.scale(position)), [1.0, 1.0, 2.0]);
    // Files older than `layer_types` and an object for each kind of layers.
    let local = |spec: Spec| spec.extras.local.unwrap();
    let old = json!({
        "layer_types": null, "rope_parameters": null, "rope_theta": 77.0, "rope_local_base_freq": 55.0, "sliding_window_pattern": 2
    });
    let spec = with("gemma3_text", old);
    assert_eq!((spec.positions, local(spec.clone()).layers), (rotary(4, 77.0), vec![true, false]));
    assert_eq!(local(spec).positions, Some(rotary(4, 55.0)));
    let old = json!({
        "layer_types": null, "rope_parameters": null, "global_rope_theta": 77.0, "local_rope_theta": 55.0, "global_attn_every_n_layers": 2
    });
    let spec = with("modernbert", old);
    assert_eq!((spec.positions, local(spec.clone()).layers), (rotary(4, 77.0), vec![false, true]));
    assert_eq!(local(spec).positions, Some(rotary(4, 55.0)));
    assert_eq!(local(with("gemma2", json!({ "layer_types": null }))).layers, [true, false]);
    assert_eq!(with("gemma2", json!({ "tie_word_embeddings": null })).lm_head, LmHead::Tied);
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let spec = tiny_spec("gpt2");
    let error = |rows: &[&[u32]]| Tokens::new(rows, &spec).unwrap_err().to_string();
    assert_eq!(error(&[]), "a batch has no sequences");
    assert_eq!(error(&[&[1], &[]]), "sequence 1: a sequence has no tokens");
    assert_eq!(error(&[&[1; 17]]), "sequence 0: a sequence of 17 tokens is longer than the 16 positions of the model");
    assert_eq!(
        error(&[&[1, 32]]),
        "sequence 0: token id 32 is outside the model's vocabulary of 32 ids\nhint: does the tokenizer belong to this model?"
    );
    let model = Transformer::init(&spec, 0, &Device::flex()).unwrap();
    assert_eq!(
        model.unembedding(&[32]).unwrap_err().to_string(),
        "token id 32 is outside the model's vocabulary of 32 ids"
    );
    // The longest sequence there may be.
    let tokens = Tokens::new(&[[1_u32; 16]], &spec).unwrap();
    assert_eq!(model.hidden(&tokens).dims(), [16, 8]);
}

#[test]
fn a_truncated_model_is_its_first_layers() {
    let device = Device::flex();
    for name in FAMILIES {
        let tiny = Tiny::new(name);
        let folder = tiny.folder();
        let whole = folder.open();
        let short = whole.clone().truncated(1).unwrap();
        assert_ne!(whole.fingerprint().unwrap(), short.fingerprint().unwrap());
        let model = short.load(&device).unwrap();
        let first = Tokens::new(&[&tiny.rows()[0]], model.spec()).unwrap();
        // The state after the first block of the whole model, which the final norm has not seen yet.
        let states = whole.load(&device).unwrap().states(&first);
        assert_eq!(floats(&model.states(&first)[1]), floats(&states[1]), "{name}");
        let saved = tempfile::tempdir().unwrap();
        model.save(saved.path(), short.tokenizer()).unwrap();
        assert_eq!(parameters(&Pretrained::open(saved.path()).unwrap().load(&device).unwrap()), parameters(&model));
        // Embeddings alone.
        let none = whole.clone().truncated(0).unwrap().load(&device).unwrap();
        let last = at(&none.hidden(&first), &first, &[4]);
        assert_eq!(floats(&none.pooled(&first, Pooling::Last)), floats(&last));
        let error = whole.truncated(3).unwrap_err();
        assert_eq!(error.message(), "cannot keep 3 layers of a model that has 2");
    }
}

#[test]
fn the_fingerprint_follows_every_file() {
    let tiny = Tiny::new("gpt2");
    let folder = tiny.folder();
    let original = folder.open().fingerprint().unwrap().to_owned();
    assert_eq!(original.len(), 64);
    assert_eq!(tiny.folder().open().fingerprint().unwrap(), original, "the folder's name is not part of it");
    let changed = |name: &str, bytes: &[u8]| {
        let folder = tiny.folder();
        fs::write(folder.file(name), bytes).unwrap();
        folder.open().fingerprint().unwrap().to_owned()
    };
    let mut config = tiny.config().clone();
    config["layer_norm_epsilon"] = json!(2e-5);
    let mut weights = fs::read(folder.file("model.safetensors")).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    let all = [
        original,
        changed("config.json", config.to_string().as_bytes()),
        changed("tokenizer.json", word_tokenizer(31).to_string().as_bytes()),
        changed("tokenizer_config.json", b"{}"),
        changed("model.safetensors", &weights),
    ];
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
}

#[test]
fn no_architecture_is_lost() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/arch");
    let mut files: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .filter(|name| name != "mod")
        .collect();
    files.sort();
    assert_eq!(arch::names().collect::<Vec<_>>(), files);
    let mut tested = FAMILIES;
    tested.sort_unstable();
    assert_eq!(arch::names().collect::<Vec<_>>(), tested);
}

#[test]
fn tokenizers_neither_cut_nor_pad() {
    let mut json = word_tokenizer(32);
    json["truncation"] = json!({ "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 });
    json["padding"] = json!({
        "strategy": { "Fixed": 6 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "t0"
    });
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "t9", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [], "special_tokens": { "t9": { "id": "t9", "ids": [9], "tokens": ["t9"] } }
    });
    let tokenizer = Tokenizer::parse(&json.to_string(), Path::new("tokenizer.json")).unwrap();
    assert_eq!(tokenizer.encode("t3 t1 t4").unwrap(), [9, 3, 1, 4]);
    assert_eq!(tokenizer.encode_bare("t3 t1 t4").unwrap(), [3, 1, 4]);
    assert_eq!(tokenizer.encode("").unwrap(), [9]);
    assert_eq!(tokenizer.decode(&[3, 1]).unwrap(), "t3 t1");
    assert_eq!((tokenizer.id("t31"), tokenizer.id("t32")), (Some(31), None));
    assert_eq!(tokenizer.single("t8").unwrap(), 8);
}

// ---- anything at all ----

/// Any small JSON value.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i64..70).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// JSON with one value replaced: each number chooses a child, and where there are none left stands the new value.
fn changed(mut json: Value, path: &[usize], with: Value) -> Value {
    let mut at = &mut json;
    for &choice in path {
        let children = match at {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        };
        if children == 0 {
            break;
        }
        at = match at {
            Value::Array(items) => &mut items[choice % children],
            Value::Object(map) => map.values_mut().nth(choice % children).unwrap(),
            _ => unreachable!("it has children"),
        };
    }
    *at = with;
    json
}

/// An error is one that says something.
fn says_something<T>(result: crate::Result<T>) -> Option<T> {
    result.map_err(|error| assert!(!error.message().is_empty())).ok()
}

/// Tokenizers of the kinds that models come with.
fn tokenizers() -> Vec<Value> {
    let letters = |first: &[&str]| -> Map<String, Value> {
        let letters = "abcdefghijklmnopqrstuvwxyz0123456789 \u{120}\u{2581}".chars().map(String::from);
        let words = first.iter().map(|word| (*word).to_owned()).chain(letters);
        words.enumerate().map(|(id, word)| (word, id.into())).collect()
    };
    let special = |words: &[&str]| -> Vec<Value> {
        let token = |(id, word): (usize, &&str)| json!({ "id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
        words.iter().enumerate().map(token).collect()
    };
    vec![
        word_tokenizer(32),
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": special(&["<|endoftext|>"]), "normalizer": null,
            "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true },
            "post_processor": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false },
            "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true },
            "model": { "type": "BPE", "dropout": null, "unk_token": "<|endoftext|>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "vocab": letters(&["<|endoftext|>", "he", "ll"]), "merges": ["h e", "l l"] },
        }),
        json!({
            "version": "1.0", "truncation": { "max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right" },
            "padding": { "strategy": { "Fixed": 8 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]" },
            "added_tokens": special(&["[PAD]", "[UNK]", "[CLS]", "[SEP]"]),
            "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true },
            "pre_tokenizer": { "type": "BertPreTokenizer" },
            "post_processor": { "type": "TemplateProcessing",
                "single": [{ "SpecialToken": { "id": "[CLS]", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }, { "SpecialToken": { "id": "[SEP]", "type_id": 0 } }],
                "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
                "special_tokens": { "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] }, "[SEP]": { "id": "[SEP]", "ids": [3], "tokens": ["[SEP]"] } } },
            "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
            "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                "vocab": letters(&["[PAD]", "[UNK]", "[CLS]", "[SEP]", "##a", "##b"]) },
        }),
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": special(&["<unk>", "<s>"]),
            "normalizer": { "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "\u{2581}" }, { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" }] },
            "pre_tokenizer": { "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false },
            "post_processor": null,
            "decoder": { "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }] },
            "model": { "type": "Unigram", "unk_id": 0, "byte_fallback": false,
                "vocab": [["<unk>", 0.0], ["<s>", 0.0], ["\u{2581}", -2.0], ["a", -1.0], ["he", -1.5], ["l", -3.0]] },
        }),
    ]
}

/// Everything that is asked of a tokenizer.
fn use_tokenizer(text: &str) {
    if let Some(tokenizer) = says_something(Tokenizer::parse(text, Path::new("tokenizer.json"))) {
        for text in ["hello t1 t2, b9", "", " a\u{301}\u{4e2d}\u{0}\n"] {
            for ids in [tokenizer.encode(text), tokenizer.encode_bare(text)] {
                says_something(ids).map(|ids| says_something(tokenizer.decode(&ids)));
            }
        }
        says_something(tokenizer.single("he"));
        says_something(tokenizer.check(&tiny_spec("gpt2")));
    }
}

/// Opens a folder and reads the weights.
fn use_folder(folder: &Folder) {
    if let Some(model) = says_something(Pretrained::open(folder.path())) {
        says_something(model.load(&Device::flex()));
    }
}

proptest! {
    #![proptest_config(few(128))]

    #[test]
    fn any_value_in_a_tokenizer_is_a_tokenizer_or_an_error(
        kind in 0_usize..4,
        path in prop::collection::vec(any::<usize>(), 0..7),
        with in any_json(),
    ) {
        use_tokenizer(&changed(tokenizers()[kind].clone(), &path, with).to_string());
    }

    #[test]
    fn any_text_in_a_tokenizer_is_a_tokenizer_or_an_error(
        kind in 0_usize..4,
        place in any::<usize>(),
        length in 0_usize..40,
        with in scraps(),
    ) {
        use_tokenizer(&spliced(&tokenizers()[kind].to_string(), place, length, &with));
    }

    #[test]
    fn any_configuration_is_a_model_or_an_error(
        family in prop::sample::select(FAMILIES.to_vec()),
        path in prop::collection::vec(any::<usize>(), 1..3),
        with in any_json(),
    ) {
        let tiny = Tiny::new(family);
        let folder = Folder::new(tiny.config(), &tiny.tensors());
        fs::write(folder.file("config.json"), changed(tiny.config().clone(), &path, with).to_string()).unwrap();
        use_folder(&folder);
    }

    #[test]
    fn any_bytes_in_weights_are_weights_or_an_error(
        place in any::<usize>(),
        in_header in any::<bool>(),
        length in 0_usize..20,
        bytes in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let folder = Tiny::new("gpt2").folder();
        let path = folder.file("model.safetensors");
        let whole = fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let place = place % if in_header { header } else { whole.len() };
        let end = (place + length).min(whole.len());
        fs::write(&path, [&whole[..place], &bytes, &whole[end..]].concat()).unwrap();
        use_folder(&folder);
    }

    #[test]
    fn any_header_of_weights_is_weights_or_an_error(path in prop::collection::vec(any::<usize>(), 0..4), with in any_json()) {
        let folder = Tiny::new("gpt2").folder();
        let path_of_weights = folder.file("model.safetensors");
        let whole = fs::read(&path_of_weights).unwrap();
        let end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&whole[8..end]).unwrap();
        let header = changed(header, &path, with).to_string();
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &whole[end..]].concat();
        fs::write(path_of_weights, bytes).unwrap();
        use_folder(&folder);
    }

    #[test]
    fn any_index_of_weights_is_weights_or_an_error(path in prop::collection::vec(any::<usize>(), 0..3), with in any_json()) {
        let tiny = Tiny::new("gpt2");
        let folder = tiny.folder();
        fs::rename(folder.file("model.safetensors"), folder.file("model-00001-of-00001.safetensors")).unwrap();
        let map: Map<String, Value> =
            tiny.tensors().into_keys().map(|name| (name, "model-00001-of-00001.safetensors".into())).collect();
        let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
        fs::write(folder.file("model.safetensors.index.json"), changed(index, &path, with).to_string()).unwrap();
        use_folder(&folder);
    }
}
