//! Tables, made from the rows of `results.csv` and nothing else.
//!
//! A [`Table`] knows its numbers and how sure they are; the four renderings show the same ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    str::FromStr,
};

use minijinja::{Environment, context};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    metrics::{self, ACCURACY, GAIN_SE, MAJORITY_RATE, binomial_standard_error},
    results::{CEILING, FURTHER_WEAK, ResultRow, Status, WEAK, is_end, is_weak},
    sheet::{Sheet, fill, spreadsheet},
    statistics::{Gap, RESOLVED, Recovered, Reference, STAR_SEEDS, Summary, recovered},
};
use crate::{Error, Result, strategy::Split};

/// The template of [`Table::to_latex`]; a user's own takes the same values.
pub const LATEX_TEMPLATE: &str = include_str!("table.tex.j2");

/// A table ready to be rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    title: String,
    labels: Vec<String>,
    columns: Vec<Column>,
    blocks: Vec<Block>,
    notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Column {
    /// Shared by neighbouring columns, e.g. the task; may be empty.
    group: String,
    name: String,
}

/// Lines that belong together, e.g. those of one pair of models.
#[derive(Clone, Debug, Default, PartialEq)]
struct Block {
    /// What the block is about: (`weak`, model), (`strong`, model).
    keys: Vec<(String, String)>,
    /// Lines between rules.
    sections: Vec<Vec<Line>>,
}

impl Block {
    fn title(&self) -> String {
        self.keys.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        self.sections.iter().flatten()
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Line {
    labels: Vec<String>,
    /// Whether ground truth reached the student: marked with a dagger.
    truth_used: bool,
    cells: Vec<Cell>,
}

#[derive(Clone, Debug, PartialEq)]
enum Cell {
    /// Nothing belongs here, e.g. the PGR of the weak model.
    Blank,
    /// No result yet.
    Absent,
    /// The gap is not resolved.
    NotAvailable,
    Number(Number),
    /// What a paper says, in percent.
    Published(f64),
}

#[derive(Clone, Debug, PartialEq)]
struct Number {
    summary: Summary,
    decimals: usize,
    /// Seeds that the table is about; more than `summary.n` if some are missing.
    of: usize,
    /// Highest among comparable lines.
    best: bool,
    /// Significantly different from the method that the table is told to compare with.
    star: bool,
}

/// What [`Table::main`] shows. The default shows all rows in their own order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MainOptions {
    /// Tasks, in order; empty for all.
    pub tasks: Vec<String>,
    /// Methods between weak and ceiling, in order; empty for all.
    pub methods: Vec<String>,
    /// Seeds; empty for all that occur.
    pub seeds: Vec<u64>,
    /// Names to print for tasks, models and methods, by their names in the results.
    pub titles: BTreeMap<String, String>,
    /// A paper's numbers, shown beside ours.
    pub published: Option<Published>,
    /// Results that carry a star, and against what.
    pub stars: Option<Stars>,
}

/// What a paper reports for the same table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Published {
    /// The paper and its table.
    pub source: String,
    /// What the numbers are, if not accuracy and PGR: a metric of `w2s table --metric`, one number each.
    #[serde(default)]
    pub metric: Option<String>,
    /// What it reports for single pairs of models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<PublishedPair>,
    /// Task → method (or `weak`, `ceiling`) → accuracy and, where there is one, PGR; in percent. Of every pair that is not among `pairs`.
    #[serde(flatten)]
    pub tasks: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
}

/// What a paper reports for one pair of models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PublishedPair {
    /// Name of the weak model.
    pub weak: String,
    /// Name of the strong model.
    pub strong: String,
    /// As [`Published::tasks`].
    #[serde(flatten)]
    pub tasks: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
}

/// Which results carry a star ([`compare`](super::compare::compare) decides).
#[derive(Clone, Debug, PartialEq)]
pub struct Stars {
    /// The method that the others are compared with.
    pub against: String,
    /// Level over the whole table.
    pub level: f64,
    /// Task, weak model, strong model, method.
    pub starred: BTreeSet<[String; 4]>,
}

impl Published {
    /// Accuracy (`which` 0) or PGR (1) of a method on a task and pair.
    fn cell(&self, (task, weak, strong): Place, method: &str, which: usize) -> Cell {
        let pair = self.pairs.iter().find(|pair| (pair.weak.as_str(), pair.strong.as_str()) == (weak, strong));
        let tasks = pair.map_or(&self.tasks, |pair| &pair.tasks);
        let value = tasks.get(task).and_then(|methods| methods.get(method)).and_then(|values| values.get(which));
        value.map_or(Cell::Blank, |value| Cell::Published(*value))
    }
}

impl MainOptions {
    fn title(&self, name: &str) -> String {
        self.titles.get(name).cloned().unwrap_or_else(|| name.to_owned())
    }
}

/// A column of `results.csv` by which [`Table::pivot`] may group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `run`
    Run,
    /// `task`
    Task,
    /// `weak`
    Weak,
    /// `strong`
    Strong,
    /// `supervisor`
    Supervisor,
    /// `selector`
    Selector,
    /// `refiner`
    Refiner,
    /// `loss`
    Loss,
    /// `method`
    Method,
    /// `seed`
    Seed,
    /// `step`: of what was measured while students were trained, which no other table shows.
    Step,
    /// `device`
    Device,
}

impl Key {
    /// All keys.
    pub const ALL: [Key; 12] = [
        Key::Run,
        Key::Task,
        Key::Weak,
        Key::Strong,
        Key::Supervisor,
        Key::Selector,
        Key::Refiner,
        Key::Loss,
        Key::Method,
        Key::Seed,
        Key::Step,
        Key::Device,
    ];

    /// The column's name.
    pub fn name(self) -> &'static str {
        match self {
            Key::Run => "run",
            Key::Task => "task",
            Key::Weak => "weak",
            Key::Strong => "strong",
            Key::Supervisor => "supervisor",
            Key::Selector => "selector",
            Key::Refiner => "refiner",
            Key::Loss => "loss",
            Key::Method => "method",
            Key::Seed => "seed",
            Key::Step => "step",
            Key::Device => "device",
        }
    }

    /// The row's value in this column.
    pub fn of(self, row: &ResultRow) -> String {
        match self {
            Key::Run => row.run.clone(),
            Key::Task => row.task.clone(),
            Key::Weak => row.weak.clone(),
            Key::Strong => row.strong.clone(),
            Key::Supervisor => row.supervisor.clone(),
            Key::Selector => row.selector.clone(),
            Key::Refiner => row.refiner.clone(),
            Key::Loss => row.loss.clone(),
            Key::Method => row.method.clone(),
            Key::Seed => row.seed.to_string(),
            Key::Step => row.step.map_or_else(String::new, |step| step.to_string()),
            Key::Device => row.device.clone(),
        }
    }
}

impl FromStr for Key {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Key::ALL.into_iter().find(|key| key.name() == name).ok_or_else(|| {
            Error::new(format!("results cannot be grouped by `{name}`"))
                .help(format!("group by {}", listed(Key::ALL.map(Key::name))))
        })
    }
}

/// What [`Table::pivot`] shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Pivot {
    /// Columns of the results that make the table's rows.
    pub rows: Vec<Key>,
    /// Columns of the results that make the table's columns.
    pub columns: Vec<Key>,
    /// The metric, or `pgr`.
    pub metric: String,
    /// The split.
    pub split: Split,
    /// A paper's numbers of this metric, shown beside ours where tasks and methods are rows and columns.
    pub published: Option<Published>,
}

impl Default for Pivot {
    fn default() -> Self {
        Self {
            rows: vec![Key::Method],
            columns: vec![Key::Task],
            metric: ACCURACY.to_owned(),
            split: Split::Test,
            published: None,
        }
    }
}

/// Task and pair of models.
type Place<'a> = (&'a str, &'a str, &'a str);

