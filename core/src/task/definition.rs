//! The task file: everything that makes a data set a task, so that a new data set needs no Rust.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt, fs,
    ops::Range,
    path::{Path, PathBuf},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeSeed, IntoDeserializer, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::json;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    format::Formatter,
    matching::{Matcher, Matching},
    read::Dialect,
    rules::{self, Rule},
    world::Question,
};
use crate::{
    Error, Result,
    error::{IoContext, Place},
    strategy::Form,
};

/// A task: where its rows come from, how a row becomes text, and what its label is.
///
/// Read from `configs/tasks/NAME.toml`. Keys that no field knows are errors.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Short name; the file is called `NAME.toml`. Lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// Name for tables and documentation.
    pub title: String,
    /// What is asked, and what differs from other conversions of the same data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Licence of the data.
    pub licence: String,
    /// Whom to cite for the data.
    pub citation: String,
    /// Names of the classes, in the order of their indices. Only a task that chooses among candidates or generates words has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// The text that a model reads, as a [minijinja](https://docs.rs/minijinja) template over the row's columns: what is classified, a
    /// question with one of its candidates, or the prompt that generated words follow.
    ///
    /// A coin rule and a choice add `answer`, `choices` and `number`. `{{ passage | context }}` marks the one part that may be shortened, from its
    /// left, when an example is too long for a model.
    pub template: String,
    /// A minijinja expression; rows for which it is false are left out, before anything else happens to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Whether a row that makes no example (no label, a value that is missing) is an error. Otherwise such rows are left out, counted and
    /// said, as long as they are few. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// Further names for columns: `new_name = "column"`, or a path such as `"question.stem"` into a nested column.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Columns made from a row's own: `name = "expression"`, a minijinja expression over columns and other columns made so. Made before
    /// the filter sees the row.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub compute: BTreeMap<String, String>,
    /// Column whose value rows share that belong together, such as the question of several answers, for metrics of whole groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Where the rows are.
    pub source: Source,
    /// Which of the source's splits are used for what.
    pub splits: Splits,
    /// How a row gets its label: its class, or which of its candidates is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<LabelRule>,
    /// Instead of `label`: words are generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generate: Option<Generate>,
    /// How a language model is asked the same question in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    #[serde(skip)]
    file: TaskFile,
}

/// Where a task was read, for messages and for paths relative to it.
#[derive(Clone, Debug, Default)]
struct TaskFile {
    path: PathBuf,
    text: String,
    /// Where the template is when it is not the file's own.
    template: Option<Place>,
}

/// Where rows come from: exactly one of `hub`, `path`, `files` alone, or `world`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Id of a data set on the Hugging Face hub, `organisation/name`. Local folders in the hub's layout are looked in first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// Configuration of the data set; the rows of several are put one after the other. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<OneOrMany<String>>,
    /// Commit, tag or branch on the hub. Default: `main`. Folders given by the user are taken as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// A folder in the hub's layout, or a single file; relative to the task file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Files of each split, relative to the data set or, without one, to the task file. Default: found by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, OneOrMany<String>>,
    /// What separates the fields of a table: one ASCII character. Default: a comma, in `.tsv` a tab.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// The mark around quoted fields of a table; `""` if none are, so that marks stand for themselves. Default: `"`, as RFC 4180 has it;
    /// in `.tsv` none, unless the whole file agrees that marks are quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
    /// Whether the first line of a table names its columns; or a list of names, if no line does. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<Header>,
    /// What a table or JSON is written in, such as `windows-1252` or `utf-16`. Default: UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// A generated world; the table belongs to its generator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Question>")]
    pub world: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Where the names of a table's columns are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged, expecting = "expected true, false or the names of the columns")]
pub enum Header {
    /// In the first line; if not, they are called `column_1`, `column_2` and so on.
    Line(bool),
    /// Here; the first line is a row.
    Names(Vec<String>),
}

