//! From a row to text and label.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use minijinja::{
    ErrorKind, Value,
    machinery::{
        self,
        ast::{Expr, Stmt},
    },
    value::ValueKind,
};
use serde_json::Value as Json;

use super::{
    Candidate, Example, PromptText, Row,
    definition::{Among, ChooseRule, CoinRule, Draw, LabelRule, OneOrMany, Task, nearest, quoted, shown},
    label::{brief, find, hidden, plain},
    matching::Matcher,
    read::{Types, Wanted},
    rng::PythonRng,
    template::{Engine, MARKS, Program},
    uses::Uses,
};
use crate::{Error, Result, rng::Rng};

/// Why a row without an answer in its reference makes no example.
pub(super) const NO_ANSWER: &str = "no answer in the reference";
/// What a coin or a choice adds to the columns.
const CHOSEN: [&str; 3] = ["answer", "choices", "number"];
/// Longest expression, in bytes: minijinja reads a chain such as `1+1+1+…` by recursion, and a long one would overflow the stack.
const LONGEST: usize = 4000;

/// Applies one task's templates and label rule to rows.
pub(super) struct Formatter<'a> {
    task: &'a Task,
    engine: Engine,
    /// The filter and the templates.
    templates: BTreeMap<&'static str, Template<'a>>,
    /// Computed columns, each after those that it needs.
    computed: Vec<(&'a str, Template<'a>)>,
    /// Finds the answer in a reference, if words are generated.
    matcher: Option<Matcher>,
    /// What the rows' columns of texts hold.
    types: Types,
}

/// A template or an expression, and its variables.
struct Template<'a> {
    program: Program<'a>,
    /// Variables that it certainly uses.
    used: BTreeSet<String>,
    /// Every word in it: minijinja does not see variables inside of slices such as `words[1:]`.
    mentioned: BTreeSet<String>,
    uses: Uses,
    /// What it is made of, if it only strings together its own text and values.
    plain: Option<Plain>,
}

impl<'a> Template<'a> {
    fn new(source: &str, program: Program<'a>, uses: Uses, globals: &BTreeSet<String>) -> Self {
        let used: BTreeSet<String> = program.used.iter().filter(|name| !globals.contains(*name)).cloned().collect();
        let words = source.split(|c: char| c != '_' && !c.is_alphanumeric()).filter(|word| !word.is_empty());
        let mentioned = words.map(str::to_owned).chain(used.iter().cloned()).collect();
        Self { program, used, mentioned, uses, plain: None }
    }
}

/// A template that only strings together its own text and values: of a row it is known beforehand that it gives a text.
struct Plain {
    /// Whether it has a text of its own.
    own_text: bool,
    /// The variables that it shows.
    shown: Vec<String>,
}

impl Plain {
    fn of(template: &Stmt, source: &str) -> Option<Self> {
        let Stmt::Template(template) = template else { return None };
        let (mut plain, mut contexts) = (Self { own_text: false, shown: Vec::new() }, 0);
        for part in &template.children {
            let variable = match part {
                Stmt::EmitRaw(raw) => {
                    plain.own_text |= !raw.raw.trim().is_empty();
                    continue;
                }
                Stmt::EmitExpr(emit) => match &emit.expr {
                    Expr::Filter(filter) if filter.name == "context" && filter.args.is_empty() => {
                        contexts += 1;
                        filter.expr.as_ref()?
                    }
                    expression => expression,
                },
                _ => return None,
            };
            let Expr::Var(variable) = variable else { return None };
            plain.shown.push(variable.id.to_owned());
        }
        (contexts <= 1 && source.len() <= LONGEST).then_some(plain)
    }
}

/// What can be said of a row's example before any text is made.
#[derive(Clone, Copy)]
pub(super) enum Outline {
    /// Its label.
    Label(u8),
    /// What it is drawn from.
    Lot(Lot),
}

/// How many answers of a row are drawn from.
#[derive(Clone, Copy)]
pub(super) struct Lot {
    /// Whether the correct answer may be shown as such.
    correct: bool,
    choices: u32,
    /// Wrong answers that one is drawn from.
    others: u32,
    /// All of them.
    all_others: u32,
}

/// What was drawn for a row: the answer that is shown, and the order of the choices.
#[derive(Default)]
pub(super) struct Drawn {
    /// Whether it is the correct one.
    heads: bool,
    /// Place among the wrong ones from which on one is looked for.
    wrong: u32,
    /// Places of the choices in the order in which they are shown; empty for their own.
    order: Box<[u32]>,
}

impl Drawn {
    /// The label of a row for which it was drawn.
    pub fn label(&self) -> u8 {
        u8::from(self.heads)
    }
}

/// One example, and what tells whether another one asks the same.
pub(super) struct Point {
    pub example: Example,
    /// Hash of the text without the answer shown.
    pub question: u128,
    /// What must not be cut in two: a row's answers, a fact of a world in several phrases, the rows that the task keeps together.
    pub whole: u128,
}

/// The first bytes of a text's hash.
pub(super) fn short(text: &str) -> u128 {
    let hash = blake3::hash(text.as_bytes());
    u128::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
}

/// The answers to one row's question.
struct Answers {
    correct: String,
    /// All others, those that read like the correct one, too.
    others: Vec<String>,
    choices: Vec<String>,
    /// The correct one's place among the choices.
    place: usize,
}

