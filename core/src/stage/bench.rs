//! What a stage works with: the store, the device, and the models and data that it names.

use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicUsize},
};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    any_path,
    identity::{Numeric, StageId},
    store::{Finished, Store},
    trainer::Trainer,
};
use crate::{
    Error, Result,
    error::IoContext,
    learner::{Answering, Every, Execution, Trained},
    model::{HeadConfig, Lora, Pretrained, Transformer, is_adapter},
    strategy::{Form, Settings, Split},
    task::{Example, TaskData},
};

/// Where and how a stage runs. What of this its result depends on is [`numeric`](Place::numeric).
#[derive(Clone, Debug)]
pub struct Place {
    /// The device, without gradients.
    pub device: Device,
    /// Its name in results.
    pub name: String,
    /// Micro-batches, precision, progress, interruption.
    pub execution: Execution,
    /// How often a training that is under way is saved.
    pub checkpoint_every: Every,
}

impl Place {
    /// What enters identities.
    pub fn numeric(&self) -> Numeric {
        Numeric::new(&self.name, self.execution.micro_batch).in_precision(self.execution.precision)
    }
}

/// Where the files of models are that no stage makes, by the fingerprint of their weights. It enters no identity.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Folders(BTreeMap<String, Folder>);

/// A model's folder, and that of adapters on its weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Folder {
    #[serde(with = "any_path")]
    model: PathBuf,
    adapter: Option<Adapter>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Adapter(#[serde(with = "any_path")] PathBuf);

impl Folder {
    fn open(&self) -> Result<Pretrained> {
        let pretrained = Pretrained::open(&self.model)?;
        match &self.adapter {
            None => Ok(pretrained),
            Some(Adapter(folder)) => pretrained.with_adapter(folder),
        }
    }
}

impl Folders {
    /// Remembers where weights are, with the adapters on them if there are any.
    pub fn insert(&mut self, weights: &str, folder: &Path, adapter: Option<&Path>) {
        let adapter = adapter.map(|folder| Adapter(folder.to_owned()));
        self.0.insert(weights.to_owned(), Folder { model: folder.to_owned(), adapter });
    }
}

/// A model as a stage uses it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelRef {
    /// Its name in results.
    pub name: String,
    /// What its weights are: the hash of its files, or the identity of the stage that pretrains it.
    pub weights: String,
    /// Classification head.
    pub head: HeadConfig,
    /// How it writes, where a task asks for words; then it has no head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writing: Option<Writing>,
    /// The adapters that are trained in place of its weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
}

/// How a model learns words, and when it has written enough of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Writing {
    /// The tokens that end a text.
    pub ends: Vec<u32>,
    /// How answers are learnt.
    pub answering: Answering,
}

impl ModelRef {
    pub(super) fn identity(&self) -> Result<Value> {
        let mut identity = match &self.writing {
            None => json!({ "weights": self.weights, "head": self.head.identity()? }),
            Some(Writing { ends, answering }) => {
                json!({ "weights": self.weights, "writing": { "ends": ends, "answering": answering.identity()? } })
            }
        };
        if let Some(lora) = &self.lora {
            identity["lora"] = lora.identity()?;
        }
        Ok(identity)
    }

    /// The same model as it is when nothing of it is trained.
    pub fn untrained(&self) -> Self {
        Self { lora: None, ..self.clone() }
    }
}

/// A task's data as a stage uses them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataRef {
    /// Name of the task.
    pub task: String,
    /// The stage that holds them.
    pub stage: StageId,
    /// Hash of their content: texts, labels, splits.
    pub fingerprint: String,
    /// Longest text in tokens.
    pub max_tokens: usize,
    /// What the task asks for.
    pub form: Form,
    /// Examples with fewer candidates than others.
    #[serde(default)]
    pub fewer: usize,
    /// Number of examples of each split.
    pub examples: BTreeMap<String, usize>,
    /// Tokens of the longest example, by the tokenizer that needs most, as far as that is known.
    #[serde(default)]
    pub longest: Option<usize>,
}

impl DataRef {
    /// Tokens of the longest text that is left after texts were cut.
    pub fn longest(&self) -> usize {
        self.longest.map_or(self.max_tokens, |longest| longest.clamp(1, self.max_tokens))
    }

    /// The examples.
    ///
    /// # Errors
    /// Data that are missing or damaged.
    pub fn read(&self, store: &Store) -> Result<TaskData> {
        TaskData::read(&store.take(&self.stage)?.folder)
    }
}

/// One split of a task's data.
pub fn part(data: &TaskData, split: Split) -> &[Example] {
    match split {
        Split::Supervise => &data.supervise,
        Split::Transfer => &data.transfer,
        Split::Test => &data.test,
        Split::Validation => &data.validation,
    }
}

/// Where a stage is done.
#[derive(Clone, Debug)]
pub struct Bench<'a> {
    /// Where finished stages are.
    pub store: &'a Store,
    /// The device, and how it is used.
    pub place: Place,
    folders: &'a Folders,
    pub(super) making: Option<Making>,
}

/// The stage that is being made on a bench, whose trainings are kept until it is done.
#[derive(Clone, Debug)]
pub(super) struct Making {
    pub(super) stage: StageId,
    /// How many trainings it has begun: what tells them apart is which of them it is.
    pub(super) trainings: Arc<AtomicUsize>,
}

impl<'a> Bench<'a> {
    /// A bench in a store, with the models of some folders.
    pub fn new(store: &'a Store, place: Place, folders: &'a Folders) -> Self {
        Self { store, place, folders, making: None }
    }

