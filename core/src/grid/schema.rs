//! What editors are told of the files that users write: a JSON Schema of each kind, made of the types that read it and of the registry.

use std::{path::Path, sync::LazyLock};

use regex::Regex;
use schemars::{Schema, generate::SchemaSettings, transform::RecursiveTransform};
use serde_json::{Value, json};

use super::{
    config::{
        GridFile, MethodName, MethodsFile, ModelFile, ModelName, SuiteFile, SuiteName, TaskName, WithColumns, WorldName,
    },
    library::Library,
};
use crate::{
    strategy::{self, Kind},
    task::{Task, world::World},
};

/// A kind of file that users write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FileKind {
    /// A grid
    Grid,
    /// `configs/tasks/NAME.toml`
    Task,
    /// `configs/models/NAME.toml`
    Model,
    /// `configs/suites/NAME.toml`
    Suite,
    /// `configs/worlds/NAME.toml`
    World,
    /// `configs/methods.toml`
    Methods,
}

impl FileKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Grid, Self::Task, Self::Model, Self::Suite, Self::World, Self::Methods];

    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Task => "task",
            Self::Model => "model",
            Self::Suite => "suite",
            Self::World => "world",
            Self::Methods => "methods",
        }
    }

    /// Its JSON Schema, of draft 7, which editors know best.
    ///
    /// It refuses what no such file may say: unknown keys, values of another type, strategies that are not linked into this binary and
    /// parameters that they do not have. It lets pass what depends on more than one value. Names of tasks, models, suites and methods are
    /// suggestions, those of `library`: others may be there tomorrow.
    pub fn schema(self, library: &Library) -> Value {
        let settings = SchemaSettings::draft07().with_transform(RecursiveTransform(as_toml as fn(&mut Schema)));
        let mut generator = settings.into_generator();
        let mut schema = match self {
            Self::Grid => generator.root_schema_for::<WithColumns<GridFile>>(),
            Self::Task => generator.root_schema_for::<Task>(),
            Self::Model => generator.root_schema_for::<ModelFile>(),
            Self::Suite => generator.root_schema_for::<SuiteFile>(),
            Self::World => generator.root_schema_for::<World>(),
            Self::Methods => generator.root_schema_for::<MethodsFile>(),
        };
        schema.insert("title".to_owned(), format!("w2s {}", self.name()).into());
        for (of, names) in [
            (name_of::<TaskName>(), library.names("tasks")),
            (name_of::<SuiteName>(), library.names("suites")),
            (name_of::<ModelName>(), library.names("models")),
            (name_of::<WorldName>(), library.names("worlds")),
            (name_of::<MethodName>(), methods(library)),
        ] {
            if let Some(named) = schema.pointer_mut(&format!("/definitions/{of}")) {
                *named = json!({ "anyOf": [{ "enum": names }, named] });
            }
        }
        schema.to_value()
    }
}

fn name_of<T: schemars::JsonSchema>() -> String {
    T::schema_name().into_owned()
}

/// Methods that any grid can name.
fn methods(library: &Library) -> Vec<String> {
    let shelf = library.open_file(Path::new("methods.toml")).and_then(Result::ok);
    let written = shelf.iter().filter_map(|shelf| shelf.root().get("method"));
    let mut names: Vec<String> = written.flat_map(|methods| methods.entries()).map(|(name, _)| name).collect();
    names.extend(strategy::of_kind(Kind::Loss).iter().map(|card| card.name.to_owned()));
    // A method may be called as the loss that it is about.
    names.sort();
    names.dedup();
    names
}

/// TOML has no null: what may be absent is not required. And links to other parts of the source lead nowhere in an editor.
fn as_toml(schema: &mut Schema) {
    static LINK: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\[(`[^`]*`)\](\([^)]*\))?").ok());
    let Some(schema) = schema.as_object_mut() else { return };
    if let (Some(Value::String(text)), Some(link)) = (schema.get_mut("description"), LINK.as_ref()) {
        *text = link.replace_all(text, "$1").into_owned();
    }
    schema.retain(|key, value| key != "default" || !value.is_null());
    schema.get_mut("default").into_iter().for_each(without_null);
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|one| one != "null");
        if let [only] = &types[..] {
            schema["type"] = only.clone();
        }
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
        if choices.len() == 1
            && let Some(only) = schema.shift_remove("anyOf")
        {
            schema.insert("allOf".to_owned(), only);
        }
    }
    // What is said of a variant belongs to its key.
    let said = schema.get("description").cloned();
    if let (Some(said), Some(Value::Object(keys))) = (said, schema.get_mut("properties"))
        && let [Value::Object(only)] = &mut keys.values_mut().collect::<Vec<_>>()[..]
        && !only.contains_key("description")
        && !only.contains_key("$ref")
    {
        only.insert("description".to_owned(), said);
    }
}

fn without_null(value: &mut Value) {
    if let Some(table) = value.as_object_mut() {
        table.retain(|_, value| !value.is_null());
        table.values_mut().for_each(without_null);
    }
}