impl Answers {
    /// For each choice the place of the one that stands for it: the first that reads the same, or the correct one.
    fn stands_for(&self) -> Vec<usize> {
        let place = |choice: &String| match *choice == self.correct {
            true => self.place,
            false => self.choices.iter().position(|other| other == choice).unwrap_or_default(),
        };
        self.choices.iter().map(place).collect()
    }
}

/// Why a row makes no example.
pub(super) enum Trouble {
    /// There is something odd about this row; others may be fine. The reason in two words, and the error.
    Row(&'static str, Error),
    /// The task is at fault, whatever the row.
    Task(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Task(error)
    }
}

/// What is made of a row.
type Made<T> = Result<T, Trouble>;

/// A row of which a reason is known why it makes no example.
pub(super) type Odd = (u32, &'static str, Error);

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
        let engine = Engine::new();
        let globals = engine.globals();
        let prompt = task.prompt.as_ref();
        let sources = [
            ("filter", task.filter.as_ref()),
            ("template", Some(&task.template)),
            ("prompt", prompt.map(|prompt| &prompt.template)),
            (
                "reference",
                match &task.generate {
                    Some(generate) => Some(&generate.reference),
                    None => prompt.and_then(|prompt| prompt.reference.as_ref()),
                },
            ),
        ];
        let mut templates = BTreeMap::new();
        for (name, source) in sources {
            let Some(source) = source else { continue };
            let what = if name == "filter" { "an expression" } else { "a template" };
            let explain = |cause: minijinja::Error| {
                task.wrong(keys(task, name), format!("not {what}: {}", detail(&cause))).help(JINJA)
            };
            if longest_expression(source) > LONGEST || name == "filter" && source.len() > LONGEST {
                return Err(task.wrong(keys(task, name), format!("an expression is longer than {LONGEST} characters")));
            }
            let program =
                if name == "filter" { engine.expression(name, source) } else { engine.template(name, source) };
            let program = program.map_err(explain)?;
            let uses = match name {
                "filter" => machinery::parse_expr(source).map(|filter| Uses::of_filter(&filter)),
                _ => machinery::parse(source, name, Default::default()).map(|parsed| Uses::of_template(&parsed)),
            };
            let uses = uses.map_err(explain)?;
            if let Some(mismatch) = uses.mismatch() {
                return Err(task.locate(keys(task, name), mismatch));
            }
            let mut template = Template::new(source, program, uses, &globals);
            if name != "filter" {
                template.plain = machinery::parse(source, name, Default::default())
                    .ok()
                    .and_then(|parsed| Plain::of(&parsed, source));
            }
            templates.insert(name, template);
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
            let program = engine.expression(name, expression).map_err(explain)?;
            let uses = Uses::of_expression(&machinery::parse_expr(expression).map_err(explain)?);
            if let Some(mismatch) = uses.mismatch() {
                return Err(task.locate(&["compute", name], mismatch));
            }
            waiting.push((name.as_str(), Template::new(expression, program, uses, &globals)));
        }
        let computed = in_order(waiting).map_err(|name| {
            let message = format!("`{name}` is computed from itself, by way of others or directly");
            task.wrong(&["compute", name], message)
        })?;
        let matcher = match &task.generate {
            Some(generate) => Some(Matcher::new(&generate.answer).map_err(|error| task.locate(&["generate"], error))?),
            None => None,
        };
        let formatter = Self { task, engine, templates, computed, matcher, types: Types::new() };
        formatter.check_names()?;
        formatter.check_answer_is_shown()?;
        Ok(formatter)
    }

    /// The templates' filters and tests are looked up only when used: uses them once.
    fn check_names(&self) -> Result<()> {
        use ErrorKind::{UnknownFilter, UnknownFunction, UnknownTest};
        let templates =
            self.templates.iter().map(|(name, template)| (keys(self.task, name).to_vec(), *name != "filter", template));
        let computed = self.computed.iter().map(|(name, template)| (vec!["compute", name], false, template));
        for (keys, whole, template) in templates.chain(computed) {
            let values: BTreeMap<&str, &str> =
                template.mentioned.iter().map(|variable| (variable.as_str(), "x")).collect();
            if let Err(cause) = self.engine.run(&template.program, Value::from(values), 0)
                && matches!(cause.kind(), UnknownFilter | UnknownTest | UnknownFunction)
            {
                let what = if whole { "a template" } else { "an expression" };
                return Err(self.task.wrong(&keys, format!("not {what}: {}", detail(&cause))).help(JINJA));
            }
        }
        self.engine.refill();
        Ok(())
    }

    /// A text that says nothing of the drawn answer has a label that nobody can know.
    fn check_answer_is_shown(&self) -> Result<()> {
        let task = self.task;
        let Some(among) = task.label.as_ref().and_then(LabelRule::among) else { return Ok(()) };
        // The correct one is the first of them unless they are shuffled.
        let in_order = among.wrong.is_some()
            && match &task.label {
                Some(LabelRule::Choose(rule)) => !rule.shuffles(),
                Some(LabelRule::Coin(rule)) => !rule.shuffle,
                _ => false,
            };
        for name in ["template", "prompt"] {
            let Some(Template { used, .. }) = self.templates.get(name) else { continue };
            let shows_answer = used.contains("answer") || used.contains("number");
            if name == "prompt" && among.rule == "choose" {
                if shows_answer {
                    let message = "the prompt shows one of the candidates, and asks for one of them";
                    let help = "end it where a candidate begins; `choices` lists all of them";
                    return Err(task.wrong(keys(task, name), message).help(help));
                }
            } else if !shows_answer {
                let message = "the template shows neither `answer` nor `number`, so nothing in it tells the label";
                return Err(task.wrong(keys(task, name), message));
            }
            if in_order && (used.contains("choices") || used.contains("number")) {
                let message = "the template lists the choices with the correct one always first";
                let help = format!("put `shuffle = true` under `[label.{}]`", among.rule);
                return Err(task.wrong(keys(task, name), message).help(help));
            }
        }
        Ok(())
    }

