//! From a grid to stages: everything is looked at before anything is trained.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    config::{Grid, Method, ModelConfig},
    library::Library,
};
use crate::{
    Error, Result,
    error::IoContext,
    model::{Pretrained, Tokenizer},
    stage::{
        Begin, DataRef, FineTuneJob, Finished, Job, ModelRef, PretrainJob, StageId, Store, StudentJob, SuperviseJob,
        hash_file,
    },
    strategy::Split,
    task::{DataOptions, Hub, Sources, Task, TaskData, fit, world::World},
};

/// Where inputs are found.
#[derive(Debug)]
pub struct Places {
    /// Folders of data sets, and behind them the hub.
    pub sources: Sources,
    /// Folders of models, looked in before the hub.
    pub models: Vec<PathBuf>,
}

/// A grid, ready to run: its cells, and the stages that make them.
#[derive(Debug)]
pub struct Plan {
    /// The grid.
    pub grid: Grid,
    /// Every task with every pair, method and seed, in the order of tables.
    pub cells: Vec<Cell>,
    /// Every stage, by identity.
    pub jobs: BTreeMap<StageId, Job>,
    /// What people should know before they start: dropped and shortened examples, and the like.
    pub notes: Vec<String>,
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
}

impl Cell {
    /// Identity of the cell, from those of its stages.
    pub fn id(&self) -> String {
        let stages = json!([self.supervision, self.ceiling, self.student]);
        crate::stage::hash(&stages)[..16].to_owned()
    }
}

/// A model that has been found.
struct FoundModel {
    reference: ModelRef,
    tokenizer: Tokenizer,
    /// Longest text it can read, in tokens.
    limit: usize,
}

impl Plan {
    /// Looks at everything a grid names: data are read, split and cut, models are opened, settings are checked, stages get their
    /// identities. Nothing is trained.
    ///
    /// # Errors
    /// The first thing that would fail later.
    pub fn make(grid: Grid, library: &Library, places: &Places, store: &Store) -> Result<Self> {
        let mut plan = Self { grid, cells: Vec::new(), jobs: BTreeMap::new(), notes: Vec::new() };
        let mut models = BTreeMap::new();
        for pair in &plan.grid.pairs {
            for model in [&pair.weak, &pair.strong] {
                if !models.contains_key(&model.name) {
                    let found = find_model(&plan.grid, model, library, places, store, &mut plan.jobs)
                        .map_err(|error| error.context(format!("model `{}`", model.name)))?;
                    models.insert(model.name.clone(), found);
                }
            }
        }
        for task in 0..plan.grid.tasks.len() {
            for pair in 0..plan.grid.pairs.len() {
                for seed in plan.grid.seeds.clone() {
                    plan.add_cells(task, pair, seed, &models, library, places, store)?;
                }
            }
        }
        // Tables go by task, pair, method, seed.
        plan.cells.sort_by_key(|cell| (cell.task, cell.pair, cell.method));
        Ok(plan)
    }

    #[allow(clippy::too_many_arguments)]
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
        let grid = &self.grid;
        let (weak_config, strong_config) = (&grid.pairs[pair].weak, &grid.pairs[pair].strong);
        let (weak, strong) = (&models[&weak_config.name], &models[&strong_config.name]);
        let data = find_data(grid, &grid.tasks[task], [weak, strong], seed, library, places, store, &mut self.notes)
            .map_err(|error| error.context(format!("task `{}`", grid.tasks[task].name())))?;
        let strong_recipe = grid.recipe(strong_config, None)?;
        let ceiling = Job::FineTune(Box::new(FineTuneJob {
            model: strong.reference.clone(),
            recipe: strong_recipe.clone(),
            data: data.clone(),
            on: grid.data.ceiling_split,
            seed,
        }));
        let ceiling_id = ceiling.id();
        let mut made = vec![ceiling];
        for (index, method) in grid.methods.iter().enumerate() {
            let supervise = Job::Supervise(Box::new(SuperviseJob {
                supervisor: copy(&method.supervisor)?,
                weak: (weak.reference.clone(), grid.recipe(weak_config, None)?),
                strong: (strong.reference.clone(), strong_recipe.clone()),
                data: data.clone(),
                seed,
            }));
            let supervision = supervise.id();
            let student = Job::Student(Box::new(StudentJob {
                model: strong.reference.clone(),
                recipe: grid.recipe(strong_config, Some(method))?,
                data: data.clone(),
                supervision: supervision.clone(),
                selector: copy(&method.selector)?,
                refiner: copy(&method.refiner)?,
                loss: copy(&method.loss)?,
                seed,
                save: grid.save_students,
            }));
            self.cells.push(Cell {
                task,
                pair,
                method: index,
                seed,
                data: data.clone(),
                supervision,
                ceiling: ceiling_id.clone(),
                student: student.id(),
            });
            made.extend([supervise, student]);
        }
        for job in made {
            self.jobs.entry(job.id()).or_insert(job);
        }
        Ok(())
    }

    /// The finished stages of this plan. Damaged ones are put aside and count as not done.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn finished(&self, store: &Store) -> Result<BTreeMap<StageId, Finished>> {
        let mut finished = BTreeMap::new();
        for id in self.jobs.keys() {
            if let Some(stage) = store.find(id)? {
                finished.insert(id.clone(), stage);
            }
        }
        Ok(finished)
    }
}

