//! How the data of each task are read: `[data]` and `[task.NAME]`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Method, model::recipe_table, names::At};
use crate::{
    Error, Result,
    document::Section,
    grid::{
        columns::{self, Column},
        library::Library,
    },
    learner::Recipe,
    model::HeadConfig,
    strategy::{Form, Split},
    task::{Balance, Order, OverLong, Task},
};

/// `[data]`, and `[task.NAME]` over it: how data are read, ordered, split and cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    #[schemars(with = "Recipe")]
    pub train: toml::Table,
    /// Of `[task.NAME]` alone: what else is different about a model on this task, by the model's name.
    pub model: BTreeMap<String, ModelOnTask>,
}

/// `[task.TASK.model.MODEL]`: goes before what the grid says of the model, and of the task, alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelOnTask {
    /// Keys of [`HeadConfig`].
    #[schemars(with = "HeadConfig")]
    pub head: toml::Table,
    /// Keys of [`Recipe`].
    #[schemars(with = "Recipe")]
    pub train: toml::Table,
}

/// Keys that `[data]` does not have, and what to do instead.
pub(super) const OF_ONE_TASK: [(&str, &str); 3] = [
    ("template", "a template belongs to one task: `[task.NAME] template`"),
    ("train", "what holds for all tasks stands in `[train]`, what holds for one in `[task.NAME]`"),
    ("model", "what holds for all tasks stands in `[model.NAME]`, what holds for one in `[task.NAME]`"),
];

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

/// A task, with the template that `[task.NAME]` gives it; `place` points errors about its name at where the name stands.
pub(super) fn open_task(root: &Section, name: &str, library: &Library, place: impl Fn(Error) -> Error) -> Result<Task> {
    let document = library.open("tasks", name).map_err(&place)?;
    let task = Task::parse(document.source_text(), document.file())?.named_as_its_file()?;
    let here = root.get("task").and_then(|tasks| tasks.get(name)).and_then(|task| task.get("template"));
    match here {
        Some(template) => task.with_template(template.text()?, template.place()),
        None => Ok(task),
    }
}

/// Settings of each task's data: the defaults, then `[data]`, then `[task.NAME]`.
pub(super) fn data_of_tasks(root: &Section, tasks: &[Task], library: &Library) -> Result<Vec<Data>> {
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
    for (key, help) in OF_ONE_TASK {
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

/// What `[task.NAME]` says of the tasks that are learnt from and not evaluated.
pub(super) fn auxiliary_settings(
    root: &Section,
    auxiliary: &BTreeMap<String, Task>,
    methods: &[Method],
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
                let by = learnt_by(methods, tasks, &name);
                let message =
                    format!("`{name}` is not evaluated but learnt from by {by}, for which `{key}` says nothing");
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

/// What people call the column that is learnt on a task.
fn learnt_by(methods: &[Method], tasks: &[Task], name: &str) -> &'static str {
    let on = |column: &dyn Column| {
        column.auxiliary().is_some_and(|auxiliary| tasks.iter().any(|task| auxiliary.task_for(task.name()) == name))
    };
    let columns = methods.iter().flat_map(|method| &method.columns);
    columns.filter(|(_, column)| on(&***column)).map(|(name, _)| columns::title(name)).next().unwrap_or("nobody")
}

/// The tasks that columns are learnt on, none of them evaluated unless that was allowed.
pub(super) fn auxiliary_tasks(
    root: &Section,
    methods: &[Method],
    tasks: &[Task],
    library: &Library,
) -> Result<BTreeMap<String, Task>> {
    let mut found = BTreeMap::new();
    let columns = methods.iter().flat_map(|method| method.columns.iter().map(move |column| (method, column)));
    for (method, (name, column)) in columns {
        let Some(auxiliary) = column.auxiliary() else { continue };
        let (title, key) = (columns::title(name), name.replace('-', "_"));
        let at = root.get("method").and_then(|methods| methods.get(&method.name)).and_then(|method| method.get(&key));
        let at = at.filter(|table| table.get("task").is_some()).or_else(|| root.get(&key));
        let at = at.and_then(|table| table.get("task"));
        let place = |error: Error| match &at {
            Some(at) => At(at.clone()).place(error),
            None => error,
        };
        let is_evaluated = |task: &Task| auxiliary.task_for(task.name()) == task.name();
        if let Some(task) = tasks.iter().find(|task| is_evaluated(task)).filter(|_| !auxiliary.may_leak) {
            let message = format!("`{}` is evaluated, and {title} would be learnt from its ground truth", task.name());
            return Err(place(Error::new(message).help(
                "take a task that is not evaluated, or set `allow_leakage = true` beside it: results then say so",
            )));
        }
        for name in tasks.iter().map(|task| auxiliary.task_for(task.name())) {
            let task = open_task(root, name, library, place)?;
            let in_words = |task: &Task| task.form() == Form::Words;
            if !(task.is_classification() || in_words(&task) && tasks.iter().all(in_words)) {
                let error = Error::new(format!("`{name}` has no classes, and {title} is learnt of classes"));
                return Err(place(error.help(
                    "take a task with a `[label.column]`, `[label.equals]` or `[label.coin]`; where all evaluated tasks have answers in words, it may have them, too",
                )));
            }
            found.insert(name.to_owned(), task);
        }
    }
    Ok(found)
}
