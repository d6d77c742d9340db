//! Suites: tasks with one student (`[grid] suites`, `configs/suites/NAME.toml`, `[suite.NAME]`).

use std::mem::discriminant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Data, Method, On,
    file::{SuiteFile, SuiteTable},
    model::recipe_table,
    names::{At, check_name, check_title, names},
};
use crate::{
    Error, Result,
    document::{Document, Section, did_you_mean},
    grid::{
        columns::{self, Column},
        library::Library,
    },
    model::HeadConfig,
    task::Task,
};

/// Tasks that models are trained on together: the capabilities of multi-capabilities W2SG.
#[derive(Debug)]
pub struct Suite {
    /// Name in configurations and results.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// Its tasks, as indices into [`Grid::tasks`](super::Grid::tasks).
    pub tasks: Vec<usize>,
    /// Whether its tasks have one ceiling, or each its own. Origin: the paper does not say.
    pub ceiling: Together,
    /// Settings of training on it: of [`Data`] `train` and `model`.
    data: Data,
}

impl Suite {
    /// As what models are trained on.
    pub fn on(&self) -> On<'_> {
        On { name: &self.name, data: &self.data }
    }
}

/// Whether the tasks of a suite have one model, or each its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Together {
    /// One model, trained on all of them.
    #[default]
    Together,
    /// Each its own.
    Each,
}

/// The files of the suites that a grid names.
pub(super) fn shelves(grid: &Section, library: &Library) -> Result<Vec<(String, Document)>> {
    if grid.get("suites").is_none() {
        return Ok(Vec::new());
    }
    let open = |(name, at): (String, At)| {
        let document = library.open("suites", &name).map_err(|error| at.place(error))?;
        Ok((name, document))
    };
    names(grid, "suites")?.into_iter().map(open).collect()
}

/// Tasks where they are named, and which of them are of each suite.
type Named<'a> = (Vec<(String, At<'a>)>, Vec<Vec<usize>>);

/// The tasks of a grid where they are named, its own before those of its suites; and which of them are of each suite.
pub(super) fn tasks<'a>(grid: &Section<'a>, shelves: &'a [(String, Document)]) -> Result<Named<'a>> {
    let alone = shelves.is_empty() || grid.get("tasks").is_some();
    let mut all = if alone { names(grid, "tasks")? } else { Vec::new() };
    let mut of_suites = Vec::new();
    for (suite, document) in shelves {
        let root = document.root();
        root.read::<SuiteFile>()?;
        let own = names(&root, "tasks")?;
        if let [(only, at)] = own.as_slice() {
            let message = format!("a suite of `{only}` alone is that task");
            return Err(at.0.error(message).help("name a second task, or the task itself in `tasks` of the grid"));
        }
        let from = all.len();
        for (task, at) in own {
            let fault = if task == *suite {
                "a suite holds tasks and cannot hold itself".to_owned()
            } else if all[..from].iter().any(|(other, _)| *other == task) {
                format!("`{task}` is in this grid already, alone or in another suite")
            } else {
                all.push((task, at));
                continue;
            };
            return Err(at.0.error(fault).help("take it out here, or run the two in grids of their own"));
        }
        of_suites.push((from..all.len()).collect());
    }
    Ok((all, of_suites))
}

