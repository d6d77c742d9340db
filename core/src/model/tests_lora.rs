//! Adapters against what peft computed (`golden_lora.json`, made by `make_lora.py`), and every way they can be wrong.

use super::*;

const KINDS: [&str; 3] = ["gpt2", "gpt_neox", "llama"];

/// A model and an adapter that peft wrote.
pub(super) struct Adapted {
    golden: Value,
    case: Value,
    model: Folder,
    pub(super) adapter: tempfile::TempDir,
}

impl Adapted {
    pub(super) fn new(kind: &str) -> Self {
        Self::changed(kind, |_| ())
    }

    fn changed(kind: &str, change: impl FnOnce(&mut Value)) -> Self {
        let golden = golden("golden_lora.json");
        let mut case = golden["models"][kind].clone();
        change(&mut case);
        let model = Folder::new(&case["config"], &tensors_of(&case["weights"]));
        let adapter = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &Value| fs::write(adapter.path().join(name), value.to_string()).unwrap();
        write("adapter_config.json", &case["adapter_config"]);
        write("w2s.json", &json!({ "pooling": "last", "classes": 2 }));
        write_tensors(&adapter.path().join("adapter_model.safetensors"), &tensors_of(&case["adapter"]));
        Self { golden, case, model, adapter }
    }

    pub(super) fn open(&self) -> crate::Result<Pretrained> {
        self.model.open().with_adapter(self.adapter.path())
    }

    fn classifier(&self, device: &Device) -> Classifier {
        Classifier::load(&self.open().unwrap(), device).unwrap().on_backbone(Transformer::adapters_alone)
    }

    /// The first four rows, and their labels.
    fn batch(&self) -> (Tokens, Value) {
        let rows = &self.golden["rows"].as_array().unwrap()[..4];
        let ids = |row: &Value| numbers(&row["ids"]).0.into_iter().map(|id| id as u32).collect::<Vec<_>>();
        let labels = rows.iter().map(|row| row["label"].clone()).collect();
        (Tokens::packed(&rows.iter().map(ids).collect::<Vec<_>>()), Value::Array(labels))
    }

    fn error(&self) -> String {
        let error = self.open().unwrap_err();
        assert!(error.remedy().is_some(), "{error}");
        error.to_string().replace(&self.adapter.path().display().to_string(), "ADAPTER")
    }
}

/// Gradients of the parameters that have one, by path.
fn gradients(classifier: &Classifier, gradients: &Gradients) -> BTreeMap<String, Tensor<2>> {
    struct All<'a>(&'a Gradients, Vec<String>, BTreeMap<String, Tensor<2>>);
    impl ModuleVisitor for All<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.1.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.1.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.0) {
                let dims = gradient.dims();
                assert_eq!(D, 2, "{} has a gradient", self.1.join("."));
                self.2.insert(self.1.join("."), gradient.reshape([dims[0], dims[1]]));
            }
        }
    }
    let mut all = All(gradients, Vec::new(), BTreeMap::new());
    classifier.visit(&mut all);
    all.2
}

