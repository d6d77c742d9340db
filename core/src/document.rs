//! A TOML file whose every value knows where it stands, so that an error can point at it.

use std::{
    borrow::Cow,
    marker::PhantomData,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use crate::{
    Error, Result,
    error::{IoContext, Place},
    strategy::Probe,
};

type Value = Spanned<DeValue<'static>>;

/// A parsed TOML file, with changes from the command line merged in.
///
/// The changes are kept behind the file's own text, so that one span type serves both.
#[derive(Clone, Debug)]
pub struct Document {
    file: PathBuf,
    text: Arc<str>,
    /// Where the file ends and the command line begins.
    end_of_file: usize,
    root: Value,
}

impl Document {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// A file that cannot be read, is not UTF-8 or is not TOML.
    pub fn open(file: &Path) -> Result<Self> {
        let bytes = std::fs::read(file).path("read the configuration", file)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            Error::new(format!("not UTF-8: byte {} does not belong to any character", error.utf8_error().valid_up_to()))
                .help("save the file as UTF-8")
                .in_file(file)
        })?;
        Self::parse(file, &text)
    }

    /// Parses text; `file` is named in errors.
    ///
    /// # Errors
    /// Text that is not TOML.
    pub fn parse(file: impl Into<PathBuf>, text: &str) -> Result<Self> {
        let file = file.into();
        let table = parse_table(text).map_err(|(message, span)| {
            let twice = message.starts_with("duplicate key");
            let help = if twice { "leave one of the two out" } else { "see toml.io for how a TOML file is written" };
            Error::new(message).at(&file, text, span).help(help)
        })?;
        let span = 0..text.len();
        Ok(Self { file, text: text.into(), end_of_file: text.len(), root: Spanned::new(span, DeValue::Table(table)) })
    }

    /// Applies changes from the command line, in order: `a.b=1` changes a key or adds one, `a.b=1,2` gives a list, `~a.b` removes one.
    ///
    /// # Errors
    /// A change that does not parse, or that removes a key that is not there.
    pub fn with_overrides(mut self, overrides: &[String]) -> Result<Self> {
        for change in overrides {
            self.apply(change)?;
        }
        Ok(self)
    }

    fn apply(&mut self, change: &str) -> Result<()> {
        let refuse = |message: String| Error::new(format!("`{change}`: {message}")).in_file("command line");
        let DeValue::Table(root) = self.root.get_mut() else { return Ok(()) };
        if let Some(path) = change.strip_prefix('~') {
            let path = full_path(path.trim(), root);
            let keys: Vec<&str> = path.split('.').collect();
            let (last, parents) = keys.split_last().ok_or_else(|| refuse("names no key".into()))?;
            let mut table = root;
            for key in parents {
                table = match table.get_mut(*key).map(Spanned::get_mut) {
                    Some(DeValue::Table(inner)) => inner,
                    _ => return Err(refuse(format!("there is no table `{key}` to remove it from"))),
                };
            }
            return match table.remove(*last) {
                Some(_) => Ok(()),
                None => Err(refuse("there is nothing of that name to remove".into())),
            };
        }
        let change = change.strip_prefix('+').unwrap_or(change);
        let (path, value) = change.split_once('=').ok_or_else(|| {
            refuse("not of the form key=value".into())
                .help("write e.g. seeds=0,1 or method.selective.selector.gamma=0.7")
        })?;
        let line = readable(&full_path(path.trim(), root), value.trim());
        let offset = self.text.len() + 1;
        let mut table = parse_table(&line)
            .map_err(|(message, _)| refuse(message).help("quote strings that contain special characters"))?;
        shift_table(&mut table, offset);
        self.text = format!("{}\n{line}", self.text).into();
        merge(root, table);
        Ok(())
    }

    /// The whole file as a section.
    pub fn root(&self) -> Section<'_> {
        Section { document: self, value: &self.root, path: String::new() }
    }

    /// The file's path as the user gave it.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The file's own text, without the changes of the command line.
    pub fn source_text(&self) -> &str {
        &self.text[..self.end_of_file]
    }

    /// An error that points at a span.
    pub fn error_at(&self, span: Range<usize>, message: impl Into<String>) -> Error {
        Error::new(message).at_place(self.place(span))
    }

    /// Where a span is: in the file, or on the command line.
    fn place(&self, span: Range<usize>) -> Place {
        let (file, text, span) = if span.start > self.end_of_file {
            let text = &self.text[self.end_of_file + 1..];
            let start = span.start - self.end_of_file - 1;
            let end = span.end.saturating_sub(self.end_of_file + 1).min(text.len());
            (Path::new("command line"), text, start..end)
        } else {
            let text = &self.text[..self.end_of_file];
            (&*self.file, text, span.start..span.end.min(text.len()))
        };
        Place { file: file.into(), text: Some(text.into()), span: Some(span) }
    }
}

