//! The grid as its TOML file says it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::library::{Library, is_name};
use crate::{
    Error, Result,
    document::{Document, Section, did_you_mean},
    error::Place,
    learner::Recipe,
    model::{HeadConfig, HeadInit},
    report::{
        results::{FURTHER_WEAK, is_end},
        table::{Published, PublishedPair},
    },
    stage::{KnownLabel, PikBalance, PikInput, STORE},
    strategy::{
        self, ConfiguredLoss, ConfiguredRefiner, ConfiguredSelector, ConfiguredSupervisor, Invalid, Kind, LabelRefiner,
        Needs, Selector, Split, StudentLoss, Supervisor,
    },
    task::{Balance, Order, OverLong, Task},
};

/// A grid: every task with every pair, every method and every seed.
#[derive(Debug)]
pub struct Grid {
    /// Name of the results folder.
    pub name: String,
    /// One sentence for whoever lists grids.
    pub title: String,
    /// Tasks, in the order of the file.
    pub tasks: Vec<Task>,
    /// Auxiliary tasks of P(IK), by name.
    pub auxiliary: BTreeMap<String, Task>,
    /// What `[task.NAME]` says of auxiliary tasks.
    auxiliary_settings: BTreeMap<String, toml::Table>,
    /// Weak and strong model.
    pub pairs: Vec<Pair>,
    /// Where the grid names its tasks and its pairs, for errors.
    pub places: [Vec<Place>; 2],
    /// Methods, in the order of the file.
    pub methods: Vec<Method>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// How the data of each task are read, ordered and split.
    pub data: Vec<Data>,
    /// Whether fine-tuned students are kept on disk.
    pub save_students: bool,
    /// The grid's own training settings, which go before a model's.
    train: toml::Table,
    /// Everything as it was resolved, for the record.
    pub source: Value,
}

/// A weak and a strong model.
#[derive(Debug)]
pub struct Pair {
    /// The supervisor's model.
    pub weak: ModelConfig,
    /// The student's and the ceiling's model.
    pub strong: ModelConfig,
}

/// `[data]`, and `[task.NAME]` over it: how data are read, ordered, split and cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Order and halves of the data: `openai` (the reference's, bit for bit), `eleuther`, or `k-points`.
    pub order: Order,
    /// Rows of the training split that are read, before anything is shuffled; all when absent.
    pub n_train: Option<usize>,
    /// Examples of the supervisor's half that the weak model is not trained on: their truth shows methods how often it is right. 0: none.
    pub n_validation: usize,
    /// Rows of the test split; all when absent.
    pub n_test: Option<usize>,
    /// How classes are balanced: `none` or `undersample`; what the order's protocol does when absent.
    pub balance: Option<Balance>,
    /// Longest text in tokens of either model; the models' own limit when that is shorter.
    pub max_tokens: usize,
    /// What happens to longer ones: `truncate` (from the left of the context, the same text for every model) or `drop`.
    pub over_long: OverLong,
    /// What the ceiling is trained on: `transfer` (the reference's half 2) or `supervise` (half 1).
    pub ceiling_split: Split,
    /// Of `[task.NAME]` alone: the text that a model classifies, in place of the task's own [`Task::template`].
    pub template: Option<String>,
    /// Of `[task.NAME]` alone: settings of training on this task, for every model.
    pub train: toml::Table,
    /// Of `[task.NAME]` alone: what else is different about a model on this task, by the model's name.
    pub model: BTreeMap<String, ModelOnTask>,
}

/// `[task.TASK.model.MODEL]`: goes before what the grid says of the model, and of the task, alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelOnTask {
    /// Keys of [`HeadConfig`].
    pub head: toml::Table,
    /// Keys of [`Recipe`].
    pub train: toml::Table,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            order: Order::default(),
            n_train: None,
            n_validation: 0,
            n_test: None,
            balance: None,
            max_tokens: 1024,
            over_long: OverLong::default(),
            ceiling_split: Split::Transfer,
            template: None,
            train: toml::Table::new(),
            model: BTreeMap::new(),
        }
    }
}

/// `configs/models/NAME.toml`, with what a grid changes about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelFile {
    /// Name for people.
    pub title: String,
    /// Repository on the hub, `organisation/name`.
    pub hub: Option<String>,
    /// Revision on the hub; `main` when absent.
    pub revision: Option<String>,
    /// A local folder with `config.json`, `tokenizer.json` and `*.safetensors`, looked at before anything else.
    pub path: Option<PathBuf>,
    /// The weights' licence.
    pub licence: String,
    /// Whom to cite.
    pub citation: String,
    /// Classification head.
    pub head: HeadConfig,
    /// Training settings that belong to this model, above all its learning rate.
    pub train: toml::Table,
    /// A model that is pretrained in the run, on the text of a generated world.
    pub pretrain: Option<Pretrain>,
}

/// `[pretrain]` of a model: trained from scratch on a generated world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretrain {
    /// Name of the world, `configs/worlds/NAME.toml`.
    pub world: String,
    /// How much of the world's text is read, in tokens from its beginning; all of it when absent.
    #[serde(default)]
    pub tokens: Option<usize>,
    /// The model's `config.json`; the vocabulary size comes from the world.
    pub config: toml::Table,
    /// Training settings.
    #[serde(default)]
    pub train: toml::Table,
    /// Seed of the initial weights and the order of the text.
    #[serde(default)]
    pub seed: u64,
}

/// A model under its name.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Name of the file.
    pub name: String,
    /// Its content.
    pub file: ModelFile,
    /// Folder that relative paths start from.
    pub folder: PathBuf,
    /// What the grid itself says of this model's training, in `[model.NAME] train`.
    pub train_here: toml::Table,
}

/// A method: what stands between weak labels and a student.
#[derive(Debug)]
pub struct Method {
    /// Name in configurations and results.
    pub name: String,
    /// Name in tables.
    pub title: String,
    /// Who labels.
    pub supervisor: Box<dyn ConfiguredSupervisor>,
    /// Which labels are trusted.
    pub selector: Box<dyn ConfiguredSelector>,
    /// How labels are refined.
    pub refiner: Box<dyn ConfiguredRefiner>,
    /// What the student minimises.
    pub loss: Box<dyn ConfiguredLoss>,
    /// How the strong model learns to know what it knows, if the method asks for that.
    pub p_ik: Option<Pik>,
    /// Where the strong model's own labels come from, if the method uses them.
    pub self_labels: Option<SelfLabels>,
    /// Training settings of this method.
    pub train: toml::Table,
}

