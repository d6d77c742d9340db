//! From a grid to stages: everything is looked at before anything is trained.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use indexmap::IndexMap;
use indicatif::{ProgressBar, ProgressFinish};
use serde_json::{Value, json};

use super::{
    config::{self, AnswersBy, Data, Grid, Hardness, Mismatch, ModelConfig, Pik, PikSchedule, Pretrain, SelfSource},
    library::Library,
    models::{ModelFolder, model_folder},
};
use crate::{
    Error, Result,
    document::Document,
    error::IoContext,
    learner::{self, Recipe, Sampler},
    model::{Pretrained, Spec, Tokenizer},
    stage::{
        self, AnswerJob, Answerer, Begin, DataRef, EmbedJob, FineTuneJob, Finished, Job, ModelRef, Numeric,
        PikExamples, PikJob, PikScoreJob, PretrainJob, SelfLabels, StageId, Store, StudentJob, StudentPik,
        SuperviseJob, copy,
    },
    strategy::{Split, whole},
    task::{
        CountTokens, Counter, DataOptions, OverLong, Sources, Task, TaskData, TokenCounts, cuts_words, fit,
        world::World,
    },
};

/// Beyond this many parameters, weights, gradients and moments are more than the memory of any one machine.
const LARGEST_PRETRAINED: f64 = 1e11;

/// Where inputs are found.
pub struct Places {
    /// Folders of data sets, and behind them the hub.
    pub sources: Sources,
    /// Folders of models, or caches of `huggingface_hub`, looked in before the hub.
    pub models: Vec<PathBuf>,
}

/// A grid, ready to run: its cells, and the stages that make them.
#[derive(Debug)]
pub struct Plan {
    /// The grid.
    pub grid: Grid,
    /// Every task with every pair, method and seed, in the order of tables.
    pub cells: Vec<Cell>,
    /// Every stage, inputs before what needs them and otherwise in the order of cells.
    pub jobs: IndexMap<StageId, Job>,
    /// Where the files of each model were found, by its name; not of those that are pretrained in the run.
    pub models: BTreeMap<String, ModelFolder>,
    /// What people should know before they start: dropped and shortened examples, and the like.
    pub notes: Vec<String>,
    /// How its stages are computed, as far as results depend on it.
    pub numeric: Numeric,
}

/// One task × pair × method × seed.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Index into the grid's tasks.
    pub task: usize,
    /// Index into the grid's pairs.
    pub pair: usize,
    /// Index into the grid's methods.
    pub method: usize,
    /// Seed.
    pub seed: u64,
    /// The task's data.
    pub data: DataRef,
    /// Stage that holds the weak labels.
    pub supervision: StageId,
    /// Stage that holds the ceiling.
    pub ceiling: StageId,
    /// Stage that holds the student.
    pub student: StageId,
    /// Stage that holds the strong model's own answers: the method's self-labels, or what its P(IK) is about; the student where its own head
    /// labels, and where nobody asks. None where P(IK) is about answers that nobody can give.
    pub answers: Option<StageId>,
}

impl Cell {
    /// Identity of the cell, from those of its stages.
    pub fn id(&self) -> String {
        crate::stage::hash(&json!(self.stages()))[..16].to_owned()
    }

    /// The stages whose results it compares: weak labels, ceiling, student.
    pub fn stages(&self) -> [&StageId; 3] {
        [&self.supervision, &self.ceiling, &self.student]
    }
}

/// A model that has been found.
struct FoundModel {
    reference: ModelRef,
    /// Where its files were found; none for a model that is pretrained in the run.
    origin: Option<ModelFolder>,
    tokenizer: Tokenizer,
    /// Hash of the tokenizer's files.
    tokens: String,
    /// Shared by the models with the same tokenizer.
    counts: Arc<TokenCounts>,
    spec: Spec,
    /// What a user should know of how its files are read.
    notes: Vec<String>,
}

impl FoundModel {
    fn new(reference: ModelRef, tokenizer: Tokenizer, spec: Spec) -> Self {
        let tokens = tokenizer.fingerprint();
        Self { reference, origin: None, tokenizer, tokens, counts: Arc::default(), spec, notes: Vec::new() }
    }

