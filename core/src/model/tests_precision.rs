//! Models whose matrices are in bfloat16: the same as with those numbers in float32, and no further from what they were than PyTorch's own.

use half::bf16;

use super::*;
use crate::model::transformer::is_matrix;

/// A tiny model's folder with every matrix rounded to bfloat16, in a format.
fn rounded(tiny: &Tiny, dtype: Dtype) -> Folder {
    let spec = tiny.folder().open().spec().clone();
    let entries = arch::find(spec.architecture).unwrap().entries(spec.layers, false);
    let matrices: Vec<&String> =
        entries.iter().filter(|(path, _)| is_matrix(path)).flat_map(|(_, entry)| &entry.names).collect();
    let mut tensors = tiny.tensors();
    for (_, raw) in tensors.iter_mut().filter(|(name, _)| matrices.contains(name)) {
        let values = raw.bytes.as_chunks::<4>().0.iter().map(|bytes| bf16::from_f32(f32::from_le_bytes(*bytes)));
        raw.bytes = match dtype {
            Dtype::BF16 => values.flat_map(bf16::to_le_bytes).collect(),
            _ => values.flat_map(|value| value.to_f32().to_le_bytes()).collect(),
        };
        raw.dtype = dtype;
    }
    Folder::new(tiny.config(), &tensors)
}

/// Vectors that a head sees, and logits of the last token if there are any.
fn said(model: &Transformer, tokens: &Tokens) -> Vec<Vec<f32>> {
    let pooled = model.pooled(tokens, if model.spec().causal { Pooling::Last } else { Pooling::Mean });
    let logits = (model.spec().lm_head != LmHead::Absent).then(|| floats(&model.lm_logits(pooled.clone()).unwrap()));
    std::iter::once(floats(&pooled)).chain(logits).collect()
}

/// Root of the mean square of a difference, over that of what it is from.
fn far(found: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let apart: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (apart / expected.iter().copied().map(square).sum::<f64>()).sqrt()
}

#[test]
#[allow(clippy::print_stdout)] // The table of docs/models.md is what it prints.
fn bf16_is_as_close_as_that_of_pytorch() {
    let golden = golden("golden_precision.json");
    println!("| `model_type` | states | PyTorch | logits | PyTorch |\n| --- | --- | --- | --- | --- |");
    for name in FAMILIES {
        let tiny = Tiny::new(name);
        let (tokens, device) = (tiny.tokens(), Device::flex());
        let whole = said(&tiny.model(&device), &tokens);
        let half = said(&tiny.folder().open().load_frozen(&device, Precision::Bf16).unwrap(), &tokens);
        let mut row = format!("| `{name}` |");
        for (what, (half, whole)) in ["states", "logits"].into_iter().zip(half.iter().zip(&whole)) {
            let (found, theirs) = (far(half, whole), golden["models"][name][what].as_f64().unwrap());
            // Theirs rounds activations, too. And something is rounded.
            assert!(found <= theirs && found > 1e-5, "{name}: {what} are {found:.1e} off, PyTorch's {theirs:.1e}");
            row += &format!(" {found:.1e} | {theirs:.1e} |");
        }
        println!("{row}{}", if half.len() == 1 { " | |" } else { "" });
    }
}

#[test]
fn matrices_enter_as_bf16_however_they_are_held() {
    for name in FAMILIES {
        let (tiny, device) = (Tiny::new(name), Device::flex());
        let tokens = tiny.tokens();
        let expected = rounded(&tiny, Dtype::F32);
        let expected = said(&expected.open().load(&device).unwrap(), &tokens);
        let held = tiny.folder().open().load_frozen(&device, Precision::Bf16).unwrap();
        let found = said(&held, &tokens);
        for (found, expected) in found.iter().zip(&expected) {
            assert_close(found, expected, 2e-6, name);
        }
        // As they lie in a file that has them so; rounded in every pass, as where they are trained; and once after that.
        let stored = rounded(&tiny, Dtype::BF16);
        assert_eq!(said(&stored.open().load_frozen(&device, Precision::Bf16).unwrap(), &tokens), found, "{name}");
        let trained = tiny.folder().open().load_to_train(&device, Precision::Bf16).unwrap();
        assert_eq!(said(&trained, &tokens), found, "{name}");
        assert_eq!(said(&trained.held(), &tokens), found, "{name}");
        // Matrices are half as wide, all else is as wide as it was.
        struct Held(usize, usize);
        impl ModuleVisitor for Held {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let count = param.val().dims().iter().product::<usize>();
                match param.val().dtype() {
                    burn::tensor::DType::BF16 => self.1 += count,
                    _ => self.0 += count,
                }
                assert!(!param.is_require_grad());
            }
        }
        let mut counted = Held(0, 0);
        held.visit(&mut counted);
        let footprint = Footprint::new(held.spec(), &Learns::Nothing).unwrap();
        assert_eq!(counted.1 as u64, footprint.matrices.total(), "{name}");
        assert_eq!((counted.0 + counted.1) as u64, footprint.parameters, "{name}");
        // They are written as the numbers that they are.
        let folder = tempfile::tempdir().unwrap();
        held.save(folder.path(), stored.open().tokenizer()).unwrap();
        let again = Pretrained::open(folder.path()).unwrap();
        assert_eq!(said(&again.load_frozen(&device, Precision::Bf16).unwrap(), &tokens), found, "{name}");
    }
}

