//! The stages themselves: what each does, and what makes it the stage it is.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    any_path,
    identity::{Numeric, StageId},
    knowledge::{AnswerJob, EmbedJob, PikExamples, PikJob, PikScoreJob, finished, read_embeddings},
    predictions::Predictions,
    store::{Begin, Finished, Store, write_atomically},
    tokens,
};
use crate::{
    Error, Result,
    error::IoContext,
    learner::{
        self, Choice, Encoded, Execution, Knowing, Objective, OwnLabels, PREDICT_BATCH, Packing, Recipe, Trained,
    },
    model::{Classifier, HeadConfig, Pretrained, Spec, Tokenizer, Transformer},
    rng,
    strategy::{
        self, Calibration, ConfiguredLoss, ConfiguredRefiner, ConfiguredSelector, ConfiguredSupervisor, Kind, Lab,
        Labels, Role, Settings, Split, Supervision, whole,
    },
    task::{Example, TaskData, world::World},
};

/// Where and how a stage runs. What of this its result depends on is [`numeric`](Place::numeric).
#[derive(Debug)]
pub struct Place {
    /// The device, without gradients.
    pub device: Device,
    /// Its name in results.
    pub name: String,
    /// Micro-batches, progress, interruption.
    pub execution: Execution,
}

impl Place {
    /// What enters identities.
    pub fn numeric(&self) -> Numeric {
        Numeric::new(&self.name, self.execution.micro_batch)
    }
}

/// A model as a stage uses it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelRef {
    /// Its name in results.
    pub name: String,
    /// Where its files are.
    #[serde(with = "any_path")]
    pub folder: PathBuf,
    /// What its weights are: the hash of its files, or the identity of the stage that pretrains it.
    pub fingerprint: String,
    /// The stage that makes the folder, for a model that is pretrained in the run.
    pub stage: Option<StageId>,
    /// Classification head.
    pub head: HeadConfig,
}

impl ModelRef {
    pub(super) fn identity(&self) -> Result<Value> {
        Ok(json!({ "weights": self.fingerprint, "head": self.head.identity()? }))
    }
}

/// A task's data as a stage uses them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataRef {
    /// Name of the task.
    pub task: String,
    /// Where they are.
    #[serde(with = "any_path")]
    pub folder: PathBuf,
    /// Hash of their content: texts, labels, splits.
    pub fingerprint: String,
    /// Longest text in tokens.
    pub max_tokens: usize,
    /// Number of examples of each split.
    pub examples: BTreeMap<String, usize>,
}

/// One stage, complete: a process that is given this and a store can do it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Job {
    /// Trains a language model from scratch on a generated world.
    Pretrain(Box<PretrainJob>),
    /// Lets a supervisor label the student's examples.
    Supervise(Box<SuperviseJob>),
    /// Fine-tunes a model on ground truth and labels every split: the weak model, and the ceiling.
    FineTune(Box<FineTuneJob>),
    /// Lets the strong model answer a task's questions.
    Answer(Box<AnswerJob>),
    /// Trains the strong model on P(IK) alone.
    Pik(Box<PikJob>),
    /// Asks a trained P(IK) model about a task's examples.
    PikScore(Box<PikScoreJob>),
    /// Embeds the student's examples with the pretrained strong model.
    Embed(Box<EmbedJob>),
    /// Fine-tunes the strong model on weak labels.
    Student(Box<StudentJob>),
}

/// See [`Job::Pretrain`].
#[derive(Debug, Serialize, Deserialize)]
pub struct PretrainJob {
    /// The world whose text is learnt.
    pub world: World,
    /// `config.json` of the model.
    pub config: Map<String, Value>,
    /// Training settings.
    pub recipe: Recipe,
    /// Seed of the weights and the order.
    pub seed: u64,
}

/// See [`Job::Supervise`].
#[derive(Debug, Serialize, Deserialize)]
pub struct SuperviseJob {
    /// Who labels.
    pub supervisor: Box<dyn ConfiguredSupervisor>,
    /// The pair's weak model and its training settings.
    pub weak: (ModelRef, Recipe),
    /// The pair's strong model and its training settings.
    pub strong: (ModelRef, Recipe),
    /// The task's data.
    pub data: DataRef,
    /// Seed of the cell.
    pub seed: u64,
}