/// `p_ik` of a method or a grid: P(IK), the probability that the model knows (Selective W2SG, arXiv 2511.14166, section 3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pik {
    /// The auxiliary task that P(IK) is learnt on, or [`EVALUATED`]. Origin: the paper takes ARC.
    pub task: String,
    /// Rows of its training split; all when absent.
    pub n_train: Option<usize>,
    /// λ: what the P(IK) loss counts. Origin: the paper, 1.
    pub lambda: f64,
    /// Answered examples before each question. Origin: the paper, 4, "only for format".
    pub shots: usize,
    /// Answers drawn for each question; 0 takes the likeliest. Origin: the paper draws one.
    pub samples: usize,
    /// Temperature of the draws. Origin: Kadavath et al. 2022, 1.
    pub temperature: f64,
    /// `language-model`: the pretrained model answers by itself. `classifier`: it is first fine-tuned on half of the auxiliary task and
    /// answers the other half, for models without a language-model head.
    pub answers: AnswersBy,
    /// `hard`, or the `fraction` of right answers. Origin: the paper, hard.
    pub label: KnownLabel,
    /// `none` or `undersample`. Origin: the paper does not say.
    pub balance: PikBalance,
    /// `text`, `prompt` or `few-shot-prompt`. Origin: the paper's Table 1 scores the text; its section 3.2 reads like the last.
    pub input: PikInput,
    /// `joint`, `pretrain-then-joint` or `pretrain-then-freeze`. Origin: the paper trains jointly.
    pub schedule: PikSchedule,
    /// Part of the steps during which nothing counts as known. Origin: the paper has none.
    pub warmup_fraction: f64,
    /// Passes over the auxiliary examples when P(IK) is trained first; the strong model's own when absent.
    pub epochs: Option<usize>,
    /// P(IK) examples in each step. Origin: the paper's batch size, 32.
    pub batch_size: usize,
    /// `cycle` or `truncate`: what happens when the auxiliary examples are used up. Origin: the paper does not say.
    pub epoch_mismatch: Mismatch,
    /// Parts of the auxiliary task that are learnt from; its `test` shows how well. With `answers = "classifier"`, `transfer` alone.
    /// Origin: the paper takes its training split.
    pub splits: Vec<Split>,
    /// Allows the evaluated task to be the auxiliary one, whose ground truth then reaches the student. Results say so.
    pub allow_leakage: bool,
}

/// The name that stands for whatever task is evaluated: P(IK) in distribution, as in the left half of the paper's Table 6.
pub const EVALUATED: &str = "evaluated";

impl Pik {
    /// Name of the task that P(IK) is learnt on where `evaluated` is.
    pub fn task_for<'a>(&'a self, evaluated: &'a str) -> &'a str {
        if self.task == EVALUATED { evaluated } else { &self.task }
    }
}

impl Default for Pik {
    fn default() -> Self {
        Self {
            task: String::new(),
            n_train: None,
            lambda: 1.0,
            shots: 4,
            samples: 1,
            temperature: 1.0,
            answers: AnswersBy::default(),
            label: KnownLabel::default(),
            balance: PikBalance::default(),
            input: PikInput::default(),
            schedule: PikSchedule::default(),
            warmup_fraction: 0.0,
            epochs: None,
            batch_size: 32,
            epoch_mismatch: Mismatch::default(),
            splits: vec![Split::Supervise, Split::Transfer],
            allow_leakage: false,
        }
    }
}

/// Who answers the auxiliary task's questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnswersBy {
    /// The pretrained language model.
    #[default]
    LanguageModel,
    /// A classifier, fine-tuned on half of the auxiliary task.
    Classifier,
}

/// When P(IK) is learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PikSchedule {
    /// Along with the student, from its first step.
    #[default]
    Joint,
    /// First alone, then along with the student, which starts from it.
    PretrainThenJoint,
    /// Alone; the student is told what that model says.
    PretrainThenFreeze,
}

/// What happens when the auxiliary examples are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mismatch {
    /// They start again in another order.
    #[default]
    Cycle,
    /// P(IK) is trained no further.
    Truncate,
}

/// `self_labels` of a method or a grid: the strong model's own labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelfLabels {
    /// `precomputed-generation`: what the pretrained language model answers. `current-head`: what the student says now. `ema-head`: what
    /// a moving average of its head says. `pik-stage-head`: what the strong model says when fine-tuned on the auxiliary task.
    /// Origin: the paper says "generated by the strong model".
    pub source: SelfSource,
    /// `hard` (the likeliest class) or `soft`. Origin: the paper does not say.
    pub kind: Hardness,
    /// Answered examples before each question, of the supervisor's half. Origin: as for P(IK).
    pub shots: usize,
    /// Decay per step of `ema-head`.
    pub decay: f64,
}

impl Default for SelfLabels {
    fn default() -> Self {
        Self { source: SelfSource::default(), kind: Hardness::default(), shots: 4, decay: 0.99 }
    }
}

/// Where self-labels come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SelfSource {
    /// The pretrained language model's answer.
    #[default]
    PrecomputedGeneration,
    /// The student's head now.
    CurrentHead,
    /// A moving average of the student's head.
    EmaHead,
    /// The strong model, fine-tuned on the auxiliary task.
    PikStageHead,
}

/// Whether labels are classes or probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hardness {
    /// The likeliest class.
    #[default]
    Hard,
    /// Probabilities.
    Soft,
}

impl Method {
    /// Whether ground truth of the evaluated task's student half reaches the student: by the supervisor, a control, or P(IK).
    pub fn uses_truth(&self, task: &str) -> bool {
        let leaks = self.p_ik.as_ref().is_some_and(|p_ik| p_ik.task_for(task) == task);
        self.supervisor.uses_truth_of_transfer() || self.needs().truth || leaks
    }

    /// Whether the strong model must answer in words.
    pub fn asks_language_model(&self) -> bool {
        self.self_labels.as_ref().is_some_and(|own| own.source == SelfSource::PrecomputedGeneration)
            || self.p_ik.as_ref().is_some_and(|p_ik| p_ik.answers == AnswersBy::LanguageModel)
    }

    /// What all its parts together ask of the engine.
    pub fn needs(&self) -> Needs {
        self.selector.needs().and(self.refiner.needs()).and(self.loss.needs())
    }
}