/// Gradients of adapters, and of the head, by path.
fn slopes(model: Transformer, tiny: &Tiny, recompute: bool) -> BTreeMap<String, Vec<f32>> {
    struct All<'a>(&'a mut burn::optim::GradientsParams, Vec<String>, BTreeMap<String, Vec<f32>>);
    impl ModuleVisitor for All<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.1.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.1.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.remove::<D>(param.id) {
                assert_eq!(gradient.dtype(), param.val().dtype(), "{:?}", self.1);
                self.2.insert(self.1.join("."), floats(&gradient));
            }
        }
    }
    let mut classifier = Classifier::new(model, &HeadConfig::default(), 2, 0, None).unwrap();
    let device = classifier.backbone.device();
    set_head(&mut classifier, &tiny.case["head_weight"], &device);
    let (embedding, tape) = classifier.embed_with(&tiny.tokens(), recompute);
    let loss = cross_entropy(classifier.logits(embedding), &tiny.case["soft_labels"]);
    let mut gradients = tape.gradients(&classifier, loss.backward());
    let mut all = All(&mut gradients, Vec::new(), BTreeMap::new());
    classifier.visit(&mut all);
    all.2
}

#[test]
fn adapters_have_the_gradients_of_the_same_numbers_in_float32() {
    let lora = Lora { rank: 2, ..Lora::default() };
    for name in FAMILIES {
        let (tiny, device) = (Tiny::new(name), Device::flex().autodiff());
        // Adapters that change something: B is zero at first.
        let adapted = |model: Transformer| {
            let mut model = model.with_lora(&lora, 3).unwrap();
            for (at, (_, dense)) in model.dense().into_iter().enumerate() {
                let Some(adapter) = &mut dense.lora else { continue };
                let (shape, mut rng) = (adapter.b.val().dims(), crate::rng::Rng::named(at as u64, "b"));
                let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| 0.1 * rng.normal() as f32).collect();
                adapter.b = Param::from_data(TensorData::new(values, shape), &device);
            }
            model
        };
        let half = || adapted(tiny.folder().open().load_frozen(&device, Precision::Bf16).unwrap());
        let expected = slopes(adapted(rounded(&tiny, Dtype::F32).open().load(&device).unwrap()), &tiny, false);
        let found = slopes(half(), &tiny, false);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
        assert!(found.len() > 2 * lora.on(half().spec()).unwrap().targets.len());
        for (path, expected) in &expected {
            assert_close(&found[path], expected, 1e-5, &format!("{name}: {path}"));
        }
        // Adapters that are already there, as a stage kept them, and blocks that are computed again.
        assert_eq!(slopes(half().adapters_alone(), &tiny, false), found, "{name}");
        assert_eq!(slopes(half(), &tiny, true), found, "{name}");
    }
}

#[test]
fn trained_matrices_stay_in_float32() {
    for name in FAMILIES {
        let (tiny, device) = (Tiny::new(name), Device::flex().autodiff());
        let model = tiny.folder().open().load_to_train(&device, Precision::Bf16).unwrap();
        let own = parameters(&tiny.model(&Device::flex()));
        assert_eq!(parameters(&model), own, "{name}");
        let found = slopes(model.clone(), &tiny, false);
        let expected = slopes(rounded(&tiny, Dtype::F32).open().load(&device).unwrap(), &tiny, false);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
        for (path, expected) in &expected {
            assert_close(&found[path], expected, 1e-5, &format!("{name}: {path}"));
        }
        assert_eq!(slopes(model, &tiny, true), found, "{name}");
    }
}

