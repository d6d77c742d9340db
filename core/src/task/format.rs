//! From a row to text and label.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use minijinja::{Environment, ErrorKind, Expression, UndefinedBehavior, Value, machinery, value::ValueKind};
use serde_json::Value as Json;

use super::{
    Example, PromptText, Row,
    definition::{CoinRule, ColumnRule, LabelRule, OneOrMany, Task, nearest, quoted, shown},
    read::{Types, Wanted},
    rng::PythonRng,
    uses::Uses,
};
use crate::{Error, Result};

/// What a coin rule adds to the columns.
const CHOSEN: [&str; 3] = ["answer", "choices", "number"];
/// Noncharacters that mark the shortenable part while a template is rendered; Unicode keeps them out of texts.
const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// Longest expression, in bytes: minijinja reads a chain such as `1+1+1+…` by recursion, and a long one would overflow the stack.
const LONGEST: usize = 4000;

/// Applies one task's templates and label rule to rows.
pub(super) struct Formatter<'a> {
    task: &'a Task,
    templates: Environment<'static>,
    /// Variables that the templates use, by template.
    variables: BTreeMap<&'static str, Variables>,
    /// Computed columns with the variables that they use, each after those that it needs.
    computed: Vec<(&'a str, Variables)>,
    /// What the rows' columns of texts hold.
    types: Types,
}

/// The variables of a template or an expression.
struct Variables {
    /// Those that it certainly uses.
    used: BTreeSet<String>,
    /// Every word in it: minijinja does not see variables inside of slices such as `words[1:]`.
    mentioned: BTreeSet<String>,
    uses: Uses,
}

impl Variables {
    fn new(source: &str, used: impl IntoIterator<Item = String>, uses: Uses, globals: &BTreeSet<String>) -> Self {
        let used: BTreeSet<String> = used.into_iter().filter(|name| !globals.contains(name)).collect();
        let words = source.split(|c: char| c != '_' && !c.is_alphanumeric()).filter(|word| !word.is_empty());
        let mentioned = words.map(str::to_owned).chain(used.iter().cloned()).collect();
        Self { used, mentioned, uses }
    }
}

/// One example, and what tells whether another one asks the same.
pub(super) struct Point {
    pub example: Example,
    /// Hash of the text without the answer shown.
    pub question: u128,
    /// What must not be cut in two: a row's answers, a fact of a world in several phrases.
    pub whole: u128,
}

/// The answers to one row's question.
struct Answers {
    correct: String,
    wrong: Vec<String>,
    choices: Vec<String>,
}

/// What to do about a template that is none.
const JINJA: &str = "it is Jinja: text with `{{ column }}` in it, and filters such as `{{ column | trim }}`; see configs/tasks/README.md";

/// One of the answers, to be shown.
struct Chosen<'a> {
    answer: &'a str,
    choices: &'a [String],
    number: usize,
}