/// See [`Job::FineTune`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FineTuneJob {
    /// The model.
    pub model: ModelRef,
    /// Training settings.
    pub recipe: Recipe,
    /// The task's data.
    pub data: DataRef,
    /// What it is trained on.
    pub on: Split,
    /// Seed of the cell.
    pub seed: u64,
    /// Whether the fine-tuned model is kept.
    #[serde(default)]
    pub save: bool,
}

/// What a fine-tuned model labels, where there is any: the student's examples, the test, and what was held out; not those that the weak
/// model was trained on itself.
const LABELLED: [Split; 3] = [Split::Transfer, Split::Test, Split::Validation];

/// See [`Job::Student`].
#[derive(Debug, Serialize, Deserialize)]
pub struct StudentJob {
    /// The strong model.
    pub model: ModelRef,
    /// Training settings.
    pub recipe: Recipe,
    /// The task's data.
    pub data: DataRef,
    /// The stage that holds the weak labels.
    pub supervision: StageId,
    /// Which labels are trusted.
    pub selector: Box<dyn ConfiguredSelector>,
    /// How labels are refined.
    pub refiner: Box<dyn ConfiguredRefiner>,
    /// What is minimised.
    pub loss: Box<dyn ConfiguredLoss>,
    /// The strong model's own labels, if the method uses them.
    #[serde(default)]
    pub self_labels: Option<SelfLabels>,
    /// Whether the model knows, if the method uses it.
    #[serde(default)]
    pub p_ik: Option<StudentPik>,
    /// The stage that holds embeddings of the pretrained strong model, if the method uses them.
    #[serde(default)]
    pub embeddings: Option<StageId>,
    /// Whether the method is a control that sees ground truth.
    #[serde(default)]
    pub truth: bool,
    /// Whether the method learns from the validation split how far weak labels can be trusted.
    #[serde(default)]
    pub calibration: bool,
    /// Seed of the cell.
    pub seed: u64,
    /// Whether the fine-tuned model is kept.
    pub save: bool,
}

/// Where a student's self-labels come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum SelfLabels {
    /// The model's answers before training.
    Answers {
        /// The stage that holds them.
        stage: StageId,
        /// 1 for the likeliest class instead of the probabilities.
        hard: bool,
    },
    /// The student's own head while it trains.
    CurrentHead {
        /// 1 for the likeliest class instead of the probabilities.
        hard: bool,
        /// Decay per step of the head's moving average; 0 is the head itself.
        decay: f64,
    },
}

/// Where a student's P(IK) comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum StudentPik {
    /// A second head, trained along.
    Joint {
        /// What it learns from.
        examples: PikExamples,
        /// λ.
        lambda: f64,
        /// Examples per step.
        batch_size: usize,
        /// Whether its examples are seen once only.
        once: bool,
        /// Part of the steps in which nothing counts as known.
        warmup_fraction: f64,
        /// A P(IK) model that backbone and head start from.
        start: Option<StageId>,
    },
    /// A P(IK) model that stays as it is.
    Frozen {
        /// The stage that holds what it says of the student's examples.
        scores: StageId,
    },
}

impl StudentPik {
    fn identity(&self) -> Value {
        match self {
            StudentPik::Joint { examples, lambda, batch_size, once, warmup_fraction, start } => json!({
                "from": "joint",
                "examples": examples.identity(),
                "lambda": lambda,
                "batch_size": batch_size,
                "once": once,
                "warmup_fraction": warmup_fraction,
                "start": start,
            }),
            StudentPik::Frozen { scores } => json!({ "from": "frozen", "scores": scores }),
        }
    }

    fn inputs(&self) -> Vec<StageId> {
        match self {
            StudentPik::Joint { examples, start, .. } => {
                [examples.answers.clone()].into_iter().chain(start.clone()).collect()
            }
            StudentPik::Frozen { scores } => vec![scores.clone()],
        }
    }
}

/// A strategy's part in an identity: name, version, and parameters without those that were added later and stand at their default.
fn strategy_identity<T: Serialize>(kind: Kind, strategy: &T) -> Result<Value> {
    let configured = whole(strategy).map_err(|error| error.context(format!("the {kind}")))?;
    match strategy::find(kind, configured["type"].as_str().unwrap_or_default()) {
        Some(card) => card.identity(&configured),
        None => Ok(configured),
    }
}

