//! What a folder of results says of its grid: cells, their stages, and how far these are. A running grid is looked at by this alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    failures::{Failures, Record},
    plan::Plan,
    progress::Post,
    results::RUNNING,
};
use crate::{
    Error, Result,
    error::IoContext,
    locks::Lock,
    stage::{Folders, GRID, Job, Numeric, Stage, StageId, Store},
};

/// The file of stages, beside `grid.json`.
pub const STAGES: &str = "stages.json";

/// One cell, as `grid.json` has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CellRecord {
    /// Its identity, as in `results.csv`.
    pub cell: String,
    /// The suite that its student is trained on.
    #[serde(default)]
    pub suite: Option<String>,
    /// Name of its task.
    pub task: String,
    /// Name of the weak model.
    pub weak: String,
    /// Name of the strong model.
    pub strong: String,
    /// Name of the method.
    pub method: String,
    /// Seed.
    pub seed: u64,
    /// Hash of the data's content.
    pub data: String,
    /// Stage that holds the data.
    pub data_stage: StageId,
    /// Stage that holds the strong model's own answers.
    pub answers: Option<StageId>,
    /// Stage that holds the answers with which the method compares the weak labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<StageId>,
    /// Stage that holds the weak labels.
    pub supervision: StageId,
    /// Stage that holds the ceiling.
    pub ceiling: StageId,
    /// Stage that holds the student.
    pub student: StageId,
}

impl CellRecord {
    /// The cells of a plan.
    pub(super) fn all(plan: &Plan) -> Vec<Self> {
        let grid = &plan.grid;
        let record = |cell: &super::Cell| Self {
            cell: cell.id(),
            suite: cell.suite.clone(),
            task: grid.tasks[cell.task].name().to_owned(),
            weak: grid.pairs[cell.pair].weak.name.clone(),
            strong: grid.pairs[cell.pair].strong.name.clone(),
            method: grid.methods[cell.method].name.clone(),
            seed: cell.seed,
            data: cell.data.fingerprint.clone(),
            data_stage: cell.data.stage.clone(),
            answers: cell.answers.clone(),
            compared: cell.compared.clone(),
            supervision: cell.supervision.clone(),
            ceiling: cell.ceiling.clone(),
            student: cell.student.clone(),
        };
        plan.cells.iter().map(record).collect()
    }

    /// The stages whose results it compares, and what they are to it.
    pub fn ends(&self) -> [(&'static str, &StageId); 3] {
        [("supervision", &self.supervision), ("ceiling", &self.ceiling), ("student", &self.student)]
    }

    /// What people call it.
    pub fn title(&self) -> String {
        let Self { cell, task, weak, strong, method, seed, .. } = self;
        format!("{cell}  {method}  {task}  {weak} → {strong}  seed {seed}")
    }

    /// Whether a word names it, or something of it.
    fn fits(&self, word: &str) -> bool {
        /// Letters of an identity that are no seed.
        const LETTERS: usize = 4;
        let names = [&self.task, &self.weak, &self.strong, &self.method];
        names.contains(&&word.to_owned())
            || self.suite.as_deref() == Some(word)
            || self.seed.to_string() == word
            || word.len() >= LETTERS && self.cell.starts_with(word)
    }
}

/// One stage, as `stages.json` has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageRecord {
    /// Which.
    pub id: StageId,
    /// What it is, for people.
    pub what: String,
    /// The stages that it is made from, data among them.
    pub reads: Vec<StageId>,
    /// What is done: the [stage](Stage) itself.
    pub stage: Value,
    /// Rows that go through a model at once, where that is not said for the whole grid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
}

/// Everything that is needed to make the stages of a grid again, but data.
#[derive(Default, Serialize, Deserialize)]
struct Stages {
    numeric: Numeric,
    folders: Folders,
    stages: Vec<StageRecord>,
}