/// The rows of one metric on one split, found by what they are about.
struct Index<'a> {
    rows: BTreeMap<(Place<'a>, &'a str, u64), &'a ResultRow>,
}

impl<'a> Index<'a> {
    fn new(rows: &[&'a ResultRow], metric: &str) -> Result<Self> {
        let mut found: BTreeMap<_, &ResultRow> = BTreeMap::new();
        for &row in rows.iter().filter(|row| row.metric == metric) {
            if let Some(other) = found.insert((place(row), row.method.as_str(), row.seed), row) {
                let differing = Key::ALL.into_iter().find(|key| key.of(row) != key.of(other));
                let error = Error::new(format!(
                    "there are two results for method `{}`, task `{}`, {} → {}, seed {}",
                    row.method, row.task, row.weak, row.strong, row.seed
                ));
                return Err(error.help(match differing {
                    Some(key) => {
                        format!("they differ in `{}`: choose `{}` or `{}`", key.name(), key.of(other), key.of(row))
                    }
                    None => format!("they come from the cells `{}` and `{}`", other.cell, row.cell),
                }));
            }
        }
        Ok(Self { rows: found })
    }

    fn row(&self, place: Place, method: &str, seed: u64) -> Option<&'a ResultRow> {
        self.rows.get(&(place, method, seed)).copied()
    }

    fn value(&self, place: Place, method: &str, seed: u64) -> Option<f64> {
        self.row(place, method, seed)?.value
    }

    /// Weak model, by its method name, and ceiling of each seed that has both. The gap's standard error is the paired one if the results
    /// hold it, which they do for the first supervisor.
    fn references(&self, place: Place, weak: &str, seeds: &BTreeSet<u64>, gain_se: &Index) -> Vec<(u64, Reference)> {
        let of_seed = |seed: u64| {
            let (own, ceiling) = (self.row(place, weak, seed)?, self.row(place, CEILING, seed)?);
            let (from, to) = (own.value?, ceiling.value?);
            let gap = match gain_se.value(place, CEILING, seed).filter(|_| weak == WEAK) {
                Some(standard_error) => Gap { value: to - from, standard_error },
                None => Gap::of_rates(from, to, own.n.min(ceiling.n) as usize),
            };
            Some((seed, Reference { weak: from, gap }))
        };
        seeds.iter().filter_map(|seed| of_seed(*seed)).collect()
    }
}

fn place(row: &ResultRow) -> Place<'_> {
    (&row.task, &row.weak, &row.strong)
}

/// The rows of the weak supervisor whose labels a method was trained on, by place and supervisor: their method name.
struct Supervisors<'a>(BTreeMap<(Place<'a>, &'a str), &'a str>);

impl<'a> Supervisors<'a> {
    fn new(rows: &[&'a ResultRow]) -> Self {
        let weak = rows.iter().filter(|row| is_weak(&row.method));
        Self(weak.map(|row| ((place(row), row.supervisor.as_str()), row.method.as_str())).collect())
    }

    /// Of a method's row; a name without rows where the supervisor has none.
    fn of(&self, row: &ResultRow) -> &'a str {
        self.0.get(&(place(row), row.supervisor.as_str())).copied().unwrap_or_default()
    }
}

/// `Weak`, `Ceiling`, or what the method is called.
pub(crate) fn line_title(method: &str, title: impl Fn(&str) -> String) -> String {
    match method.strip_prefix(FURTHER_WEAK) {
        Some(supervisor) => format!("Weak: {supervisor}"),
        None if method == WEAK => "Weak".to_owned(),
        None if method == CEILING => "Ceiling".to_owned(),
        None => title(method),
    }
}

impl Table {
    /// The table of the Selective W2SG paper (its Tables 2 and 3): rows are weak, one per method, ceiling; each task has the columns
    /// test accuracy and PGR in percent; each pair of models is a block.
    ///
    /// Methods, tasks and pairs come in the order in which the rows first name them, unless the options order them.
    ///
    /// # Errors
    /// No rows, no test accuracy among them, an unknown task, method or seed in the options, two rows for the same cell of the table.
    pub fn main(rows: &[ResultRow], options: &MainOptions) -> Result<Self> {
        let published = options.published.as_ref().filter(|paper| paper.metric.is_none());
        let test: Vec<&ResultRow> = (rows.iter())
            .filter(|row| row.split == Split::Test)
            .filter(|row| [ACCURACY, MAJORITY_RATE, GAIN_SE].contains(&row.metric.as_str()))
            .filter(|row| options.seeds.is_empty() || options.seeds.contains(&row.seed))
            .filter(|row| options.tasks.is_empty() || options.tasks.contains(&row.task))
            .collect();
        let scored: Vec<&ResultRow> = test.iter().copied().filter(|row| row.metric == ACCURACY).collect();
        let all: Vec<&ResultRow> = rows.iter().collect();
        check_choice("task", &options.tasks, &in_order(all.iter().copied(), |row| row.task.clone()))?;
        check_choice("seed", &options.seeds, &in_order(all.iter().copied(), |row| row.seed))?;
        if scored.is_empty() {
            return Err(nothing(rows, ACCURACY));
        }
        let (mut weak_lines, mut methods): (Vec<String>, Vec<String>) =
            in_order(scored.iter().copied(), |row| row.method.clone()).into_iter().partition(|method| is_weak(method));
        methods.retain(|method| method != CEILING);
        check_choice("method", &options.methods, &methods)?;
        let supervisors = Supervisors::new(&scored);
        if !options.methods.is_empty() {
            methods.clone_from(&options.methods);
            let chosen = scored.iter().filter(|row| methods.contains(&row.method));
            let used: BTreeSet<&str> = chosen.map(|row| supervisors.of(row)).collect();
            weak_lines.retain(|weak| weak == WEAK || used.contains(weak.as_str()));
        }
        if !weak_lines.iter().any(|weak| weak == WEAK) {
            weak_lines.insert(0, WEAK.to_owned());
        }
        let mut tasks = in_order(scored.iter().copied(), |row| row.task.clone());
        tasks.sort_by_key(|task| options.tasks.iter().position(|other| other == task));
        let pairs = in_order(scored.iter().copied(), |row| (row.weak.as_str(), row.strong.as_str()));
        let seeds: BTreeSet<u64> = match options.seeds.is_empty() {
            true => scored.iter().map(|row| row.seed).collect(),
            false => options.seeds.iter().copied().collect(),
        };
        let (accuracy, majority, gain_se) =
            (Index::new(&test, ACCURACY)?, Index::new(&test, MAJORITY_RATE)?, Index::new(&test, GAIN_SE)?);

        let names: &[&str] =
            if published.is_some() { &["Acc.", "(paper)", "PGR", "(paper)"] } else { &["Acc.", "PGR"] };
        let mut notes = Notes { seeds: seeds.clone(), ..Notes::default() };
        if let Some(paper) = published {
            notes.sources.push(format!("(paper): {}", paper.source));
        }
        if let Some(Stars { against, level, .. }) = &options.stars {
            notes.sources.push(format!(
                "★: differs from {} by the test over seeds and items, at {STAR_SEEDS} seeds or more, p ≤ {level} after Holm's correction over the table",
                options.title(against)
            ));
        }
        let mut blocks = vec![];
        for (weak, strong) in &pairs {
            let pair = format!("{} → {}", options.title(weak), options.title(strong));
            let against = |task, name: &str| accuracy.references((task, weak, strong), name, &seeds, &gain_se);
            let line = |method: &str| {
                let label = line_title(method, |name| options.title(name));
                let mut cells = vec![];
                let mut truth_used = false;
                for task in &tasks {
                    let place = (task.as_str(), *weak, *strong);
                    let values: Vec<(u64, f64)> = (seeds.iter())
                        .filter_map(|seed| Some((*seed, accuracy.value(place, method, *seed)?)))
                        .collect();
                    let of_method = || seeds.iter().filter_map(|seed| accuracy.row(place, method, *seed));
                    truth_used |= of_method().any(|row| row.truth_used);
                    let supervisor = of_method().next().map_or(WEAK, |row| supervisors.of(row));
                    let mut accuracy = number(&values, 100.0, seeds.len());
                    if let (Cell::Number(number), Some(stars)) = (&mut accuracy, &options.stars) {
                        number.star = stars.starred.contains(&[task, *weak, *strong, method].map(str::to_owned));
                    }
                    let recovered = if is_end(method) {
                        Cell::Blank
                    } else {
                        pgr_cell(&against(task.as_str(), supervisor), &values, seeds.len())
                    };
                    match published {
                        Some(paper) => cells.extend([
                            accuracy,
                            paper.cell(place, method, 0),
                            recovered,
                            paper.cell(place, method, 1),
                        ]),
                        None => cells.extend([accuracy, recovered]),
                    }
                }
                // The ceiling is truth by definition; the flag is for methods that are compared.
                Line { labels: vec![label], truth_used: truth_used && !is_end(method), cells }
            };
            let lines = |methods: &[String]| methods.iter().map(|method| line(method)).collect::<Vec<Line>>();
            let mut block = Block {
                keys: vec![("weak".to_owned(), options.title(weak)), ("strong".to_owned(), options.title(strong))],
                sections: vec![lines(&weak_lines), lines(&methods), vec![line(CEILING)]],
            };
            block.sections.retain(|section| !section.is_empty());
            let seeds_of = |method: &String, task: &String| -> BTreeSet<u64> {
                let has = |seed: &u64| accuracy.value((task, weak, strong), method, *seed).is_some();
                seeds.iter().copied().filter(has).collect()
            };
            for (column, task) in tasks.iter().enumerate() {
                let comparable: Vec<&String> = (methods.iter().enumerate())
                    .filter(|(index, _)| {
                        !block.lines().nth(index + weak_lines.len()).is_some_and(|line| line.truth_used)
                    })
                    .map(|(_, method)| method)
                    .collect();
                let sets: BTreeSet<BTreeSet<u64>> = comparable.iter().map(|method| seeds_of(method, task)).collect();
                if sets.len() == 1 {
                    let ours = [0, names.len() / 2].map(|place| names.len() * column + place);
                    notes.bold |= embolden(&mut block, &ours);
                } else if sets.len() > 1 {
                    notes.uneven.push(format!("{} ({pair})", options.title(task)));
                }
                let place = (task.as_str(), *weak, *strong);
                for name in &weak_lines {
                    let gaps: Vec<Gap> =
                        against(task.as_str(), name).iter().map(|(_, reference)| reference.gap).collect();
                    if let Some(gap) =
                        Gap::over_seeds(&gaps).filter(|gap| !gap.resolved() || gaps.iter().all(|gap| !gap.resolved()))
                    {
                        let supervisor = name.strip_prefix(FURTHER_WEAK).map(|name| format!(", {name}"));
                        notes.unresolved.push(format!(
                            "{} ({pair}{}) {:.2} with standard error {:.2}",
                            options.title(task),
                            supervisor.unwrap_or_default(),
                            100.0 * gap.value,
                            100.0 * gap.standard_error
                        ));
                    }
                    notes.weak_against_majority(place, name, &seeds, &accuracy, &majority, |name| options.title(name));
                }
                notes.constant_answers(place, &seeds, &accuracy, &majority, |name| options.title(name));
            }
            blocks.push(block);
        }
        notes.items(&scored, |name| options.title(name));
        notes.defects(&scored, |name| options.title(name));
        let columns = (tasks.iter())
            .flat_map(|task| names.iter().map(|name| Column { group: options.title(task), name: (*name).to_owned() }))
            .collect();
        let title = "Test accuracy and performance gap recovered (PGR), in percent".to_owned();
        let notes = notes.finish(&blocks);
        Ok(Self { title, labels: vec!["Method".to_owned()], columns, blocks, notes })
    }

