//! Adapters as files: `adapter_config.json` and `adapter_model.safetensors`, as `peft` writes and reads them.

use std::{collections::BTreeMap, fs, path::Path};

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::{
    arch::{self, Entry, Layout},
    classifier::{HEAD_NAMES, JUDGE_NAME, KEY},
    lora::{self, Adapter, Lora},
    pretrained::floats,
    spec::{Config, Spec},
    tokenizer::Tokenizer,
    transformer::Transformer,
    weights::{self, Outgoing, Weights},
};
use crate::{Error, Result, error::IoContext};

/// What an adapter's folder is told by.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What we keep beside them of a classifier.
const OURS: &str = "w2s.json";
/// What comes before the model's own names.
const PREFIX: &str = "base_model.model.";
const ANOTHER: &str = "is it an adapter of this model? `base_model_name_or_path` of its `adapter_config.json` names the one it was trained on";

/// Whether a folder holds an adapter, not a model.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
}

/// An adapter's folder, known to fit a model.
#[derive(Clone, Debug)]
pub(super) struct Files {
    lora: Lora,
    weights: Weights,
    /// The text of its configuration, which its fingerprint holds.
    config: Vec<u8>,
    pairs: BTreeMap<String, Pair>,
    /// Settings of a classifier.
    pub ours: Option<Value>,
}

/// The two matrices of one linear layer.
#[derive(Clone, Debug)]
struct Pair {
    /// Names in the file.
    names: [String; 2],
    /// How they lie there.
    layouts: [Layout; 2],
    /// Inputs, rank and outputs.
    sizes: [usize; 3],
}

impl Files {
    /// Reads everything but the values.
    ///
    /// # Errors
    /// Files that are missing or damaged, a kind of adapter that is not computed here, or one that does not fit the model.
    pub fn open(folder: &Path, spec: &Spec) -> Result<Self> {
        let path = folder.join(CONFIG);
        let bytes = fs::read(&path).path("read the adapter's configuration", &path)?;
        let config = Config::parse(&String::from_utf8_lossy(&bytes), &path)?;
        let mut lora = settings(&config).map_err(|error| {
            error.or_else_help(
                "adapters of `peft` with `LoraConfig(r, lora_alpha, target_modules, use_rslora)` are read",
            )
        })?;
        let weights = Weights::open_file(&folder.join(WEIGHTS))?;
        let pairs = pairs(&weights, spec, lora.rank)?;
        let module = |path: &String| -> Result<Vec<&'static str>> {
            let entries = arch::find(spec.architecture)?.entries(spec.layers, false);
            let module = entries.get(&format!("{path}.weight")).map_or("", Entry::module).to_owned();
            let known = arch::find(spec.architecture)?.adaptable();
            Ok(known.into_iter().filter(|name| lora::fits(&module, name)).collect())
        };
        let mut targets = pairs.keys().map(module).collect::<Result<Vec<_>>>()?.concat();
        targets.sort_unstable();
        targets.dedup();
        lora.targets = targets.into_iter().map(str::to_owned).collect();
        let ours = folder.join(OURS);
        let ours = match ours.exists() {
            true => {
                let text = fs::read(&ours).path("read", &ours)?;
                let unreadable = |cause| Error::new(format!("`{OURS}` is no JSON: {cause}")).in_file(&ours);
                Some(serde_json::from_slice(&text).map_err(unreadable)?)
            }
            false => None,
        };
        Ok(Self { lora, weights, config: bytes, pairs, ours })
    }

    /// Puts the adapters on a model.
    pub fn attach(&self, mut model: Transformer, device: &Device) -> Result<Transformer> {
        let heads = model.spec().heads;
        for (path, dense) in model.dense() {
            let Some(Pair { names, layouts, sizes }) = self.pairs.get(&path) else { continue };
            let [inputs, rank, outputs] = *sizes;
            let a = self.weights.read(&names[0], &[inputs, rank], layouts[0], 1)?;
            let b = self.weights.read(&names[1], &[rank, outputs], layouts[1], heads)?;
            dense.lora = Some(Adapter::of(a, b, *sizes, self.lora.scale(), device));
        }
        Ok(model.adapted_by(self.lora.clone()))
    }

    /// Name and values of a head that was trained along, `[hidden, outputs]` row by row, with its number of outputs.
    pub fn head(&self, name: &str, hidden: usize) -> Result<Option<(Vec<f32>, usize)>> {
        let name = format!("{PREFIX}{name}");
        let Some(outputs) = self.weights.shape(&name).and_then(|shape| shape.first().copied()) else { return Ok(None) };
        Ok(Some((self.weights.read(&name, &[hidden, outputs], Layout::Linear, 1)?, outputs)))
    }

    /// Names and hashes of the files; looks at every value.
    pub fn hashes(&self) -> Result<Vec<(&'static str, blake3::Hash)>> {
        let names = self.weights.names().map(|(name, _)| name).collect();
        let mut hashes = vec![(CONFIG, blake3::hash(&self.config))];
        hashes.extend(self.weights.hashes(&names)?.into_iter().map(|hash| (WEIGHTS, hash)));
        Ok(hashes)
    }
}