/// Which of the source's splits are used for what: `train` and `test`, or `supervise`, `transfer` and `test`.
///
/// Several names are pooled in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    /// Rows that are halved: the first half supervises the weak model, the second is labelled by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<OneOrMany<String>>,
    /// Rows for testing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<OneOrMany<String>>,
    /// Instead of `test`: this many rows are taken out of `train`, the same for every seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_from_train: Option<usize>,
    /// Instead of `train`: rows that supervise the weak model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervise: Option<OneOrMany<String>>,
    /// Instead of `train`: rows that the weak model labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<OneOrMany<String>>,
    /// Column whose value keeps rows together: those of one question or premise are all in one half, in validation or not, and in what
    /// `test_from_train` takes or not. The halves may differ by less than a group. Default: each row stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<String>,
}

/// How a row gets its label.
#[derive(Debug)]
pub enum LabelRule {
    /// Its class is read off its columns, by one of `rules/`.
    Read(Box<dyn Rule>),
    /// One of several answers is shown; class 1 if it is the correct one.
    Coin(CoinRule),
    /// All answers are candidates, and one of them is right.
    Choose(ChooseRule),
}

impl Clone for LabelRule {
    fn clone(&self) -> Self {
        match self {
            Self::Read(rule) => Self::Read(rule.boxed()),
            Self::Coin(rule) => Self::Coin(rule.clone()),
            Self::Choose(rule) => Self::Choose(rule.clone()),
        }
    }
}

impl PartialEq for LabelRule {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Coin(own), Self::Coin(other)) => own == other,
            (Self::Choose(own), Self::Choose(other)) => own == other,
            (Self::Read(own), Self::Read(other)) => {
                matches!((serde_json::to_value(own), serde_json::to_value(other)), (Ok(own), Ok(other)) if own == other)
            }
            _ => false,
        }
    }
}

impl Serialize for LabelRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Read(rule) => rule.serialize(serializer),
            Self::Coin(rule) => serializer.serialize_newtype_variant("LabelRule", 1, "coin", rule),
            Self::Choose(rule) => serializer.serialize_newtype_variant("LabelRule", 2, "choose", rule),
        }
    }
}

impl<'de> Deserialize<'de> for LabelRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Named;

        impl<'de> Visitor<'de> for Named {
            type Value = LabelRule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table with the name of a label rule")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LabelRule, A::Error> {
                let name: String = map.next_key()?.ok_or_else(|| de::Error::custom("the label has no rule"))?;
                let known = rules::all();
                let rule = match name.as_str() {
                    "coin" => LabelRule::Coin(map.next_value()?),
                    "choose" => LabelRule::Choose(map.next_value()?),
                    name if known.iter().any(|rule| rule.name == name) => {
                        let again = Again { key: Some(name.to_owned()), rest: &mut map };
                        LabelRule::Read(Deserialize::deserialize(MapAccessDeserializer::new(again))?)
                    }
                    name => {
                        let names = known.iter().map(|rule| rule.name).chain(["coin", "choose"]);
                        let names = quoted(names.collect::<Vec<_>>());
                        return Err(de::Error::custom(format!("unknown variant `{name}`, expected one of {names}")));
                    }
                };
                match map.next_key::<String>()? {
                    None => Ok(rule),
                    Some(other) => {
                        Err(de::Error::custom(format!("a label has one rule, and `{name}` and `{other}` are two")))
                    }
                }
            }
        }

        deserializer.deserialize_map(Named)
    }
}

/// A map from which the first key was read.
struct Again<'m, A> {
    key: Option<String>,
    rest: &'m mut A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Again<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        // Others are for whoever read the first.
        self.key.take().map(|key| seed.deserialize(key.into_deserializer())).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.rest.next_value_seed(seed)
    }
}

impl JsonSchema for LabelRule {
    fn schema_name() -> Cow<'static, str> {
        "LabelRule".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut rules: Vec<(&str, Schema)> =
            rules::all().into_iter().map(|rule| (rule.name, (rule.schema)(generator))).collect();
        rules.push(("coin", generator.subschema_for::<CoinRule>()));
        rules.push(("choose", generator.subschema_for::<ChooseRule>()));
        let one = |(name, table): (&str, Schema)| json!({ "type": "object", "properties": { name: table }, "required": [name], "additionalProperties": false });
        json_schema!({ "description": "How a row gets its label.", "oneOf": rules.into_iter().map(one).collect::<Vec<_>>() })
    }
}