impl<'a> Formatter<'a> {
    /// Compiles a task's templates.
    pub fn new(task: &'a Task) -> Result<Self> {
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        templates.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        templates.set_formatter(|out, state, value| match value.kind() {
            ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => Err(minijinja::Error::new(
                ErrorKind::InvalidOperation,
                "a list or table is no text; say how, for example `| join(\"\\n\")`",
            )),
            ValueKind::None => Err(ErrorKind::UndefinedError.into()),
            _ => minijinja::escape_formatter(out, state, value),
        });
        // A short template could run for ever, or pad a text to any width.
        templates.set_fuel(Some(1_000_000));
        for name in ["indent", "format", "batch", "slice"] {
            templates.remove_filter(name);
        }
        templates.add_filter("context", |text: String| format!("{}{text}{}", MARKS[0], MARKS[1]));
        let filter = task.filter.as_ref().map(|filter| format!("{{% if {filter} %}}1{{% endif %}}"));
        let prompt = task.prompt.as_ref();
        let sources = [
            ("filter", filter),
            ("template", Some(task.template.clone())),
            ("prompt", prompt.map(|prompt| prompt.template.clone())),
            ("reference", prompt.and_then(|prompt| prompt.reference.clone())),
        ];
        let globals: BTreeSet<String> = templates.globals().map(|(name, _)| name.to_owned()).collect();
        let mut variables = BTreeMap::new();
        for (name, source) in sources {
            let Some(source) = source else { continue };
            let explain = |cause: minijinja::Error| {
                task.wrong(keys(name), format!("not a template: {}", detail(&cause))).help(JINJA)
            };
            if longest_expression(&source) > LONGEST {
                return Err(task.wrong(keys(name), format!("an expression is longer than {LONGEST} characters")));
            }
            templates.add_template_owned(name, source).map_err(explain)?;
            let template = templates.get_template(name).map_err(explain)?;
            let parsed = machinery::parse(template.source(), name, Default::default()).map_err(explain)?;
            let uses = Uses::of_template(&parsed);
            if let Some(mismatch) = uses.mismatch() {
                return Err(task.locate(keys(name), mismatch));
            }
            let used = Variables::new(template.source(), template.undeclared_variables(false), uses, &globals);
            variables.insert(name, used);
        }
        let mut waiting = Vec::new();
        for (name, expression) in &task.compute {
            let explain = |cause: minijinja::Error| {
                task.wrong(&["compute", name], format!("not an expression: {}", detail(&cause))).help(JINJA)
            };
            if expression.len() > LONGEST {
                let message = format!("the expression is longer than {LONGEST} characters");
                return Err(task.wrong(&["compute", name], message));
            }
            let used = templates.compile_expression(expression).map_err(explain)?.undeclared_variables(false);
            let uses = Uses::of_expression(&machinery::parse_expr(expression).map_err(explain)?);
            if let Some(mismatch) = uses.mismatch() {
                return Err(task.locate(&["compute", name], mismatch));
            }
            waiting.push((name.as_str(), Variables::new(expression, used, uses, &globals)));
        }
        let computed = in_order(waiting).map_err(|name| {
            let message = format!("`{name}` is computed from itself, by way of others or directly");
            task.wrong(&["compute", name], message)
        })?;
        let formatter = Self { task, templates, variables, computed, types: Types::new() };
        formatter.check_names()?;
        formatter.check_answer_is_shown()?;
        Ok(formatter)
    }

    /// The templates' filters and tests are looked up only when used: uses them once.
    fn check_names(&self) -> Result<()> {
        use ErrorKind::{UnknownFilter, UnknownFunction, UnknownTest};
        for (name, variables) in &self.variables {
            let values: BTreeMap<&str, &str> =
                variables.mentioned.iter().map(|variable| (variable.as_str(), "x")).collect();
            let tried = self.templates.get_template(name).and_then(|template| template.render(Value::from(values)));
            if let Err(cause) = tried
                && matches!(cause.kind(), UnknownFilter | UnknownTest | UnknownFunction)
            {
                return Err(self.task.wrong(keys(name), format!("not a template: {}", detail(&cause))).help(JINJA));
            }
        }
        for (name, variables) in &self.computed {
            let values: BTreeMap<&str, &str> =
                variables.mentioned.iter().map(|variable| (variable.as_str(), "x")).collect();
            let tried =
                self.templates.compile_expression(&self.task.compute[*name]).and_then(|tried| tried.eval(values));
            if let Err(cause) = tried
                && matches!(cause.kind(), UnknownFilter | UnknownTest | UnknownFunction)
            {
                let message = format!("not an expression: {}", detail(&cause));
                return Err(self.task.wrong(&["compute", name], message).help(JINJA));
            }
        }
        Ok(())
    }

    /// A text that says nothing of the drawn answer has a label that nobody can know.
    fn check_answer_is_shown(&self) -> Result<()> {
        let Some(LabelRule::Coin(rule)) = &self.task.label else { return Ok(()) };
        for name in ["template", "prompt"] {
            let Some(Variables { used, .. }) = self.variables.get(name) else { continue };
            if !used.contains("answer") && !used.contains("number") {
                let message = "the template shows neither `answer` nor `number`, so nothing in it tells the label";
                return Err(self.task.wrong(keys(name), message));
            }
            if rule.wrong.is_some() && !rule.shuffle && (used.contains("choices") || used.contains("number")) {
                let message = "the template lists the choices with the correct one always first";
                return Err(self.task.wrong(keys(name), message).help("put `shuffle = true` under `[label.coin]`"));
            }
        }
        Ok(())
    }