    /// One metric on one split, grouped by any columns of the results: mean ± s over seeds.
    ///
    /// # Errors
    /// No rows of that metric, no row or column key, a key used twice, a cell that would mix results that differ in more than the
    /// seed.
    pub fn pivot(rows: &[ResultRow], options: &Pivot) -> Result<Self> {
        let pgr = options.metric == "pgr";
        let metric = if pgr { ACCURACY } else { options.metric.as_str() };
        let split: Vec<&ResultRow> = rows.iter().filter(|row| row.split == options.split).collect();
        let mut chosen: Vec<&ResultRow> = split.iter().copied().filter(|row| row.metric == metric).collect();
        if chosen.is_empty() {
            return Err(nothing(rows, metric));
        }
        let keys: Vec<Key> = options.rows.iter().chain(&options.columns).copied().collect();
        if options.rows.is_empty() || options.columns.is_empty() {
            return Err(Error::new("a table needs at least one key for its rows and one for its columns"));
        }
        if pgr && keys.contains(&Key::Step) {
            return Err(Error::new(
                "weak models and ceilings are measured at their end alone: a PGR of means has no steps",
            )
            .help("take `accuracy`, or `w2s figure GRID steps`"));
        }
        if let Some(key) = keys.iter().enumerate().find_map(|(i, key)| keys[..i].contains(key).then_some(key)) {
            return Err(Error::new(format!("`{}` is a key twice", key.name())));
        }
        let indices = if pgr {
            Some((Index::new(&split, ACCURACY)?, Index::new(&split, GAIN_SE)?, Supervisors::new(&split)))
        } else {
            None
        };
        let seeds: BTreeSet<u64> = chosen.iter().map(|row| row.seed).collect();
        if pgr {
            chosen.retain(|row| !is_end(&row.method));
        }
        let values = |keys: &[Key], row: &ResultRow| keys.iter().map(|key| key.of(row)).collect::<Vec<_>>();
        let (heads, tops) = (
            in_order(chosen.iter().copied(), |row| values(&options.rows, row)),
            in_order(chosen.iter().copied(), |row| values(&options.columns, row)),
        );
        let mut groups: BTreeMap<(Vec<String>, Vec<String>), Vec<&ResultRow>> = BTreeMap::new();
        for row in &chosen {
            groups.entry((values(&options.rows, row), values(&options.columns, row))).or_default().push(row);
        }
        let by_seed = keys.contains(&Key::Seed);
        let of = if by_seed { 1 } else { seeds.len() };
        let scale = if metrics::find(metric).is_some_and(|metric| metric.percent) { 100.0 } else { 1.0 };
        let mut notes = Notes { seeds: if by_seed { BTreeSet::new() } else { seeds.clone() }, ..Notes::default() };
        let reported =
            options.published.as_ref().filter(|paper| paper.metric.as_deref() == Some(options.metric.as_str()));
        let reported = reported.filter(|_| keys.len() == 2 && keys.contains(&Key::Task) && keys.contains(&Key::Method));
        if let Some(paper) = reported {
            notes.sources.push(format!("(paper): {}", paper.source));
        }
        let mut lines = vec![];
        for head in &heads {
            let mut line = Line { labels: head.clone(), truth_used: false, cells: vec![] };
            for top in &tops {
                let group = groups.get(&(head.clone(), top.clone()));
                let beside = reported.map(|paper| {
                    let (task, method) =
                        if options.rows[0] == Key::Task { (&head[0], &top[0]) } else { (&top[0], &head[0]) };
                    let (weak, strong) = group.map_or(("", ""), |group| (&group[0].weak, &group[0].strong));
                    paper.cell((task, weak, strong), method, 0)
                });
                let Some(group) = group else {
                    line.cells.push(Cell::Absent);
                    line.cells.extend(beside);
                    continue;
                };
                unmixed(group)?;
                let first = group[0];
                line.truth_used |= group.iter().any(|row| row.truth_used && !is_end(&row.method));
                let found: Vec<(u64, f64)> = group.iter().filter_map(|row| Some((row.seed, row.value?))).collect();
                line.cells.push(match &indices {
                    Some((accuracy, gain_se, supervisors)) => {
                        let weak = supervisors.of(first);
                        pgr_cell(&accuracy.references(place(first), weak, &seeds, gain_se), &found, of)
                    }
                    None => number(&found, scale, of),
                });
                line.cells.extend(beside);
            }
            lines.push(line);
        }
        let columns = (tops.into_iter())
            .flat_map(|mut top| {
                let name = top.pop().unwrap_or_default();
                let group = top.join(", ");
                let paper = reported.map(|_| Column { group: group.clone(), name: "(paper)".to_owned() });
                std::iter::once(Column { group, name }).chain(paper)
            })
            .collect();
        notes.items(&chosen, str::to_owned);
        notes.defects(&chosen, str::to_owned);
        let blocks = vec![Block { keys: vec![], sections: vec![lines] }];
        let unit = if pgr || scale != 1.0 { ", in percent" } else { "" };
        let name = if pgr { "PGR" } else { metric };
        let title =
            format!("{name} on {}{unit}, by {}", options.split.name(), listed(keys.iter().map(|key| key.name())));
        let notes = notes.finish(&blocks);
        Ok(Self {
            title,
            labels: options.rows.iter().map(|key| key.name().to_owned()).collect(),
            columns,
            blocks,
            notes,
        })
    }