/// Keys of `[grid]` that fingers type without it.
const OF_GRID: [&str; 6] = ["seeds", "tasks", "suites", "methods", "pairs", "name"];

/// Where a key that was typed belongs.
fn full_path(path: &str, root: &DeTable) -> String {
    if OF_GRID.contains(&path) && root.contains_key("grid") { format!("grid.{path}") } else { path.to_owned() }
}

/// A command-line value as TOML: `0,1` is a list, and a bare word is a string.
fn readable(path: &str, value: &str) -> String {
    let one = |value: &str| {
        let parses = parse_table(&format!("v = {value}")).is_ok();
        if parses { value.to_owned() } else { format!("{:?}", value) }
    };
    let always = matches!(path, "grid.seeds" | "grid.tasks" | "grid.suites" | "grid.methods");
    let is_list = (always || value.contains(',')) && !value.starts_with(['[', '{', '"', '\'']);
    let value = if is_list {
        format!("[{}]", value.split(',').map(|item| one(item.trim())).collect::<Vec<_>>().join(", "))
    } else {
        one(value)
    };
    format!("{path} = {value}")
}

/// Parses text that lives as long as the process: a configuration is small, read once, and pointed at until the end.
fn parse_table(text: &str) -> Result<DeTable<'static>, (String, Range<usize>)> {
    let text: &'static str = Box::leak(text.to_owned().into_boxed_str());
    match DeTable::parse(text) {
        Ok(table) => Ok(table.into_inner()),
        Err(error) => Err((error.message().to_owned(), error.span().unwrap_or(0..text.len()))),
    }
}

fn shift_table(table: &mut DeTable<'static>, offset: usize) {
    let shifted = std::mem::take(table)
        .into_iter()
        .map(|(key, mut value)| {
            let span = key.span();
            shift(&mut value, offset);
            (Spanned::new(span.start + offset..span.end + offset, key.into_inner()), value)
        })
        .collect();
    *table = shifted;
}

fn shift(value: &mut Value, offset: usize) {
    let span = value.span();
    let mut inner = std::mem::replace(value.get_mut(), DeValue::Boolean(false));
    match &mut inner {
        DeValue::Table(table) => shift_table(table, offset),
        DeValue::Array(items) => {
            let mut moved: Vec<Value> = std::mem::take(items).into_iter().collect();
            moved.iter_mut().for_each(|item| shift(item, offset));
            *items = moved.into_iter().collect();
        }
        _ => {}
    }
    *value = Spanned::new(span.start + offset..span.end + offset, inner);
}

fn merge(into: &mut DeTable<'static>, from: DeTable<'static>) {
    for (key, value) in from {
        match (into.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut), value.get_ref()) {
            (Some(DeValue::Table(inner)), DeValue::Table(_)) => {
                if let DeValue::Table(table) = value.into_inner() {
                    merge(inner, table);
                }
            }
            _ => {
                into.insert(key, value);
            }
        }
    }
}

/// One value of a document, with its path.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    document: &'a Document,
    value: &'a Value,
    path: String,
}

impl<'a> Section<'a> {
    /// The dotted path from the root; empty for the root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// An error that points at this value.
    pub fn error(&self, message: impl Into<String>) -> Error {
        self.document.error_at(self.value.span(), message)
    }

    /// Where this value is.
    pub fn place(&self) -> Place {
        self.document.place(self.value.span())
    }