    /// Whether it makes the same tokens of a text as another model, and knows as many.
    fn reads_as(&self, other: &Self) -> bool {
        self.tokens == other.tokens && self.spec.vocab == other.spec.vocab
    }
}

impl Counter for FoundModel {
    fn starts(&self, text: &str) -> Option<Vec<usize>> {
        self.tokenizer.starts(text).ok()
    }

    fn count(&self, text: &str) -> Result<usize> {
        let unreadable = |error: Error| {
            error
                .context(format!("model `{}`", self.reference.name))
                .in_file(self.reference.folder.join("tokenizer.json"))
                .or_else_help("is it the model's own tokenizer? It has no token for something in the text, and none for the unknown")
        };
        self.counts.get(text, |text| self.tokenizer.encode(text).map(|ids| ids.len()).map_err(unreadable))
    }
}

impl Plan {
    /// Looks at everything a grid names: data are read, split and cut, models are opened, settings are checked, stages get their
    /// identities. Nothing is trained.
    ///
    /// # Errors
    /// The first thing that would fail later.
    pub fn make(grid: Grid, library: &Library, places: &Places, store: &Store, numeric: Numeric) -> Result<Self> {
        let (cells, jobs) = (Vec::new(), IndexMap::new());
        let mut plan = Self { grid, cells, jobs, models: BTreeMap::new(), notes: Vec::new(), numeric };
        let mut models: BTreeMap<String, FoundModel> = BTreeMap::new();
        let [of_tasks, of_pairs] = plan.grid.places.clone();
        for (pair, place) in plan.grid.pairs.iter().zip(of_pairs) {
            for model in [&pair.weak, &pair.strong] {
                if !models.contains_key(&model.name) {
                    let mut found = find_model(model, library, places, store, &plan.numeric, &mut plan.jobs)
                        .map_err(|error| error.context(format!("model `{}`", model.name)).or_at(&place))?;
                    if let Some(other) = models.values().find(|other| other.reads_as(&found)) {
                        found.counts = other.counts.clone();
                    }
                    if let Some(origin) = found.origin.take() {
                        plan.notes.extend(origin.note.clone().filter(|note| !plan.notes.contains(note)));
                        plan.models.insert(model.name.clone(), origin);
                    }
                    plan.notes.extend(found.notes.iter().map(|note| format!("model `{}`: {note}", model.name)));
                    models.insert(model.name.clone(), found);
                }
            }
        }
        for (task, place) in of_tasks.iter().enumerate() {
            for pair in 0..plan.grid.pairs.len() {
                for seed in plan.grid.seeds.clone() {
                    plan.add_cells(task, pair, seed, &models, library, places, store)
                        .map_err(|error| error.or_at(place))?;
                }
            }
        }
        // Tables go by task, pair, method, seed.
        plan.cells.sort_by_key(|cell| (cell.task, cell.pair, cell.method));
        Ok(plan)
    }