#[test]
fn adapters_have_logits_and_gradients_of_peft() {
    for kind in KINDS {
        let adapted = Adapted::new(kind);
        let classifier = adapted.classifier(&Device::flex().autodiff());
        let (tokens, labels) = adapted.batch();
        let (logits, _) = classifier.forward(&tokens);
        assert_close(&floats(&logits), &numbers(&adapted.case["logits"]).0, 1e-5, kind);

        let found = gradients(&classifier, &cross_entropy(logits, &labels).backward());
        let expected = adapted.case["gradients"].as_object().unwrap();
        // Frozen weights have none: there are those of the adapters, and the head's.
        assert_eq!(found.len(), expected.len(), "{kind}: {:?}", found.keys());
        let entries = arch::find(kind).unwrap().entries(2, false);
        for (path, gradient) in &found {
            let path = path.trim_start_matches("backbone.");
            let (name, per_head) = match path.rsplit_once(".lora.") {
                None => ("score".to_owned(), false),
                Some((layer, part)) => {
                    let entry = &entries[&format!("{layer}.weight")];
                    let per_head = entry.layout == arch::Layout::LinearPerHead && part.starts_with('b');
                    (format!("{}.lora_{}", entry.module(), part[..1].to_uppercase()), per_head)
                }
            };
            let (expected, shape) = numbers(&expected[&format!("base_model.model.{name}.weight")]);
            let rows = Tensor::<2>::from_data(TensorData::new(expected, shape.clone()), &Device::flex());
            // As the model has them: transposed, and of GPT-NeoX parts before heads.
            let rows = match per_head {
                true => rows.reshape([2, 3, shape[0] / 6, shape[1]]).swap_dims(0, 1).reshape([shape[0], shape[1]]),
                false => rows,
            };
            assert_close(&floats(gradient), &floats(&rows.transpose()), 1e-5, &format!("{kind}: {path}"));
        }
        // The same after a round through the plain device, as training takes it.
        let again = classifier.valid().train();
        let again = gradients(&again, &cross_entropy(again.forward(&tokens).0, &labels).backward());
        assert_eq!(again.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    }
}

#[test]
fn merged_adapters_compute_the_same() {
    for kind in KINDS {
        let adapted = Adapted::new(kind);
        let classifier = adapted.classifier(&Device::flex());
        let (tokens, _) = adapted.batch();
        let merged = classifier.clone().on_backbone(Transformer::merged);
        assert!(merged.backbone.lora().is_none() && classifier.backbone.lora().is_some());
        let [one, other] = [&classifier, &merged].map(|classifier| floats(&classifier.forward(&tokens).0));
        assert_close(&other, &one, 1e-5, kind);
        // A model with adapters is written whole with them in it.
        let folder = tempfile::tempdir().unwrap();
        classifier.save(folder.path(), adapted.model.open().tokenizer()).unwrap();
        let whole = Classifier::load(&Pretrained::open(folder.path()).unwrap(), &Device::flex()).unwrap();
        assert_eq!(parameters(&whole), parameters(&merged));
    }
}

#[test]
fn written_adapters_are_what_peft_expects() {
    for kind in KINDS {
        let adapted = Adapted::new(kind);
        let pretrained = adapted.open().unwrap();
        let classifier = adapted.classifier(&Device::flex());
        let folder = tempfile::tempdir().unwrap();
        classifier.save_adapter(folder.path(), pretrained.tokenizer(), "base").unwrap();
        let bytes = fs::read(folder.path().join("adapter_model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let theirs = tensors_of(&adapted.case["adapter"]);
        assert_eq!(file.len(), theirs.len());
        for (tensor, raw) in theirs {
            let view = file.tensor(&tensor).unwrap();
            assert_eq!((view.shape(), view.data()), (raw.shape.as_slice(), raw.bytes.as_slice()), "{kind}: {tensor}");
        }
        let config = fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        for key in ["r", "lora_alpha", "use_rslora", "task_type", "peft_type", "bias", "fan_in_fan_out"] {
            // peft keeps `fan_in_fan_out` of the layers to itself.
            if (kind, key) != ("gpt2", "fan_in_fan_out") {
                assert_eq!(config[key], adapted.case["adapter_config"][key], "{kind}: {key}");
            }
        }
        let again = adapted.model.open().with_adapter(folder.path()).unwrap();
        let again = Classifier::load(&again, &Device::flex()).unwrap();
        assert_eq!(parameters(&again), parameters(&classifier), "{kind}");
        assert_eq!(again.backbone.lora(), classifier.backbone.lora());
    }
}

#[test]
fn the_fingerprint_follows_the_adapter() {
    let adapted = Adapted::new("llama");
    let plain = adapted.model.open().fingerprint().unwrap().to_owned();
    let with = adapted.open().unwrap().fingerprint().unwrap().to_owned();
    let other = Adapted::changed("llama", |case| case["adapter_config"]["lora_alpha"] = json!(7));
    let other = other.open().unwrap().fingerprint().unwrap().to_owned();
    assert!(plain != with && with != other && plain != other);
    assert_eq!(Adapted::new("llama").open().unwrap().fingerprint().unwrap(), with);
}

#[test]
fn fresh_adapters_change_nothing_and_are_all_that_is_trained() {
    for kind in FAMILIES {
        let tiny = Tiny::new(kind);
        let device = Device::flex().autodiff();
        let plain = tiny.classifier(&device);
        let lora = Lora { rank: 2, ..Lora::default() };
        let adapt = |seed| plain.backbone.clone().with_lora(&lora, seed).unwrap();
        let adapted = plain.clone().on_backbone(|_| adapt(0));
        let tokens = tiny.tokens();
        let logits = adapted.forward(&tokens).0;
        assert_eq!(floats(&logits), floats(&plain.forward(&tokens).0), "{kind}");
        let norms = gradient_norms(&adapted, &cross_entropy(logits, &tiny.case["soft_labels"]).backward());
        let layers = arch::find(kind).unwrap().adaptable().len() * 2;
        assert_eq!(norms.len(), 2 * layers + 1, "{kind}");
        assert!(norms.keys().all(|path| path.contains(".lora.") || path == "head.weight"), "{kind}");
        assert_eq!(parameters(&adapt(0)), parameters(&adapted.backbone));
        assert_ne!(parameters(&adapt(1)), parameters(&adapted.backbone));
        // Written and read back for the family's own names.
        let folder = tempfile::tempdir().unwrap();
        let source = tiny.folder();
        adapted.backbone.save_adapter(folder.path(), source.open().tokenizer(), kind).unwrap();
        let again = source.open().with_adapter(folder.path()).unwrap().load(&Device::flex()).unwrap();
        assert_eq!(parameters(&again), parameters(&adapted.backbone), "{kind}");
    }
}

#[test]
fn one_row_of_an_adapted_block_is_the_same_as_all_rows() {
    for kind in KINDS {
        let adapted = Adapted::new(kind);
        let backbone = adapted.classifier(&Device::flex()).backbone;
        let (tokens, _) = adapted.batch();
        let places: Vec<usize> = tokens.lengths.iter().map(|length| length - 1).collect();
        let [short, long] = [backbone.pooled(&tokens, Pooling::Last), at(&backbone.hidden(&tokens), &tokens, &places)]
            .map(|x| floats(&x));
        assert_close(&short, &long, 2e-6, kind);
    }
}

#[test]
fn settings_that_fit_no_model_are_refused() {
    let said = |kind: &str, json: Value| {
        let lora: Lora = serde_json::from_value(json).unwrap();
        let error = lora.on(&tiny_spec(kind)).unwrap_err();
        assert!(error.remedy().is_some());
        error.to_string()
    };
    assert_eq!(
        said("llama", json!({ "rank": 2, "targets": ["q_proj", "c_attn"] })),
        "`targets` names `c_attn`, which is no linear layer of a `llama`\nhint: choose among `self_attn.q_proj`, `self_attn.k_proj`, \
         `self_attn.v_proj`, `self_attn.o_proj`, `mlp.gate_proj`, `mlp.up_proj`, `mlp.down_proj`, or `all-linear`"
    );
    for (json, expected) in [
        (json!({ "rank": 0 }), "`rank` must be at least 1"),
        (json!({ "rank": 9 }), "`rank` = 9 is more than the 8 dimensions"),
        (json!({ "alpha": 0.0 }), "`alpha` must be a number above 0, not 0"),
        (json!({ "alpha": -1.0 }), "`alpha` must be a number above 0, not -1"),
        (json!({ "dropout": 0.1 }), "`dropout` must be 0, not 0.1"),
        (json!({ "targets": [] }), "`targets` is empty"),
        (json!({ "rank": 2, "targets": ["attn"] }), "`targets` names `attn`"),
    ] {
        assert!(said("gpt2", json.clone()).starts_with(expected), "{json}: {}", said("gpt2", json.clone()));
    }
    // Two ways of saying one thing.
    let on = |targets: &[&str]| {
        let targets = targets.iter().map(|target| (*target).to_owned()).collect();
        Lora { rank: 2, targets, ..Lora::default() }.on(&tiny_spec("gpt2")).unwrap()
    };
    assert_eq!(on(&["all-linear"]), on(&["mlp.c_proj", "c_attn", "attn.c_proj", "c_fc", "c_proj"]));
    assert_eq!(on(&["c_attn"]).targets, ["attn.c_attn"]);
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let key =
        |key: &'static str, value: Value| Adapted::changed("llama", |case| case["adapter_config"][key] = value).error();
    for (name, value, expected) in [
        ("peft_type", json!("IA3"), "`peft_type` = \"IA3\" is not supported"),
        ("use_dora", json!(true), "`use_dora` = true is not supported"),
        ("rank_pattern", json!({ "q_proj": 2 }), "`rank_pattern` ="),
        ("layers_to_transform", json!([1]), "`layers_to_transform` ="),
        ("init_lora_weights", json!("pissa"), "`init_lora_weights` ="),
        ("modules_to_save", json!(["embed_tokens"]), "`modules_to_save` ="),
        ("r", json!(0), "`r` must be a whole number from 1"),
        ("lora_alpha", json!(0), "`alpha` must be a number above 0"),
        ("r", json!(3), "tensor `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` has shape [4, 8]"),
    ] {
        assert!(key(name, value.clone()).starts_with(expected), "{name} = {value}: {}", key(name, value.clone()));
    }
    let tensor = |change: &dyn Fn(&mut Map<String, Value>)| {
        Adapted::changed("llama", |case| change(case["adapter"].as_object_mut().unwrap())).error()
    };
    let a = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight";
    assert!(tensor(&|all| drop(all.remove(a))).contains(&format!("and `{a}` is missing")));
    let none = tensor(&|all| all.retain(|name, _| name.contains("score")));
    assert!(none.starts_with("`adapter_model.safetensors` holds no adapters"), "{none}");
    let beyond = tensor(&|all| {
        let value = all[a].clone();
        all.insert(a.replace("layers.1", "layers.2"), value);
    });
    assert!(
        beyond.contains("layers.2.mlp.up_proj.lora_A.weight` is an adapter of no linear layer of this `llama`"),
        "{beyond}"
    );
    // Another model's.
    let adapted = Adapted::new("llama");
    let other = Tiny::new("gpt2").folder();
    let error = other.open().with_adapter(adapted.adapter.path()).unwrap_err();
    assert!(error.message().contains("is an adapter of no linear layer of this `gpt2`"), "{error}");
    assert!(error.remedy().unwrap().contains("base_model_name_or_path"), "{error}");
    // Damaged files.
    let path = adapted.adapter.path().join("adapter_model.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 4]).unwrap();
    assert!(adapted.error().starts_with("not a whole safetensors file: "), "{}", adapted.error());
    fs::remove_file(&path).unwrap();
    assert!(adapted.error().contains("adapter_model.safetensors"), "{}", adapted.error());
    fs::write(adapted.adapter.path().join("adapter_config.json"), "{").unwrap();
    assert!(adapted.error().contains("is not JSON"), "{}", adapted.error());
}
