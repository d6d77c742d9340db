//! A task file for data that nobody has described yet: what the columns hold, and a guess at what is text and what is label.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::File,
    path::Path,
};

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use super::{
    Row, Rows as Opened,
    definition::{nearest, quoted, shown},
    label::{misnumbered, plain},
    read::Dialect,
    rows::InMemory as Rows,
};
use crate::{Error, Result};

/// Rows that are looked at.
const ENOUGH: usize = 100_000;
/// Different values of a column that are kept; a label has fewer.
const MANY: usize = 256;
/// Most classes that are guessed; more have to be asked for.
const LIKELY_CLASSES: usize = 20;
/// Most rows that are taken out for testing, and how many times fewer than there are.
const TEST: (usize, usize) = (5000, 5);

const LABELS: [&str; 14] = [
    "label",
    "labels",
    "class",
    "target",
    "gold",
    "gold_label",
    "answer",
    "answerkey",
    "correct_answer_id",
    "sentiment",
    "category",
    "stance",
    "rating",
    "y",
];
/// Columns that explain the label would give it away.
const EXPLANATIONS: [&str; 5] = ["explanation", "rationale", "reason", "justification", "solution"];
/// What columns are called that tell where a row comes from.
const ORIGINS: [&str; 12] = [
    "split",
    "split_type",
    "source",
    "source_id",
    "dataset",
    "domain",
    "language",
    "lang",
    "author",
    "annotator",
    "date",
    "licence",
];
/// Names of what is better, so that it becomes class 1.
const POSITIVE: [&str; 12] = [
    "yes",
    "true",
    "positive",
    "correct",
    "right",
    "good",
    "valid",
    "entailment",
    "acceptable",
    "plausible",
    "chosen",
    "pos",
];
/// What columns with answers to choose from are called, or begin with.
const OFFERS: [&str; 8] = ["choice", "option", "answer", "ending", "candidate", "alternative", "sol", "q_op"];
/// Words that mean something else in a template.
const RESERVED: [&str; 20] = [
    "and",
    "answer",
    "choices",
    "debug",
    "dict",
    "else",
    "false",
    "for",
    "if",
    "in",
    "is",
    "lipsum",
    "loop",
    "namespace",
    "none",
    "not",
    "number",
    "or",
    "range",
    "true",
];

/// Columns that hold what a model should write, if no other is named.
const WRITTEN: [&str; 9] =
    ["answer", "reference", "target", "output", "response", "completion", "solution", "correct_answer", "summary"];

/// The form of the task that is drafted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DraftForm {
    /// One of a few classes.
    #[default]
    Classify,
    /// One of several candidates.
    Choose,
    /// Words.
    Generate,
}

/// What a draft is to say.
#[derive(Clone, Copy, Debug)]
pub struct DraftOptions<'a> {
    /// The task's name.
    pub name: &'a str,
    /// How the task file has to write the path of the data.
    pub path: &'a str,
    /// The column to show, if it shall not be guessed.
    pub text: Option<&'a str>,
    /// The column of the label, or of the words to generate, if it shall not be guessed.
    pub label: Option<&'a str>,
    /// What the task asks for.
    pub form: DraftForm,
}

/// Writes a task file for a data file.
///
/// # Errors
/// Data that cannot be read, that are too few, or in which nothing looks like a label.
pub fn draft(file: &Path, options: &DraftOptions) -> Result<String> {
    let rows = Opened::open(file, &file.to_string_lossy(), &Dialect::default(), Some(ENOUGH))?.read_whole()?;
    let count = rows.rows.len();
    if count < 3 {
        return Err(Error::new(format!("the file has {count} rows: too few to train and test on")).in_file(file));
    }
    let columns = summarise(&rows);
    for (what, name) in [("--text", options.text), ("--label", options.label)] {
        if let Some(name) = name
            && !columns.iter().any(|column| column.name == name)
        {
            let names = || columns.iter().map(|column| column.name.as_str());
            let help = match nearest(name, names()) {
                Some(near) => format!("did you mean `{near}`? The columns are {}", quoted(names())),
                None => format!("the columns are {}", quoted(names())),
            };
            return Err(Error::new(format!("{what}: the data have no column `{name}`")).in_file(file).help(help));
        }
    }
    let mut writer = Writer { columns: &columns, aliases: BTreeMap::new() };
    let label = match (options.form, options.label) {
        (DraftForm::Generate, name) => writer.words(&rows, name),
        (DraftForm::Choose, Some(_)) => {
            Err(Error::new("the candidates of a choice are guessed, and no column is their label")
                .help("leave `--label` out; the draft is there to be corrected"))
        }
        (DraftForm::Choose, None) => guess(&rows, &columns, &class_names(file)).and_then(choice),
        (DraftForm::Classify, Some(name)) => {
            from_column(columns.iter().find(|column| column.name == name), &class_names(file))
        }
        (DraftForm::Classify, None) => guess(&rows, &columns, &class_names(file)),
    };
    let label = label.map_err(|error| error.in_file(file))?;
    Ok(writer.write(&rows, &label, options))
}