    /// Checks that every column that the task names is there.
    pub fn check_columns(&self, columns: &[String]) -> Result<()> {
        let task = self.task;
        let among = task.label.as_ref().and_then(LabelRule::among);
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
        for (name, template) in &self.computed {
            if columns.iter().any(|column| column == name) {
                let message = format!("the data already have a column `{name}`");
                return Err(task.wrong(&["compute", name], message).help("compute it under another name"));
            }
            if let Some(path) = template.used.iter().find(|path| !named(path)) {
                return missing(&["compute", name], path);
            }
        }
        for (name, Template { used, .. }) in &self.templates {
            let keys = keys(task, name);
            let drawn = among.is_some() && *name != "filter";
            if let Some(path) = used.iter().find(|path| !(named(path) || drawn && CHOSEN.contains(&path.as_str()))) {
                return missing(keys, path);
            }
        }
        match self.named().into_iter().find(|(_, path)| !named(path)) {
            Some((keys, path)) => missing(&keys, path),
            None => Ok(()),
        }
    }

    /// The columns that the task names outside of templates and expressions, each with its keys in the task file.
    fn named(&self) -> Vec<(Vec<&'static str>, &'a str)> {
        let task = self.task;
        let mut named: Vec<(Vec<&'static str>, &'a str)> = Vec::new();
        match &task.label {
            None => {}
            Some(LabelRule::Read(rule)) => {
                let name = rule.typetag_name();
                named.extend(rule.columns().into_iter().map(|(key, path)| (vec!["label", name, key], path)));
            }
            Some(LabelRule::Coin(_)) => {}
            Some(LabelRule::Choose(rule)) => {
                let more = [("preference", &rule.preference), ("margin", &rule.margin)];
                let more = more.into_iter().filter_map(|(key, path)| Some((key, path.as_deref()?)));
                named.extend(more.map(|(key, path)| (vec!["label", "choose", key], path)));
            }
        }
        let among = task.label.as_ref().and_then(LabelRule::among);
        for (key, path) in among.iter().flat_map(Among::columns) {
            named.push((vec!["label", among.map_or("", |among| among.rule), key], path));
        }
        named.extend(task.group.as_deref().map(|path| (vec!["group"], path)));
        named.extend(task.splits.together.as_deref().map(|path| (vec!["splits", "together"], path)));
        named
    }

    /// The same for rows whose columns of texts hold this.
    pub fn with_types(self, types: Types) -> Self {
        Self { types, ..self }
    }

    /// Columns that the task uses as numbers or truth values.
    pub fn counted(&self) -> BTreeSet<String> {
        let all = self.templates.values().chain(self.computed.iter().map(|(_, variables)| variables));
        all.flat_map(|variables| variables.uses.counted()).map(|name| self.column(name).to_owned()).collect()
    }