    fn child(&self, key: &str, value: &'a Value) -> Section<'a> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Section { document: self.document, value, path }
    }

    /// A key of this table.
    pub fn get(&self, key: &str) -> Option<Section<'a>> {
        let value = self.value.get_ref().as_table()?.get(key)?;
        Some(self.child(key, value))
    }

    /// A key that must be there.
    ///
    /// # Errors
    /// Points at the table that lacks it.
    pub fn need(&self, key: &str) -> Result<Section<'a>> {
        self.get(key).ok_or_else(|| self.lacks(key))
    }

    fn lacks(&self, key: &str) -> Error {
        let table = if self.path.is_empty() { "the file".to_owned() } else { format!("`[{}]`", self.path) };
        self.error(format!("{table} lacks `{key}`")).help(format!("add `{key} = …`"))
    }

    /// Keys and values of this table, in the order of the file.
    pub fn entries(&self) -> Vec<(String, Section<'a>)> {
        let Some(table) = self.value.get_ref().as_table() else { return Vec::new() };
        table.iter().map(|(key, value)| (key.get_ref().to_string(), self.child(key.get_ref(), value))).collect()
    }

    /// Items of this array.
    ///
    /// # Errors
    /// A value that is not an array.
    pub fn items(&self) -> Result<Vec<Section<'a>>> {
        let items = self.value.get_ref().as_array().ok_or_else(|| self.wrong_type("a list"))?;
        Ok(items
            .iter()
            .enumerate()
            .map(|(index, value)| Section { document: self.document, value, path: format!("{}[{index}]", self.path) })
            .collect())
    }

    /// This value as a string.
    ///
    /// # Errors
    /// A value that is not a string.
    pub fn text(&self) -> Result<&'a str> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong_type("a string"))
    }

    /// Whether this value is a table.
    pub fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    fn wrong_type(&self, wanted: &str) -> Error {
        let error = self.error(format!("`{}` must be {wanted}, not {}", self.path, kind_of(self.value.get_ref())));
        match how_to_write(wanted, self.document.text.get(self.value.span()).unwrap_or_default()) {
            Some(help) => error.help(help),
            None => error,
        }
    }

    /// Reads this table as a type.
    ///
    /// # Errors
    /// Points at the key or value that does not fit and says what was probably meant.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let table = self.value.get_ref().as_table().ok_or_else(|| self.wrong_type("a table"))?;
        T::deserialize(Deserializer::from(Spanned::new(self.value.span(), table.clone()))).map_err(|e| self.explain(&e))
    }

    /// The same but for some keys, which somebody else reads.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_beside<T: DeserializeOwned>(&self, others: &[String]) -> Result<T> {
        let mut table = self.value.get_ref().as_table().ok_or_else(|| self.wrong_type("a table"))?.clone();
        others.iter().for_each(|key| drop(table.remove(key.as_str())));
        T::deserialize(Deserializer::from(Spanned::new(self.value.span(), table))).map_err(|e| self.explain(&e))
    }

    /// Reads one key of this table as a type; `None` where the key is absent.
    ///
    /// # Errors
    /// Points at the value that does not fit.
    pub fn read_key<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        #[derive(Deserialize)]
        struct Only<T> {
            value: T,
        }
        let Some(section) = self.get(key) else { return Ok(None) };
        let table: DeTable<'static> =
            [(Spanned::new(section.value.span(), "value".into()), section.value.clone())].into_iter().collect();
        Only::<T>::deserialize(Deserializer::from(Spanned::new(section.value.span(), table)))
            .map(|only| Some(only.value))
            .map_err(|error| section.explain(&error))
    }

    /// Checks this table against a strategy's parameters: the concrete type knows the exact place of what does not fit.
    ///
    /// # Errors
    /// Points at the key or value that does not fit.
    pub fn probe(&self, probe: Probe) -> Result<()> {
        let mut table = self.value.get_ref().as_table().ok_or_else(|| self.wrong_type("a table"))?.clone();
        table.remove("type");
        probe(Deserializer::from(Spanned::new(self.value.span(), table))).map_err(|(_, error)| self.explain(&error))
    }

    /// This value as plain data.
    pub fn to_json(&self) -> serde_json::Value {
        to_json(self.value.get_ref())
    }

    /// This value as an ordinary TOML table, without places.
    ///
    /// # Errors
    /// A value that is not a table.
    pub fn to_table(&self) -> Result<toml::Table> {
        self.read()
    }

    /// Turns a parser's message into ours, at the parser's place.
    fn explain(&self, error: &toml::de::Error) -> Error {
        let span = error.span().filter(|span| !span.is_empty()).unwrap_or_else(|| self.value.span());
        let message = error.message().trim().to_owned();
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let name = (message.starts_with("unknown field") || message.starts_with("unknown variant"))
            .then(|| quoted.split_first())
            .flatten()
            .filter(|(_, known)| !known.is_empty())
            .map(|(bad, known)| did_you_mean(bad, known.iter().copied()));
        let value = self.document.text.get(span.clone()).unwrap_or_default();
        let (message, help) = match message.split_once(", expected ") {
            _ if message.starts_with("missing field") => match quoted.first() {
                Some(key) => return self.lacks(key),
                None => (message, None),
            },
            Some((front, _)) if name.is_some() => (front.replace("unknown field", "unknown key"), name),
            Some((_, wanted)) => (message.clone(), how_to_write(wanted, value)),
            None => (message, name),
        };
        let error = self.document.error_at(span, message);
        match help {
            Some(help) => error.help(help),
            None => error,
        }
    }
}