    /// Remarks under the table: seeds, items, missing results, warnings.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// For a terminal of `room` characters, or for as many as it takes. The best method is marked with `*`.
    pub fn to_terminal(&self, room: Option<usize>) -> String {
        let fill = |text: &str| room.map_or_else(|| text.to_owned(), |room| fill(text, room));
        let mut out = format!("{}\n", fill(&self.title));
        for block in &self.blocks {
            if !block.keys.is_empty() {
                let _ = writeln!(out, "\n{}", fill(&block.title()));
            }
            let names = self.columns.iter().map(|column| column.name.clone());
            let mut sheet = Sheet::new(self.labels.len(), self.labels.iter().cloned().chain(names));
            let groups = self.columns.iter().map(|column| column.group.clone());
            sheet.groups = vec![String::new(); self.labels.len()].into_iter().chain(groups).collect();
            for line in block.lines() {
                let cells = line.cells.iter().map(|cell| cell.text("*", ""));
                sheet.push(line.marked_labels("†").into_iter().chain(cells));
            }
            let _ = writeln!(out, "{}", sheet.to_terminal(room));
        }
        for note in &self.notes {
            let _ = write!(out, "\n{}", fill(note));
        }
        out + "\n"
    }

    /// GitHub-flavoured Markdown. The best method is bold.
    pub fn to_markdown(&self) -> String {
        let mut out = format!("**{}**\n", markdown(&self.title));
        for block in &self.blocks {
            if !block.keys.is_empty() {
                let _ = write!(out, "\n{}\n", markdown(&block.title()));
            }
            let mut header: Vec<String> = self.labels.iter().map(|label| markdown(label)).collect();
            header
                .extend(self.columns.iter().map(|column| markdown(format!("{} {}", column.group, column.name).trim())));
            let mut rules = vec![":--"; self.labels.len()];
            rules.resize(header.len(), "--:");
            let _ = write!(out, "\n| {} |\n| {} |\n", header.join(" | "), rules.join(" | "));
            for line in block.lines() {
                let mut cells: Vec<String> = line.marked_labels("†").iter().map(|label| markdown(label)).collect();
                cells.extend(line.cells.iter().map(|cell| cell.text("**", "**")));
                let _ = writeln!(out, "| {} |", cells.join(" | "));
            }
        }
        for note in &self.notes {
            let _ = write!(out, "\n- {}", markdown(note));
        }
        out + "\n"
    }

    /// Comma-separated values, one line per block and row, for spreadsheets: mean, s and number of seeds in columns of their own,
    /// rounded as in the other renderings. Full precision is in `results.csv`.
    pub fn to_csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(vec![]);
        let keys: Vec<String> =
            self.blocks.first().map(|b| b.keys.iter().map(|key| key.0.clone()).collect()).unwrap_or_default();
        let mut header = keys;
        header.extend(self.labels.iter().map(|label| label.to_lowercase()));
        header.push("truth_used".to_owned());
        for column in &self.columns {
            let name = format!("{} {}", column.group, column.name);
            header.extend(["mean", "s", "seeds"].map(|part| format!("{} {part}", name.trim())));
        }
        let mut records = vec![header];
        for block in &self.blocks {
            for line in block.lines() {
                let mut record: Vec<String> = block.keys.iter().map(|key| key.1.clone()).collect();
                record.extend(line.labels.iter().cloned());
                record.push(line.truth_used.to_string());
                for cell in &line.cells {
                    record.extend(match cell {
                        Cell::Number(Number { summary, decimals, .. }) => [
                            decimal(summary.mean, *decimals),
                            summary.s.map(|s| decimal(s, *decimals)).unwrap_or_default(),
                            summary.n.to_string(),
                        ],
                        Cell::Published(value) => [decimal(*value, 2), String::new(), String::new()],
                        Cell::NotAvailable => ["n/a".to_owned(), String::new(), "0".to_owned()],
                        Cell::Absent => [String::new(), String::new(), "0".to_owned()],
                        Cell::Blank => [String::new(), String::new(), String::new()],
                    });
                }
                records.push(record);
            }
        }
        for record in records {
            // Writing to memory, records of equal length: nothing can fail.
            let _ = writer.write_record(record.iter().map(|cell| spreadsheet(cell)));
        }
        writer.into_inner().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// A LaTeX `table` for the package booktabs. The best method is bold.
    ///
    /// # Errors
    /// None with the built-in template.
    pub fn to_latex(&self) -> Result<String> {
        self.to_latex_with(LATEX_TEMPLATE)
    }

    /// The same with another minijinja template; [`LATEX_TEMPLATE`] shows the values it gets. The filter `tex` escapes text.
    ///
    /// # Errors
    /// A template that does not parse or names unknown values; with its line.
    pub fn to_latex_with(&self, template: &str) -> Result<String> {
        // Group name, first and last one-based column.
        let mut groups: Vec<(&str, usize, usize)> = vec![];
        for (index, column) in self.columns.iter().enumerate() {
            let place = self.labels.len() + index + 1;
            match groups.last_mut().filter(|group| group.0 == column.group) {
                Some(group) => group.2 = place,
                None => groups.push((&column.group, place, place)),
            }
        }
        groups.retain(|_| self.columns.iter().any(|column| !column.group.is_empty()));
        let groups: Vec<_> = (groups.into_iter())
            .map(|(name, first, last)| context! { name, first, last, width => last - first + 1 })
            .collect();
        let row = |line: &Line| {
            let cells: Vec<String> = line.cells.iter().map(Cell::latex).collect();
            context! { labels => line.labels.clone(), truth_used => line.truth_used, cells }
        };
        let blocks: Vec<_> = (self.blocks.iter())
            .map(|block| {
                let sections: Vec<Vec<_>> =
                    block.sections.iter().map(|lines| lines.iter().map(row).collect()).collect();
                context! { title => block.title(), sections }
            })
            .collect();
        let mut environment = Environment::new();
        let syntax =
            environment.syntax().to_builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
        environment
            .set_syntax(syntax.map_err(|cause| Error::new(format!("the LaTeX template cannot be used: {cause}")))?);
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        environment.add_filter("tex", |text: String| tex(&text));
        let values = context! {
            title => self.title.clone(),
            labels => self.labels.clone(),
            columns => self.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>(),
            width => self.labels.len() + self.columns.len(),
            groups,
            blocks,
            notes => self.notes.clone(),
        };
        environment.render_named_str("table.tex", template, values).map_err(|cause| {
            let line = cause.line().map_or(String::new(), |line| format!(" in line {line}"));
            Error::new(format!("the LaTeX template cannot be used{line}: {cause}"))
        })
    }
}

