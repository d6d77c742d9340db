//! A model's folder in the layout of the Hugging Face hub, read and written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Device, Tensor, TensorData},
};
use half::bf16;
use safetensors::Dtype;
use serde_json::{Map, Value};

use super::{
    arch::{self, Entry, Layout},
    peft,
    spec::{LmHead, Spec},
    tokenizer::Tokenizer,
    transformer::{Precision, Transformer, is_matrix},
    weights::{self, Outgoing, Weights},
};
use crate::{Error, Result, error::IoContext};

const CONFIG: &str = "config.json";

/// A folder with `config.json`, `tokenizer.json` and `*.safetensors`, whose parts are known to fit together.
///
/// Opening reads everything but the values of the weights, so that what is wrong is said before anything runs.
#[derive(Clone, Debug)]
pub struct Pretrained {
    folder: PathBuf,
    spec: Spec,
    /// Layers of the model in the files; more than `spec.layers` where it was truncated.
    layers: usize,
    tokenizer: Tokenizer,
    weights: Weights,
    /// Adapters on its weights, each on what those before it made of them.
    adapters: Vec<peft::Files>,
    fingerprint: OnceLock<String>,
}

impl Pretrained {
    /// Opens a model's folder.
    ///
    /// A decoder whose files lack the language-model head is opened without one.
    ///
    /// # Errors
    /// Files that are missing, damaged or not supported; weights that are missing, unexpected or of another shape than the
    /// configuration asks for; a tokenizer with ids outside the vocabulary.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        if !path.exists() {
            return Err(Error::new(format!("there is no `{CONFIG}`")).in_file(folder).help(
                "a model is a folder as on the Hugging Face hub: `config.json`, `tokenizer.json`, `model.safetensors`",
            ));
        }
        let again =
            |error: Error| error.or_else_help("get the file again, e.g. from the hub: it is damaged, or not complete");
        let text = fs::read_to_string(&path).path("read the model's configuration", &path).map_err(again)?;
        let unusable = |error: Error| error.or_else_help("get `config.json` again, or choose another model");
        let mut spec = Error::stand_in(text.as_bytes(), "model's configuration")
            .map_or(Ok(()), |error| Err(error.in_file(&path)))
            .and_then(|()| Spec::parse(&text, &path))
            .map_err(unusable)?;
        let tokenizer = Tokenizer::open(folder).map_err(again)?;
        tokenizer.check(&spec).map_err(|error| error.in_file(folder))?;
        let tokenizer = tokenizer.within(spec.vocab);
        let weights = Weights::open(folder).map_err(again)?;
        let entries = arch::find(spec.architecture)?.entries(spec.layers, false);
        if spec.lm_head == LmHead::Separate
            && entries.get("lm_head.weight").is_none_or(|entry| weights.find(&entry.names).is_none())
        {
            spec.lm_head = LmHead::Absent;
        }
        let layers = spec.layers;
        let fingerprint = OnceLock::new();
        let pretrained =
            Self { folder: folder.into(), spec, layers, tokenizer, weights, adapters: Vec::new(), fingerprint };
        pretrained.check().map_err(|error| {
            error.or_else_help("do `config.json` and the weights belong to the same model, and are they complete?")
        })?;
        Ok(pretrained)
    }

    /// The same model with only its first `layers` blocks ([`Spec::truncated`]).
    ///
    /// # Errors
    /// More layers than there are.
    pub fn truncated(mut self, layers: usize) -> Result<Self> {
        self.spec = self.spec.truncated(layers).map_err(|error| error.in_file(&self.folder))?;
        self.fingerprint = OnceLock::new();
        Ok(self)
    }

    /// The same model with the adapters of a folder on its weights, as `peft` or [`Transformer::save_adapter`] wrote it.
    ///
    /// # Errors
    /// Files that are missing or damaged, a kind of adapter that is not computed here, an adapter of another model.
    pub fn with_adapter(mut self, folder: &Path) -> Result<Self> {
        let files = peft::Files::open(folder, &self.spec)?;
        peft::with_settings(&mut self.spec.config, &files);
        self.adapters.push(files);
        Ok(Self { fingerprint: OnceLock::new(), ..self })
    }

    /// Whether there are adapters on its weights.
    pub fn has_adapters(&self) -> bool {
        !self.adapters.is_empty()
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the model looks like.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// BLAKE3 hash, in hexadecimal, over configuration, tokenizer, weights and the number of layers in use.
    ///
    /// Reads all files at the first call, and looks at every weight.
    ///
    /// # Errors
    /// A file cannot be read, or a weight is not finite.
    pub fn fingerprint(&self) -> Result<&str> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(known);
        }
        let mut hasher = blake3::Hasher::new_derive_key("w2s 2026 model");
        let mut part = |name: &str, hash: blake3::Hash| {
            hasher.update(name.as_bytes()).update(&[0]).update(hash.as_bytes());
        };
        let config = serde_json::to_vec(&self.spec.config).map_err(|cause| Error::new(cause.to_string()))?;
        part(CONFIG, blake3::hash(&config));
        for (name, hash) in self.tokenizer.hashes() {
            part(name, hash);
        }
        let needed = self.needed()?;
        let needed = needed.iter().map(String::as_str).collect();
        for (path, hash) in self.weights.files().iter().zip(self.weights.hashes(&needed)?) {
            part(&path.file_name().unwrap_or_default().to_string_lossy(), hash);
        }
        for adapter in &self.adapters {
            adapter.hashes()?.into_iter().for_each(|(name, hash)| part(name, hash));
        }
        let fingerprint = hasher.finalize().to_hex().to_string();
        Ok(self.fingerprint.get_or_init(|| fingerprint))
    }

    /// Reads the weights into a model on `device`, as float32.
    ///
    /// # Errors
    /// A file cannot be read, or a weight is not finite.
    pub fn load(&self, device: &Device) -> Result<Transformer> {
        self.load_to_train(device, Precision::default())
    }

    /// Reads the weights into a model on `device` that computes in a precision, held as what is trained in it. Where matrices are rounded for
    /// that, adapters are taken into them first.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_to_train(&self, device: &Device, precision: Precision) -> Result<Transformer> {
        let narrow = precision.narrows(true);
        let model = self.read(device, narrow && !self.has_adapters())?;
        Ok(if narrow { model.merged() } else { model }.in_precision(precision))
    }

    /// Reads the weights into a model on `device` of which nothing is trained, unless adapters are put on it, its matrices held in a
    /// precision.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_frozen(&self, device: &Device, precision: Precision) -> Result<Transformer> {
        // Adapters below others are taken into weights that are not rounded yet.
        let narrow = precision.narrows(false) && self.adapters.len() <= 1;
        Ok(self.read(device, narrow)?.in_precision(precision).frozen())
    }

    /// Reads the weights; matrices in bfloat16, if they are to be `narrow`.
    fn read(&self, device: &Device, narrow: bool) -> Result<Transformer> {
        let entries = self.entries()?;
        let model = Transformer::assemble(&self.spec, device, &mut |path, shape| {
            let (name, layout) = self.locate(&entries, path)?;
            let heads = self.spec.heads;
            let data = if narrow && is_matrix(path) {
                TensorData::new(self.weights.read::<bf16>(name, shape, layout, heads)?, shape.to_vec())
            } else {
                TensorData::new(self.weights.read::<f32>(name, shape, layout, heads)?, shape.to_vec())
            };
            Ok(Some(data))
        })?;
        self.adapters.iter().try_fold(model, |model, adapter| adapter.attach(model.merged(), device))
    }

    /// A classification head's matrix, as `[hidden, classes]` with its number of classes; `None` where there is none of that name.
    pub(super) fn head(&self, name: &str) -> Result<Option<(Vec<f32>, usize)>> {
        if let Some(adapter) = self.adapters.last() {
            return adapter.head(name, self.spec.hidden);
        }
        let Some(shape) = self.weights.shape(name) else { return Ok(None) };
        let classes = shape.first().copied().unwrap_or(0);
        let values = self.weights.read(name, &[self.spec.hidden, classes], Layout::Linear, 1)?;
        Ok(Some((values, classes)))
    }

    fn entries(&self) -> Result<BTreeMap<String, Entry>> {
        let mut entries = arch::find(self.spec.architecture)?.entries(self.layers, false);
        // Where both are one matrix, a file may hold it under either name.
        if self.spec.lm_head == LmHead::Tied
            && let Some(head) = entries.get("lm_head.weight").cloned()
            && let Some(tokens) = entries.get_mut("tokens.weight")
        {
            tokens.names.extend(head.names);
        }
        Ok(entries)
    }

    /// The tensor of the files that a parameter is read from.
    fn locate<'a>(&self, entries: &'a BTreeMap<String, Entry>, path: &str) -> Result<(&'a str, Layout)> {
        let entry = entries
            .get(path)
            .ok_or_else(|| Error::new(format!("architecture `{}` has no rule for `{path}`", self.spec.architecture)))?;
        match self.weights.find(&entry.names) {
            Some(name) => Ok((name, entry.layout)),
            None => {
                let missing = || Error::new(format!("tensor `{}` is missing", entry.names[0])).in_file(self.place());
                Err(self.weights.missing(&entry.names).unwrap_or_else(missing))
            }
        }
    }

    /// What an error about all weights points at.
    fn place(&self) -> &Path {
        match self.weights.files() {
            [single] => single,
            _ => &self.folder,
        }
    }

    /// Compares the files with what the configuration asks for.
    fn check(&self) -> Result<()> {
        let entries = self.entries()?;
        let mut missing = Vec::new();
        for (path, shape) in Transformer::parameters(&self.spec)? {
            match self.locate(&entries, &path) {
                Ok((name, layout)) => self.weights.check(name, &shape, layout)?,
                // One that the index promises is a matter of its file.
                Err(error) if error.place().is_some_and(|place| place.file != self.place()) => {
                    return Err(
                        error.or_else_help("get the file again, e.g. from the hub: it is damaged, or not complete")
                    );
                }
                Err(error) => missing.push(error),
            }
        }
        let others = |count: usize| match count {
            0 | 1 => String::new(),
            2 => ", and so is one more".to_owned(),
            more => format!(", and so are {} more", more - 1),
        };
        if let Some(first) = missing.first() {
            let message = format!("{}{}", first.message(), others(missing.len()));
            return Err(Error::new(message)
                .in_file(self.place())
                .help("do `config.json` and the weights belong to the same model?"));
        }
        let unexpected = self.beside()?;
        let architecture = arch::find(self.spec.architecture)?;
        let unexpected: Vec<_> = unexpected.into_iter().filter(|(name, _)| architecture.describes(name)).collect();
        match unexpected.first() {
            None => Ok(()),
            Some((name, file)) => {
                let message = format!(
                    "tensor `{name}` is not part of the `{}` that `{CONFIG}` describes{}",
                    self.spec.architecture,
                    others(unexpected.len())
                );
                Err(Error::new(message)
                    .in_file(*file)
                    .help("do `config.json` and the weights belong to the same model?"))
            }
        }
    }

    /// Names of the tensors that the computation needs.
    fn needed(&self) -> Result<BTreeSet<String>> {
        let entries = self.entries()?;
        let whole = Spec { layers: self.layers, ..self.spec.clone() };
        let parameters = Transformer::parameters(&whole)?;
        let names = parameters.iter().filter_map(|(path, _)| self.locate(&entries, path).ok());
        let heads = super::classifier::HEAD_NAMES.iter().chain([&super::classifier::JUDGE_NAME]);
        let ours = heads.filter(|name| self.weights.shape(name).is_some() && self.spec.config.contains_key("w2s"));
        Ok(names.map(|(name, _)| name).chain(ours.copied()).map(str::to_owned).collect())
    }

    /// Tensors of the files, each with its file, that are neither needed nor known as something that files carry: buffers and the
    /// like, a head that is tied.
    fn beside(&self) -> Result<Vec<(&str, &Path)>> {
        let architecture = arch::find(self.spec.architecture)?;
        let (entries, needed) = (self.entries()?, self.needed()?);
        let head = entries.get("lm_head.weight").map_or(&[][..], |entry| &entry.names);
        let known =
            |name: &str| needed.contains(name) || architecture.ignores(name) || head.iter().any(|head| head == name);
        Ok(self.weights.names().filter(|(name, _)| !known(name)).collect())
    }

    /// What a user should know of the files: what is passed over, and how the tokenizer is read.
    ///
    /// # Errors
    /// None, for a model that was opened.
    pub fn notes(&self) -> Result<Vec<String>> {
        let mut notes = self.tokenizer.notes().to_vec();
        let beside = self.beside()?;
        if let Some((name, _)) = beside.first() {
            let more = if beside.len() > 1 { format!(" and {} more", beside.len() - 1) } else { String::new() };
            let what = self.spec.architecture;
            notes.push(format!("tensor `{name}`{more} of the files passed over: no part of a `{what}`"));
        }
        Ok(notes)
    }
}