    #[expect(clippy::too_many_arguments, reason = "each is one thing that decides what a cell is, or where it is")]
    fn add_cells(
        &mut self,
        task: usize,
        pair: usize,
        seed: u64,
        models: &BTreeMap<String, FoundModel>,
        library: &Library,
        places: &Places,
        store: &Store,
    ) -> Result<()> {
        let (weak, strong) = (&models[&self.grid.pairs[pair].weak.name], &models[&self.grid.pairs[pair].strong.name]);
        if let Some(method) =
            self.grid.methods.iter().find(|method| method.asks_language_model()).filter(|_| !strong.spec.speaks())
        {
            return Err(Error::new(format!(
                "method `{}` asks `{}` in words, and that is no language model",
                method.name, strong.reference.name
            ))
            .help("set `p_ik.answers = \"classifier\"` and `self_labels.source` to `current-head`, `ema-head` or `pik-stage-head`"));
        }
        let desk = Desk { library, places, store };
        let data = {
            let Grid { data, tasks, .. } = &self.grid;
            desk.data(&tasks[task], &data[task], [weak, strong], seed, &mut self.notes)?
        };
        let mut auxiliary = BTreeMap::new();
        for p_ik in self.grid.methods.iter().filter_map(|method| method.p_ik.as_ref()) {
            let name = p_ik.task_for(self.grid.tasks[task].name());
            let key = (name.to_owned(), p_ik.n_train);
            if let Entry::Vacant(vacant) = auxiliary.entry(key) {
                let settings = self.grid.auxiliary_data(task, p_ik)?;
                let task = &self.grid.auxiliary[name];
                vacant.insert(desk.data(task, &settings, [weak, strong], seed, &mut self.notes)?);
            }
        }
        let grid = &self.grid;
        let (weak_config, strong_config) = (&grid.pairs[pair].weak, &grid.pairs[pair].strong);
        let classes = grid.tasks[task].classes.len();
        let here = |model: &FoundModel, config: &ModelConfig| -> Result<ModelRef> {
            let head = grid.head(config, task)?;
            let place = || format!("head of `{}` on `{}`", config.name, grid.tasks[task].name());
            head.check(classes, &model.tokenizer, &model.spec).map_err(|error| error.context(place()))?;
            Ok(ModelRef { head, ..model.reference.clone() })
        };
        let (weak, strong) = (here(weak, weak_config)?, here(strong, strong_config)?);
        let strong_recipe = grid.recipe(strong_config, task, None)?;
        trains(&strong_recipe, &data, grid.data[task].ceiling_split)?;
        let mut made = Made { numeric: &self.numeric, jobs: Vec::new() };
        let ceiling = made.push(Job::FineTune(Box::new(FineTuneJob {
            model: strong.clone(),
            recipe: strong_recipe.clone(),
            data: data.clone(),
            on: grid.data[task].ceiling_split,
            seed,
            save: false,
        })))?;
        // Methods share supervisors; what a stage is called is found out once.
        let mut supervisions: BTreeMap<String, StageId> = BTreeMap::new();
        for (index, method) in grid.methods.iter().enumerate() {
            let (on_auxiliary, recipe) = match &method.p_ik {
                Some(p_ik) => (
                    ModelRef { head: grid.auxiliary_head(strong_config, task, p_ik)?, ..strong.clone() },
                    grid.auxiliary_recipe(strong_config, task, p_ik)?,
                ),
                None => (strong.clone(), strong_recipe.clone()),
            };
            let knowledge =
                Knowledge { strong: &strong, on_auxiliary: &on_auxiliary, recipe: &recipe, data: &data, seed };
            let evaluated = grid.tasks[task].name();
            let auxiliary =
                method.p_ik.as_ref().map(|p_ik| &auxiliary[&(p_ik.task_for(evaluated).to_owned(), p_ik.n_train)]);
            let learnt = method.p_ik.as_ref().zip(auxiliary);
            let p_ik = learnt.map(|(p_ik, data)| knowledge.p_ik(p_ik, data, &mut made)).transpose()?;
            let self_labels = method.self_labels.as_ref();
            let self_labels = self_labels.map(|own| knowledge.self_labels(own, learnt, &mut made)).transpose()?;
            let answers = match (&self_labels, learnt) {
                (Some(SelfLabels::Answers { stage, .. }), _) => Some(Some(stage.clone())),
                (None, Some((p_ik, data))) => {
                    let can = match p_ik.answers {
                        AnswersBy::LanguageModel => {
                            grid.tasks[task].prompt.as_ref().is_some_and(|p| !p.answers.is_empty())
                        }
                        AnswersBy::Classifier => grid.auxiliary[p_ik.task_for(evaluated)].classes.len() == classes,
                    };
                    let note = format!(
                        "{evaluated}: P(IK) of `{}` is not measured: no `[prompt]` says how the task is asked, or the auxiliary task has other classes",
                        method.name
                    );
                    if !can && !self.notes.contains(&note) {
                        self.notes.push(note);
                    }
                    Some(can.then(|| knowledge.own_answers(p_ik, data, &mut made)).transpose()?)
                }
                _ => None,
            };
            let needs = method.needs();
            let embeddings = needs.embeddings.then(|| knowledge.embeddings(&mut made)).transpose()?;
            let supervision = match supervisions.entry(stage::canonical(&whole(&method.supervisor)?)) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(vacant) => {
                    let job = SuperviseJob {
                        supervisor: copy(&method.supervisor)?,
                        weak: (weak.clone(), grid.recipe(weak_config, task, None)?),
                        strong: (strong.clone(), strong_recipe.clone()),
                        data: data.clone(),
                        seed,
                    };
                    vacant.insert(made.push(Job::Supervise(Box::new(job)))?).clone()
                }
            };
            let recipe = grid.recipe(strong_config, task, Some(method))?;
            trains(&recipe, &data, Split::Transfer)
                .map_err(|error| error.context(format!("method `{}`", method.name)))?;
            let student = made.push(Job::Student(Box::new(StudentJob {
                model: strong.clone(),
                recipe,
                data: data.clone(),
                supervision: supervision.clone(),
                selector: copy(&method.selector)?,
                refiner: copy(&method.refiner)?,
                loss: copy(&method.loss)?,
                self_labels,
                p_ik,
                embeddings,
                truth: needs.truth,
                calibration: needs.calibration,
                seed,
                save: grid.save_students,
            })))?;
            self.cells.push(Cell {
                task,
                pair,
                method: index,
                seed,
                data: data.clone(),
                supervision,
                ceiling: ceiling.clone(),
                answers: answers.unwrap_or_else(|| Some(student.clone())),
                student,
            });
        }
        for (id, job) in made.jobs {
            self.jobs.entry(id).or_insert(job);
        }
        Ok(())
    }

    /// The stages that are not finished. Without students: those of weak models and ceilings alone, and what these need.
    pub fn pending(&self, finished: &IndexMap<StageId, Finished>, students: bool) -> IndexMap<StageId, &Job> {
        let ends = |cell: &Cell| [cell.supervision.clone(), cell.ceiling.clone()];
        let mut wanted: Vec<StageId> =
            if students { self.jobs.keys().cloned().collect() } else { self.cells.iter().flat_map(ends).collect() };
        let mut needed = BTreeSet::new();
        while let Some(id) = wanted.pop() {
            if let Some(job) = self.jobs.get(&id).filter(|_| needed.insert(id)) {
                wanted.extend(job.inputs());
            }
        }
        let open = self.jobs.iter().filter(|(id, _)| needed.contains(*id) && !finished.contains_key(*id));
        open.map(|(id, job)| (id.clone(), job)).collect()
    }

    /// The finished stages of this plan. Damaged ones are put aside and count as not done.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn finished(&self, store: &Store) -> Result<IndexMap<StageId, Finished>> {
        let mut finished = IndexMap::new();
        for id in self.jobs.keys() {
            if let Some(stage) = store.find(id)? {
                finished.insert(id.clone(), stage);
            }
        }
        Ok(finished)
    }
}