impl Job {
    /// Word for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Job::Pretrain(_) => "pretrain",
            Job::Supervise(_) => "supervise",
            Job::FineTune(_) => "fine-tune",
            Job::Answer(_) => "answers",
            Job::Pik(_) => "p-ik",
            Job::PikScore(_) => "p-ik-scores",
            Job::Embed(_) => "embeddings",
            Job::Student(_) => "student",
        }
    }

    /// What it is, for people: kind, data and seed.
    pub fn title(&self) -> String {
        let data = match self {
            Job::Pretrain(_) | Job::PikScore(_) => None,
            Job::Supervise(job) => Some((&job.data, job.seed)),
            Job::FineTune(job) => Some((&job.data, job.seed)),
            Job::Answer(job) => Some((&job.data, job.seed)),
            Job::Pik(job) => Some((&job.examples.data, job.seed)),
            Job::Embed(job) => Some((&job.data, 0)),
            Job::Student(job) => Some((&job.data, job.seed)),
        };
        match data {
            Some((data, seed)) => format!("{}  {}  seed {seed}", self.kind(), data.task),
            None => self.kind().to_owned(),
        }
    }

    /// Raised for exactly those jobs whose outputs change, so that old results are kept apart. `tests/golden/outputs.txt` notices outputs
    /// that change without it.
    fn version(&self) -> u32 {
        match self {
            // 2: the examples of P(IK) come in an order of their own, no more in the student's.
            Job::Student(job) => match &job.p_ik {
                Some(StudentPik::Joint { lambda, .. }) if *lambda != 0.0 => 2,
                _ => 1,
            },
            _ => 1,
        }
    }

    /// How many rows go through a model at once, if nobody asks for fewer: the largest batch that it is trained on, or what is predicted at once.
    fn batch(&self) -> usize {
        match self {
            Job::Pretrain(job) => job.recipe.batch_size,
            // Whichever of the two the supervisor trains.
            Job::Supervise(job) => job.weak.1.batch_size.max(job.strong.1.batch_size),
            Job::FineTune(job) => job.recipe.batch_size,
            Job::Pik(job) => job.recipe.batch_size,
            Job::Student(job) => {
                let beside = match &job.p_ik {
                    Some(StudentPik::Joint { batch_size, .. }) => *batch_size,
                    _ => 0,
                };
                job.recipe.batch_size.max(beside)
            }
            Job::Answer(_) | Job::PikScore(_) | Job::Embed(_) => PREDICT_BATCH,
        }
    }

    /// Everything that the result depends on. Of how it is executed that is the numeric mode alone, where it is not the default; index of the
    /// device, threads, workers and folders are not among it.
    ///
    /// # Errors
    /// Settings that cannot be written down whole.
    pub fn parameters(&self, numeric: &Numeric) -> Result<Value> {
        let mut parameters = self.settings()?;
        if let Some(numeric) = numeric.of(self.batch()) {
            parameters["numeric"] = numeric;
        }
        Ok(parameters)
    }

    /// [`parameters`](Job::parameters) but for the numeric mode.
    fn settings(&self) -> Result<Value> {
        Ok(match self {
            Job::Pretrain(job) => json!({
                "world": job.world.identity()?,
                "config": job.config,
                "recipe": job.recipe.identity()?,
                "seed": job.seed,
            }),
            Job::Supervise(job) => json!({
                "supervisor": strategy_identity(Kind::Supervisor, &job.supervisor)?,
                "weak": { "model": job.weak.0.identity()?, "recipe": job.weak.1.identity()? },
                "strong": { "model": job.strong.0.identity()?, "recipe": job.strong.1.identity()? },
                "data": job.data.fingerprint,
                "max_tokens": job.data.max_tokens,
                "seed": job.seed,
            }),
            Job::FineTune(job) => {
                let mut parameters = json!({
                    "model": job.model.identity()?,
                    "recipe": job.recipe.identity()?,
                    "data": job.data.fingerprint,
                    "max_tokens": job.data.max_tokens,
                    "on": job.on,
                    "seed": job.seed,
                });
                if job.save {
                    parameters["save"] = true.into();
                }
                parameters
            }
            Job::Answer(job) => job.parameters(),
            Job::Pik(job) => job.parameters()?,
            Job::PikScore(job) => job.parameters(),
            Job::Embed(job) => job.parameters()?,
            Job::Student(job) => {
                let mut parameters = json!({
                    "model": job.model.identity()?,
                    "recipe": job.recipe.identity()?,
                    "data": job.data.fingerprint,
                    "max_tokens": job.data.max_tokens,
                    "supervision": job.supervision,
                    "selector": strategy_identity(Kind::Selector, &job.selector)?,
                    "refiner": strategy_identity(Kind::Refiner, &job.refiner)?,
                    "loss": strategy_identity(Kind::Loss, &job.loss)?,
                    "seed": job.seed,
                });
                // What a method does not use is not among them: results from before it existed stay valid.
                if let Some(own) = &job.self_labels {
                    parameters["self_labels"] = json!(own);
                }
                if let Some(p_ik) = &job.p_ik {
                    parameters["p_ik"] = p_ik.identity();
                }
                if let Some(embeddings) = &job.embeddings {
                    parameters["embeddings"] = json!(embeddings);
                }
                if job.save {
                    parameters["save"] = true.into();
                }
                parameters
            }
        })
    }

    /// Identity of the stage.
    ///
    /// # Errors
    /// Settings that cannot be written down whole.
    pub fn id(&self, numeric: &Numeric) -> Result<StageId> {
        Ok(StageId::new(self.kind(), self.version(), &self.parameters(numeric)?))
    }

    /// Stages that must be finished before this one.
    pub fn inputs(&self) -> Vec<StageId> {
        let mut inputs = Vec::new();
        match self {
            Job::Pretrain(_) => {}
            Job::Supervise(job) => {
                inputs.extend(job.weak.0.stage.clone());
                inputs.extend(job.strong.0.stage.clone());
            }
            Job::FineTune(job) => inputs.extend(job.model.stage.clone()),
            Job::Student(job) => {
                inputs.extend(job.model.stage.clone());
                inputs.push(job.supervision.clone());
                if let Some(SelfLabels::Answers { stage, .. }) = &job.self_labels {
                    inputs.push(stage.clone());
                }
                inputs.extend(job.p_ik.iter().flat_map(StudentPik::inputs));
                inputs.extend(job.embeddings.clone());
            }
            Job::Answer(job) => inputs.extend(job.inputs()),
            Job::Pik(job) => inputs.extend(job.inputs()),
            Job::PikScore(job) => inputs.extend(job.inputs()),
            Job::Embed(job) => inputs.extend(job.inputs()),
        }
        inputs
    }

    /// Every stage whose files it reads: its [inputs](Self::inputs) and the data.
    pub fn reads(&self) -> Vec<StageId> {
        let mut data = Vec::new();
        match self {
            Job::Pretrain(_) => {}
            Job::Supervise(job) => data.push(&job.data),
            Job::FineTune(job) => data.push(&job.data),
            Job::Answer(job) => data.push(&job.data),
            Job::Pik(job) => data.push(&job.examples.data),
            Job::PikScore(job) => data.push(&job.data),
            Job::Embed(job) => data.push(&job.data),
            Job::Student(job) => {
                data.push(&job.data);
                if let Some(StudentPik::Joint { examples, .. }) = &job.p_ik {
                    data.push(&examples.data);
                }
            }
        }
        let stage = |data: &DataRef| data.folder.file_name()?.to_string_lossy().parse().ok();
        let mut reads = self.inputs();
        reads.extend(data.into_iter().filter_map(stage));
        reads
    }

    /// Does the stage, unless it is done already.
    ///
    /// # Errors
    /// Whatever its parts refuse or fail at; the stage then stays absent.
    pub fn run(&self, store: &Store, place: &Place) -> Result<Finished> {
        let numeric = place.numeric();
        let workspace = match store.begin(&self.id(&numeric)?)? {
            Begin::Finished(finished) => return Ok(*finished),
            Begin::Ours(workspace) => workspace,
        };
        let execution = Execution::in_parts(numeric.parts(self.batch()), &place.execution);
        let place = &Place { device: place.device.clone(), name: place.name.clone(), execution };
        let folder = workspace.folder();
        let summary = match self {
            Job::Pretrain(job) => job.run(folder, place)?,
            Job::Supervise(job) => job.run(folder, store, place)?,
            Job::FineTune(job) => match self.twin(store, &numeric)? {
                Some(twin) => copied(&twin, folder)?,
                None => job.run(folder, place)?,
            },
            Job::Answer(job) => job.run(folder, store, place)?,
            Job::Pik(job) => job.run(folder, store, place)?,
            Job::PikScore(job) => job.run(folder, store, place)?,
            Job::Embed(job) => job.run(folder, place)?,
            Job::Student(job) => job.run(folder, store, place)?,
        };
        workspace.finish(self.parameters(&numeric)?, summary, &place.name)
    }
}