impl Line {
    fn marked_labels(&self, mark: &str) -> Vec<String> {
        let mut labels = self.labels.clone();
        if let Some(last) = labels.last_mut().filter(|_| self.truth_used) {
            last.push_str(mark);
        }
        labels
    }
}

impl Cell {
    fn text(&self, before: &str, after: &str) -> String {
        match self {
            Cell::Blank => String::new(),
            Cell::Absent => "–".to_owned(),
            Cell::NotAvailable => "n/a".to_owned(),
            Cell::Published(value) => decimal(*value, 2),
            Cell::Number(number) => {
                let (before, after) = if number.best { (before, after) } else { ("", "") };
                let (mean, s, seeds) = number.parts();
                let s = s.map_or(String::new(), |s| format!(" ± {s}"));
                let star = if number.star { "★" } else { "" };
                format!("{before}{mean}{after}{s}{star}{}", seeds.map_or(String::new(), |seeds| format!(" {seeds}")))
            }
        }
    }

    fn latex(&self) -> String {
        match self {
            Cell::Blank => String::new(),
            Cell::Absent => "--".to_owned(),
            Cell::NotAvailable => "n/a".to_owned(),
            Cell::Published(value) => decimal(*value, 2),
            Cell::Number(number) => {
                let (mean, s, seeds) = number.parts();
                let mean = if number.best { format!(r"\mathbf{{{mean}}}") } else { mean };
                let s = s.map_or(String::new(), |s| format!(r" \pm {s}"));
                let star = if number.star { r"^\star" } else { "" };
                format!("${mean}{s}{star}${}", seeds.map_or(String::new(), |seeds| format!(" {seeds}")))
            }
        }
    }
}

impl Number {
    /// Mean, s, and `(k/n)` where seeds are missing.
    fn parts(&self) -> (String, Option<String>, Option<String>) {
        let Summary { mean, s, n } = self.summary;
        let seeds = (n < self.of).then(|| format!("({n}/{})", self.of));
        (decimal(mean, self.decimals), s.map(|s| decimal(s, self.decimals)), seeds)
    }
}

/// A fixed number of decimals, without a minus before zero; exponents beyond ten million.
fn decimal(value: f64, decimals: usize) -> String {
    if value.abs() >= 1e7 {
        return format!("{value:.3e}");
    }
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.bytes().all(|byte| matches!(byte, b'0' | b'.')) => digits.to_owned(),
        _ => text,
    }
}

/// Mean and spread over seeds: percent with two decimals, anything else with four.
fn number(values: &[(u64, f64)], scale: f64, of: usize) -> Cell {
    let values: Vec<f64> = values.iter().map(|(_, value)| scale * value).collect();
    let decimals = if scale == 1.0 { 4 } else { 2 };
    Summary::of(&values)
        .map_or(Cell::Absent, |summary| Cell::Number(Number { summary, decimals, of, best: false, star: false }))
}

fn pgr_cell(references: &[(u64, Reference)], students: &[(u64, f64)], of: usize) -> Cell {
    match recovered(references, students) {
        Recovered::Absent => Cell::Absent,
        Recovered::Unresolved => Cell::NotAvailable,
        Recovered::Value(Summary { mean, s, n }) => {
            let summary = Summary { mean: 100.0 * mean, s: s.map(|s| 100.0 * s), n };
            Cell::Number(Number { summary, decimals: 2, of, best: false, star: false })
        }
    }
}

/// Marks the highest mean of each column among the methods that did not use truth, if at least two have one.
fn embolden(block: &mut Block, columns: &[usize]) -> bool {
    let mut marked = false;
    let Some(methods) = block.sections.get_mut(1) else { return false };
    for &column in columns {
        let mean = |line: &Line| match &line.cells[column] {
            Cell::Number(number) if !line.truth_used => Some(number.summary.mean),
            _ => None,
        };
        let means: Vec<f64> = methods.iter().filter_map(mean).collect();
        if means.len() < 2 {
            continue;
        }
        let highest = means.into_iter().fold(f64::NEG_INFINITY, f64::max);
        for line in methods.iter_mut().filter(|line| !line.truth_used) {
            if let Cell::Number(number) = &mut line.cells[column] {
                number.best = number.summary.mean >= highest - 1e-9;
                marked |= number.best;
            }
        }
    }
    marked
}

/// A cell of a pivot holds results that differ in their seeds alone (and in the run that made them).
fn unmixed(group: &[&ResultRow]) -> Result<()> {
    let first = group[0];
    for row in group {
        let differing = |key: &Key| !matches!(key, Key::Seed | Key::Run) && key.of(row) != key.of(first);
        if let Some(key) = Key::ALL.into_iter().find(differing) {
            let (one, other) = (key.of(first), key.of(row));
            return Err(Error::new(format!(
                "a cell of the table would mix results of {} `{one}` and `{other}`",
                key.name()
            ))
            .help(format!("add `{}` to the keys of rows or columns, or choose one", key.name())));
        }
    }
    let seeds: BTreeSet<u64> = group.iter().map(|row| row.seed).collect();
    if seeds.len() < group.len() {
        return Err(Error::new(format!("method `{}`, task `{}` has a seed twice", first.method, first.task))
            .help("the results hold several runs: choose one, or add `run` to the keys"));
    }
    Ok(())
}

/// What is said under a table.
#[derive(Default)]
struct Notes {
    seeds: BTreeSet<u64>,
    items: Vec<String>,
    bold: bool,
    uneven: Vec<String>,
    unresolved: Vec<String>,
    warnings: Vec<String>,
    defects: Vec<String>,
    sources: Vec<String>,
}

impl Notes {
    /// Items per task, `1000` or `998–1000`.
    fn items(&mut self, rows: &[&ResultRow], title: impl Fn(&str) -> String) {
        for task in in_order(rows.iter().copied(), |row| row.task.as_str()) {
            let counts: BTreeSet<u64> =
                rows.iter().filter(|row| row.task == task && row.status == Status::Ok).map(|row| row.n).collect();
            match (counts.first(), counts.last()) {
                (Some(low), Some(high)) if low < high => self.items.push(format!("{} {low}–{high}", title(task))),
                (Some(n), _) => self.items.push(format!("{} {n}", title(task))),
                _ => {}
            }
        }
    }

    /// Results without a value, and results of different data under one name.
    fn defects(&mut self, rows: &[&ResultRow], title: impl Fn(&str) -> String) {
        for row in rows.iter().filter(|row| row.status != Status::Ok) {
            let (method, task, seed) = (title(&row.method), title(&row.task), row.seed);
            self.defects.push(format!("{method} on {task}, seed {seed} ({})", row.status.name()));
        }
        let mut hashes: BTreeMap<(Place, u64), &str> = BTreeMap::new();
        let mut warned = BTreeSet::new();
        for row in rows {
            let hash = hashes.entry((place(row), row.seed)).or_insert(&row.data_hash);
            if *hash != row.data_hash && warned.insert(place(row)) {
                let (task, seed) = (title(&row.task), row.seed);
                self.warnings.push(format!("results on {task}, seed {seed} come from different data (`data_hash`)"));
            }
        }
    }

    /// A weak model that is no better than a constant answer makes every PGR above it meaningless.
    fn weak_against_majority(
        &mut self,
        place: Place,
        name: &str,
        seeds: &BTreeSet<u64>,
        accuracy: &Index,
        majority: &Index,
        title: impl Fn(&str) -> String,
    ) {
        let advantage = |seed: u64| {
            let weak = accuracy.row(place, name, seed)?;
            let standard_error = binomial_standard_error(weak.value?, weak.n as usize);
            Some(Gap { value: weak.value? - majority.value(place, name, seed)?, standard_error })
        };
        let advantages: Vec<Gap> = seeds.iter().filter_map(|seed| advantage(*seed)).collect();
        if let Some(gap) = Gap::over_seeds(&advantages).filter(|gap| !gap.resolved()) {
            let who = match name.strip_prefix(FURTHER_WEAK) {
                Some(supervisor) => format!("supervisor {supervisor}"),
                None => format!("weak model {}", title(place.1)),
            };
            self.warnings.push(format!(
                "the {who} on {} is not better than the majority class by {RESOLVED} standard errors: {:.2} points, \
                 standard error {:.2}",
                title(place.0),
                100.0 * gap.value,
                100.0 * gap.standard_error
            ));
        }
    }