/// Writes down the stages of a plan, unless they are written already.
pub(super) fn write_stages(plan: &Plan, folder: &Path) -> Result<()> {
    let path = folder.join(STAGES);
    let fail = |error: serde_json::Error| Error::new(format!("cannot write down a stage: {error}")).in_file(&path);
    let mut stages = Vec::with_capacity(plan.jobs.len());
    for ((id, what), job) in plan.labels().into_iter().zip(plan.jobs.values()) {
        let stage = serde_json::to_value(&job.stage).map_err(fail)?;
        let micro_batch = job.micro_batch.filter(|rows| Some(*rows) != plan.numeric.micro_batch());
        stages.push(StageRecord { id, what, reads: job.reads.clone(), stage, micro_batch });
    }
    let stages = Stages { numeric: plan.numeric.clone(), folders: plan.folders.clone(), stages };
    let text = serde_json::to_vec(&stages).map_err(fail)?;
    match fs::read(&path) {
        Ok(there) if there == text => Ok(()),
        _ => crate::stage::write_atomically(&path, &text),
    }
}

/// A folder of results, read.
#[derive(Debug)]
pub struct Recorded {
    /// Its name below the folder of all results.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
    /// Every cell, in the order of tables.
    pub cells: Vec<CellRecord>,
    /// Every stage, inputs first. Folders of earlier versions name none but those that cells name.
    pub stages: Vec<StageRecord>,
    /// How its stages are computed.
    pub numeric: Numeric,
    /// Where models are that no stage makes.
    pub folders: Folders,
}

/// How far a cell or a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Finished.
    Done,
    /// Some process makes it now; of a cell, one of the stages that it compares.
    Running,
    /// It failed, or something that it needs did.
    Failed,
    /// To be done.
    Waiting,
}

/// How far a grid is.
#[derive(Debug)]
pub struct Standing {
    /// Of each cell.
    pub cells: Vec<State>,
    /// Of each stage.
    pub stages: BTreeMap<StageId, State>,
    /// What is said of stages that are running, if anything.
    pub posts: BTreeMap<StageId, Option<Post>>,
    /// What failed and has not been done since.
    pub failures: Vec<Record>,
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).path("read what a grid recorded", path)?;
    serde_json::from_slice(&text).map_err(|error| {
        Error::new(format!("not the record of a grid: {error}"))
            .in_file(path)
            .help("`w2s run` of the same grid writes it again")
    })
}

