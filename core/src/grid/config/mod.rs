//! The grid as its TOML file says it.

mod data;
mod file;
mod knowing;
mod method;
mod model;
mod names;
mod published;
mod suites;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::Value;

pub use data::{Data, ModelOnTask};
pub(in crate::grid) use file::{
    GridFile, MethodName, MethodsFile, ModelName, SuiteFile, SuiteName, TaskName, WithColumns, WorldName,
};
pub use knowing::{Hardness, SelfLabels, SelfSource};
pub(crate) use method::with_changes;
pub use method::{EndPhase, Method, Phase};
pub(super) use model::recipe_table;
pub use model::{ModelConfig, ModelFile, Pretrain};
pub use suites::{Suite, Together};

use self::{
    data::{auxiliary_settings, auxiliary_tasks, data_of_tasks, open_task},
    file::{GridTable, OutputTable, PairTable},
    knowing::Shared,
    method::sweeps,
    model::{further_models, over_head},
    names::{check_name, check_title, names, no_repetition, place},
    published::check_published,
};
use super::{
    columns::{self, Auxiliary},
    library::{Library, is_name},
};
use crate::{
    Error, Result,
    document::{Document, Section},
    error::Place,
    learner::{Answering, Recipe, passes_over_absent},
    model::HeadConfig,
    report::results::{FURTHER_WEAK, is_end},
    stage::{STORE, Training},
    strategy::{Ask, Form, whole},
    task::Task,
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
    /// What is trained together.
    pub suites: Vec<Suite>,
    /// Tasks beside the evaluated ones from which something is learnt, by name.
    pub auxiliary: BTreeMap<String, Task>,
    /// What `[task.NAME]` says of auxiliary tasks.
    auxiliary_settings: BTreeMap<String, toml::Table>,
    /// Weak and strong model.
    pub pairs: Vec<Pair>,
    /// Models that supervisors name and no pair has, and where that is.
    pub further: Vec<(ModelConfig, Place)>,
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
    /// After which parts of each phase of a student the test is answered, too.
    pub evaluate: Vec<f64>,
    /// What the ceiling is trained on one after the other, at least one.
    pub ceiling: Vec<EndPhase>,
    /// The same of the weak model, and of every other model that a supervisor asks for.
    pub weak: Vec<EndPhase>,
    /// How answers in words are learnt.
    pub words: Answering,
    /// The grid's own training settings, which go before a model's.
    train: toml::Table,
    /// Everything as it was resolved, for the record.
    pub source: Value,
}

/// `evaluate` of `[output]`, in ascending order.
fn parts_of_training(output: &Section, mut parts: Vec<f64>) -> Result<Vec<f64>> {
    let outside = |part: &f64| !(*part > 0.0 && *part <= 1.0);
    if let Some(place) = parts.iter().position(outside) {
        let list = output.need("evaluate")?;
        let at = list.items()?.into_iter().nth(place).unwrap_or(list);
        return Err(at.error(format!("`evaluate` has {}, which is no part of a training", parts[place])).help(
            "give parts above 0 and up to 1, such as evaluate = [0.25, 0.5, 0.75]: the end is measured in any case",
        ));
    }
    parts.sort_by(f64::total_cmp);
    parts.dedup();
    Ok(parts)
}

/// A weak and a strong model.
#[derive(Debug)]
pub struct Pair {
    /// The supervisor's model.
    pub weak: ModelConfig,
    /// The student's and the ceiling's model.
    pub strong: ModelConfig,
}

/// What models are trained on: a task, or a suite.
#[derive(Clone, Copy, Debug)]
pub struct On<'a> {
    /// Its name.
    pub name: &'a str,
    /// Settings of training on it, and of reading it where it is a task.
    pub data: &'a Data,
}

