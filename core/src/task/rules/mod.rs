//! Rules by which the class of a row is read off its columns: `[label.NAME]` of a task. One file here makes one, and nothing else lists them.

include!(concat!(env!("OUT_DIR"), "/rules.rs"));

use std::fmt::Debug;

use schemars::{Schema, SchemaGenerator};
use serde_json::Value as Json;

use crate::{Error, Result};

/// Reads the class of a row off some of its columns.
#[typetag::serde]
pub trait Rule: Debug + Send + Sync {
    /// The columns that it reads, each with the key under which it names it.
    fn columns(&self) -> Vec<(&'static str, &str)>;

    /// Refuses settings that do not go with the classes of the task.
    ///
    /// # Errors
    /// The keys that lead to what is wrong with it, and that.
    fn check(&self, _classes: &[String]) -> Result<(), (Vec<&str>, Error)> {
        Ok(())
    }

    /// The place of a row's class among those of the task. `values` are those of its [`columns`](Rule::columns), in that order; none is null.
    ///
    /// # Errors
    /// Values that are no label.
    fn class(&self, classes: &[String], values: &[&Json]) -> Result<usize>;

    /// The same again.
    fn boxed(&self) -> Box<dyn Rule>;
}

/// What a rule that gives two classes answers in `check`.
///
/// # Errors
/// Any other number of classes.
pub fn two_classes(classes: &[String]) -> Result<(), (Vec<&'static str>, Error)> {
    match classes.len() {
        2 => Ok(()),
        n => Err((vec![], Error::new(format!("this rule gives two classes, the task has {n}")))),
    }
}

/// A rule that there is.
#[derive(Debug)]
pub struct Known {
    /// Its name in task files.
    pub name: &'static str,
    /// The schema of its table.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Reads its table as the concrete type, for an error that knows the exact place.
    pub probe: fn(toml::de::Deserializer<'_>) -> Result<(), toml::de::Error>,
}

inventory::collect!(Known);

/// Every rule, by its name.
pub fn all() -> Vec<&'static Known> {
    let mut all: Vec<&Known> = inventory::iter::<Known>.into_iter().collect();
    all.sort_by_key(|known| known.name);
    all
}

/// Registers a rule under its name, which `#[typetag::serde(name = "…")]` of its `impl` repeats.
macro_rules! rule {
    ($name:literal for $type:ty) => {
        inventory::submit! {
            $crate::task::rules::Known {
                name: $name,
                schema: |generator| generator.subschema_for::<$type>(),
                probe: |table| <$type as serde::Deserialize>::deserialize(table).map(|_| ()),
            }
        }
    };
}
pub(crate) use rule;
