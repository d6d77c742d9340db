//! From a grid to stages: everything is looked at before anything is trained.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use indexmap::IndexMap;
use serde_json::json;

use super::{
    asked::Made,
    cells,
    config::Grid,
    desk::Desk,
    fitting::Fitting,
    found::{FoundModel, find_model},
    library::Library,
    models::ModelFolder,
};
use crate::{
    Error, Result,
    document::did_you_mean,
    model::Spec,
    stage::{Bench, DataRef, Finished, Folders, Job, Numeric, Place, StageId, Store},
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
    /// How its stages are computed, as far as results depend on it, but for [the rows at once](Job::micro_batch) where these are chosen stage by
    /// stage.
    pub numeric: Numeric,
    /// What models look like, by their weights.
    pub(super) specs: BTreeMap<String, Spec>,
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
    /// Name of the suite that the student is trained on, if it is not trained on the task alone.
    pub suite: Option<String>,
    /// Stage that holds the weak labels.
    pub supervision: StageId,
    /// Stage that holds the ceiling.
    pub ceiling: StageId,
    /// Stage that holds the student.
    pub student: StageId,
    /// Stage that holds the strong model's own answers: the method's self-labels, or what its columns are about; the student where its own head
    /// labels, and where nobody asks. None where a column is about answers that nobody can give.
    pub answers: Option<StageId>,
    /// Stage that holds the answers with which the method compares the weak labels, where it has no [answers](Self::answers) of another's.
    pub compared: Option<StageId>,
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
        Self::fitted(grid, library, places, store, numeric, None)
    }

    /// The same with as many examples at a time as fit into memory, stage by stage.
    ///
    /// # Errors
    /// As [`make`](Self::make).
    pub fn fitted(
        grid: Grid,
        library: &Library,
        places: &Places,
        store: &Store,
        numeric: Numeric,
        fitting: Option<&Fitting>,
    ) -> Result<Self> {
        let mut made =
            Made { numeric: &numeric, fitting, specs: BTreeMap::new(), jobs: IndexMap::new(), voters: BTreeMap::new() };
        let (mut origins, mut folders, mut notes) = (BTreeMap::new(), Folders::default(), Vec::new());
        let mut models: BTreeMap<String, FoundModel> = BTreeMap::new();
        let [_, of_pairs] = &grid.places;
        let mut wanted = Vec::new();
        for (pair, place) in grid.pairs.iter().zip(of_pairs) {
            wanted.extend([(&pair.weak, place), (&pair.strong, place)]);
        }
        wanted.extend(grid.further.iter().map(|(model, place)| (model, place)));
        for (model, place) in wanted {
            if !models.contains_key(&model.name) {
                let mut found = find_model(model, library, places, store, &mut made)
                    .map_err(|error| error.context(format!("model `{}`", model.name)).or_at(place))?;
                if let Some(other) = models.values().find(|other| other.reads_as(&found)) {
                    found.counts = other.counts.clone();
                }
                if let Some(origin) = found.origin.take() {
                    notes.extend(origin.note.clone().filter(|note| !notes.contains(note)));
                    folders.insert(&found.reference.weights, &origin.folder, model.file.adapter.as_deref());
                    origins.insert(model.name.clone(), origin);
                }
                notes.extend(found.notes.iter().map(|note| format!("model `{}`: {note}", model.name)));
                made.specs.insert(found.reference.weights.clone(), found.spec.clone());
                models.insert(model.name.clone(), found);
            }
        }
        let desk = Desk::new(library, places, store);
        let cells = cells::make(&grid, &models, desk, &mut made, &mut notes)?;
        let Made { jobs, specs, .. } = made;
        let store = store.root().to_owned();
        Ok(Self { grid, cells, jobs, models: origins, folders, store, notes, numeric, specs })
    }

    /// Where its stages can be done in this process.
    pub fn bench<'a>(&'a self, store: &'a Store, place: Place) -> Bench<'a> {
        Bench::new(store, place, &self.folders)
    }

    /// The stages that are not finished. Without students: those of weak models and ceilings alone, and what these need.
    pub fn pending(&self, finished: &IndexMap<StageId, Finished>, students: bool) -> IndexMap<StageId, &Job> {
        let ends = |cell: &Cell| [cell.supervision.clone(), cell.ceiling.clone()];
        let wanted: Vec<StageId> =
            if students { self.jobs.keys().cloned().collect() } else { self.cells.iter().flat_map(ends).collect() };
        let needed = self.with_inputs(wanted);
        let open = self.jobs.iter().filter(|(id, _)| needed.contains(*id) && !finished.contains_key(*id));
        open.map(|(id, job)| (id.clone(), job)).collect()
    }

    /// Stages, and all that they are made from but data.
    fn with_inputs(&self, mut wanted: Vec<StageId>) -> BTreeSet<StageId> {
        let mut needed = BTreeSet::new();
        while let Some(id) = wanted.pop() {
            if let Some(job) = self.jobs.get(&id)
                && needed.insert(id)
            {
                wanted.extend(job.reads.iter().cloned());
            }
        }
        needed
    }

    /// The stages of all cells that one of some stages is needed for.
    pub fn with_cells_of(&self, is_one: impl Fn(&StageId) -> bool) -> BTreeSet<StageId> {
        let of_cell = |cell: &Cell| self.with_inputs(cell.stages().map(StageId::clone).to_vec());
        self.cells.iter().map(of_cell).filter(|stages| stages.iter().any(&is_one)).flatten().collect()
    }

    /// The stages that the students of a method, or all results of a task, are made from and nothing else is: models that are pretrained in
    /// the run are not among them.
    ///
    /// # Errors
    /// There is no such method or task.
    pub fn made_for(&self, name: &str) -> Result<BTreeSet<StageId>> {
        let method = self.grid.methods.iter().position(|method| method.name == name);
        let task = self.grid.tasks.iter().position(|task| task.name() == name);
        if method.is_none() && task.is_none() {
            let methods = self.grid.methods.iter().map(|method| method.name.as_str());
            let names = methods.chain(self.grid.tasks.iter().map(|task| task.name())).chain(["failed"]);
            return Err(
                Error::new(format!("`{name}` is no method and no task of this grid")).help(did_you_mean(name, names))
            );
        }
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for cell in &self.cells {
            let is_ours = task.is_some_and(|task| cell.task == task);
            let student = is_ours || method.is_some_and(|method| cell.method == method);
            if is_ours { &mut ours } else { &mut others }.extend([cell.supervision.clone(), cell.ceiling.clone()]);
            if student { &mut ours } else { &mut others }.push(cell.student.clone());
        }
        let models = self.jobs.values().filter_map(|job| StageId::recognise(&job.stage.model()?.weights));
        let others: BTreeSet<StageId> = self.with_inputs(others).into_iter().chain(models).collect();
        Ok(self.with_inputs(ours).into_iter().filter(|id| !others.contains(id)).collect())
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