    /// A training that ended in a constant answer, or did no better than one: of the weak model it says that there was nothing to supervise with,
    /// of the ceiling that the gap, and every PGR over it, is an accident of this seed.
    fn constant_answers(
        &mut self,
        place: Place,
        seeds: &BTreeSet<u64>,
        accuracy: &Index,
        majority: &Index,
        title: impl Fn(&str) -> String,
    ) {
        for (method, what, model) in [(WEAK, "weak model", place.1), (CEILING, "ceiling", place.2)] {
            let constant = |seed: &&u64| {
                let [own, constant] = [accuracy, majority].map(|index| index.value(place, method, **seed));
                own.zip(constant).is_some_and(|(own, constant)| own <= constant)
            };
            let seeds: Vec<String> = seeds.iter().filter(constant).map(u64::to_string).collect();
            if !seeds.is_empty() {
                self.warnings.push(format!(
                    "the {what} {} on {} is no better than a constant answer in {} {}",
                    title(model),
                    title(place.0),
                    if seeds.len() == 1 { "seed" } else { "seeds" },
                    shortened(&seeds)
                ));
            }
        }
    }

    fn finish(mut self, blocks: &[Block]) -> Vec<String> {
        let cells = || blocks.iter().flat_map(Block::lines).flat_map(|line| &line.cells);
        let mut notes = vec![];
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        match seeds.len() {
            0 => {}
            1 => notes.push(format!("One seed ({}): the spread over seeds is unknown.", seeds[0])),
            n => notes.push(format!("Mean ± sample standard deviation over {n} seeds ({}).", shortened(&seeds))),
        }
        if !self.items.is_empty() {
            notes.push(format!("Items: {}.", self.items.join(", ")));
        }
        if cells().any(|cell| matches!(cell, Cell::Number(number) if number.summary.n < number.of)) {
            notes.push(
                "(k/n): only k of n seeds count; the others have no result or, for PGR, no resolved gap of their own."
                    .to_owned(),
            );
        }
        if cells().any(|cell| *cell == Cell::NotAvailable) {
            let gaps =
                if self.unresolved.is_empty() { String::new() } else { format!(": {}", self.unresolved.join("; ")) };
            notes.push(format!("n/a: the gap between ceiling and weak is not above {RESOLVED} standard errors{gaps}."));
        }
        if cells().any(|cell| *cell == Cell::Absent) {
            notes.push("–: no result.".to_owned());
        }
        if blocks.iter().flat_map(Block::lines).any(|line| line.truth_used) {
            notes.push("†: ground truth of the transfer split reached the student.".to_owned());
        }
        if self.bold {
            notes.push(
                "Bold, or * in a terminal: highest mean among methods without †, all with the same seeds; not a claim of significance."
                    .to_owned(),
            );
        }
        if !self.uneven.is_empty() {
            notes.push(format!("No best where methods have different seeds: {}.", self.uneven.join(", ")));
        }
        if !self.defects.is_empty() {
            notes.push(format!("No value: {}.", shortened(&self.defects)));
        }
        notes.append(&mut self.sources);
        self.warnings.dedup();
        notes.extend(self.warnings.iter().map(|warning| format!("Warning: {warning}.")));
        notes
    }
}

fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 8;
    match names.len() {
        n if n > SHOWN + 1 => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
        _ => names.join(", "),
    }
}

/// The distinct values of a column in the order in which the rows first have them.
pub(crate) fn in_order<'a, T: Clone + Ord>(
    rows: impl IntoIterator<Item = &'a ResultRow>,
    of: impl Fn(&'a ResultRow) -> T,
) -> Vec<T> {
    let mut seen = BTreeSet::new();
    rows.into_iter().map(of).filter(|value| seen.insert(value.clone())).collect()
}

fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Refuses a choice of what is not there.
pub(crate) fn check_choice<T: PartialEq + ToString>(what: &str, chosen: &[T], there: &[T]) -> Result<()> {
    match chosen.iter().find(|name| !there.contains(name)) {
        None => Ok(()),
        Some(name) => {
            let known: Vec<String> = there.iter().map(T::to_string).collect();
            Err(Error::new(format!("the results have no {what} `{}`", name.to_string()))
                .help(format!("they have {}", listed(known.iter().map(String::as_str)))))
        }
    }
}

fn nothing(rows: &[ResultRow], metric: &str) -> Error {
    if rows.is_empty() {
        return Error::new("the results hold no rows")
            .help("`w2s run` fills them; `w2s run --dry-run` lists what is to do");
    }
    let all: Vec<&ResultRow> = rows.iter().collect();
    let known = in_order(all.iter().copied(), |row| (row.split, row.metric.as_str()));
    let known: Vec<String> = known.into_iter().map(|(split, metric)| format!("{} `{metric}`", split.name())).collect();
    Error::new(format!("the results hold no `{metric}` for this table"))
        .help(format!("they hold {}", shortened(&known)))
}

/// Escapes what Markdown would read in a cell or paragraph.
fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\r' => out.push(' '),
            '|' | '\\' | '*' | '<' | '`' | '[' | '_' => out.extend(['\\', character]),
            _ => out.push(character),
        }
    }
    out
}

