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
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Map, Value, json};

use super::{arch, pretrained::floats, spec::LmHead, *};

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
        error.to_string().replace(&self.path().display().to_string(), "FOLDER")
    }
}

/// A model of `golden_tiny_forward.json`.
struct Tiny {
    golden: Value,
    case: Value,
}

impl Tiny {
    fn new(name: &str) -> Self {
        let golden = golden("golden_tiny_forward.json");
        let case = golden["models"][name].clone();
        Self { golden, case }
    }

    fn folder(&self) -> Folder {
        Folder::new(&self.case["config"], &tensors_of(&self.case["weights"]))
    }

    fn tokens(&self, spec: &Spec, device: &Device) -> Tokens {
        let (ids, _) = numbers(&self.golden["input_ids_right_padded_with_0"]);
        let rows: Vec<Vec<u32>> = ids
            .chunks_exact(8)
            .zip(LENGTHS)
            .map(|(row, length)| row[..length].iter().map(|&id| id as u32).collect())
            .collect();
        Tokens::new(&rows, spec, device).unwrap()
    }

    fn classifier(&self, device: &Device) -> Classifier {
        let backbone = self.folder().open().load(device).unwrap();
        let mut classifier = Classifier::new(backbone, &HeadConfig::default(), 2, 0, None).unwrap();
        let (weights, shape) = numbers(&self.case["head_weight"]);
        let weights = Tensor::<2>::from_data(TensorData::new(weights, shape), device).transpose();
        classifier.head.weight = Param::from_tensor(weights.detach());
        classifier
    }

    fn values(&self, key: &str) -> Vec<f32> {
        numbers(&self.case[key]).0
    }
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
    let tokens = tiny.tokens(model.spec(), &device);

    let first = Tokens { ids: tokens.ids.clone().narrow(0, 0, 1), lengths: vec![5] };
    let states: Vec<f32> =
        model.states(&first).iter().flat_map(|state| floats(&state.clone().narrow(1, 0, 5))).collect();
    assert_close(&states, &tiny.values("hidden_states_seq0"), 1e-6, "hidden states");

    let hidden = model.hidden(&tokens);
    let last: Vec<Tensor<3>> = LENGTHS
        .iter()
        .enumerate()
        .map(|(row, length)| hidden.clone().slice([row..row + 1, length - 1..*length]))
        .collect();
    let last = Tensor::cat(last, 0);
    assert_close(&floats(&last), &tiny.values("pooled"), 1e-6, "last hidden states");
    let logits = model.lm_logits(last).unwrap();
    assert_close(&floats(&logits), &tiny.values("lm_logits_last_token"), 1e-6, "language-model logits");

    let (logits, embedding) = classifier.forward(&tokens);
    assert_close(&floats(&embedding), &tiny.values("pooled"), 1e-6, "pooled");
    assert_close(&floats(&logits), &tiny.values("head_logits"), 1e-6, "head logits");
}

fn gradients_match(name: &str) {
    let tiny = Tiny::new(name);
    let device = Device::flex().autodiff();
    let classifier = tiny.classifier(&device);
    let tokens = tiny.tokens(classifier.backbone.spec(), &device);
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

#[test]
fn gpt2_computes_what_transformers_computes() {
    forward_matches("gpt2");
}

#[test]
fn gpt2_gradients_are_those_of_transformers() {
    gradients_match("gpt2");
}