    /// Checks that every column that the task names is there.
    pub fn check_columns(&self, columns: &[String]) -> Result<()> {
        let task = self.task;
        let coin = matches!(task.label, Some(LabelRule::Coin(_)));
        let missing = |keys: &[&str], path: &str| {
            let message = format!("the data has no column `{path}`");
            let help = match nearest(path, columns.iter().map(String::as_str)) {
                Some(name) => format!("did you mean `{name}`? The columns are {}", quoted(columns)),
                None => format!("the columns are {}", quoted(columns)),
            };
            Err(task.wrong(keys, message).help(help))
        };
        let known = |path: &str| {
            let first = path.split('.').next().unwrap_or(path);
            columns.iter().any(|column| column == path || column == first) || task.compute.contains_key(first)
        };
        for (name, path) in &task.columns {
            if !known(path) {
                return missing(&["columns", name], path);
            }
        }
        let named = |path: &str| task.columns.contains_key(path) || known(path);
        for (name, used) in &self.computed {
            if columns.iter().any(|column| column == name) {
                let message = format!("the data already have a column `{name}`");
                return Err(task.wrong(&["compute", name], message).help("compute it under another name"));
            }
            if let Some(path) = used.used.iter().find(|path| !named(path)) {
                return missing(&["compute", name], path);
            }
        }
        for (name, Variables { used, .. }) in &self.variables {
            let keys = keys(name);
            let drawn = coin && *name != "filter";
            if let Some(path) = used.iter().find(|path| !(named(path) || drawn && CHOSEN.contains(&path.as_str()))) {
                return missing(keys, path);
            }
        }
        let mut rule: Vec<(&[&str], &str)> = Vec::new();
        match &task.label {
            None => {}
            Some(LabelRule::Column(column)) => rule.push((&["label", "column", "name"], &column.name)),
            Some(LabelRule::Equals(equals)) => rule.push((&["label", "equals", "name"], &equals.name)),
            Some(LabelRule::Coin(coin)) => {
                let one = |name: &'a Option<String>| name.iter().map(String::as_str);
                let many = |names: &'a Option<OneOrMany<String>>| {
                    names.iter().flat_map(OneOrMany::as_slice).map(String::as_str)
                };
                rule.extend(one(&coin.correct).map(|path| (&["label", "coin", "correct"][..], path)));
                rule.extend(many(&coin.wrong).map(|path| (&["label", "coin", "wrong"][..], path)));
                rule.extend(many(&coin.choices).map(|path| (&["label", "coin", "choices"][..], path)));
                rule.extend(one(&coin.answer).map(|path| (&["label", "coin", "answer"][..], path)));
                if let Some(OneOrMany::One(path)) = &coin.keys {
                    rule.push((&["label", "coin", "keys"], path));
                }
            }
        }
        match rule.into_iter().find(|(_, path)| !named(path)) {
            Some((keys, path)) => missing(keys, path),
            None => Ok(()),
        }
    }

    /// The same for rows whose columns of texts hold this.
    pub fn with_types(self, types: Types) -> Self {
        Self { types, ..self }
    }

    /// Columns that the task uses as numbers or truth values.
    pub fn counted(&self) -> BTreeSet<String> {
        let all = self.variables.values().chain(self.computed.iter().map(|(_, variables)| variables));
        all.flat_map(|variables| variables.uses.counted()).map(|name| self.column(name).to_owned()).collect()
    }

    /// The columns that examples are made of.
    pub fn wanted(&self) -> Wanted {
        if self.task.source.world.is_some() {
            return Wanted::All;
        }
        let mut names: BTreeSet<String> = self.variables.keys().flat_map(|name| self.needed(name)).collect();
        let rule = match &self.task.label {
            None => Vec::new(),
            Some(LabelRule::Column(column)) => vec![&column.name],
            Some(LabelRule::Equals(equals)) => vec![&equals.name],
            Some(LabelRule::Coin(coin)) => {
                let lists =
                    [&coin.wrong, &coin.choices, &coin.keys].into_iter().flatten().flat_map(OneOrMany::as_slice);
                [&coin.correct, &coin.answer].into_iter().flatten().chain(lists).collect()
            }
        };
        rule.into_iter().for_each(|name| self.need(name, &mut names));
        Wanted::These(names)
    }

    /// The columns that the filter looks at.
    pub fn wanted_by_filter(&self) -> Wanted {
        match self.task.source.world {
            Some(_) => Wanted::All,
            None => Wanted::These(self.needed("filter")),
        }
    }

    /// The columns that a template needs, by way of computed ones too.
    fn needed(&self, template: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        if let Some(variables) = self.variables.get(template) {
            variables.mentioned.iter().for_each(|name| self.need(name, &mut names));
        }
        names
    }

    fn need(&self, name: &str, names: &mut BTreeSet<String>) {
        let path = self.column(name);
        let first = path.split('.').next().unwrap_or(path);
        if let Some((_, variables)) = self.computed.iter().find(|(computed, _)| *computed == first) {
            // None is computed from itself, but one can be mentioned as a word of a text.
            if names.insert(first.to_owned()) {
                variables.mentioned.iter().for_each(|inner| self.need(inner, names));
            }
        }
        names.extend([path.to_owned(), first.to_owned()]);
    }

    /// The columns that every row has beside its own.
    pub fn computed(&self) -> impl Iterator<Item = String> {
        self.computed.iter().map(|(name, _)| (*name).to_owned())
    }

    /// What adds the computed columns that are wanted to rows.
    pub fn computing(&self, wanted: &Wanted) -> Result<Computing<'_>> {
        let mut expressions = Vec::new();
        for (name, variables) in self.computed.iter().filter(|(name, _)| wanted.has(name)) {
            let expression = self.templates.compile_expression(&self.task.compute[*name]);
            let explain = |cause| Error::new(format!("computing `{name}` fails: {}", detail(&cause)));
            expressions.push((*name, variables, expression.map_err(explain)?));
        }
        Ok(Computing { formatter: self, expressions })
    }

    /// Whether the filter lets a row through.
    pub fn keeps(&self, row: &Row) -> Result<bool> {
        match self.task.filter {
            Some(_) => Ok(!self.render("filter", row, None)?.0.is_empty()),
            None => Ok(true),
        }
    }

    /// The example of a row, drawing from `rng` as the reference formatters do: coin, order of the choices, wrong answer.
    pub fn point(&self, row: &Row, index: u32, rng: &mut PythonRng) -> Result<Point> {
        let Some(LabelRule::Coin(rule)) = &self.task.label else { return self.plain(row, index) };
        let answers = self.answers(row, rule)?;
        let heads = !never_correct(rule, &answers) && rng.uniform() < 0.5;
        self.shown(row, index, rule, &answers, heads, rng)
    }

    /// One example with the correct and one with a wrong answer; neither if the correct one is never shown as such. A row whose label
    /// is in a column gives its one example.
    pub fn pair(&self, row: &Row, index: u32, rng: &mut PythonRng) -> Result<Vec<Point>> {
        let Some(LabelRule::Coin(rule)) = &self.task.label else { return Ok(vec![self.plain(row, index)?]) };
        let answers = self.answers(row, rule)?;
        if never_correct(rule, &answers) {
            return Ok(Vec::new());
        }
        [true, false].into_iter().map(|heads| self.shown(row, index, rule, &answers, heads, rng)).collect()
    }

    fn shown(
        &self,
        row: &Row,
        index: u32,
        rule: &CoinRule,
        answers: &Answers,
        heads: bool,
        rng: &mut PythonRng,
    ) -> Result<Point> {
        let mut choices = answers.choices.clone();
        if rule.shuffle {
            rng.shuffle(&mut choices);
        }
        let answer = match &answers.wrong[..] {
            _ if heads => &answers.correct,
            [] => return Err(Error::new("no answer differs from the correct one")),
            [only] => only,
            wrong => &wrong[rng.below(wrong.len())],
        };
        let number = choices.iter().position(|choice| choice == answer).map_or(0, |place| place + 1);
        let chosen = Chosen { answer, choices: &choices, number };
        let blank = Chosen { answer: "", choices: &answers.choices, number: 0 };
        let mut question = self.render("template", row, Some(&blank))?.0;
        if question.trim().is_empty() {
            // The answer is all there is to see.
            question = answers.choices.join("\n");
        }
        self.example(row, index, Some(&chosen), u8::from(heads), Some(&question))
    }

    fn plain(&self, row: &Row, index: u32) -> Result<Point> {
        let label = match &self.task.label {
            Some(LabelRule::Column(rule)) => self.class(row, rule)?,
            Some(LabelRule::Equals(rule)) => {
                u8::from(self.scalar(row, &rule.name)? == shown(&rule.value).unwrap_or_default())
            }
            Some(LabelRule::Coin(_)) | None => 0,
        };
        self.example(row, index, None, label, None)
    }

    fn example(
        &self,
        row: &Row,
        index: u32,
        chosen: Option<&Chosen>,
        label: u8,
        question: Option<&str>,
    ) -> Result<Point> {
        let (text, context) = self.render("template", row, chosen)?;
        let prompt = match self.task.prompt {
            None => None,
            Some(ref prompt) => {
                let (text, context) = self.render("prompt", row, chosen)?;
                let reference = match prompt.reference {
                    Some(_) => Some(self.render("reference", row, chosen)?.0),
                    None => None,
                };
                Some(PromptText { text, context, reference })
            }
        };
        let short = |text: &str| {
            let hash = blake3::hash(text.as_bytes());
            u128::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
        };
        let question = short(question.unwrap_or(&text));
        let whole = match self.task.source.world {
            Some(_) => short(&format!("{:?} {:?}", row.get("attribute"), row.get("entity"))),
            None => u128::from(index),
        };
        Ok(Point { example: Example { text, context, label, source_row: index, prompt }, question, whole })
    }

    /// The column, or the path into one, of a name.
    fn column<'n>(&'n self, name: &'n str) -> &'n str {
        self.task.columns.get(name).map_or(name, String::as_str)
    }

    /// A row's value under a column's name, a further name, or a path into a nested column. Null is no value.
    fn value<'r>(&self, row: &'r Row, path: &str) -> Option<&'r Json> {
        let path = self.column(path);
        let value = match row.get(path) {
            Some(value) => value,
            None => {
                let mut parts = path.split('.');
                let first = row.get(parts.next()?)?;
                parts.try_fold(first, |value, part| value.get(part))?
            }
        };
        (!value.is_null()).then_some(value)
    }

    fn required<'r>(&self, row: &'r Row, path: &str) -> Result<&'r Json> {
        self.value(row, path).ok_or_else(|| Error::new(format!("column `{path}` has no value")))
    }

    fn scalar(&self, row: &Row, path: &str) -> Result<String> {
        let value = self.required(row, path)?;
        shown(value).ok_or_else(|| Error::new(format!("column `{path}` holds {}, not one value", kind(value))))
    }

    /// The scalars of a list column, or of several columns.
    fn list(&self, row: &Row, paths: &OneOrMany<String>) -> Result<Vec<String>> {
        let mut list = Vec::new();
        for path in paths.as_slice() {
            match self.required(row, path)? {
                Json::Array(values) => {
                    for value in values {
                        let text = shown(value);
                        list.push(
                            text.ok_or_else(|| {
                                Error::new(format!("column `{path}` holds {} in its list", kind(value)))
                            })?,
                        );
                    }
                }
                _ => list.push(self.scalar(row, path)?),
            }
        }
        Ok(list)
    }

    fn class(&self, row: &Row, rule: &ColumnRule) -> Result<u8> {
        let classes = &self.task.classes;
        let value = self.required(row, &rule.name)?;
        let text = self.scalar(row, &rule.name)?;
        let by_name = |name: &String| classes.iter().position(|class| class == name);
        let found = match value {
            _ if !rule.values.is_empty() => rule.values.get(&text).and_then(by_name),
            Json::Bool(truth) => Some(usize::from(*truth)),
            Json::Number(number) => number.as_u64().and_then(|number| usize::try_from(number).ok()),
            _ => by_name(&text).or_else(|| text.parse().ok()),
        };
        found.filter(|class| *class < classes.len()).and_then(|class| u8::try_from(class).ok()).ok_or_else(|| {
            let name = &rule.name;
            let error = Error::new(format!("column `{name}` is `{text}`, which names no class"));
            let values: Vec<&String> = rule.values.keys().collect();
            error.help(match (text.as_str(), values.is_empty()) {
                ("-1", _) => format!("leave rows without a label out: `filter = \"{name} != -1\"`"),
                (_, true) => {
                    format!("the classes are {}; name others with `values` under `[label.column]`", quoted(classes))
                }
                (_, false) => format!("the `values` are {}", quoted(values)),
            })
        })
    }

    fn answers(&self, row: &Row, rule: &CoinRule) -> Result<Answers> {
        let choices = match &rule.choices {
            Some(paths) => self.list(row, paths)?,
            None => Vec::new(),
        };
        let correct = match (&rule.correct, &rule.answer) {
            (Some(path), _) => self.scalar(row, path)?,
            (None, answer) => {
                let path = answer.as_deref().unwrap_or_default();
                let key = self.scalar(row, path)?;
                let keys = match &rule.keys {
                    None => (0..choices.len()).map(|number| number.to_string()).collect(),
                    Some(OneOrMany::Many(keys)) => keys.clone(),
                    Some(keys) => self.list(row, keys)?,
                };
                let place = keys.iter().position(|candidate| *candidate == key);
                place.and_then(|place| choices.get(place)).cloned().ok_or_else(|| {
                    let message = format!("column `{path}` is `{key}`, which is none of the {} choices", choices.len());
                    Error::new(message).help(format!("the choices are called {}", quoted(&keys)))
                })?
            }
        };
        Ok(match &rule.wrong {
            Some(paths) => {
                let wrong = self.list(row, paths)?;
                let choices = std::iter::once(&correct).chain(&wrong).cloned().collect();
                Answers { correct, wrong, choices }
            }
            None => {
                let wrong = choices.iter().filter(|choice| **choice != correct).cloned().collect();
                Answers { correct, wrong, choices }
            }
        })
    }

    /// What a row gives a template.
    fn values<'v>(&self, row: &Row, used: &'v Variables, chosen: Option<&Chosen>) -> Result<BTreeMap<&'v str, Value>> {
        let drawn = |variable: &str| match (chosen?, variable) {
            (chosen, "answer") => Some(Value::from(chosen.answer)),
            (chosen, "choices") => Some(Value::from(chosen.choices.to_vec())),
            (chosen, "number") => Some(Value::from(chosen.number)),
            _ => None,
        };
        let find = |variable: &'v String| {
            let found = drawn(variable).or_else(|| self.value(row, variable).map(value));
            Some((variable.as_str(), found?))
        };
        let mut values: BTreeMap<&str, Value> = used.mentioned.iter().filter_map(find).collect();
        let kind = |name: &str| match drawn(name) {
            Some(_) => None,
            None => self.types.get(self.column(name)).copied(),
        };
        used.uses.fit(&mut values, kind)?;
        Ok(values)
    }

    /// Renders a template; returns the text and the byte range that may be shortened.
    fn render(&self, name: &'static str, row: &Row, chosen: Option<&Chosen>) -> Result<(String, Range<usize>)> {
        let used = &self.variables[name];
        let values = self.values(row, used, chosen)?;
        let absent = absent(used, &values);
        let explain = |cause: minijinja::Error| explain(&format!("the {name}"), &absent, &cause);
        let template = self.templates.get_template(name).map_err(explain)?;
        let text = template.render(Value::from(values)).map_err(explain)?;
        unmark(text)
    }
}