impl Grid {
    /// Reads a grid and everything it names.
    ///
    /// # Errors
    /// Anything that does not parse, does not exist or is out of range, with file, line and the likely fix.
    pub fn read(document: &Document, library: &Library) -> Result<Self> {
        let root = document.root();
        root.only(&[
            "grid",
            "data",
            "task",
            "train",
            "method",
            "model",
            "output",
            "p_ik",
            "self_labels",
            "sweep",
            "published",
        ])?;
        let grid = root.need("grid")?;
        grid.only(&["name", "title", "tasks", "pairs", "methods", "seeds"])?;

        let stem = document.file().file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let name: String = grid.read_key("name")?.unwrap_or(stem);
        check_name(&name).map_err(|error| place(&grid, &error.or_else_help("set `name` in `[grid]`")))?;
        if !is_name(&name) {
            let message = format!("`{}` cannot be the name of a folder", name.escape_debug());
            return Err(grid.error(message).help("set `name` in `[grid]`"));
        }
        if name == STORE {
            let message = format!("a grid cannot be called `{STORE}`: the folder of that name holds all grids' stages");
            return Err(grid.error(message).help("set another `name` in `[grid]`"));
        }
        let seeds: Vec<u64> = grid.read_key("seeds")?.unwrap_or_else(|| vec![0]);
        no_repetition(&grid, "seeds", &seeds)?;

        let train = recipe_table(&root)?;
        let output = root.get("output");
        if let Some(output) = &output {
            output.only(&["save_students"])?;
        }
        let save_students =
            output.map(|section| section.read_key("save_students")).transpose()?.flatten().unwrap_or_default();

        let own_models = root.get("model");
        let own_methods = root.get("method");
        let named = names(&grid, "tasks")?;
        let tasks = named
            .iter()
            .map(|(name, at)| open_task(&root, name, library, |error| at.place(error)))
            .collect::<Result<Vec<_>>>()?;
        let data = data_of_tasks(&root, &tasks, library)?;
        let pairs = grid
            .need("pairs")?
            .items()?
            .iter()
            .map(|pair| {
                pair.only(&["weak", "strong"])?;
                let model = |role: &str| {
                    let at = pair.need(role)?;
                    let name = at.text()?;
                    check_name(name).map_err(|error| place(&at, &error))?;
                    ModelConfig::read(name, library, own_models.as_ref().and_then(|own| own.get(name)), &at)
                };
                Ok(Pair { weak: model("weak")?, strong: model("strong")? })
            })
            .collect::<Result<Vec<_>>>()?;
        if pairs.is_empty() {
            return Err(grid
                .need("pairs")?
                .error("`pairs` is empty")
                .help("write e.g. pairs = [{ weak = \"gpt2\", strong = \"gpt2-xl\" }]"));
        }
        let named_pairs: Vec<String> =
            pairs.iter().map(|pair| format!("{} with {}", pair.weak.name, pair.strong.name)).collect();
        no_repetition(&grid, "pairs", &named_pairs)?;
        let shelf = library.open_file(Path::new("methods.toml")).transpose()?;
        let without_validation = tasks.iter().zip(&data).find(|(_, data)| data.n_validation == 0);
        let shared = Shared {
            p_ik: root.get("p_ik"),
            self_labels: root.get("self_labels"),
            without_validation: without_validation.map(|(task, _)| task.name().to_owned()),
        };
        let named_methods = names(&grid, "methods")?;
        let mut methods = named_methods
            .iter()
            .map(|(name, at)| {
                if is_end(name) || name.starts_with(FURTHER_WEAK.trim_end()) {
                    let message = format!("a method cannot be called `{name}`: results call the ends of the gap so");
                    return Err(place(&at.0, &Error::new(message).help("give it another name")));
                }
                Method::read(name, own_methods.as_ref(), shelf.as_ref(), at, &shared)
            })
            .collect::<Result<Vec<_>>>()?;
        let swept = sweeps(document, shelf.as_ref(), &methods, &shared)?;
        methods.extend(swept);
        if let Some(published) = root.get("published") {
            check_published(&published, &tasks, &methods, &pairs)?;
        }
        let auxiliary_by_name = auxiliary_tasks(&root, &methods, &tasks, library)?;
        let auxiliary_settings = auxiliary_settings(&root, &auxiliary_by_name, &tasks)?;
        let prompted = |task: &Task| task.prompt.as_ref().is_some_and(|prompt| !prompt.answers.is_empty());
        for method in &methods {
            let asked = method.self_labels.as_ref().is_some_and(|own| own.source == SelfSource::PrecomputedGeneration);
            let auxiliary = method.p_ik.as_ref().filter(|p_ik| p_ik.answers == AnswersBy::LanguageModel);
            let evaluated = tasks.iter().filter(|_| asked);
            let learnt = tasks.iter().filter_map(|task| auxiliary_by_name.get(auxiliary?.task_for(task.name())));
            let mut silent = evaluated.chain(learnt).filter(|task| !prompted(task));
            if let Some(task) = silent.next() {
                let message = format!(
                    "method `{}` asks a language model, and task `{}` does not say how",
                    method.name,
                    task.name()
                );
                return Err(grid.error(message).help(
                    "give the task a `[prompt]` with `template` and `answers`, or use `self_labels.source = \"current-head\"` and `p_ik.answers = \"classifier\"`",
                ));
            }
        }
        let grid = Self {
            name,
            title: grid.read_key("title")?.unwrap_or_default(),
            tasks,
            auxiliary: auxiliary_by_name,
            auxiliary_settings,
            places: [
                named.iter().map(|(_, at)| at.0.place()).collect(),
                grid.need("pairs")?.items()?.iter().map(Section::place).collect(),
            ],
            pairs,
            methods,
            seeds,
            data,
            save_students,
            train,
            source: root.to_json(),
        };
        grid.recipes().map_err(|error| error.in_file(document.file()))?;
        for (name, title) in grid.titles() {
            check_title(&title)
                .map_err(|error| error.context(format!("title of `{name}`")).in_file(document.file()))?;
        }
        let at =
            |method: &Method| named_methods.iter().find(|(name, _)| *name == method.name).map(|(_, at)| at.0.place());
        let tables = root.get("method");
        for method in &grid.methods {
            // The method's own table says more than its name in the list.
            let own = tables.as_ref().and_then(|methods| methods.get(&method.name)).map(|own| own.place());
            let place = own.or_else(|| at(method)).unwrap_or_else(|| root.place());
            grid.check_classes(method).map_err(|error| error.or_at(&place))?;
        }
        Ok(grid)
    }