/// What a column holds.
struct Column {
    /// Its name, or a path into a table.
    name: String,
    kind: Kind,
    /// Rows in which it has no value, or an empty text.
    missing: usize,
    /// Its values as text, up to [`MANY`].
    distinct: BTreeSet<String>,
    /// Of a list: whether texts are in it.
    texts: bool,
    /// Words of a value on average.
    words: f64,
    /// Something that it holds.
    example: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Truth,
    Integer,
    Number,
    Text,
    List,
    Other,
}

impl Kind {
    fn of(value: &Value) -> Self {
        match value {
            Value::Bool(_) => Self::Truth,
            Value::Number(number) if number.is_i64() || number.is_u64() => Self::Integer,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::Text,
            Value::Array(items) if items.iter().all(|item| shown(item).is_some() || item.is_null()) => Self::List,
            _ => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Truth => "true or false",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Text => "text",
            Self::List => "list",
            Self::Other => "mixed or nested",
        }
    }
}

impl Column {
    /// Its name without the table and in lower case.
    fn short(&self) -> String {
        self.name.rsplit('.').next().unwrap_or_default().to_lowercase()
    }

    /// Its values, if all are whole numbers, also as texts or as `1.0`.
    fn integers(&self) -> Option<BTreeSet<i64>> {
        (!self.distinct.is_empty())
            .then(|| self.distinct.iter().map(|value| plain(value).parse().ok()).collect())
            .flatten()
    }

    /// A value as it stands in the data.
    fn written(&self, value: &str) -> Option<String> {
        self.distinct.iter().find(|text| plain(text) == value).cloned()
    }

    fn is_id(&self) -> bool {
        let short = self.short();
        ["id", "idx", "index", "url", "uuid", "guid", "qid"]
            .iter()
            .any(|word| short == *word || short.ends_with(&format!("_{word}")))
            || self.name.ends_with("Id")
    }
}

/// The columns, and those inside of tables, in order.
fn summarise(rows: &Rows) -> Vec<Column> {
    let mut names = Vec::new();
    for name in &rows.columns {
        let inner = rows.rows.iter().find_map(|(_, row)| row.get(name)?.as_object());
        match inner {
            Some(table) => names.extend(table.keys().map(|key| format!("{name}.{key}"))),
            None => names.push(name.clone()),
        }
    }
    names.into_iter().map(|name| column(rows, name)).collect()
}

fn find<'r>(row: &'r Row, name: &str) -> Option<&'r Value> {
    let value = match row.get(name) {
        Some(value) => value,
        None => {
            let (table, key) = name.split_once('.')?;
            row.get(table)?.get(key)?
        }
    };
    (!value.is_null()).then_some(value)
}

fn column(rows: &Rows, name: String) -> Column {
    let mut kinds = Vec::new();
    let (mut distinct, mut words, mut missing, mut texts) = (BTreeSet::new(), 0, 0, false);
    let mut example = String::new();
    for (_, row) in &rows.rows {
        let value = find(row, &name);
        let Some(value) = value.filter(|value| value.as_str() != Some("")) else {
            missing += 1;
            continue;
        };
        let kind = Kind::of(value);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
        texts |= value.as_array().is_some_and(|items| items.iter().any(Value::is_string));
        let text = shown(value).unwrap_or_else(|| value.to_string());
        words += text.split_whitespace().count();
        if example.is_empty() {
            example.clone_from(&text);
        }
        if distinct.len() <= MANY {
            distinct.insert(text);
        }
    }
    let kind = match kinds[..] {
        [only] => only,
        [Kind::Integer, Kind::Number] | [Kind::Number, Kind::Integer] => Kind::Number,
        _ => Kind::Other,
    };
    let values = rows.rows.len() - missing;
    Column { name, kind, missing, distinct, texts, words: words as f64 / values.max(1) as f64, example }
}