fn find_model(
    model: &ModelConfig,
    library: &Library,
    places: &Places,
    store: &Store,
    numeric: &Numeric,
    jobs: &mut IndexMap<StageId, Job>,
) -> Result<FoundModel> {
    let Some(pretrain) = &model.file.pretrain else {
        let found = model_folder(model, places)?;
        let pretrained = Pretrained::open(&found.folder)?;
        let files = found.folder.read_dir().path("read the model's folder", &found.folder)?;
        let files = files.flatten().map(|entry| entry.path());
        let question = question("weights", &json!(found.folder), files);
        let reference = ModelRef {
            name: model.name.clone(),
            fingerprint: match question.as_ref().and_then(|question| store.known(question)) {
                Some(fingerprint) => fingerprint,
                None => {
                    let fingerprint = pretrained.fingerprint()?;
                    question.iter().for_each(|question| store.learn(question, fingerprint));
                    fingerprint.to_owned()
                }
            },
            stage: None,
            head: model.file.head.clone(),
            folder: found.folder.clone(),
        };
        let model = FoundModel::new(reference, pretrained.tokenizer().clone(), pretrained.spec().clone());
        return Ok(FoundModel { origin: Some(found), notes: pretrained.notes()?, ..model });
    };
    let (world, spec, tokenizer) = world_model(pretrain, library)?;
    let recipe: Recipe = pretrain
        .train
        .clone()
        .try_into()
        .map_err(|error: toml::de::Error| Error::new(format!("`pretrain.train`: {}", error.message())))?;
    let documents = world.tokens / world.document.max(1);
    let trains = || Sampler::check(documents, recipe.batch_size, recipe.epochs);
    recipe.validate().and_then(|()| trains()).map_err(|error| error.context("`pretrain.train`"))?;
    let job = Job::Pretrain(Box::new(PretrainJob { world, config: spec.config.clone(), recipe, seed: pretrain.seed }));
    let id = job.id(numeric)?;
    let reference = ModelRef {
        name: model.name.clone(),
        folder: store.root().join(id.as_str()).join("model"),
        fingerprint: id.to_string(),
        stage: Some(id.clone()),
        head: model.file.head.clone(),
    };
    jobs.entry(id).or_insert(job);
    Ok(FoundModel::new(reference, tokenizer, spec))
}