impl Recorded {
    /// Reads the folder of a grid.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn read(name: &str, folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Grid {
            cells: Vec<CellRecord>,
        }
        let Grid { cells } = read_json(&folder.join(GRID))?;
        let path = folder.join(STAGES);
        let Stages { numeric, folders, mut stages } = if path.exists() { read_json(&path)? } else { Stages::default() };
        if stages.is_empty() {
            stages = of_cells(&cells);
        }
        stages.iter_mut().for_each(|stage| stage.micro_batch = stage.micro_batch.or(numeric.micro_batch()));
        Ok(Self { name: name.to_owned(), folder: folder.to_owned(), cells, stages, numeric, folders })
    }

    /// The stages that a cell compares and all that they are made from, inputs first and without data.
    pub fn of_cell(&self, cell: &CellRecord) -> Vec<&StageRecord> {
        let mut needed: BTreeSet<&StageId> = cell.ends().into_iter().map(|(_, id)| id).collect();
        for stage in self.stages.iter().rev() {
            if needed.contains(&stage.id) {
                needed.extend(&stage.reads);
            }
        }
        self.stages.iter().filter(|stage| needed.contains(&stage.id)).collect()
    }

    /// The log of a stage.
    pub fn log(&self, id: &StageId) -> PathBuf {
        super::run::log_of(&self.folder.join("logs"), id)
    }

    /// How far everything is.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn standing(&self, store: &Store) -> Result<Standing> {
        let mut failures = Failures::recorded(&self.folder);
        let (mut stages, mut posts) = (BTreeMap::new(), BTreeMap::new());
        let broken: BTreeSet<StageId> = failures.iter().filter_map(|record| record.stage.clone()).collect();
        for StageRecord { id, reads, .. } in &self.stages {
            let harmed = |input: &StageId| stages.get(input) == Some(&State::Failed);
            let state = if store.find(id)?.is_some() {
                State::Done
            } else if let Some(post) = store.posted(id)? {
                posts.insert(id.clone(), serde_json::from_str(&post).ok());
                State::Running
            } else if broken.contains(id) || reads.iter().any(harmed) {
                State::Failed
            } else {
                State::Waiting
            };
            stages.insert(id.clone(), state);
        }
        failures.retain(|record| record.stage.as_ref().is_none_or(|id| stages.get(id) == Some(&State::Failed)));
        let of_cell = |cell: &CellRecord| {
            let states = cell.ends().map(|(_, id)| stages.get(id).copied().unwrap_or(State::Waiting));
            let has = |state: &State| states.contains(state);
            let unfinished = [State::Failed, State::Running, State::Waiting].into_iter().find(has);
            unfinished.unwrap_or(State::Done)
        };
        let cells = self.cells.iter().map(of_cell).collect();
        Ok(Standing { cells, stages, posts, failures })
    }

    /// Whether a run of this grid is at work, on any machine that shares the folder.
    ///
    /// # Errors
    /// A lock that cannot be opened.
    pub fn is_run(&self) -> Result<bool> {
        let open = |name: &str| Lock::open_existing(&self.folder.join(name));
        let (Some(gate), Some(running)) = (open(RUNNING[0])?, open(RUNNING[1])?) else { return Ok(false) };
        // Who holds the second lock is asked by who holds the first: no run takes us for another run.
        gate.lock()?;
        Ok(!running.try_lock()?)
    }

    /// The one cell that words name: the beginning of its identity, or names and seed.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn find<'a>(grids: &'a [Self], words: &str) -> Result<(&'a Self, &'a CellRecord)> {
        let all = || grids.iter().flat_map(|grid| grid.cells.iter().map(move |cell| (grid, cell)));
        let (run, rest) = words.rsplit_once('/').map_or((None, words), |(run, rest)| (Some(run), rest));
        let parts: Vec<&str> = rest.split_whitespace().collect();
        let fits = |(grid, cell): &(&Self, &CellRecord)| {
            run.is_none_or(|run| grid.name == run) && parts.iter().all(|word| cell.fits(word))
        };
        let found: Vec<_> = all().filter(fits).collect();
        if let [one] = found[..] {
            return Ok(one);
        }
        const SHOWN: usize = 12;
        let (what, from) = match found.is_empty() {
            true => (format!("no cell is called `{words}`"), all().collect()),
            false => (format!("{} cells are called `{words}`", found.len()), found),
        };
        let mut lines: Vec<String> =
            from.iter().take(SHOWN).map(|(grid, cell)| format!("{}/{}", grid.name, cell.title())).collect();
        if from.len() > SHOWN {
            lines.push(format!("and {} more", from.len() - SHOWN));
        }
        let help = "name one by RUN/CELL, the beginning of CELL, or `METHOD TASK SEED`";
        Err(Error::new(what).help(format!("{help}:\n{}", lines.join("\n"))))
    }
}

impl StageRecord {
    /// The stage, to be made again.
    ///
    /// # Errors
    /// A stage of another version of w2s, or with a strategy that is not linked.
    pub fn job(&self) -> Result<Job> {
        let stage: Box<dyn Stage> = serde_json::from_value(self.stage.clone()).map_err(|error| {
            Error::new(format!("stage `{}` cannot be read: {error}", self.id))
                .help("use the version of w2s and the plugins that made it")
        })?;
        Job::of(stage, self.micro_batch)
    }
}

/// The stages that cells name, for folders without [`STAGES`].
fn of_cells(cells: &[CellRecord]) -> Vec<StageRecord> {
    let mut seen = BTreeSet::new();
    let mut stages = Vec::new();
    for cell in cells {
        for (what, id) in cell.ends().into_iter().filter(|(_, id)| seen.insert(*id)) {
            let name = if what == "student" { &cell.method } else { &cell.strong };
            let what = format!("{what}  {}  {name}  seed {}", cell.task, cell.seed);
            stages.push(StageRecord { id: id.clone(), what, reads: vec![], stage: Value::Null, micro_batch: None });
        }
    }
    stages
}