/// How rows get their label, as a task file says it.
struct Label {
    /// The lines of `[label.…]`.
    lines: Vec<String>,
    classes: Vec<String>,
    /// Columns that must not be shown, since they are or tell the label.
    uses: Vec<String>,
    /// Column and value of rows that have no label.
    unlabelled: Option<(String, Option<String>)>,
    /// Columns of which one has to differ from the other for there to be a label.
    differ: Option<(String, String)>,
    form: Form,
    /// Why it was guessed, and what to look at.
    why: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// A column holds the label.
    Column,
    /// One of several answers is shown.
    Answer,
    /// Two texts are compared.
    Pair,
    /// One of several answers is right; all are candidates.
    Choice,
    /// One of two texts is the better one; both are candidates.
    Reply,
    /// Words are generated.
    Words,
}

fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn list<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    format!("[{}]", items.into_iter().map(|item| quote(item.as_ref())).collect::<Vec<_>>().join(", "))
}

/// The names of classes that the `datasets` library keeps in a Parquet file, by column.
fn class_names(file: &Path) -> BTreeMap<String, Vec<String>> {
    let read = || {
        let reader = SerializedFileReader::new(File::open(file).ok()?).ok()?;
        let pairs = reader.metadata().file_metadata().key_value_metadata()?;
        let text = pairs.iter().find(|pair| pair.key == "huggingface")?.value.as_ref()?;
        serde_json::from_str::<Value>(text).ok()
    };
    let Some(about) = read() else { return BTreeMap::new() };
    let features = about["info"]["features"].as_object().into_iter().flatten();
    let names = |feature: &Value| {
        feature["names"].as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    };
    features.filter_map(|(column, feature)| Some((column.clone(), names(feature)?))).collect()
}

fn from_column(column: Option<&Column>, names: &BTreeMap<String, Vec<String>>) -> Result<Label> {
    let Some(column) = column else { return Err(Error::new("there is no such column")) };
    let name = &column.name;
    let mut unlabelled = (column.missing > 0).then(|| (name.clone(), None));
    let mut values: Vec<String> = column.distinct.iter().cloned().collect();
    let mut lines = vec!["[label.column]".to_owned(), format!("name = {}", quote(name))];
    let mut why = format!("`{name}` is the label");
    if values.len() > usize::from(u8::MAX) {
        return Err(Error::new(format!("`{name}` has too many different values for a label"))
            .help("name another column with `--label`"));
    }
    let spelled = |classes: &[String], names: &[String]| {
        let pairs = classes.iter().zip(names).map(|(class, name)| format!("{} = {}", quote(class), quote(name)));
        format!("values = {{ {} }}", pairs.collect::<Vec<_>>().join(", "))
    };
    let classes = match column.integers() {
        _ if column.kind == Kind::Truth => vec!["no".to_owned(), "yes".to_owned()],
        Some(mut integers) => {
            if integers.remove(&-1) {
                unlabelled = Some((name.clone(), column.written("-1")));
            }
            let count = integers.len();
            match names.get(name) {
                Some(names)
                    if count > 1 && integers.iter().all(|n| usize::try_from(*n).is_ok_and(|n| n < names.len())) =>
                {
                    why.push_str("; the names of the classes are those in the file");
                    if misnumbered(names) {
                        let numbers: Vec<String> = (0..names.len()).map(|n| n.to_string()).collect();
                        lines.push(spelled(&numbers, names));
                    }
                    names.clone()
                }
                _ if integers.iter().copied().eq(0..count as i64) => {
                    why.push_str("; give the classes names");
                    integers.iter().map(i64::to_string).collect()
                }
                _ => {
                    let classes: Vec<String> = integers.iter().map(i64::to_string).collect();
                    lines.push(spelled(&classes, &classes));
                    why.push_str("; give the classes names, here and under `classes`");
                    classes
                }
            }
        }
        None if matches!(column.kind, Kind::Text) => {
            let positive = |value: &String| POSITIVE.contains(&value.to_lowercase().as_str());
            if values.len() == 2 && positive(&values[0]) && !positive(&values[1]) {
                values.reverse();
            }
            why.push_str("; put the classes in the order that you want, class 1 of two is the positive one");
            values
        }
        None => {
            return Err(Error::new(format!("`{name}` holds {}, which is no label", column.kind.name()))
                .help("name another column with `--label`"));
        }
    };
    if classes.len() < 2 {
        return Err(
            Error::new(format!("`{name}` has the same value in every row")).help("name another column with `--label`")
        );
    }
    Ok(Label { lines, classes, uses: vec![name.clone()], unlabelled, differ: None, form: Form::Column, why })
}