/// Adds computed columns to rows.
pub(super) struct Computing<'f> {
    formatter: &'f Formatter<'f>,
    expressions: Vec<(&'f str, &'f Variables, Expression<'f, 'f>)>,
}

impl Computing<'_> {
    /// Adds them to a row.
    ///
    /// # Errors
    /// An expression fails.
    pub fn complete(&self, mut row: Row) -> Result<Row> {
        for (name, used, expression) in &self.expressions {
            let values = self.formatter.values(&row, used, None)?;
            let absent = absent(used, &values);
            let computed = expression.eval(Value::from(values)).and_then(|value| json(&value));
            let computed = computed.map_err(|cause| explain(&format!("computing `{name}`"), &absent, &cause))?;
            row.insert((*name).to_owned(), computed);
        }
        Ok(row)
    }
}

/// Length of the longest `{{ … }}` or `{% … %}` of a template.
fn longest_expression(source: &str) -> usize {
    let inner = source.split("{{").flat_map(|part| part.split("{%"));
    let ends = |part: &str| ["}}", "%}"].iter().filter_map(|end| part.find(end)).min().unwrap_or(part.len());
    inner.skip(1).map(ends).max().unwrap_or(0)
}

/// Variables that are used and have no value.
fn absent<'a>(used: &'a Variables, values: &BTreeMap<&str, Value>) -> Vec<&'a String> {
    used.used.iter().filter(|name| !values.contains_key(name.as_str())).collect()
}