    /// Whether a method, with the models it is used on, can work with as many classes as the tasks have.
    fn check_classes(&self, method: &Method) -> Result<()> {
        for (index, task) in self.tasks.iter().enumerate() {
            let classes = task.classes.len();
            let refused = |part: &str, message: String| {
                Error::new(format!(
                    "method `{}` cannot be used on task `{}`: {part}: {message}",
                    method.name,
                    task.name()
                ))
                .help("leave one of the two out of this grid")
            };
            for (part, fits) in [
                ("the supervisor", method.supervisor.fits(classes)),
                ("the selector", method.selector.fits(classes)),
                ("the refiner", method.refiner.fits(classes)),
                ("the loss", method.loss.fits(classes)),
            ] {
                fits.map_err(|message| refused(part, message))?;
            }
            let Some(p_ik) = &method.p_ik else { continue };
            let Some(auxiliary) = self.auxiliary.get(p_ik.task_for(task.name())) else { continue };
            let by_stage = method.self_labels.as_ref().is_some_and(|own| own.source == SelfSource::PikStageHead);
            let others = auxiliary.classes.len();
            if by_stage && others != classes {
                let message =
                    format!("the head of `{}` has {others} classes and cannot answer for {classes}", auxiliary.name());
                return Err(refused("the self-labels", message)
                    .help("take an auxiliary task with as many classes, or another `self_labels.source`"));
            }
            let heads = [
                (by_stage || p_ik.answers == AnswersBy::Classifier, "the auxiliary task", others),
                (p_ik.schedule != PikSchedule::Joint, "P(IK)", 2),
            ];
            for pair in &self.pairs {
                let HeadInit::Unembedding { tokens } = self.auxiliary_head(&pair.strong, index, p_ik)?.init else {
                    continue;
                };
                if let Some((_, what, wanted)) = heads.iter().find(|(used, _, wanted)| *used && tokens.len() != *wanted)
                {
                    let message = format!(
                        "a head of `{}` for {what} has {wanted} classes and cannot start from {} words",
                        pair.strong.name,
                        tokens.len()
                    );
                    return Err(refused("P(IK)", message).help(format!(
                        "set `[task.{}.model.{}] head = {{ init = {{ type = \"zero\" }} }}`, or `p_ik.schedule = \"joint\"` with answers of the language model",
                        auxiliary.name(),
                        pair.strong.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// How the data of the auxiliary task of P(IK) are read where a task (an index into [`Grid::tasks`]) is evaluated: as those of that
    /// task, but for what `[task.AUXILIARY]` and [`Pik::n_train`] say.
    ///
    /// # Errors
    /// Settings that do not parse.
    pub fn auxiliary_data(&self, task: usize, p_ik: &Pik) -> Result<Data> {
        // Nobody asks how far the weak model can be trusted in the auxiliary task.
        let mut data = Data { n_train: None, n_validation: 0, ..self.data[task].clone() };
        if let Some(own) = self.settings_of_auxiliary(task, p_ik) {
            let said = |error: String| Error::new(error).context(format!("`[task.{}]`", p_ik.task));
            let mut table = toml::Table::try_from(&data).map_err(|error| said(error.to_string()))?;
            table.extend(own.clone());
            data = table.try_into().map_err(|error: toml::de::Error| said(error.message().to_owned()))?;
            data.n_validation = 0;
        }
        data.n_train = p_ik.n_train.or(data.n_train);
        Ok(data)
    }

    /// How a model is trained on the auxiliary task of P(IK) where a task is evaluated: as on that task, but for what `[task.AUXILIARY]` says.
    ///
    /// # Errors
    /// Settings out of their range.
    pub fn auxiliary_recipe(&self, model: &ModelConfig, task: usize, p_ik: &Pik) -> Result<Recipe> {
        let own = self.settings_of_auxiliary(task, p_ik);
        let here = own.and_then(|own| own.get("model")?.get(&model.name)?.get("train")?.as_table());
        let all = own.and_then(|own| own.get("train")?.as_table());
        self.recipe_with(model, task, [all, here].into_iter().flatten())
    }

    /// The head of a model on the auxiliary task of P(IK) where a task is evaluated: as on that task, but for what `[task.AUXILIARY]` says.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn auxiliary_head(&self, model: &ModelConfig, task: usize, p_ik: &Pik) -> Result<HeadConfig> {
        let head = self.head(model, task)?;
        let own = self.settings_of_auxiliary(task, p_ik);
        match own.and_then(|own| own.get("model")?.get(&model.name)?.get("head")?.as_table()) {
            Some(here) => over_head(&head, here, &model.name),
            None => Ok(head),
        }
    }

    /// `[task.AUXILIARY]`, if P(IK) is not learnt on the evaluated task itself.
    fn settings_of_auxiliary(&self, task: usize, p_ik: &Pik) -> Option<&toml::Table> {
        let evaluated = self.tasks[task].name();
        let name = p_ik.task_for(evaluated);
        self.auxiliary_settings.get(name).filter(|_| name != evaluated)
    }

    /// How a model is trained here: the defaults, then the model's own settings, then the grid's for all models, for this one, for this
    /// task (an index into [`Grid::tasks`]) and for this model on this task, then the method's.
    ///
    /// # Errors
    /// Settings out of their range.
    pub fn recipe(&self, model: &ModelConfig, task: usize, method: Option<&Method>) -> Result<Recipe> {
        self.recipe_with(model, task, method.map(|method| &method.train).into_iter())
    }

    fn recipe_with<'a>(
        &'a self,
        model: &'a ModelConfig,
        task: usize,
        last: impl Iterator<Item = &'a toml::Table>,
    ) -> Result<Recipe> {
        let mut table = model.file.train.clone();
        let on_task = &self.data[task];
        let nearer = [&self.train, &model.train_here, &on_task.train].into_iter();
        let nearest = on_task.model.get(&model.name).map(|model| &model.train);
        for settings in nearer.chain(nearest).chain(last) {
            table.extend(settings.clone());
        }
        let recipe: Recipe =
            table.try_into().map_err(|error: toml::de::Error| Error::new(error.message().to_owned()))?;
        recipe.validate().map_err(|error| error.context(format!("training settings of `{}`", model.name)))?;
        Ok(recipe)
    }

    /// The head of a model on a task (an index into [`Grid::tasks`]).
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn head(&self, model: &ModelConfig, task: usize) -> Result<HeadConfig> {
        let Some(here) = self.data[task].model.get(&model.name) else { return Ok(model.file.head.clone()) };
        over_head(&model.file.head, &here.head, &model.name)
    }

    /// Names for people of tasks, models and methods, by their names.
    pub fn titles(&self) -> BTreeMap<String, String> {
        let tasks = self.tasks.iter().map(|task| (task.name.clone(), task.title.clone()));
        let models = self.pairs.iter().flat_map(|pair| [&pair.weak, &pair.strong]);
        let models = models.map(|model| (model.name.clone(), model.title().to_owned()));
        let methods = self.methods.iter().map(|method| (method.name.clone(), method.title.clone()));
        tasks.chain(models).chain(methods).filter(|(_, title)| !title.is_empty()).collect()
    }

    /// Every recipe of the grid is in range.
    fn recipes(&self) -> Result<()> {
        for (pair, task) in self.pairs.iter().flat_map(|pair| (0..self.tasks.len()).map(move |task| (pair, task))) {
            self.recipe(&pair.weak, task, None)?;
            self.recipe(&pair.strong, task, None)?;
            for method in &self.methods {
                // What a method leaves as it is has been looked at.
                if !method.train.is_empty() {
                    self.recipe(&pair.strong, task, Some(method))?;
                }
                if let Some(p_ik) = method.p_ik.as_ref().filter(|p_ik| self.settings_of_auxiliary(task, p_ik).is_some())
                {
                    self.auxiliary_data(task, p_ik)?;
                    self.auxiliary_recipe(&pair.strong, task, p_ik)?;
                    self.auxiliary_head(&pair.strong, task, p_ik)?;
                }
            }
        }
        Ok(())
    }
}

/// A head with the keys of a table over it.
fn over_head(head: &HeadConfig, here: &toml::Table, model: &str) -> Result<HeadConfig> {
    let said = |error: String| Error::new(error).context(format!("head of `{model}`"));
    let mut table = toml::Table::try_from(head).map_err(|error| said(error.to_string()))?;
    table.extend(here.clone());
    table.try_into().map_err(|error: toml::de::Error| said(error.message().to_owned()))
}

/// Whether a name can stand in results, folders, tables and figures as it is.
fn check_name(name: &str) -> Result<()> {
    let wrong = if name.trim().is_empty() {
        "is empty"
    } else if name.chars().any(acts) {
        "has a control character"
    } else if name.trim() != name {
        "begins or ends with a space"
    } else if name.starts_with(['=', '+', '-', '@']) {
        "begins with a sign that makes a formula of it in a spreadsheet"
    } else {
        return Ok(());
    };
    Err(Error::new(format!("the name {name:?} {wrong}")).help("choose a name of letters, digits and dashes"))
}

/// Whether a title can be shown.
fn check_title(title: &str) -> Result<()> {
    match title.chars().find(|c| acts(*c)) {
        Some(found) => Err(Error::new(format!("{title:?} has the control character {found:?}"))
            .help("write it on one line, in plain text")),
        None => Ok(()),
    }
}

/// Characters that act on what shows them instead of being shown: control characters, and those that turn the direction of text around.
fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `[published]`: what a paper reports for this grid's tasks and methods.
fn check_published(published: &Section, tasks: &[Task], methods: &[Method], pairs: &[Pair]) -> Result<()> {
    published.need("source").map_err(|error| error.help("name the paper and its table"))?.text()?;
    published.read::<Published>()?;
    check_reported(published, &["source", "metric", "pairs"], tasks, methods)?;
    for reported in published.get("pairs").iter().map(Section::items).collect::<Result<Vec<_>>>()?.concat() {
        let PublishedPair { weak, strong, .. } = reported.read()?;
        if !pairs.iter().any(|pair| (&pair.weak.name, &pair.strong.name) == (&weak, &strong)) {
            let known: Vec<_> =
                pairs.iter().map(|pair| format!("`{}` → `{}`", pair.weak.name, pair.strong.name)).collect();
            return Err(reported
                .error(format!("`{weak}` → `{strong}` is no pair of this grid"))
                .help(format!("the pairs are {}", known.join(", "))));
        }
        check_reported(&reported, &["weak", "strong"], tasks, methods)?;
    }
    Ok(())
}

/// What a paper reports by task and method, beside keys that are something else.
fn check_reported(published: &Section, keys: &[&str], tasks: &[Task], methods: &[Method]) -> Result<()> {
    for (task, reported) in published.entries().into_iter().filter(|(key, _)| !keys.contains(&key.as_str())) {
        if !tasks.iter().any(|known| known.name() == task) {
            let help = did_you_mean(&task, tasks.iter().map(Task::name));
            return Err(reported.error(format!("`{task}` is no task of this grid")).help(help));
        }
        for (method, values) in reported.entries() {
            let mut known = methods.iter().map(|method| method.name.as_str()).chain(["weak", "ceiling"]);
            if !known.any(|known| known == method) {
                let help = did_you_mean(&method, methods.iter().map(|method| method.name.as_str()));
                return Err(values.error(format!("`{method}` is no method of this grid")).help(help));
            }
        }
    }
    Ok(())
}

/// A task, with the template that `[task.NAME]` gives it; `place` points errors about its name at where the name stands.
fn open_task(root: &Section, name: &str, library: &Library, place: impl Fn(Error) -> Error) -> Result<Task> {
    let document = library.open("tasks", name).map_err(&place)?;
    let task = Task::parse(document.source_text(), document.file())?.named_as_its_file()?;
    if !task.is_classification() {
        let error = Error::new(format!("the task `{name}` has no classes, and grids work with classes alone so far"));
        return Err(place(error.help("name a task with a `[label.column]`, `[label.equals]` or `[label.coin]`; `w2s task check` reads the others")));
    }
    let here = root.get("task").and_then(|tasks| tasks.get(name)).and_then(|task| task.get("template"));
    match here {
        Some(template) => task.with_template(template.text()?, template.place()),
        None => Ok(task),
    }
}

/// Settings of each task's data: the defaults, then `[data]`, then `[task.NAME]`.
fn data_of_tasks(root: &Section, tasks: &[Task], library: &Library) -> Result<Vec<Data>> {
    let own_models: Vec<String> = root.get("model").iter().flat_map(Section::entries).map(|(name, _)| name).collect();
    let read = |section: &Section| {
        let data: Data = section.read()?;
        if data.max_tokens == 0 || data.n_train == Some(0) || data.n_test == Some(0) {
            return Err(section.error("`max_tokens`, `n_train` and `n_test` must be at least 1"));
        }
        if matches!(data.ceiling_split, Split::Test | Split::Validation) {
            let at = section.get("ceiling_split").unwrap_or_else(|| section.clone());
            return Err(at.error("`ceiling_split` must be `transfer` or `supervise`"));
        }
        recipe_table(section)?;
        for (name, model) in section.get("model").iter().flat_map(Section::entries) {
            recipe_table(&model)?;
            model.read_key::<HeadConfig>("head")?;
            // A model that this run leaves out may keep its settings, too.
            if !own_models.contains(&name) {
                library.open("models", &name).map_err(|error| At(model).place(error))?;
            }
        }
        section.to_table()
    };
    for (key, help) in [
        ("template", "a template belongs to one task: `[task.NAME] template`"),
        ("train", "what holds for all tasks stands in `[train]`, what holds for one in `[task.NAME]`"),
        ("model", "what holds for all tasks stands in `[model.NAME]`, what holds for one in `[task.NAME]`"),
    ] {
        if let Some(there) = root.get("data").and_then(|data| data.get(key)) {
            return Err(there.error(format!("`[data]` says nothing of `{key}`")).help(help));
        }
    }
    let all = root.get("data").as_ref().map(read).transpose()?.unwrap_or_default();
    let own = root.get("task");
    for (name, section) in own.iter().flat_map(Section::entries) {
        // A task that this run leaves out may keep its settings; one that does not exist is a slip.
        if !tasks.iter().any(|task| task.name() == name) {
            library.open("tasks", &name).map_err(|error| At(section).place(error))?;
        }
    }
    let settings = |task: &Task| {
        let mut table = all.clone();
        if let Some(own) = own.as_ref().and_then(|own| own.get(task.name())) {
            table.extend(read(&own)?);
        }
        table.try_into().map_err(|error: toml::de::Error| Error::new(error.message().to_owned()))
    };
    tasks.iter().map(settings).collect()
}

/// A name with the place it was written at, for errors about what it names.
struct At<'a>(Section<'a>);

impl At<'_> {
    /// Points an error that has no place of its own at the name.
    fn place(&self, error: Error) -> Error {
        if error.place().is_some() { error } else { place(&self.0, &error) }
    }
}

/// The same error, pointing at a section.
fn place(section: &Section, error: &Error) -> Error {
    let placed = section.error(error.message());
    match error.remedy() {
        Some(help) => placed.help(help),
        None => placed,
    }
}

/// What `[task.NAME]` says of the tasks that P(IK) is learnt on.
fn auxiliary_settings(
    root: &Section,
    auxiliary: &BTreeMap<String, Task>,
    tasks: &[Task],
) -> Result<BTreeMap<String, toml::Table>> {
    let mut settings = BTreeMap::new();
    for (name, section) in root.get("task").iter().flat_map(Section::entries) {
        if !auxiliary.contains_key(&name) {
            continue;
        }
        section.read::<Data>()?;
        let evaluated = tasks.iter().any(|task| task.name() == name);
        for key in ["n_validation", "ceiling_split"] {
            if let Some(there) = section.get(key).filter(|_| !evaluated) {
                let message =
                    format!("`{name}` is not evaluated but learnt from by P(IK), for which `{key}` says nothing");
                return Err(there.error(message).help(format!("leave it out, or add `{name}` to `tasks`")));
            }
        }
        let mut table = section.to_table()?;
        for of_evaluated in ["n_validation", "ceiling_split", "template"] {
            table.remove(of_evaluated);
        }
        settings.insert(name, table);
    }
    Ok(settings)
}

/// The strings of a list in `[grid]`, none empty, none twice.
fn names<'a>(grid: &Section<'a>, key: &str) -> Result<Vec<(String, At<'a>)>> {
    let list = grid.need(key)?;
    let items =
        list.items()?.into_iter().map(|item| Ok((item.text()?.to_owned(), At(item)))).collect::<Result<Vec<_>>>()?;
    for (name, at) in &items {
        check_name(name).map_err(|error| place(&at.0, &error))?;
    }
    if items.is_empty() {
        return Err(list.error(format!("`{key}` is empty: there would be nothing to run")));
    }
    no_repetition(grid, key, &items.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>())?;
    Ok(items)
}

fn no_repetition<T: Ord + std::fmt::Display>(grid: &Section, key: &str, items: &[T]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for item in items {
        if !seen.insert(item) {
            return Err(grid.need(key)?.error(format!("`{item}` stands twice in `{key}`")));
        }
    }
    if items.is_empty() {
        return Err(grid.need(key)?.error(format!("`{key}` is empty: there would be nothing to run")));
    }
    Ok(())
}

/// `train` of a section: checked as a recipe, kept as the table of what was really said.
fn recipe_table(section: &Section) -> Result<toml::Table> {
    let Some(train) = section.get("train") else { return Ok(toml::Table::new()) };
    let recipe: Recipe = train.read()?;
    recipe.validate().map_err(|error| {
        // The message names the key first.
        let key = error.message().split('`').nth(1).unwrap_or_default();
        place(&train.get(key).unwrap_or_else(|| train.clone()), &error)
    })?;
    train.to_table()
}

/// Points at the parameter that is out of range, or at the table where it stands at its default.
fn invalid_at(table: &Section, invalid: &Invalid) -> Error {
    table
        .get(invalid.parameter)
        .unwrap_or_else(|| table.clone())
        .error(format!("`{}` {}", invalid.parameter, invalid.message))
}

impl ModelConfig {
    /// Reads a model by name, with the grid's own `[model.NAME]` over it. A model may stand in the grid alone.
    pub(super) fn read(name: &str, library: &Library, own: Option<Section>, at: &Section) -> Result<Self> {
        let at = At(at.clone());
        check_name(name).map_err(|error| at.place(error))?;
        let shelf = match library.open("models", name) {
            Ok(document) => Some(document),
            Err(_) if own.is_some() => None,
            Err(error) => return Err(at.place(error)),
        };
        let mut folder = PathBuf::new();
        let mut table = toml::Table::new();
        let mut train_here = toml::Table::new();
        if let Some(document) = &shelf {
            folder = document.file().parent().map(Path::to_owned).unwrap_or_default();
            document.root().read::<ModelFile>()?;
            recipe_table(&document.root())?;
            table = document.root().to_table()?;
        }
        if let Some(own) = own {
            own.read::<ModelFile>()?;
            train_here = recipe_table(&own)?;
            for (key, value) in own.to_table()? {
                if key == "path" {
                    folder = PathBuf::new();
                }
                match (table.get_mut(&key), value) {
                    (Some(toml::Value::Table(inner)), toml::Value::Table(value)) => inner.extend(value),
                    (_, value) => {
                        table.insert(key, value);
                    }
                }
            }
        }
        let file: ModelFile =
            table.try_into().map_err(|error: toml::de::Error| at.place(Error::new(error.message().to_owned())))?;
        if file.hub.is_none() && file.path.is_none() && file.pretrain.is_none() {
            return Err(at.place(
                Error::new(format!("model `{name}` says neither `hub`, `path` nor `[pretrain]`"))
                    .help("name its repository on the hub, or a local folder"),
            ));
        }
        Ok(Self { name: name.to_owned(), file, folder, train_here })
    }

    /// Name for people.
    pub fn title(&self) -> &str {
        if self.file.title.is_empty() { &self.name } else { &self.file.title }
    }
}

impl Method {
    /// Reads a method: the grid's own `[method.NAME]`, one of `configs/methods.toml`, or a loss by its own name.
    fn read(name: &str, own: Option<&Section>, shelf: Option<&Document>, at: &At, shared: &Shared) -> Result<Self> {
        let on_shelf = shelf.and_then(|document| document.root().get("method"));
        let section = own.and_then(|own| own.get(name)).or_else(|| on_shelf.as_ref().and_then(|shelf| shelf.get(name)));
        let Some(section) = section else {
            if strategy::find(Kind::Loss, name).is_some() {
                return Self::assemble(name, None, Some(name), shared).map_err(|error| at.place(error));
            }
            let mut known: Vec<String> = Vec::new();
            for methods in [own, on_shelf.as_ref()].into_iter().flatten() {
                known.extend(methods.entries().into_iter().map(|(name, _)| name));
            }
            known.extend(strategy::of_kind(Kind::Loss).iter().map(|card| card.name.to_owned()));
            let help = did_you_mean(name, known.iter().map(String::as_str));
            return Err(at.place(Error::new(format!("there is no method and no loss `{name}`")).help(help)));
        };
        section.only(&["title", "supervisor", "selector", "refiner", "loss", "train", "p_ik", "self_labels"])?;
        Self::assemble(name, Some(&section), None, shared)
    }

    fn assemble(name: &str, section: Option<&Section>, loss: Option<&str>, shared: &Shared) -> Result<Self> {
        let part = |key: &str| section.and_then(|section| section.get(key));
        let title = section.map(|section| section.read_key("title")).transpose()?.flatten();
        let mut method = Self {
            name: name.to_owned(),
            title: title.unwrap_or_else(|| name.to_owned()),
            supervisor: configured(Kind::Supervisor, part("supervisor"), "fine-tuned", Supervisor::validate)?,
            selector: configured(Kind::Selector, part("selector"), "all", Selector::validate)?,
            refiner: configured(Kind::Refiner, part("refiner"), "identity", LabelRefiner::validate)?,
            loss: configured(Kind::Loss, part("loss"), loss.unwrap_or("cross-entropy"), StudentLoss::validate)?,
            p_ik: None,
            self_labels: None,
            train: section.map(recipe_table).transpose()?.unwrap_or_default(),
        };
        let needs = method.needs();
        // What a method spells out it gets, what its parts need it gets too; the grid's own tables say how.
        let (p_ik, self_labels) = (part("p_ik"), part("self_labels"));
        if needs.p_ik || p_ik.is_some() {
            method.p_ik = Some(shared.p_ik(name, section, p_ik.as_ref())?);
        }
        if needs.self_labels || self_labels.is_some() {
            method.self_labels = Some(shared.self_labels(name, section, self_labels.as_ref(), &method)?);
        }
        if let Some(task) = shared.without_validation.as_ref().filter(|_| needs.calibration) {
            let of_parts = [
                ("selector", method.selector.needs()),
                ("refiner", method.refiner.needs()),
                ("loss", method.loss.needs()),
            ];
            let asks = of_parts.into_iter().filter(|(_, needs)| needs.calibration).find_map(|(key, _)| part(key));
            let message =
                format!("method `{name}` needs held-out examples with their truth, and `{task}` holds none out");
            let error = asks.as_ref().or(section).map_or_else(|| Error::new(&message), |at| at.error(&message));
            return Err(error.help(
                "add `[data] n_validation = 500` to the grid: so many examples of the supervisor's half, which the weak model is then not trained on",
            ));
        }
        Ok(method)
    }
}

/// What a grid says once for all methods that use P(IK) or self-labels.
struct Shared<'a> {
    p_ik: Option<Section<'a>>,
    self_labels: Option<Section<'a>>,
    /// A task of which nothing is held out.
    without_validation: Option<String>,
}

/// The tables of a setting, the later over the earlier, and the place to point at.
fn over<'a, T: DeserializeOwned>(tables: [Option<&Section<'a>>; 2]) -> Result<(T, Option<Section<'a>>)> {
    let mut table = toml::Table::new();
    for section in tables.into_iter().flatten() {
        section.read::<T>()?;
        table.extend(section.to_table()?);
    }
    let settings = table.try_into().map_err(|error: toml::de::Error| Error::new(error.message().to_owned()))?;
    Ok((settings, tables.into_iter().flatten().next_back().cloned()))
}