fn answers(lines: Vec<String>, uses: Vec<String>, form: Form, why: String) -> Label {
    let classes = if form == Form::Pair { ["B", "A"] } else { ["incorrect", "correct"] };
    let mut all = vec!["[label.coin]".to_owned()];
    all.extend(lines);
    Label { lines: all, classes: classes.map(str::to_owned).into(), uses, unlabelled: None, differ: None, form, why }
}

/// The same answers as candidates.
fn choice(label: Label) -> Result<Label> {
    let form = match label.form {
        Form::Answer => Form::Choice,
        Form::Pair => Form::Reply,
        _ => {
            return Err(Error::new("nothing looks like answers to choose among").help(
                "columns such as `chosen` and `rejected`, a list of `choices` with the `answer`, or `correct_answer` with `distractor1` are found",
            ));
        }
    };
    let lines = label.lines.iter().filter(|line| *line != "shuffle = true");
    let lines = lines.map(|line| line.replace("[label.coin]", "[label.choose]")).collect();
    let why = label.why.replace("; A is the one that is asked about", "");
    Ok(Label { lines, classes: Vec::new(), form, why, ..label })
}

/// The likeliest label.
fn guess(rows: &Rows, columns: &[Column], names: &BTreeMap<String, Vec<String>>) -> Result<Label> {
    let named = |word: &str| columns.iter().find(|column| column.kind == Kind::Text && column.short() == word);
    if let (Some(better), Some(worse)) = (named("chosen"), named("rejected")) {
        let (better, worse) = (&better.name, &worse.name);
        let lines =
            vec![format!("correct = {}", quote(better)), format!("wrong = {}", quote(worse)), "shuffle = true".into()];
        let mut why = format!("`{better}` is better than `{worse}`; A is the one that is asked about");
        let alike = rows.rows.iter().filter(|(_, row)| find(row, better) == find(row, worse)).count();
        let differ = (alike > 0).then(|| (better.clone(), worse.clone()));
        if alike > 0 {
            let _ = write!(why, "; {alike} rows in which both are the same are left out");
        }
        return Ok(Label { differ, ..answers(lines, vec![better.clone(), worse.clone()], Form::Pair, why) });
    }
    let short = |prefixes: &[&str]| -> Vec<&Column> {
        let begins = |column: &&Column| {
            matches!(column.kind, Kind::Text | Kind::List)
                && prefixes.iter().any(|prefix| column.short().starts_with(prefix))
        };
        columns.iter().filter(begins).collect()
    };
    let wrong = short(&["distractor", "wrong", "incorrect"]);
    if let (Some(right), false) = (short(&["correct"]).first(), wrong.is_empty()) {
        let wrong: Vec<String> = wrong.into_iter().map(|column| column.name.clone()).collect();
        let lines = vec![format!("correct = {}", quote(&right.name)), format!("wrong = {}", list(&wrong))];
        let why = format!("`{}` is the correct answer, {} are wrong", right.name, quoted(&wrong));
        return Ok(answers(lines, wrong.into_iter().chain([right.name.clone()]).collect(), Form::Answer, why));
    }
    if let Some(label) = choices(rows, columns) {
        return Ok(label);
    }
    let is_class = |column: &&Column| {
        let few = (2..=LIKELY_CLASSES).contains(&column.distinct.len()) && column.distinct.len() * 2 <= rows.rows.len();
        let kind = match column.kind {
            Kind::Truth | Kind::Integer => true,
            Kind::Number => column.integers().is_some(),
            Kind::Text => column.words < 5.0,
            Kind::List | Kind::Other => false,
        };
        few && kind && !column.is_id()
    };
    let rank = |column: &&Column| LABELS.iter().position(|name| *name == column.short()).unwrap_or(LABELS.len());
    match columns.iter().filter(is_class).min_by_key(rank) {
        Some(column) => from_column(Some(column), names),
        None => Err(Error::new("no column looks like a label").help(format!(
            "name one with `--label COLUMN`; the columns are {}",
            quoted(columns.iter().map(|column| &column.name))
        ))),
    }
}