    /// The columns that examples are made of.
    pub fn wanted(&self) -> Wanted {
        if self.task.source.world.is_some() {
            return Wanted::All;
        }
        let mut names: BTreeSet<String> = self.templates.keys().flat_map(|name| self.needed(name)).collect();
        let computed = self.computed.iter().map(|(name, _)| *name);
        let named = self.named().into_iter().map(|(_, path)| path);
        named.chain(computed).for_each(|name| self.need(name, &mut names));
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
        if let Some(variables) = self.templates.get(template) {
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

    /// A row with those of the computed columns that are wanted.
    pub fn completed(&self, mut row: Row, wanted: &Wanted) -> Made<Row> {
        for (name, template) in self.computed.iter().filter(|(name, _)| wanted.has(name)) {
            let (values, bytes) = self.values(&row, template, None)?;
            let absent = absent(template, &values);
            let computed = self.engine.run(&template.program, Value::from(values), bytes);
            let computed = computed.and_then(|(_, value)| json(&value));
            let computed = computed.map_err(|cause| explain(&format!("computing `{name}`"), &absent, &cause))?;
            row.insert((*name).to_owned(), computed);
        }
        Ok(row)
    }

    /// Whether the filter lets a row through.
    pub fn keeps(&self, row: &Row) -> Made<bool> {
        let Some(template) = self.templates.get("filter") else { return Ok(true) };
        let (values, bytes) = self.values(row, template, None)?;
        let absent = absent(template, &values);
        let explain = |cause: minijinja::Error| explain("the filter", &absent, &cause);
        let (_, kept) = self.engine.run(&template.program, Value::from(values), bytes).map_err(explain)?;
        if kept.is_undefined() { Err(explain(ErrorKind::UndefinedError.into())) } else { Ok(kept.is_true()) }
    }

    /// Whether there can be outlines at all.
    pub fn outlines(&self) -> bool {
        let plain = |template: &Template| {
            let shows_choices = |plain: &Plain| plain.shown.iter().any(|variable| variable == "choices");
            template.plain.as_ref().is_some_and(|plain| !shows_choices(plain))
        };
        let coin = matches!(&self.task.label, Some(LabelRule::Coin(_)));
        !coin || self.templates.iter().all(|(name, template)| *name == "filter" || plain(template))
    }

    /// What can be said of a row's example, where it is certain that the row gives one and that it has a text; `None` otherwise.
    ///
    /// # Errors
    /// What [`point`](Self::point) would refuse.
    pub fn outline(&self, row: &Row, index: u32, draw: Draw, seed: u64) -> Made<Option<Outline>> {
        match &self.task.label {
            Some(LabelRule::Coin(rule)) => {
                let answers = self.answers(row)?;
                let certain = answers.others.iter().any(|answer| *answer != answers.correct)
                    && answers.choices.iter().chain([&answers.correct]).all(|answer| is_moderate(answer))
                    && self.certain(row, true);
                Ok(certain.then(|| Outline::Lot(Lot::of(rule, &answers, draw))))
            }
            Some(LabelRule::Read(_)) if self.matcher.is_none() && self.certain(row, false) => {
                Ok(Some(Outline::Label(self.label(row)?)))
            }
            _ => {
                let example = self.single(row, index, seed)?.example;
                Ok((!example.text.is_empty()).then_some(Outline::Label(example.label)))
            }
        }
    }

    /// Whether every template gives a text of a row, and the row says what it belongs to; false where only making it would show.
    fn certain(&self, row: &Row, coin: bool) -> bool {
        let belongs = |path: &Option<String>| path.as_ref().is_none_or(|path| self.scalar(row, path).is_ok());
        let gives = |(name, template): (&&str, &Template)| {
            let Some(Plain { own_text, shown }) = &template.plain else { return *name == "filter" };
            let mut empty = !own_text;
            let all = shown.iter().all(|variable| match (coin, variable.as_str()) {
                (true, "choices") => false,
                (true, "answer" | "number") => {
                    empty = false;
                    true
                }
                (_, variable) => match self.value(row, variable) {
                    Some(Json::String(text)) => {
                        empty &= text.is_empty();
                        is_moderate(text)
                    }
                    Some(Json::Number(_) | Json::Bool(_)) => {
                        empty = false;
                        true
                    }
                    _ => false,
                },
            });
            all && !(empty && *name == "template")
        };
        self.templates.iter().all(gives) && belongs(&self.task.group) && belongs(&self.task.splits.together)
    }

    /// Draws what a row shows, as the reference formatters do: coin, order of the choices, wrong answer.
    pub fn draw(&self, lot: &Lot, rng: &mut PythonRng) -> Drawn {
        let heads = lot.correct && rng.uniform() < 0.5;
        self.draw_beside(lot, heads, rng)
    }

    /// The same where the coin has fallen.
    fn draw_beside(&self, lot: &Lot, heads: bool, rng: &mut PythonRng) -> Drawn {
        let mut order = Box::default();
        if let Some(LabelRule::Coin(CoinRule { shuffle: true, .. })) = &self.task.label {
            order = (0..lot.choices).collect();
            rng.shuffle(&mut order);
        }
        let any = !heads && lot.all_others >= 2 && lot.others > 0;
        Drawn { heads, wrong: if any { rng.below(lot.others as usize) as u32 } else { 0 }, order }
    }

    /// The example of a row, with what was drawn from `rng` for it. Candidates are put in an order of their own by the `seed`.
    ///
    /// # Errors
    /// A row or a template that makes none.
    pub fn point(&self, row: &Row, index: u32, draw: Draw, seed: u64, rng: &mut PythonRng) -> Made<(Point, Drawn)> {
        let Some(LabelRule::Coin(rule)) = &self.task.label else {
            return Ok((self.single(row, index, seed)?, Drawn::default()));
        };
        let answers = self.answers(row)?;
        let drawn = self.draw(&Lot::of(rule, &answers, draw), rng);
        Ok((self.shown(row, index, rule, &answers, draw, &drawn)?, drawn))
    }

    /// The example of a row for which this was drawn.
    ///
    /// # Errors
    /// As of [`point`](Self::point).
    pub fn point_as_drawn(&self, row: &Row, index: u32, draw: Draw, seed: u64, drawn: &Drawn) -> Made<Point> {
        match &self.task.label {
            Some(LabelRule::Coin(rule)) => self.shown(row, index, rule, &self.answers(row)?, draw, drawn),
            _ => self.single(row, index, seed),
        }
    }

    /// One example with the correct and one with a wrong answer; neither if the correct one is never shown as such. A row of which no
    /// answer is drawn gives its one example.
    pub fn pair(&self, row: &Row, index: u32, draw: Draw, seed: u64, rng: &mut PythonRng) -> Made<Vec<Point>> {
        let Some(LabelRule::Coin(rule)) = &self.task.label else { return Ok(vec![self.single(row, index, seed)?]) };
        let answers = self.answers(row)?;
        if never_correct(rule, &answers) {
            return Ok(Vec::new());
        }
        let lot = Lot::of(rule, &answers, draw);
        let shown = |heads| {
            let drawn = self.draw_beside(&lot, heads, rng);
            self.shown(row, index, rule, &answers, draw, &drawn)
        };
        [true, false].into_iter().map(shown).collect()
    }

    fn shown(
        &self,
        row: &Row,
        index: u32,
        rule: &CoinRule,
        answers: &Answers,
        draw: Draw,
        drawn: &Drawn,
    ) -> Made<Point> {
        let choices: Vec<String> = match &drawn.order[..] {
            [] => answers.choices.clone(),
            order => order.iter().map(|place| answers.choices[*place as usize].clone()).collect(),
        };
        // A question without a wrong answer is left out whatever the coin says, or the label would tell which questions these are.
        let others = drawn_from(rule, answers, draw);
        let wrong = others
            .iter()
            .cycle()
            .skip(drawn.wrong as usize)
            .take(others.len())
            .copied()
            .find(|answer| **answer != answers.correct)
            .ok_or_else(|| Trouble::Row("no wrong answer", Error::new("no answer differs from the correct one")))?;
        let answer = if drawn.heads { &answers.correct } else { wrong };
        let number = choices.iter().position(|choice| choice == answer).map_or(0, |place| place + 1);
        let chosen = Chosen { answer, choices: &choices, number };
        let (question, _) = self.question(row, &answers.choices)?;
        self.example(row, index, Some(&chosen), drawn.label(), Some(&question))
    }

    /// A question without its answer, and its context.
    fn question(&self, row: &Row, choices: &[String]) -> Made<(String, Range<usize>)> {
        let (text, context) = self.render("template", row, Some(&Chosen { answer: "", choices, number: 0 }))?;
        // Where the answer is all there is to see, the question is which.
        Ok(if text.trim().is_empty() { (choices.join("\n"), 0..0) } else { (text, context) })
    }

    /// The one example of a row of which no answer is drawn.
    fn single(&self, row: &Row, index: u32, seed: u64) -> Made<Point> {
        match &self.task.label {
            Some(LabelRule::Choose(rule)) => self.choice(row, index, rule, seed),
            _ => self.example(row, index, None, self.label(row)?, None),
        }
    }

    /// The example of a row whose answers are all candidates.
    fn choice(&self, row: &Row, index: u32, rule: &ChooseRule, seed: u64) -> Made<Point> {
        let answers = self.answers(row)?;
        let stands_for = answers.stands_for();
        let mut places: Vec<usize> = stands_for.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        if places.len() < 2 {
            let error = Error::new("there is one candidate, and nothing to choose");
            let error = error.help("each row needs another answer that reads differently");
            return Err(Trouble::Row("no other candidate", error));
        }
        if places.len() > usize::from(u8::MAX) {
            let error =
                Error::new(format!("there are {} candidates, more than the 255 that a row may have", places.len()));
            return Err(Trouble::Row("too many candidates", error));
        }
        let preference = rule.preference.as_ref().map(|path| self.preference(row, path, &answers, &stands_for));
        let preference = preference.transpose()?;
        if rule.shuffles() {
            Rng::named(seed, &format!("task/candidates/{index}")).shuffle(&mut places);
        }
        let texts: Vec<String> = places.iter().map(|place| answers.choices[*place].clone()).collect();
        let mut candidates = Vec::with_capacity(texts.len());
        for (place, answer) in texts.iter().enumerate() {
            let chosen = Chosen { answer, choices: &texts, number: place + 1 };
            let (text, context) = self.render("template", row, Some(&chosen))?;
            candidates.push(Candidate { text, context, answer: answer.clone() });
        }
        let shared = |candidate: &Candidate| candidate.text[candidate.context.clone()].to_owned();
        if candidates.iter().any(|candidate| shared(candidate) != shared(&candidates[0])) {
            let error = Error::new("what `context` marks is not the same for every candidate");
            let error = error.help("mark what the candidates share, such as the question, and not the answer");
            return Err(Trouble::Task(self.task.locate(&["template"], error)));
        }
        let label = places.iter().position(|place| *place == answers.place).unwrap_or_default();
        let label = u8::try_from(label).map_err(|_| Error::new("more candidates than a label can name"))?;
        let margin = match &rule.margin {
            None => None,
            Some(path) => {
                let margin = self.decimal(row, path)?;
                let wrong = || Error::new(format!("column `{path}` is {margin}: a margin is a number from 0 on"));
                Some(margin).filter(|margin| *margin >= 0.0).ok_or_else(|| Trouble::Row("no margin", wrong()))?.into()
            }
        };
        let (text, context) = self.question(row, &texts)?;
        let prompt = self.prompt(row, Some(&Chosen { answer: "", choices: &texts, number: 0 }))?;
        let preference = preference.map(|known| places.iter().map(|place| known[place] as f32).collect());
        let question = short(&text);
        let example = Example {
            text,
            context,
            label,
            source_row: index,
            prompt,
            candidates,
            preference: preference.unwrap_or_default(),
            margin: margin.map(|margin: f64| margin as f32),
            ..Example::default()
        };
        self.point_of(row, example, question)
    }

    /// The probability that each choice is the right one, as a column says it; what is said of choices that read alike adds up at the place
    /// that stands for them.
    fn preference(&self, row: &Row, path: &str, answers: &Answers, stands_for: &[usize]) -> Made<BTreeMap<usize, f64>> {
        let odd = |message: String, help: &str| Trouble::Row("no preference", Error::new(message).help(help));
        let n = answers.choices.len();
        let given: Vec<f64> = match self.required(row, path)? {
            Json::Array(values) => values.iter().map(|value| value.as_f64().unwrap_or(f64::NAN)).collect(),
            _ if n == 2 => {
                let right = self.decimal(row, path)?;
                (0..n).map(|place| if place == answers.place { right } else { 1.0 - right }).collect()
            }
            _ => {
                let message = format!("column `{path}` is one number, and there are {n} candidates");
                return Err(odd(message, "give a list with a probability for each of them, in their order"));
            }
        };
        if given.len() != n {
            let message = format!("column `{path}` holds {} for {n} candidates", given.len());
            return Err(odd(message, "give a probability for each of them, in their order"));
        }
        let total: f64 = given.iter().sum();
        if !given.iter().all(|p| (0.0..=1.0).contains(p)) || (total - 1.0).abs() > 1e-3 {
            let message = format!("column `{path}` holds {given:?}, which are no probabilities of {n} candidates");
            let help = "they are between 0 and 1 and sum to 1; `[compute]` can make them of votes or scores";
            return Err(odd(message, help));
        }
        let mut known: BTreeMap<usize, f64> = BTreeMap::new();
        stands_for.iter().zip(&given).for_each(|(place, p)| *known.entry(*place).or_default() += p / total);
        if known.values().any(|p| *p > known[&answers.place] + 1e-6) {
            let message = format!("column `{path}` prefers another candidate than the right one");
            let help = "is it the probability of the right one? If it is that of another column, compute `1 - COLUMN`";
            return Err(odd(message, help));
        }
        Ok(known)
    }

    /// A number in a column, also as a text.
    pub fn decimal(&self, row: &Row, path: &str) -> Made<f64> {
        let text = self.scalar(row, path)?;
        let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
        let wrong = || Error::new(format!("column `{path}` is `{}`, which is no number", brief(&text)));
        number.ok_or_else(|| Trouble::Row("no number", wrong()))
    }

    /// The label of a row of which nothing is drawn.
    fn label(&self, row: &Row) -> Made<u8> {
        let unlabelled = |name: &str| Trouble::Row("no label", Error::new(format!("column `{name}` has no value")));
        Ok(match &self.task.label {
            Some(LabelRule::Read(rule)) => {
                let mut values = Vec::new();
                let mut blank = None;
                for (_, name) in rule.columns() {
                    let value = self.value(row, name).ok_or_else(|| unlabelled(name))?;
                    if value.as_str().is_some_and(|text| text.trim().is_empty()) {
                        blank = blank.or(Some(name));
                    }
                    values.push(value);
                }
                let class = rule.class(&self.task.classes, &values).map_err(|error| match blank {
                    Some(name) => unlabelled(name),
                    None => Trouble::Row("unknown label", error),
                })?;
                u8::try_from(class).map_err(|_| Error::new("more classes than a label can name"))?
            }
            Some(LabelRule::Coin(_) | LabelRule::Choose(_)) | None => 0,
        })
    }

    fn example(
        &self,
        row: &Row,
        index: u32,
        chosen: Option<&Chosen>,
        label: u8,
        question: Option<&str>,
    ) -> Made<Point> {
        let (text, context) = self.render("template", row, chosen)?;
        let prompt = self.prompt(row, chosen)?;
        let reference = match &self.matcher {
            None => None,
            Some(matcher) => {
                let reference = self.render("reference", row, chosen)?.0;
                if matcher.reference(&reference).failed {
                    let error = Error::new(format!("the reference holds no answer by the rule: {}", matcher.name()));
                    let help = format!(
                        "it is `{}`; `[generate.answer]` says where the answer stands in it",
                        brief(&reference)
                    );
                    return Err(Trouble::Row(NO_ANSWER, error.help(help)));
                }
                Some(reference)
            }
        };
        let question = short(question.unwrap_or(&text));
        let example = Example { text, context, label, source_row: index, prompt, reference, ..Example::default() };
        self.point_of(row, example, question)
    }

    /// The question to a language model, if the task has one.
    fn prompt(&self, row: &Row, chosen: Option<&Chosen>) -> Made<Option<PromptText>> {
        let Some(prompt) = &self.task.prompt else { return Ok(None) };
        let (text, context) = self.render("prompt", row, chosen)?;
        let reference = match prompt.reference {
            Some(_) => Some(self.render("reference", row, chosen)?.0),
            None => None,
        };
        Ok(Some(PromptText { text, context, reference }))
    }

    /// An example with what it belongs to.
    fn point_of(&self, row: &Row, mut example: Example, question: u128) -> Made<Point> {
        let belongs = |path: &String| Ok::<_, Trouble>(short(&plain(&self.scalar(row, path)?)));
        example.group = self.task.group.as_ref().map(belongs).transpose()?.map(|hash| hash as u64);
        let whole = match (&self.task.splits.together, &self.task.source.world) {
            (Some(_), _) => self.together(row)?,
            (None, Some(_)) => short(&format!("{:?} {:?}", row.get("attribute"), row.get("entity"))),
            (None, None) => u128::from(example.source_row),
        };
        Ok(Point { example, question, whole })
    }

    /// What a row has in the column that keeps rows together.
    pub fn together(&self, row: &Row) -> Made<u128> {
        match &self.task.splits.together {
            Some(path) => Ok(short(&plain(&self.scalar(row, path)?))),
            None => Ok(0),
        }
    }

    /// The column that keeps rows together, with those that it is computed from.
    pub fn wanted_by_together(&self) -> Wanted {
        let mut names = BTreeSet::new();
        if self.task.source.world.is_some() {
            return Wanted::All;
        }
        self.task.splits.together.iter().for_each(|name| self.need(name, &mut names));
        Wanted::These(names)
    }

    /// Whether a name, which no key of the task has, is that of a column of the data, of a computed one, or of a path into one.
    pub fn knows(&self, name: &str, columns: &[String]) -> bool {
        let path = self.column(name);
        let first = path.split('.').next().unwrap_or(path);
        columns.iter().any(|column| column == path || column == first) || self.task.compute.contains_key(first)
    }

    /// Whether the right answer is read from a column.
    pub fn tells_truth(&self, name: &str) -> bool {
        let same = |path: &str| self.column(path) == self.column(name);
        match &self.task.label {
            Some(LabelRule::Read(rule)) => rule.columns().into_iter().any(|(_, path)| same(path)),
            Some(label) => {
                label.among().iter().flat_map(Among::columns).any(|(key, path)| key == "answer" && same(path))
            }
            None => false,
        }
    }

    /// A column, with those that it is computed from.
    pub fn wanted_by(&self, name: &str) -> Wanted {
        if self.task.source.world.is_some() {
            return Wanted::All;
        }
        let mut names = BTreeSet::new();
        self.need(name, &mut names);
        Wanted::These(names)
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

    fn required<'r>(&self, row: &'r Row, path: &str) -> Made<&'r Json> {
        self.value(row, path)
            .ok_or_else(|| Trouble::Row("no value", Error::new(format!("column `{path}` has no value"))))
    }

    fn scalar(&self, row: &Row, path: &str) -> Made<String> {
        let value = self.required(row, path)?;
        let wrong = || Error::new(format!("column `{path}` holds {}, not one value", kind(value)));
        shown(value).ok_or_else(|| Trouble::Row("no value", wrong()))
    }

    /// The scalars of a list column, or of several columns; `None` for one that is null or empty, as a fifth option where there are four.
    fn list(&self, row: &Row, paths: &OneOrMany<String>) -> Made<Vec<Option<String>>> {
        let mut list = Vec::new();
        for path in paths.as_slice() {
            let values = match self.value(row, path) {
                Some(Json::Array(values)) => values.iter().collect(),
                value => vec![value.unwrap_or(&Json::Null)],
            };
            for value in values {
                let wrong = || Error::new(format!("column `{path}` holds {} in its list", kind(value)));
                list.push(match value {
                    Json::Null => None,
                    value => Some(shown(value).ok_or_else(|| Trouble::Row("no value", wrong()))?),
                });
            }
        }
        list.iter_mut().for_each(|text| _ = text.take_if(|text| text.trim().is_empty()));
        Ok(list)
    }

    fn answers(&self, row: &Row) -> Made<Answers> {
        let Some(rule) = self.task.label.as_ref().and_then(LabelRule::among) else {
            return Err(Error::new("the label is not about answers").into());
        };
        let empty = |path: &str| Trouble::Row("no value", Error::new(format!("column `{path}` has no value")));
        if let (Some(path), Some(wrong)) = (rule.correct, rule.wrong) {
            let correct = self.scalar(row, path)?;
            if correct.trim().is_empty() {
                return Err(empty(path));
            }
            let others: Vec<String> = self.list(row, wrong)?.into_iter().flatten().collect();
            let choices = std::iter::once(&correct).chain(&others).cloned().collect();
            return Ok(Answers { correct, others, choices, place: 0 });
        }
        let mut options = match rule.choices {
            Some(paths) => self.list(row, paths)?,
            None => Vec::new(),
        };
        let path = rule.correct.or(rule.answer).unwrap_or_default();
        let said = self.scalar(row, path)?;
        if said.trim().is_empty() {
            return Err(empty(path));
        }
        let keys: Vec<String> = match rule.keys {
            _ if rule.correct.is_some() => options.iter().map(|option| option.clone().unwrap_or_default()).collect(),
            None => (0..options.len()).map(|number| number.to_string()).collect(),
            Some(OneOrMany::Many(keys)) => keys.clone(),
            Some(keys) => self.list(row, keys)?.into_iter().map(Option::unwrap_or_default).collect(),
        };
        // The first of several that read the same, as Python's `index` and `remove` have it.
        let place = keys.iter().position(|key| *key == said);
        let place = place.or_else(|| find(keys.iter().map(String::as_str).collect::<Vec<_>>(), &said));
        let correct = place.and_then(|place| options.get_mut(place)?.take().map(|correct| (place, correct)));
        let (place, correct) = correct.ok_or_else(|| {
            let said = brief(&said);
            let message = format!("column `{path}` is `{said}`, which is none of the {} choices", options.len());
            let called = || match rule.keys {
                None if rule.correct.is_some() => "it has to hold the text of one of them".to_owned(),
                _ => format!("the choices are called {}", quoted(keys.iter().take(26))),
            };
            Trouble::Row("unknown answer", Error::new(message).help(hidden(path, &said).unwrap_or_else(called)))
        })?;
        let mut choices: Vec<String> = Vec::with_capacity(options.len());
        let (mut others, mut among) = (Vec::new(), 0);
        for (i, option) in options.into_iter().enumerate() {
            if i == place {
                among = choices.len();
                choices.push(correct.clone());
            } else if let Some(option) = option {
                choices.push(option.clone());
                others.push(option);
            }
        }
        Ok(Answers { correct, others, choices, place: among })
    }

    /// What a row gives a template, and how many bytes that are.
    fn values<'v>(
        &self,
        row: &Row,
        template: &'v Template,
        chosen: Option<&Chosen>,
    ) -> Made<(BTreeMap<&'v str, Value>, usize)> {
        let drawn = |variable: &str| match (chosen?, variable) {
            (chosen, "answer") => Some((Value::from(chosen.answer), chosen.answer.len())),
            (chosen, "choices") => {
                Some((Value::from(chosen.choices.to_vec()), chosen.choices.iter().map(String::len).sum()))
            }
            (chosen, "number") => Some((Value::from(chosen.number), 0)),
            _ => None,
        };
        let mut total = 0;
        let mut values: BTreeMap<&str, Value> = BTreeMap::new();
        for variable in &template.mentioned {
            let found = drawn(variable).or_else(|| self.value(row, variable).map(|json| (value(json), size(json))));
            if let Some((found, bytes)) = found {
                values.insert(variable.as_str(), found);
                total += bytes;
            }
        }
        let kind = |name: &str| match drawn(name) {
            Some(_) => None,
            None => self.types.get(self.column(name)).copied(),
        };
        template.uses.fit(&mut values, kind).map_err(|error| Trouble::Row("text beside number", error))?;
        Ok((values, total))
    }