/// A value that is read as a `T` later, by whoever it is for, so that what does not fit is pointed at there; until then it may be anything.
/// Its schema is that of `T`.
pub struct Unread<T: ?Sized>(PhantomData<fn(&T)>);

impl<'de, T: ?Sized> Deserialize<'de> for Unread<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Self(PhantomData))
    }
}

impl<T: JsonSchema + ?Sized> JsonSchema for Unread<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// How a value of the wanted type is written, in TOML.
fn how_to_write(wanted: &str, value: &str) -> Option<String> {
    let number = value.trim_matches(['"', '\'']).parse::<f64>().ok().filter(|_| value.starts_with(['"', '\'']));
    let without_quotes = || number.map(|number| format!("write it without quotes: `{number}`"));
    let whole = |name: &str| name == "usize" || name.strip_prefix(['u', 'i']).is_some_and(|n| n.parse::<u8>().is_ok());
    Some(match wanted.split_whitespace().next()? {
        "f32" | "f64" => without_quotes().unwrap_or_else(|| "write a number, such as `0.5`".to_owned()),
        name if whole(name) => without_quotes().unwrap_or_else(|| "write a whole number, such as `2`".to_owned()),
        "struct" => "write a table: `{ key = value }`".to_owned(),
        _ => match wanted {
            "a list" | "a sequence" if !value.is_empty() && !value.contains('\n') => {
                format!("write a list: `[{value}]`")
            }
            "a list" | "a sequence" => "write a list: `[…]`".to_owned(),
            "a boolean" => "write `true` or `false`".to_owned(),
            "a string" => "write it in quotes".to_owned(),
            "a table" | "a map" => "write a table: `{ key = value }`".to_owned(),
            _ => return None,
        },
    })
}

fn kind_of(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn to_json(value: &DeValue) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => i64::from_str_radix(&number.as_str().replace('_', ""), number.radix())
            .map_or(serde_json::Value::Null, Into::into),
        DeValue::Float(number) => {
            number.as_str().replace('_', "").parse::<f64>().map_or(serde_json::Value::Null, Into::into)
        }
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Datetime(value) => value.to_string().into(),
        DeValue::Array(items) => items.iter().map(|item| to_json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let map = table.iter().map(|(key, value)| (key.get_ref().to_string(), to_json(value.get_ref())));
            serde_json::Value::Object(map.collect())
        }
    }
}

