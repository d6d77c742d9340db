//! From a grid to stages: everything is looked at before anything is trained.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::PathBuf,
};

use indexmap::IndexMap;
use serde_json::json;

use super::{
    asked::{Knowledge, Labelling, Made, trains},
    config::{self, AGREES, AnswersBy, Grid, ModelConfig},
    desk::Desk,
    found::{FoundModel, find_model},
    library::Library,
    models::ModelFolder,
};
use crate::{
    Error, Result,
    stage::{
        self, Bench, DataRef, Finished, Folders, Job, ModelRef, Numeric, Place, StageId, Store, copy,
        kinds::{
            fine_tune::FineTune,
            student::{Phase, SelfLabels, Student},
        },
    },
    strategy::{Form, Role, Split, whole},
    task::Sources,
};

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
    /// The same by their weights, for the stages.
    pub folders: Folders,
    /// Folder of the store that holds the stages.
    pub store: PathBuf,
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

impl Plan {
    /// Looks at everything a grid names: data are read, split and cut, models are opened, settings are checked, stages get their
    /// identities. Nothing is trained.
    ///
    /// # Errors
    /// The first thing that would fail later.
    pub fn make(grid: Grid, library: &Library, places: &Places, store: &Store, numeric: Numeric) -> Result<Self> {
        let (cells, jobs) = (Vec::new(), IndexMap::new());
        let (models, folders) = (BTreeMap::new(), Folders::default());
        let store_folder = store.root().to_owned();
        let mut plan = Self { grid, cells, jobs, models, folders, store: store_folder, notes: Vec::new(), numeric };
        let mut models: BTreeMap<String, FoundModel> = BTreeMap::new();
        let [of_tasks, of_pairs] = plan.grid.places.clone();
        let mut wanted = Vec::new();
        for (pair, place) in plan.grid.pairs.iter().zip(of_pairs) {
            wanted.extend([(&pair.weak, place.clone()), (&pair.strong, place)]);
        }
        wanted.extend(plan.grid.further.iter().map(|(model, place)| (model, place.clone())));
        for (model, place) in wanted {
            if !models.contains_key(&model.name) {
                let mut found = find_model(model, library, places, store, &plan.numeric, &mut plan.jobs)
                    .map_err(|error| error.context(format!("model `{}`", model.name)).or_at(&place))?;
                if let Some(other) = models.values().find(|other| other.reads_as(&found)) {
                    found.counts = other.counts.clone();
                }
                if let Some(origin) = found.origin.take() {
                    plan.notes.extend(origin.note.clone().filter(|note| !plan.notes.contains(note)));
                    plan.folders.insert(&found.reference.weights, &origin.folder, model.file.adapter.as_deref());
                    plan.models.insert(model.name.clone(), origin);
                }
                plan.notes.extend(found.notes.iter().map(|note| format!("model `{}`: {note}", model.name)));
                models.insert(model.name.clone(), found);
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
        for method in &self.grid.methods {
            for role in method.prompted() {
                let model = match &role {
                    Role::Weak => weak,
                    Role::Strong => strong,
                    Role::Named(name) => &models[name],
                };
                if !model.spec.speaks() {
                    return Err(Error::new(format!(
                        "method `{}` asks `{}` in words, and that is no language model",
                        method.name, model.reference.name
                    ))
                    .help("let a decoder answer, or use another supervisor than `prompted`"));
                }
            }
        }
        let desk = Desk { library, places, store };
        let named: Vec<&ModelConfig> = self.grid.named();
        // Texts are cut so that whoever is asked can read them.
        let mut readers = vec![weak, strong];
        readers.extend(named.iter().map(|model| &models[&model.name]));
        let data = {
            let Grid { data, tasks, .. } = &self.grid;
            desk.data(&tasks[task], &data[task], &readers, seed, &mut self.notes)?
        };
        let mut auxiliary = BTreeMap::new();
        for p_ik in self.grid.methods.iter().filter_map(|method| method.p_ik.as_ref()) {
            let name = p_ik.task_for(self.grid.tasks[task].name());
            let key = (name.to_owned(), p_ik.n_train);
            if let Entry::Vacant(vacant) = auxiliary.entry(key) {
                let settings = self.grid.auxiliary_data(task, p_ik)?;
                let task = &self.grid.auxiliary[name];
                vacant.insert(desk.data(task, &settings, &[weak, strong], seed, &mut self.notes)?);
            }
        }
        let grid = &self.grid;
        let (weak_config, strong_config) = (&grid.pairs[pair].weak, &grid.pairs[pair].strong);
        let classes = grid.tasks[task].classes.len();
        if let Form::Candidates(_) = data.form {
            grid.methods.iter().try_for_each(|method| grid.check_form(method, task, data.form, data.fewer))?;
        }
        let here = |model: &FoundModel, config: &ModelConfig| -> Result<ModelRef> {
            let outputs = match data.form {
                Form::Classes(classes) => classes,
                Form::Candidates(_) => 1,
                Form::Words => {
                    let writing = Some(model.writing(&grid.words)?);
                    return Ok(ModelRef { writing, ..model.reference.clone() });
                }
            };
            let head = grid.head(config, task)?;
            if head.freeze_backbone && model.reference.lora.is_some() {
                let message = format!("`freeze_backbone` leaves nothing of `{}` for `[lora]` to train", config.name);
                return Err(Error::new(message).help("leave one of the two out"));
            }
            let place = || format!("head of `{}` on `{}`", config.name, grid.tasks[task].name());
            head.check(outputs, &model.tokenizer, &model.spec).map_err(|error| error.context(place()))?;
            Ok(ModelRef { head, ..model.reference.clone() })
        };
        let (weak, strong) = (here(weak, weak_config)?, here(strong, strong_config)?);
        let strong_recipe = grid.recipe(strong_config, task, None)?;
        let weak_recipe = grid.recipe(weak_config, task, None)?;
        trains(&strong_recipe, &data, grid.data[task].ceiling_split)?;
        let mut made = Made { numeric: &self.numeric, jobs: Vec::new() };
        let ceiling = made.push(FineTune {
            model: strong.clone(),
            recipe: strong_recipe.clone(),
            data: data.clone(),
            on: grid.data[task].ceiling_split,
            seed,
            save: false,
            copy: 0,
            bagged: false,
        })?;
        // Methods share supervisors; what a stage is called is found out once.
        let mut supervisions: BTreeMap<String, StageId> = BTreeMap::new();
        let named = named.into_iter().map(|config| {
            let used = (here(&models[&config.name], config)?, grid.recipe(config, task, None)?);
            Ok((config.name.clone(), used))
        });
        let labelling = Labelling {
            named: named.collect::<Result<_>>()?,
            weak: (weak, weak_recipe),
            strong: (strong.clone(), strong_recipe.clone()),
            task: &grid.tasks[task],
            data: &data,
            seed,
            desk: &desk,
        };
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
                    vacant.insert(labelling.supervise(copy(&method.supervisor)?, &mut made)?).clone()
                }
            };
            let columns = match &method.agrees {
                None => BTreeMap::new(),
                Some(agrees) => {
                    let recipe = grid.judge_recipe(strong_config, task, agrees)?;
                    let judge = knowledge.judge(agrees, recipe, &strong_recipe, &supervision, &mut made)?;
                    BTreeMap::from([(AGREES.to_owned(), judge)])
                }
            };
            let phase = |phase: &config::Phase| {
                let recipe = grid.recipe(strong_config, task, Some(phase))?;
                trains(&recipe, &data, Split::Transfer)
                    .map_err(|error| error.context(format!("method `{}`", method.name)))?;
                let (selector, refiner) = (copy(&phase.selector)?, copy(&phase.refiner)?);
                Ok(Phase { recipe, selector, refiner, loss: copy(&phase.loss)? })
            };
            let student = made.push(Student {
                model: strong.clone(),
                phases: method.phases.iter().map(phase).collect::<Result<_>>()?,
                data: data.clone(),
                supervision: supervision.clone(),
                self_labels,
                p_ik,
                embeddings,
                columns,
                truth: needs.truth,
                calibration: needs.calibration,
                seed,
                save: grid.save_students,
            })?;
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

    /// Where its stages can be done in this process.
    pub fn bench<'a>(&'a self, store: &'a Store, place: Place) -> Bench<'a> {
        Bench::new(store, place, &self.folders)
    }

    /// The stages that are not finished. Without students: those of weak models and ceilings alone, and what these need.
    pub fn pending(&self, finished: &IndexMap<StageId, Finished>, students: bool) -> IndexMap<StageId, &Job> {
        let ends = |cell: &Cell| [cell.supervision.clone(), cell.ceiling.clone()];
        let mut wanted: Vec<StageId> =
            if students { self.jobs.keys().cloned().collect() } else { self.cells.iter().flat_map(ends).collect() };
        let mut needed = BTreeSet::new();
        while let Some(id) = wanted.pop() {
            if let Some(job) = self.jobs.get(&id).filter(|_| needed.insert(id)) {
                wanted.extend(job.reads.iter().cloned());
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