/// The world, the shape and the tokenizer of a model that is pretrained in the run.
fn world_model(pretrain: &Pretrain, library: &Library) -> Result<(World, Spec, Tokenizer)> {
    let mut world = open_world(library, &pretrain.world)?;
    if let Some(tokens) = pretrain.tokens {
        if !(world.document..=world.tokens).contains(&tokens) {
            return Err(Error::new(format!(
                "`pretrain.tokens` must be between {} and {}",
                world.document, world.tokens
            )));
        }
        // The text is written from its beginning, so a shorter world is a part of the longer one.
        world.tokens = tokens;
    }
    let tokenizer = Tokenizer::parse(&world.tokenizer_json(), Path::new("tokenizer.json"))?;
    let Value::Object(mut config) = whole(&pretrain.config).map_err(|error| error.context("`pretrain.config`"))? else {
        return Err(Error::new("`pretrain.config` is not a table"));
    };
    config.insert("vocab_size".to_owned(), world.vocabulary_size().into());
    let spec = Spec::from_config(&config, Path::new("pretrain.config"))?;
    if !spec.speaks() {
        let message = format!("a `{}` is no language model, and pretraining makes one", spec.architecture);
        return Err(Error::new(message).help("choose a decoder, such as `model_type = \"gpt2\"`, in `pretrain.config`"));
    }
    if spec.max_positions < world.document {
        let message = format!(
            "the world's documents have {} tokens, and the model reads {} at most",
            world.document, spec.max_positions
        );
        return Err(
            Error::new(message).help("raise the positions in `pretrain.config`, or lower `document` in the world")
        );
    }
    if spec.parameters() > LARGEST_PRETRAINED {
        let message = format!("`pretrain.config` describes a model of {:.1e} parameters", spec.parameters());
        return Err(Error::new(message).help("what is pretrained in a run fits in memory four times; make it smaller"));
    }
    Ok((world, spec, tokenizer))
}

/// A model's tokenizer and the longest text it reads, in tokens, by the name that grids give it.
///
/// # Errors
/// No such model, or files that are missing or damaged.
pub fn find_tokenizer(name: &str, library: &Library, places: &Places) -> Result<(Tokenizer, usize)> {
    let document = Document::parse("command line", &format!("model = {}", toml::Value::from(name)))?;
    let model = ModelConfig::read(name, library, None, &document.root().need("model")?)?;
    let find = || match &model.file.pretrain {
        None => {
            let pretrained = Pretrained::open(&model_folder(&model, places)?.folder)?;
            Ok((pretrained.tokenizer().clone(), pretrained.spec().max_positions))
        }
        Some(pretrain) => world_model(pretrain, library).map(|(_, spec, tokenizer)| (tokenizer, spec.max_positions)),
    };
    find().map_err(|error: Error| error.context(format!("model `{name}`")))
}

/// A generated world, by its name.
///
/// # Errors
/// No such world, or a file that does not describe one.
pub fn open_world(library: &Library, name: &str) -> Result<World> {
    let document = library.open("worlds", name)?;
    World::parse(document.source_text(), document.file())
}

/// Makes the stages from which a student learns what it knows, and tells the student where they are.
struct Knowledge<'a> {
    strong: &'a ModelRef,
    /// The same model as it is trained on the auxiliary task, and how.
    on_auxiliary: &'a ModelRef,
    recipe: &'a Recipe,
    data: &'a DataRef,
    seed: u64,
}