/// What an adapter's configuration says, but for the targets.
fn settings(config: &Config) -> Result<Lora> {
    let kind = config.text("peft_type")?;
    if kind != "LORA" {
        config.only("peft_type", "LORA")?;
    }
    config.only("bias", "none")?;
    for (key, supported) in [
        ("use_dora", json!(false)),
        ("use_qalora", json!(false)),
        ("use_bdlora", json!(false)),
        ("alora_invocation_tokens", json!([])),
        ("lora_bias", json!(false)),
        ("rank_pattern", json!({})),
        ("alpha_pattern", json!({})),
        ("layers_to_transform", json!([])),
        ("layer_replication", json!([])),
        ("trainable_token_indices", json!([])),
        ("target_parameters", json!([])),
    ] {
        config.only(key, supported)?;
    }
    let init = config.values().get("init_lora_weights").and_then(Value::as_str);
    // Those of other names change the weights that the adapter is on.
    if init.is_some_and(|init| !["gaussian", "orthogonal", "eva"].contains(&init)) {
        config.only("init_lora_weights", true)?;
    }
    let saved = config.values().get("modules_to_save").and_then(Value::as_array);
    let heads = ["score", "classifier"];
    if saved.into_iter().flatten().any(|module| module.as_str().is_none_or(|module| !heads.contains(&module))) {
        config.only("modules_to_save", json!(heads))?;
    }
    let lora = Lora {
        rank: config.count("r")?,
        alpha: config.number_or("lora_alpha", 8.0)?,
        rslora: config.flag_or("use_rslora", false)?,
        // Of training alone.
        dropout: 0.0,
        targets: vec![lora::ALL_LINEAR.to_owned()],
    };
    lora.validate()?;
    Ok(lora)
}

/// The adapters in a file, by the layers of the model that they are on.
fn pairs(weights: &Weights, spec: &Spec, rank: usize) -> Result<BTreeMap<String, Pair>> {
    let entries = arch::find(spec.architecture)?.entries(spec.layers, false);
    let another = |error: Error| error.or_else_help(ANOTHER);
    let mut pairs = BTreeMap::new();
    let mut used = Vec::new();
    for (path, shape) in Transformer::parameters(spec)? {
        let (Some(layer), &[inputs, outputs]) = (path.strip_suffix(".weight"), shape.as_slice()) else { continue };
        let Some(entry) = entries.get(&path).filter(|_| path.starts_with("blocks.")) else { continue };
        let named = |part: &str| -> Vec<String> {
            let modules = entry.names.iter().filter_map(|name| name.strip_suffix(".weight"));
            modules.map(|module| format!("{PREFIX}{module}.{part}.weight")).collect()
        };
        let (of_a, of_b) = (named("lora_A"), named("lora_B"));
        let (Some(a), Some(b)) = (weights.find(&of_a), weights.find(&of_b)) else {
            if let Some((one, other)) = weights.find(&of_a).zip(of_b.first()).or(weights.find(&of_b).zip(of_a.first()))
            {
                return Err(weights
                    .blame(one, format!("tensor `{one}` is there, and `{other}` is missing"))
                    .help("the file is not complete: get it again"));
            }
            continue;
        };
        let b_layout = if entry.layout == Layout::LinearPerHead { Layout::LinearPerHead } else { Layout::Linear };
        weights.check(a, &[inputs, rank], Layout::Linear).map_err(|error| misfit(error, spec))?;
        weights.check(b, &[rank, outputs], b_layout).map_err(|error| misfit(error, spec))?;
        used.extend([a.to_owned(), b.to_owned()]);
        let names = [a.to_owned(), b.to_owned()];
        pairs.insert(
            layer.to_owned(),
            Pair { names, layouts: [Layout::Linear, b_layout], sizes: [inputs, rank, outputs] },
        );
    }
    let head = |name: &str| {
        let own = name.strip_prefix(PREFIX).unwrap_or(name);
        HEAD_NAMES.contains(&own) || own == JUDGE_NAME || own.starts_with("classifier.") || own.starts_with("score.")
    };
    if let Some((name, _)) = weights.names().find(|(name, _)| !used.iter().any(|used| used == name) && !head(name)) {
        let message = format!("tensor `{name}` is an adapter of no linear layer of this `{}`", spec.architecture);
        return Err(another(weights.blame(name, message)));
    }
    if pairs.is_empty() {
        return Err(another(Error::new(format!("`{WEIGHTS}` holds no adapters"))));
    }
    Ok(pairs)
}