/// What is written beside the backbone.
pub(super) struct Extra {
    /// Tensors, as they are in the file.
    pub tensors: Vec<Outgoing>,
    /// Keys to set in `config.json`.
    pub config: Map<String, Value>,
}

impl Transformer {
    /// Writes `config.json`, `model.safetensors` (float32, but for matrices that were trained in bfloat16) and the tokenizer's files into a folder,
    /// which is made if need be, so that `AutoModel` and `AutoModelForCausalLM` of transformers load it, and [`Pretrained::open`] too.
    ///
    /// Adapters are merged into the weights they adapt.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn save(&self, folder: &Path, tokenizer: &Tokenizer) -> Result<()> {
        self.save_with(folder, tokenizer, Extra { tensors: Vec::new(), config: Map::new() })
    }

    pub(super) fn save_with(&self, folder: &Path, tokenizer: &Tokenizer, extra: Extra) -> Result<()> {
        let spec = self.spec();
        let architecture = arch::find(spec.architecture)?;
        let bare = spec.lm_head == LmHead::Absent && extra.tensors.is_empty();
        let class = if bare { architecture.base_class } else { architecture.lm_class };
        let class = if class.is_empty() { architecture.base_class } else { class };
        fs::create_dir_all(folder).path("make the folder", folder)?;
        let mut config = spec.config.clone();
        config.insert("architectures".to_owned(), vec![class].into());
        config.insert("torch_dtype".to_owned(), "float32".into());
        if config.contains_key("dtype") {
            config.insert("dtype".to_owned(), "float32".into());
        }
        config.extend(extra.config);
        let text = serde_json::to_string_pretty(&config).map_err(|cause| Error::new(cause.to_string()))?;
        let path = folder.join(CONFIG);
        fs::write(&path, text + "\n").path("write the model's configuration", path)?;
        tokenizer.save(folder)?;
        let entries = architecture.entries(spec.layers, class == architecture.base_class);
        let narrow = self.precision().narrows(true);
        let mut collector = Collector { entries, heads: spec.heads, narrow, path: Vec::new(), tensors: extra.tensors };
        self.valid().merged().materialize().visit(&mut collector);
        weights::write(&folder.join(weights::SINGLE), collector.tensors)
    }
}

/// Collects parameters for writing.
struct Collector {
    entries: BTreeMap<String, Entry>,
    heads: usize,
    /// Whether tensors in bfloat16 are written so.
    narrow: bool,
    path: Vec<String>,
    tensors: Vec<Outgoing>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        // Every parameter has a rule: the model was assembled from them, and a test holds each architecture to it.
        if let Some(entry) = self.entries.get(&self.path.join(".")) {
            self.tensors.push(Outgoing {
                name: entry.names[0].clone(),
                shape: tensor.dims().to_vec(),
                layout: entry.layout,
                heads: self.heads,
                dtype: if self.narrow && tensor.dtype() == DType::BF16 { Dtype::BF16 } else { Dtype::F32 },
                values: Box::new(move || floats(&tensor)),
            });
        }
    }
}

/// Values of a tensor as float32.
pub(super) fn floats<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}