impl Grid {
    /// Reads a grid and everything it names.
    ///
    /// # Errors
    /// Anything that does not parse, does not exist or is out of range, with file, line and the likely fix.
    pub fn read(document: &Document, library: &Library) -> Result<Self> {
        let root = document.root();
        let columns = columns::all();
        root.read_beside::<GridFile>(&columns::keys())?;
        let grid = root.need("grid")?;
        let GridTable { name, title, seeds, .. } = grid.read()?;

        let stem = document.file().file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let name = name.unwrap_or(stem);
        check_name(&name).map_err(|error| place(&grid, &error.or_else_help("set `name` in `[grid]`")))?;
        if !is_name(&name) {
            let message = format!("`{}` cannot be the name of a folder", name.escape_debug());
            return Err(grid.error(message).help("set `name` in `[grid]`"));
        }
        if name == STORE {
            let message = format!("a grid cannot be called `{STORE}`: the folder of that name holds all grids' stages");
            return Err(grid.error(message).help("set another `name` in `[grid]`"));
        }
        let seeds = seeds.unwrap_or_else(|| vec![0]);
        no_repetition(&grid, "seeds", &seeds)?;

        let train = recipe_table(&root)?;
        let output = root.get("output");
        let OutputTable { save_students, evaluate } =
            output.as_ref().map(|section| section.read()).transpose()?.unwrap_or_default();
        let evaluate = output.map_or(Ok(Vec::new()), |section| parts_of_training(&section, evaluate))?;
        let words = root.get("words").map(|section| section.read()).transpose()?.unwrap_or_default();

        let [ceiling, weak] = ["ceiling", "weak"].map(|end| EndPhase::read_all(&root, end));
        let (ceiling, weak) = (ceiling?, weak?);

        let own_models = root.get("model");
        let own_methods = root.get("method");
        let shelves = suites::shelves(&grid, library)?;
        let (named, of_suites) = suites::tasks(&grid, &shelves)?;
        let tasks = named
            .iter()
            .map(|(name, at)| open_task(&root, name, library, |error| at.place(error)))
            .collect::<Result<Vec<_>>>()?;
        let data = data_of_tasks(&root, &tasks, library)?;
        let suites = suites::suites(&root, &shelves, &of_suites, &tasks, library)?;
        let pairs = grid
            .need("pairs")?
            .items()?
            .iter()
            .map(|pair| {
                pair.read::<PairTable>()?;
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
        shelf.iter().try_for_each(|shelf| shelf.root().read::<MethodsFile>().map(drop))?;
        let without_validation = tasks.iter().zip(&data).find(|(_, data)| data.n_validation == 0);
        let shared = Shared {
            columns: columns.iter().filter_map(|(name, column)| Some((*name, root.get(&column.key())?))).collect(),
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
        let further = further_models(&root, &methods, &pairs, library)?;
        if let Some(published) = root.get("published") {
            check_published(&published, &tasks, &suites, &methods, &pairs)?;
        }
        let auxiliary_by_name = auxiliary_tasks(&root, &methods, &tasks, library)?;
        let auxiliary_settings = auxiliary_settings(&root, &auxiliary_by_name, &methods, &tasks)?;
        for method in &methods {
            let asked = method.self_labels.as_ref().is_some_and(|own| own.source == SelfSource::PrecomputedGeneration);
            let spoken = method.columns.values().filter(|column| column.speaks().is_some());
            let itself = spoken.clone().any(|column| column.auxiliary().is_none());
            let evaluated = tasks.iter().filter(|_| asked || itself || !method.prompted().is_empty());
            let learnt = spoken.filter_map(|column| column.auxiliary()).flat_map(|auxiliary| {
                tasks
                    .iter()
                    .filter_map(|task| auxiliary_by_name.get(auxiliary.task_for(task.name())))
                    .collect::<Vec<_>>()
            });
            // Where words are asked for, the text itself asks.
            let silent = |task: &&Task| !task.is_asked() && task.form() != Form::Words;
            let mut silent = evaluated.chain(learnt).filter(silent);
            if let Some(task) = silent.next() {
                let message = format!(
                    "method `{}` asks a language model, and task `{}` does not say how",
                    method.name,
                    task.name()
                );
                let instead = method.columns.values().filter_map(|column| column.speaks());
                let instead = instead.map(|setting| format!(" and {setting}")).collect::<String>();
                return Err(grid.error(message).help(format!(
                    "give the task a `[prompt]` with `template` and `answers`, or use another supervisor than `prompted`, `self_labels.source = \"current-head\"`{instead}"
                )));
            }
        }
        let grid = Self {
            name,
            title: title.unwrap_or_default(),
            tasks,
            suites,
            auxiliary: auxiliary_by_name,
            auxiliary_settings,
            places: [
                named.iter().map(|(_, at)| at.0.place()).collect(),
                grid.need("pairs")?.items()?.iter().map(Section::place).collect(),
            ],
            pairs,
            further,
            methods,
            seeds,
            data,
            save_students,
            evaluate,
            ceiling,
            weak,
            words,
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
            let section = tables.as_ref().and_then(|methods| methods.get(&method.name));
            let own = section.as_ref().map(Section::place);
            let place = own.or_else(|| at(method)).unwrap_or_else(|| root.place());
            suites::check_method(method, section.as_ref(), &grid.suites, &grid.tasks, library)
                .map_err(|error| error.or_at(&place))?;
            grid.check_forms(method).map_err(|error| error.or_at(&place))?;
        }
        Ok(grid)
    }

    /// The models that supervisors name, be they of a pair or not.
    pub fn named(&self) -> Vec<&ModelConfig> {
        let pairs = self.pairs.iter().flat_map(|pair| [&pair.weak, &pair.strong]);
        let all: BTreeMap<&str, &ModelConfig> = pairs
            .chain(self.further.iter().map(|(model, _)| model))
            .map(|model| (model.name.as_str(), model))
            .collect();
        let asks: Vec<Ask> = self.methods.iter().flat_map(Method::asks).collect();
        let names: BTreeSet<&str> = asks.iter().flat_map(Ask::named).collect();
        names.into_iter().filter_map(|name| all.get(name).copied()).collect()
    }

    /// Whether a method can be used on a task or a suite that asks for this; `fewer` of its examples have fewer candidates than others.
    ///
    /// # Errors
    /// One of its parts refuses, or gets what it needs in no such task.
    pub fn check_form(&self, method: &Method, task: &str, form: Form, fewer: usize) -> Result<()> {
        let fault = |part: &str, message: &str| self.unfit(method, task, part, message);
        method.supervisor.fits(form).map_err(|message| fault("the supervisor", &message))?;
        for phase in &method.phases {
            for (part, fits) in [
                ("the selector", phase.selector.fits(form)),
                ("the refiner", phase.refiner.fits(form)),
                ("the loss", phase.loss.fits(form)),
            ] {
                fits.map_err(|message| fault(part, &message))?;
            }
        }
        if let (Form::Candidates(most), 1..) = (form, fewer) {
            let spreads = |phase: &Phase| !passes_over_absent(&*phase.loss);
            if method.phases.iter().any(spreads) {
                let message = format!(
                    "it gives probability to every place, and {fewer} examples have fewer than {most} candidates"
                );
                return Err(fault("the loss", &message)
                    .help("take a loss that gives what is not there none, or keep rows with as many candidates (`filter` in the task)"));
            }
        }
        if matches!(form, Form::Classes(_)) {
            return Ok(());
        }
        for (name, column) in &method.columns {
            column.fits(form).map_err(|refused| self.unfit_column(method, task, name, &refused))?;
        }
        let Some(own) = &method.self_labels else { return Ok(()) };
        let right = match form {
            Form::Words => SelfSource::PrecomputedGeneration,
            Form::Classes(_) | Form::Candidates(_) => SelfSource::CurrentHead,
        };
        match [right, SelfSource::Student].contains(&own.source) {
            true => Ok(()),
            false => {
                let message = format!("on {form} a student's own answers do not come from there");
                let name = whole(&right).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
                Err(fault("the self-labels", &message)
                    .help(format!("set `self_labels.source = \"{name}\"` or `\"student\"`")))
            }
        }
    }

    /// Refuses a method that cannot use the numbers of a column which the data have.
    ///
    /// # Errors
    /// One of its strategies refuses them.
    pub(super) fn check_numbers(&self, method: &Method, task: &str, column: &str, numbers: &[f32]) -> Result<()> {
        match method.phases.iter().find_map(|phase| phase.refuses(column, numbers)) {
            Some((part, message)) => Err(self.unfit(method, task, part, &message)),
            None => Ok(()),
        }
    }

    /// The error about a part of a method that a task is not for.
    fn unfit(&self, method: &Method, task: &str, part: &str, message: &str) -> Error {
        Error::new(format!("method `{}` cannot be used on task `{task}`: {part}: {message}", method.name))
            .help("leave one of the two out of this grid")
    }

    /// The same about a column, which may know a better remedy.
    fn unfit_column(&self, method: &Method, task: &str, column: &str, refused: &Error) -> Error {
        let error = self.unfit(method, task, columns::title(column), refused.message());
        match refused.remedy() {
            Some(help) => error.help(help),
            None => error,
        }
    }

    /// Whether a method, with the models it is used on, can work with what the tasks ask for; of choices this is said where their examples
    /// are known.
    fn check_forms(&self, method: &Method) -> Result<()> {
        for (index, task) in self.tasks.iter().enumerate() {
            let form = task.form();
            if !matches!(form, Form::Candidates(_)) {
                self.check_form(method, task.name(), form, 0)?;
            }
            if let Some(supervisor) = method.supervisors.get(task.name()) {
                supervisor.fits(form).map_err(|message| self.unfit(method, task.name(), "its supervisor", &message))?;
            }
            let classes = task.classes.len();
            let refused = |part: &str, message: String| self.unfit(method, task.name(), part, &message);
            for (name, column) in &method.columns {
                let by_stage = method.self_labels.as_ref().is_some_and(|own| own.source == SelfSource::StageHead);
                let auxiliary = column.auxiliary().and_then(|at| self.auxiliary.get(at.task_for(task.name())));
                let others = auxiliary.filter(|auxiliary| by_stage && auxiliary.classes.len() != classes);
                if let Some(auxiliary) = others {
                    let (name, others) = (auxiliary.name(), auxiliary.classes.len());
                    let message = format!("the head of `{name}` has {others} classes and cannot answer for {classes}");
                    return Err(refused("the self-labels", message)
                        .help("take an auxiliary task with as many classes, or another `self_labels.source`"));
                }
                column
                    .check(self, method, index)
                    .map_err(|refused| self.unfit_column(method, task.name(), name, &refused))?;
            }
        }
        Ok(())
    }

    /// How the data of an auxiliary task are read: as those of the evaluated task, but for what `[task.AUXILIARY]` and the column say.
    ///
    /// # Errors
    /// Settings that do not parse.
    pub(in crate::grid) fn auxiliary_data(&self, on: On, auxiliary: &Auxiliary) -> Result<Data> {
        // Nobody asks how far the weak model can be trusted in the auxiliary task.
        let mut data = Data { n_train: None, n_validation: 0, ..on.data.clone() };
        if let Some(own) = self.settings_of_auxiliary(on, auxiliary) {
            let said = |error: String| Error::new(error).context(format!("`[task.{}]`", auxiliary.task));
            let mut table = toml::Table::try_from(&data).map_err(|error| said(error.to_string()))?;
            table.extend(own.clone());
            data = table.try_into().map_err(|error: toml::de::Error| said(error.message().to_owned()))?;
            data.n_validation = 0;
        }
        data.n_train = auxiliary.rows.or(data.n_train);
        Ok(data)
    }

    /// How a model is trained on an auxiliary task: as on what is evaluated, but for what `[task.AUXILIARY]` says.
    ///
    /// # Errors
    /// Settings out of their range.
    pub(in crate::grid) fn auxiliary_recipe(
        &self,
        model: &ModelConfig,
        on: On,
        auxiliary: &Auxiliary,
    ) -> Result<Recipe> {
        let own = self.settings_of_auxiliary(on, auxiliary);
        let here = own.and_then(|own| own.get("model")?.get(&model.name)?.get("train")?.as_table());
        let all = own.and_then(|own| own.get("train")?.as_table());
        self.recipe_with(model, on, [all, here].into_iter().flatten())
    }

    /// The head of a model on an auxiliary task: as on what is evaluated, but for what `[task.AUXILIARY]` says.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub(in crate::grid) fn auxiliary_head(
        &self,
        model: &ModelConfig,
        on: On,
        auxiliary: &Auxiliary,
    ) -> Result<HeadConfig> {
        let head = self.head(model, on)?;
        let own = self.settings_of_auxiliary(on, auxiliary);
        match own.and_then(|own| own.get("model")?.get(&model.name)?.get("head")?.as_table()) {
            Some(here) => over_head(&head, here, &model.name),
            None => Ok(head),
        }
    }

    /// `[task.AUXILIARY]`, if it is not the evaluated task itself.
    fn settings_of_auxiliary(&self, on: On, auxiliary: &Auxiliary) -> Option<&toml::Table> {
        let name = auxiliary.task_for(on.name);
        self.auxiliary_settings.get(name).filter(|_| name != on.name)
    }

    /// How a model is trained here: the defaults, then the model's own settings, then the grid's for all models, for this one, for this
    /// task or suite and for this model on it, then the phase's of a method.
    ///
    /// # Errors
    /// Settings out of their range.
    pub fn recipe(&self, model: &ModelConfig, on: On, phase: Option<&Phase>) -> Result<Recipe> {
        self.recipe_with(model, on, phase.map(|phase| &phase.train).into_iter())
    }

    /// The phases of an end of the gap, or of what a supervisor asks for, as a model is trained in them here.
    ///
    /// # Errors
    /// Settings out of their range.
    pub fn trainings(&self, model: &ModelConfig, on: On, phases: &[EndPhase]) -> Result<Vec<Training>> {
        let training =
            |phase: &EndPhase| Ok(Training { recipe: self.recipe_over(model, on, &phase.train)?, aim: phase.aim });
        phases.iter().map(training).collect()
    }

    /// The same but for some settings.
    ///
    /// # Errors
    /// Settings out of their range.
    pub fn recipe_over(&self, model: &ModelConfig, on: On, train: &toml::Table) -> Result<Recipe> {
        self.recipe_with(model, on, std::iter::once(train))
    }

    fn recipe_with<'a>(
        &'a self,
        model: &'a ModelConfig,
        on: On<'a>,
        last: impl Iterator<Item = &'a toml::Table>,
    ) -> Result<Recipe> {
        let mut table = model.file.train.clone();
        let nearer = [&self.train, &model.train_here, &on.data.train].into_iter();
        let nearest = on.data.model.get(&model.name).map(|model| &model.train);
        for settings in nearer.chain(nearest).chain(last) {
            table.extend(settings.clone());
        }
        let recipe: Recipe =
            table.try_into().map_err(|error: toml::de::Error| Error::new(error.message().to_owned()))?;
        recipe.validate().map_err(|error| error.context(format!("training settings of `{}`", model.name)))?;
        Ok(recipe)
    }

    /// The head of a model on a task or a suite.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn head(&self, model: &ModelConfig, on: On) -> Result<HeadConfig> {
        let Some(here) = on.data.model.get(&model.name) else { return Ok(model.file.head.clone()) };
        over_head(&model.file.head, &here.head, &model.name)
    }