impl Shared<'_> {
    fn p_ik(&self, name: &str, method: Option<&Section>, own: Option<&Section>) -> Result<Pik> {
        let (mut settings, at): (Pik, _) = over([self.p_ik.as_ref(), own])?;
        let place = |key: &str, message: String| {
            let section =
                [own, self.p_ik.as_ref()].into_iter().flatten().find_map(|table| table.get(key)).or(at.clone());
            match section.as_ref().or(method) {
                Some(section) => section.error(message),
                None => Error::new(message),
            }
        };
        if settings.task.is_empty() {
            return Err(place("task", format!("method `{name}` uses P(IK), and no task says what that is learnt on"))
                .help("add `[p_ik]` with `task = \"NAME\"` to the grid: a task that is not evaluated"));
        }
        for (key, value, low, high) in [
            ("lambda", settings.lambda, 0.0, f64::INFINITY),
            ("temperature", settings.temperature, f64::MIN_POSITIVE, f64::INFINITY),
            ("warmup_fraction", settings.warmup_fraction, 0.0, 1.0),
        ] {
            Invalid::unless_within("", value, low, high)
                .map_err(|invalid| place(key, format!("`{key}` {}", invalid.message)))?;
        }
        for (key, value) in
            [("batch_size", Some(settings.batch_size)), ("epochs", settings.epochs), ("n_train", settings.n_train)]
        {
            if value == Some(0) {
                return Err(place(key, format!("`{key}` must be at least 1")));
            }
        }
        if settings.label == KnownLabel::Fraction && settings.samples < 2 {
            return Err(place("samples", "a `fraction` of right answers needs more than one answer".to_owned())
                .help("set `samples = 30` as Kadavath et al. 2022, or `label = \"hard\"`"));
        }
        let learnt_from = |split: &Split| matches!(split, Split::Supervise | Split::Transfer);
        if settings.splits.is_empty() || !settings.splits.iter().all(learnt_from) {
            return Err(place("splits", "`splits` must be `supervise`, `transfer`, or both".to_owned()));
        }
        if settings.answers == AnswersBy::Classifier {
            // What a classifier was trained on it knows anyway.
            settings.splits = vec![Split::Transfer];
        }
        if settings.answers == AnswersBy::Classifier && settings.input != PikInput::Text {
            return Err(
                place("input", "a classifier reads texts, not prompts".to_owned()).help("leave `input` at `text`")
            );
        }
        Ok(settings)
    }

    fn self_labels(
        &self,
        name: &str,
        section: Option<&Section>,
        own: Option<&Section>,
        method: &Method,
    ) -> Result<SelfLabels> {
        let (settings, at): (SelfLabels, _) = over([self.self_labels.as_ref(), own])?;
        let place = |key: &str, message: String| {
            let tables = [own, self.self_labels.as_ref()].into_iter().flatten();
            let section = tables.filter_map(|table| table.get(key)).next().or(at.clone()).or(section.cloned());
            section.map_or_else(|| Error::new(&message), |section| section.error(&message))
        };
        if settings.source == SelfSource::CurrentHead && settings.kind == Hardness::Soft {
            let message = format!(
                "method `{name}` trains towards the soft labels of its own head in the same step: their gradient is exactly zero"
            );
            return Err(place("kind", message).help(
                "use `kind = \"hard\"`, or a source that is not the head itself (`ema-head`, `precomputed-generation`)",
            ));
        }
        if !(0.0..1.0).contains(&settings.decay) {
            return Err(place("decay", format!("`decay` must be at least 0 and below 1, not {}", settings.decay)));
        }
        if settings.source == SelfSource::PikStageHead && method.p_ik.is_none() {
            return Err(place("source", format!("method `{name}` has no P(IK), so there is no head of its stage"))
                .help("add `p_ik = { task = \"NAME\" }` to the method, or take another source"));
        }
        Ok(settings)
    }
}

