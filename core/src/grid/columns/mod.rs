//! Columns: numbers of each example, by whose names strategies ask for them. One file here makes one: its settings, the stages that make it, and
//! what it asks of a grid. Nothing else lists them.

include!(concat!(env!("OUT_DIR"), "/columns.rs"));

use std::{collections::BTreeMap, fmt::Debug};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    asked::{Knowledge, Made},
    config::{Grid, Method},
};
use crate::{
    Error, Result,
    document::Section,
    stage::{StageId, kinds::student},
    strategy::Form,
};

/// How the numbers of a column are made, as a method or its grid configures it.
pub(super) trait Column: Debug + Send + Sync {
    /// Makes the stages that make it, and says where a student finds it.
    ///
    /// # Errors
    /// Settings or data from which it cannot be made.
    fn make(&self, around: &Knowledge, made: &mut Made) -> Result<student::Column>;

    /// Whether it is about the weak labels: these are then made before it, and in [`Knowledge::supervision`].
    fn of_weak_labels(&self) -> bool {
        false
    }

    /// Whether its numbers stand in the data: they are then there as soon as it is [made](Self::make), and strategies may refuse them.
    fn in_data(&self) -> bool {
        false
    }

    /// The task beside the evaluated one that it is learnt on.
    fn auxiliary(&self) -> Option<Auxiliary<'_>> {
        None
    }

    /// What to set so that the strong model need not answer in words for it; none where it need not.
    fn speaks(&self) -> Option<&'static str> {
        None
    }

    /// Whose answers to the evaluated task it is about, on which it is measured.
    ///
    /// # Errors
    /// As [`Column::make`].
    fn about(&self, _around: &Knowledge, _made: &mut Made) -> Result<About> {
        Ok(About::Student)
    }

    /// The stage that holds the answers with which it compares the weak labels, if that is what it does.
    ///
    /// # Errors
    /// As [`Column::make`].
    fn compares(&self, _around: &Knowledge, _made: &mut Made) -> Result<Option<StageId>> {
        Ok(None)
    }

    /// Texts in each step of a judge that is trained along with the student; none where no judge is.
    fn trained_along(&self) -> Option<usize> {
        None
    }

    /// Whether a judge of two classes is trained on the [auxiliary task](Self::auxiliary) beforehand.
    fn trained_before(&self) -> bool {
        false
    }

    /// Training settings of its own, over those of the strong model.
    fn train(&self) -> Option<&toml::Table> {
        None
    }

    /// Refuses what a task asks for.
    ///
    /// # Errors
    /// A message that is put behind the column's title, and the remedy.
    fn fits(&self, _form: Form) -> Result<()> {
        Ok(())
    }

    /// Refuses a grid in which a method uses it on a task (an index into [`Grid::tasks`]).
    ///
    /// # Errors
    /// As [`Column::fits`].
    fn check(&self, _grid: &Grid, _method: &Method, _task: usize) -> Result<()> {
        Ok(())
    }
}

/// How the pretrained strong model is asked for its own answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Asking {
    /// Answered examples before each question, of the supervisor's half. Origin: as for self-labels, 4.
    pub(super) shots: usize,
}

impl Default for Asking {
    fn default() -> Self {
        Self { shots: 4 }
    }
}

/// What a column answers in [`Column::fits`] that asks the pretrained strong model.
///
/// # Errors
/// Candidates: nobody asks it to choose among them.
pub(super) fn on_candidates(form: Form) -> Result<()> {
    match form {
        Form::Classes(_) | Form::Words => Ok(()),
        Form::Candidates(_) => {
            let message = format!("it asks the pretrained model, and this task has {form}");
            Err(Error::new(message).help("leave one of the two out of this grid"))
        }
    }
}

/// Whose answers a column is about.
pub(super) enum About {
    /// Those of the student's own head.
    Student,
    /// Those that a stage holds.
    Answers(StageId),
    /// Those of nobody that could be asked; why, in words.
    Nobody(&'static str),
}

/// A task beside the evaluated one from which something is learnt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Auxiliary<'a> {
    /// Its name, or [`EVALUATED`].
    pub(super) task: &'a str,
    /// Rows of its training split; all when absent.
    pub(super) rows: Option<usize>,
    /// Whether it may be one that is evaluated.
    pub(super) may_leak: bool,
}

/// The name that stands for whatever task is evaluated: what is learnt in distribution.
pub(super) const EVALUATED: &str = "evaluated";

impl<'a> Auxiliary<'a> {
    /// Name of the task where `evaluated` is.
    pub(super) fn task_for(&self, evaluated: &'a str) -> &'a str {
        if self.task == EVALUATED { evaluated } else { self.task }
    }
}

/// A column that there is, as its file registers it with `inventory::submit!`.
#[derive(Debug)]
pub(super) struct Known {
    /// The name under which strategies ask for it. With `_` for `-` it is the key of its table in a grid and in a method.
    pub(super) name: &'static str,
    /// What people call it.
    pub(super) title: &'static str,
    /// Reads its table.
    pub(super) read: fn(&Asked) -> Result<Box<dyn Column>>,
    /// The schema of its table.
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
}

inventory::collect!(Known);

impl Known {
    /// Key of its table.
    pub(super) fn key(&self) -> String {
        self.name.replace('-', "_")
    }
}

/// Every column, by its name.
pub(super) fn all() -> BTreeMap<&'static str, &'static Known> {
    inventory::iter::<Known>.into_iter().map(|known| (known.name, known)).collect()
}

/// The key of every column's table.
pub(super) fn keys() -> Vec<String> {
    all().values().map(|known| known.key()).collect()
}

/// What people call a column.
pub(super) fn title(name: &str) -> &str {
    all().get(name).map_or(name, |known| known.title)
}

/// A column as a method asks for it, and the tables that say how it is made.
pub(super) struct Asked<'a> {
    /// Name of the method.
    pub(super) method: &'a str,
    /// The method's table.
    pub(super) section: Option<&'a Section<'a>>,
    /// The column's table in it.
    pub(super) own: Option<&'a Section<'a>>,
    /// That of the grid, for all methods.
    pub(super) shared: Option<&'a Section<'a>>,
}

impl Asked<'_> {
    /// The method's settings over the grid's.
    ///
    /// # Errors
    /// A table that does not parse.
    pub(super) fn settings<T: DeserializeOwned>(&self) -> Result<T> {
        over([self.shared, self.own])
    }

    /// The tables, the nearer first.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Section<'_>> {
        [self.own, self.shared].into_iter().flatten()
    }

    /// An error at a key, or where it would stand.
    pub(super) fn error(&self, key: &str, message: impl Into<String>) -> Error {
        let at = self.tables().find_map(|table| table.get(key));
        match at.as_ref().or_else(|| self.tables().next()).or(self.section) {
            Some(section) => section.error(message),
            None => Error::new(message),
        }
    }
}

/// The tables of a setting, the later over the earlier.
pub(super) fn over<T: DeserializeOwned>(tables: [Option<&Section>; 2]) -> Result<T> {
    let mut table = toml::Table::new();
    for section in tables.into_iter().flatten() {
        section.read::<T>()?;
        table.extend(section.to_table()?);
    }
    table.try_into().map_err(|error: toml::de::Error| Error::new(error.message().to_owned()))
}