impl Knowledge<'_> {
    fn p_ik(&self, settings: &Pik, auxiliary: &DataRef, made: &mut Made) -> Result<StudentPik> {
        let answers = self.answers(self.answerer(settings, auxiliary, made)?, auxiliary, made)?;
        let examples = PikExamples {
            answers,
            data: auxiliary.clone(),
            splits: settings.splits.clone(),
            label: settings.label,
            balance: settings.balance,
            input: settings.input,
            seed: self.seed,
        };
        let first = (settings.schedule != PikSchedule::Joint).then(|| {
            let epochs = settings.epochs.unwrap_or(self.recipe.epochs);
            let recipe = Recipe { epochs, ..self.recipe.clone() };
            let job = PikJob { model: self.on_auxiliary.clone(), recipe, examples: examples.clone(), seed: self.seed };
            made.push(Job::Pik(Box::new(job)))
        });
        Ok(match (settings.schedule, first.transpose()?) {
            (PikSchedule::PretrainThenFreeze, Some(p_ik)) => {
                let job = PikScoreJob { p_ik, data: self.data.clone() };
                StudentPik::Frozen { scores: made.push(Job::PikScore(Box::new(job)))? }
            }
            (_, start) => StudentPik::Joint {
                examples,
                lambda: settings.lambda,
                batch_size: settings.batch_size,
                once: settings.epoch_mismatch == Mismatch::Truncate,
                warmup_fraction: settings.warmup_fraction,
                start,
            },
        })
    }

    /// Who answers for the strong model; a classifier is first fine-tuned on the auxiliary task.
    fn answerer(&self, settings: &Pik, auxiliary: &DataRef, made: &mut Made) -> Result<Answerer> {
        Ok(match settings.answers {
            AnswersBy::LanguageModel => Answerer::LanguageModel {
                model: self.strong.clone(),
                shots: settings.shots,
                samples: settings.samples,
                temperature: settings.temperature,
            },
            AnswersBy::Classifier => Answerer::Classifier { stage: self.auxiliary_head(auxiliary, made)? },
        })
    }

    /// What P(IK) is about in a method without self-labels: the likeliest answers to the evaluated task of whoever answers the auxiliary one.
    fn own_answers(&self, settings: &Pik, auxiliary: &DataRef, made: &mut Made) -> Result<StageId> {
        let answerer = match settings.answers {
            AnswersBy::LanguageModel => self.likeliest(settings.shots),
            AnswersBy::Classifier => self.answerer(settings, auxiliary, made)?,
        };
        self.answers(answerer, self.data, made)
    }

    /// The pretrained strong model, which gives its likeliest answer.
    fn likeliest(&self, shots: usize) -> Answerer {
        Answerer::LanguageModel { model: self.strong.clone(), shots, samples: 0, temperature: 1.0 }
    }

    fn auxiliary_head(&self, auxiliary: &DataRef, made: &mut Made) -> Result<StageId> {
        let job = FineTuneJob {
            model: self.on_auxiliary.clone(),
            recipe: self.recipe.clone(),
            data: auxiliary.clone(),
            on: Split::Supervise,
            seed: self.seed,
            save: true,
        };
        made.push(Job::FineTune(Box::new(job)))
    }

    fn answers(&self, answerer: Answerer, data: &DataRef, made: &mut Made) -> Result<StageId> {
        made.push(Job::Answer(Box::new(AnswerJob { answerer, data: data.clone(), seed: self.seed })))
    }

    fn self_labels(
        &self,
        settings: &config::SelfLabels,
        p_ik: Option<(&Pik, &DataRef)>,
        made: &mut Made,
    ) -> Result<SelfLabels> {
        let hard = settings.kind == Hardness::Hard;
        let answerer = match (settings.source, p_ik) {
            (SelfSource::CurrentHead, _) => return Ok(SelfLabels::CurrentHead { hard, decay: 0.0 }),
            (SelfSource::EmaHead, _) => return Ok(SelfLabels::CurrentHead { hard, decay: settings.decay }),
            (SelfSource::PikStageHead, Some((_, auxiliary))) => {
                Answerer::Classifier { stage: self.auxiliary_head(auxiliary, made)? }
            }
            (SelfSource::PrecomputedGeneration | SelfSource::PikStageHead, _) => self.likeliest(settings.shots),
        };
        Ok(SelfLabels::Answers { stage: self.answers(answerer, self.data, made)?, hard })
    }

    fn embeddings(&self, made: &mut Made) -> Result<StageId> {
        made.push(Job::Embed(Box::new(EmbedJob { model: self.strong.clone(), data: self.data.clone() })))
    }
}