    /// The same for making a stage in its own manner.
    pub(super) fn to_make(&self, stage: StageId, execution: Execution) -> Self {
        let place = Place { execution, ..self.place.clone() };
        let making = Some(Making { stage, trainings: Arc::default() });
        Self { place, making, ..*self }
    }

    /// What of the place enters identities.
    pub fn numeric(&self) -> Numeric {
        self.place.numeric()
    }

    /// A stage that this one names.
    ///
    /// Its bytes were looked at before this one began.
    pub(crate) fn stage(&self, id: &StageId) -> Result<Finished> {
        match self.store.find(id)? {
            Some(finished) => Ok(finished),
            None => self.store.take(id),
        }
    }

    /// A model that a stage names, be it found in a folder or made by another stage.
    pub(super) fn model(&self, model: &ModelRef) -> Result<Pretrained> {
        self.weights(&model.weights, &model.name)
    }

    /// The model with these weights, under the name that an error gives it.
    fn weights(&self, weights: &str, name: impl Display) -> Result<Pretrained> {
        match (self.folders.0.get(weights), StageId::recognise(weights)) {
            (Some(folder), _) => folder.open(),
            (None, Some(stage)) => self.model_of(&stage),
            (None, None) => Err(Error::new(format!("nobody says where the files of model `{name}` are"))),
        }
    }

    /// The model that a stage left behind.
    pub(super) fn model_of(&self, stage: &StageId) -> Result<Pretrained> {
        let stage = self.stage(stage)?;
        let folder = stage.folder.join(MODEL);
        if !is_adapter(&folder) {
            return Pretrained::open(&folder);
        }
        // Adapters alone were kept; the stage says what they are on.
        let weights = stage.manifest.parameters["model"]["weights"].as_str().unwrap_or_default();
        self.weights(weights, &stage.manifest.id)?.with_adapter(&folder)
    }

    /// A model as its training begins, on the differentiating device: with its own weights to be trained, into which adapters that it came with
    /// are taken, or with fresh adapters on them.
    pub(super) fn begin(&self, model: &ModelRef, pretrained: &Pretrained, seed: u64) -> Result<Transformer> {
        let device = self.place.device.clone().autodiff();
        let precision = self.place.execution.precision;
        let is_frozen = model.lora.is_some() || model.head.freeze_backbone;
        // Adapters are taken into weights that are not rounded yet.
        let backbone = match is_frozen && !pretrained.has_adapters() {
            true => pretrained.load_frozen(&device, precision)?,
            false => pretrained.load_to_train(&device, precision)?,
        };
        match &model.lora {
            None => Ok(backbone.merged()),
            Some(lora) => backbone.with_lora(lora, seed),
        }
    }

    /// A model that merely answers.
    pub(super) fn load(&self, pretrained: &Pretrained) -> Result<Transformer> {
        pretrained.load_frozen(&self.place.device, self.place.execution.precision)
    }

    /// What trains and predicts on a task's data.
    pub(super) fn trainer(&'a self, data: &DataRef, seed: u64) -> Result<Trainer<'a>> {
        let folder = self.stage(&data.stage)?.folder;
        Ok(Trainer::new(TaskData::read(&folder)?, folder, self, seed))
    }
}

/// Folder of a stage with the model that it made, as transformers reads it.
pub(super) const MODEL: &str = "model";

/// What a manifest says of a training: its last loss, what the stage adds, and remarks if there are any.
pub(super) fn summary_of<M>(trained: &Trained<M>, mut more: Value) -> Value {
    more["loss"] = json!(trained.final_loss());
    add_remarks(&mut more, &trained.log.remarks);
    more
}

/// Key of a manifest's summary: sentences that the user should know.
pub const REMARKS: &str = "remarks";

pub(super) fn add_remarks(summary: &mut Value, remarks: &[String]) {
    if !remarks.is_empty() {
        summary[REMARKS] = json!(remarks);
    }
}

/// `log.csv`, and `log-2.csv` and so on of later phases: what happened step by step.
pub(super) fn write_log<M>(trained: &Trained<M>, phase: usize, folder: &Path) -> Result<()> {
    let path = folder.join(if phase == 0 { "log.csv".to_owned() } else { format!("log-{}.csv", phase + 1) });
    let fail = |error: csv::Error| Error::new(format!("cannot write the log of training: {error}")).in_file(&path);
    let mut writer = csv::Writer::from_path(&path).map_err(fail)?;
    writer.write_record(["step", "loss", "accuracy", "learning_rate"]).map_err(fail)?;
    for step in &trained.log.steps {
        let accuracy = step.accuracy.map_or_else(String::new, |accuracy| accuracy.to_string());
        let cells = [step.step.to_string(), step.loss.to_string(), accuracy, step.learning_rate.to_string()];
        writer.write_record(cells).map_err(fail)?;
    }
    writer.flush().path("write the log of training", path)
}

/// Copies what a stage left behind; gives its summary, which says so.
pub(super) fn copied(stage: &Finished, folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Value> {
    for name in stage.manifest.files.keys().filter(|name| wanted(name)) {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).path("create a folder for a stage", parent)?;
        }
        std::fs::copy(stage.file(name), &path).path("copy a file of a stage", &path)?;
    }
    let mut summary = stage.manifest.summary.clone();
    summary["copied_from"] = json!(stage.manifest.id);
    Ok(summary)
}