impl LabelRule {
    /// Where the answers are, if the rule is about answers.
    pub(super) fn among(&self) -> Option<Among<'_>> {
        match self {
            Self::Read(_) => None,
            Self::Coin(CoinRule { correct, wrong, choices, answer, keys, .. })
            | Self::Choose(ChooseRule { correct, wrong, choices, answer, keys, .. }) => Some(Among {
                rule: if matches!(self, Self::Coin(_)) { "coin" } else { "choose" },
                correct: correct.as_deref(),
                wrong: wrong.as_ref(),
                choices: choices.as_ref(),
                answer: answer.as_deref(),
                keys: keys.as_ref(),
            }),
        }
    }
}

/// The columns of a row's answers, as `coin` and `choose` say them alike.
#[derive(Clone, Copy)]
pub(super) struct Among<'a> {
    /// The key of the rule.
    pub rule: &'static str,
    pub correct: Option<&'a str>,
    pub wrong: Option<&'a OneOrMany<String>>,
    pub choices: Option<&'a OneOrMany<String>>,
    pub answer: Option<&'a str>,
    pub keys: Option<&'a OneOrMany<String>>,
}

impl<'a> Among<'a> {
    /// The columns that are named, each with its key.
    pub fn columns(&self) -> Vec<(&'static str, &'a str)> {
        let many =
            |names: Option<&'a OneOrMany<String>>| names.into_iter().flat_map(OneOrMany::as_slice).map(String::as_str);
        let mut columns: Vec<(&'static str, &'a str)> = Vec::new();
        columns.extend(self.correct.map(|path| ("correct", path)));
        columns.extend(many(self.wrong).map(|path| ("wrong", path)));
        columns.extend(many(self.choices).map(|path| ("choices", path)));
        columns.extend(self.answer.map(|path| ("answer", path)));
        if let Some(OneOrMany::One(path)) = self.keys {
            columns.push(("keys", path));
        }
        columns
    }
}

/// One of several answers is shown; class 1 if it is the correct one.
///
/// A coin decides whether it is the correct one, then, if not, a wrong one is drawn (no draw if there is only one other choice). What reads
/// like the correct answer is never shown as a wrong one, and a choice that is null or empty is none. The template gets `answer` (the answer
/// shown), `choices` (all of them) and `number` (the place of the answer among the choices, from 1).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CoinRule {
    /// Column of the correct answer. Otherwise `answer` says which choice is correct.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correct: Option<String>,
    /// Columns of wrong answers, or one column that holds a list of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong: Option<OneOrMany<String>>,
    /// Columns of all answers, or one column that holds a list of them. All but the correct one are wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<OneOrMany<String>>,
    /// Column that says which choice is correct.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// What `answer` calls the choices: a list, or a column that holds one. Default: 0, 1, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<OneOrMany<String>>,
    /// A correct answer that contains this is never shown as correct: no coin is drawn, and a wrong answer is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub never_correct: Option<String>,
    /// Whether the choices are put in random order (after the coin, before the wrong answer is drawn). Default: false.
    #[serde(default)]
    pub shuffle: bool,
    /// What a wrong one of the `choices` is drawn from, which matters where one of them reads like the correct one. Default: `place` for
    /// the order `eleuther`, `text` for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draw: Option<Draw>,
}