impl Job {
    /// The same training, done for a pair whose other model has another limit of tokens: the limit is in its identity, and where it cut no text
    /// it changed nothing.
    fn twin(&self, store: &Store, numeric: &Numeric) -> Result<Option<Finished>> {
        let but_limit = |mut parameters: Value| {
            parameters.as_object_mut().map(|parameters| parameters.remove("max_tokens"));
            parameters
        };
        let wanted = but_limit(self.parameters(numeric)?);
        let mut others: Vec<StageId> = std::fs::read_dir(store.root())
            .path("read the results folder", store.root())?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(self.kind()))
            .filter_map(|name| name.parse().ok())
            .collect();
        others.sort();
        for id in others {
            // What is damaged or being moved is no twin, and no reason to fail.
            let Ok(Some(twin)) = store.find(&id) else { continue };
            let parameters = &twin.manifest.parameters;
            // The identity holds the version too.
            if but_limit(parameters.clone()) == wanted && StageId::new(self.kind(), self.version(), parameters) == id {
                return Ok(Some(twin));
            }
        }
        Ok(None)
    }
}

/// Copies what a stage left behind; gives its summary, which says so.
fn copied(stage: &Finished, folder: &Path) -> Result<Value> {
    for name in stage.manifest.files.keys() {
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

impl PretrainJob {
    fn run(&self, folder: &Path, place: &Place) -> Result<Value> {
        let world = self.world.generate();
        let tokenizer = Tokenizer::parse(&world.tokenizer, Path::new("tokenizer.json"))?;
        let spec = Spec::from_config(&self.config, Path::new("config.json"))?;
        // Parameters that gradients reach live on the differentiating device.
        let model =
            Transformer::init(&spec, rng::derive(self.seed, "pretrain/weights"), &place.device.clone().autodiff())?;
        let packing = Packing::Documents;
        let trained = learner::train_lm(
            model,
            &world.corpus,
            packing,
            &self.recipe,
            rng::derive(self.seed, "pretrain/order"),
            &place.execution,
        )?;
        write_log(&trained, folder)?;
        trained.model.save(&folder.join("model"), &tokenizer)?;
        Ok(summary_of(&trained, json!({})))
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

/// What a manifest says of a training: its last loss, what the stage adds, and remarks if there are any.
pub(super) fn summary_of<M>(trained: &Trained<M>, mut more: Value) -> Value {
    more["loss"] = json!(trained.final_loss());
    add_remarks(&mut more, &trained.log.remarks);
    more
}

/// Key of a manifest's summary: sentences that the user should know.
pub const REMARKS: &str = "remarks";

fn add_remarks(summary: &mut Value, remarks: &[String]) {
    if !remarks.is_empty() {
        summary[REMARKS] = json!(remarks);
    }
}

/// `log.csv`: what happened step by step.
pub(super) fn write_log<M>(trained: &Trained<M>, folder: &Path) -> Result<()> {
    let path = folder.join("log.csv");
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

/// The parts of a stage that trains classifiers on one task.
pub(super) struct Bench<'a> {
    pub(super) data: TaskData,
    /// The data's stage, which holds their token ids.
    folder: Option<&'a Path>,
    place: &'a Place,
    seed: u64,
}

impl<'a> Bench<'a> {
    pub(super) fn open(data: &'a DataRef, seed: u64, place: &'a Place) -> Result<Self> {
        Ok(Self { folder: Some(&data.folder), ..Self::with(TaskData::read(&data.folder)?, place, seed) })
    }

    pub(super) fn with(data: TaskData, place: &'a Place, seed: u64) -> Self {
        Self { data, folder: None, place, seed }
    }

    pub(super) fn encode(&self, model: &Pretrained, split: Split) -> Result<Encoded> {
        let rows = tokens::read(&self.data, model.tokenizer(), self.folder, split)?;
        Encoded::new(rows, model.spec()).map_err(|error| error.context(format!("the {} split", split.name())))
    }

    /// Ground truth, one-hot.
    fn truth(&self, split: Split) -> Labels {
        let one_hot =
            |label: u8| (0..self.data.classes()).map(|class| f32::from(class == usize::from(label))).collect();
        part(&self.data, split).iter().map(|example| one_hot(example.label)).collect()
    }

    /// A model with a fresh head: every method of a cell starts from the same one. With `start`, the stage's backbone and P(IK) head.
    pub(super) fn classifier(
        &self,
        model: &ModelRef,
        pretrained: &Pretrained,
        classes: usize,
        start: Option<&Finished>,
    ) -> Result<Classifier> {
        let device = self.place.device.clone().autodiff();
        let (backbone, p_ik) = match start {
            None => (pretrained.load(&device)?, None),
            Some(stage) => {
                let known = Classifier::load(&Pretrained::open(&stage.folder.join("model"))?, &device)?;
                let head: Vec<f32> = known.head.weight.val().into_data().iter().collect();
                (known.backbone, Some(head))
            }
        };
        let head_seed = rng::derive(self.seed, "head");
        let classifier = Classifier::new(backbone, &model.head, classes, head_seed, Some(pretrained.tokenizer()))?;
        Ok(if p_ik.is_some() { classifier.with_p_ik(p_ik) } else { classifier })
    }

    /// Trains a classifier; every method of a cell sees the same order.
    pub(super) fn train_on(
        &self,
        classifier: Classifier,
        data: &Encoded,
        recipe: &Recipe,
        objective: Objective,
    ) -> Result<Trained<Classifier>> {
        let order_seed = rng::derive(self.seed, "order");
        learner::train_classifier(classifier, data, objective, recipe, order_seed, &self.place.execution)
    }

    /// Predicts one split into its file.
    pub(super) fn predict(
        &self,
        model: &Pretrained,
        classifier: &Classifier,
        split: Split,
        folder: &Path,
    ) -> Result<()> {
        let data = self.encode(model, split)?;
        let predicted = learner::predict(classifier, &data, &self.place.execution)?;
        Predictions::new(predicted.probabilities)?.write(&folder.join(Predictions::file(split)))
    }
}

impl FineTuneJob {
    fn run(&self, folder: &Path, place: &Place) -> Result<Value> {
        let bench = Bench::open(&self.data, self.seed, place)?;
        let cross_entropy: Box<dyn ConfiguredLoss> = default_strategy(Kind::Loss, "cross-entropy")?;
        let objective = Objective::new(bench.truth(self.on), cross_entropy);
        let model = Pretrained::open(&self.model.folder)?;
        let classifier = bench.classifier(&self.model, &model, bench.data.classes(), None)?;
        let trained = bench.train_on(classifier, &bench.encode(&model, self.on)?, &self.recipe, objective)?;
        write_log(&trained, folder)?;
        for split in LABELLED.into_iter().filter(|split| !part(&bench.data, *split).is_empty()) {
            bench.predict(&model, &trained.model, split, folder)?;
        }
        if self.save {
            trained.model.save(&folder.join("model"), model.tokenizer())?;
        }
        Ok(summary_of(&trained, json!({})))
    }
}

/// A registered strategy at its defaults.
pub(super) fn default_strategy<T: serde::de::DeserializeOwned>(kind: Kind, name: &str) -> Result<T> {
    serde_json::from_value(json!({ "type": name }))
        .map_err(|_| Error::new(format!("{kind} `{name}` is not linked into this binary")))
}

/// The laboratory of a supervisor: what it trains is a stage of its own, shared with whoever needs the same.
struct StageLab<'a> {
    job: &'a SuperviseJob,
    store: &'a Store,
    place: &'a Place,
    /// What the trainings had to say.
    remarks: Vec<String>,
}

impl Lab for StageLab<'_> {
    fn fine_tune_and_label(&mut self, role: Role, on: Split, label: &[Split]) -> Result<Vec<Labels>> {
        if let Some(split) = label.iter().find(|split| !LABELLED.contains(split)) {
            return Err(Error::new(format!("a fine-tuned model labels no examples of the {} split", split.name())));
        }
        let (model, recipe) = match role {
            Role::Weak => &self.job.weak,
            Role::Strong => &self.job.strong,
        };
        let job = FineTuneJob {
            model: model.clone(),
            recipe: recipe.clone(),
            data: self.job.data.clone(),
            on,
            seed: self.job.seed,
            save: false,
        };
        let finished = Job::FineTune(Box::new(job)).run(self.store, self.place)?;
        let remarks = finished.manifest.summary[REMARKS].as_array().into_iter().flatten();
        self.remarks.extend(remarks.filter_map(Value::as_str).map(|remark| format!("{}: {remark}", model.name)));
        let data = TaskData::read(&self.job.data.folder)?;
        label
            .iter()
            .map(|split| match part(&data, *split) {
                [] => Ok(Labels::new()),
                _ => Ok(Predictions::read(&finished.file(&Predictions::file(*split)))?.into_rows()),
            })
            .collect()
    }

    fn truth(&mut self, split: Split) -> Result<Labels> {
        Ok(Bench::open(&self.job.data, self.job.seed, self.place)?.truth(split))
    }

    fn seed(&self) -> u64 {
        rng::derive(self.job.seed, "supervisor")
    }
}

impl SuperviseJob {
    fn run(&self, folder: &Path, store: &Store, place: &Place) -> Result<Value> {
        let mut lab = StageLab { job: self, store, place, remarks: Vec::new() };
        let Supervision { transfer, test, validation } = self.supervisor.supervise(&mut lab)?;
        for (split, labels) in [(Split::Transfer, transfer), (Split::Test, test), (Split::Validation, validation)] {
            let expected = lab.truth(split)?.len();
            if labels.len() != expected {
                return Err(Error::new(format!(
                    "the supervisor gave {} labels for the {expected} examples of the {} split",
                    labels.len(),
                    split.name()
                )));
            }
            if expected > 0 {
                Predictions::new(labels)?.write(&folder.join(Predictions::file(split)))?;
            }
        }
        let mut summary = json!({});
        add_remarks(&mut summary, &lab.remarks);
        Ok(summary)
    }
}

impl StudentJob {
    /// Whether the method may do anything but train on every weak label as it is.
    fn decides(&self) -> bool {
        let plain = strategy_name(&self.selector) == "all" && strategy_name(&self.refiner) == "identity";
        !plain || self.p_ik.is_some() || self.self_labels.is_some()
    }

    fn run(&self, folder: &Path, store: &Store, place: &Place) -> Result<Value> {
        let supervision = finished(store, &self.supervision)?;
        let weak = Predictions::read(&supervision.file(&Predictions::file(Split::Transfer)))?.into_rows();
        let bench = Bench::open(&self.data, self.seed, place)?;
        let mut objective = Objective::new(weak, copy::<Box<dyn ConfiguredLoss>>(&self.loss)?);
        objective.selector = Some(copy::<Box<dyn ConfiguredSelector>>(&self.selector)?);
        objective.refiner = Some(copy::<Box<dyn ConfiguredRefiner>>(&self.refiner)?);
        objective.record = self.decides();
        let model = Pretrained::open(&self.model.folder)?;
        let mut summary = json!({});
        objective.self_labels = match &self.self_labels {
            None => None,
            Some(SelfLabels::CurrentHead { hard, decay }) => Some(OwnLabels::Current { hard: *hard, decay: *decay }),
            Some(SelfLabels::Answers { stage, hard }) => {
                let answers = finished(store, stage)?.file(&Predictions::file(Split::Transfer));
                let rows = Predictions::read(&answers)?.into_rows();
                Some(OwnLabels::Given(if *hard { rows.iter().map(|row| one_hot(row)).collect() } else { rows }))
            }
        };
        let mut start = None;
        objective.p_ik = match &self.p_ik {
            None => None,
            Some(StudentPik::Frozen { scores }) => {
                let scores = finished(store, scores)?.file(&Predictions::file(Split::Transfer));
                Some(Knowing::Given(Predictions::read(&scores)?.rows().iter().map(|row| row[1]).collect()))
            }
            Some(StudentPik::Joint { examples, lambda, batch_size, once, warmup_fraction, start: from }) => {
                start = from.as_ref().map(|stage| finished(store, stage)).transpose()?;
                let (data, labels, counts) = examples.read(store, &model)?;
                summary["p_ik"] = counts;
                let (lambda, batch_size, once, warmup_fraction) = (*lambda, *batch_size, *once, *warmup_fraction);
                Some(Knowing::Trained { data, labels, lambda, batch_size, once, warmup_fraction })
            }
        };
        if let Some(stage) = &self.embeddings {
            objective.embeddings = Some(read_embeddings(&finished(store, stage)?)?);
        }
        let truth = |split| part(&bench.data, split).iter().map(|example| example.label).collect();
        if self.truth {
            objective.truth = Some(truth(Split::Transfer));
        }
        if self.calibration {
            let weak = Predictions::read(&supervision.file(&Predictions::file(Split::Validation)))?.into_rows();
            objective.calibration = Some(Calibration { weak, truth: truth(Split::Validation) });
        }
        let classifier = bench.classifier(&self.model, &model, bench.data.classes(), start.as_ref())?;
        let trained = bench.train_on(classifier, &bench.encode(&model, Split::Transfer)?, &self.recipe, objective)?;
        write_log(&trained, folder)?;
        bench.predict(&model, &trained.model, Split::Test, folder)?;
        if trained.model.p_ik.is_some() {
            let data = bench.encode(&model, Split::Test)?;
            let p_ik = learner::predict_p_ik(&trained.model, &data, &place.execution)?;
            Predictions::new(p_ik)?.write(&folder.join(P_IK_TEST))?;
        } else if let Some(StudentPik::Frozen { scores }) = &self.p_ik {
            let scores = finished(store, scores)?.file(&Predictions::file(Split::Test));
            Predictions::read(&scores)?.write(&folder.join(P_IK_TEST))?;
        }
        if self.decides() {
            write_decisions(trained.log.choices.values(), &folder.join(DECISIONS))?;
        }
        if self.save {
            trained.model.save(&folder.join("model"), model.tokenizer())?;
        }
        Ok(summary_of(&trained, summary))
    }
}

/// File of a student with `[P(IDK), P(IK)]` of the test split.
pub const P_IK_TEST: &str = "p-ik-test.csv";
/// File of a student with the last decision about each of its examples.
pub const DECISIONS: &str = "decisions.csv";

/// 1 for the first of the largest values.
fn one_hot(row: &[f32]) -> Vec<f32> {
    let best = learner::argmax(row);
    (0..row.len()).map(|class| f32::from(class == best)).collect()
}

/// Columns `row, own, weight, p_ik, self_0 …, refined_0 …`; empty where the method has no such thing.
fn write_decisions<'a>(choices: impl Iterator<Item = &'a Choice>, path: &Path) -> Result<()> {
    let mut text = String::new();
    for choice in choices {
        let classes = choice.refined.len();
        if text.is_empty() {
            let columns = |name: &str| (0..classes).map(|class| format!(",{name}_{class}")).collect::<String>();
            text = format!("row,own,weight,p_ik{}{}\n", columns("self"), columns("refined"));
        }
        let p_ik = choice.p_ik.map_or_else(String::new, |p_ik| p_ik.to_string());
        text.push_str(&format!("{},{},{},{p_ik}", choice.row, u8::from(choice.own), choice.weight));
        for class in 0..classes {
            let own = choice.self_label.as_ref().map_or_else(String::new, |own| own[class].to_string());
            text.push_str(&format!(",{own}"));
        }
        for value in &choice.refined {
            text.push_str(&format!(",{value}"));
        }
        text.push('\n');
    }
    write_atomically(path, text.as_bytes())
}

/// The decisions that a student left behind, in the order of its examples.
///
/// # Errors
/// A file that is missing or not of that form.
pub fn read_decisions(path: &Path) -> Result<Vec<Choice>> {
    let wrong = |message: String| Error::new(format!("not a student's decisions: {message}")).in_file(path);
    let mut reader = csv::Reader::from_path(path).map_err(|error| wrong(error.to_string()))?;
    let classes = reader.headers().map_err(|error| wrong(error.to_string()))?.len().saturating_sub(4) / 2;
    let row = |record: csv::StringRecord| -> Option<Choice> {
        let number = |place: usize| record.get(place)?.parse::<f32>().ok();
        let numbers = |from: usize| (from..from + classes).map(number).collect::<Option<Vec<f32>>>();
        Some(Choice {
            row: record.get(0)?.parse().ok()?,
            own: record.get(1)? == "1",
            weight: number(2)?,
            p_ik: number(3),
            self_label: numbers(4),
            refined: numbers(4 + classes)?,
        })
    };
    reader
        .records()
        .map(|record| {
            let record = record.map_err(|error| wrong(error.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            row(record).ok_or_else(|| wrong(format!("line {line}")))
        })
        .collect()
}

/// A configured strategy again, by way of its serialised form: it is plain data.
///
/// # Errors
/// A strategy that does not survive being written and read, which the conformance suite refuses.
pub fn copy<T: Serialize + serde::de::DeserializeOwned>(strategy: &T) -> Result<T> {
    serde_json::from_value(whole(strategy)?)
        .map_err(|error| Error::new(format!("a strategy does not survive being written and read: {error}")))
}

/// Registered name of a configured strategy.
pub fn strategy_name<T: Serialize>(strategy: &T) -> String {
    let configured = serde_json::to_value(strategy).unwrap_or_default();
    configured.get("type").and_then(Value::as_str).unwrap_or_default().to_owned()
}
