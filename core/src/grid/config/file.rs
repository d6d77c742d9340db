//! The files that users write, key by key: they are read as these types, and editors are told of them by these types' schemas
//! ([`FileKind::schema`](crate::grid::FileKind::schema)). A key that stands here once is known to both.
#![expect(dead_code, reason = "what is read later, at its own place, stands here for its key and its schema")]

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use schemars::{JsonSchema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{Data, ModelFile, SelfLabels, Together, data::OF_ONE_TASK};
use crate::{
    document::Unread,
    grid::columns,
    learner::{Answering, Recipe},
    report::table::Published,
    stage::Aim,
    strategy::{ConfiguredLoss, ConfiguredRefiner, ConfiguredSelector, ConfiguredSupervisor},
};

/// A grid: every task with every pair of models, every method and every seed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::grid) struct GridFile {
    /// What is run.
    grid: Unread<GridTable>,
    /// How data are read, ordered, split and cut.
    data: Option<Unread<DataTable>>,
    /// What is different about the data of one task, and about training on it, by the task's name.
    #[serde(default)]
    task: BTreeMap<String, Unread<Data>>,
    /// What is different about training on one suite, by the suite's name.
    #[serde(default)]
    suite: BTreeMap<String, Unread<SuiteTable>>,
    /// How models are trained: goes before a model's own settings.
    train: Option<Unread<Recipe>>,
    /// Methods by name; others come from `configs/methods.toml`.
    #[serde(default)]
    method: BTreeMap<String, Unread<WithColumns<MethodTable>>>,
    /// One more method for each value: a method's name → a parameter, such as `"loss.q"` → its values.
    #[serde(default)]
    sweep: BTreeMap<String, BTreeMap<String, Unread<Vec<serde_json::Value>>>>,
    /// What is different about a model of `configs/models`, or a new model, by name.
    #[serde(default)]
    model: BTreeMap<String, Unread<ModelFile>>,
    /// Where the strong model's own labels come from, for all methods that use them.
    self_labels: Option<Unread<SelfLabels>>,
    /// How the ceiling is trained.
    ceiling: Option<Unread<EndTable>>,
    /// How the weak model is trained, and every other model that a supervisor asks for.
    weak: Option<Unread<EndTable>>,
    /// How answers in words are learnt.
    words: Option<Unread<Answering>>,
    /// What is kept.
    output: Option<Unread<OutputTable>>,
    /// What a paper reports for this grid: `w2s table` shows it beside the results.
    published: Option<Unread<Published>>,
}

/// `[grid]`: what is run.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::grid) struct GridTable {
    /// Name of the folder of results; the file's name when absent.
    pub(super) name: Option<String>,
    /// One sentence for whoever lists grids.
    pub(super) title: Option<String>,
    /// Tasks: files in `configs/tasks`.
    tasks: Option<Unread<Vec<TaskName>>>,
    /// Tasks with one student: files in `configs/suites`.
    suites: Option<Unread<Vec<SuiteName>>>,
    /// Pairs of a weak and a strong model.
    pairs: Unread<Vec<PairTable>>,
    /// Methods: of this file, of `configs/methods.toml`, or losses by their own names.
    methods: Unread<Vec<MethodName>>,
    /// Seeds of data, heads and orders; 0 alone when absent.
    pub(super) seeds: Option<Vec<u64>>,
}

/// A weak and a strong model.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::grid) struct PairTable {
    /// The supervisor's model: a file in `configs/models`, or a table of this file.
    weak: Unread<ModelName>,
    /// The student's and the ceiling's model.
    strong: Unread<ModelName>,
}

/// `[output]`: what is kept.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::grid) struct OutputTable {
    /// Keep each student's weights in its stage, as files that `transformers` loads.
    pub(super) save_students: bool,
    /// After which parts of each phase a student answers the test, too, such as `[0.25, 0.5, 0.75]`; none when absent.
    pub(super) evaluate: Vec<f64>,
}