/// All answers are candidates, and one of them is right: a pair of replies, several choices.
///
/// The template is rendered once for each candidate, with `answer` (the candidate), `choices` (all of them) and `number` (its place, from 1).
/// A choice that is null, empty, or reads like another one is no candidate of its own. Which columns hold the answers is said as for a coin.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChooseRule {
    /// Column of the right candidate. Otherwise `answer` says which choice is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correct: Option<String>,
    /// Columns of the other candidates, or one column that holds a list of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong: Option<OneOrMany<String>>,
    /// Columns of all candidates, or one column that holds a list of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<OneOrMany<String>>,
    /// Column that says which choice is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// What `answer` calls the choices: a list, or a column that holds one. Default: 0, 1, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<OneOrMany<String>>,
    /// Whether the candidates are put in random order, another one for each row and seed. Default: true with `wrong`, where the right one
    /// would always be the first; false with `choices`, which keep the data's order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shuffle: Option<bool>,
    /// Column of the probability that the right candidate is the better one of two (from 0.5 to 1), or of a list with a probability for
    /// each candidate, in the order of the data. Default: the right one for certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<String>,
    /// Column that says by how much the right candidate is better, at least 0. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<String>,
}

impl ChooseRule {
    /// Whether the candidates are put in random order.
    pub(super) fn shuffles(&self) -> bool {
        self.shuffle.unwrap_or(self.wrong.is_some())
    }
}

/// Words are generated after the template, learnt from a reference, and compared by the answer in them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// Template of what is learnt. It follows the task's template directly, so it begins with the blank that parts them, if one does; it
    /// may hold a chain of thought before the answer.
    pub reference: String,
    /// How the answer is found in a text, and when two answers are the same. Default: the whole text, as it is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub answer: Matching,
    /// Most tokens that are generated. Default: 256.
    #[serde(default = "Generate::most_tokens")]
    pub max_new_tokens: usize,
    /// Texts at which an answer ends, beside the model's own end. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

impl Generate {
    fn most_tokens() -> usize {
        256
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a wrong answer is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Draw {
    /// The choices at all other places, as most formats of EleutherAI/w2s have it. One that reads like the correct answer is passed over
    /// for the next that does not, which no other row's draw depends on.
    Place,
    /// The choices that read differently, as openai/weak-to-strong has it.
    Text,
}

/// How a language model is asked the same question in words, for few-shot prompts and self-labels.
///
/// Of a task that chooses it asks for one of the candidates, and shows none.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// What stands once before the first question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// The question as a template; it ends where the answer begins. Variables as in the task's template.
    pub template: String,
    /// What the model says for each class, in the order of `classes`; a list where several words mean the class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<OneOrMany<String>>,
    /// Template of the answer that is right for the row, where a class has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// One value, or a list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// As a slice.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl Task {
    /// Reads a task file. Its stem has to be the task's name.
    pub fn open(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).path("read the task", path)?;
        Self::parse(&text, path)?.named_as_its_file()
    }

    /// Refuses a task whose file has another name: grids find it by the one, and results name it by the other.
    pub(crate) fn named_as_its_file(self) -> Result<Self> {
        let path = &self.file.path;
        if path.file_stem().is_some_and(|stem| stem != self.name.as_str()) {
            let message = format!("the task calls itself `{}`, its file `{}`", self.name, path.display());
            return Err(self.wrong(&["name"], message).help("call both the same"));
        }
        Ok(self)
    }