/// Several answers, in a list or in columns, and one that says which is correct.
fn choices(rows: &Rows, columns: &[Column]) -> Option<Label> {
    // What the choices are: a column with a list, or columns that differ in their last character.
    let mut groups: Vec<(Vec<&Column>, String)> = Vec::new();
    for column in columns {
        if column.kind == Kind::List && !matches!(column.short().as_str(), "label" | "labels" | "key" | "keys") {
            groups.push((vec![column], quote(&column.name)));
        }
        let stem = |column: &Column| {
            let mut stem = column.name.clone();
            stem.pop().filter(|last| last.is_ascii_digit() || ('A'..='E').contains(last)).map(|_| stem)
        };
        let same: Vec<&Column> =
            columns.iter().filter(|other| other.kind == Kind::Text && stem(other) == stem(column)).collect();
        if stem(column).is_some() && same.len() > 1 && same[0].name == column.name {
            let names = list(same.iter().map(|column| &column.name));
            groups.push((same, names));
        }
    }
    for (group, written) in groups {
        let texts = |row: &Row| -> Option<Vec<String>> {
            let mut texts = Vec::new();
            for column in &group {
                // An option that is null or not there is none; the others keep their places.
                match find(row, &column.name) {
                    Some(Value::Array(items)) => texts.extend(items.iter().map(|item| shown(item).unwrap_or_default())),
                    value => texts.push(value.map_or(Some(String::new()), shown)?),
                }
            }
            Some(texts)
        };
        let others = columns.iter().filter(|column| !group.iter().any(|member| member.name == column.name));
        let mut keys: Vec<&Column> = others
            .filter(|column| !column.is_id() || column.short().contains("answer") || column.short().contains("correct"))
            .filter(|column| matches!(column.kind, Kind::Integer | Kind::Text | Kind::Number))
            .collect();
        keys.sort_by_key(|column| LABELS.iter().position(|name| *name == column.short()).unwrap_or(LABELS.len()));
        let uses = |key: &Column, more: &[&str]| {
            let members = group.iter().map(|column| column.name.clone());
            members.chain([key.name.clone()]).chain(more.iter().map(|name| (*name).to_owned())).collect()
        };
        let offers = OFFERS.iter().any(|word| group[0].name.to_lowercase().contains(word));
        for key in keys {
            let said = |row: &Row| find(row, &key.name).and_then(shown);
            // Of rows whose label is hidden nothing can be asked, and few others may be odd.
            let is_hidden = |row: &Row| said(row).is_none_or(|said| said.is_empty() || plain(&said) == "-1");
            let hidden = rows.rows.iter().filter(|(_, row)| is_hidden(row)).count();
            let all = |test: &dyn Fn(&Row, &[String]) -> bool| {
                let fits = |row: &Row| texts(row).is_some_and(|texts| texts.len() > 1 && test(row, &texts));
                let known = rows.rows.len() - hidden;
                known > hidden
                    && rows.rows.iter().filter(|(_, row)| !is_hidden(row) && !fits(row)).count() * 20 <= known
            };
            let answers = |lines, uses, form, why| Label {
                unlabelled: (hidden > 0).then(|| (key.name.clone(), key.written("-1"))),
                ..answers(lines, uses, form, why)
            };
            let why = |how: &str| format!("{written} are the answers, and `{}` {how}", key.name);
            if all(&|row, texts| said(row).is_some_and(|said| texts.contains(&said))) {
                let lines = vec![format!("choices = {written}"), format!("correct = {}", quote(&key.name))];
                return Some(answers(lines, uses(key, &[]), Form::Answer, why("is the correct one")));
            }
            let lines = |keys: Option<String>| {
                let keys = keys.map(|keys| format!("keys = {keys}"));
                let first = [format!("choices = {written}"), format!("answer = {}", quote(&key.name))];
                first.into_iter().chain(keys).collect::<Vec<_>>()
            };
            // Names of the choices beside them, in the same table.
            if let [member] = group[..]
                && let Some((table, _)) = member.name.split_once('.')
                && let Some(names) = columns.iter().find(|column| {
                    column.kind == Kind::List
                        && column.name != member.name
                        && column.name.starts_with(&format!("{table}."))
                })
            {
                let listed = |row: &Row| -> Option<Vec<String>> {
                    Some(find(row, &names.name)?.as_array()?.iter().filter_map(shown).collect())
                };
                if all(&|row, texts| {
                    listed(row).is_some_and(|names| {
                        names.len() == texts.len() && said(row).is_some_and(|said| names.contains(&said))
                    })
                }) {
                    let lines = lines(Some(quote(&names.name)));
                    return Some(answers(lines, uses(key, &[&names.name]), Form::Answer, why("names the correct one")));
                }
            }
            let place = |row: &Row| said(row).and_then(|said| plain(&said).parse::<usize>().ok());
            if !offers || !LABELS.contains(&key.short().as_str()) && !key.short().contains("correct") {
                continue;
            }
            let most = rows.rows.iter().filter_map(|(_, row)| texts(row)).map(|texts| texts.len()).max().unwrap_or(0);
            if all(&|row, texts| place(row).is_some_and(|place| place < texts.len())) {
                return Some(answers(
                    lines(None),
                    uses(key, &[]),
                    Form::Answer,
                    why("counts from 0 to the correct one"),
                ));
            }
            if all(&|row, texts| place(row).is_some_and(|place| (1..=texts.len()).contains(&place))) {
                let keys = list((1..=most).map(|n| n.to_string()));
                return Some(answers(
                    lines(Some(keys)),
                    uses(key, &[]),
                    Form::Answer,
                    why("counts from 1 to the correct one"),
                ));
            }
            let letter = |n: usize| char::from(b'A' + n as u8).to_string();
            if most <= 26
                && all(&|row, texts| said(row).is_some_and(|said| (0..texts.len()).any(|n| letter(n) == said)))
            {
                let keys = list((0..most).map(letter));
                return Some(answers(
                    lines(Some(keys)),
                    uses(key, &[]),
                    Form::Answer,
                    why("is the letter of the correct one"),
                ));
            }
        }
    }
    None
}