/// `[sweep]`: a method's table → parameter → values. Each value gives one more method, `METHOD PARAMETER=VALUE`, everything else left alone.
fn sweeps(document: &Document, shelf: Option<&Document>, methods: &[Method], shared: &Shared) -> Result<Vec<Method>> {
    let root = document.root();
    let mut swept: Vec<Method> = Vec::new();
    for (name, parameters) in root.get("sweep").iter().flat_map(Section::entries) {
        let Some(base) = methods.iter().find(|method| method.name == name) else {
            let help = did_you_mean(&name, methods.iter().map(|method| method.name.as_str()));
            return Err(parameters.error(format!("`{name}` is swept and not among `methods`")).help(help));
        };
        // Where the method is written is where its variant is.
        let written = |document: &Document| document.root().get("method").is_some_and(|all| all.get(&name).is_some());
        let (home, mut changes) = match shelf.filter(|shelf| !written(document) && written(shelf)) {
            Some(shelf) => (shelf, vec![]),
            None if written(document) => (document, vec![]),
            // A loss by its own name.
            None => (document, vec![format!("method.{name}.loss.type={name:?}")]),
        };
        for (parameter, values) in parameters.entries() {
            for value in values.items()? {
                let text = value.to_json();
                let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
                let at = |error: Error| {
                    let placed = value.error(format!("`{parameter}` = {text}: {}", error.message()));
                    match error.remedy() {
                        Some(help) => placed.help(help),
                        None => placed,
                    }
                };
                changes.push(format!("method.{name}.{parameter}={text}"));
                let changed = home.clone().with_overrides(&changes).map_err(at)?;
                changes.pop();
                let own = changed.root().get("method");
                let mut method = Method::read(&name, own.as_ref(), None, &At(value.clone()), shared).map_err(at)?;
                method.name = format!("{name} {parameter}={text}");
                method.title = format!("{}, {parameter} = {text}", base.title);
                check_name(&method.name).and_then(|()| check_title(&method.title)).map_err(at)?;
                if swept.iter().any(|other| other.name == method.name) {
                    return Err(value.error(format!("`{text}` stands twice in `{parameter}`")));
                }
                swept.push(method);
            }
        }
    }
    Ok(swept)
}