/// A method: a supervisor, a selector, a refiner and a loss.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::grid) struct MethodTable {
    /// Name in tables.
    pub(super) title: Option<String>,
    /// Who labels; the weak model, fine-tuned, when absent.
    supervisor: Option<Unread<dyn ConfiguredSupervisor>>,
    /// Who labels instead, by task.
    #[serde(default)]
    supervisors: BTreeMap<String, Unread<dyn ConfiguredSupervisor>>,
    /// Which labels are trusted; all when absent.
    selector: Option<Unread<dyn ConfiguredSelector>>,
    /// How labels are refined; not at all when absent.
    refiner: Option<Unread<dyn ConfiguredRefiner>>,
    /// What the student minimises; cross-entropy when absent.
    loss: Option<Unread<dyn ConfiguredLoss>>,
    /// Training settings of the student, before all others.
    train: Option<Unread<Recipe>>,
    /// What the student is trained on one after the other, each over what the method says of all; one phase when absent.
    phases: Option<Unread<Vec<PhaseTable>>>,
    /// Where the strong model's own labels come from, over the grid's `[self_labels]`.
    self_labels: Option<Unread<SelfLabels>>,
    /// Whether the tasks of a suite have one student; true when absent.
    pub(super) together: Option<bool>,
    /// Tasks of a suite that its student is not trained on.
    #[serde(default)]
    pub(super) without: Vec<String>,
}

/// One of a method's phases.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::grid) struct PhaseTable {
    /// What is learnt: to `answer` as the labels say, or the `text` of the examples themselves, for which no label is looked at.
    #[serde(default)]
    pub(super) aim: Aim,
    /// Which labels are trusted; the method's when absent, as are all of these.
    selector: Option<Unread<dyn ConfiguredSelector>>,
    /// How labels are refined.
    refiner: Option<Unread<dyn ConfiguredRefiner>>,
    /// What the student minimises.
    loss: Option<Unread<dyn ConfiguredLoss>>,
    /// Training settings.
    train: Option<Unread<Recipe>>,
}

/// `[ceiling]` or `[weak]`: how an end of the gap is trained, or what supervisors ask for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::grid) struct EndTable {
    /// What it is trained on one after the other; one phase when absent.
    phases: Option<Unread<Vec<EndPhaseTable>>>,
}

/// One of the phases of an end of the gap.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::grid) struct EndPhaseTable {
    /// What is learnt: to `answer` as the labels say, or the `text` of the examples themselves, for which no label is looked at.
    #[serde(default)]
    pub(super) aim: Aim,
    /// Training settings.
    train: Option<Unread<Recipe>>,
}

/// `configs/methods.toml`: methods that any grid can name.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::grid) struct MethodsFile {
    /// Methods by name.
    #[serde(default)]
    method: BTreeMap<String, Unread<WithColumns<MethodTable>>>,
}

/// `configs/suites/NAME.toml`: tasks with one student.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::grid) struct SuiteFile {
    /// Name in tables; the file's name when absent.
    pub(super) title: Option<String>,
    /// Its tasks, two at least, of one form and with as many classes: files in `configs/tasks`.
    tasks: Unread<Vec<TaskName>>,
    /// One ceiling on the truth of all its tasks (`together`), or `each` its own.
    #[serde(default)]
    pub(super) ceiling: Together,
}

/// `[suite.NAME]` of a grid.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::grid) struct SuiteTable {
    /// In place of what the suite's file says.
    pub(super) ceiling: Option<Together>,
    /// Settings of training on it, for every model.
    train: Option<Unread<Recipe>>,
    /// What is different about a model on this suite, by the model's name.
    #[serde(default)]
    pub(super) model: BTreeMap<String, super::ModelOnTask>,
}

/// A table with a key for every [column](crate::grid::columns), whose settings the column reads itself.
pub(in crate::grid) struct WithColumns<T>(PhantomData<T>);

impl<T: JsonSchema> JsonSchema for WithColumns<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> schemars::Schema {
        let mut schema = T::json_schema(generator);
        let columns: Vec<_> =
            columns::all().values().map(|column| (column.key(), (column.schema)(generator).to_value())).collect();
        if let Some(keys) = schema.get_mut("properties").and_then(|keys| keys.as_object_mut()) {
            keys.extend(columns);
        }
        schema
    }
}

/// `[data]`: [`Data`] without what belongs to one task.
struct DataTable;

impl JsonSchema for DataTable {
    fn schema_name() -> Cow<'static, str> {
        "DataTable".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> schemars::Schema {
        let mut schema = Data::json_schema(generator);
        if let Some(keys) = schema.get_mut("properties").and_then(|keys| keys.as_object_mut()) {
            keys.retain(|key, _| !OF_ONE_TASK.iter().any(|(own, _)| own == key));
        }
        schema
    }
}

/// Names of files and tables, which editors suggest: they are those of the [library](super::super::Library), and any other may be beside the grid.
macro_rules! names {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        pub(in crate::grid) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
                json_schema!({ "type": "string" })
            }
        }
    )*};
}
names! {
    /// Name of a task.
    TaskName
    /// Name of a suite.
    SuiteName
    /// Name of a model.
    ModelName
    /// Name of a method.
    MethodName
    /// Name of a world.
    WorldName
}