/// Why a template or an expression fails on a row.
fn explain(what: &str, absent: &[&String], cause: &minijinja::Error) -> Error {
    let message = match (cause.kind(), absent) {
        (ErrorKind::UndefinedError, [_, ..]) => format!("no value in {}", quoted(absent)),
        _ => format!("{what} fails: {}", detail(cause)),
    };
    Error::new(message).help(match cause.kind() {
        ErrorKind::OutOfFuel => "it has too much to do for one row: are there loops within loops?",
        ErrorKind::UndefinedError => "`| default(\"\")` in a template gives a value to what has none",
        _ => JINJA,
    })
}

/// Names in an order in which each comes after those that it uses, and if possible after those that it mentions; the name of one that
/// cannot.
fn in_order(mut waiting: Vec<(&str, Variables)>) -> Result<Vec<(&str, Variables)>, &str> {
    let mut ordered = Vec::new();
    while let Some((first, _)) = waiting.first() {
        let free = |(name, variables): &(&str, Variables)| {
            let others = || waiting.iter().map(|(other, _)| *other);
            let mentions = others().any(|other| other != *name && variables.mentioned.contains(other));
            (!others().any(|other| variables.used.contains(other)), mentions)
        };
        let place = waiting.iter().position(|entry| free(entry) == (true, false));
        match place.or_else(|| waiting.iter().position(|entry| free(entry).0)) {
            Some(place) => ordered.push(waiting.remove(place)),
            None => return Err(first),
        }
    }
    Ok(ordered)
}