    /// Renders a template; returns the text and the byte range that may be shortened.
    fn render(&self, name: &'static str, row: &Row, chosen: Option<&Chosen>) -> Made<(String, Range<usize>)> {
        let template = &self.templates[name];
        let (values, bytes) = self.values(row, template, chosen)?;
        let absent = absent(template, &values);
        let (text, _) = self
            .engine
            .run(&template.program, Value::from(values), bytes)
            .map_err(|cause| explain(&format!("the {name}"), &absent, &cause))?;
        unmark(text).map_err(|error| Trouble::Row("no text", error))
    }
}

/// Length of the longest `{{ … }}` or `{% … %}` of a template.
fn longest_expression(source: &str) -> usize {
    let inner = source.split("{{").flat_map(|part| part.split("{%"));
    let ends = |part: &str| ["}}", "%}"].iter().filter_map(|end| part.find(end)).min().unwrap_or(part.len());
    inner.skip(1).map(ends).max().unwrap_or(0)
}

/// Variables that are used and have no value.
fn absent<'a>(template: &'a Template, values: &BTreeMap<&str, Value>) -> Vec<&'a String> {
    template.used.iter().filter(|name| !values.contains_key(name.as_str())).collect()
}

/// Why a template or an expression fails on a row.
fn explain(what: &str, absent: &[&String], cause: &minijinja::Error) -> Trouble {
    match (cause.kind(), absent) {
        (ErrorKind::OutOfFuel, _) => {
            let message = format!("{what} has too much to do, or makes too long a text");
            let help = "it may take about a million steps and make 16 MiB beyond what the rows hold: are there loops within loops, or texts that double?";
            Trouble::Task(Error::new(message).help(help))
        }
        (ErrorKind::UndefinedError, [_, ..]) => Trouble::Row(
            "no value",
            Error::new(format!("no value in {}", quoted(absent)))
                .help("`| default(\"\")` in a template gives a value to what has none"),
        ),
        (kind, _) => {
            let help = if kind == ErrorKind::UndefinedError {
                "`| default(\"\")` in a template gives a value to what has none"
            } else {
                JINJA
            };
            Trouble::Row("no text", Error::new(format!("{what} fails: {}", detail(cause))).help(help))
        }
    }
}