/// The tasks that P(IK) is learnt on, none of them evaluated unless that was allowed.
fn auxiliary_tasks(
    root: &Section,
    methods: &[Method],
    tasks: &[Task],
    library: &Library,
) -> Result<BTreeMap<String, Task>> {
    let mut auxiliary = BTreeMap::new();
    for method in methods {
        let Some(p_ik) = &method.p_ik else { continue };
        let at = root.get("method").and_then(|methods| methods.get(&method.name)).and_then(|method| method.get("p_ik"));
        let at = at.filter(|table| table.get("task").is_some()).or_else(|| root.get("p_ik"));
        let at = at.and_then(|table| table.get("task"));
        let place = |error: Error| match &at {
            Some(at) => At(at.clone()).place(error),
            None => error,
        };
        let is_evaluated = |task: &Task| p_ik.task_for(task.name()) == task.name();
        if let Some(task) = tasks.iter().find(|task| is_evaluated(task)).filter(|_| !p_ik.allow_leakage) {
            let message = format!("`{}` is evaluated, and P(IK) would be learnt from its ground truth", task.name());
            return Err(place(Error::new(message).help(
                "take a task that is not evaluated, or set `allow_leakage = true` beside it: results then say so",
            )));
        }
        for name in tasks.iter().map(|task| p_ik.task_for(task.name())) {
            auxiliary.insert(name.to_owned(), open_task(root, name, library, place)?);
        }
    }
    Ok(auxiliary)
}