fn misfit(error: Error, spec: &Spec) -> Error {
    let message = format!("{}: it does not fit this `{}` of width {}", error.message(), spec.architecture, spec.hidden);
    let placed = error.place().cloned();
    let error = Error::new(message).help(ANOTHER);
    match placed {
        Some(place) => error.at_place(place),
        None => error,
    }
}

/// What is written beside an adapter.
pub(super) struct Heads {
    /// Heads that were trained along, by the names that the model's own file has for them.
    pub tensors: Vec<Outgoing>,
    /// Whether transformers has the same head.
    pub known: bool,
    /// Our own settings.
    pub ours: Option<Value>,
}

impl Transformer {
    /// Writes its adapters into a folder, which is made if need be, with the tokenizer's files; `base` names the model that they are on.
    /// `PeftModel.from_pretrained` of peft loads them onto it, and [`Pretrained::with_adapter`](super::Pretrained::with_adapter) too.
    ///
    /// # Errors
    /// A model without adapters, or a folder that cannot be written to.
    pub fn save_adapter(&self, folder: &Path, tokenizer: &Tokenizer, base: &str) -> Result<()> {
        let none = Heads { tensors: Vec::new(), known: false, ours: None };
        self.save_adapter_with(folder, tokenizer, base, none)
    }

    pub(super) fn save_adapter_with(
        &self,
        folder: &Path,
        tokenizer: &Tokenizer,
        base: &str,
        heads: Heads,
    ) -> Result<()> {
        let spec = self.spec();
        let Some(lora) = self.lora() else { return Err(Error::new("the model has no adapters to write")) };
        let architecture = arch::find(spec.architecture)?;
        let task = match (&heads.ours, heads.known) {
            (Some(_), true) => "SEQ_CLS",
            (None, _) if spec.speaks() => "CAUSAL_LM",
            _ => "FEATURE_EXTRACTION",
        };
        fs::create_dir_all(folder).path("make the folder", folder)?;
        let whole = |number: f64| if number.fract() == 0.0 { json!(number as i64) } else { json!(number) };
        let entries = architecture.entries(spec.layers, task == "FEATURE_EXTRACTION");
        let config = json!({
            "peft_type": "LORA",
            "task_type": task,
            "base_model_name_or_path": base,
            "inference_mode": true,
            "r": lora.rank,
            "lora_alpha": whole(lora.alpha),
            "lora_dropout": 0.0,
            "use_rslora": lora.rslora,
            "target_modules": lora.targets,
            "fan_in_fan_out": architecture.rules.iter().any(|(_, ours, layout)| ours.starts_with("blocks.") && *layout == Layout::Same),
            "modules_to_save": if task == "SEQ_CLS" { json!(["score"]) } else { Value::Null },
            "bias": "none",
            "init_lora_weights": true,
        });
        write_json(&folder.join(CONFIG), &config)?;
        if let Some(ours) = &heads.ours {
            write_json(&folder.join(OURS), ours)?;
        }
        tokenizer.save(folder)?;
        let mut tensors: Vec<Outgoing> =
            heads.tensors.into_iter().map(|head| Outgoing { name: format!("{PREFIX}{}", head.name), ..head }).collect();
        let plain = self.valid();
        for (path, adapter) in plain.adapters() {
            let Some(entry) = entries.get(&format!("{path}.weight")) else { continue };
            let layout = if entry.layout == Layout::LinearPerHead { Layout::LinearPerHead } else { Layout::Linear };
            let mut push = |part: &str, tensor: Tensor<2>, layout: Layout| {
                tensors.push(Outgoing {
                    name: format!("{PREFIX}{}.{part}.weight", entry.module()),
                    shape: tensor.dims().to_vec(),
                    layout,
                    heads: spec.heads,
                    dtype: Dtype::F32,
                    values: Box::new(move || floats(&tensor)),
                });
            };
            push("lora_A", adapter.a.val(), Layout::Linear);
            push("lora_B", adapter.b.val(), layout);
        }
        weights::write(&folder.join(WEIGHTS), tensors)
    }
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|cause| Error::new(cause.to_string()))?;
    fs::write(path, text + "\n").path("write", path)
}

/// What [`KEY`] of a model's configuration says, with an adapter's own settings in its place.
pub(super) fn with_settings(config: &mut Map<String, Value>, files: &Files) {
    match &files.ours {
        Some(ours) => config.insert(KEY.to_owned(), ours.clone()),
        None => config.remove(KEY),
    };
}