fn find_model(
    grid: &Grid,
    model: &ModelConfig,
    library: &Library,
    places: &Places,
    store: &Store,
    jobs: &mut BTreeMap<StageId, Job>,
) -> Result<FoundModel> {
    let _ = grid;
    if let Some(pretrain) = &model.file.pretrain {
        let document = library.open("worlds", &pretrain.world)?;
        let world = World::parse(&document)?;
        let tokenizer = world.tokenizer()?;
        let mut config = serde_json::to_value(&pretrain.config)
            .map_err(|error| Error::new(format!("`pretrain.config`: {error}")))?;
        config["vocab_size"] = tokenizer.vocabulary_size().into();
        let limit = crate::model::spec_of(&config)?.max_positions;
        let recipe = pretrain
            .train
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| Error::new(format!("`pretrain.train`: {}", error.message())))?;
        let job = Job::Pretrain(Box::new(PretrainJob { world, config, recipe, seed: pretrain.seed }));
        let id = job.id();
        let reference = ModelRef {
            name: model.name.clone(),
            folder: store.root().join(id.as_str()).join("model"),
            fingerprint: id.to_string(),
            stage: Some(id.clone()),
            head: model.file.head.clone(),
        };
        jobs.entry(id).or_insert(job);
        return Ok(FoundModel { reference, tokenizer, limit });
    }
    let folder = model_folder(model, places)?;
    let pretrained = Pretrained::open(&folder)?;
    let reference = ModelRef {
        name: model.name.clone(),
        fingerprint: pretrained.fingerprint().to_owned(),
        stage: None,
        head: model.file.head.clone(),
        folder,
    };
    Ok(FoundModel { reference, limit: pretrained.spec().max_positions, tokenizer: pretrained.tokenizer().clone() })
}

/// Where a model's files are: its own `path`, a folder given with `--models`, or the hub.
fn model_folder(model: &ModelConfig, places: &Places) -> Result<PathBuf> {
    if let Some(path) = &model.file.path {
        let path = model.folder.join(path);
        if path.join("config.json").is_file() {
            return Ok(path);
        }
        return Err(Error::new("there is no `config.json` in this model's `path`").in_file(path));
    }
    let hub = model.file.hub.as_deref().unwrap_or(&model.name);
    let short = hub.rsplit('/').next().unwrap_or(hub);
    for root in &places.models {
        for name in [hub, short, &model.name] {
            let folder = root.join(name);
            if folder.join("config.json").is_file() {
                return Ok(folder);
            }
        }
    }
    places.sources.model(hub, model.file.revision.as_deref())
}

#[allow(clippy::too_many_arguments)]
fn find_data(
    grid: &Grid,
    task: &Task,
    models: [&FoundModel; 2],
    seed: u64,
    library: &Library,
    places: &Places,
    store: &Store,
    notes: &mut Vec<String>,
) -> Result<DataRef> {
    let max_tokens = models.iter().map(|model| model.limit).fold(grid.data.max_tokens, usize::min);
    let options = DataOptions { seed, order: grid.data.order, n_train: grid.data.n_train, n_test: grid.data.n_test };
    let origin = task.origin(&places.sources, library)?;
    let parameters = json!({
        "task": task,
        "origin": origin.fingerprint(),
        "options": options,
        "max_tokens": max_tokens,
        "over_long": grid.data.over_long,
        "tokenizers": models.iter().map(|model| model.tokenizer.fingerprint()).collect::<Vec<_>>(),
    });
    let id = StageId::new("data", 1, &parameters);
    let finished = match store.begin(&id)? {
        Begin::Finished(finished) => *finished,
        Begin::Ours(workspace) => {
            let mut data = task.read(&origin, &options)?;
            let counters = models.map(|model| |text: &str| model.tokenizer.encode(text).map(|ids| ids.len()));
            let cut = fit(&mut data, &counters, max_tokens, grid.data.over_long)?;
            data.write(workspace.folder())?;
            let summary = json!({ "fingerprint": data.fingerprint(), "counts": data.counts, "cut": cut });
            workspace.finish(parameters, summary, "cpu")?
        }
    };
    let fingerprint = finished.manifest.summary["fingerprint"].as_str().unwrap_or_default().to_owned();
    for note in finished.manifest.summary["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        notes.push(format!("{}, seed {seed}: {note}", task.name()));
    }
    Ok(DataRef { folder: finished.folder, fingerprint, max_tokens })
}