/// The stages of some cells, as they come up.
struct Made<'a> {
    numeric: &'a Numeric,
    jobs: Vec<(StageId, Job)>,
}

impl Made<'_> {
    fn push(&mut self, job: Job) -> Result<StageId> {
        let id = job.id(self.numeric)?;
        self.jobs.push((id.clone(), job));
        Ok(id)
    }
}

/// Whether a split is large enough for one step of a recipe.
fn trains(recipe: &Recipe, data: &DataRef, on: Split) -> Result<()> {
    let rows = data.examples.get(on.name()).copied().unwrap_or(0);
    Sampler::check(rows, recipe.batch_size, recipe.epochs)
        .map_err(|error| error.context(format!("task `{}`, `{}`", data.task, on.name())))
}

/// What the memory of looks is asked: `kind` of answer, everything that it depends on beside files, and the files. `None` where the files do
/// not tell whether they have been touched.
fn question(kind: &str, about: &Value, files: impl IntoIterator<Item = impl AsRef<Path>>) -> Option<String> {
    // Another build may make something else of the same files.
    static PROGRAM: OnceLock<Option<String>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| stage::stamp_of([std::env::current_exe().ok()?])).as_ref()?;
    let files = stage::stamp_of(files)?;
    Some(format!("{kind}-{}", &stage::hash(&json!([about, files, program]))[..32]))
}

/// A line that shows how far texts are cut and tokenized, if somebody is there to see it and it takes long enough.
fn progress(task: &Task, seed: u64, data: &TaskData, tokenizers: usize) -> Option<ProgressBar> {
    /// About a second's worth.
    const WORTH_WATCHING: usize = 2 << 20;
    let examples = || data.parts().into_iter().flat_map(|(_, part)| part);
    let bytes: usize = examples().map(|example| example.text.len()).sum();
    let title = format!("{}  seed {seed}: texts to tokens", task.name());
    let bar = (bytes > WORTH_WATCHING).then(|| learner::bar(&title)).flatten()?;
    // Once to cut, and once for each tokenizer to keep.
    bar.set_length((examples().count() * (1 + tokenizers)) as u64);
    Some(bar.with_finish(ProgressFinish::AndClear))
}

/// Where a plan looks things up.
struct Desk<'a> {
    library: &'a Library,
    places: &'a Places,
    store: &'a Store,
}