#[test]
fn trained_matrices_may_be_in_bf16_too() {
    for name in FAMILIES {
        let (tiny, device) = (Tiny::new(name), Device::flex().autodiff());
        let tokens = tiny.tokens();
        let model = tiny.folder().open().load_to_train(&device, Precision::Bf16True).unwrap();
        let wide = rounded(&tiny, Dtype::F32).open().load(&device).unwrap();
        let held = numbers_held(&model);
        assert!(held.trained && held.matrices > 0, "{name}");
        let footprint = Footprint::new(model.spec(), &Learns::All).unwrap();
        assert_eq!((held.matrices, held.all), (footprint.matrices.total(), footprint.parameters), "{name}");
        assert_eq!(parameters(&model), parameters(&wide), "{name}");
        // It says what a frozen one says, and one that is rounded in every pass.
        let frozen = tiny.folder().open().load_frozen(&Device::flex(), Precision::Bf16).unwrap();
        let expected = said(&frozen, &tokens);
        assert_eq!(said(&model.valid(), &tokens), expected, "{name}");
        // Of a model that was made in float32, too, and of one that is frozen and trained again.
        let made = tiny.model(&device).in_precision(Precision::Bf16True);
        assert!(numbers_held(&made) == held && parameters(&made) == parameters(&model), "{name}");
        let again = model.clone().frozen();
        assert!(!numbers_held(&again).trained);
        assert_eq!(numbers_held(&again.all_trained()), held, "{name}");
        // Gradients of matrices are those of the same numbers in float32, rounded; all others are no further off than ever.
        let (found, expected) = (slopes(model.clone(), &tiny, false), slopes(wide, &tiny, false));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
        for (path, expected) in &expected {
            match is_matrix(path.trim_start_matches("backbone.")) {
                true => {
                    let far = far(&found[path], expected);
                    assert!(far < 1.0 / 256.0 && far > 1e-5, "{name}: {path} is {far:.1e} off");
                }
                false => assert_close(&found[path], expected, 1e-5, &format!("{name}: {path}")),
            }
        }
        assert_eq!(slopes(model.clone(), &tiny, true), found, "{name}");
        // They are written as they are held, and read again to the bit.
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path(), tiny.folder().open().tokenizer()).unwrap();
        let file = fs::read(folder.path().join("model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&file).unwrap();
        let narrow = file.tensors().iter().filter(|(_, tensor)| tensor.dtype() == Dtype::BF16).count();
        let all = Transformer::parameters(model.spec()).unwrap();
        assert_eq!(narrow, all.iter().filter(|(path, _)| is_matrix(path)).count(), "{name}");
        let written = Pretrained::open(folder.path()).unwrap();
        for precision in Precision::ALL {
            assert_eq!(parameters(&written.load_to_train(&device, precision).unwrap()), parameters(&model), "{name}");
        }
        let read = written.load_to_train(&device, Precision::Bf16True).unwrap();
        assert_eq!(numbers_held(&read), held, "{name}");
    }
}

/// Numbers that are held in bfloat16, all of them, and whether all are trained.
#[derive(Debug, PartialEq)]
struct Held {
    matrices: u64,
    all: u64,
    trained: bool,
}

impl ModuleVisitor for Held {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let count = param.val().dims().iter().product::<usize>() as u64;
        self.all += count;
        self.matrices += if param.val().dtype() == burn::tensor::DType::BF16 { count } else { 0 };
        self.trained &= param.is_require_grad();
    }
}

fn numbers_held(model: &Transformer) -> Held {
    let mut held = Held { matrices: 0, all: 0, trained: true };
    model.visit(&mut held);
    held
}

/// Matrices that were held as frozen ones are widened where they are trained after all: the optimizer wants them so.
#[test]
fn what_was_frozen_is_trained_in_its_precision() {
    let (tiny, device) = (Tiny::new("llama"), Device::flex().autodiff());
    for precision in Precision::ALL {
        let frozen = tiny.folder().open().load_frozen(&device, precision).unwrap();
        let held = numbers_held(&frozen.clone().all_trained());
        assert!(held.trained);
        assert_eq!(held.matrices > 0, precision == Precision::Bf16True);
        assert_eq!(parameters(&frozen), parameters(&frozen.clone().all_trained()));
    }
}

#[test]
fn adapters_are_taken_into_weights_that_are_not_rounded_yet() {
    let adapted = lora::Adapted::new("llama");
    let pretrained = adapted.open().unwrap();
    let device = Device::flex();
    // One adapter stays beside what it is on.
    let one = pretrained.load_frozen(&device, Precision::Bf16).unwrap();
    assert_eq!(one.adapters().count() > 0, one.lora().is_some());
    // Of two, the first is taken in, and then rounded.
    let two = pretrained.clone().with_adapter(adapted.adapter.path()).unwrap();
    let found = parameters(&two.load_frozen(&device, Precision::Bf16).unwrap());
    let expected = parameters(&pretrained.load(&device).unwrap().merged());
    let round = |values: &[f32]| values.iter().map(|x| bf16::from_f32(*x).to_f32()).collect::<Vec<_>>();
    for (path, values) in expected.iter().filter(|(path, _)| is_matrix(path)) {
        assert_eq!(found[path], round(values), "{path}");
    }
    // To be trained in bfloat16, too.
    let trained = parameters(&two.load_to_train(&device, Precision::Bf16True).unwrap());
    let both = parameters(&two.load(&device).unwrap().merged());
    for (path, values) in &both {
        assert_eq!(trained[path], if is_matrix(path) { round(values) } else { values.clone() }, "{path}");
    }
    // Merged by hand it is float32 again, as training wants it.
    let merged = parameters(&one.merged());
    let rounding = 1.0 / 256.0;
    for (path, values) in &expected {
        let largest = values.iter().fold(0.0_f32, |most, x| x.abs().max(most));
        assert_close(&merged[path], values, rounding * largest, path);
    }
}

#[test]
fn precisions_have_names() {
    for precision in Precision::ALL {
        assert_eq!(precision.to_string().parse(), Ok(precision));
        assert_eq!(json!(precision), json!(precision.name()));
    }
    let said = "fp16".parse::<Precision>().unwrap_err();
    assert!(said.contains("`fp16` is no precision"), "{said}");
    for precision in Precision::ALL {
        assert!(said.contains(&format!("`{precision}`")), "{said}");
    }
}