/// `did you mean X?`, or the list of what there is.
pub fn did_you_mean<'k>(bad: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let best = known
        .iter()
        .map(|name| (strsim::jaro_winkler(bad, name), *name))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None if known.is_empty() => "there is none to choose from".to_owned(),
        None => format!("choose from {}", known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Train {
        epochs: usize,
        learning_rate: f64,
    }

    impl Default for Train {
        fn default() -> Self {
            Self { epochs: 2, learning_rate: 1e-3 }
        }
    }

    const TEXT: &str = "[grid]\nseeds = [0, 1]\n\n[train]\nepochs = 3\n";

    #[test]
    fn reads_and_overrides() {
        let document = Document::parse("grid.toml", TEXT).unwrap();
        let changes = ["train.learning_rate=0.5", "seeds=3,4", "method.a.loss.type=js"].map(String::from);
        let document = document.with_overrides(&changes).unwrap();
        let train: Train = document.root().need("train").unwrap().read().unwrap();
        assert_eq!(train, Train { epochs: 3, learning_rate: 0.5 });
        let seeds: Vec<u64> = document.root().need("grid").unwrap().read_key("seeds").unwrap().unwrap();
        assert_eq!(seeds, [3, 4]);
        let one = Document::parse("grid.toml", TEXT).unwrap().with_overrides(&["seeds=7".into()]).unwrap();
        assert_eq!(one.root().need("grid").unwrap().read_key::<Vec<u64>>("seeds").unwrap().unwrap(), [7]);
        let renamed = Document::parse("grid.toml", TEXT).unwrap();
        let renamed = renamed.with_overrides(&["name=more".into(), "~seeds".into()]).unwrap();
        let grid = renamed.root().need("grid").unwrap();
        assert_eq!((grid.need("name").unwrap().text().unwrap(), grid.get("seeds").is_some()), ("more", false));
        let no_grid = Document::parse("task.toml", "").unwrap().with_overrides(&["name=more".into()]).unwrap();
        assert_eq!(no_grid.root().need("name").unwrap().text().unwrap(), "more");
        let name = document.root().get("method").unwrap().get("a").unwrap().get("loss").unwrap().get("type").unwrap();
        assert_eq!(name.text().unwrap(), "js");
        assert_eq!(name.path(), "method.a.loss.type");
    }

    #[test]
    fn removes_a_key() {
        let document = Document::parse("grid.toml", TEXT).unwrap().with_overrides(&["~train.epochs".into()]).unwrap();
        let train: Train = document.root().need("train").unwrap().read().unwrap();
        assert_eq!(train.epochs, 2);
        assert!(document.with_overrides(&["~train.nothing".into()]).is_err());
    }

    #[test]
    fn points_at_an_unknown_key() {
        let document = Document::parse("grid.toml", "[train]\nepochs = 3\nlearning_rat = 1\n").unwrap();
        let error = document.root().need("train").unwrap().read::<Train>().unwrap_err();
        assert_eq!(error.place().unwrap().line_column(), Some((3, 1)));
        assert_eq!(error.message(), "unknown key `learning_rat`");
        assert_eq!(error.remedy(), Some("did you mean `learning_rate`?"));
    }

    #[test]
    fn points_at_a_wrong_type() {
        let document = Document::parse("grid.toml", "[train]\nepochs = \"three\"\n").unwrap();
        let error = document.root().need("train").unwrap().read::<Train>().unwrap_err();
        assert_eq!(error.place().unwrap().line_column(), Some((2, 10)));
        let error = document.root().need("train").unwrap().read_key::<u32>("epochs").unwrap_err();
        assert_eq!(error.place().unwrap().line_column(), Some((2, 10)));
    }

    #[test]
    fn an_error_in_an_override_says_command_line() {
        let document = Document::parse("grid.toml", TEXT).unwrap();
        let document = document.with_overrides(&["seeds=0".into(), "train.epochs=many".into()]).unwrap();
        let error = document.root().need("train").unwrap().read::<Train>().unwrap_err();
        assert_eq!(error.place().unwrap().file, Path::new("command line"));
        assert!(error.place().unwrap().text.as_ref().unwrap().contains("train.epochs = \"many\""));
    }

    #[test]
    fn a_broken_file_points_at_the_line() {
        let error = Document::parse("grid.toml", "[grid]\nname = \n").unwrap_err();
        assert_eq!(error.place().unwrap().line_column().unwrap().0, 2);
    }
}