    /// Parses and checks a task; `path` is used in messages and for paths relative to it.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let mut task: Self = toml::from_str(text).map_err(|cause| {
            let cause = label_fault(text).unwrap_or(cause);
            let error = Error::new(cause.message().trim_end()).context("not a task");
            let error = match did_you_mean(cause.message()) {
                _ if cause.message().starts_with("unknown field `metric`") => {
                    error.help("leave it out: `w2s table --metric NAME` says what a table shows")
                }
                Some(help) => error.help(help),
                None => error,
            };
            match cause.span() {
                Some(span) => error.at(path, text, span),
                None => error.in_file(path),
            }
        })?;
        task.file = TaskFile { path: path.into(), text: text.into(), template: None };
        task.check()?;
        Ok(task)
    }

    /// The same task with another template, which stands at `place`.
    ///
    /// # Errors
    /// It does not parse.
    pub fn with_template(mut self, template: &str, place: Place) -> Result<Self> {
        template.clone_into(&mut self.template);
        self.file.template = Some(place);
        Formatter::new(&self)?;
        Ok(self)
    }

    /// Short name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What strategies are asked about. How many candidates a choice has is known once there are examples, and 0 until then.
    pub fn form(&self) -> Form {
        match (&self.generate, &self.label) {
            (Some(_), _) => Form::Words,
            (None, Some(LabelRule::Choose(_))) => Form::Candidates(0),
            (None, _) => Form::Classes(self.classes.len()),
        }
    }

    /// Whether it says how a language model is asked for one of its answers.
    pub fn is_asked(&self) -> bool {
        self.prompt.as_ref().is_some_and(|prompt| !prompt.answers.is_empty())
    }

    /// Whether it asks for one of fixed classes.
    pub fn is_classification(&self) -> bool {
        self.generate.is_none() && !matches!(self.label, Some(LabelRule::Choose(_)))
    }

    /// The folder that relative paths start from.
    pub(super) fn folder(&self) -> &Path {
        self.file.path.parent().unwrap_or(Path::new(""))
    }

    /// An error about a key of the task file.
    pub(super) fn wrong(&self, keys: &[&str], message: impl Into<String>) -> Error {
        self.locate(keys, Error::new(message))
    }

    /// Points an error at a key of the task file.
    pub(super) fn locate(&self, keys: &[&str], error: Error) -> Error {
        if let (["template"], Some(place)) = (keys, &self.file.template) {
            return error.at_place(place.clone());
        }
        match span(&self.file.text, keys) {
            Some(span) => error.at(&self.file.path, self.file.text.as_str(), span),
            None => error.in_file(&self.file.path),
        }
    }

    /// Whether a task may be called so.
    ///
    /// # Errors
    /// It may not.
    pub fn check_name(name: &str) -> Result<()> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(Error::new(format!("`{name}` is not a task's name"))
                .help("use lower-case letters, digits, `-` and `_`"));
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        Self::check_name(&self.name).map_err(|error| self.locate(&["name"], error))?;
        let shown = [("title", &self.title), ("licence", &self.licence), ("citation", &self.citation)];
        let shown = shown.into_iter().chain(self.classes.iter().map(|class| ("classes", class)));
        if let Some((key, text)) = shown.into_iter().find(|(_, text)| text.contains(char::is_control)) {
            let message = format!("`{}` cannot be shown in a table", text.escape_debug());
            return Err(self.wrong(&[key], message).help("leave line ends and the like out"));
        }
        self.check_source()?;
        self.check_splits()?;
        self.check_label()?;
        self.check_generate()?;
        self.check_prompt()?;
        Formatter::new(self).map(drop)
    }

    fn check_source(&self) -> Result<()> {
        let source = &self.source;
        Dialect::of(source).map_err(|(key, error)| self.locate(&["source", key], error))?;
        let named: Vec<&str> =
            [("hub", source.hub.is_some()), ("path", source.path.is_some()), ("world", source.world.is_some())]
                .into_iter()
                .filter_map(|(name, given)| given.then_some(name))
                .collect();
        match named[..] {
            [] if source.files.is_empty() => Err(self
                .wrong(&["source"], "the source says nothing")
                .help("give one of `hub`, `path`, `files` and `world`")),
            [first, second, ..] => Err(self
                .wrong(&["source", second], format!("the source gives both `{first}` and `{second}`"))
                .help("give one of them")),
            ["hub"] => {
                let id = source.hub.as_deref().unwrap_or_default();
                let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', ':']);
                if id.split('/').count() > 2 || !id.split('/').all(part) {
                    let message = format!("`{id}` is not the id of a data set on the hub");
                    return Err(self.wrong(&["source", "hub"], message).help("ids look like `organisation/name`"));
                }
                Ok(())
            }
            _ => match (&source.revision, &source.world) {
                (Some(_), _) => Err(self.wrong(&["source", "revision"], "`revision` belongs to `hub`")),
                (None, Some(_)) if !source.files.is_empty() || source.config.is_some() => {
                    Err(self.wrong(&["source"], "a generated world has neither `files` nor `config`"))
                }
                _ => Ok(()),
            },
        }
    }

    fn check_splits(&self) -> Result<()> {
        let splits = &self.splits;
        let explicit = splits.supervise.is_some() && splits.transfer.is_some() && splits.test.is_some();
        let halved = splits.train.is_some() && (splits.test.is_some() != splits.test_from_train.is_some());
        let mixed = splits.train.is_some() || splits.test_from_train.is_some();
        if !(halved && splits.supervise.is_none() && splits.transfer.is_none() || explicit && !mixed) {
            return Err(self.wrong(&["splits"], "the splits do not say which rows are trained and tested on").help(
                "give `train` and `test`, `train` and `test_from_train`, or `supervise`, `transfer` and `test`",
            ));
        }
        let all = [&splits.train, &splits.test, &splits.supervise, &splits.transfer];
        let names: Vec<&String> = all.into_iter().flatten().flat_map(OneOrMany::as_slice).collect();
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                return Err(self.wrong(&["splits"], format!("the split `{name}` is used twice")));
            }
            if name.trim().is_empty() || name.contains(char::is_control) {
                let message = format!("`{}` is not the name of a split", name.escape_debug());
                return Err(self
                    .wrong(&["splits"], message)
                    .help("splits are called `train`, `validation`, `test`, …"));
            }
        }
        if splits.together.as_ref().is_some_and(|column| column.trim().is_empty()) {
            return Err(self.wrong(&["splits", "together"], "`together` names no column"));
        }
        if names.is_empty() || all.into_iter().flatten().any(|names| names.as_slice().is_empty()) {
            return Err(self.wrong(&["splits"], "a list of splits is empty"));
        }
        Ok(())
    }

    fn check_label(&self) -> Result<()> {
        let Some(rule) = &self.label else {
            return match (&self.generate, &self.prompt) {
                (Some(_), _) if self.classes.is_empty() => Ok(()),
                (Some(_), _) => Err(self
                    .wrong(&["classes"], "a task that generates words has no classes")
                    .help("leave `classes` out, or give a `[label.column]`, `[label.equals]` or `[label.coin]` in place of `[generate]`")),
                (None, Some(Prompt { reference: Some(_), .. })) if self.classes.is_empty() => Err(self
                    .wrong(&["prompt", "reference"], "the task says nowhere what a row's label is")
                    .help("a task that generates words says so by `[generate]`: move `reference` there, and the prompt into the task's `template`")),
                _ => Err(self
                    .wrong(&["classes"], "the task says nowhere what a row's label is")
                    .help("give it a `[label.column]`, `[label.equals]` or `[label.coin]`; a `[label.choose]` and no `classes`; or, for generation, a `[generate]` and no `classes`")),
            };
        };
        if self.generate.is_some() {
            return Err(self
                .wrong(&["generate"], "the task has both a `[label]` and `[generate]`")
                .help("give one of the two: a label to choose, or a reference to generate; two files make two tasks of one data set"));
        }
        if let Some(among) = rule.among() {
            let forms = (
                among.correct.is_some(),
                among.wrong.is_some(),
                among.choices.is_some(),
                among.answer.is_some(),
                among.keys.is_some(),
            );
            if !matches!(
                forms,
                (true, true, false, false, false) | (true, false, true, false, false) | (false, false, true, true, _)
            ) {
                return Err(self
                    .wrong(&["label", among.rule], "the rule does not say which answers are correct and wrong")
                    .help(
                        "give `correct` and `wrong`, `correct` and `choices`, or `choices` and `answer` (with `keys`)",
                    ));
            }
        }
        if let LabelRule::Choose(_) = rule {
            return match self.classes.is_empty() {
                true => Ok(()),
                false => Err(self
                    .wrong(&["classes"], "a task that chooses among candidates has no classes")
                    .help("leave `classes` out, or show one of the answers with `[label.coin]`")),
            };
        }
        if self.classes.len() < 2 || self.classes.len() > usize::from(u8::MAX) {
            return Err(self.wrong(&["classes"], format!("{} classes are no classification", self.classes.len())));
        }
        if let Some(twice) = self.classes.iter().enumerate().find(|(i, name)| self.classes[..*i].contains(name)) {
            return Err(self.wrong(&["classes"], format!("the class `{}` is there twice", twice.1)));
        }
        match rule {
            LabelRule::Read(rule) => rule.check(&self.classes).map_err(|(keys, error)| {
                let keys = [vec!["label", rule.typetag_name()], keys].concat();
                self.locate(&keys, error)
            }),
            LabelRule::Coin(_) | LabelRule::Choose(_) => {
                rules::two_classes(&self.classes).map_err(|(_, error)| self.locate(&["label", "coin"], error))
            }
        }
    }

    fn check_generate(&self) -> Result<()> {
        let Some(Generate { answer, max_new_tokens, stop, .. }) = &self.generate else { return Ok(()) };
        Matcher::located(answer).map_err(|(keys, error)| {
            let keys = [&["generate", "answer"], keys].concat();
            self.locate(&keys, error)
        })?;
        if *max_new_tokens == 0 {
            return Err(self.wrong(&["generate", "max_new_tokens"], "an answer needs at least 1 token"));
        }
        if stop.iter().any(String::is_empty) {
            let message = "a text at which answers end is empty, so every answer would be";
            return Err(self.wrong(&["generate", "stop"], message));
        }
        Ok(())
    }

    fn check_prompt(&self) -> Result<()> {
        let Some(prompt) = &self.prompt else { return Ok(()) };
        if self.generate.is_some() && prompt.reference.is_some() {
            let message = "the reference is given twice, here and under `[generate]`";
            return Err(self.wrong(&["prompt", "reference"], message).help("leave this one out"));
        }
        let (answers, classes) = (prompt.answers.len(), self.classes.len());
        if answers != 0 && answers != classes {
            let message = format!("{answers} answers for {classes} classes");
            return Err(self
                .wrong(&["prompt", "answers"], message)
                .help("give one answer, or one list, for each class"));
        }
        if prompt.answers.iter().any(|words| words.as_slice().is_empty()) {
            return Err(self.wrong(&["prompt", "answers"], "a class has no answer"));
        }
        Ok(())
    }
}