/// Where a template stands in the task file.
fn keys(template: &str) -> &'static [&'static str] {
    match template {
        "filter" => &["filter"],
        "prompt" => &["prompt", "template"],
        "reference" => &["prompt", "reference"],
        _ => &["template"],
    }
}

fn never_correct(rule: &CoinRule, answers: &Answers) -> bool {
    rule.never_correct.as_ref().is_some_and(|never| answers.correct.contains(never.as_str()))
}

/// Takes the marks out of a rendered text.
fn unmark(mut text: String) -> Result<(String, Range<usize>)> {
    let places: Vec<(usize, char)> = text.char_indices().filter(|(_, c)| MARKS.contains(c)).collect();
    match places[..] {
        [] => Ok((text, 0..0)),
        [(start, first), (end, last)] if [first, last] == MARKS => {
            text.remove(end);
            text.remove(start);
            Ok((text, start..end - first.len_utf8()))
        }
        _ => Err(Error::new("the text has more than one part marked with `context`, or a noncharacter in its data")),
    }
}

fn detail(cause: &minijinja::Error) -> String {
    let text = cause.detail().map_or_else(|| cause.kind().to_string(), str::to_owned);
    match cause.line() {
        Some(line) if line > 1 => format!("{text}, in its line {line}"),
        _ => text,
    }
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Array(_) => "a list",
        Json::Object(_) => "a table",
        Json::Null => "nothing",
        _ => "a value",
    }
}

fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(values) => Value::from(values.iter().map(value).collect::<Vec<_>>()),
        Json::Object(fields) => {
            Value::from(fields.iter().map(|(name, field)| (name.clone(), value(field))).collect::<BTreeMap<_, _>>())
        }
    }
}

/// A computed value as one of a row.
fn json(value: &Value) -> Result<Json, minijinja::Error> {
    Ok(match value.kind() {
        ValueKind::Undefined | ValueKind::None => Json::Null,
        ValueKind::Bool => Json::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => Json::from(i64::try_from(value.clone())?),
        ValueKind::Number => Json::from(f64::try_from(value.clone())?),
        ValueKind::Seq | ValueKind::Iterable => {
            Json::Array(value.try_iter()?.map(|item| json(&item)).collect::<Result<_, _>>()?)
        }
        _ => match value.as_str() {
            Some(text) => Json::from(text),
            None => {
                return Err(minijinja::Error::new(
                    ErrorKind::InvalidOperation,
                    "the result is no text, number or list",
                ));
            }
        },
    })
}