/// Whether a text of few words says as much as the label: each of its values comes with one label only, and comes again.
fn tells(rows: &Rows, column: &Column, label: &[String]) -> bool {
    if column.words >= 5.0 || column.distinct.len() > LIKELY_CLASSES || column.distinct.len() * 2 > rows.rows.len() {
        return false;
    }
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    rows.rows.iter().all(|(_, row)| {
        let text = |name: &String| find(row, name).and_then(shown).unwrap_or_default();
        let label: String = label.iter().map(text).collect();
        *known.entry(text(&column.name)).or_insert_with(|| label.clone()) == label
    })
}

/// Whether a text is always one of the answers that another one of a row's columns holds.
fn is_answer(rows: &Rows, column: &Column, answers: &[String]) -> bool {
    rows.rows.iter().all(|(_, row)| {
        let said = find(row, &column.name);
        let same = |value: &Value| {
            Some(value) == said || value.as_array().is_some_and(|all| said.is_some_and(|said| all.contains(said)))
        };
        answers.iter().filter_map(|answer| find(row, answer)).any(same)
    })
}

/// Puts a task file together.
struct Writer<'a> {
    columns: &'a [Column],
    /// Names for columns whose own a template cannot use.
    aliases: BTreeMap<String, String>,
}

impl Writer<'_> {
    /// The words of a column, or of the likeliest one, as what is generated.
    fn words(&mut self, rows: &Rows, name: Option<&str>) -> Result<Label> {
        let likely =
            |word: &str| self.columns.iter().find(|column| column.short() == word && column.kind == Kind::Text);
        let column = match name {
            Some(name) => self.columns.iter().find(|column| column.name == name),
            None => WRITTEN.iter().find_map(|word| likely(word)),
        };
        let column = column.ok_or_else(|| {
            Error::new("no column looks like what a model should write").help(format!(
                "name one with `--label COLUMN`; the columns are {}",
                quoted(self.columns.iter().map(|column| &column.name))
            ))
        })?;
        if matches!(column.kind, Kind::List | Kind::Other) {
            return Err(Error::new(format!("`{}` holds {}, and no words", column.name, column.kind.name()))
                .help("name another column with `--label`"));
        }
        let marked = rows.rows.iter().filter(|(_, row)| {
            find(row, &column.name).and_then(Value::as_str).is_some_and(|text| text.contains("####"))
        });
        let marked = marked.count() * 20 > rows.rows.len() * 19;
        let numbers = matches!(column.kind, Kind::Integer | Kind::Number);
        let rules = match marked || numbers {
            true => r#"rules = ["strip-commas", "number"]"#,
            false => r#"rules = ["lowercase", "strip-punctuation", "collapse-space"]"#,
        };
        let mut lines = vec!["[generate]".to_owned()];
        lines.push(format!("reference = {}", quote(&format!(" {{{{ {} }}}}", self.variable(&column.name)))));
        lines.push("max_new_tokens = 256".into());
        if !marked {
            lines.push("stop = [\"\\n\"]".into());
        }
        lines.extend([String::new(), "# When two answers are the same.".into(), "[generate.answer]".into()]);
        lines.extend(marked.then(|| "extract = { after = \"####\" }".to_owned()));
        lines.push(rules.into());
        Ok(Label {
            lines,
            classes: Vec::new(),
            uses: vec![column.name.clone()],
            unlabelled: (column.missing > 0).then(|| (column.name.clone(), None)),
            differ: None,
            form: Form::Words,
            why: format!("`{}` is what a model should write", column.name),
        })
    }

    /// What a template calls a column.
    fn variable(&mut self, column: &str) -> String {
        let plain = |name: &str| {
            name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !RESERVED.contains(&name.to_lowercase().as_str())
        };
        if plain(column) {
            return column.to_owned();
        }
        let mut name: String =
            column.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        while !plain(&name)
            || self.columns.iter().any(|column| column.name == name)
            || self.aliases.get(&name).is_some_and(|known| known != column)
        {
            name.insert_str(0, "column_");
        }
        self.aliases.insert(name.clone(), column.to_owned());
        name
    }

    /// The columns that a model shall read, in the order of the data, and why others are not among them.
    fn texts(&self, rows: &Rows, label: &Label, given: Option<&str>) -> (Vec<&Column>, Vec<String>) {
        if let Some(name) = given {
            return (self.columns.iter().filter(|column| column.name == name).collect(), Vec::new());
        }
        let named = |column: &Column, words: &[&str]| words.iter().any(|word| column.short().contains(word));
        let why_not = |column: &Column| -> Option<&'static str> {
            Some(match column.kind {
                _ if label.uses.contains(&column.name) => "the label",
                _ if column.is_id() => "an id",
                _ if named(column, &EXPLANATIONS) => "explains the label",
                _ if column.distinct.len() < 2 => "the same in every row",
                Kind::Other => "mixed or nested",
                Kind::Text | Kind::List if ORIGINS.contains(&column.short().as_str()) => "where the row is from",
                Kind::List if !column.texts => "numbers",
                Kind::Text if column.words < 2.0 && named(column, &["label", "gold", "target"]) => "may be the label",
                Kind::Text if label.form == Form::Column && tells(rows, column, &label.uses) => "tells the label",
                Kind::Text
                    if matches!(label.form, Form::Answer | Form::Choice) && is_answer(rows, column, &label.uses) =>
                {
                    "is one of the answers"
                }
                Kind::Text | Kind::List => return None,
                Kind::Truth | Kind::Integer | Kind::Number => "numbers",
            })
        };
        let shown: Vec<&Column> = self.columns.iter().filter(|column| why_not(column).is_none()).collect();
        let left_out = self.columns.iter().filter_map(|column| {
            let why = why_not(column).filter(|why| *why != "the label")?;
            Some(format!("{} ({why})", single_line(&column.name)))
        });
        (shown, left_out.collect())
    }

    fn write(&mut self, rows: &Rows, label: &Label, options: &DraftOptions) -> String {
        let DraftOptions { name, path, .. } = options;
        let count = rows.rows.len();
        let (texts, left_out) = self.texts(rows, label, options.text);
        let lists: BTreeSet<String> =
            texts.iter().filter(|column| column.kind == Kind::List).map(|column| column.name.clone()).collect();
        let texts: Vec<(String, f64)> = texts.into_iter().map(|column| (column.name.clone(), column.words)).collect();
        let longest = texts.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(name, _)| name.clone());
        let mut lines: Vec<String> = Vec::new();
        for (column, _) in &texts {
            let variable = self.variable(column);
            let empty = self.columns.iter().any(|other| other.name == *column && other.missing > 0);
            let filters = [
                match (empty, lists.contains(column)) {
                    (false, false) => "",
                    (true, false) => " | default(\"\")",
                    (false, true) => " | join(\"\\n\")",
                    (true, true) => " | default([]) | join(\"\\n\")",
                },
                if longest.as_ref() == Some(column) { " | context" } else { "" },
            ];
            let shown = format!("{{{{ {variable}{} }}}}", filters.concat());
            let alone = texts.len() == 1 && matches!(label.form, Form::Column | Form::Pair | Form::Reply);
            lines.push(if alone { shown } else { format!("{}: {shown}", title(column)) });
        }
        match label.form {
            Form::Column => {}
            Form::Answer | Form::Choice => lines.push("Answer: {{ answer }}".into()),
            Form::Reply if lines.is_empty() => lines.push("{{ answer }}".into()),
            Form::Reply => lines.extend([String::new(), "{{ answer }}".into()]),
            Form::Words => lines.push("Answer:".into()),
            Form::Pair => lines.extend(
                ["", "A: {{ answer }}", "", "B: {{ choices | reject(\"equalto\", answer) | first }}"]
                    .map(str::to_owned),
            ),
        }
        let body = lines.join("\n");
        let (question, words) = match label.form {
            Form::Choice | Form::Reply | Form::Words => ("", Vec::new()),
            Form::Column => ("Class:", label.classes.iter().map(|class| format!(" {class}")).collect()),
            Form::Answer => ("Is the answer correct?", vec![" no".to_owned(), " yes".to_owned()]),
            Form::Pair => ("The better one is", vec![" B".to_owned(), " A".to_owned()]),
        };
        let unlabelled = label.unlabelled.as_ref().map(|(column, value)| {
            let variable = self.variable(column);
            let is_number = |kind| matches!(kind, Kind::Integer | Kind::Number);
            let number = self.columns.iter().any(|known| known.name == *column && is_number(known.kind));
            let missing = self.columns.iter().any(|known| known.name == *column && known.missing > 0);
            let there = (missing || value.is_none()).then(|| format!("{variable} is defined and {variable} != \"\""));
            let known = value.as_ref().map(|value| match number {
                true => format!("{variable} != {value}"),
                false => format!("{variable} != {value:?}"),
            });
            there.into_iter().chain(known).collect::<Vec<_>>().join(" and ")
        });
        let alike = label.differ.as_ref().map(|(one, other)| {
            let (one, other) = (self.variable(one), self.variable(other));
            format!("{one} is defined and {other} is defined and {one} != {other}")
        });
        let filter = match unlabelled.into_iter().chain(alike).collect::<Vec<_>>() {
            parts if parts.is_empty() => None,
            parts => Some(parts.join(" and ")),
        };

        let mut out = String::new();
        let mut line = |text: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{text}");
        };
        let shown = single_line(path);
        let least = if count == ENOUGH { "at least " } else { "" };
        line(&format!("# Made by `w2s task new` from {shown}: {least}{count} rows with the columns"));
        for column in self.columns {
            let distinct = match column.distinct.len() {
                n if n > MANY => format!("more than {MANY} different"),
                n => format!("{n} different"),
            };
            let missing = if column.missing > 0 { format!(", {} missing", column.missing) } else { String::new() };
            let example = single_line(&column.example);
            line(&format!(
                "#   {}: {}, {distinct}{missing}, e.g. {example}",
                single_line(&column.name),
                column.kind.name()
            ));
        }
        line("#");
        line(&format!("# Guessed: {}.", label.why));
        if !left_out.is_empty() {
            line("# Not in the template; put in what the label cannot be known without:");
            line(&format!("#   {}", left_out.join(", ")));
        }
        line(&format!(
            "# `w2s task check {name}` shows what the examples look like. configs/tasks/README.md explains the keys."
        ));
        line("");
        line(&format!("name = {}", quote(name)));
        line(&format!("title = {}", quote(&title(name))));
        line("licence = \"not stated\" # of the data; lists show it");
        line("citation = \"not stated\" # whom to cite for the data");
        if !label.classes.is_empty() {
            line(&format!("classes = {}", list(&label.classes)));
        }
        if let Some(filter) = filter {
            line(&format!("filter = {} # rows without a label are left out", quote(&filter)));
        }
        line(
            "# What a model reads. The part marked with `context` is shortened when an example is too long for a model.",
        );
        line(&format!("template = {}", block(&body)));
        let aliases: Vec<String> =
            self.aliases.iter().map(|(alias, column)| format!("{alias} = {}", quote(column))).collect();
        if !aliases.is_empty() {
            line("# Names for columns whose own a template cannot use.");
            line(&format!("columns = {{ {} }}", aliases.join(", ")));
        }
        line("");
        line("[source]");
        line(&format!("path = {} # starts at this file's folder", quote(path)));
        line("");
        line("# Two halves of the rest supervise the weak model and are labelled by it.");
        line("[splits]");
        line("train = \"train\"");
        line(&format!("test_from_train = {}", (count / TEST.1).clamp(1, TEST.0)));
        line("");
        label.lines.iter().for_each(|text| line(text));
        if words.is_empty() {
            return out;
        }
        line("");
        line(
            "# The same as a question to a language model, and what it says for each class, in the order of `classes`.",
        );
        line("[prompt]");
        line(&format!("template = {}", block(&format!("{body}\n{question}"))));
        line(&format!("answers = {}", list(&words)));
        out
    }
}

/// A name for people.
fn title(name: &str) -> String {
    let words = name.rsplit('.').next().unwrap_or(name).replace(['_', '-', '{', '}', '%', '#'], " ");
    let mut characters = words.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => words,
    }
}

/// A template over several lines, as it is read.
fn block(text: &str) -> String {
    let plain = !text.contains("'''") && text.chars().all(|c| c == '\n' || !c.is_control());
    if plain { format!("'''\n{text}'''") } else { quote(text) }
}

/// The beginning of a text, fit for a comment.
fn single_line(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() || c.is_whitespace() { ' ' } else { c }).collect();
    let mut short: String = clean.chars().take(60).collect();
    if clean.chars().count() > 60 {
        short.push('…');
    }
    short
}