/// Names in an order in which each comes after those that it uses, and if possible after those that it mentions; the name of one that
/// cannot.
fn in_order<'a>(mut waiting: Vec<(&'a str, Template<'a>)>) -> Result<Vec<(&'a str, Template<'a>)>, &'a str> {
    let mut ordered = Vec::new();
    while let Some((first, _)) = waiting.first() {
        let free = |(name, variables): &(&str, Template)| {
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
fn keys(task: &Task, template: &str) -> &'static [&'static str] {
    match template {
        "filter" => &["filter"],
        "prompt" => &["prompt", "template"],
        "reference" if task.generate.is_some() => &["generate", "reference"],
        "reference" => &["prompt", "reference"],
        _ => &["template"],
    }
}

impl Lot {
    fn of(rule: &CoinRule, answers: &Answers, draw: Draw) -> Self {
        Self {
            correct: !never_correct(rule, answers),
            choices: answers.choices.len() as u32,
            others: drawn_from(rule, answers, draw).len() as u32,
            all_others: answers.others.len() as u32,
        }
    }
}

/// All that the rule calls wrong are drawn from, as in the originals; what reads like the correct answer is then passed over.
fn drawn_from<'a>(rule: &CoinRule, answers: &'a Answers, draw: Draw) -> Vec<&'a String> {
    let differs = |answer: &&String| **answer != answers.correct;
    match rule.draw.unwrap_or(draw) {
        Draw::Text if rule.wrong.is_none() => answers.others.iter().filter(differs).collect(),
        _ => answers.others.iter().collect(),
    }
}

/// Whether a text can be shown without a look at the bounds of what templates may do.
fn is_moderate(text: &str) -> bool {
    text.len() <= 1 << 20 && (text.is_ascii() || !text.contains(MARKS))
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
    let text = cause.detail().map_or_else(|| cause.kind().to_string(), |detail| brief(detail).into_owned());
    match cause.line() {
        Some(line) if line > 1 => format!("{text}, in its line {line}"),
        _ => text,
    }
}

pub(super) fn kind(value: &Json) -> &'static str {
    match value {
        Json::Array(_) => "a list",
        Json::Object(_) => "a table",
        Json::Null => "nothing",
        _ => "a value",
    }
}

/// Bytes of the texts in a value, and some for each item of a list.
fn size(json: &Json) -> usize {
    match json {
        Json::String(text) => text.len(),
        Json::Array(values) => values.iter().map(|value| 8 + size(value)).sum(),
        Json::Object(fields) => fields.iter().map(|(name, field)| name.len() + size(field)).sum(),
        _ => 8,
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