/// Escapes what TeX would read, and writes the signs used in notes as TeX.
fn tex(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.trim_start().chars() {
        match character {
            // At the beginning of a row they would belong to the end of the one before.
            '[' | '*' if out.is_empty() => out.extend(['{', character, '}']),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', character]),
            '\\' => out.push_str(r"\textbackslash{}"),
            '~' => out.push_str(r"\textasciitilde{}"),
            '^' => out.push_str(r"\textasciicircum{}"),
            '<' => out.push_str(r"\textless{}"),
            '>' => out.push_str(r"\textgreater{}"),
            '`' => out.push('\''),
            '"' => out.push_str("''"),
            '±' => out.push_str(r"$\pm$"),
            '→' => out.push_str(r"$\to$"),
            '†' => out.push_str(r"$^\dagger$"),
            '–' => out.push_str("--"),
            '★' => out.push_str(r"$\star$"),
            '≤' => out.push_str(r"$\leq$"),
            _ if character.is_control() => out.push(' '),
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{super::results::tests::row, *};

    #[test]
    fn a_papers_numbers_and_stars_stand_beside_ours() {
        let mut rows = Vec::new();
        for seed in 0..5 {
            rows.extend([
                row("sciq", "gpt2", "qwen", WEAK, seed, 0.6),
                row("sciq", "gpt2", "qwen", "finetune", seed, 0.7),
                row("sciq", "gpt2", "qwen", "js", seed, 0.75),
                row("sciq", "gpt2", "qwen", CEILING, seed, 0.9),
            ]);
        }
        let published: Published =
            serde_json::from_str(r#"{"source": "a paper", "sciq": {"weak": [64.7], "js": [80.0, 53.31]}}"#).unwrap();
        let starred = BTreeSet::from([["sciq", "gpt2", "qwen", "js"].map(str::to_owned)]);
        let stars = Some(Stars { against: "finetune".to_owned(), level: 0.05, starred });
        let options = MainOptions { published: Some(published), stars, ..MainOptions::default() };
        let table = Table::main(&rows, &options).unwrap();
        let lines = table.to_markdown();
        assert!(lines.contains("| js | **75.00** ± 0.00★ | 80.00 | **50.00** ± 0.00 | 53.31 |"), "{lines}");
        assert!(lines.contains("| finetune | 70.00 ± 0.00 |  | 33.33 ± 0.00 |  |"), "{lines}");
        assert!(lines.contains("| Weak | 60.00 ± 0.00 | 64.70 |  |  |"), "{lines}");
        assert!(lines.contains("a paper") && lines.contains("differs from finetune"), "{lines}");
        assert!(table.to_latex().unwrap().contains(r"$\mathbf{75.00} \pm 0.00^\star$ & 80.00"));
        assert!(table.to_csv().contains("75.00,0.00,5,80.00,,,50.00"), "{}", table.to_csv());

        // What is reported for one pair goes before what is reported for all.
        let of_pair = r#"{"source": "a paper", "pairs": [{"weak": "gpt2", "strong": "STRONG", "sciq": {"js": [70.5]}}], "sciq": {"js": [80.0]}}"#;
        for (strong, shown) in [("qwen", "70.50"), ("qwen-large", "80.00")] {
            let published = serde_json::from_str(&of_pair.replace("STRONG", strong)).unwrap();
            let lines = Table::main(&rows, &MainOptions { published, ..MainOptions::default() }).unwrap().to_markdown();
            assert!(lines.contains(&format!("| js | **75.00** ± 0.00 | {shown} |")), "{lines}");
        }

        let published = r#"{"source": "a paper", "metric": "accuracy", "sciq": {"js": [80.0]}}"#;
        let options = Pivot { published: serde_json::from_str(published).unwrap(), ..Pivot::default() };
        let lines = Table::pivot(&rows, &options).unwrap().to_markdown();
        assert!(
            lines.contains("| method | sciq | (paper) |") && lines.contains("| js | 75.00 ± 0.00 | 80.00 |"),
            "{lines}"
        );
        assert!(lines.contains("| finetune | 70.00 ± 0.00 |  |"), "{lines}");
        let other = Pivot { metric: "accuracy".to_owned(), rows: vec![Key::Method, Key::Seed], ..options };
        assert!(!Table::pivot(&rows, &other).unwrap().to_markdown().contains("(paper)"), "seeds are no paper's");
    }

    /// Two tasks, two pairs, three methods, three seeds. BoolQ is too easy for the first pair, one seed failed, one method saw truth.
    fn rows() -> Vec<ResultRow> {
        let mut rows = vec![];
        let accuracies: [(&str, &str, &str, [f64; 5]); 4] = [
            // weak, finetune, aux_conf, truth filter, ceiling
            ("sciq", "gpt2", "gpt2-xl", [0.62, 0.66, 0.69, 0.71, 0.73]),
            ("boolq", "gpt2", "gpt2-xl", [0.625, 0.61, 0.62, 0.66, 0.64]),
            ("sciq", "gpt2_medium", "gpt2-xl", [0.68, 0.67, 0.665, 0.72, 0.735]),
            ("boolq", "gpt2_medium", "gpt2-xl", [0.66, 0.675, 0.69, 0.72, 0.74]),
        ];
        let methods = [WEAK, "finetune", "aux_conf", "filter by truth, 50%", CEILING];
        for (task, weak, strong, values) in accuracies {
            let n = if task == "sciq" { 1000 } else { 3270 };
            for (method, value) in methods.into_iter().zip(values) {
                for seed in 0..3 {
                    let value = value + 0.004 * (seed as f64 - 1.0) * if method == "aux_conf" { 2.0 } else { 1.0 };
                    let mut row = ResultRow { n, ..row(task, weak, strong, method, seed, value) };
                    row.truth_used = method.contains("truth") || method == CEILING;
                    if (task, weak, method, seed) == ("boolq", "gpt2_medium", "aux_conf", 2) {
                        row = row.failed(ACCURACY);
                    }
                    let majority = ResultRow {
                        metric: MAJORITY_RATE.to_owned(),
                        value: Some(if task == "sciq" { 0.5 } else { 0.622 }),
                        status: Status::Ok,
                        n,
                        ..row.clone()
                    };
                    rows.extend([row, majority]);
                }
            }
        }
        rows
    }

    fn options() -> MainOptions {
        let titles = [("sciq", "SciQ"), ("boolq", "BoolQ"), ("finetune", "Finetune")];
        MainOptions { titles: titles.map(|(a, b)| (a.to_owned(), b.to_owned())).into(), ..MainOptions::default() }
    }

    #[test]
    fn seeds_that_ended_in_a_constant_answer_are_named() {
        let notes = |weak: [f64; 3], ceiling: [f64; 3]| {
            let mut rows = Vec::new();
            for seed in 0..3 {
                for (method, value) in [(WEAK, weak[seed]), ("finetune", 0.5), (CEILING, ceiling[seed])] {
                    let row = row("creak", "gpt2", "gpt2-xl", method, seed as u64, value);
                    let majority = ResultRow { metric: MAJORITY_RATE.to_owned(), value: Some(0.504), ..row.clone() };
                    rows.extend([row, majority]);
                }
            }
            let notes = Table::main(&rows, &MainOptions::default()).unwrap().notes().to_vec();
            notes.into_iter().filter(|note| note.contains("constant answer")).collect::<Vec<_>>()
        };
        assert_eq!(
            notes([0.7, 0.504, 0.7], [0.496, 0.8, 0.504]),
            [
                "Warning: the weak model gpt2 on creak is no better than a constant answer in seed 1.",
                "Warning: the ceiling gpt2-xl on creak is no better than a constant answer in seeds 0, 2.",
            ]
        );
        // Students may: that is their method's business.
        assert!(notes([0.6; 3], [0.8; 3]).is_empty());
    }

    fn cell<'a>(table: &'a Table, block: usize, label: &str, column: usize) -> &'a Cell {
        &table.blocks[block].lines().find(|line| line.labels[0] == label).unwrap().cells[column]
    }

    #[test]
    fn main_table_in_a_terminal() {
        insta::assert_snapshot!(Table::main(&rows(), &options()).unwrap().to_terminal(Some(120)));
    }

    #[test]
    fn main_table_in_markdown() {
        insta::assert_snapshot!(Table::main(&rows(), &options()).unwrap().to_markdown());
    }

    #[test]
    fn main_table_in_csv() {
        insta::assert_snapshot!(Table::main(&rows(), &options()).unwrap().to_csv());
    }

    #[test]
    fn main_table_in_latex() {
        insta::assert_snapshot!(Table::main(&rows(), &options()).unwrap().to_latex().unwrap());
    }

    #[test]
    fn pivots() {
        let mut rows = rows();
        let pivot = Pivot { columns: vec![Key::Weak, Key::Task], ..Pivot::default() };
        let by_method = Table::pivot(&rows, &pivot).unwrap();
        let pgr = Table::pivot(&rows, &Pivot { metric: "pgr".to_owned(), ..pivot.clone() }).unwrap();
        for row in &mut rows {
            if row.metric == MAJORITY_RATE {
                row.metric = "brier".to_owned();
            }
        }
        let brier = Pivot {
            rows: vec![Key::Weak, Key::Method],
            columns: vec![Key::Seed],
            metric: "brier".to_owned(),
            split: Split::Test,
            ..Pivot::default()
        };
        rows.retain(|row| row.task == "sciq");
        let brier = Table::pivot(&rows, &brier).unwrap();
        insta::assert_snapshot!(format!(
            "{}\n{}\n{}\n{}",
            by_method.to_terminal(Some(120)),
            pgr.to_markdown(),
            brier.to_csv(),
            by_method.to_latex().unwrap()
        ));
        // The same number whichever table shows it.
        let main = Table::main(&rows, &MainOptions::default()).unwrap();
        let Cell::Number(main) = cell(&main, 0, "finetune", 1) else { panic!("a number") };
        let Cell::Number(pgr) = cell(&pgr, 0, "finetune", 0) else { panic!("a number") };
        assert_eq!(main.summary, pgr.summary);
    }

    #[test]
    fn tables_are_as_wide_as_the_terminal() {
        let table = Table::main(&rows(), &options()).unwrap();
        for room in [20, 40, 60, 80, 119] {
            let text = table.to_terminal(Some(room));
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= room, "{widest} of {room}:\n{text}");
        }
        // One part for each task where both do not fit, as those of the second pair.
        let text = table.to_terminal(Some(80));
        assert_eq!((text.matches("  BoolQ\n").count(), text.matches("  SciQ\n").count()), (2, 1), "{text}");
        assert_eq!(table.to_terminal(Some(400)).matches(" Method").count(), 2);
    }

    #[test]
    fn cells_say_how_sure_they_are() {
        let table = Table::main(&rows(), &MainOptions::default()).unwrap();
        assert_eq!(cell(&table, 0, "finetune", 3), &Cell::NotAvailable, "the gap of 1.5 points is noise");
        assert_eq!(cell(&table, 0, "Weak", 1), &Cell::Blank);
        let Cell::Number(number) = cell(&table, 1, "aux_conf", 2) else { panic!("a number") };
        assert_eq!((number.summary.n, number.of, number.best), (2, 3, false));
        let Cell::Number(number) = cell(&table, 1, "finetune", 1) else { panic!("a number") };
        assert!(number.summary.mean < 0.0, "negative PGR stays");
        // Truth does not compete.
        let Cell::Number(number) = cell(&table, 0, "aux_conf", 0) else { panic!("a number") };
        assert!(number.best);
        let notes = table.notes().join("\n");
        assert!(
            notes.contains("No best where methods have different seeds: boolq (gpt2_medium → gpt2-xl)."),
            "{notes}"
        );
        assert!(notes.contains("No value: aux_conf on boolq, seed 2 (failed)."), "{notes}");
        assert!(
            notes.contains("the weak model gpt2 on boolq is not better than the majority class by 2 standard errors")
        );
        assert!(!notes.contains("gpt2_medium on boolq is not better"), "{notes}");
    }

    #[test]
    fn the_paired_error_of_the_gap_is_used_when_there() {
        let mut rows = rows();
        let ceilings: Vec<ResultRow> =
            rows.iter().filter(|r| r.method == CEILING && r.metric == ACCURACY).cloned().collect();
        rows.extend(ceilings.into_iter().map(|row| ResultRow {
            metric: GAIN_SE.to_owned(),
            value: Some(0.004),
            ..row
        }));
        let table = Table::main(&rows, &MainOptions::default()).unwrap();
        // (0.61 - 0.625) / (0.64 - 0.625), each seed the same.
        let Cell::Number(number) = cell(&table, 0, "finetune", 3) else { panic!("a number") };
        assert!((number.summary.mean + 100.0).abs() < 1e-6 && number.summary.s.unwrap() < 1e-6);
    }

    #[test]
    fn options_order_and_choose() {
        let options = MainOptions {
            tasks: vec!["boolq".to_owned(), "sciq".to_owned()],
            methods: vec!["aux_conf".to_owned()],
            seeds: vec![1],
            ..MainOptions::default()
        };
        let table = Table::main(&rows(), &options).unwrap();
        assert_eq!(table.columns[0].group, "boolq");
        assert_eq!(
            table.blocks[0].lines().map(|line| line.labels[0].as_str()).collect::<Vec<_>>(),
            ["Weak", "aux_conf", "Ceiling"]
        );
        let Cell::Number(number) = cell(&table, 0, "aux_conf", 2) else { panic!("a number") };
        assert_eq!((number.summary, number.best), (Summary { mean: 69.0, s: None, n: 1 }, false), "alone is not best");
        assert!(table.notes()[0].starts_with("One seed (1)"));
        let wrong = MainOptions { methods: vec!["aux".to_owned()], ..MainOptions::default() };
        let error = Table::main(&rows(), &wrong).unwrap_err();
        assert_eq!(error.message(), "the results have no method `aux`");
        assert_eq!(error.remedy(), Some("they have `finetune`, `aux_conf`, `filter by truth, 50%`"));
    }

    #[test]
    fn refuse_what_makes_no_table() {
        let refused = |rows: &[ResultRow]| Table::main(rows, &MainOptions::default()).unwrap_err();
        assert_eq!(refused(&[]).message(), "the results hold no rows");
        let other = ResultRow { metric: "auroc".to_owned(), ..row("t", "w", "s", "m", 0, 0.5) };
        assert_eq!(refused(std::slice::from_ref(&other)).remedy(), Some("they hold test `auroc`"));
        let twice =
            [row("t", "w", "s", "m", 0, 0.5), ResultRow { run: "again".to_owned(), ..row("t", "w", "s", "m", 0, 0.6) }];
        let error = refused(&twice);
        assert_eq!(error.message(), "there are two results for method `m`, task `t`, w → s, seed 0");
        assert_eq!(error.remedy(), Some("they differ in `run`: choose `made-up` or `again`"));

        let pivot = |rows: &[ResultRow], options: Pivot| Table::pivot(rows, &options).unwrap_err();
        let error = pivot(&rows(), Pivot::default());
        assert_eq!(error.message(), "a cell of the table would mix results of weak `gpt2` and `gpt2_medium`");
        assert!(pivot(&twice, Pivot::default()).message().contains("has a seed twice"));
        assert!(pivot(&[], Pivot::default()).message().contains("no rows"));
        let same = Pivot { columns: vec![Key::Method], ..Pivot::default() };
        assert_eq!(pivot(&rows(), same).message(), "`method` is a key twice");
        assert!(pivot(&rows(), Pivot { rows: vec![], ..Pivot::default() }).message().contains("at least one key"));
        let error = "model".parse::<Key>().unwrap_err();
        assert!(error.remedy().unwrap().starts_with("group by `run`, `task`, `weak`"));
        assert!(Key::ALL.into_iter().all(|key| key.name().parse::<Key>().unwrap() == key));
    }

    #[test]
    fn a_table_of_weak_and_ceiling_alone_is_fine() {
        let mut rows = rows();
        rows.retain(|row| row.method == WEAK || row.method == CEILING);
        let table = Table::main(&rows, &MainOptions::default()).unwrap();
        assert_eq!(table.blocks[0].sections.len(), 2);
        assert!(table.to_latex().unwrap().contains("Ceiling & $73.00"));
    }

    #[test]
    fn results_of_different_data_are_warned_of() {
        let mut rows = rows();
        rows[0].data_hash = "other".to_owned();
        let table = Table::main(&rows, &MainOptions::default()).unwrap();
        assert!(
            table
                .notes()
                .iter()
                .any(|note| note.starts_with("Warning: results on sciq, seed 0 come from different data"))
        );
    }

    #[test]
    fn numbers_are_written_plainly() {
        assert_eq!(decimal(-0.001, 2), "0.00");
        assert_eq!(decimal(-10.756, 2), "-10.76");
        assert_eq!(decimal(123456.789, 2), "123456.79");
        assert_eq!(decimal(-1.0e300, 2), "-1.000e300");
        assert_eq!(
            tex("a_b & 50% {x} \\ ~^#$ ± \"<é>"),
            r"a\_b \& 50\% \{x\} \textbackslash{} \textasciitilde{}\textasciicircum{}\#\$ $\pm$ ''\textless{}é\textgreater{}"
        );
        assert_eq!(tex(" [a] *"), "{[}a] *");
        assert_eq!(tex("*"), "{*}");
        assert_eq!(markdown("a|b_c\n*d*"), r"a\|b\_c \*d\*");
    }

    #[test]
    fn templates_may_be_replaced_and_their_errors_are_told() {
        let table = Table::main(&rows(), &MainOptions::default()).unwrap();
        let own = table.to_latex_with("{{ labels | length }} {{ columns | length }} {{ title | tex }}").unwrap();
        assert_eq!(own, "1 4 Test accuracy and performance gap recovered (PGR), in percent");
        let error = table.to_latex_with("a\n{{ nothing.at_all }}").unwrap_err();
        assert!(error.message().starts_with("the LaTeX template cannot be used in line 2: "), "{error}");
    }
}