/// A strategy from its table, or the default of its kind; places errors inside the table exactly.
fn configured<T>(
    kind: Kind,
    section: Option<Section>,
    default: &str,
    validate: fn(&T) -> Result<(), Invalid>,
) -> Result<Box<T>>
where
    T: ?Sized,
    Box<T>: DeserializeOwned,
{
    let read = |value: Value| serde_json::from_value::<Box<T>>(value).map_err(|error| Error::new(error.to_string()));
    let Some(section) = section else {
        return read(serde_json::json!({ "type": default }))
            .map_err(|error| error.help(format!("is the crate with {kind} `{default}` linked into this binary?")));
    };
    let named =
        section.need("type").map_err(|error| error.help(format!("write {kind} = {{ type = \"{default}\" }}")))?;
    let name = named.text()?;
    let Some(card) = strategy::find(kind, name) else {
        let cards = strategy::of_kind(kind);
        let help = did_you_mean(name, cards.iter().map(|card| card.name));
        return Err(named.error(format!("there is no {kind} `{name}`")).help(help));
    };
    section.probe(card.probe)?;
    let strategy = read(section.to_json()).map_err(|error| section.error(error.message()))?;
    validate(&strategy).map_err(|invalid| invalid_at(&section, &invalid))?;
    Ok(strategy)
}