/// What is wrong with the table of a label rule, at its place: by way of the trait that is lost.
fn label_fault(text: &str) -> Option<toml::de::Error> {
    let root = DeTable::parse(text).ok()?;
    let (name, value) = root.get_ref().get("label")?.get_ref().as_table()?.iter().next()?;
    let rule = rules::all().into_iter().find(|rule| rule.name == name.get_ref().as_ref())?;
    let table = value.get_ref().as_table()?.clone();
    (rule.probe)(toml::de::Deserializer::from(Spanned::new(value.span(), table))).err()
}

/// Byte range of the value at `keys`, or of the nearest table that encloses it.
fn span(text: &str, keys: &[&str]) -> Option<Range<usize>> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut found = None;
    for key in keys {
        let Some(value) = table.get(*key) else { break };
        found = Some(value.span());
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    found
}

/// The nearest of the alternatives that a serde message lists.
fn did_you_mean(message: &str) -> Option<String> {
    let mut names = message.split('`').skip(1).step_by(2);
    let word = names.next()?;
    let expected: Vec<&str> = message.split_once("expected")?.1.split('`').skip(1).step_by(2).collect();
    nearest(word, expected).map(|name| format!("did you mean `{name}`?"))
}

/// The candidate that `word` was probably meant to be.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let score = |candidate: &str| strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase());
    candidates
        .into_iter()
        .map(|candidate| (score(candidate), candidate))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Names in backticks, separated by commas.
pub(super) fn quoted<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    names.into_iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// A scalar as text, the same for `1`, `"1"` and `1` read from CSV.
pub(super) fn shown(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) => Some(value.to_string()),
        _ => None,
    }
}