impl Desk<'_> {
    /// What decides which data [`read`](Self::read) makes, so that nothing need be read, generated or cut again while it stands.
    fn question(&self, task: &Task, options: &DataOptions, cut: &Value, models: [&FoundModel; 2]) -> Option<String> {
        let files = self.places.sources.files(task).ok()?;
        let world = task.source.world.as_ref().map(|table| {
            let name = table.get("name").and_then(Value::as_str).unwrap_or_default();
            self.library.open("worlds", name).map(|document| document.source_text().to_owned())
        });
        let world = world.transpose().ok()?;
        question("look", &json!([task, world, options, cut, models.map(|model| &model.tokens)]), files)
    }

    /// Reads, splits and cuts the data of a task for the two models of a pair, as a stage.
    fn read(
        &self,
        task: &Task,
        options: &DataOptions,
        over_long: OverLong,
        max_tokens: usize,
        models: [&FoundModel; 2],
    ) -> Result<Finished> {
        let Self { library, places, store } = self;
        let mut data = match &task.source.world {
            None => task.read(&places.sources, options)?,
            Some(table) => {
                let name = table.get("name").and_then(Value::as_str).unwrap_or_default();
                task.read_from(&*open_world(library, name)?.source(table, options.seed)?, options)?
            }
        };
        let mut parameters = json!({
            "data": data.fingerprint(),
            "max_tokens": max_tokens,
            "over_long": over_long,
            "tokenizers": models.iter().map(|model| &model.tokens).collect::<Vec<_>>(),
        });
        // Once such examples were dropped; identities of other data stay what they were.
        if over_long == OverLong::Truncate && cuts_words(&data) {
            parameters["last_word"] = "cut".into();
        }
        match store.find_or_begin(&StageId::new("data", 1, &parameters))? {
            Begin::Finished(finished) => Ok(*finished),
            Begin::Ours(workspace) => {
                let mut counters: Vec<CountTokens> = models.map(|model| model as CountTokens).into();
                if models[0].reads_as(models[1]) {
                    counters.truncate(1);
                }
                let bar = progress(task, options.seed, &data, counters.len());
                let tick = || bar.iter().for_each(|bar| bar.inc(1));
                fit(&mut data, &counters, max_tokens, over_long, &tick)?;
                data.write(workspace.folder())?;
                for model in &models[..counters.len()] {
                    stage::tokens::write(&data, &model.tokenizer, workspace.folder(), &tick)?;
                }
                let summary = json!({ "fingerprint": data.fingerprint(), "counts": data.counts });
                workspace.finish(parameters, summary, "cpu")
            }
        }
    }

    /// Reads, splits and cuts the data of a task for the two models of a pair; the cut data are a stage of their own.
    fn data(
        &self,
        task: &Task,
        settings: &Data,
        models: [&FoundModel; 2],
        seed: u64,
        notes: &mut Vec<String>,
    ) -> Result<DataRef> {
        let store = self.store;
        let max_tokens = models.iter().map(|model| model.spec.max_positions).fold(settings.max_tokens, usize::min);
        let options = DataOptions {
            order: settings.order,
            seed,
            n_train: settings.n_train,
            n_validation: settings.n_validation,
            n_test: settings.n_test,
            balance: settings.balance,
        };
        let question = self.question(task, &options, &json!([max_tokens, settings.over_long]), models);
        let looked = question.as_ref().and_then(|question| store.known(question));
        let known = looked.and_then(|id| id.parse().ok()).map(|id| store.find(&id)).transpose()?.flatten();
        let finished = match known {
            Some(finished) => finished,
            None => {
                let finished = self.read(task, &options, settings.over_long, max_tokens, models)?;
                question.iter().for_each(|question| store.learn(question, finished.manifest.id.as_str()));
                finished
            }
        };
        let summary = &finished.manifest.summary;
        for (part, counts) in summary["counts"]["fit"]["parts"].as_object().into_iter().flatten() {
            for (what, words) in [("shortened", "shortened to"), ("dropped", "dropped: longer than")] {
                if let Some(n) = counts[what].as_u64().filter(|n| *n > 0) {
                    notes.push(format!(
                        "{} (seed {seed}, {part}): {n} examples {words} {max_tokens} tokens",
                        task.name()
                    ));
                }
            }
        }
        if settings.n_validation > 0 {
            let held_out = &summary["counts"]["labels"]["validation"];
            if let Some(class) = (0..task.classes.len()).find(|class| held_out[*class].as_u64().is_none_or(|n| n == 0))
            {
                return Err(Error::new(format!(
                    "task `{}` (seed {seed}): none of the examples that `n_validation = {}` holds out is of the class `{}`",
                    task.name(),
                    settings.n_validation,
                    task.classes[class]
                ))
                .help("raise `n_validation` in `[data]`"));
            }
        }
        for note in summary["counts"]["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let note = format!("{}: {note}", task.name());
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        let fingerprint = summary["fingerprint"].as_str().map(str::to_owned);
        let fingerprint = fingerprint.ok_or_else(|| {
            Error::new("the record of this data set does not say what it holds")
                .in_file(finished.folder.join("manifest.json"))
                .help("remove the folder, and the data are read again")
        })?;
        let sum =
            |labels: &Value| labels.as_array().into_iter().flatten().filter_map(Value::as_u64).sum::<u64>() as usize;
        let labels = summary["counts"]["labels"].as_object().into_iter().flatten();
        let examples = labels.map(|(part, labels)| (part.clone(), sum(labels))).collect();
        Ok(DataRef { task: task.name().to_owned(), folder: finished.folder, fingerprint, max_tokens, examples })
    }
}