    /// Names for people of tasks, models and methods, by their names.
    pub fn titles(&self) -> BTreeMap<String, String> {
        let tasks = self.tasks.iter().map(|task| (task.name.clone(), task.title.clone()));
        let models = self.pairs.iter().flat_map(|pair| [&pair.weak, &pair.strong]);
        let models = models.chain(self.further.iter().map(|(model, _)| model));
        let models = models.map(|model| (model.name.clone(), model.title().to_owned()));
        let methods = self.methods.iter().map(|method| (method.name.clone(), method.title.clone()));
        // Where a suite has a number, that is the average of its tasks.
        let suites = self.suites.iter().map(|suite| (suite.name.clone(), format!("{}, average", suite.title)));
        tasks.chain(suites).chain(models).chain(methods).filter(|(_, title)| !title.is_empty()).collect()
    }

    /// A task (an index into [`Grid::tasks`]) as what models are trained on.
    pub fn on(&self, task: usize) -> On<'_> {
        On { name: self.tasks[task].name(), data: &self.data[task] }
    }

    /// The suite that a task (an index into [`Grid::tasks`]) is of, and its place there.
    pub fn suite_of(&self, task: usize) -> Option<(&Suite, usize)> {
        let place = |suite: &Suite| suite.tasks.iter().position(|own| *own == task);
        self.suites.iter().find_map(|suite| Some((suite, place(suite)?)))
    }

    /// The suite on which the ceiling of a task is trained, and the task's place there; none where the task has its own.
    pub fn ceiling_of(&self, task: usize) -> Option<(&Suite, usize)> {
        self.suite_of(task).filter(|(suite, _)| suite.ceiling == Together::Together)
    }

    /// Every recipe of the grid is in range.
    fn recipes(&self) -> Result<()> {
        let ons = (0..self.tasks.len()).map(|task| self.on(task)).chain(self.suites.iter().map(Suite::on));
        for on in ons {
            for (model, place) in &self.further {
                self.trainings(model, on, &self.weak).map_err(|error| error.or_at(place))?;
            }
            for pair in &self.pairs {
                self.trainings(&pair.weak, on, &self.weak)?;
                self.recipe(&pair.strong, on, None)?;
                self.trainings(&pair.strong, on, &self.ceiling)?;
                for method in &self.methods {
                    // What a method leaves as it is has been looked at.
                    for phase in method.phases.iter().filter(|phase| !phase.train.is_empty()) {
                        self.recipe(&pair.strong, on, Some(phase))?;
                    }
                    for column in method.columns.values() {
                        if let Some(train) = column.train() {
                            self.recipe_over(&pair.strong, on, train)?;
                        }
                        let auxiliary = column.auxiliary();
                        let there = |auxiliary: &Auxiliary| self.settings_of_auxiliary(on, auxiliary).is_some();
                        if let Some(auxiliary) = auxiliary.filter(there) {
                            self.auxiliary_data(on, &auxiliary)?;
                            self.auxiliary_recipe(&pair.strong, on, &auxiliary)?;
                            self.auxiliary_head(&pair.strong, on, &auxiliary)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