/// The suites of a grid, once their tasks are read.
pub(super) fn suites(
    root: &Section,
    shelves: &[(String, Document)],
    of_suites: &[Vec<usize>],
    tasks: &[Task],
    library: &Library,
) -> Result<Vec<Suite>> {
    let here = root.get("suite");
    for (name, section) in here.iter().flat_map(Section::entries) {
        // A suite that this run leaves out may keep its settings; one that does not exist is a slip.
        if !shelves.iter().any(|(known, _)| *known == name) {
            library.open("suites", &name).map_err(|error| At(section).place(error))?;
        }
    }
    let suite = |((name, document), own): (&(String, Document), &Vec<usize>)| {
        let root = document.root();
        let SuiteFile { title, mut ceiling, .. } = root.read()?;
        let title = title.unwrap_or_else(|| name.clone());
        check_name(name).and_then(|()| check_title(&title)).map_err(|error| error.in_file(document.file()))?;
        if tasks.iter().any(|task| task.name() == name) {
            let message = format!("the suite `{name}` has the name of a task of this grid");
            return Err(Error::new(message).in_file(document.file()).help("give its file another name"));
        }
        let items = root.need("tasks")?.items()?;
        let first = &tasks[own[0]];
        for (task, at) in own.iter().map(|task| &tasks[*task]).zip(&items) {
            let alike =
                discriminant(&task.form()) == discriminant(&first.form()) && task.classes.len() == first.classes.len();
            if !alike {
                let message =
                    format!("`{}` asks for {}, and `{}` for {}", task.name(), task.form(), first.name(), first.form());
                return Err(at.error(message).help(
                    "the tasks of a suite have one form, and as many classes: take it out, or make a suite of those that are alike",
                ));
            }
        }
        let mut data = Data::default();
        if let Some(here) = here.as_ref().and_then(|here| here.get(name)) {
            let own: SuiteTable = here.read()?;
            ceiling = own.ceiling.unwrap_or(ceiling);
            data.train = recipe_table(&here)?;
            data.model = own.model;
            for (_, section) in here.get("model").iter().flat_map(Section::entries) {
                recipe_table(&section)?;
                section.read_key::<HeadConfig>("head")?;
            }
        }
        Ok(Suite { name: name.clone(), title, tasks: own.clone(), ceiling, data })
    };
    shelves.iter().zip(of_suites).map(suite).collect()
}

/// Whether what a method says of suites and single tasks can be done; `table` is where it says so.
pub(super) fn check_method(
    method: &Method,
    table: Option<&Section>,
    suites: &[Suite],
    tasks: &[Task],
    library: &Library,
) -> Result<()> {
    let at = |key: &str, message: String| {
        let place = table.and_then(|table| table.get(key)).or_else(|| table.cloned());
        place.map_or_else(|| Error::new(&message), |place| place.error(&message))
    };
    let known = |key: &str, name: &str| {
        // A task that this run leaves out may keep its settings.
        if tasks.iter().any(|task| task.name() == name) || library.open("tasks", name).is_ok() {
            return Ok(());
        }
        let help = did_you_mean(name, tasks.iter().map(Task::name));
        Err(at(key, format!("`{name}` is no task of this grid")).help(help))
    };
    method.supervisors.keys().try_for_each(|task| known("supervisors", task))?;
    for name in &method.without {
        known("without", name)?;
        if !method.together {
            let message = format!("`{}` trains each task alone, and so nothing `without` another", method.name);
            return Err(at("without", message).help("leave out `without`, or `together = false`"));
        }
    }
    for suite in suites.iter().filter(|_| method.together) {
        let left_out = |task: &&usize| method.without.iter().any(|name| name == tasks[**task].name());
        if suite.tasks.iter().all(|task| left_out(&task)) {
            let message = format!("nothing of `{}` is left for `{}` to be trained on", suite.name, method.name);
            return Err(at("without", message).help("leave one of its tasks in"));
        }
        let learns = |column: &dyn Column| {
            column.auxiliary().is_some_and(|auxiliary| auxiliary.task_for(&suite.name) == suite.name)
        };
        if let Some((column, _)) = method.columns.iter().find(|(_, column)| learns(&***column)) {
            let title = columns::title(column);
            let message =
                format!("`{}` learns {title} of what is evaluated, and `{}` is several tasks", method.name, suite.name);
            return Err(at(&column.replace('-', "_"), message)
                .help("name one auxiliary task, or set `together = false` in the method"));
        }
    }
    if !method.without.is_empty() && suites.is_empty() {
        let message = format!("`{}` leaves tasks out of a suite, and this grid has none", method.name);
        return Err(at("without", message).help("name the suite: `suites = [\"NAME\"]` in `[grid]`"));
    }
    Ok(())
}
